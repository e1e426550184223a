"""An integer model of the silicon's convolution on ordinary arrays, straight from the hardware book (npu.md §5).

Nothing of delegate's simulator is used: no layouts, no registers but the numbers given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Requantize:
    """OUT_CVT: multiplier, shift, offset; and the accumulator's truncation."""

    scale: int
    shift: int
    offset: int
    truncate: int = 0


@dataclass(frozen=True)
class Residual:
    """The fused operand, (height, width, kernels) in the int8 domain, and its converter."""

    values: Ints
    offset: int
    scale: int
    shift: int


def half_even(values: Ints, shift: int) -> Ints:
    """values / 2**shift to the nearest integer, ties to the even one. Doubles hold all of it: below 2**53."""
    assert np.abs(values).max(initial=0) < 1 << 53
    return np.rint(np.ldexp(values.astype(np.float64), -shift)).astype(np.int64)


def sums(
    features: Ints,
    kernels: Ints,
    stride: tuple[int, int],
    padding: tuple[int, int],
    output: tuple[int, int],
    pad: int,
    depthwise: bool | None = None,
) -> Ints:
    """Window by window: sum of (x) * (w) over the kernel, (height, width, kernels).

    features (height, width, channels); kernels (kernels, kh, kw, channels), or (1, kh, kw, channels) for depthwise;
    what lies outside the features is ``pad``. ``depthwise``: None takes a single kernel of several channels for one.
    """
    height, width, channels = features.shape
    if depthwise is None:
        depthwise = kernels.shape[0] == 1 and channels > 1
    count = channels if depthwise else kernels.shape[0]
    result = np.zeros((*output, count), np.int64)
    for y in range(output[0]):
        for x in range(output[1]):
            top, left = y * stride[0] - padding[0], x * stride[1] - padding[1]
            window = np.full((*kernels.shape[1:3], channels), pad, np.int64)
            rows = slice(max(top, 0), min(top + kernels.shape[1], height))
            columns = slice(max(left, 0), min(left + kernels.shape[2], width))
            if rows.start < rows.stop and columns.start < columns.stop:
                window[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = features[
                    rows, columns
                ]
            products = window[None] * kernels
            result[y, x] = products[0].sum(axis=(0, 1)) if depthwise else products.reshape(count, -1).sum(axis=1)
    return result


def finish(total: Ints, requantize: Requantize, residual: Residual | None = None) -> Ints:
    """Accumulators with bias to int8: residual, multiply, round, offset, clamp."""
    if residual is not None:
        total = total + half_even((residual.values + residual.offset) * residual.scale, residual.shift)
    return np.clip(half_even(total * requantize.scale, requantize.shift) + requantize.offset, -128, 127)
