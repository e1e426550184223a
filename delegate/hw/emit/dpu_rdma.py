"""DPU_RDMA: the operands that the DPU reads from memory: the bias, and a tensor to add or gains."""

from __future__ import annotations

from collections.abc import Iterator

from delegate.hw.emit.stream import PING_PONG, Address, Command
from delegate.hw.regs import DPU_RDMA
from delegate.hw.soc import RK3588
from delegate.hw.task import Place
from delegate.ir import ConvTile

BURST_16 = 15
DEPTHWISE_MODE = 3
ALU_OPERAND = 1  # dense int32 (S-17)
RECORDS = 7  # 64 bytes for eight channels (S-17)
SHARED_READ = 5  # main and element-wise client read the surfaces of one operand in turn (npu.md §5.4a)
PER_CHANNEL, PER_PIXEL = 0, 1
EIGHT_BITS = 1


def emit_dpu_rdma(tile: ConvTile) -> Iterator[Command]:
    """The registers of DPU_RDMA. Clients that are not used are off, or the core waits for ever (S-114, S-158)."""
    yield DPU_RDMA.RDMA_S_POINTER(**PING_PONG)
    yield DPU_RDMA.RDMA_DATA_CUBE_WIDTH(width=tile.output_width - 1)
    yield DPU_RDMA.RDMA_DATA_CUBE_HEIGHT(height=tile.output_height - 1)
    yield DPU_RDMA.RDMA_DATA_CUBE_CHANNEL(channel=tile.output_channels - 1)
    multiplies = tile.requantize.channel_multiplier is not None
    yield DPU_RDMA.RDMA_BRDMA_CFG(brdma_data_use=RECORDS if multiplies else ALU_OPERAND)
    yield Address(DPU_RDMA.RDMA_BS_BASE_ADDR, tile.bias)
    yield DPU_RDMA.RDMA_NRDMA_CFG(nrdma_disable=1)
    yield DPU_RDMA.RDMA_BN_BASE_ADDR()
    if tile.gain is not None:
        yield from emit_gain(tile, tile.gain)
    elif tile.addend is None:
        yield from emit_no_addend(tile)
    else:
        yield from emit_addend(tile, tile.addend)
    yield DPU_RDMA.RDMA_SRC_DMA_CFG()
    yield DPU_RDMA.RDMA_PAD_CFG()
    yield DPU_RDMA.RDMA_WEIGHT(e_weight=1, n_weight=1, b_weight=1, m_weight=1)


def emit_no_addend(tile: ConvTile) -> Iterator[Command]:
    """Main and element-wise client off."""
    yield DPU_RDMA.RDMA_SRC_BASE_ADDR()
    yield DPU_RDMA.RDMA_ERDMA_CFG(erdma_disable=1)
    yield DPU_RDMA.RDMA_EW_BASE_ADDR()
    yield DPU_RDMA.RDMA_EW_SURF_STRIDE()
    yield from emit_main_off(tile)


def emit_gain(tile: ConvTile, gain: Place) -> Iterator[Command]:
    """The element-wise client reads a byte a channel, an atom behind the other, for all pixels (S-160)."""
    yield DPU_RDMA.RDMA_SRC_BASE_ADDR()
    yield DPU_RDMA.RDMA_ERDMA_CFG(erdma_data_mode=PER_CHANNEL, erdma_data_size=EIGHT_BITS)
    yield Address(DPU_RDMA.RDMA_EW_BASE_ADDR, gain)
    yield DPU_RDMA.RDMA_EW_SURF_STRIDE(ew_surf_stride=1)
    yield from emit_main_off(tile)


def emit_main_off(tile: ConvTile) -> Iterator[Command]:
    """The main client off, and nothing skipped."""
    mode = DEPTHWISE_MODE if tile.layer.depthwise else 0
    yield DPU_RDMA.RDMA_FEATURE_MODE_CFG(burst_len=BURST_16, mrdma_disable=1, conv_mode=mode)
    yield DPU_RDMA.RDMA_SURF_NOTCH()
    yield DPU_RDMA.RDMA_EW_SURF_NOTCH()


def emit_addend(tile: ConvTile, addend: Place) -> Iterator[Command]:
    """Both clients on: the main one reads the even surfaces, the element-wise one the odd ones (S-111).

    Behind its slice of a surface each skips the slice's remainder and the other client's surface.
    """
    yield Address(DPU_RDMA.RDMA_SRC_BASE_ADDR, addend)
    yield DPU_RDMA.RDMA_ERDMA_CFG(erdma_data_mode=PER_PIXEL, erdma_data_size=EIGHT_BITS)
    yield Address(DPU_RDMA.RDMA_EW_BASE_ADDR, addend + tile.addend_surface * RK3588.atom_bytes)
    yield DPU_RDMA.RDMA_EW_SURF_STRIDE(ew_surf_stride=tile.addend_surface)
    yield DPU_RDMA.RDMA_FEATURE_MODE_CFG(burst_len=BURST_16, comb_use=SHARED_READ)
    yield DPU_RDMA.RDMA_SURF_NOTCH(surf_notch_addr=tile.addend_surface + tile.addend_skip)
    yield DPU_RDMA.RDMA_EW_SURF_NOTCH(ew_surf_notch=tile.addend_surface + tile.addend_skip)
