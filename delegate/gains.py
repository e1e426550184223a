"""Two multipliers a channel, BS's of 16 bits and the element-wise unit's of 8, fitted to TFLite's thresholds.

A channel's output rises by a step at 255 accumulators, TFLite's thresholds. The stages

    v = round((accumulator + bias) * C / 2**s)   BS, C a channel, ties to even
    v = (v + b) * E                              BN adds a register, EW multiplies by a number a channel
    out = round(v / 2**S) + offset               OUT_CVT, ties away from zero

rise as well, at accumulators that are known in closed form. Of all E, each with the C and the correction of the bias
that suit it, a channel takes those whose steps are off by the fewest accumulators. C and E may both be negative, which
turns the sign of b. Unproven on silicon: CHANNEL_GAIN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from delegate.ir import Requantize
from delegate.quantize import INT8_HIGH, INT8_LOW, LARGEST_INT32, LEAST_EXPONENT, Ints
from delegate.requantize import INNER_SHIFT_LIMIT, LARGEST_FACTOR, MANTISSA_BITS, Channels, Reals, fitted_bias

Runs = tuple[Requantize, ...]

LARGEST_GAIN = 127
GAIN_BITS = 6  # of the gain that goes with the least shift, where BS rounds as TFLite does
FAR = 2.0**40  # an accumulator that there is not
POINTS = 3  # accumulators at which candidates are compared before
FINALISTS = 16  # candidates of a channel that are compared exactly
COMMON = 64  # output steps from the zero point: a threshold there counts half of one at the zero point


@dataclass(frozen=True)
class Stages:
    """What a run of channels has in common."""

    shift: int  # of BS
    addend: int  # of BN
    final: int  # shift of OUT_CVT


@dataclass(frozen=True, eq=False)
class Steps:
    """TFLite's thresholds: an output is above ``below`` (without offset) from ``accumulators`` on, bias included."""

    below: Reals  # (steps)
    accumulators: Reals  # (channels, steps); beyond what 32 bits hold: FAR
    met: npt.NDArray[np.bool_]  # (channels, steps): whether any input meets them
    ends: Reals  # (2, channels): first and last accumulator that matter
    half: Reals  # (channels): accumulators of half a step of TFLite's inner integer
    shifts: npt.NDArray[np.int32]  # (channels): TFLite's right shifts


@dataclass(frozen=True, eq=False)
class Fit:
    """Numbers of channels, or of candidates for them: (channels) or (channels, candidates)."""

    multiplier: Reals  # C and E without their signs
    gain: Reals
    sign: Reals  # of both
    correction: Reals  # of the bias

    def taken(self, indices: npt.NDArray[np.intp]) -> Fit:
        """Some candidates, (channels, as many)."""
        parts = (self.multiplier, self.gain, self.sign, self.correction)
        return Fit(*(np.take_along_axis(part, indices, axis=1) for part in parts))


def with_bias(channels: Channels, runs: Runs, gains: bool) -> tuple[Runs, npt.NDArray[np.int32]]:
    """(runs of channels, the bias that goes with them), both fitted where a channel has a multiplier of its own.

    ``runs``: as they are without fitting, which says where channels are cut; ``gains``: whether these may be used.
    What becomes of channels whose factor is 0 does not matter.
    """
    if all(run.channel_multiplier is not None and run.norm_multiplier is None for run in runs):
        found = [fitted_run(channels, run, gains) for run in runs]
        bias = np.concatenate([part for _, part in found])
        if np.abs(bias).max() <= LARGEST_INT32:
            return tuple(run for run, _ in found), bias.astype(np.int32)
    return runs, fitted_bias(runs, channels)


