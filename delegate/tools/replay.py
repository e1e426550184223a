"""Runs a capture on simulated cores, with its buffers at the addresses they had."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from delegate.hw.sim.machine import Machine
from delegate.hw.sim.memory import AddressSpace
from delegate.hw.sim.options import Options
from delegate.hw.soc import ADDRESS_LIMIT
from delegate.hw.task import Bytes
from delegate.tools.capture import Capture, CaptureBuffer, CaptureError, CaptureStart, CaptureSubmit

PAGE = 4096


def _pages(buffer: CaptureBuffer) -> int:
    """Bytes a buffer takes of the address space."""
    return max(-(-buffer.size // PAGE), 1) * PAGE


def _neighbours(buffers: Sequence[CaptureBuffer]) -> Iterator[tuple[int, int, list[CaptureBuffer]]]:
    """Buffers grouped where one follows the other: an IOMMU does not see an access that runs from one to the next.

    Yields first address, end address, buffers; raises CaptureError if two overlap.
    """
    group: list[CaptureBuffer] = []
    for buffer in sorted(buffers, key=lambda b: b.address):
        end = group[-1].address + _pages(group[-1]) if group else 0
        if group and buffer.address < end:
            raise CaptureError(f"buffers {group[-1].handle} and {buffer.handle} overlap at {buffer.address:#x}")
        if group and buffer.address > end:
            yield group[0].address, end, group
            group = []
        group.append(buffer)
    if group:
        yield group[0].address, group[-1].address + _pages(group[-1]), group


@dataclass
class Replay:
    """A capture placed in simulated memory; ``buffers`` by handle, whole pages.

    ``slack``: bytes after the buffers that a board would not have mapped; a task that touches them goes on here, and
    the fact is among the warnings (the upstream driver allocates too little for shallow depthwise outputs).
    """

    capture: Capture
    options: Options = field(default_factory=Options)
    slack: int = 0
    buffers: dict[int, Bytes] = field(default_factory=dict)
    cores: dict[int, Machine] = field(default_factory=dict)
    memory: AddressSpace = field(default_factory=AddressSpace)

    def __post_init__(self) -> None:
        groups = list(_neighbours(self.capture.buffers))
        ends = [*(first for first, _, _ in groups[1:]), ADDRESS_LIMIT]  # of the room behind each
        for (first, last, group), end in zip(groups, ends, strict=False):
            slack = min(self.slack, end - last)
            arena = np.zeros(last - first + slack, np.uint8)
            self.memory.map(first, arena, slack)
            for buffer in group:
                start = buffer.address - first
                self.buffers[buffer.handle] = arena[start : start + _pages(buffer)]

    @property
    def warnings(self) -> dict[str, int]:
        """What silicon tolerates but programs should not do, with how often it was met."""
        found = {text: count for machine in self.cores.values() for text, count in machine.warnings.items()}
        return found | self.memory.faults

    def place(self, submit: CaptureSubmit, index: int) -> None:
        """Writes the contents that the host sets before a submit, and its streams."""
        for handle, content in submit.contents.items():
            self.buffers[handle][: len(content)] = content
            if index:  # a buffer that comes again is given whole, without its zeros at the end
                self.buffers[handle][len(content) :] = 0
        for task in submit.tasks:
            self.memory.bytes(task.address, task.words.nbytes, "stream")[:] = task.words.view(np.uint8)

    def restore(self, submit: CaptureSubmit) -> None:
        """Puts back streams that outputs of earlier tasks ran over, and notes it: a board would fetch garbage."""
        for task in submit.tasks:
            held = self.memory.bytes(task.address, task.words.nbytes, "stream")
            if not np.array_equal(held, task.words.view(np.uint8)):
                text = f"the stream at {task.address:#x} was overwritten by an output: a board would fetch garbage"
                self.memory.faults[text] = self.memory.faults.get(text, 0) + 1
                held[:] = task.words.view(np.uint8)

    def machine(self, core: int) -> Machine:
        if core not in self.cores:
            self.cores[core] = Machine(self.memory, options=self.options)
        return self.cores[core]

    def steps(self) -> Iterator[CaptureStart]:
        """Runs start after start, yielding each once it is done; raises SimulatorError where silicon would stop."""
        for index, submit in enumerate(self.capture.submits):
            self.place(submit, index)
            for job in submit.starts:
                for core in {start.core for start in job}:
                    self.machine(core).begin_job()
                for start in job:
                    self.restore(submit)
                    self.machine(start.core).run_chain(start.task.address, start.task.fetched, start.tasks)
                    yield start

    def run(self) -> dict[int, Bytes]:
        """Runs everything; returns the buffers by handle."""
        for _ in self.steps():
            pass
        return self.buffers
