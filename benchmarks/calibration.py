"""Every published time of an RK3588 that we can write a program for, the timing model's value, and their ratio.

Some of the figures chose the model's constants; the others are held out and say what it is worth. Nothing is measured
here.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # lets this file run as a script

from benchmarks.figures import FIGURES, Figure
from benchmarks.products import PROGRAMS
from delegate.errors import DelegateError
from delegate.hw.timing import PAGE_BYTES, PAGE_CYCLES, ROCKET

EXAMPLES = """examples:
  python -m benchmarks.calibration                     all figures, on stdout
  python -m benchmarks.calibration -o docs/timing.md   the page
  python -m benchmarks.calibration --fit               how well other constants would fit the figures that chose them
"""

PORT_BYTES = range(6, 17)  # bytes a cycle that the fit tries
OVERLAPS = tuple(tenth / 10 for tenth in range(11))

INTRODUCTION = """# What the timing model is worth

Written by `python -m benchmarks.calibration -o docs/timing.md`. Nothing here was measured by this project: the figures
are those that other people published of RK3588 boards, and beside each stands what `delegate/hw/timing.py` says.

## The model

Of each task the command words say how many cycles its products take and what it moves: features (all rows and columns
that are fetched, rows that tiles share more than once), weights (nothing with WEIGHT_REUSE; features nothing with
DATA_REUSE), what DPU_RDMA reads, whole groups of channels that are written, and its own words, tables among them. Then

    start  = 300 cycles + words
    lead   = first rows (FEATURE_GRAINS) and first group of kernels, which no product can come before
    rest   = all other transfers
    task   = start + lead + products + rest - overlap * min(products, rest)
    pooling = start + max(transfers, taps / 4 atoms)
    program = tasks + what is waited before each: a job, an interrupt, or a step of a chain

Rows of a result that are apart cost more cycles a row for each 4 KiB of their pitch above the first. The book's own
calibration (timing.md §4) has 16 bytes a cycle, no overlap, 70 µs a job and 50 µs an interrupt; it was made with single
jobs on mainline's kernel and misses the vendor's rates by half.
"""

FIGURES_HEAD = """## Figures

Published ranges count as their geometric middle; a ratio above 1 says that the model is slower (of gains and
slowdowns: that it gives more). Letters of sources: silicon-figures.md; a remark says what had to be assumed.
"""

UNEXPLAINED = """## What it cannot explain

* **Small and middle products of U** (128x512x512 to 512x1024x1024) took three to four times as long as products and
  transfers account for, while larger ones of the same series fit. Their "device" time includes the kernel's work, and
  their small number of jobs leaves no room for it in a cost per job; a clock that had not risen yet would explain it.
* **Small products of A** (64x64x64, 256x256x256): two to five times as long. Clock and what is timed are not published;
  256x256x256 has as many products and bytes as 256x512x128, which took a quarter to a half of its time.
* **Transfers and products**: 11 to 13 bytes a cycle with overlaps of 0.6 to 0.4 fit equally well (`--fit`). Single jobs
  ask for no overlap, the vendor's long streams of weights for all of it. A model in which both are the same for all
  programs misses one or the other by up to a third.
* **int4**: the vendor's figure is what its MAC array does without any transfer; ours writes 16-bit results.
* **Three cores**: how DRAM is shared is one number (20 GB/s, inferred). One published gain of two cores is
  2.13, which no sharing of memory gives: its one-core figure has host time in it.
