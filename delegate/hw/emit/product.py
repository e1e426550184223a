"""Matrix products: 1x1 convolutions of pixels, a row of A each, by kernels, a column of B each (npu.md §10).

The registers are those of programs that ran on boards: fp16 to fp32 or fp16 and int8 to int32 as captured
(docs/matmul.md lists what differs), int8 to int8 as the convolutions of S-186. Matrices lie in rows (S-47, S-48) or
cubes (S-40), which is one formula: rows and surfaces have a pitch each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delegate.hw.emit.cna import BURST_16, emit_no_conversion, emit_weight_address
from delegate.hw.emit.dpu import ADD, EW_OPERANDS, FROM_MEMORY, TO_MEMORY, emit_no_elementwise, emit_no_table
from delegate.hw.emit.dpu_rdma import ALU_OPERAND, RECORDS
from delegate.hw.emit.stream import PING_PONG, Address, Command
from delegate.hw.layout import divide_up
from delegate.hw.regs import CNA, CORE, DPU, DPU_RDMA
from delegate.hw.soc import RK3588
from delegate.hw.task import Place

CODES = {"int8": 0, "float16": 2, "int32": 4, "float32": 5}  # of precisions (S-61)
RESULTS = {"float16": ("float32", "float16"), "int8": ("int32", "int8")}  # of an element type


@dataclass(frozen=True)
class Form:
    """The number types of a product, by numpy's names: of A and B, and of C."""

    element: str
    result: str

    @property
    def element_type(self) -> npt.DTypeLike:
        return np.dtype(self.element)

    @property
    def element_bytes(self) -> int:
        return np.dtype(self.element).itemsize

    @property
    def result_bytes(self) -> int:
        return np.dtype(self.result).itemsize

    @property
    def group(self) -> int:
        """Columns that are computed side by side: 32 of int8, 16 of fp16 (S-42)."""
        return RK3588.kernel_group // self.element_bytes

    @property
    def surfaces(self) -> int:
        """Atoms that a row of a group fills in C (npu.md §5.6)."""
        return self.group * self.result_bytes // RK3588.atom_bytes

    @property
    def quantizes(self) -> bool:
        """Whether the DPU's output converter makes 8 bits of the sums."""
        return self.result == "int8"


@dataclass(frozen=True)
class Matrix:
    """Where a matrix begins, and how far apart its rows and its surfaces of atoms are, in atoms.

    In rows: (atoms of a row, 1); as a cube: (1, rows of the cube).
    """

    place: Place
    row: int
    surface: int

    @property
    def in_rows(self) -> bool:
        return self.row > 1  # the narrowest rows are two atoms wide


@dataclass(frozen=True)
class Requantization:
    """C = clamp(round(v * multiplier / 2**shift) + offset), ties to even (S-01).

    v = sum + bias, or round((sum + bias) * multiplier of the column / 2**channel_shift) (S-19).
    """

    operands: Place  # dense biases, or records of biases and multipliers (S-17)
    multiplier: int
    shift: int
    offset: int
    channel_shift: int | None


@dataclass(frozen=True)
class ProductTile:
    """One task: ``rows`` x ``depth`` times ``depth`` x ``columns``.

    Rows are a multiple of 4 (S-69), the depth of 32, columns whole groups (S-42).
    """

    form: Form
    rows: int
    depth: int
    columns: int
    a: Matrix
    b: Place
    c: Matrix
    feature_banks: int
    weight_banks: int
    reuses_rows: bool = False  # of A, from the task before (S-75)
    reuses_columns: bool = False  # of B
    requantization: Requantization | None = None  # exactly for results of 8 bits

    @property
    def kernel_bytes(self) -> int:
        return self.depth * self.form.element_bytes


def row_entries(depth_bytes: int) -> int:
    """CBUF entries of 64 bytes that a row of A takes (S-46)."""
    return divide_up(depth_bytes, RK3588.cbuf_line_unit_bytes)


def emit_product(tile: ProductTile) -> Iterator[Command]:
    """The body of a task: every register of the four blocks, so that nothing is inherited (S-102)."""
    yield from emit_cna(tile)
    yield from emit_core(tile)
    yield from emit_dpu(tile)
    yield from emit_dpu_rdma(tile)


