"""Factors for two tensors at once: sums and products whose scales all differ, with bounds of their errors.

Errors are in output steps and hold for all inputs. All zero points are taken off before, so that factors alone remain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delegate.errors import CompileError
from delegate.ir import Requantize
from delegate.quantize import INT8_HIGH, INT8_LOW, LARGEST_SHIFT
from delegate.requantize import LARGEST_FACTOR, MANTISSA_BITS, Reals, factor, plain, quotient

MULTIPLIERS = np.arange(1 << (MANTISSA_BITS - 1), LARGEST_FACTOR + 1, dtype=np.float64)  # all of 15 bits


@dataclass(frozen=True)
class Sum:
    """a and b, each times a weight, then OUT_CVT; ``error`` bounds |sum - exact| in output steps over all inputs."""

    a: int
    b: int
    run: Requantize
    error: float


@dataclass(frozen=True)
class Operand:
    """What an addition needs to know of a tensor: its scale, and the largest |q - zero point|."""

    scale: float
    reach: int


def weighted_sum(a: Operand, b: Operand, scale: float, channels: int, offset: int) -> Sum:
    """Two weights of eight bits whose ratio is nearest to that of the scales (S-225), for out = a + b.

    Weights go to 127, so that the weights' zero point is 0. All weights of either side are tried and the pair with the
    smallest bound of the error is taken. Raises CompileError where the scales lie too far apart.
    """
    steps = np.arange(1, INT8_HIGH + 1)
    first = np.concatenate([steps, np.rint(steps * (a.scale / b.scale))])
    second = np.concatenate([np.rint(steps * (b.scale / a.scale)), steps])
    possible = (first >= 1) & (first <= INT8_HIGH) & (second >= 1) & (second <= INT8_HIGH)
    best: Sum | None = None
    share = a.scale * a.reach / (a.scale * a.reach + b.scale * b.reach)
    for weight_a, weight_b in zip(first[possible], second[possible], strict=True):
        run = plain((a.scale / weight_a * share + b.scale / weight_b * (1 - share)) / scale, channels, offset)
        error = abs(weight_a * factor(run) - a.scale / scale) * a.reach
        error += abs(weight_b * factor(run) - b.scale / scale) * b.reach
        if best is None or error < best.error:
            best = Sum(int(weight_a), int(weight_b), run, float(error))
    if best is None:
        raise CompileError(f"addition: the operands' scales {a.scale} and {b.scale} are more than 127 apart")
    return best


@dataclass(frozen=True)
class ExactSum:
    """a * weight * BS multiplier + b * gain, both integers without a shift, then OUT_CVT."""

    weight: int
    gain: int
    run: Requantize
    error: float


def exact_sum(
    a: Operand, b: Operand, scale: float, channels: int, offset: int, largest_weight: int = INT8_HIGH
) -> ExactSum:
    """Integer factors of about 20 and 15 bits for a + b, whose products with OUT_CVT's multiplier meet the scales.

    ``largest_weight``: 1 where no convolution is there to multiply by a weight. No rounding happens before the last
    one, so the unknown rounding of the operand converter (S-167) does not matter. Raises CompileError where the scales
    lie too far apart.
    """
    ratio_a, ratio_b = a.scale / scale, b.scale / scale
    # the smallest shift at which both factors stay in range for every multiplier of 15 bits
    room = min(math.log2(LARGEST_FACTOR / ratio_b), math.log2(largest_weight * LARGEST_FACTOR / ratio_a))
    shift = math.floor(room) + MANTISSA_BITS - 1
    if not 1 <= shift <= LARGEST_SHIFT:
        raise CompileError(f"addition: no shift for the scales {a.scale}, {b.scale} and {scale}")
    gains = np.rint(np.ldexp(ratio_b / MULTIPLIERS, shift))
    wanted = np.ldexp(ratio_a / MULTIPLIERS, shift)
    weights = np.clip(np.ceil(wanted / LARGEST_FACTOR), 1, largest_weight)
    factors = np.rint(wanted / weights)
    errors = np.abs(np.ldexp(gains * MULTIPLIERS, -shift) - ratio_b) * b.reach
    errors += np.abs(np.ldexp(weights * factors * MULTIPLIERS, -shift) - ratio_a) * a.reach
    errors[(gains < 1) | (gains > LARGEST_FACTOR) | (factors < 1) | (factors > LARGEST_FACTOR)] = np.inf
    best = int(errors.argmin())
    if not math.isfinite(errors[best]):
        raise CompileError(f"addition: no factors for the scales {a.scale}, {b.scale} and {scale}")
    run = Requantize(
        channels=range(channels),
        multiplier=int(MULTIPLIERS[best]),
        shift=shift,
        offset=offset,
        half_away=True,
        channel_multiplier=np.full(channels, int(factors[best]), np.int16),
    )
    return ExactSum(int(weights[best]), int(gains[best]), run, float(errors[best]))


@dataclass(frozen=True)
class ExactProduct:
    """(a - za) * ``factor`` * (b - zb), an integer of 32 bits, then OUT_CVT."""

    factor: int
    run: Requantize
    error: float


def exact_product(real: float, reach: int, channels: int, offset: int) -> ExactProduct:
    """A factor of 15 bits that with OUT_CVT's multiplier meets ``real``, never from below, so that ties stay ties.

    ``reach``: bound of |(a - za) * (b - zb)|. TFLite rounds to some bits behind the point first, so that near ties a
    result may be 1 apart. Raises CompileError for a factor that is out of range.
    """
    if not 2.0**-60 < real < 2.0**60:
        raise CompileError(f"product: no factors for {real}")
    largest = min(LARGEST_FACTOR, (2**31 - 1) // reach)
    shift = math.floor(math.log2(largest / real)) + MANTISSA_BITS - 1
    if not 1 <= shift <= LARGEST_SHIFT:
        raise CompileError(f"product: no shift for {real}")
    factors = np.ceil(np.ldexp(real / MULTIPLIERS, shift))
    seen = min(reach, (INT8_HIGH - INT8_LOW + 1) / real)  # beyond it the output is saturated
    errors = np.abs(np.ldexp(factors * MULTIPLIERS, -shift) - real) * seen
    errors[(factors < 1) | (factors > largest)] = np.inf
    best = int(errors.argmin())
    if not math.isfinite(errors[best]):
        raise CompileError(f"product: no factors for {real}")
    run = Requantize(range(channels), int(MULTIPLIERS[best]), shift, offset, half_away=True)
    return ExactProduct(int(factors[best]), run, float(errors[best]))


@dataclass(frozen=True, eq=False)
class ConstantSum:
    """(a - za) * ``weight`` + ``constants``, then the stages of ``run``."""

    weight: int
    constants: npt.NDArray[np.int32]  # (channels)
    run: Requantize
    error: float


def constant_sum(a: Operand, constants: Reals, scale: float, offset: int, norm: bool) -> ConstantSum:
    """A weight of eight bits at which the real ``constants``, (channels), are nearly whole steps of the accumulator.

    ``norm``: BN may be used. Raises CompileError where constants leave 32 bits beside every weight.
    """
    weights = np.arange(1, INT8_HIGH + 1, dtype=np.float64)[:, np.newaxis]
    wanted = constants * weights / a.scale
    steps = np.rint(wanted)
    errors = (np.abs(steps - wanted) * a.scale / weights / scale).max(axis=1)
    largest = np.abs(steps).max(axis=1) + weights[:, 0] * a.reach
    errors[largest >= 2**31] = np.inf
    best = int(errors.argmin())
    if not math.isfinite(errors[best]):
        raise CompileError(f"sum: a constant of {np.abs(constants).max()} leaves 32 bits in steps of {a.scale}")
    real = a.scale / scale / int(weights[best, 0])
    run = quotient(real, int(largest[best]), constants.size, offset, norm)
    seen = min(float(largest[best]), (INT8_HIGH - INT8_LOW + 1) / real)
    used = factor(run)
    if run.channel_multiplier is not None and run.norm_multiplier is not None:
        used *= math.ldexp(float(run.channel_multiplier[0]) * run.norm_multiplier, -run.channel_shift - run.norm_shift)
    error = float(errors[best]) + abs(used - real) * seen
    return ConstantSum(int(weights[best, 0]), steps[best].astype(np.int32), run, error)
