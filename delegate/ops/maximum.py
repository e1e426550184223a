"""MAXIMUM and MINIMUM of two tensors: the element-wise unit compares the stored numbers, as TFLite does (S-107)."""

from __future__ import annotations

from typing import Literal

from delegate.hw.soc import Target
from delegate.ir import Elementwise, Node, Requantize
from delegate.ops import Rule, lowers
from delegate.ops.rules import EXTENT, FEATURES_8_BIT, IMAGES, SAME_DTYPE, computed_inputs


def shapes_are_equal(node: Node, target: Target) -> bool:
    return len({tensor.shape for tensor in (*computed_inputs(node), *node.outputs)}) == 1


RULES = [
    Rule("both operands are computed", lambda node, target: len(computed_inputs(node)) == 2 == len(node.inputs)),
    FEATURES_8_BIT,
    SAME_DTYPE,
    IMAGES,
    Rule("operands and output have one shape", shapes_are_equal),
    EXTENT,
]


def extreme(node: Node, operation: Literal["max", "min"]) -> list[Elementwise]:
    """The layer; numbers go through the output converter as they are."""
    a, b, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert a is not None and b is not None
    return [
        Elementwise(
            node=node.index,
            operator=node.op,
            main=a,
            output=output,
            requantize=Requantize(range(output.shape[3]), multiplier=1, shift=0, offset=0),
            operation=operation,
            operand=b,
        )
    ]


@lowers("MAXIMUM", RULES)
def maximum(node: Node, target: Target) -> list[Elementwise]:
    """out = max(a, b)."""
    return extreme(node, "max")


@lowers("MINIMUM", RULES)
def minimum(node: Node, target: Target) -> list[Elementwise]:
    """out = min(a, b)."""
    return extreme(node, "min")
