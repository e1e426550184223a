"""The delegate killed in the middle of a job, and the kernel killed: nothing is left, and nobody waits for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PATHS = {"PYTHONPATH": f"{HERE}:{ROOT / 'tests'}:{ROOT}"}
KERNELS = ("rocket", "rknpu")
SETUP = """
import sys
from fault_client import INPUTS, make, np, run
interpreter = make(device=sys.argv[1])
wanted = [run(make(device="simulator", kernel=sys.argv[1]), data) for data in INPUTS]
print("on", flush=True)
"""
ONE_MORE = "print(np.array_equal(run(interpreter, INPUTS[{0}]), wanted[{0}]), flush=True)\n"


def client(server: Any, kernel: str, text: str) -> subprocess.Popen[str]:
    """A process that has loaded a model."""
    process = subprocess.Popen(
        [sys.executable, "-c", SETUP + text, kernel],
        env=server.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    return process


def shared_memory() -> set[str]:
    names = [*os.listdir("/dev/shm"), *os.listdir("/tmp")]  # which are other processes', too
    return {name for name in names if "shim" in name or "npu" in name}


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_process_killed_in_the_middle_of_a_job_leaves_nothing(stand_in: Callable[..., Any], kernel: str) -> None:
    server = stand_in("job:1=hang", TEFLON_SHIM_TIME_SCALE="0.3", **PATHS)
    before = shared_memory()
    process = client(server, kernel, ONE_MORE.format(0))
    while not any(" SUBMIT " in line or "never ends" in line or "watchdog" in line for line in server.lines()):
        assert process.poll() is None
    process.kill()
    process.communicate()
    server.settled()  # no node is open, no buffer mapped
    assert shared_memory() == before
    other = client(server, kernel, ONE_MORE.format(1))  # the cores are free again
    assert other.communicate(timeout=60)[0] == "True\n"
    server.settled()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_that_goes_in_the_middle_of_a_job_is_a_lost_device(stand_in: Callable[..., Any], kernel: str) -> None:
    """The invoke that runs, and all later ones, are the CPU's; the process ends as ever."""
    server = stand_in("job:1=hang", TEFLON_SHIM_TIME_SCALE="1000", **PATHS)
    before = shared_memory()
    process = client(server, kernel, "".join(ONE_MORE.format(number) for number in range(4)))
    while not any("a fault was put in" in line for line in server.lines()):
        assert process.poll() is None
    os.kill(server.pid(), signal.SIGKILL)
    output, errors = process.communicate(timeout=60)
    assert output == "True\n" * 4
    assert process.returncode == 0
    (line,) = [line for line in errors.splitlines() if not line.startswith("INFO: ")]
    assert line.startswith(f"teflon: device {kernel} failed, the CPU computes in its place")
    assert "ENODEV" in line
    assert shared_memory() == before
