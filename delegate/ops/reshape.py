"""RESHAPE, SQUEEZE, EXPAND_DIMS: no work where the numbers lie in memory as the new shape wants them, else copies."""

from __future__ import annotations

from delegate.ir import Node
from delegate.ops.movement import feature, moves, one_input, piece
from delegate.ops.rearrange import Piece, elements


def reshaped(node: Node) -> list[Piece]:
    """out = in, under another shape."""
    return [piece(node, elements(feature(node)).reshape(node.outputs[0].shape))]


moves("RESHAPE", reshaped, one_input(1, 2))
moves("SQUEEZE", reshaped, one_input(1, 1))
moves("EXPAND_DIMS", reshaped, one_input(2, 2))
