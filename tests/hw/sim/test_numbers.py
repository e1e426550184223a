"""Rounding and formats, against fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from delegate.hw.sim.core import exact_products, exact_sums
from delegate.hw.sim.numbers import float_to_bfloat, nibbles, round_shift, round_to_tf32, saturate

TIES = [(1, 0, 1), (3, 2, 2), (-1, 0, -1), (-3, -2, -2), (5, 2, 3)]  # acc: half to even, half away


@pytest.mark.parametrize(("accumulator", "even", "away"), TIES)
def test_the_books_tie_vectors(accumulator: int, even: int, away: int):
    """S-04: MUL 0x4000, SHIFT 15; bit 30 of OUT_CVT_SHIFT chooses the rule."""
    product = np.array([accumulator * 0x4000], np.int64)
    assert round_shift(product, 15)[0] == even
    assert round_shift(product, 15, away_from_zero=True)[0] == away


@pytest.mark.parametrize("shift", [0, 1, 2, 7, 31, 40, 63])
def test_round_shift_is_the_nearest_integer(shift: int):
    """S-04, S-06: never half up."""
    rng = np.random.default_rng(shift)
    values = np.concatenate((rng.integers(-(1 << 46), 1 << 46, 500), np.arange(-40, 40) << min(max(shift - 2, 0), 40)))
    expected = [round(Fraction(int(v), 1 << shift)) for v in values]  # Python rounds ties to even
    assert round_shift(values, shift).tolist() == expected


def test_saturation_is_the_range_of_the_type():
    assert saturate(np.array([-300, -128, 127, 300]), 8).tolist() == [-128, -128, 127, 127]


def test_int4_has_the_low_nibble_first():
    """S-41."""
    assert nibbles(np.array([0x7F, 0x81], np.uint8)).tolist() == [-1, 7, 1, -8]


def test_tf32_keeps_ten_bits_of_mantissa():
    """S-63, ties to even."""
    unit = np.float32(2.0**-11)
    given = np.array([1 + unit, 1 + 3 * unit, 1 + unit * np.float32(1.01), -1 - unit], np.float32)
    step = 2.0**-10
    assert round_to_tf32(given).tolist() == [1.0, 1 + 2 * step, 1 + step, -1.0]


def test_bfloat_rounds_to_even():
    given = np.array([1.0, 1 + 2.0**-8, 1 + 3 * 2.0**-8, np.inf], np.float32)
    assert float_to_bfloat(given).tolist() == [0x3F80, 0x3F80, 0x3F82, 0x7F80]


def _nearest_single(value: Fraction) -> float:
    """The single nearest to an exact value, ties to even."""
    if value == 0:
        return 0.0
    exponent = max(abs(value).numerator.bit_length() - abs(value).denominator.bit_length() - 24, -149)
    scaled = value / Fraction(2) ** exponent
    while abs(round(scaled)) >= 1 << 24:
        exponent += 1
        scaled = value / Fraction(2) ** exponent
    return float(round(scaled) * Fraction(2) ** exponent)


@pytest.mark.parametrize("seed", range(4))
def test_groups_of_products_are_summed_exactly_and_rounded_once(seed: int):
    """S-66, subnormal halves included; magnitudes from 2**-24 to 2**15 with cancellation."""
    rng = np.random.default_rng(seed)
    left = (rng.standard_normal((6, 32)) * 2.0 ** rng.integers(-24, 15, (6, 32))).astype(np.float16)
    right = (rng.standard_normal((5, 32)) * 2.0 ** rng.integers(-24, 15, (5, 32))).astype(np.float16)
    right[1, 16:], left[:, 16:] = -right[1, :16], left[:, :16]  # sums that cancel to zero
    got = exact_products(left.astype(np.float32), right.astype(np.float32))
    for row in range(6):
        for column in range(5):
            terms = [Fraction(float(a)) * Fraction(float(b)) for a, b in zip(left[row], right[column], strict=True)]
            assert got[row, column] == _nearest_single(sum(terms, Fraction(0)))


def test_a_sum_beside_a_tie_is_not_rounded_twice():
    """1 + 2**-24 is a tie for a single; a term below a double's last place decides it."""
    tie = [1.0, 2.0**-24]
    rows = np.array([[*tie, 0.0], [*tie, 2.0**-80], [*tie, -(2.0**-80)]])
    assert exact_sums(rows).tolist() == [1.0, float(np.float32(1 + 2.0**-23)), 1.0]
