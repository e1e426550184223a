"""DEPTHWISE_CONV_2D: one pass in depthwise mode, or, with a multiplier above 1, a direct convolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from delegate import quantize
from delegate.hw.layout import align, fits_cbuf
from delegate.hw.soc import Target
from delegate.ir import AnyLayer, Convolution, Node
from delegate.ops import Rule, lowers
from delegate.ops.conv2d import CBUF_TEXT, CONVERTER_RULES, CONVOLUTION_RULES, convolution, direct_fits
from delegate.ops.geometry import lowered, prepared, trimmed, window
from delegate.ops.limits import with_limits
from delegate.ops.rules import CBUF_REMEDY, MALFORMED
from delegate.ops.weights import weight_data, weight_of


def channels_match(node: Node, target: Target) -> bool:
    feature = node.inputs[0]
    assert feature is not None
    return weight_of(node).shape == (1, *weight_of(node).shape[1:3], feature.shape[3] * node.params["depth_multiplier"])


def kernel_is_small(node: Node, target: Target) -> bool:
    """A depthwise group always fits; with a multiplier a kernel spans all input channels."""
    feature = node.inputs[0]
    assert feature is not None
    _, height, width, _ = weight_of(trimmed(node, target.soc)).shape
    channels = (
        target.soc.depthwise_group
        if node.params["depth_multiplier"] == 1
        else align(feature.shape[3], target.soc.atom_bytes)
    )
    return height * width * channels <= target.soc.kernel_bytes_limit


def cbuf_fits(node: Node, target: Target) -> bool:
    feature = node.inputs[0]
    assert feature is not None
    if node.params["depth_multiplier"] != 1:
        return direct_fits(node, feature.shape[3], target)
    _, node = prepared(node, target.soc)
    feature = node.inputs[0]
    assert feature is not None
    _, height, width, _ = weight_of(node).shape
    group = target.soc.depthwise_group
    rows = min(window(node)[0], feature.shape[1])
    return fits_cbuf(rows, feature.shape[2], group, height * width * group, target.soc)


def spread(weight: npt.NDArray[np.int8], channels: int, zero_point: int) -> npt.NDArray[np.int8]:
    """Weights (1, H, W, channels * multiplier) as those of a direct one (channels * multiplier, H, W, channels).

    Output k reads input k // multiplier only; all its other weights are the zero point, which counts as 0. The engine
    has no depth multiplier (npu.md §5.1).
    """
    _, height, width, outputs = weight.shape
    direct = np.full((outputs, height, width, channels), zero_point, np.int8)
    output = np.arange(outputs)
    direct[output, :, :, output // (outputs // channels)] = weight[0].transpose(2, 0, 1)
    return direct


@lowers(
    "DEPTHWISE_CONV_2D",
    [
        *CONVOLUTION_RULES,
        Rule(
            "weights have the input's channels times the multiplier",
            channels_match,
            MALFORMED,
        ),
        *CONVERTER_RULES,
        Rule("one kernel is at most 32 KiB", kernel_is_small, "fewer input channels or a smaller kernel"),
        Rule(CBUF_TEXT, cbuf_fits, CBUF_REMEDY),
    ],
)
def depthwise_conv2d(node: Node, target: Target) -> Sequence[AnyLayer]:
    """out[y,x,c] = requantize(bias[c] + sum over i,j of (in[y*sy+i-top, x*sx+j-left, c] - zi) * (w[i,j,c] - zw))."""
    return with_limits(node, target, layers)


def layers(node: Node, target: Target) -> list[Convolution]:
    """The layers of a node; raises CompileError where BS cannot do the activation."""
    return lowered(node, target.soc, lambda part: unpadded(part, target))


def unpadded(node: Node, target: Target) -> list[Convolution]:
    """The layers of a node whose padding and strides the chip has."""
    weight = weight_data(node)
    if node.params["depth_multiplier"] == 1:
        return convolution(node, weight, True, target)
    feature, quant = node.inputs[0], weight_of(node).quant
    assert feature is not None and quant is not None
    zero_point = quantize.zero_point(quant, weight_of(node).dtype)
    return convolution(node, spread(weight, feature.shape[3], zero_point), False, target)
