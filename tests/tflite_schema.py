"""A record of a model's tensors and operators, and its bytes as a .tflite file; tflite_writer.py makes the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
import tflite

Array = npt.NDArray[Any]

TYPES = {"float32": 0, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int8": 9}  # TensorType of the schema
TYPE_NAMES = {code: name for name, code in TYPES.items()}
PADDINGS = {"SAME": 0, "VALID": 1}
ACTIVATIONS = {"NONE": 0, "RELU": 1, "RELU_N1_TO_1": 2, "RELU6": 3, "TANH": 4}
DATA_ALIGNMENT = 16  # bytes; TFLite reads constants in place

# Operator: its table of options, "" for none, and the version that the converter writes for int8 tensors
# (TensorFlow's lite/tools/versioning/op_version.cc); ``version`` has what depends on more than the type.
# DEPTH_TO_SPACE would be 2, which the reference kernels of tflite-runtime 2.14 are not registered for.
TABLES = {
    "ABS": ("AbsOptions", 2),
    "ADD": ("AddOptions", 2),
    "ARG_MAX": ("ArgMaxOptions", 2),
    "AVERAGE_POOL_2D": ("Pool2DOptions", 2),
    "BATCH_TO_SPACE_ND": ("BatchToSpaceNDOptions", 2),
    "CEIL": ("", 1),
    "CONCATENATION": ("ConcatenationOptions", 2),
    "CONV_2D": ("Conv2DOptions", 3),
    "COS": ("CosOptions", 1),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", 3),
    "DEPTH_TO_SPACE": ("DepthToSpaceOptions", 1),
    "DEQUANTIZE": ("DequantizeOptions", 2),
    "ELU": ("", 1),
    "EXP": ("ExpOptions", 2),
    "EXPAND_DIMS": ("ExpandDimsOptions", 1),
    "FLOOR": ("", 1),
    "FULLY_CONNECTED": ("FullyConnectedOptions", 4),
    "GELU": ("GeluOptions", 2),
    "HARD_SWISH": ("HardSwishOptions", 1),
    "LEAKY_RELU": ("LeakyReluOptions", 1),
    "LOG": ("", 2),
    "LOGISTIC": ("", 2),
    "MAXIMUM": ("MaximumMinimumOptions", 2),
    "MAX_POOL_2D": ("Pool2DOptions", 2),
    "MEAN": ("ReducerOptions", 2),
    "REDUCE_MAX": ("ReducerOptions", 2),
    "REDUCE_MIN": ("ReducerOptions", 2),
    "SUM": ("ReducerOptions", 2),
    "MINIMUM": ("MaximumMinimumOptions", 2),
    "MUL": ("MulOptions", 2),
    "NEG": ("NegOptions", 1),
    "PACK": ("PackOptions", 2),
    "PAD": ("PadOptions", 2),
    "PADV2": ("PadV2Options", 2),
    "PRELU": ("", 1),
    "QUANTIZE": ("QuantizeOptions", 1),
    "RELU": ("", 2),
    "RELU6": ("", 2),
    "RELU_0_TO_1": ("", 1),
    "RELU_N1_TO_1": ("", 1),
    "RESHAPE": ("ReshapeOptions", 1),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", 2),
    "RESIZE_NEAREST_NEIGHBOR": ("ResizeNearestNeighborOptions", 2),
    "ROUND": ("", 1),
    "RSQRT": ("", 2),
    "SHAPE": ("ShapeOptions", 1),
    "SIN": ("", 1),
    "SLICE": ("SliceOptions", 2),
    "SOFTMAX": ("SoftmaxOptions", 2),
    "SPACE_TO_BATCH_ND": ("SpaceToBatchNDOptions", 2),
    "SPACE_TO_DEPTH": ("SpaceToDepthOptions", 2),
    "SPLIT": ("SplitOptions", 2),
    "SPLIT_V": ("SplitVOptions", 2),
    "SQRT": ("", 1),
    "SQUARE": ("SquareOptions", 1),
    "SQUEEZE": ("SqueezeOptions", 1),
    "STRIDED_SLICE": ("StridedSliceOptions", 2),
    "SUB": ("SubOptions", 2),
    "TANH": ("", 2),
    "TRANSPOSE": ("TransposeOptions", 2),
    "TRANSPOSE_CONV": ("TransposeConvOptions", 2),
    "UNPACK": ("UnpackOptions", 2),
}
DATA_INPUT = {"SPLIT": 1, "TRANSPOSE_CONV": 2}  # place of the input whose type is the operator's, where not 0
SECOND_FOR_UINT8 = ("ABS", "GELU", "RELU", "UNPACK")  # version 2 for uint8 as for int8


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
    """An operator; ``inputs`` has -1 for an optional tensor that is absent.

    ``options`` has the schema's field names; None leaves the table out of the file.
    """

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] | None = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Model:
    """One subgraph; operators in the order of execution."""

    tensors: tuple[TensorSpec, ...]
    operators: tuple[OperatorSpec, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


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
    """A table of the schema by name, its fields by name, a tuple as a vector of int32; the offset in the buffer."""
    placed = {k: _vector(builder, v, np.int32) if isinstance(v, tuple) else v for k, v in fields.items()}
    getattr(tflite, f"{name}Start")(builder)
    for key, value in placed.items():
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
    }
    if name and spec.options is not None:
        fields["BuiltinOptionsType"] = getattr(tflite.BuiltinOptions, name)
        fields["BuiltinOptions"] = _table(builder, name, spec.options)
    return _table(builder, "Operator", fields)


def _operator_code(builder: flatbuffers.Builder, op: str, version: int) -> int:
    """An OperatorCode table; readers before schema 3a look at the deprecated byte."""
    code = getattr(tflite.BuiltinOperator, op)
    fields = {"DeprecatedBuiltinCode": min(code, 127), "BuiltinCode": code, "Version": version}
    return _table(builder, "OperatorCode", fields)


def version(model: Model, spec: OperatorSpec) -> int:
    """The operator's version, which tells a runtime that is too old for it that it is."""
    tensors = [model.tensors[i] for i in spec.inputs if i >= 0]  # only the last ones are optional
    dtype = tensors[DATA_INPUT.get(spec.op, 0)].dtype
    common = TABLES[spec.op][1] if dtype == "int8" or (dtype == "uint8" and spec.op in SECOND_FOR_UINT8) else 1
    return max(common, _version_of_options(spec, tensors, model.tensors[spec.outputs[0]]))


