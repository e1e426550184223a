"""Command streams of tasks without convolution: element-wise operations, BS and BN, tables, pooling."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hw.sim.programs import FLYING, INPUT, OPERAND, OUTPUT, Board, Fields, change, words

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


def halves(seed: int, count: int = 64) -> npt.NDArray[np.float16]:
    return (np.random.default_rng(seed).standard_normal(count) * 3).astype(np.float16)


def single(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def half_bits(value: float) -> int:
    return int(np.float16(value).view(np.uint16))


def bypassed() -> Fields:
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
