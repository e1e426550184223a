"""FULLY_CONNECTED: a convolution whose window is the whole input, or, for rows of numbers, 1x1 over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from delegate.hw.soc import Target
from delegate.ir import AnyLayer, Node, Tensor, View, as_cube
from delegate.ops import OPERATORS, Rule, lowers
from delegate.ops import conv2d as convolutions
from delegate.ops.limits import with_limits
from delegate.ops.parts import holds, placed
from delegate.ops.rules import asked_of


def as_convolution(node: Node) -> Node:
    """The node as a CONV_2D with VALID and stride 1, whose output has the dimensions that it gives."""
    feature, weight, *rest = node.inputs
    assert feature is not None and weight is not None
    outputs, depth = weight.shape
    source, kernel = window(feature, depth)
    extents = (source.shape[1] - kernel[0] + 1, source.shape[2] - kernel[1] + 1)
    output = replace(node.outputs[0], shape=(source.shape[0], *extents, outputs))
    data = (
        weight.data.reshape(outputs, *kernel) if weight.data is not None and weight.data.shape == weight.shape else None
    )
    shaped = replace(weight, shape=(outputs, *kernel), data=data)
    params = {"stride": (1, 1), "dilation": (1, 1), "padding": "VALID", "activation": node.params["activation"]}
    return replace(node, inputs=(source, shaped, *rest), outputs=(output,), params=params)


def window(feature: Tensor, depth: int) -> tuple[Tensor, tuple[int, int, int]]:
    """(input with four dimensions, (kernel height, width, channels)): rows of ``depth`` numbers, or whole images."""
    cube = as_cube(feature)
    if cube.shape[3] == depth:
        images, height, width, _ = cube.shape
        return cube if images > 1 else replace(cube, shape=(1, height * width, 1, depth)), (1, 1, depth)
    return cube, (cube.shape[1], cube.shape[2], cube.shape[3])


def shapes_fit(node: Node, target: Target) -> bool:
    """Weights (outputs, depth), an input that is rows of ``depth`` numbers or images of so many, and their output."""
    if len(node.inputs) < 2 or len(node.outputs) != 1 or node.inputs[0] is None or node.inputs[1] is None:
        return False
    feature, weight = node.inputs[0], node.inputs[1]
    if len(weight.shape) != 2 or min(weight.shape) < 1 or not 1 <= len(feature.shape) <= 4 or min(feature.shape) < 1:
        return False
    depth, cube = weight.shape[1], as_cube(feature)
    rows = cube.shape[3] == depth
    whole = cube.shape[1] * cube.shape[2] * cube.shape[3] == depth
    return (rows or whole) and holds(node.outputs[0], as_convolution(node).outputs[0].shape)


@lowers(
    "FULLY_CONNECTED",
    [
        Rule(
            "weights are (outputs, depth), and the input is rows of depth numbers or images of so many",
            shapes_fit,
            "reshape the input to rows of as many numbers as the weights are deep",
        ),
        Rule(
            "weights are stored as they come",
            lambda node, target: not node.params["shuffled"],
            "convert with the default layout of weights",
        ),
        *map(partial(asked_of, as_convolution), OPERATORS["CONV_2D"].rules),
    ],
)
def fully_connected(node: Node, target: Target) -> Sequence[AnyLayer | View]:
    """out[n,k] = requantize(bias[k] + sum over c of (in[n,c] - zi) * (w[k,c] - zw))."""
    return with_limits(node, target, product)


def product(node: Node, target: Target) -> list[AnyLayer]:
    """The layers of a node; raises CompileError where BS cannot do the activation."""
    *layers, last = convolutions.direct(as_convolution(node), target)
    return [*layers, placed(last, node.outputs[0])]
