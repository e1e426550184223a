"""Two slopes that meet at zero, of layers that silicon has shown: two scaled copies and the larger or smaller of them.

A copy is a depthwise 1x1 convolution; MAX and MIN of the element-wise unit are exact on bytes (S-107, S-115).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from delegate import quantize
from delegate.hw.layout import align, fits_cbuf
from delegate.hw.soc import Target
from delegate.ir import AnyLayer, Node, Quant, Tensor, as_cube
from delegate.ops.borrowed import fits, lowered
from delegate.ops.copies import selection
from delegate.ops.inner import SLOPES, inner
from delegate.ops.limits import extreme

Bools = npt.NDArray[np.bool_]
NO_TENSOR = -1  # number of a weight that the model does not have


def source_of(node: Node) -> Tensor:
    """The input, with four dimensions."""
    source = node.inputs[0]
    assert source is not None
    return as_cube(source)


def part(node: Node, index: int) -> Tensor:
    """A tensor of its own like the output, with four dimensions."""
    return as_cube(inner(node.outputs[0], SLOPES[index]))


def one_factor(node: Node, factor: float) -> Tensor:
    """One real factor for all channels, as a depthwise weight: 1, -1 or 0 times a scale."""
    source = source_of(node)
    offset = quantize.domain_offset(source.dtype)
    number = int(np.sign(factor)) + offset
    quant = Quant(np.array([abs(factor) or 1.0], np.float32), np.array([offset], np.int32), 3)
    return depthwise_weight(node, np.full(source.shape[3], number, source.dtype), quant)


def depthwise_weight(node: Node, factors: npt.NDArray[np.generic], quant: Quant) -> Tensor:
    """Stored factors, (channels), as a depthwise weight of one pixel."""
    shape = (1, 1, 1, source_of(node).shape[3])
    return Tensor(NO_TENSOR, "factors", shape, str(factors.dtype), quant, factors.reshape(shape))


def scaling(node: Node, weight: Tensor, output: Tensor, activation: str = "NONE") -> Node:
    """out = requantize((in - zi) * weight), as a convolution's node."""
    params = {
        "stride": (1, 1),
        "dilation": (1, 1),
        "padding": "VALID",
        "activation": activation,
        "depth_multiplier": 1,
    }
    return Node(node.index, "DEPTHWISE_CONV_2D", (source_of(node), weight, None), (output,), params)


def compared(node: Node, a: Tensor, b: Tensor, output: Tensor, larger: bool) -> AnyLayer:
    """out = the larger or the smaller of two tensors."""
    return extreme(node, a, b, "max" if larger else "min", output)


def meeting(node: Node, below: Tensor, steep: Bools, target: Target) -> list[AnyLayer]:
    """x from 0 on, x * below under it; ``steep``, (channels): where below is above 1, so that the smaller one is right.

    Where both kinds occur, a last layer takes each channel from where it is right.
    """
    output = as_cube(node.outputs[0])
    identity, slope = part(node, 0), part(node, 1)
    layers = lowered(node, scaling(node, one_factor(node, 1.0), identity), target)
    layers += lowered(node, scaling(node, below, slope), target)
    if steep.all() or not steep.any():
        return [*layers, compared(node, identity, slope, output, not steep.any())]
    parts = [part(node, 2), part(node, 3)]
    layers += [compared(node, identity, slope, parts[0], True), compared(node, identity, slope, parts[1], False)]
    return [*layers, selection(replace(node, outputs=(output,)), parts, [~steep, steep])]


def meeting_fits(node: Node, below: Tensor, steep: Bools, target: Target) -> bool:
    """Both copies are possible, and a selection if one is needed."""
    if not all(fits(scaling(node, weight, part(node, 0)), target) for weight in (one_factor(node, 1.0), below)):
        return False
    if steep.all() or not steep.any():
        return True
    _, _, width, channels = source_of(node).shape
    both = 2 * align(channels, target.soc.depthwise_group)
    kernels = target.soc.kernel_group * both
    return both <= target.soc.kernel_bytes_limit and fits_cbuf(1, width, both, kernels, target.soc)


def even(node: Node, factor: float) -> tuple[Tensor, Bools]:
    """(weight, steep) of one factor for all channels."""
    return one_factor(node, factor), np.full(source_of(node).shape[3], factor > 1)


def leaky_fits(node: Node, target: Target) -> bool:
    return meeting_fits(node, *even(node, node.params["alpha"]), target)


def leaky(node: Node, target: Target) -> list[AnyLayer]:
    """LEAKY_RELU."""
    return meeting(node, *even(node, node.params["alpha"]), target)


def absolute_fits(node: Node, target: Target) -> bool:
    return meeting_fits(node, *even(node, -1.0), target)


def absolute(node: Node, target: Target) -> list[AnyLayer]:
    """ABS: a slope of -1 under 0."""
    return meeting(node, *even(node, -1.0), target)


def rectified(node: Node) -> Node:
    """RELU and its kin as the fused activation of a copy."""
    return scaling(node, one_factor(node, 1.0), as_cube(node.outputs[0]), node.op)


def rectifier_fits(node: Node, target: Target) -> bool:
    return fits(rectified(node), target)


def rectifier(node: Node, target: Target) -> list[AnyLayer]:
    """RELU and its kin: a copy that BS clamps, or a copy and a comparison with each end."""
    return lowered(node, rectified(node), target)
