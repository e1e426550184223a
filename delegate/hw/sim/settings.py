"""Fields whose other values nobody has tried: a task that sets them is refused, by block.

Sizes and addresses are checked where they are used; here stand modes, hints and bits of unknown effect.
"""

from __future__ import annotations

from delegate.hw.registers import Register
from delegate.hw.regs import CNA, CORE, DPU, DPU_RDMA, PPU
from delegate.hw.sim.registers import TaskRegisters

BURSTS = (3, 7, 15)  # names of bursts of 4, 8 and 16 (F-106)
GATES = 1 << 11 | 1 << 23 | 1 << 24  # of CORE.MAC_GATING (F-115)
WIDEST = 8190  # pixels of a DPU row (F-117)
PRIORITIES = {"lut_hybrid_priority": 1, "lut_oflow_priority": 1, "lut_uflow_priority": 0}  # F-91


def check_cna(regs: TaskRegisters) -> None:
    """CNA's modes (F-38, F-39, F-106)."""
    for register in (CNA.FC_CON0, CNA.FC_CON1, CNA.FC_CON2, CNA.DCOMP_CTRL, CNA.DCOMP_REGNUM):
        regs.require_zero(register)
    regs.require_zero(CNA.CONV_CON2, "kernel_group", "csc_wo_en", "csc_do_en", "cmd_fifo_srst")
    regs.require_zero(CNA.CONV_CON3, "nn_mode", why="the shared MAC array of several cores is not modelled (F-39)")
    for index in range(16):
        regs.require_zero(getattr(CNA, f"DCOMP_AMOUNT{index}"), why="compressed weights are not decoded (F-38)")
    regs.require_zero(CNA.DMA_CON0, "ov4k_bypass")
    for label in ("data_burst_len", "weight_burst_len"):
        _check_burst(regs, CNA.DMA_CON0, label)
    regs.require_zero(CNA.DATA_SIZE3, "surf_mode")


def check_core(regs: TaskRegisters) -> None:
    """Clock gates that stop output lanes or the whole array (F-115)."""
    if not regs.written(CORE.MAC_GATING):
        return
    gates = regs[CORE.MAC_GATING]["slcg_op_en"]
    limit = f"bits {GATES:#x} set: 11 and 23 clock the output lanes, without 24 the job stops (S-71)"
    regs.require(gates & GATES == GATES, CORE.MAC_GATING, hex(gates), limit)


def check_dpu(regs: TaskRegisters, table: bool) -> None:
    """The DPU's modes (F-88, F-106, F-108, F-118); ``table``: a lookup table is in use."""
    regs.require_zero(DPU.FEATURE_MODE_CFG, "comb_use", "tp_en", "rgp_type", "nonalign", "surf_len", why="S-163")
    _check_burst(regs, DPU.FEATURE_MODE_CFG, "burst_len")
    regs.require_zero(DPU.DATA_FORMAT, "mc_surf_out", "ew_truncate_neg")
    regs.require_zero(DPU.DATA_CUBE_HEIGHT, "minmax_ctl")
    regs.require_zero(DPU.BS_OW_CFG, "rgp_cnter", why="the regrouper gives zeros (S-163)")
    regs.require_zero_if_written(DPU.OFFSET_PEND)
    regs.require_zero_if_written(DPU.UNDOC_40C4)
    width = regs[DPU.DATA_CUBE_WIDTH]["width"] + 1
    regs.require(width <= WIDEST, DPU.DATA_CUBE_WIDTH, width, f"at most {WIDEST}: 8191 columns lose some (S-80, C-2)")
    shift = regs[DPU.OUT_CVT_SHIFT]["out_cvt_shift"]
    regs.require(shift < 64, DPU.OUT_CVT_SHIFT, f"out_cvt_shift {shift}", "below 64: six bits are known to act (S-03)")
    if table:
        for label, known in PRIORITIES.items():
            value = regs[DPU.LUT_CFG][label]
            regs.require(value == known, DPU.LUT_CFG, f"{label} {value}", f"{known}: nothing else is known (F-91)")


def check_dpu_rdma(regs: TaskRegisters) -> None:
    """DPU_RDMA's modes (F-106, F-108)."""
    regs.require_zero(DPU_RDMA.RDMA_SRC_DMA_CFG, why="un-pooling is not known on this chip")
    regs.require_zero(DPU_RDMA.RDMA_PAD_CFG, why="un-pooling is not known on this chip")
    regs.require_zero(DPU_RDMA.RDMA_DATA_CUBE_HEIGHT, "ew_line_notch_addr")
    regs.require_zero(DPU_RDMA.RDMA_ERDMA_CFG, "erdma_surf_mode", "erdma_nonalign", "ov4k_bypass")
    _check_burst(regs, DPU_RDMA.RDMA_FEATURE_MODE_CFG, "burst_len")
    regs.require_zero_if_written(DPU_RDMA.UNDOC_5024)


def check_ppu(regs: TaskRegisters) -> None:
    """PPU's modes (F-104, F-106)."""
    regs.require_zero(PPU.OPERATION_MODE_CFG, "notch_addr", why="it corrupts the output (S-175)")
    regs.require_zero(PPU.OPERATION_MODE_CFG, "index_en")
    regs.require_zero(PPU.DATA_FORMAT, "dpu_flyin")
    regs.require_zero(PPU.MISC_CTRL, "surf_len", "mc_surf_out", "nonalign")
    _check_burst(regs, PPU.MISC_CTRL, "burst_len")


def _check_burst(regs: TaskRegisters, register: Register, label: str) -> None:
    length = regs[register][label]
    regs.require(length in BURSTS, register, f"{label} {length}", "3, 7 or 15: bursts of 4, 8 or 16 (F-106)")


def check_aligned(regs: TaskRegisters, register: Register) -> None:
    """Addresses are multiples of 16: the low four bits would be dropped (F-107)."""
    address = regs.value(register)
    regs.require(address % 16 == 0, register, hex(address), "16-byte aligned (npu.md §8)")
