"""Programs, captures and models in one form that can be printed and compared: buffers, jobs, tasks, words, pointers.

A pointer is a word that holds an address, seen as a buffer and an offset.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from delegate import cache
from delegate.compile import compile_graph
from delegate.errors import DelegateError
from delegate.hw.soc import EVERY_FORM
from delegate.hw.task import Bytes, Program, Words
from delegate.hw.timing import exchanged
from delegate.partition import taken
from delegate.tflite import IDENTIFIER, read_model
from delegate.tools import capture
from delegate.tools.capture import Capture, CaptureBuffer, CaptureTask

GZIP_MAGIC = b"\x1f\x8b"
DIGEST_DIGITS = 12
TEXT_LIMIT = 160  # characters of a name that comes from a file
# Of an rknpu submit and of its task records: what is printed, in this order (hardware book uapi.md).
SUBMIT_FIELDS = ("flags", "timeout", "task_start", "task_number", "core_mask", "subcore_task")
TASK_FIELDS = ("op_idx", "enable_mask", "int_mask", "int_clear", "regcfg_amount", "regcfg_offset")

Kind = Literal["program", "capture"]


@dataclass(frozen=True)
class Pointer:
    """A position in one of a listing's buffers."""

    buffer: int  # index in Listing.buffers
    offset: int  # bytes


@dataclass(frozen=True)
class ListedBuffer:
    name: str
    role: str  # as the source calls it; "" where it does not say
    size: int  # bytes
    digest: str  # first digits of the content's sha256; "" where the content is not known


@dataclass(frozen=True)
class Operation:
    """What tasks belong to. Two listings are aligned by ``key``, which is equal for the same part of the same model."""

    key: tuple[int, ...]  # (node, ordinal among the node's layers) of a model, else (submit, job)
    title: str


@dataclass(frozen=True)
class ListedTask:
    operation: Operation
    words: Words
    pointers: Mapping[int, Pointer]  # by index of the word
    note: str  # what the driver says about the task beside its words


@dataclass(frozen=True)
class ListedJob:
    notes: tuple[str, ...]  # lines
    chains: tuple[int, ...]  # lengths, in tasks
    tasks: tuple[ListedTask, ...]
    stage: int = 0
    core: int = 0
    exchanged: tuple[int, int] = (0, 0)  # bytes shown and copied by the host before the stage


@dataclass(frozen=True)
class Listing:
    name: str
    kind: Kind
    notes: tuple[str, ...]  # lines
    buffers: tuple[ListedBuffer, ...]
    jobs: tuple[ListedJob, ...]
    gathered: tuple[int, int] = (0, 0)  # bytes shown and copied by the host behind the last stage

    @property
    def tasks(self) -> tuple[ListedTask, ...]:
        return tuple(task for job in self.jobs for task in job.tasks)

    def place(self, pointer: Pointer) -> str:
        """A pointer in words."""
        return f"{self.buffers[pointer.buffer].name} + {pointer.offset:#x}"


def open_listing(path: Path) -> Listing:
    """A compiled program, a capture (folder or stream.json.gz), or a model, which is compiled; raises DelegateError."""
    if path.is_dir():
        return from_capture(capture.load(path), path)
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise DelegateError(f"{path}: {error.strerror}") from None
    if head[: len(GZIP_MAGIC)] == GZIP_MAGIC:
        return from_capture(capture.load(path), path)
    if head[4:8] == IDENTIFIER:
        return from_model(path)
    if head == cache.MAGIC:
        return from_program(read_program(path), str(path))
    raise DelegateError(f"{path}: neither a compiled program, nor a capture, nor a .tflite model")


def read_program(path: Path) -> Program:
    """A program file; raises DelegateError."""
    try:
        return cache.deserialize(path.read_bytes())
    except OSError as error:
        raise DelegateError(f"{path}: {error.strerror}") from None
    except cache.CacheError as error:
        raise DelegateError(f"{path}: {error}") from None


def from_model(path: Path) -> Listing:
    """All partitions of a model, compiled, behind each other; raises DelegateError."""
    programs = [compile_graph(part, EVERY_FORM) for part in taken(read_model(path), EVERY_FORM)]
    return join([from_program(program, f"partition {number}") for number, program in enumerate(programs)], str(path))


def join(parts: Sequence[Listing], name: str) -> Listing:
    """Several programs as one listing."""
    notes: list[str] = []
    buffers: list[ListedBuffer] = []
    jobs: list[ListedJob] = []
    for part in parts:
        prefix = f"{part.name}: " if len(parts) > 1 else ""
        notes += [prefix + note for note in part.notes]
        jobs += [shift(job, len(buffers)) for job in part.jobs]
        buffers += [ListedBuffer(prefix + b.name, b.role, b.size, b.digest) for b in part.buffers]
    return Listing(name, "program", tuple(notes), tuple(buffers), tuple(jobs))


