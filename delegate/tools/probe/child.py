"""A risky question in a process of its own: `python -m delegate.tools.probe.child QUESTION DEVICE KERNEL [FILE]`.

Whatever becomes of that process is an answer: a core that hangs makes a job that never ends, and may take its process
with it into the kernel.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from typing import get_args

from delegate.errors import DelegateError
from delegate.hw.device import Kernel, open_device
from delegate.tools.probe.judge import Finding, Known, judge
from delegate.tools.probe.probes import PROBES
from delegate.tools.probe.rig import Answer, Rig

PATIENCE = 60.0  # seconds; the kernels' watchdogs end a job after half a second or some


def ask_apart(name: str, device: str, kernel: Kernel, like: str | None) -> Finding:
    """The answer of a process of its own; one that dies or does not come to an end is one whose job hangs."""
    command = [sys.executable, "-m", __name__, name, device, kernel, *([] if like is None else [like])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        output, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        with suppress(subprocess.TimeoutExpired):  # a process that waits in the kernel goes when that lets it go
            process.communicate(timeout=1)
        return no_answer(name, f"no answer in {PATIENCE:.0f} s")
    if process.returncode < 0:
        return no_answer(name, f"its process was ended by signal {-process.returncode}")
    if process.returncode:
        return Finding(None, (), (errors.strip().splitlines() or ["its process said nothing"])[-1])
    verdict, observed, note = json.loads(output)
    return Finding(verdict, tuple(None if text is None else bytes.fromhex(text) for text in observed), note)


def no_answer(name: str, why: str) -> Finding:
    """The verdict on jobs that never end."""
    probe = PROBES[name]()
    if not isinstance(probe, Known):
        return Finding(None, (), why)
    return judge([Answer(None, PATIENCE, why)] * len(probe.jobs), probe.expected)


def main(arguments: list[str]) -> None:
    """Prints the finding as JSON."""
    name, device_name, kernel, *like = arguments
    (known,) = [one for one in get_args(Kernel) if one == kernel]
    device = open_device(device_name, 1, known, like[0] if like else None)
    try:
        with Rig(device) as rig:
            finding = PROBES[name]().ask(rig)
    finally:
        device.close()
    observed = [None if output is None else output.hex() for output in finding.observed]
    print(json.dumps([finding.verdict, observed, finding.note]))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DelegateError as error:
        sys.exit(str(error))
