"""The one small interface behind which the drivers and the simulator stand."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from delegate.errors import DeviceError
from delegate.hw import capabilities as capability_files
from delegate.hw.task import Bytes


@dataclass(frozen=True, eq=False)
class Memory:
    """Memory that host and NPU share."""

    address: int  # I/O address, below 2**32
    view: Bytes  # the host's view


@dataclass(frozen=True)
class DeviceTask:
    """A command stream in device memory."""

    address: int
    count: int  # 64-bit words, tail included


@dataclass(frozen=True)
class DeviceJob:
    """A Job whose streams lie in memory. Tasks run in order on one core; see task.Job for ``chains``."""

    tasks: tuple[DeviceTask, ...]
    chains: tuple[range, ...]
    reads: tuple[Memory, ...]
    writes: tuple[Memory, ...]


AnyMemory = TypeVar("AnyMemory", bound=Memory)

Kernel = Literal["rocket", "rknpu"]
"""The kernel drivers: mainline's and the vendor's."""


class Device(Protocol):
    """Memory and jobs. All methods may be called from any thread, but not in a child that was forked later."""

    name: str
    forms: frozenset[str]  # forms without proof on silicon that passed their known-answer probe here (hw.soc.FORMS)
    kernel: Kernel  # whose way it has of starting tasks, and of memory
    signals_pooling: bool  # whether the kernel hears of the end of a PPU task; stock mainline does not (S-137, S-196)

    def spaces(self, count: int) -> tuple[int, ...]:
        """The address spaces to take for a program with ``count`` copies of its memory, one for each.

        A job uses memory of one space. Jobs that are to run at the same time on rocket need different ones (S-203);
        ``count`` is at most the number of cores then. Raises DeviceError.
        """

    def allocate(self, size: int, space: int = 0) -> Memory:
        """Memory of ``size`` bytes, zeroed; raises DeviceError when there is none left."""

    def flush(self, memory: Memory) -> None:
        """Shows the NPU what the host wrote; to be called after writing and before submit()."""

    def free(self, memory: Memory) -> None:
        """Gives memory back; it may not be used afterwards."""

    def submit(self, jobs: Sequence[DeviceJob]) -> object:
        """Starts the jobs and returns a ticket for wait().

        The jobs of a call do not depend on each other: they may run at the same time, each on a core of its own. Calls
        are served in order, so that none waits longer than for those before it.
        """

    def wait(self, ticket: object, timeout: float, reads: Sequence[Memory] = ()) -> None:
        """Returns when the jobs of the ticket are done and the host may read ``reads``.

        Raises DeviceError after ``timeout`` seconds or on a fault. No error is no proof that a job has run: mainline
        reports one that its watchdog ended as done (S-195), and drops others silently (S-208c).
        """

    def close(self) -> None:
        """Gives everything back."""


DEVICES = ("auto", "simulator", "rocket", "rknpu")
KERNELS: tuple[Kernel, ...] = ("rocket", "rknpu")


def open_device(name: str, cores: int = 1, kernel: Kernel = "rocket", capabilities: str | None = None) -> Device:
    """Opens a device by name; ``auto`` is open_auto's. ``cores``: how many NPU cores may run jobs (1 to 3).

    ``kernel``: which kernel the simulator plays; a board has the one of its driver. ``capabilities``: the file with
    what is known of the board, by default its own; with one the simulator behaves as that board.
    Raises DeviceError for a name that is not in DEVICES, or a device that is not there; OptionError for a wrong file.
    """
    if name == "auto":
        return open_auto(cores, kernel, capabilities)[0]
    known = capability_files.of_device(name, capabilities) if name in DEVICES else None
    # A device is loaded only where it is wanted.
    if name == "simulator":
        from delegate.hw.sim.device import Simulator
        from delegate.hw.sim.options import switched

        return offering(Simulator(cores, kernel, options=switched(known.verdicts) if known else None), known)
    if name == "rocket":
        from delegate.hw.rocket import Rocket

        return offering(Rocket(cores), known)
    if name == "rknpu":
        from delegate.hw.rknpu import Rknpu

        return offering(Rknpu(cores), known)
    raise DeviceError(f"device {name!r} is unknown; valid devices: {', '.join(DEVICES)}")


def offering(device: Device, known: capability_files.Capabilities | None) -> Device:
    """The device with the forms that its board has passed the probes of, and with pooling tasks only if those work.

    Whether their end is heard of is the affair of the kernel alone, and so of a file that its driver has made.
    """
    if known is not None:
        device.forms = known.forms
        if known.signals_pooling is not None and known.device == device.name:
            device.signals_pooling = known.signals_pooling
        if known.verdicts.get("pooling_width") == "no":  # then rows of some lengths would be wrong (S-232)
            device.signals_pooling = False
    return device


def open_auto(
    cores: int = 1, kernel: Kernel = "rocket", capabilities: str | None = None
) -> tuple[Device, tuple[str, ...]]:
    """(the first device of rocket, rknpu, simulator that opens, why those before it did not).

    An NPU that is there but cannot be opened is worth a line on stderr; one that is not there is no news.
    """
    reasons: list[str] = []
    for name in KERNELS:
        try:
            return open_device(name, cores, kernel, capabilities), tuple(reasons)
        except DeviceError as error:
            reasons.append(str(error))
            if error.errno != errno.ENOENT:
                logging.getLogger("teflon").warning("teflon: %s; trying the next device", error)
    return open_device("simulator", cores, kernel, capabilities), tuple(reasons)


def check_process(process: int, name: str) -> None:
    """Raises DeviceError in a child that ``process``, which opened a device, has forked.

    Its threads are not there, and its memory is the parent's.
    """
    if os.getpid() != process:
        raise DeviceError(
            f"device {name} was opened by process {process}, of which this is a fork: make a new interpreter here"
        )


def check_job(job: DeviceJob, index: int) -> None:
    """What the kernels reject, or take and then do not run (S-202, S-204); raises DeviceError."""
    if not job.tasks:
        raise DeviceError(f"job {index} has no tasks")
    if any(task.count <= 0 for task in job.tasks):
        raise DeviceError(f"job {index} has a task without words")
    covered = [task for chain in job.chains for task in chain]
    if covered != list(range(len(job.tasks))):
        raise DeviceError(f"job {index}: its chains do not cover its {len(job.tasks)} tasks in order")
    reads, writes = [m.address for m in job.reads], [m.address for m in job.writes]
    if len({*reads, *writes}) < len(reads) + len(writes):
        raise DeviceError(f"job {index} lists a buffer twice: the kernel would not run it (S-202)")


def find(memories: Iterable[AnyMemory], address: int, size: int, what: str) -> AnyMemory:
    """The memory in which ``size`` bytes at an I/O address lie; raises DeviceError if there is none."""
    for memory in memories:
        if memory.address <= address and address + size <= memory.address + len(memory.view):
            return memory
    raise DeviceError(f"{what}: {size} bytes at {address:#x} are in no memory of the device")
