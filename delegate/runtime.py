"""One compiled partition on a device: compile or load and place once; per invoke pack, submit, wait, unpack."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs

from delegate import cache, canary
from delegate.compile import compile_graph
from delegate.cores import Division
from delegate.errors import DelegateError, DeviceError
from delegate.exchange import HOST
from delegate.hw.capabilities import find
from delegate.hw.device import Device, DeviceJob, DeviceTask, Kernel, Memory, check_process, open_auto, open_device
from delegate.hw.layout import align, fill_padding, pack_features, unpack_features
from delegate.hw.record import Recorder
from delegate.hw.soc import FORMS, RK3588, SOCS, Target
from delegate.hw.task import Exchange, Program, located
from delegate.hw.timing import BOARDS, BoardClock
from delegate.ir import Graph
from delegate.options import CACHE_OFF, Options

PRIVATE = ("record", "cache_dir", "capabilities")  # options that a capture does not tell: they hold names of folders
TIMEOUT = 60.0  # seconds; the kernel's own watchdog ends a job of the NPU after half a second (S-195)


@functools.cache
def _opened(
    process: int, name: str, cores: int, kernel: Kernel, capabilities: str | None
) -> tuple[Device, tuple[str, ...]]:
    if name == "auto":
        return open_auto(cores, kernel, capabilities)
    return open_device(name, cores, kernel, capabilities), ()


def shared_device(name: str, cores: int = 1, kernel: Kernel = "rocket", capabilities: str | None = None) -> Device:
    """One device a process for each (name, cores, kernel, capability file): interpreters share it, and its cores.

    A forked child gets its own; raises DeviceError.
    """
    return _opened(os.getpid(), name, cores, kernel, capabilities)[0]


def passed_over(options: Options) -> tuple[str, ...]:
    """Why the shared device, where it is called auto, is none of those before it."""
    return _opened(os.getpid(), options.device, options.cores, options.kernel, options.capabilities)[1]


def cache_folder(options: Options) -> Path | None:
    """Where compiled programs are kept; None if they are not."""
    if options.cache_dir == CACHE_OFF:
        return None
    return Path(options.cache_dir) if options.cache_dir else Path(platformdirs.user_cache_dir("teflon-rknpu", False))


def target_of(options: Options) -> Target:
    """The chip as the options' device offers it, with the forms that the user allows where nobody has proven them."""
    device = shared_device(options.device, options.cores, options.kernel, options.capabilities)
    allowed = {"auto": device.forms, "never": frozenset[str](), "always": frozenset(FORMS)}
    return Target(RK3588, allowed[options.unproven], device.signals_pooling)


def division_of(options: Options) -> Division | None:
    """How one inference may be spread over the cores of the options' device."""
    if options.cores == 1 or options.split == "never":
        return None
    device = shared_device(options.device, options.cores, options.kernel, options.capabilities)
    board = BOARDS[device.kernel]
    return Division(options.cores, options.split == "always", board.own_memory, BoardClock(board))


def capability_file(options: Options) -> Path | None:
    """The file that says which unproven forms may be used; None where the device or the user says so without one."""
    device = shared_device(options.device, options.cores, options.kernel, options.capabilities)
    return find(device.name, options.capabilities) if options.unproven == "auto" else None


def obtain(graph: Graph, options: Options) -> tuple[Program, bool, str | None]:
    """(program, whether it came from the cache, why the cache could not be used)."""
    folder, full_chains = cache_folder(options), options.chain == "full"
    target, division = target_of(options), division_of(options)
    if folder is None:
        return compile_graph(graph, target, full_chains, division), False, None
    name, note = cache.key(graph, target, full_chains, division), None
    try:
        program = cache.load(folder, name)
        if program is not None:
            return program, True, None
    except cache.CacheError as error:
        note = str(error)
    program = compile_graph(graph, target, full_chains, division)
    try:
        cache.store(folder, name, program, options.cache_size << 20)
    except cache.CacheError as error:
        note = str(error)
    return program, False, note


