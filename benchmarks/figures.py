"""Published times of RK3588 boards that are about programs we have or can write, as data.

Sources: the hardware book's timing.md and silicon-figures.md, whose letters name who measured. ``used`` says whether a
figure had a part in choosing the constants of ``delegate/hw/timing.py``; the others are held out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.products import PROGRAMS, product, tiled
from delegate.hw.task import Words
from delegate.hw.timing import RKNPU, ROCKET, Board, TimedJob, task_costs, total_seconds
from delegate.tools.listing import open_listing
from delegate.tools.profile.layers import timed_jobs

STOCK = replace(ROCKET, name="rocket, 200 MHz", clock_hz=200e6)
TUNED = replace(ROCKET, name="rocket, addresses kept attached", job_seconds=34e-6)
PATCHED = replace(ROCKET, name="rocket, kernel that chains", chains=True)
VENDOR = replace(RKNPU, name="rknpu, 1 GHz")


@dataclass(frozen=True)
class Figure:
    """One published figure, from ``low`` to ``high``; ``model`` gives ours in the same unit on a board."""

    what: str
    source: str
    low: float
    high: float
    unit: str
    board: Board
    model: Callable[[Board], float]
    used: bool = False
    note: str = ""

    @property
    def measured(self) -> float:
        return (self.low * self.high) ** 0.5


def milliseconds(streams: Callable[[], list[Words]], jobs: int = 1) -> Callable[[Board], float]:
    """The time of streams that are cut into as many jobs of nearly equal length."""

    @cache
    def timed() -> tuple[TimedJob, ...]:
        costs = task_costs(streams())
        size = -(-len(costs) // jobs)
        cut = [tuple(costs[first : first + size]) for first in range(0, len(costs), size)]
        return tuple(TimedJob(part, (range(len(part)),)) for part in cut)

    return lambda board: 1e3 * total_seconds(timed(), board)


def rate(rows: int, depth: int, columns: int, streams: Callable[[], list[Words]]) -> Callable[[Board], float]:
    """GOP/s of a product; two operations a MAC."""
    time = milliseconds(streams)
    return lambda board: 2 * rows * depth * columns / time(board) / 1e6


def gain(streams: Callable[[], list[Words]], cores: int) -> Callable[[Board], float]:
    """How many times the jobs of one core that many cores end in the same time, as they share DRAM."""
    time = milliseconds(streams)
    return lambda board: cores * time(replace(board, cores=1)) / time(replace(board, cores=cores))


def slowdown(pitch: int) -> Callable[[Board], float]:
    """256x384x256 fp16 to fp32, rows ``pitch`` bytes apart, against the tiled result."""
    plain = milliseconds(lambda: [product(256, 384, 256, "fp16 to fp32")])
    apart = milliseconds(lambda: [product(256, 384, 256, "fp16 to fp32", row_pitch=pitch)])
    return lambda board: apart(board) / plain(board)


def captured(name: str) -> Callable[[Board], float]:
    """All jobs of a capture of the upstream driver, one after the other on one core."""

    @cache
    def timed() -> tuple[TimedJob, ...]:
        return tuple(timed_jobs(open_listing(PROGRAMS.parent / name), ROCKET))

    return lambda board: 1e3 * total_seconds(timed(), board)


def four(rows: int, depth: int, columns: int) -> Callable[[Board], float]:
    return milliseconds(lambda: [product(rows, depth, columns, "int8 to int32")] * 4)


def one(rows: int, depth: int, columns: int, form: str = "fp16 to fp32") -> Callable[[], list[Words]]:
    return lambda: [product(rows, depth, columns, form)]


def removed(board: Board) -> float:
    """Microseconds that a task more or less in a chain saves."""
    streams = milliseconds(lambda: tiled(512, 3840, 4096), jobs=5)
    return 1e3 * (streams(replace(board, chains=False)) - streams(board)) / (320 - 5)


MIDDLE = one(256, 512, 128)
LARGE = "512x3840x4096 fp16 in 320 tiles, 5 jobs"
VENDOR_TILES = "tiles of 256x384x256, sums on the chip"

FIGURES: tuple[Figure, ...] = (
    # Jobs and tasks
    Figure(
        "one tiny task, 8x64x16",
        "P, silicon-figures §2",
        0.051,
        0.054,
        "ms",
        ROCKET,
        milliseconds(one(8, 64, 16)),
        True,
    ),
    Figure("the same, kept attached", "P, §2", 0.034, 0.034, "ms", TUNED, milliseconds(one(8, 64, 16)), True),
    Figure("4 tasks 64x256x64 int8", "P, §2", 0.274, 0.277, "ms", ROCKET, four(64, 256, 64), True),
    Figure("4 tasks 128x1024x128 int8", "P, §2", 0.41, 0.48, "ms", ROCKET, four(128, 1024, 128)),
    Figure("interrupt that a chain saves", "P, §2", 44, 70, "µs", PATCHED, removed),
    Figure(
        "64x256x512",
        "P, §2",
        0.096,
        0.109,
        "ms",
        ROCKET,
        milliseconds(one(64, 256, 512)),
        note="type assumed: fp16 to fp32",
    ),
    # Single products
    Figure("256x512x128 fp16 to fp32", "timing.md §3", 0.399, 0.399, "ms", STOCK, milliseconds(MIDDLE), True),
    Figure("the same at 600 MHz", "timing.md §3", 0.181, 0.187, "ms", ROCKET, milliseconds(MIDDLE)),
    Figure(
        "the same at 700 MHz",
        "timing.md §3",
        0.125,
        0.131,
        "ms",
        replace(TUNED, name="rocket, kept attached, 700 MHz", clock_hz=700e6),
        milliseconds(MIDDLE),
        note="that the addresses were kept attached is assumed",
    ),
    Figure("64x64x64 fp16", "A, §4", 0.160, 0.160, "ms", ROCKET, milliseconds(one(64, 64, 64)), note="clock assumed"),
    Figure(
        "256x256x256 fp16", "A, §4", 0.807, 0.807, "ms", ROCKET, milliseconds(one(256, 256, 256)), note="clock assumed"
    ),
    Figure(
        "M=1, 8155x8155 fp16",
        "A, §4",
        12.16,
        12.16,
        "ms",
        VENDOR,
        milliseconds(one(4, 8160, 8160)),
        note="padded to whole groups; clock assumed",
    ),
    # The vendor's products, native layout
    Figure(
        "128x1024x8192 fp16",
        "N, §4",
        900,
        900,
        "GOP/s",
        VENDOR,
        rate(128, 1024, 8192, one(128, 1024, 8192, "fp16 to fp16")),
        True,
        "native layout; the clock is assumed",
    ),
    Figure(
        "the same, fp32 result",
        "N, §4",
        750,
        750,
        "GOP/s",
        VENDOR,
        rate(128, 1024, 8192, one(128, 1024, 8192)),
        note="the published figure is of the normal layout; clock assumed",
    ),
    Figure(
        "128x1024x8192 int8",
        "N, §4",
        1800,
        1800,
        "GOP/s",
        VENDOR,
        rate(128, 1024, 8192, one(128, 1024, 8192, "int8 to int32")),
        note="clock assumed",
    ),
    Figure(
        "128x1024x8192 int4",
        "N, §4",
        4000,
        4000,
        "GOP/s",
        VENDOR,
        rate(128, 1024, 8192, one(128, 1024, 8192, "int4 to int16")),
        note="clock assumed",
    ),
    Figure(
        "M=1, 1024x8192 fp16",
        "N, §4",
        11,
        11,
        "GOP/s",
        VENDOR,
        rate(1, 1024, 8192, one(4, 1024, 8192)),
        True,
        "clock assumed; padded to 4 rows",
    ),
    # Tiled products
    Figure(LARGE + ", chained", "P, §2", 46, 48, "ms", PATCHED, milliseconds(lambda: tiled(512, 3840, 4096), 5), True),
    Figure(LARGE + ", not chained", "P, §2", 62, 68, "ms", ROCKET, milliseconds(lambda: tiled(512, 3840, 4096), 5)),
    *(
        Figure(
            f"{m}x{k}x{n} fp16",
            "U, §4",
            low,
            high,
            "ms",
            VENDOR,
            milliseconds(lambda m=m, k=k, n=n: tiled(m, k, n), jobs),
            note=VENDOR_TILES,
        )
        for m, k, n, low, high, jobs in (
            (64, 256, 256, 0.09, 0.09, 1),
            (128, 512, 512, 0.60, 0.60, 1),
            (256, 1024, 1024, 2.58, 3.85, 2),
            (512, 1024, 1024, 4.89, 4.89, 2),
            (512, 2048, 2048, 5.74, 8.20, 4),
            (512, 3840, 4096, 21.45, 31.70, 8),
            (1024, 3840, 4096, 42.90, 42.90, 16),
        )
    ),
    Figure(
        "512x512x512 fp16",
        "timing.md §3",
        1.0,
        1.0,
        "ms",
        VENDOR,
        milliseconds(lambda: tiled(512, 512, 512)),
        note="user space is in the figure; clock unknown",
    ),
    Figure(
        "large fp16 products, one core, 200 MHz",
        "N, timing.md §3",
        150,
        150,
        "GOP/s",
        replace(STOCK, chains=True),
        rate(512, 3840, 4096, lambda: tiled(512, 3840, 4096)),
        note="shape assumed",
    ),
    # Row-major results
    Figure("rows 8 KiB apart, 256x384x256", "N, §4", 1.12, 1.25, "times", ROCKET, slowdown(8192), True),
    Figure("rows 16 KiB apart", "N, §4", 1.43, 1.60, "times", ROCKET, slowdown(16384)),
    Figure("rows 32 KiB apart", "N, §4", 2.01, 2.29, "times", ROCKET, slowdown(32768)),
    Figure("rows 1 KiB apart", "N, §4", 0.88, 0.95, "times", ROCKET, slowdown(1024)),
    # Cores
    Figure(
        "two cores", "N, §3", 1.99, 2.13, "times", ROCKET, gain(lambda: tiled(512, 1024, 1024), 2), note="shape assumed"
    ),
    Figure(
        "three cores",
        "N, §3",
        2.9,
        2.94,
        "times",
        ROCKET,
        gain(lambda: tiled(512, 1024, 1024), 3),
        note="shape assumed",
    ),
    Figure("three cores, 512x1024x1024", "U, §3", 2.7, 2.7, "times", VENDOR, gain(lambda: tiled(512, 1024, 1024), 3)),
    # Networks
    Figure(
        "MobileNetV1 1.0/224, upstream's program",
        "timing.md §3",
        10.2,
        11.6,
        "ms",
        STOCK,
        captured("mobilenet_v1_1.0_224_quant"),
        note="clock not published, 200 MHz assumed; the host's packing is in the figure",
    ),
    Figure(
        "MobileNetV2 1.0/224, upstream's program",
        "timing.md §3",
        15,
        15,
        "ms",
        STOCK,
        captured("mobilenet_v2_1.0_224_inat_bird_quant"),
        note="as above; another head than ImageNet's",
    ),
)
