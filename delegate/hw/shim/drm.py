"""What the kernel's DRM core does for both drivers: files, handles, mmap offsets, and the core ioctls."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from delegate.hw.shim.faults import Faults
from delegate.hw.shim.memory import Buffer, pages
from delegate.hw.shim.wire import Channel

VERSION = struct.Struct("<iii4xQQQQQQ")  # numbers; length and address of name, date, description
OFFSETS_START = 1 << 32  # where mmap offsets begin (drm_vma_manager)
READ, WRITE = 1 << 30, 1 << 31  # bits of a command: the kernel reads, or writes, the structure
CAP_PRIME, CAP_TIMESTAMP_MONOTONIC, CAP_SYNCOBJ = 0x5, 0x6, 0x13


def failure(number: int) -> OSError:
    """The error that a call ends with."""
    return OSError(number, os.strerror(number))


@dataclass(eq=False)
class Call:
    """An ioctl under way: its structure, zero-extended to the size that the driver knows, and who called."""

    channel: Channel
    argument: int  # address of the structure
    data: bytearray
    given: list[tuple[int, int]] = field(default_factory=list)  # descriptors for the client, offsets of their numbers

    def read(self, layout: struct.Struct, offset: int = 0) -> tuple[Any, ...]:
        return layout.unpack_from(self.data, offset)

    def write(self, layout: struct.Struct, offset: int, *values: int) -> None:
        layout.pack_into(self.data, offset, *values)


Handler = Callable[["File", Call], Awaitable[int]]


@dataclass(frozen=True)
class Ioctl:
    """An entry of a driver's table; ``command`` is the whole 32-bit code."""

    name: str  # as the log has it
    fault: str  # as faults.CALLS has it
    command: int
    handler: Handler
    fields: str  # names and struct codes of the fields, for the log: "size:I handle:I"

    @property
    def number(self) -> int:
        return self.command & 0xFF

    @property
    def size(self) -> int:
        """Bytes of the structure."""
        return self.command >> 16 & 0x3FFF


class Driver(Protocol):
    """A kernel driver, which all files of its nodes share."""

    name: str
    description: str
    date: str
    version: tuple[int, int, int]
    ioctls: dict[int, Ioctl]
    faults: Faults

    def opened(self, file: File) -> None:
        """A node was opened."""

    def released(self, file: File) -> None:
        """The last descriptor of a file was closed."""

    def freed(self, buffer: Buffer) -> None:
        """The last handle of a buffer was closed."""


@dataclass(eq=False)
class File:
    """An open node: handles of buffers, and where each can be mapped."""

    driver: Driver
    node: str
    number: int  # counted by the server, for the log
    handles: dict[int, Buffer] = field(default_factory=dict)
    offsets: dict[int, Buffer] = field(default_factory=dict)
    state: Any = None  # the driver's own
    calls: int = 1  # under way, and one for the open descriptors

    def add(self, buffer: Buffer) -> tuple[int, int]:
        """(handle, mmap offset) of a new buffer; the lowest free handle (an IDR's)."""
        handle = next(number for number in range(1, len(self.handles) + 2) if number not in self.handles)
        self.handles[handle] = buffer
        offset = OFFSETS_START
        for start in sorted(self.offsets):
            if offset + buffer.size <= start:
                break
            offset = start + self.offsets[start].size
        self.offsets[offset] = buffer
        return handle, offset

    def lookup(self, handle: int, otherwise: int = errno.ENOENT) -> Buffer:
        """The buffer of a handle; raises OSError if there is none."""
        if handle not in self.handles:
            raise failure(otherwise)
        return self.handles[handle]

    def offset_of(self, buffer: Buffer) -> int:
        return next(offset for offset, other in self.offsets.items() if other is buffer)

    def close_handle(self, handle: int) -> None:
        buffer = self.handles.pop(handle)
        del self.offsets[self.offset_of(buffer)]
        self.driver.freed(buffer)

    def close(self) -> None:
        for handle in list(self.handles):
            self.close_handle(handle)
        self.driver.released(self)

    def mapping(self, offset: int, length: int, private: bool) -> Buffer:
        """The buffer for a mmap; raises OSError as drm_gem_mmap does."""
        buffer = self.offsets.get(offset)
        if buffer is None or pages(length) > buffer.size or private:
            raise failure(errno.EINVAL)
        return buffer


