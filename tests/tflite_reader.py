"""A .tflite file as the record of ``tflite_writer``, read with the schema bindings and nothing of ``delegate``."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
import tflite
from tflite_writer import TABLES, TYPE_NAMES, Array, Model, OperatorSpec, TensorSpec

OPERATOR_NAMES = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}


def _data(model: Any, tensor: Any, dtype: str, shape: tuple[int, ...]) -> Array | None:
    """The constant's values; None for a tensor without any."""
    content = model.Buffers(tensor.Buffer()).DataAsNumpy()
    if isinstance(content, int):  # the bindings' way of saying that there is no vector
        return None
    return np.frombuffer(content.tobytes(), np.dtype(dtype)).reshape(shape)


def _tensor(model: Any, tensor: Any) -> TensorSpec:
    """A tensor's record."""
    dtype = TYPE_NAMES.get(tensor.Type(), f"type {tensor.Type()}")
    shape = tuple(int(n) for n in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
    quantization = tensor.Quantization()
    scale: tuple[float, ...] = ()
    zero_point: tuple[int, ...] = ()
    axis = 0
    if quantization is not None and quantization.ScaleLength():
        scale = tuple(quantization.ScaleAsNumpy().tolist())
        zero_point = tuple(quantization.ZeroPointAsNumpy().tolist())
        axis = quantization.QuantizedDimension()
    return TensorSpec(shape, dtype, scale, zero_point, axis, _data(model, tensor, dtype, shape))


def _options(name: str, union: Any) -> dict[str, Any]:
    """All fields of a table of options, vectors as tuples; the schema's defaults where the file has no table."""
    if union is None:
        builder = flatbuffers.Builder()
        getattr(tflite, f"{name}Start")(builder)
        builder.Finish(getattr(tflite, f"{name}End")(builder))
        table = getattr(tflite, name).GetRootAs(builder.Output())
    else:
        table = getattr(tflite, name)()
        table.Init(union.Bytes, union.Pos)
    fields = [field.removeprefix(f"{name}Add") for field in dir(tflite) if field.startswith(f"{name}Add")]
    lengths = {field: getattr(table, f"{field}Length")() for field in fields if hasattr(table, f"{field}Length")}
    return {
        field: tuple(getattr(table, field)(i) for i in range(lengths[field]))
        if field in lengths
        else getattr(table, field)()
        for field in fields
    }


def _operator(model: Any, operator: Any) -> OperatorSpec:
    """An operator's record."""
    code = model.OperatorCodes(operator.OpcodeIndex())
    op = OPERATOR_NAMES[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    name = TABLES.get(op, ("", 0))[0]
    options = _options(name, operator.BuiltinOptions()) if name else {}
    inputs = tuple(operator.InputsAsNumpy().tolist())
    return OperatorSpec(op, inputs, tuple(operator.OutputsAsNumpy().tolist()), options)


def read(content: bytes) -> Model:
    """The record of a model's first subgraph."""
    model = tflite.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    return Model(
        tuple(_tensor(model, graph.Tensors(i)) for i in range(graph.TensorsLength())),
        tuple(_operator(model, graph.Operators(i)) for i in range(graph.OperatorsLength())),
        tuple(graph.InputsAsNumpy().tolist()),
        tuple(graph.OutputsAsNumpy().tolist()),
    )
