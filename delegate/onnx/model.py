"""An ONNX model as it is cut: read, simplified by onnxruntime, its constants and the types of its tensors known."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from delegate.errors import DelegateError, ModelError

try:
    import onnx
    import onnxruntime
    from onnx import numpy_helper
except ImportError as error:
    raise DelegateError(f"{error.name} is not installed; pip install 'teflon-rknpu[onnx]' brings it") from None

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Array = npt.NDArray[Any]

FIRST_WITH_CONSTANTS = 4  # the version of ONNX's format from which on an initializer need not be an input too


@dataclass(frozen=True)
class TensorType:
    """``shape`` None: not even the number of dimensions is known; a dimension None: not known before the model runs."""

    element: int  # onnx.TensorProto's number of it
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Model:
    """``name``: of the file, for messages. ``types``: of the tensors whose types are known, by name."""

    name: str
    proto: ModelProto
    types: Mapping[str, TensorType]

    @property
    def nodes(self) -> list[NodeProto]:
        return list(self.proto.graph.node)

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        """What is known before the model runs, by name."""
        found = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        for node in self.proto.graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                found[node.output[0]] = node.attribute[0].t
        return found

    def constant(self, name: str) -> Array:
        return numpy_helper.to_array(self.constants[name])


def first_line(error: Exception) -> str:
    """What an exception of onnx or onnxruntime says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def read_model(path: Path) -> Model:
    """A model from a file; raises ModelError for one that is damaged or that onnxruntime does not take."""
    try:
        proto = onnx.load(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # of protobuf, or of what onnx checks of external data
        raise ModelError(f"{path} is not an ONNX model, or damaged: {first_line(error)}") from error
    if not proto.graph.node:
        raise ModelError(f"{path} has no nodes: not an ONNX model, or an empty one")
    proto = simplified(path)
    return Model(path.name, proto, types_of(proto))


def simplified(path: Path) -> ModelProto:
    """The model as onnxruntime simplifies it without leaving ONNX: constants folded, what has no effect left out,
    normalizations multiplied into the convolutions before them.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.onnx"
        options = quiet_options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        open_session(str(path), options, str(path))
        proto = onnx.load(target)
    proto.ir_version = max(FIRST_WITH_CONSTANTS, proto.ir_version)
    drop_unused(proto)
    return proto


def drop_unused(proto: ModelProto) -> None:
    """Takes out the nodes that no output needs."""
    wanted = {value.name for value in proto.graph.output}
    kept = []
    for node in reversed(proto.graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(outer_names(node))
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(kept))


def quiet_options() -> Any:
    """Options of onnxruntime with which only errors are logged, which come as exceptions too."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options


def open_session(model: str | bytes, options: Any, name: str) -> Any:
    """onnxruntime's session on the CPU; raises ModelError for a model that it does not take."""
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{name}: onnxruntime does not take it: {first_line(error)}") from error


def types_of(proto: ModelProto, sizes: Mapping[str, int] | None = None) -> dict[str, TensorType]:
    """The types that ONNX's inference finds; ``sizes`` gives dimensions of inputs that have only a name."""
    given = onnx.ModelProto()
    given.CopyFrom(proto)
    if sizes:
        for value in (*given.graph.input, *given.graph.output, *given.graph.value_info):
            for dimension in value.type.tensor_type.shape.dim:
                if dimension.dim_param in sizes:
                    dimension.dim_value = sizes[dimension.dim_param]
    graph = onnx.shape_inference.infer_shapes(given, data_prop=True).graph
    found = dict(value_types((*graph.value_info, *graph.input, *graph.output)))
    for tensor in graph.initializer:
        found[tensor.name] = TensorType(tensor.data_type, tuple(tensor.dims))
    return found


def value_types(values: Iterable[Any]) -> Iterable[tuple[str, TensorType]]:
    """(name, type) of each value that is a tensor."""
    for value in values:
        kind = value.type.tensor_type
        if value.type.HasField("tensor_type") and kind.elem_type:
            shape = None
            if kind.HasField("shape"):
                shape = tuple(size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim)
            yield value.name, TensorType(kind.elem_type, shape)


@dataclass(frozen=True)
class NodeArg:
    """An input or an output as onnxruntime describes it. ``shape``: sizes, names of sizes that are open, None for those
    without a name, or None where nothing is said; ``type``: "tensor(float)" for instance.
    """

    name: str
    shape: tuple[int | str | None, ...] | None
    type: str


def element_type(argument: NodeArg) -> np.dtype[Any]:
    """numpy's type of an argument's elements."""
    name = argument.type.removeprefix("tensor(").removesuffix(")").upper()
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(name)))


def arguments(values: Iterable[Any]) -> Iterable[NodeArg]:
    """Of the values of a graph's inputs or outputs."""
    for value in values:
        kind = value.type.tensor_type
        sizes = (size.dim_value if size.HasField("dim_value") else size.dim_param or None for size in kind.shape.dim)
        shape = tuple(sizes) if kind.HasField("shape") else None
        yield NodeArg(value.name, shape, f"tensor({onnx.TensorProto.DataType.Name(kind.elem_type).lower()})")


def free_dimensions(proto: ModelProto) -> list[str]:
    """Names of the dimensions of the inputs that are not known before the model runs."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    names = [size.dim_param for value in inputs for size in value.type.tensor_type.shape.dim if size.dim_param]
    return list(dict.fromkeys(names))


def outer_names(node: NodeProto) -> list[str]:
    """The tensors that a node reads: its inputs, and what the graphs inside it take from around them."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        for graph in graphs:
            inner = {value.name for value in (*graph.input, *graph.initializer)}
            for part in graph.node:
                names += [name for name in outer_names(part) if name not in inner]
                inner |= set(part.output)
            names += [value.name for value in graph.output if value.name not in inner]
    return list(dict.fromkeys(names))


FLOAT = onnx.TensorProto.FLOAT


def attributes(node: NodeProto) -> dict[str, Any]:
    """A node's attributes by name; texts as str."""
    found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def as_float32(values: Array) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32)
