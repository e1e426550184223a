"""From TFLite's multipliers to the three roundings of the DPU: BS, BN, OUT_CVT.

TFLite multiplies an accumulator by a number of 31 bits, rounds to an integer, and rounds once more when it shifts that
right. The converter alone has 15 bits and rounds once. So the multiplication is done where the silicon has it per
channel, in BS, with the result in the units of TFLite's inner integer; OUT_CVT then does the shift with ties away from
zero, as TFLite does. Where BN may be used as well (a form not proven on silicon), 30 bits are had and the results are
TFLite's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from delegate.errors import CompileError
from delegate.ir import Requantize
from delegate.quantize import (
    INT8_HIGH,
    INT8_LOW,
    LARGEST_SHIFT,
    Ints,
    round_shift,
    round_shifts,
    tflite_multiplier,
    tflite_steps,
)

LARGEST_FACTOR = 0x7FFF  # signed 16 bits (S-02, S-19)
LEAST_FACTOR = 1  # 0 would switch BS off for eight channels (S-223)
MANTISSA_BITS = 15
MULTIPLIER_BITS = 31  # of TFLite
INNER_SHIFT_LIMIT = 22  # a larger shift at the end could meet the saturation of 32 bits before that of 8
QUOTIENT_BITS = 14  # of a quotient's fraction: far finer than a window's pixels, far coarser than 30 bits
FINE = 1 / 32  # output steps; a run of channels is cut where a common shift errs more and own ones would not
LARGEST_ERROR = 0.45  # output steps
CANDIDATES = 64  # pairs of factors that are tried for TFLite's own results
Reals = npt.NDArray[np.float64]
FactorPair = tuple[int, int, int, int]  # multiplier and shift of BS, multiplier and shift of BN


def plain(real: float, channels: int, offset: int) -> Requantize:
    """OUT_CVT alone: the nearest multiplier of 15 bits and its shift.

    A mantissa that rounds up to 2**15 carries into the shift, which upstream forgets (S-10). Raises CompileError for a
    factor that the converter cannot express.
    """
    check_factor(real)
    multiplier, shift = mantissa(real)
    return Requantize(range(channels), multiplier, shift, offset)


def mantissa(real: float) -> tuple[int, int]:
    """(multiplier of 15 bits, right shift) nearest to a factor."""
    fraction, exponent = math.frexp(real)
    multiplier = round(fraction * (1 << MANTISSA_BITS))
    if multiplier == 1 << MANTISSA_BITS:
        multiplier, exponent = multiplier >> 1, exponent + 1
    return multiplier, MANTISSA_BITS - exponent


def quotient(real: float, reach: int, channels: int, offset: int, norm: bool) -> Requantize:
    """A division with one rounding, ties away from zero; ``norm``: BN may be used, so that small divisors are exact.

    Without it the multiplier is rounded up, so that at least ties go the right way. Raises CompileError as exact does.
    """
    if norm:
        return exact(real, reach, channels, offset, QUOTIENT_BITS)
    check_factor(real)
    exponent = math.frexp(real)[1]
    multiplier = math.ceil(math.ldexp(real, MANTISSA_BITS - exponent))
    if multiplier > LARGEST_FACTOR:
        multiplier, exponent = multiplier >> 1, exponent + 1
    return Requantize(range(channels), multiplier, MANTISSA_BITS - exponent, offset, half_away=True)


def mean(real: float, count: int, channels: int, offset: int) -> Requantize:
    """The sum of ``count`` distances from a zero point, times real / count, as TFLite's MEAN rounds it.

    Its multiplier is divided by the count, with as many bits more as that takes off, and cut off. Raises CompileError
    as exact does.
    """
    multiplier, exponent = tflite_multiplier(real)
    more = max(min(count.bit_length() - 1, MULTIPLIER_BITS + exponent), 0)
    used = math.ldexp((multiplier << more) // count, exponent - more - MULTIPLIER_BITS)
    return exact(used, (INT8_HIGH - INT8_LOW) * count, channels, offset, max(more - exponent, 0))


def rounded_once(factors: Reals, offset: int) -> Requantize:
    """Channels with a factor each and one rounding, ties away from zero, as TFLite rounds where it computes in floats.

    The largest factor has 15 bits, all err by less than half of its last one. Raises CompileError as plain does.
    """
    check_factor(float(factors.max()))
    shift = MANTISSA_BITS - math.frexp(float(factors.max()))[1]
    multiplier, final = final_shift(shift)
    multipliers = np.clip(np.rint(np.ldexp(factors, shift)), LEAST_FACTOR, LARGEST_FACTOR).astype(np.int16)
    return Requantize(range(len(factors)), multiplier, final, offset, True, multipliers)


def factor(run: Requantize) -> float:
    """The real factor of OUT_CVT."""
    return math.ldexp(run.multiplier, -run.shift)


def inner_shifts(reals: Reals) -> npt.NDArray[np.int32]:
    """The right shifts of TFLite's multipliers for real factors, negative for left ones (QuantizeMultiplier)."""
    fractions, exponents = np.frexp(reals)
    carries = np.floor(np.ldexp(fractions, 31) + 0.5) == 1 << 31
    shifts: npt.NDArray[np.int32] = -(exponents + carries)
    return shifts


