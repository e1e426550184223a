"""DPU_RDMA: the four read DMAs that feed the DPU: main (flying), BS and BN operands per channel, EW operand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from delegate.errors import SimulatorError
from delegate.hw.registers import Register
from delegate.hw.regs import DPU_RDMA
from delegate.hw.sim import settings
from delegate.hw.sim.memory import AddressSpace
from delegate.hw.sim.numbers import Numbers, Stored, bfloat_to_float
from delegate.hw.sim.options import Options
from delegate.hw.sim.precision import FORMATS, Format
from delegate.hw.sim.registers import TaskRegisters

RESIDUAL = 5  # COMB_USE: main and operand DMA share one operand, surface by surface (npu.md §5.4 a)
ALONE = (0, 4)  # COMB_USE of a task with its own operand; with bit 0 set it never completes (S-109)
SMALLEST_PLANE = 12  # pixels; a fused operand of fewer was seen to fail (S-111, F-68)
USE_ADD, USE_PEND, USE_MULTIPLY = 1, 2, 4  # bits of DATA_USE
RECORD = USE_ADD | USE_PEND | USE_MULTIPLY
RECORD_BYTES, RECORD_CHANNELS = 64, 8  # S-17
OPERAND_BITS = {1: 8, 2: 16, 3: 32}  # ERDMA_DATA_SIZE and EDATA_SIZE


@dataclass(frozen=True)
class Lane:
    """BRDMA or NRDMA: which operands stream in, and from where."""

    name: str
    use: int  # bits of DATA_USE, 0 if off
    address: int


@dataclass(frozen=True)
class Operand:
    """ERDMA: the operand of EW, or with ``comb`` the residual that main DMA and ERDMA fetch together."""

    format: Format
    per_pixel: bool
    comb: bool
    address: int
    main_address: int  # of the even surfaces with comb
    surface_pitch: int  # bytes; with comb from one even surface to the next
    main_surface_pitch: int
    reading: str  # of integers in data mode 0


@dataclass(frozen=True)
class Main:
    """MRDMA: the main feed of a task without convolution."""

    format: Format
    address: int
    surface_pitch: int


@dataclass(frozen=True)
class Reader:
    """Everything DPU_RDMA does in one task; true sizes."""

    width: int
    height: int
    channels: int
    main: Main | None
    scale_lane: Lane  # BRDMA
    norm_lane: Lane  # NRDMA
    operand: Operand | None


def decode(regs: TaskRegisters, flying: bool, depthwise: bool, options: Options) -> Reader:
    """The plan of DPU_RDMA; raises SimulatorError where the silicon would hang or where its behaviour is unknown."""
    mode, erdma = regs[DPU_RDMA.RDMA_FEATURE_MODE_CFG], regs[DPU_RDMA.RDMA_ERDMA_CFG]
    settings.check_dpu_rdma(regs)
    match = bool(mode["flying_mode"]) == flying
    regs.require(match, DPU_RDMA.RDMA_FEATURE_MODE_CFG, f"flying_mode {mode['flying_mode']}", "the DPU's")
    match = mode["conv_mode"] == (3 if depthwise else 0)
    regs.require(match, DPU_RDMA.RDMA_FEATURE_MODE_CFG, f"conv_mode {mode['conv_mode']}", "the CNA's")
    width = regs[DPU_RDMA.RDMA_DATA_CUBE_WIDTH]["width"] + 1
    height = regs[DPU_RDMA.RDMA_DATA_CUBE_HEIGHT]["height"] + 1
    channels = regs[DPU_RDMA.RDMA_DATA_CUBE_CHANNEL]["channel"] + 1
    comb, armed = mode["comb_use"], not erdma["erdma_disable"]
    _check_feeds(regs, flying, comb, armed)
    plane = 16 * width * height
    reading = options.channel_operand if flying else options.gain_operand
    operand = _operand(regs, plane, comb == RESIDUAL, reading) if armed else None
    if comb == RESIDUAL and width * height < SMALLEST_PLANE:
        regs.warn(f"fused operand of {width * height} pixels: below {SMALLEST_PLANE} failures were seen")
    main = None
    if flying:
        notch = regs[DPU_RDMA.RDMA_SURF_NOTCH]["surf_notch_addr"] * 16
        settings.check_aligned(regs, DPU_RDMA.RDMA_SRC_BASE_ADDR)
        source = regs[DPU_RDMA.RDMA_SRC_BASE_ADDR]["src_base_addr"]
        main = Main(_format(regs, mode["in_precision"]), source, plane + notch)
        widens = bool(mode["mrdma_fp16tofp32_en"]) and main.format.integer  # fp16 runs with either (F-111)
        regs.require(not widens, DPU_RDMA.RDMA_FEATURE_MODE_CFG, "mrdma_fp16tofp32_en 1", "0 for integers")
    scale = _lane(regs, "BRDMA", DPU_RDMA.RDMA_BRDMA_CFG, DPU_RDMA.RDMA_BS_BASE_ADDR, "brdma", "bs_base_addr")
    norm = _lane(regs, "NRDMA", DPU_RDMA.RDMA_NRDMA_CFG, DPU_RDMA.RDMA_BN_BASE_ADDR, "nrdma", "bn_base_addr")
    return Reader(width, height, channels, main, scale, norm, operand)


def _check_feeds(regs: TaskRegisters, flying: bool, comb: int, armed: bool) -> None:
    """The conditions under which the core waits forever for a stream (S-109, S-114, F-66)."""
    disabled = regs[DPU_RDMA.RDMA_FEATURE_MODE_CFG]["mrdma_disable"]
    if flying:
        regs.require(not disabled, DPU_RDMA.RDMA_FEATURE_MODE_CFG, "mrdma_disable 1", "0: the main feed is MRDMA")
        limit = f"{ALONE}: other values never complete without a convolution (S-109)"
        regs.require(comb in ALONE, DPU_RDMA.RDMA_FEATURE_MODE_CFG, f"comb_use {comb}", limit)
        return
    if comb == RESIDUAL:
        limit = "0 with COMB_USE 5: main DMA fetches half of the operand"
        regs.require(not disabled, DPU_RDMA.RDMA_FEATURE_MODE_CFG, "mrdma_disable 1", limit)
        regs.require(armed, DPU_RDMA.RDMA_ERDMA_CFG, "erdma_disable 1", "0 with COMB_USE 5")
        return
    limit = "1 beside a convolution: the core waits for a main stream forever (S-114)"
    regs.require(bool(disabled), DPU_RDMA.RDMA_FEATURE_MODE_CFG, "mrdma_disable 0", limit)
    regs.require(comb == 0, DPU_RDMA.RDMA_FEATURE_MODE_CFG, f"comb_use {comb}", "0 or 5 beside a convolution")


def _format(regs: TaskRegisters, code: int) -> Format:
    known = FORMATS.get(code)
    if known is None or known.bits < 8:
        raise regs.refuse(DPU_RDMA.RDMA_FEATURE_MODE_CFG, f"in_precision {code}", "a format of 8, 16 or 32 bits")
    return known


def _lane(regs: TaskRegisters, name: str, config: Register, base: Register, prefix: str, label: str) -> Lane:
    fields = regs[config]
    use = 0 if fields[f"{prefix}_disable"] else fields[f"{prefix}_data_use"]
    if name == "NRDMA" and use & USE_MULTIPLY and use != USE_MULTIPLY:
        raise regs.refuse(config, f"data_use {use}", "no multiplier beside an addend: it never completes (S-31, F-69)")
    known = (0, USE_ADD, USE_MULTIPLY, RECORD) if name == "BRDMA" else (0, USE_ADD, USE_MULTIPLY)
    regs.require(use in known, config, f"data_use {use}", f"one of {known}: other layouts are not known")
    if use:
        settings.check_aligned(regs, base)
    return Lane(name, use, regs[base][label] if use else 0)


def _operand(regs: TaskRegisters, plane: int, comb: bool, reading: str) -> Operand:
    erdma, mode = regs[DPU_RDMA.RDMA_ERDMA_CFG], regs[DPU_RDMA.RDMA_FEATURE_MODE_CFG]
    bits = OPERAND_BITS.get(erdma["erdma_data_size"])
    per_pixel = erdma["erdma_data_mode"]
    regs.require(per_pixel in (0, 1), DPU_RDMA.RDMA_ERDMA_CFG, f"data_mode {per_pixel}", "0 or 1 (S-160, F-85)")
    process = FORMATS.get(mode["proc_precision"])
    integer = process is None or process.integer
    formats = {(8, True): 0, (16, True): 1, (32, True): 4, (16, False): mode["proc_precision"], (32, False): 5}
    code = formats.get((bits or 0, integer))
    if code is None:
        limit = "8, 16 or 32 bits, 16 or 32 in a float format"
        raise regs.refuse(DPU_RDMA.RDMA_ERDMA_CFG, f"data_size {erdma['erdma_data_size']}", limit)
    stride = regs[DPU_RDMA.RDMA_EW_SURF_STRIDE]["ew_surf_stride"] * 16
    notch = regs[DPU_RDMA.RDMA_EW_SURF_NOTCH]["ew_surf_notch"] * 16
    main_notch = regs[DPU_RDMA.RDMA_SURF_NOTCH]["surf_notch_addr"] * 16
    settings.check_aligned(regs, DPU_RDMA.RDMA_EW_BASE_ADDR)
    if comb:
        settings.check_aligned(regs, DPU_RDMA.RDMA_SRC_BASE_ADDR)
        limit = "not 0: the first atom would be used everywhere (S-111)"
        regs.require(stride > 0, DPU_RDMA.RDMA_EW_SURF_STRIDE, stride, limit)
        regs.require(bool(per_pixel), DPU_RDMA.RDMA_ERDMA_CFG, "data_mode 0", "1 with COMB_USE 5")
    return Operand(
        format=FORMATS[code],
        per_pixel=bool(per_pixel),
        comb=comb,
        address=regs[DPU_RDMA.RDMA_EW_BASE_ADDR]["ew_base_addr"],
        main_address=regs[DPU_RDMA.RDMA_SRC_BASE_ADDR]["src_base_addr"],
        surface_pitch=plane + notch if comb else stride + notch,
        main_surface_pitch=plane + main_notch,
        reading=reading if code == 0 and not per_pixel else "by channel",
    )


DTYPES: dict[str, type[np.generic]] = {
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "fp16": np.float16,
    "bf16": np.uint16,
    "fp32": np.float32,
}


def _numbers(stored: Stored, kind: Format) -> Numbers:
    if kind.name == "bf16":
        return bfloat_to_float(stored)
    return stored.astype(np.int64 if kind.integer else np.float32)


def _surfaces(
    memory: AddressSpace, reader: Reader, kind: Format, address: int, pitch: int, count: int, what: str
) -> Stored:
    """``count`` surfaces as stored, (surfaces, pixels, elements of an atom)."""
    dtype = np.dtype(DTYPES[kind.name])
    shape = (count, reader.height * reader.width, kind.atom)
    return memory.strided(address, shape, (pitch, 16, dtype.itemsize), dtype, what)


def stored_main(memory: AddressSpace, reader: Reader, task: str) -> Stored:
    """The main feed as it lies in memory, (surfaces, pixels, elements of an atom)."""
    main = reader.main
    assert main is not None
    count = -(-reader.channels // main.format.atom)
    return _surfaces(memory, reader, main.format, main.address, main.surface_pitch, count, f"{task}: DPU main feed")


def _pixels(stored: Stored, reader: Reader, kind: Format) -> Numbers:
    """Surfaces as numbers, (pixels, channels)."""
    return _numbers(stored.transpose(1, 0, 2).reshape(stored.shape[1], -1)[:, : reader.channels], kind)


def read_main(memory: AddressSpace, reader: Reader, task: str) -> Numbers:
    """The main feed, (pixels, channels)."""
    assert reader.main is not None
    return _pixels(stored_main(memory, reader, task), reader, reader.main.format)


def stored_operand(memory: AddressSpace, reader: Reader, task: str) -> Stored:
    """The EW operand as it lies in memory, (surfaces, pixels, elements of an atom); one pixel if it is per channel.

    F-123: integers as fp16, for which alone data mode 0 was measured (S-160).
    """
    operand, what = reader.operand, f"{task}: EW operand"
    assert operand is not None
    kind = operand.format
    count = -(-reader.channels // kind.atom)
    if not operand.per_pixel and operand.reading != "by pixel":
        dtype = np.dtype(DTYPES[kind.name])
        pitch = 0 if operand.reading == "first surface" else operand.surface_pitch
        shape, strides = (count, 1, kind.atom), (pitch, 16, dtype.itemsize)
        return memory.strided(operand.address, shape, strides, dtype, what)
    if not operand.comb:
        return _surfaces(memory, reader, kind, operand.address, operand.surface_pitch, count, what)
    even, odd = -(-count // 2), count // 2  # even surfaces through the main DMA, odd ones through ERDMA
    stored = np.empty((count, reader.height * reader.width, kind.atom), DTYPES[kind.name])
    stored[0::2] = _surfaces(memory, reader, kind, operand.main_address, operand.main_surface_pitch, even, what)
    if odd:
        stored[1::2] = _surfaces(memory, reader, kind, operand.address, operand.surface_pitch, odd, what)
    return stored


def read_operand(memory: AddressSpace, reader: Reader, task: str) -> Numbers:
    """The EW operand, (pixels, channels), or (1, channels) where it is one value per channel."""
    assert reader.operand is not None
    return _pixels(stored_operand(memory, reader, task), reader, reader.operand.format)


@dataclass(frozen=True, eq=False)
class LaneValues:
    """Per-channel operands, each (channels) or None: addend, CPEND factor, multiplier."""

    add: Numbers | None = None
    pend: Numbers | None = None
    multiply: Numbers | None = None


def read_lane(memory: AddressSpace, lane: Lane, channels: int, integer: bool, task: str) -> LaneValues:
    """The operands of BS or BN (S-17, S-156, F-61)."""
    what = f"{task}: {lane.name} operands"
    if lane.use == RECORD:
        if not integer:
            raise SimulatorError(f"{task}: {lane.name} records of several operands: integers only (S-157, F-119)")
        records = -(-channels // RECORD_CHANNELS)
        raw = memory.bytes(lane.address, records * RECORD_BYTES, what).reshape(records, RECORD_BYTES)
        add = np.ascontiguousarray(raw[:, :32]).view(np.int32)
        pend, multiply = (np.ascontiguousarray(raw[:, at : at + 16]).view(np.int16) for at in (32, 48))
        return LaneValues(*(part.astype(np.int64).reshape(-1)[:channels] for part in (add, pend, multiply)))
    if lane.use == USE_ADD:
        dtype = np.dtype(np.int32 if integer else np.float32)
        values = memory.strided(lane.address, (channels,), (4,), dtype, what)
        return LaneValues(add=values.astype(np.int64 if integer else np.float32))
    if lane.use == USE_MULTIPLY:
        if integer or (channels > 8 and channels % 8):
            raise SimulatorError(f"{task}: {lane.name} multipliers alone: fp16, up to 8 or whole 8 channels (S-156)")
        halves = memory.strided(lane.address, (channels,), (2,), np.dtype(np.float16), what)
        return LaneValues(multiply=halves.astype(np.float32))
    return LaneValues()
