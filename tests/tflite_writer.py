"""Small quantized models for the tests: a record of tensors and operators, and its .tflite bytes.

Nothing here comes from ``delegate``: the record is also what ``reference.py`` computes, so that reader, compiler and
simulator are judged by something that shares no code with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
import tflite

Array = npt.NDArray[Any]

TYPES = {"float32": 0, "int32": 2, "uint8": 3, "int64": 4, "int8": 9}  # TensorType of the schema
TYPE_NAMES = {code: name for name, code in TYPES.items()}
PADDINGS = {"SAME": 0, "VALID": 1}
ACTIVATIONS = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3, "TANH": 4}
DATA_ALIGNMENT = 16  # bytes; TFLite reads constants in place

# Operator: its table of options and, for int8 tensors, the version the converter writes.
TABLES = {
    "CONV_2D": ("Conv2DOptions", 3),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", 3),
    "ADD": ("AddOptions", 2),
    "AVERAGE_POOL_2D": ("Pool2DOptions", 2),
    "MAX_POOL_2D": ("Pool2DOptions", 2),
    "RESHAPE": ("ReshapeOptions", 1),
    "SOFTMAX": ("SoftmaxOptions", 2),
    "QUANTIZE": ("QuantizeOptions", 1),
    "CONCATENATION": ("ConcatenationOptions", 2),
    "MEAN": ("ReducerOptions", 2),
    "FULLY_CONNECTED": ("FullyConnectedOptions", 4),
}


@dataclass(frozen=True, eq=False)
class TensorSpec:
    """A tensor: NHWC, OHWI for weights (1HWC for depthwise ones). ``data`` is None unless it is a constant."""

    shape: tuple[int, ...]
    dtype: str
    scale: tuple[float, ...] = ()  # one, or one a channel of ``axis``; empty for a tensor that is not quantized
    zero_point: tuple[int, ...] = ()
    axis: int = 0
    data: Array | None = None

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest value of the type."""
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)


