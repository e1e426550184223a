"""A .tflite file to ir, for tools that run without an interpreter; read with the `tflite` flatbuffer bindings."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from delegate.builtin_operators import operator_name
from delegate.context import ABSENT, WITHOUT_DATA
from delegate.errors import ModelError
from delegate.ir import Array, Graph, Node, Quant, Tensor
from delegate.parameters import OPTIONS, PADDINGS

IDENTIFIER = b"TFL3"  # bytes 4 to 7 of the file
# Place = TensorType of schema.fbs, which counts otherwise than TfLiteType does.
DTYPES = (
    "float32",
    "float16",
    "int32",
    "uint8",
    "int64",
    "string",
    "bool",
    "int16",
    "complex64",
    "int8",
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
# A flatbuffer table without fields, behind its list of fields (vtable): reads as the schema's defaults.
DEFAULTS, DEFAULTS_PLACE = struct.pack("<HHi", 4, 4, 4), 4
# What the bindings raise when an offset or a size in the file points to nowhere.
DAMAGE = (
    struct.error,
    IndexError,
    ValueError,
    TypeError,
    OverflowError,
    AttributeError,
    UnicodeDecodeError,
    MemoryError,
)


def read_model(path: str | Path) -> Graph:
    """The main subgraph of a .tflite file. Constants are copies.

    Raises ModelError for a file that is missing, is no TFLite model, or is damaged.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ModelError(f"model {path} cannot be read: {error.strerror}") from error
    if content[4:8] != IDENTIFIER:
        raise ModelError(f"model {path} is no TFLite model ({len(content)} bytes, without the identifier TFL3)")
    try:
        return read_graph(content)
    except DAMAGE as error:
        raise ModelError(f"model {path} is damaged ({len(content)} bytes): {error}") from error


def read_graph(content: bytes) -> Graph:
    """The main subgraph of a model in memory; raises one of DAMAGE, or ModelError, for a damaged one."""
    import tflite  # 0.1 s; the delegate itself does without

    model = tflite.Model.GetRootAs(content, 0)
    if model.SubgraphsLength() == 0:
        raise ValueError("it has no subgraph")
    subgraph = model.Subgraphs(0)
    tensors = {i: read_tensor(model, i, subgraph.Tensors(i)) for i in range(subgraph.TensorsLength())}
    nodes = tuple(
        read_node(tflite, model, i, subgraph.Operators(i), tensors) for i in range(subgraph.OperatorsLength())
    )
    inputs, outputs = indices(subgraph, "Inputs"), indices(subgraph, "Outputs")
    for index in (*inputs, *outputs):
        if index not in tensors:
            raise ValueError(f"its border names tensor {index} of {len(tensors)}")
    return Graph(tensors, nodes, inputs, outputs)


def indices(table: Any, field: str) -> tuple[int, ...]:
    """A vector of int32 of a flatbuffer table; empty if it is not there."""
    values = getattr(table, f"{field}AsNumpy")() if getattr(table, f"{field}Length")() else ()
    return tuple(int(value) for value in values)


def read_tensor(model: Any, index: int, tensor: Any) -> Tensor:
    """One tensor; ``data`` is None where the file has no bytes for it."""
    code, shape = tensor.Type(), indices(tensor, "Shape")
    dtype = DTYPES[code] if 0 <= code < len(DTYPES) else f"type{code}"
    name = (tensor.Name() or b"").decode("utf-8", "replace")
    data = None if tensor.Sparsity() is not None else read_data(model, tensor.Buffer(), dtype, shape)
    return Tensor(index, name, shape, dtype, read_quant(tensor.Quantization()), data)


def read_data(model: Any, buffer: int, dtype: str, shape: tuple[int, ...]) -> Array | None:
    """A constant's values; None where there are none, or of a type that numpy has not got."""
    if not 0 <= buffer < model.BuffersLength():
        raise ValueError(f"a tensor names buffer {buffer} of {model.BuffersLength()}")
    content = model.Buffers(buffer)
    if content.DataLength() == 0 or dtype in WITHOUT_DATA or dtype not in DTYPES:
        return None
    values = np.frombuffer(content.DataAsNumpy().tobytes(), np.dtype(dtype))
    if values.size != int(np.prod(shape)):
        raise ValueError(f"a tensor of {shape} has {values.size} values")
    return values.reshape(shape)


def read_quant(quantization: Any) -> Quant | None:
    """Scales and zero points; None for a tensor without."""
    if quantization is None or quantization.ScaleLength() == 0:
        return None
    scale = np.array(quantization.ScaleAsNumpy(), np.float32)
    points = np.array(quantization.ZeroPointAsNumpy() if quantization.ZeroPointLength() else [0], np.int32)
    if points.size not in (1, scale.size):
        raise ValueError(f"a tensor has {scale.size} scales and {points.size} zero points")
    return Quant(scale, np.broadcast_to(points, scale.shape).copy(), int(quantization.QuantizedDimension()))


def read_node(tflite: Any, model: Any, index: int, operator: Any, tensors: dict[int, Tensor]) -> Node:
    """One operation, its tensors looked up."""
    code = model.OperatorCodes(operator.OpcodeIndex())
    op = operator_name(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))  # the older field ends at 127
    inputs, outputs = indices(operator, "Inputs"), indices(operator, "Outputs")
    for tensor in (*inputs, *outputs):
        if tensor not in tensors and tensor != ABSENT:
            raise ValueError(f"operation {index} names tensor {tensor} of {len(tensors)}")
    return Node(
        index,
        op,
        tuple(None if i == ABSENT else tensors[i] for i in inputs),
        tuple(tensors[i] for i in outputs),
        read_params(tflite, op, operator.BuiltinOptions()),
        code.Version(),
    )


def read_params(tflite: Any, op: str, union: Any) -> dict[str, Any]:
    """An operator's options, for the operators that ir describes; those of a table that is not there are defaults."""
    if op not in OPTIONS:
        return {}
    table = getattr(tflite, OPTIONS[op].table)()
    if union is not None:
        table.Init(union.Bytes, union.Pos)
    elif OPTIONS[op].required:
        raise ValueError(f"an operator {op} has no options")
    else:
        table.Init(DEFAULTS, DEFAULTS_PLACE)
    params = {parameter.name: parameter.from_table(table) for parameter in OPTIONS[op].parameters}
    if params.get("padding", "SAME") not in PADDINGS:
        raise ValueError(f"an operator {op} has {params['padding']}")
    return params
