"""Captures: what a driver sent to the NPU, as files (``stream.json.gz`` with ``coefs.npz`` or ``bos.npz`` beside it).

``outputs.npz``, which our recorder writes (delegate.hw.record), has what the NPU made of it.

A capture is data from elsewhere: everything is checked while it is read, sizes are bounded, nothing is unpickled.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from delegate.errors import DelegateError
from delegate.hw.capture_folder import ARRAY_LIMIT, CONTENTS, JSON_LIMIT, OUTPUTS
from delegate.hw.device import KERNELS, Kernel
from delegate.hw.regcmd import TARGET_NAMES
from delegate.hw.registers import split, word
from delegate.hw.regs import PC
from delegate.hw.task import Bytes, Words

TARGETS: dict[str, int] = {name: target for target, name in TARGET_NAMES.items()}
MEMORY_LIMIT = 1 << 30  # bytes of all buffers together
COUNT_LIMIT = 1 << 20  # words of a task, tasks of a submit
BATCHED = 1  # flag in the tail of a job: the tasks are one chain (S-197)
LINK = (PC.target, PC.BASE_ADDRESS.offset)  # holds the address of the next stream
KERNEL_TAIL = 4  # words that a vendor task record does not count (npu.md §2.2, F-15)


class CaptureError(DelegateError):
    """A capture that cannot be read; names the file and what is wrong with it."""


@dataclass(frozen=True)
class CaptureBuffer:
    """A buffer the driver created."""

    handle: int
    address: int  # I/O address
    size: int  # bytes
    role: str  # "weights", "biases", "regcmd", "tensor", or "" where the capture does not say
    facts: Mapping[str, Any]  # the other entries, as they are in the file


@dataclass(frozen=True)
class CaptureTask:
    """A command stream."""

    handle: int  # of the buffer that it lies in
    address: int
    words: Words
    fetched: int  # words that the kernel lets PC fetch
    relocations: tuple[tuple[int, int, int], ...] = ()  # index of a word that holds an address, buffer, byte offset


@dataclass(frozen=True)
class CaptureStart:
    """One start of PC: ``tasks`` streams, linked from the first on, on one core."""

    core: int
    task: CaptureTask
    tasks: int
    operation: int | None  # graph operation, where the capture says


@dataclass(frozen=True)
class CaptureSubmit:
    """One submit: the streams it brings, the starts in order, and buffer contents the host sets before it."""

    tasks: tuple[CaptureTask, ...]
    starts: tuple[tuple[CaptureStart, ...], ...]  # per job
    chains: tuple[tuple[range, ...], ...]  # per job: ranges of its tasks that may be started as one
    contents: Mapping[int, Bytes]  # by handle, from the start of the buffer
    outputs: Mapping[int, Bytes]  # the same after the submit, where it was recorded


@dataclass(frozen=True)
class Capture:
    """A whole capture."""

    path: Path
    uapi: Kernel
    buffers: tuple[CaptureBuffer, ...]
    submits: tuple[CaptureSubmit, ...]
    facts: Mapping[str, Any]  # the other entries of the file: model, case, graphs, ...

    def buffer(self, handle: int) -> CaptureBuffer:
        return next(buffer for buffer in self.buffers if buffer.handle == handle)


def load(path: Path | str) -> Capture:
    """Reads a capture folder or its stream.json.gz; raises CaptureError for anything malformed."""
    path = Path(path)
    file = path / "stream.json.gz" if path.is_dir() else path
    try:
        data = _json(file)
        buffers = tuple(_buffers(data))
        arrays = _arrays(file.parent, ("coefs.npz", CONTENTS))
        outputs = _arrays(file.parent, (OUTPUTS,))
        uapi = data.get("uapi", "rocket")
        if uapi not in KERNELS:
            raise CaptureError(f"uapi {uapi!r}: {' or '.join(KERNELS)}")
        by_handle = {buffer.handle: buffer for buffer in buffers}
        read = _rocket_submit if uapi == "rocket" else _rknpu_submit
        submits = tuple(
            _submit(read, entry, index, by_handle, arrays, outputs)
            for index, entry in enumerate(_list(data, "submits"))
        )
        facts = {key: value for key, value in data.items() if key not in ("bos", "submits")}
        return Capture(file, uapi, buffers, submits, facts)
    except CaptureError as error:
        raise CaptureError(f"capture {file}: {error}") from None
    except (OSError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise CaptureError(f"capture {file}: {error}") from None
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, RecursionError, AttributeError) as error:
        raise CaptureError(f"capture {file}: malformed: {type(error).__name__}: {error}") from None
    except Exception as error:  # zlib.error and the like have no common base
        raise CaptureError(f"capture {file}: cannot be read: {type(error).__name__}: {error}") from None


def _json(file: Path) -> dict[str, Any]:
    with gzip.open(file, "rb") as stream:
        raw = stream.read(JSON_LIMIT + 1)
    if len(raw) > JSON_LIMIT:
        raise CaptureError(f"more than {JSON_LIMIT} bytes of JSON")
    data = json.loads(raw)
    if not isinstance(data, dict):
        raise CaptureError("the JSON is not an object")
    return data


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    value = data.get(key, [])
    if not isinstance(value, list):
        raise CaptureError(f"{key} is not a list")
    return value


def _integer(value: object, what: str, limit: int) -> int:
    """An integer in [0, limit); hexadecimal where it is text."""
    number = int(value, 16) if isinstance(value, str) else value
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < limit:
        raise CaptureError(f"{what} {value!r}: an integer from 0 to {limit - 1:#x}")
    return number


def _buffers(data: Mapping[str, Any]) -> Iterator[CaptureBuffer]:
    total = 0
    for entry in _list(data, "bos"):
        size = _integer(entry["size"], "buffer size", 1 << 32)
        address = _integer(entry["iova"], "buffer address", 1 << 32)
        total += size
        if total > MEMORY_LIMIT:
            raise CaptureError(f"buffers of more than {MEMORY_LIMIT} bytes together")
        facts = {key: value for key, value in entry.items() if key not in ("bo", "size", "iova", "role")}
        yield CaptureBuffer(_integer(entry["bo"], "handle", 1 << 32), address, size, str(entry.get("role", "")), facts)


def _arrays(folder: Path, names: Sequence[str]) -> dict[str, Bytes]:
    """All uint8 arrays of the files that are there."""
    arrays: dict[str, Bytes] = {}
    for name in names:
        file = folder / name
        if not file.exists():
            continue
        for key, array in read_arrays(file).items():
            if array.dtype != np.uint8 or array.ndim != 1:
                raise CaptureError(f"{name}: {key} is {array.dtype} {array.shape}, not uint8 of one dimension")
            arrays[key] = array
    return arrays


def read_arrays(file: Path) -> dict[str, npt.NDArray[Any]]:
    """All arrays of an .npz; raises CaptureError for more than ARRAY_LIMIT bytes, nothing is unpickled."""
    with zipfile.ZipFile(file) as archive:
        sizes = [info.file_size for info in archive.infolist()]
    if sum(sizes) > ARRAY_LIMIT:
        raise CaptureError(f"{file.name} unpacks to {sum(sizes)} bytes, more than {ARRAY_LIMIT}")
    with np.load(file, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


Jobs = list[tuple[list[CaptureStart], tuple[range, ...]]]  # of each job: its starts, its chains


def _submit(
    read: Callable[[Mapping[str, Any], Mapping[int, CaptureBuffer]], tuple[list[CaptureTask], Jobs]],
    entry: Mapping[str, Any],
    index: int,
    buffers: Mapping[int, CaptureBuffer],
    arrays: Mapping[str, Bytes],
    outputs: Mapping[str, Bytes],
) -> CaptureSubmit:
    tasks, jobs = read(entry, buffers)
    contents = _contents(arrays, index, buffers)
    if index == 0:
        contents |= dict(_coefficients(buffers.values(), arrays))
    starts, chains = tuple(tuple(job) for job, _ in jobs), tuple(chains for _, chains in jobs)
    return CaptureSubmit(tuple(tasks), starts, chains, contents, _contents(outputs, index, buffers))


def _contents(arrays: Mapping[str, Bytes], index: int, buffers: Mapping[int, CaptureBuffer]) -> dict[int, Bytes]:
    """The arrays of a submit, by handle."""
    contents: dict[int, Bytes] = {}
    prefix = f"s{index}_bo"
    for key, array in arrays.items():
        if key.startswith(prefix):
            contents[int(key[len(prefix) :])] = array
    for handle, array in contents.items():
        if handle not in buffers or len(array) > _page(buffers[handle].size):
            raise CaptureError(
                f"contents of buffer {handle}: {len(array)} bytes do not fit, or there is no such buffer"
            )
    return contents


def _page(size: int) -> int:
    return -(-size // 4096) * 4096


def _coefficients(buffers: Any, arrays: Mapping[str, Bytes]) -> Iterator[tuple[int, Bytes]]:
    """Weights, biases and packed inputs of a model capture."""
    for buffer in buffers:
        graph, operation, tensor = (buffer.facts.get(key) for key in ("graph", "op", "tensor"))
        key = f"g{graph}_t{tensor}_packed" if buffer.role == "tensor" else f"g{graph}_op{operation}_{buffer.role}"
        if key in arrays:
            yield buffer.handle, arrays[key]


def _task(entry: Mapping[str, Any], buffers: Mapping[int, CaptureBuffer], fetched: int | None) -> CaptureTask:
    handle, offset = entry["regcmd"]
    buffer = buffers.get(handle)
    if buffer is None:
        raise CaptureError(f"a task lies in buffer {handle!r}, which does not exist")
    listed = entry["words"]
    if len(listed) > COUNT_LIMIT:
        raise CaptureError(f"a task of {len(listed)} words, limit {COUNT_LIMIT}")
    offset = _integer(offset, "task offset", 1 << 32)
    if offset + 8 * len(listed) > _page(buffer.size):
        raise CaptureError(
            f"a task at byte {offset} with {len(listed)} words leaves buffer {handle} of {buffer.size} bytes"
        )
    words = np.fromiter((_word(item) for item in listed), np.uint64, len(listed))
    count = _integer(entry["count"], "word count", COUNT_LIMIT) if fetched is None else fetched
    relocations = tuple(
        (index, _integer(item[3][0], "handle", 1 << 32), _integer(item[3][1], "offset", 1 << 32))
        for index, item in enumerate(listed)
        if len(item) > 3
    )
    return CaptureTask(buffer.handle, buffer.address + offset, words, count, relocations)


def _word(item: Any) -> int:
    name = item[0]
    target = TARGETS[name] if name in TARGETS else _integer(name, "block", 1 << 16)
    return word(target, _integer(item[1], "register", 1 << 16), _integer(item[2], "value", 1 << 32))


def _rocket_submit(entry: Mapping[str, Any], buffers: Mapping[int, CaptureBuffer]) -> tuple[list[CaptureTask], Jobs]:
    """Jobs of the mainline driver: each task is started by itself unless the job is flagged as a chain."""
    every: list[CaptureTask] = []
    jobs: Jobs = []
    for job in _list(entry, "jobs"):
        tasks = [_task(item, buffers, None) for item in _list(job, "tasks")]
        operation = job.get("graph_operation")
        operation = None if operation is None else _integer(operation, "graph_operation", COUNT_LIMIT)
        tail = bytes.fromhex(str(job.get("job_tail", "")))
        if tail and tail[0] & BATCHED:
            starts = [CaptureStart(0, tasks[0], len(tasks), operation)]
            chains: tuple[range, ...] = (range(len(tasks)),)
        else:
            starts = [CaptureStart(0, task, 1, operation) for task in tasks]
            chains = _chains(_list(job, "chains"), tasks) if "chains" in job else tuple(linked(tasks))
        every += tasks
        jobs.append((starts, chains))
    return every, jobs


def _chains(listed: list[Any], tasks: Sequence[CaptureTask]) -> tuple[range, ...]:
    """The chains that a job lists as pairs of first task and count; CaptureError unless they cover it in order."""
    pairs = [[_integer(number, "chain", COUNT_LIMIT) for number in pair] for pair in listed]
    chains = tuple(range(first, first + count) for first, count in pairs)
    if sum(map(len, chains)) != len(tasks) or [task for chain in chains for task in chain] != list(range(len(tasks))):
        raise CaptureError(f"chains {listed} do not cover {len(tasks)} tasks")
    return chains


def linked(tasks: Sequence[CaptureTask]) -> Iterator[range]:
    """Ranges of tasks of which each leads to the next, by the word that holds the address of the next stream."""
    first = 0
    for number, task in enumerate(tasks, 1):
        link = [
            value
            for target, offset, value in map(split, task.words[-KERNEL_TAIL:].tolist())
            if (target, offset) == LINK
        ]
        if number == len(tasks) or tasks[number].address not in link:
            yield range(first, number)
            first = number


def _rknpu_submit(entry: Mapping[str, Any], buffers: Mapping[int, CaptureBuffer]) -> tuple[list[CaptureTask], Jobs]:
    """Task ranges of the vendor driver: one chain for each core (uapi.md B)."""
    tasks = []
    for item in _list(entry, "tasks"):
        amount = _integer(item["regcfg_amount"], "regcfg_amount", COUNT_LIMIT)
        fetched = 2 * ((amount + KERNEL_TAIL + 1) // 2)  # the kernel's own rounding (npu.md §2.2)
        tasks.append(_task(item, buffers, fetched))
    mask = _integer(entry.get("core_mask", 0), "core_mask", 8)
    ranges = [tuple(cast("list[int]", pair)) for pair in entry["subcore_task"]]
    if mask == 7:  # three cores read the last three slots
        chosen = [(core, ranges[core + 2]) for core in range(3)]
    else:
        cores = [core for core in range(3) if mask >> core & 1] or [0]
        chosen = [(core, ranges[core]) for core in cores]
    jobs: Jobs = []
    for core, (first, count) in chosen:
        if count == 0:
            continue
        if not 0 <= first < first + count <= len(tasks):
            raise CaptureError(f"core {core} runs tasks {first} to {first + count} of {len(tasks)}")
        jobs.append(([CaptureStart(core, tasks[first], count, None)], (range(count),)))
    return tasks, jobs
