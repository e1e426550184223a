"""What becomes of each operator of a model: taken or refused, why, in which form, and what would help."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from delegate.cost import features, macs
from delegate.hw.soc import Target
from delegate.ir import Graph, Node, Tensor
from delegate.ops import OPERATORS
from delegate.options import Options
from delegate.partition import Selection, broken_rule, examine, partitions
from delegate.runtime import capability_file, target_of
from delegate.tflite import read_model

HEADINGS = ("", "operator", "shapes", "types", "10⁶ MACs", "share", "runs on", "form", "why not")
NUMBERS = ("", "10⁶ MACs", "share")  # columns that are aligned to the right
WIDTH = 160  # characters, where nobody says how wide it is
REFUSED, PROVEN = "refused", "a proven form"  # what becomes of an operator without its unproven forms


@dataclass(frozen=True)
class Row:
    """One operator. ``partition`` is None on the CPU, ``mac_share`` where the model has no products.

    ``unproven``: forms without which the layers would be others, and ``without``: what became of the operator then.
    """

    index: int
    operator: str
    inputs: tuple[str, ...]  # shapes of the computed ones, "1x8x8x16"
    outputs: tuple[str, ...]
    dtypes: tuple[str, ...]  # of both, each once
    partition: int | None
    reason: str
    remedy: str
    macs: int
    mac_share: float | None
    unproven: tuple[str, ...]
    without: str


@dataclass(frozen=True)
class Summary:
    """Sums over the model; ``cpu``: how many operators of each kind stay on the CPU."""

    operators: int
    operators_on_npu: int
    macs: int
    macs_on_npu: int
    partitions: tuple[int, ...]  # operators of each
    unproven: int  # operators on the NPU that use an unproven form
    cpu: dict[str, int]


@dataclass(frozen=True)
class Explanation:
    model: str
    device: str
    capabilities: str | None  # the file that says which unproven forms may be used
    rows: tuple[Row, ...]
    summary: Summary


def explain_model(path: Path, options: Options) -> Explanation:
    """Explains a .tflite file for a device; raises DelegateError."""
    rows = explain(read_model(path), target_of(options), options.selection)
    file = capability_file(options)
    return Explanation(str(path), options.device, None if file is None else str(file), rows, summarize(rows))


def explain(graph: Graph, target: Target, selection: Selection) -> tuple[Row, ...]:
    """A row for each operator of a model."""
    refused = examine(graph, target, selection)
    place = {node.index: number for number, part in enumerate(partitions(graph, refused)) for node in part.nodes}
    total = sum(map(macs, graph.nodes))
    rows = []
    for node in graph.nodes:
        why = refused[node.index]
        unproven, without = needed_forms(node, target) if why is None else ((), "")
        rows.append(
            Row(
                index=node.index,
                operator=node.op,
                inputs=tuple(shape(tensor) for tensor in node.inputs if tensor is not None and tensor.data is None),
                outputs=tuple(map(shape, node.outputs)),
                dtypes=tuple(dict.fromkeys(tensor.dtype for tensor in features(node))),
                partition=place.get(node.index),
                reason=why.reason if why else "",
                remedy=why.remedy if why else "",
                macs=macs(node),
                mac_share=macs(node) / total if total else None,
                unproven=unproven,
                without=without,
            )
        )
    return tuple(rows)


def summarize(rows: Sequence[Row]) -> Summary:
    npu = [row for row in rows if row.partition is not None]
    sizes = Counter(row.partition for row in npu if row.partition is not None)
    return Summary(
        operators=len(rows),
        operators_on_npu=len(npu),
        macs=sum(row.macs for row in rows),
        macs_on_npu=sum(row.macs for row in npu),
        partitions=tuple(sizes[number] for number in sorted(sizes)),
        unproven=sum(bool(row.unproven) for row in npu),
        cpu=dict(sorted(Counter(row.operator for row in rows if row.partition is None).items())),
    )


def shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def needed_forms(node: Node, target: Target) -> tuple[tuple[str, ...], str]:
    """(unproven forms that an accepted node's layers are made of, what becomes of it without any of them)."""
    layers = OPERATORS[node.op].lower(node, target)

    def differs(forms: frozenset[str]) -> bool:
        other = replace(target, forms=forms)
        return broken_rule(node, other) is not None or not same(layers, OPERATORS[node.op].lower(node, other))

    if not differs(frozenset()):
        return (), ""
    needed = target.forms
    for form in sorted(target.forms):
        if not differs(needed - {form}):
            needed -= {form}
    return tuple(sorted(needed)), PROVEN if broken_rule(node, replace(target, forms=frozenset())) is None else REFUSED


def same(a: Any, b: Any) -> bool:
    """Whether two layers, or parts of them, say the same."""
    if a is b:
        return True
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and bool(np.array_equal(a, b))
    if is_dataclass(a) and type(a) is type(b):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def cells(row: Row, letters: Mapping[str, str]) -> tuple[str, ...]:
    """A row as text, in the order of HEADINGS; ``letters``: of the unproven forms."""
    if row.partition is None:
        form = ""
    else:
        form = f"unproven {''.join(letters[form] for form in row.unproven)}" if row.unproven else "proven"
    return (
        str(row.index),
        row.operator,
        f"{', '.join(row.inputs)} → {', '.join(row.outputs)}",
        "/".join(row.dtypes),
        f"{row.macs / 1e6:.2f}" if row.macs else "",
        percent(row.mac_share) if row.macs else "",
        "CPU" if row.partition is None else f"NPU {row.partition}",
        form,
        row.reason,
    )


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def form_letters(rows: Sequence[Row]) -> dict[str, str]:
    """A letter for each unproven form that is used."""
    return dict(zip(sorted({form for row in rows for form in row.unproven}), ascii_lowercase, strict=False))


def notes(found: Explanation) -> Iterator[str]:
    """What the table does not hold, a line each: the sums, the forms, and what would help."""
    summary = found.summary
    share = summary.macs_on_npu / summary.macs if summary.macs else None
    yield f"MACs on the NPU: {percent(share)} of {summary.macs / 1e6:.2f} million"
    yield f"operators on the NPU: {summary.operators_on_npu} of {summary.operators}"
    sizes = ", ".join(map(str, summary.partitions))
    yield f"partitions: {len(summary.partitions)}" + (f" (operators: {sizes})" if sizes else "")
    cpu = ", ".join(f"{count} × {operator}" for operator, count in summary.cpu.items())
    yield f"on the CPU: {cpu or 'nothing'}"
    if found.capabilities is not None:
        yield f"unproven forms are those that the probes allow: {found.capabilities}"
    for form, letter in form_letters(found.rows).items():
        users = [row for row in found.rows if form in row.unproven]
        lost = [str(row.index) for row in users if row.without == REFUSED]
        instead = f"operators {', '.join(lost)} are refused" if lost else "all have a proven form"
        yield f"unproven {letter}: {form}; {len(users)} operators, without it {instead}"
    remedies: dict[tuple[str, str], list[int]] = {}
    for row in found.rows:
        if row.reason:
            remedies.setdefault((row.operator, row.remedy), []).append(row.index)
    for (operator, remedy), indices in remedies.items():
        yield f"to get {operator} ({', '.join(map(str, indices))}) accepted: {remedy}"


def print_table(found: Explanation) -> None:
    """For a terminal; wide where it is read by something else."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    table = Table(title=escape(f"{found.model} on {found.device}"), title_justify="left", box=SIMPLE_HEAD)
    for heading in HEADINGS:
        number = heading in NUMBERS
        table.add_column(heading, justify="right" if number else "left", no_wrap=number, overflow="fold")
    letters = form_letters(found.rows)
    for row in found.rows:
        table.add_row(*map(escape, cells(row, letters)), style="yellow" if row.partition is None else None)
    console.print(table)
    for note in notes(found):
        console.print(escape(note), highlight=False, soft_wrap=True)


def print_markdown(found: Explanation) -> None:
    """A list and a table, for a page."""
    print(f"# {found.model} on {found.device}\n")
    for note in notes(found):
        print(f"* {note}")
    print("\n" + markdown_row(HEADINGS))
    print(markdown_row("---:" if heading in NUMBERS else "---" for heading in HEADINGS))
    letters = form_letters(found.rows)
    for row in found.rows:
        print(markdown_row(cells(row, letters)))


def markdown_row(texts: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def print_json(found: Explanation) -> None:
    """For programs: Explanation's fields by name."""
    print(json.dumps(asdict(found), indent=1))


PRINTERS: dict[str, Callable[[Explanation], None]] = {
    "table": print_table,
    "json": print_json,
    "markdown": print_markdown,
}
