"""The arithmetic of the DPU's stages on (pixels, channels): integers in int64, floats in single.

Order: BS, BN, EW with the tables, OUT_CVT (npu.md §5.3). Integers have 32 bits from stage to stage, also where a task
without convolution reads int8 (F-122). This is the plain model; ``fast`` is tested against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from delegate.errors import SimulatorError
from delegate.hw.sim import lookup
from delegate.hw.sim.dpu import (
    ABSOLUTE,
    ADD,
    CEIL,
    DIVIDE,
    FLOOR,
    MAX,
    MIN,
    NEGATE,
    SUBTRACT,
    Dpu,
    Elementwise,
    Output,
    Pend,
    Scaling,
)
from delegate.hw.sim.dpu_rdma import LaneValues
from delegate.hw.sim.lookup import Doubt
from delegate.hw.sim.numbers import (
    Floats,
    Ints,
    Numbers,
    Stored,
    bits_to_float,
    float_to_bfloat,
    half_to_float,
    round_by,
    round_shift,
    saturate,
    wrap,
)
from delegate.hw.sim.options import Options

INT32_MIN = -(1 << 31)


def signed(value: int, bits: int) -> int:
    """The low ``bits`` bits of a register as a signed number."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def pend_factor(stage: Pend, lane: LaneValues) -> Ints | np.int64:
    """CPEND's factor of the window sum, one value or (channels) (S-23, S-24)."""
    if stage.source == "register":
        return np.int64(stage.factor)
    assert lane.pend is not None
    return lane.pend


def scale_integer(values: Ints, stage: Scaling, lane: LaneValues, options: Options) -> Ints:
    """BS or BN on integers; the result is clamped to 32 bits (S-19 to S-22, F-62)."""
    if stage.name == "BN":
        if options.norm_order == "add first":
            return _clamp(_multiply_integer(_add_integer(values, stage, lane, options), stage, lane, options), stage)
        return _clamp(_add_integer(_multiply_integer(values, stage, lane, options), stage, lane, options), stage)
    values = _add_integer(values, stage, lane, options)
    if options.bs_clamp == "before the product":
        return _multiply_integer(_clamp(values, stage), stage, lane, options)
    return _clamp(_multiply_integer(values, stage, lane, options), stage, options.bs_clamp)


def _add_integer(values: Ints, stage: Scaling, lane: LaneValues, options: Options) -> Ints:
    if stage.algorithm is None:
        return values
    operand = lane.add if stage.alu_source == "memory" else np.int64(signed(stage.alu_operand, 32))
    assert operand is not None
    if stage.algorithm == MAX:
        return np.maximum(values, operand)
    if stage.algorithm == MIN:
        return np.minimum(values, operand)
    limit = wrap if options.addend_overflow == "wraps" else saturate  # F-65
    return limit(values + operand if stage.algorithm == ADD else values - operand, 32)


def _multiply_integer(values: Ints, stage: Scaling, lane: LaneValues, options: Options) -> Ints:
    if not stage.multiply:
        return values
    if stage.multiply_source == "memory":
        assert lane.multiply is not None
        factor: Ints | np.int64 = lane.multiply
    else:  # BN reads its register without sign (S-14, F-63)
        unsigned = stage.name == "BN"
        factor = np.int64(stage.multiply_operand if unsigned else signed(stage.multiply_operand, 16))
    product = values * factor
    rule, shift, negative = "even", stage.shift, stage.shift_negative
    if stage.name == "BN" and options.norm_shift == "no shift":
        shift = negative = 0
    elif stage.name == "BN" and options.norm_shift == "narrow":
        product = saturate(product, 32)
    elif stage.name == "BN":
        rule = options.norm_shift
    shifted = round_by(product, shift, rule)
    if negative != shift:
        shifted = np.where(product < 0, round_by(product, negative, rule), shifted)
    if stage.prelu and not (stage.name == "BS" and options.bs_prelu == "all"):
        negatives = values < 0 if stage.name == "BN" or options.bs_prelu == "negative ones" else False
        shifted = np.where(negatives, shifted, values)
    return saturate(shifted, 32)


def _clamp(values: Ints, stage: Scaling, reading: str = "behind the product") -> Ints:
    """ReLU and ReLUX in the accumulator's domain (npu.md §5.3; not measured on integers, F-75)."""
    if not stage.relu or reading == "nothing":
        return values
    values = np.maximum(values, 0)
    if stage.relux is None or reading == "no limit":
        return values
    if reading == "float limit":
        return np.minimum(values, np.int64(np.floor(np.clip(bits_to_float(stage.relux), 0, 2.0**31))))
    return np.minimum(values, signed(stage.relux, 32))


