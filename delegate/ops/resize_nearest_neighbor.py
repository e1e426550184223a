"""RESIZE_NEAREST_NEIGHBOR: copies, first of columns, then of rows; exact.

Where the columns of a block of the output come from columns of a block of the input, one move of one-pixel rows does
all of one column of the blocks; in the worst case there is a move for each column. Rows alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from delegate.hw.layout import divide_up
from delegate.hw.soc import Target
from delegate.ir import Convolution, Move, Node, Pixels, Tensor
from delegate.ops import Rule, lowers
from delegate.ops.copies import copy
from delegate.ops.inner import RESIZED, inner
from delegate.ops.interleave import Side, rules_of_moves
from delegate.ops.rules import EXTENT, FEATURES_8_BIT, IMAGES, MALFORMED, NODES_AT_A_TIME, SAME_DTYPE

WIDENED = RESIZED[0]  # between the copies of columns and those of rows


@dataclass(frozen=True)
class Gather(Side):
    """out[block * period + phase] = in[block * step + first[phase]] along one side."""

    step: int
    first: tuple[int, ...]


def nearest(size: int, output: int, align_corners: bool, half_pixel_centers: bool) -> list[int]:
    """The input pixel of each output pixel along one side, by TFLite's arithmetic in float32."""
    aligned = align_corners and output > 1
    scale = np.float32(size - 1) / np.float32(output - 1) if aligned else np.float32(size) / np.float32(output)
    offset = np.float32(0.5 if half_pixel_centers else 0)
    places = ((np.arange(output).astype(np.float32) + offset) * scale).astype(np.float64)
    pixels = np.floor(places + 0.5 if align_corners else places).astype(int)
    return [int(pixel) for pixel in np.clip(pixels, 0, size - 1)]


def follows(pixels: Sequence[int], period: int, step: int) -> bool:
    """Whether each block of ``period`` outputs reads ``step`` pixels behind the one before."""
    places = np.arange(len(pixels))
    return bool((np.array(pixels)[places % period] + places // period * step == pixels).all())


def gather_rows(pixels: Sequence[int]) -> Gather:
    """The fewest moves for rows, which may be any number of rows apart."""
    for period in range(1, len(pixels)):
        step = pixels[period] - pixels[0]
        if follows(pixels, period, step):
            return Gather(len(pixels), period, step, tuple(pixels[:period]))
    return Gather(len(pixels), len(pixels), 0, tuple(pixels))


def gather_columns(pixels: Sequence[int], width: int) -> Gather:
    """The fewest moves for columns: blocks must fill a row of the input, for a move goes on from row to row."""
    for period in range(1, len(pixels)):
        step, rest = divmod(width, divide_up(len(pixels), period))
        if not rest and follows(pixels, period, step):
            return Gather(len(pixels), period, step, tuple(pixels[:period]))
    return Gather(len(pixels), len(pixels), width, tuple(pixels))


def is_identity(pixels: Sequence[int], size: int) -> bool:
    return list(pixels) == list(range(size))


def gathered(
    node: Node, source: Tensor, output: Tensor, rows: Sequence[int], columns: Sequence[int]
) -> list[Convolution]:
    """The copies for out[y,x] = in[rows[y], columns[x]]."""
    images, height, width, channels = source.shape
    if height == width == 1:  # one pixel again and again
        pixels = output.shape[1] * output.shape[2]
        moves = tuple(Move(Pixels(pixels, 1, 0, image=i), Pixels(pixels, 1, 1, image=i)) for i in range(images))
        return [copy(node, source, output, moves)]
    layers: list[Convolution] = []
    rows_stay, columns_stay = is_identity(rows, height), is_identity(columns, width)
    if rows_stay and columns_stay:
        return [copy(node, source, output)]
    if not columns_stay:
        side = gather_columns(columns, width)
        whole = rows_stay and not side.cut
        shape = (images, height, side.blocks * side.period, channels)
        widened = output if whole else inner(node.outputs[0], WIDENED, shape)
        layers.append(copy(node, source, widened, column_moves(source, side)))
        source = widened
    if source is not output:
        layers.append(copy(node, source, output, row_copies(source, output, gather_rows(rows))))
    return layers


def column_moves(source: Tensor, side: Gather) -> tuple[Move, ...]:
    """A move for each column of a block, over all rows; a block that is cut may read what is not there."""
    images, height, width, _ = source.shape
    pixels = height * side.blocks
    moves = []
    for image in range(images):
        for phase, first in enumerate(side.first):
            count = min(pixels, divide_up(height * width - first, side.step))
            moves.append(Move(Pixels(count, 1, side.step, first, image), Pixels(count, 1, side.period, phase, image)))
    return tuple(moves)


def row_copies(source: Tensor, output: Tensor, side: Gather) -> tuple[Move, ...]:
    """A move for each row of a block; the source may be wider than the output."""
    width = output.shape[2]
    moves = []
    for image in range(output.shape[0]):
        for phase in side.phases:
            count = side.count(phase)
            period, step = (side.period, side.step) if count > 1 else (1, 1)  # nothing lies between
            start = side.first[phase] * source.shape[2]
            moves.append(
                Move(
                    Pixels(count, width, step * source.shape[2], start, image),
                    Pixels(count, width, period * width, phase * width, image),
                )
            )
    return tuple(moves)


def sizes_are_constant(node: Node, target: Target) -> bool:
    """TFLite has resized the output by then."""
    return len(node.inputs) == 2 and node.inputs[1] is not None and node.inputs[1].data is not None


def channels_stay(node: Node, target: Target) -> bool:
    feature = node.inputs[0]
    return feature is not None and feature.shape[3] == node.outputs[0].shape[3]


RESIZE_RULES = [
    Rule("the output's size is a constant", sizes_are_constant, "a model with fixed shapes"),
    Rule(
        "the input is computed",
        lambda node, target: node.inputs[0] is not None and node.inputs[0].data is None,
        "compute it beforehand",
    ),
    FEATURES_8_BIT,
    SAME_DTYPE,
    IMAGES,
    EXTENT,
    Rule("channels stay", channels_stay, MALFORMED),
]


@lru_cache(maxsize=NODES_AT_A_TIME)
def layers(node: Node, target: Target) -> list[Convolution]:
    """The layers of a node."""
    feature, output = node.inputs[0], node.outputs[0]
    assert feature is not None
    flags = node.params["align_corners"], node.params["half_pixel_centers"]
    rows, columns = (nearest(feature.shape[axis], output.shape[axis], *flags) for axis in (1, 2))
    return gathered(node, feature, output, rows, columns)


@lowers("RESIZE_NEAREST_NEIGHBOR", [*RESIZE_RULES, *rules_of_moves(layers)])
def resize_nearest_neighbor(node: Node, target: Target) -> list[Convolution]:
    """out[y,x,c] = in[nearest(y), nearest(x), c]; stored numbers are copied, whatever the quantization."""
    return layers(node, target)
