"""MAXIMUM and MINIMUM: the element-wise unit compares the stored numbers, as TFLite does (S-107)."""

from __future__ import annotations

from collections.abc import Sequence

from delegate.hw.soc import Target
from delegate.ir import AnyLayer, Node, View
from delegate.ops import Rule, lowers
from delegate.ops.limits import Extreme, extreme
from delegate.ops.operands import (
    CHANNEL_OPERAND_TEXT,
    CONSTANT_TEXT,
    RULES,
    as_cubes,
    channel_operand_allowed,
    constants_fit,
    on_cubes,
    operands,
    stored,
)
from delegate.ops.rules import ALLOW

EXTREME_RULES = [
    *RULES,
    on_cubes(Rule(CHANNEL_OPERAND_TEXT, channel_operand_allowed, ALLOW)),
    on_cubes(Rule(CONSTANT_TEXT, constants_fit, f"{ALLOW}, or have constants that are one number a channel")),
]


def compared(node: Node, operation: Extreme, target: Target) -> list[AnyLayer]:
    """The layers of a node."""
    node = as_cubes(node)
    found = operands(node)
    other = found.other if found.other.data is None else stored(found.other, found.output, target)
    return [*found.layers, extreme(node, found.main, other, operation, found.output)]


@lowers("MAXIMUM", EXTREME_RULES)
def maximum(node: Node, target: Target) -> Sequence[AnyLayer | View]:
    """out = max(a, b)."""
    return compared(node, "max", target)


@lowers("MINIMUM", EXTREME_RULES)
def minimum(node: Node, target: Target) -> Sequence[AnyLayer | View]:
    """out = min(a, b)."""
    return compared(node, "min", target)
