"""The vendor kernel's driver `rknpu`: a DRM node, or /dev/rknpu where it was built without DRM (uapi.md B).

A submit takes a range of a task array and hands it to PC as one chain; it returns when the chain has run. Jobs are
therefore submitted from threads, one a core. All processes share one address space (S-208).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent import futures
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from delegate.errors import DeviceError
from delegate.hw import drm
from delegate.hw.device import DeviceJob, Memory, check_job, find
from delegate.hw.drm import COMMAND_BASE, DRM, Request, s32, s64, u32, u64
from delegate.hw.regcmd import fire_names, parse_word

MISC_NODE = "/dev/rknpu"
NODES = ("/dev/dri/renderD*", "/dev/dri/card*", MISC_NODE)
MISC = ord("r")  # magic of the ioctls of MISC_NODE
ABSENT = (
    "check that the board is an RK3588 with the vendor's kernel (5.10 or 6.1), that it has CONFIG_ROCKCHIP_RKNPU, and "
    'that the device tree enables the NPU (compatible "rockchip,rk3588-rknpu", status "okay")'
)
WORD_BYTES = 8
TAIL_WORDS = 4  # of a stream, which regcfg_amount does not count
TIMEOUT = 6000  # ms for a chain, as the vendor's own users give; the kernel resets the NPU after it
INT_CLEAR = 0x1FFFF
DPU_DONE, PPU_DONE = 0x300, 0xC00  # interrupt bits, both groups
MEM_CREATE_GREW = 906  # driver version, of 0.9.6, from which mem_create has 48 bytes

# Flags of memory.
NON_CONTIGUOUS, CACHEABLE, KERNEL_MAPPING, IOMMU, ZEROING = 0x1, 0x2, 0x8, 0x10, 0x20
# Flags of a submit.
PC, PINGPONG = 0x1, 0x4
TO_DEVICE, FROM_DEVICE = 1, 2
GET_HW_VERSION, GET_DRV_VERSION, GET_FREQ, GET_IOMMU_EN = 0, 1, 2, 18


class Action(ctypes.Structure):
    """rknpu_action."""

    _fields_ = [("flags", u32), ("value", u32)]


class MemCreate(ctypes.Structure):
    """rknpu_mem_create of drivers before MEM_CREATE_GREW."""

    _fields_ = [
        ("handle", u32),  # out; of MISC_NODE a file descriptor
        ("flags", u32),
        ("size", u64),  # bytes
        ("obj_addr", u64),  # out; names the memory in other requests
        ("dma_addr", u64),  # out
        ("sram_size", u64),
    ]


class MemCreateDomain(ctypes.Structure):
    """rknpu_mem_create since."""

    _fields_ = [*MemCreate._fields_, ("iommu_domain_id", s32), ("core_mask", u32)]


class MemMap(ctypes.Structure):
    """rknpu_mem_map."""

    _fields_ = [("handle", u32), ("reserved", u32), ("offset", u64)]


class MemDestroy(ctypes.Structure):
    """rknpu_mem_destroy."""

    _fields_ = [("handle", u32), ("reserved", u32), ("obj_addr", u64)]


class MemSync(ctypes.Structure):
    """rknpu_mem_sync."""

    _fields_ = [
        ("flags", u32),
        ("reserved", u32),
        ("obj_addr", u64),
        ("offset", u64),  # bytes
        ("size", u64),  # bytes
    ]


class Range(ctypes.Structure):
    """rknpu_subcore_task: a range of the task array."""

    _fields_ = [("task_start", u32), ("task_number", u32)]


class Submit(ctypes.Structure):
    """rknpu_submit."""

    _fields_ = [
        ("flags", u32),
        ("timeout", u32),  # ms
        ("task_start", u32),
        ("task_number", u32),
        ("task_counter", u32),  # out
        ("priority", s32),
        ("task_obj_addr", u64),
        ("iommu_domain_id", u32),  # with the next: regcfg_obj_addr of old drivers
        ("reserved", u32),
        ("task_base_addr", u64),
        ("hw_elapse_time", s64),  # ns, out
        ("core_mask", u32),
        ("fence_fd", s32),
        ("subcore_task", Range * 5),
    ]


class Task(ctypes.Structure):
    """rknpu_task, packed."""

    _pack_ = 1
    _fields_ = [
        ("flags", u32),
        ("op_idx", u32),
        ("enable_mask", u32),  # what the stream fires
        ("int_mask", u32),
        ("int_clear", u32),
        ("int_status", u32),  # out
        ("regcfg_amount", u32),  # words without the tail
        ("regcfg_offset", u32),
        ("regcmd_addr", u64),
    ]


MEM_CREATE_OFFSETS = (0, 4, 8, 16, 24, 32)
drm.check_layout(Action, 8, (0, 4))
drm.check_layout(MemCreate, 40, MEM_CREATE_OFFSETS)
drm.check_layout(MemMap, 16, (0, 4, 8))
drm.check_layout(MemDestroy, 16, (0, 4, 8))
drm.check_layout(MemSync, 32, (0, 4, 8, 16, 24))
drm.check_layout(Range, 8, (0, 4))
drm.check_layout(MemCreateDomain, 48, (*MEM_CREATE_OFFSETS, 40, 44))
drm.check_layout(Submit, 104, (0, 4, 8, 12, 16, 20, 24, 32, 36, 40, 48, 56, 60, 64))
drm.check_layout(Task, 40, (0, 4, 8, 12, 16, 20, 24, 28, 32))

STRUCTURES: Mapping[type[ctypes.Structure], tuple[str, int]] = {
    Action: ("ACTION", 0),
    Submit: ("SUBMIT", 1),
    MemCreate: ("MEM_CREATE", 2),
    MemCreateDomain: ("MEM_CREATE", 2),
    MemMap: ("MEM_MAP", 3),
    MemDestroy: ("MEM_DESTROY", 4),
    MemSync: ("MEM_SYNC", 5),
}


def request(structure: type[ctypes.Structure], misc: bool = False) -> Request:
    """The request that takes a structure, on a DRM node or on MISC_NODE."""
    name, number = STRUCTURES[structure]
    magic, base, prefix = (MISC, 0, "IOCTL") if misc else (DRM, COMMAND_BASE, "DRM_IOCTL")
    return Request(f"{prefix}_RKNPU_{name}", drm.code("rw", magic, base + number, ctypes.sizeof(structure)))


def action(file: int, what: int, misc: bool = False) -> int:
    """What an ACTION says; raises DeviceError."""
    argument = Action(flags=what)
    drm.call(file, request(Action, misc), argument)
    return int(argument.value)


def identify(file: int, path: Path) -> tuple[str, str]:
    """(driver's name, version) of a node; MISC_NODE can be no other driver's. Raises DeviceError."""
    if str(path) != MISC_NODE:
        return drm.read_version(file)
    version = action(file, GET_DRV_VERSION, misc=True)
    return "rknpu", f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def subcores(ranges: Mapping[int, range]) -> ctypes.Array[Range]:
    """The ranges of the cores as a submit takes them: three cores have theirs in the last three places (S-104, S-208).

    ``ranges``: of the task array, by core.
    """
    first = 2 if len(ranges) == 3 else 0
    result = (Range * 5)()
    for core, tasks in ranges.items():
        result[first + core] = Range(tasks.start, len(tasks))
    return result


def interrupts(fired: int) -> int:
    """The interrupt that ends a task, by the bitmap of blocks that it fires: the last block in line has the word."""
    names = fire_names(fired)
    if "PPU" in names:
        return PPU_DONE
    if "DPU" in names:
        return DPU_DONE
    raise DeviceError(f"a task fires {'|'.join(names) or 'nothing'}: without DPU or PPU no interrupt ends it")


@dataclass(frozen=True, eq=False)
class Allocation(Memory):
    """Memory of this driver; the mapping goes with the last view of it."""

    handle: int
    object_address: int


@dataclass(frozen=True, eq=False)
class Prepared:
    """A job with its task array."""

    source: DeviceJob
    array: Allocation
    uses: frozenset[Allocation]


class Rknpu:
    """A Device; see delegate.hw.device.Device."""

    name = "rknpu"
    forms: frozenset[str] = frozenset()
    signals_pooling = True  # the mask is the last task's (uapi.md B)

    def __init__(self, cores: int = 1) -> None:
        with ExitStack() as opened:
            self._file, self.node = drm.open_node("rknpu", NODES, identify, ABSENT)
            opened.callback(os.close, self._file)
            self._misc = str(self.node.path) == MISC_NODE
            self.version = action(self._file, GET_DRV_VERSION, self._misc)
            behind_iommu = action(self._file, GET_IOMMU_EN, self._misc)
            self._flags = CACHEABLE | ZEROING | (IOMMU | NON_CONTIGUOUS if behind_iommu else 0)
            self._executor = futures.ThreadPoolExecutor(cores, "npu core")
            self._opened = opened.pop_all()
        self._cores: queue.SimpleQueue[int] = queue.SimpleQueue()  # those that have no job
        for core in range(cores):
            self._cores.put(core)
        self._lock = threading.Lock()
        self._allocations: set[Allocation] = set()
        self._prepared: dict[int, Prepared] = {}  # by id() of the job, which is kept alive by it
        self._running: dict[futures.Future[None], frozenset[Allocation]] = {}
        self._closed = False

    def space(self) -> int:
        """There is one address space."""
        return 0

    @property
    def frequency(self) -> int:
        """The NPU's clock in Hz; raises DeviceError."""
        return action(self._file, GET_FREQ, self._misc)

    def allocate(self, size: int, space: int = 0) -> Allocation:
        """Memory of ``size`` bytes, zeroed; raises DeviceError when there is none left, or no I/O addresses."""
        return self._allocate(size, self._flags)

    def _allocate(self, size: int, flags: int) -> Allocation:
        if not 0 < size < drm.ADDRESS_LIMIT:
            raise DeviceError(f"buffer of {size} bytes: 1 to {drm.ADDRESS_LIMIT - 1}")
        self._check_open()
        structure = MemCreateDomain if self.version >= MEM_CREATE_GREW else MemCreate
        created = structure(flags=flags, size=size)
        drm.call(self._file, request(structure, self._misc), created)
        with ExitStack() as undo:
            undo.callback(self._destroy, created.handle, created.obj_addr)
            if created.dma_addr + size > drm.ADDRESS_LIMIT:
                raise DeviceError(f"buffer of {size} bytes: its I/O address {created.dma_addr:#x} is beyond 32 bits")
            view = np.frombuffer(self._map(created.handle, size), np.uint8)
            allocation = Allocation(created.dma_addr, view, created.handle, created.obj_addr)
            with self._lock:
                self._allocations.add(allocation)
            undo.pop_all()
        return allocation

    def _map(self, handle: int, size: int) -> mmap.mmap:
        """The host's view of memory; without DRM its handle is a file (a dma-buf)."""
        file, offset = handle, 0
        if not self._misc:
            argument = MemMap(handle=handle)
            drm.call(self._file, request(MemMap), argument)
            file, offset = self._file, argument.offset
        try:
            return mmap.mmap(file, size, offset=offset)
        except OSError as error:
            raise drm.failure(error, f"mmap of a buffer of {size} bytes") from None

    def _destroy(self, handle: int, object_address: int) -> None:
        with ExitStack() as closing:
            if self._misc:
                closing.callback(os.close, handle)
            argument = MemDestroy(handle=handle, obj_addr=object_address)
            drm.call(self._file, request(MemDestroy, self._misc), argument)

    def flush(self, memory: Memory) -> None:
        """Shows the NPU what the host wrote."""
        self._sync(self._own(memory), TO_DEVICE)

    def _sync(self, allocation: Allocation, direction: int) -> None:
        argument = MemSync(flags=direction, obj_addr=allocation.object_address, size=len(allocation.view))
        drm.call(self._file, request(MemSync, self._misc), argument)

    def free(self, memory: Memory) -> None:
        """Gives memory back, after the jobs that use it, and the task arrays of those."""
        allocation = self._own(memory)
        with self._lock:
            running = [future for future, uses in self._running.items() if allocation in uses]
        futures.wait(running)
        with self._lock:
            gone = {key: prepared for key, prepared in self._prepared.items() if allocation in prepared.uses}
            doomed = [allocation, *(prepared.array for prepared in gone.values())]
            self._allocations.difference_update(doomed)
            for key in gone:
                del self._prepared[key]
        with ExitStack() as freeing:
            for one in doomed:
                freeing.callback(self._destroy, one.handle, one.object_address)

    def submit(self, jobs: Sequence[DeviceJob]) -> object:
        """Starts the jobs in order on one core; raises DeviceError for what the kernel would refuse."""
        self._check_open()
        prepared = [self._prepare(job, index) for index, job in enumerate(jobs)]
        uses = frozenset(allocation for one in prepared for allocation in one.uses)
        with self._lock:
            future = self._executor.submit(self._run, prepared)
            self._running[future] = uses
        future.add_done_callback(self._forget)
        return future

    def _forget(self, future: futures.Future[None]) -> None:
        with self._lock:
            self._running.pop(future, None)

    def _run(self, jobs: Sequence[Prepared]) -> None:
        core = self._cores.get()
        try:
            for job in jobs:
                for chain in job.source.chains:
                    self._submit(job.array, {core: chain})
        finally:
            self._cores.put(core)

    def _submit(self, array: Allocation, ranges: Mapping[int, range]) -> None:
        """Runs ranges of a task array, each as a chain on its core; raises DeviceError unless all has run."""
        argument = Submit(
            flags=PC | PINGPONG,
            timeout=TIMEOUT,
            task_start=min(tasks.start for tasks in ranges.values()),
            task_number=sum(map(len, ranges.values())),
            task_obj_addr=array.object_address,
            core_mask=sum(1 << core for core in ranges),
            fence_fd=-1,
            subcore_task=subcores(ranges),
        )
        drm.call(self._file, request(Submit, self._misc), argument)
        if argument.task_counter != argument.task_number:
            raise DeviceError(f"the NPU ran {argument.task_counter} of {argument.task_number} tasks, and said no more")

    def wait(self, ticket: object, timeout: float, reads: Sequence[Memory] = ()) -> None:
        """Returns when the jobs of a ticket are done and ``reads`` are shown to the host, no others."""
        if not isinstance(ticket, futures.Future):
            raise DeviceError(f"{ticket!r} is no ticket of this device")
        allocations = [self._own(memory) for memory in reads]
        done, _ = futures.wait([ticket], timeout)
        if not done:
            raise DeviceError(f"jobs are not done after {timeout} s")
        ticket.result()
        for allocation in allocations:
            self._sync(allocation, FROM_DEVICE)

    def close(self) -> None:
        """Gives everything back after the jobs that run."""
        self._closed = True
        self._executor.shutdown()
        with self._lock:
            allocations, self._allocations = self._allocations, set()
            self._prepared.clear()
        with self._opened as closing:
            for allocation in allocations:
                closing.callback(self._destroy, allocation.handle, allocation.object_address)

    def _check_open(self) -> None:
        if self._closed:
            raise DeviceError("device rknpu is closed")

    def _own(self, memory: Memory) -> Allocation:
        """Memory as this driver's; raises DeviceError for what is not, or not any more."""
        if isinstance(memory, Allocation):
            with self._lock:
                if memory in self._allocations:
                    return memory
        raise DeviceError(f"memory at {memory.address:#x} is not allocated on this device")

    def _prepare(self, job: DeviceJob, index: int) -> Prepared:
        """A job with its task array, made once; raises DeviceError for what the kernel would not run as meant."""
        prepared = self._prepared.get(id(job))
        if prepared is not None:
            return prepared
        check_job(job, index)
        listed = [self._own(memory) for memory in (*job.reads, *job.writes)]
        with self._lock:
            allocations = tuple(self._allocations)
        tasks, streams = (Task * len(job.tasks))(), set()
        for number, task in enumerate(job.tasks):
            if task.count <= TAIL_WORDS:
                raise DeviceError(f"job {index}: a stream of {task.count} words has nothing before its tail")
            size = WORD_BYTES * task.count
            stream = find(allocations, task.address, size, f"job {index}: a stream")
            streams.add(stream)
            end = task.address + size - stream.address
            fire = parse_word(int.from_bytes(stream.view[end - WORD_BYTES : end].tobytes(), "little"))
            if fire.kind != "fire":
                raise DeviceError(f"job {index}: the stream at {task.address:#x} does not end with a fire word")
            tasks[number] = Task(
                op_idx=number,
                enable_mask=fire.value,
                int_mask=interrupts(fire.value),
                int_clear=INT_CLEAR,
                regcfg_amount=task.count - TAIL_WORDS,
                regcmd_addr=task.address,
            )
        array = self._allocate(ctypes.sizeof(tasks), self._flags | KERNEL_MAPPING)
        array.view[:] = np.frombuffer(bytes(tasks), np.uint8)
        self._sync(array, TO_DEVICE)
        prepared = Prepared(job, array, frozenset((*listed, *streams)))
        with self._lock:
            self._prepared[id(job)] = prepared
        return prepared
