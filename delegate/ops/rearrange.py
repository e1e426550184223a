"""Operators that only move numbers: from where each number comes to a view, or to the copies that bring it there.

An operator says for each element of its output which element of its input it is. What that means on the chip is found
here: pixels whose channels come from the same places around them are copied by one layer, a convolution whose kernels
take one number each; rectangles of such pixels are its moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from delegate.errors import CompileError
from delegate.hw.layout import align, fits_cbuf, surface_rows
from delegate.hw.soc import Soc, Target
from delegate.ir import Convolution, Move, Node, Tensor, View, all_pixels, as_cube
from delegate.ops.copies import FILL, copy, one_hot, tap
from delegate.ops.rectangles import MOST_PARTS, Elements, Integers, Pattern, Read, moves_of

ELSEWHERE = -2  # in place of an element's number: the pixel is written by another piece
GAP = np.iinfo(np.int32).min  # distance of an element that is filled
MOST_ELEMENTS = 1 << 23  # of a tensor whose elements are looked at one by one
MOST_WEIGHT_BYTES = 1 << 22  # of a layer that only copies: they are read again at every inference


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of an output that comes from one input.

    ``origin``, in the output's shape: the number of the source's element, FILL or ELSEWHERE, that for whole pixels.
    """

    source: Tensor
    output: Tensor
    origin: Elements
    fill: int = 0  # int8 domain


Pieces = Callable[[Node], Sequence[Piece]]


@dataclass(frozen=True)
class Step:
    """Moves that one layer makes."""

    pattern: bytes  # what tells kernels apart
    read: Read


def elements(tensor: Tensor) -> Elements:
    """The numbers of a tensor's elements, in its shape."""
    return np.arange(np.prod(tensor.shape), dtype=np.int32).reshape(tensor.shape)


def rearrange(node: Node, piece: Piece, target: Target) -> list[View | Convolution]:
    """The view or the layers of a piece; raises CompileError where that would take too many."""
    source, output = as_cube(piece.source), as_cube(piece.output)
    origin = piece.origin.reshape(output.shape)
    view = as_view(source, output, origin, target.soc)
    if view:
        return [view]
    piece = replace(piece, source=source, output=output, origin=origin)
    try:
        return list(layers_of(node, piece, [range(output.shape[3])], target))
    except CompileError as whole:
        for size in (source.shape[3], target.soc.depthwise_group, target.soc.atom_bytes):
            if size % target.soc.atom_bytes == 0 and size < output.shape[3]:
                blocks = [range(a, min(a + size, output.shape[3])) for a in range(0, output.shape[3], size)]
                try:
                    return list(layers_of(node, piece, blocks, target))
                except CompileError:
                    continue
        raise whole


def as_view(source: Tensor, output: Tensor, origin: Elements, soc: Soc) -> View | None:
    """The output as a part of the source's memory, if it is one: whole rows, from a channel on that begins an atom."""
    images, height, width, channels = output.shape
    first = int(origin.flat[0])
    if first < 0:
        return None
    image, row, column, channel = (int(i) for i in np.unravel_index(first, source.shape))
    if image or column or channel % soc.atom_bytes:
        return None
    part = elements(source)[..., channel : channel + channels]
    if source.shape[:1] + source.shape[2:3] == (images, width):
        part = part[:, row : row + height]
    else:
        pitches = {surface_rows(tensor.shape[1], soc) * tensor.shape[2] for tensor in (source, output)}
        if row or len(pitches) > 1 or not images == source.shape[0] == 1:
            return None
    if part.size != origin.size or part.shape[3] != channels or not np.array_equal(part.reshape(origin.shape), origin):
        return None
    return View(output, source, row, channel)


def layers_of(node: Node, piece: Piece, blocks: list[range], target: Target) -> Iterator[Convolution]:
    """Copies of the output's channels, block by block; one that writes into the next one comes before it."""
    channels = piece.output.shape[3]
    flat = piece.origin.reshape(-1, channels)
    pixels = np.flatnonzero(flat[:, 0] != ELSEWHERE)
    apart = len(blocks) == 1 or len(blocks[0]) % target.soc.depthwise_group == 0
    found: list[tuple[Step, Pattern, list[Move]]] = []
    count = 0
    for block in blocks:
        for pattern in patterns(piece, flat[pixels, block.start : block.stop], pixels, target.soc):
            for read, move in moves_of(pattern, piece.source, piece.output, target):
                step = Step(pattern.kernel.tobytes(), read)
                move = replace(move, target=replace(move.target, channel=block.start))
                count += 1
                if count > MOST_PARTS:
                    raise CompileError(f"{node.op}: more than {MOST_PARTS} parts")
                candidates = found if apart else found[-1:]
                same = next((moves for other, _, moves in candidates if other == step), None)
                if same is None:
                    found.append((step, pattern, [move]))
                else:
                    same.append(move)
    total = 0
    for step, pattern, moves in found:
        made = layer(node, piece, pattern, step.read, tuple(moves), target.soc)
        total += made.weight.nbytes
        if total > MOST_WEIGHT_BYTES:
            raise CompileError(f"{node.op}: kernels of more than {MOST_WEIGHT_BYTES} bytes for a copy")
        yield made


