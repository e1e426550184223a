"""The one small interface behind which the drivers and the simulator stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from delegate.errors import DeviceError
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


Kernel = Literal["rocket", "rknpu"]
"""The kernel drivers: mainline's and the vendor's."""


class Device(Protocol):
    """Memory and jobs. All methods may be called from any thread."""

    name: str
    forms: frozenset[str]  # forms without proof on silicon that passed their known-answer probe here (hw.soc.FORMS)
    signals_pooling: bool  # whether the kernel hears of the end of a PPU task; stock mainline does not (S-137, S-196)

    def allocate(self, size: int) -> Memory:
        """Memory of ``size`` bytes, zeroed; raises DeviceError when there is none left."""

    def free(self, memory: Memory) -> None:
        """Gives memory back; it may not be used afterwards."""

    def submit(self, jobs: Sequence[DeviceJob]) -> object:
        """Starts the jobs in order and returns a ticket for wait()."""

    def wait(self, ticket: object, timeout: float) -> None:
        """Returns when the jobs of the ticket are done; raises DeviceError after ``timeout`` seconds or on a fault."""

    def close(self) -> None:
        """Gives everything back."""


DEVICES = ("auto", "simulator", "rocket", "rknpu")
KERNELS: tuple[Kernel, ...] = ("rocket", "rknpu")


def open_device(name: str, cores: int = 1, kernel: Kernel = "rocket") -> Device:
    """Opens a device by name; ``auto`` takes the simulator. ``cores``: how many NPU cores may run jobs (1 to 3).

    ``kernel``: which kernel the simulator plays; a board has the one of its driver.
    Raises DeviceError for a name that is not in DEVICES, or a device that is not there.
    """
    if name in ("auto", "simulator"):
        from delegate.hw.sim.device import Simulator  # the simulator is loaded only where it is wanted

        return Simulator(cores, kernel)
    if name in DEVICES:
        raise DeviceError(f"device {name}: this version has no driver for it; use device=simulator")
    raise DeviceError(f"device {name!r} is unknown; valid devices: {', '.join(DEVICES)}")
