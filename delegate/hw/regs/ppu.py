"""Registers of the block PPU. Planar pooling unit (NVDLA PDP) and its write DMA.

Source: the hardware book's registers.json (TRM names, bit ranges from the TRM and Mesa's register list).
"""

from __future__ import annotations

from delegate.hw.registers import Bits, Block, Register, bit


class PPU(Block, target=0x4001):
    # status_1: State of register group 1. 0 idle, 1 busy, 2 busy, other group queued.
    # status_0: State of register group 0. 0 idle, 1 busy, 2 busy, other group queued.
    S_STATUS = Register(0x6000, status_1=Bits(17, 16), status_0=Bits(1, 0))
    # executer: Read only: group the datapath is using.
    # executer_pp_clear: Write 1: executer pointer back to group 0.
    # pointer_pp_clear: Write 1: write pointer back to group 0.
    # pointer_pp_mode: What toggles the write pointer. 0 follows executer, 1 toggles by itself.
    # executer_pp_en: Executer alternates groups.
    # pointer_pp_en: Write pointer alternates groups.
    # pointer: Group that receives register writes.
    S_POINTER = Register(
        0x6004,
        executer=bit(16),
        executer_pp_clear=bit(5),
        pointer_pp_clear=bit(4),
        pointer_pp_mode=bit(3),
        executer_pp_en=bit(2),
        pointer_pp_en=bit(1),
        pointer=bit(0),
    )
    # op_en: Start the block with the currently selected group (shadowed register).
    OPERATION_ENABLE = Register(0x6008, op_en=bit(0))
    # cube_in_width: in width minus 1.
    DATA_CUBE_IN_WIDTH = Register(0x600C, cube_in_width=Bits(12, 0))
    # cube_in_height: in height minus 1.
    DATA_CUBE_IN_HEIGHT = Register(0x6010, cube_in_height=Bits(12, 0))
    # cube_in_channel: in channel minus 1.
    DATA_CUBE_IN_CHANNEL = Register(0x6014, cube_in_channel=Bits(12, 0))
    # cube_out_width: out width minus 1.
    DATA_CUBE_OUT_WIDTH = Register(0x6018, cube_out_width=Bits(12, 0))
    # cube_out_height: out height minus 1.
    DATA_CUBE_OUT_HEIGHT = Register(0x601C, cube_out_height=Bits(12, 0))
    # cube_out_channel: out channel minus 1.
    DATA_CUBE_OUT_CHANNEL = Register(0x6020, cube_out_channel=Bits(12, 0))
    # index_en: Also output the arg position.
    # notch_addr: Pixels from width end to line end.
    # use_cnt: Undocumented.
    # flying_mode: Pooling source. 0 DPU, 1 PPU_RDMA.
    # pooling_method: Pooling kind. 0 average, 1 max, 2 min.
    OPERATION_MODE_CFG = Register(
        0x6024,
        index_en=bit(30),
        notch_addr=Bits(28, 16),
        use_cnt=Bits(7, 5),
        flying_mode=bit(4),
        pooling_method=Bits(1, 0),
    )
    # kernel_stride_height: kernel stride height minus 1.
    # kernel_stride_width: kernel stride width minus 1.
    # kernel_height: kernel height minus 1.
    # kernel_width: kernel width minus 1.
    POOLING_KERNEL_CFG = Register(
        0x6034,
        kernel_stride_height=Bits(23, 20),
        kernel_stride_width=Bits(19, 16),
        kernel_height=Bits(11, 8),
        kernel_width=Bits(3, 0),
    )
    # recip_kernel_width: Reciprocal of kernel width: int8 round-down 65536/k; fp16 path takes fp16 bits of
    #   65536/k.
    RECIP_KERNEL_WIDTH = Register(0x6038, recip_kernel_width=Bits(16, 0))
    # recip_kernel_height: Reciprocal of kernel height, same coding.
    RECIP_KERNEL_HEIGHT = Register(0x603C, recip_kernel_height=Bits(16, 0))
    # Register value: left | top<<4 | right<<8 | bottom<<12.
    # pad_bottom: bottom padding count (3 bit, not minus 1).
    # pad_right: right padding count (3 bit, not minus 1).
    # pad_top: top padding count (3 bit, not minus 1).
    # pad_left: left padding count (3 bit, not minus 1).
    POOLING_PADDING_CFG = Register(
        0x6040, pad_bottom=Bits(14, 12), pad_right=Bits(10, 8), pad_top=Bits(6, 4), pad_left=Bits(2, 0)
    )
    # pad_value_0: Padding value bits [31:0]; int8 max pool 0x0007FF80, fp16 max pool 0xFC00.
    PADDING_VALUE_1_CFG = Register(0x6044, pad_value_0=Bits(31, 0))
    # pad_value_1: Padding value bits [34:32].
    PADDING_VALUE_2_CFG = Register(0x6048, pad_value_1=Bits(2, 0))
    # Further pad value copy, written by RK3568 vendor streams.
    # value: Further pad value copy, written by RK3568 vendor streams.
    UNDOC_604C = Register(0x604C, value=Bits(31, 0))
    # Further pad value copy, written by RK3568 vendor streams.
    # value: Further pad value copy, written by RK3568 vendor streams.
    UNDOC_6050 = Register(0x6050, value=Bits(31, 0))
    # dst_base_addr: Output IOVA, 16-byte aligned.
    DST_BASE_ADDR = Register(0x6070, address=True, dst_base_addr=Bits(31, 4))
    # dst_surf_stride: Output surface pitch; the register value equals the byte pitch (field in 16-byte units).
    DST_SURF_STRIDE = Register(0x607C, dst_surf_stride=Bits(31, 4))
    # index_add: Equal to the destination surface pitch unless INDEX_EN.
    # dpu_flyin: 1 when data come from a DPU that itself reads memory.
    # proc_precision: Pooling arithmetic. 0 int8, 1 int16, 2 fp16.
    DATA_FORMAT = Register(0x6084, index_add=Bits(31, 4), dpu_flyin=bit(3), proc_precision=Bits(2, 0))
    # surf_len: Non-align surface length.
    # mc_surf_out: Multi-surface output.
    # nonalign: Non-align output.
    # burst_len: AXI burst. 3 burst 4, 7 burst 8, 15 burst 16.
    MISC_CTRL = Register(0x60DC, surf_len=Bits(31, 16), mc_surf_out=bit(8), nonalign=bit(7), burst_len=Bits(3, 0))
