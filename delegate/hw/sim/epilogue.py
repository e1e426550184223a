"""BS, BN, EW and OUT_CVT of the fast path: doubles, block by block.

Exact because the DPU's integers are below 2**32 and its factors below 2**16: their products are exact in doubles, as is
scaling by a power of two, and rint rounds ties to even like the chip (S-04, S-21). ``stages`` is the plain model. What
tables and OUT_CVT make of an index is looked up (``answers``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delegate.hw.sim import answers
from delegate.hw.sim.dpu import ADD, Dpu, Elementwise, Output, Scaling
from delegate.hw.sim.numbers import Numbers

Int8s = npt.NDArray[np.int8]
Doubles = npt.NDArray[np.float64]
INT32_LIMIT = 2.0**31
OPERAND_QUESTIONS = ("operand_rounding", "operand_width", "operand_offset", "operand_conversion")
BLOCK = 1 << 16  # elements of a block; doubles of it stay in the cache


def suits(plan: Dpu) -> bool:
    """Whether these stages are all there is in a task's DPU."""
    scale, norm, stage, output, options = plan.scale, plan.norm, plan.elementwise, plan.output, plan.options
    if output.format.name != "int8" or (plan.tables is not None and not answers.bounded(plan.tables)):
        return False
    if plan.tables is not None and not options.usual("table_path"):
        return False
    if scale is not None and (scale.algorithm not in (None, ADD) or scale.prelu):
        return False
    if scale is not None and scale.relu and not options.usual("bs_clamp"):
        return False
    if norm is not None and (norm.algorithm not in (None, ADD) or norm.prelu):
        return False
    if norm is not None and not options.usual("norm_shift", "norm_order", "addend_overflow"):
        return False
    if stage is not None and not options.usual(*OPERAND_QUESTIONS):
        return False
    if norm is not None and "memory" in (norm.multiply_source, norm.alu_source):
        return False
    return stage is None or (
        stage.algorithm in (None, ADD) and stage.source == "memory" and not stage.away_from_zero and not stage.relu
    )


@dataclass(frozen=True, eq=False)
class Step:
    """What BS does after its addition, or BN: a product with its rounded shift, BN's addend, then ReLU and ReLUX."""

    factor: Doubles | float | None  # divided by 2**shift; (channels) or one; None: no product
    negative: float  # what products below 0 are multiplied by, further: their shift is another (S-22)
    saturates: bool  # a product may leave 32 bits
    addend: float  # of BN
    sum_saturates: bool
    low: float  # clamps; infinite where there is none
    high: float


@dataclass(frozen=True, eq=False)
class Lookup:
    """The answers of tables and OUT_CVT to the indices of their window, from its first to its last."""

    answers: answers.Answers
    first: int
    last: int
    warn: Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Epilogue:
    """The stages with the operands of one run."""

    truncate: int  # of CORE
    add: Doubles  # (channels)
    steps: tuple[Step, ...]  # BS, BN
    elementwise: Elementwise | None
    output: Output
    lookup: Lookup | None


def prepare(
    plan: Dpu,
    truncate: int,
    add: Doubles,
    multiply: Doubles | None,
    reach: float,
    warn: Callable[[str], None],
) -> Epilogue:
    """The epilogue for sums that with ``add`` stay within ``reach``, which is below 2**31."""
    steps = []
    for stage, factor in ((plan.scale, multiply), (plan.norm, None)):
        if stage is not None:
            if factor is None and stage.multiply:
                factor = np.array([stage.multiply_operand], np.float64)  # BN's register, without sign (S-14)
            step, reach = _step(stage, factor, reach)
            steps.append(step)
    lookup = None
    if plan.tables is not None:
        lookup = Lookup(answers.of_tables(answers.alone(plan)), *answers.window(plan.tables), warn)
    return Epilogue(truncate, add, tuple(steps), plan.elementwise, plan.output, lookup)


