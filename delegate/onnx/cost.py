"""Whether a product is worth the NPU: its time there, packing included, beside the CPU's."""

from __future__ import annotations

import math
from dataclasses import dataclass

from delegate.cost import COPY_BYTES
from delegate.hw.timing import Board
from delegate.onnx.model import TensorType
from delegate.onnx.nodes import ProductNode
from delegate.product_cost import cpu_seconds, product_seconds


@dataclass(frozen=True)
class Estimate:
    """``rows``: of A in one run, dimensions that nobody knows counted as 1; seconds with and without the NPU."""

    rows: int
    macs: int
    npu: float
    cpu: float


def estimate(node: ProductNode, output: TensorType, board: Board) -> Estimate:
    """Of a node whose output has that type."""
    extents = [size or 1 for size in output.shape or ()]
    channels = node.columns * node.groups
    rows = max(1, math.prod(extents) // channels)
    on_npu = node.groups * product_seconds(rows, node.depth, node.columns, board).total
    if node.op == "Conv":  # windows are copied one behind the other, in fp32
        on_npu += rows * node.groups * node.depth * 8 / COPY_BYTES
    on_cpu = node.groups * cpu_seconds(rows, node.depth, node.columns)
    return Estimate(rows, rows * node.depth * channels, on_npu, on_cpu)
