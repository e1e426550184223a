"""How long a ``FloatProduct`` takes: the NPU's part by the timing model, the CPU's by published rates; seconds.

The NPU's tasks are compiled for the shape and read by ``hw/timing``. Figures of the CPU without a source of an RK3588
are marked as assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from delegate.cost import COPY_BYTES
from delegate.hw.emit.product import Form
from delegate.hw.soc import RK3588
from delegate.hw.timing import ROCKET, Board
from delegate.matmul.api import LARGEST_ROWS
from delegate.matmul.packing import LARGEST_SIZE
from delegate.matmul.plan import equal_ranges
from delegate.product import columns_of_npu
from delegate.tools.bench.npu import modelled
from delegate.tools.bench.shapes import Shape

HALF_FORM = Form("float16", "float32")
FP16_BYTES, FP32_BYTES = 2, 4
# Products a second of four Cortex-A76 at 2.4 GHz, fp32: half of what two units of four do in a cycle (assumed).
CPU_PRODUCTS = 4 * 0.5 * 2 * 4 * 2.4e9
CPU_READ_BYTES = 13.4e9  # a second of a matrix that is used once: a copy's rate (silicon-figures §1, §9)


@dataclass(frozen=True)
class Seconds:
    """``npu``: from submit to end; ``host``: what the CPU packs and unpacks for it; ``cpu``: its share of the columns,
    at the same time as the NPU's; ``dram``: to read B once, by whom ever.
    """

    npu: float
    host: float
    cpu: float
    dram: float

    @property
    def total(self) -> float:
        return max(self.npu, self.cpu, self.dram) + self.host


def product_seconds(
    rows: int, depth: int, columns: int, board: Board = ROCKET, cpu_share: float = 0.0, element_bytes: int = FP32_BYTES
) -> Seconds:
    """A product (rows, depth) @ (depth, columns) on ``board.cores`` cores; ``element_bytes``: of B on the CPU;
    FloatProduct's share is fp32 there, for numpy has no fast products of fp16.
    """
    own = columns_of_npu(columns, cpu_share)
    npu = sum(
        npu_seconds(rows, min(LARGEST_SIZE, depth - row), min(LARGEST_SIZE, own - column), board)
        for row in range(0, depth, LARGEST_SIZE)
        for column in range(0, own, LARGEST_SIZE)
    )
    # A is read in fp32 and written in fp16, C read and written in fp32.
    moved = rows * ((FP32_BYTES + FP16_BYTES) * depth + 2 * FP32_BYTES * own)
    host = moved / COPY_BYTES if own else 0.0
    dram = depth * (own * FP16_BYTES + (columns - own) * element_bytes) / board.bandwidth
    return Seconds(npu, host, cpu_seconds(rows, depth, columns - own, element_bytes), dram)


def cpu_seconds(rows: int, depth: int, columns: int, element_bytes: int = FP32_BYTES) -> float:
    """The same on the CPU: bound by its products or by reading B once."""
    return max(rows * depth * columns / CPU_PRODUCTS, depth * columns * element_bytes / CPU_READ_BYTES)


@lru_cache(maxsize=1024)
def npu_seconds(rows: int, depth: int, columns: int, board: Board) -> float:
    """The time of the NPU, as ``bench matmul`` models it; columns are divided among the cores."""
    runs = equal_ranges(rows, LARGEST_ROWS, RK3588.line_group)
    return sum(modelled(Shape("", len(run), depth, columns), HALF_FORM, board) for run in runs)


def best_share(
    rows: int, depth: int, columns: int, board: Board = ROCKET, element_bytes: int = FP32_BYTES, steps: int = 20
) -> float:
    """The CPU's share of the columns with which all are done the soonest; the smallest of several such."""
    shares = [step / steps for step in range(steps + 1)]
    return min(shares, key=lambda share: product_seconds(rows, depth, columns, board, share, element_bytes).total)
