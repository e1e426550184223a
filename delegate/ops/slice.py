"""SLICE, STRIDED_SLICE, SPLIT, SPLIT_V, UNPACK: parts of a tensor."""

from __future__ import annotations

import math
from types import EllipsisType

import numpy as np

from delegate.hw.soc import Target
from delegate.ir import Node
from delegate.ops import Rule
from delegate.ops.movement import feature, moves, numbers, one_input, piece
from delegate.ops.rearrange import Piece, elements
from delegate.ops.rules import MALFORMED

Place = slice | int | EllipsisType | None


def sliced(node: Node) -> list[Piece]:
    """out = in[begin : begin + size], a size of -1 reaching to the end."""
    begin, size = numbers(node.inputs[1]).tolist(), numbers(node.inputs[2]).tolist()
    places = tuple(slice(a, None if n == -1 else a + n) for a, n in zip(begin, size, strict=True))
    return [piece(node, elements(feature(node))[places])]


def slice_is_inside(node: Node, target: Target) -> bool:
    begin, size = numbers(node.inputs[1]).tolist(), numbers(node.inputs[2]).tolist()
    shape = feature(node).shape
    if not len(begin) == len(size) == len(shape):
        return False
    return all(0 <= a < n and (k == -1 or 0 < k <= n - a) for a, k, n in zip(begin, size, shape, strict=True))


def places_of(node: Node) -> tuple[Place, ...]:
    """STRIDED_SLICE's numbers and masks as numpy has them: TFLite's meaning of all of them is numpy's."""
    begin, end, strides = (numbers(tensor).tolist() for tensor in node.inputs[1:4])
    places: list[Place] = []
    for i, (first, last, stride) in enumerate(zip(begin, end, strides, strict=True)):
        if node.params["ellipsis_mask"] >> i & 1:
            places.append(Ellipsis)
        elif node.params["new_axis_mask"] >> i & 1:
            places.append(None)
        elif node.params["shrink_axis_mask"] >> i & 1:
            places.append(0 if node.params["begin_mask"] >> i & 1 else first)
        else:
            start = None if node.params["begin_mask"] >> i & 1 else first
            stop = first + last if node.params["offset"] else last
            places.append(slice(start, None if node.params["end_mask"] >> i & 1 else stop, stride))
    return tuple(places)


def stepped(node: Node) -> list[Piece]:
    """out = in[begin : end : stride] with the masks of the operator."""
    return [piece(node, elements(feature(node))[places_of(node)].reshape(node.outputs[0].shape))]


def strides_are_positive(node: Node, target: Target) -> bool:
    counts = {numbers(tensor).size for tensor in node.inputs[1:4]}
    return len(counts) == 1 and bool((numbers(node.inputs[3]) > 0).all())


def whole_input(node: Node, target: Target) -> bool:
    """What a shape of TFLite's own says is as many numbers as numpy finds."""
    try:
        return elements(feature(node))[places_of(node)].size == math.prod(node.outputs[0].shape)
    except (IndexError, ValueError):
        return False


def axis_of(node: Node, axis: int) -> int:
    """An axis counted from the front; ValueError where there is none."""
    rank = len(feature(node).shape)
    if not -rank <= axis < rank:
        raise ValueError(axis)
    return axis % rank


def split(node: Node) -> list[Piece]:
    """The outputs one behind the other along an axis are the input."""
    axis_input = node.inputs[2] if node.op == "SPLIT_V" else node.inputs[0]
    axis = axis_of(node, int(numbers(axis_input)[0]))
    sizes = [tensor.shape[axis] for tensor in node.outputs]
    if sum(sizes) != feature(node).shape[axis]:
        raise ValueError(sizes)
    parts = np.split(elements(feature(node)), np.cumsum(sizes)[:-1], axis)
    return [piece(node, part, i) for i, part in enumerate(parts)]


def unpacked(node: Node) -> list[Piece]:
    """The outputs are the input's parts along an axis, without it."""
    axis, source = axis_of(node, node.params["axis"]), elements(feature(node))
    if source.shape[axis] != len(node.outputs):
        raise ValueError(axis)
    return [piece(node, np.asarray(source.take(i, axis)), i) for i in range(len(node.outputs))]


moves(
    "SLICE",
    sliced,
    one_input(3, 3),
    [
        Rule(
            "the slice lies in the input",
            slice_is_inside,
            MALFORMED,
        )
    ],
)
moves(
    "STRIDED_SLICE",
    stepped,
    one_input(4, 4),
    [
        Rule(
            "strides are positive, one for each begin and end",
            strides_are_positive,
            "REVERSE_V2 in place of a negative stride; it stays on the CPU",
        ),
        Rule(
            "the slice has as many numbers as the output",
            whole_input,
            MALFORMED,
        ),
    ],
)
moves("SPLIT", split, one_input(2, 2, place=1))
moves("SPLIT_V", split, one_input(3, 3))
moves("UNPACK", unpacked, one_input(1, 1))
