"""CONV_2D: one pass CNA -> CORE -> DPU. Also what all convolutions share: padding, rules, requantization."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from delegate import quantize
from delegate.errors import CompileError
from delegate.hw.layout import align, fits_cbuf
from delegate.hw.soc import BS_CLAMP, NORM_SHIFT, Target
from delegate.ir import Convolution, Node, Requantize, Tensor, spanned
from delegate.ops import Rule, lowers
from delegate.ops.rules import ACTIVATION, EXTENT, FEATURES_8_BIT, IMAGES, SAME_DTYPE, SCALES_POSITIVE
from delegate.requantize import Channels, clamped, exact, fitted_bias, per_channel, plain, scale_classes


def is_depthwise(node: Node) -> bool:
    """Whether each channel has a kernel of its own; a product by a constant is lowered as such a node."""
    return node.op in ("DEPTHWISE_CONV_2D", "MUL")


def weight_of(node: Node) -> Tensor:
    """The weight tensor; rules that run first make sure that it is there."""
    tensor = node.inputs[1]
    assert tensor is not None
    return tensor


def weight_data(node: Node) -> npt.NDArray[np.int8]:
    """The weights in the NPU's domain."""
    data = weight_of(node).data
    assert data is not None
    return quantize.to_int8(data)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) in pixels of TFLite's SAME: the odd pixel goes after."""
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def window(node: Node) -> tuple[int, int]:
    """Height and width in pixels that a kernel spans."""
    _, height, width, _ = weight_of(node).shape
    dilation_y, dilation_x = node.params["dilation"]
    return spanned(height, dilation_y), spanned(width, dilation_x)


def padding_pixels(node: Node) -> tuple[int, int, int, int]:
    """(top, bottom, left, right); SAME and VALID end here."""
    if node.params["padding"] == "VALID":
        return 0, 0, 0, 0
    feature = node.inputs[0]
    assert feature is not None
    stride_y, stride_x = node.params["stride"]
    height, width = window(node)
    return (*same_padding(feature.shape[1], height, stride_y), *same_padding(feature.shape[2], width, stride_x))


def bias_data(node: Node) -> npt.NDArray[np.int64]:
    """int64 (output channels); zero where the node has no bias."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None or bias.data is None:
        return np.zeros(node.outputs[0].shape[3], np.int64)
    return bias.data.astype(np.int64).reshape(-1)


def accumulator_bound(node: Node) -> int:
    """A bound of |accumulator| over all inputs and weights, from the sizes alone."""
    _, height, width, channels = weight_of(node).shape
    taps = height * width * (1 if is_depthwise(node) else channels)
    return taps * 255 * 255 + int(np.abs(bias_data(node)).max(initial=0))


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


def input_and_constants(node: Node, target: Target) -> bool:
    feature, weight, *rest = node.inputs
    computed = feature is not None and feature.data is None
    bias_constant = not rest or rest[0] is None or rest[0].data is not None
    return computed and weight is not None and weight.data is not None and bias_constant


def strides_fit(node: Node, target: Target) -> bool:
    return all(1 <= stride <= target.soc.largest_stride for stride in node.params["stride"])


def kernel_fits(node: Node, target: Target) -> bool:
    return all(1 <= size <= target.soc.largest_kernel for size in weight_of(node).shape[1:3])


def padding_fits(node: Node, target: Target) -> bool:
    top, _, left, _ = padding_pixels(node)
    return max(top, left) <= target.soc.largest_padding


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


def dilation_fits(node: Node, target: Target) -> bool:
    """A dilated window larger than the tensor is not known to work (npu.md §12)."""
    feature = node.inputs[0]
    assert feature is not None
    dilation = node.params["dilation"]
    if not all(1 <= step <= target.soc.largest_dilation for step in dilation):
        return False
    sizes = zip(dilation, window(node), feature.shape[1:3], strict=True)
    return all(step == 1 or span <= size for step, span, size in sizes)


def converter_exists(node: Node, target: Target) -> bool:
    """The stages of the DPU can express the node's factors and its activation."""
    output = node.outputs[0]
    assert output.quant is not None
    try:
        channels = channels_of(node)
        classes = scale_classes(channels, quantize.zero_point(output.quant, output.dtype), group_of(node, target))
        for used in classes:
            converter_of(node, channels, used, target)
    except CompileError:
        return False
    return len(classes) <= LARGEST_PARTS


def clamp_is_allowed(node: Node, target: Target) -> bool:
    """The converter saturates at the ends of 8 bits by itself; other ends need a clamp in BS."""
    output = node.outputs[0]
    assert output.quant is not None
    limits = quantize.activation_range(node.params["activation"], output.quant, output.dtype)
    return limits == (quantize.INT8_LOW, quantize.INT8_HIGH) or BS_CLAMP in target.forms


def weights_are_quantized(node: Node, target: Target) -> bool:
    """One scale, or one a channel of the output; one zero point."""
    weight = weight_of(node)
    if weight.dtype not in ("int8", "uint8") or weight.quant is None:
        return False
    axis = 3 if is_depthwise(node) else 0
    channels = weight.shape[axis] if len(weight.shape) == 4 else 0
    per_channel = weight.quant.scale.size == channels and weight.quant.axis == axis
    one_zero_point = bool((weight.quant.zero_point == weight.quant.zero_point[0]).all())
    return (weight.quant.scale.size == 1 or per_channel) and one_zero_point


