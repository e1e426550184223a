"""DPU: the post-processor. Registers to a plan of its stages BS -> BN -> EW (with the tables) -> OUT_CVT -> writer.

The arithmetic of the stages is in ``stages``, the tables in ``lookup``, the writer in ``writer``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from delegate.hw.regs import DPU, DPU_RDMA
from delegate.hw.sim import settings, writer
from delegate.hw.sim.core import Core
from delegate.hw.sim.dpu_rdma import OPERAND_BITS, USE_ADD, USE_MULTIPLY, USE_PEND, Reader
from delegate.hw.sim.lookup import Tables, decode_tables
from delegate.hw.sim.options import Options
from delegate.hw.sim.precision import DPU_CODE, FORMATS, INT8, Format, Precision
from delegate.hw.sim.registers import TaskRegisters

MAX, MIN, ADD, DIVIDE, SUBTRACT, ABSOLUTE, NEGATE, FLOOR, CEIL = range(9)  # ALU codes (S-110)
ALGORITHMS = ("max", "min", "add", "div", "minus", "abs", "neg", "floor", "ceil")
Source = Literal["register", "memory"]


@dataclass(frozen=True)
class Scaling:
    """BS or BN. BS adds, then multiplies; BN multiplies, then adds (S-154). None: that part is bypassed."""

    name: str
    algorithm: int | None
    alu_source: Source
    alu_operand: int  # 32 bits
    multiply: bool
    multiply_source: Source
    multiply_operand: int  # 16 bits
    shift: int  # of products >= 0
    shift_negative: int  # of products < 0 (S-22)
    prelu: bool  # multiply negatives only
    relu: bool
    relux: int | None  # 32 bits, upper clamp


@dataclass(frozen=True)
class Pend:
    """CPEND: weight zero point times the sum of the input window (S-24)."""

    source: Source
    factor: int


@dataclass(frozen=True)
class Elementwise:
    """EW: one operation with an operand."""

    algorithm: int | None  # ALU code, None: multiply
    source: Source
    operands: tuple[int, ...]  # eight of 32 bits, for source register
    convert: bool
    add_first: bool
    away_from_zero: bool
    offset: int
    scale: int
    shift: int
    relu: bool
    relux: int | None


@dataclass(frozen=True)
class Output:
    """OUT_CVT."""

    format: Format
    scale: int
    shift: int
    offset: int
    away_from_zero: bool
    add_first: bool  # CVT_TYPE: only in the float path (S-07, S-15)
    minus_exp: int


@dataclass(frozen=True)
class Dpu:
    """The DPU's plan of a task; true sizes."""

    flying: bool
    integer: bool
    input: Format
    process: Format
    width: int
    height: int
    channels: int
    scale: Scaling | None  # BS
    pend: Pend | None
    norm: Scaling | None  # BN
    elementwise: Elementwise | None
    tables: Tables | None
    output: Output
    writer: writer.Writer
    options: Options


def decode(
    regs: TaskRegisters, core: Core | None, precision: Precision | None, depthwise: bool, options: Options
) -> Dpu:
    """The plan; ``core`` and ``precision`` are None for a task without convolution. Raises SimulatorError."""
    flying = core is None
    table = not regs[DPU.EW_CFG]["ew_lut_bypass"] and not regs[DPU.EW_CFG]["ew_bypass"]
    settings.check_dpu(regs, table)
    _check_mode(regs, flying, depthwise)
    given, process, out = _formats(regs, precision)
    width, height = regs[DPU.DATA_CUBE_WIDTH]["width"] + 1, regs[DPU.DATA_CUBE_HEIGHT]["height"] + 1
    channels = regs[DPU.DATA_CUBE_CHANNEL]["channel"] + 1
    if core is not None:
        sizes = (
            (width, core.width, DPU.DATA_CUBE_WIDTH),
            (height, core.height, DPU.DATA_CUBE_HEIGHT),
            (channels, core.channels, DPU.DATA_CUBE_CHANNEL),
        )
        for got, want, register in sizes:
            regs.require(got == want, register, got, f"the CORE's {want}")
    _check_lanes(regs, channels, flying)
    dpu = Dpu(
        flying=flying,
        integer=process.integer,
        input=given,
        process=process,
        width=width,
        height=height,
        channels=channels,
        scale=_scaling(regs, "bs"),
        pend=_pend(regs, core, precision),
        norm=_scaling(regs, "bn"),
        elementwise=_elementwise(regs, process),
        tables=decode_tables(regs, process.integer, options) if table else None,
        output=_output(regs, out),
        writer=writer.decode(regs, width, height, channels, out, core, precision, depthwise, options),
        options=options,
    )
    _check_formats(regs, dpu, precision, core)
    if dpu.tables is not None and dpu.integer:
        limit = "int8: a table on other integers is not known (F-120)"
        regs.require(process.name == "int8", DPU.DATA_FORMAT, f"proc {process.name}", limit)
        limit = "bypassed: beside a table on integers BN pins the lookup at the join (S-221)"
        regs.require(dpu.norm is None, DPU.BN_CFG, hex(regs.value(DPU.BN_CFG)), limit)
    return dpu