def device_of(options: Options) -> Device:
    """The device for a partition: the shared one, with a recorder of its own before it where the options want that."""
    device = shared_device(options.device, options.cores, options.kernel, options.capabilities)
    if options.record is None:
        return device
    facts = {f"option {name}": value for name, value in asdict(options).items() if name not in PRIVATE}
    return Recorder(device, Path(options.record), options.record_submits, options.record_size << 20, facts)


class Session:
    """A partition, ready to run. May be used from any thread, by one at a time."""

    def __init__(self, graph: Graph, options: Options) -> None:
        self.program, self.from_cache, self.cache_note = obtain(graph, options)
        self._proofs = canary.proofs(self.program)
        self._device = device_of(options)
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._copies: list[list[Memory]] = []  # of all buffers: one, or one for each core
        self._stages: list[list[DeviceJob]] = []
        try:
            self._load(self.program)
        except BaseException:
            self.close()
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
                copy = job.core if program.copies > 1 else HOST
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

    @property
    def device(self) -> Device:
        return self._device

    def invoke(self, inputs: Sequence[npt.NDArray[Any]], outputs: Sequence[npt.NDArray[Any]]) -> None:
        """Runs the partition once. ``inputs`` and ``outputs``: NHWC, int8 or uint8, C order, in the graph's order.

        Raises DeviceError if the device fails; the outputs are undefined then.
        """
        check_process(self._process, self._device.name)
        with self._lock:
            if not self._memories:
                raise DelegateError("this session is closed")
            for port, array in zip(self.program.inputs, inputs, strict=True):
                pack_features(array, self._memories[port.buffer].view, port)
            self._run()
            for port, array in zip(self.program.outputs, outputs, strict=True):
                unpack_features(self._memories[port.buffer].view, port, array)

    def _run(self) -> None:
        """Runs all stages; tries once more where the outputs were not written (see delegate.canary)."""
        program, memories = self.program, self._memories
        places = [[canary.last_atoms(copy[p.buffer].view, p) for p in self._proofs] for copy in self._copies]
        outputs = sorted({port.buffer for port in program.outputs})
        reads = [memories[index] for index in outputs]
        for index in sorted({port.buffer for port in program.inputs} - set(outputs)):
            self._device.flush(memories[index])
        left = 0
        for pattern in canary.patterns():
            for copy, own in zip(self._copies, places, strict=True):
                canary.arm(own, pattern)
                for index in outputs:
                    self._device.flush(copy[index])
            self._run_stages(reads)
            left = canary.untouched(places[HOST], pattern)
            if not left:
                return
        raise DeviceError(
            f"device {self._device.name}: the job ended twice without writing {left} of the outputs' "
            f"{sum(place[..., 0].size for place in places[HOST])} rows: it hung or was dropped; `dmesg` may say why"
        )

    def _run_stages(self, reads: Sequence[Memory]) -> None:
        """Stage by stage, with what the host copies between them; ``reads`` are shown to the host at the end."""
        moves = {stage: list(own) for stage, own in groupby(self.program.exchanges, key=lambda move: move.stage)}
        self._exchange(moves.get(0, ()))
        for number, jobs in enumerate(self._stages, start=1):
            own = moves.get(number, ())
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
        """Gives the device's memory back; the session cannot be used afterwards."""
        with self._lock, ExitStack() as freeing:
            self._stages = []
            for memory in (memory for copy in self._copies for memory in copy):
                freeing.callback(self._device.free, memory)
            self._copies = []


def write_streams(program: Program, memories: Sequence[Memory]) -> list[DeviceTask]:
    """Writes all command streams, addresses filled in, one behind the other as the links expect them."""
    regcmd = next(m for m, b in zip(memories, program.buffers, strict=True) if b.role == "regcmd")
    offset, streams = 0, []
    for stream in located(program, [memory.address for memory in memories]):
        regcmd.view[offset : offset + stream.nbytes] = stream.astype("<u8").view(np.uint8)
        streams.append(DeviceTask(regcmd.address + offset, len(stream)))
        offset += align(stream.nbytes, SOCS[program.soc].stream_alignment)
    return streams
