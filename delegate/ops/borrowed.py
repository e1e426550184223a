"""Layers of one operator that another is put together from, under the other's name."""

from __future__ import annotations

from dataclasses import replace

from delegate.hw.soc import Target
from delegate.ir import AnyLayer, Node, View
from delegate.ops import OPERATORS


def fits(part: Node, target: Target) -> bool:
    """The rules of the operator that is borrowed hold."""
    return all(rule.holds(part, target) for rule in OPERATORS[part.op].rules)


def lowered(node: Node, part: Node, target: Target) -> list[AnyLayer]:
    """The layers of ``part``, a node of another operator, in the name of the one that it is done for."""
    layers: list[AnyLayer] = []
    for layer in OPERATORS[part.op].lower(part, target):
        assert not isinstance(layer, View)
        layers.append(replace(layer, operator=node.op))
    return layers
