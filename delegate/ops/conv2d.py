"""CONV_2D: one pass CNA -> CORE -> DPU. Also what all convolutions share: padding, rules, requantization."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delegate import quantize
from delegate.errors import CompileError
from delegate.hw.layout import align, fits_cbuf
from delegate.hw.soc import Soc
from delegate.ir import Convolution, Node, Requantize, Tensor
from delegate.ops import Rule, lowers
from delegate.ops.rules import (
    ACTIVATION,
    EXTENT,
    FEATURES_8_BIT,
    ONE_IMAGE,
    SAME_DTYPE,
    SCALES_POSITIVE,
    is_quantized_per_tensor,
)


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


def padding_pixels(node: Node) -> tuple[int, int, int, int]:
    """(top, bottom, left, right); SAME and VALID end here."""
    if node.params["padding"] == "VALID":
        return 0, 0, 0, 0
    feature = node.inputs[0]
    assert feature is not None
    stride_y, stride_x = node.params["stride"]
    _, kernel_height, kernel_width, _ = weight_of(node).shape
    return (
        *same_padding(feature.shape[1], kernel_height, stride_y),
        *same_padding(feature.shape[2], kernel_width, stride_x),
    )


def bias_data(node: Node) -> npt.NDArray[np.int64]:
    """int64 (output channels); zero where the node has no bias."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None or bias.data is None:
        return np.zeros(node.outputs[0].shape[3], np.int64)
    return bias.data.astype(np.int64).reshape(-1)


def accumulator_stays_in_range(node: Node, soc: Soc) -> bool:
    """The accumulator is handed to the DPU in 32 bits; the bound is the one of the largest inputs and weights."""
    _, height, width, channels = weight_of(node).shape
    taps = height * width * (1 if node.op == "DEPTHWISE_CONV_2D" else channels)
    return taps * 255 * 255 + int(np.abs(bias_data(node)).max(initial=0)) < 2**31


def input_and_constants(node: Node, soc: Soc) -> bool:
    feature, weight, *rest = node.inputs
    computed = feature is not None and feature.data is None
    bias_constant = not rest or rest[0] is None or rest[0].data is not None
    return computed and weight is not None and weight.data is not None and bias_constant


def strides_fit(node: Node, soc: Soc) -> bool:
    return all(1 <= stride <= soc.largest_stride for stride in node.params["stride"])


def kernel_fits(node: Node, soc: Soc) -> bool:
    return all(1 <= size <= soc.largest_kernel for size in weight_of(node).shape[1:3])


def padding_fits(node: Node, soc: Soc) -> bool:
    top, _, left, _ = padding_pixels(node)
    return max(top, left) <= soc.largest_padding


def output_is_computed(node: Node, soc: Soc) -> bool:
    """TFLite's output extent is what the padding gives."""
    feature = node.inputs[0]
    assert feature is not None
    top, bottom, left, right = padding_pixels(node)
    _, kernel_height, kernel_width, _ = weight_of(node).shape
    stride_y, stride_x = node.params["stride"]
    height = (feature.shape[1] + top + bottom - kernel_height) // stride_y + 1
    width = (feature.shape[2] + left + right - kernel_width) // stride_x + 1
    return node.outputs[0].shape[1:3] == (height, width)


def converter_exists(node: Node, soc: Soc) -> bool:
    """The output converter and the clamps can express the node's factor and activation."""
    try:
        converter, low, high = requantization(node)
        quantize.accumulator_clamp(low, high, converter)
    except CompileError:
        return False
    return True


CBUF_TEXT = "the input rows of one window and 32 kernels (64 channels, depthwise) fit the CBUF of 384 KiB"

