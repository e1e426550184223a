"""Positions and weights of bilinear interpolation along one side of a tensor, on the host.

Sizes in a ratio of small numbers repeat their fractions from block to block (Weave); TFLite's own positions, which it
computes with few bits, may drift away from that (Positions).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from delegate.ops.interleave import Side

LARGEST_WEIGHT = 255  # with the weights' zero point at -128
DIVISORS = np.arange(1, 4 * LARGEST_WEIGHT + 1)
FIXED_ONE = 1 << 10  # TFLite's positions of int8 pixels
STEPS = 255  # between the ends of 8 bits
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Positions:
    """Where TFLite looks along one side: (output) each; ``fraction`` is the part that ``upper`` has."""

    lower: npt.NDArray[np.int64]
    upper: npt.NDArray[np.int64]
    fraction: Reals

    @property
    def single(self) -> list[int] | None:
        """The one pixel that each output is, if all of them are."""
        return None if self.fraction.any() else self.lower.tolist()


@dataclass(frozen=True)
class Weave(Side):
    """One side in blocks: out[block * period + phase] is 1 - fraction of in[block * step + first] and fraction of the
    next, ``first`` and ``fraction`` being those of the phase."""

    step: int
    first: tuple[int, ...]
    fraction: tuple[Fraction, ...]

    @property
    def window(self) -> range:
        """Pixels that any phase reads, counted from block * step on, that one among them."""
        last = max(first + (fraction > 0) for first, fraction in zip(self.first, self.fraction, strict=True))
        return range(min(0, *self.first), last + 1)

    def taps(self, phase: int) -> Reals:
        """The weights of the window's pixels."""
        weights = np.zeros(len(self.window))
        place, fraction = self.first[phase] - self.window.start, float(self.fraction[phase])
        weights[place] = 1 - fraction
        if fraction:
            weights[place + 1] = fraction
        return weights

    def read(self, output: int) -> tuple[int, Fraction]:
        """(pixel, fraction of the next) of an output; the pixel may lie beyond the input."""
        block, phase = divmod(output, self.period)
        return block * self.step + self.first[phase], self.fraction[phase]

    def border(self, size: int) -> tuple[int, int]:
        """How many pixels before the input and behind it are read with a weight."""
        reads = [self.read(output) for output in range(self.size)]
        before = max(-first for first, _ in reads)
        after = max(first + (fraction > 0) for first, fraction in reads) - (size - 1)
        return max(0, before), max(0, after)


def positions(size: int, output: int, align_corners: bool, half_pixel: bool, dtype: str) -> Positions:
    """TFLite's arithmetic: uint8 in float32, int8 in numbers of 10 fractional bits."""
    aligned = align_corners and output > 1
    inputs, outputs = (size - 1, output - 1) if aligned else (size, output)
    places = np.arange(output)
    if dtype == "int8":
        scale = (FIXED_ONE * inputs + outputs // 2) // outputs
        at = places * scale + ((scale // 2 - FIXED_ONE // 2) if half_pixel else 0)
        # at is above -1024, so that what C rounds towards zero is 0 like the limit
        lower, upper, real = at // FIXED_ONE, -(-at // FIXED_ONE), at / FIXED_ONE
    else:
        factor, half = np.float32(inputs) / np.float32(outputs), np.float32(0.5 if half_pixel else 0)
        real = ((places.astype(np.float32) + half) * factor - half).astype(np.float64)
        lower, upper = np.floor(real).astype(np.int64), np.ceil(real).astype(np.int64)
    lower, upper = np.maximum(lower, 0), np.minimum(upper, size - 1)
    return Positions(lower, upper, np.where(lower == upper, 0.0, real - lower))


def weave(size: int, output: int, align_corners: bool, half_pixel: bool) -> Weave:
    """The positions in exact numbers, which repeat."""
    aligned = align_corners and output > 1
    ratio = Fraction(size - 1, output - 1) if aligned else Fraction(size, output)
    half = Fraction(1, 2) if half_pixel else Fraction(0)
    period = min(ratio.denominator, output)
    exact = [(phase + half) * ratio - half for phase in range(period)]
    first = tuple(place.numerator // place.denominator for place in exact)
    fractions = tuple(place - whole for place, whole in zip(exact, first, strict=True))
    return Weave(output, period, ratio.numerator if output > period else 1, first, fractions)


def unchanged(size: int) -> Weave:
    """A side that stays as it is."""
    return Weave(size, 1, 1, (0,), (Fraction(0),))


def shares(size: int, lower: int, upper: int, fraction: float) -> dict[int, float]:
    """How much of an output each pixel is; pixels beyond the input are those of the border."""
    lower, upper = min(max(lower, 0), size - 1), min(max(upper, 0), size - 1)
    found = {lower: 1.0 - fraction}
    found[upper] = found.get(upper, 0.0) + fraction
    return found


def drift(side: Weave, exact: Positions, size: int) -> float:
    """By how many steps TFLite's positions along a side can move a result away from those of the blocks."""
    worst = 0.0
    for output in range(side.size):
        first, fraction = side.read(output)
        ours = shares(size, first, first + 1, float(fraction))
        theirs = shares(size, int(exact.lower[output]), int(exact.upper[output]), float(exact.fraction[output]))
        worst = max(worst, sum(abs(ours.get(i, 0.0) - theirs.get(i, 0.0)) for i in ours.keys() | theirs.keys()))
    return worst / 2 * STEPS


def whole_weights(shares: Reals) -> tuple[npt.NDArray[np.int64], int, float]:
    """(whole numbers of the same proportions, their sum, steps that a result may err by); ``shares`` sum to 1."""
    taken = shares[shares > 0]
    scaled = np.rint(taken * DIVISORS[:, None]).astype(np.int64)
    possible = (scaled.sum(axis=1) == DIVISORS) & (scaled.max(axis=1) <= LARGEST_WEIGHT)
    errors = np.abs(scaled / DIVISORS[:, None] - taken).sum(axis=1) / 2 * STEPS
    best = int(np.argmin(np.where(possible, np.round(errors, 9), np.inf)))
    weights = np.zeros(shares.shape, np.int64)
    weights[shares > 0] = scaled[best]
    return weights, int(DIVISORS[best]), float(errors[best])
