"""int8 tasks without convolution: BS, EW with its operand converter, and OUT_CVT, against ordinary integers.

Both paths; the fast one looks every answer up (delegate.hw.sim.answers).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from hw.sim.flying import elementwise
from hw.sim.programs import BIAS, FLYING, INPUT, OPERAND, OUTPUT, Board, Fields, change, words
from hw.sim.silicon_model import half_even
from hw.sim.test_convolution import records
from hw.sim.test_epilogue import clamp32, half_away, split_shift

from delegate.errors import SimulatorError
from delegate.hw.regs import DPU, DPU_RDMA
from delegate.hw.sim.answers import FastFlying
from delegate.hw.sim.options import Options

Ints = npt.NDArray[np.int64]
PATHS = pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
PIXELS, CHANNELS = 448, 40  # above the number from which pairs are looked up; the last atom is half full
OPERATIONS = {
    "add": lambda a, b: a + b,
    "minus": lambda a, b: a - b,
    "max": np.maximum,
    "min": np.minimum,
    "mul": lambda a, b: a * b,
}


@dataclass(frozen=True)
class Settings:
    """BS: add, factor, shifts of both signs. Converter: offset, factor, shift, and whether it adds first. OUT_CVT."""

    add: int
    factor: int
    shift: tuple[int, int]
    convert: tuple[int, int, int, bool] | None
    scale: int
    out_shift: int
    offset: int
    away: bool


def drawn(seed: int) -> Settings:
    """A multiplier of 15 bits whose shift ``spread`` chooses; the operand goes through a converter but for one in 4."""
    rng = np.random.default_rng(seed)
    gain = int(rng.integers(1, 1 << 10))
    convert = [None, (int(rng.integers(-128, 129)), 1, 0, True), (int(rng.integers(-128, 129)), gain, 0, True)]
    convert.append((int(rng.integers(-9, 9)), gain, int(rng.integers(1, 9)), bool(rng.integers(0, 2))))
    chosen = convert[seed % 4]
    factor = int(rng.integers(1, 1 << (6 if chosen is None else 12)))
    return Settings(
        int(rng.integers(-60, 60)),
        factor * (1 if seed % 3 else -1),
        (int(rng.integers(0, 4)), int(rng.integers(0, 4))),
        chosen,
        int(rng.integers(0x4000, 0x8000)),
        14,
        int(rng.integers(-20, 20)),
        bool(seed % 2),
    )


def program(settings: Settings, operation: str, source: str, pixels: int = PIXELS, channels: int = CHANNELS) -> Fields:
    fields = elementwise(np.int8, operation, pixels, channels)
    fields = change(fields, DPU.BS_CFG, bs_bypass=0, bs_alu_bypass=0, bs_mul_bypass=0, bs_alu_algo=2)
    fields[DPU.BS_ALU_CFG] = {"bs_alu_operand": settings.add & 0xFFFFFFFF}
    fields[DPU.BS_MUL_CFG] = {"bs_mul_operand": settings.factor & 0xFFFF, "bs_mul_shift_value": settings.shift[0]}
    fields = change(fields, DPU.DATA_FORMAT, bs_mul_shift_value_neg=settings.shift[1])
    fields = change(fields, DPU.EW_CFG, ew_op_cvt_bypass=int(settings.convert is None))
    if settings.convert is not None:
        offset, factor, shift, first = settings.convert
        fields = change(fields, DPU.EW_CFG, ew_cvt_type=int(first))
        fields[DPU.EW_CVT_OFFSET_VALUE] = {"ew_op_cvt_offset": offset}
        fields[DPU.EW_CVT_SCALE_VALUE] = {"ew_op_cvt_scale": factor, "ew_op_cvt_shift": shift}
    if source == "channel":
        fields = change(fields, DPU_RDMA.RDMA_ERDMA_CFG, erdma_data_mode=0)
        fields = change(fields, DPU.EW_CFG, ew_data_mode=0)
        fields = change(fields, DPU_RDMA.RDMA_EW_SURF_STRIDE, ew_surf_stride=1)
    if source == "register":
        fields = change(fields, DPU.EW_CFG, ew_op_src=0)
        fields = change(fields, DPU_RDMA.RDMA_ERDMA_CFG, erdma_disable=1)
    fields[DPU.OUT_CVT_SCALE] = {"out_cvt_scale": settings.scale}
    fields[DPU.OUT_CVT_SHIFT] = {"out_cvt_shift": settings.out_shift, "cvt_round": int(settings.away)}
    fields[DPU.OUT_CVT_OFFSET] = {"out_cvt_offset": settings.offset}
    return fields


def combined(settings: Settings, operation: str, x: Ints, e: Ints, add: Ints | int, factor: Ints | int) -> Ints:
    """npu.md §5.3 and §5.4 on arrays that broadcast: what OUT_CVT gets."""
    value = split_shift((x + add) * factor, *settings.shift)
    if settings.convert is not None:
        offset, gain, shift, first = settings.convert
        e = half_even((e + offset) * gain, shift) if first else half_even(e * gain, shift) + offset
    return clamp32(OPERATIONS[operation](value, e))


def model(settings: Settings, operation: str, x: Ints, e: Ints, add: Ints | int, factor: Ints | int) -> Ints:
    """What is written (npu.md §5.5)."""
    value = combined(settings, operation, x, e, add, factor) * settings.scale
    rounded = half_away(value, settings.out_shift) if settings.away else half_even(value, settings.out_shift)
    return np.clip(rounded + settings.offset, -128, 127)


def spread(
    settings: Settings, operation: str, x: Ints, e: Ints, add: Ints | None = None, factor: Ints | None = None
) -> Settings:
    """The settings with a shift that brings most results into int8, around 0."""
    adds, factors = (settings.add if add is None else add), (settings.factor if factor is None else factor)
    value = combined(settings, operation, x, e, adds, factors)
    bits = int(np.quantile(np.abs(value), 0.9)).bit_length()
    settings = replace(settings, out_shift=14 + max(bits - 7, 0))
    if operation in ("add", "minus", "mul"):  # of two numbers one may always be the larger
        assert len(np.unique(model(settings, operation, x, e, adds, factors))) > 20
    return settings


def cubes(seed: int, pixels: int) -> tuple[Ints, Ints]:
    """Main feed and operand, (surfaces, pixels, 16), each pair of ends among them."""
    rng = np.random.default_rng(seed)
    x, e = (rng.integers(-128, 128, (-(-CHANNELS // 16), pixels, 16)) for _ in range(2))
    x[0, :2, :2], e[0, :2, :2] = ((-128, 127), (-128, 127)), ((-128, -128), (127, 127))
    return x, e


def run(board: Board, fields: Fields, shape: tuple[int, ...]) -> Ints:
    board.buffers[OUTPUT][:] = 99
    board.run(words(fields, FLYING))
    return board.get(OUTPUT, int(np.prod(shape)), np.int8).reshape(shape).astype(np.int64)


def check(got: Ints, wanted: Ints) -> None:
    """Channels that are there, and 0 in the lanes behind them (F-72)."""
    last = CHANNELS % 16
    assert np.array_equal(got[:-1], wanted[:-1])
    assert np.array_equal(got[-1, :, :last], wanted[-1, :, :last])
    assert not got[-1, :, last:].any()


def is_fast(board: Board) -> bool:
    return all(isinstance(decoded.run, FastFlying) for decoded in board.machine._decoded.values())


@PATHS
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("source", ["pixel", "channel"])
def test_two_operands_in_one_task(source: str, operation: str, seed: int, plain: bool):
    """BS from registers, the converter with and without a gain and a shift, either rounding (F-122 to F-124, S-160)."""
    x, e = cubes(seed, PIXELS)
    e = e if source == "pixel" else e[:, :1]
    settings = spread(drawn(seed), operation, x, e)
    board = Board(Options(plain=plain))
    board.put(INPUT, x.astype(np.int8))
    board.put(OPERAND, e.astype(np.int8))
    got = run(board, program(settings, operation, source), x.shape)
    check(got, model(settings, operation, x, e, settings.add, settings.factor))
    assert is_fast(board) != plain


@PATHS
@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operand_in_registers(operation: str, seed: int, equal: bool, plain: bool):
    """S-152: lane c % 8; it takes the converter like one from memory (F-124)."""
    x, _ = cubes(seed, PIXELS)
    lanes = np.random.default_rng(seed).integers(-128, 128, 8)
    lanes = np.full(8, lanes[0]) if equal else lanes
    settings = spread(drawn(seed), operation, x, np.tile(lanes, 2))
    fields = program(settings, operation, "register")
    for k in range(8):
        fields[getattr(DPU, f"EW_OP_VALUE_{k}")] = {f"ew_operand_{k}": int(lanes[k]) & 0xFFFF}
    board = Board(Options(plain=plain))
    board.put(INPUT, x.astype(np.int8))
    got = run(board, fields, x.shape)
    check(got, model(settings, operation, x, np.tile(lanes, 2), settings.add, settings.factor))
    assert is_fast(board) != plain


@PATHS
@pytest.mark.parametrize("seed", range(4))
def test_bs_operands_of_each_channel(seed: int, plain: bool):
    """S-17: records of BS in a task without convolution; EW adds a register."""
    x, _ = cubes(seed, PIXELS)
    rng = np.random.default_rng(seed)
    add, factor = rng.integers(-300, 300, 48), rng.integers(1, 1 << 12, 48)
    five = np.full((1, 1, 1), 5)
    settings = spread(drawn(seed), "add", x, five, add.reshape(3, 1, 16), factor.reshape(3, 1, 16))
    fields = change(program(settings, "add", "register"), DPU.BS_CFG, bs_alu_src=1)
    fields = change(fields, DPU.BS_MUL_CFG, bs_mul_src=1)
    fields[DPU_RDMA.RDMA_BRDMA_CFG] = {"brdma_data_use": 7}
    fields[DPU_RDMA.RDMA_BS_BASE_ADDR] = {"bs_base_addr": BIAS}
    fields |= {getattr(DPU, f"EW_OP_VALUE_{k}"): {f"ew_operand_{k}": 5} for k in range(8)}
    board = Board(Options(plain=plain))
    board.put(INPUT, x.astype(np.int8))
    for offset in (0, 11):  # what a fast path keeps must not outlive the operands in memory
        board.put(BIAS, records(add + offset, np.zeros(48), factor))
        got = run(board, fields, x.shape)
        wide = (add + offset).reshape(3, 1, 16), factor.reshape(3, 1, 16)
        check(got, model(settings, "add", x, five, *wide))
    assert is_fast(board) != plain


def test_few_elements_take_the_plain_path():
    """The answers of all pairs would cost more than they save."""
    x, e = cubes(1, 4)
    board = Board()
    board.put(INPUT, x.astype(np.int8))
    board.put(OPERAND, e.astype(np.int8))
    settings = spread(drawn(1), "mul", x, e)
    check(
        run(board, program(settings, "mul", "pixel", 4), x.shape),
        model(settings, "mul", x, e, settings.add, settings.factor),
    )
    assert not is_fast(board)


@PATHS
def test_a_task_in_place(plain: bool):
    """The output may lie where an operand is read."""
    x, e = cubes(2, PIXELS)
    settings = spread(drawn(2), "mul", x, e)
    board = Board(Options(plain=plain))
    board.put(INPUT, x.astype(np.int8))
    board.put(OPERAND, e.astype(np.int8))
    fields = change(program(settings, "mul", "pixel"), DPU.DST_BASE_ADDR, dst_base_addr=INPUT)
    board.run(words(fields, FLYING))
    got = board.get(INPUT, x.size, np.int8).reshape(x.shape).astype(np.int64)
    check(got, model(settings, "mul", x, e, settings.add, settings.factor))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"ew_operand_3": 128}, "EW_OP_VALUE_3 = 0x80: a number of int8"), ({"ew_operand_3": 0xFF00}, "a number of int8")],
)
def test_operands_beyond_int8(values: dict[str, int], message: str):
    """Nobody knows how many bits an int8 task reads (F-84)."""
    fields = program(drawn(0), "add", "register")
    fields |= {getattr(DPU, f"EW_OP_VALUE_{k}"): {f"ew_operand_{k}": 0} for k in range(8)}
    fields[DPU.EW_OP_VALUE_3] = values
    with pytest.raises(SimulatorError, match=message):
        Board().run(words(fields, FLYING))


@pytest.mark.parametrize("source", ["pixel", "channel"])
def test_surfaces_of_an_operand_need_a_stride(source: str):
    """S-160."""
    fields = change(program(drawn(0), "add", source), DPU_RDMA.RDMA_EW_SURF_STRIDE, ew_surf_stride=0)
    with pytest.raises(SimulatorError, match="3 surfaces need a stride"):
        Board().run(words(fields, FLYING))
