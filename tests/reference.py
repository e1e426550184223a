"""What quantized operators compute, twice and in plain numpy: as TFLite defines it, and as the silicon does it.

Neither half shares code with ``delegate``. Both start from the same exact sums; they part at the requantization:

* TFLite: 31-bit multiplier, doubling high product and rounding shift one after the other (gemmlowp).
* Silicon's converter by itself: 15-bit multiplier, one shift that rounds half to even, then the offset, then the clamp
  (hardware book S-01, S-03, S-04; npu.md §5.5), with asymmetric weights exact (S-25) and RELU before the conversion
  (npu.md §5.3). ``delegate.tools.accuracy.silicon`` has all
  stages, with the numbers of a lowered layer.

Arrays are NHWC; sums are int64. Matrix products run in float64, which is exact while sums stay below 2**53.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import numpy as np
from tflite_writer import ACTIVATIONS, PADDINGS, Array, Model, OperatorSpec, TensorSpec, output_extent

MULTIPLIER_BITS = 15  # of the silicon; SCALE is a signed 16-bit field (S-02)
ADD_LEFT_SHIFT = 20  # TFLite's head room in ADD

ACTIVATION_NAMES = {code: name for name, code in ACTIVATIONS.items()}
PADDING_NAMES = {code: name for name, code in PADDINGS.items()}

# From the exact sums int64 (..., channels) and the real scales of the channels to the stored output.
Requantize = Callable[[Array, Array, TensorSpec, str], Array]


def pads(size: int, kernel: int, stride: int, dilation: int, padding: str) -> tuple[int, int]:
    """Padding pixels before and after along one side; SAME puts the odd one after."""
    if padding == "VALID":
        return 0, 0
    reach = (kernel - 1) * dilation + 1
    total = max((output_extent(size, kernel, stride, dilation, padding) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def accumulate(
    source: Array, weight: Array, stride: tuple[int, int], dilation: tuple[int, int], padding: str, depthwise: bool
) -> Array:
    """The sums of products, int64 (batch, height, width, channels).

    source int64 NHWC and weight int64 OHWI (1HWC for depthwise) are already less their zero points, so padding is 0.
    """
    sides = [pads(source.shape[1 + i], weight.shape[1 + i], stride[i], dilation[i], padding) for i in (0, 1)]
    extent = [output_extent(source.shape[1 + i], weight.shape[1 + i], stride[i], dilation[i], padding) for i in (0, 1)]
    after = [max(s[1], 0) for s in sides]
    padded = np.pad(source, ((0, 0), (sides[0][0], after[0]), (sides[1][0], after[1]), (0, 0))).astype(np.float64)
    channels = weight.shape[3] if depthwise else weight.shape[0]
    sums = np.zeros((source.shape[0], *extent, channels))
    for i in range(weight.shape[1]):
        for j in range(weight.shape[2]):
            y, x = i * dilation[0], j * dilation[1]
            rows = slice(y, y + (extent[0] - 1) * stride[0] + 1, stride[0])
            columns = slice(x, x + (extent[1] - 1) * stride[1] + 1, stride[1])
            window = padded[:, rows, columns, :]
            if depthwise:
                sums += np.repeat(window, channels // source.shape[3], axis=3) * weight[0, i, j, :]
            else:
                sums += window @ weight[:, i, j, :].T.astype(np.float64)
    return sums.astype(np.int64)


def convolution_sums(model: Model, node: OperatorSpec, source: Array) -> Array:
    """sum((input - zi) * (weight - zw)) + bias of a convolution, int64 NHWC."""
    spec, kernel = model.tensors[node.inputs[0]], model.tensors[node.inputs[1]]
    assert kernel.data is not None
    depthwise = node.op == "DEPTHWISE_CONV_2D"
    zero_points = np.asarray(kernel.zero_point).reshape([-1 if i == kernel.axis else 1 for i in range(4)])
    sums = accumulate(
        source.astype(np.int64) - spec.zero_point[0],
        kernel.data.astype(np.int64) - (zero_points if len(kernel.zero_point) > 1 else kernel.zero_point[0]),
        (node.options["StrideH"], node.options["StrideW"]),
        (node.options["DilationHFactor"], node.options["DilationWFactor"]),
        PADDING_NAMES[node.options["Padding"]],
        depthwise,
    )
    if len(node.inputs) > 2 and node.inputs[2] >= 0:
        bias = model.tensors[node.inputs[2]].data
        assert bias is not None
        sums = sums + bias.astype(np.int64)
    return sums


def activation_limits(output: TensorSpec, activation: str) -> tuple[int, int]:
    """Smallest and largest stored value that the fused activation leaves, computed in float32 as TFLite does."""
    low, high = output.limits
    scale = np.float32(output.scale[0])

    def stored(real: float) -> int:
        ratio = float(np.float32(real) / scale)
        return output.zero_point[0] + int(math.copysign(math.floor(abs(ratio) + 0.5), ratio))

    bounds = {"RELU": (0.0, None), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0), "NONE": (None, None)}[activation]
    low = low if bounds[0] is None else max(low, stored(bounds[0]))
    high = high if bounds[1] is None else min(high, stored(bounds[1]))
    return low, high


# --- TFLite --------------------------------------------------------------------------------------------------------


def tflite_multiplier(real: float) -> tuple[int, int]:
    """31-bit multiplier and left shift: real = multiplier * 2**(shift - 31)."""
    if real == 0:
        return 0, 0
    fraction, shift = math.frexp(real)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = 2**30, shift + 1
    return (0, 0) if shift < -31 else (multiplier, shift)


def doubling_high_product(values: Array, multiplier: Array) -> Array:
    """round(values * multiplier / 2**31), ties away from zero upwards only (gemmlowp)."""
    product = values * multiplier
    nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    return np.where(nudged >= 0, nudged >> 31, -((-nudged) >> 31))


def rounding_shift(values: Array, shift: Array) -> Array:
    """round(values / 2**shift), ties away from zero (gemmlowp)."""
    mask = (np.int64(1) << shift) - 1
    remainder = values & mask
    return np.asarray((values >> shift) + (remainder > (mask >> 1) + (values < 0)))


def tflite_scale(values: Array, reals: Array) -> Array:
    """values * reals as TFLite's kernels round it; ``reals`` is one number, or one a channel."""
    pairs = [tflite_multiplier(float(real)) for real in np.atleast_1d(reals)]
    multiplier = np.array([pair[0] for pair in pairs], np.int64)
    shift = np.array([pair[1] for pair in pairs], np.int64)
    shifted = values << np.maximum(shift, 0)
    return rounding_shift(doubling_high_product(shifted, multiplier), np.maximum(-shift, 0))


