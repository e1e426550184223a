"""What a mutation did, and for one without effect: what the blocks saw changed, and why that does not matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from delegate.hw.registers import Block, Register
from delegate.hw.sim.machine import Decoded
from delegate.hw.sim.registers import UNWRITTEN, TaskRegisters
from delegate.tools.mutate.mutations import Mutation
from delegate.tools.mutate.subjects import Run, Subject

Verdict = Literal["refused", "changed", "warned", "none"]
FIRED, TABLES = "fired blocks", "LUT tables"
BITS_WITHOUT_NAME = "unnamed bits"


@dataclass(frozen=True)
class Change:
    """A difference in what a task executes: ``field`` is block.register.field."""

    task: int
    field: str
    old: int
    new: int


@dataclass(frozen=True)
class Reason:
    """Why a changed field may have no effect. ``when`` must hold for the registers before and after the mutation.

    ``fields``: patterns of Change.field. ``data``: the effect depends on the data at hand; then another mutation of
    the same field must have been seen to have an effect.
    """

    fields: tuple[str, ...]
    why: str
    when: Callable[[TaskRegisters, Change], bool] = lambda registers, change: True
    data: bool = False

    def covers(self, change: Change, before: TaskRegisters, after: TaskRegisters) -> bool:
        if not any(fnmatchcase(change.field, pattern) for pattern in self.fields):
            return False
        return self.when(before, change) and self.when(after, change)


@dataclass(frozen=True)
class Outcome:
    """What became of a mutation; ``reasons`` explain one without effect, ``unexplained`` is what they leave."""

    verdict: Verdict
    message: str = ""
    fields: tuple[str, ...] = ()  # that the reasons are about, one each
    reasons: tuple[Reason, ...] = ()
    unexplained: tuple[str, ...] = ()


def held(group: object, register: Register) -> int:
    """The value of a register in a group, or what the blocks take where nobody wrote it."""
    assert isinstance(group, dict)
    value: int = group.get(register.offset, UNWRITTEN.get(register, register.reset))
    return value


def differences(before: Sequence[Decoded], after: Sequence[Decoded]) -> Iterator[Change]:
    """All differences between what two runs executed."""
    for index, (old, new) in enumerate(zip(before, after, strict=False)):
        mine, other = old.registers, new.registers
        if set(mine.groups) != set(other.groups):
            yield Change(index, FIRED, len(mine.groups), len(other.groups))
        for block in mine.groups.keys() & other.groups.keys():
            yield from _registers(index, block, mine, other)
        if mine.tables != other.tables:
            yield Change(index, TABLES, 0, 0)


def _registers(index: int, block: type[Block], mine: TaskRegisters, other: TaskRegisters) -> Iterator[Change]:
    for register in block.registers():
        old, new = held(mine.groups[block], register), held(other.groups[block], register)
        if old == new:
            continue
        for label, bits in register.fields.items():
            if (old ^ new) & bits.mask:
                name = f"{register.full_name}.{label}"
                yield Change(index, name, (old & bits.mask) >> bits.low, (new & bits.mask) >> bits.low)
        if (old ^ new) & ~register.known_mask:
            yield Change(index, f"{register.full_name}.{BITS_WITHOUT_NAME}", old, new)


def judge(
    subject: Subject, base: Run, mutation: Mutation, reasons: Sequence[Reason], unseen: Sequence[Reason]
) -> Outcome:
    """Runs the mutation. ``unseen``: reasons, by the mutation's row, where the blocks see no difference at all."""
    run = subject.run(mutation.stream, mutation.apply(subject.streams[mutation.stream].words))
    if run.error is not None:
        return Outcome("refused", run.error)
    if not run.same_memory(base):
        return Outcome("changed")
    if run.warnings - base.warnings:
        return Outcome("warned", min(run.warnings - base.warnings))
    changes = list(differences(base.tasks, run.tasks))
    if not changes:
        row = Change(0, f"{mutation.row[0]}.{mutation.row[1]}", 0, 0)
        return _explained([(row, unseen)], base, run)
    return _explained([(change, reasons) for change in changes], base, run)


def _explained(changes: Sequence[tuple[Change, Sequence[Reason]]], base: Run, run: Run) -> Outcome:
    found: list[tuple[str, Reason]] = []
    missing: list[str] = []
    for change, known in changes:
        before, after = base.tasks[change.task].registers, run.tasks[change.task].registers
        fitting = sorted(
            (reason for reason in known if reason.covers(change, before, after)), key=lambda reason: reason.data
        )
        found += [(change.field, reason) for reason in fitting[:1]]
        if not fitting:
            missing.append(f"{change.field} {change.old:#x} -> {change.new:#x}")
    names, whys = tuple(name for name, _ in found), tuple(reason for _, reason in found)
    return Outcome("none", "", names, whys, tuple(missing))