def fitted_run(channels: Channels, run: Requantize, gains: bool) -> tuple[Requantize, Reals]:
    """(a run, the bias of its channels): as it is, with other multipliers, or with gains, whichever errs least.

    A clamp in BS would need another limit for each gain, so that only what saturates by itself has gains.
    """
    assert run.channel_multiplier is not None
    place = slice(run.channels.start, run.channels.stop)
    own = Channels(channels.factors[place], channels.bias[place], channels.reach[place])
    steps = thresholds(own, run.offset)
    bias = fitted_bias((run,), channels)[place].astype(np.float64)
    ones = np.ones((len(bias), 1))
    stages, gain = Stages(run.channel_shift, 0, run.shift), ones * run.multiplier  # which is 1, or 2 for a shift of 0
    plain = Fit(ones * run.channel_multiplier[:, np.newaxis], gain, ones, (bias - own.bias)[:, np.newaxis])
    found = [(run, plain, float(measured(own, steps, stages, plain).sum()))]
    fit, error = fitted(own, steps, stages, gain)
    found.append((replace(run, channel_multiplier=fit.multiplier[:, 0].astype(np.int16)), fit, error))
    for stages, candidates in forms(own, steps) if gains and not run.relu else ():
        fit, error = fitted(own, steps, stages, candidates)
        gained = Requantize(
            channels=run.channels,
            multiplier=1,
            shift=stages.final,
            offset=run.offset,
            half_away=True,
            channel_multiplier=(fit.multiplier * fit.sign)[:, 0].astype(np.int16),
            channel_shift=stages.shift,
            norm_addend=stages.addend,
            gain=(fit.gain * fit.sign)[:, 0].astype(np.int8),
        )
        found.append((gained, fit, error))
    best, fit, _ = min(found, key=lambda option: option[2])
    return best, own.bias + fit.correction[:, 0]


def forms(channels: Channels, steps: Steps) -> Iterator[tuple[Stages, Reals]]:
    """Common numbers that are worth a try, with the gains that go with them: (channels or 1, candidates).

    In fine steps BS hardly rounds, and where outputs have one sign BN's addend is TFLite's first rounding. In coarse
    ones BS rounds as TFLite does, if gains are powers of two.
    """
    least = int(steps.shifts[channels.factors > 0].min(initial=INNER_SHIFT_LIMIT))
    one_sign = not steps.met[:, steps.below < 0].any()
    largest = float(channels.factors.max()) or 1.0
    shift = math.floor(math.log2(LARGEST_FACTOR * LARGEST_GAIN / largest)) - INNER_SHIFT_LIMIT
    if shift >= 0:
        fine = INNER_SHIFT_LIMIT - GAIN_BITS - 1 - least  # below 0: a half is less than the steps there are
        half = 1 << fine if one_sign and least > 0 and fine >= 0 else 0
        yield Stages(shift, half, INNER_SHIFT_LIMIT), np.arange(1.0, LARGEST_GAIN + 1)[np.newaxis]
    if 1 <= least + GAIN_BITS <= INNER_SHIFT_LIMIT:
        powers = np.exp2(np.clip(least + GAIN_BITS - steps.shifts, 0, GAIN_BITS))
        yield Stages(MANTISSA_BITS, 0, least + GAIN_BITS), powers[:, np.newaxis]


