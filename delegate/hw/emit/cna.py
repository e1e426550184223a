"""CNA: fetch of features and weights into the CBUF, padding, and the walk of the window."""

from __future__ import annotations

from collections.abc import Iterator

from delegate.hw.emit.stream import Address, Command
from delegate.hw.layout import divide_up
from delegate.hw.regs import CNA
from delegate.hw.soc import RK3588
from delegate.hw.task import Place
from delegate.ir import ConvTile

DEPTHWISE_MODE = 3
BURST_16 = 15
# Rows fetched ahead of the MACs; a hint, generous as in all programs proven for 8 bits (S-83, S-183, S-186).
GRAINS = 50
DCOMP_AMOUNTS = [getattr(CNA, f"DCOMP_AMOUNT{index}") for index in range(16)]


def data_entries(width: int, channels: int) -> int:
    """CBUF entries of 64 bytes that one row of features takes (S-46, S-182)."""
    return divide_up(width * divide_up(channels, RK3588.atom_bytes) * RK3588.atom_bytes, RK3588.cbuf_line_unit_bytes)


def emit_cna(tile: ConvTile) -> Iterator[Command]:
    """The registers of CNA; sizes are true here."""
    layer = tile.layer
    _, kernel_height, kernel_width, _ = layer.weight.shape
    stride_y, stride_x = layer.stride
    kernels = 1 if layer.depthwise else tile.output_channels
    yield CNA.CONV_CON1(conv_mode=DEPTHWISE_MODE if layer.depthwise else 0)
    yield CNA.CONV_CON2(feature_grains=GRAINS + stride_y + 1)
    yield CNA.CONV_CON3(
        atrous_y_dilation=layer.dilation[0] - 1,
        atrous_x_dilation=layer.dilation[1] - 1,
        conv_y_stride=stride_y,
        conv_x_stride=stride_x,
    )
    yield CNA.DATA_SIZE0(datain_width=tile.input_width, datain_height=tile.input_height)
    yield CNA.DATA_SIZE1(datain_channel_real=tile.input_channels_real - 1, datain_channel=tile.input_channels)
    yield CNA.DATA_SIZE2(dataout_width=tile.output_width)
    yield CNA.DATA_SIZE3(dataout_atomics=tile.output_width * tile.output_height)
    yield CNA.WEIGHT_SIZE0(weight_bytes=tile.kernel_bytes * kernels)
    yield CNA.WEIGHT_SIZE1(weight_bytes_per_kernel=tile.kernel_bytes)
    yield CNA.WEIGHT_SIZE2(weight_width=kernel_width, weight_height=kernel_height, weight_kernels=kernels)
    yield CNA.CBUF_CON0(weight_reuse=tile.weights_resident, weight_bank=tile.weight_banks, data_bank=tile.feature_banks)
    yield CNA.CBUF_CON1(data_entries=data_entries(tile.input_width, tile.input_channels))
    yield from emit_no_conversion()
    yield CNA.PAD_CON0(pad_left=layer.padding[2], pad_top=tile.padding_top)
    yield Address(CNA.FEATURE_DATA_ADDR, tile.feature)
    yield CNA.FC_CON2()
    yield CNA.DMA_CON0(weight_burst_len=BURST_16, data_burst_len=BURST_16)
    # Lines are fetched four at a time; the jump to the next surface counts from four widths on (npu.md §3.2).
    yield CNA.DMA_CON1(line_stride=RK3588.line_group * tile.input_pitch)
    yield CNA.DMA_CON2(surf_stride=tile.input_surface - RK3588.line_group * tile.input_width)
    yield CNA.FC_DATA_SIZE0(dma_width=tile.input_width, dma_height=tile.input_height)
    yield CNA.FC_DATA_SIZE1(dma_channel=tile.input_channels)
    yield from emit_weight_address(tile.weight)
    yield CNA.CVT_CON5()
    # The byte lanes are used one by one, so the value stands in all four (S-36).
    yield CNA.PAD_CON1(pad_value=(layer.input_zero_point & 0xFF) * 0x01010101)


def emit_no_conversion() -> Iterator[Command]:
    """The input converter bypassed, its scales 1 as in all programs that are known; nothing skipped (S-184)."""
    yield CNA.CVT_CON0(data_sign=1, cvt_type=1, cvt_bypass=1)
    yield CNA.CVT_CON1(cvt_scale0=1)
    yield CNA.CVT_CON2(cvt_scale1=1)
    yield CNA.CVT_CON3(cvt_scale2=1)
    yield CNA.CVT_CON4(cvt_scale3=1)
    yield CNA.FC_CON0()
    yield CNA.FC_CON1()


def emit_weight_address(place: Place) -> Iterator[Command]:
    """Where the weights are, and that they are not compressed (npu.md §3.4)."""
    yield CNA.DCOMP_CTRL()
    yield CNA.DCOMP_REGNUM()
    yield Address(CNA.DCOMP_ADDR0, place)
    yield from (register() for register in DCOMP_AMOUNTS)
