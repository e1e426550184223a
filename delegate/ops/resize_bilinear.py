"""RESIZE_BILINEAR: depthwise convolutions of up to 2 x 2 taps, one for each place of an output pixel in its block.

Where products of the fractions are whole numbers of up to 255 over a common divisor, sums are exact and rounded once,
as TFLite rounds: the result is its own. A side that only repeats pixels is copied as by RESIZE_NEAREST_NEIGHBOR. Beyond
the input its border goes on. Sides whose fractions do not repeat are done line by line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np

from delegate import quantize
from delegate.hw.layout import fits_cbuf
from delegate.hw.soc import NORM_SHIFT, Soc, Target
from delegate.ir import Convolution, Move, Node, Requantize, Tensor
from delegate.ops import Rule, lowers
from delegate.ops.copies import copy, rectangle
from delegate.ops.inner import RESIZED, inner
from delegate.ops.interleave import (
    LARGEST_MOVES,
    padding_behind,
    put_columns,
    row_moves,
    rules_of_moves,
    tensor_of_blocks,
    unit_of,
)
from delegate.ops.interpolation import (
    LARGEST_WEIGHT,
    Positions,
    Reals,
    Weave,
    drift,
    positions,
    unchanged,
    weave,
    whole_weights,
)
from delegate.ops.resize_nearest_neighbor import RESIZE_RULES, gathered, is_identity
from delegate.ops.rules import NODES_AT_A_TIME
from delegate.requantize import quotient

GATHERED, COLUMNS_DONE, BORDERED, BORDERED_AGAIN = RESIZED[1:]  # numbers of inner tensors
LARGEST_PASS = 16  # places in a block that are interpolated in one pass; more are two passes, columns before rows
LARGEST_ERROR = 0.999  # steps; a result that errs by less than 1 before it is rounded is within 1 behind that
QUOTIENT_ERROR = 256 * 2.0**-14  # steps, of a divisor that is no power of two and has one multiplier of 15 bits
SPAN = 256 * 4 * LARGEST_WEIGHT  # bound of an accumulator


@dataclass(frozen=True)
class Woven:
    """A pass over both sides in blocks."""

    rows: Weave
    columns: Weave

    @property
    def places(self) -> list[tuple[int, int]]:
        """Row and column of each pixel of a block."""
        return list(product(self.rows.phases, self.columns.phases))

    def shares(self, row: int, column: int) -> Reals:
        """What the pixels of the window have of one place in the block."""
        return np.outer(self.rows.taps(row), self.columns.taps(column))

    @property
    def all_shares(self) -> list[Reals]:
        """The shares of every place."""
        return [self.shares(*place) for place in self.places]

    def fits(self, height: int, width: int, soc: Soc) -> bool:
        """Whether one layer can do it, from so many rows and columns."""
        window = len(self.rows.window), len(self.columns.window)
        kernel = window[0] * window[1] * soc.depthwise_group
        read = width + sum(self.columns.border(width))
        return (
            len(self.places) <= LARGEST_MOVES
            and max(self.rows.step, self.columns.step) <= soc.largest_stride
            and max(window) <= soc.largest_kernel
            and kernel <= soc.kernel_bytes_limit
            and fits_cbuf(window[0], read, soc.depthwise_group, kernel, soc)
        )


@dataclass(frozen=True)
class Lines:
    """A pass over one side, each line of the output by itself; axis 0: rows."""

    axis: int
    exact: Positions

    @property
    def all_shares(self) -> list[Reals]:
        """The shares of every line."""
        return [line_shares(fraction) for fraction in set(self.exact.fraction.tolist())]


@dataclass(frozen=True)
class Plan:
    """Sides of which each output is one pixel are gathered, then the others interpolated."""

    gathered: tuple[list[int], list[int]]  # the pixels of rows and columns
    passes: tuple[Woven | Lines, ...]
    drift: float = 0.0  # steps that positions in blocks may differ from TFLite's


def line_shares(fraction: float) -> Reals:
    return np.array([1 - fraction, fraction][: 2 if fraction else 1])


def plan_of(node: Node, target: Target) -> Plan:
    """What is done for a node: blocks where they are near enough and fit the chip, else lines."""
    feature, output = node.inputs[0], node.outputs[0]
    assert feature is not None
    flags = node.params["align_corners"], node.params["half_pixel_centers"]
    extents = list(zip(feature.shape[1:3], output.shape[1:3], strict=True))
    exact = [positions(size, extent, *flags, feature.dtype) for size, extent in extents]
    singles = [side.single for side in exact]
    gathers = [list(range(size)) if one is None else one for (size, _), one in zip(extents, singles, strict=True)]
    plan = Plan((gathers[0], gathers[1]), ())
    if singles.count(None) == 0:
        return plan
    sides, moved = [], 0.0
    for (size, extent), side, single in zip(extents, exact, singles, strict=True):
        sides.append(weave(size, extent, *flags) if single is None else unchanged(extent))
        moved += drift(sides[-1], side, size) if single is None else 0.0
    woven = weave_passes(sides[0], sides[1], len(gathers[0]))
    if all(one.fits(len(gathers[0]), len(gathers[1]), target.soc) for one in woven):
        plan = Plan(plan.gathered, woven, moved)
        if error_of(plan, target) <= LARGEST_ERROR:
            return plan
    lines = tuple(Lines(axis, exact[axis]) for axis in (1, 0) if singles[axis] is None)
    return Plan(plan.gathered, lines)


def error_of(plan: Plan, target: Target) -> float:
    """Bound in steps of a result's error before its last rounding: positions, weights, divisions, other roundings."""
    error = plan.drift + max(0, len(plan.passes) - 1) / 2
    for one in plan.passes:
        found = [whole_weights(shares) for shares in one.all_shares]
        error += max(
            weights_error + QUOTIENT_ERROR * (not two_multipliers(divisor, target) and not is_power_of_two(divisor))
            for _, divisor, weights_error in found
        )
    return error


