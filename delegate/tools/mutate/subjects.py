"""What is mutated: small programs in memory of their own, run from the same start again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from delegate.errors import SimulatorError
from delegate.hw.layout import align
from delegate.hw.sim.machine import Decoded, Machine
from delegate.hw.sim.memory import AddressSpace, Region
from delegate.hw.soc import ADDRESS_LIMIT
from delegate.hw.task import Bytes, Words

SPARE_WORDS = 4096  # room for a stream that a mutation made longer
PAGE = 4096


@dataclass(frozen=True, eq=False)
class Stream:
    """A command stream where it lies."""

    address: int
    words: Words


@dataclass(frozen=True)
class Start:
    """One start of PC: the stream it begins with, the words that are fetched, the tasks of the chain."""

    stream: int
    words: int
    tasks: int
    job: int  # a new job begins where this changes


@dataclass(frozen=True, eq=False)
class Run:
    """How a run ended; ``memory`` by region, as it was left."""

    error: str | None
    memory: tuple[Bytes, ...]
    warnings: frozenset[str]
    tasks: tuple[Decoded, ...]  # as fired

    def same_memory(self, other: Run) -> bool:
        return all(np.array_equal(mine, theirs) for mine, theirs in zip(self.memory, other.memory, strict=True))


@dataclass(eq=False)
class Subject:
    """A program with its memory (address, content and slack of each region) and the starts that run it."""

    name: str
    image: Sequence[tuple[int, Bytes, int]]
    streams: Sequence[Stream]
    starts: Sequence[Start]
    memory: AddressSpace = field(default_factory=AddressSpace)
    spare: int = 0  # address of free room for one stream
    regions: tuple[Region, ...] = ()  # mapped, in the order of ``image``

    def __post_init__(self) -> None:
        for address, content, slack in self.image:
            self.memory.map(address, content.copy(), slack)
        self.regions = self.memory.regions
        self.spare = self._free_room(8 * SPARE_WORDS)
        self.memory.map(self.spare, np.zeros(8 * SPARE_WORDS, np.uint8))

    def _free_room(self, size: int) -> int:
        """An address with ``size`` free bytes, and a page that is not mapped on either side."""
        starts = [region.address for region in self.memory.regions] + [ADDRESS_LIMIT]
        ends = [PAGE] + [align(region.end, PAGE) + PAGE for region in self.memory.regions]
        return next(end for end, start in zip(ends, starts, strict=True) if end + size + PAGE <= start)

    @property
    def chained(self) -> bool:
        return any(start.tasks > 1 for start in self.starts)

    def run(self, changed: int | None = None, words: Words | None = None) -> Run:
        """Runs from the start, with ``words`` in the place of stream ``changed``; longer ones lie elsewhere."""
        for region, (_, content, _) in zip(self.regions, self.image, strict=True):
            region.view[:] = content
        self.memory.faults.clear()
        addresses = [stream.address for stream in self.streams]
        counts = [len(stream.words) for stream in self.streams]
        if changed is not None and words is not None:
            if len(words) > counts[changed]:
                addresses[changed] = self.spare
            counts[changed] = len(words)
            self._place(addresses[changed], words)
        fired: list[Decoded] = []
        machine = Machine(self.memory, observe=fired.append)
        error = self._start(machine, addresses, counts)
        if changed is not None:
            self._place(self.streams[changed].address, self.streams[changed].words)
        views = tuple(region.view.copy() for region in self.regions)
        warnings = frozenset(machine.warnings) | frozenset(self.memory.faults)
        return Run(error, views, warnings, tuple(fired))

    def _start(self, machine: Machine, addresses: Sequence[int], counts: Sequence[int]) -> str | None:
        """Runs all starts; returns what the machine refused."""
        job = -1
        try:
            for start in self.starts:
                if start.job != job:
                    machine.begin_job()
                job = start.job
                longer = counts[start.stream] - len(self.streams[start.stream].words)
                machine.run_chain(addresses[start.stream], start.words + longer, start.tasks)
        except SimulatorError as error:
            return str(error)
        return None

    def _place(self, address: int, words: Words) -> None:
        self.memory.bytes(address, words.nbytes, "stream")[:] = words.astype("<u8").view(np.uint8)
