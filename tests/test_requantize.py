"""Factors for BS, BN and OUT_CVT against exact rational arithmetic, and against TFLite's own roundings."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from arithmetic import (
    Ints,
    first_above,
    half_away,
    half_to_even,
    multiplied_by_tflite,
    on_silicon,
    quantized_multiplier,
    unsaturated,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from delegate import requantize
from delegate.errors import CompileError
from delegate.ir import Requantize
from delegate.quantize import tflite_steps
from delegate.requantize import Channels
from delegate.tools.accuracy import silicon

LAST_SHARE = 1e-7  # of all accumulators, that may differ from TFLite's with a factor of 30 bits
EXACT_REACH = 18  # bits of an accumulator up to which none differs


def tie_distance(accumulator: int, real: float, inner: int) -> Fraction:
    """How far TFLite's inner product (accumulator * real, in steps of 2**-inner) is from a half, in those steps."""
    product = Fraction(accumulator) * Fraction(real) * 2**inner
    return abs(product - math.floor(product) - Fraction(1, 2))


reals = st.floats(-20, 1).map(lambda exponent: 2.0**exponent)
reaches = st.floats(8, 23).map(lambda exponent: int(2.0**exponent))
offsets = st.integers(-128, 127)


# --- OUT_CVT alone -------------------------------------------------------------------------------------------------


@given(st.floats(2.0**-39, 2.0**13, exclude_max=True))
def test_a_plain_multiplier_is_the_nearest_of_fifteen_bits(real: float) -> None:
    run = requantize.plain(real, 4, 0)
    assert 0x4000 <= run.multiplier <= 0x7FFF and not run.half_away
    assert 1 <= run.shift <= 63
    step = Fraction(1, 1 << run.shift)
    # the carry into the next power of two may leave half a step of the smaller exponent
    assert abs(Fraction(run.multiplier, 1 << run.shift) - Fraction(real)) <= step / 2
    assert requantize.factor(run) == run.multiplier * 2.0**-run.shift


@pytest.mark.parametrize("exponent", range(-30, 10))
def test_a_mantissa_of_ones_keeps_its_carry(exponent: int) -> None:
    """S-10: upstream halves or negates the gain here, for even and odd exponents."""
    real = math.ldexp(float(np.nextafter(np.float32(2), np.float32(0))), exponent)
    assert requantize.factor(requantize.plain(real, 1, 0)) == pytest.approx(real, rel=2**-15)


@pytest.mark.parametrize("real", [0.0, -1.0, math.inf, math.nan, 2.0**15, 2.0**-60])
def test_a_factor_out_of_reach_is_an_error(real: float) -> None:
    for function in (
        lambda: requantize.plain(real, 1, 0),
        lambda: requantize.exact(real, 100, 1, 0),
        lambda: requantize.quotient(real, 100, 1, 0, norm=False),
        lambda: requantize.per_channel(Channels(np.array([real]), np.zeros(1, np.int32), np.ones(1)), 0, 32),
    ):
        with pytest.raises(CompileError, match="factor"):
            function()


