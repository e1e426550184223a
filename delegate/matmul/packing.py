"""B in the NPU's layout: the parts of its depth one behind the other, each [N/G][K/32][G][32] (S-40).

Rows (K) are filled up to multiples of 32 and columns (N) to whole groups with zeros, which add nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.errors import MatmulError
from delegate.hw.emit.product import RESULTS, Form
from delegate.hw.layout import align, divide_up
from delegate.hw.soc import RK3588
from delegate.hw.task import Bytes

LARGEST_SIZE = 16384  # of K and of N
LARGEST_DEPTH = 8192  # of a task: four rows of A and a group of kernels still fit the CBUF together
# Of a task unless asked otherwise: deeper tasks hold fewer rows of A and read B again for each few (decision 0015).
USUAL_DEPTH = 2048
Matrix = npt.NDArray[Any]


@dataclass(frozen=True)
class Packing:
    """What B is, in true sizes, and how its depth is cut."""

    element: str  # numpy's name of its type
    depth: int  # K
    columns: int  # N
    part_depth: int = USUAL_DEPTH  # largest depth of a task

    def __post_init__(self) -> None:
        if self.element not in RESULTS:
            raise MatmulError(
                f"B is {self.element}: matrices of {' or '.join(RESULTS)} are multiplied; convert it first"
            )
        for name, size in (("rows (K)", self.depth), ("columns (N)", self.columns)):
            if not 1 <= size <= LARGEST_SIZE:
                raise MatmulError(f"B has {size} {name}: 1 to {LARGEST_SIZE}")
        chunk = RK3588.channel_chunk
        if self.part_depth % chunk or not chunk <= self.part_depth <= LARGEST_DEPTH:
            raise MatmulError(f"part_depth {self.part_depth}: a multiple of {chunk} up to {LARGEST_DEPTH}")

    @property
    def element_bytes(self) -> int:
        return np.dtype(self.element).itemsize

    @property
    def group(self) -> int:
        return Form(self.element, RESULTS[self.element][0]).group

    @property
    def padded_depth(self) -> int:
        return align(self.depth, RK3588.channel_chunk)

    @property
    def padded_columns(self) -> int:
        return align(self.columns, self.group)

    @property
    def parts(self) -> tuple[range, ...]:
        """Of the padded depth, as equal as whole chunks allow."""
        count = divide_up(self.padded_depth, self.part_depth)
        step = align(divide_up(self.padded_depth, count), RK3588.channel_chunk)
        return tuple(range(k, min(k + step, self.padded_depth)) for k in range(0, self.padded_depth, step))

    @property
    def size(self) -> int:
        """Bytes."""
        return self.padded_depth * self.padded_columns * self.element_bytes

    def slices(self, columns: range) -> list[slice]:
        """Where some columns, whole groups, lie in the packed bytes: a piece for each part of the depth."""
        pieces = []
        for part in self.parts:
            first = (part.start * self.padded_columns + len(part) * columns.start) * self.element_bytes
            pieces.append(slice(first, first + len(part) * len(columns) * self.element_bytes))
        return pieces


def packing_of(b: Matrix, part_depth: int = USUAL_DEPTH) -> Packing:
    """How a matrix (K, N) is packed; raises MatmulError for a type or a shape that is not taken."""
    if b.ndim != 2:
        raise MatmulError(f"B has the shape {b.shape}: a matrix (K, N)")
    depth, columns = b.shape
    return Packing(b.dtype.name, depth, columns, part_depth)


def pack(b: Matrix, part_depth: int = USUAL_DEPTH) -> Bytes:
    """The bytes of B (K, N), fp16 or int8, in the NPU's layout, as ``Matmul.from_packed`` takes them.

    ``part_depth``: see Matmul. Raises MatmulError for a type or a shape that is not taken.
    """
    packing = packing_of(b, part_depth)
    packed = np.empty(packing.size, np.uint8)
    whole = range(packing.padded_columns)
    group, chunk = packing.group, RK3588.channel_chunk
    for part, piece in zip(packing.parts, packing.slices(whole), strict=True):
        padded = np.zeros((len(part), packing.padded_columns), b.dtype)
        given = b[part.start : min(part.stop, packing.depth)]
        padded[: len(given), : packing.columns] = given
        cut = padded.reshape(len(part) // chunk, chunk, packing.padded_columns // group, group)
        packed[piece].view(b.dtype).reshape(cut.shape[2], cut.shape[0], group, chunk)[...] = cut.transpose(2, 0, 3, 1)
    return packed
