"""Files of weights in the NPU's layout, made to be mapped: what is in one, and where.

    header     magic, version, whether it is complete, sizes, SHA-256 of description and digests
    description  JSON: what the model is, its tensors, and their blocks: place, bytes
    digests    SHA-256 of each block, 32 bytes each; zeros where it has not been written yet
    blocks     each from a page's beginning on: a matrix as ``delegate.matmul.pack`` makes it, an array as numpy has it

The digests make a file that is being written its own journal: ``writer.py`` goes on behind the last block whose digest
is right.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from delegate.errors import ModelError
from delegate.hw.layout import align, divide_up
from delegate.hw.task import Bytes
from delegate.matmul.packing import LARGEST_SIZE, Packing
from delegate.weights.source import Array

MAGIC = b"NPUWGHTS"
VERSION = 1
HEADER = struct.Struct("<8sIIQQQ32s")  # magic, version, complete, bytes of description, blocks, bytes of file, digest
PAGE = 4096  # bytes
DIGEST = 32  # bytes
LARGEST_DESCRIPTION = 1 << 26  # bytes
LARGEST_BLOCK = 1 << 32  # bytes: the NPU's addresses have 32 bits
ELEMENT = "float16"  # of matrices
PART_DEPTH = 2048  # of matrices: the layout depends on it, so it is the format's and not delegate.matmul's default
ARRAYS = {1: "float32", 2: "float16"}  # element of an array by dimensions: vectors are exact, tables half as large


@dataclass(frozen=True)
class Block:
    """A part of a tensor that is written at once; ``columns``: those of its matrix, empty for an array."""

    offset: int  # bytes, from the first block
    size: int  # bytes
    columns: range = range(0)


@dataclass(frozen=True)
class Stored:
    """A tensor of a file. A matrix (K, N) of more columns than one product takes has a block for each share of them."""

    name: str
    kind: Literal["matrix", "array"]
    element: str  # numpy's name
    shape: tuple[int, ...]
    blocks: tuple[Block, ...]

    def as_json(self) -> dict[str, Any]:
        blocks = [[block.offset, block.size, block.columns.start, block.columns.stop] for block in self.blocks]
        return {**vars(self), "shape": list(self.shape), "blocks": blocks}


@dataclass(frozen=True)
class Description:
    """All that is known of a file before its first block is written."""

    model: Mapping[str, Any]  # architecture, sizes, source; JSON
    tensors: tuple[Stored, ...]

    @cached_property
    def content(self) -> bytes:
        """As the file has it."""
        fields = {"model": self.model, "tensors": [tensor.as_json() for tensor in self.tensors]}
        return json.dumps(fields, sort_keys=True).encode()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """In the order of the file."""
        return tuple(block for tensor in self.tensors for block in tensor.blocks)

    @property
    def digests_offset(self) -> int:
        return align(HEADER.size + len(self.content), DIGEST)

    @property
    def blocks_offset(self) -> int:
        """Where the first block is."""
        return align(self.digests_offset + DIGEST * len(self.blocks), PAGE)

    @property
    def file_size(self) -> int:
        return self.blocks_offset + max((block.offset + block.size for block in self.blocks), default=0)

    def header(self, digests: bytes, complete: bool) -> bytes:
        digest = hashlib.sha256(self.content + digests).digest()
        count = len(self.blocks)
        return HEADER.pack(MAGIC, VERSION, int(complete), len(self.content), count, self.file_size, digest)


def describe(model: Mapping[str, Any], tensors: Sequence[tuple[str, str, tuple[int, ...]]]) -> Description:
    """The description of (name, kind, shape) in that order; raises ModelError for a matrix that no product takes."""
    offset = 0
    stored: list[Stored] = []
    for name, kind, shape in tensors:
        element = ELEMENT if kind == "matrix" else ARRAYS.get(len(shape), "float32")
        blocks = []
        for size, columns in _sizes(name, kind, shape, element):
            blocks.append(Block(offset, size, columns))
            offset = align(offset + size, PAGE)
        stored.append(Stored(name, "matrix" if kind == "matrix" else "array", element, shape, tuple(blocks)))
    return Description(model, tuple(stored))


def _sizes(name: str, kind: str, shape: tuple[int, ...], element: str) -> Iterator[tuple[int, range]]:
    if kind == "array":
        yield max(1, prod(shape) * np.dtype(element).itemsize), range(0)
        return
    depth, columns = shape
    if not 1 <= depth <= LARGEST_SIZE or columns < 1:
        raise ModelError(f"{name} has {depth} rows (K) and {columns} columns: a product takes 1 to {LARGEST_SIZE} rows")
    step = align(divide_up(columns, divide_up(columns, LARGEST_SIZE)), 32)
    for first in range(0, columns, step):
        share = range(first, min(first + step, columns))
        size = Packing(element, depth, len(share), PART_DEPTH).size
        if size > LARGEST_BLOCK:
            raise ModelError(f"{name} has {size} bytes: the NPU reaches {LARGEST_BLOCK}")
        yield size, share


def read_description(content: Bytes, where: object) -> tuple[Description, tuple[bytes, ...]]:
    """(description, digest of each block) of a file's bytes; raises ModelError unless it is complete and whole.

    The blocks themselves are not looked at: see ``PackedWeights.damaged``.
    """
    if len(content) < HEADER.size:
        raise ModelError(f"{where} has {len(content)} bytes, less than the header of a file of packed weights")
    magic, version, complete, length, count, size, digest = HEADER.unpack(bytes(content[: HEADER.size]))
    if magic != MAGIC:
        raise ModelError(f"{where} is no file of packed weights; make one: python -m delegate convert-weights IN OUT")
    if version != VERSION:
        raise ModelError(f"{where} has version {version} of the format, this program reads {VERSION}; convert it again")
    if size != len(content):
        raise ModelError(f"{where} has {len(content)} bytes, its header says {size}; it is cut or damaged")
    if not complete:
        raise ModelError(f"{where} is not complete: its conversion was interrupted")
    begin = align(HEADER.size + length, DIGEST)
    described = bytes(content[HEADER.size : HEADER.size + length])
    digests = bytes(content[begin : begin + DIGEST * count])
    if hashlib.sha256(described + digests).digest() != digest:
        raise ModelError(f"{where}: the checksum of its description is wrong; it is damaged, convert it again")
    description = _parse(described, where)
    same = describe(description.model, [(stored.name, stored.kind, stored.shape) for stored in description.tensors])
    if same.content != described or same.file_size != size:
        raise ModelError(f"{where}: its blocks do not lie where they should; convert it again")
    return description, tuple(digests[first : first + DIGEST] for first in range(0, len(digests), DIGEST))


def _parse(content: bytes, where: object) -> Description:
    try:
        fields = json.loads(content)
        tensors = tuple(
            Stored(
                tensor["name"],
                tensor["kind"],
                tensor["element"],
                tuple(tensor["shape"]),
                tuple(Block(offset, size, range(first, last)) for offset, size, first, last in tensor["blocks"]),
            )
            for tensor in fields["tensors"]
        )
        return Description(fields["model"], tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{where}: its description cannot be read; convert it again ({error})") from error


def is_packed(path: Path) -> bool:
    """Whether a file begins as packed weights do; raises ModelError for one that cannot be read."""
    try:
        if path.is_dir():
            return False
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


class PackedWeights:
    """A file of packed weights, mapped: nothing is read before it is used, and nothing copied."""

    def __init__(self, path: Path) -> None:
        """Raises ModelError for a file that is damaged, not complete, or none."""
        self.path = path
        try:
            self._content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
        self.description, self._digests = read_description(self._content, path)
        self._tensors = {stored.name: stored for stored in self.description.tensors}

    @property
    def model(self) -> Mapping[str, Any]:
        """What the file says of the model: its architecture, sizes, source."""
        return self.description.model

    def array(self, name: str) -> Array:
        """An array of the host, read-only."""
        stored = self._stored(name, "array")
        count = prod(stored.shape)
        return self._bytes(stored.blocks[0]).view(stored.element)[:count].reshape(stored.shape)

    def matrix(self, name: str) -> list[tuple[tuple[int, int], Bytes]]:
        """((K, N), packed bytes) of each block of a matrix's columns, for ``Matmul.from_packed`` with PART_DEPTH."""
        stored = self._stored(name, "matrix")
        return [((stored.shape[0], len(block.columns)), self._bytes(block)) for block in stored.blocks]

    def damaged(self) -> Iterator[tuple[str, bool]]:
        """(tensor, whether a block of it has another checksum than when it was written) of all tensors; reads all."""
        digests = iter(self._digests)
        for stored in self.description.tensors:
            right = [hashlib.sha256(self._bytes(block).data).digest() == next(digests) for block in stored.blocks]
            yield stored.name, not all(right)

    def _stored(self, name: str, kind: str) -> Stored:
        stored = self._tensors.get(name)
        if stored is None or stored.kind != kind:
            raise ModelError(f"{self.path} has no {kind} {name}; it holds another model")
        return stored

    def _bytes(self, block: Block) -> Bytes:
        first = self.description.blocks_offset + block.offset
        return self._content[first : first + block.size]
