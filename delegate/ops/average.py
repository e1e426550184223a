"""AVERAGE_POOL_2D, MEAN and SUM: convolutions with weights of 1, depthwise unless channels are averaged.

The pooling unit averages too, but the mainline kernel never hears of its end (S-137), its rounding is not TFLite's
(S-132), and its windows end at 16; a depthwise kernel goes to 31 and the division is a factor like any other.

TFLite divides by the pixels inside the tensor, so windows that leave it are layers of their own, one for each size of
what is inside. A window that no kernel has room for is averaged twice, the averages of its parts being rounded. Their
average errs by at most half a step of the input, which in the output is that times the ratio of scales; the last
rounding adds half a step, TFLite's own half a step the other way: while the ratio is below 2 that is less than 2 steps
altogether, so that integers are within 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from delegate import quantize
from delegate.errors import CompileError
from delegate.hw.soc import NORM_SHIFT, PART_OF_ROW, ROW_SKIP, Soc, Target
from delegate.ir import AnyLayer, Convolution, Move, Node, Pixels, Requantize, Tensor, as_cube
from delegate.ops import Lowering, Rule, lowers
from delegate.ops.conv2d import CBUF_TEXT
from delegate.ops.copies import copy, forms_of
from delegate.ops.inner import AVERAGED, DENSE, UNLIMITED, inner
from delegate.ops.limits import with_limits
from delegate.ops.parts import factors, into, layer_fits, limited, reduced_axes, thinned
from delegate.ops.rules import (
    ALLOW,
    CBUF_REMEDY,
    INPUT_IMAGES,
    NODES_AT_A_TIME,
    ONE_FEATURE_RULES,
    ROOM,
    SCALES_REMEDY,
    WINDOW_RULES,
    possible,
)
from delegate.ops.windows import Windows, output_is_computed, windows_of
from delegate.requantize import clamped, exact, mean, quotient

MOST_RECTANGLES = 64  # of outputs with as many pixels inside, each a task
LARGEST_RATIO = 1.9  # of scales, where averages are averaged


@dataclass(frozen=True)
class Span:
    """Outputs along one axis that average as many pixels; the windows of several lie a stride apart."""

    outputs: range
    first: int  # pixel of the first window
    taps: int


def spans(size: int, kernel: int, stride: int, before: int, extent: int) -> list[Span]:
    """All outputs along an axis, those with a whole window together."""
    result: list[Span] = []
    for output in range(extent):
        start = output * stride - before
        first, stop = max(start, 0), min(start + kernel, size)
        if result and stop - first == kernel == result[-1].taps:
            result[-1] = replace(result[-1], outputs=range(result[-1].outputs.start, output + 1))
        else:
            result.append(Span(range(output, output + 1), first, stop - first))
    return result


def row_and_column_spans(feature: Tensor, windows: Windows) -> tuple[list[Span], list[Span]]:
    """The spans along both axes."""
    rows, columns = (
        spans(feature.shape[1 + i], windows.kernel[i], windows.stride[i], windows.before[i], windows.shape[1 + i])
        for i in (0, 1)
    )
    return rows, columns


def kernel_fits(kernel: tuple[int, int], soc: Soc) -> bool:
    """Whether a depthwise kernel may be that large."""
    return max(kernel) <= soc.largest_kernel and kernel[0] * kernel[1] * soc.depthwise_group <= soc.kernel_bytes_limit


def first_windows(windows: Windows, soc: Soc) -> tuple[int, int]:
    """The windows whose averages are averaged then; 1 x 1 where one kernel has room for all.

    The second windows are as large as can be: the roundings of many averages cancel out. Raises CompileError where the
    windows are no multiple of any that would do.
    """
    if kernel_fits(windows.kernel, soc) or (windows.channels and max(windows.kernel) <= soc.largest_kernel):
        return 1, 1
    height, width = windows.kernel
    found = [
        (first_y, first_x)
        for first_y in range(1, soc.largest_kernel + 1)
        for first_x in range(1, soc.largest_kernel + 1)
        if height % first_y == width % first_x == 0
        and kernel_fits((first_y, first_x), soc)
        and kernel_fits((height // first_y, width // first_x), soc)
        and all(
            step % first == 0 or extent == 1
            for step, first, extent in zip(windows.stride, (first_y, first_x), windows.shape[1:3], strict=True)
        )
        and max(first_y, first_x) <= soc.largest_stride
    ]
    if not found or any(windows.before):
        raise CompileError(f"a window of {height} x {width} pixels is not a window of windows up to 31 x 31")
    return min(found, key=lambda first: first[0] * first[1])


def rectangles(feature: Tensor, output: Tensor, windows: Windows) -> dict[tuple[int, int], tuple[Move, ...]]:
    """For each size of windows the pixels that are read and written; () for whole images.

    Whole rows are read where all windows of a row are as wide.
    """
    rows, columns = row_and_column_spans(feature, windows)
    if len(rows) == len(columns) == 1 and as_cube(output).shape == windows.shape:
        return {(rows[0].taps, columns[0].taps): ()}
    width = feature.shape[2]
    result: dict[tuple[int, int], tuple[Move, ...]] = {}
    for image in range(windows.shape[0]):
        whole = into(output, windows.shape, image)
        for row in rows:
            for column in columns:
                read = (len(row.outputs) - 1) * windows.stride[0] + row.taps
                across = (len(column.outputs) - 1) * windows.stride[1] + column.taps if len(columns) > 1 else width
                first = row.outputs.start * whole.pitch + column.outputs.start
                move = Move(
                    Pixels(read, across, width, row.first * width + column.first, image),
                    replace(whole, rows=len(row.outputs), width=len(column.outputs), first=whole.first + first),
                )
                result[row.taps, column.taps] = (*result.get((row.taps, column.taps), ()), move)
    return result


def converter(node: Node, source: Tensor, output: Tensor, pixels: int, activation: str, target: Target) -> Requantize:
    """From the sum of a window of so many numbers to the output, clamps included; raises CompileError.

    AVERAGE_POOL_2D rounds the average of the stored numbers, ties away from zero; MEAN and SUM multiply the sum of
    distances from the zero point, with roundings that are met where they happen in one layer.
    """
    assert source.quant is not None and output.quant is not None
    ratio, channels = float(source.quant.scale[0]) / float(output.quant.scale[0]), output.shape[-1]
    stored = -quantize.domain_offset(output.dtype)
    offset = stored if node.op == "AVERAGE_POOL_2D" else quantize.zero_point(output.quant, output.dtype)
    if NORM_SHIFT in target.forms and reduces_at_once(node, pixels):
        run = (
            exact(ratio, 255 * pixels, channels, offset) if node.op == "SUM" else mean(ratio, pixels, channels, offset)
        )
    else:
        real = ratio / (1 if node.op == "SUM" else pixels)
        run = quotient(real, pixels * 255, channels, offset, NORM_SHIFT in target.forms)
    return clamped(run, *quantize.activation_range(activation, output.quant, output.dtype))


def reduces_at_once(node: Node, pixels: int) -> bool:
    """Whether a MEAN or SUM takes all its numbers in windows of so many."""
    feature, axes = node.inputs[0], reduced_axes(node) or ()
    assert feature is not None
    return node.op in ("MEAN", "SUM") and math.prod(feature.shape[axis] for axis in axes) == pixels


def clamps_afterwards(node: Node) -> bool:
    """Whether the activation's low end is not what the averages are counted from, so that a copy has to clamp."""
    output = node.outputs[0]
    assert output.quant is not None
    limits = quantize.activation_range(node.params.get("activation", "NONE"), output.quant, output.dtype)
    counted_from = -quantize.domain_offset(output.dtype)
    return limits not in ((quantize.INT8_LOW, quantize.INT8_HIGH), (counted_from, limits[1]))