def scale_float(values: Floats, stage: Scaling, lane: LaneValues) -> Floats:
    """BS or BN in single precision (S-153 to S-156, F-76)."""
    if stage.name == "BN":
        values = _add_float(_multiply_float(values, stage, lane), stage, lane)
    else:
        values = _multiply_float(_add_float(values, stage, lane), stage, lane)
    if stage.relu:
        values = np.maximum(values, np.float32(0))
        if stage.relux is not None:
            values = np.minimum(values, bits_to_float(stage.relux))
    return values


def _add_float(values: Floats, stage: Scaling, lane: LaneValues) -> Floats:
    if stage.algorithm is None:
        return values
    operand = lane.add if stage.alu_source == "memory" else bits_to_float(stage.alu_operand)
    assert operand is not None
    if stage.algorithm == MAX:
        return np.maximum(values, operand)
    if stage.algorithm == MIN:
        return np.minimum(values, operand)
    return values + operand if stage.algorithm == ADD else values - operand


def _multiply_float(values: Floats, stage: Scaling, lane: LaneValues) -> Floats:
    if not stage.multiply:
        return values
    factor = lane.multiply if stage.multiply_source == "memory" else half_to_float(stage.multiply_operand)
    assert factor is not None
    product = values * factor
    return np.where(values < 0, product, values) if stage.prelu else product


def operand_register(stage: Elementwise, channels: int, integer: bool, bits: int, options: Options) -> Numbers:
    """The EW operand held in registers, (1, channels): lane c % 8 (S-152, F-84)."""
    first = bits == 8 and options.operand_register == "first"
    lanes = np.arange(channels) % (1 if first else len(stage.operands))
    if integer:
        width = 32 if bits == 32 else 16
        whole: Numbers = np.array([signed(v, width) for v in stage.operands], np.int64)[lanes][None]
        return whole
    halves = stage.algorithm is None  # a multiplier is half, an addend single
    values = [half_to_float(v & 0xFFFF) if halves else bits_to_float(v) for v in stage.operands]
    single: Numbers = np.array(values, np.float32)[lanes][None]
    return single


def convert_operand(operand: Ints, stage: Elementwise, options: Options) -> Ints:
    """The operand converter: (e + offset) * scale / 2**shift, or offset after it with CVT_TYPE 0.

    Ties to even like all other converters of the chip; nobody measured it (C-14, F-81). It stands before every
    operation, and takes operands of registers too (F-124).
    """
    sums = stage.algorithm in (ADD, SUBTRACT)
    if not stage.convert or (options.operand_conversion == "sums" and not sums):
        return operand
    offset = -stage.offset if options.operand_offset == "subtracted" else stage.offset
    value = operand + offset if stage.add_first else operand
    value = round_by(value * stage.scale, stage.shift, "away" if stage.away_from_zero else options.operand_rounding)
    value = value if stage.add_first else value + offset
    if options.operand_width == "32 bits":
        return saturate(value, 32)
    return wrap(value, 16) if options.operand_width == "wraps at 16 bits" else saturate(value, 16)


def combine_integer(values: Ints, operand: Ints | None, stage: Elementwise, bits: int) -> Ints:
    """EW on integers, clamped to 32 bits (S-107, S-162, F-80); products a channel behind a convolution too (F-131)."""
    if stage.algorithm is None:
        if operand is None:
            return values
        if bits == 32:  # the second factor is read as 16 bits
            operand = ((operand & 0xFFFF) ^ 0x8000) - 0x8000
        return saturate(values * operand, 32)
    if stage.algorithm in (ABSOLUTE, NEGATE):
        result = np.abs(values) if stage.algorithm == ABSOLUTE else -values
        return np.where(values == INT32_MIN, values, result)
    assert operand is not None
    if stage.algorithm == MAX:
        return np.maximum(values, operand)
    if stage.algorithm == MIN:
        return np.minimum(values, operand)
    if stage.algorithm == ADD:
        return saturate(values + operand, 32)
    assert stage.algorithm == SUBTRACT
    return np.where(operand == INT32_MIN, INT32_MIN, saturate(values - operand, 32))


def combine_float(values: Floats, operand: Floats | None, stage: Elementwise) -> Floats:
    """EW in single precision (S-108, S-163)."""
    unary: dict[int | None, Callable[..., Floats]] = {
        ABSOLUTE: np.abs,
        NEGATE: np.negative,
        FLOOR: np.floor,
        CEIL: np.ceil,
    }
    if stage.algorithm in unary:
        return unary[stage.algorithm](values)
    if operand is None:
        return values
    binary: dict[int | None, Callable[..., Floats]] = {
        None: np.multiply,
        MAX: np.maximum,
        MIN: np.minimum,
        ADD: np.add,
        SUBTRACT: np.subtract,
        DIVIDE: np.divide,
    }
    return binary[stage.algorithm](values, operand)


