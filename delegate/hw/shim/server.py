"""The process behind the stand-in's device nodes: sockets for /dev/…, a task for each call, and the log."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from delegate.hw.capabilities import load
from delegate.hw.shim.drm import Call, Driver, File, Ioctl, dispatch, failure, new_call
from delegate.hw.shim.faults import Faults
from delegate.hw.shim.misc import RknpuMisc
from delegate.hw.shim.rknpu import Rknpu
from delegate.hw.shim.rocket import Rocket
from delegate.hw.shim.wire import IOCTL, REQUEST, Channel, Gone
from delegate.hw.sim.options import USUAL, Options, switched

NODES = {"rocket": ("accel0",), "rknpu": ("card1", "renderD129"), "rknpu-misc": ("rknpu",)}
BACKLOG = 128  # connections that wait to be accepted


@dataclass(frozen=True)
class Settings:
    """What TEFLON_SHIM… variables say."""

    faults: str = ""
    scale: float = 1.0  # of the kernels' own time limits
    log: str = ""  # a file
    quiet: bool = False  # nothing on stderr
    strict: bool = False  # strict.py
    caches: bool = False  # the CPU sees what the NPU wrote, and the NPU what the CPU wrote, only when synchronised
    options: Options = USUAL  # the silicon of the board of a capability file


def settings(environment: Mapping[str, str]) -> Settings:
    """Raises ValueError for a time scale that is no number, OptionError for a file that holds no capabilities."""
    board = environment.get("TEFLON_SHIM_CAPABILITIES")
    return Settings(
        environment.get("TEFLON_SHIM_FAULTS", ""),
        float(environment.get("TEFLON_SHIM_TIME_SCALE") or 1),
        environment.get("TEFLON_SHIM_LOG", ""),
        environment.get("TEFLON_SHIM_QUIET", "") not in ("", "0"),
        environment.get("TEFLON_SHIM_STRICT", "") not in ("", "0"),
        environment.get("TEFLON_SHIM_CACHES", "") not in ("", "0"),
        switched(load(Path(board)).verdicts) if board else USUAL,
    )


def listen(prefix: str, drivers: list[str]) -> dict[str, socket.socket]:
    """The sockets of the nodes of some drivers, by node; abstract names leave no file behind."""
    found = {}
    for driver in drivers:
        for node in NODES[driver]:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(f"\0{prefix}.{node}")
            listener.listen(BACKLOG)
            found[node] = listener
    return found


class Server:
    """Serves nodes until nobody can open them any more."""

    def __init__(self, given: Settings) -> None:
        self.faults = Faults(given.faults)
        self._quiet = given.quiet
        self._log = open(given.log, "a", buffering=1) if given.log else None  # noqa: SIM115
        self._loop = asyncio.get_running_loop()
        makers: dict[str, Callable[[], Driver]] = {
            "rocket": lambda: Rocket(self.faults, given.scale, given.caches, given.options, given.strict, self.say),
            "rknpu": lambda: Rknpu(self.faults, given.scale, given.caches, given.options, given.strict, self.say),
            "rknpu-misc": lambda: RknpuMisc(
                self.faults, given.scale, given.caches, given.options, given.strict, self.say
            ),
        }
        self._drivers = {name: make() for name, make in makers.items()}
        self._files: set[File] = set()
        self._opened = 0
        self._calls: set[asyncio.Task[None]] = set()
        self._abandoned = False
        self.finished = asyncio.Event()

    def say(self, text: str) -> None:
        """A line for the user, as a kernel's log would have it."""
        if not self._quiet:
            with contextlib.suppress(OSError):  # nobody reads stderr any more
                print(f"teflon-shim: {text}", file=sys.stderr, flush=True)
        self.record(f"# {text}")

    def record(self, text: str) -> None:
        """A line of the log."""
        if self._log is not None:
            self._log.write(f"{time.monotonic():.6f} {text}\n")

    def add(self, node: str, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept, node, listener)

    def watch(self, descriptor: int) -> None:
        """Ends when the process of a pidfd has ended and all nodes are closed."""

        def ended() -> None:
            self._loop.remove_reader(descriptor)
            self._abandoned = True
            self._consider()

        self._loop.add_reader(descriptor, ended)

    def _consider(self) -> None:
        if self._abandoned and not self._files:
            self.finished.set()

    def _accept(self, node: str, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # the client has gone, or there are no descriptors left: it will see a lost device
            return
        driver = next(self._drivers[name] for name, nodes in NODES.items() if node in nodes)
        peer, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        error, file = 0, File(driver, node, self._opened + 1, process=peer, root=user == 0)
        try:
            self.faults.call("open")
            driver.opened(file)
        except OSError as refusal:
            error = refusal.errno or errno.EIO
        try:
            connection.sendall(struct.pack("<i", error))
        except OSError:  # it has gone already
            connection.close()
            if not error:
                file.close()
            return
        self._opened += not error
        self.record(
            f'[{peer}] open("{node}") = ' + (f"-{errno.errorcode[error]}" if error else f"{node}#{file.number}")
        )
        if error:
            connection.close()
            return
        self._files.add(file)
        connection.setblocking(False)
        self._loop.add_reader(connection, self._receive, connection, file)

    def _receive(self, connection: socket.socket, file: File) -> None:
        """A call on a node, or its last descriptor was closed."""
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, REQUEST.size, 1)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._loop.remove_reader(connection)
            connection.close()
            file.calls -= 1
            self._release(file)
        elif descriptors:
            channel = Channel(socket.socket(fileno=descriptors[0]))
            if len(data) != REQUEST.size:
                channel.finish(-errno.EINVAL)
                return
            file.calls += 1
            task = self._loop.create_task(self._serve(file, channel, REQUEST.unpack(data)))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    def _release(self, file: File) -> None:
        """Closes a file whose descriptors are closed and whose last call is over, as a kernel does."""
        if not file.calls:
            file.close()
            self._files.discard(file)
            self.record(f"close({file.node}#{file.number})")
            self._consider()

    async def _serve(self, file: File, channel: Channel, request: tuple[int, ...]) -> None:
        """One call, from the request to its result and its line in the log."""
        start, result, call = time.monotonic(), 0, None
        kind, command, argument, length, flags = request
        ioctl = file.driver.ioctls.get(command & 0xFF)
        name = ioctl.name if ioctl else f"ioctl {command:#x}"
        try:
            if kind == IOCTL:
                self.faults.call(ioctl.fault if ioctl else "")
                if ioctl is None:
                    raise failure(errno.EINVAL)
                call = new_call(ioctl, channel, command, argument)
                result = await dispatch(file, ioctl, command, call)
            else:
                name = f"mmap offset={argument:#x} length={length}"
                self.faults.call("mmap")
                if not file.driver.can_map:
                    raise failure(errno.ENODEV)
                buffer = file.mapping(argument, length, bool(flags & 1))
                channel.give_descriptor(buffer.client)
        except Gone:
            result = -errno.EINTR
        except OSError as error:
            result = -(error.errno or errno.EIO)
        except Exception as error:  # a bug of ours: the client gets an error, and not a wait without end
            self.say(f"{name} failed: {type(error).__name__}: {error}")
            result = -errno.EIO
        channel.finish(result)
        file.calls -= 1
        self._release(file)
        if self.faults.problem:
            self.say(self.faults.problem)
            self.faults.problem = ""
        if self._log is not None:
            self._record_call(file, name, ioctl, call, result, time.monotonic() - start)

    def _record_call(
        self, file: File, name: str, ioctl: Ioctl | None, call: Call | None, result: int, seconds: float
    ) -> None:
        shown = f"{result}" if result >= 0 else f"-{errno.errorcode.get(-result, -result)}"
        fields = _fields(ioctl, call) if ioctl is not None and call is not None else ""
        self.record(f"{file.node}#{file.number} {name}{fields} = {shown} <{seconds:.6f}>")


def _fields(ioctl: Ioctl, call: Call) -> str:
    """The structure after the call: " size=4096 handle=1"; addresses and large numbers in hexadecimal."""
    names = [field.split(":") for field in ioctl.fields.split()]
    values = struct.unpack_from("<" + "".join(code for _, code in names), call.data)
    shown = [
        f"{name}={value if abs(value) < 1 << 20 else hex(value)}"
        for (name, _), value in zip(names, values, strict=True)
    ]
    return "".join(f" {text}" for text in shown if not text.startswith("_="))


async def _run(listeners: dict[str, socket.socket], given: Settings, client: int) -> None:
    server = Server(given)
    for node, listener in listeners.items():
        server.add(node, listener)
    server.watch(client)
    await server.finished.wait()


def serve(listeners: dict[str, socket.socket], given: Settings, client: int) -> None:
    """Serves until the process behind the pidfd ``client`` has ended and nobody has a node open any more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.setswitchinterval(0.001)  # the cores' threads simulate while calls are answered
    asyncio.run(_run(listeners, given, client))
    os._exit(0)  # the cores' threads may be in the middle of a run
