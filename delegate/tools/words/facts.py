"""What decides on the words of a convolution: the facts of a layer, and each register field as a formula over them.

The formulas stand for both compilers. Where upstream's words differ from ours, some facts are changed
(``reasons.py``) and the same formulas must then give upstream's values: so a difference is explained only if it
follows. They are written from the hardware book, not from ``hw/emit``, and so check that too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from delegate.hw.layout import align, divide_up
from delegate.ir import Node, Quant

ATOM, KERNEL_GROUP, DEPTHWISE_GROUP, LINE_GROUP = 16, 32, 64, 4  # npu.md §1, §3
BANKS, BANK_ENTRIES = 12, 256  # entries of 128 bytes (npu.md §4)
ATOMS_PER_ENTRY = 8
GRAINS = 50
TAIL_WORDS = 4
BIAS_BYTES = 4
LARGEST_MULTIPLIER = 0x7FFF
MASK = 0xFFFFFFFF


@dataclass(frozen=True)
class Added:
    """A tensor added on the way out: facts of the element-wise unit."""

    offset: int  # minus its zero point
    scale: int
    shift: int
    surface: int  # atoms


@dataclass(frozen=True)
class Facts:
    """A task as the blocks are programmed; true sizes. Zero points are in the int8 domain of the silicon."""

    input_height: int
    input_width: int
    input_channels: int  # programmed
    input_channels_real: int
    input_surface: int  # atoms
    output_height: int
    output_width: int
    output_channels: int  # programmed
    output_channels_real: int
    output_surface: int  # atoms
    kernel_height: int
    kernel_width: int
    kernels: int  # weight kernels, 1 for depthwise
    stride_y: int
    stride_x: int
    padding_top: int
    padding_left: int
    depthwise: bool
    zero_points: tuple[int, int, int]  # input, weight, output
    real_scale: float  # factor from accumulator to output
    layer_padding_top: int  # of the whole layer; padding_top is the task's
    first_row: int = 0  # of the output, of a task that computes a part
    first_channel: int = 0
    banks: int | None = None  # of the features, where a cut decides on it
    reuse: bool = False  # the weights are those of the task before
    slack_banks: int = 1
    entries_override: int | None = None  # CBUF_CON1, where it is not the formula
    truncated_scale: bool = False  # the multiplier is the truncated mantissa plus 1
    truncate: int = 0  # bits that CORE takes off the accumulator
    pad_lanes: bool = True  # the padding value stands in all four bytes
    pad_override: int | None = None
    relu: bool = False
    nrdma_disable: int = 1
    next_words: int = 0  # words of the stream that the tail leads to
    even_amount: bool = False  # PC_REGISTER_AMOUNTS is rounded up to an even number
    pixel: bool = False  # one-channel pictures are read as pixels
    wide_input: int = 0  # DATAIN_WIDTH, where it is not the input's width
    line_override: int | None = None
    surface_override: int | None = None
    added: Added | None = None

    @property
    def kernel_bytes(self) -> int:
        return self.kernel_height * self.kernel_width * self.input_channels

    @property
    def weight_channels(self) -> int:
        """Channels of a kernel; a depthwise kernel counts as one for each channel."""
        return 1 if self.depthwise else self.input_channels

    @property
    def data_banks(self) -> int:
        """CBUF banks of the features (npu.md §4): a left-over of three atoms takes four."""
        if self.banks is not None:
            return self.banks
        whole, rest = divmod(divide_up(self.input_channels, ATOM), ATOMS_PER_ENTRY)
        row = whole * self.input_width
        row += self.input_width if rest == 3 else divide_up(rest * self.input_width, ATOMS_PER_ENTRY)
        return divide_up(row * self.input_height, BANK_ENTRIES) + self.slack_banks

    @property
    def data_entries(self) -> int:
        """CBUF_CON1, units of 64 bytes (S-46)."""
        if self.entries_override is not None:
            return self.entries_override
        return divide_up(self.input_width * divide_up(self.input_channels, ATOM), 4)

    @property
    def line_stride(self) -> int:
        if self.line_override is not None:
            return self.line_override
        return LINE_GROUP * self.input_width

    @property
    def surface_stride(self) -> int:
        if self.surface_override is not None:
            return self.surface_override
        return self.input_surface - LINE_GROUP * self.input_width

    @property
    def first_input_row(self) -> int:
        return max(0, self.first_row * self.stride_y - self.layer_padding_top)

    @property
    def surfaces_before(self) -> int:
        """Surfaces of the output, and of a depthwise input, ahead of the task's."""
        return self.first_channel // ATOM

    @property
    def output_offset(self) -> int:
        """Atoms from the layer's output to the task's."""
        return self.surfaces_before * self.output_surface + self.first_row * self.output_width

    @property
    def feature_offset(self) -> int:
        """Atoms from the layer's input to the task's."""
        surfaces = self.surfaces_before if self.depthwise else 0
        return surfaces * self.input_surface + self.first_input_row * self.input_width

    @property
    def added_notch(self) -> int:
        """Atoms that each client skips behind its slice: the other's surface and the rest of its own (npu.md §5.4a)."""
        if self.added is None:
            return 0
        return self.added.surface + self.output_surface - self.output_width * self.output_height

    @property
    def amount(self) -> int:
        """PC_REGISTER_AMOUNTS: pairs of words less 1 (npu.md §2.2)."""
        if not self.next_words:
            return 0
        return align((self.next_words - TAIL_WORDS) // 2, 2) if self.even_amount else (self.next_words + 1) // 2 - 1

    @property
    def surfaces_per_group(self) -> int:
        return 4 if self.depthwise else 2

    @property
    def output_converter(self) -> tuple[int, int]:
        """(scale, shift) of OUT_CVT."""
        if self.truncated_scale:
            return plus_one(*truncated_multiplier(self.real_scale))
        fraction, exponent = math.frexp(self.real_scale)
        scale = round(fraction * (1 << 15))
        return (scale >> 1, 14 - exponent) if scale == 1 << 15 else (scale, 15 - exponent)

    @property
    def pad_value(self) -> int:
        if self.pad_override is not None:
            return self.pad_override
        zero_point = self.zero_points[0]
        return (zero_point & 0xFF) * 0x01010101 if self.pad_lanes else zero_point & MASK


def truncated_multiplier(real: float) -> tuple[int, int]:
    """(0x4000 | top 14 bits of the float32 mantissa, 141 - biased exponent) (npu.md §5.5)."""
    bits = int(np.array(real, np.float32).view(np.uint32))
    return 0x4000 | (bits >> 9 & 0x3FFF), 141 - (bits >> 23 & 0xFF)


def plus_one(scale: int, shift: int) -> tuple[int, int]:
    """Upstream's multiplier: one more than the truncated one; a carry is lost, or falls into the sign (S-10)."""
    if scale < LARGEST_MULTIPLIER:
        return scale + 1, shift
    return (1 << 14, shift) if (141 - shift) % 2 == 0 else (-(1 << 15), shift)


def same_padding(size: int, output: int, kernel: int, stride: int) -> int:
    """Pixels before the first of TFLite's SAME."""
    return max(0, (output - 1) * stride + kernel - size) // 2


def domain(quant: Quant, dtype: str) -> int:
    """A zero point as the silicon counts (S-34)."""
    return int(quant.zero_point[0]) - (128 if dtype == "uint8" else 0)


def facts_of(node: Node) -> Facts:
    """The facts of a convolution in one task, as the hardware book's checklist has them (npu.md §12)."""
    feature, weight, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert feature is not None and feature.quant is not None
    assert weight is not None and weight.quant is not None and output.quant is not None
    _, height, width, channels = feature.shape
    _, output_height, output_width, output_channels = output.shape
    kernel_height, kernel_width = weight.shape[1:3]
    stride_y, stride_x = node.params["stride"]
    same = node.params["padding"] == "SAME"
    depthwise = node.op == "DEPTHWISE_CONV_2D" and node.params["depth_multiplier"] == 1
    group = DEPTHWISE_GROUP if depthwise else KERNEL_GROUP
    extended = kernel_height == 1 and stride_y == 1  # rows behind a low picture are computed as well (S-69)
    low = domain(output.quant, output.dtype)
    return Facts(
        input_height=max(height, LINE_GROUP) if extended else height,
        input_width=width,
        input_channels=align(channels, group if depthwise else ATOM),
        input_channels_real=channels,
        input_surface=max(height, LINE_GROUP) * width,
        output_height=max(output_height, LINE_GROUP) if extended else output_height,
        output_width=output_width,
        output_channels=align(output_channels, group),
        output_channels_real=output_channels,
        output_surface=max(output_height, LINE_GROUP) * output_width,
        kernel_height=kernel_height,
        kernel_width=kernel_width,
        kernels=1 if depthwise else align(output_channels, group),
        stride_y=stride_y,
        stride_x=stride_x,
        padding_top=same_padding(height, output_height, kernel_height, stride_y) if same else 0,
        layer_padding_top=same_padding(height, output_height, kernel_height, stride_y) if same else 0,
        padding_left=same_padding(width, output_width, kernel_width, stride_x) if same else 0,
        depthwise=depthwise,
        zero_points=(domain(feature.quant, feature.dtype), domain(weight.quant, weight.dtype), low),
        real_scale=float(feature.quant.scale[0]) * float(weight.quant.scale[0]) / float(output.quant.scale[0]),
        relu=node.params["activation"] != "NONE" and low > -128,
    )


Formula = Callable[[Facts], int]


def both(first: str, formula: Formula, *others: str) -> dict[str, Formula]:
    """Fields that hold the same number."""
    return dict.fromkeys((first, *others), formula)


CONVERTER_FIELDS: dict[str, Formula] = {
    f"CNA.CVT_CON0.cvt_truncate_{channel}": lambda f: 14 if f.pixel else 0 for channel in range(4)
} | {
    f"CNA.CVT_CON{channel + 1}.{name}{channel}": formula
    for channel in range(4)
    for name, formula in (
        ("cvt_scale", lambda f: 16384 if f.pixel else 1),
        ("cvt_offset", lambda f: -128 if f.pixel else 0),
    )
}

CNA_FIELDS: dict[str, Formula] = {
    "CNA.CONV_CON1.conv_mode": lambda f: 3 if f.depthwise else 0,
    "CNA.CONV_CON1.nonalign_dma": lambda f: int(f.pixel),
    "CNA.CONV_CON1.group_line_off": lambda f: int(f.pixel),
    "CNA.CONV_CON1.argb_in": lambda f: 8 if f.pixel else 0,
    "CNA.CONV_CON2.feature_grains": lambda f: GRAINS + f.stride_y + 1,
    "CNA.CONV_CON3.conv_y_stride": lambda f: f.stride_y,
    "CNA.CONV_CON3.conv_x_stride": lambda f: f.stride_x,
    "CNA.DATA_SIZE0.datain_width": lambda f: f.wide_input or f.input_width,
    **both("CNA.DATA_SIZE0.datain_height", lambda f: f.input_height, "CNA.FC_DATA_SIZE0.dma_height"),
    "CNA.FC_DATA_SIZE0.dma_width": lambda f: f.input_width,
    "CNA.DATA_SIZE1.datain_channel_real": lambda f: f.input_channels_real - 1,
    **both("CNA.DATA_SIZE1.datain_channel", lambda f: f.input_channels, "CNA.FC_DATA_SIZE1.dma_channel"),
    "CNA.DATA_SIZE2.dataout_width": lambda f: f.output_width,
    "CNA.DATA_SIZE3.dataout_atomics": lambda f: f.output_width * f.output_height,
    "CNA.WEIGHT_SIZE0.weight_bytes": lambda f: f.kernel_bytes * f.kernels,
    "CNA.WEIGHT_SIZE1.weight_bytes_per_kernel": lambda f: f.kernel_bytes,
    "CNA.WEIGHT_SIZE2.weight_width": lambda f: f.kernel_width,
    "CNA.WEIGHT_SIZE2.weight_height": lambda f: f.kernel_height,
    "CNA.WEIGHT_SIZE2.weight_kernels": lambda f: f.kernels,
    "CNA.CBUF_CON0.data_bank": lambda f: f.data_banks,
    "CNA.CBUF_CON0.weight_bank": lambda f: BANKS - f.data_banks,
    "CNA.CBUF_CON0.weight_reuse": lambda f: int(f.reuse),
    "CNA.CBUF_CON1.data_entries": lambda f: f.data_entries,
    **both("CNA.CVT_CON0.data_sign", lambda f: int(not f.pixel), "CNA.CVT_CON0.cvt_type", "CNA.CVT_CON0.cvt_bypass"),
    **CONVERTER_FIELDS,
    "CNA.CVT_CON5.per_channel_cvt_en": lambda f: 0xFFFF if f.pixel else 0,
    "CNA.PAD_CON0.pad_left": lambda f: f.padding_left,
    "CNA.PAD_CON0.pad_top": lambda f: f.padding_top,
    "CNA.PAD_CON1.pad_value": lambda f: f.pad_value,
    "CNA.FEATURE_DATA_ADDR": lambda f: ATOM * f.feature_offset,
    "CNA.DCOMP_ADDR0": lambda f: f.first_channel * f.kernel_height * f.kernel_width * f.weight_channels,
    "CNA.DMA_CON1.line_stride": lambda f: f.line_stride,
    "CNA.DMA_CON2.surf_stride": lambda f: f.surface_stride,
}

CORE_FIELDS: dict[str, Formula] = {
    "CORE.MISC_CFG.dw_en": lambda f: int(f.depthwise),
    "CORE.DATAOUT_SIZE_0.dataout_height": lambda f: f.output_height - 1,
    "CORE.DATAOUT_SIZE_0.dataout_width": lambda f: f.output_width - 1,
    "CORE.DATAOUT_SIZE_1.dataout_channel": lambda f: f.output_channels - 1,
    "CORE.CLIP_TRUNCATE.clip_truncate": lambda f: f.truncate,
}


def of_added(value: Callable[[Added], int], otherwise: int = 0) -> Formula:
    """A field of the element-wise unit."""
    return lambda f: value(f.added) if f.added is not None else otherwise


DPU_FIELDS: dict[str, Formula] = {
    "DPU.FEATURE_MODE_CFG.conv_mode": lambda f: 3 if f.depthwise else 0,
    "DPU.DST_BASE_ADDR": lambda f: ATOM * f.output_offset,
    "DPU.DST_SURF_STRIDE.dst_surf_stride": lambda f: f.output_surface,
    "DPU.SURFACE_ADD.surf_add": lambda f: f.surfaces_per_group * f.output_surface,
    **both("DPU.DATA_CUBE_WIDTH.width", lambda f: f.output_width - 1, "DPU.WDMA_SIZE_1.width_wdma"),
    **both("DPU.DATA_CUBE_HEIGHT.height", lambda f: f.output_height - 1, "DPU.WDMA_SIZE_1.height_wdma"),
    "DPU.DATA_CUBE_CHANNEL.orig_channel": lambda f: f.output_channels_real - 1,
    **both("DPU.DATA_CUBE_CHANNEL.channel", lambda f: f.output_channels - 1, "DPU.WDMA_SIZE_0.channel_wdma"),
    "DPU.BS_CFG.bs_relu_bypass": lambda f: int(not f.relu),
    **both(
        "DPU.BS_OW_CFG.size_e_0",
        lambda f: f.surfaces_per_group - 1,
        "DPU.BS_OW_CFG.size_e_1",
        "DPU.BS_OW_CFG.size_e_2",
    ),
    "DPU.BS_OW_OP.ow_op": lambda f: -f.zero_points[1],
    "DPU.OUT_CVT_OFFSET.out_cvt_offset": lambda f: f.zero_points[2],
    "DPU.OUT_CVT_SCALE.out_cvt_scale": lambda f: f.output_converter[0],
    "DPU.OUT_CVT_SHIFT.out_cvt_shift": lambda f: f.output_converter[1] - f.truncate,
    **both(
        "DPU.EW_CFG.ew_cvt_type",
        of_added(lambda _: 1),
        "DPU.EW_CFG.ew_data_mode",
        "DPU.EW_CFG.edata_size",
        "DPU.EW_CFG.ew_op_src",
    ),
    **both(
        "DPU.EW_CFG.ew_op_bypass",
        of_added(lambda _: 0, 1),
        "DPU.EW_CFG.ew_op_cvt_bypass",
        "DPU.EW_CFG.ew_bypass",
    ),
    "DPU.EW_CFG.ew_alu_algo": of_added(lambda _: 2),
    "DPU.EW_CVT_OFFSET_VALUE.ew_op_cvt_offset": of_added(lambda a: a.offset),
    "DPU.EW_CVT_SCALE_VALUE.ew_op_cvt_scale": of_added(lambda a: a.scale, 1),
    "DPU.EW_CVT_SCALE_VALUE.ew_op_cvt_shift": of_added(lambda a: a.shift),
}

RDMA_FIELDS: dict[str, Formula] = {
    "DPU_RDMA.RDMA_DATA_CUBE_WIDTH.width": lambda f: f.output_width - 1,
    "DPU_RDMA.RDMA_DATA_CUBE_HEIGHT.height": lambda f: f.output_height - 1,
    "DPU_RDMA.RDMA_DATA_CUBE_CHANNEL.channel": lambda f: f.output_channels - 1,
    "DPU_RDMA.RDMA_NRDMA_CFG.nrdma_disable": lambda f: f.nrdma_disable,
    "DPU_RDMA.RDMA_ERDMA_CFG.erdma_disable": of_added(lambda _: 0, 1),
    **both(
        "DPU_RDMA.RDMA_ERDMA_CFG.erdma_data_mode",
        of_added(lambda _: 1),
        "DPU_RDMA.RDMA_ERDMA_CFG.erdma_data_size",
    ),
    "DPU_RDMA.RDMA_BS_BASE_ADDR": lambda f: BIAS_BYTES * f.first_channel,
    "DPU_RDMA.RDMA_SRC_BASE_ADDR": lambda f: 0 if f.added is None else ATOM * f.output_offset,
    # Relative to the main client's address: one surface further.
    "DPU_RDMA.RDMA_EW_BASE_ADDR": lambda f: 0 if f.added is None else ATOM * f.output_surface,
    "DPU_RDMA.RDMA_EW_SURF_STRIDE.ew_surf_stride": of_added(lambda a: a.surface),
    "DPU_RDMA.RDMA_FEATURE_MODE_CFG.comb_use": of_added(lambda _: 5),
    "DPU_RDMA.RDMA_FEATURE_MODE_CFG.mrdma_disable": of_added(lambda _: 0, 1),
    "DPU_RDMA.RDMA_FEATURE_MODE_CFG.conv_mode": lambda f: 3 if f.depthwise else 0,
    **both(
        "DPU_RDMA.RDMA_SURF_NOTCH.surf_notch_addr",
        lambda f: f.added_notch,
        "DPU_RDMA.RDMA_EW_SURF_NOTCH.ew_surf_notch",
    ),
}

PC_FIELDS: dict[str, Formula] = {
    "PC.BASE_ADDRESS": lambda f: int(f.next_words > 0),
    "PC.REGISTER_AMOUNTS.pc_data_amount": lambda f: f.amount,
}

FORMULAS: dict[str, Formula] = CNA_FIELDS | CORE_FIELDS | DPU_FIELDS | RDMA_FIELDS | PC_FIELDS