@given(st.integers(1, 400), st.booleans())
def test_a_quotient_rounds_ties_away(pixels: int, norm: bool) -> None:
    """The sums of a window divided by its pixels, every sum; without BN only where 15 bits can tell ties apart."""
    run = requantize.quotient(1 / pixels * (1 if not norm else 1 + 2.0**-26), pixels * 255, 1, 0, norm)
    sums = np.arange(-pixels * 255, pixels * 255 + 1)
    exact = np.sign(sums) * ((2 * np.abs(sums) + pixels) // (2 * pixels))
    wrong = unsaturated(sums, run) != exact
    if norm or pixels & (pixels - 1) == 0:
        assert not wrong.any()
    else:  # the factor is up to 2**-14 too large, which moves sums near a tie over it
        near = (np.abs(sums) * 2 + pixels) % (2 * pixels)
        assert (2 * pixels - near[wrong] <= 2 * np.abs(sums[wrong]) * 2.0**-14 + 1).all()


# --- Behind BS, and clamps -----------------------------------------------------------------------------------------


runs = st.builds(
    Requantize,
    st.just(range(1)),
    st.integers(1, 0x7FFF),
    st.integers(1, 40),
    offsets,
    st.booleans(),
    channel_multiplier=st.integers(1, 0x7FFF).map(lambda value: np.array([value], np.int16)),
    channel_shift=st.integers(0, 20),
    norm_multiplier=st.none() | st.integers(0x4000, 0x7FFF),
    norm_shift=st.integers(0, 30),
)


@given(runs, st.integers(-(2**31), 2**31 - 1))
def test_behind_bs_is_rational_arithmetic(run: Requantize, value: int) -> None:
    middle = value
    if run.norm_multiplier is not None:
        middle = half_to_even(Fraction(value * run.norm_multiplier, 1 << run.norm_shift))
    rounded = (half_away if run.half_away else half_to_even)(Fraction(middle * run.multiplier, 1 << run.shift))
    assert requantize.behind_bs(run, value) == rounded + run.offset


@given(runs, st.integers(-300, 300))
def test_the_last_at_most_is_the_last(run: Requantize, target: int) -> None:
    last = requantize.last_at_most(lambda value: requantize.behind_bs(run, value), target)
    assert requantize.behind_bs(run, last) <= target or last == -(2**31)
    assert requantize.behind_bs(run, last + 1) > target or last == 2**31 - 1


def some_run(form: str, real: float, offset: int) -> Requantize:
    """A run of one of the forms that the compiler makes."""
    if form == "exact":
        return requantize.exact(real, 1 << 16, 1, offset)
    if form == "plain":
        return requantize.plain(real, 1, offset)
    if form == "quotient":
        return requantize.quotient(real, 1 << 16, 1, offset, norm=False)
    channels = Channels(np.array([real]), np.zeros(1, np.int32), np.array([2.0**16]))
    return requantize.per_channel(channels, offset, 32)[0]


@given(
    st.sampled_from(["plain", "quotient", "per channel", "exact"]),
    reals,
    offsets,
    offsets,
    st.lists(st.integers(-(2**26), 2**26), min_size=50, max_size=50),
    st.integers(0, 99),
)
def test_a_clamp_in_bs_equals_a_clamp_of_the_output(
    form: str, real: float, offset: int, high: int, far: list[int], seed: int
) -> None:
    run = some_run(form, real, offset)
    near = np.random.default_rng(seed).integers(-int(300 / real) - 1, int(300 / real) + 2, 500)
    values = np.concatenate([near, np.array(far)])
    for low in (-128, offset):
        try:
            clamped = requantize.clamped(run, low, high)
        except CompileError:
            if high < 127 and low != offset:
                continue  # BS's clamp from above comes with one at the zero point
            # between two values that follow each other in BS, or below what BS's ReLU leaves
            wanted = set(on_silicon(np.maximum(values, 0), run).tolist())
            assert high < offset or high not in wanted
            continue
        assert low == offset or high == 127
        expected = np.minimum(np.maximum(on_silicon(values, run), low), high)
        np.testing.assert_array_equal(on_silicon(values, clamped), expected)
        assert clamped.relu == (low > -128 or high < 127)


def test_a_clamp_that_is_not_the_zero_point_is_an_error() -> None:
    with pytest.raises(CompileError, match="clamp"):
        requantize.clamped(Requantize(range(1), 0x4000, 15, -90), -100, 127)


def test_saturation_needs_no_clamp() -> None:
    run = requantize.exact(0.01, 1 << 16, 1, -128)
    assert requantize.clamped(run, -128, 127).relu is False
    assert requantize.clamped(run, -128, 127).relu_limit is None


# --- 30 bits: TFLite's own results ---------------------------------------------------------------------------------


def check_stages(run: Requantize) -> None:
    """What the registers can hold, and what S-223 forbids."""
    assert run.channel_multiplier is not None
    assert run.channel_multiplier.min() >= 1 and run.channel_multiplier.max() <= 0x7FFF
    assert 0 <= run.channel_shift <= 63
    assert 1 <= run.shift <= 22 or (run.multiplier > 2 and run.shift <= 63)
    if run.norm_multiplier is not None:
        assert 1 <= run.norm_multiplier <= 0x7FFF
        assert 0 <= run.norm_shift <= 63


def error_of(run: Requantize, real: float, inner: int, accumulator: int) -> Fraction:
    """How far our inner product can be from the ideal one and TFLite's, in inner steps."""
    assert run.channel_multiplier is not None and run.norm_multiplier is not None
    ideal = Fraction(real) * 2**inner
    norm = Fraction(run.norm_multiplier, 1 << run.norm_shift)
    ours = Fraction(int(run.channel_multiplier[0]), 1 << run.channel_shift) * norm
    multiplier, shift = quantized_multiplier(real)
    theirs = Fraction(multiplier, 1 << 31) * Fraction(2) ** (shift + inner)
    rounding = norm / 2 if run.channel_shift else Fraction(0)
    return abs(accumulator) * max(abs(ours - ideal), abs(theirs - ideal)) + rounding


def outputs(offset: int) -> Ints:
    """Multiples of an output step that are below a step which 8 bits can show."""
    return np.arange(-128 - offset, 127 - offset)


def steps_of(run: Requantize, real: float, reach: int) -> tuple[Ints, Ints]:
    """The accumulators at which our output rises by a step, and TFLite's: all that can differ lies between them."""
    ours = first_above(lambda values: unsaturated(values, run), reach, outputs(run.offset))
    theirs = first_above(lambda values: multiplied_by_tflite(values, real), reach, outputs(run.offset))
    return ours, theirs


@settings(deadline=None, max_examples=200)
@given(reals, reaches, offsets)
def test_thirty_bits_differ_from_tflite_only_at_ties_of_its_inner_product(real: float, reach: int, offset: int) -> None:
    """Every accumulator within reach; ``first_above`` finds all that differ."""
    run = requantize.exact(real, reach, 1, offset)
    check_stages(run)
    ours, theirs = steps_of(run, real, reach)
    inner = max(-quantized_multiplier(real)[1], 0)
    for one, other in zip(ours.tolist(), theirs.tolist(), strict=True):
        for accumulator in range(min(one, other), max(one, other)):
            assert tie_distance(accumulator, real, inner) <= error_of(run, real, inner, accumulator)


@pytest.mark.parametrize("offset", [-128, 0, 127])
def test_thirty_bits_are_tflites_results(offset: int) -> None:
    """For accumulators of 18 bits all of them; beyond, BS has to round, and one in ten million may differ."""
    rng = np.random.default_rng(offset + 128)
    differ = accumulators = 0
    for _ in range(300):
        real, bits = float(2 ** rng.uniform(-20, 1)), float(rng.uniform(8, 23))
        reach = int(2**bits)
        ours, theirs = steps_of(requantize.exact(real, reach, 1, offset), real, reach)
        if bits <= EXACT_REACH:
            np.testing.assert_array_equal(ours, theirs)
        differ += int(np.abs(ours - theirs).sum())
        accumulators += 2 * int(min(reach, 255 / real)) + 1
    assert differ <= LAST_SHARE * accumulators


@pytest.mark.parametrize("exponent", range(-20, 2))
def test_a_power_of_two_differs_at_its_ties(exponent: int) -> None:
    """TFLite's high product rounds halves up, BS and BN to even: one accumulator for each output of the rarer sign."""
    real, reach = 2.0**exponent, 1 << 23
    for offset in (-128, 0, 127):
        ours, theirs = steps_of(requantize.exact(real, reach, 1, offset), real, reach)
        below = outputs(offset)
        differ = ours != theirs
        assert np.abs(ours - theirs).max() <= 1
        assert differ.sum() <= min((below < 0).sum(), (below >= 0).sum())


def test_the_steps_of_tflite_are_those_of_its_arithmetic() -> None:
    rng = np.random.default_rng(3)
    for real in [*np.exp2(rng.uniform(-20, 8, 200)).tolist(), 1.0, 0.5, 2.0**-9, 1 - 2.0**-40]:
        for offset in (-128, 5):
            _, accumulators = tflite_steps(real, offset)
            before, after = (multiplied_by_tflite(values, real) for values in (accumulators - 1, accumulators))
            assert (before <= outputs(offset)).all() and (after > outputs(offset)).all()


@settings(deadline=None)
@given(st.floats(2.0**-39, 2.0**13), reaches)
def test_saturation_to_32_bits_comes_after_that_to_8(real: float, reach: int) -> None:
    """The largest accumulators give what their factor says, or the end of the range."""
    run = requantize.exact(real, reach, 1, 0)
    for accumulator in (reach, -reach, reach // 2, -(reach // 3)):
        exact = Fraction(accumulator) * Fraction(real)
        (got,) = on_silicon(np.array([accumulator]), run)
        assert abs(int(got) - min(max(exact, Fraction(-128)), Fraction(127))) <= 1


# --- A multiplier a channel: proven forms --------------------------------------------------------------------------


def drawn_channels(count: int, spread: float, largest: float, bias: int, seed: int) -> Channels:
    """Factors up to 2**spread apart, below ``largest``."""
    rng = np.random.default_rng(seed)
    factors = largest * np.exp2(-rng.uniform(0, spread, count))
    reach = np.exp2(rng.uniform(6, 20, count)).astype(np.int64).astype(np.float64)
    return Channels(factors, rng.integers(-bias, bias + 1, count).astype(np.int32), reach)


channels_of_a_layer = st.builds(
    drawn_channels,
    st.integers(1, 200),
    st.floats(0, 12),
    st.floats(-18, 1).map(lambda exponent: 2.0**exponent),
    st.sampled_from([0, 1000, 100000]),
    st.integers(0, 9999),
)


@settings(deadline=None, max_examples=100)
@given(channels_of_a_layer, offsets, st.sampled_from([32, 64]), st.integers(0, 99))
def test_errors_of_channels_are_bounded_as_promised(channels: Channels, offset: int, group: int, seed: int) -> None:
    """|output - exact| is half a step, the inner rounding, and run_errors; every class serves what it says."""
    rng = np.random.default_rng(seed)
    served = np.zeros(len(channels.factors), int)
    for mask in requantize.scale_classes(channels, offset, group):
        served += mask
        only = replace(channels, factors=np.where(mask, channels.factors, 0.0))
        found = requantize.per_channel(only, offset, group)
        assert [run.channels.start for run in found] == [0, *(run.channels.stop for run in found[:-1])]
        assert found[-1].channels.stop == len(channels.factors)
        bias = requantize.fitted_bias(found, only)
        for run in found:
            check_stages(run)
            part = slice(run.channels.start, run.channels.stop)
            reach = channels.reach[part].astype(np.int64)
            sums = rng.integers(-reach, reach + 1, (100, len(reach)))
            sums[:2] = -reach, reach
            got = silicon.written(silicon.scaled(sums + bias[part], run), run)
            exact = (sums + channels.bias[part].astype(np.float64)) * channels.factors[part] + offset
            inner = 2.0 ** -(run.shift + 1) if run.multiplier == 1 else 0.0
            bound = 0.5 + inner + requantize.run_errors(run, only) + 1e-6
            error = np.abs(got - np.clip(exact, -128, 127))
            assert (error <= bound)[:, mask[part]].all()
            assert (requantize.run_errors(run, only)[mask[part]] <= requantize.LARGEST_ERROR).all()
    assert (served == 1).all()


@given(reals, st.integers(1, 300), st.sampled_from([32, 64]))
def test_one_scale_is_one_run(real: float, count: int, group: int) -> None:
    channels = Channels(np.full(count, real), np.zeros(count, np.int32), np.full(count, 2.0**16))
    (run,) = requantize.per_channel(channels, 0, group)
    assert run.channels == range(count) and run.half_away
    assert len(requantize.scale_classes(channels, 0, group)) == 1


def test_runs_are_cut_where_a_common_shift_errs_and_only_there() -> None:
    near, far = np.full(32, 0.01), np.full(32, 0.01 / 300)
    reach, bias = np.full(96, 2.0**20), np.zeros(96, np.int32)
    cut = requantize.per_channel(Channels(np.concatenate([near, near, far]), bias, reach), 0, 32)
    assert [run.channels for run in cut] == [range(64), range(64, 96)]
    little = Channels(np.concatenate([near, near, far]), bias, np.full(96, 1000.0))
    assert len(requantize.per_channel(little, 0, 32)) == 1  # sums so small that the coarse factors do no harm
    mixed = Channels(np.tile([0.01, 0.01 / 300], 48), bias, reach)
    assert len(requantize.per_channel(mixed, 0, 32)) == 1  # a cut between groups would not help
    assert len(requantize.scale_classes(mixed, 0, 32)) == 1
    apart = Channels(np.tile([0.01, 0.01 / 4400], 48), bias, np.full(96, 2.0**24))
    classes = [mask.tolist() for mask in requantize.scale_classes(apart, 0, 32)]
    assert classes == [[True, False] * 48, [False, True] * 48]


def test_channels_without_weights_keep_their_bias() -> None:
    """A dead channel: a tiny scale and a large bias, whose product is what the output shows."""
    factors = np.array([0.01] * 31 + [1e-7])
    bias = np.array([0] * 31 + [400_000_000], np.int32)
    channels = Channels(factors, bias, np.array([2.0**18] * 31 + [255.0]))
    (mask,) = requantize.scale_classes(channels, 0, 32)
    found = requantize.per_channel(channels, 0, 32)
    assert mask.all()
    fitted = requantize.fitted_bias(found, channels)
    np.testing.assert_array_equal(fitted[:31], bias[:31])
    got = silicon.written(silicon.scaled(fitted[np.newaxis].astype(np.int64), found[0]), found[0])
    assert got[0, 31] == 40


@pytest.mark.parametrize(
    "factors", [[2.0**-39, 2.0**-38], [2.0**-23.5] * 3, [2.0**10, 2.0**-8], [16383.9, 0.3], [1.5, 2.0**-30]]
)
def test_extreme_factors_have_shifts_that_exist(factors: list[float]) -> None:
    count = len(factors)
    channels = Channels(np.array(factors), np.zeros(count, np.int32), np.full(count, 2.0**20))
    for mask in requantize.scale_classes(channels, 0, 32):
        for run in requantize.per_channel(replace(channels, factors=np.where(mask, factors, 0.0)), 0, 32):
            check_stages(run)


@settings(deadline=None, max_examples=40)
@given(reals, st.integers(0, 99))
def test_one_channel_alone_is_tflites_double_rounding(real: float, seed: int) -> None:
    """With its own inner shift a channel differs from TFLite only by its factor of 15 bits: near ties."""
    reach = min(1 << 20, int(255 / real) + 1)
    channels = Channels(np.array([real]), np.zeros(1, np.int32), np.array([float(reach)]))
    (run,) = requantize.per_channel(channels, 0, 32)
    values = np.random.default_rng(seed).integers(-reach, reach + 1, 4000)
    got, expected = unsaturated(values, run), multiplied_by_tflite(values, real)
    assert np.abs(got - expected).max() <= 1
    error = float(requantize.run_errors(run, channels)[0])
    inner = max(-quantized_multiplier(real)[1], 0)
    # inner products that differ lie within ``error`` output steps of a tie, or on either side of a rounding
    fraction = np.abs(values * real)
    distance = np.abs(fraction - np.floor(fraction) - 0.5)
    assert (distance[got != expected] <= error + 2.0**-inner).all()