def _check_mode(regs: TaskRegisters, flying: bool, depthwise: bool) -> None:
    mode = regs[DPU.FEATURE_MODE_CFG]
    limit = "1 exactly for tasks that fire no CORE"
    regs.require(bool(mode["flying_mode"]) == flying, DPU.FEATURE_MODE_CFG, f"flying_mode {mode['flying_mode']}", limit)
    match = mode["conv_mode"] == (3 if depthwise else 0)  # F-118
    regs.require(match, DPU.FEATURE_MODE_CFG, f"conv_mode {mode['conv_mode']}", "the CNA's")
    limit = "2: to memory; the way to the PPU is not known to work (S-180)"
    regs.require(mode["output_mode"] == 2, DPU.FEATURE_MODE_CFG, f"output_mode {mode['output_mode']}", limit)


def _formats(regs: TaskRegisters, precision: Precision | None) -> tuple[Format, Format, Format]:
    """Input, arithmetic and output format (S-61)."""
    form = regs[DPU.DATA_FORMAT]
    given, process, out = (FORMATS.get(form[f"{which}_precision"]) for which in ("in", "proc", "out"))
    if given is None or process is None or out is None:
        raise regs.refuse(DPU.DATA_FORMAT, hex(regs.value(DPU.DATA_FORMAT)), "precision codes 0 to 6 (S-61)")
    value = f"in {given.name}, proc {process.name}"
    if precision is not None:
        code = DPU_CODE[precision.code]
        regs.require(given.code == code == process.code, DPU.DATA_FORMAT, value, f"the CORE's {precision.name}")
    else:
        regs.require(
            given is process, DPU.DATA_FORMAT, value, "the same: the whole bundle is of one type (S-106, F-114)"
        )
    return given, process, out


def _check_lanes(regs: TaskRegisters, channels: int, flying: bool) -> None:
    original = regs[DPU.DATA_CUBE_CHANNEL]["orig_channel"] + 1
    limit = f"CHANNEL {channels}: otherwise only lane 0 of each atom is right (S-109, F-83)"
    regs.require(original == channels or not flying, DPU.DATA_CUBE_CHANNEL, f"orig_channel {original}", limit)
    limit = f"at most CHANNEL {channels}"
    regs.require(original <= channels, DPU.DATA_CUBE_CHANNEL, f"orig_channel {original}", limit)


