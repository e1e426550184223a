"""Processes that fork, hand nodes on, are killed; a server that is killed; and what stays behind: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chosen import OUTSIDE

LOAD = """
program = Program.load(sys.argv[1])
node = Rocket()
bos = node.load(program)
out = bos[program.writes[0]]
"""
ROOT = Path(__file__).resolve().parents[3]


def test_descriptors_are_duplicated_inherited_and_handed_on(stand_in, convolution):
    """dup, dup2, F_DUPFD, fork, exec and passing through a socket: the file lives until the last is closed."""
    server = stand_in()
    server.script(
        LOAD
        + """
import socket, subprocess
first = node.fd
copies = [os.dup(first), fcntl.fcntl(first, fcntl.F_DUPFD_CLOEXEC, 50), os.dup2(first, 70)]
os.close(first)
for copy in copies:
    node.fd = copy
    node.run(program, bos)
    node.prep(out)
check(program, node, bos)
left, right = socket.socketpair()
if not os.fork():
    node.run(program, bos)
    node.prep(out)
    check(program, node, bos)
    got = socket.recv_fds(right, 1, 1)[1][0]
    assert version(got)[1] == "rocket"
    os._exit(0)
socket.send_fds(left, [b"x"], [copies[1]])
assert os.wait()[1] == 0
child = "from abi import *; assert error_of(70, PREP_BO, 'IIq', 1, 0, 0) == ''"
subprocess.run([sys.executable, "-c", child], pass_fds=[70], check=True)
""",
        convolution,
    )
    server.settled()
    assert sum("close(" in line for line in server.lines()) == 1


def test_fork_in_the_middle_of_the_calls_of_other_threads(stand_in, convolution):
    stand_in().script(
        LOAD
        + """
stop, failed = threading.Event(), []

def work():
    while not stop.is_set():
        try:
            node.prep(out)
        except BaseException as error:
            failed.append(error)

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(30):
    if not os.fork():
        node.prep(out)
        other = Rocket()
        assert other.create(4096).address == 0
        os._exit(0)
    assert os.wait()[1] == 0
stop.set()
for thread in threads:
    thread.join()
assert not failed, failed
""",
        convolution,
    )


def test_a_killed_client_leaves_nothing_behind(stand_in, convolution):
    server = stand_in("job:1=hang", TEFLON_SHIM_TIME_SCALE="0.5")
    server.script("Rocket().create(4096)")
    before = server.settled()
    text = "import sys\nfrom abi import *\n" + LOAD + "node.run(program, bos)\nprint('on', flush=True)\nnode.prep(out)"
    command = [sys.executable, "-c", text, str(convolution)]
    client = subprocess.Popen(command, env=server.environment, stdout=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.readline() == b"on\n"
    client.send_signal(signal.SIGKILL)
    client.wait()
    assert server.settled() == (before[0], before[1] + 1), "one core's thread has started"
    server.script(LOAD + "node.run(program, bos)\nnode.prep(out)\ncheck(program, node, bos)", convolution)


@pytest.mark.parametrize("kind", ["Rocket", "Rknpu"])
def test_clients_killed_at_any_moment_leave_nothing_behind(stand_in, convolution, kind):
    server = stand_in()
    text = "import sys\nfrom abi import *\nprogram = Program.load(sys.argv[1])\nprint('on', flush=True)\n"
    text += f"while True:\n    node = {kind}()\n    node.run(program, node.load(program))"
    command = [sys.executable, "-c", text, str(convolution)]

    def kill_some(count: int) -> None:
        for index in range(count):
            client = subprocess.Popen(command, env=server.environment, stdout=subprocess.PIPE)
            assert client.stdout is not None
            assert client.stdout.readline() == b"on\n"
            time.sleep(index * 0.0037 % 0.05)
            client.kill()
            client.wait()
            client.stdout.close()

    kill_some(5)
    before = server.settled()
    kill_some(25)
    assert server.settled()[0] == before[0]
    ends = "" if kind == "Rknpu" else "node.prep(bos[program.writes[0]])\n"
    text = f"node = {kind}()\nprogram = Program.load(sys.argv[1])\nbos = node.load(program)\nnode.run(program, bos)\n"
    server.script(text + ends + "check(program, node, bos)", convolution)


def test_a_killed_server_is_a_lost_device_and_not_a_wait_without_end(stand_in, convolution):
    server = stand_in("job:1=hang", TEFLON_SHIM_TIME_SCALE="1000")
    server.environment["SERVER"] = str(server.pid())
    server.script(
        LOAD
        + """
node.run(program, bos)
threading.Timer(0.2, os.kill, (int(os.environ["SERVER"]), signal.SIGKILL)).start()
assert node.error(PREP_BO, "IIq", out.handle, 0, FOREVER) == "ENODEV"
assert node.error(CREATE_BO, "IIQQ", 4096, 0, 0, 0) == "ENODEV"
try:
    Rocket()
except OSError as error:
    assert error.errno == errno.ENODEV
out.view[:4] = b"mine"  # mapped memory stays
""",
        convolution,
    )


@pytest.mark.parametrize("way", ["ends", "killed"])
def test_the_server_leaves_with_the_command(tmp_path, way):
    """delegate-shim becomes the command: its status, no child that it does not know of, no file, no process."""
    shared = set(os.listdir("/dev/shm")), {name for name in os.listdir("/tmp") if "shim" in name}
    log = tmp_path / "log"
    text = "import os, sys, time; fd = os.open('/dev/accel/accel0', os.O_RDWR); print(os.getpid(), flush=True)\n"
    text += "try:\n    os.wait()\nexcept ChildProcessError:\n    pass\n"
    text += "sys.exit(7)" if way == "ends" else "time.sleep(100)"
    command = [sys.executable, "-m", "delegate", "shim", "--log", str(log), "--", sys.executable, "-c", text]
    client = subprocess.Popen(command, cwd=ROOT, env=OUTSIDE, stdout=subprocess.PIPE)
    assert client.stdout is not None
    assert int(client.stdout.readline()) == client.pid
    if way == "killed":
        client.kill()
    assert client.wait(20) == (7 if way == "ends" else -signal.SIGKILL)
    deadline = time.monotonic() + 10
    while users(log):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "close(accel0#1)" in log.read_text()
    assert (set(os.listdir("/dev/shm")), {name for name in os.listdir("/tmp") if "shim" in name}) == shared


def users(path: Path) -> list[str]:
    """Processes that have a file open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found += [process.name for fd in (process / "fd").iterdir() if os.readlink(fd) == str(path)]
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "a command is needed"),
        (["--nodes", "npu", "ls"], "invalid choice"),
        (["--faults", "submit=EIO", "ls"], "WHAT:WHEN=EFFECT"),
        (["--log", "/nowhere/log", "ls"], "/nowhere/log"),
        (["/nowhere/command"], "/nowhere/command: No such file or directory"),
    ],
)
def test_a_wrong_command_line_is_told_in_a_line(arguments, said):
    command = [sys.executable, "-m", "delegate", "shim", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode in (1, 2)
    assert said in result.stderr
    assert "Traceback" not in result.stderr
