"""PAD, PADV2: around an image by a convolution's own padding, before and behind channels and images by copies.

The kernel takes one pixel of a window that reaches over the whole padding, so that each window touches the input, as
the chip wants it (F-50).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest

import numpy as np

from delegate import quantize
from delegate.hw.layout import fits_cbuf
from delegate.hw.soc import Soc, Target
from delegate.ir import Convolution, Node, Tensor, View
from delegate.ops import Rule, lowers
from delegate.ops.copies import FILL
from delegate.ops.movement import FEATURES, ONE_QUANTIZATION, feature, few_elements, numbers, one_input
from delegate.ops.parts import Sides, padded, shares
from delegate.ops.rearrange import MOST_ELEMENTS, MOST_WEIGHT_BYTES, Piece, elements, rearrange
from delegate.ops.rectangles import MOST_PARTS
from delegate.ops.rules import MALFORMED, is_quantized_per_tensor, possible

MOST_PASSES = 4  # each goes over the whole image


def paddings(node: Node) -> list[tuple[int, int]]:
    """(before, behind) of each axis."""
    return [(int(a), int(b)) for a, b in numbers(node.inputs[1]).reshape(-1, 2)]


def value(node: Node) -> int:
    """What is filled in, int8 domain: a constant, or the zero point."""
    if len(node.inputs) > 2:
        constant = node.inputs[2]
        assert constant is not None and constant.data is not None
        return int(quantize.to_int8(constant.data.reshape(-1)[:1])[0])
    output = node.outputs[0]
    assert output.quant is not None
    return quantize.zero_point(output.quant, output.dtype)


def passes(node: Node, soc: Soc) -> list[Sides]:
    """The padding of rows and columns, both at once for the convolution behind it, no more than a register holds."""
    if len(feature(node).shape) != 4:
        return []
    rows, columns = (shares(*sides, soc.largest_padding) for sides in paddings(node)[1:3])
    return [(*row, *column) for row, column in zip_longest(rows, columns, fillvalue=(0, 0))]


def images_alone(node: Node) -> bool:
    """Whether rows and columns are all that is padded."""
    sides = paddings(node)
    return len(sides) == 4 and sides[0] == sides[3] == (0, 0) and max(*sides[1], *sides[2]) > 0


def surrounded(node: Node, soc: Soc) -> tuple[list[Convolution], Tensor]:
    """(the passes over rows and columns, what the last one writes)."""
    layers, source = padded(node, feature(node), passes(node, soc), value(node))
    if layers and source.shape == node.outputs[0].shape:
        source = node.outputs[0]
        layers[-1] = replace(layers[-1], output=source)
    return layers, source


def outside(node: Node, soc: Soc) -> list[Piece]:
    """What is left when rows and columns are padded: other axes."""
    source, output = surrounded(node, soc)[1], node.outputs[0]
    if source is output:
        return []
    sides = [
        (a, b) if n != m else (0, 0) for (a, b), n, m in zip(paddings(node), output.shape, source.shape, strict=True)
    ]
    return [Piece(source, output, np.pad(elements(source), sides, constant_values=FILL), value(node))]


def shapes_follow(node: Node, target: Target) -> bool:
    """None is negative, and the output has room for all."""
    if numbers(node.inputs[1]).size != 2 * len(feature(node).shape) or (numbers(node.inputs[1]) < 0).any():
        return False
    shape = tuple(n + a + b for n, (a, b) in zip(feature(node).shape, paddings(node), strict=True))
    return shape == node.outputs[0].shape


def value_is_quantized_alike(node: Node, target: Target) -> bool:
    if node.op == "PAD":
        return True
    constant, output = node.inputs[2], node.outputs[0]
    return (
        constant is not None
        and constant.data is not None
        and constant.data.size == 1
        and constant.dtype == output.dtype
        and is_quantized_per_tensor(constant)
    )


def few_passes(node: Node, target: Target) -> bool:
    return len(passes(node, target.soc)) <= MOST_PASSES


def windows_fit(node: Node, target: Target) -> bool:
    soc = target.soc
    for layer in surrounded(node, soc)[0]:
        _, height, width, _ = layer.inputs[0].shape
        kernel = layer.window[0] * layer.window[1] * soc.depthwise_group
        fits = fits_cbuf(min(layer.window[0], height), width, soc.depthwise_group, kernel, soc)
        if kernel > soc.kernel_bytes_limit or not fits:
            return False
    return True


def lower(node: Node, target: Target) -> list[View | Convolution]:
    """out = in inside, the value around it."""
    around = surrounded(node, target.soc)[0]
    found: list[View | Convolution] = [*around]
    for piece in outside(node, target.soc):
        found += rearrange(node, piece, target)
    return found


RULES = [
    *FEATURES,
    ONE_QUANTIZATION,
    Rule(
        "the output has the shape that the paddings give, none of them negative",
        shapes_follow,
        MALFORMED,
    ),
    Rule(
        "the value is one number of the output's type",
        value_is_quantized_alike,
        "a value with the output's type, scale and zero point",
    ),
    Rule(
        f"tensors have at most {MOST_ELEMENTS} elements if other axes than rows and columns are padded",
        lambda node, target: images_alone(node) or few_elements(node, target),
        "pad rows and columns alone",
    ),
    Rule(
        f"rows and columns are padded by at most {15 * MOST_PASSES} pixels each", few_passes, "two paddings in sequence"
    ),
    Rule(
        "where rows or columns are padded there are at most 8192 channels",
        lambda node, target: not passes(node, target.soc) or feature(node).shape[3] <= target.soc.largest_channels,
        "fewer channels",
    ),
    Rule("the rows of one window fit the CBUF of 384 KiB", windows_fit, "a narrower image or a smaller padding"),
    Rule(
        f"other axes are padded by at most {MOST_PARTS} tasks with kernels of at most {MOST_WEIGHT_BYTES >> 20} MiB",
        possible(lower),
        "pad rows and columns alone",
    ),
]


for name, inputs in (("PAD", 2), ("PADV2", 3)):
    lowers(name, [one_input(inputs, inputs), *RULES])(lower)
