"""All rounding of the compiler: the NPU's int8 domain, multipliers, bias, clamps, the weights of an addition.

The NPU computes on signed bytes: a uint8 tensor is stored less 128, an int8 tensor as it is (S-34). Zero points and
values in this file are in that domain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.errors import CompileError
from delegate.ir import Quant, Requantize

INT8_LOW, INT8_HIGH = -128, 127
LARGEST_SHIFT = 63  # S-03
MULTIPLIER_BITS = 15  # the register is a signed 16-bit number (S-02)


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


def requantize(real: float, offset: int) -> Requantize:
    """The nearest multiplier of 15 bits and its shift for a real factor.

    A mantissa that rounds up to 2**15 carries into the shift, which upstream forgets (S-10). Raises CompileError for a
    factor that the converter cannot express.
    """
    if not (math.isfinite(real) and real > 0):
        raise CompileError(f"requantization factor {real} is not a positive number")
    fraction, exponent = math.frexp(real)
    multiplier = round(fraction * (1 << MULTIPLIER_BITS))
    if multiplier == 1 << MULTIPLIER_BITS:
        multiplier, exponent = multiplier >> 1, exponent + 1
    shift = MULTIPLIER_BITS - exponent
    if not 1 <= shift <= LARGEST_SHIFT:
        raise CompileError(
            f"requantization factor {real} needs a shift of {shift}, the converter has 1 to {LARGEST_SHIFT}"
        )
    return Requantize(multiplier, shift, offset)


def operand_gain(real: float) -> tuple[int, int]:
    """(multiplier, shift) of the element-wise operand converter for a real gain (npu.md §5.4); raises CompileError."""
    converter = requantize(real, 0)
    return converter.multiplier, converter.shift


def factor(converter: Requantize) -> float:
    """The real factor of a multiplier and a shift."""
    return math.ldexp(converter.multiplier, -converter.shift)


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
        # TFLite divides in float32 and rounds half away from zero.
        ratio = float(np.float32(real) / np.float32(scale))
        return offset + int(math.copysign(math.floor(abs(ratio) + 0.5), ratio))

    low, high = {"NONE": (None, None), "RELU": (0.0, None), "RELU6": (0.0, 6.0)}[activation]
    return (
        INT8_LOW if low is None else max(INT8_LOW, quantized(low)),
        INT8_HIGH if high is None else min(INT8_HIGH, quantized(high)),
    )


def accumulator_clamp(low: int, high: int, converter: Requantize) -> tuple[bool, int | None]:
    """(relu, relu_limit): the clamps of the accumulator that give an output in [low, high].

    The converter saturates at -128 and 127 by itself. Any other low end must be the zero point, where the accumulator
    is 0; a high end becomes the largest accumulator that still gives it. Raises CompileError for a range that these
    cannot express.
    """
    relu = low > INT8_LOW
    if relu and low != converter.offset:
        raise CompileError(f"clamp at {low} is neither -128 nor the output's zero point {converter.offset}")
    if high == INT8_HIGH:
        return relu, None
    limit = largest_accumulator(high - converter.offset, converter)
    if limit < 0 or round_shift(limit * converter.multiplier, converter.shift) != high - converter.offset:
        raise CompileError(f"no accumulator gives the clamp {high}")
    return relu, limit


def largest_accumulator(value: int, converter: Requantize) -> int:
    """The largest accumulator that the converter turns into ``value`` or less, the offset left out."""
    # rounding gives at most value while acc * multiplier <= (value + 1/2) * 2**shift, the tie only if value is even
    edge = (2 * value + 1) << (converter.shift - 1)
    largest = edge // converter.multiplier
    if largest * converter.multiplier == edge and value & 1:
        largest -= 1
    return largest


@dataclass(frozen=True)
class AdditionWeights:
    """a / scale_out ~ weight_a * factor; ``error`` bounds |approximation - exact| in output steps over all inputs."""

    a: int
    b: int
    converter: Requantize
    error: float


def addition_weights(
    scale_a: float, scale_b: float, reach_a: int, reach_b: int, scale_out: float, offset: int
) -> AdditionWeights:
    """Two weights of eight bits whose ratio is nearest to scale_a : scale_b (S-225), for out = a + b.

    ``reach``: largest |q - zero point| of each operand. Weights go to 127, so that the weights' zero point is 0. All
    weights of either side are tried and the pair with the smallest bound of the error is taken.
    """
    best: AdditionWeights | None = None
    for candidate in range(1, INT8_HIGH + 1):
        for a, b in (
            (candidate, round(candidate * scale_b / scale_a)),
            (round(candidate * scale_a / scale_b), candidate),
        ):
            if not (1 <= a <= INT8_HIGH and 1 <= b <= INT8_HIGH):
                continue
            share_a = scale_a * reach_a / (scale_a * reach_a + scale_b * reach_b)
            unit = (scale_a / a * share_a + scale_b / b * (1 - share_a)) / scale_out
            converter = requantize(unit, offset)
            exact = factor(converter)
            error = abs(a * exact - scale_a / scale_out) * reach_a + abs(b * exact - scale_b / scale_out) * reach_b
            if best is None or error < best.error:
                best = AdditionWeights(a, b, converter, error)
    if best is None:
        raise CompileError(f"addition: the operands' scales {scale_a} and {scale_b} are more than 127 apart")
    return best