def _scaling(regs: TaskRegisters, prefix: str) -> Scaling | None:
    name = prefix.upper()
    config = regs[getattr(DPU, f"{name}_CFG")]
    if config[f"{prefix}_bypass"]:
        return None
    adds, multiplies = not config[f"{prefix}_alu_bypass"], not config[f"{prefix}_mul_bypass"]
    relu = not config[f"{prefix}_relu_bypass"]
    algorithm = config[f"{prefix}_alu_algo"] if adds else None
    if algorithm is not None and algorithm not in (MAX, MIN, ADD, SUBTRACT):
        raise regs.refuse(getattr(DPU, f"{name}_CFG"), f"alu_algo {algorithm}", "0 max, 1 min, 2 add or 4 minus")
    multiplier = regs[getattr(DPU, f"{name}_MUL_CFG")] if multiplies else None
    if multiplier is not None and multiplier[f"{prefix}_truncate_src"]:
        raise regs.refuse(getattr(DPU, f"{name}_MUL_CFG"), "truncate_src 1", "0: shifts from memory are not known")
    limited = relu and config[f"{prefix}_relux_en"]
    from_memory = adds and config[f"{prefix}_alu_src"]
    return Scaling(
        name=name,
        algorithm=algorithm,
        alu_source="memory" if from_memory else "register",
        alu_operand=regs[getattr(DPU, f"{name}_ALU_CFG")][f"{prefix}_alu_operand"] if adds and not from_memory else 0,
        multiply=multiplies,
        multiply_source="memory" if multiplier and multiplier[f"{prefix}_mul_src"] else "register",
        multiply_operand=multiplier[f"{prefix}_mul_operand"] if multiplier else 0,
        shift=multiplier[f"{prefix}_mul_shift_value"] if multiplier else 0,
        shift_negative=regs[DPU.DATA_FORMAT][f"{prefix}_mul_shift_value_neg"],
        prelu=bool(multiplies and config[f"{prefix}_mul_prelu"]),
        relu=relu,
        relux=regs[getattr(DPU, f"{name}_RELUX_CMP_VALUE")][f"{prefix}_relux_cmp_dat"] if limited else None,
    )


def _pend(regs: TaskRegisters, core: Core | None, precision: Precision | None) -> Pend | None:
    """CPEND, if it is active. Only int8 convolutions written as int8 are known to have it (S-24, S-26, S-28, F-64)."""
    config = regs[DPU.BS_OW_CFG]
    if core is None or precision is None or config["od_bypass"]:
        return None
    factor = regs[DPU.BS_OW_OP]["ow_op"]
    if not precision.integer:
        regs.require(factor in (0, 128), DPU.BS_OW_OP, factor, "0 or 128 in a float format, without effect (S-28)")
        regs.require(not config["ow_src"], DPU.BS_OW_CFG, "ow_src 1", "0 in a float format")
        return None
    raw = regs[DPU.DATA_FORMAT]["out_precision"] != 0 or precision is not INT8
    if raw:  # seen only with no zero point (C-21)
        limit = "0 unless int8 is written: CPEND is wrong on the raw writer (S-26)"
        regs.require(factor == 0 and not config["ow_src"], DPU.BS_OW_OP, factor, limit)
        return None
    return Pend("memory" if config["ow_src"] else "register", factor)


def _elementwise(regs: TaskRegisters, process: Format) -> Elementwise | None:
    config = regs[DPU.EW_CFG]
    if config["ew_bypass"]:
        return None
    regs.require_zero(DPU.EW_CFG, "ew_binary_en", "ew_mul_prelu")
    relu = not config["ew_relu_bypass"]
    relux = regs[DPU.EW_RELUX_CMP_VALUE]["ew_relux_cmp_dat"] if relu and config["ew_relux_en"] else None
    if config["ew_op_bypass"]:
        return None if not relu else _no_operation(relu, relux)
    multiply, algorithm = bool(config["ew_op_type"]), config["ew_alu_algo"]
    if not config["ew_lut_bypass"]:
        _check_beside_table(regs, multiply, algorithm)
        return None
    integers = (MAX, MIN, ADD, SUBTRACT, ABSOLUTE, NEGATE)
    known = multiply or (algorithm in integers if process.integer else algorithm <= CEIL)
    limit = f"{', '.join(ALGORITHMS)} (0 to 8); integers have no div, floor, ceil (S-163)"
    regs.require(known, DPU.EW_CFG, f"alu_algo {algorithm}", limit)
    convert = not config["ew_op_cvt_bypass"]
    if not process.integer and config["ew_op_src"]:
        regs.require(not (multiply and convert), DPU.EW_CFG, "op_cvt_bypass 0", "1 for a float multiply (S-109)")
        wrong = not multiply and algorithm == ADD and not convert
        regs.require(not wrong, DPU.EW_CFG, "op_cvt_bypass 1", "0 for a float add, or half passes through (S-109)")
    scale = regs[DPU.EW_CVT_SCALE_VALUE] if convert else {"ew_op_cvt_scale": 1, "ew_op_cvt_shift": 0, "ew_truncate": 0}
    offset = regs[DPU.EW_CVT_OFFSET_VALUE]["ew_op_cvt_offset"] if convert and process.integer else 0
    regs.require(scale["ew_truncate"] == 0, DPU.EW_CVT_SCALE_VALUE, f"ew_truncate {scale['ew_truncate']}", "0")
    factor = _signed16(scale["ew_op_cvt_scale"])
    if not process.integer:
        plain = factor in (0, 1) and scale["ew_op_cvt_shift"] == 0
        regs.require(plain, DPU.EW_CVT_SCALE_VALUE, factor, "1 without shift in a float format: others are not known")
    from_memory = bool(config["ew_op_src"])
    operands = () if from_memory else _operands(regs, process)
    return Elementwise(
        None if multiply else algorithm,
        "memory" if from_memory else "register",
        operands,
        convert and process.integer,
        bool(config["ew_cvt_type"]),
        bool(config["ew_cvt_round"]),
        offset,
        factor,
        scale["ew_op_cvt_shift"],
        relu,
        relux,
    )


