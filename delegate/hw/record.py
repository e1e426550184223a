"""A Device that writes down what it passes on to another one: captures that `python -m delegate replay` runs.

The format is that of the captures of other drivers (../shared/golden/programs/README.md): ``stream.json.gz`` has
buffers, jobs, tasks and words, ``bos.npz`` what the host wrote into buffers before a submit, as far as it showed it to
the NPU. ``outputs.npz`` is new: ``s<k>_bo<h>`` is what buffer h held when the host was allowed to read it after submit
k. A capture is on the disk before its jobs start.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from delegate.errors import DelegateError, DeviceError, RegisterError
from delegate.hw import rknpu_interface as vendor
from delegate.hw.capture_folder import CONTENTS, OUTPUTS, CaptureFolder
from delegate.hw.device import Device, DeviceJob, DeviceTask, Memory
from delegate.hw.regcmd import TARGET_NAMES
from delegate.hw.registers import lookup, split
from delegate.hw.soc import ADDRESS_LIMIT

PAGE = 4096  # bytes
WORD_BYTES = 8

Step = TypeVar("Step")


@dataclass(eq=False)
class _Buffer:
    """Memory of the device. ``handle`` and ``address`` are those of the capture, once a job has used it."""

    memory: Memory
    space: int
    handle: int = 0  # none yet
    address: int = 0
    shown: bool = False  # to the NPU, since the last submit
    known: bytes = b""  # digest of what it holds by the capture; none where a job may have written since

    @property
    def pages(self) -> int:
        """Bytes of the address space that it takes."""
        return -(-len(self.memory.view) // PAGE) * PAGE

    def holds(self, address: int, space: int) -> bool:
        """Whether an address of the device lies in it."""
        first = self.memory.address
        return self.space == space and first <= address < first + len(self.memory.view)


class Recorder:
    """A Device in front of another one; see delegate.hw.device.Device.

    A capture gets a folder of its own in ``folder``. The recording ends after ``submits`` submits, or before the files
    in ``folder`` take more than ``size`` bytes, or when they cannot be written; the jobs go on, and a line on stderr
    says so. ``facts`` are kept with the capture.
    """

    def __init__(self, device: Device, folder: Path, submits: int, size: int, facts: Mapping[str, Any]) -> None:
        self._device = device
        self.name, self.forms, self.signals_pooling = device.name, device.forms, device.signals_pooling
        self.kernel = device.kernel
        self._facts = {**describe(device), **facts}
        self._folder = CaptureFolder(folder, size, self._facts)
        self._most = submits
        self._lock = threading.Lock()
        self._over = False
        self._buffers: list[_Buffer] = []
        self._used: list[_Buffer] = []  # by handle
        self._entries: list[dict[str, Any]] = []  # of the capture's submits
        self._submitted = 0
        self._waiting: dict[int, tuple[object, int]] = {}  # by id() of a ticket: itself, the last of its entries

    @property
    def folder(self) -> Path:
        """Of the capture; not there before the first submit."""
        return self._folder.path

    def __getattr__(self, name: str) -> Any:
        """Whatever else a driver offers."""
        return getattr(self._device, name)

    def spaces(self, count: int) -> tuple[int, ...]:
        return self._device.spaces(count)

    def allocate(self, size: int, space: int = 0) -> Memory:
        memory = self._device.allocate(size, space)
        with self._lock:
            self._buffers.append(_Buffer(memory, space))
        return memory

    def flush(self, memory: Memory) -> None:
        """Passes on what the host wrote; that is what the capture has of a buffer."""
        self._device.flush(memory)
        with self._lock:
            for buffer in self._buffers:
                if buffer.memory is memory:
                    buffer.shown = True

    def free(self, memory: Memory) -> None:
        self._device.free(memory)
        with self._lock:
            self._buffers = [buffer for buffer in self._buffers if buffer.memory is not memory]

    def submit(self, jobs: Sequence[DeviceJob]) -> object:
        """Writes the capture, then starts the jobs."""
        last = self._attempt(lambda: self._before(jobs))
        try:
            ticket = self._device.submit(jobs)
        except DeviceError as error:
            self._failed(last, error)
            raise
        if last is not None:
            with self._lock:
                self._waiting[id(ticket)] = ticket, last
        return ticket

    def wait(self, ticket: object, timeout: float, reads: Sequence[Memory] = ()) -> None:
        """Waits, then adds to the capture what the host may read."""
        with self._lock:
            _, last = self._waiting.pop(id(ticket), (None, None))
        try:
            self._device.wait(ticket, timeout, reads)
        except DeviceError as error:
            self._failed(last, error)
            raise
        if last is not None:
            self._attempt(lambda: self._after(last, reads))

    def reset(self) -> None:
        self._device.reset()

    def close(self) -> None:
        self._device.close()

    def _attempt(self, step: Callable[[], Step]) -> Step | None:
        """A step of the recording. One that fails ends it, for a full disk must not cost an inference."""
        with self._lock:
            if self._over:
                return None
            try:
                return step()
            except (OSError, MemoryError, DelegateError) as error:
                self._over = True
                reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
                text = "teflon: recording to %s ended after %d submits: %s; the inference goes on"
                logging.getLogger("teflon").warning(text, self.folder, self._submitted, reason)
                if not self._folder.is_capture:
                    self._folder.remove()
                return None

    def _before(self, jobs: Sequence[DeviceJob]) -> int | None:
        """Writes a submit and what the host wrote for it; the index of its last entry, None where the limit is met."""
        if self._submitted == self._most:
            self._over = True
            return None
        entries: list[dict[str, Any]] = []
        if self.kernel == "rocket":
            entries.append({"jobs": [self._rocket_job(job) for job in jobs]})
        else:
            entries += [entry for job in jobs for entry in self._rknpu_submits(job)]
        first = len(self._entries)
        self._folder.append(CONTENTS, {f"s{first}_bo{buffer.handle}": buffer.memory.view for buffer in self._fresh()})
        for buffer in (self._buffer(memory) for job in jobs for memory in job.writes):
            buffer.known = b""
        for number, entry in enumerate(entries, first):
            self._entries.append({"id": number, "submit": self._submitted, "status": "submitted", **entry})
        self._write_stream()
        self._submitted += 1
        return len(self._entries) - 1

    def _fresh(self) -> Iterator[_Buffer]:
        """The buffers that the host has written and shown to the NPU since the last submit."""
        for buffer in self._used:
            if buffer.shown:
                digest = hashlib.sha256(buffer.memory.view.data).digest()
                if digest != buffer.known:
                    yield buffer
                buffer.known, buffer.shown = digest, False

    def _after(self, last: int, reads: Sequence[Memory]) -> None:
        """Writes what the host may read, and that the jobs are done."""
        buffers = [buffer for buffer in self._used if any(buffer.memory is memory for memory in reads)]
        self._folder.append(OUTPUTS, {f"s{last}_bo{buffer.handle}": buffer.memory.view for buffer in buffers})
        self._close_entries(last, "done")

    def _failed(self, last: int | None, error: DeviceError) -> None:
        """Writes that a submit failed, and how."""
        if last is not None:
            self._attempt(lambda: self._close_entries(last, f"failed: {error}"))

    def _close_entries(self, last: int, status: str) -> None:
        for entry in self._entries:
            if entry["submit"] == self._entries[last]["submit"]:
                entry["status"] = status
        self._write_stream()

    # --- What a job is in a capture ---

    def _rocket_job(self, job: DeviceJob) -> dict[str, Any]:
        """A job of the mainline driver; ``chains`` is for those who replay it on the vendor's."""
        return {
            "in_bos": [self._buffer(memory).handle for memory in job.reads],
            "out_bos": [self._buffer(memory).handle for memory in job.writes],
            "chains": [[chain.start, len(chain)] for chain in job.chains],
            "tasks": [self._task(job, task) for task in job.tasks],
        }

    def _rknpu_submits(self, job: DeviceJob) -> Iterator[dict[str, Any]]:
        """The submits of a job, one for each chain. Which core the driver takes is not known here."""
        for memory in (*job.reads, *job.writes):
            self._buffer(memory)
        for chain in job.chains:
            yield {
                "flags": vendor.PC | vendor.PINGPONG,
                "timeout": vendor.TIMEOUT,
                "task_start": chain.start,
                "task_number": len(chain),
                "core_mask": 1,
                "subcore_task": [[0, len(chain)], *([[0, 0]] * 4)],
                "tasks": [self._record(job, job.tasks[number], number) for number in chain],
            }

    def _record(self, job: DeviceJob, task: DeviceTask, number: int) -> dict[str, Any]:
        """A task record as the driver makes it."""
        entry = self._task(job, task)
        fired = int(entry["words"][-1][2], 16)
        return {
            **entry,
            "flags": 0,
            "op_idx": number,
            "enable_mask": fired,
            "int_mask": vendor.interrupts(fired),
            "int_clear": vendor.INT_CLEAR,
            "regcfg_amount": task.count - vendor.TAIL_WORDS,
            "regcfg_offset": 0,
        }

    def _task(self, job: DeviceJob, task: DeviceTask) -> dict[str, Any]:
        """A command stream: where it lies, and its words."""
        space = self._space(job)
        buffer = self._holder(task.address, space)
        if buffer is None:
            raise DeviceError(f"the stream at {task.address:#x} is in no memory of the device")
        first = task.address - buffer.memory.address
        words = buffer.memory.view[first : first + WORD_BYTES * task.count].copy().view("<u8")
        listed = [self._word(word, space) for word in words.tolist()]
        return {"regcmd": [self._known(buffer).handle, first], "count": task.count, "words": listed}

    def _word(self, word: int, space: int) -> list[Any]:
        """A word; one that is an address with the buffer and the place in it."""
        target, offset, value = split(word)
        name = TARGET_NAMES.get(target, f"{target:04x}")
        if is_address(target, offset):
            buffer = self._holder(value, space)
            if buffer is not None:
                inside = value - buffer.memory.address
                moved = self._known(buffer).address + inside
                return [name, f"{offset:04x}", f"{moved:08x}", [buffer.handle, inside]]
        return [name, f"{offset:04x}", f"{value:08x}"]

    def _space(self, job: DeviceJob) -> int:
        """The address space of a job, which has one."""
        spaces = [
            buffer.space for buffer in self._buffers if any(buffer.memory is m for m in (*job.writes, *job.reads))
        ]
        return spaces[0] if spaces else 0

    def _holder(self, address: int, space: int) -> _Buffer | None:
        """The buffer in which an address of the device lies."""
        return next((buffer for buffer in self._buffers if buffer.holds(address, space)), None)

    def _buffer(self, memory: Memory) -> _Buffer:
        """Memory of a job."""
        for buffer in self._buffers:
            if buffer.memory is memory:
                return self._known(buffer)
        raise DeviceError(f"memory at {memory.address:#x} is not allocated on this device")

    def _known(self, buffer: _Buffer) -> _Buffer:
        """A buffer that has a handle, and an address that no other has: several spaces have the same ones."""
        if not buffer.handle:
            buffer.address = buffer.memory.address
            ends = [(other.address, other.address + other.pages) for other in self._used]
            if any(first < buffer.address + buffer.pages and buffer.address < end for first, end in ends):
                buffer.address = max(end for _, end in ends)
            if buffer.address + buffer.pages > ADDRESS_LIMIT:
                raise DeviceError("the buffers of a capture would not fit into 32 bits of addresses")
            self._used.append(buffer)
            buffer.handle = len(self._used)
        return buffer

    def _write_stream(self) -> None:
        """Writes everything but the arrays."""
        buffers = []
        for buffer in self._used:
            entry: dict[str, Any] = {
                "bo": buffer.handle,
                "size": len(buffer.memory.view),
                "iova": f"{buffer.address:08x}",
            }
            if buffer.address != buffer.memory.address:
                entry |= {"device_iova": f"{buffer.memory.address:08x}", "fd": buffer.space}
            buffers.append(entry)
        data = {"uapi": self.kernel, "recorder": self._facts, "bos": buffers, "submits": self._entries}
        self._folder.write_stream(data)


def describe(device: Device) -> dict[str, Any]:
    """Where and when a capture is made."""
    node = getattr(device, "node", None)
    system = os.uname()
    return {
        "recorded": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": importlib.metadata.version("teflon-rknpu"),
        "device": device.name,
        "driver": f"{node.path} {node.driver} {node.version}" if node is not None else None,
        "kernel": f"{system.sysname} {system.release}",
        "machine": system.machine,
    }


def is_address(target: int, offset: int) -> bool:
    """Whether a register holds an I/O address."""
    try:
        return lookup(target, offset).address
    except RegisterError:
        return False
