"""CONV_2D: one pass CNA -> CORE -> DPU. Also what all convolutions share: padding, rules, requantization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from delegate import quantize
from delegate.errors import CompileError
from delegate.gains import with_bias
from delegate.hw.layout import align, fits_cbuf
from delegate.hw.soc import CHANNEL_GAIN, NORM_SHIFT, Target
from delegate.ir import AnyLayer, Convolution, Node, Requantize, Tensor
from delegate.ops import Rule, geometry, lowers
from delegate.ops.copies import selection
from delegate.ops.geometry import lowered, padding_pixels, prepared, trimmed
from delegate.ops.geometry import same_padding as same_padding
from delegate.ops.geometry import window as window
from delegate.ops.groups import LARGEST_WEIGHTS, Run, channels_match, groups_together, run_bytes, runs, within
from delegate.ops.inner import CLASSES, inner
from delegate.ops.limits import exists, with_limits
from delegate.ops.rules import (
    ACTIVATION,
    CBUF_REMEDY,
    EXTENT,
    FEATURES_8_BIT,
    IMAGES,
    MALFORMED,
    PADDING_KNOWN,
    ROOM,
    SAME_DTYPE,
    SCALES_POSITIVE,
    SCALES_REMEDY,
)
from delegate.ops.weights import (
    CONSTANT_COEFFICIENTS,
    WEIGHT_DTYPE,
    WEIGHT_SCALES,
    accumulator_bound,
    bias_data,
    is_depthwise,
    weight_data,
    weight_of,
)
from delegate.requantize import Channels, clamped, exact, per_channel, plain, scale_classes


def channels_of(node: Node) -> Channels:
    """Factors, bias and reach of each output channel; raises CompileError where the bias leaves 32 bits."""
    feature, weight = node.inputs[0], weight_of(node)
    assert feature is not None and feature.quant is not None and weight.quant is not None
    depthwise = is_depthwise(node)
    point = quantize.zero_point(weight.quant, weight.dtype)
    data = weight_data(node)
    magnitudes = np.abs(data.astype(np.int16) - np.int16(point))
    reach = magnitudes.sum(axis=(0, 1, 2) if depthwise else (1, 2, 3), dtype=np.int64) * 255
    input_point = quantize.zero_point(feature.quant, feature.dtype)
    bias = quantize.effective_bias(bias_data(node), data, point, input_point, depthwise)
    return Channels(channel_factors(node), bias, reach.astype(np.float64))


def is_positive(node: Node, names: tuple[str, ...], most: int) -> bool:
    return all(1 <= size <= most for name in names for size in node.params[name])


def strides_fit(node: Node, target: Target) -> bool:
    return geometry.strides_exist(trimmed(node, target.soc), target.soc)


def kernel_fits(node: Node, target: Target) -> bool:
    return all(size <= target.soc.largest_kernel for size in weight_of(trimmed(node, target.soc)).shape[1:3])


def padding_fits(node: Node, target: Target) -> bool:
    return geometry.padding_exists(trimmed(node, target.soc), target.soc)


def output_is_computed(node: Node, target: Target) -> bool:
    """TFLite's output extent is what the padding gives."""
    feature = node.inputs[0]
    assert feature is not None
    top, bottom, left, right = padding_pixels(node)
    window_height, window_width = window(node)
    stride_y, stride_x = node.params["stride"]
    height = (feature.shape[1] + top + bottom - window_height) // stride_y + 1
    width = (feature.shape[2] + left + right - window_width) // stride_x + 1
    return node.outputs[0].shape[1:3] == (height, width)


def converter_exists(node: Node, target: Target) -> bool:
    """The stages of the DPU can express the node's factors and its activation."""
    try:
        for run in runs_of(node, target):
            channels = channels_of(run.node)
            classes = classes_of(run.node, channels, target)
            for used in classes:
                converter_of(run.node, channels, used, target)
            if len(classes) > LARGEST_PARTS:
                return False
    except CompileError:
        return False
    return True


def classes_of(node: Node, channels: Channels, target: Target) -> list[npt.NDArray[np.bool_]]:
    """Masks of the output channels that are exact together; raises CompileError where some are never."""
    output = node.outputs[0]
    assert output.quant is not None
    return scale_classes(channels, quantize.zero_point(output.quant, output.dtype), group_of(node, target))


def runs_of(node: Node, target: Target) -> list[Run]:
    """The node as convolutions without groups; raises CompileError as classes_of does."""
    if node.op == "DEPTHWISE_CONV_2D":
        return [Run(node, 0, 0)]
    one_class = len(classes_of(node, channels_of(node), target)) == 1
    return list(runs(node, one_class, target.soc))


LARGEST_PARTS = len(CLASSES)  # classes of channel scales, a layer each
CBUF_TEXT = "the input rows of one window and 32 kernels (64 channels, depthwise) fit the CBUF of 384 KiB"