def tflite_requantize(sums: Array, reals: Array, output: TensorSpec, activation: str) -> Array:
    """Sums to the stored output in the way of TFLite's reference kernels."""
    low, high = activation_limits(output, activation)
    return np.clip(tflite_scale(sums, reals) + output.zero_point[0], low, high).astype(output.dtype)


def operands(model: Model, node: OperatorSpec, values: Mapping[int, Array]) -> list[Array]:
    """The arrays of an ADD's inputs, computed or constant."""
    arrays = []
    for index in node.inputs:
        data = model.tensors[index].data
        arrays.append(values[index] if data is None else data)
    return arrays


def tflite_add(model: Model, node: OperatorSpec, values: Mapping[int, Array]) -> Array:
    """ADD in the way of TFLite's reference kernels."""
    specs = [model.tensors[index] for index in node.inputs]
    output = model.tensors[node.outputs[0]]
    scales = [float(np.float32(spec.scale[0])) for spec in specs]
    twice_largest = 2 * max(scales)
    total = np.zeros((), np.int64)
    for stored, spec, scale in zip(operands(model, node, values), specs, scales, strict=True):
        shifted = (stored.astype(np.int64) - spec.zero_point[0]) << ADD_LEFT_SHIFT
        total = total + tflite_scale(shifted, np.array(scale / twice_largest))
    real = twice_largest / ((1 << ADD_LEFT_SHIFT) * float(np.float32(output.scale[0])))
    return tflite_requantize(total, np.array(real), output, ACTIVATION_NAMES[node.options["FusedActivationFunction"]])


# --- Silicon -------------------------------------------------------------------------------------------------------


