"""Fast path of int8 tasks without convolution, and of tables on integers: every answer worked out once, then looked up.

What such a task writes is a function of one byte, of one byte for each channel, or of two bytes. ``stages``, the plain
model, gives it for all of them, so a looked-up answer is the plain one by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from delegate.hw.sim import dpu_rdma, stages, writer
from delegate.hw.sim.dpu import Dpu
from delegate.hw.sim.dpu_rdma import LaneValues
from delegate.hw.sim.lookup import Bools, Tables
from delegate.hw.sim.memory import AddressSpace
from delegate.hw.sim.numbers import Ints, Stored

if TYPE_CHECKING:
    from delegate.hw.sim.passes import Buffers, Flying

ATOM = 16  # int8 elements
BYTES = 256
PAIRS_FROM = 1 << 14  # elements from which the answers of all pairs of bytes are worth working out
WINDOW = 1 << 20  # indices of a table
KEPT = 256  # plans whose answers to bytes and pairs are kept, each up to 64 KiB and as many flags for a warning
KEPT_TABLES = 32  # the same of tables, each up to WINDOW bytes
NOTHING = LaneValues()
Indices = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Answers:
    """What is written for each argument, and for which of them the model is in doubt, by warning."""

    values: Stored  # int8 (arguments)
    doubtful: tuple[tuple[str, Bools], ...]

    def take(self, arguments: Indices, warn: Callable[[str], None]) -> Stored:
        """The answers, in the shape of the arguments (integers of any type)."""
        for text, where in self.doubtful:
            if where[arguments].any():
                warn(text)
        taken: Stored = self.values.take(arguments)
        return taken


def work_out(plan: Dpu, values: Ints, lanes: tuple[LaneValues, LaneValues], operand: Ints | None) -> Answers:
    """The plain model on ``values`` (arguments, channels); ``lanes``: of BS and BN. Arguments count channels first."""
    doubtful: list[tuple[str, Bools]] = []

    def doubt(text: str, where: Bools) -> None:
        if where.any():
            doubtful.append((text, where.reshape(-1)))

    return Answers(stages.run(values, plan, *lanes, operand, doubt).reshape(-1), tuple(doubtful))


def every_byte() -> Ints:
    """Signed values of the bytes 0 to 255, (256)."""
    return np.arange(BYTES, dtype=np.uint8).view(np.int8).astype(np.int64)


def alone(plan: Dpu) -> Dpu:
    """The plan of one pixel of one channel, so that tasks share answers that differ in size and place only."""
    nowhere = writer.Writer(0, 1, 1, 1, plan.output.format, 1, ATOM, ATOM, ATOM, False)
    return replace(plan, width=1, height=1, channels=1, writer=nowhere)


@lru_cache(maxsize=KEPT)
def of_bytes(plan: Dpu) -> Answers:
    """Of a plan without operands from memory, for each byte of the main feed."""
    return work_out(plan, every_byte()[:, None], (NOTHING, NOTHING), None)


@lru_cache(maxsize=KEPT)
def of_pairs(plan: Dpu) -> Answers:
    """Of a plan with an EW operand from memory, for main byte * 256 + operand byte."""
    main, operand = np.repeat(every_byte(), BYTES), np.tile(every_byte(), BYTES)
    return work_out(plan, main[:, None], (NOTHING, NOTHING), operand[:, None])


def window(tables: Tables) -> tuple[int, int]:
    """The first and last index that differ from those beyond them, where the slopes are 0."""
    return min(tables.low.start, tables.high.start - 1), tables.high.end


def bounded(tables: Tables) -> bool:
    """Whether the answers of these tables can be listed."""
    first, last = window(tables)
    return tables.low.slope == tables.high.slope == 0 and last - first < WINDOW


@lru_cache(maxsize=KEPT_TABLES)
def of_tables(plan: Dpu) -> Answers:
    """Of the tables and OUT_CVT of a plan, for each index of their window, from its first."""
    assert plan.tables is not None
    first, last = window(plan.tables)
    behind = replace(plan, scale=None, norm=None, elementwise=None)
    return work_out(behind, np.arange(first, last + 1)[:, None], (NOTHING, NOTHING), None)


def suits(flying: Flying) -> bool:
    """Whether the answers of a task are fewer than its elements, or kept for other tasks."""
    plan, operand, pixels = flying.dpu, flying.reader.operand, flying.dpu.width * flying.dpu.height
    if plan.input.name != "int8" or plan.output.format.name != "int8" or plan.writer.transposed:
        return False
    if plan.writer.keeps_lanes and plan.channels % ATOM:
        return False
    if _has_operand(flying):
        return (
            not _by_channel(flying)
            and operand is not None
            and operand.format.name == "int8"
            and pixels * plan.channels >= PAIRS_FROM
        )
    return pixels >= BYTES or not _by_channel(flying)


def _has_operand(flying: Flying) -> bool:
    stage = flying.dpu.elementwise
    return stage is not None and stage.source == "memory"


def _by_channel(flying: Flying) -> bool:
    """Whether channels differ: by operands of BS or BN from memory, or by unequal registers of EW."""
    plan, reader = flying.dpu, flying.reader
    lanes = (plan.scale is not None and reader.scale_lane.use) or (plan.norm is not None and reader.norm_lane.use)
    return bool(lanes) or (plan.elementwise is not None and len(set(plan.elementwise.operands)) > 1)


@dataclass(frozen=True, eq=False)
class FastFlying:
    """A task without convolution that looks its answers up; surfaces stay as they lie in memory."""

    plain: Flying

    def run(self, memory: AddressSpace, buffers: Buffers, task: str) -> None:
        plan = self.plain.dpu
        writer.check_mapped(memory, plan.writer, task)
        buffers.forget()
        main = dpu_rdma.stored_main(memory, self.plain.reader, task).view(np.uint8)
        answers, arguments = self._ask(memory, main, task)
        used = plan.channels % ATOM
        if used:  # lanes without a channel ask what a channel asks, and get 0 (F-72)
            arguments[-1, :, used:] = arguments[-1, :, :1]
        result = answers.take(arguments, buffers.warn)
        if used:
            result[-1, :, used:] = 0
        writer.write_surfaces(memory, plan.writer, result, task)

    def _ask(self, memory: AddressSpace, main: npt.NDArray[np.uint8], task: str) -> tuple[Answers, Indices]:
        """The answers and, of the main feed's shape (surfaces, pixels, 16), which of them are wanted."""
        plan, reader = self.plain.dpu, self.plain.reader
        if _has_operand(self.plain):
            pairs = main.astype(np.uint16) << 8
            pairs |= dpu_rdma.stored_operand(memory, reader, task).view(np.uint8)
            return of_pairs(alone(plan)), pairs
        if not _by_channel(self.plain):
            return of_bytes(alone(plan)), main.copy()
        scale, norm = (
            dpu_rdma.read_lane(memory, lane, plan.channels, True, task) if stage is not None else NOTHING
            for stage, lane in ((plan.scale, reader.scale_lane), (plan.norm, reader.norm_lane))
        )
        values = np.repeat(every_byte()[:, None], plan.channels, axis=1)
        channel = np.arange(len(main) * ATOM).reshape(-1, 1, ATOM)
        return work_out(plan, values, (scale, norm), None), main.astype(np.int64) * plan.channels + channel
