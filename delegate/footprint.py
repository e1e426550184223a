"""Which atoms of which buffers a task reads and writes, so that cores never meet in one of them.

Coefficients are left out: nothing writes them. What is read counts as it is programmed, padding rows among it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delegate.hw.layout import divide_up
from delegate.hw.task import Buffer, Place, Port
from delegate.ir import AnyTile, ConvTile, FlyingTile

ATOM = 16  # bytes

Atoms = npt.NDArray[np.uint8]  # a number for each atom of a buffer


@dataclass(frozen=True)
class Box:
    """Rows of pixels in several surfaces; pitches in atoms."""

    place: Place
    surfaces: int
    surface_pitch: int
    rows: int
    row_pitch: int
    width: int

    def of(self, atoms: Atoms) -> Atoms:
        """A view of its atoms among all of its buffer: uint8 (surfaces, rows, width)."""
        first = atoms[self.place.offset // ATOM :]
        last = (self.surfaces - 1) * self.surface_pitch + (self.rows - 1) * self.row_pitch + self.width
        assert last <= first.size, f"{self} leaves its buffer of {atoms.size} atoms"
        shape, strides = (self.surfaces, self.rows, self.width), (self.surface_pitch, self.row_pitch, 1)
        return np.lib.stride_tricks.as_strided(first, shape, strides)


def written(tile: AnyTile) -> Box:
    """What a task writes: whole groups of channels."""
    if isinstance(tile, ConvTile):
        pitch, channels, rows = tile.output_width + tile.output_skip, tile.output_channels, tile.output_height
        return box(tile.output, channels, tile.output_surface, rows, pitch, tile.output_width)
    if isinstance(tile, FlyingTile):
        return box(tile.output, tile.channels, tile.output_surface, tile.rows, tile.width, tile.width)
    return box(
        tile.output, tile.channels, tile.output_surface, tile.output_height, tile.output_width, tile.output_width
    )


def read(tile: AnyTile) -> Iterator[Box]:
    """What a task reads of tensors."""
    if isinstance(tile, ConvTile):
        rows, channels = tile.input_height, tile.input_channels
        yield box(tile.feature, channels, tile.input_surface, rows, tile.input_pitch, tile.input_width)
        if tile.addend is not None:
            rows, width, channels = tile.output_height, tile.output_width, tile.output_channels
            yield box(tile.addend, channels, tile.addend_surface, rows, width, width)
    elif isinstance(tile, FlyingTile):
        yield box(tile.main, tile.channels, tile.main_surface, tile.rows, tile.width, tile.width)
        if tile.operand is not None:
            rows, width = (1, 1) if tile.layer.per_channel else (tile.rows, tile.width)
            yield box(tile.operand, tile.channels, tile.operand_surface, rows, width, width)
    else:
        rows, pitch, width = tile.input_height, tile.input_pitch, tile.input_width
        yield box(tile.source, tile.channels, tile.source_surface, rows, pitch, width)


def box(place: Place, channels: int, surface_pitch: int, rows: int, row_pitch: int, width: int) -> Box:
    return Box(place, divide_up(channels, ATOM), surface_pitch, rows, row_pitch, width)


def boxes(port: Port) -> Iterator[Box]:
    """The pixels of a port's images."""
    images, height, width, _ = port.shape
    for image in range(images):
        place = Place(port.buffer, port.offset + image * port.image_bytes)
        yield Box(place, port.surfaces, port.surface_bytes // ATOM, 1, height * width, height * width)


class Meeting:
    """Who has read and written what since the cores last waited for each other: a bit of each atom for each core."""

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._buffers = buffers
        self._readers: dict[int, Atoms] = {}
        self._writers: dict[int, Atoms] = {}

    def _atoms(self, kept: dict[int, Atoms], buffer: int) -> Atoms:
        if buffer not in kept:
            kept[buffer] = np.zeros(divide_up(self._buffers[buffer].size, ATOM), np.uint8)
        return kept[buffer]

    def add(self, core: int, tiles: Sequence[AnyTile]) -> bool:
        """Notes what a core does; whether no other core writes what it touches, or has touched what it writes."""
        others, own = 0xFF & ~(1 << core), 1 << core
        free = True
        for tile in tiles:
            for one in read(tile):
                if self._buffers[one.place.buffer].role != "weight":
                    free &= not np.any(one.of(self._atoms(self._writers, one.place.buffer)) & others)
                    one.of(self._atoms(self._readers, one.place.buffer))[...] |= own
            one = written(tile)
            for kept in (self._readers, self._writers):
                free &= not np.any(one.of(self._atoms(kept, one.place.buffer)) & others)
            one.of(self._atoms(self._writers, one.place.buffer))[...] |= own
        return free
