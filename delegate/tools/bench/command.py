"""``python -m delegate bench matmul``: what is timed, on what, and what is written."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from delegate.errors import DelegateError, OptionError
from delegate.hw.emit.product import RESULTS, Form
from delegate.hw.timing import Board
from delegate.runtime import shared_device
from delegate.tools.bench import cpu, npu, plots
from delegate.tools.bench.published import Compared, compare
from delegate.tools.bench.report import (
    COMPARED_HEADERS,
    HEADERS,
    Row,
    compared_cells,
    csv_text,
    json_text,
    markdown_table,
    print_compared,
    print_rows,
    summary,
)
from delegate.tools.bench.shapes import MODELS, Shape, squares

TYPES = {"fp16": "float16", "int8": "int8"}
RESULT_OF = {"fp16": ("float32", "float16"), "int8": ("int32", "int8")}


@dataclass(frozen=True)
class Wanted:
    """What is to be timed."""

    sizes: str = "128:4096:128"
    models: bool = True
    dtypes: Sequence[str] = ("fp16", "int8")
    narrow: bool = False  # results of as many bits as the elements
    cpu: bool = True
    seconds: float = 0.2  # for a measurement
    compare: bool = False

    @property
    def shapes(self) -> list[tuple[str, Shape]]:
        """(square or model, shape)."""
        found = [] if self.sizes == "none" else [("square", shape) for shape in squares(self.sizes)]
        return [*found, *(("model", shape) for shape in MODELS if self.models)]

    @property
    def forms(self) -> list[Form]:
        for dtype in self.dtypes:
            if dtype not in TYPES:
                raise OptionError(f"dtype {dtype!r}: {' or '.join(TYPES)}")
        return [Form(TYPES[dtype], RESULTS[TYPES[dtype]][self.narrow]) for dtype in self.dtypes]


@dataclass(frozen=True)
class Files:
    """What is written beside the table on stdout."""

    csv: Path | None = None
    json: Path | None = None
    markdown: Path | None = None
    plots: Path | None = None


@dataclass(frozen=True)
class Bench:
    """A device, and the board that stands for it where there is none."""

    device: str
    board: Board
    wanted: Wanted
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    @property
    def on_board(self) -> bool:
        """Whether there is an NPU to measure."""
        return shared_device(self.device, self.board.cores, self.kernel).name != "simulator"

    @property
    def kernel(self) -> Any:
        return self.board.name

    def rows(self, kind: Any, shape: Shape, form: Form) -> Iterator[Row]:
        """The product on the NPU and on the CPU."""
        sizes = (shape.name, kind, shape.rows, shape.depth, shape.columns, form.element, form.result)
        by = f"NPU, {self.board.cores} core{'s' if self.board.cores > 1 else ''}"
        if self.on_board:
            arguments = (self.device, self.board.cores, self.kernel, self.wanted.seconds, self.rng)
            seconds = npu.measured(shape, form, *arguments)
        else:
            seconds = npu.modelled(shape, form, self.board)
        share = shape.operations / seconds / npu.peak(form, self.board)
        yield Row(*sizes, by, seconds, "measured on the board" if self.on_board else "modelled, not measured", share)
        if self.wanted.cpu:
            for name, taken in cpu.measure(shape, form, self.wanted.seconds, self.rng):
                yield Row(*sizes, name, taken, "measured on this machine's CPU", None)

    @property
    def facts(self) -> dict[str, Any]:
        """On what the times were had."""
        board = self.board
        where = f"{board.name} kernel, {board.clock_hz / 1e6:.0f} MHz, {board.cores} of 3 cores"
        npu_times = f"measured on {self.device}" if self.on_board else f"modelled (docs/timing.md): {where}"
        cpu_times = f"measured on {platform.machine()}, {os.cpu_count()} cores" if self.wanted.cpu else "not asked for"
        return {"NPU": npu_times, "CPU": cpu_times, "peak of": where}


def run(bench: Bench, files: Files) -> None:
    """Times everything, prints the table and writes the files; raises DelegateError."""
    shapes, forms = bench.wanted.shapes, bench.wanted.forms
    if not shapes:
        raise OptionError("nothing to time: give --sizes, or leave --no-models out")
    if files.plots is not None:
        plots.pyplot()  # before the work, where it is missing
    screen = Console(stderr=True)
    work = [(kind, shape, form) for kind, shape in shapes for form in forms]
    rows = [
        row
        for kind, shape, form in track(work, "timing products", console=screen, transient=True)
        for row in bench.rows(kind, shape, form)
    ]
    compared: list[Compared] = []
    if bench.wanted.compare:
        with screen.status("modelling published products"):
            compared = list(compare())
    console = Console(width=None if Console().is_terminal else 160)
    print_rows(rows, console)
    for name, value in bench.facts.items():
        console.print(f"{name}: {value}", highlight=False)
    if compared:
        print_compared(compared, console)
    write(files.csv, csv_text(rows))
    write(files.json, json_text(rows, compared, bench.facts))
    write(files.markdown, page(bench, rows, compared))
    if files.plots is not None:
        for path in plots.draw(rows, compared, files.plots):
            console.print(f"{path}", highlight=False)


def write(path: Path | None, text: str) -> None:
    """Writes a file that is wanted; raises DelegateError."""
    if path is None:
        return
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DelegateError(f"{path}: {error.strerror}") from None


INTRODUCTION = """# Speed of matrix products

Written by `python -m delegate bench matmul`; docs/matmul-performance.md with `--no-cpu --compare --markdown` and its
own name. GOP/s count two operations for each of the M·K·N products. Modelled times are those of the command words on
the board that is named, without the host's copies of A and C and its additions of parts of K; docs/timing.md says what
the model is worth. Published figures were measured by others with programs of their own, `RKNN` with the vendor's
library; beside them stands the model's time of *our* program of the same product, and the ratio of the two times: above
1 ours is expected to be slower. docs/timing.md compares the model with *their* programs, and has the figures of int4,
of jobs of separate tasks and of the pitch of rows.
"""


def page(bench: Bench, rows: Sequence[Row], compared: Sequence[Compared]) -> str:
    """The tables as Markdown."""
    lines = [INTRODUCTION, *(f"* {name}: {value}" for name, value in bench.facts.items())]
    for title, kind in (("Square products", "square"), ("Layers of models", "model")):
        chosen = [row.cells for row in rows if row.kind == kind]
        if chosen:
            lines += ["", f"## {title}", "", *markdown_table(HEADERS, chosen)]
    if compared:
        cells = [compared_cells(item) for item in compared]
        lines += ["", "## Published figures", "", *markdown_table(COMPARED_HEADERS, cells), "", summary(compared) + "."]
    return "\n".join(lines) + "\n"
