"""Stand-ins for the tests: one server each, client scripts that run under it as processes of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from chosen import OUTSIDE
from hw.shim.program_file import write_program

from delegate.hw.shim import start

HERE = Path(__file__).resolve().parent
TIMEOUT = 60  # seconds
SCALE = "0.02"  # of the kernels' time limits: the watchdog comes after 10 ms


class StandIn(SimpleNamespace):
    """A server with its environment; ``log`` and ``faults`` are files."""

    def run(self, command: list[str], status: int = 0, **more: object) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=TIMEOUT, check=False, **more
        )
        assert result.returncode == status, result.stdout + result.stderr
        return result

    def script(self, text: str, *arguments: object) -> str:
        """Runs Python text that knows everything in abi.py; returns what it prints."""
        header = "import sys, os, time, struct, threading, signal, select\nfrom abi import *\n"
        return self.run([sys.executable, "-c", header + text, *map(str, arguments)]).stdout

    def pid(self) -> int:
        """The server's: it has the log open."""
        deadline = time.monotonic() + 20  # it may still be starting
        while time.monotonic() < deadline:
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    if any(os.readlink(fd) == str(self.log) for fd in (process / "fd").iterdir()):
                        return int(process.name)
        raise ProcessLookupError

    def settled(self) -> tuple[int, int]:
        """(descriptors, threads) of the server once no node is open and no buffer is mapped."""
        deadline = time.monotonic() + 20
        process = Path(f"/proc/{self.pid()}")
        while self.opened() or "npu buffer" in (process / "maps").read_text():
            assert time.monotonic() < deadline, "a file or a buffer is left"
            time.sleep(0.02)
        return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))

    def opened(self) -> int:
        """How many nodes are open, by the log."""
        lines = self.lines()
        return sum("open(" in line and "#" in line for line in lines) - sum(line.startswith("close(") for line in lines)

    def lines(self) -> list[str]:
        """The log without times."""
        return [line.partition(" ")[2].partition(" <")[0] for line in Path(self.log).read_text().splitlines()]


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[Callable[..., StandIn]]:
    """Makes stand-ins; ``stand_in(faults="submit:1=EIO", TEFLON_SHIM="rocket")``."""
    anchors = []

    def make(faults: str = "", **environment: str) -> StandIn:
        anchors.append(subprocess.Popen(["sleep", "1000"]))
        rules = tmp_path / f"faults{len(anchors)}"
        rules.write_text(faults)
        log = tmp_path / f"log{len(anchors)}"
        given = {
            **OUTSIDE,
            "PYTHONPATH": str(HERE),
            "TEFLON_SHIM_LOG": str(log),
            "TEFLON_SHIM_FAULTS": f"@{rules}",
            "TEFLON_SHIM_TIME_SCALE": SCALE,
            "TEFLON_SHIM_QUIET": "1",
            **environment,
        }
        return StandIn(environment=start(given, anchors[-1].pid), log=log, faults=rules, anchor=anchors[-1])

    yield make
    for anchor in anchors:
        anchor.kill()
        anchor.wait()


@pytest.fixture(scope="session")
def convolution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of two convolutions' tasks, as a file."""
    return write_program("CONV_2D", tmp_path_factory.mktemp("programs") / "convolution")


@pytest.fixture(scope="session")
def pooling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program of two tasks that fire the PPU only, as a file."""
    return write_program("MAX_POOL_2D VALID NONE", tmp_path_factory.mktemp("programs") / "pooling", "rknpu")
