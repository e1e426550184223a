"""PRELU with one alpha for each channel, or one for all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from delegate.hw.soc import Target
from delegate.ir import AnyLayer, Node, Tensor, as_cube
from delegate.ops import Rule, lowers, slopes
from delegate.ops.rules import (
    ALLOW,
    FEATURES_8_BIT,
    ROOM,
    SAME_DTYPE,
    SAME_SHAPE,
    SCALES_POSITIVE,
    computed_inputs,
    is_quantized_per_tensor,
)
from delegate.ops.table import computable, lookup, may_look_up
from delegate.ops.unary import outputs, prelu


def alpha_of(node: Node) -> Tensor:
    """Alpha; rules that run first make sure that it is a constant."""
    alpha = node.inputs[1]
    assert alpha is not None and alpha.data is not None and alpha.quant is not None
    return alpha


def is_constant(node: Node, target: Target) -> bool:
    return (
        len(node.inputs) == 2
        and len(computed_inputs(node)) == 1
        and node.inputs[0] is not None
        and node.inputs[0].data is None
        and is_quantized_per_tensor(node.inputs[1])
        and alpha_of(node).data is not None
        and alpha_of(node).dtype == node.inputs[0].dtype
    )


def belongs_to_channels(node: Node, target: Target) -> bool:
    """Alpha is broadcast along everything but channels; a tensor of one dimension has them alone."""
    alpha, channels = alpha_of(node).shape, as_cube(node.outputs[0]).shape[3]
    return all(size == 1 for size in alpha[:-1]) and (not alpha or alpha[-1] in (1, channels))


def weight_and_steep(node: Node) -> tuple[Tensor, slopes.Bools]:
    """Alpha as a depthwise weight, and where it is above 1."""
    alpha = alpha_of(node)
    assert alpha.data is not None and alpha.quant is not None
    channels = as_cube(node.outputs[0]).shape[3]
    stored = np.broadcast_to(alpha.data.reshape(-1), (channels,))
    factors = stored.astype(np.int64) - int(alpha.quant.zero_point[0])
    return slopes.depthwise_weight(node, stored, alpha.quant), factors * float(alpha.quant.scale[0]) > 1


def looked_up(node: Node, target: Target) -> bool:
    """One alpha for all, and a device that may look things up."""
    data = alpha_of(node).data
    assert data is not None
    return may_look_up(target) and bool((data == data.flat[0]).all()) and computable(prelu, node, target)


def can_be_done(node: Node, target: Target) -> bool:
    return looked_up(node, target) or slopes.meeting_fits(node, *weight_and_steep(node), target)


@lowers(
    "PRELU",
    [
        Rule(
            "the input is computed; alpha is a constant of its type with one scale",
            is_constant,
            "store alpha in the model, in the input's type",
        ),
        FEATURES_8_BIT,
        SAME_DTYPE,
        SAME_SHAPE,
        ROOM,
        SCALES_POSITIVE,
        Rule(
            "alpha is one number, or one a channel",
            belongs_to_channels,
            "share alpha over height and width (shared_axes=[1, 2] of Keras)",
        ),
        Rule(
            "BS and the output converter can express both slopes, and rows fit the CBUF",
            can_be_done,
            f"{ALLOW}, or calibrate again, or use fewer channels",
        ),
    ],
)
def lower(node: Node, target: Target) -> Sequence[AnyLayer]:
    """out = in where in is from 0 on, else alpha * in, each side requantized with a multiplier of its own."""
    if looked_up(node, target):
        return [lookup(node, outputs(prelu, node))]
    return slopes.meeting(node, *weight_and_steep(node), target)
