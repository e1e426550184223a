"""One call of a client: the messages of wire.h, and what a kernel would do with the client's memory and descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Sequence

REQUEST = struct.Struct("<IIQQQ")  # kind, command, argument, length, flags
REPLY = struct.Struct("<IiQQ")  # kind, result, address, length
IOCTL, MMAP = 1, 2
COPY_IN, COPY_OUT, TAKE_FD, GIVE_FD, DONE = 1, 2, 3, 4, 5
CHUNK = 32768  # bytes of a message at most
INTERRUPTED = 255
AHEAD = 32  # requests for memory that are sent before the first is answered; a socket's queue is short


class Gone(Exception):
    """The client's thread or process is gone: nobody waits for the call."""


class Channel:
    """The server's end of a call. All methods are for the event loop's thread."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._end.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._answers: deque[tuple[bytes, list[int]]] = deque()
        self._awaited: asyncio.Future[None] | None = None  # done when there is an answer, or will be none
        self.interrupted = asyncio.Event()
        self.gone = asyncio.Event()
        self._loop.add_reader(self._end, self._read)

    def close(self) -> None:
        """Ends the call for the client too, which takes it for a lost device unless it was told a result."""
        if self._end.fileno() >= 0:
            self._loop.remove_reader(self._end)
            self._end.close()

    def _read(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._end, CHUNK + 1, 1)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if data[:1] == bytes([INTERRUPTED]):
            self.interrupted.set()
        elif data:
            self._answers.append((data, descriptors))
        else:
            self.gone.set()
            self.close()
        if self._awaited is not None and not self._awaited.done() and (self._answers or self.gone.is_set()):
            self._awaited.set_result(None)

    def _send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Raises Gone if nobody is there, or somebody who does not read."""
        try:
            socket.send_fds(self._end, [data], list(descriptors))
        except OSError:
            raise Gone from None

    async def _answer(self) -> tuple[bytes, list[int]]:
        """The next answer; raises OSError if it is an error number, Gone if there will be none."""
        while not self._answers:
            if self.gone.is_set():
                raise Gone
            self._awaited = self._loop.create_future()
            await self._awaited
        data, descriptors = self._answers.popleft()
        if data[0]:
            raise OSError(data[0], os.strerror(data[0]))
        return data[1:], descriptors

    async def copy_in(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The client's memory at (address, bytes) each; raises OSError(EFAULT)."""
        pieces = [
            (index, address + offset, min(CHUNK, length - offset))
            for index, (address, length) in enumerate(ranges)
            for offset in range(0, length, CHUNK)
        ]
        found = [bytearray() for _ in ranges]
        failure: OSError | None = None
        sent = 0
        for done, (index, _, _) in enumerate(pieces):
            while sent < len(pieces) and sent - done < AHEAD:
                self._send(REPLY.pack(COPY_IN, 0, *pieces[sent][1:]))
                sent += 1
            try:
                found[index] += (await self._answer())[0]
            except OSError as error:
                failure = error
        if failure is not None:
            raise failure
        return [bytes(data) for data in found]

    def copy_out(self, address: int, data: bytes) -> None:
        """Writes to the client's memory; if that fails, the client ends the call with EFAULT."""
        if data:
            self._send(REPLY.pack(COPY_OUT, 0, address, len(data)))
            self._send(data)

    async def take_descriptor(self, number: int) -> int:
        """A descriptor of the client, as one of ours; raises OSError(EBADF)."""
        self._send(REPLY.pack(TAKE_FD, 0, number & 0xFFFFFFFF, 0))
        _, descriptors = await self._answer()
        if not descriptors:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return descriptors[0]

    def give_descriptor(self, descriptor: int, address: int = 0, inherited: bool = False) -> None:
        """Sends a descriptor, whose number is stored at ``address`` (0: kept by the client's library)."""
        self._send(REPLY.pack(GIVE_FD, int(inherited), address, 0), [descriptor])

    def finish(self, result: int) -> None:
        """Ends the call with a result, or a negative error number."""
        with contextlib.suppress(Gone):
            self._send(REPLY.pack(DONE, result, 0, 0))
        self.close()

    async def first(self, *events: asyncio.Event, timeout: float | None = None, interruptible: bool = False) -> bool:
        """Waits until one of the events is set, and returns whether one is, or ``timeout`` seconds have passed.

        Raises OSError(EINTR) if a signal comes before and the wait is ``interruptible``, Gone if the client goes.
        """
        watched = [*events, self.gone, *([self.interrupted] if interruptible else [])]
        if not any(event.is_set() for event in events):
            tasks = [asyncio.ensure_future(event.wait()) for event in watched]
            await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        if any(event.is_set() for event in events):
            return True
        if self.gone.is_set():
            raise Gone
        if interruptible and self.interrupted.is_set():
            raise OSError(errno.EINTR, os.strerror(errno.EINTR))
        return False
