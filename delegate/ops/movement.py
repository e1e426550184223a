"""What operators that only move numbers share: their rules, and the way from a map of elements to layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from delegate.hw.soc import PART_OF_ROW, ROW_SKIP, Target
from delegate.ir import Array, Convolution, Node, Tensor, View, as_cube
from delegate.ops import Rule, lowers
from delegate.ops.rearrange import MOST_ELEMENTS, MOST_WEIGHT_BYTES, Piece, Pieces, arranged
from delegate.ops.rectangles import MOST_PARTS
from delegate.ops.rules import (
    ALLOW,
    FEATURES_8_BIT,
    MALFORMED,
    SAME_DTYPE,
    SCALES_POSITIVE,
    computed_inputs,
    feature_tensors,
    possible,
)


def numbers(tensor: Tensor | None) -> Array:
    """The numbers of a constant input, in a row; the rules ask for it."""
    assert tensor is not None and tensor.data is not None
    return tensor.data.reshape(-1).astype(np.int64)


def feature(node: Node) -> Tensor:
    """The one input that is computed."""
    return computed_inputs(node)[0]


def shapes_fit(node: Node, target: Target) -> bool:
    """Rows may be more than a task can have: tasks are cut along them."""
    tensors = feature_tensors(node)
    known = all(1 <= len(tensor.shape) <= 4 and min(tensor.shape) > 0 for tensor in tensors)
    return known and all(as_cube(tensor).shape[2] <= target.soc.largest_width for tensor in tensors)


def one_quantization(node: Node, target: Target) -> bool:
    found = set()
    for tensor in feature_tensors(node):
        assert tensor.quant is not None
        found.add((float(tensor.quant.scale[0]), int(tensor.quant.zero_point[0])))
    return len(found) == 1


CHEAPER = "none is needed: so many small copies cost less on the CPU"
FEATURES = [
    FEATURES_8_BIT,
    SAME_DTYPE,
    SCALES_POSITIVE,
    Rule(
        "tensors have one to four dimensions, none of them 0, and at most 2047 columns",
        shapes_fit,
        "reshape before, so that no row is wider than 2047",
    ),
]


def few_elements(node: Node, target: Target) -> bool:
    return all(np.prod(tensor.shape, dtype=np.float64) <= MOST_ELEMENTS for tensor in feature_tensors(node))


FEW_ELEMENTS = Rule(f"tensors have at most {MOST_ELEMENTS} elements", few_elements, "cut the tensor into smaller ones")
ONE_QUANTIZATION = Rule(
    "inputs and outputs have one scale and zero point",
    one_quantization,
    "quantize them alike, as the TFLite converter does",
)


def one_input(least: int, most: int, place: int = 0) -> Rule:
    """The input at a place is computed, and none but that."""

    def holds(node: Node, target: Target) -> bool:
        inputs = node.inputs
        return (
            least <= len(inputs) <= most
            and None not in inputs
            and len(computed_inputs(node)) == 1
            and computed_inputs(node)[0] is inputs[place]
        )

    return Rule(
        "one input is computed and the others are constants",
        holds,
        "a model whose axes, sizes and offsets are constants",
    )


def shapes_follow(pieces: Pieces) -> Rule:
    """The outputs are as large as the numbers say."""

    def holds(node: Node, target: Target) -> bool:
        try:
            found = pieces(node)
        except (ArithmeticError, IndexError, ValueError):
            return False
        covered = {piece.output.index for piece in found} >= {tensor.index for tensor in node.outputs}
        return covered and all(piece.origin.shape == piece.output.shape for piece in found)

    return Rule(
        "the output has the shape that inputs and options give",
        holds,
        MALFORMED,
    )


def can_be_copied(pieces: Pieces) -> list[Rule]:
    """Few enough tasks, small enough kernels; the second rule asks whether that needs forms."""

    holds = possible(lambda node, target: arranged(node, pieces, target))

    def holds_with_forms(node: Node, target: Target) -> bool:
        return holds(node, replace(target, forms=target.forms | {PART_OF_ROW, ROW_SKIP}))

    few = f"at most {MOST_PARTS} tasks do it"
    return [
        Rule(f"{few}, whose kernels have at most {MOST_WEIGHT_BYTES >> 20} MiB", holds_with_forms, CHEAPER),
        Rule(f"{few}, or the device may use: {PART_OF_ROW}; {ROW_SKIP}", holds, ALLOW),
    ]


def moves(name: str, pieces: Pieces, inputs: Rule, rules: Sequence[Rule] = ()) -> None:
    """Registers an operator of one computed input that does nothing but move its numbers."""

    def lower(node: Node, target: Target) -> Sequence[View | Convolution]:
        return arranged(node, pieces, target)

    lower.__doc__ = pieces.__doc__
    lowers(
        name, [inputs, *FEATURES, FEW_ELEMENTS, ONE_QUANTIZATION, *rules, shapes_follow(pieces), *can_be_copied(pieces)]
    )(lower)


def piece(node: Node, origin: Array, output: int = 0) -> Piece:
    """The whole of an output from the one computed input."""
    return Piece(feature(node), node.outputs[output], origin)
