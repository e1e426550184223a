"""The NPU's int8 domain: values, zero points, bias, the range of an activation. Multipliers are in ``requantize``.

The NPU computes on signed bytes: a uint8 tensor is stored less 128, an int8 tensor as it is (S-34). Zero points and
values in this file are in that domain.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.errors import CompileError
from delegate.ir import Quant

INT8_LOW, INT8_HIGH = -128, 127
LARGEST_SHIFT = 63  # S-03
LARGEST_INT32 = 2**31 - 1
LEAST_EXPONENT = -31  # of TFLite's multipliers; smaller factors count as 0
# Real ends of what an activation lets through; None: no end.
ACTIVATION_RANGES: dict[str, tuple[float | None, float | None]] = {
    "NONE": (None, None),
    "RELU": (0.0, None),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
    "RELU_0_TO_1": (0.0, 1.0),
}
Ints = npt.NDArray[np.int64]


def domain_offset(dtype: str) -> int:
    """What is taken from a stored value to bring it into the NPU's domain."""
    if dtype not in ("int8", "uint8"):
        raise CompileError(f"dtype {dtype} has no place in the NPU's int8 domain")
    return 128 if dtype == "uint8" else 0


def to_int8(array: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """An int8 or uint8 array in the NPU's domain."""
    if array.dtype == np.uint8:
        return (array ^ np.uint8(0x80)).view(np.int8)
    if array.dtype != np.int8:
        raise CompileError(f"dtype {array.dtype} has no place in the NPU's int8 domain")
    return array


def zero_point(quant: Quant, dtype: str) -> int:
    """The zero point of a per-tensor quantization, in the NPU's domain."""
    return int(quant.zero_point[0]) - domain_offset(dtype)


def round_shift(product: int, shift: int) -> int:
    """product / 2**shift rounded to nearest, ties to even (S-04, S-05)."""
    if shift == 0:
        return product
    half = 1 << (shift - 1)
    rounded = (product + half) >> shift
    tie = product & ((1 << shift) - 1) == half
    return rounded - 1 if tie and rounded & 1 else rounded


def round_shifts(values: Ints, shift: int) -> Ints:
    """round_shift of an array."""
    if shift == 0:
        return values
    half = 1 << (shift - 1)
    rounded = (values + half) >> shift
    tie = (values & ((1 << shift) - 1)) == half
    result: Ints = rounded - (tie & (rounded & 1 == 1))
    return result


def round_shifts_away(values: Ints, shift: int) -> Ints:
    """values / 2**shift rounded to nearest, ties away from zero."""
    if shift == 0:
        return values
    result: Ints = np.sign(values) * ((np.abs(values) + (1 << (shift - 1))) >> shift)
    return result


def round_half_away(value: float) -> int:
    """To the nearest integer, ties away from zero, as TFLite rounds."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def effective_bias(
    bias: npt.NDArray[np.int64],
    weight: npt.NDArray[np.int8],
    weight_zero_point: int,
    input_zero_point: int,
    depthwise: bool,
) -> npt.NDArray[np.int32]:
    """bias - zi * sum(w - zw) over the whole kernel (S-25).

    ``weight``: (kernels, height, width, channels), one kernel for depthwise; ``bias``: (output channels). Raises
    CompileError where the sum leaves 32 bits.
    """
    axes = (0, 1, 2) if depthwise else (1, 2, 3)
    sums = weight.sum(axis=axes, dtype=np.int64) - weight_zero_point * (weight.size // bias.size)
    result = bias - input_zero_point * sums
    if np.abs(result).max(initial=0) > np.iinfo(np.int32).max:
        raise CompileError(f"bias {int(np.abs(result).max())} with the input's zero point folded in leaves 32 bits")
    folded: npt.NDArray[np.int32] = result.astype(np.int32)
    return folded


def activation_range(activation: str, quant: Quant, dtype: str) -> tuple[int, int]:
    """(low, high) of the output in the NPU's domain, as TFLite's CalculateActivationRangeQuantized has it."""
    offset, scale = zero_point(quant, dtype), float(quant.scale[0])

    def quantized(real: float) -> int:
        with np.errstate(over="ignore"):
            steps = float(np.float32(real) / np.float32(scale))  # TFLite divides in float32
        return offset + round_half_away(min(max(steps, -LARGEST_INT32), LARGEST_INT32))

    low, high = ACTIVATION_RANGES[activation]
    return (
        INT8_LOW if low is None else max(INT8_LOW, quantized(low)),
        INT8_HIGH if high is None else min(INT8_HIGH, quantized(high)),
    )


def product_factor(a: Quant, b: Quant, output: Quant) -> float:
    """The factor of a product of two tensors; TFLite's MUL computes it in float32."""
    return float(a.scale[0] * b.scale[0] / output.scale[0])


def tflite_multiplier(real: float) -> tuple[int, int]:
    """(multiplier of 31 bits, exponent) of TFLite's QuantizeMultiplier: real = multiplier / 2**31 * 2**exponent.

    Raises CompileError for what is no number.
    """
    if not math.isfinite(real):
        raise CompileError(f"a factor is {real}")
    fraction, exponent = math.frexp(real)
    multiplier = round_half_away(math.ldexp(fraction, 31))
    return (multiplier >> 1, exponent + 1) if multiplier == 1 << 31 else (multiplier, exponent)


def tflite_product(values: Ints, real: float) -> Ints:
    """values * real as TFLite's MultiplyByQuantizedMultiplier rounds it: halves up, and away from zero in the shift.

    Raises CompileError where TFLite's numbers of 32 bits would not hold it.
    """
    multiplier, exponent = tflite_multiplier(real)
    if exponent < LEAST_EXPONENT:
        return np.zeros_like(values)
    if int(np.abs(values).max()) > LARGEST_INT32 >> max(exponent, 0):
        raise CompileError(f"a product with {real} leaves 32 bits")
    inner = ((values << max(exponent, 0)) * multiplier + (1 << 30)) >> 31
    return round_shifts_away(inner, max(-exponent, 0))


def tflite_steps(real: float, offset: int) -> tuple[Ints, Ints]:
    """(inner integer, accumulator) from which on TFLite's output is a step higher, for every step that 8 bits show.

    TFLite's high product rounds halves up, its shift away from zero; both rise, so these numbers are all there is.
    """
    multiplier, exponent = tflite_multiplier(real)
    below = np.arange(INT8_LOW - offset, INT8_HIGH - offset)  # the output before the step, without offset
    inner = (2 * below + 1 << -exponent - 1) + (below < 0) if exponent < 0 else below + 1
    products = (inner << 31) - (1 << 30)
    return inner, -(-products // (multiplier << max(exponent, 0)))