def averaged(
    node: Node, source: Tensor, output: Tensor, windows: Windows, activation: str, target: Target
) -> list[Convolution]:
    """A layer for each size of windows: sum over the window of (in - zi), times 1 / (number of pixels)."""
    assert source.quant is not None
    point, channels = quantize.zero_point(source.quant, source.dtype), source.shape[3]
    counted_from = -quantize.domain_offset(source.dtype) if node.op == "AVERAGE_POOL_2D" else point
    layers: list[Convolution] = []
    for (height, width), moves in rectangles(source, output, windows).items():
        pixels = height * width * (channels if windows.channels else 1)
        stride_y, stride_x = (
            step if taps == whole else 1
            for step, taps, whole in zip(windows.stride, (height, width), windows.kernel, strict=True)
        )
        cube = as_cube(output)
        layers.append(
            Convolution(
                node=node.index,
                operator=node.op,
                inputs=(source,),
                output=cube,
                weight=np.ones((1, height, width, channels), np.int8),
                weight_zero_point=0,
                bias=np.full(cube.shape[3], -counted_from * pixels, np.int32),
                input_zero_point=point,
                stride=(stride_y, stride_x),
                padding=(0, 0, 0, 0),
                depthwise=not windows.channels,
                requantize=(converter(node, source, cube, pixels, activation, target),),
                accumulator_scale=float(source.quant.scale[0]),
                moves=moves,
            )
        )
    return layers


