"""Random graphs of operators that only move numbers, of convolutions and maxima: every number TFLite's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from movements import FORMS, Interpreters, Rng, Sketch, check
from tflite_writer import Model


def drawn_slice(s: Sketch, shape: Sequence[int]) -> tuple[list[int], list[int]]:
    """(begin, end) within a shape."""
    begin = [int(s.rng.integers(0, n)) if s.rng.random() < 0.6 else 0 for n in shape]
    pairs = zip(begin, shape, strict=True)
    return begin, [int(s.rng.integers(a + 1, n + 1)) if s.rng.random() < 0.6 else n for a, n in pairs]


def random_slice(s: Sketch, x: int) -> list[int]:
    begin, end = drawn_slice(s, s.shape(x))
    return [s.builder.slice(x, begin, [b - a for a, b in zip(begin, end, strict=True)])]


def random_stride(s: Sketch, x: int) -> list[int]:
    rank = len(s.shape(x))
    begin, end = drawn_slice(s, s.shape(x))
    strides = [int(s.rng.choice([1, 1, 2, 3, 9])) for _ in range(rank - 1)] + [1]
    negative = [a - n if s.rng.random() < 0.3 else a for a, n in zip(begin, s.shape(x), strict=True)]
    masks = {name: int(s.rng.integers(0, 1 << rank)) for name in ("begin_mask", "end_mask")}
    if rank > 2 and s.rng.random() < 0.2:
        masks["shrink_axis_mask"] = 1 << int(s.rng.integers(0, rank))
    return [s.builder.strided_slice(x, negative, end, strides, **masks)]


def random_split(s: Sketch, x: int) -> list[int]:
    axis = int(s.rng.integers(0, len(s.shape(x))))
    extent = s.shape(x)[axis]
    divisors = [n for n in (2, 3, 4) if extent % n == 0]
    if divisors and s.rng.random() < 0.5:
        return list(s.builder.split(x, int(s.rng.choice(divisors)), axis))
    if extent < 2:
        return []
    cut = int(s.rng.integers(1, extent))
    return list(s.builder.split_v(x, (cut, extent - cut), axis))


def random_pad(s: Sketch, x: int) -> list[int]:
    most = [int(s.rng.choice([0, 0, 1, 3, 20])) if axis in (1, 2) else 2 for axis in range(len(s.shape(x)))]
    rare = [axis in (1, 2) or s.rng.random() < 0.1 for axis in range(len(most))]
    sides = [
        (int(s.rng.integers(0, n + 1)), int(s.rng.integers(0, n + 1))) if r else (0, 0)
        for n, r in zip(most, rare, strict=True)
    ]
    info = np.iinfo(s.dtype)
    if s.rng.random() < 0.5:
        return [s.builder.pad(x, sides)]
    return [s.builder.padv2(x, sides, int(s.rng.integers(info.min, info.max + 1)))]


def random_reshape(s: Sketch, x: int) -> list[int]:
    """Factors of the shape move to another place, or all become one."""
    shape = list(s.shape(x))
    if s.rng.random() < 0.2:
        return [s.builder.reshape(x, (shape[0], int(np.prod(shape[1:]))))]
    a, b = s.rng.choice(len(shape), 2, replace=False) if len(shape) > 1 else (0, 0)
    factor = int(s.rng.choice([n for n in (1, 2, 3, 4, 16, shape[a]) if shape[a] % n == 0]))
    shape[a] //= factor
    shape[b] *= factor
    return [s.builder.reshape(x, shape)]


def random_rank(s: Sketch, x: int) -> list[int]:
    ones = [axis for axis, n in enumerate(s.shape(x)) if n == 1]
    if len(s.shape(x)) < 4:
        return [s.builder.expand_dims(x, int(s.rng.integers(0, len(s.shape(x)) + 1)))]
    return [s.builder.squeeze(x, [int(s.rng.choice(ones))])] if ones else []


def random_transpose(s: Sketch, x: int) -> list[int]:
    order = [0, 2, 1, 3] if len(s.shape(x)) == 4 and s.rng.random() < 0.6 else s.rng.permutation(len(s.shape(x)))
    return [s.builder.transpose(x, [int(axis) for axis in order])]


def random_blocks(s: Sketch, x: int) -> list[int]:
    shape, block = s.shape(x), int(s.rng.choice([2, 3]))
    if len(shape) == 4 and shape[3] % block**2 == 0:
        return [s.builder.depth_to_space(x, block)]
    if len(shape) == 4 and shape[1] % block == shape[2] % block == 0:
        return [s.builder.space_to_depth(x, block)]
    return []


def random_packing(s: Sketch, x: int) -> list[int]:
    shape = s.shape(x)
    if len(shape) == 4 and s.rng.random() < 0.5:
        axis = int(s.rng.integers(0, 4))
        return list(s.builder.unpack(x, axis)) if shape[axis] <= 6 else []
    if len(shape) == 4:
        return []
    same = [y for y in s.computed if s.shape(y) == shape]
    return [s.builder.pack([x, *same[:2]], int(s.rng.integers(0, len(shape) + 1)))]


def random_concatenation(s: Sketch, x: int) -> list[int]:
    """With tensors of fitting shapes, itself, tensors made for it and constants."""
    shape = s.shape(x)
    axis = len(shape) - 1 if s.rng.random() < 0.7 else int(s.rng.integers(0, len(shape)))
    fitting = [
        y for y in s.computed if len(s.shape(y)) == len(shape) and
        all(i == axis or n == m for i, (n, m) in enumerate(zip(s.shape(y), shape, strict=True)))
    ]  # fmt: skip
    pieces = [x]
    for _ in range(int(s.rng.integers(1, 4))):
        kind = s.rng.random()
        if kind < 0.4:
            pieces.append(int(s.rng.choice(fitting)))
        elif kind < 0.9 and len(shape) == 4:
            other = list(shape)
            other[axis] = int(s.rng.choice([16, 20, 32, 64])) if axis == 3 else int(s.rng.integers(1, 7))
            y = s.made(*other)
            pieces.append(s.filtered(y) if s.rng.random() < 0.4 else y)
        elif kind >= 0.9:
            info = np.iinfo(s.dtype)
            values = s.rng.integers(info.min, info.max + 1, shape).astype(s.dtype)
            pieces.append(s.builder.constant(values, *s.quant))
    order = s.rng.permutation(len(pieces))
    return [s.builder.concatenation([pieces[i] for i in order], s.quant, axis)]


def random_computation(s: Sketch, x: int) -> list[int]:
    same = [y for y in s.computed if s.shape(y) == s.shape(x)]
    if len(s.shape(x)) != 4:
        return []
    kind = s.rng.integers(0, 4)
    if kind == 0:
        return [s.filtered(x)]
    if kind == 1:
        return [s.builder.maximum(x, int(s.rng.choice(same)))]
    if kind == 2 and min(s.shape(x)[1:3]) > 2:
        return [s.centre(x)]
    return [s.permuted(x, int(s.rng.choice([s.shape(x)[3], 5, 32, 64])))]


OPERATIONS = (
    random_slice, random_stride, random_split, random_pad, random_reshape, random_rank, random_transpose,
    random_blocks, random_packing, random_concatenation, random_concatenation, random_computation, random_computation,
)  # fmt: skip


def random_model(rng: Rng) -> Model:
    """A few operations, each of some tensor there is; all that nobody reads is given out, and some of the others."""
    s = Sketch(rng, str(rng.choice(["int8", "uint8"])))
    images = int(rng.choice([1, 1, 2, 3]))
    height, width = (int(n) for n in rng.choice([1, 2, 3, 4, 5, 6, 8, 12, 15, 40], 2))
    s.made(images, height, width, int(rng.choice([1, 3, 4, 8, 16, 17, 32, 48, 64, 100, 200])))
    for _ in range(int(rng.integers(2, 7))):
        x = int(rng.choice(s.computed[-4:]))
        operation = OPERATIONS[int(rng.integers(0, len(OPERATIONS)))]
        s.computed += [y for y in operation(s, x) if np.prod(s.shape(y)) < 300000]
    read = {i for node in s.builder.operators for i in node.inputs}
    written = [i for node in s.builder.operators for i in node.outputs]
    outputs = [i for i in written if i not in read or rng.random() < 0.2]
    return s.builder.finish(s.inputs, outputs)


@pytest.mark.parametrize("seed", range(40))
def test_random_graphs(seed: int, reference_interpreter: Interpreters, npu_interpreter: Interpreters) -> None:
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    check(model, reference_interpreter, npu_interpreter, rng, FORMS[seed % 2], whole=False)
