"""ADD, SUB, MUL, MAXIMUM, MINIMUM through the real library against TFLite's reference kernels; hostile operands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from chosen import on_device
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import EVERY_FORM, PROVEN, TARGETS, binary, feature, graph, quant
from tflite_writer import Builder, Model, write

from benchmarks import harness
from delegate.hw.soc import CHANNEL_OPERAND, FLYING_SCALE
from delegate.ir import Node, Tensor
from delegate.partition import refusals
from delegate.tflite import read_graph

Interpreters = Callable[..., Any]
OPERATORS = ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM")
WITH_ACTIVATION = ("ADD", "SUB", "MUL")
IMAGE = (1, 7, 9, 20)


@dataclass(frozen=True)
class Case:
    """Shapes of the operands, which of them is a constant, and whether forms proven on silicon do it.

    ``proven``: operators that need no unproven form.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    constant: int | None = None
    proven: tuple[str, ...] = ("ADD", "SUB", "MAXIMUM", "MINIMUM")


CASES = {
    "one shape": Case(IMAGE, IMAGE),
    "a batch": Case((3, 5, 4, 33), (3, 5, 4, 33)),
    "rows": Case((5, 48), (5, 48)),
    "numbers": Case((6,), (6,)),
    "one pixel": Case((2, 1, 1, 7), (2, 1, 1, 7)),
    "a constant a channel": Case(IMAGE, (20,), 1, OPERATORS),
    "a constant a channel first": Case((1, 1, 20), IMAGE, 0, OPERATORS),
    "a constant number": Case((3, 5, 4, 33), (), 1, OPERATORS),
    "a constant number first": Case((1,), IMAGE, 0, OPERATORS),
    "a constant for rows": Case((5, 48), (48,), 1, OPERATORS),
    "a constant map": Case(IMAGE, IMAGE, 1, ("MAXIMUM", "MINIMUM")),
    "a constant map of pixels": Case((2, 7, 9, 20), (1, 7, 9, 1), 1, ("MAXIMUM", "MINIMUM")),
    "a constant row": Case(IMAGE, (9, 1), 1, ("MAXIMUM", "MINIMUM")),
    "a channel": Case(IMAGE, (1, 1, 1, 20), None, ()),
    "a channel first": Case((20,), IMAGE, None, ()),
    "a channel an image": Case((3, 5, 4, 33), (3, 1, 1, 33), None, ()),
    "a number": Case(IMAGE, (), None, ()),
    "a number first": Case((1, 1, 1, 1), IMAGE, None, ()),
    "a pixel": Case(IMAGE, (1, 7, 9, 1)),
    "a pixel first": Case((2, 7, 9, 1), (2, 7, 9, 20)),
    "a pixel and a channel": Case((1, 7, 9, 1), (1, 1, 1, 20), None, ()),
    "a pixel and a constant": Case((1, 7, 9, 1), (20,), 1, OPERATORS),
    "one image for all": Case((1, 5, 4, 33), (3, 5, 4, 33), None, ("MAXIMUM", "MINIMUM")),
}


def point(rng: np.random.Generator, dtype: str) -> int:
    """A zero point; often one of the ends."""
    info = np.iinfo(dtype)
    return int(rng.choice([info.min, info.max, rng.integers(info.min, info.max + 1)], p=[0.15, 0.15, 0.7]))


def model(op: str, case: Case, dtype: str, activation: str, rng: np.random.Generator) -> Model:
    """One operator; scales and zero points are drawn, the output's so that a good part of its range is met."""
    info = np.iinfo(dtype)
    builder = Builder()
    scales = np.exp(rng.uniform(-5, 0, 2))
    tensors = [
        builder.constant(rng.integers(info.min, info.max + 1, shape).astype(dtype), scale, point(rng, dtype))
        if case.constant == position
        else builder.tensor(shape, dtype, scale, point(rng, dtype))
        for position, (shape, scale) in enumerate(zip((case.first, case.second), scales.tolist(), strict=True))
    ]
    if op not in WITH_ACTIVATION:
        target = builder.binary(op, *tensors)
    else:
        room = np.exp(rng.uniform(-1, 0.5))
        scale = float(scales.prod() * 128 * room if op == "MUL" else scales.sum() * room)
        target = builder.binary(op, *tensors, (scale, point(rng, dtype)), activation)
    inputs = [tensor for position, tensor in enumerate(tensors) if position != case.constant]
    return builder.finish(inputs, [target])


