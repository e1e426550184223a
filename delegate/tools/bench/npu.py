"""Seconds of a product on the NPU: measured where there is one, else modelled from its command words."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from delegate.errors import DelegateError
from delegate.hw.device import Kernel
from delegate.hw.emit.product import Form
from delegate.hw.soc import RK3588
from delegate.hw.task import Program, located
from delegate.hw.timing import Board, TimedJob, task_costs, total_seconds
from delegate.matmul import Matmul, Requantization
from delegate.matmul.packing import USUAL_DEPTH, Packing
from delegate.matmul.plan import bucket
from delegate.matmul.program import Converter, column_shares, compile_core
from delegate.tools.bench.shapes import Shape

RUNS = 3  # at least, whose median counts
ROUNDING = 2.0**-11  # of halves
SUM_ERROR = 2.0**-22  # of singles that are added up, of the largest sum that there could be
SPACE = 1 << 28  # bytes of I/O addresses between two buffers of a program that is only timed
HALF = Requantization(2.0**-8)  # stands for any: the time does not depend on it


def peak(form: Form, board: Board) -> float:
    """Operations a second of all cores of a board (npu.md §1)."""
    return 2 * RK3588.channel_chunk * form.group * board.clock_hz * board.cores


def modelled(shape: Shape, form: Form, board: Board, part_depth: int = USUAL_DEPTH) -> float:
    """From submit to the last interrupt, all of a board's cores sharing the columns; the host's work is not in it."""
    packing = Packing(form.element, shape.depth, shape.columns, part_depth)
    wide = Form(form.element, "float32" if form.element == "float16" else "int32")
    made = wide if len(packing.parts) > 1 else form
    converter = Converter(1 << 14, 14, 0, None) if made.quantizes else None
    jobs: list[TimedJob] = []
    shares = column_shares(packing, board.cores)
    for core, columns in enumerate(shares):
        program = compile_core(packing, made, bucket(shape.rows), len(columns), converter).program
        jobs += timed_jobs(program, core)
    return total_seconds(jobs, replace(board, cores=len(shares)))


def timed_jobs(program: Program, core: int) -> list[TimedJob]:
    """The jobs of a program as the timing model takes them."""
    costs = task_costs(located(program, [index * SPACE for index in range(len(program.buffers))]))
    jobs, first = [], 0
    for job in program.jobs:
        jobs.append(TimedJob(tuple(costs[first : first + len(job.tasks)]), job.chains, core))
        first += len(job.tasks)
    return jobs


def measured(
    shape: Shape, form: Form, device: str, cores: int, kernel: Kernel, seconds: float, rng: np.random.Generator
) -> float:
    """From numpy to numpy, B being in the NPU's memory: copies of A and C are in it.

    Raises DelegateError where the NPU's result is wrong.
    """
    a, b = operands(shape, form, rng)
    output = HALF if form.quantizes else form.result
    with Matmul(b, output, device, cores, kernel) as product:  # type: ignore[arg-type]
        out = product(a)
        check(shape, form, a, b, out)
        return median_seconds(lambda: product(a, out=out), seconds)


def check(shape: Shape, form: Form, *matrices: npt.NDArray[np.generic]) -> None:
    """Raises DelegateError unless C is A @ B to the rounding of its type."""
    a, b, c = (matrix.astype(np.float64) for matrix in matrices)
    wanted = a @ b
    if form.quantizes:
        wanted = np.clip(np.rint(wanted * HALF.scale), -128, 127)
    scale = float(np.abs(a).max() * np.abs(b).max()) * shape.depth
    allowed = 0.0 if form.element == "int8" else scale * (ROUNDING if form.result == "float16" else SUM_ERROR)
    error = float(np.abs(c - wanted).max())
    if not error <= allowed:
        raise DelegateError(
            f"{shape.sizes} {form.element}: the NPU's result is off by {error:g}; allowed is {allowed:g}"
        )


def median_seconds(run: Callable[[], object], seconds: float) -> float:
    """The median of repeated runs that take about ``seconds`` together."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def operands(shape: Shape, form: Form, rng: np.random.Generator) -> tuple[npt.NDArray[np.generic], ...]:
    """A and B."""
    sizes = (shape.rows, shape.depth), (shape.depth, shape.columns)
    if form.element == "int8":
        return tuple(rng.integers(-128, 128, size, np.int8) for size in sizes)
    return tuple(rng.standard_normal(size, np.float32).astype(np.float16) for size in sizes)
