"""What the kernel's DRM core does for both drivers: files, handles, mmap offsets, and how an ioctl is called."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from delegate.hw.shim.faults import Faults
from delegate.hw.shim.memory import Buffer, pages
from delegate.hw.shim.wire import Channel

OFFSETS_START = 1 << 32  # where mmap offsets begin (drm_vma_manager)
READ, WRITE = 1 << 30, 1 << 31  # bits of a command: the kernel reads, or writes, the structure


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
    inherited: bool = False  # whether those stay open across exec

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
    render: bool = True  # DRM_RENDER_ALLOW
    needs: str = ""  # "auth" or "master": DRM_AUTH, DRM_MASTER

    @property
    def number(self) -> int:
        return self.command & 0xFF

    @property
    def size(self) -> int:
        """Bytes of the structure."""
        return self.command >> 16 & 0x3FFF


class Driver:
    """A kernel driver, which all files of its nodes share."""

    name: str
    description: str
    date: str
    version: tuple[int, int, int]
    unique: str  # the parent device's name
    ioctls: dict[int, Ioctl]
    faults: Faults
    can_map = True  # whether the nodes can be mapped

    def __init__(self) -> None:
        self.files: set[File] = set()
        self.names: dict[int, Buffer] = {}  # of GEM_FLINK
        self.exported: dict[int, Buffer] = {}  # by inode
        self.master_state: dict[str, int] = {}  # what drm_master knows

    def opened(self, file: File) -> None:
        """A node was opened. The first that opens the primary node is its master (drm_master_open)."""
        file.master = file.node.startswith("card") and not any(other.master for other in self.files)
        self.files.add(file)

    def released(self, file: File) -> None:
        """The last descriptor of a file was closed.

        An exported buffer lives as long as its descriptor on a board; here, where nobody tells of that one's end, until
        no file is open.
        """
        self.files.discard(file)
        if not self.files:
            kept = [buffer for buffer in self.exported.values() if not buffer.handles]
            self.exported.clear()
            for buffer in kept:
                self.freed(buffer)

    def freed(self, buffer: Buffer) -> None:
        """The last handle of a buffer was closed, or its last name outside."""
        raise NotImplementedError


@dataclass(eq=False)
class File:
    """An open node: handles of buffers, and where each can be mapped."""

    driver: Driver
    node: str
    number: int  # counted by the server, for the log
    handles: dict[int, Buffer] = field(default_factory=dict)
    offsets: dict[int, Buffer] = field(default_factory=dict)
    state: Any = None  # the driver's own
    process: int = 0
    root: bool = False  # whether a privileged user opened it
    master: bool = False
    was_authenticated: bool = False
    calls: int = 1  # under way, and one for the open descriptors

    @property
    def is_render(self) -> bool:
        """Whether this is a render node, where only what is marked so is allowed (drm_ioctl_permit)."""
        return self.node.startswith("renderD")

    @property
    def is_authenticated(self) -> bool:
        return self.master or self.root or self.was_authenticated

    def add(self, buffer: Buffer) -> tuple[int, int]:
        """(handle, mmap offset) of a buffer; the lowest free handle (an IDR's)."""
        handle = next(number for number in range(1, len(self.handles) + 2) if number not in self.handles)
        shared = buffer in self.handles.values()
        self.handles[handle] = buffer
        buffer.handles += 1
        if shared:
            return handle, self.offset_of(buffer)
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
        buffer.handles -= 1
        if buffer not in self.handles.values():
            del self.offsets[self.offset_of(buffer)]
        if not buffer.handles:
            self.driver.names = {name: other for name, other in self.driver.names.items() if other is not buffer}
            if buffer not in self.driver.exported.values():
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


def new_call(ioctl: Ioctl, channel: Channel, command: int, argument: int) -> Call:
    """A call with an empty structure, as large as the caller's and the driver's."""
    return Call(channel, argument, bytearray(max(command >> 16 & 0x3FFF, ioctl.size)))


def permit(file: File, ioctl: Ioctl) -> None:
    """drm_ioctl_permit: raises OSError(EACCES)."""
    authenticated = file.is_render or file.is_authenticated
    if (
        (ioctl.needs == "auth" and not authenticated)
        or (ioctl.needs == "master" and not file.master)
        or (file.is_render and not ioctl.render)
    ):
        raise failure(errno.EACCES)


async def dispatch(file: File, ioctl: Ioctl, command: int, call: Call) -> int:
    """Runs an ioctl as drm_ioctl does and returns its result; the structure is copied back whatever that is.

    The number alone picks the entry; a structure of another size is cut or extended with zeros. Raises OSError.
    """
    size = command >> 16 & 0x3FFF
    if size and command & ioctl.command & READ:
        call.data[:size] = (await call.channel.copy_in([(call.argument, size)]))[0]
    try:
        permit(file, ioctl)
        return await ioctl.handler(file, call)
    finally:
        if size and command & ioctl.command & WRITE:
            call.channel.copy_out(call.argument, bytes(call.data[:size]))
        for descriptor, offset in call.given:
            call.channel.give_descriptor(descriptor, call.argument + offset, call.inherited)
            os.close(descriptor)
