"""Tasks without convolution: element-wise operations, BS and BN, tables."""

from __future__ import annotations

import numpy as np
import pytest
from hw.sim.flying import bypassed, elementwise, halves, integers, run, sigmoid, single, stage, table_words
from hw.sim.programs import FLYING, INPUT, OPERAND, OUTPUT, Board, Fields, change, words

from delegate.errors import SimulatorError
from delegate.hw.registers import Register
from delegate.hw.regs import DPU, DPU_RDMA


@pytest.fixture
def plain() -> Fields:
    return bypassed()


INTEGER_RULES = {
    "add": lambda a, b: a + b,
    "minus": lambda a, b: a - b,
    "max": np.maximum,
    "min": np.minimum,
    "mul": lambda a, b: a * b,
    "abs": lambda a, b: np.abs(a),
    "neg": lambda a, b: -a,
}


@pytest.mark.parametrize("operation", INTEGER_RULES)
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_integer_operations_are_exact_and_saturate(dtype: type[np.generic], operation: str):
    """S-106, S-107, S-162; S-187: the registers."""
    left, right = integers(dtype, 1), integers(dtype, 2)
    info = np.iinfo(dtype)
    exact = INTEGER_RULES[operation](left.astype(np.int64), right.astype(np.int64))
    pixels = 64 * np.dtype(dtype).itemsize // 16
    got = run(elementwise(dtype, operation, pixels), left, right, 64, dtype)
    assert got.tolist() == np.clip(exact, info.min, info.max).tolist()


@pytest.mark.parametrize("operation", INTEGER_RULES)
def test_int32_operations(operation: str):
    """S-162: ADD saturates; ABS, NEG of the least stay; SUB of the least gives it; MUL reads 16 bits."""
    left, right = integers(np.int32, 3), integers(np.int32, 4)
    wide, other = left.astype(np.int64), right.astype(np.int64)
    least, most = -(2**31), 2**31 - 1
    if operation == "mul":
        other = right.astype(np.int16).astype(np.int64)
    exact = np.clip(INTEGER_RULES[operation](wide, other), least, most)
    if operation in ("abs", "neg"):
        exact[wide == least] = least
    if operation == "minus":
        exact[other == least] = least
    assert run(elementwise(np.int32, operation, 16), left, right, 64, np.int32).tolist() == exact.tolist()


