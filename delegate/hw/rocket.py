"""The mainline kernel's driver `rocket`: /dev/accel/accelN (uapi.md A).

A file descriptor is an address space and a queue whose jobs run in order, on whichever core is free (S-203): for each
core that may work there is one, and all memory of a job lies in one of them. An inference that is to be split over
cores needs memory in several spaces and one job for each.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial

from delegate.errors import DeviceError
from delegate.hw import drm
from delegate.hw.device import DeviceJob, Kernel, Memory, check_job, check_process, find
from delegate.hw.drm import COMMAND_BASE, DRM, Request, s64, u32, u64
from delegate.hw.soc import ADDRESS_LIMIT

NODES = ("/dev/accel/accel*",)
ABSENT = (
    "check that the board is an RK3588, that the kernel (6.18 or later) has CONFIG_DRM_ACCEL_ROCKET, that the device "
    'tree enables the NPU (compatible "rockchip,rk3588-rknn-core", status "okay"), and: sudo modprobe rocket'
)
WORD_BYTES = 8
LATEST = (1 << 63) - 1  # ns; a deadline beyond would wrap and so be in the past (S-208b)
FREE_TIMEOUT = 10.0  # seconds, for the jobs that still use memory; the watchdog has ended them long before


class CreateBo(ctypes.Structure):
    """drm_rocket_create_bo."""

    _fields_ = [
        ("size", u32),  # bytes
        ("handle", u32),  # out
        ("dma_address", u64),  # out; 0 is an address like any other (S-201)
        ("offset", u64),  # out, for mmap
    ]


class PrepBo(ctypes.Structure):
    """drm_rocket_prep_bo: waits for the jobs that write a buffer, then shows it to the host."""

    _fields_ = [
        ("handle", u32),
        ("reserved", u32),
        ("timeout_ns", s64),  # a time of CLOCK_MONOTONIC, not a span (S-200)
    ]


class FiniBo(ctypes.Structure):
    """drm_rocket_fini_bo: shows a buffer to the NPU."""

    _fields_ = [("handle", u32), ("reserved", u32)]


class Task(ctypes.Structure):
    """drm_rocket_task: a command stream."""

    _fields_ = [("regcmd", u32), ("regcmd_count", u32)]


class Job(ctypes.Structure):
    """drm_rocket_job."""

    _fields_ = [
        ("tasks", u64),
        ("in_bo_handles", u64),
        ("out_bo_handles", u64),
        ("task_count", u32),
        ("task_struct_size", u32),
        ("in_bo_handle_count", u32),
        ("out_bo_handle_count", u32),
    ]


class Submit(ctypes.Structure):
    """drm_rocket_submit."""

    _fields_ = [
        ("jobs", u64),
        ("job_count", u32),
        ("job_struct_size", u32),
        ("reserved", u64),
    ]


drm.check_layout(CreateBo, 24, (0, 4, 8, 16))
drm.check_layout(PrepBo, 16, (0, 4, 8))
drm.check_layout(FiniBo, 8, (0, 4))
drm.check_layout(Task, 8, (0, 4))
drm.check_layout(Job, 40, (0, 8, 16, 24, 28, 32, 36))
drm.check_layout(Submit, 24, (0, 8, 12, 16))


def request(name: str, direction: drm.Direction, number: int, structure: type[ctypes.Structure]) -> Request:
    size = ctypes.sizeof(structure)
    return Request(f"DRM_IOCTL_ROCKET_{name}", drm.code(direction, DRM, COMMAND_BASE + number, size))


CREATE_BO = request("CREATE_BO", "rw", 0, CreateBo)
SUBMIT = request("SUBMIT", "w", 1, Submit)
PREP_BO = request("PREP_BO", "w", 2, PrepBo)
FINI_BO = request("FINI_BO", "w", 3, FiniBo)


@dataclass(frozen=True, eq=False)
class BufferObject(Memory):
    """Memory of this driver; the mapping goes with the last view of it."""

    handle: int
    space: int  # index of the file descriptor that it belongs to


@dataclass(frozen=True, eq=False)
class Prepared:
    """A job as the kernel takes it. The arrays that ``job`` points to are kept."""

    source: DeviceJob
    space: int
    job: Job
    writes: tuple[BufferObject, ...]
    uses: frozenset[BufferObject]
    arrays: tuple[ctypes.Array[Task] | ctypes.Array[ctypes.c_uint32], ...]


@dataclass(frozen=True, eq=False)
class Ticket:
    """The jobs of one submit."""

    jobs: tuple[Prepared, ...]


class Rocket:
    """A Device; see delegate.hw.device.Device."""

    name = "rocket"
    kernel: Kernel = "rocket"
    forms: frozenset[str] = frozenset()
    signals_pooling = False  # its interrupt mask has the DPU's bits only (S-196)

    def __init__(self, cores: int = 1) -> None:
        with ExitStack() as opened:
            self._files = []
            for _ in range(cores):
                file, self.node = drm.open_node("rocket", NODES, drm.identify_drm, ABSENT)
                opened.callback(os.close, file)
                self._files.append(file)
            self._opened = opened.pop_all()
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._buffers: tuple[set[BufferObject], ...] = tuple(set() for _ in self._files)
        self._prepared: dict[int, Prepared] = {}  # by id() of the job, which is kept alive by it
        self._running: set[Ticket] = set()
        self._closed = False

    def spaces(self, count: int) -> tuple[int, ...]:
        """The file descriptors that hold the fewest buffers, so that programs spread over the cores."""
        if count > len(self._files):
            raise DeviceError(f"{count} address spaces on {len(self._files)} cores")
        with self._lock:
            return tuple(sorted(range(len(self._files)), key=lambda space: len(self._buffers[space]))[:count])

    def allocate(self, size: int, space: int = 0) -> BufferObject:
        """Memory of ``size`` bytes, zeroed; raises DeviceError when there is none left, or no I/O addresses."""
        if not 0 < size < ADDRESS_LIMIT:
            raise DeviceError(f"buffer of {size} bytes: 1 to {ADDRESS_LIMIT - 1}")
        self._check_open()
        file = self._files[space]
        created = CreateBo(size=size)
        drm.call(file, CREATE_BO, created)
        try:
            if created.dma_address + size > ADDRESS_LIMIT:
                raise DeviceError(f"buffer of {size} bytes: its I/O address {created.dma_address:#x} is beyond 32 bits")
            view = drm.map_memory(file, size, created.offset)
        except BaseException:
            with suppress(DeviceError):  # the first error counts
                drm.call(file, drm.GEM_CLOSE, drm.Close(handle=created.handle))
            raise
        buffer = BufferObject(created.dma_address, view, created.handle, space)
        with self._lock:
            self._buffers[space].add(buffer)
        return buffer

    def flush(self, memory: Memory) -> None:
        """Shows the NPU what the host wrote; costs as much as the whole buffer is large (S-200)."""
        buffer = self._own(memory)
        drm.call(self._files[buffer.space], FINI_BO, FiniBo(handle=buffer.handle))

    def free(self, memory: Memory) -> None:
        """Gives memory back, after the jobs that use it: the kernel would take it from under them (S-204)."""
        if os.getpid() != self._process:
            return  # it is the parent's
        buffer = self._own(memory)
        with self._lock:
            running = [ticket for ticket in self._running if any(buffer in job.uses for job in ticket.jobs)]
        for ticket in running:
            with suppress(DeviceError):  # a lost device; the buffer goes all the same
                self.wait(ticket, FREE_TIMEOUT)
        with self._lock:
            self._running -= set(running)
            self._buffers[buffer.space].discard(buffer)
            self._prepared = {key: job for key, job in self._prepared.items() if buffer not in job.uses}
        drm.call(self._files[buffer.space], drm.GEM_CLOSE, drm.Close(handle=buffer.handle))

    def submit(self, jobs: Sequence[DeviceJob]) -> object:
        """Queues the jobs; those of one address space in order. Raises DeviceError for what the kernel would drop."""
        self._check_open()
        ticket = Ticket(tuple(self._prepare(job, index) for index, job in enumerate(jobs)))
        for space, file in enumerate(self._files):
            own = [prepared.job for prepared in ticket.jobs if prepared.space == space]
            if own:
                array = (Job * len(own))(*own)
                pointer = ctypes.addressof(array)
                argument = Submit(jobs=pointer, job_count=len(own), job_struct_size=ctypes.sizeof(Job))
                drm.call(file, SUBMIT, argument)
                with self._lock:
                    self._running.add(ticket)
        return ticket

    def wait(self, ticket: object, timeout: float, reads: Sequence[Memory] = ()) -> None:
        """Returns when the jobs of a ticket are done or given up by the kernel, and ``reads`` are shown to the host.

        Only those are synchronized; for a job that writes none of them one more, the smallest that it writes.
        """
        if not isinstance(ticket, Ticket):
            raise DeviceError(f"{ticket!r} is no ticket of this device")
        buffers = dict.fromkeys(self._own(memory) for memory in reads)
        for job in ticket.jobs:
            if not any(buffer in buffers for buffer in job.writes):
                buffers[min(job.writes, key=lambda buffer: len(buffer.view))] = None
        deadline = min(time.monotonic_ns() + int(timeout * 1e9), LATEST)
        for buffer in buffers:
            argument = PrepBo(handle=buffer.handle, timeout_ns=deadline)
            drm.call(self._files[buffer.space], PREP_BO, argument)
        with self._lock:
            self._running.discard(ticket)

    def reset(self) -> None:
        """The kernel offers none; its watchdog resets a core whose job hangs (S-195)."""

    def close(self) -> None:
        """Gives everything back; jobs that run go on to their end, the kernel keeps what they need."""
        with self._lock:
            self._closed = True
            buffers = [buffer for space in self._buffers for buffer in space]
        with self._opened:
            drm.take_all([partial(self.free, buffer) for buffer in buffers])

    def _check_open(self) -> None:
        check_process(self._process, self.name)
        if self._closed:
            raise DeviceError("device rocket is closed")

    def _own(self, memory: Memory) -> BufferObject:
        """Memory as this driver's; raises DeviceError for what is not, or not any more."""
        check_process(self._process, self.name)
        if isinstance(memory, BufferObject) and memory.space < len(self._files):
            with self._lock:
                if memory in self._buffers[memory.space]:
                    return memory
        raise DeviceError(f"memory at {memory.address:#x} is not allocated on this device")

    def _prepare(self, job: DeviceJob, index: int) -> Prepared:
        """A job as the kernel takes it, made once; raises DeviceError for what it would drop, or crash on (S-204)."""
        prepared = self._prepared.get(id(job))
        if prepared is not None:
            return prepared
        check_job(job, index)
        reads, writes = ([self._own(memory) for memory in memories] for memories in (job.reads, job.writes))
        spaces = {buffer.space for buffer in (*reads, *writes)}
        if not writes or len(spaces) != 1:
            raise DeviceError(
                f"job {index} writes {len(writes)} buffers in {len(spaces)} address spaces: at least 1, 1"
            )
        (space,) = spaces
        with self._lock:
            buffers = tuple(self._buffers[space])
        streams = {find(buffers, task.address, WORD_BYTES * task.count, f"job {index}: a stream") for task in job.tasks}
        tasks = (Task * len(job.tasks))(*(Task(task.address, task.count) for task in job.tasks))
        inputs, outputs = ((u32 * len(own))(*(b.handle for b in own)) for own in (reads, writes))
        structure = Job(
            tasks=ctypes.addressof(tasks),
            in_bo_handles=ctypes.addressof(inputs),
            out_bo_handles=ctypes.addressof(outputs),
            task_count=len(tasks),
            task_struct_size=ctypes.sizeof(Task),
            in_bo_handle_count=len(reads),
            out_bo_handle_count=len(writes),
        )
        uses = frozenset((*streams, *reads, *writes))
        prepared = Prepared(job, space, structure, tuple(writes), uses, (tasks, inputs, outputs))
        with self._lock:
            self._prepared[id(job)] = prepared
        return prepared
