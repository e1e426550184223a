"""TRANSPOSE_CONV: an ordinary convolution for each place of an output pixel in its block of stride x stride pixels.

out[y*s + p] depends on the taps p + padding, p + padding + s, ... of the kernel alone. The deconvolution mode of the
hardware is proven in fp16 for strides of 2, 4 and 8 (S-140 to S-143); what it puts between pixels of 8 bits whose zero
point is not 0 is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np

from delegate import quantize
from delegate.errors import CompileError
from delegate.hw.layout import align, fits_cbuf
from delegate.hw.soc import Target
from delegate.ir import AnyLayer, Convolution, Node, Quant, Tensor
from delegate.ops import Rule, lowers
from delegate.ops.conv2d import CBUF_TEXT, LARGEST_PARTS, channels_of, group_of, one_convolution, same_padding
from delegate.ops.copies import selection
from delegate.ops.inner import CLASSES, inner
from delegate.ops.interleave import (
    Side,
    padding_behind,
    put_columns,
    row_moves,
    rules_of_moves,
    tensor_of_blocks,
    unit_of,
)
from delegate.ops.limits import with_limits
from delegate.ops.rules import (
    ACTIVATION,
    EXTENT,
    FEATURES_8_BIT,
    IMAGES,
    MALFORMED,
    NODES_AT_A_TIME,
    SAME_DTYPE,
    SCALES_POSITIVE,
    SCALES_REMEDY,
    asked_of,
    possible,
)
from delegate.ops.weights import (
    CONSTANT_COEFFICIENTS,
    WEIGHT_DTYPE,
    WEIGHT_SCALES,
    bias_data,
    weight_data,
    weight_of,
)
from delegate.requantize import Channels, scale_classes

LARGEST_STRIDE = 16  # pixels; not the chip's, for it never strides: beyond it tasks become many and small


@dataclass(frozen=True)
class Taps(Side):
    """One side of the output and of the kernel."""

    source: int  # pixels of the input
    kernel: int  # taps
    before: int  # pixels of TFLite's padding, which cuts the output

    def of(self, phase: int) -> Mapping[int, int]:
        """Which tap meets which input pixel, counted from the block's number on."""
        block, first = divmod(phase + self.before, self.period)
        return {block - j: tap for j, tap in enumerate(range(first, self.kernel, self.period))}

    def window(self, phases: range) -> range:
        """The input pixels that meet any tap, the block's own among them; every window meets the input (F-50)."""
        last_block = max(self.count(phase) for phase in phases) - 1
        pixels = [0, self.source - 1 - last_block, *(pixel for phase in phases for pixel in self.of(phase))]
        return range(min(pixels), max(pixels) + 1)


@lru_cache(maxsize=NODES_AT_A_TIME)
def as_convolution(node: Node) -> Node:
    """The node with the inputs of a convolution: feature, weight, bias."""
    _, weight, feature, *bias = node.inputs
    params = {"dilation": (1, 1), **node.params}
    return replace(node, inputs=(feature, weight, *bias), params=params)


def sides(node: Node) -> tuple[Taps, Taps]:
    """Rows and columns of a node with the inputs of a convolution."""
    feature = node.inputs[0]
    assert feature is not None
    found = []
    for axis in (0, 1):
        size, kernel = node.outputs[0].shape[1 + axis], weight_of(node).shape[1 + axis]
        stride = node.params["stride"][axis]
        before = same_padding(size, kernel, stride)[0] if node.params["padding"] == "SAME" else 0
        found.append(Taps(size, stride, feature.shape[1 + axis], kernel, before))
    return found[0], found[1]


