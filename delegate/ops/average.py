"""AVERAGE_POOL_2D and MEAN over height and width: depthwise convolutions with weights of 1.

The pooling unit averages too, but the mainline kernel never hears of its end (S-137), its rounding is not TFLite's
(S-132), and its windows end at 16; a depthwise kernel goes to 31 and the division is a factor like any other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from delegate import quantize
from delegate.errors import CompileError
from delegate.hw.layout import fits_cbuf
from delegate.hw.soc import NORM_SHIFT, Target
from delegate.ir import Convolution, Node, Requantize, Tensor
from delegate.ops import Rule, lowers
from delegate.ops.conv2d import BS_CLAMP_TEXT, CBUF_TEXT, clamp_is_allowed, same_padding
from delegate.ops.rules import (
    ACTIVATION,
    EXTENT,
    FEATURES_8_BIT,
    IMAGES,
    SAME_DTYPE,
    SAME_QUANTIZATION,
    SCALES_POSITIVE,
    computed_inputs,
)
from delegate.requantize import clamped, quotient


def window(node: Node) -> tuple[int, int]:
    """Height and width of what is averaged."""
    feature = node.inputs[0]
    assert feature is not None
    if node.op == "MEAN":
        return feature.shape[1], feature.shape[2]
    height, width = node.params["filter"]
    return height, width


def window_is_whole(node: Node, target: Target) -> bool:
    """No window leaves the tensor: TFLite divides by the pixels inside, a convolution by a constant."""
    feature = node.inputs[0]
    assert feature is not None
    if node.op == "MEAN" or node.params["padding"] == "VALID":
        return True
    sizes = zip(feature.shape[1:3], window(node), node.params["stride"], strict=True)
    return all(same_padding(size, kernel, stride) == (0, 0) for size, kernel, stride in sizes)


def stride_of(node: Node) -> tuple[int, int]:
    return (1, 1) if node.op == "MEAN" else node.params["stride"]


def strides_fit(node: Node, target: Target) -> bool:
    """A stride between windows of which there is only one does not matter."""
    extents = node.outputs[0].shape[1:3] if node.op != "MEAN" else (1, 1)
    strides = zip(stride_of(node), extents, strict=True)
    return all(stride >= 1 and (stride <= target.soc.largest_stride or extent == 1) for stride, extent in strides)


def averaged_output(node: Node) -> Tensor:
    """The output with the four dimensions that MEAN may have dropped."""
    output = node.outputs[0]
    return output if len(output.shape) == 4 else replace(output, shape=(1, 1, 1, output.shape[-1]))


def output_is_computed(node: Node, target: Target) -> bool:
    """TFLite's output extent is what the windows give."""
    feature = node.inputs[0]
    assert feature is not None
    sizes = zip(feature.shape[1:3], window(node), stride_of(node), strict=True)
    extents = [(size - kernel) // stride + 1 for size, kernel, stride in sizes]
    return averaged_output(node).shape == (1, *extents, feature.shape[3])


def kernel_fits(node: Node, target: Target) -> bool:
    return min(window(node)) >= 1 and max(window(node)) <= target.soc.largest_kernel


def kernel_is_small(node: Node, target: Target) -> bool:
    height, width = window(node)
    return height * width * target.soc.depthwise_group <= target.soc.kernel_bytes_limit


def cbuf_fits(node: Node, target: Target) -> bool:
    feature = node.inputs[0]
    assert feature is not None
    group = target.soc.depthwise_group
    height, width = window(node)
    return fits_cbuf(height, feature.shape[2], group, height * width * group, target.soc)


def axes_are_height_and_width(node: Node, target: Target) -> bool:
    axes = node.inputs[1] if len(node.inputs) == 2 else None
    if axes is None or axes.data is None:
        return False
    return sorted(int(axis) % 4 for axis in np.asarray(axes.data).reshape(-1)) == [1, 2]


def converter(node: Node, target: Target) -> Requantize:
    """From the sum of a window to the output, clamps included; raises CompileError.

    AVERAGE_POOL_2D rounds the average of the stored numbers, ties away from zero; MEAN that of their distance from the
    zero point.
    """
    feature, output = node.inputs[0], node.outputs[0]
    assert feature is not None and feature.quant is not None and output.quant is not None
    height, width = window(node)
    real = float(feature.quant.scale[0]) / float(output.quant.scale[0]) / (height * width)
    stored = -quantize.domain_offset(output.dtype)
    offset = quantize.zero_point(output.quant, output.dtype) if node.op == "MEAN" else stored
    run = quotient(real, height * width * 255, output.shape[-1], offset, NORM_SHIFT in target.forms)
    activation = node.params.get("activation", "NONE")
    return clamped(run, *quantize.activation_range(activation, output.quant, output.dtype))


def converter_exists(node: Node, target: Target) -> bool:
    try:
        converter(node, target)
    except CompileError:
        return False
    return True


COMMON_RULES = [
    FEATURES_8_BIT,
    SAME_DTYPE,
    SCALES_POSITIVE,
    Rule("the input has four dimensions and a batch of 1", lambda node, target: is_image(computed_inputs(node)[0])),
]
LATER_RULES = [
    Rule("no window leaves the input", window_is_whole),
    Rule("a window is at most 31 x 31", kernel_fits),
    Rule("a window is at most 512 pixels (64 channels of a kernel take 32 KiB)", kernel_is_small),
    Rule("stride is at most 7", strides_fit),
    Rule("output extent is the one that the windows give", output_is_computed),
    Rule(CBUF_TEXT, cbuf_fits),
    Rule("BS and the output converter can express the division and the clamp", converter_exists),
]


def is_image(tensor: Tensor) -> bool:
    return len(tensor.shape) == 4 and tensor.shape[0] == 1 and min(tensor.shape) > 0


def average(node: Node, target: Target) -> list[Convolution]:
    """The layer: sum over the window of (in - zi), times 1 / (number of pixels)."""
    feature = node.inputs[0]
    assert feature is not None and feature.quant is not None
    output = averaged_output(node)
    assert output.quant is not None
    height, width = window(node)
    channels = feature.shape[3]
    point = quantize.zero_point(feature.quant, feature.dtype)
    strides = zip(stride_of(node), output.shape[1:3], strict=True)
    stride_y, stride_x = (stride if extent > 1 else 1 for stride, extent in strides)
    counted_from = point if node.op == "MEAN" else -quantize.domain_offset(feature.dtype)
    return [
        Convolution(
            node=node.index,
            operator=node.op,
            inputs=(feature,),
            output=output,
            weight=np.ones((1, height, width, channels), np.int8),
            weight_zero_point=0,
            bias=np.full(channels, -counted_from * height * width, np.int32),
            input_zero_point=point,
            stride=(stride_y, stride_x),
            padding=(0, 0, 0, 0),
            depthwise=True,
            requantize=(converter(node, target),),
            accumulator_scale=float(feature.quant.scale[0]),
        )
    ]


@lowers(
    "AVERAGE_POOL_2D",
    [
        *COMMON_RULES,
        IMAGES,
        EXTENT,
        SAME_QUANTIZATION,
        ACTIVATION,
        Rule(BS_CLAMP_TEXT, clamp_is_allowed),
        *LATER_RULES,
    ],
)
def average_pool(node: Node, target: Target) -> list[Convolution]:
    """out[y,x,c] = round(sum over the window of in[y*sy+i, x*sx+j, c] / pixels), ties away from zero."""
    return average(node, target)


@lowers(
    "MEAN",
    [
        *COMMON_RULES,
        Rule("the axes are height and width", axes_are_height_and_width),
        *LATER_RULES,
    ],
)
def mean(node: Node, target: Target) -> list[Convolution]:
    """out[c] = requantize(sum over y,x of (in[y,x,c] - zi) / pixels)."""
    return average(node, target)
