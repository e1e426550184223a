"""Registers of the block PPU_RDMA. Read DMA for stand-alone pooling.

Source: the hardware book's registers.json (TRM names, bit ranges from the TRM and Mesa's register list).
"""

from __future__ import annotations

from delegate.hw.registers import Bits, Block, Register, bit


class PPU_RDMA(Block, target=0x8001):
    # status_1: State of register group 1. 0 idle, 1 busy, 2 busy, other group queued.
    # status_0: State of register group 0. 0 idle, 1 busy, 2 busy, other group queued.
    RDMA_S_STATUS = Register(0x7000, status_1=Bits(17, 16), status_0=Bits(1, 0))
    # executer: Read only: group the datapath is using.
    # executer_pp_clear: Write 1: executer pointer back to group 0.
    # pointer_pp_clear: Write 1: write pointer back to group 0.
    # pointer_pp_mode: What toggles the write pointer. 0 follows executer, 1 toggles by itself.
    # executer_pp_en: Executer alternates groups.
    # pointer_pp_en: Write pointer alternates groups.
    # pointer: Group that receives register writes.
    RDMA_S_POINTER = Register(
        0x7004,
        executer=bit(16),
        executer_pp_clear=bit(5),
        pointer_pp_clear=bit(4),
        pointer_pp_mode=bit(3),
        executer_pp_en=bit(2),
        pointer_pp_en=bit(1),
        pointer=bit(0),
    )
    # op_en: Start the block with the currently selected group (shadowed register).
    RDMA_OPERATION_ENABLE = Register(0x7008, op_en=bit(0))
    # cube_in_width: in width minus 1.
    RDMA_CUBE_IN_WIDTH = Register(0x700C, cube_in_width=Bits(12, 0))
    # cube_in_height: in height minus 1.
    RDMA_CUBE_IN_HEIGHT = Register(0x7010, cube_in_height=Bits(12, 0))
    # cube_in_channel: in channel minus 1.
    RDMA_CUBE_IN_CHANNEL = Register(0x7014, cube_in_channel=Bits(12, 0))
    # Written 1 by RK3568 vendor streams.
    # value: Written 1 by RK3568 vendor streams.
    UNDOC_7018 = Register(0x7018, value=Bits(31, 0))
    # src_base_addr: IOVA of the main input.
    RDMA_SRC_BASE_ADDR = Register(0x701C, address=True, src_base_addr=Bits(31, 0))
    # src_line_stride: Input line pitch; register value equals bytes.
    RDMA_SRC_LINE_STRIDE = Register(0x7024, src_line_stride=Bits(31, 4))
    # src_surf_stride: Input surface pitch; register value equals bytes.
    RDMA_SRC_SURF_STRIDE = Register(0x7028, src_surf_stride=Bits(31, 4))
    # Storage width 1 for int8 and 2 for fp16.
    # in_precision: Storage width. 0 4 bit, 1 8 bit, 2 16 bit, 3 32 bit.
    RDMA_DATA_FORMAT = Register(0x7030, in_precision=Bits(1, 0))
    # Written 1 by pooling programs that pass on the chip; no known effect.
    # value: Written 1 by pooling programs that pass on the chip; no known effect.
    UNDOC_7038 = Register(0x7038, value=Bits(31, 0))
