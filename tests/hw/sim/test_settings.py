"""Values that nobody has tried are refused (F-106 to F-118), and sizes that would take all memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hw.sim.flying import elementwise, pooling
from hw.sim.programs import (
    BIAS,
    FLYING,
    INPUT,
    OUTPUT,
    POOLING,
    WEIGHTS,
    Board,
    Shape,
    change,
    convolution,
    words,
)

from delegate.errors import SimulatorError
from delegate.hw.registers import Register
from delegate.hw.regs import CNA, DPU, DPU_RDMA, PPU, PPU_RDMA

CONVOLUTIONS: list[tuple[Register, dict[str, int], str]] = [
    (CNA.DMA_CON0, {"data_burst_len": 14}, "F-106"),
    (CNA.DMA_CON0, {"weight_burst_len": 0}, "F-106"),
    (CNA.DMA_CON0, {"ov4k_bypass": 1}, "ov4k"),
    (DPU.FEATURE_MODE_CFG, {"burst_len": 1}, "F-106"),
    (DPU_RDMA.RDMA_FEATURE_MODE_CFG, {"burst_len": 2}, "F-106"),
    (DPU_RDMA.RDMA_ERDMA_CFG, {"ov4k_bypass": 1}, "ov4k"),
    (CNA.DCOMP_ADDR0, {"decompress_addr0": WEIGHTS + 8}, "16-byte"),
    (DPU_RDMA.RDMA_BS_BASE_ADDR, {"bs_base_addr": BIAS + 4}, "16-byte"),
    (DPU.OFFSET_PEND, {"offset_pend": 1}, "must be 0"),
    (DPU.UNDOC_40C4, {"value": 1}, "must be 0"),
    (DPU_RDMA.UNDOC_5024, {"value": 31}, "must be 0"),
    (DPU.DATA_FORMAT, {"ew_truncate_neg": 1}, "must be 0"),
    (CNA.CVT_CON0, {"data_sign": 0}, "F-110"),
    (DPU.DST_SURF_STRIDE, {"dst_surf_stride": 63}, "F-112"),
    (DPU.SURFACE_ADD, {"surf_add": 127}, "F-112"),
    (DPU.OUT_CVT_SHIFT, {"out_cvt_shift": 64}, "S-03"),
    (DPU.FEATURE_MODE_CFG, {"conv_mode": 1}, "conv_mode 1"),
    (DPU_RDMA.RDMA_FEATURE_MODE_CFG, {"conv_mode": 2}, "conv_mode 2"),
]
WIDE = convolution(Shape(kernels=64))  # two groups


@pytest.mark.parametrize(("register", "values", "message"), CONVOLUTIONS)
def test_a_convolution_with_an_unknown_setting(register: Register, values: dict[str, int], message: str):
    Board().run(words(WIDE))
    with pytest.raises(SimulatorError, match=message):
        Board().run(words(change(WIDE, register, **values)))


@pytest.mark.parametrize(
    ("register", "values", "message"),
    [
        (DPU_RDMA.RDMA_SRC_BASE_ADDR, {"src_base_addr": INPUT + 2}, "16-byte"),
        (DPU_RDMA.RDMA_EW_BASE_ADDR, {"ew_base_addr": INPUT + 2}, "16-byte"),
        (DPU.DATA_FORMAT, {"proc_precision": 4}, "S-106"),
        (DPU_RDMA.RDMA_FEATURE_MODE_CFG, {"proc_precision": 0}, "S-106|data_size"),
        (DPU_RDMA.RDMA_FEATURE_MODE_CFG, {"mrdma_fp16tofp32_en": 1}, "0 for integers"),
    ],
)
def test_an_operation_with_an_unknown_setting(register: Register, values: dict[str, int], message: str):
    """F-107, F-111, F-114."""
    with pytest.raises(SimulatorError, match=message):
        Board().run(words(change(elementwise(np.int16, "add", 8), register, **values), FLYING))


@pytest.mark.parametrize(
    ("register", "values", "message"),
    [
        (PPU.MISC_CTRL, {"burst_len": 4}, "F-106"),
        (PPU_RDMA.RDMA_SRC_BASE_ADDR, {"src_base_addr": INPUT + 1}, "16-byte"),
    ],
)
def test_pooling_with_an_unknown_setting(register: Register, values: dict[str, int], message: str):
    fields, _ = pooling(np.int8, 1, (6, 6), (2, 2), (2, 2), (0, 0, 0, 0), 16)
    with pytest.raises(SimulatorError, match=message):
        Board().run(words(change(fields, register, **values), POOLING))


def absurd_programs() -> dict[str, tuple[dict[Register, dict[str, int]], int]]:
    """Streams whose sizes would need gigabytes, all of them within their fields."""
    largest = {"width": 8189}, {"height": 8191}
    flying = elementwise(np.int16, "add", 8)
    for block, names in ((DPU, ("DATA_CUBE_WIDTH", "DATA_CUBE_HEIGHT")), (DPU_RDMA, ("RDMA_DATA_CUBE_WIDTH",))):
        for name, values in zip(names, largest, strict=False):
            flying = change(flying, getattr(block, name), **values)
    flying = change(flying, DPU_RDMA.RDMA_DATA_CUBE_HEIGHT, height=8191)
    flying = change(flying, DPU.WDMA_SIZE_1, width_wdma=8189, height_wdma=8191)
    flying = change(flying, DPU.DATA_CUBE_CHANNEL, channel=8191, orig_channel=8191)
    flying = change(flying, DPU.WDMA_SIZE_0, channel_wdma=8191)
    flying = change(flying, DPU_RDMA.RDMA_DATA_CUBE_CHANNEL, channel=8191)
    plane = 8190 * 8192
    flying = change(change(flying, DPU.DST_SURF_STRIDE, dst_surf_stride=plane), DPU.SURFACE_ADD, surf_add=plane)
    flying = change(flying, DPU_RDMA.RDMA_EW_SURF_STRIDE, ew_surf_stride=0)
    pixels = convolution(Shape())
    pixels = change(pixels, CNA.CONV_CON1, argb_in=8, nonalign_dma=1, group_line_off=1)
    pixels = change(change(pixels, CNA.CVT_CON5, per_channel_cvt_en=0xFFFF), CNA.CVT_CON0, cvt_bypass=0, data_sign=0)
    pixels = change(change(pixels, CNA.DATA_SIZE1, datain_channel=65520), CNA.FC_DATA_SIZE1, dma_channel=65520)
    pixels = change(change(pixels, CNA.WEIGHT_SIZE0, weight_bytes=32 * 65520), CNA.CBUF_CON0, weight_bank=11)
    padded = convolution(Shape(8, 8, 32, 32, (1, 1), (7, 7), (0, 0), output=(2, 2)))
    padded = change(padded, CNA.CONV_CON3, atrous_x_dilation=31, atrous_y_dilation=31)
    small, _ = pooling(np.int8, 1, (6, 6), (2, 2), (2, 2), (0, 0, 0, 0), 16)
    for block, names in ((PPU, ("DATA_CUBE_IN",)), (PPU_RDMA, ("RDMA_CUBE_IN",))):
        for name in names:
            small = change(small, getattr(block, f"{name}_HEIGHT"), cube_in_height=8191)
            small = change(small, getattr(block, f"{name}_WIDTH"), cube_in_width=8191)
    small = change(small, PPU_RDMA.RDMA_SRC_LINE_STRIDE, src_line_stride=0)
    return {"flying": (flying, FLYING), "pixels": (pixels, 0x1D), "padded": (padded, 0x1D), "pooling": (small, POOLING)}


@pytest.mark.parametrize("name", ["flying", "pixels", "padded", "pooling"])
def test_absurd_sizes_take_no_memory(name: str):
    """F-113: refused, or run in what the buffers at hand can hold."""
    fields, fire = absurd_programs()[name]
    board = Board()
    tracemalloc.start()
    try:
        board.run(words(fields, fire))
    except SimulatorError as error:
        assert len(str(error)) < 400
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 << 20


def test_output_atoms_in_rows_and_groups_do_not_meet():
    """F-112: a notch of -1 does not exist; rows of one atom may interleave with surfaces (row-major, S-48)."""
    fields = convolution(Shape(8, 1, 32, 32, output=(8, 1)))
    fields = change(fields, DPU.DATA_CUBE_NOTCH_ADDR, notch_addr_0=1, notch_addr_1=1)
    fields = change(change(fields, DPU.DST_SURF_STRIDE, dst_surf_stride=1), DPU.SURFACE_ADD, surf_add=2)
    board = Board()
    board.put(BIAS, np.arange(32, dtype=np.int32))
    board.run(words({**fields, DPU.OUT_CVT_SCALE: {"out_cvt_scale": 1}, DPU.OUT_CVT_SHIFT: {}}))
    assert board.buffers[OUTPUT][: 8 * 32].reshape(8, 32).tolist() == [list(range(32))] * 8
    with pytest.raises(SimulatorError, match="F-112"):
        board.run(words(change(fields, DPU.DATA_CUBE_NOTCH_ADDR, notch_addr_0=0, notch_addr_1=0)))
