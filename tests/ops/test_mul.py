"""MUL: lowering against TFLite's arithmetic for all pairs of values, the share that is equal, and forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from arithmetic import multiplied_by_tflite
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import EVERY_FORM, PROVEN, TARGETS, binary, computed, feature, graph
from pairs import KINDS, all_pairs, pair_values

from delegate import sums
from delegate.errors import CompileError
from delegate.hw.soc import CHANNEL_OPERAND, FLYING_SCALE, Target
from delegate.ir import Node
from delegate.ops import OPERATORS
from delegate.partition import refusals
from delegate.quantize import domain_offset

points = st.integers(-128, 127)
scales = st.floats(0.001, 1.0)


def refused(node: Node, target: Target) -> tuple[str, ...]:
    return refusals(node, graph([node], [], []), target)


def expected(
    kind: str, scale_a: float, scale_b: float, scale_out: float, zeros: tuple[int, int, int]
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """TFLite's MUL without activation, in the int8 domain; its factor is a product of floats in single precision."""
    a, b = pair_values(kind, zeros[:2])
    factor = float(np.float32(scale_a) * np.float32(scale_b) / np.float32(scale_out))
    return np.clip(multiplied_by_tflite(a * b, factor) + zeros[2], -128, 127)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(KINDS), scales, scales, st.floats(-3, 2), points, points, points,
    st.sampled_from(["NONE", "RELU", "RELU6", "RELU_N1_TO_1"]), st.sampled_from(["int8", "uint8"]),
    st.sampled_from(list(TARGETS)),
)  # fmt: skip
def test_every_pair_of_values_is_within_one(
    kind: str,
    scale_a: float,
    scale_b: float,
    room: float,
    zero_a: int,
    zero_b: int,
    zero_out: int,
    activation: str,
    dtype: str,
    forms: str,
) -> None:
    target = TARGETS[forms]
    scale_out = scale_a * scale_b * 128 * float(np.exp(room))
    a, b, images = all_pairs(kind, dtype, (scale_a, scale_b), (zero_a, zero_b))
    node, _ = binary("MUL", 3, a, b, activation, scale_out, zero_out + domain_offset(dtype))
    if target is PROVEN and not kind.startswith("constant"):
        assert FLYING_SCALE in refused(node, target)[0]
        return
    assert refused(node, target) == ()
    got = computed(node, target, images)
    wanted = expected(kind, scale_a, scale_b, scale_out, (zero_a, zero_b, zero_out))
    step = float(np.float32(scale_out))
    low, high = {"NONE": (-1e9, 1e9), "RELU": (0, 1e9), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1)}[activation]
    wanted = np.clip(wanted, *np.clip(np.round(np.array([low, high]) / step) + zero_out, -128, 127).astype(int))
    assert np.abs(got - wanted).max() <= 1
    # ties of the bits that TFLite rounds to first; of a constant, where factors are powers of two (decision 0007)
    assert (got != wanted).mean() <= (0.01 if kind.startswith("constant") and target is EVERY_FORM else 0.03)


def test_products_of_two_tensors_are_mostly_tflites() -> None:
    rng = np.random.default_rng(0)
    differ = []
    for _ in range(20):
        scale_a, scale_b = (float(np.exp(value)) for value in rng.uniform(-5, 0, 2))
        scale_out = scale_a * scale_b * 128
        zeros = tuple(int(value) for value in rng.integers(-128, 128, 3))
        a, b, images = all_pairs("whole", "int8", (scale_a, scale_b), zeros[:2])
        node, _ = binary("MUL", 3, a, b, "NONE", scale_out, zeros[2])
        got = computed(node, EVERY_FORM, images)
        differ.append((got != expected("whole", scale_a, scale_b, scale_out, zeros)).mean())
    assert np.mean(differ) <= 0.01


@given(st.floats(1e-6, 100.0), st.integers(128, 255), st.integers(128, 255))
def test_a_product_stays_within_32_bits_and_its_bound(real: float, reach_a: int, reach_b: int) -> None:
    plan = sums.exact_product(real, reach_a * reach_b, 8, 0)
    assert 1 <= plan.factor <= 0x7FFF and 0x4000 <= plan.run.multiplier <= 0x7FFF and 1 <= plan.run.shift <= 63
    assert plan.factor * reach_a * reach_b < 2**31
    used = plan.factor * plan.run.multiplier / 2**plan.run.shift
    assert 0 <= (used - real) * min(reach_a * reach_b, 256 / real) <= plan.error * (1 + 1e-9)
    assert plan.error <= 1e-4


def test_factors_out_of_reach_are_an_error() -> None:
    for real in (1e-30, 1e-18, 1e12, 1e30):
        with pytest.raises(CompileError, match="product"):
            sums.exact_product(real, 1 << 14, 1, 0)


def test_forms() -> None:
    a, b = feature(1, 4, 4, 8), feature(2, 4, 4, 8)
    (square,) = OPERATORS["MUL"].lower(binary("MUL", 3, a, a)[0], EVERY_FORM)
    assert square.reads == (a, a)
    narrow = binary("MUL", 3, a, replace(b, shape=(1, 1, 1, 8)))[0]
    assert CHANNEL_OPERAND in refused(narrow, Target(PROVEN.soc, frozenset({FLYING_SCALE})))[0]
    map_of_pixels = replace(b, data=np.ones((1, 4, 4, 8), np.int8))
    assert FLYING_SCALE in refused(binary("MUL", 3, a, map_of_pixels)[0], PROVEN)[0]
    assert refused(binary("MUL", 3, a, map_of_pixels)[0], EVERY_FORM) == ()
    large = [feature(index, 300, 300, 16) for index in (1, 2)]
    stored = replace(large[1], data=np.ones((1, 300, 300, 16), np.int8))
    assert "1 MiB" in refused(binary("MUL", 3, large[0], stored)[0], EVERY_FORM)[0]
