"""For each task an atom that it alone writes: a pattern put there before a run is gone only if the task has run.

Where a tile writes is worked out from its sizes, as the emitters program them: whole kernel groups, so that a part of a
concatenation may write over its neighbour's first atoms, which then are nobody's witness.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from delegate.hw.layout import divide_up
from delegate.hw.task import Buffer, Place, Port
from delegate.ir import AnyTile, ConvTile, FlyingTile

Atoms = npt.NDArray[np.bool_]
ATOM = 16  # bytes


def region(atoms: Atoms, first: int, shape: tuple[int, int, int], surface: int, pitch: int) -> Atoms:
    """A view of the atoms of a cube: bool (surfaces, rows, width). ``first``, ``surface``, ``pitch``: in atoms."""
    return np.lib.stride_tricks.as_strided(atoms[first:], shape, (surface, pitch, 1))


def written(atoms: Atoms, tile: AnyTile) -> Atoms:
    """A view of the atoms that a tile writes: bool (surfaces, rows, width)."""
    if isinstance(tile, ConvTile):
        height, width, skip, channels = tile.output_height, tile.output_width, tile.output_skip, tile.output_channels
    elif isinstance(tile, FlyingTile):
        height, width, skip, channels = tile.rows, tile.width, 0, tile.channels
    else:
        height, width, skip, channels = tile.output_height, tile.output_width, 0, tile.channels
    shape = divide_up(channels, ATOM), height, width
    return region(atoms, tile.output.offset // ATOM, shape, tile.output_surface, width + skip)


def given(atoms: Atoms, port: Port) -> list[Atoms]:
    """Views of the atoms that the host writes, an image each."""
    _, height, width, _ = port.shape
    shape, surface = (port.surfaces, height, width), port.surface_bytes // ATOM
    starts = [(port.offset + image * port.image_bytes) // ATOM for image in range(port.shape[0])]
    return [region(atoms, start, shape, surface, width) for start in starts]


def witnesses(tiles: Sequence[AnyTile], buffers: Sequence[Buffer], inputs: Sequence[Port]) -> tuple[Place | None, ...]:
    """For each task the last atom of true channels that it writes and neither another task nor the host does.

    None where there is no such atom. ``tiles``: of all tasks, in order.
    """
    once, again = ([np.zeros(divide_up(buffer.size, ATOM), np.bool_) for buffer in buffers] for _ in range(2))
    for port in inputs:
        for view in given(once[port.buffer], port):
            view[...] = True
    for tile in tiles:
        seen, repeated = written(once[tile.output.buffer], tile), written(again[tile.output.buffer], tile)
        repeated |= seen
        seen[...] = True
    return tuple(last_alone(again[tile.output.buffer], tile) for tile in tiles)


def last_alone(repeated: Atoms, tile: AnyTile) -> Place | None:
    """The last atom of a tile's true channels that was written once."""
    channels = tile.output_channels_real if isinstance(tile, ConvTile) else tile.channels
    alone = np.argwhere(~written(repeated, tile)[: divide_up(channels, ATOM)])
    if not len(alone):
        return None
    view = written(repeated, tile)
    surface, row, column = (int(index) for index in alone[-1])
    steps = surface * view.strides[0] + row * view.strides[1] + column
    return tile.output + steps * ATOM
