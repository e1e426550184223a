"""DPU: why a field may have no effect."""

from __future__ import annotations

from delegate.hw.regs import DPU
from delegate.tools.mutate.outcome import TABLES, Reason
from delegate.tools.mutate.reasons.conditions import (
    When,
    both,
    either,
    elementwise,
    field,
    float_datapath,
    get,
    integer_datapath,
    is_float,
    negate,
    only_bits,
    surfaces,
    table,
)


def scaling(name: str) -> tuple[Reason, ...]:
    """BS and BN have the same fields."""
    config, factor = getattr(DPU, f"{name}_CFG"), getattr(DPU, f"{name}_MUL_CFG")
    low = name.lower()

    def set_(label: str) -> When:
        return field(config, f"{low}_{label}", 1)

    off = set_("bypass")
    idle = both(set_("alu_bypass"), set_("mul_bypass"), set_("relu_bypass"))
    no_alu, no_mul, no_relu = (either(off, set_(f"{part}_bypass")) for part in ("alu", "mul", "relu"))
    no_limit = either(no_relu, negate(set_("relux_en")))
    floor = both(field(DPU.OUT_CVT_OFFSET, "out_cvt_offset", -128), field(DPU.EW_CFG, "ew_bypass", 1))
    register, neg = f"DPU.{name}_", f"DPU.DATA_FORMAT.{low}_mul_shift_value_neg"
    why = f"{name}'s {{}} is bypassed (npu.md §5.3, S-18)"
    return (
        Reason((f"{register}CFG.{low}_bypass",), f"all three parts of {name} are bypassed (§5.3)", idle),
        Reason((f"{register}*",), f"{name} is bypassed (§5.3, S-18)", off),
        Reason((f"{register}CFG.{low}_alu_*", f"{register}ALU_CFG.*"), why.format("ALU"), no_alu),
        Reason((f"{register}ALU_CFG.*",), "the operand comes from memory (S-17)", set_("alu_src")),
        Reason((f"{register}CFG.{low}_mul_*", f"{register}MUL_CFG.*", neg), why.format("multiplier"), no_mul),
        Reason(
            (f"{register}MUL_CFG.{low}_mul_operand",),
            "the factor comes from memory (S-17)",
            field(factor, f"{low}_mul_src", 1),
        ),
        Reason((f"{register}MUL_CFG.*shift*", neg), "shifts act on integers only (§5.3)", float_datapath),
        Reason((neg,), "what is below 0 saturates at -128 (S-22)", floor),
        Reason(
            (f"{register}CFG.{low}_alu_bypass",),
            "max(., 0), and what is below 0 saturates at -128 (S-22)",
            both(
                floor,
                field(config, f"{low}_alu_algo", 0),
                field(getattr(DPU, f"{name}_ALU_CFG"), f"{low}_alu_operand", 0),
            ),
        ),
        Reason((f"{register}CFG.{low}_relu*",), why.format("ReLU"), no_relu),
        Reason((f"{register}RELUX_CMP_VALUE.*",), f"{name}'s upper clamp is off (S-155)", no_limit),
        Reason((f"{register}CFG.{low}_relu*", f"{register}RELUX*"), "no value is beyond the clamp", data=True),
        Reason((f"{register}CFG.{low}_mul_prelu",), "no value is above 0", data=True),
        Reason((f"{register}*",), "adds or multiplies by what rounding loses", float_datapath, data=True),
    )


