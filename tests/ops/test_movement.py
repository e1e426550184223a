"""Operators that only move numbers, one by one through the real library: on the NPU, every number TFLite's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from movements import FORMS, Interpreters, Sketch, check

Build = Callable[[Sketch], list[int]]  # gives the outputs of a model
Case = tuple[str, Build]


def paddings(s: Sketch, shape: Sequence[int], sides: Sequence[tuple[int, int]], value: int | None) -> list[int]:
    source = s.made(*shape)
    return [s.builder.pad(source, sides) if value is None else s.builder.padv2(source, sides, value)]


def joined(s: Sketch, axis: int, *shapes: Sequence[int]) -> list[int]:
    return [s.builder.concatenation([s.made(*shape) for shape in shapes], s.quant, axis)]


def with_constant(s: Sketch) -> list[int]:
    info = np.iinfo(s.dtype)
    values = s.rng.integers(info.min, info.max + 1, (1, 5, 6, 20)).astype(s.dtype)
    other = s.builder.constant(values, *s.quant)
    return [s.builder.concatenation([s.made(1, 5, 6, 7), other, s.made(1, 5, 6, 32)], s.quant)]


def with_long_constant(s: Sketch) -> list[int]:
    """Anchors of as many boxes as no task of the element-wise unit has rows."""
    values = s.rng.integers(0, 100, (1, 9000, 4)).astype(s.dtype)
    boxes = s.builder.reshape(s.made(1, 90, 100, 4), (1, 9000, 4))
    return [s.builder.concatenation([boxes, s.builder.constant(values, *s.quant)], s.quant, axis=-1)]


def nested(s: Sketch) -> list[int]:
    """As in DenseNet: each concatenation is a piece of the next; some pieces are outputs too."""
    x = s.made(2, 6, 5, 32)
    pieces = [s.permuted(x, 32) for _ in range(3)]
    first = s.builder.concatenation([x, pieces[0]], s.quant)
    second = s.builder.concatenation([first, s.filtered(s.permuted(first, 64)), pieces[1]], s.quant)
    return [second, pieces[0], s.builder.concatenation([pieces[2], second, s.permuted(second, 20)], s.quant)]


def repeated(s: Sketch) -> list[int]:
    x, y = s.made(1, 5, 6, 7), s.made(1, 5, 6, 32)
    same = s.builder.reshape(x, (1, 5, 6, 7))
    return [s.builder.concatenation([x, x, y, same], s.quant), s.builder.concatenation([y, y, s.inputs[0]], s.quant, 3)]


def several(s: Sketch) -> list[int]:
    """Slices of a concatenation of slices of an input, an addition's operands among them."""
    source = s.input(1, 8, 6, 64)
    halves = s.builder.split(source, 2)
    largest = s.builder.maximum(halves[1], s.builder.slice(source, (0, 0, 0, 16), (1, 8, 6, 32)))
    whole = s.builder.concatenation([largest, s.permuted(halves[0])], s.quant)
    return [s.builder.slice(whole, (0, 2, 0, 48), (-1, 3, -1, -1)), *s.builder.split(whole, 2, 1), halves[1]]


def slice_of_reshape(s: Sketch) -> list[int]:
    x = s.made(1, 4, 6, 16)
    column = s.builder.reshape(x, (1, 24, 1, 16))
    rows = s.builder.reshape(x, (24, 16))
    return [s.builder.slice(column, (0, 5, 0, 0), (-1, 9, -1, -1)), s.builder.slice(rows, (3, 0), (7, 16))]


def packed(s: Sketch, axis: int) -> list[int]:
    return [s.builder.pack([s.builder.squeeze(s.made(1, 5, 4, 36), [0]) for _ in range(3)], axis)]


def stepped(
    shape: Sequence[int], begin: Sequence[int], end: Sequence[int], strides: Sequence[int], **masks: int
) -> Build:
    return lambda s: [s.builder.strided_slice(s.made(*shape), begin, end, strides, **masks)]


def focus(s: Sketch) -> list[int]:
    """Every second pixel of an input, four times, behind each other in channels."""
    source = s.input(1, 8, 12, 3)
    starts = [(0, i, j, 0) for i in (0, 1) for j in (0, 1)]
    parts = [s.builder.strided_slice(source, start, (1, 8, 12, 3), (1, 2, 2, 1)) for start in starts]
    return [s.builder.concatenation(parts, s.quant)]


