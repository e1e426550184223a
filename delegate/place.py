"""Movements that need no work of their own once what is around them is known.

A copy of a whole tensor to a part of another goes where the tensor's layers can write there themselves. On RK3588
nobody has shown yet that any place is good for that (S-150); those are that the output channels of a layer are cut at
anyway, whole kernel groups. A padding goes where the convolution behind it can do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from delegate.hw.layout import align
from delegate.hw.soc import Soc
from delegate.ir import AnyLayer, Convolution, Graph, Tensor, View
from delegate.memory import Views
from delegate.ops.copies import copies_everything, pads


def place(layers: Sequence[AnyLayer], views: Views, graph: Graph, soc: Soc) -> tuple[list[AnyLayer], Views]:
    """(layers without those copies and paddings, views with the tensors that lie elsewhere now)."""
    result = fold_paddings(layers, views, graph, soc)
    for layer in layers:
        if isinstance(layer, Convolution) and layer in result and copies_everything(layer):
            view = as_part(layer)
            if view and may_lie_there(layer, view, result, views, graph, soc):
                result.remove(layer)
                views = views.with_views([view])
    return result, views


def as_part(copy: Convolution) -> View | None:
    """Where a copy puts its tensor, if that is as a view could have it: whole rows, all images."""
    piece, output = copy.inputs[0], copy.output
    if piece.shape[0] != output.shape[0] or piece.shape[2] != output.shape[2]:
        return None
    targets = [move.target for move in copy.steps]
    row, rest = divmod(targets[0].first, output.shape[2])
    first = replace(targets[0], pitch=output.shape[2])
    alike = [replace(first, image=image) for image in range(piece.shape[0])]
    if rest or targets != alike or (first.rows, first.width) != piece.shape[1:3]:
        return None
    return View(piece, output, row, first.channel)


@dataclass(frozen=True)
class Region:
    """What a layer writes of a tensor with memory of its own: pixels of each image and channels."""

    pixels: range
    channels: range  # that are results
    touched: range  # and what is written behind them

    def spoils(self, other: Region) -> bool:
        """Whether this writes over another's results."""
        return overlap(self.pixels, other.pixels) and overlap(self.touched, other.channels)


def overlap(a: range, b: range) -> bool:
    return a.start < b.stop and b.start < a.stop


def group_of(layer: AnyLayer, soc: Soc) -> int:
    """Channels that a layer writes at a time, but at least a kernel group: there, places are known to be good."""
    return soc.depthwise_group if isinstance(layer, Convolution) and layer.depthwise else soc.kernel_group


def region(layer: AnyLayer, views: Views, soc: Soc) -> Region:
    """What a layer writes of its output's root; a box around all its moves."""
    root = views.root(layer.output)
    _, height, width, channels = layer.output.shape
    unit = soc.atom_bytes
    pixels, first, last = range(height * width), 0, 0
    if isinstance(layer, Convolution):
        targets = [step.target for step in layer.steps]
        stops = [pixel.first + (pixel.rows - 1) * pixel.pitch + pixel.width for pixel in targets]
        pixels = range(min(pixel.first for pixel in targets), max(stops))
        first, last = min(pixel.channel for pixel in targets), max(pixel.channel for pixel in targets)
        channels, unit = layer.bias.size, group_of(layer, soc)
    start, stop = root.channel + first, root.channel + last
    return Region(
        range(root.pixel + pixels.start, root.pixel + pixels.stop),
        range(start, stop + channels),
        range(start, stop + align(channels, unit)),
    )


def may_lie_there(
    copy: Convolution, view: View, layers: Sequence[AnyLayer], views: Views, graph: Graph, soc: Soc
) -> bool:
    """Whether all layers that write a tensor may write it as a part of another.

    It has to be made in the partition and to have memory of its own; who reads it as one with another tensor needs it
    to keep that. What is written over is only what a later copy writes again, which fusing does not move.
    """
    piece = view.part

    def root(tensor: Tensor) -> int:
        return views.root(tensor).tensor.index

    joined = [layer for layer in layers if isinstance(layer, Convolution) and len(layer.inputs) > 1]
    if (
        piece.index in graph.inputs
        or root(piece) != piece.index
        or root(view.whole) == piece.index
        or any(root(tensor) == piece.index for layer in joined for tensor in layer.inputs)
    ):
        return False
    own = [layer for layer in layers if root(layer.output) == piece.index]
    others = [layer for layer in layers if root(layer.output) == root(view.whole) and layer is not copy]
    placed = views.with_views([view])
    if not own or (view.part.shape[1] != view.whole.shape[1] and view.part.shape[1] < soc.line_group):
        return False  # rows that fill a low surface up would be written into the next piece's
    if any(region(layer, placed, soc).channels.start % group_of(layer, soc) for layer in own):
        return False
    regions = [region(layer, placed, soc) for layer in own]
    for other in others:
        theirs = region(other, placed, soc)
        again = isinstance(other, Convolution) and bool(other.moves) and layers.index(other) > layers.index(copy)
        if any(theirs.spoils(mine) or (mine.spoils(theirs) and not again) for mine in regions):
            return False
    return True


def fold_paddings(layers: Sequence[AnyLayer], views: Views, graph: Graph, soc: Soc) -> list[AnyLayer]:
    """Paddings done by the convolutions that read them, where those pad with the same value and have room for it.

    Each window still touches the input (F-50).
    """
    result = list(layers)
    for padding in layers:
        if not isinstance(padding, Convolution) or not pads(padding):
            continue
        padded = padding.output
        for reader in list(result):
            if isinstance(reader, Convolution) and takes(reader, padding, soc):
                result[result.index(reader)] = with_padding(reader, padding)
        needed = {views.root(graph.tensors[index]).tensor.index for index in graph.outputs}
        needed |= {views.root(tensor).tensor.index for layer in result for tensor in layer.reads}
        if padded.index not in needed:
            result.remove(padding)
    return result


def extents(padding: Convolution) -> tuple[int, int, int, int]:
    """Top, bottom, left, right in pixels of a layer that does nothing but pad."""
    source, output = padding.inputs[0].shape, padding.output.shape
    _, rows, columns, _ = padding.weight[..., :1].nonzero()
    bottom, right = int(rows[0]), int(columns[0])
    return output[1] - source[1] - bottom, bottom, output[2] - source[2] - right, right


def with_padding(reader: Convolution, padding: Convolution) -> Convolution:
    """A convolution that pads what the layer before it would have padded."""
    top, bottom, left, right = (a + b for a, b in zip(extents(padding), reader.padding, strict=True))
    return replace(reader, inputs=padding.inputs, padding=(top, bottom, left, right))


def takes(reader: Convolution, padding: Convolution, soc: Soc) -> bool:
    """Whether a convolution reads what a layer has padded, and can pad it itself: each window touches the input."""
    if [tensor.index for tensor in reader.inputs] != [padding.output.index] or reader.moves:
        return False
    if reader.input_zero_point != padding.input_zero_point:
        return False
    before = with_padding(reader, padding).padding[::2]
    axes = zip(
        before, reader.window, reader.dilation, reader.stride, padding.inputs[0].shape[1:3], reader.output.shape[1:3],
        strict=True,
    )  # fmt: skip
    return all(
        start <= soc.largest_padding
        and start < window
        and (count - 1) * stride - start < size
        and (dilation == 1 or window <= size)
        for start, window, dilation, stride, size, count in axes
    )
