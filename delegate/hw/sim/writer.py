"""The DPU's write DMA: where each channel group and surface goes, evaluated literally from the registers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from delegate.hw.regs import DPU
from delegate.hw.sim import settings
from delegate.hw.sim.core import Core
from delegate.hw.sim.memory import AddressSpace
from delegate.hw.sim.numbers import Stored
from delegate.hw.sim.options import Options
from delegate.hw.sim.precision import INT16, Format, Precision
from delegate.hw.sim.registers import TaskRegisters

TRANSPOSE_LARGEST = 32  # channels of the transposing writer (S-127)


@dataclass(frozen=True)
class Writer:
    """Destination of a task; true sizes, pitches in bytes.

    Channel group g holds ``surfaces`` surfaces; surface j of it starts at address + g * group_pitch + j * surface_pitch
    and holds one atom a pixel, rows ``row_pitch`` apart (F-70, npu.md §5.6, C-20); what lies between stays as it is, in
    every format and mode (F-125, F-126).
    """

    address: int
    width: int
    height: int
    channels: int
    format: Format
    surfaces: int
    surface_pitch: int
    group_pitch: int
    row_pitch: int
    transposed: bool
    pixel_pitch: int = 16
    written: int = 1  # surfaces
    keeps_lanes: bool = False  # lanes without a channel stay as they are


def decode(
    regs: TaskRegisters,
    width: int,
    height: int,
    channels: int,
    out: Format,
    core: Core | None,
    precision: Precision | None,
    depthwise: bool,
    options: Options,
) -> Writer:
    """The write plan; raises SimulatorError for geometries that hang or leave parts unwritten on silicon (F-74)."""
    config, notch = regs[DPU.BS_OW_CFG], regs[DPU.DATA_CUBE_NOTCH_ADDR]
    sizes = {config[f"size_e_{part}"] for part in range(3)}
    regs.require(len(sizes) == 1, DPU.BS_OW_CFG, hex(regs.value(DPU.BS_OW_CFG)), "the same SIZE_E in all three fields")
    surfaces = sizes.pop() + 1
    transposed = bool(config["tp_org_en"])
    same = notch["notch_addr_0"] == notch["notch_addr_1"]
    limit = "both halves the same: otherwise most is unwritten and other memory is (S-48)"
    regs.require(same, DPU.DATA_CUBE_NOTCH_ADDR, hex(regs.value(DPU.DATA_CUBE_NOTCH_ADDR)), limit)
    _check_wdma(regs, width, height, channels, transposed)
    plane = 16 * width * height  # where nobody wrote a pitch, surfaces follow each other (F-05)
    stride, add = plane, plane * surfaces
    if regs.written(DPU.DST_SURF_STRIDE):
        stride = regs[DPU.DST_SURF_STRIDE]["dst_surf_stride"] * 16
    if regs.written(DPU.SURFACE_ADD):
        add = regs[DPU.SURFACE_ADD]["surf_add"] * 16
    settings.check_aligned(regs, DPU.DST_BASE_ADDR)
    if options.surface_pitch == "plane":  # F-126
        stride, add = plane, plane * surfaces
    address = regs[DPU.DST_BASE_ADDR]["dst_base_addr"]
    pixel, row = _pitches(width, notch["notch_addr_0"], options)
    last = regs[DPU.DATA_CUBE_CHANNEL]["orig_channel"] + 1 if options.written_channels == "ORIG_CHANNEL" else channels
    written, keeps = -(-last // out.atom), options.spare_lanes == "nothing"
    plan = Writer(address, width, height, channels, out, surfaces, stride, add, row, transposed, pixel, written, keeps)
    if transposed:
        _check_transposed(regs, plan, precision)
        return plan
    if core is not None and precision is not None:
        group = precision.depthwise_group if depthwise else precision.kernel_group
        held = surfaces * out.atom
        limit = f"{group * out.bits // 128 - 1}: a group of {group} {out.name} channels (npu.md §5.6, S-52 to S-60)"
        regs.require(held == group, DPU.BS_OW_CFG, f"size_e {surfaces - 1}", limit)
    _check_overlap(regs, plan)
    return plan


def _pitches(width: int, notch: int, options: Options) -> tuple[int, int]:
    """Bytes from a pixel to the next and from a row to the next; rows of one pixel end with it (S-48, F-125)."""
    if options.row_skip == "nowhere" and width > 1:
        notch = 0
    pixel = 16 * (1 + notch) if options.row_skip == "behind pixels" else 16
    return pixel, pixel * width if options.row_skip == "behind pixels" else 16 * (width + notch)


def _check_wdma(regs: TaskRegisters, width: int, height: int, channels: int, transposed: bool) -> None:
    """WDMA_SIZE, where it is written, repeats the cube (F-71); streams that never write it work (C-26): a warning."""
    for register in (DPU.WDMA_SIZE_0, DPU.WDMA_SIZE_1, DPU.DST_SURF_STRIDE, DPU.SURFACE_ADD):
        if not regs.written(register):
            regs.warn(f"{register.full_name} was not written since the core reset")
    if regs.written(DPU.WDMA_SIZE_0):
        size = regs[DPU.WDMA_SIZE_0]
        got = size["channel_wdma"] + 1
        regs.require(got == channels, DPU.WDMA_SIZE_0, f"channel {got}", f"the cube's {channels}")
        regs.require_zero(DPU.WDMA_SIZE_0, "size_c_wdma")
        limit = "set exactly with TP_ORG_EN"
        regs.require(bool(size["tp_precision"]) == transposed, DPU.WDMA_SIZE_0, f"tp {size['tp_precision']}", limit)
    if regs.written(DPU.WDMA_SIZE_1):
        size = regs[DPU.WDMA_SIZE_1]
        got_size = (size["width_wdma"] + 1, size["height_wdma"] + 1)
        regs.require(got_size == (width, height), DPU.WDMA_SIZE_1, got_size, f"the cube's {(width, height)}")


def _check_overlap(regs: TaskRegisters, plan: Writer) -> None:
    """No atom is written twice (F-112): each pitch spans all that lies within it."""
    atoms = -(-plan.channels // plan.format.atom)
    steps = (
        (plan.pixel_pitch, plan.width, DPU.DATA_CUBE_WIDTH),
        (plan.row_pitch, plan.height, DPU.DATA_CUBE_NOTCH_ADDR),
        (plan.surface_pitch, min(atoms, plan.surfaces), DPU.DST_SURF_STRIDE),
        (plan.group_pitch, -(-atoms // plan.surfaces), DPU.SURFACE_ADD),
    )
    extent = 16
    for pitch, count, register in sorted((step for step in steps if step[1] > 1), key=lambda step: step[0]):
        limit = f"a pitch of at least {extent} bytes, or atoms overwrite each other (F-112)"
        regs.require(pitch >= extent, register, pitch, limit)
        extent += (count - 1) * pitch


def _check_transposed(regs: TaskRegisters, plan: Writer, precision: Precision | None) -> None:
    known = precision is INT16 and plan.format.name == "int32" and plan.width == 1 and plan.surfaces == 8
    known = known and plan.channels == TRANSPOSE_LARGEST
    limit = f"int16 columns with {TRANSPOSE_LARGEST} channels, size_e 7: nothing else is known (S-127)"
    regs.require(known, DPU.BS_OW_CFG, "tp_org_en 1", limit)


def write(memory: AddressSpace, plan: Writer, values: Stored, task: str) -> None:
    """Writes (pixels, channels) of stored elements. Only whole atoms are written; a last group may be shorter.

    Lanes of a last atom that no channel fills get 0 (F-72).
    """
    raw = values.view({1: np.uint8, 2: np.uint16, 4: np.uint32}[values.dtype.itemsize])
    if plan.transposed:
        _write_transposed(memory, plan, raw, task)
        return
    atom = plan.format.atom
    spare = -plan.channels % atom
    if spare:
        lanes = np.zeros((raw.shape[0], spare), raw.dtype)
        if plan.keeps_lanes:
            lanes[...] = _places(memory, plan, plan.written - 1, 1, raw.dtype, task).reshape(-1, atom)[:, -spare:]
        raw = np.concatenate((raw, lanes), axis=1)
    write_surfaces(memory, plan, raw.reshape(len(raw), -1, atom).transpose(1, 0, 2), task)


def write_surfaces(memory: AddressSpace, plan: Writer, raw: Stored, task: str) -> None:
    """Writes (surfaces, pixels, elements of an atom) to where the groups and rows of the plan lie."""
    surfaces = raw.reshape(len(raw), plan.height, plan.width, -1)
    whole = plan.written // plan.surfaces * plan.surfaces
    if whole:
        groups = _places(memory, plan, 0, whole, raw.dtype, task)
        groups[...] = surfaces[:whole].reshape(groups.shape)
    if plan.written > whole:
        _places(memory, plan, whole, plan.written - whole, raw.dtype, task)[0] = surfaces[whole : plan.written]


def _places(memory: AddressSpace, plan: Writer, first: int, count: int, dtype: np.dtype[Any], task: str) -> Stored:
    """Some surfaces of one group, or all of several, in memory: (groups, surfaces, height, width, atom's elements)."""
    group, surface = divmod(first, plan.surfaces)
    address = plan.address + group * plan.group_pitch + surface * plan.surface_pitch
    groups = max(1, count // plan.surfaces)
    shape = (groups, count // groups, plan.height, plan.width, plan.format.atom)
    strides = (plan.group_pitch, plan.surface_pitch, plan.row_pitch, plan.pixel_pitch, dtype.itemsize)
    return memory.strided(address, shape, strides, dtype, f"{task}: DPU output")


def _write_transposed(memory: AddressSpace, plan: Writer, raw: Stored, task: str) -> None:
    """int16 element (m, n) at 4 m + (n/4) % 4 + (n/16) 4 M + (n % 4) 16 M; the low half of the sum (S-127, F-86)."""
    rows, columns = raw.shape
    m, n = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    index = 4 * m + n // 4 % 4 + n // 16 * 4 * rows + n % 4 * 16 * rows
    size = 2 * int(index.max() + 1)
    view = memory.strided(plan.address, (size // 2,), (2,), np.dtype(np.uint16), f"{task}: DPU output")
    view[index] = (raw & 0xFFFF).astype(np.uint16)


def check_mapped(memory: AddressSpace, plan: Writer, task: str) -> None:
    """Raises SimulatorError before any work is done if the destination is not mapped."""
    if plan.transposed:
        return
    dtype = np.dtype(f"u{plan.format.bits // 8}")
    for first in (0, (plan.written - 1) // plan.surfaces * plan.surfaces):
        _places(memory, plan, first, min(plan.surfaces, plan.written - first), dtype, task)
