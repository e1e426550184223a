"""Fused additions: done on either side where the bound allows it, and then within one step; else left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from layers import addition, convolution, evaluate, feature, graph

from delegate.compile import compile_graph, lower
from delegate.fuse import accumulator_bounds, fuse_additions
from delegate.hw.soc import RK3588
from delegate.ir import Convolution, Graph, Node
from delegate.quantize import round_shift


def quiet(node: Node) -> Node:
    """The convolution with small weights, so that no input can saturate its output."""
    weight = node.inputs[1]
    assert weight is not None and weight.data is not None
    small = replace(weight, data=(weight.data // 64).astype(weight.data.dtype))
    return replace(node, inputs=(node.inputs[0], small, *node.inputs[2:]))


def residual(swapped: bool, sound: bool, scale: float = 0.5) -> Graph:
    source = feature(0, 4, 4, 8, scale=0.1, zero_point=3)
    node, middle = convolution(1, source, 8, scale=0.12 if sound else 0.004, zero_point=-2, seed=4)
    node = quiet(node)
    last, output = addition(2, *((source, middle) if swapped else (middle, source)), scale=scale, zero_point=5)
    return graph([node, last], [source], [output])


@pytest.mark.parametrize("swapped", [False, True])
def test_a_sound_addition_is_fused_on_either_side(swapped: bool) -> None:
    model = residual(swapped, sound=True)
    convolution_layer, addition_layer = lower(model, RK3588)
    (fused,) = fuse_additions([convolution_layer, addition_layer], model, RK3588)
    assert fused.addend is not None and fused.output is addition_layer.output
    image = np.random.default_rng(1).integers(-128, 128, (4, 4, 8))
    middle = evaluate(convolution_layer, [image])
    operands = [image, middle] if swapped else [middle, image]
    assert np.abs(run_fused(fused, image, image) - evaluate(addition_layer, operands)).max() <= 1
    program = compile_graph(model, RK3588)
    assert len(program.tasks) == 1
    assert program.layers[0].description.endswith("addition fused")


def run_fused(layer: Convolution, image: np.ndarray[Any, Any], operand: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Plain evaluation: accumulator, operand in its scale, converter."""
    assert layer.addend is not None
    accumulator = image @ layer.weight[:, 0, 0].astype(np.int64).T + layer.bias
    products = (operand + layer.addend.offset) * layer.addend.multiplier
    total = accumulator + np.array([round_shift(int(p), layer.addend.shift) for p in products.reshape(-1)]).reshape(
        products.shape
    )
    scaled = [round_shift(int(v) * layer.requantize.multiplier, layer.requantize.shift) for v in total.reshape(-1)]
    return np.clip(np.array(scaled).reshape(total.shape) + layer.requantize.offset, -128, 127)


def test_an_addition_behind_a_convolution_that_may_saturate_stays_alone() -> None:
    assert len(lower(residual(False, sound=False), RK3588)) == 2
    model = residual(False, sound=False)
    assert len(fuse_additions(lower(model, RK3588), model, RK3588)) == 2


def test_an_addition_whose_step_is_fine_stays_alone() -> None:
    """The rounding that is left out would show: half a step of the convolution is more than 0.45 of the sum's."""
    model = residual(False, sound=True, scale=0.12)
    assert len(fuse_additions(lower(model, RK3588), model, RK3588)) == 2


def test_other_readers_and_later_operands_forbid_fusion() -> None:
    source = feature(0, 4, 4, 8, scale=0.1)
    first, a = convolution(1, source, 8, scale=0.12, seed=1)
    second, b = convolution(2, source, 8, scale=0.12, seed=2)
    first, second = quiet(first), quiet(second)
    last, output = addition(3, a, b, scale=0.5)
    model = graph([first, second, last], [source], [output])
    fused = fuse_additions(lower(model, RK3588), model, RK3588)
    # only the later convolution finds the other operand ready
    assert [layer.addend is not None for layer in fused] == [False, True]
    read_twice = graph([first, second, last], [source], [output, a, b])
    assert len(fuse_additions(lower(read_twice, RK3588), read_twice, RK3588)) == 3


def test_depthwise_producers_are_not_fused() -> None:
    """S-214."""
    source = feature(0, 4, 4, 8, scale=0.1)
    node, middle = convolution(1, source, 8, depthwise=True, scale=0.12)
    last, output = addition(2, middle, source, scale=0.5)
    model = graph([quiet(node), last], [source], [output])
    assert len(fuse_additions(lower(model, RK3588), model, RK3588)) == 2


def test_bounds_hold_for_the_extreme_inputs() -> None:
    layer = lower(residual(False, sound=True), RK3588)[0]
    low, high = accumulator_bounds(layer)
    weight = layer.weight[:, 0, 0].astype(np.int64)
    highest = [(np.where(kernel > 0, 127, -128) * kernel).sum() for kernel in weight]
    lowest = [(np.where(kernel > 0, -128, 127) * kernel).sum() for kernel in weight]
    assert (low, high) == ((layer.bias + lowest).min(), (layer.bias + highest).max())
