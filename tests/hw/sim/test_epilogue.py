"""BS, BN and OUT_CVT behind an int8 convolution: plain and fast path against integers, over seeded random settings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hw.sim import silicon_model
from hw.sim.programs import BIAS, OPERAND, Board, Fields, Shape, change, convolution, words
from hw.sim.test_convolution import PATHS, SHAPES, expected, per_channel, place, random_data, records, result

from delegate.hw.regs import DPU, DPU_RDMA
from delegate.hw.sim.fast import FastConvolution
from delegate.hw.sim.options import Options

Ints = npt.NDArray[np.int64]


def half_away(value: Ints, shift: int) -> Ints:
    """value / 2**shift, ties away from zero (S-04 with CVT_ROUND)."""
    if shift == 0:
        return value
    return np.sign(value) * ((np.abs(value) + (1 << (shift - 1))) >> shift)


def clamp32(value: Ints) -> Ints:
    return np.clip(value, -(2**31), 2**31 - 1)


def set_norm(fields: Fields, factor: int, shift: int, negative: int) -> Fields:
    """BN: a product with a register (S-14), shift split by sign like BS's (S-22)."""
    fields = change(fields, DPU.BN_CFG, bn_bypass=0, bn_mul_bypass=0)
    fields = change(fields, DPU.BN_MUL_CFG, bn_mul_operand=factor, bn_mul_shift_value=shift)
    return change(fields, DPU.DATA_FORMAT, bn_mul_shift_value_neg=negative)


def is_fast(board: Board) -> bool:
    return all(isinstance(decoded.run, FastConvolution) for decoded in board.machine._decoded.values())


@pytest.mark.parametrize("options", PATHS)
@pytest.mark.parametrize(("acc", "even", "away"), [(1, 0, 1), (3, 2, 2), (-1, 0, -1), (-3, -2, -2), (5, 2, 3)])
def test_tie_rules_of_the_output_converter(acc: int, even: int, away: int, options: Options):
    """S-04's vectors: MUL 0x4000, SHIFT 15, both settings of CVT_ROUND; half up (S-06) is neither."""
    shape = Shape(4, 4, 16, 32, output=(4, 4))
    for rounding, wanted in ((0, even), (1, away)):
        board = Board(options)
        place(board, shape, *(np.zeros_like(part) for part in random_data(shape, 1)))
        board.put(BIAS, np.full(32, acc, np.int32))
        board.run(words(change(convolution(shape, 0x4000, 15), DPU.OUT_CVT_SHIFT, cvt_round=rounding)))
        assert (result(board, shape) == wanted).all()
        assert options.plain or is_fast(board)


@pytest.mark.parametrize("options", PATHS)
def test_the_factor_is_signed(options: Options):
    """S-02: 0x8000 multiplies by -32768; S-03: the shift is an integer one of six bits, before any cast."""
    shape = Shape(4, 4, 16, 32, output=(4, 4))
    board = Board(options)
    place(board, shape, *(np.zeros_like(part) for part in random_data(shape, 1)))
    board.put(BIAS, np.arange(-16, 16, dtype=np.int32))
    board.run(words(convolution(shape, -32768, 15)))
    assert result(board, shape)[0, 0].tolist() == (-np.arange(-16, 16)).tolist()
    assert DPU.OUT_CVT_SCALE.encode(out_cvt_scale=-32768) == 0x8000


@pytest.mark.parametrize("options", PATHS)
@pytest.mark.parametrize("shift", [0, 1, 9, 24, 46, 47, 48, 63])
def test_any_shift_rounds_away_from_zero(shift: int, options: Options):
    """F-60: six bits of shift, ties at every one of them."""
    shape = Shape(4, 4, 16, 32, output=(4, 4))
    board = Board(options)
    place(board, shape, *(np.zeros_like(part) for part in random_data(shape, 1)))
    rng = np.random.default_rng(shift)
    bias = rng.integers(-(2**31) + 1, 2**31, 32) >> rng.integers(0, 30, 32)
    if 15 <= shift <= 45:
        bias[:8] = (2 * rng.integers(-9, 9, 8) + 1) << (shift - 15)
    board.put(BIAS, bias.astype(np.int32))
    board.run(words(change(convolution(shape, 0x4000, shift, 3), DPU.OUT_CVT_SHIFT, cvt_round=1)))
    wanted = np.array([max(-128, min(127, int(half_away_big(int(b) * 0x4000, shift)) + 3)) for b in bias])
    assert np.array_equal(result(board, shape), np.broadcast_to(wanted, (4, 4, 32)))


def half_away_big(value: int, shift: int) -> int:
    """half_away on Python's integers, which do not overflow."""
    magnitude = (abs(value) + (1 << shift >> 1)) >> shift
    return magnitude if value >= 0 else -magnitude


