"""A program in a device's memory: placed once; per run pack, submit stage by stage, look that all has run, unpack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate import canary
from delegate.canary import Pattern
from delegate.devices import POOL
from delegate.errors import DeviceError
from delegate.exchange import HOST
from delegate.hw.device import KERNELS, Device, DeviceJob, DeviceTask, Memory
from delegate.hw.drm import take_all
from delegate.hw.layout import align, fill_padding, pack_features, unpack_features
from delegate.hw.soc import SOCS
from delegate.hw.task import Exchange, Program, located
from delegate.recovery import OF_A_STUCK_NPU

TIMEOUT = 60.0  # seconds; the kernel's own watchdog ends a job of the NPU after half a second (S-195)

Arrays = Sequence[npt.NDArray[Any]]


class Loaded:
    """A program in a device's memory, ready to run, by one at a time. Whatever fails ends it, but for the simulator.

    ``before``: puts something before the device, a recorder.
    """

    def __init__(
        self, program: Program, opened: Callable[[], Device], before: Callable[[Device], Device] = lambda device: device
    ) -> None:
        self.program = program
        self._places = canary.places(program)
        self._moves = {stage: list(own) for stage, own in groupby(program.exchanges, key=lambda move: move.stage)}
        self._shared = POOL.enter(opened)
        self._device = before(self._shared)
        self._copies: list[list[Memory]] = []  # of all buffers: one, or one for each core
        self._stages: list[list[DeviceJob]] = []
        self._closed = False
        try:
            self._load(self.program)
        except BaseException as error:
            self.abandon(error)
            raise

    @property
    def _memories(self) -> list[Memory]:
        """The buffers that the host fills and reads."""
        return self._copies[HOST] if self._copies else []

    def _load(self, program: Program) -> None:
        streams = [self._place(program, space) for space in self._device.spaces(program.copies)]
        first = 0
        for stage in program.stages:
            jobs = []
            for job in stage:
                copy = program.copy_of(job)
                jobs.append(
                    DeviceJob(
                        tasks=tuple(streams[copy][first : first + len(job.tasks)]),
                        chains=job.chains,
                        reads=tuple(self._copies[copy][index] for index in job.reads),
                        writes=tuple(self._copies[copy][index] for index in job.writes),
                    )
                )
                first += len(job.tasks)
            self._stages.append(jobs)

    def _place(self, program: Program, space: int) -> list[DeviceTask]:
        """Puts a copy of all buffers into an address space; returns the streams there."""
        memories: list[Memory] = []
        self._copies.append(memories)
        for buffer in program.buffers:
            memory = self._device.allocate(buffer.size, space)
            memories.append(memory)
            if buffer.data is not None:
                memory.view[: buffer.size] = buffer.data
        for port in program.inputs:
            fill_padding(memories[port.buffer].view, port)
        streams = write_streams(program, memories)
        for memory, buffer in zip(memories, program.buffers, strict=True):
            if buffer.role in ("weight", "regcmd"):
                self._device.flush(memory)
        return streams

    def run(self, inputs: Arrays, outputs: Arrays, pattern: Pattern) -> None:
        """Runs the program once; the outputs are filled only if all of it has run (see delegate.canary).

        Raises DeviceError.
        """
        for port, array in zip(self.program.inputs, inputs, strict=True):
            pack_features(array, self._memories[port.buffer].view, port)
        self._run(pattern)
        for port, array in zip(self.program.outputs, outputs, strict=True):
            unpack_features(self._memories[port.buffer].view, port, array)

    def _run(self, pattern: Pattern) -> None:
        """Runs all stages; raises DeviceError where a place that a task should have written was not."""
        program, memories, (armed, proofs) = self.program, self._memories, self._places
        views = [[memory.view for memory in copy] for copy in self._copies]
        shown = [memories[index] for index in sorted({port.buffer for port in program.inputs})]
        for own, copy, there in zip(views, self._copies, armed, strict=True):
            canary.arm(own, there, pattern)
            shown += [copy[index] for index in there]
        for memory in dict.fromkeys(shown):
            self._device.flush(memory)
        reads = [memories[index] for index in sorted({port.buffer for port in program.outputs})]
        reads += [copy[index] for copy, there in zip(self._copies, proofs, strict=True) for index in there]
        self._run_stages(list(dict.fromkeys(reads)))
        left = sum(canary.untouched(own, there, pattern) for own, there in zip(views, proofs, strict=True))
        if left:
            count = sum(len(numbers) for there in proofs for numbers in there.values())
            raise DeviceError(
                f"device {self._device.name}: the job ended without writing {left} of {count} places: "
                "it hung or was dropped; `dmesg` may say why"
            )

    def _run_stages(self, reads: Sequence[Memory]) -> None:
        """Stage by stage, with what the host copies between them; ``reads`` are shown to the host at the end."""
        self._exchange(self._moves.get(0, ()))
        for number, jobs in enumerate(self._stages, start=1):
            own = self._moves.get(number, ())
            copied = {self._copies[core][m.buffer]: None for m in own for core in (m.source, m.target)}
            if number == len(self._stages):
                copied |= dict.fromkeys(reads)
            self._device.wait(self._device.submit(jobs), TIMEOUT, list(copied))
            self._exchange(own)

    def _exchange(self, moves: Sequence[Exchange]) -> None:
        """Copies between the memories of cores, which the host has been shown, and shows the NPU the results."""
        for move in moves:
            source, target = (self._copies[core][move.buffer].view for core in (move.source, move.target))
            target[move.start : move.stop] = source[move.start : move.stop]
        if moves and moves[0].stage < len(self._stages):  # what is for the host alone need not be shown to the NPU
            for memory in {self._copies[move.target][move.buffer]: None for move in moves}:
                self._device.flush(memory)

    def close(self) -> None:
        """Gives the device's memory back; what cannot be given back goes with the device."""
        if self._closed:
            return
        self._closed = True
        self._stages = []
        try:
            take_all([partial(self._device.free, memory) for copy in self._copies for memory in copy])
        except DeviceError:
            POOL.retire(self._shared)
        finally:
            self._copies = []
            POOL.leave(self._shared)

    def abandon(self, error: BaseException) -> None:
        """Leaves a device that failed, which nobody is to take from now on; what may have stuck is reset."""
        if self._device.name in KERNELS:
            if isinstance(error, DeviceError) and error.errno in OF_A_STUCK_NPU:
                with suppress(DeviceError):
                    self._device.reset()
            POOL.retire(self._shared)
        self.close()


def write_streams(program: Program, memories: Sequence[Memory]) -> list[DeviceTask]:
    """Writes all command streams, addresses filled in, one behind the other as the links expect them."""
    regcmd = next(m for m, b in zip(memories, program.buffers, strict=True) if b.role == "regcmd")
    offset, streams = 0, []
    for stream in located(program, [memory.address for memory in memories]):
        regcmd.view[offset : offset + stream.nbytes] = stream.astype("<u8").view(np.uint8)
        streams.append(DeviceTask(regcmd.address + offset, len(stream)))
        offset += align(stream.nbytes, SOCS[program.soc].stream_alignment)
    return streams
