"""Fused activations that no stage of a layer can do: passes of the element-wise unit that compare with constants."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from delegate import quantize
from delegate.hw.soc import Target
from delegate.ir import Elementwise, Node, Requantize, Tensor
from delegate.ops.inner import HALF_LIMITED, UNLIMITED, inner
from delegate.ops.operands import constant_fits, stored

Extreme = Literal["max", "min"]


def activation_limits(node: Node) -> tuple[int, int]:
    """(low, high) of the output in the NPU's domain."""
    output = node.outputs[0]
    assert output.quant is not None
    return quantize.activation_range(node.params["activation"], output.quant, output.dtype)


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


def limits(node: Node, target: Target) -> list[Elementwise]:
    """Layers from ``unlimited(node)`` to the output, none where the output converter's saturation is enough."""
    low, high = activation_limits(node)
    steps: list[tuple[Extreme, int]] = []
    if low > quantize.INT8_LOW:
        steps.append(("max", low))
    if high < quantize.INT8_HIGH:
        steps.append(("min", high))
    layers: list[Elementwise] = []
    source = unlimited(node)
    for operation, value in steps:
        output = node.outputs[0] if len(layers) + 1 == len(steps) else inner(node.outputs[0], HALF_LIMITED)
        operand = stored(limit(node, value), output, target)
        layers.append(extreme(node, source, operand, operation, output))
        source = output
    return layers


def limit(node: Node, value: int) -> Tensor:
    """A constant of one number of the NPU's domain."""
    return replace(
        node.outputs[0], name=f"limit {value}", shape=(1, 1, 1, 1), dtype="int8",
        data=np.full((1, 1, 1, 1), value, np.int8),
    )  # fmt: skip


def limits_fit(node: Node, target: Target) -> bool:
    """The constants of ``limits`` are small enough, or none is needed."""
    return not is_limited(node) or constant_fits(limit(node, 0), node.outputs[0], target)