CASES: dict[str, list[Case]] = {
    "SLICE": [
        ("rows, from a channel on", lambda s: [s.builder.slice(s.made(1, 9, 11, 40), (0, 3, 0, 16), (-1, 4, -1, -1))]),
        ("columns", lambda s: [s.builder.slice(s.made(2, 9, 11, 40), (0, 3, 5, 7), (-1, 4, 3, 20))]),
        ("columns far away", lambda s: [s.builder.slice(s.made(1, 9, 51, 40), (0, 3, 40, 7), (-1, 4, 3, 20))]),
        ("images", lambda s: [s.builder.slice(s.made(3, 5, 4, 20), (1, 0, 0, 0), (2, -1, -1, -1))]),
        ("one number", lambda s: [s.builder.slice(s.made(1, 5, 4, 20), (0, 4, 3, 19), (1, 1, 1, 1))]),
        ("of a reshape", slice_of_reshape),
        ("many", several),
    ],
    "SPLIT": [
        ("channels", lambda s: list(s.builder.split(s.made(2, 5, 6, 60), 3))),
        ("atoms", lambda s: list(s.builder.split(s.made(2, 5, 6, 64), 4))),
        ("columns", lambda s: list(s.builder.split(s.made(2, 5, 6, 60), 3, 2))),
        ("rows", lambda s: list(s.builder.split(s.made(1, 6, 5, 60), 3, -3))),
        ("images", lambda s: list(s.builder.split(s.made(2, 5, 6, 60), 2, 0))),
    ],
    "SPLIT_V": [("channels", lambda s: list(s.builder.split_v(s.made(1, 5, 6, 60), (16, 1, 43))))],
    "UNPACK": [(f"axis {axis}", lambda s, a=axis: list(s.builder.unpack(s.made(1, 3, 4, 5), a))) for axis in range(4)],
    "PACK": [(f"axis {axis}", lambda s, a=axis: packed(s, a)) for axis in range(3)],
    "STRIDED_SLICE": [
        ("strides", stepped((1, 9, 40, 33), (0, 1, 33, 1), (1, 9, 40, 30), (1, 2, 3, 2))),
        ("large strides", stepped((1, 25, 29, 8), (0, 0, 3, 0), (1, 25, 29, 8), (1, 9, 8, 1))),
        ("negative numbers", stepped((1, 9, 7, 33), (0, -5, 1, 0), (1, -1, -2, 33), (1, 1, 1, 1))),
        ("a new axis and one less", stepped((1, 9, 7, 33), (0, 0, 3, 0), (0, 0, 0, 16), (1, 1, 1, 1), new_axis_mask=1,
                                            ellipsis_mask=2, shrink_axis_mask=4)),
        ("ends left out", stepped((2, 9, 7, 33), (1, 2, 3, 4), (1, 1, 4, 20), (1, 1, 2, 1), begin_mask=5, end_mask=3)),
        ("counts", stepped((1, 9, 7, 33), (0, 2, 1, 0), (1, 3, 4, 33), (1, 1, 1, 1), offset=True)),
        ("an input in four", focus),
    ],
    "PAD": [
        ("all around", lambda s: paddings(s, (2, 9, 11, 33), ((0, 0), (1, 2), (3, 4), (0, 0)), None)),
        ("far", lambda s: paddings(s, (1, 3, 2, 20), ((0, 0), (0, 15), (15, 0), (0, 0)), None)),
        ("very far", lambda s: paddings(s, (1, 9, 11, 33), ((0, 0), (20, 2), (3, 54), (0, 0)), None)),
        ("nothing", lambda s: paddings(s, (1, 9, 11, 33), ((0, 0), (0, 0), (0, 0), (0, 0)), None)),
    ],
    "PADV2": [
        ("a value", lambda s: paddings(s, (1, 1, 1, 33), ((0, 0), (1, 2), (3, 4), (0, 0)), 7)),
        ("channels", lambda s: paddings(s, (2, 4, 3, 20), ((0, 0), (0, 0), (0, 0), (3, 40)), 99)),
        ("images", lambda s: paddings(s, (2, 4, 3, 20), ((1, 2), (0, 0), (0, 0), (0, 0)), 1)),
        ("all axes", lambda s: paddings(s, (1, 4, 3, 20), ((1, 1), (2, 0), (1, 3), (1, 0)), 100)),
    ],
    "RESHAPE": [
        ("atoms to channels", lambda s: [s.builder.reshape(s.made(1, 7, 7, 32), (1, 1568))]),
        ("pixels to channels", lambda s: [s.builder.reshape(s.made(1, 5, 4, 6), (1, 120))]),
        ("channels to pixels", lambda s: [s.builder.reshape(s.made(1, 1, 1, 120), (1, 5, 4, 6))]),
        ("channels to atoms", lambda s: [s.builder.reshape(s.made(1, 1, 1, 192), (1, 4, 3, 16))]),
        ("other rows", lambda s: [s.builder.reshape(s.made(1, 6, 4, 16), (1, 3, 8, 16))]),
        ("rows to images", lambda s: [s.builder.reshape(s.made(1, 6, 4, 16), (3, 2, 4, 16))]),
        ("images to rows", lambda s: [s.builder.reshape(s.made(3, 1, 1, 40), (3, 40))]),
        ("anchors", lambda s: [s.builder.reshape(s.made(1, 5, 4, 36), (1, 60, 12))]),
        ("columns to channels", lambda s: [s.builder.reshape(s.made(1, 8, 6, 5), (1, 8, 3, 10))]),
    ],
    "SQUEEZE": [("rows", lambda s: [s.builder.squeeze(s.made(1, 1, 7, 20), [0, 1])])],
    "EXPAND_DIMS": [("images", lambda s: [s.builder.expand_dims(s.builder.squeeze(s.made(1, 4, 7, 20), [0]), 0)])],
    "TRANSPOSE": [
        ("rows and columns", lambda s: [s.builder.transpose(s.made(1, 8, 12, 20), (0, 2, 1, 3))]),
        ("of a batch", lambda s: [s.builder.transpose(s.made(2, 13, 3, 20), (0, 2, 1, 3))]),
        ("images and columns", lambda s: [s.builder.transpose(s.made(2, 5, 3, 20), (2, 1, 0, 3))]),
        ("channels first", lambda s: [s.builder.transpose(s.made(1, 4, 3, 20), (0, 3, 1, 2))]),
        ("channels last", lambda s: [s.builder.transpose(s.made(1, 4, 3, 20), (0, 2, 3, 1))]),
    ],
    "SPACE_TO_DEPTH": [
        ("2", lambda s: [s.builder.space_to_depth(s.made(2, 8, 12, 20), 2)]),
        ("3", lambda s: [s.builder.space_to_depth(s.made(1, 6, 3, 1), 3)]),
    ],
    "DEPTH_TO_SPACE": [
        ("2", lambda s: [s.builder.depth_to_space(s.made(1, 4, 5, 20), 2)]),
        ("4", lambda s: [s.builder.depth_to_space(s.made(2, 2, 1, 64), 4)]),
    ],
    "CONCATENATION": [
        ("whole groups", lambda s: joined(s, 3, (2, 5, 6, 32), (2, 5, 6, 64), (2, 5, 6, 20))),
        ("atoms", lambda s: joined(s, -1, (1, 5, 6, 16), (1, 5, 6, 48), (1, 5, 6, 1))),
        ("any channels", lambda s: joined(s, 3, (1, 3, 6, 5), (1, 3, 6, 27), (1, 3, 6, 16), (1, 3, 6, 7))),
        ("low", lambda s: joined(s, 3, (1, 1, 1, 48), (1, 1, 1, 32), (1, 1, 1, 5))),
        ("rows", lambda s: joined(s, 1, (1, 5, 6, 16), (1, 3, 6, 16), (1, 4, 6, 16))),
        ("columns", lambda s: joined(s, 2, (2, 5, 6, 16), (2, 5, 3, 16))),
        ("images", lambda s: joined(s, 0, (1, 5, 6, 16), (2, 5, 6, 16))),
        ("one", lambda s: joined(s, 3, (1, 5, 6, 16))),
        ("a constant", with_constant),
        ("a long constant", with_long_constant),
        ("nested", nested),
        ("repeated", repeated),
    ],
}  # fmt: skip