@pytest.mark.parametrize("channels", [3, 8, 15, 16, 17, 33])
def test_layouts_of_integer_operations(channels: int):
    """S-161: any number of channels; each surface holds 16 of int8."""
    surfaces, pixels = -(-channels // 16), 3
    rng = np.random.default_rng(channels)
    left, right = (rng.integers(-60, 60, (surfaces, pixels, 16)).astype(np.int8) for _ in range(2))
    got = run(elementwise(np.int8, "add", pixels, channels), left, right, left.size, np.int8).reshape(left.shape)
    for channel in range(channels):
        surface, lane = divmod(channel, 16)
        assert np.array_equal(got[surface, :, lane], left[surface, :, lane] + right[surface, :, lane])


HALF_RULES = {
    "add": np.add,
    "minus": np.subtract,
    "max": np.maximum,
    "min": np.minimum,
    "mul": np.multiply,
    "div": np.divide,
    "abs": lambda a, b: np.abs(a),
    "neg": lambda a, b: -a,
    "floor": lambda a, b: np.floor(a),
    "ceil": lambda a, b: np.ceil(a),
}


@pytest.mark.parametrize("operation", HALF_RULES)
def test_half_operations_round_once(operation: str):
    """S-108, S-110."""
    left, right = halves(1), halves(2)
    exact = HALF_RULES[operation](left.astype(np.float64), right.astype(np.float64))
    got = run(elementwise(np.float16, operation, 8), left, right, 64, np.float16)
    assert np.array_equal(got, exact.astype(np.float32).astype(np.float16))


def test_scalar_operands_from_registers():
    """S-152: single bits for an addition, half bits for a product, low 16 bits for int16; the operand DMA is off."""
    half = np.float16(1.5)
    for operation, operand in (("add", np.float32(1.5).view(np.uint32)), ("mul", half.view(np.uint16))):
        fields = change(elementwise(np.float16, operation, 8), DPU.EW_CFG, ew_op_src=0)
        fields = change(fields, DPU_RDMA.RDMA_ERDMA_CFG, erdma_disable=1)
        fields |= {getattr(DPU, f"EW_OP_VALUE_{k}"): {f"ew_operand_{k}": int(operand)} for k in range(8)}
        left = halves(3)
        exact = HALF_RULES[operation](left.astype(np.float64), 1.5)
        assert np.array_equal(run(fields, left, None, 64, np.float16), exact.astype(np.float16))
    fields = change(elementwise(np.int16, "add", 8), DPU.EW_CFG, ew_op_src=0)
    fields = change(fields, DPU_RDMA.RDMA_ERDMA_CFG, erdma_disable=1)
    fields |= {getattr(DPU, f"EW_OP_VALUE_{k}"): {f"ew_operand_{k}": 0x1FFF9} for k in range(8)}
    left16 = integers(np.int16, 4)
    exact16 = np.clip(left16.astype(np.int64) - 7, -32768, 32767)
    assert run(fields, left16, None, 64, np.int16).tolist() == exact16.tolist()


def test_an_operand_for_each_channel():
    """S-160: data mode 0 is one value a channel, broadcast over pixels."""
    fields = change(elementwise(np.float16, "add", 4, 16), DPU_RDMA.RDMA_ERDMA_CFG, erdma_data_mode=0)
    fields = change(fields, DPU.EW_CFG, ew_data_mode=0)
    fields = change(fields, DPU_RDMA.RDMA_EW_SURF_STRIDE, ew_surf_stride=1)
    left, right = halves(5).reshape(2, 4, 8), halves(6, 16).reshape(2, 1, 8)
    got = run(fields, left, right, 64, np.float16).reshape(2, 4, 8)
    exact = left.astype(np.float64) + right.astype(np.float64)
    assert np.array_equal(got, exact.astype(np.float16))


def test_bs_adds_first_bn_multiplies_first(plain: Fields):
    """S-154, S-153: scalars in one task after the other."""
    left = halves(7)
    wide = left.astype(np.float32)
    got = run(stage(plain, "bs", 2.0, 3.0), left, None, 64, np.float16)
    assert np.array_equal(got, ((wide + 2) * 3).astype(np.float16))
    got = run(stage(plain, "bn", 2.0, 3.0), left, None, 64, np.float16)
    assert np.array_equal(got, (wide * 3 + 2).astype(np.float16))
    both = stage(stage(plain, "bs", 2.0, 3.0), "bn", -1.0, 0.5, alu_algo=4)
    got = run(both, left, None, 64, np.float16)
    assert np.array_equal(got, ((wide + 2) * 3 * np.float32(0.5) + 1).astype(np.float16))


@pytest.mark.parametrize("prefix", ["bs", "bn"])
def test_relux_and_prelu(plain: Fields, prefix: str):
    """S-155."""
    left = halves(8)
    limit = DPU.BS_RELUX_CMP_VALUE if prefix == "bs" else DPU.BN_RELUX_CMP_VALUE
    fields = stage(plain, prefix, None, None, relu_bypass=0, relux_en=1)
    fields[limit] = {f"{prefix}_relux_cmp_dat": single(2.5)}
    assert np.array_equal(run(fields, left, None, 64, np.float16), np.clip(left, 0, np.float16(2.5)))
    slope = stage(plain, prefix, None, 0.25, mul_prelu=1)
    exact = np.where(left < 0, left * np.float16(0.25), left)
    assert np.array_equal(run(slope, left, None, 64, np.float16), exact)


def test_vectors_per_channel(plain: Fields):
    """S-156, S-159: BS and BN addends as single, one a channel; multipliers alone as half."""
    fields = change(plain, DPU.DATA_CUBE_CHANNEL, orig_channel=15, channel=15)
    fields = change(change(fields, DPU.DATA_CUBE_WIDTH, width=3), DPU.DST_SURF_STRIDE, dst_surf_stride=4)
    fields = change(change(fields, DPU.SURFACE_ADD, surf_add=4), DPU.WDMA_SIZE_0, channel_wdma=15)
    fields = change(change(fields, DPU.WDMA_SIZE_1, width_wdma=3), DPU_RDMA.RDMA_DATA_CUBE_WIDTH, width=3)
    fields = change(fields, DPU_RDMA.RDMA_DATA_CUBE_CHANNEL, channel=15)
    left = halves(9).reshape(2, 4, 8)
    add = np.arange(16, dtype=np.float32)
    adds = stage(fields, "bs", 0.0, None, alu_src=1)
    adds[DPU_RDMA.RDMA_BRDMA_CFG] = {"brdma_data_use": 1}
    adds[DPU_RDMA.RDMA_BS_BASE_ADDR] = {"bs_base_addr": OPERAND}
    got = run(adds, left, add, 64, np.float16).reshape(2, 4, 8)
    assert np.array_equal(got, (left.astype(np.float32) + add.reshape(2, 1, 8)).astype(np.float16))
    scales = stage(fields, "bn", None, 1.0)
    scales[DPU.BN_MUL_CFG] = {"bn_mul_src": 1}
    scales[DPU_RDMA.RDMA_NRDMA_CFG] = {"nrdma_data_use": 4}
    scales[DPU_RDMA.RDMA_BN_BASE_ADDR] = {"bn_base_addr": OPERAND}
    got = run(scales, left, add.astype(np.float16), 64, np.float16).reshape(2, 4, 8)
    assert np.array_equal(got, (left.astype(np.float32) * add.reshape(2, 1, 8)).astype(np.float16))


def test_a_comparison_by_infinity(plain: Fields):
    """S-164: a hair less, times infinity, clamped to 1: x > 0 as int16 words 0 and 1."""
    fields = stage(plain, "bs", 2.0**-24, 2.0, alu_algo=4)
    fields = stage(fields, "bn", None, np.inf, relu_bypass=0, relux_en=1)
    fields[DPU.BN_RELUX_CMP_VALUE] = {"bn_relux_cmp_dat": single(1.0)}
    fields = change(fields, DPU.DATA_FORMAT, out_precision=1)
    fields = change(fields, DPU.OUT_CVT_SCALE, fp32tofp16_en=0)
    left = halves(10)
    left[:3] = (0, -0.0, 1e-4)
    assert np.array_equal(run(fields, left, None, 64, np.int16), (left > 0).astype(np.int16))


@pytest.mark.parametrize(
    ("register", "values", "message"),
    [
        (DPU.DATA_CUBE_CHANNEL, {"orig_channel": 3}, "S-109"),
        (DPU_RDMA.RDMA_FEATURE_MODE_CFG, {"comb_use": 1}, "S-109"),
        (DPU_RDMA.RDMA_FEATURE_MODE_CFG, {"comb_use": 5}, "S-109"),
        (DPU_RDMA.RDMA_FEATURE_MODE_CFG, {"mrdma_disable": 1}, "main feed"),
        (DPU_RDMA.RDMA_FEATURE_MODE_CFG, {"flying_mode": 0}, "the DPU's"),
        (DPU_RDMA.RDMA_FEATURE_MODE_CFG, {"in_precision": 1}, "fp16tofp32_en"),
        (DPU_RDMA.RDMA_ERDMA_CFG, {"erdma_disable": 1}, "EW operand"),
        (DPU_RDMA.RDMA_ERDMA_CFG, {"erdma_data_mode": 2}, "S-160"),
        (DPU_RDMA.RDMA_ERDMA_CFG, {"erdma_data_size": 3}, "32 bits"),
        (DPU.EW_CFG, {"ew_op_cvt_bypass": 1}, "S-109"),
        (DPU.EW_CFG, {"ew_alu_algo": 9}, "alu_algo 9"),
        (DPU.EW_CFG, {"ew_data_mode": 0}, "data_mode 0"),
        (DPU.EW_CFG, {"ew_op_type": 1}, "S-109"),
        (DPU.EW_CVT_SCALE_VALUE, {"ew_op_cvt_scale": 3}, "float"),
    ],
)
def test_conditions_of_a_half_addition(register: Register, values: dict[str, int], message: str):
    with pytest.raises(SimulatorError, match=message):
        run(change(elementwise(np.float16, "add", 8), register, **values), halves(1), halves(2), 64, np.float16)


@pytest.mark.parametrize("operation", ["div", "floor", "ceil"])
def test_what_only_floats_have(operation: str):
    """S-163."""
    with pytest.raises(SimulatorError, match="S-163"):
        run(elementwise(np.int16, operation, 8), integers(np.int16, 1), integers(np.int16, 2), 64, np.int16)


def test_sigmoid_by_table(plain: Fields):
    """S-117, S-118, S-119: index x * BN_MUL, low table below zero, 32 units a segment; error up to 1.5e-3."""
    steps = np.arange(513) * 32 / 2596
    low, high = (np.clip(np.round(32768 / (1 + np.exp(-x))), 1, 32767).astype(int) for x in (steps - steps[-1], steps))
    left = np.linspace(-9, 9, 64).astype(np.float16)
    board = Board()
    board.put(INPUT, left)
    load = [*table_words(0, low.tolist()), *table_words(1, high.tolist())]
    board.run([*load, *words(sigmoid(plain), FLYING)])
    exact = 1 / (1 + np.exp(-left.astype(np.float64)))
    assert np.abs(board.get(OUTPUT, 64, np.float16) - exact).max() < 2e-3
    board.run(words(sigmoid(plain), FLYING))  # the tables are still there in the same job
    board.machine.begin_job()
    with pytest.raises(SimulatorError, match="S-166"):
        board.run(words(sigmoid(plain), FLYING))


def test_a_table_has_513_entries(plain: Fields):
    with pytest.raises(SimulatorError, match="entry 513"):
        Board().run([*table_words(0, [1] * 514), *words(sigmoid(plain), FLYING)])
    with pytest.raises(SimulatorError, match="LE incomplete"):
        Board().run([*table_words(0, [1] * 512), *words(sigmoid(plain), FLYING)])


def test_clipping_by_maximum_and_minimum():
    """S-115: ReLU as EW max(x, 0), exact in fp16; S-126: n elements as a row of n / 8 pixels of 8 channels."""
    left = halves(11, 256)
    fields = elementwise(np.float16, "max", 32)
    assert fields[DPU.DATA_CUBE_WIDTH]["width"] == 256 // 8 - 1
    got = run(fields, left, np.zeros(256, np.float16), 256, np.float16)
    assert np.array_equal(got, np.maximum(left, np.float16(0)))


def test_int16_sums_to_int32():
    """S-165: size_e 1, DST_SURF_STRIDE one atom, SURFACE_ADD two atoms."""
    pixels = 2
    fields = change(elementwise(np.int16, "add", pixels), DPU.DATA_FORMAT, out_precision=4)
    sizes = dict.fromkeys(("size_e_0", "size_e_1", "size_e_2"), 1)
    fields = change(fields, DPU.BS_OW_CFG, **sizes)
    fields = change(change(fields, DPU.DST_SURF_STRIDE, dst_surf_stride=pixels), DPU.SURFACE_ADD, surf_add=2 * pixels)
    left, right = integers(np.int16, 6)[:16], integers(np.int16, 7)[:16]
    got = run(fields, left, right, 16, np.int32).reshape(2, pixels, 4).transpose(1, 0, 2).reshape(-1)
    assert got.tolist() == (left.astype(np.int64) + right).tolist()


def test_records_are_for_integers(plain: Fields):
    """S-157: operand lanes of BS side by side do not work in fp16."""
    fields = stage(plain, "bs", 0.0, 1.0, alu_src=1)
    fields[DPU.BS_MUL_CFG] = {"bs_mul_src": 1}
    fields[DPU_RDMA.RDMA_BRDMA_CFG] = {"brdma_data_use": 7}
    fields[DPU_RDMA.RDMA_BS_BASE_ADDR] = {"bs_base_addr": OPERAND}
    with pytest.raises(SimulatorError, match="S-157"):
        run(fields, halves(12), None, 64, np.float16)


@pytest.mark.parametrize(("minus_exp", "offset", "scale"), [(15, 1, 1), (0, -7, 3), (4, 100, 5664)])
def test_the_float_converter_adds_first(plain: Fields, minus_exp: int, offset: int, scale: int):
    """S-15: (q + OFFSET) 2^-MINUS_EXP SCALE with CVT_TYPE."""
    fields = change(plain, DPU.OUT_CVT_SHIFT, cvt_type=1, minus_exp=minus_exp)
    fields = change(change(fields, DPU.OUT_CVT_OFFSET, out_cvt_offset=offset), DPU.OUT_CVT_SCALE, out_cvt_scale=scale)
    left = halves(13)
    wanted = (left.astype(np.float32) + np.float32(offset)) * np.float32(2.0**-minus_exp) * np.float32(scale)
    assert np.array_equal(run(fields, left, None, 64, np.float16), wanted.astype(np.float16))
