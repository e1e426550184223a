"""``split-onnx``: what of an ONNX model runs on the NPU, how much that is, how far results are from onnxruntime's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from delegate.errors import DelegateError, OptionError
from delegate.hw.device import KERNELS, Kernel
from delegate.hw.timing import BOARDS, Board
from delegate.onnx.cut import Choice, Plan, Segment, choose, cut
from delegate.onnx.folder import write_folder
from delegate.onnx.model import (
    Array,
    Model,
    NodeArg,
    element_type,
    free_dimensions,
    open_session,
    quiet_options,
    read_model,
    types_of,
)
from delegate.onnx.nodes import ProductNode
from delegate.onnx.session import Session
from delegate.product import FloatProduct

WIDTH = 160  # columns of a table that nobody sees in a terminal
HALF, SINGLE = 2.0**-11, 2.0**-24  # the largest relative error of a number rounded to fp16, to fp32
UNDERFLOW = 2.0**-38  # of the largest factors' product, what two scaled numbers lose below fp16's range (product.py)


@dataclass(frozen=True)
class Request:
    """``sizes``: of dimensions that the model leaves open, by their names; the others: see Session."""

    min_macs: int | None
    sizes: Mapping[str, int]
    device: str
    kernel: Kernel
    cores: int

    @property
    def board(self) -> Board:
        return replace(BOARDS[self.kernel], cores=self.cores)


def request_of(min_macs: int | None, sizes: Iterable[str], device: str, kernel: str, cores: int) -> Request:
    """A request from texts; raises OptionError for those that say nothing."""
    found = {}
    for text in sizes:
        name, _, number = text.partition("=")
        if not name or not number.isdecimal() or int(number) < 1:
            raise OptionError(f"--size {text}: NAME=N, N at least 1")
        found[name] = int(number)
    for known in KERNELS:
        if kernel == known:
            return Request(min_macs, found, device, known, cores)
    raise OptionError(f"--kernel {kernel}: {' or '.join(KERNELS)}")


@dataclass(frozen=True)
class OutputError:
    """Differences to onnxruntime's output, absolute; ``largest``: of the output's absolute values."""

    name: str
    largest: float
    max: float
    mean: float


@dataclass(frozen=True)
class ProductError:
    """The largest error of a product, and the largest as a share of what fp16 allows there."""

    name: str
    max: float
    share: float


@dataclass(frozen=True)
class Comparison:
    outputs: tuple[OutputError, ...]
    products: tuple[ProductError, ...]


class WatchedProduct(FloatProduct):
    """Compares every result with fp64's: rounding A and B to fp16 and sums to fp32 explains so much and no more."""

    def __init__(self, matrix: npt.NDArray[np.float32], **options: Any) -> None:
        super().__init__(matrix, **options)
        self.matrix = matrix.astype(np.float64)
        self.max = self.share = 0.0

    def __call__(self, a: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        c = super().__call__(a)
        wide, b = a.astype(np.float64), self.matrix
        difference = np.abs(wide @ b - c)
        allowed = bound(np.abs(wide), np.abs(b))
        self.max = max(self.max, float(difference.max()))
        self.share = max(self.share, float((difference / np.maximum(allowed, np.finfo(np.float64).tiny)).max()))
        return c


def bound(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The largest error of each sum of products of absolute values (M, K) @ (K, N): both factors rounded to fp16, and
    K sums and products rounded to fp32.
    """
    depth = len(b)
    relative = 2 * HALF + HALF * HALF + 2 * (depth + 1) * SINGLE
    tiny = depth * UNDERFLOW * a.max(1, initial=0.0)[:, None] * b.max(0, initial=0.0)
    result: npt.NDArray[np.float64] = relative * (a @ b) + tiny
    return result


class WatchedSession(Session):
    """A session whose products are watched."""

    def __init__(self, plan: Plan, **options: Any) -> None:
        self.watched: list[tuple[str, WatchedProduct]] = []
        super().__init__(plan, **options)

    def make_product(self, step: ProductNode, matrix: npt.NDArray[np.float32]) -> FloatProduct:
        product = WatchedProduct(matrix, **self._make.keywords)
        self.watched.append((step.name, product))
        return product


def split(path: Path, request: Request) -> tuple[Model, dict[int, Choice], Plan]:
    """(the model, where each node of its products runs, the plan); raises ModelError."""
    model = read_model(path)
    free = free_dimensions(model.proto)
    for name in request.sizes:
        if name not in free:
            known = f"it has {', '.join(free)}" if free else "all of its inputs have fixed sizes"
            raise DelegateError(f"{path.name} has no open dimension {name!r}; {known}")
    types = types_of(model.proto, dict.fromkeys(free, 1) | dict(request.sizes))
    choices = choose(model, request.board, request.min_macs, types)
    return model, choices, cut(model, choices)


def random_feeds(inputs: Sequence[NodeArg], sizes: Mapping[str, int], seed: int) -> dict[str, Array]:
    """Numbers for each input: normal ones for floats, 0 and 1 for others; open sizes are 1 if ``sizes`` has none."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for argument in inputs:
        shape = [size if isinstance(size, int) else sizes.get(size or "", 1) for size in argument.shape or ()]
        kind = element_type(argument)
        if kind.kind not in "fiub":
            raise DelegateError(f"the input {argument.name!r} is {argument.type}: no random numbers can be made of it")
        values = rng.standard_normal(shape) if kind.kind == "f" else rng.integers(0, 2, shape)
        feeds[argument.name] = values.astype(kind)
    return feeds


def compare(path: Path, plan: Plan, request: Request, seed: int) -> Comparison:
    """The model's outputs and products beside onnxruntime's and fp64's, for random inputs."""
    feeds = random_feeds(plan.inputs, request.sizes, seed)
    expected = open_session(str(path), quiet_options(), str(path)).run(None, feeds)
    options = {"device": request.device, "cores": request.cores, "kernel": request.kernel}
    with WatchedSession(plan, **options) as session:
        results = session.run(None, feeds)
        watched = session.watched
    outputs = [
        output_error(argument.name, np.asarray(own), np.asarray(other))
        for argument, own, other in zip(plan.outputs, results, expected, strict=True)
    ]
    return Comparison(
        tuple(outputs), tuple(ProductError(name, product.max, product.share) for name, product in watched)
    )


def output_error(name: str, own: Array, other: Array) -> OutputError:
    if own.shape != other.shape:
        raise DelegateError(f"the output {name!r} has the shape {own.shape}, onnxruntime's {other.shape}")
    if not own.size or own.dtype.kind not in "fiub":
        return OutputError(name, 0.0, float(not np.array_equal(own, other)), 0.0)
    wide = other.astype(np.float64)
    difference = np.abs(own.astype(np.float64) - wide)
    return OutputError(name, float(np.abs(wide).max()), float(difference.max()), float(difference.mean()))


HEADINGS = ("node", "operator", "product", "MACs [M]", "share", "on", "NPU [ms]", "CPU [ms]", "why not")


def rows(choices: Mapping[int, Choice]) -> Iterator[tuple[str, ...]]:
    """A line of the table for each node."""
    whole = sum(choice.cost.macs for choice in choices.values() if choice.cost)
    for choice in choices.values():
        product, cost = choice.product, choice.cost
        if product is None or cost is None:
            yield (choice.name, choice.op, "", "", "", "CPU", "", "", choice.reason)
            continue
        groups = f"{product.groups} × " if product.groups > 1 else ""
        yield (
            choice.name,
            choice.op,
            f"{groups}{cost.rows}×{product.depth}×{product.columns}",
            f"{cost.macs / 1e6:.3f}",
            f"{100 * cost.macs / whole:.1f} %" if whole else "",
            "NPU" if choice.on_npu else "CPU",
            f"{1e3 * cost.npu:.3f}",
            f"{1e3 * cost.cpu:.3f}",
            choice.reason,
        )


def notes(choices: Mapping[int, Choice], plan: Plan) -> Iterator[str]:
    """The sums below the table."""
    costs = [choice.cost for choice in choices.values() if choice.cost]
    npu = [choice.cost for choice in choices.values() if choice.cost and choice.on_npu]
    whole, taken = sum(cost.macs for cost in costs), sum(cost.macs for cost in npu)
    share = f"{100 * taken / whole:.1f} %" if whole else "–"
    million = f"{whole / 1e6:.3f} million"
    yield f"products by constants on the NPU: {len(npu)} of {len(costs)}; {share} of their {million} MACs"
    parts = sum(isinstance(step, Segment) for step in plan.steps)
    nodes = sum(len(step.proto.graph.node) for step in plan.steps if isinstance(step, Segment))
    yield f"onnxruntime: {nodes} nodes in {parts} segments"
    rest = sum(cost.cpu for cost in costs)
    mixed = sum(cost.npu for cost in npu) + rest - sum(cost.cpu for cost in npu)
    yield f"these products, modelled: {1e3 * rest:.3g} ms on the CPU alone, {1e3 * mixed:.3g} ms with the NPU"


def comparison_lines(comparison: Comparison) -> Iterator[str]:
    """What was found beside onnxruntime."""
    for output in comparison.outputs:
        yield (
            f"output {output.name}: differs from onnxruntime by {output.max:.3g} at most, "
            f"{output.mean:.3g} on average; its largest value is {output.largest:.3g}"
        )
    if comparison.products:
        worst = max(comparison.products, key=lambda product: product.share)
        yield f"products: errors up to {worst.share:.2f} of the bound of fp16 factors and fp32 sums ({worst.name})"


def split_onnx(path: Path, request: Request, output: Path | None, seed: int | None, as_json: bool) -> None:
    """Splits, reports, compares unless ``seed`` is None, and writes the parts if ``output`` is given."""
    model, choices, plan = split(path, request)
    comparison = None if seed is None else compare(path, plan, request, seed)
    if output is not None:
        write_folder(plan, output)
    if as_json:
        nodes = [dict(zip(HEADINGS, row, strict=True)) for row in rows(choices)]
        found = {"model": model.name, "nodes": nodes, "notes": list(notes(choices, plan))}
        print(json.dumps(found | ({"comparison": asdict(comparison)} if comparison else {}), indent=1))
        return
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    table = Table(title=escape(model.name), title_justify="left", box=SIMPLE_HEAD)
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if "[" in heading or heading == "share" else "left", overflow="fold")
    for choice, row in zip(choices.values(), rows(choices), strict=True):
        table.add_row(*map(escape, row), style=None if choice.on_npu else "yellow")
    console.print(table)
    for line in (*notes(choices, plan), *(comparison_lines(comparison) if comparison else ())):
        console.print(escape(line), highlight=False, soft_wrap=True)
    if output is not None:
        console.print(escape(f"written: {output}"), highlight=False, soft_wrap=True)