CONVOLUTION_RULES = [
    CONSTANT_COEFFICIENTS,
    FEATURES_8_BIT,
    SAME_DTYPE,
    IMAGES,
    EXTENT,
    ROOM,
    Rule(
        "weights have four dimensions, none of them 0",
        lambda node, target: len(weight_of(node).shape) == 4 and min(weight_of(node).shape) > 0,
        MALFORMED,
    ),
    WEIGHT_SCALES,
    WEIGHT_DTYPE,
    SCALES_POSITIVE,
    ACTIVATION,
    PADDING_KNOWN,
    Rule(
        "stride is at least 1",
        lambda node, target: is_positive(node, ("stride",), 2**31),
        MALFORMED,
    ),
    Rule(
        "dilation is 1 to 32",
        lambda node, target: is_positive(node, ("dilation",), target.soc.largest_dilation),
        "a dilation of at most 32",
    ),
    Rule(
        "output extent is the one that the padding gives",
        output_is_computed,
        "a model with fixed shapes, which TFLite has computed itself",
    ),
    Rule(
        "stride is at most 7, or a product of such that leaves out at most 15 of 16 results",
        strides_fit,
        "a stride of at most 7, or two operators in sequence",
    ),
    Rule("kernel is at most 31 x 31", kernel_fits, "a smaller kernel, or two in sequence"),
    Rule(
        "padding is at most 15 pixels, or memory has room for a padded input of 2047 pixels",
        padding_fits,
        "a smaller kernel or image",
    ),
    Rule(
        "bias is int32 with one number per output channel",
        lambda node, target: (
            bias_data(node).size == node.outputs[0].shape[3]
            and all(tensor.dtype == "int32" for tensor in node.inputs[2:] if tensor is not None)
        ),
        MALFORMED,
    ),
    Rule(
        "accumulator stays within 32 bits",
        lambda node, target: accumulator_bound(node) < 2**31,
        "fewer input channels or a smaller kernel",
    ),
]
CONVERTER_RULES = [
    Rule(
        "BS and the output converter can express scales",
        lambda node, target: exists(node, target, converter_exists),
        SCALES_REMEDY,
    ),
]


def kernel_is_small(node: Node, channels: int, target: Target) -> bool:
    """A kernel over ``channels`` is one that the chip has."""
    _, height, width, _ = weight_of(node).shape
    return height * width * align(channels, target.soc.atom_bytes) <= target.soc.kernel_bytes_limit


def direct_fits(node: Node, channels: int, target: Target) -> bool:
    """A direct convolution over ``channels`` finds room in the CBUF for the rows of one window and one kernel group."""
    _, node = prepared(node, target.soc)
    feature = node.inputs[0]
    assert feature is not None
    _, kernel_height, kernel_width, _ = weight_of(node).shape
    group_bytes = target.soc.kernel_group * kernel_height * kernel_width * align(channels, target.soc.atom_bytes)
    rows = min(window(node)[0], feature.shape[1])
    return fits_cbuf(rows, feature.shape[2], channels, group_bytes, target.soc)


def channels_of_run(node: Node, target: Target) -> int:
    """Channels that the kernels of a run of groups read."""
    one_class = len(classes_of(node, channels_of(node), target)) == 1
    return weight_of(node).shape[3] * groups_together(node, one_class, target.soc)


def run_is_small(node: Node, target: Target) -> bool:
    one_class = len(classes_of(node, channels_of(node), target)) == 1
    return run_bytes(node, groups_together(node, one_class, target.soc)) <= LARGEST_WEIGHTS


def channel_factors(node: Node) -> npt.NDArray[np.float64]:
    """si * sw / so of each output channel, with the roundings of TFLite, which in places multiplies in float32."""
    feature, weight, output = node.inputs[0], weight_of(node), node.outputs[0]
    assert feature is not None and feature.quant is not None and weight.quant is not None and output.quant is not None
    scale_in, scales = feature.quant.scale[0], weight.quant.scale
    if node.op == "MUL":
        return np.full(output.shape[3], quantize.product_factor(feature.quant, weight.quant, output.quant))
    single = feature.dtype == "uint8" or (node.op == "FULLY_CONNECTED" and scales.size == 1)
    product = (scale_in * scales).astype(np.float64) if single else float(scale_in) * scales.astype(np.float64)
    return np.broadcast_to(product / float(output.quant.scale[0]), (output.shape[3],))


