"""CNA and CORE: why a field may have no effect; and the fields that only change time."""

from __future__ import annotations

from delegate.hw.regs import CNA, CORE, DPU
from delegate.hw.sim.precision import PRECISIONS
from delegate.hw.sim.registers import TaskRegisters
from delegate.tools.mutate.outcome import Change, Reason
from delegate.tools.mutate.reasons.conditions import (
    both,
    field,
    get,
    is_float,
    negate,
    no_padding,
    one_surface_of_features,
    only_bits,
)


def lane(name: str) -> int:
    """The channel lane of an input converter field; -1 if it belongs to all."""
    digit = name.rpartition(".")[2][-1]
    return int(digit) if digit.isdigit() else -1


def columns_seen(regs: TaskRegisters) -> int:
    """Columns from the first on that windows reach."""
    steps, kernel = regs[CNA.CONV_CON3], get(regs, CNA.WEIGHT_SIZE2, "weight_width")
    reach = (kernel - 1) * (steps["atrous_x_dilation"] + 1) + 1 - get(regs, CNA.PAD_CON0, "pad_left")
    return reach + (get(regs, CNA.DATA_SIZE2, "dataout_width") - 1) * steps["conv_x_stride"]


def unit_converter(regs: TaskRegisters, change: Change) -> bool:
    """The input converter multiplies each lane that is used by 1."""
    lanes = range(get(regs, CNA.CONV_CON1, "argb_in") - 7)
    pairs = [(regs[getattr(CNA, f"CVT_CON{at + 1}")][f"cvt_scale{at}"], at) for at in lanes]
    return all(scale == 1 << get(regs, CNA.CVT_CON0, f"cvt_truncate_{at}") for scale, at in pairs)


