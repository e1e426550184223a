"""Tensors that the model does not have, by which the layers of one node hand numbers to each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from delegate.ir import Tensor

FIRST = 1 << 40  # beyond all numbers that a model's tensors have, whatever sign; so are those of an inner one's own
NUMBERS = 256  # of an output


def ranges(*counts: int, start: int = 0) -> Iterator[range]:
    """Ranges of so many numbers, one behind the other."""
    for count in counts:
        yield range(start, start + count)
        start += count
    assert start <= NUMBERS


# What the numbers are for. Each use has its own, so that a node may be put together from any of them.
CLASSES, PADDED, THINNED, GROWN, SLOPES = ranges(4, 16, 12, 24, 4)
BLOCKS, RESIZED, LIMITED, SINGLE, PIECES = ranges(2, 5, 2, 3, 64, start=SLOPES.stop)
UNLIMITED, HALF_LIMITED = LIMITED  # before a fused activation, and between its two ends
DENSE, AVERAGED, SPREAD = SINGLE  # results of a smaller stride; averages of windows; an operand over all channels


def inner(output: Tensor, number: int, shape: tuple[int, ...] | None = None) -> Tensor:
    """A tensor like an output, or like another inner one; by default of its shape."""
    assert 0 <= number < NUMBERS
    index = -(FIRST + NUMBERS * output.index + number)
    return replace(output, index=index, name=f"{output.name} inner {number}", shape=shape or output.shape)
