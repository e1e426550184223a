"""MAX_POOL_2D, and REDUCE_MAX and REDUCE_MIN over height and width.

Where the kernel hears of its end (S-137), the pooling unit does it in one pass (S-129). Elsewhere, and for what the
unit has no room for, the element-wise unit compares the tensor with itself some pixels further on (S-107): windows
grow to twice their size with each pass, along the rows first; what is wanted of the result is copied out of it.
"""

from __future__ import annotations

from dataclasses import replace

from delegate import quantize
from delegate.hw.layout import fits_cbuf
from delegate.hw.soc import Target
from delegate.ir import AnyLayer, Elementwise, Node, Pooling, Tensor
from delegate.ops import Rule, lowers
from delegate.ops.inner import GROWN, UNLIMITED, inner
from delegate.ops.limits import Extreme, activation_limits, extreme, is_limited, with_limits
from delegate.ops.parts import (
    cropped,
    factors,
    limited,
    padded,
    padding_fits,
    reduced_axes,
    thinned,
    turns,
)
from delegate.ops.rules import INPUT_IMAGES, ONE_FEATURE_RULES, ROOM, SAME_QUANTIZATION, WINDOW_RULES, possible
from delegate.ops.windows import Windows, output_is_computed, windows_of

LARGEST_WINDOW = 16  # of the pooling unit, its strides too (S-135)
LARGEST_PADDING = 7  # S-135; not beside a window of 16 (S-176)
LARGEST_COLUMNS = 128  # of the output; RK3576 is wrong beyond, RK3588 unknown (S-232)


def by_pooling_unit(node: Node, target: Target) -> bool:
    """Whether the pooling unit does it."""
    windows = windows_of(node)
    largest, most = max(windows.kernel), max(windows.padding)
    return (
        target.signals_pooling
        and node.op != "REDUCE_MIN"
        and max(largest, *windows.stride) <= LARGEST_WINDOW
        and most <= LARGEST_PADDING
        and not (largest == LARGEST_WINDOW and most == LARGEST_PADDING)
        and windows.shape[2] <= LARGEST_COLUMNS
        and node.outputs[0].shape == windows.shape
    )


def strides_exist(node: Node, target: Target) -> bool:
    if by_pooling_unit(node, target):
        return True
    return possible(lambda node, target: [factors(stride, target.soc) for stride in windows_of(node).stride])(
        node, target
    )


def cbuf_fits(node: Node, target: Target) -> bool:
    """Rooms for padding and copies."""
    windows, feature = windows_of(node), node.inputs[0]
    assert feature is not None
    group = target.soc.depthwise_group
    _, _, left, right = windows.padding
    width = feature.shape[2] + left + right
    return by_pooling_unit(node, target) or (
        padding_fits(feature.shape[2], windows.padding, target.soc) and fits_cbuf(1, width, group, group, target.soc)
    )


def growth(kernel: int) -> list[int]:
    """By how many pixels a window of 1 grows in each pass until it is ``kernel`` pixels: at most to twice its size."""
    steps, size = [], 1
    while size < kernel:
        steps.append(min(size, kernel - size))
        size += steps[-1]
    return steps


def grown(node: Node, feature: Tensor, windows: Windows) -> list[Elementwise]:
    """Passes after which every pixel is the extreme of the window that begins there, where the image has that window.

    Elsewhere it is of pixels of the next row, or behind the image, and nobody looks at it. A pass compares the tensor
    with itself, ``operand_first`` pixels further on.
    """
    operation: Extreme = "min" if node.op == "REDUCE_MIN" else "max"
    width = feature.shape[2]
    layers: list[Elementwise] = []
    for shift in [*(rows * width for rows in growth(windows.kernel[0])), *growth(windows.kernel[1])]:
        part = inner(node.outputs[0], GROWN[len(layers)], feature.shape)
        layers.append(replace(extreme(node, feature, feature, operation, part), operand_first=shift))
        feature = part
    return layers


def lower(node: Node, target: Target) -> list[AnyLayer]:
    """The layers, without the fused activation."""
    feature, windows, soc = node.inputs[0], windows_of(node), target.soc
    assert feature is not None
    if by_pooling_unit(node, target):
        output = inner(node.outputs[0], UNLIMITED) if is_limited(node) else node.outputs[0]
        layer = Pooling(node.index, node.op, feature, output, windows.kernel, windows.stride, windows.padding)
        return [layer, *([cropped(node, output, node.outputs[0], output.shape)] if is_limited(node) else [])]
    filled, source = padded(node, feature, turns(windows.padding, soc), quantize.INT8_LOW)
    passes = grown(node, source, windows)
    if passes:
        source = passes[-1].output
    return [
        *filled,
        *passes,
        *thinned(node, source, node.outputs[0], windows.shape, windows.stride, soc),
    ]


def clamped_by_bs(node: Node, target: Target) -> list[AnyLayer]:
    """The layers, of which the last, a copy, does the activation; raises CompileError where BS cannot."""
    layers = lower(node, target)
    if not is_limited(node):
        return layers
    output, last = node.outputs[0], layers[-1]
    assert output.quant is not None and not isinstance(last, Elementwise | Pooling)
    return [*layers[:-1], limited(last, *activation_limits(node), quantize.zero_point(output.quant, output.dtype))]


LATER_RULES = [
    Rule(
        "output shape is the one that the windows give",
        output_is_computed,
        "a model with fixed shapes, which TFLite has computed itself",
    ),
    ROOM,
    Rule(
        "a stride is at most 7 or a product of such, or, where the kernel hears of the pooling unit, at most 16",
        strides_exist,
        "a smaller stride",
    ),
    Rule("rows of the padded tensor fit the CBUF and the chip's 2047 pixels", cbuf_fits, "a narrower input"),
]


@lowers(
    "MAX_POOL_2D",
    [
        *WINDOW_RULES,
        *LATER_RULES,
    ],
)
def max_pool(node: Node, target: Target) -> list[AnyLayer]:
    """out[y,x,c] = clamp(largest of in[y*sy+i-top, x*sx+j-left, c] over the pixels of the window inside)."""
    return with_limits(node, target, clamped_by_bs)


def axes_are_rows_or_columns(node: Node, target: Target) -> bool:
    return set(reduced_axes(node) or (0,)) <= {1, 2}


REDUCTION_RULES = [
    *ONE_FEATURE_RULES,
    INPUT_IMAGES,
    SAME_QUANTIZATION,
    Rule(
        "the axes are constants and height or width or both",
        axes_are_rows_or_columns,
        "reduce over height or width, as a constant says",
    ),
    *LATER_RULES,
]


@lowers("REDUCE_MAX", REDUCTION_RULES)
def reduce_max(node: Node, target: Target) -> list[AnyLayer]:
    """out[c] = largest of in[y,x,c], over rows or columns or both."""
    return lower(node, target)


@lowers("REDUCE_MIN", REDUCTION_RULES)
def reduce_min(node: Node, target: Target) -> list[AnyLayer]:
    """out[c] = least of in[y,x,c], over rows or columns or both."""
    return lower(node, target)
