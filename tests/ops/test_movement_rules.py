"""Movements that the NPU does not take: hostile numbers and shapes give a reason, never an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from layers import EVERY_FORM, PROVEN, feature, graph, quant

from delegate.hw.soc import Target
from delegate.ir import Node, Tensor
from delegate.partition import refusals

SOURCE = feature(0, 6, 4, 36)
MASKS = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask", "offset")
SLICE_MASKS = dict.fromkeys(MASKS, 0)


def constant(*values: int) -> Tensor:
    return Tensor(7, "numbers", (len(values),), "int32", None, np.array(values, np.int32))


def tensor(index: int, shape: Sequence[int], scale: float = 0.05) -> Tensor:
    return Tensor(index, f"t{index}", tuple(shape), "int8", quant(scale))


def reasons(
    op: str,
    inputs: Sequence[Tensor | None],
    outputs: Sequence[Sequence[int]],
    target: Target = EVERY_FORM,
    **params: Any,
) -> str:
    written = tuple(tensor(100 + i, shape) for i, shape in enumerate(outputs))
    node = Node(0, op, tuple(inputs), written, {"activation": "NONE", **params})
    model = graph([node], [t for t in inputs if t is not None and t.data is None], list(written))
    return " ".join(refusals(node, model, target))


@pytest.mark.parametrize(
    ("op", "inputs", "outputs", "params", "reason"),
    [
        ("RESHAPE", [SOURCE], [(1, 6, 4, 35)], {}, "shape that inputs"),
        ("RESHAPE", [SOURCE], [(1, 6, 0, 36)], {}, "none of them 0"),
        ("RESHAPE", [SOURCE], [(1, 6, 4, 6, 6)], {}, "one to four dimensions"),
        ("RESHAPE", [SOURCE, tensor(1, (4,))], [(1, 4, 6, 36)], {}, "others are constants"),
        ("RESHAPE", [], [(1, 4, 6, 36)], {}, "one input"),
        ("RESHAPE", [None], [(1, 4, 6, 36)], {}, "one input"),
        ("RESHAPE", [tensor(1, (1, 1 << 11, 1 << 10, 1 << 10))], [(1 << 31, 1)], {}, "elements"),
        ("RESHAPE", [tensor(1, (6, 4, 36), scale=0.1)], [(24, 36)], {}, "one scale"),
        ("RESHAPE", [tensor(1, (6, 4, 36), scale=float("nan"))], [(24, 36)], {}, "positive"),
        ("RESHAPE", [tensor(1, (1, 64, 64, 9))], [(36864,)], {}, "at most 256 tasks"),
        ("PAD", [tensor(1, (1, 1, 1, 8193)), constant(0, 0, 1, 0, 0, 0, 0, 0)], [(1, 2, 1, 8193)], {}, "8192 channels"),
        ("SLICE", [SOURCE, constant(0, 0, 0, 0), constant(1, 7, 4, 36)], [(1, 7, 4, 36)], {}, "in the input"),
        ("SLICE", [SOURCE, constant(0, -1, 0, 0), constant(1, 1, 4, 36)], [(1, 1, 4, 36)], {}, "in the input"),
        ("SLICE", [SOURCE, constant(0, 0), constant(1, 1, 4, 36)], [(1, 1, 4, 36)], {}, "in the input"),
        ("SLICE", [SOURCE, constant(0, 0, 0, 0)], [(1, 1, 4, 36)], {}, "one input"),
        ("STRIDED_SLICE", [SOURCE, constant(0, 5, 0, 0), constant(1, 0, 4, 36), constant(1, -1, 1, 1)], [(1, 5, 4, 36)],
         SLICE_MASKS, "strides are positive"),
        ("STRIDED_SLICE", [SOURCE, constant(0, 0, 0, 0), constant(1, 0, 4, 36), constant(1, 0, 1, 1)], [(1, 5, 4, 36)],
         SLICE_MASKS, "strides are positive"),
        ("STRIDED_SLICE", [SOURCE, constant(0, 0), constant(1,), constant(1, 1)], [(1, 6, 4, 36)], SLICE_MASKS,
         "one for each"),
        ("STRIDED_SLICE", [SOURCE, constant(9), constant(10), constant(1)], [(6, 4, 36)],
         {**SLICE_MASKS, "shrink_axis_mask": 1}, "as many numbers"),
        ("STRIDED_SLICE", [SOURCE, constant(0, 0), constant(1, 1), constant(1, 1)], [(6, 4, 36)],
         {**SLICE_MASKS, "ellipsis_mask": 3}, "as many numbers"),
        ("SPLIT", [constant(9), SOURCE], [(1, 3, 4, 36)] * 2, {}, "shape that inputs"),
        ("SPLIT", [constant(), SOURCE], [(1, 3, 4, 36)] * 2, {}, "shape that inputs"),
        ("SPLIT", [SOURCE, constant(1)], [(1, 3, 4, 36)] * 2, {}, "one input"),
        ("SPLIT_V", [SOURCE, constant(3, 4), constant(1)], [(1, 3, 4, 36), (1, 4, 4, 36)], {}, "shape that inputs"),
        ("UNPACK", [SOURCE], [(1, 6, 36)] * 3, {"axis": 2}, "shape that inputs"),
        ("UNPACK", [SOURCE], [(1, 6, 36)] * 4, {"axis": 4}, "shape that inputs"),
        ("PACK", [tensor(1, (6, 4)), tensor(2, (6, 4))], [(6, 4, 2)], {"axis": -1}, "not the last"),
        ("PACK", [tensor(1, (6, 4)), tensor(2, (6, 5))], [(2, 6, 4)], {"axis": 0}, "shape that inputs"),
        ("PACK", [tensor(1, (6, 4)), replace(tensor(2, (6, 4)), data=np.zeros((6, 4), np.int8))], [(2, 6, 4)],
         {"axis": 0}, "all inputs are computed"),
        ("TRANSPOSE", [SOURCE, constant(0, 1, 2)], [(1, 6, 4, 36)], {}, "shape that inputs"),
        ("TRANSPOSE", [SOURCE, constant(0, 1, 1, 3)], [(1, 6, 4, 36)], {}, "shape that inputs"),
        ("TRANSPOSE", [tensor(1, (1, 100, 90, 36)), constant(0, 3, 1, 2)], [(1, 36, 100, 90)], {}, "at most 256 tasks"),
        ("DEPTH_TO_SPACE", [SOURCE], [(1, 6, 4, 36)], {"block_size": 0}, "shape that inputs"),
        ("DEPTH_TO_SPACE", [SOURCE], [(1, 30, 20, 1)], {"block_size": 5}, "shape that inputs"),
        ("SPACE_TO_DEPTH", [SOURCE], [(1, 2, 1, 324)], {"block_size": 3}, "shape that inputs"),
        ("SPACE_TO_DEPTH", [tensor(1, (6, 4))], [(3, 8)], {"block_size": 2}, "shape that inputs"),
        ("PAD", [SOURCE, constant(0, 0, -1, 0, 0, 0, 0, 0)], [(1, 5, 4, 36)], {}, "none of them negative"),
        ("PAD", [SOURCE, constant(0, 0, 1, 0)], [(1, 7, 4, 36)], {}, "shape that the paddings"),
        ("PAD", [SOURCE, constant(0, 0, 61, 0, 0, 0, 0, 0)], [(1, 67, 4, 36)], {}, "at most 60 pixels"),
        ("PAD", [tensor(1, (6, 4)), constant(3, 0, 0, 0)], [(9, 4)], {}, "other axes"),
        ("PADV2", [SOURCE, constant(0, 0, 1, 0, 0, 0, 0, 0), constant(3)], [(1, 7, 4, 36)], {}, "one number"),
        ("CONCATENATION", [SOURCE, SOURCE], [(1, 6, 4, 36)], {"axis": 3}, "output's shape"),
        ("CONCATENATION", [SOURCE, SOURCE], [(1, 6, 4, 72)], {"axis": 4}, "such an axis"),
        ("CONCATENATION", [SOURCE, None], [(1, 6, 4, 36)], {"axis": 3}, "some input is computed"),
        ("CONCATENATION", [], [(1, 6, 4, 36)], {"axis": 3}, "some input is computed"),
        ("CONCATENATION", [SOURCE] * 40, [(1, 6, 4, 1440)], {"axis": 3}, "at most 32 inputs"),
        ("CONCATENATION", [SOURCE, tensor(1, (1, 6, 4, 36), 0.4)], [(1, 12, 4, 36)], {"axis": 1}, "one quantization"),
        ("CONCATENATION", [SOURCE, SOURCE], [(1, 6, 4, 72)], {"axis": 3, "activation": "RELU"}, "fused activation"),
    ],
)  # fmt: skip
def test_refusals(
    op: str, inputs: list[Tensor | None], outputs: list[Sequence[int]], params: dict[str, Any], reason: str
) -> None:
    assert reason in reasons(op, inputs, outputs, **params)


def test_concatenated_scales_far_apart_are_refused_along_every_axis() -> None:
    """The rule looks at the very conversion that the lowering makes; found by the fuzz test as seed 386."""

    def reason(axis: int, scale: float) -> tuple[str, ...]:
        given = [replace(tensor(i, (1, 6, 4, 36), scale if i else 0.05), dtype="uint8") for i in range(2)]
        shape = [2 * size if i == axis else size for i, size in enumerate((1, 6, 4, 36))]
        output = replace(tensor(100, shape), dtype="uint8")
        node = Node(0, "CONCATENATION", tuple(given), (output,), {"axis": axis, "activation": "NONE"})
        return refusals(node, graph([node], given, [output]), EVERY_FORM)

    for axis in (1, 2, 3):
        assert reason(axis, 0.1) == ()
        assert "0.45 output steps" in reason(axis, 400.0)[0]


def test_forms_are_named_where_they_would_help() -> None:
    inputs, outputs = [tensor(1, (1, 20, 20, 64))], [(1, 40, 40, 16)]
    assert reasons("DEPTH_TO_SPACE", inputs, outputs, EVERY_FORM, block_size=2) == ""
    assert "the DPU leaves memory out behind each row" in reasons(
        "DEPTH_TO_SPACE", inputs, outputs, PROVEN, block_size=2
    )
