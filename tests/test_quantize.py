"""The compiler's rounding against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delegate import quantize
from delegate.errors import CompileError
from delegate.ir import Quant


def half_to_even(value: Fraction) -> int:
    return round(value)  # Python rounds fractions half to even


@given(st.integers(-(2**46), 2**46), st.integers(0, 40))
def test_round_shift_is_half_to_even(product: int, shift: int) -> None:
    assert quantize.round_shift(product, shift) == half_to_even(Fraction(product, 1 << shift))


@pytest.mark.parametrize(("accumulator", "expected"), [(1, 0), (3, 2), (-1, 0), (-3, -2), (5, 2)])
def test_round_shift_has_the_ties_of_s04(accumulator: int, expected: int) -> None:
    assert quantize.round_shift(accumulator * 0x4000, 15) == expected


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
        ("RELU6", 1e-40, 0, "int8", (0, 127)),
        ("RELU_N1_TO_1", 0.1, -3, "int8", (-13, 7)),
        ("RELU_N1_TO_1", 0.01, 100, "uint8", (-128, 72)),
        ("RELU_0_TO_1", 0.1, -3, "int8", (-3, 7)),
    ],
)
def test_activation_ranges(activation: str, scale: float, zero: int, dtype: str, expected: tuple[int, int]) -> None:
    quant = Quant(np.array([scale], np.float32), np.array([zero], np.int32))
    assert quantize.activation_range(activation, quant, dtype) == expected


def test_uint8_enters_the_domain_less_128() -> None:
    stored = np.array([0, 1, 127, 128, 255], np.uint8)
    np.testing.assert_array_equal(quantize.to_int8(stored), stored.astype(int) - 128)
    with pytest.raises(CompileError, match="float32"):
        quantize.to_int8(np.zeros(1, np.float32))
