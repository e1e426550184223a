"""Faults that are put in on purpose: ``submit:3=EIO; prep:p=0.01=EINTR; job:p=0.05=hang; iova:limit=1MiB``.

Each rule is WHAT:WHEN=EFFECT.

WHAT: ``open``, ``mmap``, ``version``, ``create``, ``map``, ``prep``, ``fini``, ``sync``, ``submit``, ``destroy``,
``action`` (calls); ``call`` (any of them); ``job`` (what the NPU runs); ``device`` (any call, too); ``iova`` (the
address space of a file).
WHEN: N (the Nth, from 1), ``every=N``, ``after=N`` (all behind the Nth), ``p=PROBABILITY``; for ``iova``: ``limit``.
EFFECT: the name of an error; for jobs ``hang`` and ``skip-task:N`` (from 0); for the device ``lost``; for ``iova`` a
size.
``seed=N`` seeds the probabilities. Text that begins with @ names a file, which is read again whenever it changes; all
counts begin anew then.
"""

from __future__ import annotations

import errno
import os
import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from delegate.errors import DelegateError

CALLS = ("open", "mmap", "version", "create", "map", "prep", "fini", "sync", "submit", "destroy", "action")
ANY = "call"
ERRORS = (
    "EACCES",
    "EBUSY",
    "EFAULT",
    "EINTR",
    "EINVAL",
    "EIO",
    "ENODEV",
    "ENOENT",
    "ENOMEM",
    "ENOSPC",
    "EPERM",
    "ETIMEDOUT",
)
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
RULE = re.compile(
    r"(?P<what>\w+):(?P<when>\d+|(?P<how>every|after|p)=(?P<value>[\d.]+|\.\d+)|limit)=(?P<effect>[\w:-]+)"
)


@dataclass(frozen=True)
class Rule:
    """One fault; ``how`` is "nth", "every", "after", "p" or "limit"."""

    what: str
    how: str
    value: float
    effect: str


@dataclass(frozen=True)
class JobFault:
    """What becomes of a job: it hangs, or one of its tasks is not run."""

    hang: bool = False
    skipped: int | None = None


def parse_rule(text: str) -> Rule:
    """One rule; raises DelegateError that says what is wrong with it."""
    match = RULE.fullmatch(text)
    if match is None:
        raise DelegateError(f"fault {text!r}: WHAT:WHEN=EFFECT, as in submit:3=EIO")
    what, how, effect = match["what"], match["how"] or ("limit" if match["when"] == "limit" else "nth"), match["effect"]
    try:
        value = float(match["value"] or (0 if how == "limit" else match["when"]))
    except ValueError:
        raise DelegateError(f"fault {text!r}: {match['value']} is no number") from None
    if (what == "iova") != (how == "limit"):
        raise DelegateError(f"fault {text!r}: limit is for iova, and iova takes a limit")
    if what == "iova":
        size_of(effect)
    elif what in (*CALLS, ANY) and effect not in ERRORS:
        raise DelegateError(f"fault {text!r}: {effect} is none of {', '.join(ERRORS)}")
    elif what == "job" and not re.fullmatch(r"hang|skip-task:\d+", effect):
        raise DelegateError(f"fault {text!r}: a job can hang or skip-task:N")
    elif what == "device" and effect != "lost":
        raise DelegateError(f"fault {text!r}: a device can be lost")
    elif what not in (*CALLS, ANY, "job", "device"):
        raise DelegateError(f"fault {text!r}: {what} is none of {', '.join(CALLS)}, {ANY}, job, device, iova")
    return Rule(what, how, value, effect)


def size_of(text: str) -> int:
    """Bytes of "1MiB"; raises DelegateError."""
    match = re.fullmatch(r"(\d+)([KMG]iB)?", text)
    if match is None:
        raise DelegateError(f"size {text!r}: a number of bytes, KiB, MiB or GiB")
    return int(match[1]) * UNITS[match[2] or ""]


class Faults:
    """The rules in force, with the counts of what has happened."""

    def __init__(self, text: str) -> None:
        self._path = Path(text[1:]) if text.startswith("@") else None
        self._stamp: tuple[int, int, int] | None = None
        self._rules: tuple[Rule, ...] = ()
        self._counts: Counter[str] = Counter()
        self._random = random.Random(0)
        self.lost = False
        self.problem = ""  # why the file's rules could not be taken
        if self._path is None:
            self._take(text)
        else:
            self.refresh()
            if self.problem:
                raise DelegateError(self.problem)

    def _take(self, text: str) -> None:
        items = [item.strip() for item in re.split(r"[;\n]", text) if item.strip() and not item.strip().startswith("#")]
        seeds = [item for item in items if item.startswith("seed=")]
        self._rules = tuple(parse_rule(item) for item in items if item not in seeds)
        self._random = random.Random(int(seeds[-1].partition("=")[2]) if seeds else 0)
        self._counts.clear()
        self.lost = False

    def refresh(self) -> None:
        """Reads the file if it changed; rules that are wrong leave none in force, and ``problem`` says why."""
        if self._path is None:
            return
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return
            self._stamp, self.problem = stamp, ""
            self._take(self._path.read_text())
        except (OSError, ValueError, DelegateError) as error:
            self._rules, self.problem = (), f"{self._path}: {error}"

    def _effect(self, what: str) -> str | None:
        """Counts one more of ``what``; the effect of the first rule that meets it."""
        self._counts[what] += 1
        count = self._counts[what]
        for rule in self._rules:
            if rule.what != what:
                continue
            met = {
                "nth": count == rule.value,
                "every": rule.value > 0 and count % rule.value == 0,
                "after": count > rule.value,
                "p": rule.how == "p" and self._random.random() < rule.value,
            }[rule.how]
            if met:
                return rule.effect
        return None

    def call(self, name: str) -> None:
        """Raises OSError if this call is to fail; ``name`` is one of CALLS or of no interest here."""
        self.refresh()
        if self._effect("device") == "lost":
            self.lost = True
        of_any = self._effect(ANY)
        effect = "ENODEV" if self.lost else self._effect(name) or of_any
        if effect is not None:
            number = getattr(errno, effect)
            raise OSError(number, os.strerror(number))

    def job(self) -> JobFault:
        """What becomes of the next job."""
        effect = self._effect("job")
        if effect is None:
            return JobFault()
        return JobFault(hang=True) if effect == "hang" else JobFault(skipped=int(effect.partition(":")[2]))

    def address_limit(self, whole: int) -> int:
        """Bytes of I/O addresses that a file may have mapped."""
        return min([whole, *(size_of(rule.effect) for rule in self._rules if rule.what == "iova")])