def patterns(piece: Piece, flat: Elements, pixels: Integers, soc: Soc) -> Iterator[Pattern]:
    """The pixels of some channels by what they read around them; ``flat`` (pixels, channels)."""
    filled = flat == FILL
    first = flat[np.arange(len(flat)), filled.argmin(axis=1)]
    distance = np.where(filled, np.int32(GAP), flat - first[:, np.newaxis])
    distance = np.column_stack([distance, first % piece.source.shape[3]])
    factors = np.random.default_rng(0).integers(1 << 62, size=distance.shape[1]) | 1
    likeness = distance @ factors  # equal for equal rows, and, but for one case in 2**60, only for them
    _, examples, kind = np.unique(likeness, return_index=True, return_inverse=True)
    if len(examples) > MOST_PARTS:
        raise CompileError(f"more than {MOST_PARTS} kinds of pixels")
    found: dict[bytes, list[Pattern]] = {}
    for number, example in enumerate(examples):
        members = np.flatnonzero(kind == number)
        if not (distance[members] == distance[example]).all():
            raise CompileError("two kinds of pixels look alike")
        pattern = windows(piece, flat[example], first[members], pixels[members], soc)
        found.setdefault(pattern.kernel.tobytes(), []).append(pattern)
    for alike in found.values():
        fields = ("pixels", "image", "row", "column", "channel")
        merged = {field: np.concatenate([getattr(pattern, field) for pattern in alike]) for field in fields}
        order = np.argsort(merged["pixels"])
        yield Pattern(alike[0].kernel, **{field: merged[field][order] for field in fields})


def windows(piece: Piece, example: Elements, first: Elements, pixels: Integers, soc: Soc) -> Pattern:
    """The pattern of pixels that all read as ``example`` does; ``first`` is the first element that each reads."""
    _, height, width, channels = piece.source.shape
    taken = np.flatnonzero(example != FILL)
    kernel = np.full((len(example), 3), FILL, np.int64)
    kernel[:, :2] = 0
    if not len(taken):  # what is read counts nothing
        if piece.source.shape[1:3] != piece.output.shape[1:3]:
            raise CompileError("pixels that are only filled, in another shape than the input's")
        row, column = np.divmod(pixels % (height * width), width)
        return Pattern(kernel, pixels, np.zeros_like(row), row, column, np.zeros_like(row))
    place, channel = np.divmod(example[taken].astype(np.int64), channels)
    rows, columns = np.divmod(place, width)
    kernel[taken] = np.stack([rows - rows.min(), columns - columns.min(), channel], axis=1)
    window = kernel[:, :2].max(axis=0) + 1
    image, rest = np.divmod(first.astype(np.int64) // channels, height * width)
    row, column = np.divmod(rest, width)
    row, column = row - kernel[taken[0], 0], column - kernel[taken[0], 1]
    if row.min() < 0 or column.min() < 0 or row.max() + window[0] > height or column.max() + window[1] > width:
        raise CompileError("pixels that wrap around the rows of the input")
    start = 0
    if (window == 1).all():
        start = int(channel.min()) // soc.atom_bytes * soc.atom_bytes
        kernel[taken, 2] -= start
    return Pattern(kernel, pixels, image, row, column, np.full_like(row, start))


def layer(node: Node, piece: Piece, pattern: Pattern, read: Read, moves: tuple[Move, ...], soc: Soc) -> Convolution:
    """One layer for all moves that read alike."""
    kernel = pattern.kernel.copy()
    height, width = kernel[:, :2].max(axis=0) + 1
    window = (int(height), int(width) + read.column)
    count = len(kernel)
    depthwise = np.array_equal(kernel, np.stack([np.zeros(count), np.zeros(count), np.arange(count)], axis=1))
    kernel[:, 1] += read.column
    channels = int(kernel[:, 2].max(initial=0)) + 1
    together = soc.depthwise_group if depthwise else align(channels, soc.atom_bytes)
    kernel_bytes = window[0] * window[1] * together
    group_bytes = kernel_bytes * (1 if depthwise else soc.kernel_group)
    widest = max(move.source.width for move in moves)
    if (
        kernel_bytes > soc.kernel_bytes_limit
        or max(window) > soc.largest_kernel
        or max(count, channels) > soc.largest_channels
        or not fits_cbuf(min(window[0], piece.source.shape[1]), widest, together, group_bytes, soc)
    ):
        raise CompileError(f"{node.op}: kernels of {window} x {channels}, {count} of them, are too large for a copy")
    weight = tap(window, 0, read.column, count) if depthwise else one_hot(kernel, window, channels)
    images = range(piece.output.shape[0])
    everything = [Move(all_pixels(piece.source, i), all_pixels(piece.output, i)) for i in images]
    return copy(
        node,
        piece.source,
        piece.output,
        () if list(moves) == everything else moves,
        weight=weight,
        depthwise=depthwise,
        fill=piece.fill,
        stride=read.stride,
    )


@lru_cache(maxsize=64)
def arranged(node: Node, pieces: Pieces, target: Target) -> tuple[View | Convolution, ...]:
    """All layers of an operator; rules ask for them before they are needed. Raises CompileError."""
    found = [layer for piece in pieces(node) for layer in rearrange(node, piece, target)]
    parts = sum(max(1, len(layer.moves)) for layer in found if isinstance(layer, Convolution))
    if parts > MOST_PARTS:
        raise CompileError(f"{node.op}: {parts} parts")
    return tuple(found)