def thresholds(channels: Channels, offset: int) -> Steps:
    """The steps of TFLite's MultiplyByQuantizedMultiplier for each channel, see quantize.tflite_steps."""
    fractions, exponents = np.frexp(channels.factors)
    multipliers = np.floor(np.ldexp(fractions, 31) + 0.5).astype(np.int64)
    carries = multipliers == 1 << 31
    multipliers, exponents = np.where(carries, multipliers >> 1, multipliers), exponents + carries
    below = np.arange(INT8_LOW - offset, INT8_HIGH - offset)
    right = np.maximum(-exponents, 0).astype(np.int64)[:, np.newaxis]
    inner = np.where(right > 0, (2 * below + 1 << np.maximum(right - 1, 0)) + (below < 0), below + 1)
    known = (np.abs(inner) < 1 << 31) & ((exponents >= LEAST_EXPONENT) & (multipliers > 0))[:, np.newaxis]
    divisors = np.maximum(multipliers << np.maximum(exponents, 0), 1)[:, np.newaxis]
    exact: Ints = -(-((np.where(known, inner, 0) << 31) - (1 << 30)) // divisors)
    accumulators = np.where(known, exact, np.where(below < 0, -FAR, FAR))
    bias, reach = channels.bias.astype(np.float64)[:, np.newaxis], channels.reach[:, np.newaxis]
    met = known & (accumulators > bias - reach) & (accumulators <= bias + reach)
    ends = np.stack([np.where(met, accumulators, FAR).min(axis=1), np.where(met, accumulators, -FAR).max(axis=1)])
    return Steps(
        below=below.astype(np.float64),
        accumulators=accumulators,
        met=met,
        ends=np.where(met.any(axis=1), ends, bias[:, 0]),
        half=np.where(right[:, 0] > 0, 0.5 / np.where(fractions > 0, fractions, 1), 0),
        shifts=-exponents,
    )


def fitted(channels: Channels, steps: Steps, stages: Stages, gains: Reals) -> tuple[Fit, float]:
    """The best candidate of each channel, (channels, 1), and the error of all together.

    Candidates: each gain with the multipliers on either side of the wanted one; each sign, where b is not 0.
    """
    wanted = channels.factors[:, np.newaxis] * 2.0 ** (stages.shift + stages.final) / gains
    multipliers = np.concatenate([np.floor(wanted), np.floor(wanted) + 1], axis=1)
    gains = np.broadcast_to(np.concatenate([gains, gains], axis=1), multipliers.shape)
    signs = (1.0, -1.0) if stages.addend else (1.0,)
    nudges = (-1.0, 0.0, 1.0) if multipliers.shape[1] <= FINALISTS else (0.0,)  # of the correction
    pairs = [(sign, nudge) for sign in signs for nudge in nudges]
    candidates = Fit(
        np.concatenate([np.clip(multipliers, 1, LARGEST_FACTOR)] * len(pairs), axis=1),
        np.concatenate([gains] * len(pairs), axis=1),
        np.concatenate([np.full(multipliers.shape, sign) for sign, _ in pairs], axis=1),
        np.concatenate([np.full(multipliers.shape, nudge) for _, nudge in pairs], axis=1),
    )
    candidates, rough = corrected(channels, steps, stages, candidates)
    count = min(FINALISTS, rough.shape[1])
    finalists = candidates.taken(np.argpartition(rough, count - 1, axis=1)[:, :count])
    errors = measured(channels, steps, stages, finalists)
    best = errors.argmin(axis=1)[:, np.newaxis]
    return finalists.taken(best), float(np.take_along_axis(errors, best, axis=1).sum())


def corrected(channels: Channels, steps: Steps, stages: Stages, candidates: Fit) -> tuple[Fit, Reals]:
    """Candidates with the correction of the bias that suits them, and their rough errors, (channels, candidates).

    Their own correction comes on top of it. A step at accumulator a comes (a * slope + early * (1 + slope)) too early;
    the correction makes up for it near the middle of those that matter.
    """
    factors = np.where(channels.factors > 0, channels.factors, 1.0)[:, np.newaxis]
    slope = candidates.multiplier * candidates.gain * (2.0 ** -(stages.shift + stages.final) / factors) - 1
    early = np.zeros_like(slope)
    if stages.addend:
        early += stages.addend * 2.0**stages.shift * candidates.sign / candidates.multiplier
        early -= steps.half[:, np.newaxis] / (1 + slope)
    first, last = steps.ends[0][:, np.newaxis], steps.ends[1][:, np.newaxis]
    corrections = candidates.correction - np.rint(early + slope * (2 * first + last) / (3 + 3 * slope))
    corrections = np.where(channels.factors[:, np.newaxis] > 0, corrections, 0)
    early += corrections
    rough = np.zeros_like(slope)
    for point in range(POINTS):
        at = first + (last - first) * (point / (POINTS - 1))
        rough += np.abs(at * slope + early * (1 + slope)) / (1 + np.square(at * factors / COMMON))
    return Fit(candidates.multiplier, candidates.gain, candidates.sign, corrections), rough


def measured(channels: Channels, steps: Steps, stages: Stages, candidates: Fit) -> Reals:
    """By how many accumulators the steps of candidates are off, weighted, times the factor; (channels, candidates)."""
    errors = np.empty(candidates.gain.shape)
    targets = (2 * steps.below + 1) * 2.0 ** (stages.final - 1) + (steps.below < 0)  # of EW's product
    low, high = (channels.bias - channels.reach)[:, np.newaxis], (channels.bias + channels.reach + 1)[:, np.newaxis]
    wanted, weights = np.clip(steps.accumulators, low, high), 1 / (1 + np.square(steps.below / COMMON))
    for index in range(errors.shape[1]):
        own = candidates.taken(np.full((len(errors), 1), index))
        found = np.clip(first_above(targets, stages, own) - own.correction, low, high)
        errors[:, index] = (np.abs(found - wanted) * weights).sum(axis=1) * channels.factors
    return errors


def first_above(targets: Reals, stages: Stages, fit: Fit) -> Reals:
    """The least number before BS's multiplier with which EW's product is at least a target, (channels, targets).

    Doubles are exact for what matters: it has 31 bits, and its product with a multiplier 46.
    """
    needed = np.ceil(targets / fit.gain) - stages.addend * fit.sign  # of BS, the sign taken off
    if stages.shift == 0:
        return np.asarray(np.ceil(needed / fit.multiplier))
    odd = needed - 2 * np.floor(needed / 2)
    products = (needed - 0.5) * 2.0**stages.shift + odd  # a tie goes to the even number
    return np.asarray(np.ceil(products / fit.multiplier))
