"""PPU and PPU_RDMA: planar pooling of a cube from memory to memory (npu.md §7, S-128 to S-139, S-173 to S-179)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from delegate.hw.regs import PPU, PPU_RDMA
from delegate.hw.sim import settings
from delegate.hw.sim.memory import AddressSpace
from delegate.hw.sim.numbers import Ints, Numbers, round_shift, saturate, wrap
from delegate.hw.sim.options import Options
from delegate.hw.sim.precision import FORMATS, Format
from delegate.hw.sim.registers import TaskRegisters

if TYPE_CHECKING:
    from delegate.hw.sim.passes import Buffers

FEW_COLUMNS = 128  # of the sibling (S-232)
AVERAGE, MAXIMUM, MINIMUM = 0, 1, 2
STORAGE = {8: (1, 2), 16: (2,)}  # PPU_RDMA IN_PRECISION for bits of an element (S-129, F-103)
Q16 = 1 << 16  # what reciprocals of integers count in
PAD_BITS = {"int8": 19, "int16": 19, "fp16": 16}  # of PADDING_VALUE_1 that hold the value (npu.md §7)


@dataclass(frozen=True, eq=False)
class Pooling:
    """A pooling task; sizes are (height, width), pitches in bytes."""

    method: int
    format: Format
    size: tuple[int, int]
    output: tuple[int, int]
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]  # top, bottom, left, right
    pad_value: float
    reciprocals: tuple[int, int]  # as in the registers, height and width
    source: int
    line_pitch: int
    surface_pitch: int
    target: int
    target_pitch: int
    options: Options

    @property
    def surfaces(self) -> int:
        return -(-self.channels // self.format.atom)

    @property
    def elements(self) -> int:
        """Elements of all taps together."""
        return self.output[0] * self.output[1] * self.channels * self.kernel[0] * self.kernel[1]

    def run(self, memory: AddressSpace, buffers: Buffers, task: str) -> None:
        """Pools all surfaces; the pads always count (S-176, F-100)."""
        atom, dtype = (
            self.format.atom,
            np.dtype({"int8": np.int8, "int16": np.int16, "fp16": np.float16}[self.format.name]),
        )
        (rows, columns), size = self.output, dtype.itemsize
        shape, strides = (self.surfaces, rows, columns, atom), (self.target_pitch, 16 * columns, 16, size)
        out = memory.strided(self.target, shape, strides, dtype, f"{task}: PPU output")
        shape, strides = (self.surfaces, *self.size, atom), (self.surface_pitch, self.line_pitch, 16, size)
        stored = memory.strided(self.source, shape, strides, dtype, f"{task}: PPU input")
        top, bottom, left, right = self.padding
        reach = [(o - 1) * s + k for o, s, k in zip(self.output, self.stride, self.kernel, strict=True)]
        stored = stored[:, : max(1, reach[0] - top), : max(1, reach[1] - left)]  # what no window sees is not read
        if self.method == AVERAGE:  # maxima and minima stay in the type of the elements
            stored = stored.astype(np.int64 if self.format.integer else np.float32)
        full = np.pad(stored, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=self.pad_value)
        taps = [
            full[
                :,
                y : y + (rows - 1) * self.stride[0] + 1 : self.stride[0],
                x : x + (columns - 1) * self.stride[1] + 1 : self.stride[1],
            ]
            for y in range(self.kernel[0])
            for x in range(self.kernel[1])
        ]
        buffers.forget()
        with np.errstate(all="ignore"):
            out[...] = self.reduce(taps).astype(dtype)

    def quotient(self, total: Ints) -> Ints:
        """The average of an integer sum, before it is clamped."""
        height, width = self.kernel
        truncated = (Q16 // height, Q16 // width) == self.reciprocals
        if self.options.average_rounding == "cases" and truncated:
            return by_cases(total, height * width, Q16 % height == 0 and Q16 % width == 0)
        return round_shift(total * (self.reciprocals[0] * self.reciprocals[1]), 32)

    def reduce(self, taps: list[Numbers]) -> Numbers:
        """All taps of the window to one value each (F-101)."""
        result: Numbers
        if self.method in (MAXIMUM, MINIMUM):
            larger = np.maximum if self.method == MAXIMUM else np.minimum
            result = taps[0].copy()
            for tap in taps[1:]:
                larger(result, tap, out=result)
        elif self.format.integer:  # Q16 reciprocals, ties to even (S-179: one closed form for S-132)
            limit = wrap if self.options.average_overflow == "wraps" else saturate
            result = limit(self.quotient(np.sum(taps, axis=0)), self.format.bits)
        else:
            total = np.sum(taps, axis=0, dtype=np.float64)
            result = total * float17(self.reciprocals[0]) * float17(self.reciprocals[1])
        return result


def by_cases(total: Ints, count: int, exact: bool) -> Ints:
    """total / count to nearest, ties away from zero; of an exact tie one less where S-132 says so."""
    magnitude = np.abs(total)
    quotient = (2 * magnitude + count) // (2 * count)
    tie = 2 * magnitude % (2 * count) == count
    quotient -= tie & (quotient % 2 == 1 if exact else True)
    result: Ints = np.sign(total) * quotient
    return result


def float17(bits: int) -> float:
    """A 17-bit float: sign, 6 exponent bits with bias 31, 10 mantissa bits (S-173, F-102)."""
    exponent, mantissa = bits >> 10 & 0x3F, bits & 0x3FF
    value = (1 + mantissa / 1024) * 2.0 ** (exponent - 31) if exponent else mantissa / 1024 * 2.0**-30
    return -value if bits >> 16 else value


def decode(regs: TaskRegisters, options: Options) -> Pooling:
    """The plan of a pooling task; raises SimulatorError where the PPU would starve, or where nothing is known."""
    mode, kernel, pads = regs[PPU.OPERATION_MODE_CFG], regs[PPU.POOLING_KERNEL_CFG], regs[PPU.POOLING_PADDING_CFG]
    regs.require(
        bool(mode["flying_mode"]),
        PPU.OPERATION_MODE_CFG,
        "flying_mode 0",
        "1: the way from the DPU is unproven (S-180)",
    )
    settings.check_ppu(regs)
    method = mode["pooling_method"]
    regs.require(method <= MINIMUM, PPU.OPERATION_MODE_CFG, f"pooling_method {method}", "0 average, 1 max, 2 min")
    form = FORMATS.get(regs[PPU.DATA_FORMAT]["proc_precision"])
    if form is None or form.name not in PAD_BITS:
        raise regs.refuse(PPU.DATA_FORMAT, regs[PPU.DATA_FORMAT]["proc_precision"], "0 int8, 1 int16, 2 fp16 (S-175)")
    storage = regs[PPU_RDMA.RDMA_DATA_FORMAT]["in_precision"]
    limit = f"{STORAGE[form.bits]} for {form.name} (S-129)"
    regs.require(storage in STORAGE[form.bits], PPU_RDMA.RDMA_DATA_FORMAT, storage, limit)
    settings.check_aligned(regs, PPU_RDMA.RDMA_SRC_BASE_ADDR)
    size = (regs[PPU.DATA_CUBE_IN_HEIGHT]["cube_in_height"] + 1, regs[PPU.DATA_CUBE_IN_WIDTH]["cube_in_width"] + 1)
    channels = regs[PPU.DATA_CUBE_IN_CHANNEL]["cube_in_channel"] + 1
    plan = Pooling(
        method=method,
        format=form,
        size=size,
        output=(
            regs[PPU.DATA_CUBE_OUT_HEIGHT]["cube_out_height"] + 1,
            regs[PPU.DATA_CUBE_OUT_WIDTH]["cube_out_width"] + 1,
        ),
        channels=channels,
        kernel=(kernel["kernel_height"] + 1, kernel["kernel_width"] + 1),
        stride=(kernel["kernel_stride_height"] + 1, kernel["kernel_stride_width"] + 1),
        padding=(pads["pad_top"], pads["pad_bottom"], pads["pad_left"], pads["pad_right"]),
        pad_value=_pad_value(regs, form) if any(pads.values()) else 0,
        reciprocals=(
            regs[PPU.RECIP_KERNEL_HEIGHT]["recip_kernel_height"] if method == AVERAGE else 0,
            regs[PPU.RECIP_KERNEL_WIDTH]["recip_kernel_width"] if method == AVERAGE else 0,
        ),
        source=regs[PPU_RDMA.RDMA_SRC_BASE_ADDR]["src_base_addr"],
        line_pitch=regs[PPU_RDMA.RDMA_SRC_LINE_STRIDE]["src_line_stride"] * 16,
        surface_pitch=regs[PPU_RDMA.RDMA_SRC_SURF_STRIDE]["src_surf_stride"] * 16,
        target=regs[PPU.DST_BASE_ADDR]["dst_base_addr"] * 16,
        target_pitch=regs[PPU.DST_SURF_STRIDE]["dst_surf_stride"] * 16,
        options=options,
    )
    _check(regs, plan)
    return plan


def _pad_value(regs: TaskRegisters, form: Format) -> float:
    bits = PAD_BITS[form.name]
    raw = regs[PPU.PADDING_VALUE_1_CFG]["pad_value_0"] & ((1 << bits) - 1)
    if form.integer:
        value = raw - (1 << bits) if raw >> (bits - 1) else raw
        limit = 1 << (form.bits - 1)
        fits = -limit <= value < limit
        regs.require(fits, PPU.PADDING_VALUE_1_CFG, value, f"a number of {form.name}: others are not known (F-129)")
        return value
    return float(np.array([raw], np.uint16).view(np.float16)[0])


def _check(regs: TaskRegisters, plan: Pooling) -> None:
    rdma = (
        (regs[PPU_RDMA.RDMA_CUBE_IN_HEIGHT]["cube_in_height"] + 1, plan.size[0], PPU.DATA_CUBE_IN_HEIGHT),
        (regs[PPU_RDMA.RDMA_CUBE_IN_WIDTH]["cube_in_width"] + 1, plan.size[1], PPU.DATA_CUBE_IN_WIDTH),
        (regs[PPU_RDMA.RDMA_CUBE_IN_CHANNEL]["cube_in_channel"] + 1, plan.channels, PPU.DATA_CUBE_IN_CHANNEL),
        (regs[PPU.DATA_CUBE_OUT_CHANNEL]["cube_out_channel"] + 1, plan.channels, PPU.DATA_CUBE_OUT_CHANNEL),
    )
    for got, want, register in rdma:
        regs.require(got == want, register, want, f"PPU and PPU_RDMA must agree, the other says {got}")
    top, bottom, left, right = plan.padding
    for axis, before, after, register in (
        (0, top, bottom, PPU.DATA_CUBE_OUT_HEIGHT),
        (1, left, right, PPU.DATA_CUBE_OUT_WIDTH),
    ):
        reach = (plan.output[axis] - 1) * plan.stride[axis] + plan.kernel[axis]
        covered = before + plan.size[axis] + after
        limit = f"windows reach {reach} of {covered} pixels with padding: the PPU would starve (S-139)"
        regs.require(reach <= covered, register, plan.output[axis], limit)
    narrow = plan.output[1] <= FEW_COLUMNS or plan.options.pooling_width == "yes"
    limit = f"{FEW_COLUMNS} columns: beyond them everything is wrong (S-232)"
    regs.require(narrow, PPU.DATA_CUBE_OUT_WIDTH, plan.output[1], limit)
    both = max(plan.kernel) == 16 and max(plan.padding) == 7
    regs.require(not both, PPU.POOLING_PADDING_CFG, plan.padding, "below 7 beside a kernel of 16 (S-176)")
    limit = "at least one output plane"
    if plan.surfaces > 1:
        smallest = 16 * plan.output[0] * plan.output[1]
        regs.require(plan.target_pitch >= smallest, PPU.DST_SURF_STRIDE, plan.target_pitch, limit)
