"""PC: chains, ping-pong register groups, decoding once."""

from __future__ import annotations

import numpy as np
import pytest
from hw.sim.programs import (
    BIAS,
    CONVOLUTION,
    INPUT,
    OUTPUT,
    PING_PONG,
    STREAM,
    WEIGHTS,
    Board,
    Fields,
    Shape,
    change,
    convolution,
    words,
)

from delegate.errors import SimulatorError
from delegate.hw.registers import Register
from delegate.hw.regs import CNA, DPU, DPU_RDMA
from delegate.hw.sim.machine import Machine
from delegate.hw.sim.registers import BlockState

SHAPE = Shape(4, 4, 16, 32, output=(4, 4))
FIELDS = convolution(SHAPE)


def bias_task(target: int, bias: int, fields: Fields = FIELDS) -> Fields:
    """A task that writes its 32 biases (from BIAS + 128 * bias) to OUTPUT + 512 * target."""
    fields = change(fields, DPU.DST_BASE_ADDR, dst_base_addr=OUTPUT + 512 * target)
    fields = change(fields, DPU_RDMA.RDMA_BS_BASE_ADDR, bs_base_addr=BIAS + 128 * bias)
    return change(fields, DPU.OUT_CVT_SHIFT, out_cvt_shift=14)


@pytest.fixture
def board() -> Board:
    board = Board()
    board.put(BIAS, np.repeat(np.arange(1, 9, dtype=np.int32), 32))
    return board


def written(board: Board, target: int) -> int:
    """The one value a bias task wrote, 0 for none."""
    values = set(board.buffers[OUTPUT][512 * target : 512 * target + 512].tolist())
    assert len(values) == 1
    return values.pop()


