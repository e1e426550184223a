"""One compiled partition on a device: compile or load and place once; per invoke pack, submit, wait, unpack."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs

from delegate import cache, canary
from delegate.compile import compile_graph
from delegate.errors import DelegateError, DeviceError
from delegate.hw.capabilities import find
from delegate.hw.device import Device, DeviceJob, DeviceTask, Kernel, Memory, check_process, open_auto, open_device
from delegate.hw.layout import align, fill_padding, pack_features, unpack_features
from delegate.hw.record import Recorder
from delegate.hw.soc import FORMS, RK3588, SOCS, Soc, Target
from delegate.hw.task import Program, located
from delegate.ir import Graph
from delegate.options import CACHE_OFF, Options

PRIVATE = ("record", "cache_dir")  # options that a capture does not tell: they hold names of folders
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


def capability_file(options: Options) -> Path | None:
    """The file that says which unproven forms may be used; None where the device or the user says so without one."""
    device = shared_device(options.device, options.cores, options.kernel, options.capabilities)
    return find(device.name, options.capabilities) if options.unproven == "auto" else None


def obtain(graph: Graph, options: Options) -> tuple[Program, bool, str | None]:
    """(program, whether it came from the cache, why the cache could not be used)."""
    folder, full_chains = cache_folder(options), options.chain == "full"
    target = target_of(options)
    if folder is None:
        return compile_graph(graph, target, full_chains), False, None
    name, note = cache.key(graph, target, full_chains), None
    try:
        program = cache.load(folder, name)
        if program is not None:
            return program, True, None
    except cache.CacheError as error:
        note = str(error)
    program = compile_graph(graph, target, full_chains)
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
        self._memories: list[Memory] = []
        self._jobs: list[DeviceJob] = []
        try:
            self._jobs = self._load(self.program)
        except BaseException:
            self.close()
            raise

    def _load(self, program: Program) -> list[DeviceJob]:
        soc = SOCS[program.soc]
        space = self._device.space()
        for buffer in program.buffers:
            memory = self._device.allocate(buffer.size, space)
            self._memories.append(memory)
            if buffer.data is not None:
                memory.view[: buffer.size] = buffer.data
        for port in program.inputs:
            fill_padding(self._memories[port.buffer].view, port)
        streams = self._write_streams(program, soc)
        for memory, buffer in zip(self._memories, program.buffers, strict=True):
            if buffer.role in ("weight", "regcmd"):
                self._device.flush(memory)
        jobs, first = [], 0
        for job in program.jobs:
            jobs.append(
                DeviceJob(
                    tasks=tuple(streams[first : first + len(job.tasks)]),
                    chains=job.chains,
                    reads=tuple(self._memories[index] for index in job.reads),
                    writes=tuple(self._memories[index] for index in job.writes),
                )
            )
            first += len(job.tasks)
        return jobs

    def _write_streams(self, program: Program, soc: Soc) -> list[DeviceTask]:
        """Writes all command streams, addresses filled in, one behind the other as the links expect them."""
        regcmd = next(m for m, b in zip(self._memories, program.buffers, strict=True) if b.role == "regcmd")
        offset, streams = 0, []
        for stream in located(program, [memory.address for memory in self._memories]):
            regcmd.view[offset : offset + stream.nbytes] = stream.astype("<u8").view(np.uint8)
            streams.append(DeviceTask(regcmd.address + offset, len(stream)))
            offset += align(stream.nbytes, soc.stream_alignment)
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
        """Submits the jobs and waits; tries once more where the outputs were not written (see delegate.canary)."""
        program, memories = self.program, self._memories
        places = [canary.last_atoms(memories[p.buffer].view, p) for p in self._proofs]
        reads = [memories[index] for index in sorted({port.buffer for port in program.outputs})]
        for index in sorted({port.buffer for port in program.inputs} - {port.buffer for port in program.outputs}):
            self._device.flush(memories[index])
        left = 0
        for pattern in canary.patterns():
            canary.arm(places, pattern)
            for memory in reads:
                self._device.flush(memory)
            self._device.wait(self._device.submit(self._jobs), TIMEOUT, reads)
            left = canary.untouched(places, pattern)
            if not left:
                return
        raise DeviceError(
            f"device {self._device.name}: the job ended twice without writing {left} of the outputs' "
            f"{sum(place[..., 0].size for place in places)} rows: it hung or was dropped; `dmesg` may say why"
        )

    def close(self) -> None:
        """Gives the device's memory back; the session cannot be used afterwards."""
        with self._lock, ExitStack() as freeing:
            self._jobs = []
            for memory in self._memories:
                freeing.callback(self._device.free, memory)
            self._memories = []
