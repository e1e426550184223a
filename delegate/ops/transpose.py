"""TRANSPOSE, DEPTH_TO_SPACE, SPACE_TO_DEPTH: pixels and channels in another order."""

from __future__ import annotations

import numpy as np

from delegate.ir import Node
from delegate.ops.inner import SPREAD, inner
from delegate.ops.movement import feature, moves, numbers, one_input, piece
from delegate.ops.rearrange import Piece, elements


def transposed(node: Node) -> list[Piece]:
    """out[i] = in[j], the axes in the order that the second input says."""
    return [piece(node, elements(feature(node)).transpose(numbers(node.inputs[1]).tolist()))]


def blocks_of_channels(node: Node) -> list[Piece]:
    """out[y, x, (i, j, c)] = in[y * block + i, x * block + j, c]."""
    block, (images, height, width, channels) = node.params["block_size"], feature(node).shape
    source = elements(feature(node)).reshape(images, height // block, block, width // block, block, channels)
    return [piece(node, source.transpose(0, 1, 3, 2, 4, 5).reshape(images, height // block, width // block, -1))]


def blocks_of_pixels(node: Node) -> list[Piece]:
    """out[y * block + i, x * block + j, c] = in[y, x, (i, j, c)], first along the rows, then rows between rows."""
    block, (images, height, width, channels) = node.params["block_size"], feature(node).shape
    depth = channels // block**2
    step = inner(node.outputs[0], SPREAD, (images, height, width * block, block * depth))
    wide = elements(feature(node)).reshape(images, height, width, block, block, depth).transpose(0, 1, 2, 4, 3, 5)
    high = elements(step).reshape(images, height, width * block, block, depth).transpose(0, 1, 3, 2, 4)
    return [
        Piece(feature(node), step, np.ascontiguousarray(wide).reshape(step.shape)),
        Piece(step, node.outputs[0], high.reshape(images, height * block, width * block, depth)),
    ]


moves("TRANSPOSE", transposed, one_input(2, 2))
moves("SPACE_TO_DEPTH", blocks_of_channels, one_input(1, 1))
moves("DEPTH_TO_SPACE", blocks_of_pixels, one_input(1, 1))