CONVOLUTION_RULES = [
    Rule("input is computed; weights and bias are constants", input_and_constants),
    FEATURES_8_BIT,
    SAME_DTYPE,
    ONE_IMAGE,
    EXTENT,
    Rule("weights have one scale and one zero point", lambda node, soc: is_quantized_per_tensor(node.inputs[1])),
    Rule("weights have the input's dtype", lambda node, soc: weight_of(node).dtype == node.outputs[0].dtype),
    Rule("weights have four dimensions", lambda node, soc: len(weight_of(node).shape) == 4),
    SCALES_POSITIVE,
    ACTIVATION,
    Rule("stride is at most 7", strides_fit),
    Rule("dilation is 1", lambda node, soc: tuple(node.params["dilation"]) == (1, 1)),
    Rule("kernel is at most 31 x 31", kernel_fits),
    Rule("padding is at most 15 pixels", padding_fits),
    Rule("output extent is the one that the padding gives", output_is_computed),
    Rule("bias has one number per output channel", lambda node, soc: bias_data(node).size == node.outputs[0].shape[3]),
    Rule("accumulator stays within 32 bits", accumulator_stays_in_range),
    Rule("output converter can express scale and clamp", converter_exists),
]


def channels_match(node: Node, soc: Soc) -> bool:
    feature = node.inputs[0]
    assert feature is not None
    return feature.shape[3] == weight_of(node).shape[3]


def kernel_is_small(node: Node, soc: Soc) -> bool:
    _, height, width, channels = weight_of(node).shape
    return height * width * align(channels, soc.atom_bytes) <= soc.kernel_bytes_limit


def direct_fits(node: Node, channels: int, soc: Soc) -> bool:
    """A direct convolution over ``channels`` finds room in the CBUF for the rows of one window and one kernel group."""
    feature = node.inputs[0]
    assert feature is not None
    _, kernel_height, kernel_width, _ = weight_of(node).shape
    group_bytes = soc.kernel_group * kernel_height * kernel_width * align(channels, soc.atom_bytes)
    rows = min(kernel_height, feature.shape[1])
    return fits_cbuf(rows, feature.shape[2], channels, group_bytes, soc)


def requantization(node: Node) -> tuple[Requantize, int, int]:
    """(converter, clamp low, clamp high) from the scales, as TFLite multiplies and divides them: in double."""
    feature, weight, output = node.inputs[0], weight_of(node), node.outputs[0]
    assert feature is not None and feature.quant is not None and weight.quant is not None and output.quant is not None
    real = float(feature.quant.scale[0]) * float(weight.quant.scale[0]) / float(output.quant.scale[0])
    converter = quantize.requantize(real, quantize.zero_point(output.quant, output.dtype))
    low, high = quantize.activation_range(node.params["activation"], output.quant, output.dtype)
    return converter, low, high


def convolution(node: Node, weight: npt.NDArray[np.int8], depthwise: bool) -> Convolution:
    """The layer of a node whose weights are already (kernels, height, width, channels); depthwise: one kernel."""
    feature, output = node.inputs[0], node.outputs[0]
    assert feature is not None and feature.quant is not None
    weight_quant = weight_of(node).quant
    assert weight_quant is not None
    weight_zero_point = quantize.zero_point(weight_quant, weight_of(node).dtype)
    input_zero_point = quantize.zero_point(feature.quant, feature.dtype)
    converter, low, high = requantization(node)
    relu, limit = quantize.accumulator_clamp(low, high, converter)
    return Convolution(
        node=node.index,
        operator=node.op,
        inputs=(feature,),
        output=output,
        weight=weight,
        weight_zero_point=weight_zero_point,
        bias=quantize.effective_bias(bias_data(node), weight, weight_zero_point, input_zero_point, depthwise),
        input_zero_point=input_zero_point,
        stride=node.params["stride"],
        padding=padding_pixels(node),
        depthwise=depthwise,
        requantize=converter,
        accumulator_scale=float(feature.quant.scale[0]) * float(weight_quant.scale[0]),
        relu=relu,
        relu_limit=limit,
    )


@lowers(
    "CONV_2D",
    [
        *CONVOLUTION_RULES,
        Rule("input and weights have the same channels", channels_match),
        Rule("one kernel is at most 32 KiB", kernel_is_small),
        Rule(CBUF_TEXT, lambda node, soc: direct_fits(node, weight_of(node).shape[3], soc)),
    ],
)
def conv2d(node: Node, soc: Soc) -> list[Convolution]:
    """out[y,x,k] = requantize(bias[k] + sum over i,j,c of (in[y*sy+i-top, x*sx+j-left, c] - zi) * (w[k,i,j,c] - zw)).

    SAME and VALID become explicit padding here; no later stage knows the words.
    """
    return [convolution(node, weight_data(node), depthwise=False)]
