"""The arithmetic that requantization is judged by: rational rounding, TFLite's multiplier, the stages behind BS.

TFLite's is written down from gemmlowp's definition, the silicon's is that of ``delegate.tools.accuracy.silicon``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from delegate.ir import Requantize
from delegate.tools.accuracy import silicon

Ints = npt.NDArray[np.int64]


def half_to_even(value: Fraction) -> int:
    return round(value)  # Python rounds fractions half to even


def half_away(value: Fraction) -> int:
    return int(math.copysign(math.floor(abs(value) + Fraction(1, 2)), value))


def quantized_multiplier(real: float) -> tuple[int, int]:
    """TFLite's: 31 bits and a left shift; real = multiplier * 2**(shift - 31)."""
    fraction, shift = math.frexp(real)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    return (2**30, shift + 1) if multiplier == 2**31 else (multiplier, shift)


def multiplied_by_tflite(values: Ints, real: float) -> Ints:
    """MultiplyByQuantizedMultiplier: a doubling high product, then a rounding shift (gemmlowp), 64 bits wide."""
    multiplier, shift = quantized_multiplier(real)
    product = (values << max(shift, 0)) * multiplier
    nudged = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = np.where(nudged >= 0, nudged >> 31, -(-nudged >> 31))  # C++ divides towards 0
    right = max(-shift, 0)
    mask = (1 << right) - 1
    return np.asarray((high >> right) + ((high & mask) > (mask >> 1) + (high < 0)))


def on_silicon(values: Ints, run: Requantize) -> Ints:
    """All stages behind BS's adder, the first channel's multiplier for all values."""
    return np.asarray(silicon.written(silicon.scaled(values[:, np.newaxis], run), run)[:, 0])


def unsaturated(values: Ints, run: Requantize) -> Ints:
    """The same without OUT_CVT's offset and saturation to 8 bits."""
    products = silicon.scaled(values[:, np.newaxis], run)[:, 0] * run.multiplier
    return silicon.half_away(products, run.shift) if run.half_away else silicon.half_to_even(products, run.shift)


def first_above(function: Callable[[Ints], Ints], reach: int, outputs: Ints) -> Ints:
    """The smallest accumulators from -reach to reach at which a rising function exceeds ``outputs``, else reach + 1.

    Where two functions have the same, they are equal on every accumulator.
    """
    low, high = np.full(len(outputs), -reach - 1), np.full(len(outputs), reach + 1)
    while (high - low > 1).any():
        middle = (low + high) // 2
        above = function(middle) > outputs
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return high