def phase_node(node: Node, phase: int, blocks: Tensor, unit: int) -> Node:
    """The convolution that writes one row of every block: a kernel for each column and channel."""
    rows, columns = sides(node)
    weight, data = weight_of(node), weight_data(node)
    assert weight.quant is not None
    kernels, _, _, channels = data.shape
    window_y, window_x = rows.window(range(phase, phase + 1)), columns.window(columns.phases)
    point = quantize.zero_point(weight.quant, weight.dtype)
    own = np.full((columns.period, unit, len(window_y), len(window_x), channels), point, np.int8)
    for column in columns.phases:
        for y, tap_y in rows.of(phase).items():
            for x, tap_x in columns.of(column).items():
                own[column, :kernels, y - window_y.start, x - window_x.start] = data[:, tap_y, tap_x]
    bias = np.zeros((columns.period, unit), np.int64)
    bias[:, :kernels] = bias_data(node)
    scales = np.broadcast_to(weight.quant.scale, (kernels,))
    spread = np.tile(np.pad(scales, (0, unit - kernels), mode="edge"), columns.period)
    direct = own.reshape(columns.period * unit, len(window_y), len(window_x), channels)
    stored = direct.view(np.uint8) ^ np.uint8(0x80) if weight.dtype == "uint8" else direct
    quant = Quant(spread if weight.quant.per_channel else weight.quant.scale, weight.quant.zero_point[:1])
    return replace(
        node,
        inputs=(
            node.inputs[0],
            replace(weight, shape=stored.shape, quant=quant, data=stored),
            Tensor(-1, "bias", (columns.period * unit,), "int32", data=bias.reshape(-1)),
        ),
        outputs=(replace(blocks, shape=(*blocks.shape[:3], columns.period * unit)),),
        params={**node.params, "stride": (1, 1), "padding": "VALID"},
    )


def widest(all_channels: list[Channels]) -> Channels:
    """What requantization has to be exact for in every phase."""
    biases = np.stack([channels.bias for channels in all_channels])
    largest = np.abs(biases.astype(np.int64)).argmax(axis=0)
    return Channels(
        all_channels[0].factors,
        np.take_along_axis(biases, largest[None], axis=0)[0],
        np.stack([channels.reach for channels in all_channels]).max(axis=0),
    )


def windows(node: Node, target: Target) -> list[tuple[int, int]]:
    """Height and width of the kernels of every phase."""
    rows, columns = sides(node)
    width = len(columns.window(columns.phases))
    return [(len(rows.window(range(phase, phase + 1))), width) for phase in rows.phases]


def channels_agree(node: Node, target: Target) -> bool:
    feature = node.inputs[0]
    assert feature is not None
    return feature.shape[3] == weight_of(node).shape[3]


def kernel_fits(node: Node, target: Target) -> bool:
    return all(size <= target.soc.largest_kernel for size in weight_of(node).shape[1:3])


def kernel_is_small(node: Node, target: Target) -> bool:
    channels = align(weight_of(node).shape[3], target.soc.atom_bytes)
    return all(height * width * channels <= target.soc.kernel_bytes_limit for height, width in windows(node, target))


def accumulators_fit(node: Node, target: Target) -> bool:
    taps = max(height * width for height, width in windows(node, target)) * weight_of(node).shape[3]
    return taps * 255 * 255 + int(np.abs(bias_data(node)).max(initial=0)) < 2**31


def cbuf_fits(node: Node, target: Target) -> bool:
    feature = node.inputs[0]
    assert feature is not None
    _, height, width, channels = feature.shape
    kernel = target.soc.kernel_group * align(channels, target.soc.atom_bytes)
    return all(
        fits_cbuf(min(rows, height), width, channels, rows * columns * kernel, target.soc)
        for rows, columns in windows(node, target)
    )


