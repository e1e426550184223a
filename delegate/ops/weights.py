"""What a node of a convolution has besides its input: weights and a bias, both constants."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from delegate import quantize
from delegate.hw.soc import Target
from delegate.ir import Node, Tensor
from delegate.ops import Rule
from delegate.ops.rules import computed_inputs, zero_points_fit


def is_depthwise(node: Node) -> bool:
    """Whether each channel has a kernel of its own; a product by a constant is lowered as such a node."""
    return node.op in ("DEPTHWISE_CONV_2D", "MUL")


def weight_of(node: Node) -> Tensor:
    """The weight tensor; rules that run first make sure that it is there."""
    tensor = node.inputs[1]
    assert tensor is not None
    return tensor


def weight_data(node: Node) -> npt.NDArray[np.int8]:
    """The weights in the NPU's domain."""
    data = weight_of(node).data
    assert data is not None
    return quantize.to_int8(data)


def bias_data(node: Node) -> npt.NDArray[np.int64]:
    """int64 (output channels); zero where the node has no bias."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None or bias.data is None:
        return np.zeros(node.outputs[0].shape[3], np.int64)
    return bias.data.astype(np.int64).reshape(-1)


def accumulator_bound(node: Node) -> int:
    """A bound of |accumulator| over all inputs and weights, from the sizes alone."""
    _, height, width, channels = weight_of(node).shape
    taps = height * width * (1 if is_depthwise(node) else channels)
    return taps * 255 * 255 + int(np.abs(bias_data(node)).max(initial=0))


def input_and_constants(node: Node, target: Target) -> bool:
    """The first input alone is computed."""
    if len(node.inputs) not in (2, 3) or len(node.outputs) != 1 or node.inputs[0] is None or node.inputs[1] is None:
        return False
    return computed_inputs(node) == [node.inputs[0]]


def weights_are_quantized(node: Node, target: Target) -> bool:
    """One scale, or one a channel of the output; one zero point."""
    weight = weight_of(node)
    if weight.dtype not in ("int8", "uint8") or weight.quant is None or not zero_points_fit(weight):
        return False
    axis = 3 if is_depthwise(node) else 0
    channels = weight.shape[axis] if len(weight.shape) == 4 else 0
    per_channel = weight.quant.scale.size == channels and weight.quant.axis == axis
    one_zero_point = bool((weight.quant.zero_point == weight.quant.zero_point[0]).all())
    return (weight.quant.scale.size == 1 or per_channel) and one_zero_point


CONSTANT_COEFFICIENTS = Rule(
    "input is computed; weights and bias are constants",
    input_and_constants,
    "store weights and bias in the model (freeze it before it is converted)",
)
WEIGHT_SCALES = Rule(
    "weights have one scale, or one a channel, and one zero point",
    weights_are_quantized,
    "quantize weights symmetrically, a scale a channel or a tensor",
)
WEIGHT_DTYPE = Rule(
    "weights have the input's dtype",
    lambda node, target: weight_of(node).dtype == node.outputs[0].dtype,
    "quantize weights and activations to one type",
)
