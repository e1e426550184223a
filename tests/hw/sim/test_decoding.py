"""Streams that meet new register states: what was decoded before is taken over exactly where nothing differs."""

from __future__ import annotations

import random

import pytest
from hw.sim.programs import OUTPUT, Board, Fields, Shape, change, convolution, words

from delegate.hw.regs import CORE, DPU
from delegate.hw.sim.machine import Machine
from delegate.hw.sim.options import Options
from delegate.hw.sim.settings import GATES

SHAPE = Shape(4, 4, 16, 32, output=(4, 4))


def full(target: int) -> list[int]:
    """A stream that writes every register its task depends on."""
    return words(change(convolution(SHAPE), DPU.DST_BASE_ADDR, dst_base_addr=OUTPUT + 512 * target))


def delta(target: int) -> list[int]:
    """A stream that inherits all but its destination."""
    fields: Fields = {DPU.DST_BASE_ADDR: {"dst_base_addr": OUTPUT + 512 * target}}
    return words(fields)


def run(board: Board, streams: list[list[int]]) -> None:
    for stream in streams:
        board.run(stream)


@pytest.mark.parametrize("seed", range(4))
def test_states_are_those_of_decoding_each_time(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full streams in random order, after two of which deltas follow; registers, pointers and destinations agree."""
    drawn = random.Random(seed)
    order = [full(0), full(1)]
    order += [drawn.choice((full, full, delta))(drawn.randrange(5)) for _ in range(40)]
    seen: dict[bool, list[object]] = {True: [], False: []}
    decoded: list[int] = []
    decode = Machine._decode
    monkeypatch.setattr(Machine, "_decode", lambda *all: decoded.append(1) or decode(*all))
    for taken_over in (True, False):
        with monkeypatch.context() as patch:
            if not taken_over:
                patch.setattr(Machine, "_recall", lambda self, raw: None)
            board = Board(Options(plain=True))
            board.machine.observe = lambda task, kept=seen[taken_over]: kept.append(
                (task.state.key(), task.registers.groups, task.run.dpu.writer, task.link, task.warnings)
            )
            decoded.clear()
            run(board, order)
            count = len(decoded)
        if taken_over:
            fewer = count
    assert seen[True] == seen[False]
    assert fewer < count


def test_an_inherited_register_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """MAC_GATING, which the task depends on, is written by one stream only: the next in its group is decoded anew."""
    decoded: list[int] = []
    decode = Machine._decode
    monkeypatch.setattr(Machine, "_decode", lambda *all: decoded.append(1) or decode(*all))
    board = Board(Options(plain=True))
    run(board, [full(0)])  # sets the pointers in motion
    decoded.clear()
    run(board, [full(target) for target in (0, 1, 1, 0, 0, 1, 0, 1)])
    assert len(decoded) == 4  # two streams in two groups
    gated = words(change(convolution(SHAPE), CORE.MAC_GATING, slcg_op_en=GATES))
    run(board, [gated, full(0), full(1), full(0)])
    assert len(decoded) == 6  # the gated one, and the one two behind it
    run(board, [full(1), full(0), full(1)])
    assert len(decoded) == 6


def test_a_delta_follows_what_it_inherits() -> None:
    """The same words write another size after another full task (S-89)."""
    board = Board(Options(plain=True))
    wide = words(convolution(Shape(4, 8, 16, 32, output=(4, 8))))
    sizes: list[int] = []
    board.machine.observe = lambda task: sizes.append(task.run.dpu.width)
    run(board, [full(0), full(0), delta(1), wide, wide, delta(1), delta(1)])
    assert sizes == [4, 4, 4, 8, 8, 8, 8]