@lru_cache(maxsize=NODES_AT_A_TIME)
def limited_average(node: Node, target: Target) -> list[AnyLayer]:
    """The layers of a node, its activation included; raises CompileError where there are none."""
    return with_limits(node, target, clamped_by_bs)


def clamped_by_bs(node: Node, target: Target) -> list[Convolution]:
    """The layers of a node, the last of which clamp; raises CompileError where there are none."""
    output, activation = node.outputs[0], node.params.get("activation", "NONE")
    if not clamps_afterwards(node):
        return unclamped(node, output, activation, target)
    assert output.quant is not None
    part, limits = inner(output, UNLIMITED), quantize.activation_range(activation, output.quant, output.dtype)
    last = limited(copy(node, part, output), *limits, quantize.zero_point(output.quant, output.dtype))
    return [*unclamped(node, part, "NONE", target), last]


def unclamped(node: Node, output: Tensor, activation: str, target: Target) -> list[Convolution]:
    """The layers that write the averages to a tensor; raises CompileError where there are none."""
    feature, windows, soc = node.inputs[0], windows_of(node), target.soc
    assert feature is not None
    images, rows, columns, channels = windows.shape
    first_y, first_x = first_windows(windows, soc)
    layers: list[Convolution] = []
    if (first_y, first_x) != (1, 1):
        seen = [(n - 1) * s + k for n, s, k in zip((rows, columns), windows.stride, windows.kernel, strict=True)]
        shape = (images, seen[0] // first_y, seen[1] // first_x, feature.shape[3])
        part = replace(inner(output, AVERAGED, shape), quant=feature.quant)
        firsts = Windows((first_y, first_x), (first_y, first_x), (0, 0, 0, 0), shape)
        layers += averaged(node, feature, part, firsts, "NONE", target)
        feature = part
        stride = (max(windows.stride[0] // first_y, 1), max(windows.stride[1] // first_x, 1))
        windows = replace(windows, kernel=(windows.kernel[0] // first_y, windows.kernel[1] // first_x), stride=stride)
    steps = [factors(stride, soc) for stride in windows.stride]
    if len(steps[0]) == len(steps[1]) == 1:
        return [*layers, *averaged(node, feature, output, windows, activation, target)]
    if any(windows.before):
        raise CompileError(f"strides {windows.stride} beside padding")
    left = (windows.stride[0] // steps[0][0], windows.stride[1] // steps[1][0])
    shape = (images, (rows - 1) * left[0] + 1, (columns - 1) * left[1] + 1, channels)
    part = inner(output, DENSE, shape)
    dense = replace(windows, stride=(steps[0][0], steps[1][0]), shape=shape)
    layers += averaged(node, feature, part, dense, activation, target)
    return [*layers, *thinned(node, part, output, windows.shape, left, soc)]


def few_rectangles(node: Node, target: Target) -> bool:
    feature = node.inputs[0]
    assert feature is not None
    rows, columns = row_and_column_spans(feature, windows_of(node))
    return len(rows) * len(columns) <= MOST_RECTANGLES


def windows_fit(node: Node, target: Target) -> bool:
    """Sums of sums would err by as many steps as a window has windows."""
    try:
        return first_windows(windows_of(node), target.soc) == (1, 1) or node.op != "SUM"
    except CompileError:
        return False


def strides_exist(node: Node, target: Target) -> bool:
    windows = windows_of(node)
    try:
        few = max(len(factors(stride, target.soc)) for stride in windows.stride)
    except CompileError:
        return False
    return few == 1 or not any(windows.before)


def forms_allow(node: Node, target: Target) -> bool:
    feature, output = node.inputs[0], node.outputs[0]
    assert feature is not None
    moves = [move for part in rectangles(feature, output, windows_of(node)).values() for move in part]
    return forms_of(moves) <= target.forms


def errors_are_small(node: Node, target: Target) -> bool:
    feature, output = node.inputs[0], node.outputs[0]
    assert feature is not None and feature.quant is not None and output.quant is not None
    once = first_windows(windows_of(node), target.soc) == (1, 1)
    return once or float(feature.quant.scale[0]) <= LARGEST_RATIO * float(output.quant.scale[0])


def axes_are_known(node: Node, target: Target) -> bool:
    return 0 not in (reduced_axes(node) or (0,))


def later_rules(lower: Lowering) -> list[Rule]:
    """Rules for nodes of which a window is known, and what ``lower`` makes of them."""

    def cbuf_fits(node: Node, target: Target) -> bool:
        convolutions = [layer for layer in lower(node, target) if isinstance(layer, Convolution)]
        return all(layer_fits(layer, target.soc) for layer in convolutions)

    return [
        Rule(
            "output shape is the one that the windows give",
            output_is_computed,
            "a model with fixed shapes, which TFLite has computed itself",
        ),
        ROOM,
        Rule(
            "a window is at most 31 x 31 and 512 pixels, or, for averages without padding, at most so many windows of "
            "at most 7 x 7",
            windows_fit,
            "a smaller window, or two averages in sequence",
        ),
        Rule("a stride is at most 7 or, without padding, a product of such", strides_exist, "a smaller stride"),
        Rule(
            "input scale is below 1.9 times the output's where averages are averaged",
            errors_are_small,
            "a larger output scale, or a smaller window",
        ),
        Rule("BS and the output converter can express the division", possible(lower), SCALES_REMEDY),
        Rule(CBUF_TEXT, cbuf_fits, CBUF_REMEDY),
    ]


@lowers(
    "AVERAGE_POOL_2D",
    [
        *WINDOW_RULES,
        Rule(
            "windows that the border cuts are of at most 64 kinds and places",
            few_rectangles,
            "VALID padding, or a smaller window",
        ),
        Rule(
            f"no window leaves the input at its sides, or the device may use: {PART_OF_ROW}; {ROW_SKIP}",
            forms_allow,
            f"{ALLOW}, or use VALID padding",
        ),
        *later_rules(limited_average),
    ],
)
def average_pool(node: Node, target: Target) -> list[AnyLayer]:
    """out[y,x,c] = round(sum over pixels inside of in[y*sy+i-top, x*sx+j-left, c] / pixels), ties away from zero."""
    return limited_average(node, target)


@lru_cache(maxsize=NODES_AT_A_TIME)
def reduced(node: Node, target: Target) -> list[Convolution]:
    """The layers of a node that has no activation; raises CompileError where there are none."""
    return unclamped(node, node.outputs[0], "NONE", target)


REDUCTION_RULES = [
    *ONE_FEATURE_RULES,
    INPUT_IMAGES,
    Rule(
        "the axes are constants: height, width, channels or several of them",
        axes_are_known,
        "reduce over height, width or channels, as a constant says",
    ),
    *later_rules(reduced),
]


@lowers("MEAN", REDUCTION_RULES)
def mean_of(node: Node, target: Target) -> list[Convolution]:
    """out[c] = requantize(sum over y,x of (in[y,x,c] - zi) / pixels), or over other axes."""
    return reduced(node, target)


UNSIGNED = Rule(
    "the type is uint8: TFLite's reference kernels take int8 for uint8",
    lambda node, target: node.outputs[0].dtype == "uint8",
    "a MEAN and a product by the number of elements",
)


@lowers("SUM", [*REDUCTION_RULES, UNSIGNED])
def total(node: Node, target: Target) -> list[Convolution]:
    """out[c] = requantize(sum over y,x of (in[y,x,c] - zi)), or over other axes."""
    return reduced(node, target)
