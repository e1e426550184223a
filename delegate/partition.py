"""Which nodes the NPU takes, and why not the others."""

from __future__ import annotations

from delegate.hw.soc import Soc
from delegate.ir import Graph, Node
from delegate.ops import OPERATORS


def refusals(node: Node, graph: Graph, soc: Soc) -> tuple[str, ...]:
    """The reasons why the NPU does not take a node, in words for the user; empty if it does.

    Rules of an operator build on each other, so the first that fails is the reason.
    """
    operator = OPERATORS.get(node.op)
    if operator is None:
        return (f"operator {node.op} is not supported",)
    for rule in operator.rules:
        if not rule.holds(node, soc):
            return (f"not so that {rule.text}",)
    return ()
