"""ADD: lowering against real arithmetic for all pairs of values, and every rule's refusal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import addition, evaluate, feature, graph, quant, real_values, store

from delegate.hw.soc import RK3588
from delegate.ir import Node
from delegate.ops import OPERATORS
from delegate.partition import refusals
from delegate.quantize import domain_offset


def refused(node: Node) -> tuple[str, ...]:
    return refusals(node, graph([node], [], []), RK3588)


@settings(deadline=None, max_examples=40)
@given(
    st.floats(0.01, 0.3), st.floats(0.01, 0.3), st.floats(0.05, 0.5), st.integers(-128, 127), st.integers(-128, 127),
    st.integers(-128, 127), st.sampled_from(["NONE", "RELU", "RELU6"]), st.sampled_from(["int8", "uint8"]),
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
) -> None:
    offset = domain_offset(dtype)
    a = feature(1, 256, 256, 1, dtype, scale_a, zero_a + offset)
    b = feature(2, 256, 256, 1, dtype, scale_b, zero_b + offset)
    node, output = addition(3, a, b, activation, scale_out, zero_out + offset)
    if refused(node):
        assert "0.45 output steps" in refused(node)[0]
        return
    (layer,) = OPERATORS["ADD"].lower(node, RK3588)
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
    got = evaluate(layer, [image - offset for image in images]) + offset
    assert np.abs(got - store(output, real).astype(int)).max() <= 1


def test_a_tensor_plus_itself() -> None:
    a = feature(1, 1, 256, 1, scale=0.1, zero_point=5)
    node, output = addition(2, a, a, scale=0.2, zero_point=-3)
    assert refused(node) == ()
    (layer,) = OPERATORS["ADD"].lower(node, RK3588)
    assert len(layer.inputs) == 1
    image = np.arange(-128, 128).reshape(1, 256, 1)
    np.testing.assert_array_equal(evaluate(layer, [image]), store(output, 2 * real_values(a, image)))


def test_refusals_name_their_reason() -> None:
    a, b = feature(1, 8, 8, 16), feature(2, 8, 8, 16)
    node, output = addition(3, a, b)
    assert refused(node) == ()
    for changes, reason in [
        ({"inputs": (a, replace(b, data=np.zeros((1, 8, 8, 16), np.int8)))}, "both operands are computed"),
        ({"inputs": (a, replace(b, shape=(1, 1, 1, 16)))}, "one shape"),
        ({"inputs": (a, replace(b, dtype="uint8"))}, "one dtype"),
        ({"inputs": (a, replace(b, quant=quant(1e-5)))}, "ratio"),
        ({"params": {"activation": "TANH"}}, "activation"),
        ({"outputs": (replace(output, quant=None),)}, "int8 or uint8"),
    ]:
        (got,) = refused(replace(node, **changes))  # type: ignore[arg-type]
        assert reason in got
    wide = [feature(index, 1, 1, 8192) for index in (1, 2)]
    broad = [feature(index, 1, 2047, 512) for index in (1, 2)]
    assert "CBUF" in refused(addition(3, *broad)[0])[0]
    assert "CBUF" in refused(addition(3, *wide)[0])[0]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantized_zero_stays_zero(dtype: str) -> None:
    zero = 7 + domain_offset(dtype)
    a, b = (feature(index, 1, 1, 1, dtype, 0.1 * index, zero) for index in (1, 2))
    node, _ = addition(3, a, b, scale=0.3, zero_point=zero)
    (layer,) = OPERATORS["ADD"].lower(node, RK3588)
    assert evaluate(layer, [np.full((1, 1, 1), 7), np.full((1, 1, 1), 7)])[0, 0, 0] == 7
