"""The simulator as a Device: memory, a kernel's queue of jobs, and up to three simulated cores (F-105).

I/O addresses ascend from 0 in whole pages like the mainline driver's (S-201), with an unmapped page after each buffer
so that an access past its end is seen.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from delegate.errors import DeviceError, SimulatorError
from delegate.hw.device import KERNELS, DeviceJob, Kernel, Memory, check_job, check_process
from delegate.hw.sim.machine import Machine
from delegate.hw.sim.memory import AddressSpace
from delegate.hw.sim.options import Options
from delegate.hw.soc import ADDRESS_LIMIT, FORMS, RK3588, Soc

LARGEST_CORES = 3


@dataclass(eq=False)
class _Queued:
    """A submitted job: what it must wait for, and how it ended."""

    job: DeviceJob
    after: tuple[_Queued, ...]
    done: threading.Event = field(default_factory=threading.Event)
    error: SimulatorError | None = None


@dataclass(frozen=True, eq=False)
class Ticket:
    """The jobs of one submit."""

    jobs: tuple[_Queued, ...]


class Simulator:
    """A Device whose NPU is simulated; see delegate.hw.device.Device.

    ``cores`` jobs run at once, each on a core with its own registers. ``kernel`` says how tasks are started: "rocket"
    starts every task by itself (mainline) and never hears of the end of a pooling task, so that it is an error there;
    "rknpu" hands each range of DeviceJob.chains to PC as one chain.
    """

    name = "simulator"
    forms = frozenset(FORMS)  # it computes what the hardware book believes of them

    def __init__(
        self, cores: int = 1, kernel: Kernel = "rocket", soc: Soc = RK3588, options: Options | None = None
    ) -> None:
        if not 1 <= cores <= LARGEST_CORES:
            raise DeviceError(f"simulator with {cores} cores: 1 to {LARGEST_CORES}")
        if kernel not in KERNELS:
            raise DeviceError(f"simulator with kernel {kernel!r}: {' or '.join(KERNELS)}")
        self.soc = soc
        self.kernel = kernel
        told = {"signalled": True, "silent": False}
        asked = options.pooling_interrupt if options else None
        self.signals_pooling = told.get(asked or "", kernel == "rknpu")  # S-137, S-196
        self.memory = AddressSpace()
        self.machines = tuple(
            Machine(self.memory, soc, options, signals_pooling=self.signals_pooling) for _ in range(cores)
        )
        self._process = os.getpid()
        self._lock = threading.Condition()
        self._queue: list[_Queued] = []
        self._fences: dict[int, list[tuple[_Queued, bool]]] = {}  # buffer address: jobs that use it, writing or not
        self._workers: list[threading.Thread] = []
        self._closed = False

    @property
    def warnings(self) -> dict[str, int]:
        """What silicon tolerates but programs should not do, with how often it was met."""
        return {text: count for machine in self.machines for text, count in machine.warnings.items()}

    def spaces(self, count: int) -> tuple[int, ...]:
        """All cores see one address space."""
        return (0,) * count

    def allocate(self, size: int, space: int = 0) -> Memory:
        """Memory of ``size`` bytes, zeroed, at the lowest free address; raises DeviceError when there is none left."""
        if size <= 0:
            raise DeviceError(f"buffer of {size} bytes: at least 1")
        page = self.soc.page_bytes
        rounded = -(-size // page) * page
        with self._lock:
            self._check_open()
            address = 0
            for region in self.memory.regions:
                if address + rounded + page <= region.address:
                    break
                address = region.end + page
            if address + rounded > ADDRESS_LIMIT:
                raise DeviceError(f"buffer of {size} bytes: no room left in {ADDRESS_LIMIT:#x} bytes of I/O addresses")
            try:
                view = np.zeros(rounded, np.uint8)
            except MemoryError:
                raise DeviceError(f"buffer of {size} bytes: out of memory") from None
            self.memory.map(address, view)
        return Memory(address, view[:size])

    def flush(self, memory: Memory) -> None:
        """There are no caches between host and cores."""

    def free(self, memory: Memory) -> None:
        """Gives memory back after the jobs that use it; raises DeviceError for memory that is not allocated."""
        if os.getpid() != self._process:
            return  # it is the parent's
        with self._lock:
            users = [job for job, _ in self._fences.pop(memory.address, [])]
        for job in users:
            job.done.wait()
        with self._lock:
            if not any(region.address == memory.address for region in self.memory.regions):
                raise DeviceError(f"buffer {memory.address:#x} is not allocated")
            self.memory.unmap(memory.address)

    def submit(self, jobs: Sequence[DeviceJob]) -> object:
        """Queues the jobs in order; raises DeviceError for a job that the kernel would drop or reject."""
        for index, job in enumerate(jobs):
            check_job(job, index)
        with self._lock:
            self._check_open()
            queued = self._enqueue_all(jobs)
            while len(self._workers) < min(len(self.machines), len(self._queue)):
                machine = self.machines[len(self._workers)]
                worker = threading.Thread(target=self._work, args=(machine,), daemon=True, name="npu core")
                self._workers.append(worker)
                worker.start()
            self._lock.notify_all()
        return Ticket(queued)

    def _enqueue_all(self, jobs: Sequence[DeviceJob]) -> tuple[_Queued, ...]:
        """Adds jobs; those of the vendor's submit have no fences among each other."""
        queued: list[_Queued] = []
        for job in jobs:
            queued.append(self._enqueue(job, queued if self.kernel == "rknpu" else ()))
        return tuple(queued)

    def _enqueue(self, job: DeviceJob, together: Sequence[_Queued]) -> _Queued:
        """Adds a job with its fences: readers wait for writers, writers for everybody (uapi.md A.2).

        ``together``: jobs that start with it, for which it does not wait.
        """
        after: list[_Queued] = []
        for memory in job.reads:
            after += [other for other, writes in self._fences.get(memory.address, ()) if writes]
        for memory in job.writes:
            after += [other for other, _ in self._fences.get(memory.address, ())]
        waits = (other for other in dict.fromkeys(after) if other not in together and not other.done.is_set())
        queued = _Queued(job, tuple(waits))
        for memories, writes in ((job.reads, False), (job.writes, True)):
            for memory in memories:
                users = [use for use in self._fences.get(memory.address, []) if not use[0].done.is_set()]
                self._fences[memory.address] = [*users, (queued, writes)]
        self._queue.append(queued)
        return queued

    def wait(self, ticket: object, timeout: float, reads: Sequence[Memory] = ()) -> None:
        """Returns when the jobs of a ticket are done; raises the first error, DeviceError after ``timeout`` seconds."""
        if not isinstance(ticket, Ticket):
            raise DeviceError(f"{ticket!r} is no ticket of this device")
        deadline = time.monotonic() + timeout
        for queued in ticket.jobs:
            if not queued.done.wait(max(0.0, deadline - time.monotonic())):
                raise DeviceError(f"jobs are not done after {timeout} s")
        for queued in ticket.jobs:
            if queued.error is not None:
                raise queued.error

    def reset(self) -> None:
        """A core is reset after each job that fails."""

    def close(self) -> None:
        """Ends the cores after the jobs that are queued, and gives all memory back."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        for worker in self._workers:
            worker.join()
        for region in self.memory.regions:
            self.memory.unmap(region.address)

    def _check_open(self) -> None:
        check_process(self._process, self.name)
        if self._closed:
            raise DeviceError("the simulator is closed")

    def _work(self, machine: Machine) -> None:
        """A core: takes the first job whose fences are signalled."""
        while True:
            with self._lock:
                queued = self._next()
                while queued is None:
                    if self._closed and not self._queue:
                        return
                    self._lock.wait()
                    queued = self._next()
            try:
                self._run(machine, queued.job)
            except SimulatorError as error:
                queued.error = error
                machine.reset()  # as the kernel does after its watchdog
            except Exception as error:  # a bug of the simulator must not hang the host
                queued.error = SimulatorError(f"the simulator failed: {type(error).__name__}: {error}")
                queued.error.__cause__ = error
                machine.reset()
            finally:
                with self._lock:
                    queued.done.set()
                    self._lock.notify_all()

    def _next(self) -> _Queued | None:
        for index, queued in enumerate(self._queue):
            if all(other.done.is_set() for other in queued.after):
                return self._queue.pop(index)
        return None

    def _run(self, machine: Machine, job: DeviceJob) -> None:
        machine.begin_job()
        if self.kernel == "rocket":
            for task in job.tasks:
                machine.run_chain(task.address, task.count, 1)
            return
        for chain in job.chains:
            first = job.tasks[chain.start]
            machine.run_chain(first.address, first.count, len(chain))
