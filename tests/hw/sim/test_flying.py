"""Tasks without convolution: element-wise operations, BS and BN, tables, pooling."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hw.sim.programs import FLYING, INPUT, OPERAND, OUTPUT, POOLING, Board, Fields, change, words

from delegate.errors import SimulatorError
from delegate.hw.registers import Register
from delegate.hw.regs import DPU, DPU_RDMA, PPU, PPU_RDMA

CODES = {np.int8: (0, 1), np.int16: (1, 2), np.float16: (2, 2), np.int32: (4, 3)}  # DPU code, operand size
ALGORITHMS = {"max": 0, "min": 1, "add": 2, "div": 3, "minus": 4, "abs": 5, "neg": 6, "floor": 7, "ceil": 8}
BYPASS = {"relu_bypass": 1, "mul_bypass": 1, "alu_bypass": 1, "bypass": 1}
Values = npt.NDArray[np.generic]


def named(prefix: str, values: dict[str, int]) -> dict[str, int]:
    return {f"{prefix}_{name}": value for name, value in values.items()}


def elementwise(dtype: type[np.generic], operation: str, pixels: int, channels: int | None = None) -> Fields:
    """worked-examples.md §5a and S-187: a row of pixels, main feed and operand from memory."""
    code, size = CODES[dtype]
    channels = channels or 16 // np.dtype(dtype).itemsize
    half, multiply = dtype is np.float16, operation == "mul"
    surfaces = -(-channels * np.dtype(dtype).itemsize // 16)
    return {
        DPU.FEATURE_MODE_CFG: {"burst_len": 15, "output_mode": 2, "flying_mode": 1},
        DPU.DATA_FORMAT: {"in_precision": code, "out_precision": code, "proc_precision": code},
        DPU.DST_BASE_ADDR: {"dst_base_addr": OUTPUT},
        DPU.DST_SURF_STRIDE: {"dst_surf_stride": pixels},
        DPU.DATA_CUBE_WIDTH: {"width": pixels - 1},
        DPU.DATA_CUBE_HEIGHT: {},
        DPU.DATA_CUBE_NOTCH_ADDR: {},
        DPU.DATA_CUBE_CHANNEL: {"orig_channel": channels - 1, "channel": channels - 1},
        DPU.BS_CFG: named("bs", BYPASS),
        DPU.BN_CFG: named("bn", BYPASS),
        DPU.BS_OW_CFG: {"od_bypass": 1},
        DPU.EW_CFG: {
            "ew_data_mode": 1,
            "edata_size": size,
            "ew_equal_en": int(operation in ("max", "min") and not half),
            "ew_alu_algo": 0 if multiply else ALGORITHMS[operation],
            "ew_relu_bypass": 1,
            "ew_op_cvt_bypass": int(multiply or operation == "div" or dtype is np.int32),
            "ew_lut_bypass": 1,
            "ew_op_src": 1,
            "ew_op_type": int(multiply),
        },
        DPU.EW_CVT_OFFSET_VALUE: {},
        DPU.EW_CVT_SCALE_VALUE: {"ew_op_cvt_scale": 1},
        DPU.OUT_CVT_OFFSET: {},
        DPU.OUT_CVT_SCALE: {"out_cvt_scale": 1, "fp32tofp16_en": int(half)},
        DPU.OUT_CVT_SHIFT: {},
        DPU.SURFACE_ADD: {"surf_add": pixels},
        DPU.WDMA_SIZE_0: {"channel_wdma": channels - 1},
        DPU.WDMA_SIZE_1: {"width_wdma": pixels - 1},
        DPU_RDMA.RDMA_DATA_CUBE_WIDTH: {"width": pixels - 1},
        DPU_RDMA.RDMA_DATA_CUBE_HEIGHT: {},
        DPU_RDMA.RDMA_DATA_CUBE_CHANNEL: {"channel": channels - 1},
        DPU_RDMA.RDMA_SRC_BASE_ADDR: {"src_base_addr": INPUT},
        DPU_RDMA.RDMA_EW_BASE_ADDR: {"ew_base_addr": OPERAND},
        DPU_RDMA.RDMA_EW_SURF_STRIDE: {"ew_surf_stride": pixels if surfaces > 1 else 0},
        DPU_RDMA.RDMA_EW_SURF_NOTCH: {},
        DPU_RDMA.RDMA_SURF_NOTCH: {},
        DPU_RDMA.RDMA_BRDMA_CFG: {"brdma_disable": 1},
        DPU_RDMA.RDMA_NRDMA_CFG: {"nrdma_disable": 1},
        DPU_RDMA.RDMA_ERDMA_CFG: {"erdma_data_mode": 1, "erdma_data_size": size},
        DPU_RDMA.RDMA_SRC_DMA_CFG: {},
        DPU_RDMA.RDMA_PAD_CFG: {},
        DPU_RDMA.RDMA_FEATURE_MODE_CFG: {
            "in_precision": code,
            "burst_len": 15,
            "proc_precision": code,
            "mrdma_fp16tofp32_en": int(half),
            "flying_mode": 1,
        },
    }


def run(fields: Fields, left: Values, right: Values | None, count: int, dtype: type[np.generic]) -> Values:
    board = Board()
    board.put(INPUT, left)
    if right is not None:
        board.put(OPERAND, right)
    board.run(words(fields, FLYING))
    return board.get(OUTPUT, count, dtype)


def integers(dtype: type[np.generic], seed: int) -> Values:
    """64 values over the whole range, its ends among them."""
    info = np.iinfo(dtype)
    values = np.random.default_rng(seed).integers(info.min, info.max, 64, endpoint=True).astype(dtype)
    values[:4] = (info.min, info.max, info.min, -1)
    return values


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
    """S-106, S-107, S-162."""
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


def halves(seed: int, count: int = 64) -> npt.NDArray[np.float16]:
    return (np.random.default_rng(seed).standard_normal(count) * 3).astype(np.float16)


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


def single(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def half_bits(value: float) -> int:
    return int(np.float16(value).view(np.uint16))


@pytest.fixture
def plain() -> Fields:
    """fp16 copy: every stage bypassed, no operand."""
    fields = change(elementwise(np.float16, "add", 8), DPU.EW_CFG, ew_bypass=1, ew_op_bypass=1)
    return change(fields, DPU_RDMA.RDMA_ERDMA_CFG, erdma_disable=1)


def stage(fields: Fields, prefix: str, add: float | None, multiply: float | None, **config: int) -> Fields:
    """Makes BS or BN active with scalars."""
    name = prefix.upper()
    values = {
        "bypass": 0,
        "alu_bypass": int(add is None),
        "mul_bypass": int(multiply is None),
        "relu_bypass": 1,
        "alu_algo": 2,
    } | config
    fields = {**fields, getattr(DPU, f"{name}_CFG"): named(prefix, values)}
    fields[getattr(DPU, f"{name}_ALU_CFG")] = {f"{prefix}_alu_operand": single(add or 0.0)}
    fields[getattr(DPU, f"{name}_MUL_CFG")] = {f"{prefix}_mul_operand": half_bits(multiply or 0.0)}
    return fields


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
        (DPU_RDMA.RDMA_FEATURE_MODE_CFG, {"in_precision": 1}, "int16"),
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


def table_words(table: int, entries: list[int]) -> list[int]:
    return [
        DPU.LUT_ACCESS_CFG(lut_access_type=1, lut_table_id=table),
        *(DPU.LUT_ACCESS_DATA(lut_access_data=entry & 0xFFFF) for entry in entries),
    ]


def sigmoid(fields: Fields) -> Fields:
    """S-118."""
    fields = {**fields, DPU.BN_CFG: {"bn_alu_algo": 2, "bn_relu_bypass": 1}}
    fields[DPU.BN_ALU_CFG] = {"bn_alu_operand": 0x80000000}
    fields[DPU.BN_MUL_CFG] = {"bn_mul_operand": 0x6912}
    fields[DPU.EW_CFG] = {"ew_relu_bypass": 1, "ew_op_cvt_bypass": 1, "ew_op_bypass": 1}
    fields[DPU.OUT_CVT_OFFSET] = {"out_cvt_offset": 1}
    fields[DPU.OUT_CVT_SHIFT] = {"cvt_type": 1, "minus_exp": 15}
    fields[DPU.LUT_CFG] = {"lut_lo_le_mux": 2, "lut_oflow_priority": 1, "lut_hybrid_priority": 1}
    fields[DPU.LUT_INFO] = {"lut_lo_index_select": 5, "lut_le_index_select": 5}
    fields[DPU.LUT_LE_START] = {"lut_le_start": 0xFFFFC000}
    fields[DPU.LUT_LE_END] = {}
    fields[DPU.LUT_LO_START] = {}
    fields[DPU.LUT_LO_END] = {"lut_lo_end": 0x4000}
    fields[DPU.LUT_LE_SLOPE_SCALE] = {"lut_le_slope_uflow_scale": 23107}
    fields[DPU.LUT_LE_SLOPE_SHIFT] = {"lut_le_slope_uflow_shift": 22}
    fields[DPU.LUT_LO_SLOPE_SCALE] = {}
    fields[DPU.LUT_LO_SLOPE_SHIFT] = {}
    return fields


def test_sigmoid_by_table(plain: Fields):
    """S-117 to S-119: index x * BN_MUL, low table below zero, 32 units a segment; error up to 1.5e-3."""
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


def pooling(
    dtype: type[np.generic],
    method: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: tuple[int, int, int, int],
    channels: int,
) -> tuple[Fields, tuple[int, int]]:
    """worked-examples.md §6; pads top, bottom, left, right. Also gives the output size."""
    top, bottom, left, right = pads
    output = (
        (size[0] + top + bottom - kernel[0]) // stride[0] + 1,
        (size[1] + left + right - kernel[1]) // stride[1] + 1,
    )
    code = {np.int8: 0, np.int16: 1, np.float16: 2}[dtype]
    half = dtype is np.float16
    values = {np.int8: 0x7FF80, np.int16: 0x78000, np.float16: 0xFC00}
    reciprocal = [half_bits(65536 / k) if half and k > 1 else 0x7C00 if half else 65536 // k for k in kernel]
    fields: Fields = {
        PPU.DATA_CUBE_IN_WIDTH: {"cube_in_width": size[1] - 1},
        PPU.DATA_CUBE_IN_HEIGHT: {"cube_in_height": size[0] - 1},
        PPU.DATA_CUBE_IN_CHANNEL: {"cube_in_channel": channels - 1},
        PPU.DATA_CUBE_OUT_WIDTH: {"cube_out_width": output[1] - 1},
        PPU.DATA_CUBE_OUT_HEIGHT: {"cube_out_height": output[0] - 1},
        PPU.DATA_CUBE_OUT_CHANNEL: {"cube_out_channel": channels - 1},
        PPU.OPERATION_MODE_CFG: {"flying_mode": 1, "pooling_method": method},
        PPU.POOLING_KERNEL_CFG: {
            "kernel_height": kernel[0] - 1,
            "kernel_width": kernel[1] - 1,
            "kernel_stride_height": stride[0] - 1,
            "kernel_stride_width": stride[1] - 1,
        },
        PPU.RECIP_KERNEL_HEIGHT: {"recip_kernel_height": reciprocal[0]},
        PPU.RECIP_KERNEL_WIDTH: {"recip_kernel_width": reciprocal[1]},
        PPU.POOLING_PADDING_CFG: {"pad_top": top, "pad_bottom": bottom, "pad_left": left, "pad_right": right},
        PPU.PADDING_VALUE_1_CFG: {"pad_value_0": values[dtype] if method == 1 else 0},
        PPU.DST_BASE_ADDR: {"dst_base_addr": OUTPUT >> 4},
        PPU.DST_SURF_STRIDE: {"dst_surf_stride": output[0] * output[1]},
        PPU.DATA_FORMAT: {"index_add": output[0] * output[1], "proc_precision": code},
        PPU.MISC_CTRL: {"burst_len": 3},
        PPU_RDMA.RDMA_CUBE_IN_WIDTH: {"cube_in_width": size[1] - 1},
        PPU_RDMA.RDMA_CUBE_IN_HEIGHT: {"cube_in_height": size[0] - 1},
        PPU_RDMA.RDMA_CUBE_IN_CHANNEL: {"cube_in_channel": channels - 1},
        PPU_RDMA.RDMA_SRC_BASE_ADDR: {"src_base_addr": INPUT},
        PPU_RDMA.RDMA_SRC_LINE_STRIDE: {"src_line_stride": size[1]},
        PPU_RDMA.RDMA_SRC_SURF_STRIDE: {"src_surf_stride": size[0] * size[1]},
        PPU_RDMA.RDMA_DATA_FORMAT: {"in_precision": 1 if dtype is np.int8 else 2},
    }
    return fields, output


def windows(given: Values, kernel: tuple[int, int], stride: tuple[int, int], output: tuple[int, int]) -> Values:
    """(surfaces, height, width, atom) to (surfaces, rows, columns, atom, kh * kw)."""
    view = np.lib.stride_tricks.sliding_window_view(given, kernel, axis=(1, 2))
    view = view[:, :: stride[0], :: stride[1]][:, : output[0], : output[1]]
    return view.reshape(*view.shape[:4], -1)


POOLS = [
    ((6, 6), (2, 2), (2, 2), (0, 0, 0, 0)),
    ((7, 9), (3, 3), (1, 1), (0, 0, 0, 0)),
    ((7, 9), (2, 3), (1, 2), (0, 0, 0, 0)),
    ((14, 14), (7, 7), (7, 7), (0, 0, 0, 0)),
    ((8, 8), (4, 4), (4, 4), (0, 0, 0, 0)),
    ((5, 6), (3, 2), (2, 2), (1, 1, 0, 0)),
]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float16])
def test_maximum_and_minimum_are_exact(dtype: type[np.generic], pool: tuple):
    """S-128, S-129, S-178."""
    size, kernel, stride, pads = pool
    atom = 16 // np.dtype(dtype).itemsize
    shape = (2, *size, atom)
    count = int(np.prod(shape))
    given = (halves(1, count) if dtype is np.float16 else np.resize(integers(dtype, 1), count)).reshape(shape)
    for method, reduce in ((1, np.max), (2, np.min)):
        fields, output = pooling(dtype, method, size, kernel, stride, pads, 2 * atom)
        board = Board()
        board.put(INPUT, given)
        board.run(words(fields, POOLING))
        low = -np.inf if dtype is np.float16 else np.iinfo(dtype).min
        fill = low if method == 1 else 0
        full = np.pad(given.astype(np.float64), ((0, 0), pads[:2], pads[2:], (0, 0)), constant_values=fill)
        wanted = reduce(windows(full, kernel, stride, output), axis=-1)
        got = board.get(OUTPUT, wanted.size, dtype).reshape(wanted.shape)
        assert np.array_equal(got.astype(np.float64), wanted)


def case_rule(total: int, kernel: tuple[int, int]) -> int:
    """S-132: half away from zero; exact ties of an even window step toward zero, always or only if odd."""
    count = kernel[0] * kernel[1]
    sign = 1 if total >= 0 else -1
    quotient, rest = divmod(abs(total), count)
    nearest = quotient + (2 * rest >= count)
    if 2 * rest == count:
        exact = all(65536 % k == 0 for k in kernel)
        if not exact or nearest % 2:
            nearest -= 1
    return sign * nearest


@pytest.mark.parametrize("pool", POOLS[:5])
def test_int8_averages_follow_the_case_rule(pool: tuple):
    """S-129, S-132, S-179b: truncated reciprocals, for windows up to 8 x 8."""
    size, kernel, stride, pads = pool
    given = np.random.default_rng(2).integers(-128, 128, (2, *size, 16)).astype(np.int8)
    fields, output = pooling(np.int8, 0, size, kernel, stride, pads, 32)
    board = Board()
    board.put(INPUT, given)
    board.run(words(fields, POOLING))
    totals = windows(given.astype(np.int64), kernel, stride, output).sum(axis=-1)
    wanted = np.vectorize(lambda total: case_rule(int(total), kernel))(totals)
    assert np.array_equal(board.get(OUTPUT, wanted.size, np.int8).reshape(wanted.shape), wanted)


@pytest.mark.parametrize("kernel", [(1, 4), (2, 2), (3, 3), (5, 1)])
def test_half_averages(kernel: tuple[int, int]):
    """S-134, S-173: sum times both reciprocals, FP17 of 1/k; 0x7C00 for k = 1."""
    given = halves(3, 2 * 36 * 8).reshape(2, 6, 6, 8)
    fields, output = pooling(np.float16, 0, (6, 6), kernel, (1, 1), (0, 0, 0, 0), 16)
    board = Board()
    board.put(INPUT, given)
    board.run(words(fields, POOLING))
    wanted = windows(given.astype(np.float64), kernel, (1, 1), output).mean(axis=-1)
    got = board.get(OUTPUT, wanted.size, np.float16).reshape(wanted.shape)
    assert (np.abs(got - wanted) <= 1e-3 * (1 + np.abs(wanted))).all()


@pytest.mark.parametrize(
    ("register", "values", "message"),
    [
        (PPU.OPERATION_MODE_CFG, {"flying_mode": 0}, "S-180"),
        (PPU.OPERATION_MODE_CFG, {"notch_addr": 1}, "S-175"),
        (PPU.OPERATION_MODE_CFG, {"pooling_method": 3}, "pooling_method 3"),
        (PPU.DATA_FORMAT, {"proc_precision": 4}, "S-175"),
        (PPU_RDMA.RDMA_DATA_FORMAT, {"in_precision": 0}, "S-129"),
        (PPU.DATA_CUBE_OUT_WIDTH, {"cube_out_width": 3}, "starve"),
        (PPU.DATA_CUBE_IN_WIDTH, {"cube_in_width": 4}, "must agree"),
        (PPU.DST_BASE_ADDR, {"dst_base_addr": 0}, "PPU output"),
        (PPU_RDMA.RDMA_SRC_BASE_ADDR, {"src_base_addr": 0}, "PPU input"),
    ],
)
def test_conditions_of_pooling(register: Register, values: dict[str, int], message: str):
    fields, _ = pooling(np.int8, 1, (6, 6), (2, 2), (2, 2), (0, 0, 0, 0), 32)
    with pytest.raises(SimulatorError, match=message):
        Board().run(words(change(fields, register, **values), POOLING))