def shift(job: ListedJob, buffers: int) -> ListedJob:
    """A job whose buffers come ``buffers`` places later."""
    tasks = tuple(
        ListedTask(
            task.operation,
            task.words,
            {index: Pointer(p.buffer + buffers, p.offset) for index, p in task.pointers.items()},
            task.note,
        )
        for task in job.tasks
    )
    return replace(job, tasks=tasks)


def digest(content: Bytes | None) -> str:
    return "" if content is None else hashlib.sha256(content.tobytes()).hexdigest()[:DIGEST_DIGITS]


def from_program(program: Program, name: str) -> Listing:
    """A compiled partition."""
    operations = layer_operations(program)
    pointers: dict[int, dict[int, Pointer]] = {}
    for r in program.relocations:
        pointers.setdefault(r.task, {})[r.word] = Pointer(r.buffer, r.offset)
    names = [buffer.name for buffer in program.buffers]
    jobs: list[ListedJob] = []
    first = 0
    for job in program.jobs:
        tasks = tuple(
            ListedTask(operations[task.layer], task.words, pointers.get(first + index, {}), "")
            for index, task in enumerate(job.tasks)
        )
        first += len(tasks)
        where = [f"stage {job.stage}, core {job.core}"] if len(program.jobs) > 1 else []
        job_notes = (
            *where,
            "reads " + (", ".join(names[index] for index in job.reads) or "nothing"),
            "writes " + (", ".join(names[index] for index in job.writes) or "nothing"),
            "chains " + ", ".join(f"{chain.start}-{chain.stop - 1}" for chain in job.chains),
        )
        lengths = tuple(len(chain) for chain in job.chains)
        jobs.append(ListedJob(job_notes, lengths, tasks, job.stage, job.core, exchanged(program, job.stage)))
    notes = (f"chip {program.soc}", *port_notes(program), *exchange_notes(program))
    buffers = tuple(ListedBuffer(b.name, b.role, b.size, digest(b.data)) for b in program.buffers)
    return Listing(name, "program", notes, buffers, tuple(jobs), exchanged(program, len(program.stages)))


def exchange_notes(program: Program) -> Iterator[str]:
    """What the host copies between cores, a line for each stage and buffer."""
    copied: dict[tuple[int, int, int, int], int] = {}
    for move in program.exchanges:
        key = (move.stage, move.buffer, move.source, move.target)
        copied[key] = copied.get(key, 0) + move.stop - move.start
    for (stage, buffer, source, target), size in copied.items():
        when = f"before stage {stage}" if stage < len(program.stages) else "at the end"
        yield f"{when} the host copies {size} bytes of {program.buffers[buffer].name} from core {source} to {target}"


def layer_operations(program: Program) -> list[Operation]:
    """The operation of each layer."""
    seen: Counter[int] = Counter()
    result = []
    for number, layer in enumerate(program.layers):
        title = f"layer {number}, node {layer.node} {layer.operator}: {layer.description}"
        result.append(Operation((layer.node, seen[layer.node]), printable(title)))
        seen[layer.node] += 1
    return result


def port_notes(program: Program) -> Iterator[str]:
    for what, ports in (("input", program.inputs), ("output", program.outputs)):
        for port in ports:
            shape = "x".join(map(str, port.shape))
            place = f"{program.buffers[port.buffer].name} + {port.offset:#x}"
            cube = f"{port.surfaces} surfaces of {port.surface_bytes} bytes, filled with {port.fill}"
            yield f"{what} tensor {port.tensor}: {port.dtype} {shape} at {place}, {cube}"


def printable(text: object) -> str:
    """Text from a file, fit for a terminal: no control characters, not endless."""
    shown = "".join(char if char.isprintable() else "?" for char in str(text))
    return shown if len(shown) <= TEXT_LIMIT else shown[:TEXT_LIMIT] + "…"


