"""CNA, the convolution front end: what it fetches, converts, pads and keeps in the CBUF.

Decoding (``decode``) turns registers into a plan and checks every contract; the reading itself is in ``fetch``.
"""

from __future__ import annotations

from dataclasses import dataclass

from delegate.hw.regs import CNA
from delegate.hw.sim import settings
from delegate.hw.sim.options import USUAL, Options
from delegate.hw.sim.precision import INT8, INT16, PRECISIONS, Precision
from delegate.hw.sim.registers import TaskRegisters
from delegate.hw.soc import RK3588, Soc

LINE_GROUP = 4  # lines that one LINE_STRIDE spans unless GROUP_LINE_OFF (npu.md §3.2)
DECONVOLUTION_FACTOR = {0: 1, 1: 2, 3: 4, 7: 8}  # only these codes act (S-140)


@dataclass(frozen=True)
class Converter:
    """The input converter: per channel lane, multiply, shift and add (npu.md §3.3)."""

    add_first: bool
    away_from_zero: bool
    scale: tuple[int, int, int, int]
    offset: tuple[int, int, int, int]
    shift: tuple[int, int, int, int]
    enabled: int  # bit per lane


@dataclass(frozen=True)
class Features:
    """The feature window that is fetched; pitches in bytes."""

    precision: Precision
    address: int
    width: int  # pixels that are fetched
    declared_width: int  # DATAIN_WIDTH; what lies between the two is undefined
    height: int
    channels: int
    row_pitch: int
    surface_pitch: int
    pixel_channels: int  # interleaved channels of pixel input, 0 for a cube
    signed: bool
    converter: Converter | None
    reuse: bool
    banks: int
    geometry: tuple[int, ...]  # what must be the same for reuse to be sound

    @property
    def surfaces(self) -> int:
        return -(-self.channels // self.precision.atom)


@dataclass(frozen=True)
class Window:
    """How the kernel moves over the features."""

    kernel: tuple[int, int]  # height, width
    stride: tuple[int, int]  # y, x
    dilation: tuple[int, int]  # distance of taps
    padding: tuple[int, int]  # top, left
    upsampling: tuple[int, int]  # deconvolution factor, 1 without
    pad_value: int  # 32 bits, byte lanes


@dataclass(frozen=True)
class Weights:
    """The kernels that are fetched."""

    precision: Precision
    address: int
    size: int  # bytes
    kernels: int  # 1 for depthwise
    kernel: tuple[int, int]  # height, width
    channels: int  # as stored in one kernel
    depthwise: bool
    reuse: bool
    banks: int
    resident: bool  # all of it fits the weight banks, so that a later task may reuse it


@dataclass(frozen=True)
class Front:
    """Everything CNA does in one task."""

    features: Features
    window: Window
    weights: Weights
    output_width: int
    output_atoms: int  # pixels


def decode(regs: TaskRegisters, soc: Soc = RK3588, options: Options = USUAL) -> Front:
    """The CNA's plan of a task; raises SimulatorError where the silicon would hang, fault or compute garbage (F-22)."""
    settings.check_cna(regs)
    mode = regs[CNA.CONV_CON1]
    precision = PRECISIONS.get(mode["in_precision"])
    if precision is None or mode["proc_precision"] != mode["in_precision"]:
        limit = "both precisions must be one of " + ", ".join(f"{p.code} {p.name}" for p in PRECISIONS.values())
        raise regs.refuse(CNA.CONV_CON1, f"in {mode['in_precision']}, proc {mode['proc_precision']}", limit)
    regs.require(mode["conv_mode"] in (0, 3), CNA.CONV_CON1, f"conv_mode {mode['conv_mode']}", "0 or 3")
    front = Front(
        _features(regs, precision, options),
        _window(regs),
        _weights(regs, precision, mode["conv_mode"] == 3, soc),
        regs[CNA.DATA_SIZE2]["dataout_width"],
        regs[CNA.DATA_SIZE3]["dataout_atomics"],
    )
    _check_channels(regs, front)
    _check_cbuf(regs, front, soc, options)
    return front


def _features(regs: TaskRegisters, precision: Precision, options: Options) -> Features:
    mode, size, dma = regs[CNA.CONV_CON1], regs[CNA.DATA_SIZE0], regs[CNA.FC_DATA_SIZE0]
    width, height, channels = size["datain_width"], size["datain_height"], regs[CNA.DATA_SIZE1]["datain_channel"]
    for value, label in ((width, "width"), (height, "height")):
        regs.require(value > 0, CNA.DATA_SIZE0, f"{label} {value}", "at least 1")
    regs.require(channels > 0, CNA.DATA_SIZE1, f"datain_channel {channels}", "at least 1")
    fetched_width = dma["dma_width"]
    limit = f"1 to DATAIN_WIDTH {width}"
    regs.require(0 < fetched_width <= width, CNA.FC_DATA_SIZE0, f"width {fetched_width}", limit)
    pixel = _pixel_channels(regs)
    line, surface = regs[CNA.DMA_CON1]["line_stride"], regs[CNA.DMA_CON2]["surf_stride"]
    group = 1 if mode["group_line_off"] else LINE_GROUP
    if pixel:  # LINE_STRIDE counts pixels (F-27)
        row_pitch, surface_pitch = line * pixel * precision.bits // 8, 0
    else:
        regs.require(line % group == 0, CNA.DMA_CON1, line, f"a multiple of {group} in line groups")
        if options.low_height == "0":  # a stride without a sign (C-23)
            surface = max(0, surface)
        row_pitch, surface_pitch = 16 * (line // group), 16 * (group * fetched_width + surface)
        if options.part_of_row == "width":  # F-127
            row_pitch = 16 * fetched_width
    height_limit = f"DATAIN_HEIGHT {height}"
    regs.require(dma["dma_height"] == height, CNA.FC_DATA_SIZE0, f"height {dma['dma_height']}", height_limit)
    fetched = regs[CNA.FC_DATA_SIZE1]["dma_channel"]
    regs.require(fetched == channels, CNA.FC_DATA_SIZE1, f"channel {fetched}", f"DATAIN_CHANNEL {channels}")
    settings.check_aligned(regs, CNA.FEATURE_DATA_ADDR)
    split, convert = regs[CNA.CBUF_CON0], regs[CNA.CVT_CON0]
    signed = bool(convert["data_sign"]) or bool(pixel) or precision is INT16 or not precision.integer
    limit = "1: features of a cube are signed (F-110)"
    regs.require(signed, CNA.CVT_CON0, f"data_sign {convert['data_sign']}", limit)
    geometry = tuple(
        regs.value(r)
        for r in (CNA.CONV_CON1, CNA.DATA_SIZE0, CNA.DATA_SIZE1, CNA.CBUF_CON1, CNA.DMA_CON1, CNA.DMA_CON2)
    )
    return Features(
        precision=precision,
        address=regs[CNA.FEATURE_DATA_ADDR]["feature_base_addr"],
        width=width if pixel else fetched_width,  # rows of pixels are read whole (F-27)
        declared_width=width,
        height=height,
        channels=channels,
        row_pitch=row_pitch,
        surface_pitch=surface_pitch,
        pixel_channels=pixel,
        signed=bool(convert["data_sign"]),
        converter=None if convert["cvt_bypass"] else _converter(regs),
        reuse=bool(split["data_reuse"]),
        banks=split["data_bank"],
        geometry=(*geometry, split["data_bank"]),
    )


def _pixel_channels(regs: TaskRegisters) -> int:
    """Interleaved channels of pixel input, 0 for a cube (npu.md §3.3)."""
    mode = regs[CNA.CONV_CON1]
    argb = mode["argb_in"]
    if not argb:
        regs.require(not mode["nonalign_dma"], CNA.CONV_CON1, "nonalign_dma without argb_in", "a known mode")
        return 0
    regs.require(8 <= argb <= 11, CNA.CONV_CON1, f"argb_in {argb}", "8 to 11: 1 to 4 channels")
    both = mode["nonalign_dma"] and mode["group_line_off"]
    regs.require(bool(both), CNA.CONV_CON1, "argb_in", "NONALIGN_DMA and GROUP_LINE_OFF set with it")
    lanes = regs[CNA.CVT_CON5]["per_channel_cvt_en"]
    wanted = (1 << (argb - 7)) - 1
    regs.require(lanes & wanted == wanted, CNA.CVT_CON5, hex(lanes), f"a lane enabled for each channel: {wanted:#x}")
    return argb - 7


def _converter(regs: TaskRegisters) -> Converter:
    control = regs[CNA.CVT_CON0]
    pairs = [regs[getattr(CNA, f"CVT_CON{lane + 1}")] for lane in range(4)]
    return Converter(
        add_first=bool(control["cvt_type"]),
        away_from_zero=bool(control["round_type"]),
        scale=tuple(_signed16(pair[f"cvt_scale{lane}"]) for lane, pair in enumerate(pairs)),  # type: ignore[arg-type]
        offset=tuple(pair[f"cvt_offset{lane}"] for lane, pair in enumerate(pairs)),  # type: ignore[arg-type]
        shift=tuple(control[f"cvt_truncate_{lane}"] for lane in range(4)),  # type: ignore[arg-type]
        enabled=regs[CNA.CVT_CON5]["per_channel_cvt_en"],
    )


def _signed16(value: int) -> int:
    return value - 0x10000 if value & 0x8000 else value


def _window(regs: TaskRegisters) -> Window:
    size, steps, pads = regs[CNA.WEIGHT_SIZE2], regs[CNA.CONV_CON3], regs[CNA.PAD_CON0]
    kernel = (size["weight_height"], size["weight_width"])
    stride = (steps["conv_y_stride"], steps["conv_x_stride"])
    regs.require(min(kernel) > 0, CNA.WEIGHT_SIZE2, kernel, "at least 1 x 1")
    regs.require(min(stride) > 0, CNA.CONV_CON3, stride, "a stride of at least 1")
    upsampling = (1, 1)
    if regs[CNA.CONV_CON1]["deconv"]:  # with the bit clear the codes are ignored (S-140, F-40)
        codes = (steps["deconv_y_stride"], steps["deconv_x_stride"])
        known = all(code in DECONVOLUTION_FACTOR for code in codes)
        regs.require(known, CNA.CONV_CON3, f"deconvolution codes {codes}", "0, 1, 3 or 7: others do not act (S-140)")
        regs.require(stride == (1, 1), CNA.CONV_CON3, stride, "stride 1 with deconvolution (S-140)")
        upsampling = (DECONVOLUTION_FACTOR[codes[0]], DECONVOLUTION_FACTOR[codes[1]])
        deep = (upsampling[0] == 2 and pads["pad_top"] >= 12) or (upsampling[1] == 2 and pads["pad_left"] >= 12)
        regs.require(not deep, CNA.PAD_CON0, pads, "below 12 at factor 2: unexplained results above (S-142)")
    return Window(
        kernel=kernel,
        stride=stride,
        dilation=(steps["atrous_y_dilation"] + 1, steps["atrous_x_dilation"] + 1),
        padding=(pads["pad_top"], pads["pad_left"]),
        upsampling=upsampling,
        pad_value=regs[CNA.PAD_CON1]["pad_value"],
    )


def _weights(regs: TaskRegisters, precision: Precision, depthwise: bool, soc: Soc) -> Weights:
    size, split = regs[CNA.WEIGHT_SIZE2], regs[CNA.CBUF_CON0]
    kernel = (size["weight_height"], size["weight_width"])
    kernels, channels = size["weight_kernels"], regs[CNA.DATA_SIZE1]["datain_channel"]
    regs.require(kernels > 0, CNA.WEIGHT_SIZE2, f"weight_kernels {kernels}", "at least 1")
    regs.require(kernels == 1 or not depthwise, CNA.WEIGHT_SIZE2, f"weight_kernels {kernels}", "1 for depthwise")
    per_kernel = kernel[0] * kernel[1] * channels * precision.bits // 8
    total = regs[CNA.WEIGHT_SIZE0]["weight_bytes"]
    regs.require(total == per_kernel * kernels, CNA.WEIGHT_SIZE0, total, f"{kernels} kernels of {per_kernel} bytes")
    stated = regs[CNA.WEIGHT_SIZE1]["weight_bytes_per_kernel"]
    if stated != per_kernel:  # it does not lay out the weights (C-19)
        regs.warn(f"CNA.WEIGHT_SIZE1 = {stated}, a kernel has {per_kernel} bytes")
    settings.check_aligned(regs, CNA.DCOMP_ADDR0)
    capacity = split["weight_bank"] * soc.cbuf_bank_bytes
    group = per_kernel * min(kernels, precision.kernel_group)
    limit = f"a kernel group of {group} bytes must fit the {capacity} bytes of {split['weight_bank']} weight banks"
    regs.require(group <= capacity, CNA.CBUF_CON0, f"weight_bank {split['weight_bank']}", limit)
    return Weights(
        precision=precision,
        address=regs[CNA.DCOMP_ADDR0]["decompress_addr0"],
        size=total,
        kernels=kernels,
        kernel=kernel,
        channels=channels,
        depthwise=depthwise,
        reuse=bool(split["weight_reuse"]),
        banks=split["weight_bank"],
        resident=total <= capacity,
    )


def _check_channels(regs: TaskRegisters, front: Front) -> None:
    """Whole channel atoms, where cubes are read (F-24); depthwise formats that are known (F-25)."""
    features, precision = front.features, front.features.precision
    if front.weights.depthwise:
        known = precision.depthwise_group > 0
        regs.require(known, CNA.CONV_CON1, f"depthwise {precision.name}", "int8 or fp16: no other is known")
    if features.pixel_channels:
        limit = f"{precision.atom}: pixels fill one atom (F-27)"
        regs.require(features.channels == precision.atom, CNA.DATA_SIZE1, features.channels, limit)
    whole = features.channels % precision.atom == 0
    limit = f"a multiple of {precision.atom} ({precision.name} channels of an atom)"
    regs.require(whole, CNA.DATA_SIZE1, features.channels, limit)


def _check_cbuf(regs: TaskRegisters, front: Front, soc: Soc, options: Options) -> None:
    """Bank split, DATA_ENTRIES, and room for the rows of the task (npu.md §4, F-32)."""
    split, features = regs[CNA.CBUF_CON0], front.features
    regs.require_zero(CNA.CBUF_CON0, "fc_data_bank", why="other values corrupt the features (S-77)")
    data, weight = split["data_bank"], split["weight_bank"]
    fits = data + weight <= soc.cbuf_banks and data > 0 and weight > 0
    limit = f"at least 1 each and at most {soc.cbuf_banks} together"
    regs.require(fits, CNA.CBUF_CON0, f"data_bank {data}, weight_bank {weight}", limit)
    if features.pixel_channels:
        return  # how pixel rows lie in the CBUF is not known (F-28)
    entries = regs[CNA.CBUF_CON1]["data_entries"]
    unit = soc.cbuf_line_unit_bytes
    row_bytes = features.declared_width * features.channels * features.precision.bits // 8
    formula = -(-row_bytes // unit)
    atoms = features.surfaces
    rounded = -(-features.declared_width * (atoms + (atoms % 8 == 3)) * soc.atom_bytes // unit)  # 3 atoms take 4 (C-9)
    limit = f"{formula} units of {unit} bytes for a row of {row_bytes} bytes" + (
        f", or {rounded}" if rounded != formula else ""
    )
    right = {"either": (formula, rounded), "three": (formula,), "four": (rounded,)}[options.entries_of_three]
    regs.require(entries in right, CNA.CBUF_CON1, entries, limit)
    need, room = entries * unit * features.height, data * soc.cbuf_bank_bytes
    limit = f"{features.height} rows of {entries * unit} bytes must fit the {room} bytes of {data} data banks"
    regs.require(need <= room, CNA.CBUF_CON0, f"data_bank {data}", limit)
    _check_slack(regs, front, need, room, soc)
    if features.width == 1 and features.height < LINE_GROUP:  # F-41: S-69 against mtx and Mesa
        regs.warn(f"{features.height} rows of width 1: below {LINE_GROUP} rows wrong results were seen")


def _check_slack(regs: TaskRegisters, front: Front, need: int, room: int, soc: Soc) -> None:
    """An almost full last bank of int8 columns gives garbage in the last rows (S-73, S-74, F-36)."""
    features = front.features
    if features.precision is not INT8 or features.width != 1:
        return
    fill = (need % soc.cbuf_bank_bytes) / soc.cbuf_bank_bytes
    tight = need > room - soc.cbuf_bank_bytes and fill > 0.97
    limit = "one bank more: the last bank would be 97 to 100 % full, which gives garbage in the last rows (S-74)"
    regs.require(not tight, CNA.CBUF_CON0, f"data_bank {features.banks}", limit)
