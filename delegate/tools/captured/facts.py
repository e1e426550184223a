"""What a capture of a model says about itself: its tensors, who reads and writes them, and what is wrong upstream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from delegate.tools.capture import Capture, CaptureBuffer, CaptureError

DIMENSIONS = 4
SIZE_LIMIT = 1 << 28  # elements of a tensor
USERS = ("written_by", "read_by", "added_by")
TYPES = {"u8": "uint8", "i8": "int8"}


@dataclass(frozen=True)
class TensorFacts:
    """A tensor of a partition, and its buffer."""

    index: int  # in the model
    shape: tuple[int, ...]  # NHWC
    signed: bool  # int8
    zero_point: int
    buffer: CaptureBuffer
    graph: int  # partition
    written_by: tuple[int, ...]  # convolutions of the partition
    read_by: tuple[int, ...]  # as input
    added_by: tuple[int, ...]
    made: bool  # by an operation of the same partition

    @property
    def readers(self) -> tuple[int, ...]:
        """Convolutions that read it as input or add it."""
        return self.read_by + self.added_by

    @property
    def from_host(self) -> bool:
        """Filled before the submit rather than by a job, or by nobody."""
        return not self.made and not self.written_by and "sha256_at_submit" in self.buffer.facts


def tensors(capture: Capture) -> list[TensorFacts]:
    """The tensors that have a buffer; raises CaptureError where the tables do not fit each other."""
    try:
        return list(_tensors(capture))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise CaptureError(f"{capture.path}: malformed table of tensors: {type(error).__name__}: {error}") from None


def _tensors(capture: Capture) -> Iterator[TensorFacts]:
    types = _types(capture)
    tables = [{entry["idx"]: entry for entry in graph["tensors"]} for graph in capture.facts.get("graphs", [])]
    for buffer in capture.buffers:
        if buffer.role != "tensor":
            continue
        index = int(buffer.facts["tensor"])
        entry = tables[int(buffer.facts["graph"])][index]
        shape = tuple(int(size) for size in entry["dims"])
        if len(shape) != DIMENSIONS or shape[0] != 1 or min(shape) < 1 or _product(shape) > SIZE_LIMIT:
            raise CaptureError(f"{capture.path}: tensor {index} has the shape {shape}")
        if _product(shape) > buffer.size:
            raise CaptureError(f"{capture.path}: tensor {index} of {shape} in a buffer of {buffer.size} bytes")
        signed = types.get(index) == "int8"
        zero = int(entry["zp_hex"], 16) & 0xFF
        operations = capture.facts["graphs"][int(buffer.facts["graph"])]["operations"]
        made = any(index in operation["outputs"] for operation in operations)
        written, read, added = (tuple(map(int, buffer.facts.get(key, ()))) for key in USERS)
        zero = zero - 256 if signed and zero > 127 else zero
        yield TensorFacts(index, shape, signed, zero, buffer, int(buffer.facts["graph"]), written, read, added, made)


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def _types(capture: Capture) -> dict[int, str]:
    """Type of each tensor by index, as the table of all operations has it."""
    found = {}
    for operation in capture.facts.get("ops", []):
        for index, kind in [*operation["inputs"], *operation["outputs"]]:
            found[index] = TYPES.get(kind, str(kind))
    return found


def title(capture: Capture) -> str:
    """What the capture is of."""
    case, model = capture.facts.get("case"), capture.facts.get("model")
    if isinstance(case, Mapping):
        return f"{case.get('name')}: {case.get('op')}, {case.get('in_dtype')} to {case.get('out_dtype')}"
    if isinstance(model, Mapping):
        operations = capture.facts.get("ops", [])
        count = len(operations) if isinstance(operations, list) else 0
        return f"{model.get('file')}: {count} operation{'s' * (count != 1)}"
    recorder = capture.facts.get("recorder")
    if isinstance(recorder, Mapping):
        return (
            f"recorded {recorder.get('recorded')} on {recorder.get('device')} "
            f"({recorder.get('driver') or 'no node'}), {recorder.get('kernel')}"
        )
    return str(capture.path)


def faults(capture: Capture, known: list[TensorFacts]) -> list[str]:
    """What is wrong with a capture of a model before anything runs (golden/README.md, "Read with care")."""
    found = []
    status = capture.facts.get("status", "ok")
    if status != "ok":
        found.append(f"the driver's process ended: {status}")
    if any(tensor.signed for tensor in known):
        found.append("int8 bytes are handled as uint8: the numbers cannot be right")
    for tensor in known:
        if tensor.readers and not tensor.written_by and not tensor.from_host:
            found.append(f"tensor {tensor.index} is read, but nobody writes it")
        elif tensor.written_by and tensor.readers and min(tensor.readers) <= min(tensor.written_by):
            found.append(
                f"tensor {tensor.index} is read by convolution {min(tensor.readers)}, "
                f"but written only by convolution {min(tensor.written_by)}"
            )
    return found + list(_split_operations(capture))


def _split_operations(capture: Capture) -> Iterator[str]:
    """Operations that the driver made more than one job of; it aborts after such a submit."""
    for number, submit in enumerate(capture.submits):
        operations: list[Any] = [job[0].operation for job in submit.starts if job and job[0].operation is not None]
        for operation in sorted(set(operations)):
            if operations.count(operation) > 1:
                yield f"submit {number}: operation {operation} became {operations.count(operation)} jobs"
