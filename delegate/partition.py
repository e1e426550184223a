"""Which nodes the NPU takes, and why not the others.

First the rules of each operator, then, of the partitions that come out: what costs more than on the CPU (if asked),
what computes nothing, and what the user's limits leave out (decision 0008).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from delegate import cost
from delegate.hw.soc import FORMS, Target
from delegate.ir import Graph, Node
from delegate.ops import OPERATORS, Rule
from delegate.ops.rules import ALLOW

CONVERSIONS = ("QUANTIZE", "DEQUANTIZE", "CAST")  # whose floats are no sign of a model that is not quantized
FLOATS = ("float16", "bfloat16", "float32", "float64")
QUANTIZE = "quantize the whole model to 8 bits, inputs and outputs too (full integer quantization)"
REPLACE = "express it by operators that are supported (python -m delegate ops lists them)"
ONLY_NAMES = "its partition would compute nothing: the numbers stay where they are in memory"
NOT_NEEDED = "none is needed: it costs next to nothing on the CPU"
NODE_MARGIN = 2  # within a partition a node leaves only if the CPU is this many times as fast: no estimate is better
TAKE_ALL = "have everything taken that the rules allow (option partitioning=all)"


@dataclass(frozen=True)
class Selection:
    """Which of the partitions that the rules allow are taken.

    ``by_cost``: not those that the estimate sees faster on the CPU. ``min_nodes``: the smallest partition.
    ``max_partitions``: the largest ones first, by nodes; 0 and less mean all, as in other delegates.
    """

    by_cost: bool = False
    min_nodes: int = 1
    max_partitions: int = 0


@dataclass(frozen=True)
class Refusal:
    """Why a node stays on the CPU, and what change would get it accepted; both in words for the user."""

    reason: str
    remedy: str


AT_THE_END = "leave it out of the model and apply it to the outputs"
NO_SORTING = "no unit sorts or gives an index: the pooling unit's is of its window, row and column modulo 8 (S-177)"
NO_ADDRESSES = "it reads places that computed numbers name, and the addresses in the NPU's commands are fixed"
NO_TRUTH = "its results are true or false, which the DPU compares in fp16 only (S-163, S-164)"
NO_STATE = "it keeps a state from one step to the next, and a program's buffers are written anew by every invoke"
# Why operators that real models have are not taken at all, or not from and to floats, and what to do about it.
UNSUPPORTED: Mapping[str, Refusal] = {
    "SOFTMAX": Refusal("it divides by a sum that it computes, and the DPU divides floats only (S-163)", AT_THE_END),
    "LOG_SOFTMAX": Refusal("it takes the logarithm of a sum that it computes, and tables are for 8 bits", AT_THE_END),
    "L2_NORMALIZATION": Refusal(
        "it divides by the root of a sum that it computes, and the DPU divides floats only (S-163)", AT_THE_END
    ),
    "DIV": Refusal("the DPU divides floats only (S-163)", "multiply by the reciprocal, as MUL"),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN", "TOPK_V2"), Refusal(NO_SORTING, AT_THE_END)),
    "NON_MAX_SUPPRESSION_V4": Refusal(NO_SORTING, AT_THE_END),
    "NON_MAX_SUPPRESSION_V5": Refusal(NO_SORTING, AT_THE_END),
    **dict.fromkeys(
        ("GATHER", "GATHER_ND", "EMBEDDING_LOOKUP"),
        Refusal(NO_ADDRESSES, "express it by SLICE or STRIDED_SLICE where the places are known"),
    ),
    "CAST": Refusal("it makes numbers without a scale, and the NPU's tensors have one", "express it by QUANTIZE"),
    "DEQUANTIZE": Refusal(
        "it makes floats, and the output converter gives whole numbers always (S-13)",
        "have the model give 8 bits (inference_output_type of the converter)",
    ),
    "QUANTIZE": Refusal(
        "it reads floats, and the NPU's tensors are of 8 bits",
        "have the model take 8 bits (inference_input_type of the converter)",
    ),
    "BATCH_MATMUL": Refusal(
        "both matrices are computed, and one has to be packed as kernels before the model runs (npu.md §3.4)",
        "express it by FULLY_CONNECTED with constant weights",
    ),
    **dict.fromkeys(
        ("EQUAL", "NOT_EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "SELECT", "SELECT_V2", "WHERE"),
        Refusal(NO_TRUTH, "express it by MAXIMUM, MINIMUM or RELU"),
    ),
    **dict.fromkeys(
        ("LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "RNN", "UNIDIRECTIONAL_SEQUENCE_RNN", "SVDF"),
        Refusal(NO_STATE, "unroll it, or express it by convolutions over time"),
    ),
    **dict.fromkeys(
        ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND"),
        Refusal(
            "it moves pixels between images, which nothing here does",
            "express the pair by a convolution with dilation",
        ),
    ),
    "CUSTOM": Refusal("it is an operator of the model's own, which only its author knows", AT_THE_END),
}
EVERYTHING = Selection()
Refusals = dict[int, Refusal | None]  # by index of the node; None for one that is accepted


def is_complete(node: Node, target: Target) -> bool:
    """What the rules of all operators rely on; a damaged model may have other nodes."""
    tensors = [tensor for tensor in (*node.inputs, *node.outputs) if tensor is not None]
    constants = [(tensor, tensor.data) for tensor in tensors if tensor.data is not None]
    quants = [tensor.quant for tensor in tensors if tensor.quant is not None]
    whole = all(data.shape == tensor.shape and str(data.dtype) == tensor.dtype for tensor, data in constants)
    scaled = all(quant.scale.size and quant.zero_point.size in (1, quant.scale.size) for quant in quants)
    return whole and scaled and bool(node.outputs)


COMPLETE = Rule("there are outputs, and tensors are what they say of their data, scales and zero points", is_complete)


def broken_rule(node: Node, target: Target) -> Rule | None:
    """The first rule that a node of a supported operator breaks; later ones rely on it."""
    rules = (COMPLETE, *OPERATORS[node.op].rules)
    return next((rule for rule in rules if not rule.holds(node, target)), None)


def refusal(node: Node, target: Target) -> Refusal | None:
    """Why the NPU does not take a node, whatever is around it; None if it does."""
    supported = node.op in OPERATORS
    rule = broken_rule(node, target) if supported else None
    if supported and rule is None:
        return None
    floats = any(tensor.dtype in FLOATS for tensor in cost.features(node))
    if node.op in UNSUPPORTED and (not supported or floats):
        known = UNSUPPORTED[node.op]
        return replace(known, remedy=QUANTIZE) if floats and node.op not in CONVERSIONS else known
    reason = f"not so that {rule.text}" if rule else f"operator {node.op} is not supported"
    if floats:
        return Refusal(reason, QUANTIZE)
    if rule is None:
        return Refusal(reason, REPLACE)
    if broken_rule(node, replace(target, forms=frozenset(FORMS))) is None:
        return Refusal(reason, rule.remedy or ALLOW)
    return Refusal(reason, rule.remedy or f"change the model so that {rule.text}")


def refusals(node: Node, graph: Graph, target: Target) -> tuple[str, ...]:
    """The reasons why the NPU does not take a node, in words for the user; empty if it does."""
    found = refusal(node, target)
    return () if found is None else (found.reason,)


def examine(graph: Graph, target: Target, selection: Selection = EVERYTHING) -> Refusals:
    """What is refused, why, and what would help."""
    found: Refusals = {node.index: refusal(node, target) for node in graph.nodes}
    if selection.by_cost:
        leave_out_slow(graph, target, found)
    for part in partitions(graph, found):
        if not any(cost.computes(node, target) for node in part.nodes):
            found |= dict.fromkeys(indices(part), Refusal(ONLY_NAMES, NOT_NEEDED))
    leave_out_small(graph, selection, found)
    return found


def verdicts(graph: Graph, target: Target, selection: Selection = EVERYTHING) -> dict[int, tuple[str, ...]]:
    """The reasons against each node by its index; none for those the NPU takes."""
    found = examine(graph, target, selection)
    return {index: () if refused is None else (refused.reason,) for index, refused in found.items()}


def taken(graph: Graph, target: Target) -> list[Graph]:
    """The partitions of a model that run on the NPU, for tools without an interpreter."""
    return partitions(graph, verdicts(graph, target))


def indices(part: Graph) -> list[int]:
    return [node.index for node in part.nodes]


def leave_out_slow(graph: Graph, target: Target, found: Refusals) -> None:
    """Refuses, until nothing changes, partitions that would be faster on the CPU, then single nodes that clearly would.

    A node is compared with what the partitions would save without it, a new border included. A partition that goes
    does not change the others.
    """
    accepted = [node for node in graph.nodes if found[node.index] is None]
    npu = {node.index: cost.npu_seconds(node, target) for node in accepted}
    cpu = {node.index: cost.cpu_seconds(node) for node in accepted}

    def npu_of(part: Graph) -> float:
        return cost.border_seconds(part, target) + sum(npu[index] for index in indices(part))

    def added_by(node: Node, parts: list[Graph]) -> float:
        without = partitions(graph, {**found, node.index: True})
        return sum(map(npu_of, parts)) - sum(map(npu_of, without))

    def may_lose(node: Node) -> bool:
        """No more can be saved than its time and all of its tensors' packing."""
        packing = sum(cost.packing_seconds(tensor, target.soc) for tensor in cost.features(node))
        return npu[node.index] + packing > NODE_MARGIN * cpu[node.index]

    while True:
        parts = partitions(graph, found)
        slow = [part for part in parts if npu_of(part) > sum(cpu[index] for index in indices(part))]
        for part in slow:
            refused = too_slow(npu_of(part), sum(cpu[index] for index in indices(part)))
            found |= dict.fromkeys(indices(part), refused)
        if slow:
            continue
        candidates = [node for part in parts if len(part.nodes) > 1 for node in part.nodes if may_lose(node)]
        added = {node.index: added_by(node, parts) for node in candidates}
        losses = {index: seconds - NODE_MARGIN * cpu[index] for index, seconds in added.items()}
        worst = max(losses, key=lambda index: losses[index], default=None)
        if worst is None or losses[worst] <= 0:
            return
        found[worst] = too_slow(added[worst], cpu[worst])


