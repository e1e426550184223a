"""The table of all captures in docs/replay.md: what agrees, what does not, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from delegate.errors import DelegateError
from delegate.tools.capture import Capture, CaptureError
from delegate.tools.captured.cases import CaseResult
from delegate.tools.captured.causes import Agreement
from delegate.tools.captured.model import find_model
from delegate.tools.captured.play import Played, statistics
from delegate.tools.replay_command import Request, captures_below, replay_one

VERDICTS = ("exact", "within 1", "explained", "refused", "not compared", "unexplained")
NETWORK = 10  # operations; more make a network
BASES = (0x10000000, 0x50000000)  # I/O addresses of the second run: the first at which the recorded one is another
CONVOLUTIONS = {"CONV", "DWCONV"}


@dataclass
class Row:
    """A capture that has run, without its buffers."""

    name: str
    group: str
    notes: list[str]
    operations: list[tuple[str, Agreement | None, list[str]]]  # name, agreement, errors
    single: bool  # one uint8 convolution
    outputs: list[tuple[int, float, float, int]]  # tensor; exact share, share within 1, largest difference to TFLite
    case: CaseResult | None
    moved: bool  # the same bytes came out at other addresses
    error: str = ""


@dataclass
class Totals:
    """A line of the first table."""

    captures: int = 0
    operations: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    sent_equal: int = 0
    model_equal: int = 0


def write_summary(files: Sequence[Path], output: Path | None, timeout: float) -> int:
    """Judges all captures and writes the tables; the number of captures with something unexplained."""
    found = [capture for file in files for capture in captures_below(file)]
    rows = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for file in progress.track(found, description="replaying"):
            try:
                rows.append(run_row(file, timeout))
            except DelegateError as error:
                rows.append(Row(file.parent.name, "cannot be read", [], [], False, [], None, True, str(error)))
    text = "\n".join(document(rows, files)) + "\n"
    if output is None:
        print(text, end="")
    else:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(text)
        except OSError as error:
            raise CaptureError(f"{output}: {error.strerror}") from None
    return sum(1 for row in rows if wrong(row))


def wrong(row: Row) -> bool:
    """Whether a capture has something that is not explained."""
    unexplained = any(agreement and agreement.verdict == "unexplained" for _, agreement, _ in row.operations)
    return bool(row.error) or unexplained or not row.moved or (row.case is not None and not row.case.passed)


def run_row(file: Path, timeout: float) -> Row:
    """Runs a capture twice, the second time at other addresses."""
    played, case = replay_one(file, Request(timeout=timeout, judge=True))
    capture = played.capture
    lowest = min((buffer.address for buffer in capture.buffers), default=0)
    base = next(base for base in BASES if base != lowest)
    again, _ = replay_one(file, Request(timeout=timeout, base=base, judge=True))
    return Row(
        name=file.parent.name,
        group=group_of(capture),
        notes=played.notes,
        operations=[(result.name, result.agreement, result.outcome.errors) for result in played.results],
        single=is_single(capture),
        outputs=list(outputs_of(played)),
        case=case,
        moved=same_results(played, again),
    )


def same_results(first: Played, second: Played) -> bool:
    """Equal contents of all buffers but those that hold command words."""
    streams = {
        buffer.handle
        for buffer in first.capture.buffers
        for submit in first.capture.submits
        for task in submit.tasks
        if buffer.address <= task.address < buffer.address + buffer.size
    }
    return all(
        np.array_equal(values, second.replay.buffers[handle])
        for handle, values in first.replay.buffers.items()
        if handle not in streams
    )


def group_of(capture: Capture) -> str:
    """The line of the table that a capture belongs to."""
    case, parameters = capture.facts.get("case"), capture.facts.get("parameters")
    if isinstance(case, Mapping):
        return f"programs {str(case.get('name')).partition('-')[0]}"
    if isinstance(parameters, Mapping):
        kind = parameters.get("kind")
        if kind is None:
            kind = "one depthwise convolution" if parameters.get("depthwise") else "one convolution"
        return f"sweep: {kind}{', int8' if parameters.get('signed') else ''}"
    model = find_model(capture)
    return model.group if model else "models that are not found"


def is_single(capture: Capture) -> bool:
    """A model of one uint8 convolution."""
    operations = capture.facts.get("ops") or []
    return len(operations) == 1 and operations[0]["type"] in CONVOLUTIONS and operations[0]["inputs"][0][1] == "u8"


def outputs_of(played: Played) -> Iterator[tuple[int, float, float, int]]:
    """The tensors that a partition hands back: nobody on the NPU reads them."""
    read = {buffer.facts.get("tensor") for buffer in played.capture.buffers if buffer.facts.get("read_by")}
    for index, values in sorted(played.tensors.items()):
        if index not in read and played.reference is not None and index in played.reference:
            yield index, *statistics(values, played.reference[index])


# --- Text -----------------------------------------------------------------------------------------------------------


def document(rows: Sequence[Row], files: Sequence[Path]) -> Iterator[str]:
    """The whole of docs/replay.md."""
    yield "# Captures on the simulator"
    yield ""
    yield "Written by `python -m delegate replay --summary " + " ".join(map(str, files)) + " -o docs/replay.md`;"
    yield "do not edit. Each capture is run as it was recorded, with the recorded input, and a second time with all"
    yield "buffers at other addresses; nothing in the command depends on a capture's name."
    yield ""
    yield from (f"* cannot be read: {row.name}: {row.error}" for row in rows if row.error)
    moved = sum(row.moved for row in rows)
    yield f"{len(rows)} captures ran; {moved} of them gave the same bytes at other addresses."
    yield ""
    yield from operations_table(rows)
    yield from causes_table(rows)
    yield from singles_table(rows)
    yield from networks_table(rows)
    yield from refused_list(rows)
    yield from programs_table(rows)
    yield from notes_table(rows)


def operations_table(rows: Sequence[Row]) -> Iterator[str]:
    """Agreement of every operation of the upstream driver's captures, by group."""
    totals: dict[str, Totals] = {}
    for row in rows:
        if row.case is not None or row.group.startswith("programs"):
            continue
        for total in (totals.setdefault(row.group, Totals()), totals.setdefault("all", Totals())):
            add(total, row)
    yield "## Operations of the upstream driver"
    yield ""
    yield "Every operation is judged by itself, on the input that the simulator gave it. *As sent*: equal on every"
    yield "element to the integer model (`delegate/tools/captured/integer.py`) of the layer as words and buffers have"
    yield "it. *As meant*: equal on every element to the integer model of the layer as the .tflite has it, with the"
    yield "multiplier of the words. *exact*, *within 1*: beside TFLite's reference arithmetic, on every element."
    yield "*explained*: further off, for the causes below, and the integer model of the layer as meant is within 1."
    yield "*refused*: the simulator says that silicon would stop or compute garbage. *not compared*: the model is not"
    yield "beside the capture."
    yield ""
    columns = ["captures", "operations", "as sent", "as meant", *VERDICTS]
    yield f"| group | {' | '.join(columns)} |"
    yield "| --- " + "| --: " * len(columns) + "|"
    for group in [*sorted(name for name in totals if name != "all"), "all"]:
        total = totals.get(group, Totals())
        counts = [total.verdicts[key] for key in VERDICTS]
        numbers = [total.captures, total.operations, total.sent_equal, total.model_equal, *counts]
        yield f"| {group} | " + " | ".join(map(str, numbers)) + " |"
    yield ""


