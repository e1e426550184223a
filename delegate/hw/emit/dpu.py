"""DPU: bias, ReLU, output converter, and the write of the output cube."""

from __future__ import annotations

from collections.abc import Iterator

from delegate.hw.emit.stream import PING_PONG, Address, Command
from delegate.hw.regs import DPU
from delegate.ir import ConvTile

ADD = 2  # code of the ALUs
MULTIPLY = 1  # type of the element-wise operation
FROM_MEMORY = 1
ADD_FIRST, PER_PIXEL, EIGHT_BITS = 1, 1, 1  # of the element-wise operand
TO_MEMORY = 2
BURST_16 = 15
DEPTHWISE_MODE = 3
SURFACES_PER_GROUP = {
    False: 2,
    True: 4,
}  # 16-byte surfaces of a kernel group of 32, of a depthwise group of 64 (npu.md §5.6)
EW_OPERANDS = [getattr(DPU, f"EW_OP_VALUE_{lane}") for lane in range(8)]


def emit_dpu(tile: ConvTile) -> Iterator[Command]:
    """The registers of the DPU; a stage that is not used is bypassed, and its registers are written 0."""
    layer = tile.layer
    yield DPU.S_POINTER(**PING_PONG)
    yield DPU.FEATURE_MODE_CFG(
        burst_len=BURST_16, conv_mode=DEPTHWISE_MODE if layer.depthwise else 0, output_mode=TO_MEMORY
    )
    # int8 in, int8 arithmetic, int8 out; negative products have shifts of their own (S-22)
    run = tile.requantize
    yield DPU.DATA_FORMAT(bs_mul_shift_value_neg=run.channel_shift, bn_mul_shift_value_neg=run.norm_shift)
    yield DPU.OFFSET_PEND()
    yield Address(DPU.DST_BASE_ADDR, tile.output)
    yield DPU.DST_SURF_STRIDE(dst_surf_stride=tile.output_surface)
    yield DPU.DATA_CUBE_WIDTH(width=tile.output_width - 1)
    yield DPU.DATA_CUBE_HEIGHT(height=tile.output_height - 1)
    yield DPU.DATA_CUBE_NOTCH_ADDR(notch_addr_0=tile.output_skip, notch_addr_1=tile.output_skip)
    yield DPU.DATA_CUBE_CHANNEL(orig_channel=tile.output_channels_real - 1, channel=tile.output_channels - 1)
    yield from emit_bias_stage(tile)
    yield DPU.WDMA_SIZE_0(channel_wdma=tile.output_channels - 1)
    yield DPU.WDMA_SIZE_1(height_wdma=tile.output_height - 1, width_wdma=tile.output_width - 1)
    multiplies, adds = run.norm_multiplier is not None, run.norm_addend != 0
    yield DPU.BN_CFG(
        bn_alu_algo=ADD if adds else 0,
        bn_relu_bypass=1,
        bn_mul_bypass=not multiplies,
        bn_alu_bypass=not adds,
        bn_bypass=not (multiplies or adds),
    )
    yield DPU.BN_ALU_CFG(bn_alu_operand=run.norm_addend)
    yield DPU.BN_MUL_CFG(bn_mul_operand=run.norm_multiplier or 0, bn_mul_shift_value=run.norm_shift)
    yield DPU.BN_RELUX_CMP_VALUE()
    yield from emit_elementwise_stage(tile)
    yield DPU.OUT_CVT_OFFSET(out_cvt_offset=run.offset)
    yield DPU.OUT_CVT_SCALE(out_cvt_scale=run.multiplier)
    yield DPU.OUT_CVT_SHIFT(out_cvt_shift=run.shift, cvt_round=run.half_away)
    yield from (register() for register in EW_OPERANDS)
    yield DPU.SURFACE_ADD(surf_add=SURFACES_PER_GROUP[layer.depthwise] * tile.output_surface)
    yield DPU.UNDOC_40C4()
    yield from emit_no_table()


