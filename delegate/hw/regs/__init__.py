"""The RK3588's register tables, one file a block."""

from delegate.hw.regs.cna import CNA
from delegate.hw.regs.core import CORE
from delegate.hw.regs.dpu import DPU
from delegate.hw.regs.dpu_rdma import DPU_RDMA
from delegate.hw.regs.pc import PC
from delegate.hw.regs.ppu import PPU
from delegate.hw.regs.ppu_rdma import PPU_RDMA

__all__ = ["CNA", "CORE", "DPU", "DPU_RDMA", "PC", "PPU", "PPU_RDMA"]
