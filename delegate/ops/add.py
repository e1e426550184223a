"""ADD of two tensors of one shape: a 1x1 convolution over both cubes as one, its kernels two diagonal blocks.

The form is exact on any chip of the family (S-225), while the rounding of the element-wise unit's operand converter is
unknown (S-167). The ratio of the scales is in the weights; the bound of its error is asked for before a node is taken.
"""

from __future__ import annotations

import numpy as np

from delegate import quantize
from delegate.errors import CompileError
from delegate.hw.layout import align, fits_cbuf
from delegate.hw.soc import Soc
from delegate.ir import Convolution, Node, Tensor
from delegate.ops import Rule, lowers
from delegate.ops.rules import (
    ACTIVATION,
    EXTENT,
    FEATURES_8_BIT,
    ONE_IMAGE,
    SAME_DTYPE,
    SCALES_POSITIVE,
    computed_inputs,
)

# With an error below this, the result is within 1 of TFLite's, whose own arithmetic is exact to 2**-20 of a step.
LARGEST_ERROR = 0.45  # output steps


def reach(tensor: Tensor) -> int:
    """The largest |q - zero point|."""
    assert tensor.quant is not None
    zero_point = quantize.zero_point(tensor.quant, tensor.dtype)
    return max(quantize.INT8_HIGH - zero_point, zero_point - quantize.INT8_LOW)


def weights(node: Node) -> quantize.AdditionWeights:
    """The two weights and the converter of a node; a tensor added to itself needs only the first."""
    a, b, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert a is not None and b is not None
    assert a.quant is not None and b.quant is not None and output.quant is not None
    scale_out, offset = float(output.quant.scale[0]), quantize.zero_point(output.quant, output.dtype)
    if a.index == b.index:
        converter = quantize.requantize(2 * float(a.quant.scale[0]) / scale_out, offset)
        return quantize.AdditionWeights(1, 0, converter, 0.0)
    scale_a, scale_b = float(a.quant.scale[0]), float(b.quant.scale[0])
    return quantize.addition_weights(scale_a, scale_b, reach(a), reach(b), scale_out, offset)


def ratio_is_exact_enough(node: Node, soc: Soc) -> bool:
    try:
        return weights(node).error <= LARGEST_ERROR
    except CompileError:
        return False


def clamp_exists(node: Node, soc: Soc) -> bool:
    output = node.outputs[0]
    assert output.quant is not None
    low, high = quantize.activation_range(node.params["activation"], output.quant, output.dtype)
    try:
        quantize.accumulator_clamp(low, high, weights(node).converter)
    except CompileError:
        return False
    return True


def shapes_are_equal(node: Node, soc: Soc) -> bool:
    return len({tensor.shape for tensor in (*computed_inputs(node), *node.outputs)}) == 1


def both_channels(node: Node, soc: Soc) -> int:
    """Channels of the two cubes behind each other, each in whole groups as any producer may write them."""
    return 2 * align(node.outputs[0].shape[3], soc.depthwise_group)


def cbuf_fits(node: Node, soc: Soc) -> bool:
    channels = both_channels(node, soc)
    return fits_cbuf(1, node.outputs[0].shape[2], channels, soc.kernel_group * channels, soc)


@lowers(
    "ADD",
    [
        Rule("both operands are computed", lambda node, soc: len(computed_inputs(node)) == 2 == len(node.inputs)),
        FEATURES_8_BIT,
        SAME_DTYPE,
        ONE_IMAGE,
        Rule("operands and output have one shape", shapes_are_equal),
        EXTENT,
        SCALES_POSITIVE,
        ACTIVATION,
        Rule(
            "both operands' channels fit one kernel of 32 KiB",
            lambda node, soc: both_channels(node, soc) <= soc.kernel_bytes_limit,
        ),
        Rule("a row of both operands fits the CBUF of 384 KiB", cbuf_fits),
        Rule("the scales' ratio is met by weights of 8 bits within 0.45 output steps", ratio_is_exact_enough),
        Rule("output converter can express scale and clamp", clamp_exists),
    ],
)
def add(node: Node, soc: Soc) -> list[Convolution]:
    """out[y,x,c] = requantize(wa * (a[y,x,c] - za) + wb * (b[y,x,c] - zb)), wa : wb the ratio of the scales."""
    a, b, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert a is not None and b is not None
    assert a.quant is not None and b.quant is not None and output.quant is not None
    plan = weights(node)
    channels = output.shape[3]
    identity = np.eye(channels, dtype=np.int8)
    inputs = (a,) if a.index == b.index else (a, b)
    blocks = [identity * np.int8(weight) for weight in (plan.a, plan.b)[: len(inputs)]]
    bias = -plan.a * quantize.zero_point(a.quant, a.dtype) - plan.b * quantize.zero_point(b.quant, b.dtype)
    low, high = quantize.activation_range(node.params["activation"], output.quant, output.dtype)
    relu, limit = quantize.accumulator_clamp(low, high, plan.converter)
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
            requantize=plan.converter,
            accumulator_scale=quantize.factor(plan.converter) * float(output.quant.scale[0]),
            relu=relu,
            relu_limit=limit,
        )
    ]
