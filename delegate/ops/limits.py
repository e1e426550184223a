"""Fused activations that no stage of a layer can do: passes of the element-wise unit that compare with constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from delegate import quantize
from delegate.errors import CompileError
from delegate.hw.layout import align
from delegate.hw.soc import BS_CLAMP, Target
from delegate.ir import AnyLayer, Elementwise, Node, Requantize, Tensor, as_cube
from delegate.ops.inner import HALF_LIMITED, UNLIMITED, inner
from delegate.ops.operands import LARGEST_CONSTANT, stored

Extreme = Literal["max", "min"]


def activation_limits(node: Node) -> tuple[int, int]:
    """(low, high) of the output in the NPU's domain."""
    output = node.outputs[0]
    assert output.quant is not None
    return quantize.activation_range(node.params.get("activation", "NONE"), output.quant, output.dtype)


def is_limited(node: Node) -> bool:
    """Whether the activation ends elsewhere than 8 bits do, where the output converter saturates by itself."""
    return activation_limits(node) != (quantize.INT8_LOW, quantize.INT8_HIGH)


def extreme(node: Node, main: Tensor, operand: Tensor, operation: Extreme, output: Tensor) -> Elementwise:
    """The larger or smaller of the stored numbers (S-107), which go through the output converter as they are."""
    return Elementwise(
        node=node.index,
        operator=node.op,
        main=main,
        output=output,
        requantize=Requantize(range(output.shape[3]), multiplier=1, shift=0, offset=0),
        operation=operation,
        operand=operand,
    )


def unlimited(node: Node) -> Tensor:
    """What the layer before ``limits`` writes: the output, or one that the model does not have."""
    return inner(node.outputs[0], UNLIMITED) if is_limited(node) else node.outputs[0]


def bare(node: Node) -> Node:
    """The node without its activation, which writes what ``limits`` begin with."""
    return replace(node, outputs=(unlimited(node),), params={**node.params, "activation": "NONE"})


def exists(node: Node, target: Target, holds: Callable[[Node, Target], bool]) -> bool:
    """Whether something holds of the node with its activation in BS, or else of the bare one."""
    if (BS_CLAMP in target.forms or not is_limited(node)) and holds(node, target):
        return True
    return is_limited(node) and holds(bare(node), target)


def with_limits(node: Node, target: Target, lower: Callable[[Node, Target], Sequence[AnyLayer]]) -> list[AnyLayer]:
    """The layers of a node with its activation in BS where the device and the numbers allow that, else behind them.

    ``lower`` raises CompileError where BS cannot clamp; so does this where the bare node has no layers either.
    """
    if BS_CLAMP in target.forms or not is_limited(node):
        try:
            return list(lower(node, target))
        except CompileError:
            if not is_limited(node):
                raise
    return [*lower(bare(node), target), *limits(node, target)]


def limits(node: Node, target: Target) -> list[Elementwise]:
    """Layers from ``unlimited(node)`` to the output, none where the output converter's saturation is enough."""
    low, high = activation_limits(node)
    steps: list[tuple[Extreme, int]] = []
    if low > quantize.INT8_LOW:
        steps.append(("max", low))
    if high < quantize.INT8_HIGH:
        steps.append(("min", high))
    layers: list[Elementwise] = []
    source = as_cube(unlimited(node))
    for operation, value in steps:
        last = len(layers) + 1 == len(steps)
        output = as_cube(node.outputs[0] if last else inner(node.outputs[0], HALF_LIMITED))
        layers.append(extreme(node, source, limit(output, value, target), operation, output))
        source = output
    return layers


def limit(output: Tensor, value: int, target: Target) -> Tensor:
    """A constant of one number of the NPU's domain: one a channel, or as many rows of it as may be stored."""
    _, height, width, channels = output.shape
    row = width * align(channels, target.soc.atom_bytes)
    rows = min(height, max(LARGEST_CONSTANT // row, target.soc.line_group))
    number = replace(
        output, name=f"limit {value}", shape=(1, 1, 1, 1), dtype="int8", data=np.full((1, 1, 1, 1), value, np.int8)
    )
    return stored(number, replace(output, shape=(1, rows, width, channels)), target)
