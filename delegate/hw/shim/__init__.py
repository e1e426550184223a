"""A stand-in for the board: runs any program with the device nodes of both kernel drivers, whose jobs are simulated.

``delegate-shim COMMAND…`` starts a server (server.py) and then becomes the command, with preload.c loaded into it. The
server leaves when the command has ended and no node is open any more.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from delegate.errors import DelegateError

FOLDER = Path(__file__).resolve().parent
LIBRARY = "libteflon-shim.so"
CHOICES = ("rocket", "rknpu", "rknpu-misc", "both")
BOTH = ("rocket", "rknpu")

EPILOG = """\
environment (options win):
  TEFLON_SHIM             which nodes there are: rocket, rknpu, both of them (the default), or rknpu-misc: /dev/rknpu,
                          the vendor's driver without DRM
  TEFLON_SHIM_FAULTS      faults to put in, or @FILE with them, read again when it changes, for example
                          "submit:3=EIO; prep:p=0.01=EINTR; job:7=skip-task:2; job:p=0.05=hang;
                          device:after=100=lost; iova:limit=1MiB; seed=1"
  TEFLON_SHIM_TIME_SCALE  factor on the kernels' own time limits (the 500 ms of the watchdog)
  TEFLON_SHIM_LOG         file for a line a call
  TEFLON_SHIM_CACHES      1: CPU and NPU see each other's bytes only where they are synchronised
  TEFLON_SHIM_STRICT      1: says once each what kernels and chip let pass in silence: buffers that no list has, that
                          were not synchronised, or that a task runs out of; programs that may hang
  TEFLON_SHIM_CAPABILITIES  a capability file: the silicon behaves as that board's (python -m delegate probe)
  TEFLON_SHIM_QUIET       1: nothing on stderr about jobs that the simulator refuses
"""


def library_path() -> Path:
    """The library for LD_PRELOAD; raises DelegateError when it is not built."""
    path = FOLDER / LIBRARY
    if not path.exists():
        raise DelegateError(f"{path} is not built; run `make`, or install the package")
    return path


def start(environment: dict[str, str], process: int | None = None) -> dict[str, str]:
    """Starts a server; returns the environment for programs that are to see the nodes.

    The server leaves when ``process`` has ended (a pid; this process, or what it becomes by exec) and all nodes are
    closed. Raises DelegateError for a wrong setting, or if the library is not built.
    """
    from delegate.hw.shim.faults import Faults
    from delegate.hw.shim.server import NODES, listen, serve, settings

    library, nodes = library_path(), environment.get("TEFLON_SHIM") or "both"
    if nodes not in CHOICES:
        raise DelegateError(f"TEFLON_SHIM={nodes}: {', '.join(CHOICES)}")
    try:
        given = settings(environment)
        Faults(given.faults)
        if given.log:
            Path(given.log).touch()
    except (ValueError, OSError) as error:
        raise DelegateError(f"the stand-in's settings: {error}") from None
    prefix = f"teflon-shim.{os.getpid()}.{secrets.token_hex(8)}"
    listeners = listen(prefix, [name for name in NODES if nodes == name or (nodes == "both" and name in BOTH)])
    client = os.pidfd_open(os.getpid() if process is None else process)
    middle = os.fork()
    if not middle:
        _leave({client, *(listener.fileno() for listener in listeners.values())})
        try:
            serve(listeners, given, client)
        finally:
            os._exit(1)
    os.waitpid(middle, 0)
    os.close(client)
    for listener in listeners.values():
        listener.close()
    preload = " ".join(filter(None, (str(library), environment.get("LD_PRELOAD"))))
    return {**environment, "LD_PRELOAD": preload, "TEFLON_SHIM": nodes, "TEFLON_SHIM_SOCKET": prefix}


def _leave(kept: set[int]) -> None:
    """Leaves the terminal, the parent, which must not have a child that it does not know of, and its descriptors.

    Only stderr stays, for what the kernel would log.
    """
    os.setsid()
    if os.fork():
        os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor > 2 and descriptor not in kept:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def run(command: Sequence[str], environment: dict[str, str]) -> None:
    """Becomes ``command`` with the stand-in's nodes; raises DelegateError if it cannot be run."""
    environment = start(environment)
    try:
        os.execvpe(command[0], list(command), environment)
    except OSError as error:
        raise DelegateError(f"{command[0]}: {error.strerror}") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``delegate-shim``."""
    parser = argparse.ArgumentParser(
        prog="delegate-shim",
        description="Runs a program with the NPU's device nodes, whose jobs are executed on the simulator.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", choices=CHOICES, help="which nodes there are")
    parser.add_argument("--log", metavar="FILE", help="file for a line a call")
    parser.add_argument("--strict", action="store_const", const="1", help="say what kernels and chip let pass")
    parser.add_argument("--faults", metavar="RULES", help="faults to put in, or @FILE")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND…")
    given = parser.parse_args(arguments)
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    if not command:
        parser.error("a command is needed")
    options = {
        "TEFLON_SHIM": given.nodes,
        "TEFLON_SHIM_LOG": given.log,
        "TEFLON_SHIM_STRICT": given.strict,
        "TEFLON_SHIM_FAULTS": given.faults,
    }
    try:
        run(command, {**os.environ, **{name: value for name, value in options.items() if value is not None}})
    except DelegateError as error:
        sys.exit(f"error: {error}")
