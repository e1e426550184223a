"""From a real scale to the DPU's output converter, and the same arithmetic in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.errors import MatmulError
from delegate.matmul.program import Converter
from delegate.quantize import INT8_HIGH, INT8_LOW, LARGEST_SHIFT, round_shifts
from delegate.requantize import mantissa

INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, eq=False)
class Requantization:
    """Results of 8 bits: clamp(round((A @ B + bias) * scale) + zero_point, -128, 127), ties to even.

    ``scale``: of the input times that of B over that of the output, above 0; the converter has 15 bits of it.
    ``zero_point``: of the output, int8. ``bias``: int32 (N) in the scale of the sums, or None; what the zero point of A
    takes from the sums is to be in it. Raises MatmulError for what the converter cannot express.
    """

    scale: float
    zero_point: int = 0
    bias: npt.NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and self.scale > 0 and 0 <= mantissa(self.scale)[1] <= LARGEST_SHIFT):
            raise MatmulError(f"requantization with scale {self.scale}: 2**-48 to 2**15 can be expressed")
        if not INT8_LOW <= self.zero_point <= INT8_HIGH:
            raise MatmulError(f"requantization with zero point {self.zero_point}: {INT8_LOW} to {INT8_HIGH}")

    @property
    def converter(self) -> Converter:
        """The registers' values."""
        multiplier, shift = mantissa(self.scale)
        return Converter(multiplier, shift, self.zero_point)

    def bias_of(self, columns: int) -> npt.NDArray[np.int32]:
        """The bias, (columns); raises MatmulError where it has another shape, type or reach."""
        if self.bias is None:
            return np.zeros(columns, np.int32)
        bias = np.asarray(self.bias)
        if bias.shape != (columns,) or bias.dtype.kind not in "iu":
            raise MatmulError(f"bias of {bias.dtype} {bias.shape}: integers ({columns},)")
        if bias.size and not INT32.min <= int(bias.min()) <= int(bias.max()) <= INT32.max:
            raise MatmulError("bias does not fit 32 bits")
        return bias.astype(np.int32)

    def apply(self, sums: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
        """What the NPU makes of sums (M, N): for parts of the depth that the host adds up, and for tests."""
        run = self.converter
        biased = np.clip(sums.astype(np.int64) + self.bias_of(sums.shape[1]), INT32.min, INT32.max)
        rounded = round_shifts(biased * run.multiplier, run.shift) + run.offset
        return np.clip(rounded, INT8_LOW, INT8_HIGH).astype(np.int8)
