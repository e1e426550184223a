"""The time line of a profile: what the blocks of each core do when.

When a task begins and ends is the model's; where in it a block works is drawn from the lengths of its parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from delegate.hw.timing import Board, Cost, Slot, task_cycles
from delegate.tools.profile.layers import Profile

TASKS = "tasks"
BARRIER = "wait: barrier"
BLOCKS = ("PC", "CNA", "CORE", "DPU_RDMA", "DPU", "PPU_RDMA", "PPU")


@dataclass(frozen=True)
class Span:
    """Seconds."""

    core: int
    track: str  # TASKS or one of BLOCKS
    name: str
    begin: float
    end: float
    slot: Slot


def spans(profile: Profile) -> Iterator[Span]:
    """All spans; those of TASKS fill the whole time of each core."""
    for slot in profile.slots:
        if slot.start > slot.begin:
            yield Span(slot.core, TASKS, f"wait: {slot.wait}", slot.begin, slot.start, slot)
        title = profile.title(slot)
        yield Span(slot.core, TASKS, title, slot.start, slot.end, slot)
        for block, begin, end in blocks(profile.cost(slot), profile.boards[slot.job], slot):
            yield Span(slot.core, block, title, begin, end, slot)
    yield from barriers(profile)


def waits(span: Span) -> bool:
    """Whether a span of the tasks' track is what goes before the task, or a barrier."""
    return span.name == BARRIER or span.end <= span.slot.start


def barriers(profile: Profile) -> Iterator[Span]:
    """Where a core waits for others, or for the host that copies between cores."""
    for core in range(profile.board.cores):
        now = 0.0
        for slot in sorted((slot for slot in profile.slots if slot.core == core), key=lambda slot: slot.begin):
            if slot.begin > now:
                yield Span(core, TASKS, BARRIER, now, slot.begin, slot)
            now = slot.end
        if now < profile.seconds and profile.slots:
            yield Span(core, TASKS, BARRIER, now, profile.seconds, profile.slots[-1])


def blocks(cost: Cost, board: Board, slot: Slot) -> Iterator[tuple[str, float, float]]:
    """(block, begin, end) inside a task, of blocks that work in it."""
    cycles = task_cycles(cost, board)
    moving = slot.start + cycles.start / board.clock_hz
    reads = (cost.bytes.features + cost.bytes.weights) / board.core_bytes
    operands = cost.bytes.operands / board.core_bytes
    writes = cost.bytes.output / board.core_bytes + cycles.pages / board.clock_hz
    products = cycles.products / board.clock_hz
    lead = moving + cycles.lead / board.clock_hz
    yield "PC", slot.start, moving
    if cost.kind == "pooling":
        yield "PPU_RDMA", moving, min(moving + reads, slot.end)
        yield "PPU", slot.end - max(products, writes), slot.end
        return
    if cost.kind != "element-wise":
        if reads:
            yield "CNA", moving, min(moving + reads, slot.end)
        yield "CORE", lead, min(lead + products, slot.end)
    if operands:
        begin = min(moving + reads, slot.end - operands)
        yield "DPU_RDMA", begin, begin + operands
    yield "DPU", slot.end - writes, slot.end


def traffic(profile: Profile) -> list[tuple[float, float]]:
    """(seconds, bytes a second from then on) of DRAM, all cores together, each task's bytes spread over it evenly."""
    changes: dict[float, float] = {}
    for slot in profile.slots:
        rate = profile.cost(slot).bytes.total / (slot.end - slot.start)
        changes[slot.start] = changes.get(slot.start, 0.0) + rate
        changes[slot.end] = changes.get(slot.end, 0.0) - rate
    level, levels = 0.0, []
    for time in sorted(changes):
        level += changes[time]
        levels.append((time, max(level, 0.0)))
    if levels:
        levels[-1] = (levels[-1][0], 0.0)  # the sum of many floats is not quite nothing
    return levels
