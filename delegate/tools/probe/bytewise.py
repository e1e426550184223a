"""Probes of int8 tasks without convolution: what lies between the stages, operands, tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from delegate.hw.questions import QUESTIONS
from delegate.hw.regs import DPU
from delegate.ir import Elementwise, Tensor
from delegate.tools.probe.arithmetic import FAR, SIZE, drawn, every_byte
from delegate.tools.probe.judge import WRONG, Ints, Known, clipped, divided
from delegate.tools.probe.programs import (
    ATOM,
    GROUP,
    Changes,
    diagonal,
    direct,
    elementwise,
    flying,
    kernels,
    laid_out,
    stream,
)
from delegate.tools.probe.rig import BIAS, INPUT, OPERAND, WEIGHTS, Array, Job

BY_CHANNEL = Tensor(0, "", (1, 1, 1, GROUP), "int8")
OPERAND_ATOMS = 2 * SIZE[0] * SIZE[1]
ENTRIES, SEGMENT_BITS = 513, 5
MIDDLE = 257 << SEGMENT_BITS  # an index in the middle of the upper table


def alone(layer: Elementwise, values: Ints, operand: Array | None = None, changes: Changes | None = None) -> Job:
    """A task without convolution over ``values``."""
    data: dict[int, Array] = {INPUT: laid_out(values)}
    if operand is not None:
        data[OPERAND] = operand
    height, width, channels = values.shape
    tile = flying(layer, (height, width, channels))
    return Job((stream(tile, changes),), data, values.size)


def one_job(job: Job, candidates: Mapping[str, Ints]) -> Known:
    """What the candidates write, before int8."""
    return Known((job,), {name: (laid_out(clipped(numbers)),) for name, numbers in candidates.items()})


def shaped(layer: Elementwise, multiplier: int = 1, shift: int = 0, offset: int = 0) -> Elementwise:
    """A layer with this OUT_CVT."""
    return replace(layer, requantize=replace(layer.requantize, multiplier=multiplier, shift=shift, offset=offset))


def with_operand() -> Elementwise:
    layer = elementwise(SIZE)
    return replace(layer, operation="add", operand=layer.main)


def flying_width() -> Known:
    values, operand = drawn(6), drawn(7)
    factor, other = -29_001, -15_001
    main, right = divided(factor * (values + 40), 1, "even"), other * operand

    def sent(numbers: Ints) -> Ints:
        return divided(3 * numbers, 17, "even") + 5

    expected = {
        "32 bits": sent(main + right),
        "8 bits": sent(clipped(clipped(main) + right)),
        "BS idle": sent(values + right),
        "OUT_CVT idle": main + right,
    }
    layer = replace(with_operand(), main_offset=40, main_multiplier=factor, main_shift=1, operand_multiplier=other)
    return one_job(alone(shaped(layer, 3, 17, 5), values, laid_out(operand)), expected)


def operand_conversion() -> Known:
    values, operand = drawn(8), drawn(9)
    product = shaped(replace(with_operand(), operation="multiply", operand_offset=3), shift=7)
    largest = replace(with_operand(), operation="max", operand_offset=40)
    total = replace(with_operand(), operand_offset=3, operand_multiplier=2)
    jobs = tuple(alone(layer, values, laid_out(operand)) for layer in (product, largest, total))

    def written(offset: int, other: int) -> tuple[npt.NDArray[np.uint8], ...]:
        numbers = (
            divided(values * (operand + offset), 7, "even"),
            np.maximum(values, operand + other),
            values + 2 * (operand + 3),
        )
        return tuple(laid_out(clipped(one)) for one in numbers)

    return Known(jobs, {"every one": written(3, 40), "sums": written(0, 0)})


def read_operands(atoms: Ints) -> dict[str, Ints]:
    """What each reading of data mode 0 makes of an operand whose surfaces are an atom apart: (height, width, 32)."""
    height, width, _ = SIZE
    pixel = np.arange(height * width)
    readings = {
        "by channel": (np.zeros_like(pixel), np.ones_like(pixel)),
        "by pixel": (pixel, pixel + 1),
        "first surface": (np.zeros_like(pixel), np.zeros_like(pixel)),
    }
    return {
        name: np.concatenate([atoms[surface] for surface in which], axis=1).reshape(SIZE)
        for name, which in readings.items()
    }


def channel_operand() -> Known:
    values, atoms = drawn(10), drawn(11, (OPERAND_ATOMS, ATOM))
    layer = replace(elementwise(SIZE), operation="add", operand=BY_CHANNEL)
    expected = {name: values + operand for name, operand in read_operands(atoms).items()}
    return one_job(alone(layer, values, atoms.astype(np.int8)), expected)


def gain_operand() -> Known:
    values, atoms, shift = drawn(12), drawn(13, (OPERAND_ATOMS, ATOM)), 17
    weight = diagonal(127)
    tile = direct(weight, SIZE[:2], SIZE[:2], replace(elementwise(SIZE).requantize, shift=shift), gain=True)
    data = {
        INPUT: laid_out(values),
        WEIGHTS: kernels(weight),
        BIAS: FAR.astype(np.int32),
        OPERAND: atoms.astype(np.int8),
    }
    total = 127 * values + FAR
    expected = {name: divided(total * gain, shift, "even") for name, gain in read_operands(atoms).items()}
    return one_job(Job((stream(tile),), data, values.size), expected)


def operand_register() -> Known:
    values, held = drawn(14), np.array([5, -9, 33, 71, -60, 18, -2, 90])
    changes: dict[object, Mapping[str, int]] = {
        getattr(DPU, f"EW_OP_VALUE_{lane}"): {f"ew_operand_{lane}": int(number) & 0xFFFF}
        for lane, number in enumerate(held)
    }
    changes[DPU.EW_CFG] = {"ew_op_src": 0}
    layer = replace(elementwise(SIZE), operation="add")
    expected = {"channel modulo 8": values + held[np.arange(GROUP) % 8], "first": values + held[0]}
    return one_job(alone(layer, values, changes=changes), expected)  # type: ignore[arg-type]


def bs_prelu() -> Known:
    values = drawn(15, low=-40, high=40)
    layer = replace(elementwise(SIZE), main_multiplier=3)
    expected = {"negative ones": np.where(values < 0, 3 * values, values), "all": 3 * values, "none": values}
    return one_job(alone(layer, values, changes={DPU.BS_CFG: {"bs_mul_prelu": 1}}), expected)


def spare_lanes() -> Known:
    values, channels = drawn(16), 20
    height, width, whole = SIZE
    layer = elementwise((height, width, channels))
    tile = flying(layer, (height, width, channels))
    job = Job((stream(tile),), {INPUT: laid_out(values)}, values.size)
    zeros = np.where(np.arange(whole) < channels, values, 0)
    return Known((job,), {"0": (laid_out(zeros),), "nothing": (laid_out(values[:, :, :channels]),)})


def table(seed: int, low: int, high: int) -> npt.NDArray[np.int16]:
    """Both tables, (2, 513): numbers of a range, none 0 and none its neighbour's (S-120, S-122)."""
    steps = drawn(seed, (2 * ENTRIES,), 1, high - low - 1)
    entries = low + np.cumsum(steps) % (high - low)
    entries = np.where(entries == 0, high, entries)
    return entries.reshape(2, ENTRIES).astype(np.int16)


