"""What the hardware book says of a product's numbers, in Python's integers: independent of compiler and simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
HALF_BITS = 24  # every half is a multiple of 2**-24
GROUP = 32  # products that are summed exactly (S-66)


def halves_as_integers(values: Array) -> Array:
    """Finite halves as multiples of 2**-24, Python integers."""
    bits = values.astype(np.float16).view(np.uint16).astype(object)
    sign, exponent, fraction = bits >> 15, bits >> 10 & 31, bits & 1023
    whole = np.where(exponent == 0, fraction, (fraction + 1024) << np.maximum(exponent - 1, 0))
    return np.where(sign == 1, -whole, whole)


def round_to_single(number: int, exponent: int) -> np.float32:
    """number * 2**exponent rounded once to single, ties to even; no result here is subnormal or infinite."""
    magnitude = abs(number)
    spare = max(0, magnitude.bit_length() - 24)
    kept, left = magnitude >> spare, magnitude & ((1 << spare) - 1)
    half = 1 << spare >> 1
    if spare and (left > half or (left == half and kept & 1)):
        kept += 1
    value = np.ldexp(np.float64(kept), spare + exponent)
    return np.float32(-value if number < 0 else value)


def multiply_halves(a: Array, b: Array, parts: tuple[range, ...] | None = None) -> Array:
    """Singles (M, N): groups of 32 products exact, each rounded once, added in order; ``parts``: of the depth, added
    up on their own first."""
    left, right = halves_as_integers(a), halves_as_integers(b)
    depth = a.shape[1]
    result: Array = np.zeros((len(a), b.shape[1]), np.float32)
    for index, part in enumerate(parts or (range(depth),)):
        sums = np.zeros_like(result)
        for first in range(part.start, min(part.stop, depth), GROUP):
            last = min(first + GROUP, part.stop, depth)
            exact = left[:, first:last] @ right[first:last]
            sums += np.vectorize(lambda n: round_to_single(n, -2 * HALF_BITS), otypes=[np.float32])(exact)
        result = result + sums if index else sums
    return result


def multiply_integers(a: Array, b: Array) -> Array:
    """int32 (M, N); no sum here reaches 2**31."""
    return (a.astype(object) @ b.astype(object)).astype(np.int32)
