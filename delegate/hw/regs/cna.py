"""Registers of the block CNA. Convolution front end: feature/weight DMA into CBUF, input converter, padding, sequence control.

Source: the hardware book's registers.json (TRM names, bit ranges from the TRM and Mesa's register list).
"""

from __future__ import annotations

from delegate.hw.registers import Bits, Block, Register, bit


class CNA(Block, target=0x0201):
    # status_1: State of register group 1. 0 idle, 1 busy, 2 busy, other group queued.
    # status_0: State of register group 0. 0 idle, 1 busy, 2 busy, other group queued.
    S_STATUS = Register(0x1000, status_1=Bits(17, 16), status_0=Bits(1, 0))
    # Kernel ORs 0x10000000*core_index; command streams must not write this register.
    # executer: Read only: group the datapath is using.
    # executer_pp_clear: Write 1: executer pointer back to group 0.
    # pointer_pp_clear: Write 1: write pointer back to group 0.
    # pointer_pp_mode: What toggles the write pointer. 0 follows executer, 1 toggles by itself.
    # executer_pp_en: Executer alternates groups.
    # pointer_pp_en: Write pointer alternates groups.
    # pointer: Group that receives register writes.
    S_POINTER = Register(
        0x1004,
        executer=bit(16),
        executer_pp_clear=bit(5),
        pointer_pp_clear=bit(4),
        pointer_pp_mode=bit(3),
        executer_pp_en=bit(2),
        pointer_pp_en=bit(1),
        pointer=bit(0),
    )
    # op_en: Start the block with the currently selected group (shadowed register).
    OPERATION_ENABLE = Register(0x1008, op_en=bit(0))
    # nonalign_dma: Continuous (pixel) fetch; set with ARGB_IN.
    # group_line_off: Feature line grouping. 0 lines fetched in groups of 4, 1 one line at a time.
    # deconv: Insert zeros between input pixels (transposed convolution).
    # argb_in: Pixel input mode for 1-4 channel images. 0 feature cube, 8 1 channel, 9 2 channels, 10 3 channels,
    #   11 4 channels.
    # proc_precision: MAC precision. 0 int8, 1 int16, 2 fp16, 3 bf16, 6 int4, 7 tf32.
    # in_precision: Feature/weight precision. 0 int8, 1 int16, 2 fp16, 3 bf16, 6 int4, 7 tf32.
    # conv_mode: Convolution type. 0 direct, 3 depthwise.
    CONV_CON1 = Register(
        0x100C,
        nonalign_dma=bit(30),
        group_line_off=bit(29),
        deconv=bit(16),
        argb_in=Bits(15, 12),
        proc_precision=Bits(9, 7),
        in_precision=Bits(6, 4),
        conv_mode=Bits(3, 0),
    )
    # kernel_group: TRM: number of kernel groups minus 1; every open driver leaves 0. Vendor streams use
    #   [31:28]/[..] bits of this register for schedule hints.
    # feature_grains: Feature rows buffered before the MACs start. TRM: y_stride+kernel_height+1.
    # csc_wo_en: 1 stops weight output to CORE.
    # csc_do_en: 1 stops data output to CORE.
    # cmd_fifo_srst: Debug: reset command FIFO.
    CONV_CON2 = Register(
        0x1010,
        kernel_group=Bits(23, 16),
        feature_grains=Bits(13, 4),
        csc_wo_en=bit(2),
        csc_do_en=bit(1),
        cmd_fifo_srst=bit(0),
    )
    # nn_mode: Multi-core MAC array shape. 0 32x32 (single core), 1 64x32, 2 96x32, 4 32x64, 5 32x96.
    # atrous_y_dilation: Zeros between kernel taps, vertical (dilation-1).
    # atrous_x_dilation: Zeros between kernel taps, horizontal (dilation-1).
    # deconv_y_stride: Upsampling factor minus 1, vertical; only 1,3,7 take effect.
    # deconv_x_stride: Upsampling factor minus 1, horizontal.
    # conv_y_stride: Vertical stride.
    # conv_x_stride: Horizontal stride.
    CONV_CON3 = Register(
        0x1014,
        nn_mode=Bits(30, 28),
        atrous_y_dilation=Bits(25, 21),
        atrous_x_dilation=Bits(20, 16),
        deconv_y_stride=Bits(13, 11),
        deconv_x_stride=Bits(10, 8),
        conv_y_stride=Bits(5, 3),
        conv_x_stride=Bits(2, 0),
    )
    # datain_width: Input width in pixels (plain value).
    # datain_height: Input rows of this task (plain value).
    DATA_SIZE0 = Register(0x1020, datain_width=Bits(26, 16), datain_height=Bits(10, 0))
    # datain_channel_real: Real input channels minus 1.
    # datain_channel: Input channels padded to the CBUF atom multiple.
    DATA_SIZE1 = Register(0x1024, datain_channel_real=Bits(29, 16), datain_channel=Bits(15, 0))
    # dataout_width: CNA: convolution output width (plain). CORE: width minus 1.
    DATA_SIZE2 = Register(0x1028, dataout_width=Bits(10, 0))
    # surf_mode: Surface series. 0 1 surface, 1 1 surface, 2 2 surfaces, 3 4 surfaces.
    # dataout_atomics: Output pixels of the task (width*height).
    DATA_SIZE3 = Register(0x102C, surf_mode=Bits(23, 22), dataout_atomics=Bits(21, 0))
    # weight_bytes: Bytes of weights of the task as stored.
    WEIGHT_SIZE0 = Register(0x1030, weight_bytes=Bits(31, 0))
    # weight_bytes_per_kernel: Bytes of one kernel (kw*kh*padded channels*elem).
    WEIGHT_SIZE1 = Register(0x1034, weight_bytes_per_kernel=Bits(18, 0))
    # weight_width: Kernel width.
    # weight_height: Kernel height.
    # weight_kernels: Kernels in the task; 1 for depthwise.
    WEIGHT_SIZE2 = Register(0x1038, weight_width=Bits(28, 24), weight_height=Bits(20, 16), weight_kernels=Bits(13, 0))
    # TRM text describes 8 banks and 0-based data bank; silicon has 12 banks and both fields are plain counts
    # summing to at most 12.
    # weight_reuse: Use the weights the previous task left in CBUF.
    # data_reuse: Use the feature data the previous task left in CBUF.
    # fc_data_bank: Zero-skip FC bank; must be 0, also for 1x1 matmul.
    # weight_bank: CBUF banks given to weights.
    # data_bank: CBUF banks given to features.
    CBUF_CON0 = Register(
        0x1040,
        weight_reuse=bit(13),
        data_reuse=bit(12),
        fc_data_bank=Bits(10, 8),
        weight_bank=Bits(7, 4),
        data_bank=Bits(3, 0),
    )
    # TRM: 13-bit DATA_ENTRIES; registers.xml: 14 bits.
    # data_entries: CBUF entries of one feature row.
    CBUF_CON1 = Register(0x1044, data_entries=Bits(13, 0))
    # cvt_truncate_3: Right shift of input converter, channel 3.
    # cvt_truncate_2: Right shift of input converter, channel 2.
    # cvt_truncate_1: Right shift of input converter, channel 1.
    # cvt_truncate_0: Right shift of input converter, channel 0.
    # data_sign: Feature data signedness. 0 unsigned, 1 signed.
    # round_type: Input converter tie rule. 0 ties to even, 1 ties away from zero (TRM: always carry).
    # cvt_type: Input converter order. 0 multiply first, 1 add first.
    # cvt_bypass: Input converter. 0 used, 1 bypassed.
    CVT_CON0 = Register(
        0x104C,
        cvt_truncate_3=Bits(27, 22),
        cvt_truncate_2=Bits(21, 16),
        cvt_truncate_1=Bits(15, 10),
        cvt_truncate_0=Bits(9, 4),
        data_sign=bit(3),
        round_type=bit(2),
        cvt_type=bit(1),
        cvt_bypass=bit(0),
    )
    # cvt_scale0: Multiplier of input converter, channel 0.
    # cvt_offset0: Addend of input converter, channel 0 (signed 16).
    CVT_CON1 = Register(0x1050, cvt_scale0=Bits(31, 16), cvt_offset0=Bits(15, 0, signed=True))
    # cvt_scale1: Multiplier of input converter, channel 1.
    # cvt_offset1: Addend of input converter, channel 1 (signed 16).
    CVT_CON2 = Register(0x1054, cvt_scale1=Bits(31, 16), cvt_offset1=Bits(15, 0, signed=True))
    # cvt_scale2: Multiplier of input converter, channel 2.
    # cvt_offset2: Addend of input converter, channel 2 (signed 16).
    CVT_CON3 = Register(0x1058, cvt_scale2=Bits(31, 16), cvt_offset2=Bits(15, 0, signed=True))
    # cvt_scale3: Multiplier of input converter, channel 3.
    # cvt_offset3: Addend of input converter, channel 3 (signed 16).
    CVT_CON4 = Register(0x105C, cvt_scale3=Bits(31, 16), cvt_offset3=Bits(15, 0, signed=True))
    # fc_skip_data: Feature value whose weights are skipped.
    # fc_skip_en: Zero-skipping FC mode.
    FC_CON0 = Register(0x1060, fc_skip_data=Bits(31, 16), fc_skip_en=bit(0))
    # data_offset: FC skip mode feature offset.
    FC_CON1 = Register(0x1064, data_offset=Bits(16, 0))
    # pad_left: Columns of padding on the left (4 bit).
    # pad_top: Rows of padding on top (4 bit). Right/bottom padding follows from the output size.
    PAD_CON0 = Register(0x1068, pad_left=Bits(7, 4), pad_top=Bits(3, 0))
    # feature_base_addr: IOVA of the first feature byte of the task.
    FEATURE_DATA_ADDR = Register(0x1070, address=True, feature_base_addr=Bits(31, 0))
    # weight_offset: FC skip mode weight offset.
    FC_CON2 = Register(0x1074, weight_offset=Bits(16, 0))
    # ov4k_bypass: Do not split bursts crossing 4 KiB.
    # weight_burst_len: AXI burst for weights. 3 burst 4, 7 burst 8, 15 burst 16.
    # data_burst_len: AXI burst for features. 3 burst 4, 7 burst 8, 15 burst 16.
    DMA_CON0 = Register(0x1078, ov4k_bypass=bit(31), weight_burst_len=Bits(19, 16), data_burst_len=Bits(3, 0))
    # line_stride: Stride of one fetch group of lines, 16-byte units (4 lines when line grouping is on).
    DMA_CON1 = Register(0x107C, line_stride=Bits(27, 0))
    # surf_stride: Signed 28-bit jump from the end of a line group to the same group in the next surface, 16-byte
    #   units.
    DMA_CON2 = Register(0x1080, surf_stride=Bits(27, 0, signed=True))
    # DMA_WIDTH is 14 bits although DATAIN_WIDTH is 11.
    # dma_width: Full tensor width used by the feature DMA.
    # dma_height: Rows fetched.
    FC_DATA_SIZE0 = Register(0x1084, dma_width=Bits(29, 16), dma_height=Bits(10, 0))
    # dma_channel: Channels fetched (padded).
    FC_DATA_SIZE1 = Register(0x1088, dma_channel=Bits(15, 0))
    # cbuf_cs_disable_clkgate: 1 keeps CBUF clock on.
    # csc_disable_clkgate: 1 keeps CSC clock on.
    # cna_weight_disable_clkgate: 1 keeps weight loader clock on.
    # cna_feature_disable_clkgate: 1 keeps feature loader clock on.
    CLK_GATE = Register(
        0x1090,
        cbuf_cs_disable_clkgate=bit(4),
        csc_disable_clkgate=bit(2),
        cna_weight_disable_clkgate=bit(1),
        cna_feature_disable_clkgate=bit(0),
    )
    # wt_dec_bypass: Bypass the weight decompressor.
    # decomp_control: Weight decompressor mode; 0 = dense pass-through.
    DCOMP_CTRL = Register(0x1100, wt_dec_bypass=bit(3), decomp_control=Bits(2, 0))
    # dcomp_regnum: Number of compressed weight chunks; 0 for dense.
    DCOMP_REGNUM = Register(0x1104, dcomp_regnum=Bits(31, 0))
    # registers.xml 32-bit field; TRM keeps bits 3:0 zero.
    # decompress_addr0: IOVA of the weights (dense or compressed).
    DCOMP_ADDR0 = Register(0x1110, address=True, decompress_addr0=Bits(31, 0))
    # dcomp_amount0: Compressed byte amount of chunk 0; 0 for dense.
    DCOMP_AMOUNT0 = Register(0x1140, dcomp_amount0=Bits(31, 0))
    DCOMP_AMOUNT1 = Register(0x1144, dcomp_amount1=Bits(31, 0))
    DCOMP_AMOUNT2 = Register(0x1148, dcomp_amount2=Bits(31, 0))
    DCOMP_AMOUNT3 = Register(0x114C, dcomp_amount3=Bits(31, 0))
    DCOMP_AMOUNT4 = Register(0x1150, dcomp_amount4=Bits(31, 0))
    DCOMP_AMOUNT5 = Register(0x1154, dcomp_amount5=Bits(31, 0))
    DCOMP_AMOUNT6 = Register(0x1158, dcomp_amount6=Bits(31, 0))
    DCOMP_AMOUNT7 = Register(0x115C, dcomp_amount7=Bits(31, 0))
    DCOMP_AMOUNT8 = Register(0x1160, dcomp_amount8=Bits(31, 0))
    DCOMP_AMOUNT9 = Register(0x1164, dcomp_amount9=Bits(31, 0))
    DCOMP_AMOUNT10 = Register(0x1168, dcomp_amount10=Bits(31, 0))
    DCOMP_AMOUNT11 = Register(0x116C, dcomp_amount11=Bits(31, 0))
    DCOMP_AMOUNT12 = Register(0x1170, dcomp_amount12=Bits(31, 0))
    DCOMP_AMOUNT13 = Register(0x1174, dcomp_amount13=Bits(31, 0))
    DCOMP_AMOUNT14 = Register(0x1178, dcomp_amount14=Bits(31, 0))
    DCOMP_AMOUNT15 = Register(0x117C, dcomp_amount15=Bits(31, 0))
    # per_channel_cvt_en: Bitmap: converter enable per channel lane.
    CVT_CON5 = Register(0x1180, per_channel_cvt_en=Bits(31, 0))
    # pad_value: Padding value; byte lanes are used separately, replicate the int8 byte (0xNNNNNNNN).
    PAD_CON1 = Register(0x1184, pad_value=Bits(31, 0))