def from_capture(source: Capture, path: Path) -> Listing:
    """A capture; raises DelegateError where the parts that capture.load does not look at make no sense."""
    try:
        submits = read_submits(source.path)
        jobs = tuple(job for index in range(len(submits)) for job in capture_jobs(source, submits[index], index))
        return Listing(str(path), "capture", tuple(capture_notes(source)), tuple(capture_buffers(source)), jobs)
    except (OSError, EOFError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DelegateError(f"capture {path}: malformed: {type(error).__name__}: {error}") from None


def read_submits(file: Path) -> list[dict[str, Any]]:
    """The submits as the file has them; capture.load has already checked its size and its words."""
    with gzip.open(file, "rb") as stream:
        data = json.loads(stream.read())
    if "bos" not in data:
        raise DelegateError(f"capture {file}: it has no list of buffers")
    submits: list[dict[str, Any]] = data.get("submits", [])
    return submits


def capture_notes(source: Capture) -> Iterator[str]:
    yield f"driver {source.uapi}"
    facts = source.facts
    for key in ("mesa", "status"):
        if key in facts:
            yield f"{key} {printable(facts[key])}"
    if "model" in facts:
        yield f"model {printable(facts['model']['file'])}, sha256 {printable(facts['model']['sha256'])}"
    if "recorder" in facts:
        yield from (f"{printable(key)}: {printable(value)}" for key, value in facts["recorder"].items())
    if "case" in facts:
        yield f"case {printable(facts['case'].get('name'))}: {printable(facts['case'].get('op'))}"


def buffer_name(buffer: CaptureBuffer) -> str:
    """A buffer by its role where the capture says it, by its handle in any case."""
    facts = buffer.facts
    if buffer.role == "tensor":
        return f"tensor {facts.get('tensor')} (bo {buffer.handle})"
    if buffer.role:
        return f"{printable(buffer.role)} of convolution {facts.get('op')} (bo {buffer.handle})"
    return f"bo {buffer.handle}"


def capture_buffers(source: Capture) -> Iterator[ListedBuffer]:
    for buffer in source.buffers:
        known = buffer.facts.get("sha256") or buffer.facts.get("sha256_at_submit")
        held = next((s.contents[buffer.handle] for s in source.submits if buffer.handle in s.contents), None)
        text = printable(known)[:DIGEST_DIGITS] if known else digest(held)
        yield ListedBuffer(printable(buffer_name(buffer)), printable(buffer.role), buffer.size, text)


def capture_jobs(source: Capture, entry: Mapping[str, Any], index: int) -> Iterator[ListedJob]:
    """The jobs of one submit; an rknpu submit counts as one."""
    tasks = source.submits[index].tasks
    handles = {buffer.handle: number for number, buffer in enumerate(source.buffers)}
    names = [buffer.name for buffer in capture_buffers(source)]
    if source.uapi == "rknpu":
        notes = [f"submit {index}: " + ", ".join(f"{key} {entry.get(key)}" for key in SUBMIT_FIELDS)]
        chains = tuple(start.tasks for job in source.submits[index].starts for start in job)
        operation = Operation((index, 0), printable(source.facts.get("case", {}).get("op", "")))
        records = [", ".join(f"{key} {record.get(key)}" for key in TASK_FIELDS) for record in entry["tasks"]]
        listed = [listed_task(source, task, operation, note) for task, note in zip(tasks, records, strict=True)]
        yield ListedJob(tuple(map(printable, notes)), chains, tuple(listed))
        return
    first = 0
    for number, job in enumerate(entry.get("jobs", [])):
        count = len(job["tasks"])
        starts = source.submits[index].starts[number]
        reads, writes = (", ".join(names[handles[h]] for h in job[key]) or "nothing" for key in ("in_bos", "out_bos"))
        notes = [f"submit {index}", f"reads {reads}", f"writes {writes}"]
        if job.get("job_tail"):
            notes.append(f"job structure past its 40 bytes {job['job_tail']}")
        operation = job_operation(source, entry, job, (index, number))
        listed = [
            listed_task(source, task, operation, f"kernel fetches {task.fetched} words")
            for task in tasks[first : first + count]
        ]
        first += count
        yield ListedJob(tuple(map(printable, notes)), tuple(start.tasks for start in starts), tuple(listed))


def job_operation(
    source: Capture, submit: Mapping[str, Any], job: Mapping[str, Any], position: tuple[int, int]
) -> Operation:
    """The node of the model that a job belongs to, found by the tensor it computes; else the job's position."""
    if "graph_operation" not in job:
        return Operation(position, printable(source.facts.get("case", {}).get("op", "")))
    graph = source.facts["graphs"][submit["graph"]]
    operation = graph["operations"][job["graph_operation"]]
    output = operation["outputs"][0]
    node = next(op["idx"] for op in source.facts["ops"] if output in [tensor for tensor, _ in op["outputs"]])
    dims = {tensor["idx"]: "x".join(map(str, tensor["dims"][1:])) for tensor in graph["tensors"]}
    title = f"node {node} {operation['type']}: {dims[operation['inputs'][0]]} -> {dims[output]}"
    return Operation((int(node), 0), printable(title))


def listed_task(source: Capture, task: CaptureTask, operation: Operation, note: str) -> ListedTask:
    handles = {buffer.handle: number for number, buffer in enumerate(source.buffers)}
    pointers = {
        word: Pointer(handles[handle], offset) for word, handle, offset in task.relocations if handle in handles
    }
    return ListedTask(operation, task.words, pointers, printable(note))
