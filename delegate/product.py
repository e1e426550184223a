"""``FloatProduct``: fp32 matrices of any size multiplied in fp16 on the NPU, a share of the columns on the CPU.

What ``Matmul`` leaves to its caller: numbers beyond fp16's range, matrices larger than one product takes, and the CPU,
which has nothing to do while the NPU computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from delegate.errors import MatmulError
from delegate.hw.device import Kernel
from delegate.matmul import Matmul
from delegate.matmul.packing import LARGEST_SIZE

Array = npt.NDArray[np.float32]

GROUP = 16  # columns that the NPU computes side by side in fp16 (S-42)
TOP = 15  # the largest number of a row or column is scaled to [2^14, 2^15), below fp16's largest, 65504


class FloatProduct:
    """``A @ B`` for many A; B (K, N) of any floating type.

    A and B are rounded to fp16, 11 bits, and multiplied with fp32 sums. Rows of A and columns of B are first scaled by
    powers of two, which costs no bit, so that the largest of each is near the top of fp16's range: nothing overflows,
    and what underflows is below 2^-28 of the largest.

    ``cpu_share``: of the columns, from the right, that numpy computes from the same fp16 numbers while the NPU computes
    the others; sums are then added in another order, and nothing else differs. ``device``, ``cores``, ``kernel``: as
    Matmul's. Raises MatmulError for a B that is no matrix or holds NaN or infinity, DeviceError as Matmul does.
    """

    def __init__(
        self,
        b: npt.NDArray[Any],
        device: str = "auto",
        cores: int = 1,
        kernel: Kernel = "rocket",
        cpu_share: float = 0.0,
    ) -> None:
        if b.ndim != 2 or not b.size:
            raise MatmulError(f"B has the shape {b.shape}: a matrix (K, N)")
        if not 0 <= cpu_share <= 1:
            raise MatmulError(f"cpu_share is {cpu_share}: 0 to 1")
        self.shape = b.shape
        halves, self._exponents = scaled(b.T, "B")
        halves = halves.T
        self.npu_columns = columns_of_npu(b.shape[1], cpu_share)
        self._rest = halves[:, self.npu_columns :].astype(np.float32)
        self._products: list[tuple[slice, slice, Matmul]] = []
        try:
            for depth, columns in pieces(b.shape[0], self.npu_columns):
                product = Matmul(halves[depth, columns], device=device, cores=cores, kernel=kernel)
                self._products.append((depth, columns, product))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, a: Array) -> Array:
        """``a`` (M, K) @ B in fp32. Raises MatmulError for an A that does not fit or holds NaN or infinity."""
        if a.ndim != 2 or a.shape[1] != self.shape[0] or not len(a):
            raise MatmulError(f"A has the shape {a.shape}: (M, {self.shape[0]}) for B {self.shape}, M at least 1")
        halves, exponents = scaled(a, "A")
        running = [(columns, product.submit(halves[:, depth])) for depth, columns, product in self._products]
        c = np.zeros((len(a), self.shape[1]), np.float32)
        np.matmul(halves.astype(np.float32), self._rest, out=c[:, self.npu_columns :])
        for columns, pending in running:
            c[:, columns] += pending.result()
        return np.ldexp(c, exponents[:, None] + self._exponents, out=c)

    def close(self) -> None:
        """Gives the NPU's memory back."""
        with ExitStack() as closing:
            for _, _, product in self._products:
                closing.callback(product.close)


def scaled(matrix: npt.NDArray[Any], name: str) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int32]]:
    """(fp16 rows, exponents): a row is the fp16 one times 2^exponent. Raises MatmulError for NaN and infinity."""
    largest = np.abs(matrix).max(axis=1)
    if not np.isfinite(largest).all():
        raise MatmulError(f"{name} holds NaN or infinity, which fp16 sums would spread")
    exponents = (np.frexp(largest)[1] - TOP).astype(np.int32)
    return np.ldexp(matrix, -exponents[:, None]).astype(np.float16), exponents


def columns_of_npu(columns: int, cpu_share: float) -> int:
    """How many of the columns are the NPU's: whole groups nearest to what the CPU leaves, or all to the last."""
    return min(columns, round(columns * (1 - cpu_share) / GROUP) * GROUP) if cpu_share else columns


def pieces(depth: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Parts of B that one product takes, (rows of B, columns of B)."""
    for row in range(0, depth, LARGEST_SIZE):
        for column in range(0, columns, LARGEST_SIZE):
            yield slice(row, row + LARGEST_SIZE), slice(column, min(column + LARGEST_SIZE, columns))