def emit_bias_stage(tile: ConvTile) -> Iterator[Command]:
    """BS: adds the bias from memory, multiplies, clamps; OW adds -zw * (sum of the window) before that (S-25).

    ReLU and ReLU-X of BS are proven in fp16 (S-155) and known from the TRM for integers; they are on only where the
    converter's own saturation does not do (npu.md §5.3).
    """
    layer, run = tile.layer, tile.requantize
    multiplies = run.channel_multiplier is not None
    yield DPU.BS_CFG(
        bs_alu_algo=ADD,
        bs_alu_src=FROM_MEMORY,
        bs_relux_en=run.relu_limit is not None,
        bs_relu_bypass=not run.relu,
        bs_mul_bypass=not multiplies,
    )
    yield DPU.BS_ALU_CFG()
    yield DPU.BS_MUL_CFG(bs_mul_shift_value=run.channel_shift, bs_mul_src=FROM_MEMORY if multiplies else 0)
    yield DPU.BS_RELUX_CMP_VALUE(bs_relux_cmp_dat=run.relu_limit or 0)
    size_e = SURFACES_PER_GROUP[layer.depthwise] - 1
    yield DPU.BS_OW_CFG(size_e_2=size_e, size_e_1=size_e, size_e_0=size_e)
    yield DPU.BS_OW_OP(ow_op=-layer.weight_zero_point)


def emit_elementwise_stage(tile: ConvTile) -> Iterator[Command]:
    """EW: bypassed, or adds 8-bit numbers that its converter brings to the accumulator's scale (npu.md §5.4a).

    Or it multiplies by a gain a channel, the converter being bypassed: so is the word for products of fp16 behind a
    convolution (S-110), which hang otherwise (S-109).
    """
    addend = tile.layer.addend
    if tile.gain is not None:
        yield DPU.EW_CFG(
            edata_size=EIGHT_BITS,
            ew_relu_bypass=1,
            ew_op_cvt_bypass=1,
            ew_lut_bypass=1,
            ew_op_src=FROM_MEMORY,
            ew_op_type=MULTIPLY,
        )
        yield DPU.EW_CVT_OFFSET_VALUE()
        yield DPU.EW_CVT_SCALE_VALUE(ew_op_cvt_scale=1)
    elif addend is None:
        yield from emit_no_elementwise()
    else:
        yield DPU.EW_CFG(
            ew_cvt_type=ADD_FIRST,
            ew_data_mode=PER_PIXEL,
            edata_size=EIGHT_BITS,
            ew_alu_algo=ADD,
            ew_relu_bypass=1,
            ew_lut_bypass=1,
            ew_op_src=FROM_MEMORY,
        )
        yield DPU.EW_CVT_OFFSET_VALUE(ew_op_cvt_offset=addend.offset)
        yield DPU.EW_CVT_SCALE_VALUE(ew_op_cvt_shift=addend.shift, ew_op_cvt_scale=addend.multiplier)
    yield DPU.EW_RELUX_CMP_VALUE()


def emit_no_elementwise() -> Iterator[Command]:
    """EW bypassed, its converter the identity."""
    yield DPU.EW_CFG(ew_relu_bypass=1, ew_op_cvt_bypass=1, ew_lut_bypass=1, ew_op_bypass=1, ew_bypass=1)
    yield DPU.EW_CVT_OFFSET_VALUE()
    yield DPU.EW_CVT_SCALE_VALUE(ew_op_cvt_scale=1)


def emit_no_table() -> Iterator[Command]:
    """All registers of the lookup table written 0 (npu.md §12)."""
    yield DPU.LUT_ACCESS_CFG()
    yield DPU.LUT_ACCESS_DATA()
    yield DPU.LUT_CFG()
    yield DPU.LUT_INFO()
    yield DPU.LUT_LE_START()
    yield DPU.LUT_LE_END()
    yield DPU.LUT_LO_START()
    yield DPU.LUT_LO_END()
    yield DPU.LUT_LE_SLOPE_SCALE()
    yield DPU.LUT_LE_SLOPE_SHIFT()
    yield DPU.LUT_LO_SLOPE_SCALE()
    yield DPU.LUT_LO_SLOPE_SHIFT()
