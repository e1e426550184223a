"""Every fault, on both kernels, from loading on, at the first invoke and later: right results or a clean error.

The cases of a kernel run in one process (fault_client.py); the tests look at what became of each.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hw.shim.fault_client import Outcome

from delegate.hw.shim.faults import ERRORS

LONGEST = 3600  # seconds
ORDINARY = 100  # invokes under random faults
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
TASKS, SKIPPED = 5, 2  # of fault_client's model; one in the middle
KERNELS = ("rocket", "rknpu")
PHASES = ("load", "first", "steady")
NOT_FOR_US = ("EACCES", "EPERM", "ENOENT")  # of an open: the user has to do something
StandIns = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """``lines``: how many the user sees; None: the CPU may not stand in, and the invokes are errors."""

    rules: str
    phase: str
    fallback: str
    lines: int | None

    @property
    def arguments(self) -> dict[str, str]:
        return {"rules": self.rules, "phase": self.phase, "fallback": self.fallback}


def matrix() -> list[Case]:
    """Faults that pass, which nobody notices, and those that last."""
    found = []
    for phase in PHASES:
        call = "create" if phase == "load" else "submit"
        passing = [f"{call}:1={name}" for name in ("EIO", "ENOMEM", "EBUSY", "EINTR", "ETIMEDOUT")]
        passing += ["job:1=hang", f"job:1=skip-task:{SKIPPED}; job:{SKIPPED + 1}=skip-task:{SKIPPED}"]
        lasting = [f"{call}:after=0={name}" for name in ("EIO", "ENOMEM", "EBUSY", "EINTR", "ETIMEDOUT")]
        lasting += ["job:after=0=hang", f"job:after=0=skip-task:{SKIPPED}", "device:1=lost", f"{call}:1=EINVAL"]
        found += [Case(rules, phase, "cpu", 0) for rules in passing]
        found += [Case(rules, phase, "cpu", 1) for rules in lasting]
        found += [Case(rules, phase, "error", None) for rules in lasting]
    found.append(Case("iova:limit=4KiB", "load", "cpu", 1))
    found.append(Case("iova:limit=4KiB", "load", "error", None))
    every = range(TASKS)
    found += [Case(f"job:after=0=skip-task:{task}", "first", "error", None) for task in every if task != SKIPPED]
    found.append(Case(f"job:after=0=skip-task:{TASKS}", "first", "cpu", 0))  # there is none
    return found


CASES = matrix()


def outcomes(stand_in: Any, kernel: str, cases: list[dict[str, Any]]) -> list[Outcome]:
    """What became of cases in one process."""
    script = HERE / "fault_client.py"
    command = [sys.executable, str(script), kernel, str(stand_in.faults), str(stand_in.pid()), json.dumps(cases)]
    return [
        Outcome(**json.loads(line)) for line in stand_in.run(command, cwd=ROOT, timeout=LONGEST).stdout.splitlines()
    ]


PATHS = {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
made: dict[str, list[Outcome]] = {}  # by kernel; pytest's own fixtures of a module cannot use those of a test


@pytest.fixture
def outcome(stand_in: StandIns, case: Case, kernel: str) -> Outcome:
    if kernel not in made:
        made[kernel] = []  # should it fail, then once
        made[kernel] = outcomes(stand_in(**PATHS), kernel, [case.arguments for case in CASES])
    return made[kernel][CASES.index(case)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.phase} {case.rules} {case.fallback}")
@pytest.mark.parametrize("kernel", KERNELS)
def test_results_are_right_or_errors_and_nothing_is_left(outcome: Outcome, case: Case, kernel: str) -> None:
    assert not outcome.left
    if case.lines is None:
        assert all("teflon: " in line for line in outcome.lines)
        faulty, after = outcome.results[:2], outcome.results[2:]
        assert "wrong" not in faulty
        assert faulty[0] != "right"
        assert all(text == "right" or f"device {kernel}" in text or "DRM_IOCTL" in text for text in faulty)
        assert all(text == "right" for text in after)
        return
    assert outcome.results == ["right"] * len(outcome.results)
    assert len(outcome.lines) == case.lines, outcome.lines
    if case.lines:
        assert outcome.lines[0].startswith(f"teflon: device {kernel} failed, the CPU computes in its place")
        assert "fallback=error" in outcome.lines[0]


def test_the_page_lists_the_faults_of_the_matrix() -> None:
    page = (ROOT / "docs" / "faults.md").read_text()
    listed = {rules for rules in re.findall(r"`([^`\n]*)`", page) if re.match(r"\w+:\S*=", rules)}
    tested = {case.rules for case in CASES if case.phase == "first" or case.rules.startswith("iova")}
    others = {f"job:after=0=skip-task:{task}" for task in range(TASKS + 1) if task != SKIPPED}
    assert listed == tested - others


@pytest.mark.parametrize("kernel", KERNELS)
def test_whichever_call_fails(stand_in: StandIns, kernel: str, pytestconfig: pytest.Config) -> None:
    """From the first open to the last close, one call each time: with EIO, with another error, or the device is gone.

    With more than the ordinary ``--fault-invokes`` each call fails in all three ways.
    """
    server = stand_in(**PATHS)
    (whole,) = outcomes(server, kernel, [{"rules": "", "phase": "load"}])
    assert whole.results == ["right", "right"]
    assert whole.calls > 30
    rules = []
    for number in range(1, whole.calls + 1):
        ways = [f"call:{number}=EIO", f"device:{number}=lost", f"call:{number}={ERRORS[number // 3 % len(ERRORS)]}"]
        rules += ways if pytestconfig.getoption("--fault-invokes") > ORDINARY else [ways[number % len(ways)]]
    found = outcomes(server, kernel, [{"rules": text, "phase": "load"} for text in rules])
    assert len(found) == len(rules)
    for text, outcome in zip(rules, found, strict=True):
        assert not outcome.left, text
        assert len(outcome.lines) <= 1, text
        if outcome.results != ["right", "right"]:  # the user has no access, or no node
            assert text.endswith(NOT_FOR_US), text
            said = ("permission denied", text.rpartition("=")[2])
            assert any(word in outcome.results[0] for word in said), text


CHANCES = (
    "open:p=0.02=EIO; mmap:p=0.01=ENOMEM; create:p=0.01=ENOMEM; prep:p=0.01=EINTR; prep:p=0.005=ETIMEDOUT;"
    "sync:p=0.005=EIO; fini:p=0.005=EIO; submit:p=0.01=EIO; submit:p=0.005=ENOMEM; submit:p=0.005=EBUSY;"
    "destroy:p=0.01=EIO; action:p=0.01=EBUSY; job:p=0.01=hang; job:p=0.02=skip-task:1; job:p=0.02=skip-task:2;"
    "call:p=0.002=EINVAL; device:p=0.0005=lost"
)


@pytest.mark.parametrize("kernel", KERNELS)
def test_random_faults_over_many_invokes(stand_in: StandIns, kernel: str, pytestconfig: pytest.Config) -> None:
    """``--fault-invokes 10000`` is the long run; what the server and the client have at the end is as before."""
    invokes = pytestconfig.getoption("--fault-invokes")
    server = stand_in(**PATHS)
    (outcome,) = outcomes(server, kernel, [{"rules": CHANCES, "invokes": invokes, "seed": 1}])
    assert outcome.results == [f"{invokes} right"]
    assert not outcome.left
    assert all(line.startswith("teflon: ") for line in outcome.lines), outcome.lines
    assert len(outcome.lines) < 40
    server.settled()
    print(f"{kernel}: {invokes} invokes, {outcome.lines}")
