"""Convolutions and products of every shape end to end, against TFLite's reference kernels: exact with every form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from comparison import compare
from tflite_writer import Builder, write

Interpreters = Callable[..., Any]

# input NHWC, weights OHWI (1HWC for depthwise), depthwise, options
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], bool, dict[str, Any]]] = {
    "two groups": ((1, 9, 8, 64), (64, 3, 3, 32), False, {}),
    "many groups": ((2, 7, 7, 128), (128, 3, 3, 4), False, {"stride": (2, 2)}),
    "odd groups": ((1, 6, 5, 15), (10, 3, 3, 3), False, {}),
    "groups of one channel": ((1, 6, 6, 40), (80, 3, 3, 1), False, {}),
    "groups that end within 32": ((1, 5, 5, 72), (72, 1, 1, 8), False, {}),
    "batch": ((3, 11, 7, 20), (33, 3, 3, 20), False, {"activation": "RELU"}),
    "batch depthwise": ((2, 11, 7, 70), (1, 3, 3, 70), True, {"stride": (2, 1)}),
    "multiplier in a batch": ((2, 7, 5, 6), (1, 3, 3, 18), True, {}),
    "dilated": ((1, 20, 17, 9), (12, 3, 3, 9), False, {"dilation": (4, 3)}),
    "rate beyond the padding": ((1, 33, 33, 24), (16, 3, 3, 24), False, {"dilation": (18, 18)}),
    "rate beyond the input": ((1, 17, 16, 24), (16, 3, 3, 24), False, {"dilation": (24, 24)}),
    "rate beyond one side": ((1, 5, 40, 24), (16, 3, 3, 24), False, {"dilation": (6, 6)}),
    "rate of a depthwise one": ((1, 14, 14, 48), (1, 3, 3, 48), True, {"dilation": (12, 12)}),
    "patches": ((1, 64, 48, 3), (20, 16, 16, 3), False, {"stride": (16, 16), "padding": "VALID"}),
    "stride 8 and padding": ((1, 50, 41, 5), (9, 5, 5, 5), False, {"stride": (8, 9)}),
    "depthwise stride 8": ((2, 30, 33, 40), (1, 3, 3, 40), True, {"stride": (8, 8)}),
    "a stride of no matter": ((1, 13, 13, 16), (8, 13, 13, 16), False, {"stride": (13, 13), "padding": "VALID"}),
    "a kernel beyond the input": ((1, 3, 2, 16), (8, 7, 9, 16), False, {}),
    "one pixel": ((2, 1, 1, 1), (1, 1, 1, 1), False, {}),
    "wide": ((1, 1, 300, 3), (4, 1, 7, 3), False, {}),
    "1024 channels": ((1, 2, 2, 1024), (5, 1, 1, 1024), False, {}),
}


@pytest.mark.parametrize("weights", ["int8", "int8 per channel", "uint8"])
@pytest.mark.parametrize("name", CASES)
def test_convolution(
    name: str, weights: str, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    shape, kernel, depthwise, options = CASES[name]
    dtype = weights.split()[0]
    rng = np.random.default_rng(sum(name.encode()))
    outputs = kernel[3] if depthwise else kernel[0]
    low = -127 if dtype == "int8" else 0
    weight = rng.integers(low, low + 255, kernel).astype(dtype)
    scales = (0.01 * 2.0 ** -rng.uniform(0, 3, outputs)).tolist() if weights.endswith("channel") else 0.01
    taps = kernel[1] * kernel[2] * (1 if depthwise else kernel[3])
    builder = Builder()
    source = builder.tensor(shape, dtype, 0.05, 7)
    target = builder.convolution(
        source, weight, scales, (0.03 * taps**0.5, 5),
        weight_zero_point=0 if dtype == "int8" else 120, bias=rng.integers(-2000, 2000, outputs).astype(np.int32),
        depthwise=depthwise, **options,
    )  # fmt: skip
    content = write(builder.finish([source], [target]))
    plain = reference_interpreter(content)
    compare(content, plain, npu_interpreter(content), int(weights.endswith("channel")))
    if options.get("activation") is None:
        compare(content, plain, npu_interpreter(content, unproven="never"), 1)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(
    ("shape", "depth", "outputs", "keep"),
    [
        ((4, 64), 64, 10, False), ((3, 1, 1, 100), 100, 7, False), ((5, 3, 4, 8), 96, 33, False),
        ((2, 3, 4, 16), 16, 20, True), ((2, 3, 4, 16), 16, 20, False), ((3, 5, 24), 24, 9, True),
        ((2, 2, 2, 2), 8, 1, False), ((70, 33), 33, 40, False), ((1, 4096), 4096, 12, False),
    ],
)  # fmt: skip
def test_product(
    shape: tuple[int, ...], depth: int, outputs: int, keep: bool, dtype: str,
    reference_interpreter: Interpreters, npu_interpreter: Interpreters,
) -> None:  # fmt: skip
    rng = np.random.default_rng(depth)
    low = -127 if dtype == "int8" else 0
    weight = rng.integers(low, low + 255, (outputs, depth)).astype(dtype)
    builder = Builder()
    source = builder.tensor(shape, dtype, 0.05, 7)
    zero_point, bias = 0 if dtype == "int8" else 120, rng.integers(-2000, 2000, outputs).astype(np.int32)
    for given in (bias, None):
        target = builder.fully_connected(source, weight, 0.01, (0.03 * depth**0.5, 5), zero_point, given, keep=keep)
        content = write(builder.finish([source], [target]))
        builder.operators.clear()
        plain = reference_interpreter(content)
        compare(content, plain, npu_interpreter(content), 0)
        compare(content, plain, npu_interpreter(content, unproven="never"), 1)
