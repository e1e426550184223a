"""Which nodes the NPU takes, and why not the others."""

from __future__ import annotations

from collections.abc import Mapping

from delegate.hw.soc import Target
from delegate.ir import Graph, Node
from delegate.ops import OPERATORS

# Operators that are no reason to go to the NPU.
WITHOUT_WORK = ("CONCATENATION", "EXPAND_DIMS", "QUANTIZE", "RESHAPE", "SQUEEZE")
NO_WORK = "it would be a partition that only moves or converts numbers"


def refusals(node: Node, graph: Graph, target: Target) -> tuple[str, ...]:
    """The reasons why the NPU does not take a node, in words for the user; empty if it does.

    Rules of an operator build on each other, so the first that fails is the reason.
    """
    operator = OPERATORS.get(node.op)
    if operator is None:
        return (f"operator {node.op} is not supported",)
    if not node.inputs or not node.outputs:
        return ("the node has no inputs or no outputs",)
    for rule in operator.rules:
        if not rule.holds(node, target):
            return (f"not so that {rule.text}",)
    return ()


def verdicts(graph: Graph, target: Target) -> dict[int, tuple[str, ...]]:
    """The reasons against each node by its index; none for those the NPU takes.

    Beyond the rules: a partition that would only rename or convert numbers costs more on the NPU than on the CPU.
    """
    reasons = {node.index: refusals(node, graph, target) for node in graph.nodes}
    for part in partitions(graph, reasons):
        if all(node.op in WITHOUT_WORK for node in part.nodes):
            reasons |= {node.index: (NO_WORK,) for node in part.nodes}
    return reasons


def taken(graph: Graph, target: Target) -> list[Graph]:
    """The partitions of a model that run on the NPU, for tools without an interpreter."""
    return partitions(graph, verdicts(graph, target))


def partitions(graph: Graph, reasons: Mapping[int, tuple[str, ...]]) -> list[Graph]:
    """The partitions that TFLite makes of the accepted nodes.

    TFLite's way: nodes are gathered in turns, refused and accepted ones; in a turn come all nodes of one kind whose
    inputs are ready. Each turn of accepted nodes is a partition.
    """
    waiting = list(graph.nodes)
    ready = {tensor.index for tensor in graph.tensors.values() if tensor.data is not None} | set(graph.inputs)
    result: list[Graph] = []
    npu = bool(waiting) and not reasons[waiting[0].index]
    idle = 0  # turns in a row in which nothing was ready: two mean a graph that reads what nobody writes
    while waiting and idle < 2:
        turn: list[Node] = []
        for node in waiting:
            fed = all(tensor is None or tensor.index in ready for tensor in node.inputs)
            if fed and npu != bool(reasons[node.index]):
                turn.append(node)
                ready |= {tensor.index for tensor in node.outputs}
        waiting = [node for node in waiting if node not in turn]
        if npu and turn:
            result.append(partition(graph, turn))
        idle = 0 if turn else idle + 1
        npu = not npu
    return result


def partition(graph: Graph, nodes: list[Node]) -> Graph:
    """The nodes as a graph of their own; its outputs are what others read, or nobody."""
    written = {tensor.index for node in nodes for tensor in node.outputs}
    read = [tensor for node in nodes for tensor in node.inputs if tensor is not None and tensor.data is None]
    inside = {node.index for node in nodes}
    outside = {t.index for node in graph.nodes if node.index not in inside for t in node.inputs if t is not None}
    read_inside = {tensor.index for tensor in read}
    inputs = tuple(dict.fromkeys(tensor.index for tensor in read if tensor.index not in written))
    wanted = outside | set(graph.outputs)
    outputs = tuple(index for index in sorted(written) if index in wanted or index not in read_inside)
    return Graph(graph.tensors, tuple(nodes), inputs, outputs)
