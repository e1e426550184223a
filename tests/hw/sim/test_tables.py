"""The DPU's tables on int8: indices, interpolation, ends, warnings; flying and behind a convolution, plain and fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hw.sim import silicon_model
from hw.sim.flying import bypassed, elementwise, sigmoid, table_words
from hw.sim.programs import BIAS, FLYING, INPUT, OUTPUT, Board, Fields, Shape, change, convolution, words
from hw.sim.test_convolution import SHAPES, expected, per_channel, place, random_data, records, result

from delegate.errors import SimulatorError
from delegate.hw.regs import DPU, DPU_RDMA
from delegate.hw.sim.answers import FastFlying
from delegate.hw.sim.fast import FastConvolution
from delegate.hw.sim.options import Options

Ints = npt.NDArray[np.int64]
PATHS = pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])


@dataclass(frozen=True)
class Pair:
    """Two tables of 513 entries that join at 0; ``low`` and ``high`` slopes as (scale, shift)."""

    below: list[int]
    above: list[int]
    select: int  # a segment has 2**select indices
    low: tuple[int, int] = (0, 0)
    high: tuple[int, int] = (0, 0)

    @property
    def reach(self) -> int:
        return 512 << self.select


def drawn(seed: int, select: int, slopes: bool = False) -> Pair:
    """Any entries but 0 and equal neighbours."""
    rng = np.random.default_rng(seed)
    below, above = (rng.integers(-15000, 15000, 513) * 2 + np.arange(513) % 2 for _ in range(2))
    entries = [np.where(part == 0, 2, part).tolist() for part in (below, above)]
    if not slopes:
        return Pair(*entries, select)
    low, high = rng.integers(-3000, 3000, 2).tolist()
    return Pair(*entries, select, (low, 7), (high, 9))


def rounded(value: Fraction, rule: str) -> int:
    """Python's own rules: floor, nearest with ties to even, or away from zero."""
    if rule == "floor":
        return math.floor(value)
    return round(value) if rule == "even" else int(math.copysign(math.floor(abs(value) + Fraction(1, 2)), value))


def looked_up(v: int, pair: Pair, rule: str) -> int:
    """S-220, S-221, one number at a time: (v - START) / 2**select; the slope begins at START and at END."""
    entries, start, end = (pair.below, -pair.reach, 0) if v < 0 else (pair.above, 0, pair.reach)
    if v < start:
        return entries[0] + rounded(Fraction(pair.low[0] * (v - start), 1 << pair.low[1]), rule)
    if v >= end:
        return entries[512] + rounded(Fraction(pair.high[0] * (v - end), 1 << pair.high[1]), rule)
    segment, rest = divmod(v - start, 1 << pair.select)
    return entries[segment] + rounded(
        Fraction((entries[segment + 1] - entries[segment]) * rest, 1 << pair.select), rule
    )


def answers(values: Ints, pair: Pair, rule: str, requantize: silicon_model.Requantize) -> Ints:
    """Table and OUT_CVT of any array."""
    numbers, where = np.unique(values, return_inverse=True)
    found = np.array([looked_up(v, pair, rule) for v in numbers.tolist()])
    return silicon_model.finish(found[where].reshape(values.shape), requantize)


def with_tables(fields: Fields, pair: Pair) -> Fields:
    """A live table in place of EW's operation; the registers of S-118, slopes of the pair."""
    fields = {**fields, **{r: v for r, v in sigmoid({}).items() if r.full_name.startswith("DPU.LUT")}}
    fields[DPU.EW_CFG] = {"ew_relu_bypass": 1, "ew_op_cvt_bypass": 1, "ew_op_bypass": 1}
    fields[DPU.LUT_INFO] = {"lut_lo_index_select": pair.select, "lut_le_index_select": pair.select}
    fields[DPU.LUT_LE_START] = {"lut_le_start": -pair.reach & 0xFFFFFFFF}
    fields[DPU.LUT_LO_END] = {"lut_lo_end": pair.reach}
    fields[DPU.LUT_LE_SLOPE_SCALE] = {"lut_le_slope_uflow_scale": pair.low[0] & 0xFFFF}
    fields[DPU.LUT_LE_SLOPE_SHIFT] = {"lut_le_slope_uflow_shift": pair.low[1]}
    fields[DPU.LUT_LO_SLOPE_SCALE] = {"lut_lo_slope_oflow_scale": pair.high[0] & 0xFFFF}
    fields[DPU.LUT_LO_SLOPE_SHIFT] = {"lut_lo_slope_oflow_shift": pair.high[1]}
    return fields


