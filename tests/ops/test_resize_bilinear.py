"""RESIZE_BILINEAR through the real library against TFLite's reference kernels, weights, moves and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from layers import EVERY_FORM, graph
from resizing import (
    ALIGNED,
    BOTH,
    CENTERED,
    PLAIN,
    Interpreters,
    check_shared_refusals,
    difference,
    drawn,
    moves,
    refusal,
    resize,
)
from tflite_writer import Builder, write

from benchmarks.harness import infer
from delegate.ops.interpolation import whole_weights
from delegate.partition import refusals

BILINEAR = "RESIZE_BILINEAR"
EXACT = [
    ((1, 5, 7, 20), (10, 14), PLAIN),
    ((2, 5, 7, 70), (10, 14), CENTERED),
    ((1, 3, 4, 5), (12, 16), CENTERED),
    ((1, 3, 4, 5), (12, 8), PLAIN),
    ((1, 5, 5, 33), (9, 17), ALIGNED),
    ((1, 5, 3, 3), (5, 33), ALIGNED),  # sixteenths
    ((1, 1, 4, 8), (4, 64), CENTERED),  # rows are repeated
    ((1, 8, 12, 8), (4, 6), CENTERED),
    ((1, 8, 12, 8), (4, 3), PLAIN),
    ((3, 1, 1, 70), (6, 33), ALIGNED),
    ((1, 7, 6, 33), (7, 6), ALIGNED),
]


@pytest.mark.parametrize(("shape", "size", "flags"), EXACT)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_bilinear_is_exact_where_fractions_are_simple(
    shape: tuple[int, ...], size: tuple[int, int], flags: tuple[bool, bool], dtype: str,
    reference_interpreter: Interpreters, npu_interpreter: Interpreters,
) -> None:  # fmt: skip
    """Fractions that are powers of two give, in one pass, TFLite's numbers."""
    rng = np.random.default_rng(1)
    assert difference(rng, BILINEAR, shape, size, flags, dtype, reference_interpreter, npu_interpreter) == 0


@pytest.mark.parametrize("seed", range(24))
def test_drawn_sizes_are_within_one_or_refused(
    seed: int, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    assert drawn(seed, BILINEAR, reference_interpreter, npu_interpreter) in (None, 0, 1)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_extremes_beside_each_other(
    dtype: str, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    """The error of weights is largest between the ends of 8 bits."""
    info = np.iinfo(dtype)
    for size, flags in [((31, 45), PLAIN), ((31, 45), ALIGNED), ((90, 42), CENTERED), ((129, 81), ALIGNED)]:
        builder = Builder()
        source = builder.tensor((1, 9, 6, 16), dtype, 0.05, 3)
        content = write(builder.finish([source], [builder.resize(source, BILINEAR, size, *flags)]))
        values = [np.random.default_rng(1).choice([info.min, info.max], (1, 9, 6, 16)).astype(dtype)]
        (got,), (expected,) = (infer(make(content), values) for make in (npu_interpreter, reference_interpreter))
        assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1


def test_a_border_and_the_places_of_a_block_are_layers() -> None:
    assert moves(resize(BILINEAR, (1, 64, 64, 16), (128, 128), CENTERED)) == [9, 1, 1, 1, 1, 2]


def test_deeplabs_resizes_are_within_reach() -> None:
    """align_corners from 33 to 513: sixteen places a side, in two passes."""
    node = resize(BILINEAR, (1, 33, 33, 21), (513, 513), ALIGNED)
    assert refusals(node, graph([node], [], []), EVERY_FORM) == ()
    assert sum(moves(node)) == 16 + 16 + 1 + 16


def test_weights_are_whole_and_sum_to_their_divisor() -> None:
    for shares, expected, divisor in [
        ([0.25, 0.75], [1, 3], 4),
        ([1.0], [1], 1),
        ([225 / 256, 15 / 256, 15 / 256, 1 / 256], [225, 15, 15, 1], 256),
        ([1 / 3, 2 / 3], [1, 2], 3),
    ]:
        weights, found, error = whole_weights(np.array(shares))
        assert (weights.tolist(), found) == (expected, divisor)
        assert error == pytest.approx(0, abs=1e-9)
    weights, divisor, error = whole_weights(np.array([0.999, 0.001]))
    assert weights.max() <= 255 and error == pytest.approx(abs(weights[1] / divisor - 0.001) * 255)


def test_refusals_name_their_reason() -> None:
    check_shared_refusals(BILINEAR)


def test_bilinear_refuses_what_weights_of_8_bits_cannot_meet() -> None:
    assert "within 1" in refusal(resize(BILINEAR, (1, 20, 20, 4), (60, 60)))
    assert "not both" in refusal(resize(BILINEAR, (1, 8, 8, 4), (16, 16), BOTH))
