"""The mutation run: counts for each field, the page docs/mutations.md, and what is left unexplained."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from delegate.errors import DelegateError
from delegate.tools.mutate.mutations import choose
from delegate.tools.mutate.outcome import TABLES, Outcome, judge
from delegate.tools.mutate.reasons import REASONS, UNSEEN
from delegate.tools.mutate.sources import default_subjects, load_subjects
from delegate.tools.mutate.subjects import Subject

Row = tuple[str, str]
REQUIRED = ("PC", "CNA", "CORE", "DPU", "DPU_RDMA")  # blocks in which nothing may be left unexplained
TABLE_ROW: Row = ("DPU", "LUT_ACCESS_DATA.lut_access_data")
HEADINGS = ("refused", "changed", "warned", "none")


@dataclass
class Tally:
    """What became of the mutations of one row."""

    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)


@dataclass
class Summary:
    """All rows of a run; ``needed``: reasons that hold only where the field has an effect elsewhere."""

    rows: dict[Row, Tally] = field(default_factory=dict)
    needed: dict[Row, set[str]] = field(default_factory=dict)

    def add(self, row: Row, subject: str, outcome: Outcome) -> None:
        tally = self.rows.setdefault(row, Tally())
        tally.verdicts[outcome.verdict] += 1
        tally.reasons.update({reason.why for reason in outcome.reasons})
        tally.unexplained += [f"{subject}: {text}" for text in outcome.unexplained]
        for name, reason in zip(outcome.fields, outcome.reasons, strict=True):
            if reason.data:
                self.needed.setdefault(_row_of(name), set()).add(reason.why)

    def problems(self, blocks: Sequence[str] = REQUIRED) -> list[str]:
        """What is unexplained in the given blocks, or said to depend on data and never seen to."""
        found = [
            f"{block}.{name}: {text}"
            for (block, name), tally in sorted(self.rows.items())
            if block in blocks
            for text in tally.unexplained
        ]
        for row, whys in sorted(self.needed.items()):
            if row[0] in blocks and not self.rows.get(row, Tally()).verdicts["changed"]:
                found.append(f"{row[0]}.{row[1]}: never seen to have an effect, but explained by: {'; '.join(whys)}")
        return found


def _row_of(name: str) -> Row:
    """The row of a field that a change names."""
    if name == TABLES:
        return TABLE_ROW
    block, _, rest = name.partition(".")
    return block, rest


def run(subjects: Sequence[Subject], count: int, rng: np.random.Generator, quiet: bool = False) -> Summary:
    """Mutates ``count`` times; raises DelegateError for a subject that does not run unchanged."""
    bases = [subject.run() for subject in subjects]
    for subject, base in zip(subjects, bases, strict=True):
        if base.error is not None:
            raise DelegateError(f"{subject.name} does not run unchanged: {base.error}")
    summary = Summary()
    chosen = choose(subjects, count, rng)
    console = Console(stderr=True)
    for number, mutation in track(chosen, "mutating", console=console, disable=quiet or not sys.stderr.isatty()):
        outcome = judge(subjects[number], bases[number], mutation, REASONS, UNSEEN)
        summary.add(mutation.row, subjects[number].name, outcome)
    return summary


def markdown(summary: Summary, command: str, subjects: Sequence[Subject]) -> str:
    """The page: totals, then a table for each block."""
    total = sum((tally.verdicts for tally in summary.rows.values()), Counter[str]())
    blocks = sorted({block for block, _ in summary.rows})
    lines = [
        "# What the simulator minds",
        "",
        f"Printed by `{command}`; do not edit.",
        "",
        "One field, bit or word of a command stream is changed at a time, the program is run, and all of its memory",
        "is compared with what the unchanged program leaves. *Refused*: a SimulatorError. *Changed*: other bytes.",
        "*Warned*: the same bytes and a new warning. *None*: no effect; the last column says why. Each reason was",
        "checked on the task's registers (`delegate/tools/mutate/reasons/`); one that depends on the data holds only",
        "for a field that had an effect elsewhere in the same run. Where no fired block sees another value, all that",
        "the blocks execute was compared.",
        "",
        f"{total.total()} mutations of {len(subjects)} programs: {', '.join(subject.name for subject in subjects)}.",
        "",
        "| block | refused | changed | warned | none | unexplained |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for block in blocks:
        tallies = [tally for (name, _), tally in summary.rows.items() if name == block]
        lines.append(f"| {block} | {_counts(tallies)} | {sum(len(tally.unexplained) for tally in tallies)} |")
    tallies = list(summary.rows.values())
    lines.append(f"| all | {_counts(tallies)} | {sum(len(tally.unexplained) for tally in tallies)} |")
    for block in blocks:
        lines += ["", f"## {block}", "", "| what | refused | changed | warned | none | why none |"]
        lines.append("| --- | ---: | ---: | ---: | ---: | --- |")
        for (name, what), tally in sorted(summary.rows.items()):
            if name == block:
                whys = [*sorted(tally.reasons), *(f"**unexplained**: {text}" for text in tally.unexplained)]
                lines.append(f"| {what} | {_counts([tally])} | {'; '.join(whys)} |")
    return "\n".join(lines) + "\n"


def _counts(tallies: Sequence[Tally]) -> str:
    return " | ".join(str(sum(tally.verdicts[heading] for tally in tallies)) for heading in HEADINGS)


def mutate(paths: Sequence[Path], golden: Path, count: int, seed: int, output: Path | None) -> int:
    """The command; returns how many things are unexplained. Raises DelegateError."""
    rng = np.random.default_rng(seed)
    if paths:
        subjects = [subject for path in paths for subject in load_subjects(path, rng)]
    else:
        subjects = default_subjects(golden, rng)
    summary = run(subjects, count, rng)
    named = "".join(f" {path}" for path in paths)
    page = markdown(summary, f"python -m delegate mutate{named} --count {count} --seed {seed}", subjects)
    if output is None:
        print(page)
    else:
        try:
            output.write_text(page)
        except OSError as error:
            raise DelegateError(f"{output}: {error.strerror}") from None
    problems = summary.problems()
    for problem in problems:
        print(problem, file=sys.stderr)
    return len(problems)
