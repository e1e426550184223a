"""A convolution, with the addition fused into it, as the model means it: in the chip's integers, and as TFLite does."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from delegate.ir import Array, Node, Tensor
from delegate.tools.capture import CaptureError
from delegate.tools.captured.integer import (
    Converter,
    Ints,
    Layer,
    evaluate,
    sums,
    tflite_add,
    tflite_scale,
    upper_multiplier,
)
from delegate.tools.captured.upstream import constant, zero_point

REAL_LIMITS = {"NONE": (None, None), "RELU": (0.0, None), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}


@dataclass(frozen=True, eq=False)
class Work:
    """What an operation of a capture does to a model's tensors; arrays as TFLite has them (height, width, channels)."""

    node: Node  # the convolution
    addition: Node | None  # fused into it
    features: Array
    operand: Array | None  # of the addition

    @property
    def output(self) -> Tensor:
        return (self.addition or self.node).outputs[0]

    @property
    def signed(self) -> bool:
        return self.output.dtype == "int8"


def scale(tensor: Tensor) -> float:
    if tensor.quant is None or tensor.quant.per_channel:
        raise CaptureError(f"tensor {tensor.index} is not quantized per tensor")
    return float(tensor.quant.scale[0])


def tensor_in(node: Node, number: int) -> Tensor:
    tensor = node.inputs[number]
    if tensor is None:
        raise CaptureError(f"operation {node.index} {node.op} has no input {number}")
    return tensor


def real_multiplier(node: Node, output: Tensor) -> np.float32:
    """Input scale times weight scale over output scale, in float32 as the driver computes it."""
    product = np.float32(scale(tensor_in(node, 0))) * np.float32(scale(tensor_in(node, 1)))
    return np.float32(product / np.float32(scale(output)))


def limits(tensor: Tensor, activation: str) -> tuple[int, int]:
    """Smallest and largest stored value that an activation leaves, in TFLite's numbers."""
    info = np.iinfo(np.dtype(tensor.dtype))
    bounds = []
    for real, limit in zip(REAL_LIMITS[activation], (info.min, info.max), strict=True):
        ratio = 0.0 if real is None else float(np.float32(real) / np.float32(scale(tensor)))
        rounded = int(math.copysign(math.floor(abs(ratio) + 0.5), ratio))
        bounds.append(limit if real is None else zero_point(tensor) + rounded)
    return max(bounds[0], int(info.min)), min(bounds[1], int(info.max))


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Pixels of SAME before the first (TFLite puts the odd one after)."""
    reach = (kernel - 1) * dilation + 1
    return max((-(-size // stride) - 1) * stride + reach - size, 0) // 2


def ideal_layer(work: Work, output: Tensor) -> Layer:
    """The convolution alone in the chip's int8 domain, its result in ``output``, with the multiplier of S-09."""
    node, source, weight = work.node, tensor_in(work.node, 0), tensor_in(work.node, 1)
    shift = 0 if work.signed else 128
    kernels = constant(node, 1).astype(np.int64) - zero_point(weight)
    depthwise = node.op == "DEPTHWISE_CONV_2D"
    features = work.features.astype(np.int64) - shift
    if depthwise:
        features = np.repeat(features, int(node.params["depth_multiplier"]), axis=2)
    zero = zero_point(source) - shift
    sizes = zip(
        work.features.shape[:2], kernels.shape[1:3], node.params["stride"], node.params["dilation"], strict=True
    )
    padding = [same_padding(*size) if node.params["padding"] == "SAME" else 0 for size in sizes]
    low, high = limits(output, node.params["activation"])
    return Layer(
        features=features,
        kernels=kernels,
        depthwise=depthwise,
        stride=node.params["stride"],
        dilation=node.params["dilation"],
        padding=(padding[0], padding[1]),
        output=(output.shape[1], output.shape[2]),
        pad=zero,
        bias=constant(node, 2).astype(np.int64) - zero * kernels.sum(axis=(0, 1, 2) if depthwise else (1, 2, 3)),
        truncate=0,
        converter=Converter(*upper_multiplier(real_multiplier(node, output)), zero_point(output) - shift),
        low=low - shift,
        high=high - shift,
    )


def ideal_output(work: Work) -> Ints:
    """The result in the chip's domain, (output pixels, channels); an addition sees the rounded, clamped convolution."""
    if work.addition is None:
        return evaluate(ideal_layer(work, work.output))
    return added(work, evaluate(ideal_layer(work, work.node.outputs[0])))


def added(work: Work, convolution: Ints) -> Ints:
    """An exact addition of a convolution's 8-bit result and the operand, rounded once."""
    assert work.addition is not None and work.operand is not None
    shift = 0 if work.signed else 128
    parts = addition_parts(work, convolution + shift)
    total = sum(part * (scale(tensor) / scale(work.output)) for part, tensor in parts)
    low, high = limits(work.output, work.addition.params["activation"])
    return np.clip(np.rint(total).astype(np.int64) + zero_point(work.output), low, high) - shift


def addition_parts(work: Work, convolution: Ints) -> list[tuple[Ints, Tensor]]:
    """Both operands less their zero points, in the order of the node, with their tensors."""
    assert work.addition is not None and work.operand is not None
    parts = []
    for number in (0, 1):
        tensor = tensor_in(work.addition, number)
        own = tensor.index == work.node.outputs[0].index
        values = convolution if own else work.operand.astype(np.int64).reshape(convolution.shape)
        parts.append((values - zero_point(tensor), tensor))
    return parts


def tflite_output(work: Work) -> Ints:
    """What TFLite's reference kernels give for the same inputs, in TFLite's numbers (output pixels, channels)."""
    own = work.node.outputs[0]
    layer = replace(ideal_layer(work, own), truncate=0)
    source, weight = tensor_in(work.node, 0), tensor_in(work.node, 1)
    if work.signed:  # TFLite multiplies these scales in double, those of uint8 in float32
        real = scale(source) * scale(weight) / scale(own)
    else:
        real = float(np.float32(scale(source)) * np.float32(scale(weight))) / scale(own)
    low, high = limits(own, work.node.params["activation"])
    result = np.clip(tflite_scale(sums(layer) + layer.bias, real) + zero_point(own), low, high)
    if work.addition is None:
        return result
    (first, one), (second, two) = addition_parts(work, result)
    total = tflite_add((first, second), (scale(one), scale(two)), scale(work.output))
    low, high = limits(work.output, work.addition.params["activation"])
    return np.clip(total + zero_point(work.output), low, high)
