"""Pooling and reductions end to end against TFLite's reference kernels, with either kernel of the simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tflite_writer import Builder, write

from benchmarks.harness import infer

Interpreters = Callable[..., Any]
KERNELS = ("rocket", "rknpu")  # the second hears of the end of a pooling task

# (input NHWC, window, stride, padding)
MAXIMA = [
    ((1, 8, 8, 16), (2, 2), (2, 2), "VALID"),
    ((2, 9, 7, 33), (3, 3), (2, 2), "SAME"),
    ((1, 112, 112, 64), (3, 3), (2, 2), "SAME"),
    ((1, 13, 11, 5), (5, 5), (1, 1), "SAME"),
    ((1, 20, 20, 40), (13, 9), (1, 1), "SAME"),
    ((1, 1, 1, 1), (1, 1), (1, 1), "VALID"),
    ((1, 6, 5, 3), (6, 5), (6, 5), "VALID"),
    ((3, 5, 4, 70), (1, 3), (2, 1), "SAME"),
    ((1, 3, 3, 8), (7, 7), (1, 1), "SAME"),
    ((1, 40, 30, 17), (3, 2), (9, 10), "VALID"),
    ((1, 9, 300, 4), (2, 3), (1, 1), "SAME"),
    ((1, 37, 41, 20), (31, 35), (1, 1), "VALID"),
    ((1, 25, 25, 16), (25, 25), (1, 1), "SAME"),
    ((1, 16, 16, 16), (16, 16), (1, 1), "SAME"),
    ((1, 4, 5, 1024), (2, 2), (1, 1), "SAME"),
]


def compare(content: bytes, plain: Any, npu: Any, largest: int, rounds: int = 2) -> None:
    """All on the NPU, and no output further than ``largest`` from TFLite's."""
    assert len(npu._get_ops_details()) == len(plain._get_ops_details()) + 1, "not on the NPU"
    rng = np.random.default_rng(len(content))
    for index in range(rounds):
        values = []
        for detail in plain.get_input_details():
            info = np.iinfo(detail["dtype"])
            low = info.min if index else info.max - 3  # once near the end of the range
            values.append(rng.integers(low, info.max + 1, detail["shape"]).astype(detail["dtype"]))
        for got, expected in zip(infer(npu, values), infer(plain, values), strict=True):
            assert got.shape == expected.shape
            assert np.abs(got.astype(int) - expected.astype(int)).max() <= largest


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("shape", "window", "stride", "padding"), MAXIMA)
def test_largest_of_windows(
    *, shape: tuple[int, ...], window: tuple[int, int], stride: tuple[int, int], padding: str, kernel: str, dtype: str,
    reference_interpreter: Interpreters, npu_interpreter: Interpreters,
) -> None:  # fmt: skip
    builder = Builder()
    source = builder.tensor(shape, dtype, 0.05, 3)
    content = write(builder.finish([source], [builder.pool(source, "MAX_POOL_2D", window, stride, padding)]))
    compare(content, reference_interpreter(content), npu_interpreter(content, kernel=kernel, unproven="never"), 0)