def too_slow(npu: float, cpu: float) -> Refusal:
    """``npu`` and ``cpu`` in seconds."""
    return Refusal(f"the NPU would take {milliseconds(npu)} with its borders, the CPU {milliseconds(cpu)}", TAKE_ALL)


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2g} ms" if seconds < 0.1 else f"{1000 * seconds:.0f} ms"


def leave_out_small(graph: Graph, selection: Selection, found: Refusals) -> None:
    """Refuses partitions as TFLite's GraphPartitionHelper does: the most nodes first, and of equal ones the first."""
    largest_first = sorted(partitions(graph, found), key=lambda part: -len(part.nodes))
    for rank, part in enumerate(largest_first):
        size = len(part.nodes)
        if size < selection.min_nodes:
            refused = Refusal(
                f"its partition has {size} of the {selection.min_nodes} nodes that one must have",
                f"lower the option min_nodes_per_partition to {size}",
            )
        elif 0 < selection.max_partitions <= rank:
            refused = Refusal(
                f"its partition is number {rank + 1} by size, and {selection.max_partitions} may be taken",
                f"raise the option max_delegated_partitions to {rank + 1}",
            )
        else:
            continue
        found |= dict.fromkeys(indices(part), refused)


def partitions(graph: Graph, refused: Mapping[int, object]) -> list[Graph]:
    """The partitions that TFLite makes of the accepted nodes; ``refused`` is true for the others, by index.

    TFLite's way: nodes are gathered in turns, refused and accepted ones; in a turn come all nodes of one kind whose
    inputs are ready. Each turn of accepted nodes is a partition.
    """
    waiting = list(graph.nodes)
    ready = {tensor.index for tensor in graph.tensors.values() if tensor.data is not None} | set(graph.inputs)
    result: list[Graph] = []
    npu = bool(waiting) and not refused[waiting[0].index]
    idle = 0  # turns in a row in which nothing was ready: two mean a graph that reads what nobody writes
    while waiting and idle < 2:
        turn: list[Node] = []
        left: list[Node] = []
        for node in waiting:
            fed = all(tensor is None or tensor.index in ready for tensor in node.inputs)
            if fed and npu != bool(refused[node.index]):
                turn.append(node)
                ready |= {tensor.index for tensor in node.outputs}
            else:
                left.append(node)
        waiting = left
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
