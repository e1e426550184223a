"""DPU_RDMA: the operands that the DPU reads from memory; here the bias alone."""

from __future__ import annotations

from collections.abc import Iterator

from delegate.hw.emit.stream import PING_PONG, Address, Command
from delegate.hw.regs import DPU_RDMA
from delegate.ir import ConvTile

BURST_16 = 15
DEPTHWISE_MODE = 3
ALU_OPERAND = 1  # dense int32 (S-17)


def emit_dpu_rdma(tile: ConvTile) -> Iterator[Command]:
    """The registers of DPU_RDMA. Clients that are not used are switched off, or the core waits for ever (S-114, S-158)."""
    layer = tile.layer
    yield DPU_RDMA.RDMA_S_POINTER(**PING_PONG)
    yield DPU_RDMA.RDMA_DATA_CUBE_WIDTH(width=tile.output_width - 1)
    yield DPU_RDMA.RDMA_DATA_CUBE_HEIGHT(height=tile.output_height - 1)
    yield DPU_RDMA.RDMA_DATA_CUBE_CHANNEL(channel=tile.output_channels - 1)
    yield DPU_RDMA.RDMA_SRC_BASE_ADDR()
    yield DPU_RDMA.RDMA_BRDMA_CFG(brdma_data_use=ALU_OPERAND)
    yield Address(DPU_RDMA.RDMA_BS_BASE_ADDR, tile.bias)
    yield DPU_RDMA.RDMA_NRDMA_CFG(nrdma_disable=1)
    yield DPU_RDMA.RDMA_BN_BASE_ADDR()
    yield DPU_RDMA.RDMA_ERDMA_CFG(erdma_disable=1)
    yield DPU_RDMA.RDMA_EW_BASE_ADDR()
    yield DPU_RDMA.RDMA_EW_SURF_STRIDE()
    yield DPU_RDMA.RDMA_FEATURE_MODE_CFG(
        burst_len=BURST_16, mrdma_disable=1, conv_mode=DEPTHWISE_MODE if layer.depthwise else 0
    )
    yield DPU_RDMA.RDMA_SRC_DMA_CFG()
    yield DPU_RDMA.RDMA_SURF_NOTCH()
    yield DPU_RDMA.RDMA_PAD_CFG()
    yield DPU_RDMA.RDMA_WEIGHT(e_weight=1, n_weight=1, b_weight=1, m_weight=1)
    yield DPU_RDMA.RDMA_EW_SURF_NOTCH()