def difference(built: Model, npu: Any, plain: Any, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """|NPU - reference| of the first output for random inputs."""
    values = harness.random_inputs(plain, rng)
    got, expected = harness.infer(npu, values)[0], harness.infer(plain, values)[0]
    return np.abs(got.astype(int) - expected.astype(int))


def is_taken(npu: Any, plain: Any) -> bool:
    return len(npu._get_ops_details()) == len(plain._get_ops_details()) + 1


@pytest.mark.parametrize("forms", ["auto", "never"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("op", OPERATORS)
def test_forms(
    op: str,
    name: str,
    dtype: str,
    forms: str,
    reference_interpreter: Interpreters,
    npu_interpreter: Interpreters,
) -> None:
    """Within 1, comparisons and products by a constant equal; refused only where an unproven form is not allowed.

    In proven forms a sum's weights have eight bits, too few for some scales, and more results are 1 apart.
    """
    rng = np.random.default_rng(sum(f"{op}{name}{dtype}".encode()))
    case = CASES[name]
    activations = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1") if op in WITH_ACTIVATION else ("NONE",)
    taken = 0
    for activation in activations:
        built = model(op, case, dtype, activation, rng)
        content = write(built)
        plain, npu = reference_interpreter(content), npu_interpreter(content, unproven=forms)
        if not is_taken(npu, plain):
            read = read_graph(content)
            (reason,) = refusals(read.nodes[0], read, PROVEN)
            assert forms == "never" and (op not in case.proven or "0.45 output steps" in reason)
            continue
        taken += 1
        differs = difference(built, npu, plain, rng)
        by_number = op == "MUL" and case.constant is not None and "map" not in name and name[-3:] != "row"
        equal = op not in WITH_ACTIVATION or (by_number and forms == "auto" and activation == "NONE")
        assert differs.max() <= (0 if equal else 1), activation
        assert (differs > 0).mean() <= (0.05 if forms == "auto" else 0.2), activation
    assert (taken > 0) == (forms == "auto" or op in case.proven)
    assert taken == len(activations) or forms == "never"


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(OPERATORS),
    st.tuples(st.integers(1, 2), st.integers(1, 40), st.integers(1, 40), st.integers(1, 300)),
    st.sampled_from(["whole", "channels", "number", "pixels"]), st.sampled_from([None, 0, 1]),
    st.sampled_from(["int8", "uint8"]), st.sampled_from(["NONE", "RELU", "RELU6", "RELU_N1_TO_1"]),
    st.sampled_from(["auto", "never"]), st.booleans(), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_drawn_operands_are_within_one(
    op: str,
    shape: tuple[int, int, int, int],
    kind: str,
    constant: int | None,
    dtype: str,
    activation: str,
    forms: str,
    swapped: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    other = {
        "whole": shape if constant is None else (1, *shape[1:]),
        "channels": (shape[3],),
        "number": (),
        "pixels": (shape[0] if constant is None else 1, *shape[1:3], 1),
    }[kind]
    shapes = (other, shape) if swapped else (shape, other)
    built = model(op, Case(*shapes, None if constant is None else int(not swapped)), dtype, activation, rng)
    content = write(built)
    npu = harness.npu_interpreter(content, **on_device(unproven=forms))
    plain = harness.reference_interpreter(content)
    assert is_taken(npu, plain) or forms == "never"
    assert difference(built, npu, plain, rng).max() <= 1


@pytest.mark.parametrize("channels", [1, 16, 1024])
def test_a_scaled_residual_block(
    channels: int, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    """Squeeze and excite: an image times a number a channel of its mean, and the image again; one partition."""
    rng = np.random.default_rng(channels)
    builder = Builder()
    image = builder.tensor((1, 6, 5, channels), "int8", 0.05, 3)
    mean = builder.mean(image, (0.02, -5))
    scaled = builder.mul(image, mean, (0.06, 7))
    total = builder.add(scaled, image, (0.1, -2), "RELU6")
    limited = builder.maximum(total, builder.constant(np.array([-10], np.int8), 0.1, -2))
    built = builder.finish([image], [limited])
    content = write(built)
    plain, npu = reference_interpreter(content), npu_interpreter(content)
    assert is_taken(npu, plain)
    assert difference(built, npu, plain, rng).max() <= 2  # a step of the product, passed on


def test_spread_pixels_are_not_taken_for_real_values(
    reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    """A convolution that spreads numbers keeps their zero point, so no addition may be fused into it."""
    builder = Builder()
    a, b = builder.tensor((1, 8, 8, 1), "int8", 0.05, 90), builder.tensor((1, 8, 8, 24), "int8", 0.05, 3)
    built = builder.finish([a, b], [builder.add(a, b, (0.1, 0))])
    content = write(built)
    for forms in ("auto", "never"):
        plain, npu = reference_interpreter(content), npu_interpreter(content, unproven=forms)
        assert is_taken(npu, plain)
        assert difference(built, npu, plain, np.random.default_rng(0)).max() <= 1


def refused(node: Node, forms: str = "every form") -> tuple[str, ...]:
    return refusals(node, graph([node], [], []), TARGETS[forms])


def constant(tensor: Tensor) -> Tensor:
    return replace(tensor, data=np.ones(tensor.shape, tensor.dtype))


@pytest.mark.parametrize("op", OPERATORS)
def test_hostile_operands_are_refused_with_a_reason(op: str) -> None:
    a, b = feature(1, 8, 8, 16), feature(2, 8, 8, 16)
    node, output = binary(op, 3, a, b)
    assert refused(node) == ()
    for changes, reason in [
        ({"inputs": (a,)}, "two operands"),
        ({"inputs": (a, None)}, "two operands"),
        ({"inputs": (constant(a), constant(b))}, "one of them computed"),
        ({"inputs": (a, replace(b, dtype="uint8"))}, "all uint8"),
        ({"inputs": (a, replace(b, dtype="float32", quant=None))}, "all uint8"),
        ({"inputs": (a, replace(constant(b), quant=None))}, "one scale each"),
        ({"outputs": (replace(output, quant=None),)}, "one scale each"),
        *(
            ({"inputs": (a, replace(b, quant=quant(scale)))}, "positive numbers")
            for scale in (0.0, -1.0, float("nan"), float("inf"))
        ),
        ({"inputs": (a, replace(b, quant=quant(0.1, 128)))}, "zero points"),
        ({"outputs": (replace(output, quant=quant(0.1, -129)),)}, "zero points"),
        ({"inputs": (a, replace(b, shape=(1, 8, 0, 16)))}, "none of them 0"),
        ({"inputs": (a, replace(b, shape=(1, 1, 8, 8, 16)))}, "at most four dimensions"),
        ({"inputs": (a, replace(b, shape=(1, 3, 8, 16)))}, "broadcast to the output"),
        ({"outputs": (replace(output, shape=(1, 8, 8, 17)),)}, "broadcast to the output"),
        ({"inputs": (a, replace(b, shape=(1, 1, 8, 16)))}, "height and width together"),
        ({"inputs": (a, replace(b, shape=(8, 1, 1)))}, "height and width together"),
        ({"inputs": (replace(a, shape=(1, 8, 1, 16)), replace(b, shape=(1, 1, 8, 16)))}, "output's images"),
    ]:
        (got,) = refused(replace(node, **changes))  # type: ignore[arg-type]
        assert reason in got, changes
    large = [feature(index, 46341, 46341, 1) for index in (1, 2)]
    assert "2047" in refused(binary(op, 3, *large)[0])[0]
    images = constant(replace(b, shape=(2, 8, 8, 16)))
    many = binary(op, 3, replace(a, shape=(2, 8, 8, 16)), images)[0]
    assert "constants over the images" in refused(many)[0]


@pytest.mark.parametrize("op", OPERATORS)
def test_unproven_forms_are_named(op: str) -> None:
    a, b = feature(1, 8, 8, 16), feature(2, 1, 1, 16)
    (reason,) = refused(binary(op, 3, a, b)[0], "proven")
    assert (FLYING_SCALE if op == "MUL" else CHANNEL_OPERAND) in reason


def test_a_large_constant_is_refused_where_it_is_stored_for_every_pixel() -> None:
    a, b = feature(1, 300, 300, 16), constant(feature(2, 1, 1, 16))
    node = binary("MAXIMUM", 3, a, b)[0]
    assert refused(node) == ()
    assert "1 MiB" in refused(node, "proven")[0]
    limited = binary("ADD", 3, a, b, "RELU6", zero_point=-20)[0]
    assert refused(limited, "proven") == refusals(limited, graph([limited], [], []), EVERY_FORM) == ()  # rows repeat
