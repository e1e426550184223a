"""Fused activations that end within the range of 8 bits, with every form and with proven ones alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tflite_writer import Builder, Model, write

from benchmarks.harness import infer, random_inputs
from delegate.hw.soc import EVERY_FORM, RK3588, Target
from delegate.ir import Elementwise, Node
from delegate.ops import OPERATORS
from delegate.tflite import read_graph

Interpreters = Callable[..., Any]
SCALE, POINT = 0.02, 20  # 1, 0 and 6 lie within 8 bits, or beyond their ends
TARGETS = {"auto": EVERY_FORM, "never": Target(RK3588)}
ACTIVATIONS = ("RELU", "RELU6", "RELU_N1_TO_1")


def convolved(builder: Builder, source: int, activation: str, dtype: str, **options: Any) -> int:
    """Weights a scale a channel where the type has that."""
    rng, depthwise = np.random.default_rng(1), options.get("depthwise", False)
    shape = (1, 3, 3, 20) if depthwise else (24, 3, 3, 20)
    low, high = (0, 256) if dtype == "uint8" else (-127, 128)
    weight = rng.integers(low, high, shape).astype(dtype)
    channels = shape[3] if depthwise else shape[0]
    scales = 0.001 if dtype == "uint8" else rng.uniform(0.0004, 0.001, channels).tolist()
    bias, point = rng.integers(-500, 500, channels).astype(np.int32), 128 if dtype == "uint8" else 0
    output = (SCALE, POINT + point)
    return builder.convolution(
        source, weight, scales, output, weight_zero_point=point, bias=bias, activation=activation, **options
    )


def connected(builder: Builder, source: int, activation: str, dtype: str) -> int:
    rng, point = np.random.default_rng(2), 128 if dtype == "uint8" else 0
    rows = builder.reshape(source, (9 * 12, 20))
    weight = rng.integers(point - 100, point + 100, (30, 20)).astype(dtype)
    bias = np.zeros(30, np.int32)
    return builder.fully_connected(rows, weight, 0.003, (SCALE, POINT + point), point, bias, activation)


def transposed(builder: Builder, source: int, activation: str, dtype: str) -> int:
    rng, point = np.random.default_rng(3), 128 if dtype == "uint8" else 0
    weight = rng.integers(point - 100, point + 100, (7, 3, 3, 20)).astype(dtype)
    return builder.transpose_conv(
        source, weight, 0.001, (SCALE, POINT + point), weight_zero_point=point, activation=activation
    )


def scaled(builder: Builder, source: int, activation: str, dtype: str) -> int:
    point = 128 if dtype == "uint8" else 0
    factors = builder.constant(np.arange(point - 10, point + 10).reshape(20).astype(dtype), 0.2, point)
    return builder.mul(source, factors, (SCALE, POINT + point), activation)


MAKERS: dict[str, Callable[[Builder, int, str, str], int]] = {
    "CONV_2D": convolved,
    "CONV_2D with stride 14": lambda b, s, a, d: convolved(b, s, a, d, stride=(1, 14)),
    "DEPTHWISE_CONV_2D": lambda b, s, a, d: convolved(b, s, a, d, depthwise=True),
    "FULLY_CONNECTED": connected,
    "TRANSPOSE_CONV": transposed,
    "AVERAGE_POOL_2D": lambda b, s, a, d: b.pool(s, "AVERAGE_POOL_2D", (3, 3), (2, 2), activation=a),
    "AVERAGE_POOL_2D at borders": lambda b, s, a, d: b.pool(s, "AVERAGE_POOL_2D", (3, 3), (1, 1), "SAME", a),
    "MAX_POOL_2D": lambda b, s, a, d: b.pool(s, "MAX_POOL_2D", (3, 2), (2, 1), "SAME", a),
    "MUL": scaled,
}


def model(maker: str, activation: str, dtype: str) -> Model:
    builder, point = Builder(), 128 if dtype == "uint8" else 0
    source = builder.tensor((1, 9, 12, 20), dtype, SCALE, POINT + point)
    return builder.finish([source], [MAKERS[maker](builder, source, activation, dtype)])


def needs_a_form(maker: str) -> bool:
    """Operators that are for other reasons refused where nothing unproven may be used."""
    return maker in ("TRANSPOSE_CONV", "AVERAGE_POOL_2D at borders")


@pytest.mark.parametrize("kernel", ["rocket", "rknpu"])
@pytest.mark.parametrize("forms", TARGETS)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("maker", MAKERS)
def test_activations_are_tflites(
    maker: str,
    dtype: str,
    forms: str,
    kernel: str,
    npu_interpreter: Interpreters,
    reference_interpreter: Interpreters,
) -> None:
    if (kernel == "rknpu" and maker != "MAX_POOL_2D") or (forms == "never" and needs_a_form(maker)):
        return
    per_channel = dtype == "int8" and "CONV_2D" in maker
    tolerance = int(forms == "never" or per_channel)  # of which BS has multipliers of 15 bits
    for activation in ACTIVATIONS:
        content = write(model(maker, activation, dtype))
        npu = npu_interpreter(content, unproven=forms, kernel=kernel)
        plain = reference_interpreter(content)
        assert len(npu._get_ops_details()) == len(plain._get_ops_details()) + 1, f"{activation} is not on the NPU"
        for seed in range(3):
            inputs = random_inputs(plain, np.random.default_rng(seed))
            (got,), (expected,) = infer(npu, inputs), infer(plain, inputs)
            assert len(np.unique(expected)) > 10
            assert np.abs(got.astype(int) - expected).max() <= tolerance, activation


def lowered(node: Node, forms: str) -> list[Elementwise]:
    layers = OPERATORS[node.op].lower(node, TARGETS[forms])
    return [layer for layer in layers if isinstance(layer, Elementwise)]


@pytest.mark.parametrize("maker", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MUL"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_comparisons_come_where_bs_cannot_clamp(maker: str, activation: str) -> None:
    node = read_graph(write(model(maker, activation, "int8"))).nodes[-1]
    ends = {"RELU": ["max"], "RELU6": ["max"], "RELU_N1_TO_1": ["max", "min"]}[activation]  # 6 is beyond 127
    assert [layer.operation for layer in lowered(node, "never")] == ends
    assert [layer.operation for layer in lowered(node, "auto")] == (ends if activation == "RELU_N1_TO_1" else [])


def test_limits_of_a_large_image_are_rows_that_repeat(
    npu_interpreter: Interpreters, reference_interpreter: Interpreters
) -> None:
    builder = Builder()
    source = builder.tensor((1, 300, 260, 16), "int8", SCALE, POINT)
    weight, bias = np.full((16, 1, 1, 16), 3, np.int8), np.zeros(16, np.int32)
    target = builder.convolution(source, weight, 0.02, (SCALE, POINT), bias=bias, activation="RELU_N1_TO_1")
    content = write(builder.finish([source], [target]))
    (node,) = read_graph(content).nodes
    assert all(layer.repeats and layer.operand and layer.operand.shape[1] == 252 for layer in lowered(node, "never"))
    npu, plain = npu_interpreter(content, unproven="never"), reference_interpreter(content)
    inputs = random_inputs(plain, np.random.default_rng(1))
    (got,), (expected,) = infer(npu, inputs), infer(plain, inputs)
    assert np.abs(got.astype(int) - expected).max() <= 1