def emit_cna(tile: ProductTile) -> Iterator[Command]:
    """The registers of CNA. Lines are fetched one by one where A lies in rows, else in groups (npu.md §3.2, S-47)."""
    code, group = CODES[tile.form.element], 1 if tile.a.in_rows else RK3588.line_group
    yield CNA.CONV_CON1(group_line_off=tile.a.in_rows, proc_precision=code, in_precision=code)
    yield CNA.CONV_CON2(feature_grains=tile.rows + 1)  # S-83
    yield CNA.CONV_CON3(conv_y_stride=1, conv_x_stride=1)
    yield CNA.DATA_SIZE0(datain_width=1, datain_height=tile.rows)
    yield CNA.DATA_SIZE1(datain_channel_real=tile.depth - 1, datain_channel=tile.depth)
    yield CNA.DATA_SIZE2(dataout_width=1)
    yield CNA.DATA_SIZE3(dataout_atomics=tile.rows)
    yield CNA.WEIGHT_SIZE0(weight_bytes=tile.kernel_bytes * tile.columns)
    yield CNA.WEIGHT_SIZE1(weight_bytes_per_kernel=tile.kernel_bytes)
    yield CNA.WEIGHT_SIZE2(weight_width=1, weight_height=1, weight_kernels=tile.columns)
    yield CNA.CBUF_CON0(
        weight_reuse=tile.reuses_columns,
        data_reuse=tile.reuses_rows,
        weight_bank=tile.weight_banks,
        data_bank=tile.feature_banks,
    )
    yield CNA.CBUF_CON1(data_entries=row_entries(tile.kernel_bytes))
    yield from emit_no_conversion()
    yield CNA.PAD_CON0()
    yield Address(CNA.FEATURE_DATA_ADDR, tile.a.place)
    yield CNA.FC_CON2()
    yield CNA.DMA_CON0(weight_burst_len=BURST_16, data_burst_len=BURST_16)
    yield CNA.DMA_CON1(line_stride=group * tile.a.row)
    yield CNA.DMA_CON2(surf_stride=tile.a.surface - group)
    yield CNA.FC_DATA_SIZE0(dma_width=1, dma_height=tile.rows)
    yield CNA.FC_DATA_SIZE1(dma_channel=tile.depth)
    yield from emit_weight_address(tile.b)
    yield CNA.CVT_CON5()
    yield CNA.PAD_CON1()


def emit_core(tile: ProductTile) -> Iterator[Command]:
    """The registers of CORE. QD_EN is 0 only where int8 sums are written as they are (S-185, S-186)."""
    yield CORE.MISC_CFG(proc_precision=CODES[tile.form.element], qd_en=tile.form.result != "int32")
    yield CORE.DATAOUT_SIZE_0(dataout_height=tile.rows - 1)
    yield CORE.DATAOUT_SIZE_1(dataout_channel=tile.columns - 1)
    yield CORE.CLIP_TRUNCATE()
    yield CORE.UNDOC_3030()