async def version(file: File, call: Call) -> int:
    """Numbers, and as much of each text as the caller has room for; its lengths are the true ones afterwards."""
    driver = file.driver
    values = list(call.read(VERSION))
    values[:3] = driver.version
    for index, text in zip((3, 5, 7), (driver.name, driver.date, driver.description), strict=True):
        room, address = values[index : index + 2]
        values[index] = len(text)
        if address:
            call.channel.copy_out(address, text.encode()[:room])
    call.write(VERSION, 0, *values)
    return 0


async def gem_close(file: File, call: Call) -> int:
    (handle,) = call.read(struct.Struct("<I"))
    file.lookup(handle, errno.EINVAL)
    file.close_handle(handle)
    return 0


async def get_capability(file: File, call: Call) -> int:
    """What a driver without modesetting answers: no PRIME, as these files cannot share buffers here; no syncobj."""
    capability, _ = call.read(struct.Struct("<QQ"))
    known = {CAP_TIMESTAMP_MONOTONIC: 1, CAP_PRIME: 0, CAP_SYNCOBJ: 0}
    if capability not in known:
        raise failure(errno.EOPNOTSUPP)
    call.write(struct.Struct("<Q"), 8, known[capability])
    return 0


async def set_client_capability(file: File, call: Call) -> int:
    """All of them are for modesetting."""
    raise failure(errno.EOPNOTSUPP)


async def no_master(file: File, call: Call) -> int:
    """Authentication and modesetting masters: for the privileged only."""
    raise failure(errno.EACCES)


async def get_unique(file: File, call: Call) -> int:
    """Nobody has set a name."""
    call.write(struct.Struct("<Q"), 0, 0)
    return 0


CORE = (
    Ioctl("VERSION", "version", 0xC0406400, version, "major:i minor:i patch:i"),
    Ioctl("GET_UNIQUE", "", 0xC0106401, get_unique, "length:Q"),
    Ioctl("GEM_CLOSE", "destroy", 0x40086409, gem_close, "handle:I"),
    Ioctl("GET_CAP", "", 0xC010640C, get_capability, "capability:Q value:Q"),
    Ioctl("SET_CLIENT_CAP", "", 0x4010640D, set_client_capability, "capability:Q value:Q"),
    Ioctl("SET_MASTER", "", 0x0000641E, no_master, ""),
    Ioctl("DROP_MASTER", "", 0x0000641F, no_master, ""),
)


def new_call(ioctl: Ioctl, channel: Channel, command: int, argument: int) -> Call:
    """A call with an empty structure, as large as the caller's and the driver's."""
    return Call(channel, argument, bytearray(max(command >> 16 & 0x3FFF, ioctl.size)))


def table(*own: Ioctl) -> dict[int, Ioctl]:
    """A driver's ioctls and those of the core, by number."""
    return {ioctl.number: ioctl for ioctl in (*CORE, *own)}


async def dispatch(file: File, ioctl: Ioctl, command: int, call: Call) -> int:
    """Runs an ioctl as drm_ioctl does and returns its result; the structure is copied back whatever that is.

    The number alone picks the entry; a structure of another size is cut or extended with zeros. Raises OSError.
    """
    size = command >> 16 & 0x3FFF
    if size and command & ioctl.command & READ:
        call.data[:size] = (await call.channel.copy_in([(call.argument, size)]))[0]
    try:
        return await ioctl.handler(file, call)
    finally:
        if size and command & ioctl.command & WRITE:
            call.channel.copy_out(call.argument, bytes(call.data[:size]))
        for descriptor, offset in call.given:
            call.channel.give_descriptor(descriptor, call.argument + offset)
            os.close(descriptor)
