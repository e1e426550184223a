"""Rounding, saturation and number formats of the datapath, as plain array functions.

Integer arrays are int64 throughout; the widest product of the datapath (32 bit x 16 bit) fits.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Numbers: TypeAlias = npt.NDArray[Any]  # int64 in integer formats, else float32
Stored: TypeAlias = npt.NDArray[Any]  # elements as they lie in memory
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def round_shift(product: Ints, shift: int, away_from_zero: bool = False) -> Ints:
    """product / 2**shift rounded to nearest; ties to even (S-04), or away from zero where the round bit is set.

    A plain integer rounder: add half, shift, and take one off where a tie came out wrong.
    """
    if shift == 0:
        return product
    half, mask = np.int64(1 << (shift - 1)), np.int64((1 << shift) - 1)
    rounded = (product + half) >> np.int64(shift)
    tie = (product & mask) == half
    wrong = tie & ((product < 0) if away_from_zero else (rounded & 1 == 1))
    result: Ints = rounded - wrong
    return result


def round_by(product: Ints, shift: int, rule: str) -> Ints:
    """product / 2**shift by a rule: "even", "away", "floor", "half down", "half to zero" or "to zero".

    For roundings that nobody has measured; see hw.questions.
    """
    if shift == 0 or rule in ("even", "away"):
        return round_shift(product, shift, rule == "away")
    if rule == "floor":
        return product >> np.int64(shift)
    half = np.int64(1 << (shift - 1))
    if rule == "half down":
        return -((half - product) >> np.int64(shift))
    added = half - 1 if rule == "half to zero" else 0
    result: Ints = np.sign(product) * ((np.abs(product) + added) >> np.int64(shift))
    return result


def wrap(values: Ints, bits: int) -> Ints:
    """The low ``bits`` bits as a signed integer."""
    sign, mask = np.int64(1 << (bits - 1)), np.int64((1 << bits) - 1)
    result: Ints = ((values & mask) ^ sign) - sign
    return result


def saturate(values: Ints, bits: int) -> Ints:
    """Clamps to a signed integer of ``bits`` bits."""
    return np.clip(values, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def bits_to_float(bits: int) -> np.float32:
    """The number whose IEEE single bits are given."""
    return np.float32(float(np.array([bits], np.uint32).view(np.float32)[0]))


def half_to_float(bits: int) -> np.float32:
    """The number whose IEEE half bits are given."""
    return np.float32(float(np.array([bits], np.uint16).view(np.float16)[0]))


def bfloat_to_float(bits: npt.NDArray[np.uint16]) -> Floats:
    """bfloat16 bits to single."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def round_to_tf32(values: Floats) -> Floats:
    """Rounds the mantissa to 10 bits, ties to even (S-63: raw fp32 in, the MAC rounds to a 10-bit mantissa)."""
    bits = values.view(np.uint32)
    dropped = np.uint32(13)
    odd = (bits >> dropped) & np.uint32(1)
    rounded = (bits + np.uint32(0xFFF) + odd) & ~np.uint32(0x1FFF)
    return np.where(np.isfinite(values), rounded.view(np.float32), values)


def float_to_bfloat(values: Floats) -> npt.NDArray[np.uint16]:
    """Single to bfloat16 bits, ties to even."""
    bits = values.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    quiet = ((bits >> np.uint32(16)) | np.uint32(0x40)).astype(np.uint16)
    return np.where(np.isnan(values), quiet, rounded)


def nibbles(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Bytes (..., n) to signed 4-bit numbers (..., 2 n), low nibble first (S-41)."""
    low = (values << 4).view(np.int8) >> 4
    high = values.view(np.int8) >> 4
    both: npt.NDArray[np.int8] = np.stack((low, high), axis=-1).reshape(*values.shape[:-1], -1)
    return both