def output_is_computed(node: Node, target: Target) -> bool:
    """The output is of a size from which TFLite's convolution would come back to the input's."""
    feature = node.inputs[0]
    assert feature is not None
    for axis in (1, 2):
        size, kernel, stride = node.outputs[0].shape[axis], weight_of(node).shape[axis], node.params["stride"][axis - 1]
        reach = kernel if node.params["padding"] == "VALID" else 1
        if -(-(size - reach + 1) // stride) != feature.shape[axis]:
            return False
    return True


def channels_fit(node: Node, target: Target) -> bool:
    return sides(node)[1].period * unit_of(node.outputs[0].shape[3], target) <= target.soc.largest_channels


def shape_is_constant(node: Node, target: Target) -> bool:
    """TFLite has resized the output by then."""
    return len(node.inputs) >= 3 and node.inputs[0] is not None and node.inputs[0].data is not None


@lru_cache(maxsize=NODES_AT_A_TIME)
def layers(node: Node, target: Target) -> list[AnyLayer]:
    """The layers of a node with the inputs of a convolution, its activation included; raises CompileError."""
    return with_limits(node, target, transposed)


def transposed(node: Node, target: Target) -> list[Convolution]:
    """The layers of a node with the inputs of a convolution; raises CompileError where the DPU cannot requantize.

    For each class of channel scales and each row of a block a convolution, a selection among the classes, and copies
    that put the columns in place.
    """
    rows, columns = sides(node)
    feature, output = node.inputs[0], node.outputs[0]
    assert feature is not None and output.quant is not None
    unit = unit_of(output.shape[3], target) if columns.period > 1 else output.shape[3]
    blocks = tensor_of_blocks(node, output, columns, unit)
    phases = [phase_node(node, phase, blocks, unit) for phase in rows.phases]
    channels = [channels_of(phase) for phase in phases]
    group = group_of(phases[0], target)
    classes = scale_classes(widest(channels), quantize.zero_point(output.quant, output.dtype), group)
    if len(classes) > LARGEST_PARTS:
        raise CompileError(f"TRANSPOSE_CONV: scales of {len(classes)} classes, of which {LARGEST_PARTS} are possible")
    parts = [blocks]
    if len(classes) > 1:
        parts = [inner(output, number, blocks.shape) for number in CLASSES[: len(classes)]]
    result: list[Convolution] = []
    left = -columns.window(columns.phases).start
    for part, used in zip(parts, classes, strict=True):
        for phase, own, factors in zip(rows.phases, phases, channels, strict=True):
            layer = one_convolution(own, weight_data(own), False, factors, used, part, target)
            top = -rows.window(range(phase, phase + 1)).start
            bottom = padding_behind(rows.count(phase), 1, layer.window[0], top, rows.source)
            right = padding_behind(columns.blocks, 1, layer.window[1], left, columns.source)
            moves = row_moves(feature, part, rows, phase) if rows.period > 1 else ()
            result.append(replace(layer, padding=(top, bottom, left, right), moves=moves))
    if len(classes) > 1:
        result.append(selection(replace(phases[0], outputs=(blocks,)), parts, classes))
    return [*result, *put_columns(node, blocks, output, columns, unit)]


RULES = [
    CONSTANT_COEFFICIENTS,
    FEATURES_8_BIT,
    SAME_DTYPE,
    IMAGES,
    EXTENT,
    WEIGHT_SCALES,
    Rule(
        "weights have four dimensions",
        lambda node, target: len(weight_of(node).shape) == 4,
        MALFORMED,
    ),
    WEIGHT_DTYPE,
    Rule(
        "input and weights have the same channels",
        channels_agree,
        MALFORMED,
    ),
    SCALES_POSITIVE,
    ACTIVATION,
    Rule(
        f"stride is at most {LARGEST_STRIDE}",
        lambda node, target: all(1 <= stride <= LARGEST_STRIDE for stride in node.params["stride"]),
        f"a stride of at most {LARGEST_STRIDE}, or two operators in sequence",
    ),
    Rule("kernel is at most 31 x 31", kernel_fits, "a smaller kernel"),
    Rule(
        "output extent is one that the stride and the padding give",
        output_is_computed,
        "an output shape from which a convolution with this stride and padding gives the input's",
    ),
    Rule(
        "padding is at most 15 pixels",
        lambda node, target: all(-side.window(side.phases).start <= target.soc.largest_padding for side in sides(node)),
        "a larger stride or a smaller kernel",
    ),
    Rule(
        "bias has one number per output channel",
        lambda node, target: bias_data(node).size == node.outputs[0].shape[3] == weight_of(node).shape[0],
        MALFORMED,
    ),
    Rule("accumulator stays within 32 bits", accumulators_fit, "fewer input channels"),
    Rule("one kernel of the taps that meet is at most 32 KiB", kernel_is_small, "fewer input channels"),
    Rule(CBUF_TEXT, cbuf_fits, "fewer input channels or a narrower input"),
    Rule("the columns of a block have at most 8192 channels together", channels_fit, "fewer output channels"),
    Rule("BS and the output converter can express scales", possible(layers), SCALES_REMEDY),
    *rules_of_moves(layers),
]


@lowers(
    "TRANSPOSE_CONV",
    [
        Rule("the output's shape is a constant", shape_is_constant, "a model with fixed shapes"),
        *map(partial(asked_of, as_convolution), RULES),
    ],
)
def transpose_conv(node: Node, target: Target) -> list[AnyLayer]:
    """out[y,x,k] = requantize(bias[k] + sum over i,j,c of (in[(y+top-i)/sy, (x+left-j)/sx, c] - zi) * w[k,i,j,c]).

    Only whole places inside the input count; top and left pad the convolution that goes back from output to input.
    """
    return layers(as_convolution(node), target)