def relu_elementwise(values: Numbers, stage: Elementwise, integer: bool) -> Numbers:
    if stage.relu:
        values = np.maximum(values, values.dtype.type(0))
        if stage.relux is not None:
            values = np.minimum(values, signed(stage.relux, 32) if integer else bits_to_float(stage.relux))
    return values


def output_integer(values: Ints, output: Output) -> Stored:
    """OUT_CVT: multiply, round the shift, add the offset, saturate (S-01 to S-08, F-60)."""
    value = round_shift(values * output.scale, output.shift, output.away_from_zero) + output.offset
    kind = output.format
    if kind.integer and kind.bits >= 8:
        return saturate(value, kind.bits).astype({8: np.int8, 16: np.int16, 32: np.int32}[kind.bits])
    if kind.name == "fp32":  # an exact cast (S-12)
        return saturate(value, 32).astype(np.float32)
    raise SimulatorError(f"DPU.DATA_FORMAT out {kind.name} from integers: not known to work (S-12)")


def output_float(values: Floats, output: Output) -> Stored:
    """OUT_CVT in the float path: add, then scale (S-15); with CVT_TYPE 0 scale, then add, scale 0 being 1 (F-79)."""
    factor = np.float32(2.0 ** -(output.minus_exp + output.shift))
    if output.add_first:
        values = (values + np.float32(output.offset)) * factor * np.float32(output.scale)
    else:
        values = values * factor * np.float32(output.scale or 1) + np.float32(output.offset)
    name = output.format.name
    if name == "fp16":
        return values.astype(np.float16)
    if name == "bf16":
        return float_to_bfloat(values)
    if name == "int16":
        return np.clip(np.rint(np.nan_to_num(values)), -0x8000, 0x7FFF).astype(np.int16)
    return values


def run(
    values: Numbers,
    dpu: Dpu,
    scale_lane: LaneValues,
    norm_lane: LaneValues,
    operand: Numbers | None,
    doubt: Doubt,
) -> Stored:
    """The stages from BS on, on (pixels, channels); returns stored elements. ``doubt`` is told what is not certain."""
    stage = dpu.elementwise
    if stage is not None and stage.source == "register" and stage.operands:
        operand = operand_register(stage, dpu.channels, dpu.integer, dpu.process.bits, dpu.options)
    if dpu.integer:
        return output_integer(*_integer_stages(values, dpu, (scale_lane, norm_lane), operand, doubt))
    with np.errstate(all="ignore"):
        if dpu.scale is not None:
            values = scale_float(values, dpu.scale, scale_lane)
        if dpu.norm is not None:
            values = scale_float(values, dpu.norm, norm_lane)
        if stage is not None:
            values = relu_elementwise(combine_float(values, operand, stage), stage, False)
        if dpu.tables is not None:
            _doubts(values, dpu.tables, dpu.output, doubt)
            values = lookup.evaluate(values, dpu.tables)
        return output_float(values, dpu.output)


def _integer_stages(
    values: Ints, dpu: Dpu, lanes: tuple[LaneValues, LaneValues], operand: Ints | None, doubt: Doubt
) -> tuple[Ints, Output]:
    """BS, BN, EW and the tables on integers; what is left, and the OUT_CVT that takes it."""
    options, stage, scale, output = dpu.options, dpu.elementwise, dpu.scale, dpu.output
    byte = dpu.flying and dpu.process.bits == 8  # F-122
    idle = options.flying_width if byte else ""
    if idle == "OUT_CVT idle":
        output = replace(output, scale=1, shift=0, offset=0)
    read = values
    for scaling, lane in ((None if idle == "BS idle" else scale, lanes[0]), (dpu.norm, lanes[1])):
        if scaling is not None:
            values = scale_integer(values, scaling, lane, options)
            values = saturate(values, 8) if idle == "8 bits" else values
    if stage is not None:
        converted = convert_operand(operand, stage, options) if operand is not None else None
        values = relu_elementwise(combine_integer(values, converted, stage, dpu.process.bits), stage, True)
        values = saturate(values, 8) if idle == "8 bits" else values
    if dpu.tables is not None and options.table_path != "not at all":
        values = read if options.table_path == "before BS" else values
        _doubts(values, dpu.tables, dpu.output, doubt)
        values = lookup.evaluate_integer(values, dpu.tables)
    return values, output


def _doubts(values: Numbers, tables: lookup.Tables, output: Output, doubt: Doubt) -> None:
    for text, where in lookup.doubts(values, tables, output.offset):
        doubt(text, where)
