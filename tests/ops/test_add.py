"""ADD and SUB: lowering against real arithmetic for all pairs of values, and every rule's refusal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import (
    EVERY_FORM,
    PROVEN,
    TARGETS,
    addition,
    binary,
    computed,
    evaluate,
    feature,
    graph,
    quant,
    real_values,
    store,
)
from pairs import KINDS, all_pairs, pair_values

from delegate.hw.soc import CHANNEL_OPERAND, FLYING_SCALE, Target
from delegate.ir import Convolution, Elementwise, Node
from delegate.ops import OPERATORS
from delegate.partition import refusals
from delegate.quantize import domain_offset

points = st.integers(-128, 127)


def refused(node: Node, target: Target = EVERY_FORM) -> tuple[str, ...]:
    return refusals(node, graph([node], [], []), target)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["ADD", "SUB"]), st.sampled_from(KINDS), st.floats(0.01, 0.3), st.floats(0.01, 0.3),
    st.floats(0.05, 0.5), points, points, points, st.sampled_from(["NONE", "RELU", "RELU6", "RELU_N1_TO_1"]),
    st.sampled_from(["int8", "uint8"]), st.sampled_from(list(TARGETS)),
)  # fmt: skip
def test_every_pair_of_values_is_within_one(
    op: str,
    kind: str,
    scale_a: float,
    scale_b: float,
    scale_out: float,
    zero_a: int,
    zero_b: int,
    zero_out: int,
    activation: str,
    dtype: str,
    forms: str,
) -> None:
    target = TARGETS[forms]
    a, b, images = all_pairs(kind, dtype, (scale_a, scale_b), (zero_a, zero_b))
    node, output = binary(op, 3, a, b, activation, scale_out, zero_out + domain_offset(dtype))
    if refused(node, target):
        assert target is PROVEN
        assert ("0.45 output steps" if kind == "whole" else CHANNEL_OPERAND) in refused(node, target)[0]
        return
    values = pair_values(kind, (zero_a, zero_b))
    scales = [float(tensor.quant.scale[0]) for tensor in (a, b) if tensor.quant]
    real = scales[0] * values[0] + (-1 if op == "SUB" else 1) * scales[1] * values[1]
    low, high = {"NONE": (-1e9, 1e9), "RELU": (0, 1e9), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1)}[activation]
    got = computed(node, target, images) + domain_offset(dtype)
    assert np.abs(got - store(output, np.clip(real, low, high)).astype(int)).max() <= 1


@pytest.mark.parametrize("activation", ["NONE", "RELU6"])
def test_forms_of_two_tensors(activation: str) -> None:
    """With an activation that ends elsewhere than 8 bits, BS's clamp first; without it, comparisons behind the sum."""
    a, b = (feature(index, 8, 8, 16, scale=0.05) for index in (1, 2))
    node, _ = addition(3, a, b, activation, zero_point=-20)
    kinds = [[type(layer).__name__ for layer in OPERATORS["ADD"].lower(node, target)] for target in TARGETS.values()]
    clamped = activation != "NONE"
    assert kinds == [["Convolution", *["Elementwise"] * 2 * clamped], ["Convolution"]]
    layer = OPERATORS["ADD"].lower(node, EVERY_FORM)[0]
    assert isinstance(layer, Convolution)
    assert (layer.addend is None) == clamped == layer.requantize[0].relu


def test_what_the_cbuf_cannot_hold_is_added_without_convolution() -> None:
    a, b = (feature(index, 1, 2047, 512, scale=0.05) for index in (1, 2))
    node, _ = addition(3, a, b)
    assert "CBUF" in refused(node, PROVEN)[0] and FLYING_SCALE in refused(node, PROVEN)[0]
    (layer,) = OPERATORS["ADD"].lower(node, EVERY_FORM)
    assert isinstance(layer, Elementwise) and layer.operation == "add"


def test_a_constant_beyond_32_bits_is_refused() -> None:
    a = feature(1, 4, 4, 8, scale=1e-9)
    b = replace(feature(2, 1, 1, 8, scale=1.0), data=np.full((1, 1, 1, 8), 100, np.int8))
    assert "0.45 output steps" in refused(addition(3, a, b)[0])[0]


def test_a_tensor_plus_itself() -> None:
    a = feature(1, 1, 256, 1, scale=0.1, zero_point=5)
    node, output = addition(2, a, a, scale=0.2, zero_point=-3)
    image = np.arange(-128, 128).reshape(1, 256, 1)
    for target in TARGETS.values():
        assert refused(node, target) == ()
        (layer,) = OPERATORS["ADD"].lower(node, target)
        assert len(layer.inputs) == 1 and layer.addend is None
        np.testing.assert_array_equal(evaluate(layer, [image]), store(output, 2 * real_values(a, image)))


def test_few_atoms_are_not_given_to_the_elementwise_unit() -> None:
    """Fewer than twelve a surface gave wrong sums (S-111); a surface has four rows at least."""
    for width, expected in [(2, False), (3, True)]:
        a, b = (feature(index, 1, width, 8, scale=0.1 * index) for index in (1, 2))
        node, _ = addition(3, a, b, scale=0.3)
        (layer,) = OPERATORS["ADD"].lower(node, EVERY_FORM)
        assert (layer.addend is not None) is expected


def test_a_tensor_less_itself_is_the_zero_point() -> None:
    a = feature(1, 1, 256, 1, scale=0.1, zero_point=5)
    node, _ = binary("SUB", 2, a, a, scale=0.2, zero_point=-3)
    for target in TARGETS.values():
        assert refused(node, target) == ()
        assert (computed(node, target, {1: np.arange(-128, 128).reshape(1, 1, 256, 1)}) == -3).all()


def test_refusals_name_their_reason() -> None:
    a, b = feature(1, 8, 8, 16), feature(2, 8, 8, 16)
    node, _ = addition(3, a, b)
    assert refused(node) == ()
    (got,) = refused(replace(node, params={"activation": "TANH"}))
    assert "activation" in got
    apart = replace(node, inputs=(a, replace(b, quant=quant(1e-5))))
    assert refused(apart) == ()  # a gain of one accumulator step is exact enough
    assert "0.45 output steps" in refused(apart, PROVEN)[0]
    assert "0.45 output steps" in refused(replace(node, inputs=(a, replace(b, quant=quant(1e-10)))))[0]
    wide = [feature(index, 1, 1, 8192) for index in (1, 2)]
    assert "CBUF" in refused(addition(3, *wide)[0], PROVEN)[0]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantized_zero_stays_zero(dtype: str) -> None:
    zero = 7 + domain_offset(dtype)
    a, b = (feature(index, 1, 3, 1, dtype, 0.1 * index, zero) for index in (1, 2))
    node, _ = addition(3, a, b, scale=0.3, zero_point=zero)
    (layer,) = OPERATORS["ADD"].lower(node, PROVEN)
    sevens = np.full((1, 3, 1), 7)
    assert (evaluate(layer, [sevens, sevens]) == 7).all()
    (layer,) = OPERATORS["ADD"].lower(node, EVERY_FORM)
    assert (evaluate(layer, [sevens], sevens) == 7).all()
