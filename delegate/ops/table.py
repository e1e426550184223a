"""Operators of one tensor: the DPU looks all 256 outputs up in its tables (npu.md §6, S-117, S-220).

Without tables the rectifiers, LEAKY_RELU and ABS are done by layers that silicon has shown (``slopes``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from delegate import quantize
from delegate.hw.soc import FLYING_SCALE, TABLE, Target
from delegate.ir import AnyLayer, Elementwise, Node, Requantize, as_cube
from delegate.ops import Rule, lowers, slopes
from delegate.ops.rules import (
    ALLOW,
    FEATURES_8_BIT,
    ONE_INPUT,
    ROOM,
    SAME_DTYPE,
    SAME_SHAPE,
    SCALES_POSITIVE,
    feature_tensors,
    is_quantized_per_tensor,
    possible,
)
from delegate.ops.unary import INT8, KERNELS, VALUES, Kernel, outputs
from delegate.quantize import INT8_LOW, Ints

Fallback = tuple[Callable[[Node, Target], bool], Callable[[Node, Target], list[AnyLayer]]]

ENTRIES = 513
UNIT_BITS = 5  # index units of a segment: every value hits an entry, so that nothing is interpolated (S-117)
# Index 0 is for the value -257: so only the upper table is used, from entry 129 on, far from where the tables join
# (S-121) and from the first entries, which the sibling chip reads wrongly (S-218).
FIRST_VALUE = 257
STEP_BITS = 7  # entries are outputs times 128, so that a last bit can differ without being seen


def may_look_up(target: Target) -> bool:
    """Whether the device may run what ``lookup`` makes: tables, behind a sum and a product in BS."""
    return {TABLE, FLYING_SCALE} <= target.forms


def table_of(values: Ints) -> npt.NDArray[np.int16]:
    """The two tables, (2, 513), for the outputs of all 256 values, in the NPU's domain.

    Beyond the values the outputs at the ends go on. No entry is 0 (S-122) and none equals its neighbour (S-120).
    """
    numbers = np.arange(-(ENTRIES - 1), ENTRIES)  # of the entries, the lower table's last being the upper one's first
    nearest = np.clip(numbers - FIRST_VALUE, VALUES[0], VALUES[-1]) - INT8_LOW
    entries = ((values[nearest] << STEP_BITS) + 1 + (numbers & 1)).astype(np.int16)
    return np.stack([entries[:ENTRIES], entries[ENTRIES - 1 :]])


def lookup(node: Node, values: Ints) -> Elementwise:
    """The layer that looks up the outputs ``values`` of all 256 numbers."""
    source = node.inputs[0]
    assert source is not None
    output = as_cube(node.outputs[0])
    return Elementwise(
        node=node.index,
        operator=node.op,
        main=as_cube(source),
        output=output,
        requantize=Requantize(range(output.shape[3]), multiplier=1, shift=STEP_BITS, offset=0),
        main_offset=FIRST_VALUE,
        main_multiplier=1 << UNIT_BITS,
        table=table_of(values),
    )


def computable(kernel: Kernel, node: Node, target: Target) -> bool:
    return possible(lambda node, target: outputs(kernel, node))(node, target)


def nothing_is_below_zero(node: Node, target: Target) -> bool:
    source = node.inputs[0]
    assert source is not None and source.quant is not None
    return quantize.zero_point(source.quant, source.dtype) == INT8_LOW


TABLE_TEXT = f"the device may use: {TABLE}; and: {FLYING_SCALE}"
TABLE_RULE = Rule(TABLE_TEXT, lambda node, target: may_look_up(target), ALLOW)
ALL_INT8 = Rule(
    "input and output are int8, the only type that TFLite has the operator for, with one scale each",
    lambda node, target: all(is_quantized_per_tensor(t) and t.dtype == "int8" for t in feature_tensors(node)),
    "quantize to int8",
)
ABOVE_ZERO = Rule(
    "the input's zero point is its least value: of numbers below 0 TFLite makes an error, which the NPU cannot",
    nothing_is_below_zero,
    "quantize the input for numbers from 0 on",
)
RECTIFIERS = ("RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1")
FALLBACKS: dict[str, Fallback] = {
    "ABS": (slopes.absolute_fits, slopes.absolute),
    "LEAKY_RELU": (slopes.leaky_fits, slopes.leaky),
    **dict.fromkeys(RECTIFIERS, (slopes.rectifier_fits, slopes.rectifier)),
}


def rules(op: str) -> list[Rule]:
    """The rules of an operator of one tensor."""
    kernel, dtypes = KERNELS[op]
    result = [
        ONE_INPUT,
        *([ALL_INT8] if dtypes == INT8 else [FEATURES_8_BIT, SAME_DTYPE]),
        SAME_SHAPE,
        ROOM,
        SCALES_POSITIVE,
        *([ABOVE_ZERO] if op in ("SQRT", "RSQRT") else []),
        Rule(
            "TFLite's own arithmetic stays within its 32 bits (HARD_SWISH: 16)",
            partial(computable, kernel),
            "calibrate again: input and output scale are too far apart",
        ),
    ]
    if op not in FALLBACKS:
        return [*result, TABLE_RULE]
    fits = FALLBACKS[op][0]
    text = f"convolutions and comparisons can do it, or {TABLE_TEXT}"
    return [*result, Rule(text, lambda node, target: may_look_up(target) or fits(node, target), ALLOW)]


def lower(node: Node, target: Target) -> Sequence[AnyLayer]:
    """out = table[in], or the layers that do without."""
    if may_look_up(target):
        return [lookup(node, outputs(KERNELS[node.op][0], node))]
    return FALLBACKS[node.op][1](node, target)


for name in KERNELS:
    lowers(name, rules(name))(lower)
