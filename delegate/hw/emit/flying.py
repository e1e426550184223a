"""Tasks without convolution: DPU_RDMA reads a tensor and perhaps an operand, the DPU computes (S-108, S-187)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt

from delegate.hw.emit.dpu import (
    ADD,
    BURST_16,
    EIGHT_BITS,
    EW_OPERANDS,
    FROM_MEMORY,
    PER_PIXEL,
    TO_MEMORY,
    emit_no_table,
)
from delegate.hw.emit.stream import PING_PONG, Address, Command
from delegate.hw.regs import DPU, DPU_RDMA
from delegate.ir import Elementwise, FlyingTile

ALGORITHMS = {"max": 0, "min": 1, "add": 2, "subtract": 4}  # codes of the element-wise ALU (S-110)
ADD_FIRST = 1
PER_CHANNEL = 0  # data mode of the operand (S-160)
LOW, HIGH = 0, 1  # numbers of the two tables
# The setting in which the tables are proven, in fp16: 512 segments of 32 on either side of 0 (S-117, npu.md §6).
SEGMENT_BITS = 5
SPAN = 512 << SEGMENT_BITS
SIGN_HYBRID = 2


def emit_flying(tile: FlyingTile) -> Iterator[Command]:
    """The body of a task; every register of both blocks."""
    yield from emit_dpu(tile)
    yield from emit_dpu_rdma(tile)


def emit_dpu(tile: FlyingTile) -> Iterator[Command]:
    """The registers of the DPU; the tables first."""
    layer, run = tile.layer, tile.layer.requantize
    yield DPU.S_POINTER(**PING_PONG)
    yield from emit_table_entries(layer.table)
    yield DPU.FEATURE_MODE_CFG(burst_len=BURST_16, output_mode=TO_MEMORY, flying_mode=1)
    yield DPU.DATA_FORMAT(bs_mul_shift_value_neg=layer.main_shift)
    yield DPU.OFFSET_PEND()
    yield Address(DPU.DST_BASE_ADDR, tile.output)
    yield DPU.DST_SURF_STRIDE(dst_surf_stride=tile.output_surface)
    yield DPU.DATA_CUBE_WIDTH(width=tile.width - 1)
    yield DPU.DATA_CUBE_HEIGHT(height=tile.rows - 1)
    yield DPU.DATA_CUBE_NOTCH_ADDR()
    # the true channels have to be all, or only the first of each atom is right (S-109)
    yield DPU.DATA_CUBE_CHANNEL(orig_channel=tile.channels - 1, channel=tile.channels - 1)
    yield from emit_scale_stage(layer)
    yield DPU.WDMA_SIZE_0(channel_wdma=tile.channels - 1)
    yield DPU.WDMA_SIZE_1(height_wdma=tile.rows - 1, width_wdma=tile.width - 1)
    yield DPU.BN_CFG(bn_relu_bypass=1, bn_mul_bypass=1, bn_alu_bypass=1, bn_bypass=1)
    yield DPU.BN_ALU_CFG()
    yield DPU.BN_MUL_CFG()
    yield DPU.BN_RELUX_CMP_VALUE()
    yield from emit_elementwise_stage(layer)
    yield DPU.OUT_CVT_OFFSET(out_cvt_offset=run.offset)
    yield DPU.OUT_CVT_SCALE(out_cvt_scale=run.multiplier)
    yield DPU.OUT_CVT_SHIFT(out_cvt_shift=run.shift, cvt_round=run.half_away)
    yield from (register() for register in EW_OPERANDS)
    yield DPU.SURFACE_ADD(surf_add=tile.output_surface)  # a group is one surface
    yield DPU.UNDOC_40C4()
    if layer.table is None:
        yield from emit_no_table()
    else:
        yield from emit_table_setting()


def emit_scale_stage(layer: Elementwise) -> Iterator[Command]:
    """BS: adds a number, multiplies by another, both from registers; or bypassed."""
    idle = not layer.scales_main
    yield DPU.BS_CFG(
        bs_alu_algo=0 if idle else ADD, bs_relu_bypass=1, bs_mul_bypass=idle, bs_alu_bypass=idle, bs_bypass=idle
    )
    yield DPU.BS_ALU_CFG(bs_alu_operand=layer.main_offset & 0xFFFFFFFF)
    yield DPU.BS_MUL_CFG(
        bs_mul_operand=0 if idle else layer.main_multiplier & 0xFFFF, bs_mul_shift_value=layer.main_shift
    )
    yield DPU.BS_RELUX_CMP_VALUE()
    yield DPU.BS_OW_CFG(od_bypass=1)
    yield DPU.BS_OW_OP()


def emit_elementwise_stage(layer: Elementwise) -> Iterator[Command]:
    """EW: bypassed, the table alone, or an operation with the operand from memory (S-106, S-107, S-187)."""
    if layer.operation is None:
        table = layer.table is not None
        yield DPU.EW_CFG(
            ew_relu_bypass=1, ew_op_cvt_bypass=1, ew_lut_bypass=not table, ew_op_bypass=1, ew_bypass=not table
        )
        yield DPU.EW_CVT_OFFSET_VALUE()
        yield DPU.EW_CVT_SCALE_VALUE(ew_op_cvt_scale=1)
    else:
        yield DPU.EW_CFG(
            ew_cvt_type=ADD_FIRST,
            ew_data_mode=PER_CHANNEL if layer.per_channel else PER_PIXEL,
            edata_size=EIGHT_BITS,
            ew_equal_en=layer.operation in ("max", "min"),
            ew_alu_algo=ALGORITHMS.get(layer.operation, 0),
            ew_relu_bypass=1,
            ew_lut_bypass=1,
            ew_op_src=FROM_MEMORY,
            ew_op_type=layer.operation == "multiply",
        )
        yield DPU.EW_CVT_OFFSET_VALUE(ew_op_cvt_offset=layer.operand_offset)
        yield DPU.EW_CVT_SCALE_VALUE(ew_op_cvt_scale=layer.operand_multiplier & 0xFFFF)
    yield DPU.EW_RELUX_CMP_VALUE()


def emit_table_entries(table: npt.NDArray[np.int16] | None) -> Iterator[Command]:
    """Both tables, entry by entry; they have to come in every job (S-166)."""
    if table is None:
        return
    for number in (LOW, HIGH):
        yield DPU.LUT_ACCESS_CFG(lut_access_type=1, lut_table_id=number)
        yield from map(table_entry, table[number].tolist())


@cache
def table_entry(entry: int) -> int:
    """The word that writes the next entry; tables of bytes have 512 different ones."""
    return DPU.LUT_ACCESS_DATA(lut_access_data=entry & 0xFFFF)


def emit_table_setting() -> Iterator[Command]:
    """How the tables are used; beyond their ends the slope is 0."""
    yield DPU.LUT_CFG(lut_lo_le_mux=SIGN_HYBRID, lut_oflow_priority=HIGH, lut_hybrid_priority=HIGH)
    yield DPU.LUT_INFO(lut_lo_index_select=SEGMENT_BITS, lut_le_index_select=SEGMENT_BITS)
    yield DPU.LUT_LE_START(lut_le_start=-SPAN & 0xFFFFFFFF)
    yield DPU.LUT_LE_END()
    yield DPU.LUT_LO_START()
    yield DPU.LUT_LO_END(lut_lo_end=SPAN)
    yield DPU.LUT_LE_SLOPE_SCALE()
    yield DPU.LUT_LE_SLOPE_SHIFT()
    yield DPU.LUT_LO_SLOPE_SCALE()
    yield DPU.LUT_LO_SLOPE_SHIFT()


def emit_dpu_rdma(tile: FlyingTile) -> Iterator[Command]:
    """The registers of DPU_RDMA; behind the pixels of a surface the rest of its pitch is left out."""
    plane = tile.rows * tile.width
    yield DPU_RDMA.RDMA_S_POINTER(**PING_PONG)
    yield DPU_RDMA.RDMA_DATA_CUBE_WIDTH(width=tile.width - 1)
    yield DPU_RDMA.RDMA_DATA_CUBE_HEIGHT(height=tile.rows - 1)
    yield DPU_RDMA.RDMA_DATA_CUBE_CHANNEL(channel=tile.channels - 1)
    yield Address(DPU_RDMA.RDMA_SRC_BASE_ADDR, tile.main)
    yield DPU_RDMA.RDMA_BRDMA_CFG(brdma_disable=1)
    yield DPU_RDMA.RDMA_BS_BASE_ADDR()
    yield DPU_RDMA.RDMA_NRDMA_CFG(nrdma_disable=1)
    yield DPU_RDMA.RDMA_BN_BASE_ADDR()
    if tile.operand is None:
        yield DPU_RDMA.RDMA_ERDMA_CFG(erdma_disable=1)
        yield DPU_RDMA.RDMA_EW_BASE_ADDR()
    else:
        yield DPU_RDMA.RDMA_ERDMA_CFG(
            erdma_data_mode=PER_CHANNEL if tile.layer.per_channel else PER_PIXEL, erdma_data_size=EIGHT_BITS
        )
        yield Address(DPU_RDMA.RDMA_EW_BASE_ADDR, tile.operand)
    yield DPU_RDMA.RDMA_EW_SURF_STRIDE(ew_surf_stride=tile.operand_surface)
    yield DPU_RDMA.RDMA_FEATURE_MODE_CFG(burst_len=BURST_16, flying_mode=1)
    yield DPU_RDMA.RDMA_SURF_NOTCH(surf_notch_addr=tile.main_surface - plane)
    yield DPU_RDMA.RDMA_EW_SURF_NOTCH()
    yield DPU_RDMA.RDMA_SRC_DMA_CFG()
    yield DPU_RDMA.RDMA_PAD_CFG()
    yield DPU_RDMA.RDMA_WEIGHT(e_weight=1, n_weight=1, b_weight=1, m_weight=1)