def add(total: Totals, row: Row) -> None:
    total.captures += 1
    for _, agreement, errors in row.operations:
        total.operations += 1
        if errors:
            total.verdicts["refused"] += 1
        elif agreement is None:
            total.verdicts["not compared"] += 1
        else:
            total.verdicts[agreement.verdict] += 1
            total.sent_equal += agreement.sent_equal == agreement.elements
            total.model_equal += agreement.model_equal == agreement.elements


def causes_table(rows: Sequence[Row]) -> Iterator[str]:
    """Why operations as sent are not those of the model."""
    within: Counter[str] = Counter()
    beyond: Counter[str] = Counter()
    for row in rows:
        for _, agreement, _ in row.operations:
            if agreement is not None:
                (beyond if agreement.largest > 1 else within).update(agreement.causes)
    yield "## Causes"
    yield ""
    yield "A cause is counted where the layer as sent gives the simulator's result on every element, and gives another"
    yield "one once that part alone is put right. An operation may have several."
    yield ""
    yield "| cause | operations further off than 1 | operations within 1 |"
    yield "| --- | --: | --: |"
    for cause in sorted(set(within) | set(beyond), key=lambda cause: (-beyond[cause], -within[cause], cause)):
        yield f"| {cause} | {beyond[cause]} | {within[cause]} |"
    yield ""


