"""Runs the probes' programs through the Device interface, in memory that shows what was written and what was not."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.errors import DeviceError
from delegate.hw.device import Device, DeviceJob, DeviceTask
from delegate.hw.emit.stream import Command, assemble, link
from delegate.hw.layout import align
from delegate.hw.soc import RK3588
from delegate.hw.task import Bytes, Place, Words

INPUT, WEIGHTS, BIAS, OPERAND, OUTPUT, STREAMS = range(6)
BUFFER_BYTES = 1 << 16
UNWRITTEN = 0xA5  # every byte of a buffer that nobody has written
TIMEOUT = 30.0  # seconds; the kernels' watchdogs end a job long before
VALUE_SHIFT = 16
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Stream:
    """The body of a task, and the blocks that it fires; ``synced``: with the word 0x0041 before the fire word."""

    body: tuple[Command, ...]
    blocks: int
    synced: bool = True

    def words(self) -> tuple[Words, list[tuple[int, Place]]]:
        words, places = assemble(self.body, self.blocks)
        if not self.synced:
            words[-2] = 0
        return words, places


@dataclass(frozen=True, eq=False)
class Job:
    """Tasks that run in order, as one chain if ``chained``, and what the buffers hold before: bytes from their start.

    ``size``: how many bytes of the output buffer are looked at.
    """

    streams: tuple[Stream, ...]
    data: Mapping[int, Array]
    size: int
    chained: bool = False


@dataclass(frozen=True, eq=False)
class Answer:
    """What a job has left in the output; None if it wrote nothing or was never done, ``error`` then says more."""

    output: Bytes | None
    seconds: float
    error: str = ""


@dataclass(eq=False)
class Rig:
    """A device with the probes' buffers; closes no device. To be used in a with statement."""

    device: Device
    jobs: int = 0
    _undo: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Rig:
        """Raises DeviceError when there is no memory left."""
        with ExitStack() as undo:
            (space,) = self.device.spaces(1)
            self._memories = []
            for _ in range(STREAMS + 1):
                memory = self.device.allocate(BUFFER_BYTES, space)
                undo.callback(self.device.free, memory)
                self._memories.append(memory)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._memories = []
        self._undo.close()

    def run(self, job: Job) -> Answer:
        """Runs a job; raises DeviceError only if the device is gone."""
        self.jobs += 1
        memories = self._memories
        for memory in memories:
            memory.view[:BUFFER_BYTES] = UNWRITTEN
        for buffer, values in job.data.items():
            raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
            memories[buffer].view[: raw.size] = raw
        before = memories[OUTPUT].view[: job.size].copy()
        tasks = tuple(self._place(job.streams))
        count = len(tasks)
        chains = (range(count),) if job.chained else tuple(range(i, i + 1) for i in range(count))
        reads = tuple(memories[buffer] for buffer in (INPUT, OPERAND))
        for memory in memories:
            self.device.flush(memory)
        start = time.monotonic()
        try:
            ticket = self.device.submit([DeviceJob(tasks, chains, reads, (memories[OUTPUT],))])
            self.device.wait(ticket, TIMEOUT, [memories[OUTPUT]])
        except DeviceError as error:
            if error.errno == errno.ENODEV:
                raise
            return Answer(None, time.monotonic() - start, str(error))
        seconds = time.monotonic() - start
        after = memories[OUTPUT].view[: job.size].copy()
        if np.array_equal(before, after):
            return Answer(None, seconds, "the job is said to be done, but has written nothing")
        return Answer(after, seconds)

    def _place(self, streams: Sequence[Stream]) -> Iterable[DeviceTask]:
        """Puts the streams into memory, each leading to the next."""
        memories, offset = self._memories, 0
        built = [stream.words() for stream in streams]
        for index, (words, places) in enumerate(built):
            size = words.nbytes
            following = align(offset + size, RK3588.stream_alignment)
            addresses = [(word, memories[place.buffer].address + place.offset) for word, place in places]
            if index + 1 < len(built):
                addresses.append((link(words, len(built[index + 1][0])), memories[STREAMS].address + following))
            for word, address in addresses:
                words[word] |= np.uint64(address << VALUE_SHIFT)
            memories[STREAMS].view[offset : offset + size] = words.astype("<u8").view(np.uint8)
            yield DeviceTask(memories[STREAMS].address + offset, len(words))
            offset = following
