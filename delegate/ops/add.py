"""ADD of two tensors of one shape: a 1x1 convolution over both cubes as one, its kernels two diagonal blocks.

The form is exact on any chip of the family (S-225); the ratio of the scales is in weights of 8 bits, whose error is
bounded before a node is taken. Where the device may use it, the element-wise unit adds the second operand instead:
factors of 15 bits and more, none of which rounds, so that results are TFLite's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from delegate import quantize
from delegate.errors import CompileError
from delegate.hw.layout import align, fits_cbuf, surface_rows
from delegate.hw.soc import NORM_SHIFT, OPERAND_GAIN, Target
from delegate.ir import Addend, Convolution, Node, Requantize, Tensor
from delegate.ops import Rule, lowers
from delegate.ops.conv2d import BS_CLAMP_TEXT, clamp_is_allowed
from delegate.ops.rules import (
    ACTIVATION,
    EXTENT,
    FEATURES_8_BIT,
    IMAGES,
    SAME_DTYPE,
    SCALES_POSITIVE,
    computed_inputs,
)
from delegate.requantize import LARGEST_ERROR, Operand, clamped, exact_sum, factor, quotient, weighted_sum

FEWEST_ATOMS = 12  # of a surface that the element-wise unit reads; fewer gave wrong sums (S-111)


def operand(tensor: Tensor) -> Operand:
    """What the sum needs to know of a tensor."""
    assert tensor.quant is not None
    reach = max(quantize.INT8_HIGH - point(tensor), point(tensor) - quantize.INT8_LOW)
    return Operand(float(tensor.quant.scale[0]), reach)


def point(tensor: Tensor) -> int:
    """The zero point in the NPU's domain."""
    assert tensor.quant is not None
    return quantize.zero_point(tensor.quant, tensor.dtype)


@dataclass(frozen=True)
class Plan:
    """How a node is done: weights of the operands that the convolution reads, and the gain of one that EW adds."""

    weights: tuple[int, ...]
    gain: int | None
    run: Requantize
    error: float


def plan(node: Node, target: Target) -> Plan:
    """The most exact form that the device may use, clamps included; raises CompileError where none is exact enough."""
    a, b, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert a is not None and b is not None
    assert a.quant is not None and output.quant is not None
    scale, offset = float(output.quant.scale[0]), quantize.zero_point(output.quant, output.dtype)
    channels = output.shape[3]
    low, high = quantize.activation_range(node.params["activation"], output.quant, output.dtype)
    unclamped = (low, high) == (quantize.INT8_LOW, quantize.INT8_HIGH)  # BS would clamp before EW adds
    enough = surface_rows(output.shape[1], target.soc) * output.shape[2] >= FEWEST_ATOMS
    if a.index == b.index:
        double = 2 * float(a.quant.scale[0]) / scale
        found = Plan((1,), None, quotient(double, operand(a).reach, channels, offset, NORM_SHIFT in target.forms), 0.0)
    elif OPERAND_GAIN in target.forms and unclamped and enough:
        exact = exact_sum(operand(a), operand(b), scale, channels, offset)
        found = Plan((exact.weight,), exact.gain, exact.run, exact.error)
    else:
        weighted = weighted_sum(operand(a), operand(b), scale, channels, offset)
        found = Plan((weighted.a, weighted.b), None, weighted.run, weighted.error)
    if found.error > LARGEST_ERROR:
        raise CompileError(f"ADD: the sum could err by {found.error:.2f} output steps")
    return replace(found, run=clamped(found.run, low, high))


def plan_exists(node: Node, target: Target) -> bool:
    try:
        plan(node, target)
    except CompileError:
        return False
    return True


def shapes_are_equal(node: Node, target: Target) -> bool:
    return len({tensor.shape for tensor in (*computed_inputs(node), *node.outputs)}) == 1


def both_channels(node: Node, target: Target) -> int:
    """Channels of the two cubes behind each other, each in whole groups as any producer may write them."""
    return 2 * align(node.outputs[0].shape[3], target.soc.depthwise_group)


def cbuf_fits(node: Node, target: Target) -> bool:
    channels = both_channels(node, target)
    return fits_cbuf(1, node.outputs[0].shape[2], channels, target.soc.kernel_group * channels, target.soc)


@lowers(
    "ADD",
    [
        Rule("both operands are computed", lambda node, target: len(computed_inputs(node)) == 2 == len(node.inputs)),
        FEATURES_8_BIT,
        SAME_DTYPE,
        IMAGES,
        Rule("operands and output have one shape", shapes_are_equal),
        EXTENT,
        SCALES_POSITIVE,
        ACTIVATION,
        Rule(
            "both operands' channels fit one kernel of 32 KiB",
            lambda node, target: both_channels(node, target) <= target.soc.kernel_bytes_limit,
        ),
        Rule("a row of both operands fits the CBUF of 384 KiB", cbuf_fits),
        Rule(BS_CLAMP_TEXT, clamp_is_allowed),
        Rule("the scales are met within 0.45 output steps, and the activation's clamp", plan_exists),
    ],
)
def add(node: Node, target: Target) -> list[Convolution]:
    """out[y,x,c] = requantize(wa * (a[y,x,c] - za) + wb * (b[y,x,c] - zb)), wa : wb the ratio of the scales."""
    a, b, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert a is not None and b is not None
    assert output.quant is not None
    how = plan(node, target)
    channels = output.shape[3]
    inputs = (a, b)[: len(how.weights)]
    blocks = [np.eye(channels, dtype=np.int8) * np.int8(weight) for weight in how.weights]
    bias = -sum(weight * point(tensor) for weight, tensor in zip(how.weights, inputs, strict=True))
    return [
        Convolution(
            node=node.index,
            operator=node.op,
            inputs=inputs,
            output=output,
            weight=np.concatenate(blocks, axis=1).reshape(channels, 1, 1, -1),
            weight_zero_point=0,
            bias=np.full(channels, bias, np.int32),
            input_zero_point=0,  # nothing is padded
            stride=(1, 1),
            padding=(0, 0, 0, 0),
            depthwise=False,
            requantize=(how.run,),
            accumulator_scale=factor(how.run) * float(output.quant.scale[0]),
            addend=None if how.gain is None else Addend(b, -point(b), how.gain, 0),
        )
    ]
