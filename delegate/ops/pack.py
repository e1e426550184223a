"""PACK: tensors of one shape along a new axis."""

from __future__ import annotations

import numpy as np

from delegate.hw.soc import Target
from delegate.ir import Convolution, Node, View
from delegate.ops import Rule, lowers
from delegate.ops.movement import FEATURES, FEW_ELEMENTS, ONE_QUANTIZATION, can_be_copied, shapes_follow
from delegate.ops.rearrange import ELSEWHERE, Piece, arranged, elements
from delegate.ops.rules import computed_inputs


def packed(node: Node) -> list[Piece]:
    """out[..., i, ...] = in i; the new axis is not that of the channels, or the channels are one."""
    found = []
    for i, tensor in enumerate(computed_inputs(node)):
        parts = [np.full(tensor.shape, ELSEWHERE, np.int32)] * len(node.inputs)
        parts[i] = elements(tensor)
        found.append(Piece(tensor, node.outputs[0], np.stack(parts, node.params["axis"])))
    return found


def pixels_stay_whole(node: Node, target: Target) -> bool:
    rank, axis = len(node.outputs[0].shape), int(node.params["axis"])
    return -rank <= axis < rank and axis % rank != rank - 1


@lowers(
    "PACK",
    [
        Rule(
            "all inputs are computed",
            lambda node, target: len(computed_inputs(node)) == len(node.inputs) > 0,
            "compute what is constant beforehand",
        ),
        *FEATURES,
        FEW_ELEMENTS,
        ONE_QUANTIZATION,
        Rule("the new axis is not the last", pixels_stay_whole, "pack along another axis, and transpose"),
        shapes_follow(packed),
        *can_be_copied(packed),
    ],
)
def pack(node: Node, target: Target) -> tuple[View | Convolution, ...]:
    """out[..., i, ...] = in i."""
    return arranged(node, packed, target)