def converter_of(node: Node, channels: Channels, used: npt.NDArray[np.bool_], target: Target) -> tuple[Requantize, ...]:
    """From accumulators to the output, its clamps included, exact for the channels ``used``; raises CompileError."""
    output = node.outputs[0]
    assert output.quant is not None
    offset = quantize.zero_point(output.quant, output.dtype)
    factor, count = float(channels.factors[0]), len(channels.factors)
    uniform = bool((channels.factors == factor).all())
    runs: tuple[Requantize, ...]
    if uniform and target.converter_only:
        runs = (plain(factor, count, offset),)
    elif uniform and NORM_SHIFT in target.forms:
        reach = int((channels.reach + np.abs(channels.bias)).max())
        runs = (exact(factor, reach, count, offset),)
    else:
        runs = per_channel(
            replace(channels, factors=np.where(used, channels.factors, 0.0)), offset, group_of(node, target)
        )
    low, high = quantize.activation_range(node.params["activation"], output.quant, output.dtype)
    return tuple(clamped(run, low, high) for run in runs)


def group_of(node: Node, target: Target) -> int:
    """Channels that the writer cannot separate."""
    depthwise = is_depthwise(node) and node.params["depth_multiplier"] == 1
    return target.soc.depthwise_group if depthwise else target.soc.kernel_group


def convolution(node: Node, weight: npt.NDArray[np.int8], depthwise: bool, target: Target) -> list[Convolution]:
    """The layers of a node whose weights are already (kernels, height, width, channels); depthwise: one kernel.

    One layer, or one for each class of channel scales, of which a last one takes every channel from where it is exact.
    """
    output = node.outputs[0]
    channels = channels_of(node)
    classes = classes_of(node, channels, target)
    if len(classes) == 1:
        return [one_convolution(node, weight, depthwise, channels, classes[0], output, target)]
    parts = [
        one_convolution(node, weight, depthwise, channels, used, inner(output, CLASSES[number]), target)
        for number, used in enumerate(classes)
    ]
    return [*parts, selection(node, [part.output for part in parts], classes)]


def one_convolution(
    node: Node,
    weight: npt.NDArray[np.int8],
    depthwise: bool,
    channels: Channels,
    used: npt.NDArray[np.bool_],
    output: Tensor,
    target: Target,
) -> Convolution:
    """One layer that is exact for the channels ``used``."""
    feature = node.inputs[0]
    assert feature is not None and feature.quant is not None
    quant = weight_of(node).quant
    assert quant is not None
    seen = replace(channels, factors=np.where(used, channels.factors, 0.0))
    runs, bias = with_bias(seen, converter_of(node, channels, used, target), CHANNEL_GAIN in target.forms)
    return Convolution(
        node=node.index,
        operator=node.op,
        inputs=(feature,),
        output=output,
        weight=weight,
        weight_zero_point=quantize.zero_point(quant, weight_of(node).dtype),
        bias=bias,
        input_zero_point=quantize.zero_point(feature.quant, feature.dtype),
        stride=node.params["stride"],
        padding=padding_pixels(node),
        depthwise=depthwise,
        dilation=node.params["dilation"],
        requantize=runs,
        accumulator_scale=float(feature.quant.scale[0]) * float(quant.scale[0]) if quant.scale.size == 1 else None,
    )


def in_runs(node: Node, target: Target) -> list[Convolution]:
    """The layers of a node whose padding and strides the chip has: of each run of groups."""
    return [
        within(layer, run, node)
        for run in runs_of(node, target)
        for layer in convolution(run.node, weight_data(run.node), False, target)
    ]


def direct(node: Node, target: Target) -> list[Convolution]:
    """The layers of a node whose kernels read all channels, or those of a group; the last ones write its output.

    Raises CompileError where BS cannot do the activation.
    """
    return lowered(node, target.soc, lambda part: in_runs(part, target))


@lowers(
    "CONV_2D",
    [
        *CONVOLUTION_RULES,
        Rule(
            "input channels and kernels are multiples of the groups",
            lambda node, target: channels_match(node),
            MALFORMED,
        ),
        *CONVERTER_RULES,
        Rule(
            "one kernel is at most 32 KiB, over the channels of as many groups as begin 32 kernels and 16 channels",
            lambda node, target: kernel_is_small(trimmed(node, target.soc), channels_of_run(node, target), target),
            "fewer input channels or a smaller kernel",
        ),
        Rule(
            "weights are at most 16 MiB with those of other groups, which are 0",
            run_is_small,
            "fewer channels, or groups of a multiple of 16 channels and 32 kernels",
        ),
        Rule(CBUF_TEXT, lambda node, target: direct_fits(node, channels_of_run(node, target), target), CBUF_REMEDY),
    ],
)
def conv2d(node: Node, target: Target) -> Sequence[AnyLayer]:
    """out[y,x,k] = requantize(bias[k] + sum over i,j,c of (in[y*sy+i-top, x*sx+j-left, c] - zi) * (w[k,i,j,c] - zw)).

    SAME and VALID become explicit padding here; no later stage knows the words.
    """
    return with_limits(node, target, direct)