def nearest_multiplier(real: float) -> tuple[int, int]:
    """The 15-bit multiplier nearest to ``real`` and its right shift: real ~ multiplier / 2**shift."""
    _, exponent = math.frexp(real)
    shift = MULTIPLIER_BITS - exponent
    multiplier = round(Fraction(real) * Fraction(2) ** shift)
    return (multiplier // 2, shift - 1) if multiplier == 1 << MULTIPLIER_BITS else (multiplier, shift)


def upper_multiplier(real: float) -> tuple[int, int]:
    """The multiplier of S-09: the top bits of the float32 and one more; the gain is never below ``real``."""
    bits = int(np.float32(real).view(np.uint32))
    multiplier, shift = (0x4000 | (bits >> 9 & 0x3FFF)) + 1, 141 - (bits >> 23 & 0xFF)
    return (0x4000, shift - 1) if multiplier == 0x8000 else (multiplier, shift)


MULTIPLIERS: Mapping[str, Callable[[float], tuple[int, int]]] = {
    "nearest": nearest_multiplier,
    "upper": upper_multiplier,
}


def shift_half_to_even(values: Array, shift: int) -> Array:
    """round(values / 2**shift), ties to even (S-04 with CVT_ROUND 0)."""
    if shift <= 0:
        return values << -shift
    half = np.int64(1) << (shift - 1)
    rounded = (values + half) >> shift
    tie = (values & ((np.int64(1) << shift) - 1)) == half
    return np.asarray(rounded - (tie & (rounded & 1 == 1)))


def silicon_requantize(multiplier: Callable[[float], tuple[int, int]]) -> Requantize:
    """Sums to the stored output as BS (RELU) and OUT_CVT do it, with one rule of deriving the multiplier.

    The clamp of S-01 is int8; a uint8 tensor lies in memory less 128, zero point included, so its own limits are the
    same clamp. An activation's upper limit is applied behind the converter, where a limit on the sums lands too.
    """

    def requantize(sums: Array, reals: Array, output: TensorSpec, activation: str) -> Array:
        low, high = activation_limits(output, activation)
        clamped = np.maximum(sums, 0) if activation in ("RELU", "RELU6") else sums
        scaled = np.empty_like(clamped)
        per_channel = np.broadcast_to(np.atleast_1d(reals), clamped.shape[-1:])
        for channel, real in enumerate(per_channel.tolist()):
            scale, shift = multiplier(real)
            scaled[..., channel] = shift_half_to_even(clamped[..., channel] * scale, shift)
        return np.clip(scaled + output.zero_point[0], low, high).astype(output.dtype)

    return requantize


# --- Whole models --------------------------------------------------------------------------------------------------


def real_scales(model: Model, node: OperatorSpec, exact: bool) -> Array:
    """Input scale times weight scale over output scale, float64, one or one a channel.

    TFLite multiplies the two scales in float32 for uint8 and in double for int8; ``exact``: in double for both, which
    may give another nearest multiplier of 15 bits.
    """
    source, kernel, output = (model.tensors[i] for i in (node.inputs[0], node.inputs[1], node.outputs[0]))
    weights = np.asarray(kernel.scale, np.float32)
    if source.dtype == "uint8" and not exact:
        product = (np.float32(source.scale[0]) * weights).astype(np.float64)
    else:
        product = float(np.float32(source.scale[0])) * weights.astype(np.float64)
    return np.asarray(product / float(np.float32(output.scale[0])), np.float64)


def convolution(model: Model, node: OperatorSpec, source: Array, requantize: Requantize) -> Array:
    """A convolution's stored output NHWC."""
    activation = ACTIVATION_NAMES[node.options["FusedActivationFunction"]]
    output = model.tensors[node.outputs[0]]
    reals = real_scales(model, node, exact=requantize is not tflite_requantize)
    return requantize(convolution_sums(model, node, source), reals, output, activation)


def average_pool(node: OperatorSpec, source: Array) -> Array:
    """AVERAGE_POOL_2D of a window that is the whole uint8 plane, rounded half up."""
    pixels = node.options["FilterHeight"] * node.options["FilterWidth"]
    assert source.dtype == np.uint8 and pixels == source.shape[1] * source.shape[2]
    sums = source.astype(np.int64).sum(axis=(1, 2), keepdims=True)
    return np.asarray(((sums + pixels // 2) // pixels).astype(source.dtype))


def softmax(model: Model, node: OperatorSpec, source: Array) -> Array:
    """SOFTMAX of uint8 in exact arithmetic; the output's scale is 1/256 and its zero point 0."""
    spec = model.tensors[node.inputs[0]]
    reals = np.exp((source.astype(np.float64) - source.max()) * spec.scale[0] * node.options["Beta"])
    return np.asarray(np.clip(np.round(256 * reals / reals.sum()), 0, 255).astype(source.dtype))


def operator(
    model: Model, node: OperatorSpec, values: Mapping[int, Array], requantize: Requantize = tflite_requantize
) -> Array:
    """The output of one operator; ``values``: all tensors so far, by index."""
    if node.op == "ADD":
        return tflite_add(model, node, values)
    source = values[node.inputs[0]]
    if node.op == "AVERAGE_POOL_2D":
        return average_pool(node, source)
    if node.op == "RESHAPE":
        return source.reshape(model.tensors[node.outputs[0]].shape)
    if node.op == "SOFTMAX":
        return softmax(model, node, source)
    return convolution(model, node, source, requantize)


def evaluate(model: Model, inputs: Sequence[Array], requantize: Requantize = tflite_requantize) -> dict[int, Array]:
    """All computed tensors of a model of convolutions, additions and a classifier's tail, by index."""
    values = dict(zip(model.inputs, inputs, strict=True))
    for node in model.operators:
        values[node.outputs[0]] = operator(model, node, values, requantize)
    return values


def error_bounds(model: Model) -> dict[int, int]:
    """How far apart two ways of computing may be, by tensor, if they agree within 1 for each operator by itself.

    An operator passes on what its inputs differ by, scaled by its largest gain, and adds its own 1.
    """
    bounds = dict.fromkeys(model.inputs, 0)
    for node in model.operators:
        output = model.tensors[node.outputs[0]]
        if node.op == "ADD":
            gains = [model.tensors[index].scale[0] / output.scale[0] for index in node.inputs]
        else:
            kernel = model.tensors[node.inputs[1]]
            assert kernel.data is not None
            axes = (1, 2) if node.op == "DEPTHWISE_CONV_2D" else (1, 2, 3)
            sums = np.abs(kernel.data.astype(np.int64) - kernel.zero_point[0]).sum(axis=axes)
            gains = [float((sums.reshape(-1) * real_scales(model, node, exact=True)).max())]
        spread = sum(gain * bounds[index] for gain, index in zip(gains, node.inputs, strict=False))
        bounds[node.outputs[0]] = math.ceil(spread) + 1
    return bounds
