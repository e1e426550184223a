"""TFLite's interpreter, as its C structs show it, to ir: all tensors and nodes of a TfLiteContext.

``ffi`` and ``context`` are cffi's. Constants are views of the interpreter's memory, valid as long as its model is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from delegate.builtin_operators import operator_name
from delegate.errors import ModelError
from delegate.ir import Array, Graph, Node, Quant, Tensor
from delegate.parameters import OPTIONS

# Place = TfLiteType (c_api_types.h); a name that numpy does not have is a type whose data is not looked at.
DTYPES = (
    "none",
    "float32",
    "int32",
    "uint8",
    "int64",
    "string",
    "bool",
    "int16",
    "complex64",
    "int8",
    "float16",
    "float64",
    "complex128",
    "uint64",
    "resource",
    "variant",
    "uint32",
    "uint16",
    "int4",
    "bfloat16",
)
WITHOUT_DATA = {"none", "string", "resource", "variant", "int4", "bfloat16"}
MMAP_READ_ONLY = 1  # TfLiteAllocationType of the model's constants
AFFINE_QUANTIZATION = 1  # TfLiteQuantizationType
ABSENT = -1  # index of an optional tensor that is not there


def int_array(array: Any) -> tuple[int, ...]:
    """A TfLiteIntArray; empty for a null pointer."""
    return tuple(array.data[i] for i in range(array.size)) if array else ()


def dtype_name(code: int) -> str:
    """numpy's name of a TfLiteType."""
    return DTYPES[code] if 0 <= code < len(DTYPES) else f"type{code}"


def view(ffi: Any, tensor: Any, dtype: str, shape: tuple[int, ...]) -> Array | None:
    """The tensor's memory as an array of ``shape``; None if it has none yet or holds something else."""
    if not tensor.data or dtype in WITHOUT_DATA or dtype not in DTYPES:
        return None
    if tensor.bytes != int(np.prod(shape)) * np.dtype(dtype).itemsize:
        return None
    return np.frombuffer(ffi.buffer(tensor.data, tensor.bytes), np.dtype(dtype)).reshape(shape)


def read_quant(ffi: Any, tensor: Any) -> Quant | None:
    """Scales and zero points; None for a tensor without, or with a quantization that is not affine."""
    if tensor.quantization_type != AFFINE_QUANTIZATION or not tensor.quantization_params:
        return None
    affine = ffi.cast("TfLiteAffineQuantization *", tensor.quantization_params)
    if not affine.scale or affine.scale.size == 0:
        return None
    scale = np.array([affine.scale.data[i] for i in range(affine.scale.size)], np.float32)
    points = np.array(int_array(affine.zero_point) or (0,), np.int32)
    if points.size not in (1, scale.size):
        return None
    return Quant(scale, np.broadcast_to(points, scale.shape).copy(), affine.quantized_dimension)


def read_tensor(ffi: Any, index: int, tensor: Any) -> Tensor:
    """One tensor; ``data`` only for a constant of the model."""
    dtype, shape = dtype_name(tensor.type), int_array(tensor.dims)
    data = None
    if tensor.allocation_type == MMAP_READ_ONLY and not tensor.sparsity:
        data = view(ffi, tensor, dtype, shape)
        if data is not None:
            data.flags.writeable = False
    name = ffi.string(tensor.name).decode("utf-8", "replace") if tensor.name else ""
    return Tensor(index, name, shape, dtype, read_quant(ffi, tensor), data)


def read_params(ffi: Any, op: str, data: Any) -> dict[str, Any]:
    """An operator's options from its builtin_data, for the operators that ir describes."""
    if op not in OPTIONS or not data:
        return {}
    struct = ffi.cast(f"{OPTIONS[op].struct} *", data)
    return {parameter.name: parameter.from_struct(struct) for parameter in OPTIONS[op].parameters}


def execution_plan(ffi: Any, context: Any) -> tuple[int, ...]:
    """Indices of the nodes in the order of execution."""
    plan = ffi.new("TfLiteIntArray **")
    if context.GetExecutionPlan(context, plan):
        raise ModelError("the interpreter does not tell its execution plan")
    return int_array(plan[0])


def read_context(ffi: Any, context: Any) -> Graph:
    """The interpreter's whole graph; its border is what no node computes and what no node reads.

    Tensors that TFLite's kernels added for themselves are left out; unlike the model's, they have no name, not even an
    empty one.
    """
    raw = {}
    for index in execution_plan(ffi, context):
        node, registration = ffi.new("TfLiteNode **"), ffi.new("TfLiteRegistration **")
        if context.GetNodeAndRegistration(context, index, node, registration):
            raise ModelError(f"the interpreter does not show its node {index}")
        raw[index] = (node[0], registration[0])
    own = (i for i in range(int(context.tensors_size)) if context.tensors[i].name)
    tensors = {i: read_tensor(ffi, i, context.tensors[i]) for i in own}
    nodes = []
    for index, (node, registration) in raw.items():
        op = operator_name(registration.builtin_code)
        inputs, outputs = int_array(node.inputs), int_array(node.outputs)
        params = read_params(ffi, op, node.builtin_data)
        named = tuple(None if i == ABSENT else tensors[i] for i in inputs)
        nodes.append(Node(index, op, named, tuple(tensors[i] for i in outputs), params, registration.version))
    return whole_graph(tensors, nodes)


def whole_graph(tensors: Mapping[int, Tensor], nodes: Sequence[Node]) -> Graph:
    """A graph whose border follows from its nodes."""
    read = dict.fromkeys(t.index for node in nodes for t in node.inputs if t is not None and t.data is None)
    written = dict.fromkeys(tensor.index for node in nodes for tensor in node.outputs)
    inputs = tuple(index for index in read if index not in written)
    return Graph(tensors, tuple(nodes), inputs, tuple(index for index in written if index not in read))


def with_shapes(part: Graph, shape_of: Callable[[int], tuple[int, ...]]) -> Graph:
    """A partition whose computed tensors have other shapes; ``shape_of`` gives them by index."""
    own = {t.index: t for node in part.nodes for t in (*node.inputs, *node.outputs) if t is not None}
    changed = {index: replace(t, shape=shape_of(index)) if t.data is None else t for index, t in own.items()}

    def node_of(node: Node) -> Node:
        inputs = tuple(None if tensor is None else changed[tensor.index] for tensor in node.inputs)
        return replace(node, inputs=inputs, outputs=tuple(changed[tensor.index] for tensor in node.outputs))

    return replace(part, tensors={**part.tensors, **changed}, nodes=tuple(map(node_of, part.nodes)))


def partition_graph(graph: Graph, nodes: Iterable[int], inputs: Iterable[int], outputs: Iterable[int]) -> Graph:
    """The part of a graph that TFLite gives to one kernel, all by index; constants are no inputs."""
    by_index = {node.index: node for node in graph.nodes}
    fed = tuple(i for i in inputs if i != ABSENT and graph.tensors[i].data is None)
    return Graph(graph.tensors, tuple(by_index[i] for i in nodes), fed, tuple(outputs))
