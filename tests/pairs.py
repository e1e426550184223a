"""All 65536 pairs of two 8-bit numbers as operands of a node: both whole, one a channel, or one a constant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from layers import feature

from delegate.ir import Tensor
from delegate.quantize import domain_offset

KINDS = ("whole", "a channel", "constant", "constant first")


def all_pairs(
    kind: str, dtype: str, scales: tuple[float, float], points: tuple[int, int]
) -> tuple[Tensor, Tensor, dict[int, np.ndarray[Any, Any]]]:
    """(first operand, second operand, images of the computed ones); zero points in the int8 domain.

    The output is (1, 256, 1, 256): the first operand is the row's number, the second the channel's.
    """
    offset = domain_offset(dtype)
    a = feature(1, 256, 1, 256, dtype, scales[0], points[0] + offset)
    b = feature(2, 256, 1, 256, dtype, scales[1], points[1] + offset)
    numbers = np.arange(-128, 128)
    rows = np.broadcast_to(numbers[None, :, None, None], (1, 256, 1, 256))
    channels = np.broadcast_to(numbers, (1, 256, 1, 256))
    if kind == "whole":
        return a, b, {1: rows, 2: channels}
    narrow = replace(b, shape=(1, 1, 1, 256))
    if kind == "a channel":
        return a, narrow, {1: rows, 2: numbers.reshape(1, 1, 1, 256)}
    constant = replace(narrow, data=(numbers + offset).astype(dtype).reshape(1, 1, 1, 256))
    return (a, constant, {1: rows}) if kind == "constant" else (constant, a, {1: rows})


def pair_values(kind: str, points: tuple[int, int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Both operands of the node less their zero points, int64, for all pixels and channels of the output."""
    numbers = np.arange(-128, 128)
    rows = np.broadcast_to(numbers[None, :, None, None] - points[0], (1, 256, 1, 256))
    channels = np.broadcast_to(numbers - points[1], (1, 256, 1, 256))
    return (channels, rows) if kind == "constant first" else (rows, channels)
