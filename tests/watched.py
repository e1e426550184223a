"""A simulator that notes which bytes each job touches: by the words that it runs, not by what they are meant to do."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.hw.device import DeviceJob, Kernel
from delegate.hw.sim.device import Simulator
from delegate.hw.sim.machine import Machine
from delegate.hw.sim.memory import AddressSpace

OUTPUTS = ("DPU output", "PPU output")


@dataclass(frozen=True)
class Access:
    """Bytes of a strided view."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    size: int  # of an element
    what: str

    @property
    def writes(self) -> bool:
        return self.what.endswith(OUTPUTS)

    def mark(self, mask: npt.NDArray[np.bool_]) -> None:
        offsets = np.zeros(1, np.int64)
        for count, step in zip((*self.shape, self.size), (*self.strides, 1), strict=True):
            offsets = (offsets[:, None] + np.arange(count) * step).reshape(-1)
        mask[self.address + offsets] = True


@dataclass
class Noted:
    """What one job touched."""

    accesses: set[Access] = field(default_factory=set)

    def bytes(self, size: int, writes: bool) -> npt.NDArray[np.bool_]:
        mask = np.zeros(size, np.bool_)
        for access in self.accesses:
            if access.writes == writes:
                access.mark(mask)
        return mask


class NotingSpace(AddressSpace):
    """An address space that tells who looks at what."""

    def __init__(self) -> None:
        super().__init__()
        self.current = threading.local()

    def strided(
        self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any], what: str
    ) -> npt.NDArray[Any]:
        noted: Noted | None = getattr(self.current, "noted", None)
        if noted is not None:
            noted.accesses.add(Access(address, tuple(shape), tuple(strides), dtype.itemsize, what))
        return super().strided(address, shape, strides, dtype, what)


class WatchedSimulator(Simulator):
    """Notes the accesses of each job, call by call."""

    def __init__(self, cores: int, kernel: Kernel) -> None:
        super().__init__(cores, kernel)
        self.memory: NotingSpace = NotingSpace()
        self.machines = tuple(
            Machine(self.memory, self.soc, signals_pooling=self.signals_pooling) for _ in range(cores)
        )
        self.calls: list[dict[int, Noted]] = []
        self._noted: dict[int, Noted] = {}

    def submit(self, jobs: Sequence[DeviceJob]) -> object:
        call = {id(job): Noted() for job in jobs}
        self.calls.append(call)
        self._noted |= call
        return super().submit(jobs)

    def _run(self, machine: Machine, job: DeviceJob) -> None:
        self.memory.current.noted = self._noted[id(job)]
        super()._run(machine, job)

    def meetings(self) -> Iterator[str]:
        """Bytes that a job writes and another of the same call reads or writes."""
        size = max(region.end for region in self.memory.regions)
        for number, call in enumerate(self.calls):
            jobs = list(call.values())
            written = [job.bytes(size, writes=True) for job in jobs]
            read = [job.bytes(size, writes=False) for job in jobs]
            for one in range(len(jobs)):
                for other in range(len(jobs)):
                    if one != other:
                        met = written[one] & (read[other] | written[other])
                        if met.any():
                            first = int(np.argmax(met))
                            yield f"call {number}: jobs {one} and {other} meet in {met.sum()} bytes from {first:#x} on"
