"""For each task an atom that it alone writes: a pattern put there before a run is gone only if the task has run.

A tile writes whole kernel groups (delegate.footprint), so that a part of a concatenation may write over its neighbour's
first atoms, which then are nobody's witness.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from delegate.footprint import ATOM, Atoms, boxes, written
from delegate.hw.layout import divide_up
from delegate.hw.task import Buffer, Place, Port
from delegate.ir import AnyTile, ConvTile


def witnesses(tiles: Sequence[AnyTile], buffers: Sequence[Buffer], inputs: Sequence[Port]) -> tuple[Place | None, ...]:
    """For each task the last atom of true channels that it writes and neither another task nor the host does.

    None where there is no such atom. ``tiles``: of all tasks, in order.
    """
    once, again = ([np.zeros(divide_up(buffer.size, ATOM), np.uint8) for buffer in buffers] for _ in range(2))
    for port in inputs:
        for box in boxes(port):
            box.of(once[port.buffer])[...] = 1
    for tile in tiles:
        box = written(tile)
        seen, repeated = box.of(once[box.place.buffer]), box.of(again[box.place.buffer])
        repeated |= seen
        seen[...] = 1
    return tuple(last_alone(again[tile.output.buffer], tile) for tile in tiles)


def last_alone(repeated: Atoms, tile: AnyTile) -> Place | None:
    """The last atom of a tile's true channels that was written once."""
    channels = tile.output_channels_real if isinstance(tile, ConvTile) else tile.channels
    box = written(tile)
    alone = np.argwhere(box.of(repeated)[: divide_up(channels, ATOM)] == 0)
    if not len(alone):
        return None
    surface, row, column = (int(index) for index in alone[-1])
    return box.place + (surface * box.surface_pitch + row * box.row_pitch + column) * ATOM