def load(pair: Pair) -> list[int]:
    return [*table_words(0, pair.below), *table_words(1, pair.above)]


def flying(pair: Pair, add: int, factor: int, requantize: silicon_model.Requantize, pixels: int = 16) -> Fields:
    """16 channels: BS adds and multiplies by registers, then the table."""
    fields = change(elementwise(np.int8, "add", pixels), DPU_RDMA.RDMA_ERDMA_CFG, erdma_disable=1)
    fields = change(fields, DPU.BS_CFG, bs_bypass=0, bs_alu_bypass=0, bs_mul_bypass=0, bs_alu_algo=2)
    fields[DPU.BS_ALU_CFG] = {"bs_alu_operand": add & 0xFFFFFFFF}
    fields[DPU.BS_MUL_CFG] = {"bs_mul_operand": factor & 0xFFFF}
    fields = change(fields, DPU.OUT_CVT_SCALE, out_cvt_scale=requantize.scale)
    fields = change(fields, DPU.OUT_CVT_SHIFT, out_cvt_shift=requantize.shift)
    return with_tables(change(fields, DPU.OUT_CVT_OFFSET, out_cvt_offset=requantize.offset), pair)


def every_byte() -> Ints:
    return np.arange(-128, 128)


def run_flying(board: Board, pair: Pair, fields: Fields) -> Ints:
    board.put(INPUT, every_byte().astype(np.int8))
    board.run([*load(pair), *words(fields, FLYING)])
    return board.get(OUTPUT, 256, np.int8).astype(np.int64)


@PATHS
@pytest.mark.parametrize("rule", ["even", "away", "floor"])
@pytest.mark.parametrize(
    ("select", "add", "factor"), [(0, 3, 4), (1, -7, 9), (5, 0, 131), (5, 11, -260), (9, -20, 2049)]
)
def test_indices_segments_and_ends(select: int, add: int, factor: int, rule: str, plain: bool):
    """S-220, S-221: every byte, inside the window and beyond it; all three roundings that are possible (F-121)."""
    pair, requantize = drawn(select, select), silicon_model.Requantize(300, 16, -5)
    board = Board(Options(plain=plain, interpolation=rule))
    got = run_flying(board, pair, flying(pair, add, factor, requantize))
    assert got.tolist() == answers((every_byte() + add) * factor, pair, rule, requantize).tolist()
    assert isinstance(next(iter(board.machine._decoded.values())).run, FastFlying) != plain


def test_the_roundings_differ():
    """Otherwise the test above could not tell them apart."""
    pair, requantize = drawn(1, 1), silicon_model.Requantize(1, 0, 0)
    values = np.arange(-900, 900)
    found = [[looked_up(v, pair, rule) for v in values.tolist()] for rule in ("even", "away", "floor")]
    assert found[0] != found[1] != found[2] != found[0]
    assert (answers(values, pair, "even", requantize) == np.clip(found[0], -128, 127)).all()


@PATHS
@pytest.mark.parametrize("rule", ["even", "away", "floor"])
def test_slopes_outside(rule: str, plain: bool):
    """Underflow and overflow slopes as in the float path, from START and END on, into 32 bits."""
    pair, requantize = drawn(8, 2, slopes=True), silicon_model.Requantize(120, 16, 9)
    board = Board(Options(plain=plain, interpolation=rule))
    got = run_flying(board, pair, flying(pair, 1, 300, requantize))
    assert got.tolist() == answers((every_byte() + 1) * 300, pair, rule, requantize).tolist()