def _step(stage: Scaling, multiply: Doubles | None, reach: float) -> tuple[Step, float]:
    """The step, and the largest magnitude it leaves of values up to ``reach``."""
    low, high = (0.0 if stage.relu else -np.inf), np.inf
    if stage.relux is not None:
        high = float(np.array([stage.relux], np.uint32).view(np.int32)[0])
        reach = max(reach, -high)
    if multiply is None or not stage.multiply:
        factor, negative, largest = None, 1.0, reach
    else:
        factor = multiply * 2.0**-stage.shift
        negative = 2.0 ** (stage.shift - stage.shift_negative)
        largest = reach * float(np.abs(factor).max()) * max(1.0, negative) + 1.0
    product = min(largest, INT32_LIMIT)
    addend = 0.0
    if stage.name == "BN" and stage.algorithm is not None:
        addend = float(np.array([stage.alu_operand], np.uint32).view(np.int32)[0])
    total = product + abs(addend)
    step = Step(factor, negative, largest >= INT32_LIMIT, addend, total >= INT32_LIMIT, low, high)
    return step, max(min(total, INT32_LIMIT), -high)


def finish(sums: Numbers, epilogue: Epilogue, operand: Doubles | None, result: Int8s) -> None:
    """All stages on sums (pixels, channels) into ``result``; ``operand``: EW's, (pixels or 1, channels)."""
    block = max(1, BLOCK // sums.shape[1])
    work = np.empty((block, sums.shape[1]))
    for first in range(0, len(sums), block):
        part = slice(first, min(first + block, len(sums)))
        values = work[: part.stop - part.start]
        if epilogue.truncate:
            np.multiply(sums[part], 2.0**-epilogue.truncate, out=values)
            np.rint(values, out=values)
            values += epilogue.add
        else:
            np.add(sums[part], epilogue.add, out=values)
        for step in epilogue.steps:
            _apply(values, step)
        if operand is not None:
            assert epilogue.elementwise is not None
            right = _converted(operand if len(operand) == 1 else operand[part], epilogue.elementwise)
            if epilogue.elementwise.algorithm is None:
                values *= right
            else:
                values += right
            _saturate(values)
        if epilogue.lookup is not None:
            result[part] = _looked_up(values, epilogue.lookup)
        else:
            _requantize(values, epilogue.output, result[part])


def _looked_up(values: Doubles, lookup: Lookup) -> Int8s:
    """Tables and OUT_CVT; destroys ``values``."""
    np.clip(values, lookup.first, lookup.last, out=values)
    values -= lookup.first
    return lookup.answers.take(values.astype(np.int64), lookup.warn)


def _saturate(values: Doubles) -> None:
    np.maximum(values, -INT32_LIMIT, out=values)
    np.minimum(values, INT32_LIMIT - 1, out=values)


def _apply(values: Doubles, step: Step) -> None:
    if step.factor is not None:
        np.multiply(values, step.factor, out=values)
        if step.negative != 1.0:
            values *= np.where(values < 0, step.negative, 1.0)
        np.rint(values, out=values)
        if step.saturates:
            _saturate(values)
    if step.addend:
        values += step.addend
        if step.sum_saturates:
            _saturate(values)
    if step.low == 0.0:
        np.maximum(values, 0.0, out=values)
    if step.high < np.inf:
        np.minimum(values, step.high, out=values)


def _requantize(values: Doubles, output: Output, result: Int8s) -> None:
    """OUT_CVT; destroys ``values``."""
    np.multiply(values, output.scale * 2.0**-output.shift, out=values)
    if output.away_from_zero:  # adding a half is exact: a product has at most 47 bits
        values += np.copysign(0.5, values)
        np.trunc(values, out=values)
    else:
        np.rint(values, out=values)
    np.add(values, output.offset, out=values)
    np.maximum(values, -128.0, out=values)
    np.minimum(values, 127.0, out=values)
    result[...] = values


def _converted(operand: Doubles, stage: Elementwise) -> Doubles:
    """The EW operand converter; see stages.convert_operand."""
    if not stage.convert:
        return operand
    before, after = (stage.offset, 0) if stage.add_first else (0, stage.offset)
    converted = np.rint((operand + before) * (stage.scale * 2.0**-stage.shift)) + after
    clipped: Doubles = np.clip(converted, -INT32_LIMIT, INT32_LIMIT - 1)
    return clipped
