"""One operation of a capture beside its node of the model: what it read, what it wrote, and whether that is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from delegate.ir import Array, Graph, Node
from delegate.tools.capture import Capture, CaptureError
from delegate.tools.captured.causes import Agreement, judge
from delegate.tools.captured.facts import TensorFacts
from delegate.tools.captured.ideal import Work
from delegate.tools.captured.model import CaptureModel
from delegate.tools.captured.run import Unit
from delegate.tools.captured.sent import Buffers, Shapes, layer_sent
from delegate.tools.captured.upstream import CONVOLUTIONS, PIXEL_ROW, graph_operations, read_atoms, unpack_tensor
from delegate.tools.replay import Replay


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An operation before it runs."""

    unit: Unit
    name: str
    source: TensorFacts
    output: TensorFacts
    operand: TensorFacts | None
    buffers: Buffers

    @classmethod
    def take(cls, capture: Capture, replay: Replay, unit: Unit, known: Sequence[TensorFacts]) -> Snapshot | None:
        """Copies what a convolution is about to read; None for jobs that are no convolution of a model."""
        if unit.operation is None:
            return None
        operations = graph_operations(capture, unit.submit)
        if not 0 <= unit.operation < len(operations) or operations[unit.operation].get("type") not in CONVOLUTIONS:
            return None
        number = sum(entry["type"] in CONVOLUTIONS for entry in operations[: unit.operation])
        inside = [tensor for tensor in known if tensor.graph == unit.submit]

        source = next((tensor for tensor in inside if number in tensor.read_by), None)
        output = next((tensor for tensor in inside if number in tensor.written_by), None)
        operand = next((tensor for tensor in inside if number in tensor.added_by), None)
        if source is None or output is None:
            return None
        coefficients = {
            buffer.role: replay.buffers[buffer.handle]
            for buffer in capture.buffers
            if (buffer.facts.get("graph"), buffer.facts.get("op")) == (unit.submit, number)
        }
        if "weights" not in coefficients or "biases" not in coefficients:
            return None
        buffers = Buffers(
            replay.buffers[source.buffer.handle].copy(),
            coefficients["weights"],
            coefficients["biases"],
            replay.buffers[operand.buffer.handle].copy() if operand else None,
        )
        name = f"{unit.operation} {operations[unit.operation]['type']}{' + ADD' if operand else ''}"
        return cls(unit, name, source, output, operand, buffers)


def judge_unit(snapshot: Snapshot, replay: Replay, model: CaptureModel) -> Agreement:
    """Compares what an operation wrote; raises CaptureError where model and capture do not fit."""
    source, output = snapshot.source, snapshot.output
    node, addition = nodes(snapshot, model.graph)
    operand = None
    if snapshot.operand is not None and snapshot.buffers.addend is not None:
        operand = unpack_tensor(snapshot.buffers.addend, snapshot.operand.shape, snapshot.operand.signed)[0]
    work = Work(node, addition, features_of(snapshot), operand)
    shapes = Shapes(source.shape[1:4], output.shape[1:4])  # type: ignore[arg-type]
    sent = layer_sent(snapshot.unit.streams, snapshot.buffers, shapes)
    _, height, width, channels = output.shape
    stored = read_atoms(replay.buffers[output.buffer.handle], height * width, channels)[:, :channels]
    try:
        return judge(work, sent, stored.astype(np.int64))
    except (ValueError, IndexError, AssertionError, KeyError) as error:
        raise CaptureError(f"the words and the model do not fit: {error}") from None


def nodes(snapshot: Snapshot, graph: Graph) -> tuple[Node, Node | None]:
    """The convolution and the addition fused into it."""
    maker = producer(graph, snapshot.output.index)
    if snapshot.operand is None:
        return maker, None
    for tensor in maker.inputs:
        if tensor is not None and tensor.index != snapshot.operand.index:
            return producer(graph, tensor.index), maker
    raise CaptureError(f"operation {maker.index} {maker.op} adds tensor {snapshot.operand.index} to itself")


def producer(graph: Graph, index: int) -> Node:
    for node in graph.nodes:
        if any(tensor.index == index for tensor in node.outputs):
            return node
    raise CaptureError(f"the model has no operation that gives tensor {index}")


def features_of(snapshot: Snapshot) -> Array:
    """The input as TFLite has it, (height, width, channels)."""
    source = snapshot.source
    _, height, width, channels = source.shape
    if channels == 1 and source.from_host:
        pitch = max(width, PIXEL_ROW)
        rows = snapshot.buffers.features[: height * pitch].reshape(height, pitch)[:, :width]
        image = rows.reshape(height, width, 1)
        return image.view(np.int8) if source.signed else image
    values: Array = unpack_tensor(snapshot.buffers.features, source.shape, source.signed)[0]
    return values
