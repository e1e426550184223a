"""Outputs in blocks: a pixel of every block is computed as channels of its own, then pixels are put in their places.

Layers that stand still between two pixels of a block (TRANSPOSE_CONV, RESIZE_BILINEAR) are ordinary convolutions for
each place in a block. The rows of a block are written apart from each other at once (form ROW_SKIP); its columns lie
side by side in the channels of a tensor of blocks and are copied from there, one-pixel rows at a distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from delegate.hw.layout import align, divide_up
from delegate.hw.soc import PART_OF_ROW, ROW_SKIP, Target
from delegate.ir import AnyLayer, Convolution, Move, Node, Pixels, Tensor, all_pixels
from delegate.ops import Rule
from delegate.ops.copies import copy, forms_of, rectangle
from delegate.ops.inner import BLOCKS, inner
from delegate.ops.rules import ALLOW

LARGEST_SKIP = (1 << 13) - 1  # pixels that can be left out behind a row: the bits of DATA_CUBE_NOTCH_ADDR
LARGEST_MOVES = 512  # of a node; each is a task at least
WOVEN, UNCUT = BLOCKS  # the tensor of blocks; the output before the last blocks are cut


@dataclass(frozen=True)
class Side:
    """One side of an output in blocks of ``period`` pixels; the last block may be cut."""

    size: int  # pixels
    period: int  # pixels of a block

    @property
    def blocks(self) -> int:
        return divide_up(self.size, self.period)

    @property
    def cut(self) -> bool:
        """Whether the last block is."""
        return self.size % self.period > 0

    @property
    def phases(self) -> range:
        """The places in a block that any pixel has."""
        return range(min(self.period, self.size))

    def count(self, phase: int) -> int:
        """How many pixels have a place in their block."""
        return divide_up(self.size - phase, self.period)


def tensor_of_blocks(node: Node, output: Tensor, columns: Side, unit: int) -> Tensor:
    """What the layers of the phases write: one pixel for a row of a block, the columns in its channels.

    ``unit``: channels that a column takes, a multiple of an atom's. With blocks one pixel wide it is the output.
    """
    images, height, _, _ = output.shape
    if columns.period == 1:
        return output
    return inner(output, WOVEN, (images, height, columns.blocks, columns.period * unit))


def row_moves(source: Tensor, blocks: Tensor, rows: Side, phase: int, channel: int = 0) -> tuple[Move, ...]:
    """From whole images to the rows of the blocks that have a place there."""
    images, _, width, _ = blocks.shape
    return tuple(
        Move(
            all_pixels(source, image),
            Pixels(rows.count(phase), width, rows.period * width, phase * width, image, channel),
        )
        for image in range(images)
    )


def padding_behind(outputs: int, step: int, window: int, before: int, size: int) -> int:
    """Pixels that windows reach beyond a side of ``size``, ``before`` of them being padded before it."""
    return max(0, (outputs - 1) * step + window - before - size)


def put_columns(node: Node, blocks: Tensor, output: Tensor, columns: Side, unit: int) -> list[Convolution]:
    """The copies that make the output of the tensor of blocks: a move for each column, then the end is cut off."""
    if columns.period == 1:
        return []
    images, height, _, channels = output.shape
    uncut = output
    if columns.cut:
        uncut = inner(output, UNCUT, (images, height, columns.blocks * columns.period, channels))
    pixels = height * columns.blocks
    moves = tuple(
        Move(
            Pixels(pixels, 1, 1, image=image, channel=phase * unit),
            Pixels(pixels, 1, columns.period, phase, image),
        )
        for image in range(images)
        for phase in range(columns.period)
    )
    column = replace(blocks, shape=(*blocks.shape[:3], channels))  # what one move reads
    layers = [replace(copy(node, column, uncut, moves), inputs=(blocks,))]
    if columns.cut:
        layers.append(copy(node, uncut, output, cut(uncut, output)))
    return layers


def cut(source: Tensor, output: Tensor) -> tuple[Move, ...]:
    """The first rows and columns of a larger tensor."""
    images, height, width, _ = output.shape
    return tuple(
        Move(rectangle(source, 0, 0, height, width, image), all_pixels(output, image)) for image in range(images)
    )


def unit_of(channels: int, target: Target) -> int:
    """Channels that a column takes in a tensor of blocks."""
    return align(channels, target.soc.atom_bytes)


def moves_of(layers: Sequence[AnyLayer]) -> list[Move]:
    return [move for layer in layers if isinstance(layer, Convolution) for move in layer.moves]


def rules_of_moves(lower: Callable[[Node, Target], Sequence[AnyLayer]]) -> list[Rule]:
    """What the layers of a node must be like for the chip; ``lower`` gives them."""
    return [
        Rule(
            f"all parts that are moved are at most {LARGEST_MOVES}",
            lambda node, target: len(moves_of(lower(node, target))) <= LARGEST_MOVES,
            "sizes of which one is a multiple of the other, or a smaller batch",
        ),
        Rule(
            f"what is left out between two rows of an output is at most {LARGEST_SKIP} pixels",
            lambda node, target: all(
                move.target.pitch - move.target.width <= LARGEST_SKIP for move in moves_of(lower(node, target))
            ),
            "a narrower output",
        ),
        Rule(
            f"the device may use: {ROW_SKIP}",
            lambda node, target: ROW_SKIP in target.forms or ROW_SKIP not in forms_of(moves_of(lower(node, target))),
            ALLOW,
        ),
        Rule(
            f"no row is read in part, or the device may use: {PART_OF_ROW}",
            lambda node, target: (
                PART_OF_ROW in target.forms or PART_OF_ROW not in forms_of(moves_of(lower(node, target)))
            ),
            ALLOW,
        ),
    ]
