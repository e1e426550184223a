"""A .tflite file as the record of ``tflite_writer``, read with the schema bindings and nothing of ``delegate``."""

from __future__ import annotations

from typing import Any

import numpy as np
import tflite
from tflite_writer import TABLES, TYPE_NAMES, Array, Model, OperatorSpec, TensorSpec

OPTION_FIELDS = {
    "CONV_2D": ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", "FusedActivationFunction"),
    "DEPTHWISE_CONV_2D": (
        *("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor", "FusedActivationFunction"),
        "DepthMultiplier",
    ),
    "ADD": ("FusedActivationFunction",),
    "CONCATENATION": ("Axis", "FusedActivationFunction"),
    "FULLY_CONNECTED": ("FusedActivationFunction", "WeightsFormat"),
    "AVERAGE_POOL_2D": ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth", "FusedActivationFunction"),
    "MAX_POOL_2D": ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth", "FusedActivationFunction"),
    "SOFTMAX": ("Beta",),
}
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


def _operator(model: Any, operator: Any) -> OperatorSpec:
    """An operator's record."""
    code = model.OperatorCodes(operator.OpcodeIndex())
    op = OPERATOR_NAMES[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    options = {}
    if op in OPTION_FIELDS and operator.BuiltinOptions() is not None:
        table = getattr(tflite, TABLES[op][0])()
        table.Init(operator.BuiltinOptions().Bytes, operator.BuiltinOptions().Pos)
        options = {name: getattr(table, name)() for name in OPTION_FIELDS[op]}
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
