"""Bands of rows through several layers: each core computes all rows that its part of the last layer depends on.

Where layers read more rows than they write, neighbours compute some rows twice, and no core needs what another one
makes before the end. That is for cores that have memory of their own; in one memory they would write the same atoms.
"""

from __future__ import annotations

from collections.abc import Sequence

from delegate.ir import AnyLayer, Convolution, Elementwise, Tensor
from delegate.memory import Views
from delegate.share import parts

MOST_LAYERS = 12  # of a band: beyond, most rows would be computed by all


def rows_read(layer: AnyLayer, tensor: Tensor, rows: range) -> range:
    """Rows of one of its inputs that a layer reads for some rows of its output, which is whole images."""
    if not isinstance(layer, Convolution) or all(tensor.index != one.index for one in layer.inputs):
        return rows
    start = rows.start * layer.stride[0] - layer.padding[0]
    stop = (rows.stop - 1) * layer.stride[0] + layer.window[0] - layer.padding[0]
    return range(max(0, start), min(stop, tensor.shape[1]))


def hull(a: range, b: range) -> range:
    return range(min(a.start, b.start), max(a.stop, b.stop))


def moves(layer: AnyLayer) -> bool:
    """Whether a layer reads or writes something else than whole images."""
    return isinstance(layer, Convolution) and bool(layer.moves)


def depends_simply(layer: AnyLayer, producer: AnyLayer, views: Views) -> bool:
    """Whether all that a layer reads of another's output, if anything, is known by rows."""
    root = views.root(producer.output).tensor.index
    read = [tensor for tensor in layer.reads if views.root(tensor).tensor.index == root]
    if not read:
        return True
    plain = not (moves(layer) or moves(producer))
    repeats = isinstance(layer, Elementwise) and (layer.repeats or layer.operand_first > 0)
    own = root == producer.output.index and all(tensor.index == root for tensor in read)
    alike = all(tensor.shape[:3] == producer.output.shape[:3] for tensor in read)
    return plain and own and alike and not repeats


def bands(layers: Sequence[AnyLayer], cores: int) -> list[list[range]]:
    """The rows that each core computes of each of several layers in order: its own, and those it needs later.

    None for a layer that does not write whole images, of which no other may need anything (depends_simply).
    """
    found: list[list[range]] = []
    for place in reversed(range(len(layers))):
        layer = layers[place]
        own = [] if moves(layer) else parts(layer.output.shape[1], cores)
        for later, needs in zip(layers[place + 1 :], reversed(found), strict=True):
            for tensor in later.reads:
                if tensor.index == layer.output.index:
                    own = [hull(a, rows_read(later, tensor, b)) for a, b in zip(own, needs, strict=True)]
        found.append(own)
    return found[::-1]
