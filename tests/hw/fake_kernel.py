"""A kernel in this process: answers the ioctls of `rocket` and `rknpu` as uapi.md says, and runs jobs on the simulator.

It shares nothing with the drivers: it reads the raw bytes of their structures by the book's offsets. Host and NPU have
separate copies of each buffer, between which only the book's requests carry changes, line by line of a cache, so that a
forgotten one is seen.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import random
import struct
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delegate import loaded, runtime
from delegate.devices import Pool
from delegate.errors import SimulatorError
from delegate.hw import drm, rknpu_interface, rocket
from delegate.hw.sim.machine import Machine
from delegate.hw.sim.memory import AddressSpace

PAGE, LINE = 4096, 64  # bytes
CORES = 3
TOP = 1 << 32  # of the I/O addresses

VERSION, GEM_CLOSE = 0xC0406400, 0x40086409
CREATE_BO, SUBMIT, PREP_BO, FINI_BO = 0xC0186440, 0x40186441, 0x40106442, 0x40086443
ACTION, NPU_SUBMIT, MEM_MAP, MEM_DESTROY, MEM_SYNC = 0xC0086440, 0xC0686441, 0xC0106443, 0xC0106444, 0xC0206445
MEM_CREATE = {0xC0286442: 40, 0xC0306442: 48}
DRM_TO_MISC = 0xFFFF00FF, ord("r") << 8  # mask, magic; numbers there have no base


def own_devices(monkeypatch: pytest.MonkeyPatch, nodes: Path) -> Pool:
    """Has the drivers look for their nodes in a folder, and sessions share devices of a pool that nobody else has."""
    monkeypatch.setattr(rocket, "NODES", (f"{nodes}/accel*",))
    monkeypatch.setattr(rknpu_interface, "NODES", (f"{nodes}/renderD*",))
    pool = Pool()
    for module in (runtime, loaded):
        monkeypatch.setattr(module, "POOL", pool)
    monkeypatch.setattr(runtime, "shared_device", pool.open)
    return pool


@dataclass(eq=False)
class Buffer:
    """A buffer object: the host's copy (a memfd), the NPU's, and what both held when they last agreed."""

    address: int
    size: int
    memfd: int
    host: mmap.mmap
    device: np.ndarray[Any, np.dtype[np.uint8]]
    shadow: np.ndarray[Any, np.dtype[np.uint8]]
    busy_until: int = 0  # ns

    def to_device(self, first: int, size: int) -> None:
        """Writes the host's changed lines back."""
        now = np.frombuffer(self.host, np.uint8)
        changed = (now != self.shadow).reshape(-1, LINE).any(axis=1).repeat(LINE)
        changed[:first] = changed[-(-(first + size) // LINE) * LINE :] = False
        self.device[changed] = now[changed]
        self.shadow[changed] = now[changed]

    def to_host(self, first: int, size: int) -> None:
        """The host sees what the NPU wrote; what it had written itself and not shown is lost."""
        end = min(-(-(first + size) // LINE) * LINE, self.size)
        np.frombuffer(self.host, np.uint8)[first:end] = self.device[first:end]
        self.shadow[first:end] = self.device[first:end]


@dataclass(eq=False)
class File:
    """An open node."""

    path: Path
    memory: AddressSpace
    cores: list[Machine]
    buffers: dict[int, Buffer] = field(default_factory=dict)  # by handle
    next_handle: int = 1


class FakeKernel:
    """One driver with its nodes below ``folder``; installs itself in os, fcntl and drm.

    ``errors``: errnos that the next calls of an ioctl fail with, by code (0: mmap). ``drop``: how many of the next jobs
    are silently not run. ``chance``: of each call to fail, and of a job to be dropped. ``delay``: ns for which a job's
    outputs stay busy. ``log``: every ioctl's code, in order.
    """

    def __init__(self, patch: pytest.MonkeyPatch, driver: str, folder: Path, misc: bool = False) -> None:
        self.driver, self.folder, self.misc = driver, folder, misc
        self.path = folder / ("rknpu" if misc else "accel0" if driver == "rocket" else "renderD129")
        self.path.touch()
        self.version, self.iommu = 908, 1  # of rknpu
        self.files: dict[int, File] = {}
        self.errors: dict[int, list[int]] = {}
        self.drop, self.delay, self.chance = 0, 0, 0.0
        self.random = random.Random(1)
        self.aperture = TOP
        self.log: list[int] = []
        self.faults: list[str] = []  # of jobs, as the simulator says them
        self.submits: list[tuple[Any, ...]] = []
        self.dma_buffers: dict[int, Buffer] = {}  # without DRM, by file descriptor
        self.mappings: weakref.WeakSet[Any] = weakref.WeakSet()
        self._shared = AddressSpace()
        self._cores = [Machine(self._shared, signals_pooling=True) for _ in range(CORES)]
        self._lock = threading.Lock()
        self._core_locks = [threading.Lock() for _ in range(CORES)]
        self._real = os.open, os.close, fcntl.ioctl, drm.HostMemory
        patch.setattr(os, "open", self._open)
        patch.setattr(os, "close", self._close)
        patch.setattr(fcntl, "ioctl", self._ioctl)
        patch.setattr(drm, "HostMemory", self._mmap)

    @property
    def buffers(self) -> int:
        """How many buffers are alive."""
        return sum(len(file.buffers) for file in self.files.values())

    def counts(self) -> Counter[int]:
        return Counter(self.log)

    def _open(self, path: Any, flags: int, *rest: Any, **more: Any) -> int:
        descriptor = self._real[0](path, flags, *rest, **more)
        if Path(os.fsdecode(path)) == self.path and isinstance(path, os.PathLike):
            if self.driver == "rocket":
                memory = AddressSpace()
                self.files[descriptor] = File(self.path, memory, [Machine(memory, signals_pooling=False)])
            else:
                self.files[descriptor] = File(self.path, self._shared, self._cores)
        return descriptor

    def _close(self, descriptor: int) -> None:
        file = self.files.pop(descriptor, None)
        if file is not None:
            for handle in list(file.buffers):
                self._destroy(file, handle)
        self.dma_buffers.pop(descriptor, None)
        self._real[1](descriptor)

    def _mmap(self, descriptor: int, size: int, offset: int) -> Any:
        buffer = self.dma_buffers.get(descriptor)
        if buffer is None:
            buffer = self.files[descriptor].buffers[offset // (1 << 32)]
        if self.errors.get(0):
            number = self.errors[0].pop(0)
            raise OSError(number, os.strerror(number))
        mapping = self._real[3](buffer.memfd, size, 0)
        self.mappings.add(mapping)
        return mapping

    def _ioctl(self, descriptor: int, code: int, argument: Any = 0, *rest: Any) -> int:
        file = self.files.get(descriptor)
        if file is None:
            return self._real[2](descriptor, code, argument, *rest)  # type: ignore[no-any-return]
        if self.misc:
            assert code >> 8 & 0xFF == ord("r"), hex(code)
            code = (code & 0xFFFF00FF) | ord("d") << 8 | 0x40
        self.log.append(code)
        self._fail_by_chance()
        if self.errors.get(code):
            number = self.errors[code].pop(0)
            raise OSError(number, os.strerror(number))
        with memoryview(argument).cast("B") as raw:
            assert len(raw) == code >> 16 & 0x3FFF, f"{code:#x} with {len(raw)} bytes"
            answer = self._rocket(code) if self.driver == "rocket" else self._rknpu(code)
            if answer == self._npu_submit:  # blocks
                answer(file, raw)
            else:
                with self._lock:
                    answer(file, raw)
        return 0

    def _fail_by_chance(self) -> None:
        """Now and then one of the errors that come and go, or a job that will be dropped."""
        if self.random.random() < self.chance:
            number = self.random.choice((errno.EINTR, errno.ENOMEM, errno.EBUSY, errno.EIO, errno.ETIMEDOUT))
            raise OSError(number, os.strerror(number))
        if self.random.random() < self.chance:
            self.drop += 1

    def _rocket(self, code: int) -> Callable[[File, memoryview], None]:
        known = {
            VERSION: self._version,
            GEM_CLOSE: lambda file, raw: self._destroy(file, word(raw, 0)),
            CREATE_BO: self._create_bo,
            PREP_BO: self._prep_bo,
            FINI_BO: lambda file, raw: self._find(file, word(raw, 0)).to_device(0, TOP),
            SUBMIT: self._submit,
        }
        return known.get(code) or fail(errno.ENOTTY)

    def _rknpu(self, code: int) -> Callable[[File, memoryview], None]:
        known = {
            VERSION: self._version,
            ACTION: self._action,
            **dict.fromkeys(MEM_CREATE, self._mem_create),
            MEM_MAP: self._mem_map,
            MEM_DESTROY: self._mem_destroy,
            MEM_SYNC: self._mem_sync,
            NPU_SUBMIT: self._npu_submit,
        }
        return known.get(code) or fail(errno.ENOTTY)

    def _version(self, file: File, raw: memoryview) -> None:
        struct.pack_into("<iii", raw, 0, 0, 0 if self.driver == "rocket" else 9, 0 if self.driver == "rocket" else 8)
        size, pointer = struct.unpack_from("<QQ", raw, 16)
        name = self.driver.encode()
        if pointer:
            ctypes.memmove(pointer, name, min(len(name), size))
        struct.pack_into("<Q", raw, 16, len(name))

    def _make(self, file: File, size: int, address: int) -> tuple[int, Buffer]:
        rounded = -(-size // PAGE) * PAGE
        memfd = os.memfd_create("fake buffer")
        os.ftruncate(memfd, rounded)
        host = mmap.mmap(memfd, rounded)
        device, shadow = np.zeros(rounded, np.uint8), np.zeros(rounded, np.uint8)
        buffer = Buffer(address, rounded, memfd, host, device, shadow)
        file.memory.map(address, device)
        handle, file.next_handle = file.next_handle, file.next_handle + 1
        if self.misc:
            handle = os.dup(memfd)
            self.dma_buffers[handle] = buffer
        file.buffers[handle] = buffer
        return handle, buffer

    def _destroy(self, file: File, handle: int) -> None:
        buffer = self._find(file, handle)
        del file.buffers[handle]
        file.memory.unmap(buffer.address)
        buffer.host.close()
        self._real[1](buffer.memfd)

    def _find(self, file: File, handle: int) -> Buffer:
        if handle not in file.buffers:
            raise OSError(errno.ENOENT, "no such handle")
        return file.buffers[handle]

    def _create_bo(self, file: File, raw: memoryview) -> None:
        size = word(raw, 0)
        rounded, address = -(-size // PAGE) * PAGE, 0  # first fit from 0 on
        for region in file.memory.regions:
            if address + rounded <= region.address:
                break
            address = region.end
        if address + rounded > self.aperture:
            raise OSError(errno.ENOSPC, "address space is full")
        handle, _ = self._make(file, size, address)
        struct.pack_into("<IQQ", raw, 4, handle, address, handle << 32)

    def _prep_bo(self, file: File, raw: memoryview) -> None:
        handle, reserved, deadline = struct.unpack_from("<IIq", raw, 0)
        if reserved:
            raise OSError(errno.EINVAL, "reserved")
        buffer = self._find(file, handle)
        now = time.monotonic_ns()
        if buffer.busy_until > now:
            if deadline <= now:
                raise OSError(errno.EBUSY, "busy")
            time.sleep(max(0, min(deadline, buffer.busy_until) - now) / 1e9)
            if buffer.busy_until > deadline:
                raise OSError(errno.ETIMEDOUT, "timeout")
        buffer.to_host(0, buffer.size)

    def _submit(self, file: File, raw: memoryview) -> None:
        jobs, count, stride, reserved = struct.unpack_from("<QIIQ", raw, 0)
        if count and (stride < 40 or reserved):
            raise OSError(errno.EINVAL, "submit")
        for index in range(count):
            self._rocket_job(file, ctypes.string_at(jobs + index * stride, 40))

    def _rocket_job(self, file: File, raw: bytes) -> None:
        """Whatever is wrong with a job, the request says nothing (S-208c)."""
        tasks, ins, outs, count, stride, in_count, out_count = struct.unpack("<QQQIIII", raw)
        words = [struct.unpack("<II", ctypes.string_at(tasks + index * stride, 8)) for index in range(count)]
        reads, writes = (
            struct.unpack(f"<{n}I", ctypes.string_at(pointer, 4 * n))
            for pointer, n in ((ins, in_count), (outs, out_count))
        )
        self.submits.append((words, reads, writes))
        handles = (*reads, *writes)
        known = all(handle in file.buffers for handle in handles)
        if not count or stride < 8 or not known or len({*handles}) < len(handles):
            return
        if self.drop:
            self.drop -= 1
            return
        (core,) = file.cores
        try:
            core.begin_job()
            for address, amount in words:
                core.run_chain(address, amount, 1)
        except SimulatorError as error:  # the watchdog ends it, and the fence is signalled
            self.faults.append(str(error))
            core.reset()
        for handle in writes:
            file.buffers[handle].busy_until = time.monotonic_ns() + self.delay

    def _action(self, file: File, raw: memoryview) -> None:
        values = {0: 0x46495245, 1: self.version, 2: 1_000_000_000, 6: 0, 18: self.iommu}
        if word(raw, 0) not in values:
            raise OSError(errno.EINVAL, "action")
        struct.pack_into("<I", raw, 4, values[word(raw, 0)])

    def _mem_create(self, file: File, raw: memoryview) -> None:
        handle, flags, size = struct.unpack_from("<IIQ", raw, 0)
        assert handle == 0 or not self.misc
        self.flags = flags
        rounded, end = -(-size // PAGE) * PAGE, self.aperture  # from the top on
        for region in reversed(file.memory.regions):
            if region.end + rounded <= end:
                break
            end = region.address
        if end < rounded:
            raise OSError(errno.ENOMEM, "address space is full")
        handle, _ = self._make(file, size, end - rounded)
        struct.pack_into("<I", raw, 0, handle)
        struct.pack_into("<QQQ", raw, 8, rounded, 0xFFFF_0000_0000_0000 | handle << 8, end - rounded)

    def _object(self, file: File, address: int) -> tuple[int, Buffer]:
        handle = (address & 0xFFFF_FFFF_FFFF) >> 8
        if address >> 48 != 0xFFFF or handle not in file.buffers:
            raise OSError(errno.EINVAL, "obj_addr")
        return handle, file.buffers[handle]

    def _mem_map(self, file: File, raw: memoryview) -> None:
        assert not self.misc
        struct.pack_into("<Q", raw, 8, word(raw, 0) << 32)
        self._find(file, word(raw, 0))

    def _mem_destroy(self, file: File, raw: memoryview) -> None:
        handle, _ = self._object(file, struct.unpack_from("<Q", raw, 8)[0])
        assert handle == word(raw, 0)
        self._destroy(file, handle)

    def _mem_sync(self, file: File, raw: memoryview) -> None:
        flags, _, address, first, size = struct.unpack_from("<IIQQQ", raw, 0)
        _, buffer = self._object(file, address)
        if flags & 1:
            buffer.to_device(first, size)
        if flags & 2:
            buffer.to_host(first, size)

    def _npu_submit(self, file: File, raw: memoryview) -> None:
        flags, timeout, start, number, _, _, array = struct.unpack_from("<IIIIIiQ", raw, 0)
        mask = word(raw, 56)
        ranges = [struct.unpack_from("<II", raw, 64 + 8 * index) for index in range(5)]
        if flags & 1 == 0 or timeout == 0:
            raise OSError(errno.EINVAL, "submit")
        _, tasks = self._object(file, array)
        cores = [core for core in range(CORES) if mask >> core & 1]
        self.submits.append((start, number, mask, ranges))
        if self.drop:
            self.drop -= 1
            return  # task_counter stays as it was
        for core in cores:
            first, count = ranges[core + 2 if len(cores) == 3 else core]
            with self._core_locks[core]:
                self._chain(file.cores[core], tasks, first, count)
        time.sleep(self.delay / 1e9)
        struct.pack_into("<I", raw, 16, number)

    def _chain(self, core: Machine, array: Buffer, first: int, count: int) -> None:
        """PC follows a chain; the interrupt that the last task's mask waits for must come."""
        entries = [struct.unpack_from("<8IQ", array.device, 40 * index) for index in range(first, first + count)]
        amount, address = entries[0][6] + 4, entries[0][8]
        last = entries[-1]
        fire = core.memory.bytes(last[8] + 8 * (last[6] + 3), 8, "last word").view("<u8")[0]
        fired = int(fire) >> 16 & 0xFFFFFFFF
        done = 0xC00 if fired >> 5 & 1 else 0x300 if fired >> 3 & 1 else 0
        if last[3] != done or entries[-1][2] != fired:
            raise OSError(errno.ETIMEDOUT, f"int_mask {last[3]:#x}, {done:#x} comes")
        try:
            core.begin_job()
            core.run_chain(address, amount, count)
        except SimulatorError as error:
            self.faults.append(str(error))
            core.reset()
            raise OSError(errno.ETIMEDOUT, str(error)) from None


def word(raw: memoryview, offset: int) -> int:
    """A 32-bit field of a structure."""
    return int(struct.unpack_from("<I", raw, offset)[0])


def fail(number: int) -> Callable[[File, memoryview], None]:
    def answer(file: File, raw: memoryview) -> None:
        raise OSError(number, os.strerror(number))

    return answer
