"""RESIZE_BILINEAR: depthwise convolutions of up to 2 x 2 taps, one for each place of an output pixel in its block.

Sizes in a ratio of small numbers repeat their fractions from block to block. Where products of the fractions are whole
numbers of up to 255 over a common divisor, sums are exact and rounded once, as TFLite rounds: the result is its own.
A side that only repeats pixels is copied as by RESIZE_NEAREST_NEIGHBOR. Beyond the input its border goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import product

import numpy as np
import numpy.typing as npt

from delegate import quantize
from delegate.hw.layout import fits_cbuf
from delegate.hw.soc import NORM_SHIFT, Target
from delegate.ir import Convolution, Move, Node, Tensor
from delegate.ops import Rule, lowers
from delegate.ops.conv2d import CBUF_TEXT
from delegate.ops.copies import copy, rectangle
from delegate.ops.interleave import (
    Side,
    inner_tensor,
    put_columns,
    row_moves,
    rules_of_moves,
    tensor_of_blocks,
    unit_of,
)
from delegate.ops.resize_nearest_neighbor import RESIZE_RULES, WIDENED, gathered, is_identity
from delegate.requantize import LARGEST_ERROR, quotient

RATIO_REMEDY = "sizes of which one is a small multiple of the other"
GATHERED, COLUMNS_DONE, BORDERED, BORDERED_AGAIN = range(WIDENED + 1, WIDENED + 5)  # numbers of inner tensors
LARGEST_PASS = 16  # phases of a block that are interpolated in one pass; more are two passes, columns before rows
LARGEST_WEIGHT = 255  # with the weights' zero point at -128
DIVISORS = np.arange(1, 4 * LARGEST_WEIGHT + 1)
FIXED_ONE = 1 << 10  # TFLite's positions of int8 pixels
STEPS = 255  # between the ends of 8 bits
SPAN = 256 * 4 * LARGEST_WEIGHT  # bound of an accumulator
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
        fraction = np.where(self.upper == self.lower, 0.0, self.fraction)
        return self.lower.tolist() if not fraction.any() else None


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

    def taps(self, phase: int) -> list[Fraction]:
        """The weights of the window's pixels."""
        weights = [Fraction(0)] * len(self.window)
        place = self.first[phase] - self.window.start
        weights[place] = 1 - self.fraction[phase]
        if self.fraction[phase]:
            weights[place + 1] = self.fraction[phase]
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
    return Positions(lower, upper, real - lower)


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
    scaled = np.rint(shares.reshape(-1) * DIVISORS[:, None]).astype(np.int64)
    possible = (scaled.sum(axis=1) == DIVISORS) & (scaled.max(axis=1) <= LARGEST_WEIGHT)
    errors = np.abs(scaled / DIVISORS[:, None] - shares.reshape(-1)).sum(axis=1) / 2 * STEPS
    best = int(np.argmin(np.where(possible, np.round(errors, 9), np.inf)))
    return scaled[best].reshape(shares.shape), int(DIVISORS[best]), float(errors[best])


def phase_weights(rows: Weave, columns: Weave, row: int, column: int) -> tuple[npt.NDArray[np.int64], int, float]:
    """The weights of one place in the blocks, as whole_weights has them."""
    return whole_weights(np.outer(rows.taps(row), columns.taps(column)).astype(np.float64))


