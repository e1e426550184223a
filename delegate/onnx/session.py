"""``Session``: an ONNX model with its large matrix products on the NPU, used as onnxruntime's InferenceSession."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from delegate.errors import DelegateError, ModelError
from delegate.hw.device import Kernel
from delegate.hw.timing import BOARDS, Board
from delegate.onnx.cut import Plan, Segment, choose, cut
from delegate.onnx.execute import execute
from delegate.onnx.folder import read_folder
from delegate.onnx.model import Array, NodeArg, element_type, first_line, open_session, quiet_options, read_model
from delegate.onnx.nodes import ProductNode
from delegate.product import FloatProduct


class Session:
    """A model's steps, ready to run.

    ``source``: an .onnx file, a folder that ``python -m delegate split-onnx -o`` wrote, or a plan. ``min_macs``, of a
    file: products with at least so many MACs run on the NPU; None: those that an estimate sees faster there.
    ``device``, ``cores``, ``kernel``: as the delegate's options. Raises ModelError for a model that cannot be read or
    cut, DeviceError as devices do.
    """

    def __init__(
        self,
        source: str | Path | Plan,
        min_macs: int | None = None,
        device: str = "auto",
        cores: int = 1,
        kernel: Kernel = "rocket",
    ) -> None:
        board = replace(BOARDS[kernel], cores=cores)
        self._make = partial(FloatProduct, device=device, cores=cores, kernel=kernel)
        self.plan = plan = source if isinstance(source, Plan) else read_plan(Path(source), min_macs, board)
        self._segments: dict[int, Any] = {}
        self._products: dict[int, list[FloatProduct]] = {}
        self._last = last_uses(plan)
        try:
            for index, step in enumerate(plan.steps):
                if isinstance(step, Segment):
                    name = f"{plan.name}, segment {index}"
                    self._segments[index] = open_session(step.proto.SerializeToString(), quiet_options(), name)
                    continue
                products = self._products[index] = []
                products.extend(self.make_product(step, matrix) for matrix in step.matrices)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def make_product(self, step: ProductNode, matrix: npt.NDArray[np.float32]) -> FloatProduct:
        """The product by one of a step's matrices."""
        return self._make(matrix)

    def close(self) -> None:
        """Gives the NPU's memory back."""
        with ExitStack() as closing:
            for products in self._products.values():
                for product in products:
                    closing.callback(product.close)

    def get_inputs(self) -> list[NodeArg]:
        return list(self.plan.inputs)

    def get_outputs(self) -> list[NodeArg]:
        return list(self.plan.outputs)

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Array]) -> list[Array]:
        """The outputs of those names, all for None; ``input_feed``: an array for each input by its name.

        Raises ModelError for names, types or shapes that are not the model's.
        """
        known = [argument.name for argument in self.plan.outputs]
        wanted = known if output_names is None else list(output_names)
        for name in wanted:
            if name not in known:
                raise ModelError(f"{self.plan.name} has no output {name!r}; it has {', '.join(known)}")
        tensors = {**self.plan.constants, **self._checked(input_feed)}
        for index, step in enumerate(self.plan.steps):
            if isinstance(step, Segment):
                tensors |= self._run_segment(index, step, tensors)
            else:
                inputs = [tensors[name] for name in step.inputs]
                tensors[step.output] = execute(step, self._products[index], inputs)
            for name in self._last.get(index, ()):
                del tensors[name]
        return [tensors[name] for name in wanted]

    def _run_segment(self, index: int, step: Segment, tensors: Mapping[str, Array]) -> dict[str, Array]:
        feeds = {name: tensors[name] for name in step.inputs}
        try:
            results = self._segments[index].run(list(step.outputs), feeds)
        except Exception as error:  # onnxruntime's own, for shapes that do not fit mostly
            raise ModelError(f"{self.plan.name}: {first_line(error)}") from error
        return dict(zip(step.outputs, results, strict=True))

    def _checked(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The feeds as arrays; raises ModelError for those that the model does not take."""
        expected = {argument.name: argument for argument in self.plan.inputs}
        for name in feeds:
            if name not in expected:
                raise ModelError(f"{self.plan.name} has no input {name!r}; it has {', '.join(expected)}")
        found = {}
        for name, argument in expected.items():
            if name not in feeds:
                raise ModelError(f"{self.plan.name}: the input {name!r} is missing")
            value = found[name] = np.asarray(feeds[name])
            if value.dtype != element_type(argument):
                raise ModelError(f"the input {name!r} is {value.dtype}, not {argument.type}")
            if not fits(argument, value.shape):
                raise ModelError(f"the input {name!r} has the shape {value.shape}, not {argument.shape}")
        return found


def fits(argument: NodeArg, shape: Sequence[int]) -> bool:
    """Whether an array of that shape can be the argument."""
    if argument.shape is None:
        return True
    pairs = zip(argument.shape, shape, strict=False)
    return len(argument.shape) == len(shape) and all(not isinstance(size, int) or size == own for size, own in pairs)


def read_plan(path: Path, min_macs: int | None, board: Board) -> Plan:
    """The plan in a folder, or that of an .onnx file."""
    if path.is_dir():
        if min_macs is not None:
            raise DelegateError(f"{path} is cut already; min_macs is for an .onnx file")
        return read_folder(path)
    model = read_model(path)
    return cut(model, choose(model, board, min_macs))


def last_uses(plan: Plan) -> dict[int, list[str]]:
    """The tensors that no step reads after a step, by its number."""
    last: dict[str, int] = {}
    for index, step in enumerate(plan.steps):
        made = step.outputs if isinstance(step, Segment) else (step.output,)
        last |= dict.fromkeys((*step.inputs, *made), index)
    kept = {argument.name for argument in plan.outputs}
    uses: dict[int, list[str]] = {}
    for name, index in last.items():
        if name not in kept:
            uses.setdefault(index, []).append(name)
    return uses