def _operands(regs: TaskRegisters, process: Format) -> tuple[int, ...]:
    """The eight operands that registers hold; int8: how many bits are read is not known (F-84)."""
    registers = [getattr(DPU, f"EW_OP_VALUE_{lane}") for lane in range(8)]
    values = tuple(regs[register][f"ew_operand_{lane}"] for lane, register in enumerate(registers))
    for register, value in zip(registers, values, strict=True):
        signed = _signed16(value & 0xFFFF)
        limit = "a number of int8: how many bits an int8 task reads is not known"
        regs.require(process.name != "int8" or -128 <= signed < 128, register, hex(value), limit)
    return values


def _check_beside_table(regs: TaskRegisters, multiply: bool, algorithm: int) -> None:
    """Streams leave the operation at max(., 0) beside a live table, without effect on the negative side (F-92)."""
    idle = not multiply and algorithm == MAX and not regs[DPU.EW_CFG]["ew_op_src"]
    idle = idle and not any(regs[getattr(DPU, f"EW_OP_VALUE_{lane}")][f"ew_operand_{lane}"] for lane in range(8))
    limit = "bypassed, or max with 0 from the register: nothing else is known beside a table"
    regs.require(idle, DPU.EW_CFG, hex(regs.value(DPU.EW_CFG)), limit)


def _no_operation(relu: bool, relux: int | None) -> Elementwise:
    """EW with its operation bypassed: only the ReLU is left; max with itself would be the same."""
    return Elementwise(None, "register", (), False, False, False, 0, 1, 0, relu, relux)


def _signed16(value: int) -> int:
    return value - 0x10000 if value & 0x8000 else value


def _output(regs: TaskRegisters, out: Format) -> Output:
    scale, shift = regs[DPU.OUT_CVT_SCALE], regs[DPU.OUT_CVT_SHIFT]
    narrow = bool(scale["fp32tofp16_en"])
    limit = "0 unless fp16 is written (npu.md §5.5)"
    regs.require(out.name == "fp16" or not narrow, DPU.OUT_CVT_SCALE, "fp32tofp16_en 1", limit)
    if out.name == "fp16" and not narrow:  # a program that passes leaves it 0 (F-78)
        regs.warn("DPU.OUT_CVT_SCALE.fp32tofp16_en = 0 though fp16 is written")
    return Output(
        out,
        scale["out_cvt_scale"],
        shift["out_cvt_shift"],
        regs[DPU.OUT_CVT_OFFSET]["out_cvt_offset"],
        bool(shift["cvt_round"]),
        bool(shift["cvt_type"]),
        shift["minus_exp"],
    )


def _check_formats(regs: TaskRegisters, dpu: Dpu, precision: Precision | None, core: Core | None) -> None:
    """Which formats may be written from which (npu.md §5.6, C-21, F-77), and what the float converter can do."""
    out = dpu.output
    if not dpu.integer:
        known = out.format.name in ("fp16", "fp32", "bf16") or (dpu.norm is not None and out.format.name == "int16")
        regs.require(known, DPU.DATA_FORMAT, f"out {out.format.name}", "fp16 or fp32 from a float format")
        plain = out.scale in (0, 1) and out.offset == 0 and out.minus_exp == 0
        if out.shift or not (out.add_first or plain):  # evaluated by the fields' names (F-79)
            regs.warn("DPU.OUT_CVT scales floats with CVT_TYPE 0 or a shift: not measured")
        return
    if core is not None and precision is not None:
        pairs = {("int8", "int8"), ("int8", "int32"), ("int8", "fp32"), ("int16", "int32"), ("int4", "int16")}
        pair = (precision.name, out.format.name)
        regs.require(pair in pairs, DPU.DATA_FORMAT, " to ".join(pair), "a pair that is known to work (S-52 to S-60)")
        if pair == ("int8", "int8"):
            limit = "QD_EN 1 when int8 is written (S-186)"
            regs.require(core.quantized, DPU.DATA_FORMAT, "QD_EN 0", limit)


