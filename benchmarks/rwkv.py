"""What a token of RWKV-4 costs on one, two and three cores and with a share on the CPU: the timing model beside the
published figures. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # lets this file run as a script

from delegate.hw.timing import RKNPU, ROCKET, Board
from delegate.product_cost import FP16_BYTES, FP32_BYTES, cpu_seconds, product_seconds

EXAMPLES = """examples:
  python -m benchmarks.rwkv                            the page, on stdout
  python -m benchmarks.rwkv -o docs/rwkv-timing.md     as a file
"""

# The published experiment does not say which model it ran. Its single product is 1024 x 1024, the width of RWKV-4 430M
# (24 layers), whose 758 MB of fp16 take the CPU 61 ms at 12.4 GB/s, a copy's rate on that chip (silicon-figures §1).
LAYERS, WIDTH, WORDS = 24, 1024, 50277
PUBLISHED = {1: 83, 2: 76, 3: 70}  # ms a token by cores (silicon-figures §4; issue 6)
PUBLISHED_CPU, PUBLISHED_SPLIT = 61, 65  # the CPU alone; three cores and the CPU
SHARES = tuple(step / 20 for step in range(21))

INTRODUCTION = """# RWKV's time

Written by `python -m benchmarks.rwkv -o docs/rwkv-timing.md`. Nothing here was measured by this project: beside the
published milliseconds a token stands what `delegate/hw/timing.py` says of our command words.

The published experiment ran RWKV on the vendor's library. Its model is not named; its product of 1024 x 1024 is the
width of RWKV-4 430M, and 61 ms for that model's 758 MB of fp16 are 12.4 GB/s, what a copy reaches on the chip. So the
table takes 24 layers of 1024 channels and 50277 words. The clock is not named either; 1 GHz is assumed.
"""

NOTES = """*as published*: a product for each matrix, fp16 on the CPU, the vendor's kernel. *ours*: what `examples/rwkv`
does: products that stand side by side are one (four for a layer in place of seven), and numpy has its share in fp32,
twice the bytes. One share of the columns holds for all products, in steps of 5 %: the smallest within 1 % of the best.

One core and the CPU alone come out within 10 %; the experiment's single product, 1024 x 1024 in 0.2 ms, at 0.24. With
the timing model's 20 GB/s of DRAM, more cores gain much more than they did in the experiment, 1.09 and 1.19 times. With
12 GB/s for all cores and the CPU together every row is within 10 %: the experiment's fastest row moves 11.7, so DRAM,
or the way the weights lay in it, seems to have been its limit. That is a guess from these figures alone. A token reads
every weight once and nothing twice, so all rows end at DRAM's rate: at M = 1 the NPU is no faster than the CPU, it only
leaves it free.
"""


@dataclass(frozen=True)
class Way:
    """How products are made of a layer's matrices: (rows, K, N) of each; ``element_bytes``: of B on the CPU."""

    name: str
    layer: tuple[tuple[int, int, int], ...]
    element_bytes: int

    @property
    def products(self) -> tuple[tuple[int, int, int], ...]:
        return (*self.layer * LAYERS, (1, WIDTH, WORDS))


APART = Way(
    "as published",
    (*(((1, WIDTH, WIDTH),) * 5), (1, WIDTH, 4 * WIDTH), (1, 4 * WIDTH, WIDTH)),
    FP16_BYTES,
)
OURS = Way("ours", ((3, WIDTH, 3 * WIDTH), (1, WIDTH, WIDTH), (2, WIDTH, 5 * WIDTH), (1, 4 * WIDTH, WIDTH)), FP32_BYTES)
NARROW = replace(RKNPU, bandwidth=12e9)
COLUMNS = ((APART, NARROW), (APART, RKNPU), (OURS, RKNPU), (OURS, ROCKET))


def token_seconds(way: Way, board: Board, cpu_share: float = 0.0) -> float:
    """All products of a token; what is between them is left out."""
    return sum(product_seconds(*product, board, cpu_share, way.element_bytes).total for product in way.products)


def best(way: Way, board: Board) -> tuple[float, float]:
    """(the CPU's smallest share of the columns within 1 % of the best, seconds of a token with it)."""
    found = [(share, token_seconds(way, board, share)) for share in SHARES]
    limit = 1.01 * min(seconds for _, seconds in found)
    return next((share, seconds) for share, seconds in found if seconds <= limit)


def rows() -> Iterator[tuple[str, ...]]:
    """Lines of the table."""
    alone = [1e3 * sum(cpu_seconds(*product, way.element_bytes) for product in way.products) for way, _ in COLUMNS]
    yield cells("CPU alone", PUBLISHED_CPU, [f"{ms:.1f}" for ms in alone], alone[0])
    for cores, published in PUBLISHED.items():
        found = [1e3 * token_seconds(way, replace(board, cores=cores)) for way, board in COLUMNS]
        name = f"{cores} core{'s' if cores > 1 else ''}"
        yield cells(name, published, [f"{ms:.1f}" for ms in found], found[0])
    for cores in PUBLISHED:
        shares = [best(way, replace(board, cores=cores)) for way, board in COLUMNS]
        texts = [f"{1e3 * seconds:.1f} ({share:.0%})" for share, seconds in shares]
        name = f"{cores} core{'s' if cores > 1 else ''} + CPU (its share)"
        yield cells(name, PUBLISHED_SPLIT if cores == 3 else None, texts, 1e3 * shares[0][1])


def cells(name: str, published: int | None, modelled: Sequence[str], first: float) -> tuple[str, ...]:
    ratio = f"{first / published:.2f}" if published else ""
    return (name, str(published or "–"), *modelled, ratio)


def page() -> str:
    """The page as Markdown."""
    names = [f"{way.name}, {described(board)}" for way, board in COLUMNS]
    head = ("ms a token", "published", *names, "first of these / published")
    lines = [INTRODUCTION, line(head), line(("---", *["---:"] * (len(head) - 1))), *map(line, rows()), "", NOTES]
    return "\n".join(lines)


def described(board: Board) -> str:
    return f"{board.name} {board.clock_hz / 1e6:.0f} MHz, DRAM {board.bandwidth / 1e9:.0f} GB/s"


def line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints or writes the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, help="file to write instead of stdout")
    arguments = parser.parse_args(argv)
    if arguments.output is None:
        print(page(), end="")
    else:
        arguments.output.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
