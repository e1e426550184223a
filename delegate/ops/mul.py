"""MUL: by a constant a depthwise convolution, of two computed tensors a product of the element-wise unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from delegate import quantize
from delegate.errors import CompileError
from delegate.hw.soc import FLYING_SCALE, Target
from delegate.ir import AnyLayer, Elementwise, Node, View
from delegate.ops import Rule, lowers
from delegate.ops.conv2d import converter_exists, convolution
from delegate.ops.limits import exists, limits, unlimited, with_limits
from delegate.ops.operands import (
    CHANNEL_OPERAND_TEXT,
    CONSTANT_TEXT,
    RULES,
    Operands,
    as_cubes,
    channel_operand_allowed,
    constants_fit,
    is_per_channel,
    measures,
    on_cubes,
    operands,
    pair,
    point,
    stored,
)
from delegate.ops.rules import ACTIVATION, ALLOW, possible
from delegate.ops.weights import weight_data
from delegate.requantize import LARGEST_ERROR
from delegate.sums import ExactProduct, exact_product


def by_constant(node: Node) -> bool:
    """Whether one factor is a constant number, or one a channel."""
    return any(tensor.data is not None and is_per_channel(tensor) for tensor in pair(node))


def as_depthwise(node: Node) -> Node:
    """A product by a constant as a DEPTHWISE_CONV_2D of 1x1 with the constant as weights."""
    found = operands(node)
    weight = found.other
    assert weight.data is not None and weight.quant is not None
    shape = (1, 1, 1, found.output.shape[3])
    params = {"stride": (1, 1), "dilation": (1, 1), "padding": "VALID", "depth_multiplier": 1}
    data = np.ascontiguousarray(np.broadcast_to(weight.data, shape))
    inputs = (found.main, replace(weight, shape=shape, data=data))
    return replace(node, inputs=inputs, params={**params, "activation": node.params["activation"]})


def depthwise(node: Node, target: Target) -> list[AnyLayer]:
    """The layers of a product by a constant; raises CompileError where BS cannot do the activation."""
    single = as_depthwise(node)
    return [*operands(node).layers, *convolution(single, weight_data(single), True, target)]


def product(found: Operands) -> ExactProduct:
    """The factors of two computed tensors; raises CompileError where they are not exact enough."""
    main, other, output = found.main, found.other, found.output
    assert main.quant is not None and other.quant is not None and output.quant is not None
    factor = quantize.product_factor(main.quant, other.quant, output.quant)
    result = exact_product(factor, measures(main).reach * measures(other).reach, output.shape[3], point(output))
    if result.error > LARGEST_ERROR:
        raise CompileError(f"MUL: the product could err by {result.error:.2f} output steps")
    return result


def factors_exist(node: Node, target: Target) -> bool:
    if by_constant(node):
        return exists(node, target, lambda part, target: converter_exists(as_depthwise(part), target))
    return possible(lambda node, target: product(operands(node)))(node, target)


def form_is_allowed(node: Node, target: Target) -> bool:
    return by_constant(node) or FLYING_SCALE in target.forms


@lowers(
    "MUL",
    [
        *RULES,
        ACTIVATION,
        on_cubes(
            Rule(
                f"one factor is a constant, for all pixels, or the device may use: {FLYING_SCALE}",
                form_is_allowed,
                f"{ALLOW}, or have one factor constant",
            )
        ),
        on_cubes(Rule(CHANNEL_OPERAND_TEXT, channel_operand_allowed, ALLOW)),
        on_cubes(
            Rule(
                CONSTANT_TEXT,
                lambda node, target: by_constant(node) or constants_fit(node, target),
                f"{ALLOW}, or have constants that are one number a channel",
            )
        ),
        on_cubes(
            Rule(
                "the scales are met within 0.45 output steps",
                factors_exist,
                "calibrate both operands together, so that their scales are nearer to each other",
            )
        ),
    ],
)
def mul(node: Node, target: Target) -> Sequence[AnyLayer | View]:
    """out = requantize((a - za) * (b - zb))."""
    node = as_cubes(node)
    if by_constant(node):
        return with_limits(node, target, depthwise)
    found = operands(node)
    factors = product(found)
    layer = Elementwise(
        node=node.index,
        operator=node.op,
        main=found.main,
        output=unlimited(node),
        requantize=factors.run,
        main_offset=-point(found.main),
        main_multiplier=factors.factor,
        operation="multiply",
        operand=found.other if found.other.data is None else stored(found.other, found.output, target),
        operand_offset=-point(found.other),
    )
    return [*found.layers, layer, *limits(node, target)]
