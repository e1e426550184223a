"""A client in C on both nodes, on this machine's architecture and, under qemu-user, on the board's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hw.shim.program_file import write_program

HERE = Path(__file__).resolve().parent
PRELOAD = HERE.parents[2] / "delegate" / "hw" / "shim" / "preload.c"
WARNINGS = ["-O2", "-Wall", "-Wextra", "-Werror"]
AARCH64 = ("aarch64-linux-gnu-gcc", "qemu-aarch64")
AARCH64_ROOT = "/usr/aarch64-linux-gnu"  # Debian's libraries for it


def compiled(compiler: str, folder: Path) -> str:
    target = folder / f"client-{compiler}"
    subprocess.run([compiler, *WARNINGS, "-o", target, HERE / "client.c"], check=True)
    return str(target)


@pytest.mark.parametrize("node", ["/dev/accel/accel0", "/dev/dri/card1", "/dev/dri/renderD129"])
def test_a_thousand_jobs_leave_nothing_behind(stand_in, convolution, tmp_path, node):
    server, client = stand_in(), compiled("gcc", tmp_path)
    name = "rocket" if "accel" in node else "rknpu"
    assert server.run([client, str(convolution), node, "10"]).stdout == f"{name}: 10 right\n"
    before = server.settled()
    assert server.run([client, str(convolution), node, "1000"]).stdout == f"{name}: 1000 right\n"
    assert server.settled() == before


@pytest.mark.parametrize("node", ["/dev/accel/accel0", "/dev/dri/card1"])
def test_a_whole_network_gives_the_simulators_bytes(stand_in, tmp_path, node):
    program = write_program("mobilenet_digits.tflite", tmp_path / "network")
    assert stand_in().run([compiled("gcc", tmp_path), str(program), node, "3"]).stdout.endswith(": 3 right\n")


@pytest.mark.skipif(not all(map(shutil.which, AARCH64)), reason="no gcc for aarch64, or no qemu-user")
@pytest.mark.parametrize("node", ["/dev/accel/accel0", "/dev/dri/card1"])
def test_a_client_for_aarch64_under_qemu(stand_in, convolution, tmp_path, node):
    """The library is the guest's, the server and its simulator are the host's."""
    compiler, emulator = AARCH64
    library = tmp_path / "libteflon-shim.so"
    shared = ["-shared", "-fPIC", "-fvisibility=hidden"]
    subprocess.run([compiler, *WARNINGS, *shared, "-o", library, PRELOAD, "-ldl"], check=True)
    server, client = stand_in(), compiled(compiler, tmp_path)
    del server.environment["LD_PRELOAD"]
    command = [emulator, "-L", AARCH64_ROOT, "-E", f"LD_PRELOAD={library}", client, str(convolution), node, "3"]
    assert server.run(command).stdout.endswith(": 3 right\n")
