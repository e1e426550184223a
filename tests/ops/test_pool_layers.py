"""Pools as layers: which unit does them, and which reason is given where none does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from layers import EVERY_FORM, PROVEN, feature, graph, quant

from delegate.hw.soc import PART_OF_ROW, ROW_SKIP, Target
from delegate.ir import Node, Tensor
from delegate.ops import OPERATORS
from delegate.partition import refusals

SIGNALLED = replace(PROVEN, signals_pooling=True)


def pool(op: str, source: Tensor, output: tuple[int, int], **params: Any) -> Node:
    given = {"filter": (3, 3), "stride": (1, 1), "padding": "SAME", "activation": "NONE", **params}
    return Node(0, op, (source,), (feature(1, *output, source.shape[3], scale=0.05),), given)


def units(node: Node, target: Target) -> dict[str, int]:
    assert refusals(node, graph([node], [], []), target) == ()
    return dict(Counter(type(layer).__name__ for layer in OPERATORS[node.op].lower(node, target)))


def refusal(node: Node, target: Target) -> str:
    (reason,) = refusals(node, graph([node], [], []), target)
    return reason


def test_the_pooling_unit_where_its_end_is_heard() -> None:
    node = pool("MAX_POOL_2D", feature(0, 8, 8, 20), (8, 8))
    assert units(node, SIGNALLED) == {"Pooling": 1}
    # one pass pads, two grow the window along each axis, one crops
    assert units(node, PROVEN) == {"Convolution": 2, "Elementwise": 4}


def test_the_element_wise_unit_beyond_the_pooling_unit() -> None:
    for node in (
        pool("MAX_POOL_2D", feature(0, 40, 40, 20), (40, 40), filter=(17, 1)),
        pool("MAX_POOL_2D", feature(0, 40, 40, 20), (40, 40), filter=(16, 16)),
        pool("MAX_POOL_2D", feature(0, 4, 129, 20), (4, 129)),
    ):
        assert "Pooling" not in units(node, SIGNALLED)
    assert units(pool("MAX_POOL_2D", feature(0, 4, 128, 20), (4, 128)), SIGNALLED) == {"Pooling": 1}


def test_padded_averages_are_layers_by_pixels_inside() -> None:
    node = pool("AVERAGE_POOL_2D", feature(0, 8, 8, 20), (8, 8))
    layers = OPERATORS[node.op].lower(node, EVERY_FORM)
    assert {layer.weight.shape[1:3] for layer in layers} == {(2, 2), (2, 3), (3, 2), (3, 3)}  # type: ignore[union-attr]
    assert sum(len(layer.moves) for layer in layers) == 9  # type: ignore[union-attr]
    assert PART_OF_ROW in refusal(node, PROVEN)
    assert ROW_SKIP in refusal(node, PROVEN)
    rows_alone = pool("AVERAGE_POOL_2D", feature(0, 8, 8, 20), (8, 8), filter=(3, 1))
    assert units(rows_alone, PROVEN) == {"Convolution": 2}


def test_refusals_name_their_reason() -> None:
    source = feature(0, 60, 60, 16)
    for op in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
        assert "SAME or VALID" in refusal(pool(op, source, (60, 60), padding="padding 0"), EVERY_FORM)
        assert "at least 1" in refusal(pool(op, source, (60, 60), stride=(0, 1)), EVERY_FORM)
        assert "at most 2047" in refusal(pool(op, source, (60, 60), filter=(1 << 31, 1)), EVERY_FORM)
        assert "output shape" in refusal(pool(op, source, (60, 59)), EVERY_FORM)
        assert "output shape" in refusal(pool(op, source, (60, 60), padding="VALID"), EVERY_FORM)
        assert "stride is at most 7" in refusal(pool(op, source, (6, 6), stride=(11, 11)), EVERY_FORM)
        other = pool(op, source, (60, 60))
        other = replace(other, outputs=(replace(other.outputs[0], quant=quant(0.06)),))
        assert "one scale and zero point" in refusal(other, EVERY_FORM)
    assert "31 x 31" in refusal(pool("AVERAGE_POOL_2D", source, (24, 24), filter=(37, 37), padding="VALID"), EVERY_FORM)
    assert "64 kinds" in refusal(pool("AVERAGE_POOL_2D", source, (60, 60), filter=(9, 9)), EVERY_FORM)


def test_refusals_of_means() -> None:
    source = feature(0, 56, 56, 16)
    axes = Tensor(5, "axes", (2,), "int32", None, np.array([1, 2], np.int32))
    output = feature(1, 1, 1, 16, scale=0.05)
    node = Node(0, "MEAN", (source, axes), (output,), {"keep_dims": True})
    assert units(node, PROVEN) == {"Convolution": 2}
    fine = replace(node, outputs=(replace(output, quant=quant(0.02)),))
    assert "1.9 times" in refusal(fine, EVERY_FORM)
    for wrong in ([0, 1], [1, 1], [1, 4], []):
        data = np.array(wrong, np.int32)
        assert "axes" in refusal(replace(node, inputs=(source, replace(axes, shape=data.shape, data=data))), EVERY_FORM)
    assert "computed" in refusal(replace(node, inputs=(source, replace(axes, data=None))), EVERY_FORM)
