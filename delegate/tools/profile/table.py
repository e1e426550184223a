"""A profile as a table for the terminal, and as CSV."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator
from dataclasses import fields

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from delegate.hw.timing import Bytes
from delegate.tools.profile.layers import LayerTime, Profile

MODELLED = "modelled, not measured (docs/timing.md says how far to trust it)"
WIDTH = 160  # characters, where nobody says how wide it is
HEADINGS = (
    "",
    "layer",
    "blocks",
    "tasks",
    "10³ MAC cycles",
    "10³ cycles",
    "KiB",
    "ms",
    "overhead",
    "bound by",
    "share",
)
GAIN_HEADINGS = ("ms on one core", "gain")  # of an inference that is spread over cores
KINDS_OF_BYTES = tuple(field.name for field in fields(Bytes))
COLUMNS = (
    "layer",
    "title",
    "kinds",
    "tasks",
    "product_cycles",
    "cycles",
    *(f"{kind}_bytes" for kind in KINDS_OF_BYTES),
    "total_bytes",
    "seconds",
    "overhead_seconds",
    "bound_by",
    "share",
    "one_core_seconds",
)


def headings(profile: Profile) -> tuple[str, ...]:
    return HEADINGS if profile.one_core is None else (*HEADINGS, *GAIN_HEADINGS)


def cells(index: int, layer: LayerTime) -> tuple[str, ...]:
    """A row of the table, in the order of headings()."""
    gains = () if layer.one_core is None else (f"{1e3 * layer.one_core:.3f}", f"{layer.one_core / layer.seconds:.2f}")
    return (
        str(index),
        layer.title,
        ", ".join(layer.kinds),
        str(layer.tasks),
        f"{layer.products / 1e3:.1f}",
        f"{layer.cycles / 1e3:.1f}",
        f"{layer.bytes.total / 1024:.0f}",
        f"{1e3 * layer.seconds:.3f}",
        f"{1e3 * layer.overhead:.3f}",
        layer.bound,
        f"{100 * layer.share:.1f} %",
        *gains,
    )


def notes(profile: Profile) -> Iterator[str]:
    """What the table does not hold, a line each."""
    board = profile.board
    spread = profile.one_core is not None
    one = [slot for slot in profile.slots if spread or slot.core == 0]
    costs = [profile.cost(slot) for slot in one]
    overhead = sum(layer.overhead for layer in profile.layers)
    yield (
        f"an inference: {1e3 * profile.seconds:.3f} ms, of which {1e3 * overhead:.3f} ms task overhead; "
        f"{len(one)} tasks, {sum(cost.products for cost in costs):,} MAC and PPU cycles, "
        f"{sum(cost.bytes.total for cost in costs) / 1e6:.2f} MB"
    )
    if profile.one_core is not None:
        stages = len({job.stage for job in profile.jobs})
        yield (
            f"spread over {len({slot.core for slot in profile.slots})} of {board.cores} cores in {stages} stages: "
            f"{profile.one_core / profile.seconds:.2f} times as fast as on one core ({1e3 * profile.one_core:.3f} ms)"
        )
        if board.own_memory:
            copying = profile.gathering + sum({job.stage: job.host for job in profile.jobs}.values())
            yield f"the host copies between the cores' memories for {1e3 * copying:.3f} ms of it"
    elif board.cores > 1 and profile.seconds:
        yield f"{board.cores} cores, an inference on each: {board.cores / profile.seconds:.1f} a second"
    start = "chains of tasks" if board.chains else "each task by itself"
    yield (
        f"board: {board.name}, {board.clock_hz / 1e6:g} MHz, {board.bandwidth / 1e9:g} GB/s of DRAM "
        f"({board.core_bytes / 1e9:.2f} a core), starts {start}"
    )
    left = f"{profile.cpu} of the model's operators, which stay on the CPU, and " if profile.cpu else ""
    yield f"not in it: {left}the host's packing and unpacking of tensors"
    yield MODELLED


def print_table(profile: Profile) -> None:
    """For a terminal; wide where it is read by something else."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    table = Table(title=escape(f"{profile.name}: {MODELLED}"), title_justify="left", box=SIMPLE_HEAD)
    for heading in headings(profile):
        text = heading in ("layer", "blocks", "bound by")
        table.add_column(heading, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for index, layer in enumerate(profile.layers):
        table.add_row(*map(escape, cells(index, layer)))
    console.print(table)
    for note in notes(profile):
        console.print(escape(note), highlight=False, soft_wrap=True)


def csv_text(profile: Profile) -> str:
    """A line for each layer, in the order of COLUMNS; seconds and bytes as they are."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for index, layer in enumerate(profile.layers):
        writer.writerow(
            (
                index,
                layer.title,
                " ".join(layer.kinds),
                layer.tasks,
                layer.products,
                layer.cycles,
                *(getattr(layer.bytes, kind) for kind in KINDS_OF_BYTES),
                layer.bytes.total,
                layer.seconds,
                layer.overhead,
                layer.bound,
                layer.share,
                layer.one_core,
            )
        )
    return buffer.getvalue()
