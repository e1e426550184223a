"""One model on the NPU, against the model of the silicon and against TFLite's reference kernels, layer by layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from delegate.compile import layers_of
from delegate.errors import CompileError, DelegateError
from delegate.hw.soc import Target
from delegate.ir import AnyLayer, Array, Convolution, Graph, Node, Tensor
from delegate.memory import Views
from delegate.options import Options, parse
from delegate.partition import partition, partitions, verdicts
from delegate.runtime import Session, target_of
from delegate.tflite import DAMAGE, read_graph
from delegate.tools.accuracy import silicon
from delegate.tools.accuracy.causes import CARRIED, Cause, causes, forms_of, merged
from delegate.tools.accuracy.counts import Difference, difference, total
from delegate.tools.accuracy.inputs import Inputs, Request, make_inputs, pictures_for
from delegate.tools.accuracy.models import (
    ModelFile,
    infer,
    npu_interpreter,
    reference_interpreter,
    with_outputs,
)
from delegate.tools.accuracy.xnnpack import Peer

Progress = Callable[[str], None]
NOT_ASKED = "-"
Tensors = Mapping[int, Array]  # by number in the model


@dataclass
class LayerResult:
    """An operator, or several that are one layer; counts over all inputs."""

    nodes: tuple[int, ...]
    operator: str
    shape: tuple[int, ...]  # of the output
    npu: bool
    forms: tuple[str, ...] = ()  # unproven ones
    alias: bool = False  # no work: the numbers stay where they are
    hardware: Difference = field(default_factory=Difference)  # from the model of the silicon
    isolated: Difference = field(default_factory=Difference)  # from TFLite, fed with TFLite's own tensors
    in_place: Difference = field(default_factory=Difference)  # from TFLite, fed with what the NPU made of the model
    causes: tuple[Cause, ...] = ()  # of what differs in isolation


@dataclass
class ModelResult:
    """Everything about one model; counts over all inputs."""

    name: str
    error: str = ""  # what went wrong, one line
    refused: str = ""  # why TFLite itself does not run the model, one line
    inputs: tuple[str, ...] = ()
    nodes: int = 0
    npu_nodes: int = 0
    partitions: int = 0
    layers: tuple[LayerResult, ...] = ()
    partition_outputs: Difference = field(default_factory=Difference)  # from the model of the silicon, as delegated
    outputs: Difference = field(default_factory=Difference)  # end to end, from TFLite
    last_layer: str = ""  # the last on the NPU
    drift: Difference | None = None  # of that layer, from TFLite
    xnnpack_drift: Difference | None = None  # the same of XNNPACK; None where there is none
    xnnpack_note: str = ""  # why there is none
    top1: tuple[int, int] | None = None  # (inputs with the reference's first class, all); None for no classifier

    @property
    def hardware(self) -> Difference:
        """All that was compared with the model of the silicon."""
        return sum((layer.hardware for layer in self.layers), self.partition_outputs)

    @property
    def isolated(self) -> Difference:
        """All layers, each by itself, from TFLite."""
        return sum((layer.isolated for layer in self.layers), Difference())

    @property
    def failed(self) -> bool:
        """Whether the NPU computed something other than the silicon would, or nothing."""
        return bool(self.error) or not self.hardware.equal


@dataclass(frozen=True, eq=False)
class Compiled:
    """A graph on the device, and the layers that the model of the silicon evaluates."""

    graph: Graph
    layers: Sequence[AnyLayer]
    views: Views
    session: Session

    def run(self, fed: Tensors) -> tuple[dict[int, Array], silicon.Memory]:
        """(outputs of the device by tensor, everything that the silicon should have computed)."""
        inputs = [np.ascontiguousarray(fed[index]) for index in self.graph.inputs]
        tensors = [self.graph.tensors[index] for index in self.graph.outputs]
        outputs = [np.zeros(tensor.shape, tensor.dtype) for tensor in tensors]
        self.session.invoke(inputs, outputs)
        return dict(zip(self.graph.outputs, outputs, strict=True)), self.expect(fed)

    def expect(self, fed: Tensors) -> silicon.Memory:
        """The model of the silicon alone."""
        given = [(self.graph.tensors[index], fed[index]) for index in self.graph.inputs]
        return silicon.evaluate(self.layers, self.views, given)


def compiled(graph: Graph, options: Options, target: Target) -> Compiled:
    """Compiles a partition; raises DelegateError."""
    return Compiled(graph, *layers_of(graph, target), Session(graph, options))


@dataclass(frozen=True, eq=False)
class Unit:
    """What a layer's numbers are compared at: a node, or a convolution and the addition that it does on its way out."""

    nodes: tuple[Node, ...]
    alone: Compiled | None  # None for one without work
    result: LayerResult
    found: list[Cause]

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self.nodes[-1].outputs


@dataclass(frozen=True, eq=False)
class Part:
    """A partition: as it is delegated, and with every tensor an output, so that each can be compared."""

    graph: Graph
    layers: Sequence[AnyLayer]
    views: Views
    opened: Compiled
    units: Sequence[Unit]

    def sessions(self) -> list[Session]:
        return [self.opened.session, *(unit.alone.session for unit in self.units if unit.alone is not None)]