def is_power_of_two(divisor: int) -> bool:
    return divisor & (divisor - 1) == 0


def two_multipliers(divisor: int, target: Target) -> bool:
    """Whether BN divides as well; a power of two needs no such form."""
    return NORM_SHIFT in target.forms and not is_power_of_two(divisor)


def weave_passes(rows: Weave, columns: Weave, height: int) -> tuple[Woven, ...]:
    """Both sides at once if their blocks are small; ``height``: rows before."""
    if rows.period == 1 or columns.period == 1 or rows.period * columns.period <= LARGEST_PASS:
        return (Woven(rows, columns),)
    return Woven(unchanged(height), columns), Woven(rows, unchanged(columns.size))


@lru_cache(maxsize=2048)
def division(divisor: int, channels: int, zero: int, norm: bool) -> Requantize:
    """A division of sums; finding two multipliers takes milliseconds, and layers have divisors in common."""
    return quotient(1 / divisor, SPAN, channels, zero, norm)


def weighted(
    node: Node,
    source: Tensor,
    output: Tensor,
    shares: Reals,
    moves: tuple[Move, ...],
    target: Target,
) -> Convolution:
    """A layer whose outputs are sums of a few pixels with ``shares`` (height, width) that sum to 1.

    The sum of the stored numbers is divided and rounded, halves away from zero: those of uint8 from their own zero.
    """
    channels = source.shape[3]
    weights, divisor, _ = whole_weights(shares)
    point = quantize.INT8_LOW if weights.max() > quantize.INT8_HIGH else 0
    zero = -quantize.domain_offset(source.dtype)
    run = division(divisor, channels, zero, two_multipliers(divisor, target))
    stored = (weights + point).astype(np.int8)[None, :, :, None]
    return Convolution(
        node=node.index,
        operator=node.op,
        inputs=(source,),
        output=output,
        weight=np.broadcast_to(stored, (*stored.shape[:3], channels)).copy(),
        weight_zero_point=point,
        bias=np.full(channels, -zero * divisor, np.int32),
        input_zero_point=0,  # what is padded has no share, or is cut off
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        depthwise=True,
        requantize=(run,),
        accumulator_scale=None,
        moves=moves,
    )


def parts_with_border(size: int, before: int, after: int) -> list[tuple[int, int, int]]:
    """(place in the bordered tensor, place in the tensor, pixels) of what one side of a bordered tensor is made of."""
    pixels = [(i, 0, 1) for i in range(before)] + [(before, 0, size)]
    return pixels + [(before + size + i, size - 1, 1) for i in range(after)]


def with_border(
    node: Node, source: Tensor, rows: Weave, columns: Weave, number: int
) -> tuple[list[Convolution], Tensor]:
    """(the layer that adds what is read beyond the tensor, if anything; the tensor to read)."""
    images, height, width, channels = source.shape
    row_border, column_border = rows.border(height), columns.border(width)
    if not any((*row_border, *column_border)):
        return [], source
    shape = (images, sum(row_border) + height, sum(column_border) + width, channels)
    larger = inner(node.outputs[0], number, shape)
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