def check_operands(regs: TaskRegisters, dpu: Dpu, reader: Reader | None) -> None:
    """What the stages take from memory must be fetched, and the sizes must agree (S-114)."""
    scale_use = reader.scale_lane.use if reader else 0
    norm_use = reader.norm_lane.use if reader else 0
    wanted = []
    if dpu.scale:
        wanted += [("BS addend", dpu.scale.alu_source, scale_use & USE_ADD, DPU.BS_CFG)]
        wanted += [("BS multiplier", dpu.scale.multiply_source, scale_use & USE_MULTIPLY, DPU.BS_MUL_CFG)]
    if dpu.pend:
        wanted += [("CPEND factor", dpu.pend.source, scale_use & USE_PEND, DPU.BS_OW_CFG)]
    if dpu.norm:
        wanted += [("BN addend", dpu.norm.alu_source, norm_use & USE_ADD, DPU.BN_CFG)]
        wanted += [("BN multiplier", dpu.norm.multiply_source, norm_use & USE_MULTIPLY, DPU.BN_MUL_CFG)]
    operand = reader.operand if reader else None
    if dpu.elementwise:
        wanted += [("EW operand", dpu.elementwise.source, operand is not None, DPU.EW_CFG)]
    for what, source, there, register in wanted:
        if source == "memory" and not there:
            limit = f"{what} from memory, but DPU_RDMA does not fetch it: the task never completes (S-114)"
            raise regs.refuse(register, hex(regs.value(register)), limit)
    if scale_use & USE_MULTIPLY and not dpu.scale:
        regs.warn("BRDMA multipliers are fetched with BS bypassed: spoils the next job (C-27)")
    if reader is None:
        return
    _check_reader(regs, dpu, reader)


def _check_reader(regs: TaskRegisters, dpu: Dpu, reader: Reader) -> None:
    for got, want, register in (
        (reader.width, dpu.width, DPU.DATA_CUBE_WIDTH),
        (reader.height, dpu.height, DPU.DATA_CUBE_HEIGHT),
        (reader.channels, dpu.channels, DPU.DATA_CUBE_CHANNEL),
    ):
        regs.require(got == want, register, want, f"DPU_RDMA's {got}")
    if reader.main:
        limit = f"DPU_RDMA's {reader.main.format.name}"
        regs.require(reader.main.format is dpu.input, DPU.DATA_FORMAT, f"in {dpu.input.name}", limit)
    if reader.main or reader.operand:
        code = regs[DPU_RDMA.RDMA_FEATURE_MODE_CFG]["proc_precision"]
        limit = f"the DPU's {dpu.process.code} (S-106)"
        regs.require(code == dpu.process.code, DPU_RDMA.RDMA_FEATURE_MODE_CFG, f"proc_precision {code}", limit)
    config = regs[DPU.EW_CFG]
    if not (dpu.elementwise and dpu.elementwise.source == "memory" and reader.operand):
        return
    bits, operand = OPERAND_BITS.get(config["edata_size"]), reader.operand
    limit = f"DPU_RDMA's {operand.format.bits} bits"
    regs.require(bits == operand.format.bits, DPU.EW_CFG, f"edata_size {config['edata_size']}", limit)
    limit = f"DPU_RDMA's {int(operand.per_pixel)}"
    regs.require(config["ew_data_mode"] == operand.per_pixel, DPU.EW_CFG, f"data_mode {config['ew_data_mode']}", limit)
    surfaces, pitch = -(-reader.channels // operand.format.atom), operand.surface_pitch
    limit = f"not 0: {surfaces} surfaces need a stride (S-160)"
    regs.require(surfaces == 1 or pitch > 0, DPU_RDMA.RDMA_EW_SURF_STRIDE, pitch, limit)