def _version_of_options(spec: OperatorSpec, inputs: Sequence[TensorSpec], output: TensorSpec) -> int:
    """The version that an operator's options and the shapes and scales of its tensors ask for.

    Converters write 6 and 8 for the newer masks of STRIDED_SLICE and 4 for an activation of TRANSPOSE_CONV. The
    reference kernels of tflite-runtime 2.14 know both, but are registered up to 4 and 3, so nothing is asked for here.
    """
    options = spec.options or {}
    if spec.op == "CONV_2D":
        return 6 if inputs[0].shape[3] != inputs[1].shape[3] else 1
    if spec.op == "DEPTHWISE_CONV_2D":
        return 2 if max(options.get("DilationHFactor", 1), options.get("DilationWFactor", 1)) > 1 else 1
    if spec.op == "FULLY_CONNECTED":
        return 6 if len(inputs) == 2 else 5 if options.get("KeepNumDims") else 1
    if spec.op == "MUL" and all(t.scale for t in (*inputs, output)):
        return 3 if inputs[0].scale[0] * inputs[1].scale[0] / output.scale[0] >= 1 else 1
    if spec.op.startswith("RESIZE"):
        corners = options.get("AlignCorners") and spec.op == "RESIZE_NEAREST_NEIGHBOR"
        return 3 if corners or options.get("HalfPixelCenters") else 1
    if spec.op == "TRANSPOSE_CONV":
        return 3 if len(inputs) == 4 else 1
    return 1


def write(model: Model) -> bytes:
    """The model as the bytes of a .tflite file."""
    builder = flatbuffers.Builder(1024)
    buffers = [_buffer(builder, None)]
    tensors = []
    for index, spec in enumerate(model.tensors):
        if spec.data is not None:
            buffers.append(_buffer(builder, spec.data))
        tensors.append(_tensor(builder, index, spec, len(buffers) - 1 if spec.data is not None else 0))
    versions = [version(model, operator) for operator in model.operators]
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
