"""CONV_2D and DEPTHWISE_CONV_2D: lowering against real arithmetic on random shapes, and every rule's refusal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import (
    EVERY_FORM,
    PROVEN,
    TARGETS,
    computed,
    convolution,
    evaluate,
    feature,
    graph,
    quant,
    real_values,
    store,
)

from delegate.hw.soc import Target
from delegate.ir import AnyLayer, Convolution, Elementwise, Node, Quant, Tensor, View
from delegate.ops import OPERATORS
from delegate.ops.conv2d import same_padding
from delegate.partition import refusals
from delegate.quantize import domain_offset


def lower(node: Node, target: Target = EVERY_FORM) -> Convolution:
    (layer,) = OPERATORS[node.op].lower(node, target)
    assert isinstance(layer, Convolution)
    return layer


def layers_of(node: Node, target: Target) -> Sequence[AnyLayer | View]:
    return OPERATORS[node.op].lower(node, target)


def channel_scales(channels: int, seed: int) -> tuple[float, ...]:
    """Weight scales up to a factor of 16 apart."""
    return tuple((0.02 * 2.0 ** -np.random.default_rng(seed).uniform(0, 4, channels)).tolist())


def real_convolution(node: Node, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The node in real numbers, straight from its definition: float64 (height, width, channels)."""
    source, weight, bias = (tensor for tensor in node.inputs if tensor is not None)
    assert weight.data is not None and bias.data is not None and source.quant is not None and weight.quant is not None
    scales = weight.quant.scale.astype(np.float64)
    w = (weight.data.astype(np.float64) - int(weight.quant.zero_point[0])) * (
        scales if node.op == "DEPTHWISE_CONV_2D" else scales.reshape(-1, 1, 1, 1)
    )
    x, b = real_values(source, image), bias.data * float(source.quant.scale[0]) * scales
    _, rows, columns, channels = node.outputs[0].shape
    result = np.zeros((rows, columns, channels))
    pads = [
        same_padding(n, k, s)[0] if node.params["padding"] == "SAME" else 0
        for n, k, s in zip(image.shape, w.shape[1:3], node.params["stride"], strict=False)
    ]
    multiplier = node.params.get("depth_multiplier")
    for row, column, i, j in np.ndindex(rows, columns, *w.shape[1:3]):
        y, z = row * node.params["stride"][0] + i - pads[0], column * node.params["stride"][1] + j - pads[1]
        if 0 <= y < image.shape[0] and 0 <= z < image.shape[1]:
            result[row, column] += np.repeat(x[y, z], multiplier) * w[0, i, j] if multiplier else w[:, i, j] @ x[y, z]
    result += b
    if node.params["activation"] != "NONE":
        result = np.maximum(result, 0)
    return np.minimum(result, 6) if node.params["activation"] == "RELU6" else result


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 6),
    st.integers(1, 5),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from(["SAME", "VALID"]),
    st.booleans(),
    st.sampled_from(["NONE", "RELU", "RELU6"]),
    st.sampled_from(["int8", "uint8"]),
    st.integers(-128, 127),
    st.integers(-128, 127),
    st.integers(0, 99),
    st.sampled_from(list(TARGETS)),
    st.booleans(),
)
def test_lowering_meets_real_arithmetic(
    height: int, width: int, channels: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int],
    padding: str, depthwise: bool, activation: str, dtype: str, zero_in: int, zero_out: int, seed: int,
    forms: str, per_channel: bool,
) -> None:  # fmt: skip
    if padding == "VALID":
        height, width = max(height, kernel[0]), max(width, kernel[1])
    offset = domain_offset(dtype)
    source = feature(0, height, width, channels, dtype, 0.03, zero_in + offset)
    node, output = convolution(
        1, source, outputs, kernel, stride, padding, depthwise, activation, 0.4, zero_out + offset, seed,
        channel_scales(channels if depthwise else outputs, seed) if per_channel and dtype == "int8" else (0.02,),
    )  # fmt: skip
    target = TARGETS[forms]
    assert refusals(node, graph([node], [source], [output]), target) == ()
    info = np.iinfo(dtype)
    image = np.random.default_rng(seed).integers(info.min, info.max + 1, (height, width, channels)).astype(dtype)
    got = computed(node, target, {source.index: image.astype(np.int64)[np.newaxis] - offset})[0] + offset
    assert np.abs(got - store(output, real_convolution(node, image)).astype(int)).max() <= 1
    exact = real_convolution(node, image) / 0.4 + zero_out + offset
    # a multiplier of 15 bits errs by less than a hundredth of a step; the inner rounding of TFLite by what is left
    run = next(layer for layer in layers_of(node, target) if isinstance(layer, Convolution)).requantize[0]
    inner = 2.0**-run.shift if run.multiplier == 1 else 0.0
    away_from_tie = np.abs(exact - np.floor(exact) - 0.5) > 0.02 + inner
    saturated = np.clip(np.round(exact), info.min, info.max)
    np.testing.assert_array_equal(got[away_from_tie], saturated[away_from_tie])


