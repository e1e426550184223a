"""The same capture at other I/O addresses: only the words that are marked as addresses change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from delegate.hw.registers import split, word
from delegate.hw.soc import ADDRESS_LIMIT
from delegate.tools.capture import Capture, CaptureBuffer, CaptureError, CaptureStart, CaptureSubmit, CaptureTask

PAGE = 4096


def relocate(capture: Capture, base: int) -> Capture:
    """All buffers moved together so that the lowest begins at ``base``; raises CaptureError where that cannot be."""
    if not capture.buffers:
        return capture
    if base % PAGE or not 0 <= base < ADDRESS_LIMIT:
        raise CaptureError(f"base {base:#x}: a multiple of {PAGE} below {ADDRESS_LIMIT:#x}")
    distance = base - min(buffer.address for buffer in capture.buffers)
    end = max(buffer.address + buffer.size for buffer in capture.buffers) + distance
    if end > ADDRESS_LIMIT:
        raise CaptureError(f"base {base:#x}: the last buffer would end at {end:#x}, limit {ADDRESS_LIMIT:#x}")
    return move(capture, {buffer.handle: buffer.address + distance for buffer in capture.buffers})


def move(capture: Capture, places: Mapping[int, int]) -> Capture:
    """Each buffer moved to an address of its own, by handle; raises CaptureError where the capture contradicts itself.

    A marked word has to hold exactly the address of its buffer plus its offset.
    """
    buffers = {buffer.handle: buffer for buffer in capture.buffers}
    moved: dict[int, CaptureTask] = {}

    def task(old: CaptureTask) -> CaptureTask:
        if id(old) not in moved:
            moved[id(old)] = _task(old, buffers, places)
        return moved[id(old)]

    def start(old: CaptureStart) -> CaptureStart:
        return replace(old, task=task(old.task))

    def submit(old: CaptureSubmit) -> CaptureSubmit:
        starts = tuple(tuple(start(item) for item in job) for job in old.starts)
        return replace(old, tasks=tuple(task(item) for item in old.tasks), starts=starts)

    there = tuple(replace(buffer, address=places[buffer.handle]) for buffer in capture.buffers)
    return replace(capture, buffers=there, submits=tuple(submit(item) for item in capture.submits))


def _task(old: CaptureTask, buffers: Mapping[int, CaptureBuffer], places: Mapping[int, int]) -> CaptureTask:
    words = old.words.copy()
    for index, handle, offset in old.relocations:
        target, register, value = split(int(words[index]))
        if handle not in buffers or buffers[handle].address + offset != value:
            raise CaptureError(f"word {index} holds {value:#x}, which is not byte {offset} of buffer {handle}")
        words[index] = np.uint64(word(target, register, places[handle] + offset))
    holder = buffers[old.handle]
    return replace(old, address=old.address - holder.address + places[old.handle], words=words)