def additions(s: Sketch) -> list[int]:
    """Of slices, of padded and reshaped tensors, and of pieces of concatenations that are themselves sums."""
    wide = (s.quant[0] * 2.1, s.quant[1])
    x, y = s.made(1, 6, 5, 64), s.made(1, 6, 5, 32)
    halves = s.builder.split(x, 2)
    first = s.builder.add(s.permuted(y), halves[1], wide)
    joined = s.builder.concatenation([s.builder.add(halves[0], y, wide), first, s.builder.add(y, y, wide)], wide)
    rows = s.builder.slice(joined, (0, 1, 0, 32), (1, 5, 5, 32))
    low = s.builder.pad(s.builder.slice(joined, (0, 0, 0, 7), (1, 4, 4, 32)), ((0, 0), (1, 0), (0, 1), (0, 0)))
    column = s.builder.reshape(s.permuted(y), (1, 30, 1, 32))
    return [
        joined,
        s.builder.add(rows, low, (s.quant[0] * 4, s.quant[1])),
        s.builder.add(column, s.builder.reshape(y, (1, 30, 1, 32)), wide),
    ]


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_additions_of_what_was_moved(
    dtype: str, forms: str, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    """A sum is within 1, and a sum of halved sums so within 2."""
    rng = np.random.default_rng(1)
    sketch = Sketch(rng, dtype)
    outputs = additions(sketch)
    model = sketch.builder.finish(sketch.inputs, outputs)
    check(model, reference_interpreter, npu_interpreter, rng, forms, tolerance=2)


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("operator", CASES)
def test_every_number_is_where_it_belongs(
    operator: str, dtype: str, forms: str, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    for number, (name, build) in enumerate(CASES[operator]):
        rng = np.random.default_rng(number)
        sketch = Sketch(rng, dtype)
        model = sketch.finish(*build(sketch))
        try:
            check(model, reference_interpreter, npu_interpreter, rng, forms)
        except AssertionError as error:
            raise AssertionError(f"{operator}, {name}: {error}") from error
