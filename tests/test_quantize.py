"""The compiler's rounding against exact rational arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delegate import quantize
from delegate.errors import CompileError
from delegate.ir import Quant, Requantize


def half_to_even(value: Fraction) -> int:
    return round(value)  # Python rounds fractions half to even


def convert(accumulator: int, converter: Requantize) -> int:
    """OUT_CVT without its saturation, in rational numbers."""
    return half_to_even(Fraction(accumulator * converter.multiplier, 1 << converter.shift)) + converter.offset


converters = st.builds(Requantize, st.integers(0x4000, 0x7FFF), st.integers(1, 40), st.integers(-128, 127))


@given(st.integers(-(2**46), 2**46), st.integers(0, 40))
def test_round_shift_is_half_to_even(product: int, shift: int) -> None:
    assert quantize.round_shift(product, shift) == half_to_even(Fraction(product, 1 << shift))


@pytest.mark.parametrize(("accumulator", "expected"), [(1, 0), (3, 2), (-1, 0), (-3, -2), (5, 2)])
def test_round_shift_has_the_ties_of_s04(accumulator: int, expected: int) -> None:
    assert quantize.round_shift(accumulator * 0x4000, 15) == expected


@given(st.floats(2.0**-40, 2.0**13, exclude_max=True))
def test_multiplier_is_the_nearest_of_fifteen_bits(real: float) -> None:
    converter = quantize.requantize(real, 0)
    assert 0x4000 <= converter.multiplier <= 0x7FFF
    step = Fraction(1, 1 << converter.shift)
    # the carry into the next power of two may leave half a step of the smaller exponent
    assert abs(Fraction(converter.multiplier, 1 << converter.shift) - Fraction(real)) <= step / 2


@pytest.mark.parametrize("exponent", range(-30, 10))
def test_a_mantissa_of_ones_keeps_its_carry(exponent: int) -> None:
    """S-10: upstream halves or negates the gain here, for even and odd exponents."""
    real = math.ldexp(float(np.nextafter(np.float32(2), np.float32(0))), exponent)
    converter = quantize.requantize(real, 0)
    assert quantize.factor(converter) == pytest.approx(real, rel=2**-15)


@pytest.mark.parametrize("real", [0.0, -1.0, math.inf, math.nan, 2.0**15, 2.0**-60])
def test_a_factor_out_of_reach_is_an_error(real: float) -> None:
    with pytest.raises(CompileError, match="factor"):
        quantize.requantize(real, 0)


@given(converters, st.integers(-300, 300))
def test_largest_accumulator_is_the_last_of_its_value(converter: Requantize, value: int) -> None:
    largest = quantize.largest_accumulator(value, converter)
    assert convert(largest, converter) - converter.offset <= value
    assert convert(largest + 1, converter) - converter.offset > value


@given(converters, st.integers(-128, 127), st.integers(-(2**31), 2**31 - 1))
def test_accumulator_clamps_equal_output_clamps(converter: Requantize, high: int, accumulator: int) -> None:
    low = converter.offset
    try:
        relu, limit = quantize.accumulator_clamp(low, high, converter)
    except CompileError:
        return
    clamped = max(accumulator, 0) if relu else accumulator
    if limit is not None:
        clamped = max(min(clamped, limit), 0)
    saturated = min(max(convert(clamped, converter), -128), 127)
    assert saturated == min(max(convert(accumulator, converter), low), high)


def test_a_clamp_that_is_not_the_zero_point_is_an_error() -> None:
    with pytest.raises(CompileError, match="clamp"):
        quantize.accumulator_clamp(-100, 127, Requantize(0x4000, 15, -90))


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(-128, 127),
    st.integers(-128, 127),
    st.integers(0, 99),
)
def test_effective_bias_is_the_algebra_of_s25(
    kernels: int, height: int, width: int, channels: int, zero_in: int, zero_weight: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.integers(-128, 128, (kernels, height, width, channels)).astype(np.int8)
    window = rng.integers(-128, 128, (height, width, channels))
    bias = rng.integers(-1000, 1000, kernels)
    folded = quantize.effective_bias(bias, weight, zero_weight, zero_in, depthwise=False)
    wanted = ((window - zero_in) * (weight.astype(np.int64) - zero_weight)).sum(axis=(1, 2, 3)) + bias
    got = (window * weight.astype(np.int64)).sum(axis=(1, 2, 3)) - zero_weight * window.sum() + folded
    np.testing.assert_array_equal(got, wanted)


def test_effective_bias_of_a_depthwise_kernel_is_per_channel() -> None:
    weight = np.arange(2 * 3 * 4, dtype=np.int8).reshape(1, 2, 3, 4)
    folded = quantize.effective_bias(np.zeros(4, np.int64), weight, 2, 5, depthwise=True)
    np.testing.assert_array_equal(folded, -5 * (weight[0].astype(int) - 2).sum(axis=(0, 1)))


def test_a_bias_beyond_32_bits_is_an_error() -> None:
    with pytest.raises(CompileError, match="32 bits"):
        quantize.effective_bias(np.array([2**31 - 1]), np.full((1, 1, 1, 4), 127, np.int8), 0, -128, depthwise=False)


@pytest.mark.parametrize(
    ("activation", "scale", "zero", "dtype", "expected"),
    [
        ("NONE", 0.1, 3, "int8", (-128, 127)),
        ("RELU", 0.1, -128, "int8", (-128, 127)),
        ("RELU", 0.1, -20, "int8", (-20, 127)),
        ("RELU6", 0.0235294122, -128, "int8", (-128, 127)),
        ("RELU6", 0.1, -128, "int8", (-128, -68)),
        ("RELU6", 0.1, 0, "uint8", (-128, -68)),
        ("RELU6", 0.1, 130, "uint8", (2, 62)),
    ],
)
def test_activation_ranges(activation: str, scale: float, zero: int, dtype: str, expected: tuple[int, int]) -> None:
    quant = Quant(np.array([scale], np.float32), np.array([zero], np.int32))
    assert quantize.activation_range(activation, quant, dtype) == expected


@given(st.floats(0.01, 1.0), st.floats(0.01, 1.0), st.floats(0.02, 2.0), st.integers(-128, 127), st.integers(-128, 127))
def test_addition_error_is_bounded_as_promised(
    scale_a: float, scale_b: float, scale_out: float, zero_a: int, zero_b: int
) -> None:
    reach_a, reach_b = max(127 - zero_a, zero_a + 128), max(127 - zero_b, zero_b + 128)
    try:
        plan = quantize.addition_weights(scale_a, scale_b, reach_a, reach_b, scale_out, 0)
    except CompileError:
        assert max(scale_a / scale_b, scale_b / scale_a) > 127
        return
    q = np.arange(-128, 128)
    a, b = np.meshgrid(q - zero_a, q - zero_b)
    exact = (scale_a * a + scale_b * b) / scale_out
    approximation = (plan.a * a + plan.b * b) * quantize.factor(plan.converter)
    assert np.abs(approximation - exact).max() <= plan.error * (1 + 1e-9) + 1e-9


def test_uint8_enters_the_domain_less_128() -> None:
    stored = np.array([0, 1, 127, 128, 255], np.uint8)
    np.testing.assert_array_equal(quantize.to_int8(stored), stored.astype(int) - 128)
    with pytest.raises(CompileError, match="float32"):
        quantize.to_int8(np.zeros(1, np.float32))
