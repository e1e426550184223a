"""Registers of the block DPU_RDMA. Read DMAs feeding the DPU: MRDMA (main, flying mode), BRDMA, NRDMA, ERDMA.

Source: the hardware book's registers.json (TRM names, bit ranges from the TRM and Mesa's register list).
"""

from __future__ import annotations

from delegate.hw.registers import Bits, Block, Register, bit


class DPU_RDMA(Block, target=0x2001):
    # status_1: State of register group 1. 0 idle, 1 busy, 2 busy, other group queued.
    # status_0: State of register group 0. 0 idle, 1 busy, 2 busy, other group queued.
    RDMA_S_STATUS = Register(0x5000, status_1=Bits(17, 16), status_0=Bits(1, 0))
    # executer: Read only: group the datapath is using.
    # executer_pp_clear: Write 1: executer pointer back to group 0.
    # pointer_pp_clear: Write 1: write pointer back to group 0.
    # pointer_pp_mode: What toggles the write pointer. 0 follows executer, 1 toggles by itself.
    # executer_pp_en: Executer alternates groups.
    # pointer_pp_en: Write pointer alternates groups.
    # pointer: Group that receives register writes.
    RDMA_S_POINTER = Register(
        0x5004,
        executer=bit(16),
        executer_pp_clear=bit(5),
        pointer_pp_clear=bit(4),
        pointer_pp_mode=bit(3),
        executer_pp_en=bit(2),
        pointer_pp_en=bit(1),
        pointer=bit(0),
    )
    # op_en: Start the block with the currently selected group (shadowed register).
    RDMA_OPERATION_ENABLE = Register(0x5008, op_en=bit(0))
    # width: Width minus 1.
    RDMA_DATA_CUBE_WIDTH = Register(0x500C, width=Bits(12, 0))
    # ew_line_notch_addr: Operand line notch.
    # height: Height minus 1.
    RDMA_DATA_CUBE_HEIGHT = Register(0x5010, ew_line_notch_addr=Bits(28, 16), height=Bits(12, 0))
    # channel: Padded channels minus 1.
    RDMA_DATA_CUBE_CHANNEL = Register(0x5014, channel=Bits(12, 0))
    # src_base_addr: IOVA of the main input.
    RDMA_SRC_BASE_ADDR = Register(0x5018, address=True, src_base_addr=Bits(31, 0))
    # brdma_data_use: Operand streams to fetch: [0] ALU, [1] CPEND, [2] MUL, [3] TRT (shift).
    RDMA_BRDMA_CFG = Register(0x501C, brdma_disable=bit(0), brdma_data_use=Bits(4, 1))
    # bs_base_addr: IOVA of BS operands.
    RDMA_BS_BASE_ADDR = Register(0x5020, address=True, bs_base_addr=Bits(31, 0))
    # Undocumented BS stream register, decoded on RK3568/RK3576 only; not written on RK3588.
    # value: Undocumented BS stream register, decoded on RK3568/RK3576 only; not written on RK3588.
    UNDOC_5024 = Register(0x5024, value=Bits(31, 0))
    # nrdma_data_use: Operand streams to fetch: [0] ALU, [2] MUL, [3] TRT.
    RDMA_NRDMA_CFG = Register(0x5028, nrdma_disable=bit(0), nrdma_data_use=Bits(4, 1))
    # bn_base_addr: IOVA of BN operands.
    RDMA_BN_BASE_ADDR = Register(0x502C, address=True, bn_base_addr=Bits(31, 0))
    # erdma_data_mode: Operand shape. 0 per channel, 1 per pixel, 2 per channel by pixel.
    # erdma_surf_mode: Operand surface series. 0 1, 1 2.
    # erdma_nonalign: Packed operand read.
    # erdma_data_size: Operand width. 0 4 bit, 1 8 bit, 2 16 bit, 3 32 bit.
    # ov4k_bypass: Do not split bursts crossing 4 KiB.
    # erdma_disable: 1 = no EW operand read.
    RDMA_ERDMA_CFG = Register(
        0x5034,
        erdma_data_mode=Bits(31, 30),
        erdma_surf_mode=bit(29),
        erdma_nonalign=bit(28),
        erdma_data_size=Bits(3, 2),
        ov4k_bypass=bit(1),
        erdma_disable=bit(0),
    )
    # ew_base_addr: IOVA of EW operand.
    RDMA_EW_BASE_ADDR = Register(0x5038, address=True, ew_base_addr=Bits(31, 0))
    # ew_surf_stride: Operand surface pitch, 16-byte units; 1 for per-channel mode.
    RDMA_EW_SURF_STRIDE = Register(0x5040, ew_surf_stride=Bits(31, 4))
    # in_precision: Type read from memory. 0 int8, 1 int16, 2 fp16, 3 bf16, 4 int32, 5 fp32, 6 int4.
    # burst_len: AXI burst. 3 burst 4, 7 burst 8, 15 burst 16.
    # comb_use: DPU: mirrors bit 0 of the RDMA field. DPU_RDMA: [0] MRDMA and ERDMA share one read, [1] route to
    #   MRDMA, [2] route to ERDMA; 5 = residual add.
    # proc_precision: DPU arithmetic type. 0 int8, 1 int16, 2 fp16, 3 bf16, 4 int32, 5 fp32, 6 int4.
    # mrdma_disable: 1 = no main read; mandatory for a plain convolution.
    # mrdma_fp16tofp32_en: Widen fp16 input to fp32.
    # conv_mode: Convolution type seen by this block. 0 direct, 3 depthwise.
    # flying_mode: Main data source. 0 convolution, 1 MRDMA.
    RDMA_FEATURE_MODE_CFG = Register(
        0x5044,
        in_precision=Bits(17, 15),
        burst_len=Bits(14, 11),
        comb_use=Bits(10, 8),
        proc_precision=Bits(7, 5),
        mrdma_disable=bit(4),
        mrdma_fp16tofp32_en=bit(3),
        conv_mode=Bits(2, 1),
        flying_mode=bit(0),
    )
    # line_notch_addr: Pixels between width and line end.
    # pooling_method: Un-pooling kind. 0 average (also upsampling), 1 max/min.
    # unpooling_en: Un-pooling read mode.
    # kernel_stride_height: kernel stride height minus 1.
    # kernel_stride_width: kernel stride width minus 1.
    # kernel_height: kernel height minus 1.
    # kernel_width: kernel width minus 1.
    RDMA_SRC_DMA_CFG = Register(
        0x5048,
        line_notch_addr=Bits(31, 19),
        pooling_method=bit(13),
        unpooling_en=bit(12),
        kernel_stride_height=Bits(11, 9),
        kernel_stride_width=Bits(8, 6),
        kernel_height=Bits(5, 3),
        kernel_width=Bits(2, 0),
    )
    # surf_notch_addr: Pixels from the end of this slice to the end of the surface (main read).
    RDMA_SURF_NOTCH = Register(0x504C, surf_notch_addr=Bits(31, 4))
    # pad_value: Un-pooling pad value.
    # pad_top: Un-pooling top pad.
    # pad_left: Un-pooling left pad.
    RDMA_PAD_CFG = Register(0x5064, pad_value=Bits(31, 16), pad_top=Bits(6, 4), pad_left=Bits(2, 0))
    # e_weight: Arbiter weight of ERDMA; 1 everywhere.
    # n_weight: Arbiter weight of NRDMA; 1 everywhere.
    # b_weight: Arbiter weight of BRDMA; 1 everywhere.
    # m_weight: Arbiter weight of MRDMA; 1 everywhere.
    RDMA_WEIGHT = Register(
        0x5068, e_weight=Bits(31, 24), n_weight=Bits(23, 16), b_weight=Bits(15, 8), m_weight=Bits(7, 0)
    )
    # ew_surf_notch: Same for the EW operand.
    RDMA_EW_SURF_NOTCH = Register(0x506C, ew_surf_notch=Bits(31, 4))