def check_factor(real: float) -> None:
    """Raises CompileError for a factor that the stages cannot express."""
    if not (math.isfinite(real) and 2.0**-40 < real < 2.0 ** (MANTISSA_BITS - 1)):
        raise CompileError(f"requantization factor {real} is not between 2**-40 and 2**{MANTISSA_BITS - 1}")


def final_shift(inner: int) -> tuple[int, int]:
    """(multiplier, shift) of OUT_CVT for a right shift of ``inner``; a shift of 0 is not among those proven (S-03)."""
    return (1, inner) if inner > 0 else (2, 1)


@dataclass(frozen=True, eq=False)
class Channels:
    """What requantization needs to know of a layer's output channels, (channels) each."""

    factors: Reals  # input scale * weight scale / output scale
    bias: npt.NDArray[np.int32]  # with the input's zero point folded in
    reach: Reals  # bound of |accumulator - bias|


def per_channel(channels: Channels, offset: int, group: int) -> tuple[Requantize, ...]:
    """Runs of channels with a BS multiplier each and one shift a run, all proven on silicon.

    ``group``: channels that belong together. Raises CompileError for a factor that is out of range. A channel whose
    factor is far below the largest of its run is not exact; run_errors says by how much.
    """
    check_factor(float(channels.factors.max()))
    runs: list[Requantize] = []
    for start in range(0, len(channels.factors), group):
        block = range(start, min(start + group, len(channels.factors)))
        own = common_run(channels.factors, block, offset)
        if runs:
            merged = common_run(channels.factors, range(runs[-1].channels.start, block.stop), offset)
            apart = max(run_errors(run, channels).max() for run in (runs[-1], own))
            if run_errors(merged, channels).max() <= max(FINE, apart):
                runs[-1] = merged
                continue
        runs.append(own)
    return tuple(runs)


def scale_classes(channels: Channels, offset: int, group: int) -> list[npt.NDArray[np.bool_]]:
    """Masks of channels that per_channel can serve together; one mask for all where that is exact enough.

    The largest factors come first; a class takes all smaller ones that stay exact beside them.
    """
    if (channels.factors == channels.factors[0]).all():
        return [np.ones(len(channels.factors), bool)]
    classes: list[npt.NDArray[np.bool_]] = []
    left = np.ones(len(channels.factors), bool)
    while left.any():
        only = replace(channels, factors=np.where(left, channels.factors, 0.0))
        errors = np.concatenate([run_errors(run, only) for run in per_channel(only, offset, group)])
        served = left & (errors <= LARGEST_ERROR)
        if not served.any():
            raise CompileError(f"a channel of factor {channels.factors[left].max()} cannot be served exactly enough")
        classes.append(served)
        left &= ~served
    return classes


def common_run(reals: Reals, channels: range, offset: int) -> Requantize:
    """The channels with one pair of shifts: BS's for the largest factor, OUT_CVT's where the roundings hurt least."""
    part = reals[channels.start : channels.stop]
    inner = common_inner_shift(inner_shifts(part[part > 0]))
    largest = float(part.max()) or 1.0  # a run that nobody reads
    shift = MANTISSA_BITS - math.frexp(math.ldexp(largest, inner))[1]
    factors = np.clip(np.rint(np.ldexp(part, shift + inner)), LEAST_FACTOR, LARGEST_FACTOR).astype(np.int16)
    multiplier, final = final_shift(inner)
    return Requantize(channels, multiplier, final, offset, True, factors, shift)


