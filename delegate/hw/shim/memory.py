"""Buffers of the stand-in: anonymous shared files, mapped at their I/O addresses where the simulator finds them.

A domain reserves 4 GiB of this process' addresses and maps each buffer at the reservation's start plus its I/O address,
so that buffers that are neighbours for the NPU are neighbours here: an access may run from one into the next, as it may
behind the board's IOMMU.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from delegate.hw.sim.memory import AddressSpace
from delegate.hw.soc import ADDRESS_LIMIT
from delegate.hw.task import Bytes

PAGE = 4096  # bytes
MAP_FIXED, MAP_NORESERVE, PROT_NONE = 0x10, 0x4000, 0  # Linux; mmap has no names for them

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def pages(size: int) -> int:
    """``size`` bytes in whole pages, as bytes."""
    return -(-size // PAGE) * PAGE


def _map(address: int | None, size: int, protection: int, flags: int, descriptor: int) -> int:
    """mmap; raises OSError."""
    found = _libc.mmap(address, size, protection, flags, descriptor, 0)
    if found is None or found == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(found)


def _memory(size: int) -> int:
    """An anonymous file of ``size`` bytes; raises OSError."""
    descriptor = os.memfd_create("npu buffer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        # A client that shrank the file would end this process.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@dataclass(eq=False)
class Buffer:
    """A buffer object, mapped in a domain.

    One with ``cache`` is a pair of copies, the CPU's and the NPU's, between which only synchronising moves bytes.
    """

    domain: Domain
    address: int  # I/O address
    size: int  # bytes, whole pages
    descriptor: int
    cache: Cache | None
    handles: int = 0  # in all files

    @property
    def view(self) -> Bytes:
        """What the NPU sees."""
        return self.domain.view(self.address, self.size)

    @property
    def cpu(self) -> Bytes:
        """What the kernel and, by ``client``, its programs see."""
        return self.view if self.cache is None else self.cache.view

    @property
    def client(self) -> int:
        """The descriptor for mappings of programs."""
        return self.descriptor if self.cache is None else self.cache.descriptor

    def to_device(self, part: slice = slice(None)) -> None:
        """Writes the CPU's bytes back to memory."""
        if self.cache is not None:
            self.view[part] = self.cache.view[part]

    def from_device(self, part: slice = slice(None)) -> None:
        """The CPU forgets its bytes and sees memory's."""
        if self.cache is not None:
            self.cache.view[part] = self.view[part]


@dataclass(frozen=True, eq=False)
class Cache:
    """The CPU's copy of a buffer."""

    descriptor: int
    view: Bytes


@dataclass(frozen=True)
class Hole:
    """Free I/O addresses between two buffers."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


Place = Callable[[list[Hole], int], int | None]
"""Picks the address of a new buffer of so many bytes; None if there is no room."""


def bottom_up(holes: list[Hole], size: int) -> int | None:
    """The start of the smallest hole that is large enough (drm_mm's best fit; uapi.md A.2)."""
    fitting = [hole for hole in holes if hole.size >= size]
    return min(fitting, key=lambda hole: (hole.size, hole.start)).start if fitting else None


def top_down(holes: list[Hole], size: int, aligned: bool = True) -> int | None:
    """The highest address, aligned to the next power of two of the size unless that is not wanted (uapi.md B)."""
    unit = 1 << (size - 1).bit_length() if aligned else PAGE
    for hole in reversed(holes):
        start = (hole.end - size) // unit * unit
        if start >= hole.start:
            return start
    return None


class Domain:
    """An IOMMU domain: its buffers and, for the simulator, the address space that they make up."""

    def __init__(self) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        self._base = _map(None, ADDRESS_LIMIT, PROT_NONE, flags, -1)
        self._buffers: dict[int, Buffer] = {}  # by address
        self._retired: list[Buffer] = []  # freed while the NPU was running
        self._running = 0
        self._closed = False
        self.space = AddressSpace()  # replaced whenever a buffer comes or goes

    @property
    def mapped(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.size for buffer in self._buffers.values())

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return tuple(self._buffers.values())

    def view(self, address: int, size: int) -> Bytes:
        """Bytes at an I/O address; the caller knows that they are mapped."""
        memory = (ctypes.c_uint8 * size).from_address(self._base + address)
        return np.frombuffer(memoryview(memory).cast("B"), np.uint8)

    def holes(self) -> list[Hole]:
        """Free addresses in ascending order."""
        taken = sorted((b.address, b.address + b.size) for b in (*self._buffers.values(), *self._retired))
        starts, ends = [0, *(end for _, end in taken)], [*(start for start, _ in taken), ADDRESS_LIMIT]
        return [Hole(start, end) for start, end in zip(starts, ends, strict=True) if end > start]

    def create(self, size: int, place: Place, limit: int = ADDRESS_LIMIT, cached: bool = False) -> Buffer:
        """A zeroed buffer of ``size`` bytes in whole pages; raises OSError(ENOSPC) where no addresses are left.

        ``cached``: the CPU has a copy of its own.
        """
        size = pages(size)
        address = place(self.holes(), size) if self.mapped + size <= limit else None
        if address is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        cache = None
        descriptor = _memory(size)
        try:
            if cached:
                other = _memory(size)
                cache = Cache(other, np.frombuffer(mmap.mmap(other, size), np.uint8))
            self._fix(address, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, descriptor)
        except OSError:
            os.close(descriptor)
            if cache is not None:
                os.close(cache.descriptor)
            raise
        buffer = self._buffers[address] = Buffer(self, address, size, descriptor, cache)
        self._rebuild()
        return buffer

    def _fix(self, address: int, size: int, protection: int, flags: int, descriptor: int) -> None:
        _map(self._base + address, size, protection, flags | MAP_FIXED, descriptor)

    def free(self, buffer: Buffer) -> None:
        """Unmaps a buffer; while the NPU runs in this domain its pages stay until that is over."""
        del self._buffers[buffer.address]
        os.close(buffer.descriptor)
        if buffer.cache is not None:
            os.close(buffer.cache.descriptor)
        self._retired.append(buffer)
        self._rebuild()
        self._settle()

    def begin(self) -> AddressSpace:
        """The NPU starts to run here; returns what it sees. Each begin() needs an end()."""
        self._running += 1
        return self.space

    def end(self) -> None:
        self._running -= 1
        self._settle()

    def close(self) -> None:
        """Gives the reservation back when the last buffer is freed and the NPU is done."""
        self._closed = True
        self._settle()

    def _settle(self) -> None:
        if self._running:
            return
        for buffer in self._retired:
            self._fix(buffer.address, buffer.size, PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE, -1)
        self._retired.clear()
        if self._closed and self._base and not self._buffers:
            _libc.munmap(self._base, ADDRESS_LIMIT)
            self._base = 0

    def _rebuild(self) -> None:
        """Joins neighbouring buffers to regions."""
        space, start, end = AddressSpace(), 0, 0
        for address in sorted(self._buffers):
            if address != end:
                if end > start:
                    space.map(start, self.view(start, end - start))
                start = address
            end = address + self._buffers[address].size
        if end > start:
            space.map(start, self.view(start, end - start))
        self.space = space