BS_CLAMP_TEXT = f"activation ends where 8 bits do, or the device may use: {BS_CLAMP}"
LARGEST_PARTS = 4  # classes of channel scales, a layer each
CBUF_TEXT = "the input rows of one window and 32 kernels (64 channels, depthwise) fit the CBUF of 384 KiB"

CONVOLUTION_RULES = [
    Rule("input is computed; weights and bias are constants", input_and_constants),
    FEATURES_8_BIT,
    SAME_DTYPE,
    IMAGES,
    EXTENT,
    Rule("weights have one scale, or one a channel, and one zero point", weights_are_quantized),
    Rule("weights have the input's dtype", lambda node, target: weight_of(node).dtype == node.outputs[0].dtype),
    Rule("weights have four dimensions", lambda node, target: len(weight_of(node).shape) == 4),
    SCALES_POSITIVE,
    ACTIVATION,
    Rule("stride is at most 7", strides_fit),
    Rule("dilation is at most 32 and a dilated window no larger than the input", dilation_fits),
    Rule("kernel is at most 31 x 31", kernel_fits),
    Rule("padding is at most 15 pixels", padding_fits),
    Rule("output extent is the one that the padding gives", output_is_computed),
    Rule(
        "bias has one number per output channel", lambda node, target: bias_data(node).size == node.outputs[0].shape[3]
    ),
    Rule("accumulator stays within 32 bits", lambda node, target: accumulator_bound(node) < 2**31),
    Rule(BS_CLAMP_TEXT, clamp_is_allowed),
    Rule("BS and the output converter can express scales and clamp", converter_exists),
]


def channels_match(node: Node, target: Target) -> bool:
    feature = node.inputs[0]
    assert feature is not None
    return feature.shape[3] == weight_of(node).shape[3]


def kernel_is_small(node: Node, target: Target) -> bool:
    _, height, width, channels = weight_of(node).shape
    return height * width * align(channels, target.soc.atom_bytes) <= target.soc.kernel_bytes_limit


def direct_fits(node: Node, channels: int, target: Target) -> bool:
    """A direct convolution over ``channels`` finds room in the CBUF for the rows of one window and one kernel group."""
    feature = node.inputs[0]
    assert feature is not None
    _, kernel_height, kernel_width, _ = weight_of(node).shape
    group_bytes = target.soc.kernel_group * kernel_height * kernel_width * align(channels, target.soc.atom_bytes)
    rows = min(window(node)[0], feature.shape[1])
    return fits_cbuf(rows, feature.shape[2], channels, group_bytes, target.soc)


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
    assert output.quant is not None
    channels = channels_of(node)
    classes = scale_classes(channels, quantize.zero_point(output.quant, output.dtype), group_of(node, target))
    if len(classes) == 1:
        return [one_convolution(node, weight, depthwise, channels, classes[0], output, target)]
    parts = [
        one_convolution(node, weight, depthwise, channels, used, part_of_output(node, index), target)
        for index, used in enumerate(classes)
    ]
    return [*parts, selection(node, [part.output for part in parts], classes)]


def part_of_output(node: Node, index: int) -> Tensor:
    """A tensor like the node's output that the model does not have; such tensors have negative numbers."""
    output = node.outputs[0]
    return replace(output, index=-(LARGEST_PARTS * output.index + index + 1), name=f"{output.name} part {index}")


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
    runs = converter_of(node, channels, used, target)
    return Convolution(
        node=node.index,
        operator=node.op,
        inputs=(feature,),
        output=output,
        weight=weight,
        weight_zero_point=quantize.zero_point(quant, weight_of(node).dtype),
        bias=fitted_bias(runs, channels),
        input_zero_point=quantize.zero_point(feature.quant, feature.dtype),
        stride=node.params["stride"],
        padding=padding_pixels(node),
        depthwise=depthwise,
        dilation=node.params["dilation"],
        requantize=runs,
        accumulator_scale=float(feature.quant.scale[0]) * float(quant.scale[0]) if quant.scale.size == 1 else None,
    )


def selection(node: Node, parts: list[Tensor], classes: list[npt.NDArray[np.bool_]]) -> Convolution:
    """A 1x1 convolution that takes each channel from one of several tensors: 64 * (q - zero point) / 2**6, exact."""
    output = node.outputs[0]
    assert output.quant is not None
    channels, one, offset = output.shape[3], 1 << 6, quantize.zero_point(output.quant, output.dtype)
    blocks = [np.diag(np.where(used, one, 0).astype(np.int8)) for used in classes]
    return Convolution(
        node=node.index,
        operator=node.op,
        inputs=tuple(parts),
        output=output,
        weight=np.concatenate(blocks, axis=1).reshape(channels, 1, 1, -1),
        weight_zero_point=0,
        bias=np.full(channels, -one * offset, np.int32),
        input_zero_point=0,
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        depthwise=False,
        requantize=(plain(1 / one, channels, offset),),
        accumulator_scale=float(output.quant.scale[0]) / one,
    )


@lowers(
    "CONV_2D",
    [
        *CONVOLUTION_RULES,
        Rule("input and weights have the same channels", channels_match),
        Rule("one kernel is at most 32 KiB", kernel_is_small),
        Rule(CBUF_TEXT, lambda node, target: direct_fits(node, weight_of(node).shape[3], target)),
    ],
)
def conv2d(node: Node, target: Target) -> list[Convolution]:
    """out[y,x,k] = requantize(bias[k] + sum over i,j,c of (in[y*sy+i-top, x*sx+j-left, c] - zi) * (w[k,i,j,c] - zw)).

    SAME and VALID become explicit padding here; no later stage knows the words.
    """
    return convolution(node, weight_data(node), False, target)
