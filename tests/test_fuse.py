"""Fused additions: done on either side where the bound allows it, and then within one step; else left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from layers import EVERY_FORM, PROVEN, addition, convolution, evaluate, feature, graph

from delegate.compile import compile_graph, lower
from delegate.fuse import accumulator_bounds, fuse, fuse_additions
from delegate.hw.soc import RK3588
from delegate.ir import Convolution, Graph, Node


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


def layers_of(model: Graph) -> list[Convolution]:
    """The layers of proven forms: additions have two inputs, and fusing saves a pass."""
    return [layer for layer in lower(model, PROVEN)[0] if isinstance(layer, Convolution)]


def fused_layers(model: Graph) -> list[Convolution]:
    """The layers with what can be fused."""
    layers, views = lower(model, PROVEN)
    return [layer for layer in fuse_additions(layers, model, views, RK3588) if isinstance(layer, Convolution)]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_sound_addition_is_fused_on_either_side(swapped: bool) -> None:
    model = residual(swapped, sound=True)
    convolution_layer, addition_layer = layers_of(model)
    (fused,) = fused_layers(model)
    assert fused.addend is not None and fused.output is addition_layer.output
    image = np.random.default_rng(1).integers(-128, 128, (4, 4, 8))
    middle = evaluate(convolution_layer, [image])
    operands = [image, middle] if swapped else [middle, image]
    assert np.abs(evaluate(fused, [image], image) - evaluate(addition_layer, operands)).max() <= 1
    program = compile_graph(model, PROVEN)
    assert len(program.tasks) == 1
    assert program.layers[0].description.endswith("addition fused")


def test_an_addition_behind_a_convolution_that_may_saturate_stays_alone() -> None:
    assert len(layers_of(residual(False, sound=False))) == 2
    model = residual(False, sound=False)
    assert len(fused_layers(model)) == 2


def test_an_addition_whose_step_is_fine_stays_alone() -> None:
    """The rounding that is left out would show: half a step of the convolution is more than 0.45 of the sum's."""
    model = residual(False, sound=True, scale=0.12)
    assert len(fused_layers(model)) == 2


def test_an_addition_that_the_elementwise_unit_does_exactly_stays_alone() -> None:
    """Where gains are allowed it is TFLite's own result; fused it would leave a rounding out."""
    model = residual(False, sound=True)
    layers, views = lower(model, EVERY_FORM)
    assert [isinstance(layer, Convolution) and layer.addend is not None for layer in layers] == [False, True]
    assert fuse_additions(layers, model, views, RK3588) == layers


def test_other_readers_and_later_operands_forbid_fusion() -> None:
    source = feature(0, 4, 4, 8, scale=0.1)
    first, a = convolution(1, source, 8, scale=0.12, seed=1)
    second, b = convolution(2, source, 8, scale=0.12, seed=2)
    first, second = quiet(first), quiet(second)
    last, output = addition(3, a, b, scale=0.5)
    model = graph([first, second, last], [source], [output])
    fused = fused_layers(model)
    # only the later convolution finds the other operand ready
    assert [layer.addend is not None for layer in fused] == [False, True]
    read_twice = graph([first, second, last], [source], [output, a, b])
    assert len(fused_layers(read_twice)) == 3


def test_depthwise_producers_are_not_fused() -> None:
    """S-214."""
    source = feature(0, 4, 4, 8, scale=0.1)
    node, middle = convolution(1, source, 8, depthwise=True, scale=0.12)
    last, output = addition(2, middle, source, scale=0.5)
    model = graph([quiet(node), last], [source], [output])
    assert len(fused_layers(model)) == 2


def test_a_busy_elementwise_unit_forbids_fusion() -> None:
    producer, last = layers_of(residual(False, sound=True))
    other = last.inputs[1]
    assert fuse(producer, last, other, RK3588) is not None
    run = replace(producer.requantize[0], gain=np.ones(producer.bias.size, np.int8))
    assert fuse(replace(producer, requantize=(run,)), last, other, RK3588) is None


def test_bounds_hold_for_the_extreme_inputs() -> None:
    layer = layers_of(residual(False, sound=True))[0]
    low, high = accumulator_bounds(layer)
    weight = layer.weight[:, 0, 0].astype(np.int64)
    highest = [(np.where(kernel > 0, 127, -128) * kernel).sum() for kernel in weight]
    lowest = [(np.where(kernel > 0, -128, 127) * kernel).sum() for kernel in weight]
    assert (low, high) == ((layer.bias + lowest).min(), (layer.bias + highest).max())
