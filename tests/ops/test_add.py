"""ADD: lowering against real arithmetic for all pairs of values, and every rule's refusal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import EVERY_FORM, PROVEN, TARGETS, addition, evaluate, feature, graph, quant, real_values, store

from delegate.hw.soc import BS_CLAMP, Target
from delegate.ir import Node
from delegate.ops import OPERATORS
from delegate.partition import refusals
from delegate.quantize import domain_offset


def refused(node: Node, target: Target = EVERY_FORM) -> tuple[str, ...]:
    return refusals(node, graph([node], [], []), target)


@settings(deadline=None, max_examples=40)
@given(
    st.floats(0.01, 0.3), st.floats(0.01, 0.3), st.floats(0.05, 0.5), st.integers(-128, 127), st.integers(-128, 127),
    st.integers(-128, 127), st.sampled_from(["NONE", "RELU", "RELU6"]), st.sampled_from(["int8", "uint8"]),
    st.sampled_from(list(TARGETS)),
)  # fmt: skip
def test_every_pair_of_values_is_within_one(
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
    offset = domain_offset(dtype)
    a = feature(1, 256, 256, 1, dtype, scale_a, zero_a + offset)
    b = feature(2, 256, 256, 1, dtype, scale_b, zero_b + offset)
    node, output = addition(3, a, b, activation, scale_out, zero_out + offset)
    if refused(node, target):
        assert any(reason in refused(node, target)[0] for reason in ("0.45 output steps", BS_CLAMP))
        return
    (layer,) = OPERATORS["ADD"].lower(node, target)
    assert (layer.addend is not None) == (target is EVERY_FORM and not layer.requantize[0].relu)
    info = np.iinfo(dtype)
    values = np.arange(info.min, info.max + 1)
    images = [
        np.broadcast_to(values[:, None, None], (256, 256, 1)),
        np.broadcast_to(values[None, :, None], (256, 256, 1)),
    ]
    real = real_values(a, images[0]) + real_values(b, images[1])
    if activation != "NONE":
        real = np.maximum(real, 0)
    if activation == "RELU6":
        real = np.minimum(real, 6)
    cubes = [image - offset for image in images]
    got = evaluate(layer, cubes[: len(layer.inputs)], cubes[1]) + offset
    assert np.abs(got - store(output, real).astype(int)).max() <= 1


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


def test_a_clamp_of_bs_is_refused_where_it_is_not_allowed() -> None:
    a, b = (feature(index, 8, 8, 16) for index in (1, 2))
    node, _ = addition(3, a, b, "RELU")
    assert BS_CLAMP in refused(node, PROVEN)[0]
    assert refused(node) == ()
    at_the_end, _ = addition(3, a, b, "RELU", zero_point=-128)
    assert refused(at_the_end, PROVEN) == ()


def test_refusals_name_their_reason() -> None:
    a, b = feature(1, 8, 8, 16), feature(2, 8, 8, 16)
    node, output = addition(3, a, b)
    assert refused(node) == ()
    for changes, reason in [
        ({"inputs": (a, replace(b, data=np.zeros((1, 8, 8, 16), np.int8)))}, "both operands are computed"),
        ({"inputs": (a, replace(b, shape=(1, 1, 1, 16)))}, "one shape"),
        ({"inputs": (a, replace(b, dtype="uint8"))}, "one dtype"),
        ({"params": {"activation": "TANH"}}, "activation"),
        ({"outputs": (replace(output, quant=None),)}, "int8 or uint8"),
    ]:
        (got,) = refused(replace(node, **changes))  # type: ignore[arg-type]
        assert reason in got
    apart = replace(node, inputs=(a, replace(b, quant=quant(1e-5))))
    assert "0.45 output steps" in refused(apart, PROVEN)[0]
    assert refused(apart) == ()  # a gain of one accumulator step is exact enough
    assert "0.45 output steps" in refused(replace(node, inputs=(a, replace(b, quant=quant(1e-10)))))[0]
    wide = [feature(index, 1, 1, 8192) for index in (1, 2)]
    broad = [feature(index, 1, 2047, 512) for index in (1, 2)]
    assert "CBUF" in refused(addition(3, *broad)[0])[0]
    assert "CBUF" in refused(addition(3, *wide)[0])[0]


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
