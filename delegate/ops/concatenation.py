"""CONCATENATION along channels: a 1x1 convolution over all cubes as one, its kernels an identity.

Writing the pieces side by side in the first place is proven for a sibling chip only, and only at multiples of 16
channels (S-150); this form takes any number of channels and a scale of each input's own.
"""

from __future__ import annotations

import numpy as np

from delegate import quantize
from delegate.errors import CompileError
from delegate.hw.layout import align, fits_cbuf
from delegate.hw.soc import NORM_SHIFT, Target
from delegate.ir import Convolution, Node, Requantize, Tensor
from delegate.ops import Rule, lowers
from delegate.ops.conv2d import CBUF_TEXT
from delegate.ops.rules import EXTENT, FEATURES_8_BIT, IMAGES, SAME_DTYPE, SCALES_POSITIVE, computed_inputs
from delegate.requantize import LARGEST_ERROR, Channels, exact, per_channel, plain, run_errors

ONE = 1 << 6  # weight of an identity that needs no multiplier


def pieces(node: Node) -> list[Tensor]:
    return [tensor for tensor in node.inputs if tensor is not None]


def each_once(node: Node, target: Target) -> bool:
    """A tensor that comes twice would have to lie in two places."""
    indices = [tensor.index for tensor in pieces(node)]
    return len(set(indices)) == len(indices) == len(node.inputs)


def shapes_match(node: Node, target: Target) -> bool:
    output = node.outputs[0]
    same_extent = {tensor.shape[:3] for tensor in pieces(node)} == {output.shape[:3]}
    return same_extent and sum(tensor.shape[3] for tensor in pieces(node)) == output.shape[3]


def read_channels(node: Node, target: Target) -> int:
    """Channels of all cubes behind each other, each in whole groups as any producer may write them."""
    return sum(align(tensor.shape[3], target.soc.depthwise_group) for tensor in pieces(node))


def cbuf_fits(node: Node, target: Target) -> bool:
    channels, soc = read_channels(node, target), target.soc
    return fits_cbuf(1, node.outputs[0].shape[2], channels, soc.kernel_group * channels, soc)


def points(node: Node) -> list[int]:
    """The zero point of each input."""
    found = []
    for tensor in pieces(node):
        assert tensor.quant is not None
        found.append(quantize.zero_point(tensor.quant, tensor.dtype))
    return found


def converters(node: Node, target: Target) -> tuple[int, tuple[Requantize, ...]]:
    """(weight of the identity, from accumulators to the output); raises CompileError."""
    output = node.outputs[0]
    assert output.quant is not None
    scale, offset = float(output.quant.scale[0]), quantize.zero_point(output.quant, output.dtype)
    ratios = [float(tensor.quant.scale[0]) / scale for tensor in pieces(node) if tensor.quant is not None]
    channels = output.shape[3]
    if all(ratio == 1.0 for ratio in ratios):
        return ONE, (plain(1 / ONE, channels, offset),)
    if NORM_SHIFT in target.forms and len(set(ratios)) == 1:
        return 1, (exact(ratios[0], 255, channels, offset),)
    counts = [tensor.shape[3] for tensor in pieces(node)]
    factors = np.repeat(np.array(ratios, np.float64), counts)
    bias = np.repeat(-np.array(points(node), np.int32), counts)
    lanes = Channels(factors, bias, np.full(channels, 255.0))
    runs = per_channel(lanes, offset, target.soc.kernel_group)
    worst = max(float(run_errors(run, lanes).max()) for run in runs)
    if worst > LARGEST_ERROR:
        raise CompileError(
            f"CONCATENATION: a scale lies so far from the others that results could err by {worst:.2f} steps"
        )
    return 1, runs


def converters_exist(node: Node, target: Target) -> bool:
    try:
        converters(node, target)
    except CompileError:
        return False
    return True


@lowers(
    "CONCATENATION",
    [
        Rule("all inputs are computed", lambda node, target: len(computed_inputs(node)) == len(node.inputs) > 0),
        FEATURES_8_BIT,
        SAME_DTYPE,
        IMAGES,
        EXTENT,
        SCALES_POSITIVE,
        Rule("no tensor comes twice", each_once),
        Rule("the axis is that of the channels", lambda node, target: node.params["axis"] in (3, -1)),
        Rule("there is no fused activation", lambda node, target: node.params["activation"] == "NONE"),
        Rule("inputs have the output's height and width", shapes_match),
        Rule(
            "all channels together fit one kernel of 32 KiB",
            lambda node, target: read_channels(node, target) <= target.soc.kernel_bytes_limit,
        ),
        Rule(CBUF_TEXT, cbuf_fits),
        Rule("the inputs' scales are met within 0.45 output steps", converters_exist),
    ],
)
def concatenation(node: Node, target: Target) -> list[Convolution]:
    """out[y,x,c] = requantize(in[y,x,c - first] - zi), ``in`` the input whose channels begin at ``first``."""
    output = node.outputs[0]
    assert output.quant is not None
    weight, runs = converters(node, target)
    channels = output.shape[3]
    counts = [tensor.shape[3] for tensor in pieces(node)]
    return [
        Convolution(
            node=node.index,
            operator=node.op,
            inputs=tuple(pieces(node)),
            output=output,
            weight=(np.eye(channels, dtype=np.int8) * np.int8(weight)).reshape(channels, 1, 1, channels),
            weight_zero_point=0,
            bias=np.repeat(-weight * np.array(points(node), np.int32), counts),
            input_zero_point=0,  # nothing is padded
            stride=(1, 1),
            padding=(0, 0, 0, 0),
            depthwise=False,
            requantize=runs,
            accumulator_scale=None,
        )
    ]
