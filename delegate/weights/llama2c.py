"""llama2.c's checkpoints: version 0 (no magic), 1 (float32 behind a header of 256 bytes) and 2 (int8 in groups).

Version 0: seven int32 (dim, hidden, layers, heads, heads of keys, vocabulary, context; a negative vocabulary says
that the classifier is not the embedding), then float32. Version 1: the magic "ak42", the version, the seven, a byte
that is 1 if the classifier is the embedding; float32 from byte 256. Version 2: as 1, behind that byte the size of a
group (int32); vectors are float32, each matrix is int8 followed by a float32 scale for each group of its elements.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from delegate.errors import ModelError
from delegate.weights.source import Array, Llama, Source, Tensor, check_shapes, llama_shapes

MAGIC = struct.pack("<I", 0x616B3432)
SIZES = struct.Struct("<7i")
HEADER_BYTES = 256  # of versions 1 and 2
VECTORS = ("attention_norm", "ffn_norm")
MATRICES = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")


@dataclass(frozen=True)
class Piece:
    """A tensor's place in the file; ``group``: int8 with a scale for so many elements, 0: float32."""

    name: str
    shape: tuple[int, ...]
    offset: int  # bytes
    group: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        count = prod(self.shape)
        return count + 4 * (count // self.group) if self.group else 4 * count


def read_llama2c(path: Path) -> Source:
    """A checkpoint; raises ModelError for one that is cut, longer than its header says, or none at all."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    versioned = head.startswith(MAGIC)
    if len(head) < (HEADER_BYTES if versioned else SIZES.size):
        raise ModelError(f"{path} has {size} bytes, less than the header of a llama2.c checkpoint")
    version = struct.unpack_from("<i", head, 4)[0] if versioned else 0
    if version not in (0, 1, 2) or (versioned and version == 0):
        raise ModelError(f"{path}: version {version} of llama2.c's format is unknown; 0, 1 and 2 are read")
    dim, hidden, layers, heads, kv_heads, vocabulary, context = SIZES.unpack_from(head, 8 if versioned else 0)
    shared = head[36] == 1 if versioned else vocabulary > 0
    llama = Llama(dim, hidden, layers, heads, kv_heads, abs(vocabulary), context)
    llama.check(f"{path} (as a llama2.c checkpoint)")
    group = struct.unpack_from("<i", head, 37)[0] if version == 2 else 0
    if version == 2 and not 0 < group <= llama.dim * llama.hidden:
        raise ModelError(f"{path}: groups of {group} weights; the file is damaged")
    layout = _version0(llama, shared) if version == 0 else _version12(llama, shared, group)
    pieces = {piece.name: piece for piece in _place(path, layout, SIZES.size if version == 0 else HEADER_BYTES)}
    expected = max(piece.offset + piece.size for piece in pieces.values())
    if size != expected:
        state = "cut off or another file" if size < expected else "longer than its header says"
        raise ModelError(f"{path} has {size} bytes, but its header says {expected}; it is {state}")
    tensors = {
        name: Tensor(piece.shape, partial(_read, path, piece)) for name, piece in pieces.items() if name != "rotation"
    }
    return check_shapes(Source(path, f"llama2.c version {version}", tensors, llama))


Layout = Iterator[tuple[str, tuple[int, ...], int]]
"""(name, shape, group) in the order of the file."""


def _version0(llama: Llama, shared: bool) -> Layout:
    shapes = llama_shapes(llama)
    yield "embedding", shapes["embedding"], 0
    for part in ("attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3"):
        yield from _layers(llama, part, 0)
    yield "norm", shapes["norm"], 0
    yield "rotation", (2, llama.context, llama.head // 2), 0  # cosines and sines, which are computed here
    if not shared:
        yield "classifier", shapes["classifier"], 0


def _version12(llama: Llama, shared: bool, group: int) -> Layout:
    shapes = llama_shapes(llama)
    for part in VECTORS:
        yield from _layers(llama, part, 0)
    yield "norm", shapes["norm"], 0
    yield "embedding", shapes["embedding"], group
    for part in MATRICES:
        yield from _layers(llama, part, group)
    if not shared:
        yield "classifier", shapes["classifier"], group


def _layers(llama: Llama, part: str, group: int) -> Layout:
    shapes = llama_shapes(llama)
    for layer in range(llama.layers):
        name = f"layers.{layer}.{part}"
        yield name, shapes[name], group


def _place(path: Path, layout: Layout, offset: int) -> Iterator[Piece]:
    for name, shape, group in layout:
        if group and prod(shape) % group:
            raise ModelError(f"{path}: {name} {shape} is not made of whole groups of {group}; the file is damaged")
        piece = Piece(name, shape, offset, group)
        offset += piece.size
        yield piece


def _read(path: Path, piece: Piece) -> Array:
    count = prod(piece.shape)
    if not piece.group:
        return np.fromfile(path, "<f4", count, offset=piece.offset).reshape(piece.shape)
    levels = np.fromfile(path, np.int8, count, offset=piece.offset).reshape(-1, piece.group)
    scales = np.fromfile(path, "<f4", count // piece.group, offset=piece.offset + count)
    weights: Array = (levels * scales[:, None]).reshape(piece.shape)
    return weights