def phase_layer(
    node: Node, source: Tensor, blocks: Tensor, rows: Weave, columns: Weave, row: int, column: int, target: Target
) -> Convolution:
    """The layer that computes one pixel of every block.

    The sum of the stored numbers is divided and rounded, halves away from zero: those of uint8 from their own zero.
    """
    channels = source.shape[3]
    weights, divisor, _ = phase_weights(rows, columns, row, column)
    point = quantize.INT8_LOW if weights.max() > quantize.INT8_HIGH else 0
    zero = -quantize.domain_offset(source.dtype)
    exact_power = divisor & (divisor - 1) == 0
    run = quotient(1 / divisor, SPAN, channels, zero, NORM_SHIFT in target.forms and not exact_power)
    stored = (weights + point).astype(np.int8)[None, :, :, None]
    return Convolution(
        node=node.index,
        operator=node.op,
        inputs=(source,),
        output=blocks,
        weight=np.broadcast_to(stored, (*stored.shape[:3], channels)).copy(),
        weight_zero_point=point,
        bias=np.full(channels, -zero * divisor, np.int32),
        input_zero_point=0,  # what is padded has weight 0, or is cut off
        stride=(rows.step, columns.step),
        padding=(0, 0, 0, 0),
        depthwise=True,
        requantize=(run,),
        accumulator_scale=None,
        moves=row_moves(source, blocks, rows, row, column * unit_of(channels, target) if columns.period > 1 else 0),
    )


def parts_with_border(size: int, before: int, after: int) -> list[tuple[int, int, int]]:
    """(place in the bordered tensor, place in the tensor, pixels) of what one side of a bordered tensor is made of."""
    pixels = [(i, 0, 1) for i in range(before)] + [(before, 0, size)]
    return pixels + [(before + size + i, size - 1, 1) for i in range(after)]


def with_border(node: Node, source: Tensor, rows: Weave, columns: Weave, number: int) -> tuple[list[Convolution], Tensor]:
    """(the layer that adds what is read beyond the tensor, if anything; the tensor to read)."""
    images, height, width, channels = source.shape
    row_border, column_border = rows.border(height), columns.border(width)
    if not any((*row_border, *column_border)):
        return [], source
    shape = (images, sum(row_border) + height, sum(column_border) + width, channels)
    larger = inner_tensor(node, number, shape)
    moves = [
        Move(
            rectangle(source, from_y, from_x, count_y, count_x, image),
            rectangle(larger, to_y, to_x, count_y, count_x, image),
        )
        for image in range(images)
        for to_y, from_y, count_y in parts_with_border(height, *row_border)
        for to_x, from_x, count_x in parts_with_border(width, *column_border)
    ]
    return [copy(node, source, larger, tuple(moves))], larger


def interpolated(
    node: Node, source: Tensor, output: Tensor, rows: Weave, columns: Weave, number: int, target: Target
) -> list[Convolution]:
    """One pass; ``number``: of the tensor with a border."""
    unit = unit_of(source.shape[3], target)
    layers, larger = with_border(node, source, rows, columns, number)
    blocks = tensor_of_blocks(node, output, columns, unit)
    # A layer writes whole groups of channels; those behind a column's own are written later.
    layers += [
        phase_layer(node, larger, blocks, rows, columns, row, column, target)
        for row, column in product(rows.phases, columns.phases)
    ]
    return [*layers, *put_columns(node, blocks, output, columns, unit)]


@dataclass(frozen=True)
class Plan:
    """Sides of which each output is one pixel are gathered, then the others interpolated."""

    gathered: tuple[list[int], list[int]]  # the pixels of rows and columns
    sides: tuple[Weave, Weave]  # rows and columns
    drift: float  # steps, what TFLite's positions differ from those of the blocks

    @property
    def passes(self) -> list[tuple[Weave, Weave]]:
        """Rows and columns of each pass."""
        rows, columns = self.sides
        if rows.period == 1 or columns.period == 1 or rows.period * columns.period <= LARGEST_PASS:
            return [(rows, columns)]
        height = len(self.gathered[0])
        return [(unchanged(height), columns), (rows, unchanged(columns.size))]

    @property
    def error(self) -> float:
        """Bound of the error in steps that is not of the last rounding nor of one between two passes."""
        error = self.drift
        for rows, columns in self.passes:
            error += max(
                phase_weights(rows, columns, *phases)[2] for phases in product(rows.phases, columns.phases)
            )
        return error


