"""The golden models: each capture with its .tflite, compiled by us, layer by layer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from delegate.compile import compile_graph
from delegate.errors import DelegateError
from delegate.hw.soc import AS_UPSTREAM
from delegate.hw.task import Program
from delegate.ir import Graph, Node, Tensor
from delegate.partition import refusals, taken
from delegate.tools import capture
from delegate.tools.capture import Capture
from delegate.tools.captured.model import find_model
from delegate.tools.diff import by_operation, fields, written
from delegate.tools.listing import ListedTask, Listing, Pointer, from_capture, from_program, printable
from delegate.tools.words import contents
from delegate.tools.words.compare import LayerResult, Side, compare_layer
from delegate.tools.words.facts import facts_of
from delegate.tools.words.reasons import Upstream

WEIGHT_ADDRESS, BIAS_ADDRESS = "CNA.DCOMP_ADDR0", "DPU_RDMA.RDMA_BS_BASE_ADDR"
TRUNCATION = "CORE.CLIP_TRUNCATE"
STREAM = "stream.json.gz"


@dataclass(frozen=True)
class ModelResult:
    """What became of one model."""

    name: str
    layers: tuple[LayerResult, ...]
    only_ours: tuple[str, ...] = ()  # operators
    only_theirs: tuple[str, ...] = ()  # operators with our refusal
    fused_by_us: tuple[str, ...] = ()  # titles; not judged
    note: str = ""


def model_captures(folders: Sequence[Path]) -> Iterator[Capture]:
    """The captures of models in and below some folders, in order; those of other programs are passed over."""
    for folder in folders:
        found = sorted(folder.rglob(STREAM))
        if not found:
            raise DelegateError(f"{folder}: no capture ({STREAM}) in or below it")
        for path in found:
            source = capture.load(path)
            if "model" in source.facts:
                yield source


def compare_model(source: Capture) -> ModelResult:
    """Compiles the model of a capture and judges its layers; raises DelegateError."""
    name = source.path.parent.name
    model = find_model(source)
    if model is None:
        return ModelResult(name, (), note="the model is not beside the capture")
    theirs = by_operation(from_capture(source, source.path))
    nodes = {node.index: node for node in model.graph.nodes}
    programs = [compile_graph(part, AS_UPSTREAM) for part in taken(model.graph, AS_UPSTREAM)]
    ours = {key: (program, listing, tasks) for program, listing, key, tasks in operations(programs)}
    layers, apart = [], []
    claimed = {int(index) for index in source.facts.get("claimed", [])}
    for key, (_, tasks) in theirs.items():
        if key not in ours or key[0] not in nodes:
            continue
        program, listing, own = ours[key]
        node, title = nodes[key[0]], own[0].operation.title
        if adds(own[0]):
            apart.append(title)
            continue
        what = upstream_of(node, model.graph, claimed, tasks[0])
        left, right = our_side(program, listing, own, node), upstream_side(source, tasks)
        layers.append(compare_layer(title, node, what, left, right))
    return ModelResult(
        name,
        tuple(layers),
        tuple(nodes[key[0]].op for key in ours if key not in theirs),
        tuple(refused(nodes[key[0]], model.graph) for key in theirs if key not in ours and key[0] in nodes),
        tuple(apart),
        "" if theirs else f"upstream sent nothing: {printable(source.facts.get('status'))}",
    )


def adds(task: ListedTask) -> bool:
    """Whether our task adds a second tensor: the formulas do not describe our fused additions."""
    return fields(written(task)["DPU.EW_CFG"])["ew_bypass"] == 0


def operations(
    programs: Sequence[Program],
) -> Iterator[tuple[Program, Listing, tuple[int, ...], list[ListedTask]]]:
    """Every layer of ours with its program, listing, key and tasks."""
    for program in programs:
        listing = from_program(program, "")
        for key, (_, tasks) in by_operation(listing).items():
            yield program, listing, key, tasks


def refused(node: Node, graph: Graph) -> str:
    return f"{node.op}: {'; '.join(refusals(node, graph, AS_UPSTREAM))}"


def index_of(tensor: Tensor | None) -> int:
    return -1 if tensor is None else tensor.index


def upstream_of(node: Node, graph: Graph, claimed: set[int], first: ListedTask) -> Upstream:
    """What upstream makes of a node: it fuses an addition into what produces the addition's first input."""
    additions = [n for n in graph.nodes if n.op == "ADD" and n.index in claimed]
    output = node.outputs[0].index
    addition = next((n for n in additions if index_of(n.inputs[0]) == output), None)
    feeds = any(index_of(n.inputs[1]) == output for n in additions)
    truncates = fields(written(first)[TRUNCATION])["clip_truncate"] == 1
    return Upstream(node, addition, addition.inputs[1] if addition else None, feeds, 0, truncates)


def pointer(task: ListedTask, register: str) -> Pointer:
    """The address a task writes to a register; raises DelegateError if it is none."""
    entry = written(task).get(register)
    if entry is None or entry.pointer is None:
        raise DelegateError(f"{task.operation.title}: {register} holds no address of a buffer")
    return entry.pointer


def our_side(program: Program, listing: Listing, tasks: Sequence[ListedTask], node: Node) -> Side:
    """A layer of a program; how long its weights are is known from the formula."""
    f = facts_of(node)
    size = len(contents.our_weights(node, f))
    every = listing.tasks
    last = len(every) - 1
    position = next(index for index, task in enumerate(every) if task is tasks[0])
    following = [every[index + 1].words.size if index < last else 0 for index in range(position, position + len(tasks))]
    held = []
    for register, length in ((WEIGHT_ADDRESS, size), (BIAS_ADDRESS, 4 * f.output_channels)):
        place = pointer(tasks[0], register)
        data = program.buffers[place.buffer].data
        assert data is not None, "coefficients are constants"
        held.append(data[place.offset : place.offset + length].tobytes())
    return Side(tasks, following, hashlib.sha256(held[0]).hexdigest(), size, held[1])


def upstream_side(source: Capture, tasks: Sequence[ListedTask]) -> Side:
    """A layer of a capture, with the sha256 that it gives for the weights."""
    weights = source.buffers[pointer(tasks[0], WEIGHT_ADDRESS).buffer]
    biases = source.buffers[pointer(tasks[0], BIAS_ADDRESS).buffer]
    stored = source.submits[0].contents.get(biases.handle)
    following = [task.words.size for task in tasks[1:]] + [0]
    bias = None if stored is None else stored.tobytes()[: biases.size]
    return Side(tasks, following, str(weights.facts.get("sha256")), weights.size, bias)