def test_a_depth_multiplier_becomes_a_direct_convolution() -> None:
    source = feature(0, 5, 6, 3)
    wide = Tensor(
        2,
        "w",
        (1, 3, 3, 6),
        "int8",
        quant(0.02),
        np.random.default_rng(1).integers(-127, 128, (1, 3, 3, 6)).astype(np.int8),
    )
    bias = Tensor(3, "b", (6,), "int32", quant(), np.arange(6, dtype=np.int32))
    output = feature(4, 5, 6, 6, scale=0.3)
    params = {"stride": (1, 1), "dilation": (1, 1), "padding": "SAME", "activation": "NONE", "depth_multiplier": 2}
    node = Node(0, "DEPTHWISE_CONV_2D", (source, wide, bias), (output,), params)
    image = np.random.default_rng(2).integers(-128, 128, (5, 6, 3)).astype(np.int8)
    for target in TARGETS.values():
        assert refusals(node, graph([node], [source], [output]), target) == ()
        layer = lower(node, target)
        assert not layer.depthwise
        assert np.abs(evaluate(layer, [image]) - store(output, real_convolution(node, image)).astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [(224, 3, 2, (0, 1)), (7, 3, 1, (1, 1)), (5, 1, 2, (0, 0)), (4, 4, 1, (1, 2))],
)
def test_same_puts_the_odd_pixel_after(size: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == expected


def changed(node: Node, **changes: Any) -> Node:
    """A node with other parameters, or with another input 0, weight, bias or output."""
    inputs, outputs = list(node.inputs), list(node.outputs)
    for position, name in enumerate(("source", "weight", "bias")):
        if name in changes:
            inputs[position] = changes.pop(name)
    if "output" in changes:
        outputs = [changes.pop("output")]
    return replace(node, inputs=tuple(inputs), outputs=tuple(outputs), params={**node.params, **changes})


def refusal(node: Node, target: Target = EVERY_FORM) -> str:
    (reason,) = refusals(node, graph([node], [], []), target)
    return reason


def test_refusals_name_their_reason() -> None:
    source = feature(0, 8, 8, 16)
    node, output = convolution(1, source, 32, (3, 3))
    weight, bias = node.inputs[1], node.inputs[2]
    assert weight is not None and bias is not None and weight.data is not None
    ones, zeros = np.ones(32, np.float32), np.zeros(32, np.int32)
    for wrong in (Quant(ones[:31], zeros[:31]), Quant(ones, zeros, axis=3), Quant(ones, np.arange(32, dtype=np.int32))):
        assert "weights have one scale" in refusal(changed(node, weight=replace(weight, quant=wrong)))
    scales = tuple((2.0 ** np.linspace(-44, 0, 32)).tolist())
    far, _ = convolution(1, feature(0, 8, 8, 3600), 32, (3, 3), scale=5e-6, weight_scales=scales)
    assert "can express" in refusal(far)
    clamped, _ = convolution(1, source, 32, (3, 3), activation="RELU")
    assert [type(layer) for layer in layers_of(clamped, PROVEN)] == [Convolution, Elementwise]
    assert [type(layer) for layer in layers_of(clamped, EVERY_FORM)] == [Convolution]
    wide_stride = {"stride": (11, 11), "source": feature(0, 24, 24, 16), "output": feature(9, 3, 3, 32)}
    assert "stride" in refusal(changed(node, **wide_stride))
    assert "stride" in refusal(changed(node, stride=(0, 1)))
    assert "padding is SAME" in refusal(changed(node, padding="padding 0"))
    assert "dilation" in refusal(changed(node, dilation=(33, 1)))
    assert "activation" in refusal(changed(node, activation="TANH"))
    assert "constants" in refusal(changed(node, weight=replace(weight, data=None)))
    assert "constants" in refusal(changed(node, bias=replace(bias, data=None)))
    assert "int8 or uint8" in refusal(changed(node, source=replace(source, dtype="float32")))
    assert "int8 or uint8" in refusal(changed(node, source=replace(source, quant=None)))
    assert "one dtype" in refusal(changed(node, output=replace(output, dtype="uint8")))
    assert "one batch size" in refusal(changed(node, source=replace(source, shape=(2, 8, 8, 16))))
    assert "2047" in refusal(changed(node, source=replace(source, shape=(1, 8, 2048, 16))))
    assert "output extent" in refusal(changed(node, output=feature(9, 7, 8, 32)))
    assert "multiples of the groups" in refusal(changed(node, source=replace(source, shape=(1, 8, 8, 15))))
    assert "scales are positive" in refusal(changed(node, output=replace(output, quant=quant(0.0))))
    assert "converter" in refusal(changed(node, output=replace(output, quant=quant(1e-9))))
    short = replace(bias, shape=(31,), data=np.zeros(31, np.int32))
    assert "bias is int32 with one number" in refusal(changed(node, bias=short))
    assert "what they say" in refusal(changed(node, bias=replace(bias, data=short.data)))
    assert "bias is int32" in refusal(changed(node, bias=replace(bias, dtype="int64", data=np.zeros(32, np.int64))))
    big, _ = convolution(1, feature(0, 8, 8, 3648), 32, (3, 3))
    assert "32 KiB" in refusal(big)
    wide, _ = convolution(1, feature(0, 8, 1900, 256), 32, (3, 3))
    assert "CBUF" in refusal(wide)
    tall, _ = convolution(1, feature(0, 40, 8, 16), 32, (32, 1))
    assert "31 x 31" in refusal(tall)
    assert refusal(replace(node, op="REVERSE_V2")) == "operator REVERSE_V2 is not supported"
