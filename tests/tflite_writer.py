"""Small quantized models for the tests: a record of tensors and operators, one method an operator.

Nothing here comes from ``delegate``: the record is also what ``reference.py`` computes, so that reader, compiler and
simulator are judged by something that shares no code with them. tflite_schema.py has the record's types and its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from tflite_schema import (
    ACTIVATIONS,
    PADDINGS,
    TABLES,
    TYPE_NAMES,
    TYPES,
    Array,
    Model,
    OperatorSpec,
    TensorSpec,
    write,
)

__all__ = [
    "ACTIVATIONS",
    "PADDINGS",
    "TABLES",
    "TYPES",
    "TYPE_NAMES",
    "Array",
    "Builder",
    "Model",
    "OperatorSpec",
    "TensorSpec",
    "output_extent",
    "write",
]

Quantization = tuple[float, int]  # scale and zero point
Outputs = TypeVar("Outputs", int, tuple[int, ...])
FIXED_SCALES = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}  # what TFLite asks for; zero points of int8


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

    def operator(
        self,
        op: str,
        inputs: Sequence[int],
        output: Outputs,
        options: Mapping[str, Any] | None = None,
    ) -> Outputs:
        """Adds an operator with one output or several; returns ``output`` as it came."""
        outputs = (output,) if isinstance(output, int) else output
        self.operators.append(OperatorSpec(op, tuple(inputs), outputs, dict(options or {})))
        return output

    def like(self, source: int, shape: Sequence[int] | None = None, output: Quantization | None = None) -> int:
        """Adds a tensor of the type of ``source``, of its shape and quantization unless others are given."""
        spec = self.tensors[source]
        scale, zero_point = (spec.scale, spec.zero_point or 0) if output is None else output
        return self.tensor(spec.shape if shape is None else shape, spec.dtype, scale, zero_point)

    def indices(self, *values: int) -> int:
        """Adds a constant vector of int32, as axes, shapes and offsets are given."""
        return self.constant(np.array(values, np.int32))

    def scalar(self, value: int) -> int:
        """Adds a constant int32 without dimensions."""
        return self.constant(np.array(value, np.int32))

    def convolution(
        self,
        source: int,
        weight: Array,
        weight_scale: float | Sequence[float],
        output: Quantization,
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

    def transpose_conv(
        self,
        source: int,
        weight: Array,
        weight_scale: float | Sequence[float],
        output: Quantization,
        *,
        weight_zero_point: int = 0,
        bias: Array | None = None,
        stride: tuple[int, int] = (2, 2),
        padding: str = "SAME",
        activation: str = "NONE",
        size: tuple[int, int] | None = None,
    ) -> int:
        """TRANSPOSE_CONV (weight OHWI); ``size`` is the output's (height, width) if not the usual one."""
        spec = self.tensors[source]
        reach = (0, 0) if padding == "SAME" else [max(weight.shape[1 + i] - stride[i], 0) for i in (0, 1)]
        usual = (spec.shape[1 + i] * stride[i] + reach[i] for i in (0, 1))
        shape = (spec.shape[0], *(usual if size is None else size), weight.shape[0])
        inputs = [self.indices(*shape), self.constant(weight, weight_scale, weight_zero_point), source]
        if bias is not None:
            bias_scale = np.float32(spec.scale[0]) * np.asarray(weight_scale, np.float32)
            inputs.append(self.constant(bias, np.atleast_1d(bias_scale).tolist()))
        options = {
            "Padding": PADDINGS[padding],
            "StrideH": stride[0],
            "StrideW": stride[1],
            "FusedActivationFunction": ACTIVATIONS[activation],
        }
        return self.operator("TRANSPOSE_CONV", inputs, self.like(source, shape, output), options)

    def binary(
        self, op: str, first: int, second: int, output: Quantization | None = None, activation: str | None = None
    ) -> int:
        """An operator of two tensors, broadcast as TFLite does it; the output is like the first if nothing is said."""
        shape = np.broadcast_shapes(self.tensors[first].shape, self.tensors[second].shape)
        options = {} if activation is None else {"FusedActivationFunction": ACTIVATIONS[activation]}
        return self.operator(op, (first, second), self.like(first, shape, output), options)

    def add(self, first: int, second: int, output: Quantization, activation: str = "NONE") -> int:
        """ADD."""
        return self.binary("ADD", first, second, output, activation)

    def sub(self, first: int, second: int, output: Quantization, activation: str = "NONE") -> int:
        """SUB."""
        return self.binary("SUB", first, second, output, activation)

    def mul(self, first: int, second: int, output: Quantization, activation: str = "NONE") -> int:
        """MUL."""
        return self.binary("MUL", first, second, output, activation)

    def maximum(self, first: int, second: int) -> int:
        """MAXIMUM; TFLite compares the stored values, so all three tensors have one quantization."""
        return self.binary("MAXIMUM", first, second)

    def minimum(self, first: int, second: int) -> int:
        """MINIMUM; TFLite compares the stored values, so all three tensors have one quantization."""
        return self.binary("MINIMUM", first, second)

    def unary(
        self, op: str, source: int, output: Quantization | None = None, options: Mapping[str, Any] | None = None
    ) -> int:
        """An operator of one tensor (RELU, LOGISTIC, HARD_SWISH, EXP, GELU…) that keeps the shape.

        Without ``output`` the output has the quantization TFLite asks for, or else the input's.
        """
        if output is None and op in FIXED_SCALES:
            scale, point = FIXED_SCALES[op]
            output = (scale, point + (128 if self.tensors[source].dtype == "uint8" else 0))
        return self.operator(op, (source,), self.like(source, output=output), options)

    def leaky_relu(self, source: int, alpha: float, output: Quantization | None = None) -> int:
        """LEAKY_RELU."""
        return self.unary("LEAKY_RELU", source, output, {"Alpha": alpha})

    def prelu(
        self, source: int, alpha: Array, alpha_scale: float, output: Quantization, alpha_zero_point: int = 0
    ) -> int:
        """PRELU; alpha, a constant, is broadcast to the input, as (1, 1, channels) for instance."""
        factors = self.constant(alpha, alpha_scale, alpha_zero_point)
        return self.operator("PRELU", (source, factors), self.like(source, output=output))

    def pool(
        self,
        source: int,
        kind: str,
        window: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: str = "VALID",
        activation: str = "NONE",
    ) -> int:
        """AVERAGE_POOL_2D or MAX_POOL_2D, same quantization as the input."""
        spec = self.tensors[source]
        size = [output_extent(spec.shape[1 + i], window[i], stride[i], 1, padding) for i in (0, 1)]
        options = {
            "Padding": PADDINGS[padding],
            "StrideH": stride[0],
            "StrideW": stride[1],
            "FilterHeight": window[0],
            "FilterWidth": window[1],
            "FusedActivationFunction": ACTIVATIONS[activation],
        }
        return self.operator(kind, (source,), self.like(source, (spec.shape[0], *size, spec.shape[3])), options)

    def reshape(self, source: int, shape: Sequence[int], by_option: bool = False) -> int:
        """RESHAPE; the shape is a second input, as converters write it, or an option."""
        if by_option:
            return self.operator("RESHAPE", (source,), self.like(source, shape), {"NewShape": tuple(shape)})
        return self.operator("RESHAPE", (source, self.indices(*shape)), self.like(source, shape))

    def squeeze(self, source: int, axes: Sequence[int]) -> int:
        """SQUEEZE of the axes, which are counted from the front."""
        shape = [n for i, n in enumerate(self.tensors[source].shape) if i not in axes]
        return self.operator("SQUEEZE", (source,), self.like(source, shape), {"SqueezeDims": tuple(axes)})

    def expand_dims(self, source: int, axis: int) -> int:
        """EXPAND_DIMS; a negative axis counts from the output's end."""
        shape = list(self.tensors[source].shape)
        shape.insert(axis if axis >= 0 else len(shape) + 1 + axis, 1)
        return self.operator("EXPAND_DIMS", (source, self.scalar(axis)), self.like(source, shape))

    def softmax(self, source: int, beta: float = 1.0) -> int:
        """SOFTMAX over the last axis with the output quantization TFLite asks for."""
        target = self.like(source, output=(1 / 256, self.tensors[source].limits[0]))
        return self.operator("SOFTMAX", (source,), target, {"Beta": beta})

    def quantize(self, source: int, dtype: str, output: Quantization) -> int:
        """QUANTIZE from one quantization (or type) to another."""
        return self.operator("QUANTIZE", (source,), self.tensor(self.tensors[source].shape, dtype, *output))

    def dequantize(self, source: int) -> int:
        """DEQUANTIZE to float32."""
        return self.operator("DEQUANTIZE", (source,), self.tensor(self.tensors[source].shape, "float32"))

    def concatenation(
        self, sources: Sequence[int], output: Quantization, axis: int = 3, activation: str = "NONE"
    ) -> int:
        """CONCATENATION along an axis, by default that of the channels."""
        shape = list(self.tensors[sources[0]].shape)
        shape[axis] = sum(self.tensors[source].shape[axis] for source in sources)
        options = {"Axis": axis, "FusedActivationFunction": ACTIVATIONS[activation]}
        return self.operator("CONCATENATION", sources, self.like(sources[0], shape, output), options)

    def split(self, source: int, count: int, axis: int = 3) -> tuple[int, ...]:
        """SPLIT into equal parts; their indices."""
        shape = list(self.tensors[source].shape)
        shape[axis] //= count
        targets = tuple(self.like(source, shape) for _ in range(count))
        return self.operator("SPLIT", (self.scalar(axis), source), targets, {"NumSplits": count})

    def split_v(self, source: int, sizes: Sequence[int], axis: int = 3) -> tuple[int, ...]:
        """SPLIT_V into parts of the sizes along the axis; their indices."""
        shape = list(self.tensors[source].shape)
        targets = tuple(self.like(source, [*shape[:axis], size, *shape[axis:][1:]]) for size in sizes)
        inputs = (source, self.indices(*sizes), self.scalar(axis))
        return self.operator("SPLIT_V", inputs, targets, {"NumSplits": len(sizes)})

    def slice(self, source: int, begin: Sequence[int], size: Sequence[int]) -> int:
        """SLICE; a size of -1 reaches to the end."""
        extents = zip(self.tensors[source].shape, begin, size, strict=True)
        target = self.like(source, [n - first if count == -1 else count for n, first, count in extents])
        return self.operator("SLICE", (source, self.indices(*begin), self.indices(*size)), target)

    def strided_slice(
        self,
        source: int,
        begin: Sequence[int],
        end: Sequence[int],
        strides: Sequence[int],
        *,
        begin_mask: int = 0,
        end_mask: int = 0,
        ellipsis_mask: int = 0,
        new_axis_mask: int = 0,
        shrink_axis_mask: int = 0,
        offset: bool = False,
    ) -> int:
        """STRIDED_SLICE; the masks have one bit a place of begin, end and strides."""
        places: list[Any] = []
        for i, (first, last, stride) in enumerate(zip(begin, end, strides, strict=True)):
            if ellipsis_mask >> i & 1:
                places.append(Ellipsis)
            elif new_axis_mask >> i & 1:
                places.append(None)
            elif shrink_axis_mask >> i & 1:
                places.append(first)
            else:
                stop = None if end_mask >> i & 1 else first + last if offset else last
                places.append(slice(None if begin_mask >> i & 1 else first, stop, stride))
        shape = np.broadcast_to(np.int8(0), self.tensors[source].shape)[tuple(places)].shape
        options = {
            "BeginMask": begin_mask,
            "EndMask": end_mask,
            "EllipsisMask": ellipsis_mask,
            "NewAxisMask": new_axis_mask,
            "ShrinkAxisMask": shrink_axis_mask,
            "Offset": offset,
        }
        inputs = (source, self.indices(*begin), self.indices(*end), self.indices(*strides))
        return self.operator("STRIDED_SLICE", inputs, self.like(source, shape), options)

    def pad(self, source: int, paddings: Sequence[tuple[int, int]]) -> int:
        """PAD with the zero point; ``paddings`` has (before, after) for every axis."""
        return self.operator("PAD", *self._padded(source, paddings))

    def padv2(self, source: int, paddings: Sequence[tuple[int, int]], value: int) -> int:
        """PADV2 with a stored value of the input's quantization."""
        spec = self.tensors[source]
        inputs, target = self._padded(source, paddings)
        filling = self.constant(np.array([value], spec.dtype), spec.scale[0], spec.zero_point[0])
        return self.operator("PADV2", (*inputs, filling), target)

    def _padded(self, source: int, paddings: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], int]:
        """The inputs and the output of a padding."""
        shape = [sum(sides) + n for sides, n in zip(paddings, self.tensors[source].shape, strict=True)]
        return (source, self.constant(np.array(paddings, np.int32))), self.like(source, shape)

    def resize(
        self, source: int, kind: str, size: tuple[int, int], align_corners: bool = False, half_pixel: bool = False
    ) -> int:
        """RESIZE_BILINEAR or RESIZE_NEAREST_NEIGHBOR to (height, width)."""
        spec = self.tensors[source]
        target = self.like(source, (spec.shape[0], *size, spec.shape[3]))
        options = {"AlignCorners": align_corners, "HalfPixelCenters": half_pixel}
        return self.operator(kind, (source, self.indices(*size)), target, options)

    def depth_to_space(self, source: int, block: int) -> int:
        """DEPTH_TO_SPACE."""
        batch, height, width, channels = self.tensors[source].shape
        target = self.like(source, (batch, height * block, width * block, channels // block**2))
        return self.operator("DEPTH_TO_SPACE", (source,), target, {"BlockSize": block})

    def space_to_depth(self, source: int, block: int) -> int:
        """SPACE_TO_DEPTH."""
        batch, height, width, channels = self.tensors[source].shape
        target = self.like(source, (batch, height // block, width // block, channels * block**2))
        return self.operator("SPACE_TO_DEPTH", (source,), target, {"BlockSize": block})

    def transpose(self, source: int, order: Sequence[int]) -> int:
        """TRANSPOSE; axis i of the output is axis order[i] of the input."""
        shape = self.tensors[source].shape
        target = self.like(source, [shape[axis] for axis in order])
        return self.operator("TRANSPOSE", (source, self.indices(*order)), target)

    def space_to_batch(self, source: int, block: tuple[int, int], paddings: Sequence[tuple[int, int]]) -> int:
        """SPACE_TO_BATCH_ND over height and width."""
        batch, height, width, channels = self.tensors[source].shape
        size = [(n + sum(sides)) // b for n, sides, b in zip((height, width), paddings, block, strict=True)]
        target = self.like(source, (batch * block[0] * block[1], *size, channels))
        inputs = (source, self.indices(*block), self.constant(np.array(paddings, np.int32)))
        return self.operator("SPACE_TO_BATCH_ND", inputs, target)

    def batch_to_space(self, source: int, block: tuple[int, int], crops: Sequence[tuple[int, int]]) -> int:
        """BATCH_TO_SPACE_ND over height and width."""
        batch, height, width, channels = self.tensors[source].shape
        size = [n * b - sum(sides) for n, sides, b in zip((height, width), crops, block, strict=True)]
        target = self.like(source, (batch // (block[0] * block[1]), *size, channels))
        inputs = (source, self.indices(*block), self.constant(np.array(crops, np.int32)))
        return self.operator("BATCH_TO_SPACE_ND", inputs, target)

    def pack(self, sources: Sequence[int], axis: int) -> int:
        """PACK along a new axis, counted from the front."""
        shape = list(self.tensors[sources[0]].shape)
        shape.insert(axis, len(sources))
        options = {"ValuesCount": len(sources), "Axis": axis}
        return self.operator("PACK", sources, self.like(sources[0], shape), options)

    def unpack(self, source: int, axis: int) -> tuple[int, ...]:
        """UNPACK along an axis, which goes; the indices of the parts."""
        shape = list(self.tensors[source].shape)
        count = shape.pop(axis)
        targets = tuple(self.like(source, shape) for _ in range(count))
        return self.operator("UNPACK", (source,), targets, {"Num": count, "Axis": axis})

    def arg_max(self, source: int, axis: int, dtype: str = "int64") -> int:
        """ARG_MAX."""
        shape = list(self.tensors[source].shape)
        del shape[axis]
        return self.operator(
            "ARG_MAX", (source, self.scalar(axis)), self.tensor(shape, dtype), {"OutputType": TYPES[dtype]}
        )

    def mean(self, source: int, output: Quantization, keep: bool = True, axes: Sequence[int] = (1, 2)) -> int:
        """MEAN, by default over height and width."""
        shape = self.tensors[source].shape
        reduced = {axis % len(shape) for axis in axes}
        kept = [1 if i in reduced else n for i, n in enumerate(shape) if keep or i not in reduced]
        target = self.like(source, kept, output)
        return self.operator("MEAN", (source, self.indices(*axes)), target, {"KeepDims": keep})

    def fully_connected(
        self,
        source: int,
        weight: Array,
        weight_scale: float | Sequence[float],
        output: Quantization,
        weight_zero_point: int = 0,
        bias: Array | None = None,
        activation: str = "NONE",
        keep: bool = False,
    ) -> int:
        """FULLY_CONNECTED; weight (outputs, depth). ``keep``: the output has as many dimensions as the input."""
        spec = self.tensors[source]
        inputs = [source, self.constant(weight, weight_scale, weight_zero_point)]
        if bias is not None:
            bias_scale = np.float32(spec.scale[0]) * np.asarray(weight_scale, np.float32)
            inputs.append(self.constant(bias, np.atleast_1d(bias_scale).tolist()))
        rows = spec.shape[:-1] if keep else (int(np.prod(spec.shape)) // weight.shape[1],)
        options = {"FusedActivationFunction": ACTIVATIONS[activation], "KeepNumDims": keep}
        return self.operator("FULLY_CONNECTED", inputs, self.like(source, (*rows, weight.shape[0]), output), options)

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> Model:
        """The finished record."""
        return Model(tuple(self.tensors), tuple(self.operators), tuple(inputs), tuple(outputs))
