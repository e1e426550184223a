"""Pixels that are copied alike, as rectangles that one task each can read and write.

Reading a part of each row needs no form that is not proven where the kernel finds it: a window as wide as what lies to
the left reads whole rows and takes their later pixels. Rows one by one are always possible, for a single row has no
pitch; so is a pixel.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from delegate.errors import CompileError
from delegate.hw.soc import Target
from delegate.ir import Move, Pixels, Tensor
from delegate.ops.copies import forms_of

# A task in a chain takes some µs, a round trip through TFLite a few hundred (silicon-figures.md).
MOST_PARTS = 256
Elements = npt.NDArray[np.int32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Pattern:
    """Output pixels whose channels come from the same places of a window; each array has one number a pixel."""

    kernel: Integers  # (channels, 3): row and column in the window, channel from the first one read on, or FILL
    pixels: Integers  # of the output, counted through all images, ascending
    image: Integers  # of the source
    row: Integers  # of the window's first pixel
    column: Integers
    channel: Integers  # that is read first; begins an atom


@dataclass(frozen=True)
class Read:
    """How a layer reads besides its kernel."""

    stride: tuple[int, int] = (1, 1)
    column: int = 0  # pixels of each row before those that the first window takes


@dataclass(frozen=True, eq=False)
class Grid:
    """Pixels of an image at places that are rows and columns of equal distances; arrays (rows, columns)."""

    target: Integers  # pixel of the output's image
    row: Integers  # of the source
    column: Integers
    image: int  # of the source
    channel: int
    target_image: int


def moves_of(pattern: Pattern, source: Tensor, output: Tensor, target: Target) -> Iterator[tuple[Read, Move]]:
    """The moves that copy a pattern, as few as are found; raises CompileError where a window cannot be placed."""
    height, width = (int(extent) for extent in pattern.kernel[:, :2].max(axis=0) + 1)
    for grid in grids(pattern, output):
        yield from moves_of_grid(grid, (height, width), source, target)


def grids(pattern: Pattern, output: Tensor) -> Iterator[Grid]:
    """A pattern's pixels by image and first channel, each as one grid, or as one for each row of the output."""
    _, height, width, _ = output.shape
    keys = (pattern.pixels // (height * width), pattern.image, pattern.channel)
    extents = tuple(int(key.max()) + 1 for key in keys)
    kinds, kind = np.unique(np.ravel_multi_index(keys, extents), return_inverse=True)
    if len(kinds) > MOST_PARTS:
        raise CompileError(f"more than {MOST_PARTS} parts")
    for number, which in enumerate(kinds.tolist()):
        target_image, image, channel = (int(i) for i in np.unravel_index(which, extents))
        members = np.flatnonzero(kind == number)
        place = pattern.pixels[members] % (height * width)
        rows, columns = np.unique(place // width), np.unique(place % width)
        shape = (len(rows), len(columns)) if len(rows) * len(columns) == len(place) else (1, len(place))
        places, read_rows, read_columns = (
            array.reshape(shape) for array in (place, pattern.row[members], pattern.column[members])
        )
        yield Grid(places, read_rows, read_columns, image, channel, target_image)


def part(grid: Grid, rows: slice, columns: slice) -> Grid:
    """Some rows and columns of a grid."""
    chosen = (rows, columns)
    return replace(grid, target=grid.target[chosen], row=grid.row[chosen], column=grid.column[chosen])


def moves_of_grid(grid: Grid, window: tuple[int, int], source: Tensor, target: Target) -> list[tuple[Read, Move]]:
    """A grid as one rectangle or as several: its rows, its columns, runs of pixels, pixels."""
    whole = rectangle_of(grid, window, source, target)
    if whole:
        return [whole]
    rows, columns = grid.target.shape
    if rows * columns == 1:
        raise CompileError(f"a window of {window} that begins in column {int(grid.column[0, 0])}")
    everything = slice(None)
    if rows > 1 and columns > 1:
        cuts = [
            [part(grid, slice(i, i + 1), everything) for i in range(rows)],
            [part(grid, everything, slice(i, i + 1)) for i in range(columns)],
        ]
    else:
        pixels = runs(grid, source)
        flat = replace(grid, **{name: getattr(grid, name).reshape(1, -1) for name in ("target", "row", "column")})
        cuts = [[part(flat, everything, run) for run in pixels]]
    found = [found for cut in cuts if (found := moves_of_grids(cut, window, source, target))]
    if not found:
        raise CompileError(f"more than {MOST_PARTS} parts")
    return min(found, key=len)


def moves_of_grids(cut: list[Grid], window: tuple[int, int], source: Tensor, target: Target) -> list[tuple[Read, Move]]:
    """The moves of several grids; none if they are too many."""
    found: list[tuple[Read, Move]] = []
    for grid in cut:
        if len(cut) > MOST_PARTS or len(found) >= MOST_PARTS:
            return []
        found += moves_of_grid(grid, window, source, target)
    return found


def runs(grid: Grid, source: Tensor) -> list[slice]:
    """Pixels in a row cut where distances change; pixels one by one where they do not.

    Not all of them where they are more than MOST_PARTS, which is too many whatever the others are.
    """
    read, written = (grid.row * source.shape[2] + grid.column).reshape(-1), grid.target.reshape(-1)
    distances = np.stack([np.diff(read), np.diff(written)])
    changes = np.flatnonzero((distances[:, 1:] != distances[:, :-1]).any(axis=0))  # between a distance and the next
    ends = [0]
    while len(ends) <= MOST_PARTS:
        place = int(np.searchsorted(changes, ends[-1]))
        if place == len(changes):
            break
        ends.append(int(changes[place]) + 2)
    if len(ends) == 1:
        ends = list(range(min(len(read), MOST_PARTS + 1)))
    return [slice(a, b) for a, b in itertools.pairwise([*ends, len(read)])]


def step(numbers: Integers, axis: int) -> int | None:
    """The distance from each number to the next along an axis, if it is one; 0 for single numbers."""
    if numbers.shape[axis] == 1:
        return 0
    distances = np.diff(numbers, axis=axis)
    first = int(distances.flat[0])
    return first if bool((distances == first).all()) else None


def rectangle_of(grid: Grid, window: tuple[int, int], source: Tensor, target: Target) -> tuple[Read, Move] | None:
    """The one move that copies a grid, if the target knows one."""
    found = plane(grid, window, source, target)
    if found is None and window == (1, 1):
        found = stretch(grid, source) or column(grid, source, target)
    if found is None:
        return None
    read, pixels, written = found
    move = Move(replace(pixels, image=grid.image, channel=grid.channel), replace(written, image=grid.target_image))
    if not forms_of([move]) <= target.forms or pixels.pitch < pixels.width or written.pitch < written.width:
        return None
    return read, move


def plane(grid: Grid, window: tuple[int, int], source: Tensor, target: Target) -> tuple[Read, Pixels, Pixels] | None:
    """Rows from rows and columns from columns, at a stride that a convolution has."""
    rows, columns = grid.target.shape
    pitch, beside = step(grid.target, 0), step(grid.target, 1)
    steps = (step(grid.row, 0), step(grid.column, 1))
    if beside not in (0, 1) or pitch is None or step(grid.row, 1) != 0 or step(grid.column, 0) != 0:
        return None
    if steps[0] is None or steps[1] is None:
        return None
    stride = (steps[0] if rows > 1 else 1, steps[1] if columns > 1 else 1)
    if not all(1 <= size <= target.soc.largest_stride for size in stride):
        return None
    first_row, first_column, width = int(grid.row[0, 0]), int(grid.column[0, 0]), source.shape[2]
    height, span = (rows - 1) * stride[0] + window[0], (columns - 1) * stride[1] + window[1]
    written = Pixels(rows, columns, pitch if rows > 1 else columns, int(grid.target[0, 0]))
    if height == 1:
        return Read(stride), Pixels(1, span, span, first_row * width + first_column), written
    if first_column + window[1] <= target.soc.largest_kernel:
        return Read(stride, first_column), Pixels(height, width, width, first_row * width), written
    return Read(stride), Pixels(height, span, width, first_row * width + first_column), written


def stretch(grid: Grid, source: Tensor) -> tuple[Read, Pixels, Pixels] | None:
    """Pixels that follow each other in memory, whatever their rows."""
    rows, columns = grid.target.shape
    read = grid.row * source.shape[2] + grid.column
    from_pitch, to_pitch = step(read, 0), step(grid.target, 0)
    if columns == 1 or step(read, 1) != 1 or step(grid.target, 1) != 1 or from_pitch is None or to_pitch is None:
        return None
    if rows == 1:
        from_pitch = to_pitch = columns
    pixels = Pixels(rows, columns, from_pitch, int(read[0, 0]))
    return Read(), pixels, Pixels(rows, columns, to_pitch, int(grid.target[0, 0]))


def column(grid: Grid, source: Tensor, target: Target) -> tuple[Read, Pixels, Pixels] | None:
    """Pixels at equal distances, as rows of one pixel."""
    width = source.shape[2]
    places, read = grid.target.reshape(-1, 1), (grid.row * width + grid.column).reshape(-1, 1)
    pitch, distance = step(places, 0), step(read, 0)
    if pitch is None or distance is None or pitch < 1 or distance < 1:
        return None
    written = Pixels(len(places), 1, pitch, int(places[0, 0]))
    rows, first_row, first_column = distance // width, int(grid.row[0, 0]), int(grid.column[0, 0])
    if distance % width == 0 and rows <= target.soc.largest_stride and first_column < target.soc.largest_kernel:
        height = (len(places) - 1) * rows + 1
        return Read((rows, 1), first_column), Pixels(height, width, width, first_row * width), written
    return Read(), Pixels(len(places), 1, distance, int(read[0, 0])), written