def groups(part: Graph, layers: Sequence[AnyLayer]) -> list[tuple[Node, ...]]:
    """The nodes of a partition; one that has an addition folded in is together with that."""
    writer = {tensor.index: node for node in part.nodes for tensor in node.outputs}
    folded: dict[int, Node] = {}
    for layer in layers:
        if isinstance(layer, Convolution) and layer.addend is not None and layer.output.index in writer:
            last = writer[layer.output.index]
            if last.index != layer.node:
                folded[layer.node] = last
    additions = {node.index for node in folded.values()}
    return [
        (node, folded[node.index]) if node.index in folded else (node,)
        for node in part.nodes
        if node.index not in additions
    ]


def make_unit(graph: Graph, nodes: tuple[Node, ...], options: Options, target: Target) -> Unit:
    """Compiles nodes as a partition of their own."""
    alone = partition(graph, list(nodes))
    layers, _ = layers_of(alone, target)
    result = LayerResult(
        tuple(node.index for node in nodes),
        "+".join(node.op for node in nodes),
        nodes[-1].outputs[0].shape,
        npu=True,
        forms=forms_of(layers),
        alias=not layers,
    )
    return Unit(nodes, compiled(alone, options, target) if layers else None, result, [])


def make_part(graph: Graph, part: Graph, options: Options, target: Target) -> Part:
    """Compiles a partition in all its variants."""
    layers, views = layers_of(part, target)
    written = tuple(dict.fromkeys(tensor.index for node in part.nodes for tensor in node.outputs))
    opened = compiled(replace(part, outputs=written), options, target)
    units = [make_unit(graph, nodes, options, target) for nodes in groups(part, layers)]
    return Part(part, layers, views, opened, units)


def compare_part(part: Part, reference: Tensors, npu: Tensors, result: ModelResult) -> None:
    """A partition as delegated, opened, and unit by unit; what the two interpreters made of the model is given."""
    expected = silicon.evaluate(
        part.layers, part.views, [(part.graph.tensors[index], npu[index]) for index in part.graph.inputs]
    )
    for index in part.graph.outputs:
        result.partition_outputs += difference(expected.fetch(part.graph.tensors[index]), npu[index])
    opened, everything = part.opened.run(npu)
    for unit in part.units:
        for tensor in (tensor for node in unit.nodes for tensor in node.outputs):
            unit.result.hardware += difference(everything.fetch(tensor), opened[tensor.index])
        for tensor in filter(expected.holds, unit.outputs):
            unit.result.in_place += difference(reference[tensor.index], expected.fetch(tensor))
        compare_unit(unit, reference)


def compare_unit(unit: Unit, reference: Tensors) -> None:
    """A unit fed with the reference's own tensors."""
    if unit.alone is None:
        return
    outputs, expected = unit.alone.run(reference)
    for index, got in outputs.items():
        tensor, wanted = unit.alone.graph.tensors[index], reference[index]
        unit.result.hardware += difference(expected.fetch(tensor), got)
        unit.result.isolated += difference(wanted, got)
        if (wanted != got).any():
            margins = expected.part(tensor, expected.margins)
            unit.found.extend(causes(unit.alone.layers, wanted, got, margins))


def is_classifier(graph: Graph) -> bool:
    """One output that is a row of more than one class."""
    shapes = [graph.tensors[index].shape for index in graph.outputs]
    return len(shapes) == 1 and max(shapes[0], default=0) == int(np.prod(shapes[0])) > 1


def last_output(parts: Sequence[Part]) -> Tensor | None:
    """What the last layer on the NPU writes."""
    units = [unit for part in parts for unit in part.units if unit.alone is not None]
    return max(units, key=lambda unit: unit.nodes[-1].index).outputs[0] if units else None


def cpu_layers(graph: Graph, parts: Sequence[Part]) -> list[LayerResult]:
    """The operators that TFLite keeps."""
    inside = {node.index for part in parts for node in part.graph.nodes}
    return [
        LayerResult((node.index,), node.op, node.outputs[0].shape if node.outputs else (), npu=False)
        for node in graph.nodes
        if node.index not in inside
    ]


def with_causes(unit: Unit) -> LayerResult:
    """The unit's result, finished."""
    found = list(unit.found)
    carried = unit.result.in_place
    if unit.result.isolated.equal and not carried.equal:
        found.append(Cause(CARRIED, carried.elements - carried.exact, carried.maximum))
    return replace(unit.result, causes=merged(found))


@dataclass(frozen=True, eq=False)
class Run:
    """A model on some kernels, and the tensors that it gives: outputs of the model and others."""

    interpreter: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def infer(self, arrays: Sequence[Array]) -> Tensors:
        outputs = dict(zip(self.outputs, infer(self.interpreter, arrays), strict=True))
        return outputs | dict(zip(self.inputs, arrays, strict=True))