def table_path() -> Known:
    """The setting in which the compiler uses tables: index (x + 257) * 32, outputs times 128."""
    shift, first = 7, 257
    entries = table(17, -127, 127) * 128 + 1
    layer = replace(shaped(elementwise(SIZE), shift=shift), main_offset=first, main_multiplier=32, table=entries)
    whole, every = drawn(18, low=-4, high=3) * 32, every_byte()

    def at(entry: Ints) -> Ints:
        """Entries counted from the upper table's first."""
        both = np.concatenate((entries[0, :-1], entries[1])).astype(np.int64)
        return divided(both[entry + ENTRIES - 1], shift, "even")

    def unchanged(values: Ints) -> Ints:
        return divided(32 * (values + first), shift, "even")

    behind = tuple(laid_out(clipped(at(values + first))) for values in (whole, every))
    before = laid_out(clipped(at(whole // 32)))
    unseen = tuple(laid_out(clipped(unchanged(values))) for values in (whole, every))
    jobs = (alone(layer, whole), alone(layer, every))
    return Known(jobs, {"behind BS": behind, "before BS": (before, WRONG), "not at all": unseen})


def interpolation() -> Known:
    entries, values = table(19, -120, 120), every_byte()
    index = values + MIDDLE
    number, rest = index >> SEGMENT_BITS, index & (1 << SEGMENT_BITS) - 1
    first, second = (entries[1, number + step].astype(int) for step in (0, 1))
    expected = {
        rule: first + divided((second - first) * rest, SEGMENT_BITS, rule)
        for rule in QUESTIONS["interpolation"].candidates
    }
    return one_job(alone(replace(elementwise(SIZE), main_offset=MIDDLE, table=entries), values), expected)


def table_zero() -> Known:
    entries, values = table(20, -120, 120), drawn(21, low=-4, high=3) * 32
    number = (values + MIDDLE) >> SEGMENT_BITS
    entries[1, MIDDLE >> SEGMENT_BITS] = 0
    found = entries[1, number].astype(int)
    expected = {"0": found, "4": np.where(found == 0, 4 << 15, found)}
    return one_job(alone(replace(elementwise(SIZE), main_offset=MIDDLE, table=entries), values), expected)