@pytest.mark.parametrize("options", PATHS)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["odd", "depthwise stride"])
def test_per_channel_products_then_one_of_all(name: str, seed: int, options: Options):
    """BS with multipliers from memory and ReLU, BN with a register (S-14, S-154), OUT_CVT half away (S-04)."""
    shape = SHAPES[name]
    features, kernels, bias = random_data(shape, seed)
    rng = np.random.default_rng(seed)
    multiply = rng.integers(1, 32768, shape.written)
    (bs, bs_negative, bn, bn_negative), factor = rng.integers(0, 21, 4).tolist(), int(rng.integers(1, 65536))
    relu, limit = seed % 3, int(rng.integers(1, 1 << int(rng.integers(8, 31))))
    requantize = silicon_model.Requantize(int(rng.integers(0x4000, 0x8000)), int(rng.integers(12, 40)), -9)
    fields = convolution(shape, requantize.scale, requantize.shift, requantize.offset)
    fields = set_norm(per_channel(fields, bs, bs_negative, False), factor, bn, bn_negative)
    fields = change(fields, DPU.BS_CFG, bs_relu_bypass=int(not relu), bs_relux_en=int(relu == 2))
    fields = change(fields, DPU.BS_RELUX_CMP_VALUE, bs_relux_cmp_dat=limit)
    fields = change(fields, DPU.OUT_CVT_SHIFT, cvt_round=1)
    board = Board(options)
    place(board, shape, features, kernels, bias)
    board.put(BIAS, records(bias, np.zeros(shape.written), multiply))
    board.run(words(fields))
    total = expected(shape, features, kernels, bias, 0, 0)
    value = split_shift(total * multiply[: total.shape[2]], bs, bs_negative)
    value = np.clip(value, 0 if relu else None, limit if relu == 2 else None) if relu else value
    value = split_shift(value * factor, bn, bn_negative)
    value = np.clip(half_away(value * requantize.scale, requantize.shift) - 9, -128, 127)
    assert np.array_equal(result(board, shape), value)
    assert options.plain or is_fast(board)


def split_shift(product: Ints, shift: int, negative: int) -> Ints:
    positive, below = (silicon_model.half_even(product, s) for s in (shift, negative))
    return clamp32(np.where(product >= 0, positive, below))


@pytest.mark.parametrize("options", PATHS)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ["odd", "depthwise stride"])
def test_products_a_channel_behind_a_sum(name: str, seed: int, options: Options):
    """F-131: BS as before, BN adds a register, EW multiplies by a byte a channel for all pixels (S-110, S-160)."""
    shape = SHAPES[name]
    features, kernels, bias = random_data(shape, seed)
    rng = np.random.default_rng(seed)
    multiply = rng.integers(1, 32768, shape.written) * rng.choice([-1, 1], shape.written)
    gains = rng.integers(-128, 128, shape.written).astype(np.int8)
    shift, addend = int(rng.integers(0, 16)), int(rng.integers(-(1 << 31), 1 << 31) >> rng.integers(0, 30))
    fields = per_channel(convolution(shape, 1, 22, -9), shift, shift, False)
    fields = change(fields, DPU.BN_CFG, bn_bypass=0, bn_alu_bypass=0, bn_alu_algo=2)
    fields = change(fields, DPU.BN_ALU_CFG, bn_alu_operand=addend & 0xFFFFFFFF)
    fields = {**fields, DPU.EW_CFG: DPU.EW_CFG.decode(0x108003C4)}  # S-110
    fields = change(fields, DPU.EW_CFG, ew_data_mode=0, edata_size=1)
    fields = change(fields, DPU.OUT_CVT_SHIFT, cvt_round=1)
    fields = change(fields, DPU_RDMA.RDMA_ERDMA_CFG, erdma_disable=0, erdma_data_mode=0, erdma_data_size=1)
    fields = change(fields, DPU_RDMA.RDMA_EW_BASE_ADDR, ew_base_addr=OPERAND)
    fields = change(fields, DPU_RDMA.RDMA_EW_SURF_STRIDE, ew_surf_stride=1)
    board = Board(options)
    place(board, shape, features, kernels, bias)
    board.put(BIAS, records(bias, np.zeros(shape.written), multiply))
    board.put(OPERAND, gains)
    board.run(words(fields))
    total = expected(shape, features, kernels, bias, 0, 0)
    count = total.shape[2]
    value = clamp32(silicon_model.half_even(total * multiply[:count], shift))
    value = clamp32(clamp32(value + addend) * gains[:count].astype(np.int64))
    assert np.array_equal(result(board, shape), np.clip(half_away(value, 22) - 9, -128, 127))
    assert options.plain or is_fast(board)
