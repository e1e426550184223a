"""RESIZE_NEAREST_NEIGHBOR and RESIZE_BILINEAR through the real library against TFLite's reference kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from layers import EVERY_FORM, PROVEN, feature, graph
from tflite_writer import Builder, write

from benchmarks.harness import infer
from delegate.hw.soc import PART_OF_ROW, ROW_SKIP, Target
from delegate.ir import Convolution, Node, Tensor
from delegate.ops import OPERATORS
from delegate.ops.interpolation import whole_weights
from delegate.partition import refusals

Interpreters = Callable[..., Any]
NEAREST, BILINEAR = "RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR"
PLAIN, ALIGNED, CENTERED, BOTH = (False, False), (True, False), (False, True), (True, True)  # flags of a resize


def difference(
    rng: np.random.Generator,
    kind: str,
    shape: tuple[int, ...],
    size: tuple[int, int],
    flags: tuple[bool, bool],
    dtype: str,
    reference: Interpreters,
    npu: Interpreters,
) -> int | None:
    """The largest difference of any output, None where the NPU refuses."""
    info, builder = np.iinfo(dtype), Builder()
    source = builder.tensor(shape, dtype, 0.05, int(rng.integers(info.min, info.max + 1)))
    content = write(builder.finish([source], [builder.resize(source, kind, size, *flags)]))
    plain, delegated = reference(content), npu(content)
    values = [rng.integers(info.min, info.max + 1, shape).astype(dtype)]
    (got,), (expected,) = infer(delegated, values), infer(plain, values)
    if len(delegated._get_ops_details()) == len(plain._get_ops_details()):
        return None
    return int(np.abs(got.astype(int) - expected.astype(int)).max())


SIZES = [
    ((1, 5, 7, 20), (10, 14)),  # twice
    ((2, 5, 7, 70), (20, 7)),  # rows alone
    ((2, 5, 7, 3), (5, 21)),  # columns alone
    ((1, 9, 8, 20), (3, 4)),  # smaller
    ((1, 5, 7, 20), (7, 10)),  # nothing in common
    ((1, 5, 5, 17), (9, 17)),  # corners aligned
    ((1, 9, 17, 4), (5, 9)),
    ((3, 1, 1, 70), (6, 33)),  # one pixel
    ((1, 6, 1, 5), (6, 5)),
    ((1, 1, 6, 5), (5, 6)),
    ((1, 7, 6, 33), (7, 6)),  # the same
]


@pytest.mark.parametrize(("shape", "size"), SIZES)
@pytest.mark.parametrize(("flags", "dtype"), [(PLAIN, "int8"), (ALIGNED, "uint8"), (CENTERED, "int8"), (BOTH, "uint8")])
def test_nearest_is_exact(
    shape: tuple[int, ...], size: tuple[int, int], flags: tuple[bool, bool], dtype: str,
    reference_interpreter: Interpreters, npu_interpreter: Interpreters,
) -> None:  # fmt: skip
    rng = np.random.default_rng(1)
    assert difference(rng, NEAREST, shape, size, flags, dtype, reference_interpreter, npu_interpreter) == 0


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


@pytest.mark.parametrize("seed", range(48))
def test_drawn_sizes(seed: int, reference_interpreter: Interpreters, npu_interpreter: Interpreters) -> None:
    """Nearest is exact always; bilinear within 1 or refused."""
    rng = np.random.default_rng(seed)
    kind = (NEAREST, BILINEAR)[seed % 2]
    flags = (PLAIN, ALIGNED, CENTERED)[seed % 3]
    pixels = rng.integers(1, 14, 2)
    ways = [
        rng.integers(1, 30, 2),
        pixels * rng.integers(1, 9, 2),
        np.maximum(1, (pixels - 1) * rng.integers(1, 9, 2) + 1),
        -(-pixels // rng.integers(1, 9, 2)),
    ]
    height, width = (int(n) for n in ways[seed // 6 % 4])
    shape = (1 + seed % 2, *(int(n) for n in pixels), int(rng.integers(1, 80)))
    dtype = str(rng.choice(["int8", "uint8"]))
    found = difference(rng, kind, shape, (height, width), flags, dtype, reference_interpreter, npu_interpreter)
    assert found == 0 if kind == NEAREST else found in (None, 0, 1)


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


def resize(
    kind: str, shape: tuple[int, int, int, int], size: tuple[int, int], flags: tuple[bool, bool] = PLAIN
) -> Node:
    source = replace(feature(0, *shape[1:]), shape=shape)
    output = replace(source, index=2, shape=(shape[0], *size, shape[3]))
    sizes = Tensor(1, "size", (2,), "int32", None, np.array(size, np.int32))
    return Node(0, kind, (source, sizes), (output,), {"align_corners": flags[0], "half_pixel_centers": flags[1]})


def lowered(node: Node) -> list[Convolution]:
    layers = OPERATORS[node.op].lower(node, EVERY_FORM)
    assert all(isinstance(layer, Convolution) for layer in layers)
    return [layer for layer in layers if isinstance(layer, Convolution)]


def moves(node: Node) -> list[int]:
    return [len(layer.moves) for layer in lowered(node)]


def test_blocks_need_few_moves() -> None:
    """A move for each column of a block, then one for each row of a block."""
    assert moves(resize(NEAREST, (1, 64, 64, 16), (128, 128))) == [2, 2]
    assert moves(resize(NEAREST, (1, 64, 64, 16), (32, 64))) == [1]
    assert moves(resize(NEAREST, (1, 33, 33, 16), (65, 65), ALIGNED)) == [2, 2]
    assert moves(resize(NEAREST, (1, 1, 1, 16), (33, 33))) == [1]
    assert moves(resize(NEAREST, (1, 5, 5, 16), (5, 5))) == [0]
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


def refusal(node: Node, target: Target = EVERY_FORM) -> str:
    (reason,) = refusals(node, graph([node], [], []), target)
    return reason


@pytest.mark.parametrize("kind", [NEAREST, BILINEAR])
def test_refusals_name_their_reason(kind: str) -> None:
    node = resize(kind, (1, 8, 6, 16), (16, 12))
    source, sizes = node.inputs
    assert source is not None and sizes is not None
    output = node.outputs[0]
    assert ROW_SKIP in refusal(node, PROVEN)
    narrower = resize(kind, (1, 8, 6, 16), (8, 3))
    assert PART_OF_ROW in refusal(narrower, Target(PROVEN.soc, frozenset({ROW_SKIP})))
    assert "size is a constant" in refusal(replace(node, inputs=(source, replace(sizes, data=None))))
    assert "input is computed" in refusal(replace(node, inputs=(replace(source, data=np.zeros(1)), sizes)))
    assert "int8 or uint8" in refusal(replace(node, inputs=(replace(source, dtype="float32"), sizes)))
    assert "int8 or uint8" in refusal(replace(node, outputs=(replace(output, quant=None),)))
    assert "one dtype" in refusal(replace(node, outputs=(replace(output, dtype="uint8"),)))
    assert "batch size" in refusal(replace(node, outputs=(replace(output, shape=(2, 16, 12, 16)),)))
    assert "none of them 0" in refusal(resize(kind, (1, 8, 6, 16), (0, 12)))
    assert "2047" in refusal(resize(kind, (1, 8, 6, 16), (2048, 12)))
    assert "channels stay" in refusal(replace(node, outputs=(replace(output, shape=(1, 16, 12, 15)),)))
    assert "at most 512" in refusal(resize(kind, (1, 521, 7, 4), (1999, 7), ALIGNED))
    assert "at most 512" in refusal(resize(kind, (200, 8, 6, 4), (16, 12)))
    assert "at most 8191 pixels" in refusal(resize(kind, (1, 8, 2000, 4), (64, 2000)))


def test_bilinear_refuses_what_weights_of_8_bits_cannot_meet() -> None:
    assert "within 1" in refusal(resize(BILINEAR, (1, 20, 20, 4), (60, 60)))
    assert "not both" in refusal(resize(BILINEAR, (1, 8, 8, 4), (16, 16), BOTH))
