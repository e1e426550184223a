"""Registers of the block DPU. Per-element post-processor and write DMA (NVDLA SDP): BS, BN, EW, LUT, output converter.

Source: the hardware book's registers.json (TRM names, bit ranges from the TRM and Mesa's register list).
"""

from __future__ import annotations

from delegate.hw.registers import Bits, Block, Register, bit


class DPU(Block, target=0x1001):
    # status_1: State of register group 1. 0 idle, 1 busy, 2 busy, other group queued.
    # status_0: State of register group 0. 0 idle, 1 busy, 2 busy, other group queued.
    S_STATUS = Register(0x4000, status_1=Bits(17, 16), status_0=Bits(1, 0))
    # executer: Read only: group the datapath is using.
    # executer_pp_clear: Write 1: executer pointer back to group 0.
    # pointer_pp_clear: Write 1: write pointer back to group 0.
    # pointer_pp_mode: What toggles the write pointer. 0 follows executer, 1 toggles by itself.
    # executer_pp_en: Executer alternates groups.
    # pointer_pp_en: Write pointer alternates groups.
    # pointer: Group that receives register writes.
    S_POINTER = Register(
        0x4004,
        executer=bit(16),
        executer_pp_clear=bit(5),
        pointer_pp_clear=bit(4),
        pointer_pp_mode=bit(3),
        executer_pp_en=bit(2),
        pointer_pp_en=bit(1),
        pointer=bit(0),
    )
    # op_en: Start the block with the currently selected group (shadowed register).
    OPERATION_ENABLE = Register(0x4008, op_en=bit(0))
    # comb_use: DPU: mirrors bit 0 of the RDMA field. DPU_RDMA: [0] MRDMA and ERDMA share one read, [1] route to
    #   MRDMA, [2] route to ERDMA; 5 = residual add.
    # tp_en: Transposed write.
    # rgp_type: Regroup width. 0 none, 1 4 bit, 2 8 bit, 3 16 bit, 4 32 bit, 5 64 bit.
    # nonalign: Write pixels back to back instead of 16-byte atoms.
    # surf_len: Non-align mode: 8-byte units to write.
    # burst_len: AXI burst. 3 burst 4, 7 burst 8, 15 burst 16.
    # conv_mode: Convolution type seen by this block. 0 direct, 3 depthwise.
    # output_mode: Destination bitmap. 1 to PPU, 2 to memory, 3 both.
    # flying_mode: Main data source. 0 convolution, 1 MRDMA.
    FEATURE_MODE_CFG = Register(
        0x400C,
        comb_use=bit(31),
        tp_en=bit(30),
        rgp_type=Bits(29, 26),
        nonalign=bit(25),
        surf_len=Bits(24, 9),
        burst_len=Bits(8, 5),
        conv_mode=Bits(4, 3),
        output_mode=Bits(2, 1),
        flying_mode=bit(0),
    )
    # out_precision: Stored output type. 0 int8, 1 int16, 2 fp16, 3 bf16, 4 int32, 5 fp32, 6 int4.
    # in_precision: Type of data entering the DPU, equal to DPU_RDMA IN_PRECISION. 0 int8, 1 int16, 2 fp16, 3
    #   bf16, 4 int32, 5 fp32, 6 int4.
    # ew_truncate_neg: EW shift for negative products.
    # bn_mul_shift_value_neg: BN shift for negative products.
    # bs_mul_shift_value_neg: BS shift for negative products.
    # mc_surf_out: Serial output of 2 or 4 surfaces.
    # proc_precision: DPU arithmetic type. 0 int8, 1 int16, 2 fp16, 3 bf16, 4 int32, 5 fp32, 6 int4.
    DATA_FORMAT = Register(
        0x4010,
        out_precision=Bits(31, 29),
        in_precision=Bits(28, 26),
        ew_truncate_neg=Bits(25, 16),
        bn_mul_shift_value_neg=Bits(15, 10),
        bs_mul_shift_value_neg=Bits(9, 4),
        mc_surf_out=bit(3),
        proc_precision=Bits(2, 0),
    )
    # offset_pend: Fill value of padded output channels.
    OFFSET_PEND = Register(0x4014, offset_pend=Bits(15, 0))
    # registers.xml 32-bit field; TRM keeps bits 3:0 zero.
    # dst_base_addr: Output IOVA, 16-byte aligned.
    DST_BASE_ADDR = Register(0x4020, address=True, dst_base_addr=Bits(31, 0))
    # dst_surf_stride: Output surface pitch; the register value equals the byte pitch (field in 16-byte units).
    DST_SURF_STRIDE = Register(0x4024, dst_surf_stride=Bits(31, 4))
    # width: Width minus 1.
    DATA_CUBE_WIDTH = Register(0x4030, width=Bits(12, 0))
    # minmax_ctl: [0] enable min/max search, [1] which, [2] probability only.
    # height: Height minus 1.
    DATA_CUBE_HEIGHT = Register(0x4034, minmax_ctl=Bits(24, 22), height=Bits(12, 0))
    # notch_addr_1: Second notch; must equal NOTCH_ADDR_0 in row-major writing.
    # notch_addr_0: Pixels to skip at line end (row-major writing).
    DATA_CUBE_NOTCH_ADDR = Register(0x4038, notch_addr_1=Bits(28, 16), notch_addr_0=Bits(12, 0))
    # orig_channel: Real output channels minus 1.
    # channel: Padded channels minus 1.
    DATA_CUBE_CHANNEL = Register(0x403C, orig_channel=Bits(28, 16), channel=Bits(12, 0))
    # bs_alu_algo: BS ALU operation. 2 add, 4 minus.
    # bs_alu_src: ALU operand. 0 register, 1 BRDMA.
    # bs_relux_en: Clamp ReLU at the compare value.
    # bs_relu_bypass: ReLU stage. 0 active, 1 bypassed.
    # bs_mul_prelu: Multiply only negative values.
    # bs_mul_bypass: Multiplier stage. 0 active, 1 bypassed.
    # bs_alu_bypass: ALU stage. 0 active, 1 bypassed.
    # bs_bypass: Whole BS unit. 0 active, 1 bypassed.
    BS_CFG = Register(
        0x4040,
        bs_alu_algo=Bits(19, 16),
        bs_alu_src=bit(8),
        bs_relux_en=bit(7),
        bs_relu_bypass=bit(6),
        bs_mul_prelu=bit(5),
        bs_mul_bypass=bit(4),
        bs_alu_bypass=bit(1),
        bs_bypass=bit(0),
    )
    # bs_alu_operand: Constant ALU operand (int32 or fp32 bits).
    BS_ALU_CFG = Register(0x4044, bs_alu_operand=Bits(31, 0))
    # bs_mul_operand: Constant multiplier (int16 or fp16 bits).
    # bs_mul_shift_value: Right shift of non-negative products.
    # bs_truncate_src: Shift source. 0 register, 1 BRDMA.
    # bs_mul_src: Multiplier source. 0 register, 1 BRDMA.
    BS_MUL_CFG = Register(
        0x4048, bs_mul_operand=Bits(31, 16), bs_mul_shift_value=Bits(13, 8), bs_truncate_src=bit(1), bs_mul_src=bit(0)
    )
    # bs_relux_cmp_dat: Upper clamp of ReLU-X.
    BS_RELUX_CMP_VALUE = Register(0x404C, bs_relux_cmp_dat=Bits(31, 0))
    # rgp_cnter: Regroup decimation. 0 all, 1 1 of 2, 2 1 of 4, 3 1 of 8.
    # tp_org_en: Original transpose mode.
    # size_e_2: Number of 16-byte output surfaces per kernel group minus 1, last group (TRM: 8-channel units).
    # size_e_1: Number of 16-byte output surfaces per kernel group minus 1, middle group (TRM: 8-channel units).
    # size_e_0: Number of 16-byte output surfaces per kernel group minus 1, first group (TRM: 8-channel units).
    # od_bypass: CPEND stage. 0 active, 1 bypassed.
    # ow_src: CPEND operand. 0 register OW_OP, 1 BRDMA.
    BS_OW_CFG = Register(
        0x4050,
        rgp_cnter=Bits(31, 28),
        tp_org_en=bit(27),
        size_e_2=Bits(10, 8),
        size_e_1=Bits(7, 5),
        size_e_0=Bits(4, 2),
        od_bypass=bit(1),
        ow_src=bit(0),
    )
    # ow_op: CPEND operand, signed 16: output += OW_OP * sum(input window); 0x80 - weight zero point in uint8
    #   terms.
    BS_OW_OP = Register(0x4054, ow_op=Bits(15, 0, signed=True))
    # tp_precision: Transpose element. 0 8 bit, 1 16 bit.
    # size_c_wdma: Transpose mode channel size.
    # channel_wdma: Channels written minus 1.
    WDMA_SIZE_0 = Register(0x4058, tp_precision=bit(27), size_c_wdma=Bits(26, 16), channel_wdma=Bits(12, 0))
    # height_wdma: Rows written minus 1.
    # width_wdma: Width written minus 1.
    WDMA_SIZE_1 = Register(0x405C, height_wdma=Bits(28, 16), width_wdma=Bits(12, 0))
    # bn_alu_algo: BN ALU operation. 2 add, 4 minus.
    # bn_alu_src: ALU operand. 0 register, 1 NRDMA.
    # bn_relux_en: Clamp ReLU at the compare value.
    # bn_relu_bypass: ReLU stage. 0 active, 1 bypassed.
    # bn_mul_prelu: Multiply only negative values.
    # bn_mul_bypass: Multiplier stage. 0 active, 1 bypassed.
    # bn_alu_bypass: ALU stage. 0 active, 1 bypassed.
    # bn_bypass: Whole BN unit. 0 active, 1 bypassed.
    BN_CFG = Register(
        0x4060,
        bn_alu_algo=Bits(19, 16),
        bn_alu_src=bit(8),
        bn_relux_en=bit(7),
        bn_relu_bypass=bit(6),
        bn_mul_prelu=bit(5),
        bn_mul_bypass=bit(4),
        bn_alu_bypass=bit(1),
        bn_bypass=bit(0),
    )
    # bn_alu_operand: Constant ALU operand (int32 or fp32 bits).
    BN_ALU_CFG = Register(0x4064, bn_alu_operand=Bits(31, 0))
    # bn_mul_operand: Constant multiplier (int16 or fp16 bits).
    # bn_mul_shift_value: Right shift of non-negative products.
    # bn_truncate_src: Shift source. 0 register, 1 NRDMA.
    # bn_mul_src: Multiplier source. 0 register, 1 NRDMA.
    BN_MUL_CFG = Register(
        0x4068, bn_mul_operand=Bits(31, 16), bn_mul_shift_value=Bits(13, 8), bn_truncate_src=bit(1), bn_mul_src=bit(0)
    )
    # bn_relux_cmp_dat: Upper clamp of ReLU-X.
    BN_RELUX_CMP_VALUE = Register(0x406C, bn_relux_cmp_dat=Bits(31, 0))
    # ew_cvt_type: EW operand converter order. 0 multiply first, 1 add first.
    # ew_cvt_round: EW operand converter tie rule. 0 ties to even, 1 ties away from zero (TRM: always carry).
    # ew_data_mode: Operand shape. 0 per channel, 1 per pixel.
    # edata_size: Operand width. 0 4 bit, 1 8 bit, 2 16 bit, 3 32 bit.
    # ew_equal_en: Keep the selected operand value in max/min.
    # ew_binary_en: Binary result of compare.
    # ew_alu_algo: EW ALU operation. 0 max, 1 min, 2 add, 3 div, 4 minus, 5 abs, 6 neg, 7 floor, 8 ceil.
    # ew_relux_en: Clamp at EW compare value.
    # ew_relu_bypass: EW ReLU. 0 active, 1 bypassed.
    # ew_op_cvt_bypass: EW operand converter. 0 active, 1 bypassed.
    # ew_lut_bypass: LUT. 0 active, 1 bypassed.
    # ew_op_src: EW operand. 0 register, 1 ERDMA.
    # ew_mul_prelu: Multiply only negatives.
    # ew_op_type: EW operation. 0 ALU, 1 multiply.
    # ew_op_bypass: EW ALU/MUL. 0 active, 1 bypassed.
    # ew_bypass: Whole EW unit. 0 active, 1 bypassed.
    EW_CFG = Register(
        0x4070,
        ew_cvt_type=bit(31),
        ew_cvt_round=bit(30),
        ew_data_mode=Bits(29, 28),
        edata_size=Bits(23, 22),
        ew_equal_en=bit(21),
        ew_binary_en=bit(20),
        ew_alu_algo=Bits(19, 16),
        ew_relux_en=bit(10),
        ew_relu_bypass=bit(9),
        ew_op_cvt_bypass=bit(8),
        ew_lut_bypass=bit(7),
        ew_op_src=bit(6),
        ew_mul_prelu=bit(5),
        ew_op_type=bit(2),
        ew_op_bypass=bit(1),
        ew_bypass=bit(0),
    )
    # ew_op_cvt_offset: EW operand converter addend.
    EW_CVT_OFFSET_VALUE = Register(0x4074, ew_op_cvt_offset=Bits(31, 0, signed=True))
    # ew_truncate: Right shift after EW op.
    # ew_op_cvt_shift: EW operand converter shift.
    # ew_op_cvt_scale: EW operand converter multiplier.
    EW_CVT_SCALE_VALUE = Register(
        0x4078, ew_truncate=Bits(31, 22), ew_op_cvt_shift=Bits(21, 16), ew_op_cvt_scale=Bits(15, 0)
    )
    # ew_relux_cmp_dat: EW clamp value.
    EW_RELUX_CMP_VALUE = Register(0x407C, ew_relux_cmp_dat=Bits(31, 0))
    # out_cvt_offset: Signed 32-bit offset added after scale and shift on the integer path (output zero point).
    OUT_CVT_OFFSET = Register(0x4080, out_cvt_offset=Bits(31, 0, signed=True))
    # fp32tofp16_en: Narrow fp32 result to fp16.
    # out_cvt_scale: Signed 16-bit multiplier.
    OUT_CVT_SCALE = Register(0x4084, fp32tofp16_en=bit(16), out_cvt_scale=Bits(15, 0, signed=True))
    # cvt_type: Output converter order. 0 multiply first, 1 add first.
    # cvt_round: Tie rule of the integer shift. 0 ties to even, 1 ties away from zero (TRM: always carry).
    # minus_exp: Float path: multiply result by 2^-MINUS_EXP.
    # out_cvt_shift: Integer right shift (effective bits [5:0]).
    OUT_CVT_SHIFT = Register(
        0x4088, cvt_type=bit(31), cvt_round=bit(30), minus_exp=Bits(19, 12), out_cvt_shift=Bits(11, 0)
    )
    # ew_operand_0: Constant EW operand, lane 0.
    EW_OP_VALUE_0 = Register(0x4090, ew_operand_0=Bits(31, 0))
    # ew_operand_1: Constant EW operand, lane 1.
    EW_OP_VALUE_1 = Register(0x4094, ew_operand_1=Bits(31, 0))
    # ew_operand_2: Constant EW operand, lane 2.
    EW_OP_VALUE_2 = Register(0x4098, ew_operand_2=Bits(31, 0))
    # ew_operand_3: Constant EW operand, lane 3.
    EW_OP_VALUE_3 = Register(0x409C, ew_operand_3=Bits(31, 0))
    # ew_operand_4: Constant EW operand, lane 4.
    EW_OP_VALUE_4 = Register(0x40A0, ew_operand_4=Bits(31, 0))
    # ew_operand_5: Constant EW operand, lane 5.
    EW_OP_VALUE_5 = Register(0x40A4, ew_operand_5=Bits(31, 0))
    # ew_operand_6: Constant EW operand, lane 6.
    EW_OP_VALUE_6 = Register(0x40A8, ew_operand_6=Bits(31, 0))
    # ew_operand_7: Constant EW operand, lane 7.
    EW_OP_VALUE_7 = Register(0x40AC, ew_operand_7=Bits(31, 0))
    # surf_add: 16-byte units the write pointer advances per kernel group: surfaces_per_group * surface pitch.
    SURFACE_ADD = Register(0x40C0, surf_add=Bits(31, 4))
    # Undocumented; all known programs write 0.
    # value: Undocumented; all known programs write 0.
    UNDOC_40C4 = Register(0x40C4, value=Bits(31, 0))
    # lut_access_type: Access. 0 read, 1 write.
    # lut_table_id: Table. 0 LE, 1 LO.
    # lut_addr: Start entry; auto increments.
    LUT_ACCESS_CFG = Register(0x4100, lut_access_type=bit(17), lut_table_id=bit(16), lut_addr=Bits(9, 0))
    # lut_access_data: 16-bit entry.
    LUT_ACCESS_DATA = Register(0x4104, lut_access_data=Bits(15, 0))
    # lut_cal_sel: Used with LUT_EXPAND_EN.
    # lut_hybrid_priority: Table chosen when both hit or mixed miss. 0 LE, 1 LO.
    # lut_oflow_priority: Table chosen when both overflow. 0 LE, 1 LO.
    # lut_uflow_priority: Table chosen when both underflow. 0 LE, 1 LO.
    # lut_lo_le_mux: LE/LO multiplexing; sign-hybrid use writes 2.
    # lut_expand_en: Chain both tables into one.
    # lut_road_sel: LUT lane select.
    LUT_CFG = Register(
        0x4108,
        lut_cal_sel=bit(7),
        lut_hybrid_priority=bit(6),
        lut_oflow_priority=bit(5),
        lut_uflow_priority=bit(4),
        lut_lo_le_mux=Bits(3, 2),
        lut_expand_en=bit(1),
        lut_road_sel=bit(0),
    )
    # lut_lo_index_select: log2 of index units per LO entry.
    # lut_le_index_select: log2 of index units per LE entry.
    LUT_INFO = Register(0x410C, lut_lo_index_select=Bits(23, 16), lut_le_index_select=Bits(15, 8))
    # lut_le_start: First index covered by LE (int32/fp32 as pipeline).
    LUT_LE_START = Register(0x4110, lut_le_start=Bits(31, 0))
    # lut_le_end: Last index covered by LE.
    LUT_LE_END = Register(0x4114, lut_le_end=Bits(31, 0))
    # lut_lo_start: First index covered by LO (int32/fp32 as pipeline).
    LUT_LO_START = Register(0x4118, lut_lo_start=Bits(31, 0))
    # lut_lo_end: Last index covered by LO.
    LUT_LO_END = Register(0x411C, lut_lo_end=Bits(31, 0))
    # lut_le_slope_oflow_scale: Extrapolation slope multiplier on oflow.
    # lut_le_slope_uflow_scale: Extrapolation slope multiplier on uflow.
    LUT_LE_SLOPE_SCALE = Register(0x4120, lut_le_slope_oflow_scale=Bits(31, 16), lut_le_slope_uflow_scale=Bits(15, 0))
    # lut_le_slope_oflow_shift: Extrapolation slope shift (signed 5 bit) on oflow.
    # lut_le_slope_uflow_shift: Extrapolation slope shift (signed 5 bit) on uflow.
    LUT_LE_SLOPE_SHIFT = Register(0x4124, lut_le_slope_oflow_shift=Bits(9, 5), lut_le_slope_uflow_shift=Bits(4, 0))
    # lut_lo_slope_oflow_scale: Extrapolation slope multiplier on oflow.
    # lut_lo_slope_uflow_scale: Extrapolation slope multiplier on uflow.
    LUT_LO_SLOPE_SCALE = Register(0x4128, lut_lo_slope_oflow_scale=Bits(31, 16), lut_lo_slope_uflow_scale=Bits(15, 0))
    # lut_lo_slope_oflow_shift: Extrapolation slope shift (signed 5 bit) on oflow.
    # lut_lo_slope_uflow_shift: Extrapolation slope shift (signed 5 bit) on uflow.
    LUT_LO_SLOPE_SHIFT = Register(0x412C, lut_lo_slope_oflow_shift=Bits(9, 5), lut_lo_slope_uflow_shift=Bits(4, 0))