@PATHS
def test_the_ends_are_half_open(plain: bool):
    """S-221: v = LO_END takes the upper clamp, v = LE_START reads entry 0, below it the lower clamp."""
    pair = Pair([-100] + [50] * 512, [60] * 512 + [120], 0, low=(-3, 0), high=(2, 0))
    requantize = silicon_model.Requantize(1, 0, 0)
    board = Board(Options(plain=plain))
    for add, wanted in ((-513, -97), (-512, -100), (-511, 50), (511, 60), (512, 120), (513, 122)):
        fields = flying(pair, add, 1, requantize, 16)
        board.buffers[INPUT][:] = 0
        board.run([*load(pair), *words(fields, FLYING)])
        assert set(board.get(OUTPUT, 256, np.int8).tolist()) == {wanted}


@PATHS
@pytest.mark.parametrize("name", ["odd", "depthwise stride"])
@pytest.mark.parametrize("memory", [True, False])
def test_behind_a_convolution(name: str, memory: bool, plain: bool):
    """S-220: out = OUT_CVT(LUT((acc + A) C)), C from memory or from the register."""
    shape, requantize = SHAPES[name], silicon_model.Requantize(300, 16, -5)
    features, kernels, bias = random_data(shape, 7)
    pair = drawn(4, 4)
    fields = with_tables(convolution(shape, requantize.scale, requantize.shift, requantize.offset), pair)
    board = Board(Options(plain=plain))
    place(board, shape, features, kernels, bias)
    multiply = np.random.default_rng(3).integers(1, 400, shape.written)
    if memory:
        fields = per_channel(fields, 9, 8, False)
        board.put(BIAS, records(bias, np.zeros(shape.written), multiply))
    else:
        multiply[:] = 117
        fields = change(fields, DPU.BS_CFG, bs_mul_bypass=0)
        fields = change(fields, DPU.BS_MUL_CFG, bs_mul_operand=117, bs_mul_shift_value=9)
        fields = change(fields, DPU.DATA_FORMAT, bs_mul_shift_value_neg=8)
    board.run([*load(pair), *words(fields)])
    total = expected(shape, features, kernels, bias, 0, 0)
    product = total * multiply[: total.shape[2]]
    index = np.where(product < 0, silicon_model.half_even(product, 8), silicon_model.half_even(product, 9))
    assert (np.abs(index) < pair.reach).any()
    assert (np.abs(index) > pair.reach).any()
    assert np.array_equal(result(board, shape), answers(index, pair, "even", requantize))
    assert isinstance(next(iter(board.machine._decoded.values())).run, FastConvolution) != plain


def test_slopes_behind_a_convolution_take_the_plain_path():
    """The fast path lists the answers of a window; slopes have none."""
    shape, requantize = SHAPES["odd"], silicon_model.Requantize(100, 16, 0)
    features, kernels, bias = random_data(shape, 8)
    pair = drawn(9, 3, slopes=True)
    board = Board()
    place(board, shape, features, kernels, bias)
    fields = with_tables(convolution(shape, requantize.scale, requantize.shift, requantize.offset), pair)
    board.run([*load(pair), *words(fields)])
    total = expected(shape, features, kernels, bias, 0, 0)
    assert np.array_equal(result(board, shape), answers(total, pair, "even", requantize))
    assert not isinstance(next(iter(board.machine._decoded.values())).run, FastConvolution)


def test_tables_of_an_earlier_task():
    """S-222: another task of the job may load them; S-166: the next job does not have them."""
    pair, requantize = drawn(5, 3), silicon_model.Requantize(300, 16, -5)
    board = Board()
    board.put(INPUT, every_byte().astype(np.int8))
    copy = change(elementwise(np.int8, "add", 1), DPU.EW_CFG, ew_bypass=1, ew_op_bypass=1)
    copy = change(copy, DPU_RDMA.RDMA_ERDMA_CFG, erdma_disable=1)
    task = words(flying(pair, 0, 40, requantize), FLYING)
    board.run([*load(pair), *words(copy, FLYING)], task)
    wanted = answers(every_byte() * 40, pair, "even", requantize)
    assert board.get(OUTPUT, 256, np.int8).tolist() == wanted.tolist()
    board.machine.begin_job()
    with pytest.raises(SimulatorError, match="S-166"):
        board.run(task)