def entries(regs: TaskRegisters) -> set[int]:
    """DATA_ENTRIES by the two formulas."""
    width, channels = get(regs, CNA.DATA_SIZE0, "datain_width"), get(regs, CNA.DATA_SIZE1, "datain_channel")
    precision = PRECISIONS[get(regs, CNA.CONV_CON1, "in_precision")]
    atoms = channels // precision.atom
    return {-(-width * count // 4) for count in (atoms, atoms + (atoms % 8 == 3))}


pixels_off = field(CNA.CONV_CON1, "argb_in", 0)
converter_off = field(CNA.CVT_CON0, "cvt_bypass", 1)
HINTS = (
    Reason(("CNA.CONV_CON2.feature_grains",), "a scheduling hint (S-83, S-183, F-42)"),
    Reason(("CNA.DMA_CON0.*_burst_len", "*.RDMA_FEATURE_MODE_CFG.burst_len"), "burst length: time only (§3, F-42)"),
    Reason(("DPU.FEATURE_MODE_CFG.burst_len", "PPU.MISC_CTRL.burst_len"), "burst length: time only (F-42)"),
    Reason(("DPU_RDMA.RDMA_WEIGHT.*",), "weights of the arbiter: time only (F-42)"),
    Reason(("CNA.CLK_GATE.*", "CORE.MISC_CFG.soft_gating", "CORE.UNDOC_3030.*"), "any value, no effect (S-71)"),
    Reason(("CNA.DATA_SIZE1.datain_channel_real",), "the MAC uses DATAIN_CHANNEL (C-18, F-26)"),
    Reason(("*.S_POINTER.executer", "*.RDMA_S_POINTER.executer"), "read only (S-91)"),
)
CNA_REASONS = (
    Reason(
        ("CNA.CONV_CON1.deconv",),
        "both factors are 1: code 0 is forward (S-140)",
        both(field(CNA.CONV_CON3, "deconv_x_stride", 0), field(CNA.CONV_CON3, "deconv_y_stride", 0)),
    ),
    Reason(
        ("CNA.CONV_CON3.deconv_*",),
        "ignored while CONV_CON1.deconv is clear (S-140)",
        field(CNA.CONV_CON1, "deconv", 0),
    ),
    Reason(
        ("CNA.CONV_CON3.deconv_x*",),
        "one column: nothing lies between",
        both(field(CNA.DATA_SIZE0, "datain_width", 1), no_padding),
    ),
    Reason(("CNA.CONV_CON3.atrous_x*",), "the kernel is one column wide", field(CNA.WEIGHT_SIZE2, "weight_width", 1)),
    Reason(("CNA.CONV_CON3.atrous_y*",), "the kernel is one row high", field(CNA.WEIGHT_SIZE2, "weight_height", 1)),
    Reason(("CNA.CONV_CON3.conv_x*",), "the output is one column wide", field(CNA.DATA_SIZE2, "dataout_width", 1)),
    Reason(("CNA.CONV_CON3.conv_y*",), "the output is one row high", field(CORE.DATAOUT_SIZE_0, "dataout_height", 0)),
    Reason(
        ("CNA.CVT_CON[0-4].*",),
        "the input converter is bypassed (§3.3)",
        both(converter_off, lambda r, c: "bypass" not in c.field and "sign" not in c.field),
    ),
    Reason(
        ("CNA.CVT_CON0.data_sign",),
        "int16 runs with either, floats have a sign (F-110)",
        lambda r, c: get(r, CNA.CONV_CON1, "in_precision") not in (0, 6),
    ),
    Reason(
        ("CNA.CVT_CON0.cvt_type", "CNA.CVT_CON0.round_type"),
        "factor 1 << shift: exact in any order (§3.3)",
        unit_converter,
    ),
    Reason(("CNA.CVT_CON*.cvt_scale*",), "the pixels round to the same", negate(converter_off), data=True),
    Reason(("CNA.CVT_CON5.*",), "lanes of pixel input only (§3.3)", pixels_off),
    Reason(
        ("CNA.CVT_CON5.*",),
        "lanes beyond the pixels' channels, or converter bypassed (§3.3)",
        lambda r, c: not (c.old ^ c.new) & (1 << max(get(r, CNA.CONV_CON1, "argb_in") - 7, 0)) - 1,
    ),
    Reason(
        ("CNA.CVT_CON*",),
        "lanes of channels that the pixels have not (§3.3)",
        lambda r, c: 0 < get(r, CNA.CONV_CON1, "argb_in") - 7 <= lane(c.field),
    ),
    Reason(
        ("CNA.CBUF_CON0.*_bank",), "a larger or smaller share that is large enough (§4; too small is refused, F-34)"
    ),
    Reason(
        ("CNA.CBUF_CON0.*_reuse",),
        "fetching what the CBUF holds gives the same (S-75)",
        lambda r, c: (c.old, c.new) == (1, 0),
    ),
    Reason(("CNA.CBUF_CON0.*_reuse",), "the CBUF holds the same kernels or features (S-75)", data=True),
    Reason(
        ("CNA.DCOMP_ADDR0.*",),
        "the kernels of the task before are used (S-75)",
        field(CNA.CBUF_CON0, "weight_reuse", 1),
    ),
    Reason(
        ("CNA.FEATURE_DATA_ADDR.*",),
        "the features of the task before are used (S-75)",
        field(CNA.CBUF_CON0, "data_reuse", 1),
    ),
    Reason(("CNA.DMA_CON1.*",), "one row is read", field(CNA.DATA_SIZE0, "datain_height", 1)),
    Reason(("CNA.DMA_CON2.*",), "one surface is read (§3.2)", one_surface_of_features),
    Reason(("CNA.CBUF_CON1.*",), "how pixel rows lie in the CBUF is not known (F-28)", negate(pixels_off)),
    Reason(("CNA.CBUF_CON1.*",), "both readings of C-9 are legal (F-33)", lambda r, c: {c.old, c.new} <= entries(r)),
    Reason(
        ("CNA.DATA_SIZE0.datain_width",),
        "columns of pixels that no window sees",
        lambda r, c: bool(get(r, CNA.CONV_CON1, "argb_in")) and columns_seen(r) <= min(c.old, c.new),
    ),
    Reason(
        ("CNA.DATA_SIZE0.datain_width", "CNA.FC_DATA_SIZE0.dma_width"),
        "no window sees the columns that are declared and not fetched (F-23)",
        lambda r, c: columns_seen(r) <= min(c.old, c.new),
    ),
    Reason(("CNA.FC_DATA_SIZE0.dma_width",), "rows of pixels are read whole (F-27)", negate(pixels_off)),
    Reason(("CNA.PAD_CON1.*",), "no window reaches padding", no_padding),
    Reason(("CNA.PAD_CON1.*",), "the borders round or saturate to the same", data=True),
    Reason(
        ("CNA.PAD_CON1.*",),
        "int8 pads with the low byte; unequal lanes warn in depthwise (F-30)",
        both(field(CNA.CONV_CON1, "in_precision", 0), only_bits(0xFFFFFF00)),
    ),
    Reason(
        ("CNA.PAD_CON1.*",),
        "fp16 pads with the low half (S-170)",
        both(field(CNA.CONV_CON1, "in_precision", 2), only_bits(0xFFFF0000)),
    ),
    Reason(("CORE.CLIP_TRUNCATE.*",), "no effect on floats (S-168)", is_float),
    Reason(("CORE.CLIP_TRUNCATE.round_type",), "nothing is shifted", field(CORE.CLIP_TRUNCATE, "clip_truncate", 0)),
    Reason(("CORE.CLIP_TRUNCATE.round_type",), "no accumulator ends in a tie", data=True),
    Reason(
        ("CORE.MISC_CFG.qd_en",),
        "both values run but for int8 to int8 (F-59, C-21)",
        lambda r, c: get(r, DPU.DATA_FORMAT, "in_precision") != 0 or get(r, DPU.DATA_FORMAT, "out_precision") != 0,
    ),
)