def weave_layers(
    node: Node, source: Tensor, output: Tensor, woven: Woven, number: int, target: Target
) -> list[Convolution]:
    """The layers of a pass in blocks; ``number``: of the tensor with a border.

    A layer writes whole groups of channels; what lies behind a column's own is written later.
    """
    rows, columns = woven.rows, woven.columns
    unit = unit_of(source.shape[3], target)
    layers, larger = with_border(node, source, rows, columns, number)
    blocks = tensor_of_blocks(node, output, columns, unit)
    for row, column in woven.places:
        moves = row_moves(larger, blocks, rows, row, column * unit)
        layer = weighted(node, larger, blocks, woven.shares(row, column), moves, target)
        bottom = padding_behind(rows.count(row), rows.step, layer.window[0], 0, larger.shape[1])
        right = padding_behind(columns.blocks, columns.step, layer.window[1], 0, larger.shape[2])
        layers.append(replace(layer, stride=(rows.step, columns.step), padding=(0, bottom, 0, right)))
    return [*layers, *put_columns(node, blocks, output, columns, unit)]


def line_layers(node: Node, source: Tensor, output: Tensor, lines: Lines, target: Target) -> list[Convolution]:
    """The layers of a pass line by line: one for all lines of one fraction."""
    images, height, width, _ = source.shape
    by_fraction: dict[float, list[int]] = {}
    for line, fraction in enumerate(lines.exact.fraction.tolist()):
        by_fraction.setdefault(fraction, []).append(line)
    layers = []
    for fraction, numbers in by_fraction.items():
        shares = line_shares(fraction)
        moves = []
        for image, line in product(range(images), numbers):
            first = int(lines.exact.lower[line])
            if lines.axis == 0:
                read = rectangle(source, first, 0, len(shares), width, image)
                moves.append(Move(read, rectangle(output, line, 0, 1, width, image)))
            else:
                read = rectangle(source, 0, first, height, len(shares), image)
                moves.append(Move(read, rectangle(output, 0, line, height, 1, image)))
        shaped = shares[:, None] if lines.axis == 0 else shares[None, :]
        layers.append(weighted(node, source, output, shaped, tuple(moves), target))
    return layers


@lru_cache(maxsize=NODES_AT_A_TIME)
def layers(node: Node, target: Target) -> list[Convolution]:
    """The layers of a node."""
    plan = plan_of(node, target)
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    if not plan.passes:
        return gathered(node, source, output, *plan.gathered)
    result: list[Convolution] = []
    if not all(map(is_identity, plan.gathered, source.shape[1:3])):
        shape = (source.shape[0], len(plan.gathered[0]), len(plan.gathered[1]), source.shape[3])
        small = inner(node.outputs[0], GATHERED, shape)
        result += gathered(node, source, small, *plan.gathered)
        source = small
    for number, one in enumerate(plan.passes):
        made = output
        if number < len(plan.passes) - 1:  # columns alone
            made = inner(node.outputs[0], COLUMNS_DONE, (*source.shape[:2], *output.shape[2:]))
        if isinstance(one, Lines):
            result += line_layers(node, source, made, one, target)
        else:
            result += weave_layers(node, source, made, one, BORDERED + number, target)
        source = made
    return result


def lines_fit(node: Node, target: Target) -> bool:
    lines = sum(len(one.exact.fraction) for one in plan_of(node, target).passes if isinstance(one, Lines))
    return lines * node.outputs[0].shape[0] <= LARGEST_MOVES


RATIO_REMEDY = "a ratio of the sizes that is a power of two, or with align_corners such a ratio of the sizes less one"


@lowers(
    "RESIZE_BILINEAR",
    [
        *RESIZE_RULES,
        Rule(
            "not both of align_corners and half_pixel_centers are set",
            lambda node, target: not (node.params["align_corners"] and node.params["half_pixel_centers"]),
            "set one of them alone",
        ),
        Rule(f"lines that are interpolated by themselves are at most {LARGEST_MOVES}", lines_fit, RATIO_REMEDY),
        Rule(
            "weights of 8 bits meet the fractions so that results are within 1 of TFLite's",
            lambda node, target: error_of(plan_of(node, target), target) <= LARGEST_ERROR,
            RATIO_REMEDY,
        ),
        *rules_of_moves(layers),
    ],
)
def resize_bilinear(node: Node, target: Target) -> list[Convolution]:
    """out[y,x,c] = round(sum of in[i,j,c] * share of row i in y * share of column j in x), halves away from zero."""
    return layers(node, target)