def plan_of(node: Node) -> Plan:
    """What is done for a node."""
    feature, output = node.inputs[0], node.outputs[0]
    assert feature is not None
    align_corners, half_pixel = node.params["align_corners"], node.params["half_pixel_centers"]
    gathered_pixels: list[list[int]] = []
    sides: list[Weave] = []
    moved = 0.0
    for size, extent in zip(feature.shape[1:3], output.shape[1:3], strict=True):
        exact = positions(size, extent, align_corners, half_pixel, feature.dtype)
        single = exact.single
        gathered_pixels.append(list(range(size)) if single is None else single)
        sides.append(unchanged(extent) if single is not None else weave(size, extent, align_corners, half_pixel))
        moved += drift(sides[-1], exact, size) if single is None else 0.0
    return Plan((gathered_pixels[0], gathered_pixels[1]), (sides[0], sides[1]), moved)


def layers(node: Node, target: Target) -> list[Convolution]:
    """The layers of a node that is within the bounds; raises CompileError for a sum that has no divisor."""
    plan = plan_of(node)
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    interpolates = any(side.period > 1 or any(side.fraction) for side in plan.sides)
    if not interpolates:
        return gathered(node, source, output, *plan.gathered)
    result: list[Convolution] = []
    if not all(map(is_identity, plan.gathered, source.shape[1:3])):
        shape = (source.shape[0], len(plan.gathered[0]), len(plan.gathered[1]), source.shape[3])
        inner = inner_tensor(node, GATHERED, shape)
        result += gathered(node, source, inner, *plan.gathered)
        source = inner
    for number, (rows, columns) in enumerate(plan.passes):
        last = number == len(plan.passes) - 1
        shape = (source.shape[0], rows.size, columns.size, source.shape[3])
        made = output if last else inner_tensor(node, COLUMNS_DONE, shape)
        result += interpolated(node, source, made, rows, columns, BORDERED + number, target)
        source = made
    return result


def flags_agree(node: Node, target: Target) -> bool:
    return not (node.params["align_corners"] and node.params["half_pixel_centers"])


def strides_fit(node: Node, target: Target) -> bool:
    return all(side.step <= target.soc.largest_stride for side in plan_of(node).sides)


def windows_fit(node: Node, target: Target) -> bool:
    """Kernel and CBUF, for a depthwise group of channels."""
    feature, group = node.inputs[0], target.soc.depthwise_group
    assert feature is not None
    plan = plan_of(node)
    for rows, columns in plan.passes:
        height, width = len(rows.window), len(columns.window)
        kernel = height * width * group
        read = len(plan.gathered[1]) + sum(columns.border(len(plan.gathered[1])))
        if max(height, width) > target.soc.largest_kernel or kernel > target.soc.kernel_bytes_limit:
            return False
        if not fits_cbuf(height, read if rows.period == 1 or columns.period > 1 else columns.size, group, kernel, target.soc):
            return False
    return True


@lowers(
    "RESIZE_BILINEAR",
    [
        *RESIZE_RULES,
        Rule("not both of align_corners and half_pixel_centers are set", flags_agree),
        Rule(
            f"results err by less than {LARGEST_ERROR} steps before they are rounded",
            lambda node, target: plan_of(node).error <= LARGEST_ERROR,
            "a ratio of the sizes that is a power of two, or such a ratio of the sizes less one with align_corners",
        ),
        Rule("an input is at most 7 times as large as the output", strides_fit, "an average pooling"),
        Rule(f"a block of outputs reads at most 31 x 31 pixels, and {CBUF_TEXT}", windows_fit, RATIO_REMEDY),
        *rules_of_moves(layers),
    ],
)
def resize_bilinear(node: Node, target: Target) -> list[Convolution]:
    """out[y,x,c] = round(sum of in[i,j,c] * share of row i in y * share of column j in x), halves away from zero."""
    return layers(node, target)
