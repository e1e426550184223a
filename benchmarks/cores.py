"""What one inference gains from two and three cores, by the timing model: writes docs/cores.md.

python -m benchmarks.cores -o docs/cores.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.harness import SHARED
from delegate.hw.timing import RKNPU, ROCKET, Board
from delegate.tools.profile.layers import Profile, profile

ROOT = Path(__file__).resolve().parents[1]
MODELS = (ROOT / "models" / "mobilenet_digits.tflite", *sorted((SHARED / "models").glob("*.tflite")))

HEAD = """# One inference on several cores

Written by `python -m benchmarks.cores -o docs/cores.md`, with the models of `../shared`. All times are modelled, not
measured ([how far to trust the model](timing.md)); what the host packs and unpacks is not in them, what it copies
between the cores' memories is. `python -m delegate profile MODEL --cores 3 --kernel rknpu` shows a model layer by
layer, `--html` and `--perfetto` the cores side by side on a time line. How an inference is spread:
[decision 0013](decisions/0013-cores.md).

Times are milliseconds of one inference with `split=auto`; behind them how many times as fast as on one core, and the
number of stages, between which the cores wait for each other. "host" is the part in which the host copies, on three
cores.
"""
TAIL = """
Reading: with `chain=safe` on the vendor's kernel each layer is a submit of its own on one core too, so that spreading
it costs nothing; what is left is 54 µs a submit, and that three cores share 20 GB/s of DRAM where one alone moves 12.
With `chain=full` one core needs one submit for all, and only layers that gain more than a submit are spread. On
mainline's kernel each task costs an interrupt; cores take them side by side, and the host's copies cost less than that.
"""


@dataclass(frozen=True)
class Setting:
    """A kernel and its clock."""

    name: str
    board: Board
    full_chains: bool = False


SETTINGS = (
    Setting("`rknpu`, 1 GHz, `chain=safe`", RKNPU),
    Setting("`rknpu`, 1 GHz, `chain=full`", RKNPU, full_chains=True),
    Setting("`rocket`, 600 MHz", ROCKET),
)


def page() -> Iterator[str]:
    """The lines of the page."""
    yield HEAD
    for setting in SETTINGS:
        yield f"## {setting.name}\n"
        yield "| model | 1 core | 2 cores | 3 cores | host |"
        yield "| --- | ---: | ---: | ---: | ---: |"
        for path in MODELS:
            print(f"{setting.name}: {path.stem}", file=sys.stderr)
            yield row(path, setting)
        yield ""
    yield TAIL.strip()


def row(path: Path, setting: Setting) -> str:
    """A model's line."""
    two, three = (profile(path, replace(setting.board, cores=n), "auto", setting.full_chains) for n in (2, 3))
    cells = f"{1e3 * one_core(two):.2f} | {cell(two)} | {cell(three)} | {1e3 * copying(three):.2f}"
    return f"| {path.stem} | {cells} |"


def one_core(found: Profile) -> float:
    assert found.one_core is not None
    return found.one_core


def cell(found: Profile) -> str:
    stages = len({job.stage for job in found.jobs})
    return f"{1e3 * found.seconds:.2f}, {one_core(found) / found.seconds:.2f} x, {stages}"


def copying(found: Profile) -> float:
    """Seconds in which the host copies."""
    return found.gathering + sum({job.stage: job.host for job in found.jobs}.values())


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, help="file to write instead of stdout")
    arguments = parser.parse_args()
    text = "\n".join(page()) + "\n"
    if arguments.output is None:
        print(text, end="")
    else:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
