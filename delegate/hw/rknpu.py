"""The vendor kernel's driver `rknpu`: a DRM node, or /dev/rknpu where it was built without DRM (uapi.md B).

A submit takes a range of a task array for each of its cores and hands it to PC as one chain; it returns when the chains
of all cores have run. The jobs of a call start together so, a submit for each of their chains, from a thread. Calls get
cores in the order in which they came. All processes share one address space (S-208).
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from delegate.errors import DeviceError
from delegate.hw import drm
from delegate.hw import rknpu_interface as interface
from delegate.hw.device import DeviceJob, DeviceTask, Kernel, Memory, check_job, check_process, find
from delegate.hw.regcmd import parse_word
from delegate.hw.soc import ADDRESS_LIMIT
from delegate.hw.task import Bytes
from delegate.hw.turns import Turn, Turns


@dataclass(frozen=True, eq=False)
class Allocation(Memory):
    """Memory of this driver; the mapping goes with the last view of it."""

    handle: int
    object_address: int


@dataclass(frozen=True, eq=False)
class Prepared:
    """The jobs of a call with their task array, the tasks of one behind those of the other."""

    source: tuple[DeviceJob, ...]
    array: Allocation
    uses: frozenset[Allocation]

    @property
    def steps(self) -> Iterator[tuple[range, ...]]:
        """What the submits start: of each job the first chain, the second, and so on, as ranges of the task array."""
        starts = itertools.accumulate((len(job.tasks) for job in self.source), initial=0)
        chains = [
            [range(start + chain.start, start + chain.stop) for chain in job.chains]
            for start, job in zip(starts, self.source, strict=False)
        ]
        return (tuple(filter(None, step)) for step in itertools.zip_longest(*chains))


class Rknpu:
    """A Device; see delegate.hw.device.Device."""

    name = "rknpu"
    kernel: Kernel = "rknpu"
    forms: frozenset[str] = frozenset()
    signals_pooling = True  # the mask is the last task's (uapi.md B)

    def __init__(self, cores: int = 1) -> None:
        with ExitStack() as opened:
            self._file, self.node = drm.open_node("rknpu", interface.NODES, interface.identify, interface.ABSENT)
            opened.callback(os.close, self._file)
            self._misc = str(self.node.path) == interface.MISC_NODE
            self.version = interface.action(self._file, interface.GET_DRV_VERSION, self._misc)
            behind_iommu = interface.action(self._file, interface.GET_IOMMU_EN, self._misc)
            self._flags = (
                interface.CACHEABLE
                | interface.ZEROING
                | (interface.IOMMU | interface.NON_CONTIGUOUS if behind_iommu else 0)
            )
            self._executor = futures.ThreadPoolExecutor(cores, "npu core")
            self._opened = opened.pop_all()
        self._cores = Turns(cores)
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._allocations: set[Allocation] = set()
        self._prepared: dict[tuple[int, ...], Prepared] = {}  # by id() of the jobs, which are kept alive by it
        self._running: dict[futures.Future[None], frozenset[Allocation]] = {}
        self._closed = False

    def spaces(self, count: int) -> tuple[int, ...]:
        """There is one address space."""
        return (0,) * count

    @property
    def frequency(self) -> int:
        """The NPU's clock in Hz; raises DeviceError."""
        return interface.action(self._file, interface.GET_FREQ, self._misc)

    def allocate(self, size: int, space: int = 0) -> Allocation:
        """Memory of ``size`` bytes, zeroed; raises DeviceError when there is none left, or no I/O addresses."""
        return self._allocate(size, self._flags)

    def _allocate(self, size: int, flags: int) -> Allocation:
        if not 0 < size < ADDRESS_LIMIT:
            raise DeviceError(f"buffer of {size} bytes: 1 to {ADDRESS_LIMIT - 1}")
        self._check_open()
        structure = interface.MemCreateDomain if self.version >= interface.MEM_CREATE_GREW else interface.MemCreate
        created = structure(flags=flags, size=size)
        drm.call(self._file, interface.request(structure, self._misc), created)
        try:
            if created.dma_addr + size > ADDRESS_LIMIT:
                raise DeviceError(f"buffer of {size} bytes: its I/O address {created.dma_addr:#x} is beyond 32 bits")
            view = self._map(created.handle, size)
        except BaseException:
            with suppress(DeviceError):  # the first error counts
                self._destroy(created.handle, created.obj_addr)
            raise
        allocation = Allocation(created.dma_addr, view, created.handle, created.obj_addr)
        with self._lock:
            self._allocations.add(allocation)
        return allocation

    def _map(self, handle: int, size: int) -> Bytes:
        """The host's view of memory; without DRM its handle is a file (a dma-buf)."""
        file, offset = handle, 0
        if not self._misc:
            argument = interface.MemMap(handle=handle)
            drm.call(self._file, interface.request(interface.MemMap), argument)
            file, offset = self._file, argument.offset
        return drm.map_memory(file, size, offset)

    def _destroy(self, handle: int, object_address: int) -> None:
        with ExitStack() as closing:
            if self._misc:
                closing.callback(os.close, handle)
            argument = interface.MemDestroy(handle=handle, obj_addr=object_address)
            drm.call(self._file, interface.request(interface.MemDestroy, self._misc), argument)

    def flush(self, memory: Memory) -> None:
        """Shows the NPU what the host wrote."""
        self._sync(self._own(memory), interface.TO_DEVICE)

    def _sync(self, allocation: Allocation, direction: int) -> None:
        argument = interface.MemSync(flags=direction, obj_addr=allocation.object_address, size=len(allocation.view))
        drm.call(self._file, interface.request(interface.MemSync, self._misc), argument)

    def free(self, memory: Memory) -> None:
        """Gives memory back, after the jobs that use it, and the task arrays of those."""
        if os.getpid() != self._process:
            return  # it is the parent's
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
        drm.take_all([partial(self._destroy, one.handle, one.object_address) for one in doomed])

    def submit(self, jobs: Sequence[DeviceJob]) -> object:
        """Queues the jobs, each for a core of its own; raises DeviceError for what the kernel would refuse."""
        self._check_open()
        prepared = self._prepare(tuple(jobs))
        with self._lock:
            future = self._executor.submit(self._run, prepared, self._cores.enter(len(jobs)))
            self._running[future] = prepared.uses
        future.add_done_callback(self._forget)
        return future

    def _forget(self, future: futures.Future[None]) -> None:
        with self._lock:
            self._running.pop(future, None)

    def _run(self, prepared: Prepared, turn: Turn) -> None:
        with turn as cores:
            for step in prepared.steps:
                self._submit(prepared.array, dict(zip(cores, step, strict=False)))

    def _submit(self, array: Allocation, ranges: Mapping[int, range]) -> None:
        """Runs ranges of a task array, each as a chain on its core; raises DeviceError unless all has run."""
        argument = interface.Submit(
            flags=interface.PC | interface.PINGPONG,
            timeout=interface.TIMEOUT,
            task_start=min(tasks.start for tasks in ranges.values()),
            task_number=sum(map(len, ranges.values())),
            task_obj_addr=array.object_address,
            core_mask=sum(1 << core for core in ranges),
            fence_fd=-1,
            subcore_task=interface.subcores(ranges),
        )
        drm.call(self._file, interface.request(interface.Submit, self._misc), argument)
        if argument.task_counter != argument.task_number:
            raise DeviceError(f"the NPU ran {argument.task_counter} of {argument.task_number} tasks, and said no more")

    def wait(self, ticket: object, timeout: float, reads: Sequence[Memory] = ()) -> None:
        """Returns when the jobs of a ticket are done and ``reads`` are shown to the host, no others."""
        if not isinstance(ticket, futures.Future):
            raise DeviceError(f"{ticket!r} is no ticket of this device")
        allocations = [self._own(memory) for memory in reads]
        if not futures.wait([ticket], timeout).done:
            raise DeviceError(f"jobs are not done after {timeout} s")
        try:
            ticket.result()
        finally:
            del ticket  # an error holds this frame: it would keep memory mapped until Python looks for cycles
        for allocation in allocations:
            self._sync(allocation, interface.FROM_DEVICE)

    def reset(self) -> None:
        """Resets all cores, so that jobs of this process that run are waited for; other processes' are not known."""
        with self._lock:
            running = list(self._running)
        futures.wait(running)
        interface.action(self._file, interface.RESET, self._misc)

    def close(self) -> None:
        """Gives everything back after the jobs that run."""
        self._closed = True
        if os.getpid() != self._process:
            self._opened.close()
            return  # the threads and the memory are the parent's
        self._executor.shutdown()
        with self._lock:
            allocations, self._allocations = self._allocations, set()
            self._prepared.clear()
        with self._opened:
            drm.take_all([partial(self._destroy, one.handle, one.object_address) for one in allocations])

    def _check_open(self) -> None:
        check_process(self._process, self.name)
        if self._closed:
            raise DeviceError("device rknpu is closed")

    def _own(self, memory: Memory) -> Allocation:
        """Memory as this driver's; raises DeviceError for what is not, or not any more."""
        check_process(self._process, self.name)
        if isinstance(memory, Allocation):
            with self._lock:
                if memory in self._allocations:
                    return memory
        raise DeviceError(f"memory at {memory.address:#x} is not allocated on this device")

    def _prepare(self, jobs: tuple[DeviceJob, ...]) -> Prepared:
        """Jobs with their task array, made once; raises DeviceError for what the kernel would not run as meant."""
        key = tuple(id(job) for job in jobs)
        prepared = self._prepared.get(key)
        if prepared is not None:
            return prepared
        for index, job in enumerate(jobs):
            check_job(job, index)
        listed = [self._own(memory) for job in jobs for memory in (*job.reads, *job.writes)]
        with self._lock:
            allocations = tuple(self._allocations)
        entries: list[interface.Task] = []
        streams: set[Allocation] = set()
        for index, job in enumerate(jobs):
            for task in job.tasks:
                stream, entry = task_entry(allocations, task, f"job {index}", len(entries))
                streams.add(stream)
                entries.append(entry)
        tasks = (interface.Task * len(entries))(*entries)
        array = self._allocate(ctypes.sizeof(tasks), self._flags | interface.KERNEL_MAPPING)
        array.view[:] = np.frombuffer(bytes(tasks), np.uint8)
        self._sync(array, interface.TO_DEVICE)
        prepared = Prepared(jobs, array, frozenset((*listed, *streams)))
        with self._lock:
            self._prepared[key] = prepared
        return prepared


def task_entry(
    allocations: Sequence[Allocation], task: DeviceTask, job: str, number: int
) -> tuple[Allocation, interface.Task]:
    """(where a task's stream lies, its entry of a task array); raises DeviceError for a stream that makes no sense."""
    if task.count <= interface.TAIL_WORDS:
        raise DeviceError(f"{job}: a stream of {task.count} words has nothing before its tail")
    size = interface.WORD_BYTES * task.count
    stream = find(allocations, task.address, size, f"{job}: a stream")
    end = task.address + size - stream.address
    fire = parse_word(int.from_bytes(stream.view[end - interface.WORD_BYTES : end].tobytes(), "little"))
    if fire.kind != "fire":
        raise DeviceError(f"{job}: the stream at {task.address:#x} does not end with a fire word")
    return stream, interface.Task(
        op_idx=number,
        enable_mask=fire.value,
        int_mask=interface.interrupts(fire.value),
        int_clear=interface.INT_CLEAR,
        regcfg_amount=task.count - interface.TAIL_WORDS,
        regcmd_addr=task.address,
    )
