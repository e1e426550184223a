"""Replays one capture: buffers placed, tensors filled as the host would, operation after operation run and judged.

Outputs that were recorded are compared bit for bit. With a device each submit runs there too, on the same memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from delegate.errors import DeviceError, ModelError
from delegate.hw.device import Device
from delegate.hw.task import Bytes
from delegate.ir import Array
from delegate.tools.capture import Capture, CaptureError
from delegate.tools.captured.agree import Snapshot, judge_unit
from delegate.tools.captured.causes import Agreement
from delegate.tools.captured.checks import Check, checks
from delegate.tools.captured.facts import TensorFacts, faults, tensors
from delegate.tools.captured.model import CaptureModel, recorded_input, recorded_inputs, run_reference
from delegate.tools.captured.on_device import OnDevice, written
from delegate.tools.captured.run import Outcome, Unit, execute, units
from delegate.tools.captured.upstream import coefficients, has_contents, pack_tensor, unpack_tensor
from delegate.tools.replay import Replay

# Bytes after the last buffer that a board would not have mapped: upstream allocates two of the four surfaces of a
# shallow depthwise output (docs/hardware.md, F-73). What touches them is reported.
SLACK = 4 << 20


@dataclass(frozen=True)
class Result:
    """What became of an operation."""

    outcome: Outcome
    name: str
    agreement: Agreement | None  # None without a model, or where nothing can be compared


@dataclass
class Played:
    """A capture that has run."""

    capture: Capture
    replay: Replay
    results: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what is wrong with the capture, or had to be made up
    tensors: dict[int, Array] = field(default_factory=dict)  # that jobs wrote, NHWC, by index in the model
    reference: Mapping[int, Array] | None = None  # the same from TFLite's reference kernels, and all others
    checks: list[Check] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # of the device

    @property
    def errors(self) -> list[str]:
        return [error for result in self.results for error in result.outcome.errors]


def play(
    capture: Capture,
    model: CaptureModel | None,
    inputs: Sequence[Array] | None,
    compare: bool,
    device: Device | None = None,
) -> Played:
    """Runs a capture. ``inputs``: the model's inputs NHWC, otherwise the recorded ones. Raises DelegateError.

    With ``compare`` the model's reference run gives the tensors that the CPU hands to a later partition, and every
    operation is judged.
    """
    known = tensors(capture)
    notes = faults(capture, known)
    capture = with_coefficients(capture, model, notes)
    played = Played(capture, Replay(capture, slack=SLACK), notes=notes)
    handed_on = inputs is not None and len(capture.submits) > 1  # by the CPU, to a later partition
    if model is not None and (compare or handed_on):
        try:
            played.reference = run_reference(
                model, list(inputs) if inputs is not None else recorded_inputs(model.graph)
            )
        except ModelError as error:  # a model without its weights, say
            notes.append(str(error))
    there = OnDevice(device, played.replay) if device is not None else None
    for index, submit in enumerate(capture.submits):
        played.replay.place(submit, index)
        for tensor in known:
            if tensor.from_host and tensor.graph == index:
                fill(played, tensor, known, inputs)
        if there is not None:
            there.load(index)
        results = [run_unit(played, unit, known, model if compare else None) for unit in units(capture, index)]
        played.results += results
        recorded = submit.outputs if inputs is None else {}
        simulated = {buffer.handle: played.replay.buffers[buffer.handle][: buffer.size] for buffer in capture.buffers}
        played.checks += checks(index, "the simulator", simulated, recorded, "recorded")
        if there is None or device is None:
            continue
        if any(result.outcome.errors for result in results):
            played.notes.append(f"submit {index}: not run on device {device.name}, for silicon would stop")
            continue
        try:
            got = there.run(index)
        except DeviceError as error:
            played.failures.append(f"submit {index} on device {device.name}: {error}")
            continue
        others = {handle: simulated[handle] for handle in written(submit) - set(recorded)}
        for wanted, source in ((recorded, "recorded"), (others, "simulated")):
            played.checks += checks(index, f"device {device.name}", got, wanted, source)
    for tensor in known:
        if tensor.written_by:
            stored = played.replay.buffers[tensor.buffer.handle]
            played.tensors[tensor.index] = unpack_tensor(stored, tensor.shape, tensor.signed)
    return played


def with_coefficients(capture: Capture, model: CaptureModel | None, notes: list[str]) -> Capture:
    """The capture with whole weights and biases, packed from the model where it has not got them."""
    check_stored(capture)
    coefficient_buffers = [buffer for buffer in capture.buffers if buffer.role in ("weights", "biases")]
    missing = [buffer for buffer in coefficient_buffers if not has_contents(capture, buffer)]
    if not missing or not capture.submits:
        return capture
    if model is None:
        notes.append(f"{len(missing)} weights or biases are not stored whole, and the model is not found: zeros")
        return capture
    packed: dict[int, Bytes] = dict(coefficients(capture, model.graph))
    notes.append(f"{len(packed)} weights and biases packed from {model.name}, equal to the recorded sha256")
    first = replace(capture.submits[0], contents={**capture.submits[0].contents, **packed})
    return replace(capture, submits=(first, *capture.submits[1:]))


def check_stored(capture: Capture) -> None:
    """What is stored whole must be what was recorded; raises CaptureError."""
    for buffer in capture.buffers:
        digest = buffer.facts.get("sha256") or buffer.facts.get("sha256_at_submit")
        content = capture.submits[0].contents.get(buffer.handle) if capture.submits else None
        if digest is None or content is None or len(content) != buffer.size:
            continue
        if hashlib.sha256(content.tobytes()).hexdigest() != digest:
            raise CaptureError(f"{capture.path}: buffer {buffer.handle} is stored, but not with its sha256")


def fill(played: Played, tensor: TensorFacts, known: Sequence[TensorFacts], inputs: Sequence[Array] | None) -> None:
    """Fills a tensor as the host does before the submit."""
    earlier = [
        other for other in known if other.index == tensor.index and other.written_by and other.graph < tensor.graph
    ]
    position = input_position(played.capture, tensor.index)
    content = stored_content(played.capture, tensor)
    if earlier:
        stored = played.replay.buffers[earlier[-1].buffer.handle]
        values = unpack_tensor(stored, tensor.shape, tensor.signed)
    elif position is None and played.reference is not None and tensor.index in played.reference:
        values = played.reference[tensor.index]
    elif position is not None and inputs is not None:
        values = inputs[position]
    elif content is not None and (position is None or played.reference is None):
        return  # the recorded bytes are there already
    else:
        dtype = "int8" if tensor.signed else "uint8"
        values = recorded_input(tensor.shape, dtype, position or 0)
        if position is None:
            played.notes.append(f"tensor {tensor.index} comes from the CPU: filled with the formula of input 0")
    packed = pack_tensor(values.reshape(tensor.shape)[0], tensor.zero_point, tensor.buffer.size)
    recorded = tensor.buffer.facts.get("sha256_at_submit")
    if position is not None and inputs is None and hashlib.sha256(packed.tobytes()).hexdigest() != recorded:
        played.notes.append(f"tensor {tensor.index}: the recorded bytes are not the packed input: the driver's fault")
    played.replay.buffers[tensor.buffer.handle][: packed.size] = packed


def input_position(capture: Capture, index: int) -> int | None:
    """Which of the model's inputs a tensor is; None for one that the CPU computed."""
    listed = capture.facts.get("inputs")
    if not isinstance(listed, list):  # a run that was aborted: what no operation gives is an input
        made = {out[0] for operation in capture.facts.get("ops", []) for out in operation["outputs"]}
        return None if index in made else 0
    places = [place for place, entry in enumerate(listed) if entry.get("index") == index]
    return places[0] if places else None


def stored_content(capture: Capture, tensor: TensorFacts) -> Bytes | None:
    return capture.submits[0].contents.get(tensor.buffer.handle)


def run_unit(played: Played, unit: Unit, known: Sequence[TensorFacts], model: CaptureModel | None) -> Result:
    """Runs the jobs of an operation and judges what they wrote."""
    snapshot = Snapshot.take(played.capture, played.replay, unit, known)
    outcome = execute(played.replay, unit)
    agreement = None
    if model is not None and snapshot is not None and not outcome.errors:
        try:
            agreement = judge_unit(snapshot, played.replay, model)
        except CaptureError as error:
            played.notes.append(f"submit {unit.submit}, operation {unit.operation}: not compared: {error}")
    return Result(outcome, snapshot.name if snapshot else f"job {unit.first_job}", agreement)


def statistics(got: Array, wanted: Array) -> tuple[float, float, int]:
    """Exact share, share within 1, largest difference."""
    difference = np.abs(got.astype(np.int64) - wanted.astype(np.int64).reshape(got.shape))
    return float((difference == 0).mean()), float((difference <= 1).mean()), int(difference.max(initial=0))