def linked(streams: list[Fields | dict[Register, dict[str, int]]], pointers: bool = True) -> list[list[int]]:
    """Streams that lead to each other, at 64-byte boundaries from STREAM on."""
    sizes = [len(words(fields, pointers=pointers)) for fields in streams]
    addresses = [STREAM + sum(-(-8 * size // 64) * 64 for size in sizes[:index]) for index in range(len(sizes) + 1)]
    result = []
    for index, fields in enumerate(streams):
        last = index + 1 == len(streams)
        link = 0 if last else addresses[index + 1]
        amount = 0 if last else (sizes[index + 1] + 1) // 2 - 1
        result.append(words(fields, CONVOLUTION, link, amount, pointers))
    return result


def test_a_chain_follows_its_links(board: Board):
    """S-94: BASE leads to the next stream; TASK_NUMBER ends the chain."""
    board.run(*linked([bias_task(k, k) for k in range(5)]), tasks=5)
    assert [written(board, k) for k in range(5)] == [1, 2, 3, 4, 5]


def test_task_number_is_the_true_stop(board: Board):
    """S-94: a dangling link after the last task is harmless."""
    board.run(*linked([bias_task(k, k) for k in range(4)]), tasks=2)
    assert [written(board, k) for k in range(4)] == [1, 2, 0, 0]


def test_a_chain_without_a_link_stops(board: Board):
    """S-94: without BASE the first task runs and PC stops."""
    with pytest.raises(SimulatorError, match="PC stops after task 1 of 3"):
        board.run(*[words(bias_task(k, k)) for k in range(3)], tasks=3)
    assert written(board, 0) == 1


def test_an_amount_that_does_not_reach_the_fire_word(board: Board):
    first, second = linked([bias_task(0, 0), bias_task(1, 1)])
    short = [word if word >> 48 != 0x0101 or word & 0xFFFF != 0x14 else 0x0101_00000002_0014 for word in first]
    with pytest.raises(SimulatorError, match="no fire word"):
        board.run(short, second, tasks=2)


def test_larger_amounts_are_tolerated(board: Board):
    """C-25: body words instead of pairs."""
    first, second = linked([bias_task(0, 0), bias_task(1, 1)])
    long = [word if word >> 48 != 0x0101 or word & 0xFFFF != 0x14 else 0x0101_00000090_0014 for word in first]
    board.run(long, second, tasks=2)
    assert written(board, 1) == 2


def test_a_stream_outside_memory_is_a_fault(board: Board):
    with pytest.raises(SimulatorError, match="PC fetch"):
        board.machine.run_chain(0x10, 4, 1)
    with pytest.raises(SimulatorError, match="16-byte"):
        board.machine.run_chain(STREAM + 8, 4, 1)
    for count in (0, 1 << 20):
        with pytest.raises(SimulatorError, match="words"):
            board.machine.run_chain(STREAM, count, 1)


def delta(target: int, bias: int) -> dict[Register, dict[str, int]]:
    """S-93: a task that writes only addresses."""
    full = bias_task(target, bias)
    return {register: full[register] for register in (DPU.DST_BASE_ADDR, DPU_RDMA.RDMA_BS_BASE_ADDR)}


def test_deltas_inherit_from_two_tasks_back(board: Board):
    """S-89: F F D D D D is exact."""
    fields = [bias_task(0, 0), bias_task(1, 1), delta(2, 2), delta(3, 3), delta(4, 4), delta(5, 5)]
    board.run(*[words(task) for task in fields])
    assert [written(board, k) for k in range(6)] == [1, 2, 3, 4, 5, 6]


def test_the_state_two_tasks_back_counts_not_the_last(board: Board):
    """S-89: F S D takes F's geometry, S F D takes S's."""
    full, scrub = bias_task(0, 0), change(bias_task(1, 1), DPU.OUT_CVT_SHIFT, out_cvt_shift=13)
    board.run(words(full), words(scrub), words(delta(2, 2)))
    assert [written(board, k) for k in range(3)] == [1, 4, 3]
    board.machine.reset()
    board.run(words(scrub), words(full), words(delta(3, 2)))
    assert written(board, 3) == 6


def test_ping_pong_off_inherits_from_the_predecessor(board: Board):
    """S-90: with 0x30 written to the pointers; CNA and CORE keep the kernel's, so all their registers are written."""
    off = {"pointer_pp_clear": 1, "executer_pp_clear": 1}
    head = [DPU.S_POINTER(**off), DPU_RDMA.RDMA_S_POINTER(**off)]
    board.run([*head, *words(bias_task(0, 0), pointers=False)])
    front = {register: values for register, values in FIELDS.items() if register.block not in (DPU, DPU_RDMA)}
    board.run([*head, *words({**front, **delta(1, 1)}, pointers=False)])
    assert [written(board, k) for k in range(2)] == [1, 2]


def test_registers_survive_jobs_but_not_a_reset(board: Board):
    """S-93."""
    board.run(words(bias_task(0, 0)), words(bias_task(1, 1)))
    board.machine.begin_job()
    board.run(words(delta(2, 2)))
    assert written(board, 2) == 3
    board.machine.reset()
    with pytest.raises(SimulatorError):
        board.run(words(delta(3, 3)))


def test_pointers_follow_their_mode():
    """S-91: mode 1 toggles by itself, mode 0 follows the executer; bit 0 moves the pointer only without ping-pong."""
    fields = dict.fromkeys(DPU.S_POINTER.fields, 0)
    alone = BlockState().set_pointer({**fields, **PING_PONG}).fired()
    assert (alone.pointer, alone.executer) == (1, 1)
    kept = alone.set_pointer({**fields, **PING_PONG})
    assert (kept.pointer, kept.executer) == (1, 1)
    following = BlockState(executer_toggles=True).set_pointer({**fields, "pointer_pp_en": 1, "executer_pp_en": 1})
    assert (following.fired().pointer, following.fired().executer) == (1, 1)
    manual = BlockState().set_pointer({**fields, "pointer": 1}).fired()
    assert (manual.pointer, manual.executer) == (1, 0)


def test_a_task_is_decoded_once(board: Board, monkeypatch: pytest.MonkeyPatch):
    decoded = []
    original = Machine._decode

    def count(self: Machine, raw: bytes, task: str):  # type: ignore[no-untyped-def]
        decoded.append(task)
        return original(self, raw, task)

    monkeypatch.setattr(Machine, "_decode", count)
    streams = [words(bias_task(k, k)) for k in range(3)]
    for _ in range(6):
        board.run(*streams)
    assert len(decoded) <= 9  # until the inherited states repeat
    decoded.clear()
    board.run(*streams)
    assert decoded == []
    board.run(words(bias_task(0, 5)), *streams[1:])  # another address is another stream
    assert len(decoded) >= 1
    assert written(board, 0) == 6


def test_changed_weights_are_unpacked_again(board: Board):
    """Kernels are kept unpacked only as long as memory holds the same bytes."""
    board.buffers[INPUT][:256] = 1
    for value in (0, 3, 0):
        board.buffers[WEIGHTS][:512] = value
        board.run(words(bias_task(0, 0)))
        assert written(board, 0) == 1 + 16 * value


def test_warnings_are_counted_not_repeated(board: Board):
    fields = change(bias_task(0, 0), CNA.WEIGHT_SIZE1, weight_bytes_per_kernel=1)
    for _ in range(3):
        board.run(words(fields))
    assert board.machine.warnings == {"CNA.WEIGHT_SIZE1 = 1, a kernel has 16 bytes": 3}