no_pend = either(field(DPU.BS_OW_CFG, "od_bypass", 1), field(DPU.FEATURE_MODE_CFG, "flying_mode", 1))
DPU_REASONS = (
    Reason(("DPU.BS_OW_CFG.ow_src", "DPU.BS_OW_OP.*"), "CPEND is off: OD_BYPASS, or no convolution (S-24)", no_pend),
    Reason(("DPU.BS_OW_CFG.od_bypass", "DPU.BS_OW_OP.*"), "CPEND has no effect in a float format (S-28)", is_float),
    Reason(
        ("DPU.BS_OW_CFG.od_bypass",),
        "CPEND's factor is 0 (S-24)",
        both(field(DPU.BS_OW_OP, "ow_op", 0), field(DPU.BS_OW_CFG, "ow_src", 0)),
    ),
    Reason(
        ("DPU.BS_OW_CFG.od_bypass",),
        "CPEND belongs to a convolution (S-23)",
        field(DPU.FEATURE_MODE_CFG, "flying_mode", 1),
    ),
    Reason(("DPU.BS_OW_OP.*",), "the factors come from memory (S-23)", field(DPU.BS_OW_CFG, "ow_src", 1)),
    Reason(
        ("DPU.BS_OW_CFG.ow_src",), "the factors in memory are 0 too (S-23)", field(DPU.BS_OW_OP, "ow_op", 0), data=True
    ),
    *scaling("BS"),
    *scaling("BN"),
    Reason(
        ("DPU.EW_CFG.ew_bypass",),
        "all parts of EW are bypassed (§5.4)",
        lambda r, c: all(get(r, DPU.EW_CFG, f"ew_{part}_bypass") for part in ("op", "relu", "lut")),
    ),
    Reason(
        ("DPU.EW_CFG.*", "DPU.EW_CVT*", "DPU.EW_OP*", "DPU.EW_RELUX*"),
        "EW is bypassed (§5.4)",
        field(DPU.EW_CFG, "ew_bypass", 1),
    ),
    Reason(
        (
            "DPU.EW_CFG.ew_op_*",
            "DPU.EW_CFG.ew_alu_algo",
            "DPU.EW_CFG.ew_cvt*",
            "DPU.EW_CFG.e*data*",
            "DPU.EW_CFG.ew_equal_en",
            "DPU.EW_CFG.ew_*_en",
            "DPU.EW_CVT*",
            "DPU.EW_OP*",
        ),
        "EW's operation is bypassed (§5.4)",
        both(field(DPU.EW_CFG, "ew_op_bypass", 1), lambda r, c: "relux" not in c.field),
    ),
    Reason(("DPU.EW_CFG.ew_lut_bypass",), "EW is bypassed with its tables (§6)", field(DPU.EW_CFG, "ew_bypass", 1)),
    Reason(("DPU.EW_CFG.ew_op_bypass",), "beside a live table max(., 0) does nothing (F-92)", table),
    Reason(("DPU.EW_CFG.ew_equal_en",), "does not change MIN and MAX (S-163, C-8)"),
    Reason(
        ("DPU.EW_CFG.ew_relu*", "DPU.EW_RELUX*"),
        "EW's ReLU, or its upper clamp, is off (S-155)",
        either(
            both(field(DPU.EW_CFG, "ew_relu_bypass", 1), lambda r, c: "bypass" not in c.field),
            both(field(DPU.EW_CFG, "ew_relux_en", 0), lambda r, c: "CMP" in c.field),
        ),
    ),
    Reason(("DPU.EW_CFG.ew_relu*", "DPU.EW_RELUX*"), "no value is beyond the clamp", data=True),
    Reason(
        ("DPU.EW_CFG.ew_cvt*", "DPU.EW_CFG.e*data*", "DPU.EW_CFG.ew_op_cvt_bypass", "DPU.EW_CVT*"),
        "the operand does not come from memory (S-152)",
        field(DPU.EW_CFG, "ew_op_src", 0),
    ),
    Reason(
        ("DPU.EW_CFG.ew_cvt*", "DPU.EW_CVT*"),
        "the operand converter is bypassed (§5.4)",
        field(DPU.EW_CFG, "ew_op_cvt_bypass", 1),
    ),
    Reason(
        ("DPU.EW_CFG.ew_cvt*", "DPU.EW_CVT_OFFSET*"), "the converter widens floats, no more (S-109)", float_datapath
    ),
    Reason(
        ("DPU.EW_CFG.ew_op_cvt_bypass",),
        "the converter is the identity: offset 0, scale 1, shift 0",
        lambda r, c: (
            (
                get(r, DPU.EW_CVT_OFFSET_VALUE, "ew_op_cvt_offset"),
                get(r, DPU.EW_CVT_SCALE_VALUE, "ew_op_cvt_scale"),
                get(r, DPU.EW_CVT_SCALE_VALUE, "ew_op_cvt_shift"),
            )
            == (0, 1, 0)
        ),
    ),
    Reason(
        ("DPU.EW_CFG.ew_op_cvt_bypass",), "floats but for addition and product pass either way (F-82)", float_datapath
    ),
    Reason(
        ("DPU.EW_CFG.ew_cvt_type",),
        "offset 0: the order does not matter",
        field(DPU.EW_CVT_OFFSET_VALUE, "ew_op_cvt_offset", 0),
    ),
    Reason(
        ("DPU.EW_CFG.ew_cvt_round",), "the operand's shift is 0", field(DPU.EW_CVT_SCALE_VALUE, "ew_op_cvt_shift", 0)
    ),
    Reason(("DPU.EW_CFG.ew_cvt_round", "DPU.EW_CFG.ew_cvt_type"), "no operand ends in a tie", data=True),
    Reason(
        ("DPU.EW_CVT_SCALE_VALUE.ew_op_cvt_scale",),
        "0 and 1 are identities in a float format (F-79)",
        both(float_datapath, lambda r, c: {c.old, c.new} <= {0, 1}),
    ),
    Reason(("DPU.EW_OP_VALUE_*",), "the operand comes from memory (S-152)", field(DPU.EW_CFG, "ew_op_src", 1)),
    Reason(("DPU.EW_OP_VALUE_*",), "a product and 16-bit integers take the low half (S-152)", only_bits(0xFFFF0000)),
    Reason(
        (
            "DPU.EW_OP_VALUE_*",
            "DPU.EW_CFG.e*data*",
            "DPU.EW_CFG.ew_op_src",
            "DPU.EW_CFG.ew_alu_algo",
            "DPU.EW_CFG.ew_op_type",
        ),
        "an operation on one operand (S-110)",
        lambda r, c: get(r, DPU.EW_CFG, "ew_alu_algo") >= 5,
    ),
    Reason(
        ("DPU.EW_CFG.ew_alu_algo", "DPU.EW_CFG.ew_op_*", "DPU.EW_CFG.ew_cvt*", "DPU.EW_CVT*", "DPU.EW_OP*"),
        "the operation makes no difference to these values",
        lambda r, c: elementwise(r) or table(r, c),
        data=True,
    ),
    Reason(("DPU.LUT_CFG.*", "DPU.LUT_INFO.*", "DPU.LUT_L[EO]_*"), "no table is live (§6)", negate(table)),
    Reason(
        ("DPU.LUT_LE_SLOPE_*.*oflow*", "DPU.LUT_LO_SLOPE_*.*uflow*"),
        "the tables meet: only LE's lower and LO's upper end extrapolate (F-90)",
    ),
    Reason(("DPU.LUT_L[EO]_SLOPE_*",), "no index is beyond the table", data=True),
    Reason(("DPU.LUT_ACCESS_*",), "what counts is what the tables hold when the task fires (F-90)"),
    Reason((TABLES,), "no table is live (§6)", negate(table)),
    Reason((TABLES,), "no index falls next to the entry", data=True),
    Reason(
        ("DPU.OUT_CVT_SHIFT.cvt_type", "DPU.OUT_CVT_SHIFT.minus_exp"), "nothing on integers (S-07)", integer_datapath
    ),
    Reason(
        ("DPU.OUT_CVT_SCALE.fp32tofp16_en",),
        "fp16 comes out with either (F-78)",
        field(DPU.DATA_FORMAT, "out_precision", 2),
    ),
    Reason(("DPU.OUT_CVT_SHIFT.cvt_round",), "floats are not shifted (S-04)", float_datapath),
    Reason(("DPU.OUT_CVT_SHIFT.cvt_round",), "nothing is shifted", field(DPU.OUT_CVT_SHIFT, "out_cvt_shift", 0)),
    Reason(("DPU.OUT_CVT_SHIFT.cvt_round",), "no product ends in a tie (S-11)", data=True),
    Reason(
        ("DPU.OUT_CVT_SHIFT.cvt_type",),
        "offset 0 and factor 1: the order does not matter (F-79)",
        both(field(DPU.OUT_CVT_OFFSET, "out_cvt_offset", 0), float_datapath),
    ),
    Reason(("DPU.OUT_CVT_*.out_cvt_*",), "the results round or saturate to the same", data=True),
    Reason(
        ("DPU.OUT_CVT_SCALE.out_cvt_scale",),
        "0 and 1 are identities in a float format (F-79)",
        both(float_datapath, lambda r, c: {c.old, c.new} <= {0, 1}),
    ),
    Reason(
        ("DPU.DATA_CUBE_CHANNEL.orig_channel",),
        "behind a convolution any number up to CHANNEL runs (F-109)",
        field(DPU.FEATURE_MODE_CFG, "flying_mode", 0),
    ),
    Reason(
        ("DPU.DST_SURF_STRIDE.*", "DPU.SURFACE_ADD.*", "DPU.DATA_CUBE_NOTCH_ADDR.*"),
        "the transposing writer has its own order (S-127)",
        field(DPU.BS_OW_CFG, "tp_org_en", 1),
    ),
    Reason(
        ("DPU.SURFACE_ADD.*",),
        "one channel group is written (§5.6)",
        lambda r, c: surfaces(r) <= get(r, DPU.BS_OW_CFG, "size_e_0") + 1,
    ),
    Reason(
        ("DPU.DST_SURF_STRIDE.*",),
        "a group is one surface (§5.6)",
        lambda r, c: surfaces(r) == 1 or not get(r, DPU.BS_OW_CFG, "size_e_0"),
    ),
    Reason(("DPU.DATA_CUBE_NOTCH_ADDR.*",), "one row is written", field(DPU.DATA_CUBE_HEIGHT, "height", 0)),
    Reason(("DPU.BS_OW_CFG.size_e*",), "one surface is written", lambda r, c: surfaces(r) == 1),
)
