"""Pooling and reductions end to end against TFLite's reference kernels, with either kernel of the simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from comparison import compare
from tflite_writer import Builder, write

pytestmark = pytest.mark.device

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


# (input NHWC, window, stride, padding, largest difference)
AVERAGES = [
    ((1, 8, 8, 16), (3, 3), (1, 1), "SAME", 0),
    ((2, 9, 7, 33), (3, 3), (2, 2), "SAME", 0),
    ((1, 35, 35, 192), (3, 3), (1, 1), "SAME", 0),
    ((1, 6, 11, 5), (2, 4), (1, 1), "SAME", 0),
    ((1, 3, 3, 8), (5, 5), (1, 1), "SAME", 0),
    ((2, 1, 7, 8), (5, 1), (1, 1), "SAME", 0),
    ((3, 8, 6, 5), (2, 3), (2, 3), "VALID", 0),
    ((1, 50, 20, 5), (2, 3), (12, 8), "VALID", 0),
    ((1, 33, 33, 320), (33, 33), (1, 1), "VALID", 1),
    ((1, 56, 56, 20), (56, 56), (56, 56), "VALID", 1),
    ((2, 112, 112, 3), (112, 112), (1, 1), "VALID", 1),
    ((1, 70, 36, 3), (34, 34), (2, 2), "VALID", 1),
    ((1, 1, 300, 4), (1, 3), (1, 1), "SAME", 0),
    ((1, 2, 2, 1024), (2, 2), (1, 1), "SAME", 0),
    ((1, 5, 2, 1), (1, 1), (6, 6), "SAME", 0),
    ((2, 3, 5, 20), (1, 2), (7, 7), "VALID", 0),
]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(("shape", "window", "stride", "padding", "largest"), AVERAGES)
def test_average_of_windows(
    *, shape: tuple[int, ...], window: tuple[int, int], stride: tuple[int, int], padding: str, largest: int,
    dtype: str, reference_interpreter: Interpreters, npu_interpreter: Interpreters,
) -> None:  # fmt: skip
    builder = Builder()
    source = builder.tensor(shape, dtype, 0.05, 3)
    content = write(builder.finish([source], [builder.pool(source, "AVERAGE_POOL_2D", window, stride, padding)]))
    compare(content, reference_interpreter(content), npu_interpreter(content), largest)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("activation", ["RELU", "RELU6"])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("operator", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
def test_fused_activations(
    operator: str, kernel: str, dtype: str, activation: str, padding: str,
    reference_interpreter: Interpreters, npu_interpreter: Interpreters,
) -> None:  # fmt: skip
    builder = Builder()
    source = builder.tensor((2, 9, 8, 20), dtype, 0.05, -20 if dtype == "int8" else 100)
    pooled = builder.pool(source, operator, (3, 2), (2, 1), padding, activation)
    content = write(builder.finish([source], [pooled]))
    compare(content, reference_interpreter(content), npu_interpreter(content, kernel=kernel), 0)


def reduction(op: str, shape: tuple[int, ...], dtype: str, axes: tuple[int, ...], keep: bool, ratio: float) -> bytes:
    """A model of one reduction; MEAN and SUM have a scale of their own."""
    builder = Builder()
    source = builder.tensor(shape, dtype, 0.05, 7)
    reduced = {axis % 4 for axis in axes}
    kept = [1 if i in reduced else n for i, n in enumerate(shape) if keep or i not in reduced]
    output = (0.05 * ratio, 11) if op in ("MEAN", "SUM") else None
    target = builder.like(source, kept, output)
    inputs = (source, builder.indices(*axes))
    return write(builder.finish([source], [builder.operator(op, inputs, target, {"KeepDims": keep})]))


REDUCTIONS = [
    ((1, 7, 7, 40), (1, 2), True), ((3, 7, 5, 20), (2, 1), False), ((2, 4, 6, 33), (-3, -2), True),
    ((1, 9, 6, 17), (1,), True), ((2, 9, 6, 17), (2,), True), ((2, 5, 6, 17), (1,), False),
    ((3, 5, 6, 17), (2,), False),
    ((4, 1, 1, 5), (1, 2), False),
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("op", ["MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"])
@pytest.mark.parametrize(("shape", "axes", "keep"), REDUCTIONS)
def test_reductions(
    op: str, shape: tuple[int, ...], axes: tuple[int, ...], keep: bool, dtype: str,
    reference_interpreter: Interpreters, npu_interpreter: Interpreters,
) -> None:  # fmt: skip
    content = reduction(op, shape, dtype, axes, keep, 0.7 if op == "MEAN" else 3.0)
    if (op, dtype) == ("SUM", "int8"):  # the reference kernels take int8 for uint8
        assert len(npu_interpreter(content)._get_ops_details()) == 1
        return
    plain = reference_interpreter(content)
    for forms in ("auto", "never"):
        compare(content, plain, npu_interpreter(content, unproven=forms), op in ("MEAN", "SUM"))


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(
    ("shape", "axes", "keep", "ratio"),
    [
        ((1, 6, 7, 40), (3,), True, 0.5), ((2, 5, 5, 100), (-1,), True, 1.2), ((1, 4, 5, 30), (1, 2, 3), True, 0.4),
        ((1, 56, 56, 30), (1, 2), False, 0.6), ((2, 112, 112, 5), (1, 2), True, 1.0),
        ((1, 48, 3, 5), (1, 2, 3), True, 1.0), ((2, 5, 34, 4), (2, 3), True, 1.0),
    ],
)  # fmt: skip
def test_means(
    shape: tuple[int, ...], axes: tuple[int, ...], keep: bool, ratio: float, dtype: str,
    reference_interpreter: Interpreters, npu_interpreter: Interpreters,
) -> None:  # fmt: skip
    content = reduction("MEAN", shape, dtype, axes, keep, ratio)
    for forms in ("auto", "never"):
        compare(content, reference_interpreter(content), npu_interpreter(content, unproven=forms), 1)


@pytest.mark.parametrize("seed", range(24))
def test_random_pools(seed: int, reference_interpreter: Interpreters, npu_interpreter: Interpreters) -> None:
    """Whatever is taken is exact; windows beyond a kernel, which are within 1, are above."""
    rng = np.random.default_rng(seed)
    op, dtype = rng.choice(["MAX_POOL_2D", "AVERAGE_POOL_2D"]), str(rng.choice(["int8", "uint8"]))
    height, width = (int(n) for n in np.exp(rng.uniform(0, np.log(80), 2)).round())
    channels, images = int(np.exp(rng.uniform(0, np.log(200))).round()), int(rng.integers(1, 4))
    padding = str(rng.choice(["SAME", "VALID"]))
    window = [int(rng.integers(1, min(size, 7 if padding == "SAME" else 20) + 1)) for size in (height, width)]
    stride, activation = (int(n) for n in rng.integers(1, 8, 2)), str(rng.choice(["NONE", "RELU", "RELU6"]))
    builder = Builder()
    info = np.iinfo(dtype)
    source = builder.tensor((images, height, width, channels), dtype, 0.03, int(rng.integers(info.min, info.max + 1)))
    pooled = builder.pool(source, op, (window[0], window[1]), tuple(stride), padding, activation)  # type: ignore[arg-type]
    content = write(builder.finish([source], [pooled]))
    for kernel in KERNELS:
        compare(content, reference_interpreter(content), npu_interpreter(content, kernel=kernel), 0, rounds=1)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_sums_of_more_rows_than_a_kernel_has_are_refused(dtype: str, npu_interpreter: Interpreters) -> None:
    content = reduction("SUM", (1, 32, 1, 3), dtype, (1, 2, 3), True, 3.0)
    assert len(npu_interpreter(content)._get_ops_details()) == 1