def common_inner_shift(own: npt.NDArray[np.int32]) -> int:
    """The shift of OUT_CVT for channels whose multipliers in TFLite have the shifts ``own``.

    A channel with this shift is rounded as TFLite does. With a larger one it is rounded once where TFLite rounds twice,
    with a smaller one coarsely first: the share of results that differ grows with 2**-(the smaller of the two).
    """
    least = int(own.min(initial=INNER_SHIFT_LIMIT))  # of the largest factor; below 0 for one above 1
    # beyond the multiplier's bits nothing is gained, and BS has no left shift
    highest = min(least + MANTISSA_BITS, INNER_SHIFT_LIMIT)
    candidates = np.arange(max(min(least, INNER_SHIFT_LIMIT), 0), highest + 1)
    shifts, counts = np.unique(own[own > 0], return_counts=True)
    table = np.exp2(-np.minimum(shifts, candidates[:, None])) * (shifts != candidates[:, None])
    return int(candidates[(table @ counts).argmin()])


def unit(run: Requantize) -> float:
    """Output steps of a factor of 1 in BS."""
    return math.ldexp(run.multiplier, -run.shift - run.channel_shift)


def run_errors(run: Requantize, channels: Channels) -> Reals:
    """Bound of the error of a run's factors over all inputs, (channels of the run), in output steps."""
    return np.minimum(*error_bounds(run, channels))


def error_bounds(run: Requantize, channels: Channels) -> tuple[Reals, Reals]:
    """The bounds with the bias as it is, where an accumulator that saturates does not count, and with a fitted one."""
    assert run.channel_multiplier is not None
    part = slice(run.channels.start, run.channels.stop)
    factors, bias = channels.factors[part], np.abs(channels.bias[part].astype(np.float64))
    used = run.channel_multiplier * unit(run)
    saturated = (INT8_HIGH - INT8_LOW) / np.maximum(factors, 2.0**-60)
    with_bias = np.abs(used - factors) * np.minimum(channels.reach[part] + bias, saturated)
    fitted = np.abs(used - factors) * channels.reach[part] + used / 2
    return np.where(factors > 0, with_bias, 0.0), np.where(factors > 0, fitted, 0.0)


def fitted_bias(runs: Sequence[Requantize], channels: Channels) -> npt.NDArray[np.int32]:
    """The bias, and where its product with the factor in use errs more than rounding it, one that meets the product.

    That is so for channels that are as good as dead: no weights to speak of and a bias in steps of a tiny scale.
    """
    bias = channels.bias.copy()
    for run in runs:
        if run.channel_multiplier is None or run.norm_multiplier is not None:
            continue
        part = slice(run.channels.start, run.channels.stop)
        with_bias, fitted = error_bounds(run, channels)
        products = channels.bias[part] * channels.factors[part] / (run.channel_multiplier * unit(run))
        best = np.clip(np.rint(products), -(2**31), 2**31 - 1).astype(np.int32)
        bias[part] = np.where(fitted < with_bias, best, bias[part])
    return bias


def exact(real: float, reach: int, channels: int, offset: int, inner: int | None = None) -> Requantize:
    """All channels with one factor of 30 bits: BS times BN, in the units of TFLite's inner integer.

    ``reach``: bound of |accumulator|; ``inner``: the last shift, if not that of TFLite's multiplier. Of the nearest
    pairs of factors the first is taken that gives TFLite's result for every accumulator; nearly always there is one
    (docs/decisions/0007-requantization.md). Unproven on silicon: the shift of BN. Raises CompileError as plain does.
    """
    check_factor(real)
    own = max(int(inner_shifts(np.array([real]))[0]), 0)
    shift = min(own if inner is None else inner, INNER_SHIFT_LIMIT)
    # beyond ``reach`` there is nothing, or the output is saturated already, and 32 bits may be too
    reach = min(reach, math.ceil((INT8_HIGH - INT8_LOW + 2) / real))
    pairs = factor_pairs(real, reach, shift)
    if shift == own:
        pairs = [fewest_misses(pairs, real, offset, reach)]
    first, first_shift, second, second_shift = pairs[0]
    multiplier, final = final_shift(shift)
    return Requantize(
        channels=range(channels),
        multiplier=multiplier,
        shift=final,
        offset=offset,
        half_away=True,
        channel_multiplier=np.full(channels, first, np.int16),
        channel_shift=first_shift,
        norm_multiplier=second,
        norm_shift=second_shift,
    )


