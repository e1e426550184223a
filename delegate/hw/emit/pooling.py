"""PPU and PPU_RDMA: the largest value of each window (S-128, S-129)."""

from __future__ import annotations

from collections.abc import Iterator

from delegate.hw.emit.stream import PING_PONG, Address, Command
from delegate.hw.regs import PPU, PPU_RDMA
from delegate.ir import PoolTile

MAXIMUM = 1
LEAST = 0x7FF80  # -128 in the 19 bits of a padding value (npu.md §7)
READ_INT8 = 1  # the only code that is right for all methods (S-130)
BURST_4 = 3


def emit_pooling(tile: PoolTile) -> Iterator[Command]:
    """The body of a task: every register of both blocks that is known."""
    yield from emit_ppu(tile)
    yield from emit_ppu_rdma(tile)


def emit_ppu(tile: PoolTile) -> Iterator[Command]:
    """The registers of the PPU."""
    layer = tile.layer
    top, bottom, left, right = layer.padding
    yield PPU.S_POINTER(**PING_PONG)
    yield PPU.DATA_CUBE_IN_WIDTH(cube_in_width=tile.input_width - 1)
    yield PPU.DATA_CUBE_IN_HEIGHT(cube_in_height=tile.input_height - 1)
    yield PPU.DATA_CUBE_IN_CHANNEL(cube_in_channel=tile.channels - 1)
    yield PPU.DATA_CUBE_OUT_WIDTH(cube_out_width=tile.output_width - 1)
    yield PPU.DATA_CUBE_OUT_HEIGHT(cube_out_height=tile.output_height - 1)
    yield PPU.DATA_CUBE_OUT_CHANNEL(cube_out_channel=tile.channels - 1)
    yield PPU.OPERATION_MODE_CFG(flying_mode=1, pooling_method=MAXIMUM)
    yield PPU.POOLING_KERNEL_CFG(
        kernel_height=layer.kernel[0] - 1,
        kernel_width=layer.kernel[1] - 1,
        kernel_stride_height=layer.stride[0] - 1,
        kernel_stride_width=layer.stride[1] - 1,
    )
    yield PPU.RECIP_KERNEL_WIDTH()
    yield PPU.RECIP_KERNEL_HEIGHT()
    yield PPU.POOLING_PADDING_CFG(pad_top=top, pad_bottom=bottom, pad_left=left, pad_right=right)
    yield PPU.PADDING_VALUE_1_CFG(pad_value_0=LEAST)
    yield PPU.PADDING_VALUE_2_CFG()
    yield Address(PPU.DST_BASE_ADDR, tile.output)
    yield PPU.DST_SURF_STRIDE(dst_surf_stride=tile.output_surface)
    yield PPU.DATA_FORMAT(index_add=tile.output_surface)
    yield PPU.MISC_CTRL(burst_len=BURST_4)


def emit_ppu_rdma(tile: PoolTile) -> Iterator[Command]:
    """The registers of PPU_RDMA."""
    yield PPU_RDMA.RDMA_S_POINTER(**PING_PONG)
    yield PPU_RDMA.RDMA_CUBE_IN_WIDTH(cube_in_width=tile.input_width - 1)
    yield PPU_RDMA.RDMA_CUBE_IN_HEIGHT(cube_in_height=tile.input_height - 1)
    yield PPU_RDMA.RDMA_CUBE_IN_CHANNEL(cube_in_channel=tile.channels - 1)
    yield Address(PPU_RDMA.RDMA_SRC_BASE_ADDR, tile.source)
    yield PPU_RDMA.RDMA_SRC_LINE_STRIDE(src_line_stride=tile.input_pitch)
    yield PPU_RDMA.RDMA_SRC_SURF_STRIDE(src_surf_stride=tile.source_surface)
    yield PPU_RDMA.RDMA_DATA_FORMAT(in_precision=READ_INT8)
