"""Additions: two weights, or two exact integer factors, against real arithmetic and TFLite's, for all 65536 pairs."""

from __future__ import annotations

import numpy as np
import pytest
from arithmetic import Ints, multiplied_by_tflite, on_silicon
from hypothesis import given, settings
from hypothesis import strategies as st

from delegate import requantize, sums
from delegate.errors import CompileError
from delegate.sums import Operand
from delegate.tools.accuracy import silicon

offsets = st.integers(-128, 127)


def pairs(zero_a: int, zero_b: int) -> tuple[Ints, Ints]:
    """All 65536 pairs of two 8-bit tensors, less their zero points."""
    q = np.arange(-128, 128)
    a, b = np.meshgrid(q - zero_a, q - zero_b)
    return a.reshape(-1), b.reshape(-1)


def added_by_tflite(a: Ints, b: Ints, scale_a: float, scale_b: float, scale: float) -> Ints:
    """TFLite's ADD before its offset: three multipliers, twenty bits of head room."""
    twice = 2 * max(scale_a, scale_b)
    total = multiplied_by_tflite(a << 20, scale_a / twice) + multiplied_by_tflite(b << 20, scale_b / twice)
    return multiplied_by_tflite(total, twice / ((1 << 20) * scale))


def operand(scale: float, zero: int) -> Operand:
    return Operand(scale, max(127 - zero, zero + 128))


scales = st.floats(0.01, 1.0).map(lambda scale: float(np.float32(scale)))


@settings(deadline=None)
@given(scales, scales, st.floats(0.5, 4.0), offsets, offsets)
def test_weights_of_a_sum_err_as_promised(
    scale_a: float, scale_b: float, room: float, zero_a: int, zero_b: int
) -> None:
    scale = (scale_a + scale_b) * room / 2
    try:
        plan = sums.weighted_sum(operand(scale_a, zero_a), operand(scale_b, zero_b), scale, 8, 3)
    except CompileError:
        assert max(scale_a / scale_b, scale_b / scale_a) > 127
        return
    assert min(plan.a, plan.b) >= 1 and max(plan.a, plan.b) <= 127
    a, b = pairs(zero_a, zero_b)
    exact = (scale_a * a + scale_b * b) / scale
    approximation = (plan.a * a + plan.b * b) * requantize.factor(plan.run)
    assert np.abs(approximation - exact).max() <= plan.error * (1 + 1e-9) + 1e-9
    got = on_silicon(plan.a * a + plan.b * b, plan.run)
    assert np.abs(got - np.clip(exact + 3, -128, 127)).max() <= 0.5 + plan.error + 1e-6


@settings(deadline=None)
@given(scales, scales, st.floats(0.5, 4.0), offsets, offsets)
def test_an_exact_sum_differs_from_tflite_only_at_ties(
    scale_a: float, scale_b: float, room: float, zero_a: int, zero_b: int
) -> None:
    scale = float(np.float32((scale_a + scale_b) * room / 2))
    plan = sums.exact_sum(operand(scale_a, zero_a), operand(scale_b, zero_b), scale, 8, 3)
    run = plan.run
    assert run.channel_multiplier is not None and run.channel_shift == 0 and run.half_away
    assert 1 <= plan.weight <= 127 and 1 <= plan.gain <= 0x7FFF and 1 <= run.channel_multiplier[0] <= 0x7FFF
    assert 0x4000 <= run.multiplier <= 0x7FFF and 1 <= run.shift <= 63
    a, b = pairs(zero_a, zero_b)
    values = plan.weight * a * int(run.channel_multiplier[0]) + plan.gain * b
    assert np.abs(values).max() < 2**31  # BS and the element-wise unit never saturate
    exact = (scale_a * a + scale_b * b) / scale
    assert np.abs(values * requantize.factor(run) - exact).max() <= plan.error * (1 + 1e-9) + 1e-9
    got = silicon.half_away(values * run.multiplier, run.shift)
    expected = added_by_tflite(a, b, scale_a, scale_b, scale)
    differ = got != expected
    head_room = 3 * 2.0**-19 * max(scale_a, scale_b) / scale  # TFLite's own three roundings
    distance = np.abs(np.abs(exact) - np.floor(np.abs(exact)) - 0.5)
    assert (distance[differ] <= plan.error + head_room).all()
    assert plan.error <= 0.002


def test_an_exact_sum_is_tflites_on_nearly_all_pairs() -> None:
    """With scales as networks have them, no simple fractions of each other, sums are hardly ever ties."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(100):
        scale_a, scale_b = (float(np.float32(np.exp(value))) for value in rng.uniform(-5, 0, 2))
        scale = float(np.float32((scale_a + scale_b) * np.exp(rng.uniform(-0.7, 0.7))))
        zero_a, zero_b = (int(value) for value in rng.integers(-128, 128, 2))
        plan = sums.exact_sum(operand(scale_a, zero_a), operand(scale_b, zero_b), scale, 8, 0)
        assert plan.run.channel_multiplier is not None
        a, b = pairs(zero_a, zero_b)
        values = plan.weight * a * int(plan.run.channel_multiplier[0]) + plan.gain * b
        got = silicon.half_away(values * plan.run.multiplier, plan.run.shift)
        shares.append((got != added_by_tflite(a, b, scale_a, scale_b, scale)).mean())
    assert np.mean(shares) <= 3e-5
    assert max(shares) <= 3e-4


@pytest.mark.parametrize(
    ("scale_a", "scale_b", "scale"), [(0.5, 0.25, 0.5), (1, 1, 2), (0.1, 0.1, 0.2), (0.1, 0.3, 0.4)]
)
def test_an_exact_sum_of_round_scales_is_tflites(scale_a: float, scale_b: float, scale: float) -> None:
    """Where ties are many: 1/2, 1/4."""
    scale_a, scale_b, scale = (float(np.float32(value)) for value in (scale_a, scale_b, scale))
    plan = sums.exact_sum(operand(scale_a, 0), operand(scale_b, 0), scale, 8, 0)
    assert plan.run.channel_multiplier is not None
    a, b = pairs(0, 0)
    values = plan.weight * a * int(plan.run.channel_multiplier[0]) + plan.gain * b
    got = silicon.half_away(values * plan.run.multiplier, plan.run.shift)
    np.testing.assert_array_equal(got, added_by_tflite(a, b, scale_a, scale_b, scale))


@given(scales, scales)
def test_scales_out_of_reach_are_an_error(scale_a: float, scale_b: float) -> None:
    with pytest.raises(CompileError, match="addition"):
        sums.exact_sum(operand(scale_a, 0), operand(scale_b, 0), 1e12, 1, 0)
    with pytest.raises(CompileError, match="addition"):
        sums.weighted_sum(operand(scale_a, 0), operand(scale_a / 300, 0), 1.0, 1, 0)
