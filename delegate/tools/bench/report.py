"""What was timed, as a table, Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from delegate.tools.bench.published import Compared

How = Literal["measured on the board", "modelled, not measured", "measured on this machine's CPU"]
HEADERS = ("product", "M×K×N", "types", "by", "ms", "GOP/s", "of the peak", "how")


@dataclass(frozen=True)
class Row:
    """A product and its time."""

    name: str
    kind: Literal["square", "model"]
    rows: int
    depth: int
    columns: int
    element: str
    result: str
    by: str  # the NPU, or a library
    seconds: float
    how: How
    efficiency: float | None  # of the NPU's peak

    @property
    def gops(self) -> float:
        return 2 * self.rows * self.depth * self.columns / self.seconds / 1e9

    @property
    def cells(self) -> tuple[str, ...]:
        share = "" if self.efficiency is None else f"{self.efficiency:.1%}"
        sizes = f"{self.rows}×{self.depth}×{self.columns}"
        types = f"{self.element} to {self.result}"
        return self.name, sizes, types, self.by, number(1e3 * self.seconds), number(self.gops), share, self.how

    @property
    def values(self) -> dict[str, Any]:
        return {**asdict(self), "gops": self.gops}


def number(value: float) -> str:
    """Three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def print_rows(rows: Sequence[Row], console: Console) -> None:
    table = Table(*HEADERS)
    for row in rows:
        table.add_row(*row.cells)
    console.print(table)


def print_compared(compared: Sequence[Compared], console: Console) -> None:
    table = Table(*COMPARED_HEADERS, title="published figures beside the model's of our programs")
    for item in compared:
        table.add_row(*compared_cells(item))
    console.print(table)
    console.print(summary(compared))


def csv_text(rows: Sequence[Row]) -> str:
    """A line a product; seconds."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0].values), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.values for row in rows)
    return text.getvalue()


def json_text(rows: Sequence[Row], compared: Sequence[Compared], facts: dict[str, Any]) -> str:
    """Everything, with what it was timed on."""
    figures = [
        {
            "what": item.figure.what,
            "library": item.figure.library,
            "source": item.figure.source,
            "published": [item.figure.low, item.figure.high],
            "modelled": item.figure.in_unit(item.seconds),
            "unit": item.figure.unit,
            "ratio": item.ratio,
        }
        for item in compared
    ]
    return json.dumps({"facts": facts, "products": [row.values for row in rows], "published": figures}, indent=1) + "\n"


COMPARED_HEADERS = ("product", "library", "source", "types", "board", "published", "modelled", "ratio", "remark")


def compared_cells(item: Compared) -> tuple[str, ...]:
    figure = item.figure
    low, high = number(figure.low), number(figure.high)
    board = f"{figure.board.name}, {figure.board.clock_hz / 1e6:.0f} MHz, {figure.board.cores}"
    return (
        figure.what,
        figure.library,
        figure.source,
        f"{figure.form.element} to {figure.form.result}",
        board,
        f"{low if low == high else f'{low} to {high}'} {figure.unit}",
        number(figure.in_unit(item.seconds)),
        f"{item.ratio:.2f}",
        figure.remark,
    )


def summary(compared: Sequence[Compared]) -> str:
    """The geometric mean and spread of the ratios."""
    logs = [math.log(item.ratio) for item in compared]
    alone = [math.log(item.ratio) for item in compared if "host" not in item.figure.remark]
    parts = [
        f"{name}: {len(values)} figures, geometric mean of the ratios {math.exp(statistics.fmean(values)):.2f}, "
        f"spread {math.exp(statistics.pstdev(values)):.2f}"
        for name, values in (("all", logs), ("without the host's work", alone))
    ]
    return "; ".join(parts)


def markdown_table(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headers)} |"
    yield f"|{' --- |' * len(headers)}"
    yield from (f"| {' | '.join(line)} |" for line in lines)
