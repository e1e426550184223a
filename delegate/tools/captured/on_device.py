"""A capture's submits on a device: what lies in simulated memory is copied there, run, and brought back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from delegate.hw.device import Device, DeviceJob, DeviceTask, Memory
from delegate.hw.regcmd import FIRE_TARGET
from delegate.hw.registers import split
from delegate.hw.regs import DPU, PPU
from delegate.hw.task import Bytes
from delegate.tools.capture import CaptureSubmit, CaptureTask
from delegate.tools.captured.relocate import move
from delegate.tools.replay import Replay

TIMEOUT = 60.0  # seconds for a submit
WRITERS = [(register.block.target, register.offset) for register in (DPU.DST_BASE_ADDR, PPU.DST_BASE_ADDR)]


class OnDevice:
    """A capture placed on a device: buffers that follow each other stay neighbours, in one piece of memory."""

    def __init__(self, device: Device, replay: Replay) -> None:
        self._device, self._replay = device, replay
        self._memories = [device.allocate(len(region.view)) for region in replay.memory.regions]
        self._places: dict[int, tuple[Memory, slice]] = {}  # by handle: memory, its bytes
        for buffer in replay.capture.buffers:
            for region, memory in zip(replay.memory.regions, self._memories, strict=True):
                if region.address <= buffer.address < region.end:
                    first = buffer.address - region.address
                    self._places[buffer.handle] = memory, slice(first, first + buffer.size)
        self._moved = move(replay.capture, {h: memory.address + at.start for h, (memory, at) in self._places.items()})

    def load(self, index: int) -> None:
        """Copies memory as it is before a submit, then the submit's streams with this device's addresses."""
        for region, memory in zip(self._replay.memory.regions, self._memories, strict=True):
            memory.view[:] = region.view
        for task in self._moved.submits[index].tasks:
            memory, _ = self._places[task.handle]
            first = task.address - memory.address
            memory.view[first : first + task.words.nbytes] = task.words.view(np.uint8)
        for memory in self._memories:
            self._device.flush(memory)

    def run(self, index: int) -> Mapping[int, Bytes]:
        """Runs a submit; the buffers by handle afterwards. Raises DeviceError."""
        for job in device_jobs(self._moved.submits[index], tuple(self._memories)):
            self._device.wait(self._device.submit([job]), TIMEOUT, self._memories)
        return {handle: memory.view[at] for handle, (memory, at) in self._places.items()}


def device_jobs(submit: CaptureSubmit, memories: tuple[Memory, ...]) -> Iterator[DeviceJob]:
    """The jobs of a submit. They run one after the other, so that each may be said to write everything."""
    places = {id(task): number for number, task in enumerate(submit.tasks)}
    for starts, chains in zip(submit.starts, submit.chains, strict=True):
        if not starts:
            continue
        first, count = places[id(starts[0].task)], sum(start.tasks for start in starts)
        tasks = tuple(DeviceTask(task.address, fetched(task)) for task in submit.tasks[first : first + count])
        yield DeviceJob(tasks, chains, (), memories)


def fetched(task: CaptureTask) -> int:
    """Words of a stream up to the one that fires, which is its last."""
    fires = [number for number, word in enumerate(task.words.tolist(), 1) if split(word)[0] == FIRE_TARGET]
    return fires[-1] if fires else task.fetched


def written(submit: CaptureSubmit) -> set[int]:
    """The buffers that the words of a submit write into, by handle."""
    return {
        handle
        for task in submit.tasks
        for index, handle, _ in task.relocations
        if split(int(task.words[index]))[:2] in WRITERS
    }
