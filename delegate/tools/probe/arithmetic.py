"""Probes of the stages' arithmetic behind a convolution: BN, BS, the operand converter, CLIP_TRUNCATE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from delegate.hw.layout import pack_bias_and_multipliers
from delegate.hw.questions import QUESTIONS, ROUNDINGS
from delegate.hw.regs import CORE
from delegate.ir import Addend, Requantize
from delegate.tools.probe.judge import Ints, Known, clipped, divided, wrapped
from delegate.tools.probe.programs import (
    GROUP,
    PLAIN,
    Changes,
    added,
    diagonal,
    direct,
    kernels,
    laid_out,
    stream,
)
from delegate.tools.probe.rig import BIAS, INPUT, OPERAND, WEIGHTS, Array, Job

SIZE = (4, 8, GROUP)


def drawn(seed: int, size: tuple[int, ...] = SIZE, low: int = -128, high: int = 127) -> Ints:
    """Numbers of a range, always the same ones."""
    return np.random.default_rng(seed).integers(low, high + 1, size)


def every_byte(size: tuple[int, ...] = SIZE) -> Ints:
    """All numbers of int8 in turn, shuffled so that neighbours are no neighbours."""
    return np.random.default_rng(1).permutation(np.resize(np.arange(-128, 128), int(np.prod(size)))).reshape(size)


def behind(
    values: Ints,
    candidates: Mapping[str, Ints],
    requantize: Requantize = PLAIN,
    factor: int = 1,
    bias: Array | None = None,
    operand: Ints | None = None,
    addend: Addend | None = None,
    weight_zero_point: int = 0,
    changes: Changes | None = None,
) -> Known:
    """A convolution that gives ``values`` times ``factor`` to the stages; what the candidates write, before int8."""
    height, width, _ = values.shape
    weight = diagonal(factor)
    tile = direct(
        weight,
        (height, width),
        (height, width),
        requantize,
        addend=addend,
        weight_zero_point=weight_zero_point,
    )
    data: dict[int, Array] = {
        INPUT: laid_out(values),
        WEIGHTS: kernels(weight),
        BIAS: np.zeros(GROUP, np.int32) if bias is None else bias,
    }
    if operand is not None:
        data[OPERAND] = laid_out(operand)
    job = Job((stream(tile, changes),), data, values.size)
    return Known((job,), {name: (laid_out(clipped(numbers)),) for name, numbers in candidates.items()})


# A bias that takes sums beyond 16 bits; alone it is a tie in steps of 2**11, next to an odd or an even number.
FAR = (np.resize([40, 41, -41, -42], GROUP) << 11) + (1 << 10)


def norm_shift() -> Known:
    """Sums times 3 * 2**14, of which 3 / 2**11 is left."""
    values, factor, shift = every_byte(), 3 << 14, 25
    values[0] = 0
    product = (127 * values + FAR) * factor
    clamped = divided(clipped(product, 32), shift, "even")
    expected = {"narrow": clamped, "no shift": clipped(product, 32)}
    for rule in ROUNDINGS:
        expected[rule] = divided(product, shift, rule)
    run = replace(PLAIN, norm_multiplier=factor, norm_shift=shift)
    return behind(values, expected, run, 127, FAR.astype(np.int32))


def norm_order() -> Known:
    values = drawn(2, low=-40, high=40)
    expected = {"multiply first": 3 * values + 5, "add first": 3 * (values + 5)}
    return behind(values, expected, replace(PLAIN, norm_multiplier=3, norm_addend=5))


def operand_rounding() -> Known:
    operand = every_byte()
    expected = {rule: divided(3 * operand, 2, rule) for rule in QUESTIONS["operand_rounding"].candidates}
    return behind(np.zeros_like(operand), expected, operand=operand, addend=added(multiplier=3, shift=2))


def operand_width() -> Known:
    operand, factor, shift = every_byte(), 30001, 15
    wide = {
        "32 bits": factor * operand,
        "saturates at 16 bits": clipped(factor * operand, 16),
        "wraps at 16 bits": wrapped(factor * operand, 16),
    }
    expected = {name: divided(numbers, shift, "even") for name, numbers in wide.items()}
    run = replace(PLAIN, shift=shift)
    return behind(np.zeros_like(operand), expected, run, operand=operand, addend=added(multiplier=factor))


def operand_offset() -> Known:
    operand = every_byte()
    expected = {"added": operand + 7, "subtracted": operand - 7}
    return behind(np.zeros_like(operand), expected, operand=operand, addend=added(offset=7))


def bs_clamp() -> Known:
    values, factor, limit, shift, last = drawn(3), 120, 35_000, 10, 12
    bias = np.where(np.arange(GROUP) % 2, 30_000, -3_000)
    factors = np.arange(2048, 2048 + 128 * GROUP, 128)  # two to six times 2**shift
    total = factor * values + bias

    def scaled(numbers: Ints) -> Ints:
        return divided(numbers * factors, shift, "even")

    clamped = {
        "behind the product": np.clip(scaled(total), 0, limit),
        "before the product": scaled(np.clip(total, 0, limit)),
        "float limit": np.zeros_like(total),  # the bits of 35000 are a float just above 0
        "no limit": np.maximum(scaled(total), 0),
        "nothing": scaled(total),
    }
    expected = {name: divided(numbers, last, "even") for name, numbers in clamped.items()}
    run = replace(
        PLAIN,
        shift=last,
        channel_multiplier=factors.astype(np.int16),
        channel_shift=shift,
        relu=True,
        relu_limit=limit,
    )
    records = pack_bias_and_multipliers(bias.astype(np.int32), factors.astype(np.int16), GROUP)
    return behind(values, expected, run, factor, records)


def addend_overflow() -> Known:
    values, largest, shift = drawn(4), (1 << 31) - 1, 24
    bias = np.where(np.arange(GROUP) % 2, 50 - largest, largest - 50)
    expected = {
        "saturates": divided(clipped(values + bias, 32), shift, "even"),
        "wraps": divided(wrapped(values + bias, 32), shift, "even"),
    }
    return behind(values, expected, replace(PLAIN, shift=shift), bias=bias.astype(np.int32))


def truncation() -> Known:
    values, factor, zero_point, shift = drawn(5, low=-3, high=3), 17, -5, 2
    own, part = factor * values, -zero_point * values.sum(axis=2, keepdims=True)
    totals = {
        "sum with CPEND": divided(own + part, shift, "even"),
        "sum before CPEND": divided(own, shift, "even") + part,
        "nothing": own + part,
    }
    expected = {name: divided(numbers, 1, "even") for name, numbers in totals.items()}
    run, changes = replace(PLAIN, shift=1), {CORE.CLIP_TRUNCATE: {"clip_truncate": shift}}
    return behind(values, expected, run, factor, weight_zero_point=zero_point, changes=changes)