@dataclass(frozen=True, eq=False)
class Subject:
    """A model in all its variants; ``npu``: the reference kernels behind our delegate."""

    graph: Graph
    parts: Sequence[Part]
    reference: Run
    npu: Run
    last: Tensor | None  # what the last layer on the NPU writes

    def close(self) -> None:
        for session in (session for part in self.parts for session in part.sessions()):
            session.close()


def run_of(graph: Graph, content: bytes, tensors: Iterable[int], make: Callable[[bytes], Any]) -> Run:
    """The model with some tensors as its outputs."""
    outputs = tuple(dict.fromkeys(tensors))
    return Run(make(with_outputs(content, outputs)), graph.inputs, outputs)


def reference_of(graph: Graph, content: bytes) -> Run:
    """The reference kernels, every computed tensor an output."""
    computed = (tensor.index for node in graph.nodes for tensor in node.outputs)
    return run_of(graph, content, (*graph.outputs, *computed), reference_interpreter)


def prepare(content: bytes, graph: Graph, reference: Run, given: Mapping[str, str], progress: Progress) -> Subject:
    """Compiles all partitions; raises DelegateError."""
    options = parse(given, os.environ)
    target = target_of(options)
    progress("compiling")
    found = partitions(graph, verdicts(graph, target, options.selection))
    borders = (index for part in found for index in (*part.inputs, *part.outputs) if index not in graph.inputs)
    npu = run_of(graph, content, (*graph.outputs, *borders), lambda model: npu_interpreter(model, **given))
    delegated = len(npu.interpreter._get_ops_details()) - len(graph.nodes)
    if delegated != len(found):
        raise CompileError(f"the delegate has {delegated} partitions where this report expects {len(found)}")
    parts = [make_part(graph, part, options, target) for part in found]
    return Subject(graph, parts, reference, npu, last_output(parts))


def xnnpack_of(subject: Subject, content: bytes, inputs: Sequence[Inputs], peer: Peer | None) -> list[Array] | str:
    """The last layer's tensor as XNNPACK has it for each of the inputs, or why it has not."""
    if subject.last is None or peer is None:
        return NOT_ASKED
    changed = with_outputs(content, (subject.last.index,))
    return peer.outputs(changed, len(subject.graph.nodes), [given.arrays for given in inputs])


def compare(
    subject: Subject, inputs: Sequence[Inputs], xnnpack: list[Array] | str, result: ModelResult, progress: Progress
) -> None:
    """All inputs through all interpreters; fills the result."""
    drift, right, graph = Difference(), 0, subject.graph
    for number, given in enumerate(inputs):
        progress(f"{given.name} ({number + 1} of {len(inputs)})")
        reference, npu = subject.reference.infer(given.arrays), subject.npu.infer(given.arrays)
        result.outputs += total(difference(reference[index], npu[index]) for index in graph.outputs)
        right += all(reference[index].argmax() == npu[index].argmax() for index in graph.outputs)
        for part in subject.parts:
            compare_part(part, reference, npu, result)
        if subject.last is not None and not isinstance(xnnpack, str):
            drift += difference(reference[subject.last.index], xnnpack[number])
    if is_classifier(graph):
        result.top1 = right, len(inputs)
    finished = [with_causes(unit) for part in subject.parts for unit in part.units]
    if subject.last is not None:
        found = next(layer for layer in finished if layer.nodes[-1] == writer_of(graph, subject.last))
        result.last_layer, result.drift = found.operator, found.in_place
        result.xnnpack_drift, result.xnnpack_note = (None, xnnpack) if isinstance(xnnpack, str) else (drift, "")
    result.partitions = len(subject.parts)
    result.npu_nodes = sum(len(layer.nodes) for layer in finished)
    layers = [*finished, *cpu_layers(graph, subject.parts)]
    result.layers = tuple(sorted(layers, key=lambda layer: layer.nodes))


def writer_of(graph: Graph, tensor: Tensor) -> int:
    return next(node.index for node in graph.nodes for output in node.outputs if output.index == tensor.index)


def one_line(error: Exception) -> str:
    """The first line of an error's message, with its type."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def measure(
    model: ModelFile, request: Request, options: Mapping[str, str], progress: Progress, peer: Peer | None = None
) -> ModelResult:
    """Runs a model; what goes wrong is in the result. ``options`` are the delegate's, ``progress`` is told each step.

    Without ``peer`` there is no comparison with XNNPACK.

    Raises ModelError for an images folder that is none.
    """
    result = ModelResult(model.name)
    pictures = pictures_for(model, request.images)
    try:
        content = model.read()
        graph = read_graph(content)
        reference = reference_of(graph, content)
        inputs = make_inputs(graph, pictures, request)
        reference.infer(inputs[0].arrays)
    except (RuntimeError, OSError, DelegateError, *DAMAGE) as error:
        return replace(result, refused=one_line(error))
    result.inputs, result.nodes = tuple(given.name for given in inputs), len(graph.nodes)
    try:
        subject = prepare(content, graph, reference, options, progress)
        try:
            compare(subject, inputs, xnnpack_of(subject, content, inputs, peer), result, progress)
        finally:
            subject.close()
    except (RuntimeError, ValueError, OSError, DelegateError) as error:
        result.error = one_line(error)
    return result