* **Networks**: clocks are not published. 200 MHz (a board's clock after boot) and 50 µs a task explain 10.8 ms for
  MobileNetV1; so would 1 GHz and 200 µs (timing.md §4). The host's packing of tensors is in the published times and is
  not in ours.
* **Pooling**: published are 0.03 to 0.2 ms a pass without sizes. The rate of the PPU is a guess (timing.md §4).
* **Depthwise** at 64 channels a cycle, half-empty chunks of channels, and the cost of narrow rows are inferred; no
  published figure depends on one of them alone.

## Figures without a program

No sizes, no conditions, or another chip: sets of jobs of unnamed tiles (10 jobs of 64 tasks), MobileDet, SSD and
Inception (their models are not here), YOLOv5s, EfficientDet and other whole applications, language and speech models
(host time), transposed convolutions (host time), RK3568 and RK3576, DRAM counters (they count the host too).
"""


@dataclass(frozen=True)
class Compared:
    figure: Figure
    value: float

    @property
    def ratio(self) -> float:
        """The model's time to the published one, of rates the inverse; above 1 the model is slower."""
        ratio = self.value / self.figure.measured
        return 1 / ratio if self.figure.unit == "GOP/s" else ratio


def compare() -> list[Compared]:
    """All figures with the model's values."""
    return [Compared(figure, figure.model(figure.board)) for figure in FIGURES]


def mean_and_spread(ratios: Sequence[float]) -> tuple[float, float]:
    """(geometric mean, geometric standard deviation) of ratios."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(statistics.fmean(logs)), math.exp(statistics.pstdev(logs))


def error(port_bytes: float, overlap: float) -> float:
    """Root mean square of the logarithms of the ratios of the figures that choose the constants."""
    logs = []
    for figure in FIGURES:
        if figure.used:
            board = replace(figure.board, port_bytes=port_bytes, overlap=overlap)
            logs.append(math.log(figure.model(board) / figure.measured))
    return math.sqrt(statistics.fmean(value * value for value in logs))


def fit() -> list[tuple[float, int, float]]:
    """(error, bytes a cycle, overlap) of all that is tried, the best first."""
    tried = [(error(port, overlap), port, overlap) for port in PORT_BYTES for overlap in OVERLAPS]
    return sorted(tried)


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def published(figure: Figure) -> str:
    if figure.low == figure.high:
        return number(figure.low)
    return f"{number(figure.low)} to {number(figure.high)}"


def constants() -> Iterator[str]:
    """The constants as a table."""
    board = ROCKET
    yield "| constant | value | from |"
    yield "| --- | --- | --- |"
    yield f"| bytes that a core moves in a cycle | {board.port_bytes:g} | fitted |"
    yield f"| overlap of products and transfers | {board.overlap:g} | fitted |"
    yield f"| a job | {1e6 * board.job_seconds:g} µs | one tiny task (silicon-figures §2) |"
    yield f"| an interrupt between tasks | {1e6 * board.task_seconds:g} µs | silicon-figures §10 |"
    yield f"| a step of a chain | {1e6 * board.chain_seconds:g} µs | inferred (timing.md §2) |"
    yield f"| start of a task | {board.start_cycles} cycles | timing.md §4 |"
    yield f"| DRAM, all cores together | {board.bandwidth / 1e9:g} GB/s | inferred (timing.md §1) |"
    yield f"| rows apart | {PAGE_CYCLES:g} cycles a row and {PAGE_BYTES} bytes of pitch | the figure of 8 KiB |"


def figures_table(compared: Sequence[Compared]) -> Iterator[str]:
    yield "| figure | source | board | published | model | ratio | use | remark |"
    yield "| --- | --- | --- | ---: | ---: | ---: | --- | --- |"
    for item in compared:
        figure, use = item.figure, "calibration" if item.figure.used else "held out"
        yield (
            f"| {figure.what} | {figure.source} | {figure.board.name} | {published(figure)} {figure.unit} | "
            f"{number(item.value)} | {item.ratio:.2f} | {use} | {figure.note} |"
        )


def summary(compared: Sequence[Compared]) -> Iterator[str]:
    """Geometric means and spreads of the ratios."""
    groups = (
        ("calibration", [item for item in compared if item.figure.used]),
        ("held out", [item for item in compared if not item.figure.used]),
        ("held out, all conditions published", [i for i in compared if not i.figure.used and not i.figure.note]),
    )
    yield "| figures | number | geometric mean of the ratios | spread (geometric standard deviation) | within 25 % |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for title, items in groups:
        ratios = [item.ratio for item in items]
        mean, spread = mean_and_spread(ratios)
        near = sum(0.8 <= ratio <= 1.25 for ratio in ratios)
        yield f"| {title} | {len(items)} | {mean:.2f} | {spread:.2f} | {near} |"


def page() -> str:
    """The page as Markdown."""
    compared = compare()
    parts = [
        INTRODUCTION,
        "\n".join(constants()) + "\n",
        FIGURES_HEAD,
        "\n".join(figures_table(compared)) + "\n",
        "\n".join(summary(compared)) + "\n",
        UNEXPLAINED,
    ]
    return "\n".join(parts)


def fit_table() -> Iterator[str]:
    """How well constants fit, the best and the chosen."""
    chosen = error(ROCKET.port_bytes, ROCKET.overlap)
    yield f"chosen: {ROCKET.port_bytes:g} bytes a cycle, overlap {ROCKET.overlap:g}: error {chosen:.4f}"
    for value, port, overlap in fit()[:10]:
        yield f"{port:3} bytes a cycle, overlap {overlap:.1f}: error {value:.4f}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-o", "--output", type=Path, help="file to write instead of stdout")
    parser.add_argument("--fit", action="store_true", help="try other constants on the figures that chose them")
    arguments = parser.parse_args(argv)
    if not PROGRAMS.is_dir():
        print(f"error: {PROGRAMS} is missing: the programs are made from captures there", file=sys.stderr)
        return 1
    try:
        text = "\n".join(fit_table()) + "\n" if arguments.fit else page()
        if arguments.output is None:
            print(text, end="")
        else:
            arguments.output.write_text(text)
    except (DelegateError, OSError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