def factor_pairs(real: float, reach: int, inner: int) -> list[FactorPair]:
    """The pairs whose product is nearest to real * 2**inner for accumulators up to ``reach``, the best first.

    Raises CompileError where none has shifts that exist.
    """
    first = np.arange(1, LARGEST_FACTOR + 1)
    first_shift = np.maximum(0, np.frexp(float(reach) * first)[1] - 31)  # the least that 32 bits allow
    wanted = np.ldexp(real, inner + first_shift) / first
    second_shift = MANTISSA_BITS - np.frexp(wanted)[1]  # each factor's partner in BN has as many bits as fit
    second = np.rint(np.ldexp(wanted, second_shift))
    errors = np.abs(np.ldexp(first * second, -second_shift - first_shift) - math.ldexp(real, inner)) * reach
    errors += np.where(first_shift > 0, np.ldexp(second, -second_shift) / 2, 0)  # the rounding of BS
    errors[(second > LARGEST_FACTOR) | (second_shift < 0) | (second_shift > LARGEST_SHIFT)] = np.inf
    nearest = np.sort(np.argpartition(errors, CANDIDATES)[:CANDIDATES])
    nearest = nearest[np.argsort(errors[nearest], kind="stable")]
    found = [
        (int(first[i]), int(first_shift[i]), int(second[i]), int(second_shift[i]))
        for i in nearest[np.isfinite(errors[nearest])]
    ]
    if not found:
        raise CompileError(f"requantization factor {real} needs a shift beyond {LARGEST_SHIFT} in BN")
    return found


def fewest_misses(pairs: Sequence[FactorPair], real: float, offset: int, reach: int) -> FactorPair:
    """The first pair that misses none of TFLite's steps, mostly the nearest; else the one that misses least."""
    steps = tflite_steps(real, offset)
    misses: list[int] = []
    for pair in pairs:
        misses.append(missed_steps(pair, *steps, reach))
        if misses[-1] == 0:
            break
    return pairs[int(np.argmin(misses))]


def missed_steps(pair: FactorPair, inner: Ints, accumulators: Ints, reach: int) -> int:
    """How many of TFLite's steps within ``reach`` happen at another accumulator behind BS and BN."""
    first, first_shift, second, second_shift = pair
    within = np.abs(accumulators) < reach
    inner, accumulators = inner[within], accumulators[within]

    def stages(values: Ints) -> Ints:
        return round_shifts(round_shifts(values * first, first_shift) * second, second_shift)

    return int(((stages(accumulators) < inner) | (stages(accumulators - 1) >= inner)).sum())


def behind_bs(run: Requantize, value: int) -> int:
    """What BN and OUT_CVT make of a value of BS, not saturated."""
    if run.norm_multiplier is not None:
        value = round_shift(value * run.norm_multiplier, run.norm_shift)
    value += run.norm_addend
    product = value * run.multiplier
    if not run.half_away:
        return round_shift(product, run.shift) + run.offset
    half = 1 << (run.shift - 1)
    return (abs(product) + half >> run.shift) * (1 if product >= 0 else -1) + run.offset


def clamped(run: Requantize, low: int, high: int) -> Requantize:
    """The run with its output limited to [low, high], by clamps behind the multiplier of BS.

    The converter saturates at -128 and 127 by itself. Any other low end must be the zero point, where BS gives 0; a
    high end becomes the largest value of BS that gives it, which gains forbid: it would be another in each channel.
    Raises CompileError for a range that these cannot express.
    """
    if low > INT8_LOW and low != run.offset:
        raise CompileError(f"clamp at {low} is neither -128 nor the output's zero point {run.offset}")
    if high == INT8_HIGH:
        return replace(run, relu=low > INT8_LOW)
    if low != run.offset:
        raise CompileError(f"clamp at {high} needs one at the output's zero point {run.offset}, not at {low}")
    limit = last_at_most(lambda value: behind_bs(run, value), high)
    if limit < 0 or behind_bs(run, limit) != high:
        raise CompileError(f"no value of BS gives the clamp {high}")
    return replace(run, relu=True, relu_limit=limit)


def last_at_most(function: Callable[[int], int], target: int) -> int:
    """The largest 32-bit integer at which a rising function is at most ``target``."""
    low, high = -(2**31), 2**31 - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if function(middle) <= target else (low, middle - 1)
    return low
