"""What several operators are put together from: tensors of a node's own, padding, crops, results without dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from delegate import quantize
from delegate.errors import CompileError
from delegate.hw.layout import align, fits_cbuf
from delegate.hw.soc import Soc
from delegate.ir import Convolution, Move, Node, Pixels, Tensor, all_pixels, as_cube
from delegate.ops.copies import ONE, copy, tap
from delegate.ops.inner import PADDED, THINNED, inner
from delegate.requantize import clamped, plain

LARGEST_TURNS = len(PADDED)  # in which a tensor is padded
Shape = tuple[int, ...]
Sides = tuple[int, int, int, int]  # pixels: top, bottom, left, right


def holds(output: Tensor, shape: Shape) -> bool:
    """Whether images of results of that shape are an output, if need be one without dimensions of 1: see ``into``."""
    images, height, width, channels = shape
    return output.shape == shape or as_cube(output).shape == (1, images * height * width, 1, channels)


def into(output: Tensor, shape: Shape, image: int) -> Pixels:
    """Where an image of results of a shape lies in an output; in one of fewer dimensions they follow each other."""
    _, height, width, _ = shape
    if output.shape == shape:
        return Pixels(height, width, width, image=image)
    return Pixels(height, width, width, first=image * height * width)


def placed(layer: Convolution, output: Tensor) -> Convolution:
    """The layer, which has a shape of its own for its results, with these in ``output``."""
    shape, cube = layer.output.shape, as_cube(output)
    if cube.shape == shape:
        return replace(layer, output=cube)
    moves = tuple(Move(all_pixels(layer.inputs[0], i), into(output, shape, i)) for i in range(shape[0]))
    return replace(layer, output=cube, moves=moves)


def cropped(node: Node, source: Tensor, output: Tensor, shape: Shape, stride: tuple[int, int] = (1, 1)) -> Convolution:
    """Copies every so many pixels from the first on, as many as the results of that shape have, into an output."""
    images, height, _, _ = shape
    if source.shape == shape == output.shape and stride == (1, 1):
        return copy(node, source, output)
    width = source.shape[2]
    rows = (height - 1) * stride[0] + 1
    moves = tuple(Move(Pixels(rows, width, width, image=i), into(output, shape, i)) for i in range(images))
    return copy(node, source, as_cube(output), moves, stride=stride)


def limited(layer: Convolution, low: int, high: int, zero_point: int) -> Convolution:
    """A copy with its results limited to [low, high], int8 domain; raises CompileError as requantize.clamped does."""
    if (low, high) == (quantize.INT8_LOW, quantize.INT8_HIGH):
        return layer
    count = layer.bias.size
    run = clamped(plain(1 / ONE, count, zero_point), low, high)
    return replace(layer, bias=np.full(count, -ONE * zero_point, np.int32), requantize=(run,))


def shares(before: int, after: int, most: int) -> list[tuple[int, int]]:
    """Pixels before and after an axis in turns of at most ``most`` together."""
    result = []
    while before + after > 0:
        first = min(before, most)
        second = min(after, most - first)
        result.append((first, second))
        before, after = before - first, after - second
    return result


def turns(padding: Sides, soc: Soc) -> list[Sides]:
    """Padding in turns that a convolution can do each; a small one is done at once."""
    top, bottom, left, right = padding
    rows, columns = shares(top, bottom, soc.largest_padding), shares(left, right, soc.largest_padding)
    if (top + bottom + 1) * (left + right + 1) <= soc.largest_padding + 1:
        return [padding] if any(padding) else []
    return [*((*row, 0, 0) for row in rows), *((0, 0, *column) for column in columns)]


def padding_fits(width: int, padding: Sides, soc: Soc) -> bool:
    """Whether the CBUF has room for the rows that each turn reads."""
    needed = turns(padding, soc)
    for top, bottom, left, right in needed:
        taps = (top + bottom + 1) * (left + right + 1)
        if not fits_cbuf(top + bottom + 1, width, soc.depthwise_group, taps * soc.depthwise_group, soc):
            return False
        width += left + right
    return width <= soc.largest_width and len(needed) <= LARGEST_TURNS


def padded(node: Node, feature: Tensor, paddings: Sequence[Sides], value: int) -> tuple[list[Convolution], Tensor]:
    """(a layer for each padding, the tensor with pixels of ``value`` around it, which is int8 domain).

    out[y, x] = in[y - top, x - left], or the value where there is none: a depthwise kernel with one tap that counts,
    so that every window touches the input (F-50).
    """
    layers: list[Convolution] = []
    for number, (top, bottom, left, right) in enumerate(paddings):
        images, height, width, channels = feature.shape
        shape = (images, height + top + bottom, width + left + right, channels)
        part = replace(inner(node.outputs[0], PADDED[number], shape), dtype=feature.dtype, quant=feature.quant)
        weight = tap((top + bottom + 1, left + right + 1), bottom, right, channels)
        around = (top + bottom, top + bottom, left + right, left + right)
        layers.append(copy(node, feature, part, weight=weight, depthwise=True, fill=value, padding=around))
        feature = part
    return layers, feature


def factors(stride: int, soc: Soc) -> list[int]:
    """A stride as a product of those that exist, the largest first; raises CompileError where it is none."""
    result = []
    while stride > soc.largest_stride:
        divisor = next((d for d in range(soc.largest_stride, 1, -1) if stride % d == 0), None)
        if divisor is None:
            raise CompileError(f"stride {stride} is not a product of strides up to {soc.largest_stride}")
        result.append(divisor)
        stride //= divisor
    return [*result, stride]


def thinned(
    node: Node, feature: Tensor, output: Tensor, shape: Shape, stride: tuple[int, int], soc: Soc
) -> list[Convolution]:
    """Copies that take every so many pixels of a tensor, as results of a shape, to an output; several for far ones."""
    layers: list[Convolution] = []
    parts = [factors(step, soc) for step in stride]
    turns = max(len(part) for part in parts)
    images, height, width, channels = shape
    for turn in range(turns):
        stride_y, stride_x = (part[turn] if turn < len(part) else 1 for part in parts)
        left_y, left_x = (math.prod(part[turn + 1 :]) for part in parts)
        between = (images, (height - 1) * left_y + 1, (width - 1) * left_x + 1, channels)
        written = output if turn + 1 == turns else inner(node.outputs[0], THINNED[turn], between)
        layers.append(cropped(node, feature, written, between, (stride_y, stride_x)))
        feature = written
    return layers


def layer_fits(layer: Convolution, soc: Soc) -> bool:
    """Whether the rows of one window and one group of kernels find room in the CBUF, the kernel being small enough."""
    _, height, width, channels = layer.weight.shape
    columns = max(step.source.width for step in layer.steps)
    rows = min(layer.window[0], max(step.source.rows for step in layer.steps))
    read = soc.depthwise_group if layer.depthwise else align(channels, soc.atom_bytes)
    kernel_bytes = height * width * read  # of a depthwise group, or of one of the kernels of a group
    group_bytes = kernel_bytes * (1 if layer.depthwise else soc.kernel_group)
    return kernel_bytes <= soc.kernel_bytes_limit and fits_cbuf(rows, columns, read, group_bytes, soc)


def reduced_axes(node: Node) -> Sequence[int] | None:
    """The axes that a reduction of four dimensions goes over, in order; None if its second input does not say."""
    axes = node.inputs[1] if len(node.inputs) == 2 else None
    if axes is None or axes.data is None or axes.dtype != "int32" or not 1 <= axes.data.size <= 4:
        return None
    numbers = sorted({int(axis) % 4 for axis in np.asarray(axes.data).reshape(-1) if -4 <= int(axis) < 4})
    return numbers if len(numbers) == axes.data.size else None