def test_bn_is_bypassed_beside_a_table_on_integers():
    """S-221: BN left active pins the lookup at the join."""
    pair = drawn(6, 3)
    fields = change(flying(pair, 0, 40, silicon_model.Requantize(300, 16, 0)), DPU.BN_CFG, bn_bypass=0)
    with pytest.raises(SimulatorError, match="S-221"):
        run_flying(Board(), pair, fields)


def test_other_integers_have_no_table():
    pair = drawn(6, 3)
    fields = change(elementwise(np.int16, "add", 8), DPU_RDMA.RDMA_ERDMA_CFG, erdma_disable=1)
    with pytest.raises(SimulatorError, match="a table on other integers is not known"):
        Board().run([*load(pair), *words(with_tables(fields, pair), FLYING)])


ZERO, FLAT, JOIN = "S-122", "S-120", "S-121"


def told(board: Board) -> set[str]:
    return {name for name in (ZERO, FLAT, JOIN) for text in board.machine.warnings if name in text}


@PATHS
@pytest.mark.parametrize(
    ("entry", "value", "factor", "wanted"),
    [
        (3, 0, 5, {ZERO}),  # 24 to 31 lie beside the entry at 24: index 25 between it and the next
        (3, 0, 64, set()),  # indices 0, 64, 128: never there
        (3, 0, 16, set()),  # the entries beside it, and nothing between them
        (511, 0, 4096, set()),  # 0, and the last entry for the index END and beyond
        (512, 0, 4096, {ZERO}),
        (4, None, 5, {FLAT}),  # the entry before it again: index 25 lies between the two
        (4, None, 8, set()),  # every index is that of an entry
    ],
)
def test_entries_that_silicon_minds(entry: int, value: int | None, factor: int, wanted: set[str], plain: bool):
    """S-120, S-122: said where an index meets them, and only there (F-94)."""
    pair = drawn(7, 3)
    pair.above[entry] = pair.above[entry - 1] if value is None else value
    board = Board(Options(plain=plain))
    run_flying(board, pair, flying(pair, 0, factor, silicon_model.Requantize(300, 16, -5)))
    assert told(board) == wanted


@PATHS
@pytest.mark.parametrize("flat", [True, False])
def test_a_convolution_is_warned_too(flat: bool, plain: bool):
    shape = Shape(4, 4, 16, 32, output=(4, 4))
    pair = drawn(7, 3)
    pair.above[4] = pair.above[3] if flat else pair.above[4]
    board = Board(Options(plain=plain))
    place(board, shape, *(np.zeros_like(part) for part in random_data(shape, 1)))
    board.put(BIAS, np.full(32, 27, np.int32))
    board.run([*load(pair), *words(with_tables(convolution(shape, 300, 16), pair))])
    assert told(board) == ({FLAT} if flat else set())
    assert (result(board, shape) == answers(np.array([27]), pair, "even", silicon_model.Requantize(300, 16, 0))).all()


@pytest.mark.parametrize(("x", "offset", "wanted"), [(0.0, -7, {JOIN}), (0.0, 7, set()), (1.0, -7, set())])
def test_spikes_at_the_join_of_float_tables(x: float, offset: int, wanted: set[str]):
    """S-121: within 0.0015 of 0, for a negative OUT_CVT_OFFSET only."""
    rising = list(range(1, 514))
    board = Board()
    board.put(INPUT, np.full(64, x, np.float16))
    fields = change(sigmoid(bypassed()), DPU.OUT_CVT_OFFSET, out_cvt_offset=offset)
    board.run([*table_words(0, rising), *table_words(1, rising), *words(fields, FLYING)])
    assert told(board) == wanted