def singles_table(rows: Sequence[Row]) -> Iterator[str]:
    """Models of one uint8 convolution, and the exceptions among them."""
    singles = [(row, row.operations[0][1]) for row in rows if row.single and row.operations]
    judged = [(row, agreement) for row, agreement in singles if agreement is not None]
    equal = sum(agreement.model_equal == agreement.elements for _, agreement in judged)
    near = sum(agreement.largest <= 1 for _, agreement in judged)
    yield "## Models of one uint8 convolution"
    yield ""
    yield f"{len(singles)} ran. {equal} equal the integer model as meant on every element, {near} are within 1 of"
    yield "TFLite on every element. The others:"
    yield ""
    yield "| capture | equal as meant | within 1 of TFLite | largest | cause |"
    yield "| --- | --: | --: | --: | --- |"
    for row, agreement in judged:
        if agreement.model_equal < agreement.elements or agreement.largest > 1:
            meant, share = agreement.model_equal / agreement.elements, agreement.within_one / agreement.elements
            why = "; ".join(agreement.causes) or "unexplained"
            yield f"| {row.name} | {meant:.2%} | {share:.2%} | {agreement.largest} | {why} |"
    yield ""


def networks_table(rows: Sequence[Row]) -> Iterator[str]:
    """Whole networks from their input on: differences of one add up from layer to layer."""
    yield "## Networks from end to end"
    yield ""
    yield "The tensors that a partition hands back, from the model's input on; what the CPU computes between partitions"
    yield "is TFLite's."
    yield ""
    yield "| network | tensor | exact | within 1 | largest |"
    yield "| --- | --: | --: | --: | --: |"
    for row in rows:
        if len(row.operations) > NETWORK:
            for index, exact, near, largest in row.outputs:
                yield f"| {row.name} | {index} | {exact:.2%} | {near:.2%} | {largest} |"
    yield ""


def refused_list(rows: Sequence[Row]) -> Iterator[str]:
    """What the simulator would not run."""
    refused = [(row, name, error) for row in rows for name, _, errors in row.operations for error in errors]
    if refused:
        yield "## Refused"
        yield ""
        yield from (f"* {row.name}, operation {name}: {error}" for row, name, error in refused)
        yield ""


def programs_table(rows: Sequence[Row]) -> Iterator[str]:
    """The programs of other drivers beside their expected results."""
    yield "## Programs of other drivers"
    yield ""
    yield "*to the rounding*: every element equals the expected result to one rounding of the output type and the order"
    yield "of summation, integers exactly; *within the tolerance*: that of the case. *bit for bit*: `expected_hw`."
    yield ""
    yield "| group | ran | comparable | to the rounding | within the tolerance | bit for bit | fail |"
    yield "| --- | --: | --: | --: | --: | --: | --: |"
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.group.startswith("programs"):
            groups.setdefault(row.group, []).append(row)
    for group, members in sorted(groups.items()):
        cases = [row.case for row in members if row.case is not None and row.case.judged]
        rounded = sum(case.rounded == case.elements for case in cases)
        near = sum(case.passed and case.rounded < case.elements for case in cases)
        bits = sum(case.bit_equal is True for case in cases)
        failed = sum(not case.passed for case in cases)
        yield f"| {group} | {len(members)} | {len(cases)} | {rounded} | {near} | {bits} | {failed} |"
    yield ""
    for row in rows:
        if row.case is not None and (not row.case.passed or row.case.notes or not row.case.judged):
            notes = "; ".join(row.case.notes) or "its author says that the numbers cannot be compared"
            yield f"* {row.name}: {'FAIL' if not row.case.passed else 'note'}: {notes}"
    yield ""


def notes_table(rows: Sequence[Row]) -> Iterator[str]:
    """What is wrong with captures by themselves."""
    kinds: dict[str, list[str]] = {}
    for row in rows:
        for note in sorted({general(note) for note in row.notes}):
            kinds.setdefault(note, []).append(row.name)
    yield "## What is wrong with captures by themselves"
    yield ""
    yield "| what | captures | such as |"
    yield "| --- | --: | --- |"
    for note, names in sorted(kinds.items(), key=lambda item: -len(item[1])):
        yield f"| {note} | {len(names)} | {', '.join(names[:3])} |"


def general(note: str) -> str:
    """A note without the numbers and names that differ from capture to capture."""
    words = ["N" if word.strip(",:").isdigit() else word for word in note.split()]
    return " ".join("a model" if word.endswith((".tflite,", ".tflite")) else word for word in words)
