"""From a real scale to the DPU's output converter, and the same arithmetic in numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from delegate.errors import MatmulError
from delegate.hw.emit.product import RESULTS, Form
from delegate.hw.layout import pack_bias, pack_bias_and_multipliers
from delegate.hw.task import Bytes
from delegate.matmul.packing import Packing
from delegate.matmul.program import Converter
from delegate.quantize import INT8_HIGH, INT8_LOW, LARGEST_SHIFT, round_shifts
from delegate.requantize import LARGEST_FACTOR, mantissa

INT32 = np.iinfo(np.int32)
LARGEST_PRODUCT = 1 << 14  # of two bytes
LARGEST_SPREAD = 256  # of the scales of columns: the least multiplier still has seven bits
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Requantization:
    """Results of 8 bits: clamp(round((A @ B + bias) * scale) + zero_point, -128, 127), ties to even.

    ``scale``: of the input times that of B over that of the output, above 0. A number, of which the converter has 15
    bits; or one for each column (N), of which the largest gets 15 bits: they may differ by a factor of 256, and the NPU
    applies them in two steps, each of which rounds. ``zero_point``: of the output, int8. ``bias``: int32 (N) in the
    scale of the sums, or None; what the zero point of A takes from the sums is to be in it. Raises MatmulError for what
    the converter cannot express.
    """

    scale: float | npt.NDArray[Any]
    zero_point: int = 0
    bias: npt.NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        scales = self.scales
        low, high = (float(scales.min()), float(scales.max())) if scales.size else (0.0, 0.0)
        if not (np.isfinite(scales).all() and low > 0 and 0 <= mantissa(high)[1] <= LARGEST_SHIFT):
            raise MatmulError(f"requantization with scale {self.scale}: 2**-48 to 2**15 can be expressed")
        if high > LARGEST_SPREAD * low:
            raise MatmulError(
                f"requantization with scales {low:g} to {high:g}: at most {LARGEST_SPREAD} times each other"
            )
        if not INT8_LOW <= self.zero_point <= INT8_HIGH:
            raise MatmulError(f"requantization with zero point {self.zero_point}: {INT8_LOW} to {INT8_HIGH}")

    @property
    def scales(self) -> npt.NDArray[np.float64]:
        """One scale, or one for each column."""
        return np.atleast_1d(np.asarray(self.scale, np.float64))

    def converter(self, depth: int) -> Converter:
        """The registers' values for sums over ``depth``.

        With scales of columns BS multiplies by 15 bits and shifts by the least that keeps the largest sum in 32 bits
        (S-29); OUT_CVT does the rest.
        """
        if np.ndim(self.scale) == 0:
            return Converter(*mantissa(float(self.scale)), self.zero_point, None)
        bias = 0 if self.bias is None or not np.size(self.bias) else int(np.abs(np.asarray(self.bias, np.int64)).max())
        reach = (LARGEST_PRODUCT * depth + bias + 1) * LARGEST_FACTOR
        inner = max(0, reach.bit_length() - 31)
        multiplier, shift = mantissa(float(self.scales.max()) * 2.0**inner / LARGEST_FACTOR)
        if not 0 <= shift <= LARGEST_SHIFT:
            raise MatmulError(f"requantization with scales up to {self.scales.max():g} for K = {depth}: out of reach")
        return Converter(multiplier, shift, self.zero_point, inner)

    def multipliers(self, run: Converter) -> Ints:
        """What BS multiplies each column by."""
        assert run.channel_shift is not None
        gain = run.multiplier * 2.0**-run.shift
        exact: Ints = np.rint(self.scales * 2.0**run.channel_shift / gain).astype(np.int64)
        return np.clip(exact, 1, LARGEST_FACTOR)

    def check(self, columns: int) -> None:
        """Raises MatmulError where scales or bias have another shape, type or reach than B's columns ask for."""
        if np.ndim(self.scale) and np.shape(self.scale) != (columns,):
            raise MatmulError(f"scales {np.shape(self.scale)}: one, or ({columns},)")
        if self.bias is None:
            return
        bias = np.asarray(self.bias)
        if bias.shape != (columns,) or bias.dtype.kind not in "iu":
            raise MatmulError(f"bias of {bias.dtype} {bias.shape}: integers ({columns},)")
        if bias.size and not INT32.min <= int(bias.min()) <= int(bias.max()) <= INT32.max:
            raise MatmulError("bias does not fit 32 bits")

    def operands(self, run: Converter, columns: range) -> Bytes:
        """What BS reads for some columns, whole groups: biases, or records of biases and multipliers (S-17)."""
        whole = np.zeros(0, np.int32) if self.bias is None else np.asarray(self.bias).astype(np.int32)
        bias = whole[columns.start : columns.stop]
        if run.channel_shift is None:
            return pack_bias(bias, len(columns))
        factors = self.multipliers(run)[columns.start : columns.stop].astype(np.int16)
        return pack_bias_and_multipliers(bias, factors, len(columns))

    def apply(self, sums: npt.NDArray[Any], depth: int) -> npt.NDArray[np.int8]:
        """What the NPU makes of sums (M, N) over ``depth``: for parts of it that the host adds up, and for tests."""
        run = self.converter(depth)
        values = sums.astype(np.int64) + (0 if self.bias is None else np.asarray(self.bias, np.int64))
        if run.channel_shift is not None:
            values = round_shifts(values * self.multipliers(run), run.channel_shift)
        values = np.clip(values, INT32.min, INT32.max)
        rounded = round_shifts(values * run.multiplier, run.shift) + run.offset
        return np.clip(rounded, INT8_LOW, INT8_HIGH).astype(np.int8)


Output = Literal["float32", "float16", "int32"] | Requantization


def forms_of(packing: Packing, output: Output | None) -> tuple[Form, np.dtype[Any]]:
    """(what the NPU computes, the type of C). Parts of a cut depth are added up in 32 bits, then made what is asked."""
    wide, narrow = RESULTS[packing.element]
    asked = "int8" if isinstance(output, Requantization) else wide if output is None else output
    if asked not in (wide, narrow):
        choices = "float32 or float16" if packing.element == "float16" else "int32 or a Requantization"
        given = "a Requantization" if asked == "int8" and packing.element != "int8" else repr(output)
        raise MatmulError(f"output is {given}, B {packing.element}: {choices}")
    if asked == "int8" and not isinstance(output, Requantization):
        raise MatmulError("output is 'int8': a Requantization says how the sums become 8 bits")
    return Form(packing.element, wide if len(packing.parts) > 1 else asked), np.dtype(asked)
