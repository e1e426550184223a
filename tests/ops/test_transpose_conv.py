"""TRANSPOSE_CONV through the real library against TFLite's reference kernels, and every rule's refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from layers import EVERY_FORM, PROVEN, feature, graph, quant
from tflite_writer import Builder, Model, write

from benchmarks.harness import infer
from delegate.hw.soc import PART_OF_ROW, ROW_SKIP, Target
from delegate.ir import Elementwise, Node, Quant, Tensor
from delegate.ops import OPERATORS
from delegate.partition import refusals

Interpreters = Callable[..., Any]


def model(
    rng: np.random.Generator,
    shape: tuple[int, int, int, int],
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    *,
    dtype: str = "int8",
    padding: str = "SAME",
    size: tuple[int, int] | None = None,
    activation: str = "NONE",
    spread: float = 0.0,
) -> Model:
    """One operator; ``spread``: powers of two that the scales of the channels lie apart."""
    info, builder = np.iinfo(dtype), Builder()
    source = builder.tensor(shape, dtype, 0.05, int(rng.integers(info.min, info.max + 1)))
    weight = rng.integers(max(info.min, -127), info.max + 1, (outputs, *kernel, shape[3])).astype(dtype)
    deviation = 0.05 * 0.02 * 70 * np.sqrt(shape[3] * max(1, np.prod(kernel) / np.prod(stride)))
    made = builder.transpose_conv(
        source,
        weight,
        (0.02 * 2.0 ** -rng.uniform(0, spread, outputs)).tolist() if spread else 0.02,
        (float(deviation), int(rng.integers(info.min, info.max + 1))),
        weight_zero_point=int(rng.integers(100, 150)) if dtype == "uint8" else 0,
        bias=rng.integers(-500, 500, outputs).astype(np.int32) if rng.random() < 0.8 else None,
        stride=stride,
        padding=padding,
        activation=activation,
        size=size,
    )
    return builder.finish([source], [made])


def differences(
    network: Model, rng: np.random.Generator, reference: Interpreters, npu: Interpreters, forms: str = "auto"
) -> int:
    """The largest difference of any output; all operators must be one partition of the NPU."""
    content = write(network)
    plain, delegated = reference(content), npu(content, unproven=forms)
    assert len(delegated._get_ops_details()) == len(plain._get_ops_details()) + 1, "not one partition"
    tensors = [network.tensors[index] for index in network.inputs]
    values = [rng.integers(t.limits[0], t.limits[1] + 1, t.shape).astype(t.dtype) for t in tensors]
    pairs = zip(infer(delegated, values), infer(plain, values), strict=True)
    return max(int(np.abs(got.astype(int) - expected.astype(int)).max()) for got, expected in pairs)


CASES: dict[str, dict[str, Any]] = {
    "U-Net": {"shape": (1, 8, 8, 64), "outputs": 32, "kernel": (2, 2), "stride": (2, 2)},
    "odd kernel": {"shape": (2, 5, 7, 20), "outputs": 9, "kernel": (3, 3), "stride": (2, 2), "padding": "VALID"},
    "FCN": {"shape": (1, 3, 4, 21), "outputs": 21, "kernel": (16, 16), "stride": (8, 8), "dtype": "uint8"},
    "cut": {"shape": (1, 5, 7, 3), "outputs": 40, "kernel": (4, 5), "stride": (3, 2), "size": (13, 13)},
    "holes": {"shape": (1, 4, 3, 17), "outputs": 5, "kernel": (1, 2), "stride": (4, 5), "size": (15, 14)},
    "beyond": {"shape": (1, 4, 3, 5), "outputs": 1, "kernel": (3, 2), "stride": (3, 2), "padding": "VALID",
               "size": (14, 7)},
    "one pixel": {"shape": (1, 1, 1, 5), "outputs": 3, "kernel": (7, 7), "stride": (4, 4)},
    "one row of output": {"shape": (1, 1, 6, 8), "outputs": 8, "kernel": (3, 3), "stride": (2, 2), "size": (1, 11)},
    "stride of one": {"shape": (2, 6, 5, 8), "outputs": 70, "kernel": (5, 3), "stride": (1, 1)},
    "rows alone": {"shape": (1, 6, 5, 8), "outputs": 7, "kernel": (5, 3), "stride": (2, 1)},
    "clamped": {"shape": (1, 6, 5, 8), "outputs": 7, "kernel": (4, 4), "stride": (2, 2), "activation": "RELU6"},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_scale_gives_tflites_numbers(
    name: str, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    for dtype in ("int8", "uint8"):
        rng = np.random.default_rng(sum(name.encode()))
        network = model(rng, **{**CASES[name], "dtype": dtype})
        assert differences(network, rng, reference_interpreter, npu_interpreter) == 0


@pytest.mark.parametrize("spread", [3.0, 20.0])
@pytest.mark.parametrize("name", CASES)
def test_a_scale_a_channel_is_within_one(
    name: str, spread: float, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    rng = np.random.default_rng(sum(name.encode()))
    network = model(rng, **{**CASES[name], "dtype": "int8"}, spread=spread)
    assert differences(network, rng, reference_interpreter, npu_interpreter) <= 1


@pytest.mark.parametrize("seed", range(40))
def test_drawn_geometries(seed: int, reference_interpreter: Interpreters, npu_interpreter: Interpreters) -> None:
    """Strides, kernels and sizes of the output in all relations that TFLite takes."""
    rng = np.random.default_rng(seed)
    stride, kernel = (tuple(int(n) for n in rng.integers(1, limit, 2)) for limit in (7, 9))
    height, width, channels, outputs = (int(n) for n in rng.integers(1, (9, 9, 70, 70)))
    padding = str(rng.choice(["SAME", "VALID"]))
    extents = []
    for pixels, step, taps in zip((height, width), stride, kernel, strict=True):
        spare = int(rng.integers(0, step))  # sizes that come back to the same input
        extents.append(pixels * step - spare if padding == "SAME" else (pixels - 1) * step + taps + spare)
    spread = float(rng.choice([0.0, 4.0]))
    dtype = "int8" if spread else str(rng.choice(["int8", "uint8"]))
    network = model(
        rng,
        (int(rng.integers(1, 3)), height, width, channels),
        outputs,
        (kernel[0], kernel[1]),
        (stride[0], stride[1]),
        dtype=dtype,
        padding=padding,
        size=(extents[0], extents[1]),
        activation=str(rng.choice(["NONE", "RELU", "RELU6"])),
        spread=spread,
    )
    assert differences(network, rng, reference_interpreter, npu_interpreter) <= (1 if spread else 0)


def test_a_decoder_is_one_partition(reference_interpreter: Interpreters, npu_interpreter: Interpreters) -> None:
    """Convolution, transposed convolution, concatenation with what was before, convolution."""
    rng, builder = np.random.default_rng(0), Builder()
    source = builder.tensor((1, 8, 6, 16), "int8", 0.05, 3)

    def weight(*shape: int) -> np.ndarray[Any, Any]:
        return rng.integers(-127, 128, shape).astype(np.int8)

    def bias(count: int) -> np.ndarray[Any, Any]:
        return rng.integers(-99, 99, count).astype(np.int32)

    down = builder.convolution(source, weight(24, 3, 3, 16), 0.01, (0.4, 0), bias=bias(24), stride=(2, 2))
    up = builder.transpose_conv(down, weight(20, 2, 2, 24), 0.01, (0.05, 3), bias=bias(20))
    joined = builder.concatenation([up, source], (0.05, 3))
    last = builder.convolution(joined, weight(5, 1, 1, 36), 0.01, (0.3, 0), bias=bias(5))
    assert differences(builder.finish([source], [last]), rng, reference_interpreter, npu_interpreter) == 0


def test_proven_forms_do_a_stride_of_one(reference_interpreter: Interpreters, npu_interpreter: Interpreters) -> None:
    rng = np.random.default_rng(1)
    for dtype in ("int8", "uint8"):
        network = model(rng, (1, 6, 5, 8), 7, (3, 3), (1, 1), dtype=dtype)
        assert differences(network, rng, reference_interpreter, npu_interpreter, "never") <= 1


def transposed(
    stride: tuple[int, int] = (2, 2),
    kernel: tuple[int, int] = (3, 3),
    channels: int = 16,
    outputs: int = 8,
    size: tuple[int, int] = (16, 16),
    width: int = 8,
) -> Node:
    source = feature(0, 8, width, channels)
    ones = np.ones((outputs, *kernel, channels), np.int8)
    weight = Tensor(1, "w", ones.shape, "int8", quant(0.02), ones)
    shape = Tensor(2, "shape", (4,), "int32", None, np.array([1, *size, outputs], np.int32))
    output = feature(3, *size, outputs, scale=0.5)
    params = {"stride": stride, "padding": "SAME", "activation": "NONE"}
    return Node(0, "TRANSPOSE_CONV", (shape, weight, source), (output,), params)


def refusal(node: Node, target: Target = EVERY_FORM) -> str:
    (reason,) = refusals(node, graph([node], [], []), target)
    return reason


def test_layers_of_a_block() -> None:
    """Two convolutions, one for each row of a block, and one copy of its columns; each phase has its own taps alone."""
    node = transposed(kernel=(2, 2))
    assert refusals(node, graph([node], [], []), EVERY_FORM) == ()
    *rows, columns = OPERATORS["TRANSPOSE_CONV"].lower(node, EVERY_FORM)
    assert [layer.weight.shape for layer in rows] == [(32, 1, 1, 16)] * 2  # type: ignore[union-attr]
    assert [len(layer.moves) for layer in (*rows, columns)] == [1, 1, 2]  # type: ignore[union-attr]


def test_refusals_name_their_reason() -> None:
    node = transposed()
    shape, weight, source = node.inputs
    assert shape is not None and weight is not None and weight.data is not None and source is not None

    def changed(**tensors: Tensor) -> Node:
        inputs = (tensors.get("shape", shape), tensors.get("weight", weight), tensors.get("source", source))
        return replace(node, inputs=inputs, outputs=(tensors.get("output", node.outputs[0]),))

    output = node.outputs[0]
    assert ROW_SKIP in refusal(node, PROVEN)
    cut = transposed(size=(15, 15))
    assert PART_OF_ROW in refusal(cut, Target(PROVEN.soc, frozenset({ROW_SKIP})))
    relu = replace(node, params={**node.params, "activation": "RELU"})
    with_rows = Target(PROVEN.soc, frozenset({ROW_SKIP, PART_OF_ROW}))
    assert refusals(relu, graph([relu], [], []), with_rows) == ()
    assert isinstance(OPERATORS["TRANSPOSE_CONV"].lower(relu, with_rows)[-1], Elementwise)
    assert "shape is a constant" in refusal(changed(shape=replace(shape, data=None)))
    assert "constants" in refusal(changed(weight=replace(weight, data=None)))
    assert "int8 or uint8" in refusal(changed(source=replace(source, dtype="float32")))
    assert "one dtype" in refusal(changed(output=replace(output, dtype="uint8")))
    assert "batch size" in refusal(changed(source=replace(source, shape=(2, *source.shape[1:]))))
    assert "none of them 0" in refusal(changed(source=replace(source, shape=(1, 0, 8, 16))))
    assert "2047" in refusal(changed(output=replace(output, shape=(1, 16, 2048, 8))))
    assert "weights have one scale" in refusal(
        changed(weight=replace(weight, quant=Quant(np.ones(3, np.float32), np.zeros(3, np.int32))))
    )
    assert "weights have the input's dtype" in refusal(
        changed(weight=replace(weight, dtype="uint8", data=weight.data.view(np.uint8)))
    )
    assert "same channels" in refusal(changed(source=replace(source, shape=(1, 8, 8, 15))))
    for scale in (0.0, float("nan")):
        assert "scales are positive" in refusal(changed(output=replace(output, quant=quant(scale))))
    assert "activation" in refusal(replace(node, params={**node.params, "activation": "TANH"}))
    assert "stride is at most 16" in refusal(transposed(stride=(17, 17), size=(136, 136)))
    assert "stride is at most 16" in refusal(transposed(stride=(0, 1)))
    assert "31 x 31" in refusal(transposed(kernel=(32, 1)))
    assert "output extent" in refusal(transposed(size=(18, 16)))
    tall = transposed(stride=(1, 1), kernel=(17, 1), size=(24, 8))
    assert "padding is at most 15" in refusal(replace(tall, params={**tall.params, "padding": "VALID"}))
    assert "within 32 bits" in refusal(transposed(kernel=(8, 8), channels=1664))
    assert "32 KiB" in refusal(transposed(kernel=(8, 8), channels=1649))
    assert "CBUF" in refusal(transposed(kernel=(8, 8), channels=512, width=200, size=(16, 400)))
    assert "8192 channels" in refusal(transposed(kernel=(1, 1), outputs=4100))
    assert "express scales" in refusal(changed(output=replace(output, quant=quant(1e-12))))
