"""A node's result from products of matrices: what is around the product is numpy's, in fp32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from delegate.errors import ModelError
from delegate.onnx.nodes import ProductNode

Array = npt.NDArray[np.float32]
Multiply = Callable[[Array], Array]
"""A (M, K), M at least 1, to A @ B (M, N)."""

WINDOW_ROWS = 4096  # of a convolution that are laid out at a time


def execute(node: ProductNode, products: Sequence[Multiply], values: Sequence[Array]) -> Array:
    """The node's output; ``products``: by its matrices, ``values``: of its inputs. Raises ModelError for shapes that do
    not fit.
    """
    return RUNNERS[node.op](node, products, values)


def multiply(product: Multiply, rows: Array, columns: int) -> Array:
    """A product of any number of rows, none too."""
    return product(rows) if len(rows) else np.zeros((0, columns), np.float32)


def run_matmul(node: ProductNode, products: Sequence[Multiply], values: Sequence[Array]) -> Array:
    (a,) = values
    if not a.ndim or a.shape[-1] != node.depth:
        raise ModelError(f"{node.name}: A is {list(a.shape)}, its last dimension must be {node.depth}")
    c = multiply(products[0], a.reshape(-1, node.depth), node.columns)
    # B's leading dimensions, all 1, are in the result where A has fewer.
    leading = max(0, node.attributes["rank"] - max(2, a.ndim))
    return c.reshape(*[1] * leading, *a.shape[:-1], node.columns)


def run_gemm(node: ProductNode, products: Sequence[Multiply], values: Sequence[Array]) -> Array:
    a, given = values[0], node.attributes
    rows = a.T if given["transA"] else a
    if rows.ndim != 2 or rows.shape[1] != node.depth:
        raise ModelError(f"{node.name}: A is {list(a.shape)}, K of B is {node.depth}")
    c = multiply(products[0], rows, node.columns) * np.float32(given["alpha"])
    bias = values[1] if len(values) > 1 else node.bias
    if bias is not None:
        c += np.float32(given["beta"]) * bias
    return c


def run_conv(node: ProductNode, products: Sequence[Multiply], values: Sequence[Array]) -> Array:
    (x,) = values
    given, groups = node.attributes, node.groups
    window, strides, dilations = given["kernel_shape"], given["strides"], given["dilations"]
    if x.ndim != len(window) + 2 or x.shape[1] * math.prod(window) != node.depth * groups:
        channels = node.depth * groups // math.prod(window)
        raise ModelError(f"{node.name}: its input is {list(x.shape)}; {channels} channels are asked for")
    reach: list[int] = [(size - 1) * step + 1 for size, step in zip(window, dilations, strict=True)]
    padded = np.pad(x, [(0, 0), (0, 0), *paddings(node, x.shape[2:], reach)])
    if any(size < extent for size, extent in zip(padded.shape[2:], reach, strict=True)):
        raise ModelError(f"{node.name}: its input {list(x.shape)} is smaller than its window")
    axes = tuple(range(2, x.ndim))
    windows = sliding_window_view(padded, reach, axes)  # type: ignore[call-overload]  # (batch, channel, *place, *window)
    steps = (slice(None, None, step) for step in (*strides, *dilations))
    windows = windows[(slice(None), slice(None), *steps)]
    places = windows.shape[2 : x.ndim]
    # (batch, *place, channel, *window): a view; rows are copied a part at a time.
    windows = np.moveaxis(windows, 1, x.ndim - 1)
    result = np.empty((x.shape[0], *places, node.columns * groups), np.float32)
    step = max(1, WINDOW_ROWS // max(1, math.prod(places[1:])))  # of the first spatial dimension
    for image in range(x.shape[0]):
        for first in range(0, places[0], step):
            part = slice(first, first + step)
            rows = windows[image, part].reshape(-1, groups, node.depth)
            target = result[image, part]
            for group, product in enumerate(products):
                own = slice(group * node.columns, (group + 1) * node.columns)
                c = multiply(product, rows[:, group], node.columns)
                target[..., own] = c.reshape(*target.shape[:-1], node.columns)
    if node.bias is not None:
        result += node.bias
    return np.ascontiguousarray(np.moveaxis(result, -1, 1))


def paddings(node: ProductNode, sizes: Sequence[int], reach: Sequence[int]) -> list[tuple[int, int]]:
    """(before, behind) of each spatial dimension; ``reach``: of the window, dilation included."""
    given, rank = node.attributes, len(sizes)
    kind = given["auto_pad"]
    if kind == "VALID":
        return [(0, 0)] * rank
    if kind == "NOTSET":
        return list(zip(given["pads"][:rank], given["pads"][rank:], strict=True))
    found = []
    for size, extent, stride in zip(sizes, reach, given["strides"], strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + extent - size)
        less, more = total // 2, total - total // 2
        found.append((less, more) if kind == "SAME_UPPER" else (more, less))
    return found


RUNNERS: dict[str, Callable[[ProductNode, Sequence[Multiply], Sequence[Array]], Array]] = {
    "MatMul": run_matmul,
    "Gemm": run_gemm,
    "Conv": run_conv,
}
