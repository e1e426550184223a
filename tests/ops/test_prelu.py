"""PRELU, and LEAKY_RELU without tables: whole models against TFLite's reference kernels, and every rule's refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from layers import EVERY_FORM, PROVEN, feature, graph, quant
from tflite_writer import Builder, Model, write

from benchmarks import harness
from delegate.hw.soc import Target
from delegate.ir import Elementwise, Node, Tensor
from delegate.ops import OPERATORS
from delegate.partition import refusals
from delegate.tflite import read_graph

Interpreters = Callable[..., Any]
# Alpha's shape, the least and largest alpha, and the largest share of outputs that may differ. TFLite rounds each side
# twice, to steps of its own in between; so near a factor of 1 the smaller of the two slopes can come out the larger.
ALPHAS = [
    ((1, 1, 40), 0.0, 0.9, 1e-3),
    ((1, 1, 40), 1.1, 3.0, 1e-3),
    ((1, 1, 40), -2.0, 3.0, 2e-3),
    ((40,), -1.0, 0.9, 1e-3),
    ((1, 1, 1, 40), 0.9, 1.1, 2e-2),
    ((1, 1, 1), 0.3, 0.3, 0),
    ((1,), 1.7, 1.7, 0),
]


def drawn(rng: np.random.Generator, dtype: str, shape: tuple[int, ...], low: float, high: float) -> Model:
    """A model of one PRELU with alphas over the whole range from ``low`` to ``high``."""
    info = np.iinfo(dtype)
    scale_in, ratio = float(rng.uniform(0.005, 0.2)), float(rng.uniform(0.3, 3.0))
    points = rng.integers(info.min, info.max + 1, 3)
    builder = Builder()
    source = builder.tensor((2, 5, 6, 40), dtype, scale_in, int(points[0]))
    scale = max(high - min(low, 0), 0.1) / 255
    zero = round(info.min - min(low, 0) / scale)
    alpha = np.clip(np.rint(rng.uniform(low, high, shape) / scale) + zero, info.min, info.max).astype(dtype)
    output = builder.prelu(source, alpha, scale, (scale_in * ratio, int(points[1])), zero)
    return builder.finish([source], [output])


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(("shape", "low", "high", "share"), ALPHAS)
@pytest.mark.parametrize("forms", ["auto", "never"])
def test_models(
    forms: str, shape: tuple[int, ...], low: float, high: float, share: float, dtype: str, npu_interpreter: Interpreters
) -> None:
    """Within 1; by the table, for one alpha, exact."""
    rng = np.random.default_rng(len(shape) + round(10 * high))
    elements = differing = 0
    for _ in range(4):
        content = write(drawn(rng, dtype, shape, low, high))
        npu = npu_interpreter(content, unproven=forms)
        assert len(npu._get_ops_details()) == 2, "not on the NPU"
        values = harness.random_inputs(npu, rng)
        (got,), (expected,) = harness.infer(npu, values), harness.infer(harness.reference_interpreter(content), values)
        difference = np.abs(got.astype(int) - expected)
        assert difference.max() <= 1
        elements, differing = elements + difference.size, differing + int((difference > 0).sum())
    print(f"PRELU {dtype} {shape} {low} to {high} {forms}: {differing} of {elements} differ")
    assert differing <= elements * (share if forms == "auto" else share + 1e-3)


def prelu_node(alpha: np.ndarray[Any, Any], scale: float = 0.01, zero_point: int = 0) -> Node:
    """PRELU of 6 x 5 pixels and 20 channels."""
    source = feature(1, 6, 5, 20, scale=0.04, zero_point=3)
    factors = Tensor(3, "alpha", alpha.shape, "int8", quant(scale, zero_point), alpha.astype(np.int8))
    return Node(0, "PRELU", (source, factors), (feature(2, 6, 5, 20, scale=0.05, zero_point=-9),), {})


@pytest.mark.parametrize(
    ("alpha", "operations"),
    [
        (np.arange(20).reshape(1, 1, 20), ["max"]),
        (np.arange(101, 121).reshape(20), ["min"]),
        (np.arange(90, 110).reshape(1, 1, 1, 20), ["max", "min"]),
        (np.array([50]), ["max"]),
    ],
)
def test_the_comparison_follows_alpha(alpha: np.ndarray[Any, Any], operations: list[str]) -> None:
    layers = OPERATORS["PRELU"].lower(prelu_node(alpha), PROVEN)
    assert [layer.operation for layer in layers if isinstance(layer, Elementwise)] == operations
    assert len(layers) == 2 + len(operations) + (len(operations) > 1)  # with a selection if both occur


def test_refusals_name_their_reason() -> None:
    node = prelu_node(np.arange(20).reshape(1, 1, 20))
    source, alpha = node.inputs
    assert source is not None and alpha is not None

    def refused(node: Node, target: Target = EVERY_FORM) -> str:
        return " ".join(refusals(node, graph([node], [], []), target))

    assert refused(node) == refused(node, PROVEN) == ""
    assert alpha.data is not None
    assert "constant" in refused(replace(node, inputs=(source, replace(alpha, data=None))))
    assert "constant" in refused(
        replace(node, inputs=(source, replace(alpha, dtype="uint8", data=alpha.data.view(np.uint8))))
    )
    assert "one a channel" in refused(prelu_node(np.ones((6, 5, 20))))
    assert "one a channel" in refused(prelu_node(np.ones((1, 5, 1))))
    assert "one shape" in refused(replace(node, outputs=(replace(node.outputs[0], shape=(1, 5, 6, 20)),)))
    far = replace(node, outputs=(replace(node.outputs[0], quant=quant(1e-9)),))
    assert "both slopes" in refused(far)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("alpha", [0.2, 0.0, -0.7, 1.9])
def test_leaky_relu_without_tables(alpha: float, dtype: str, npu_interpreter: Interpreters) -> None:
    rng = np.random.default_rng(round(100 * alpha) + 1000)
    info = np.iinfo(dtype)
    for _ in range(4):
        builder = Builder()
        points = rng.integers(info.min, info.max + 1, 2)
        scale = float(rng.uniform(0.01, 0.1))
        source = builder.tensor((1, 16, 16, 3), dtype, scale, int(points[0]))
        output = builder.leaky_relu(source, alpha, (scale * float(rng.uniform(0.3, 3.0)), int(points[1])))
        content = write(builder.finish([source], [output]))
        (node,) = read_graph(content).nodes
        assert refusals(node, graph([node], [], []), PROVEN) == ()
        npu = npu_interpreter(content, unproven="never")
        values = harness.random_inputs(npu, rng)
        (got,), (expected,) = harness.infer(npu, values), harness.infer(harness.reference_interpreter(content), values)
        assert np.abs(got.astype(int) - expected).max() <= 1