def emit_dpu(tile: ProductTile) -> Iterator[Command]:
    """The registers of the DPU: sums as they are, or BS adds the bias and OUT_CVT scales (S-01, S-186)."""
    form, run = tile.form, tile.requantization
    code = CODES[form.element]
    inner = run.channel_shift if run else None
    multiplies = inner is not None
    yield DPU.S_POINTER(**PING_PONG)
    yield DPU.FEATURE_MODE_CFG(burst_len=BURST_16, output_mode=TO_MEMORY)
    yield DPU.DATA_FORMAT(
        out_precision=CODES[form.result],
        in_precision=code,
        bs_mul_shift_value_neg=inner or 0,  # negative products have a shift of their own (S-22)
        proc_precision=code,
    )
    yield DPU.OFFSET_PEND()
    yield Address(DPU.DST_BASE_ADDR, tile.c.place)
    yield DPU.DST_SURF_STRIDE(dst_surf_stride=tile.c.surface)
    yield DPU.DATA_CUBE_WIDTH()
    yield DPU.DATA_CUBE_HEIGHT(height=tile.rows - 1)
    yield DPU.DATA_CUBE_NOTCH_ADDR(notch_addr_0=tile.c.row - 1, notch_addr_1=tile.c.row - 1)
    yield DPU.DATA_CUBE_CHANNEL(orig_channel=tile.columns - 1, channel=tile.columns - 1)
    yield DPU.BS_CFG(
        bs_alu_algo=ADD if run else 0,
        bs_alu_src=FROM_MEMORY if run else 0,
        bs_relu_bypass=1,
        bs_mul_bypass=not multiplies,
        bs_alu_bypass=run is None,
        bs_bypass=run is None,
    )
    yield DPU.BS_ALU_CFG()
    yield DPU.BS_MUL_CFG(bs_mul_shift_value=inner or 0, bs_mul_src=FROM_MEMORY if multiplies else 0)
    yield DPU.BS_RELUX_CMP_VALUE()
    size_e = form.surfaces - 1
    yield DPU.BS_OW_CFG(size_e_2=size_e, size_e_1=size_e, size_e_0=size_e, od_bypass=run is None)
    yield DPU.BS_OW_OP()
    yield DPU.WDMA_SIZE_0(channel_wdma=tile.columns - 1)
    yield DPU.WDMA_SIZE_1(height_wdma=tile.rows - 1)
    yield DPU.BN_CFG(bn_relu_bypass=1, bn_mul_bypass=1, bn_alu_bypass=1, bn_bypass=1)
    yield DPU.BN_ALU_CFG()
    yield DPU.BN_MUL_CFG()
    yield DPU.BN_RELUX_CMP_VALUE()
    yield from emit_no_elementwise()
    yield DPU.EW_RELUX_CMP_VALUE()
    yield DPU.OUT_CVT_OFFSET(out_cvt_offset=run.offset if run else 0)
    # halves are made of singles by a bit of this register (npu.md §5.5)
    yield DPU.OUT_CVT_SCALE(fp32tofp16_en=form.result == "float16", out_cvt_scale=run.multiplier if run else 1)
    yield DPU.OUT_CVT_SHIFT(out_cvt_shift=run.shift if run else 0)
    yield from (register() for register in EW_OPERANDS)
    yield DPU.SURFACE_ADD(surf_add=form.surfaces * tile.c.surface)
    yield DPU.UNDOC_40C4()
    yield from emit_no_table()


def emit_dpu_rdma(tile: ProductTile) -> Iterator[Command]:
    """The registers of DPU_RDMA, main and element-wise client off, or the core waits for ever (S-114).

    Without a bias the clients of BS and BN are as in the programs that ran: on, and nothing asks for what they fetch.
    """
    run = tile.requantization
    yield DPU_RDMA.RDMA_S_POINTER(**PING_PONG)
    yield DPU_RDMA.RDMA_DATA_CUBE_WIDTH()
    yield DPU_RDMA.RDMA_DATA_CUBE_HEIGHT(height=tile.rows - 1)
    yield DPU_RDMA.RDMA_DATA_CUBE_CHANNEL(channel=tile.columns - 1)
    yield DPU_RDMA.RDMA_SRC_BASE_ADDR()
    yield DPU_RDMA.RDMA_BRDMA_CFG(brdma_data_use=data_use(run))
    yield Address(DPU_RDMA.RDMA_BS_BASE_ADDR, run.operands) if run else DPU_RDMA.RDMA_BS_BASE_ADDR()
    yield DPU_RDMA.RDMA_NRDMA_CFG(nrdma_disable=run is not None)
    yield DPU_RDMA.RDMA_BN_BASE_ADDR()
    yield DPU_RDMA.RDMA_ERDMA_CFG(erdma_disable=1)
    yield DPU_RDMA.RDMA_EW_BASE_ADDR()
    yield DPU_RDMA.RDMA_EW_SURF_STRIDE()
    yield DPU_RDMA.RDMA_FEATURE_MODE_CFG(
        burst_len=BURST_16, mrdma_disable=1, mrdma_fp16tofp32_en=tile.form.result == "float16"
    )
    yield DPU_RDMA.RDMA_SRC_DMA_CFG()
    yield DPU_RDMA.RDMA_SURF_NOTCH()
    yield DPU_RDMA.RDMA_PAD_CFG()
    yield DPU_RDMA.RDMA_WEIGHT(e_weight=1, n_weight=1, b_weight=1, m_weight=1)
    yield DPU_RDMA.RDMA_EW_SURF_NOTCH()


def data_use(run: Requantization | None) -> int:
    """What BS asks of DPU_RDMA (S-17)."""
    if run is None:
        return 0
    return ALU_OPERAND if run.channel_shift is None else RECORDS
