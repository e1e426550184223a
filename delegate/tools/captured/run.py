"""Runs a capture operation by operation; what silicon would refuse ends the operation, not the replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from delegate.errors import SimulatorError
from delegate.tools.capture import Capture, CaptureStart, CaptureTask
from delegate.tools.replay import Replay


@dataclass(frozen=True)
class Unit:
    """The jobs of one operation, or one job where the capture names no operations."""

    submit: int
    first_job: int
    operation: int | None  # index in the graph's operations
    jobs: tuple[tuple[CaptureStart, ...], ...]

    @property
    def tasks(self) -> int:
        return sum(start.tasks for job in self.jobs for start in job)

    @property
    def streams(self) -> list[CaptureTask]:
        """The first stream of every start."""
        return [start.task for job in self.jobs for start in job]


@dataclass
class Outcome:
    """What became of a unit."""

    unit: Unit
    errors: list[str] = field(default_factory=list)  # where silicon would hang, fault or compute garbage
    warnings: list[str] = field(default_factory=list)


def units(capture: Capture, submit: int) -> Iterator[Unit]:
    """The jobs of a submit, those of one operation together."""
    jobs = [job for job in capture.submits[submit].starts if job]
    first = 0
    for last in range(1, len(jobs) + 1):
        operation = jobs[first][0].operation
        if last == len(jobs) or operation is None or jobs[last][0].operation != operation:
            yield Unit(submit, first, operation, tuple(jobs[first:last]))
            first = last


def execute(replay: Replay, unit: Unit) -> Outcome:
    """Runs a unit; a refused task ends its job, as the kernel's timeout would, and resets the core."""
    outcome = Outcome(unit)
    before = dict(replay.warnings)
    submit = replay.capture.submits[unit.submit]
    for job in unit.jobs:
        for core in {start.core for start in job}:
            replay.machine(core).begin_job()
        for start in job:
            replay.restore(submit)
            try:
                replay.machine(start.core).run_chain(start.task.address, start.task.fetched, start.tasks)
            except SimulatorError as error:
                outcome.errors.append(str(error))
                outcome.warnings += replay.machine(start.core).warnings
                del replay.cores[start.core]
                break
    after = replay.warnings
    outcome.warnings += [text for text, count in after.items() if count != before.get(text, 0)]
    outcome.warnings = sorted(set(outcome.warnings))
    return outcome
