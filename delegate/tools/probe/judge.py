"""From the answers of a device to a verdict: each candidate says what it would have answered, exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from delegate.tools.probe.rig import Answer, Job, Rig

Ints = npt.NDArray[np.int64]


class Other(Enum):
    """Answers that are no bytes."""

    HANG = "the job never ends, or writes nothing"
    WRONG = "not the right bytes, whatever they are; no end is one of them"


HANG, WRONG = Other.HANG, Other.WRONG
Expected = npt.NDArray[np.uint8] | Other


@dataclass(frozen=True)
class Finding:
    """What a probe has found: a candidate, or None if it was none of them; what the output held after each job."""

    verdict: str | None
    observed: tuple[bytes | None, ...]
    note: str = ""


@dataclass(frozen=True)
class Known:
    """A probe of jobs whose answers each candidate knows. ``expected``: by candidate, an answer a job."""

    jobs: tuple[Job, ...]
    expected: Mapping[str, tuple[Expected, ...]]

    def ask(self, rig: Rig) -> Finding:
        return judge([rig.run(job) for job in self.jobs], self.expected)


Ask = Callable[[Rig], Finding]


def judge(answers: Sequence[Answer], expected: Mapping[str, tuple[Expected, ...]]) -> Finding:
    """The one candidate that all answers fit."""
    fitting = [
        name
        for name, wanted in expected.items()
        if all(
            fits(answer, one, [known[index] for known in expected.values()])
            for index, (answer, one) in enumerate(zip(answers, wanted, strict=True))
        )
    ]
    errors = "; ".join(dict.fromkeys(answer.error for answer in answers if answer.error))
    observed = tuple(None if answer.output is None else answer.output.tobytes() for answer in answers)
    return Finding(fitting[0] if len(fitting) == 1 else None, observed, errors)


def fits(answer: Answer, wanted: Expected, all_known: Sequence[Expected]) -> bool:
    """Whether a candidate would have answered so. ``all_known``: what all of them say about this job."""
    if wanted is HANG:
        return answer.output is None
    if wanted is WRONG:
        return not any(isinstance(known, np.ndarray) and same(answer, known) for known in all_known)
    return isinstance(wanted, np.ndarray) and same(answer, wanted)


def same(answer: Answer, wanted: npt.NDArray[np.uint8]) -> bool:
    return answer.output is not None and np.array_equal(answer.output, wanted)


# The candidates' arithmetic, apart from the simulator's.


def divided(values: Ints, shift: int, rule: str) -> Ints:
    """values / 2**shift by a rule of hw.questions.ROUNDINGS, or one of the operand converter's."""
    unit = 1 << shift
    down, rest = np.divmod(values, unit)
    above, tie = 2 * rest > unit, 2 * rest == unit
    up = {
        "even": above | (tie & (down % 2 == 1)),
        "away": above | (tie & (values > 0)),
        "floor": np.zeros_like(above),
        "half to zero": above | (tie & (values < 0)),
        "half down": above,
        "to zero": (values < 0) & (rest > 0),
    }[rule]
    result: Ints = down + (up & (rest > 0))
    return result


def clipped(values: Ints, bits: int = 8) -> Ints:
    result: Ints = np.clip(values, -(1 << bits - 1), (1 << bits - 1) - 1)
    return result


def wrapped(values: Ints, bits: int = 8) -> Ints:
    half = 1 << bits - 1
    result: Ints = (values + half) % (2 * half) - half
    return result
