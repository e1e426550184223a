"""A convolution in integers on plain arrays, from the formulas of the hardware book (npu.md §5, S-01 to S-25).

Nothing of the simulator is used: no memory, no layouts, no registers. TFLite's own arithmetic stands beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

LOW, HIGH = -128, 127  # of what OUT_CVT writes
TFLITE_ADD_SHIFT = 20  # head room that TFLite's ADD gives its operands


@dataclass(frozen=True)
class Converter:
    """multiplier / 2**shift, then the offset."""

    multiplier: int
    shift: int
    offset: int


@dataclass(frozen=True, eq=False)
class Addend:
    """The element-wise unit's operand and its converter, whose offset comes before the multiplication (npu.md §11)."""

    values: Ints  # (output pixels, kernels)
    offset: int
    multiplier: int
    shift: int


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution; all numbers in the domain that the chip sees."""

    features: Ints  # (height, width, channels)
    kernels: Ints  # (kernels, height, width, channels) less their zero point; (1, ...) for depthwise
    depthwise: bool
    stride: tuple[int, int]  # y, x
    dilation: tuple[int, int]
    padding: tuple[int, int]  # pixels: top, left
    output: tuple[int, int]  # height, width
    pad: int  # value of pixels outside the features
    bias: Ints  # (output channels)
    truncate: int  # CORE's right shift
    converter: Converter
    addend: Addend | None = None
    low: int = LOW  # of the output
    high: int = HIGH


def half_even(values: Ints, shift: int) -> Ints:
    """values / 2**shift to the nearest integer, ties to even (S-04)."""
    if shift <= 0:
        return values << -shift
    half = np.int64(1) << np.int64(shift - 1)
    rounded = (values + half) >> np.int64(shift)
    tie = (values & ((np.int64(1) << np.int64(shift)) - 1)) == half
    return np.asarray(rounded - (tie & (rounded & 1 == 1)))


def sums(layer: Layer) -> Ints:
    """Sums of products, int64 (output pixels, output channels); float64 is exact below 2**53."""
    height, width = layer.output
    reach = [(layer.kernels.shape[1 + i] - 1) * layer.dilation[i] + 1 for i in (0, 1)]
    extent = [(layer.output[i] - 1) * layer.stride[i] + reach[i] for i in (0, 1)]
    before = layer.padding
    after = [max(extent[i] - before[i] - layer.features.shape[i], 0) for i in (0, 1)]
    padded = np.pad(
        layer.features.astype(np.float64),
        ((before[0], after[0]), (before[1], after[1]), (0, 0)),
        constant_values=layer.pad,
    )
    total = np.zeros((height * width, layer.bias.size))
    for i in range(layer.kernels.shape[1]):
        for j in range(layer.kernels.shape[2]):
            y, x = i * layer.dilation[0], j * layer.dilation[1]
            window = padded[
                y : y + (height - 1) * layer.stride[0] + 1 : layer.stride[0],
                x : x + (width - 1) * layer.stride[1] + 1 : layer.stride[1],
            ].reshape(height * width, -1)
            tap = layer.kernels[:, i, j, :].astype(np.float64)
            total += window[:, : layer.bias.size] * tap[0, : layer.bias.size] if layer.depthwise else window @ tap.T
    return total.astype(np.int64)


def convert(total: Ints, converter: Converter, low: int = LOW, high: int = HIGH) -> Ints:
    """OUT_CVT: multiply, round the shift, add the offset, clamp (S-01)."""
    return np.clip(half_even(total * converter.multiplier, converter.shift) + converter.offset, low, high)


def evaluate(layer: Layer) -> Ints:
    """The layer's output, int64 (output pixels, output channels)."""
    total = half_even(sums(layer), layer.truncate) + layer.bias
    addend = layer.addend
    if addend is not None:
        total = total + half_even((addend.values + addend.offset) * addend.multiplier, addend.shift)
    return convert(total, layer.converter, layer.low, layer.high)


def upper_multiplier(real: np.float32) -> tuple[int, int]:
    """Multiplier and shift of S-09, which carries where the mantissa is all ones."""
    multiplier, shift = uncarried_multiplier(real)
    return (0x4000, shift - 1) if multiplier == 0x8000 else (multiplier, shift)


def uncarried_multiplier(real: np.float32) -> tuple[int, int]:
    """The top 15 bits of the mantissa and one more, before any carry."""
    bits = int(np.float32(real).view(np.uint32))
    return (0x4000 | (bits >> 9 & 0x3FFF)) + 1, 141 - (bits >> 23 & 0xFF)


# --- TFLite's reference kernels -------------------------------------------------------------------------------------


def tflite_multiplier(real: float) -> tuple[int, int]:
    """TFLite's 31-bit multiplier and its left shift."""
    if real == 0:
        return 0, 0
    fraction, shift = math.frexp(real)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = 2**30, shift + 1
    return (0, 0) if shift < -31 else (multiplier, shift)


def tflite_scale(values: Ints, real: float) -> Ints:
    """values * real: a doubling high product rounded half away, then a shift rounded half away (gemmlowp)."""
    multiplier, shift = tflite_multiplier(real)
    product = (values << max(shift, 0)) * multiplier
    nudge = np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    nudged = product + nudge
    high = np.where(nudged >= 0, nudged >> 31, -(-nudged >> 31))  # divided by 2**31 toward zero
    right = max(-shift, 0)
    remainder = high & ((1 << right) - 1)
    return np.asarray((high >> right) + (remainder > (((1 << right) - 1) >> 1) + (high < 0)), np.int64)


def tflite_add(values: tuple[Ints, Ints], scales: tuple[float, float], output_scale: float) -> Ints:
    """ADD of two operands less their zero points, before the output's zero point and clamp."""
    twice = 2 * max(scales)
    shifted = [
        tflite_scale(part << TFLITE_ADD_SHIFT, scale / twice) for part, scale in zip(values, scales, strict=True)
    ]
    return tflite_scale(shifted[0] + shifted[1], twice / ((1 << TFLITE_ADD_SHIFT) * output_scale))
