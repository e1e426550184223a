"""Where the windows of a convolution lie, and what makes windows that the chip has out of those that it has not.

Taps that never meet the input are left out, padding beyond the registers' is written to memory first, and a stride
beyond them is a smaller one whose results are thinned. All of it is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from delegate import quantize
from delegate.errors import CompileError
from delegate.hw.soc import Soc
from delegate.ir import Convolution, Node, Tensor, spanned
from delegate.ops.inner import DENSE, inner
from delegate.ops.parts import Sides, factors, padded, padding_fits, thinned, turns

LARGEST_WASTE = 16  # results that are computed for one that is wanted


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) in pixels of TFLite's SAME: the odd pixel goes after."""
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def feature_and_weight(node: Node) -> tuple[Tensor, Tensor]:
    """The first two inputs, of which the rules make sure that they are there."""
    feature, weight = node.inputs[:2]
    assert feature is not None and weight is not None
    return feature, weight


def window(node: Node) -> tuple[int, int]:
    """Height and width in pixels that a kernel spans."""
    _, height, width, _ = feature_and_weight(node)[1].shape
    dilation_y, dilation_x = node.params["dilation"]
    return spanned(height, dilation_y), spanned(width, dilation_x)


def padding_pixels(node: Node) -> Sides:
    """(top, bottom, left, right); SAME and VALID end here. A prepared node has the pixels in place of the word."""
    padding = node.params["padding"]
    if not isinstance(padding, str):
        top, bottom, left, right = padding
        return top, bottom, left, right
    if padding == "VALID":
        return 0, 0, 0, 0
    feature, _ = feature_and_weight(node)
    stride_y, stride_x = node.params["stride"]
    height, width = window(node)
    return (*same_padding(feature.shape[1], height, stride_y), *same_padding(feature.shape[2], width, stride_x))


def touching(size: int, taps: int, stride: int, dilation: int, before: int, extent: int) -> range:
    """The taps from the first to the last that meet the input in any window, so that padding stays a count."""
    met = []
    for tap in range(taps):
        start = tap * dilation - before  # of the first window
        output = max(0, -(start // stride))
        if output < extent and output * stride + start < size:
            met.append(tap)
    first = min(met[0], before // dilation) if met else 0
    return range(first, met[-1] + 1 if met else 1)


def explicit(node: Node, soc: Soc) -> Node:
    """The node with padding in pixels; a stride that registers have not is 1 where it is between single windows."""
    stride = [
        step if extent > 1 or step <= soc.largest_stride else 1
        for step, extent in zip(node.params["stride"], node.outputs[0].shape[1:3], strict=True)
    ]
    return replace(node, params={**node.params, "stride": tuple(stride), "padding": padding_pixels(node)})


def trimmed(node: Node, soc: Soc) -> Node:
    """The node with padding in pixels; where registers have no room, without the taps that never meet the input."""
    node = explicit(node, soc)
    feature, weight = feature_and_weight(node)
    if not needs_memory(node, soc) and max(weight.shape[1:3]) <= soc.largest_kernel:
        return node
    before, stride, dilation = padding_pixels(node)[::2], node.params["stride"], list(node.params["dilation"])
    extents, sizes = node.outputs[0].shape[1:3], feature.shape[1:3]
    rows, columns = (
        touching(sizes[i], weight.shape[1 + i], stride[i], dilation[i], before[i], extents[i]) for i in (0, 1)
    )
    assert weight.data is not None
    data = weight.data[:, rows.start : rows.stop, columns.start : columns.stop]
    sides: list[int] = []
    for i, taps in enumerate((rows, columns)):
        first = before[i] - taps.start * dilation[i]
        dilation[i] = dilation[i] if len(taps) > 1 else 1
        reach = (extents[i] - 1) * stride[i] + spanned(len(taps), dilation[i])
        sides += [first, max(0, reach - first - sizes[i])]
    inputs = (feature, replace(weight, shape=data.shape, data=data), *node.inputs[2:])
    return replace(node, inputs=inputs, params={**node.params, "dilation": tuple(dilation), "padding": tuple(sides)})


def needs_memory(node: Node, soc: Soc) -> bool:
    """Whether the padding of a trimmed node has to be in memory.

    It is beyond the registers', or a dilated window is larger than the tensor, of which nobody knows whether it works
    (npu.md §12).
    """
    feature, _ = feature_and_weight(node)
    top, _, left, _ = padding_pixels(node)
    sizes = zip(node.params["dilation"], window(node), feature.shape[1:3], strict=True)
    return max(top, left) > soc.largest_padding or any(step > 1 and span > size for step, span, size in sizes)


def padding_exists(node: Node, soc: Soc) -> bool:
    """Whether registers or memory have room for the padding of a trimmed node."""
    feature, _ = feature_and_weight(node)
    top, bottom, _, _ = padding = padding_pixels(node)
    tall = feature.shape[1] + top + bottom > soc.largest_height
    return not needs_memory(node, soc) or (not tall and padding_fits(feature.shape[2], padding, soc))


def prepared(node: Node, soc: Soc) -> tuple[list[Convolution], Node]:
    """(layers that pad the input, the trimmed node, which reads what they write and has the padding of registers)."""
    node = trimmed(node, soc)
    feature, _ = feature_and_weight(node)
    if not needs_memory(node, soc):
        return [], node
    assert feature.quant is not None
    value = quantize.zero_point(feature.quant, feature.dtype)
    layers, source = padded(node, feature, turns(padding_pixels(node), soc), value)
    return layers, replace(node, inputs=(source, *node.inputs[1:]), params={**node.params, "padding": (0, 0, 0, 0)})


def strides_exist(node: Node, soc: Soc) -> bool:
    """Whether the strides of a trimmed node are those of registers, or a product of some that wastes little."""
    stride_y, stride_x = node.params["stride"]
    try:
        used = factors(stride_y, soc)[0] * factors(stride_x, soc)[0]
    except CompileError:
        return False
    return bool(stride_y * stride_x <= LARGEST_WASTE * used)


def lowered(node: Node, soc: Soc, convolve: Callable[[Node], list[Convolution]]) -> list[Convolution]:
    """The layers of a node; ``convolve`` gives those of one whose padding and strides exist."""
    layers, node = prepared(node, soc)
    output, strides = node.outputs[0], node.params["stride"]
    used = tuple(factors(stride, soc)[0] for stride in strides)
    if used == strides:
        return [*layers, *convolve(node)]
    left = (strides[0] // used[0], strides[1] // used[1])
    images, height, width, channels = output.shape
    shape = (images, (height - 1) * left[0] + 1, (width - 1) * left[1] + 1, channels)
    part = inner(output, DENSE, shape)
    dense = replace(node, outputs=(replace(output, shape=shape),), params={**node.params, "stride": used})
    results = [
        replace(layer, output=part) if layer.output.index == output.index else layer for layer in convolve(dense)
    ]
    return [*layers, *results, *thinned(node, part, output, output.shape, left, soc)]
