"""Resizes for the tests: through the real library, as nodes, and the rules that both kinds share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from layers import EVERY_FORM, PROVEN, feature, graph
from tflite_writer import Builder, write

from benchmarks.harness import infer
from delegate.hw.soc import PART_OF_ROW, ROW_SKIP, Target
from delegate.ir import Convolution, Node, Tensor
from delegate.ops import OPERATORS
from delegate.partition import refusals

Interpreters = Callable[..., Any]
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


def drawn(seed: int, kind: str, reference: Interpreters, npu: Interpreters) -> int | None:
    """The difference for sizes in all kinds of ratios."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(1, 14, 2)
    ways = [
        rng.integers(1, 30, 2),
        pixels * rng.integers(1, 9, 2),
        np.maximum(1, (pixels - 1) * rng.integers(1, 9, 2) + 1),
        -(-pixels // rng.integers(1, 9, 2)),
    ]
    height, width = (int(n) for n in ways[seed // 3 % 4])
    shape = (1 + seed % 2, *(int(n) for n in pixels), int(rng.integers(1, 80)))
    dtype = str(rng.choice(["int8", "uint8"]))
    return difference(rng, kind, shape, (height, width), (PLAIN, ALIGNED, CENTERED)[seed % 3], dtype, reference, npu)


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


def refusal(node: Node, target: Target = EVERY_FORM) -> str:
    (reason,) = refusals(node, graph([node], [], []), target)
    return reason


def check_shared_refusals(kind: str) -> None:
    """The rules that both kinds have, each by its reason."""
    node = resize(kind, (1, 8, 6, 16), (16, 12))
    source, sizes = node.inputs
    assert source is not None and sizes is not None
    output = node.outputs[0]
    assert ROW_SKIP in refusal(node, PROVEN)
    narrower = resize(kind, (1, 8, 6, 16), (8, 3))
    assert PART_OF_ROW in refusal(narrower, Target(PROVEN.soc, frozenset({ROW_SKIP})))
    assert "size is a constant" in refusal(replace(node, inputs=(source, replace(sizes, data=None))))
    constant = replace(source, data=np.zeros(source.shape, source.dtype))
    assert "input is computed" in refusal(replace(node, inputs=(constant, sizes)))
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
