"""Strict mode: what kernels and chip let pass in silence and a driver should not do (uapi.md C), each said once.

It watches which memory a job touches, and compares buffers with what they held when the NPU was last shown them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from delegate.hw.regs import CNA
from delegate.hw.shim.memory import Buffer, Domain
from delegate.hw.sim.machine import Decoded
from delegate.hw.sim.memory import AddressSpace
from delegate.hw.sim.precision import PRECISIONS

DEPTHWISE, INT8 = 3, 0
# What to do about an error of the simulator, by words in its text.
ADVICE = (
    (r"aligned", "the chip drops the low bits of addresses: allocate and place everything at multiples of 16 bytes"),
    (
        r"_bank \d|data banks|weight banks",
        "12 banks of 32 KiB hold a task's features and weights: cut the layer into more tasks",
    ),
    (r"without a name", "a value wider than its field wraps on the chip: mask it, or mend how it was computed"),
    (r"not mapped|leave the buffer", "buffers end at whole pages: allocate all that a task touches, its padding too"),
)


class Watch(AddressSpace):
    """The address space of a run that remembers each access, with its first and last byte."""

    def __init__(self, domain: Domain, stale: set[Buffer]) -> None:
        super().__init__()
        self._set(domain.space.regions)
        self.buffers = domain.buffers
        self.stale = stale  # buffers that the CPU has written since the NPU was shown them
        self.accesses: set[tuple[int, int, str]] = set()  # first and last byte, what
        self.partial: set[str] = set()
        self.foreign: set[Buffer] = set()  # what other runs wrote meanwhile

    def strided(
        self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any], what: str
    ) -> npt.NDArray[Any]:
        view = super().strided(address, shape, strides, dtype, what)
        steps = [(count - 1) * step for count, step in zip(shape, strides, strict=True)]
        low = address + sum(min(0, step) for step in steps)
        high = address + sum(max(0, step) for step in steps) + dtype.itemsize - 1
        self.accesses.add((low, high, what.rpartition(": ")[2]))
        return view

    def observe(self, decoded: Decoded) -> None:
        """Notes a convolution whose last kernel group is not whole."""
        registers = decoded.registers
        if CNA not in registers.groups:
            return
        mode = registers[CNA.CONV_CON1]
        precision = PRECISIONS[mode["in_precision"]]
        depthwise = mode["conv_mode"] == DEPTHWISE
        group = precision.depthwise_group if depthwise else precision.kernel_group
        count = (
            registers[CNA.DATA_SIZE1]["datain_channel"] if depthwise else registers[CNA.WEIGHT_SIZE2]["weight_kernels"]
        )
        if mode["in_precision"] == INT8 and count % group:
            kind = "channels of a depthwise convolution" if depthwise else "kernels"
            self.partial.add(f"{count} {kind}: the last group of {group} is not whole")

    def holding(self, address: int) -> Buffer | None:
        return next((b for b in self.buffers if b.address <= address < b.address + b.size), None)

    def touched(self, output: bool) -> dict[Buffer, str]:
        """Buffers that were written, or read, with what did it first by address."""
        found: dict[Buffer, str] = {}
        for low, _, what in sorted(self.accesses):
            buffer = self.holding(low)
            if buffer is not None and ("output" in what) == output:
                found.setdefault(buffer, what)
        return found


def checksum(buffer: Buffer) -> int:
    return zlib.crc32(buffer.cpu.data)


def name(buffer: Buffer) -> str:
    return f"the buffer at {buffer.address:#x} ({buffer.size} bytes)"


@dataclass
class Strict:
    """The watcher of a driver's jobs; where it is not ``on`` it does nothing."""

    on: bool
    say: Callable[[str], None]
    sync: str  # what shows the NPU a buffer: the ioctl's name
    said: set[tuple[str, str]] = field(default_factory=set)
    shown: WeakKeyDictionary[Buffer, int] = field(default_factory=WeakKeyDictionary)  # check sums
    active: list[Watch] = field(default_factory=list)

    def once(self, rule: str, what: str, text: str) -> None:
        """Says ``text`` unless the same rule was broken by the same thing before."""
        if (rule, what) not in self.said:
            self.said.add((rule, what))
            self.say(f"strict: {text}")

    def show(self, buffers: Iterable[Buffer]) -> None:
        """The CPU's bytes were made visible to the NPU, or the NPU wrote them."""
        if self.on:
            for buffer in buffers:
                if buffer in buffer.domain.buffers:  # else it was freed during the run
                    self.shown[buffer] = checksum(buffer)

    def fetched(self, buffer: Buffer) -> None:
        """The CPU's copy of a buffer that has one became the NPU's."""
        if buffer.cache is not None:
            self.show([buffer])

    def explain(self, hang: str) -> str:
        """An error of the simulator, with what to do about it."""
        advice = [text for pattern, text in ADVICE if re.search(pattern, hang)] if self.on else []
        return "; ".join([hang, *advice])

    def watch(self, domain: Domain, coherent: Callable[[Buffer], bool]) -> Watch | None:
        """Before a run. Buffers that are ``coherent`` need not be shown."""
        if not self.on:
            return None
        stale = {
            buffer
            for buffer in domain.buffers
            if not coherent(buffer)
            and (buffer.cpu.any() if buffer not in self.shown else checksum(buffer) != self.shown[buffer])
        }
        self.active.append(Watch(domain, stale))
        return self.active[-1]

    def judge(self, watch: Watch | None, warnings: Sequence[str]) -> None:
        """After a run: accesses, buffers that were not shown, and what the simulator warns of."""
        if watch is None:
            return
        self.active.remove(watch)
        written = set(watch.touched(output=True))
        for other in self.active:
            other.foreign |= written
            watch.foreign |= set(other.touched(output=True))
        for low, high, what in sorted(watch.accesses):
            first, last = watch.holding(low), watch.holding(high)
            if first is not last and first is not None:
                text = f"{what} at {low:#x} to {high:#x} runs out of {name(first)} into its neighbour"
                self.once("neighbour", what, f"{text}: allocate all that the task touches in one buffer")
        for buffer, what in watch.touched(output=False).items():
            if buffer in watch.stale - watch.foreign:
                text = f"{what} reads {name(buffer)}, which the CPU has written since it was last shown to the NPU"
                self.once("stale", what, f"{text}: {self.sync} after writing, before the submit")
        for text in sorted(watch.partial):
            self.once("partial", text, f"{text}: such tasks were seen to hang (S-50); fill it up with zero kernels")
        for text in warnings:
            self.once("simulator", text, f"{text}; silicon tolerates it, programs should not do it")
        self.show(written)

    def judge_lists(
        self, watch: Watch | None, reads: Sequence[Buffer], writes: Sequence[Buffer], pending: Iterable[Buffer]
    ) -> None:
        """rocket's lists of buffers; ``pending``: those that other jobs were to write when this one was queued."""
        if watch is None:
            return
        for buffer, what in watch.touched(output=True).items():
            if buffer not in writes:
                advice = "PREP_BO will not wait for the job: list it in out_bo_handles"
                self.once(
                    "out", what, f"{what} goes to {name(buffer)}, which the job does not list as written; {advice}"
                )
        listed = {*reads, *writes}
        for buffer, what in watch.touched(output=False).items():
            if buffer in pending and buffer not in listed:
                advice = "the job may start before that one has ended: list it in in_bo_handles"
                self.once("in", what, f"{what} reads {name(buffer)}, which another job writes; {advice}")