@dataclass(frozen=True)
class OperatorSpec:
    """An operator; ``inputs`` has -1 for an optional tensor that is absent. ``options``: the schema's field names."""

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Model:
    """One subgraph; operators in the order of execution."""

    tensors: tuple[TensorSpec, ...]
    operators: tuple[OperatorSpec, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def output_extent(size: int, kernel: int, stride: int, dilation: int, padding: str) -> int:
    """Pixels of the output along one side, as TFLite defines SAME and VALID."""
    reach = (kernel - 1) * dilation + 1
    return -(-size // stride) if padding == "SAME" else -(-(size - reach + 1) // stride)


class Builder:
    """Collects tensors and operators; each method that adds an operator returns the index of its output tensor."""

    def __init__(self) -> None:
        self.tensors: list[TensorSpec] = []
        self.operators: list[OperatorSpec] = []

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str,
        scale: float | Sequence[float] = (),
        zero_point: int | Sequence[int] = 0,
        data: Array | None = None,
        axis: int = 0,
    ) -> int:
        """Adds a tensor and returns its index."""
        scales = tuple(np.atleast_1d(np.asarray(scale, np.float32)).tolist())
        points = np.broadcast_to(np.atleast_1d(np.asarray(zero_point, np.int64)), (len(scales),)).tolist()
        self.tensors.append(TensorSpec(tuple(int(n) for n in shape), dtype, scales, tuple(points), axis, data))
        return len(self.tensors) - 1

    def constant(self, data: Array, scale: float | Sequence[float] = (), zero_point: int = 0, axis: int = 0) -> int:
        """Adds a constant tensor and returns its index."""
        return self.tensor(data.shape, str(data.dtype), scale, zero_point, data, axis)

    def operator(self, op: str, inputs: Sequence[int], output: int, options: Mapping[str, Any] | None = None) -> int:
        """Adds an operator with one output and returns the output's index."""
        self.operators.append(OperatorSpec(op, tuple(inputs), (output,), dict(options or {})))
        return output

    def convolution(
        self,
        source: int,
        weight: Array,
        weight_scale: float | Sequence[float],
        output: tuple[float, int],
        *,
        weight_zero_point: int = 0,
        bias: Array | None = None,
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        padding: str = "SAME",
        activation: str = "NONE",
        depthwise: bool = False,
        output_dtype: str | None = None,
    ) -> int:
        """CONV_2D (weight OHWI) or DEPTHWISE_CONV_2D (weight 1HWC); ``output`` is its scale and zero point.

        stride and dilation are (y, x); bias int32 (output channels). A bias gets the scale TFLite asks for.
        """
        spec = self.tensors[source]
        axis = 3 if depthwise else 0
        height, width = (
            output_extent(spec.shape[1 + i], weight.shape[1 + i], stride[i], dilation[i], padding) for i in (0, 1)
        )
        inputs = [source, self.constant(weight, weight_scale, weight_zero_point, axis)]
        if bias is not None:
            bias_scale = np.float32(spec.scale[0]) * np.asarray(weight_scale, np.float32)
            inputs.append(self.constant(bias, np.atleast_1d(bias_scale).tolist()))
        channels = weight.shape[axis]
        target = self.tensor((spec.shape[0], height, width, channels), output_dtype or spec.dtype, *output)
        options = {
            "Padding": PADDINGS[padding],
            "StrideH": stride[0],
            "StrideW": stride[1],
            "DilationHFactor": dilation[0],
            "DilationWFactor": dilation[1],
            "FusedActivationFunction": ACTIVATIONS[activation],
        }
        if depthwise:
            options["DepthMultiplier"] = channels // spec.shape[3]
        return self.operator("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", inputs, target, options)

    def add(self, first: int, second: int, output: tuple[float, int], activation: str = "NONE") -> int:
        """ADD of two tensors (broadcast as TFLite does it)."""
        shape = np.broadcast_shapes(self.tensors[first].shape, self.tensors[second].shape)
        target = self.tensor(shape, self.tensors[first].dtype, *output)
        return self.operator("ADD", (first, second), target, {"FusedActivationFunction": ACTIVATIONS[activation]})

    def pool(self, source: int, kind: str, window: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> int:
        """AVERAGE_POOL_2D or MAX_POOL_2D, VALID, same quantization as the input."""
        spec = self.tensors[source]
        size = [output_extent(spec.shape[1 + i], window[i], stride[i], 1, "VALID") for i in (0, 1)]
        target = self.tensor((spec.shape[0], *size, spec.shape[3]), spec.dtype, spec.scale, spec.zero_point)
        options = {
            "Padding": PADDINGS["VALID"],
            "StrideH": stride[0],
            "StrideW": stride[1],
            "FilterHeight": window[0],
            "FilterWidth": window[1],
        }
        return self.operator(kind, (source,), target, options)

    def reshape(self, source: int, shape: Sequence[int]) -> int:
        """RESHAPE."""
        spec = self.tensors[source]
        target = self.tensor(shape, spec.dtype, spec.scale, spec.zero_point)
        return self.operator("RESHAPE", (source, self.constant(np.asarray(shape, np.int32))), target)

    def softmax(self, source: int) -> int:
        """SOFTMAX over the last axis with the output quantization TFLite asks for."""
        spec = self.tensors[source]
        target = self.tensor(spec.shape, spec.dtype, 1 / 256, spec.limits[0])
        return self.operator("SOFTMAX", (source,), target, {"Beta": 1.0})

    def quantize(self, source: int, dtype: str, output: tuple[float, int]) -> int:
        """QUANTIZE from one quantization (or type) to another."""
        return self.operator("QUANTIZE", (source,), self.tensor(self.tensors[source].shape, dtype, *output))

    def concatenation(self, sources: Sequence[int], output: tuple[float, int]) -> int:
        """CONCATENATION along channels."""
        specs = [self.tensors[source] for source in sources]
        shape = (*specs[0].shape[:3], sum(spec.shape[3] for spec in specs))
        target = self.tensor(shape, specs[0].dtype, *output)
        return self.operator("CONCATENATION", sources, target, {"Axis": 3, "FusedActivationFunction": 0})

    def mean(self, source: int, output: tuple[float, int], keep: bool = True) -> int:
        """MEAN over height and width."""
        spec = self.tensors[source]
        shape = (spec.shape[0], 1, 1, spec.shape[3]) if keep else (spec.shape[0], spec.shape[3])
        axes = self.constant(np.array([1, 2], np.int32))
        return self.operator("MEAN", (source, axes), self.tensor(shape, spec.dtype, *output), {"KeepDims": keep})

    def fully_connected(
        self,
        source: int,
        weight: Array,
        weight_scale: float,
        output: tuple[float, int],
        weight_zero_point: int = 0,
        bias: Array | None = None,
        activation: str = "NONE",
    ) -> int:
        """FULLY_CONNECTED; weight (outputs, depth)."""
        spec = self.tensors[source]
        inputs = [source, self.constant(weight, weight_scale, weight_zero_point)]
        if bias is not None:
            inputs.append(self.constant(bias, float(np.float32(spec.scale[0]) * np.float32(weight_scale))))
        rows = int(np.prod(spec.shape)) // weight.shape[1]
        target = self.tensor((rows, weight.shape[0]), spec.dtype, *output)
        return self.operator("FULLY_CONNECTED", inputs, target, {"FusedActivationFunction": ACTIVATIONS[activation]})

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> Model:
        """The finished record."""
        return Model(tuple(self.tensors), tuple(self.operators), tuple(inputs), tuple(outputs))


def _vector(builder: flatbuffers.Builder, values: Sequence[Any] | Array, dtype: type) -> int:
    """A vector of scalars; the offset in the buffer."""
    return int(builder.CreateNumpyVector(np.asarray(values, dtype)))


def _offsets(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    """A vector of tables; the offset in the buffer."""
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _table(builder: flatbuffers.Builder, name: str, fields: Mapping[str, Any]) -> int:
    """A table of the schema by name, its fields by name; the offset in the buffer."""
    getattr(tflite, f"{name}Start")(builder)
    for key, value in fields.items():
        getattr(tflite, f"{name}Add{key}")(builder, value)
    return int(getattr(tflite, f"{name}End")(builder))


def _buffer(builder: flatbuffers.Builder, data: Array | None) -> int:
    """A Buffer table; empty without data."""
    if data is None:
        return _table(builder, "Buffer", {})
    content = np.ascontiguousarray(data).tobytes()
    builder.StartVector(1, len(content), DATA_ALIGNMENT)
    builder.head = builder.Head() - len(content)
    builder.Bytes[builder.Head() : builder.Head() + len(content)] = content
    return _table(builder, "Buffer", {"Data": builder.EndVector()})


def _tensor(builder: flatbuffers.Builder, index: int, spec: TensorSpec, buffer: int) -> int:
    """A Tensor table with its quantization."""
    fields: dict[str, Any] = {
        "Name": builder.CreateString(f"tensor{index}"),
        "Shape": _vector(builder, spec.shape, np.int32),
        "Type": TYPES[spec.dtype],
        "Buffer": buffer,
    }
    if spec.scale:
        quantization = {
            "Scale": _vector(builder, spec.scale, np.float32),
            "ZeroPoint": _vector(builder, spec.zero_point, np.int64),
            "QuantizedDimension": spec.axis,
        }
        fields["Quantization"] = _table(builder, "QuantizationParameters", quantization)
    return _table(builder, "Tensor", fields)


def _operator(builder: flatbuffers.Builder, spec: OperatorSpec, code: int) -> int:
    """An Operator table with its options."""
    name = TABLES[spec.op][0]
    fields = {
        "OpcodeIndex": code,
        "Inputs": _vector(builder, spec.inputs, np.int32),
        "Outputs": _vector(builder, spec.outputs, np.int32),
        "BuiltinOptionsType": getattr(tflite.BuiltinOptions, name),
        "BuiltinOptions": _table(builder, name, spec.options),
    }
    return _table(builder, "Operator", fields)


def _operator_code(builder: flatbuffers.Builder, op: str, version: int) -> int:
    """An OperatorCode table; readers before schema 3a look at the deprecated byte."""
    code = getattr(tflite.BuiltinOperator, op)
    fields = {"DeprecatedBuiltinCode": min(code, 127), "BuiltinCode": code, "Version": version}
    return _table(builder, "OperatorCode", fields)


def write(model: Model) -> bytes:
    """The model as the bytes of a .tflite file."""
    builder = flatbuffers.Builder(1024)
    buffers = [_buffer(builder, None)]
    tensors = []
    for index, spec in enumerate(model.tensors):
        if spec.data is not None:
            buffers.append(_buffer(builder, spec.data))
        tensors.append(_tensor(builder, index, spec, len(buffers) - 1 if spec.data is not None else 0))
    versions = [TABLES[o.op][1] if model.tensors[o.inputs[0]].dtype == "int8" else 1 for o in model.operators]
    codes = sorted({(operator.op, version) for operator, version in zip(model.operators, versions, strict=True)})
    operators = [
        _operator(builder, spec, codes.index((spec.op, version)))
        for spec, version in zip(model.operators, versions, strict=True)
    ]
    subgraph = {
        "Tensors": _offsets(builder, tensors),
        "Inputs": _vector(builder, model.inputs, np.int32),
        "Outputs": _vector(builder, model.outputs, np.int32),
        "Operators": _offsets(builder, operators),
        "Name": builder.CreateString("main"),
    }
    subgraphs = _offsets(builder, [_table(builder, "SubGraph", subgraph)])
    fields = {
        "OperatorCodes": _offsets(builder, [_operator_code(builder, *code) for code in codes]),
        "Subgraphs": subgraphs,
        "Buffers": _offsets(builder, buffers),
        "Description": builder.CreateString("made for a test"),
        "Version": 3,
    }
    builder.Finish(_table(builder, "Model", fields), file_identifier=b"TFL3")
    return bytes(builder.Output())
