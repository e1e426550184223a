"""Fast path of the MAC array for matrix products: 1x1 convolutions of every pixel, the DPU's stages staying plain.

Integers: BLAS products in floats that hold every sum, as in ``fast``. Halves: a group of 32 products is summed in
doubles, whose order of summation is BLAS's own. The sum is exact all the same where all products are multiples of one
power of two and none of their sums reaches 2**53 of it; that is checked, by norms, for each group, and the plain model
computes the groups where it does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from delegate.hw.sim import core
from delegate.hw.sim.cna import Front
from delegate.hw.sim.dpu import Dpu
from delegate.hw.sim.numbers import Floats, Ints, Numbers
from delegate.hw.sim.precision import FP16, INT8

if TYPE_CHECKING:
    from delegate.hw.sim.passes import Kernels

Doubles = npt.NDArray[np.float64]
FLOAT_EXACT, DOUBLE_EXACT = 2.0**24, 2.0**53
LARGEST_INT8 = 128.0
HALF_UNIT = 2.0**-24  # all halves are multiples of it
SAFETY = 1 + 2.0**-20  # over what rounding takes from a norm
BLOCK = 1 << 18  # sums of groups that are held at a time


def suits(front: Front, array: core.Core, plan: Dpu) -> bool:
    """Whether a convolution is such a product."""
    features, window = front.features, front.window
    pointwise = window.kernel == window.stride == window.upsampling == (1, 1) and window.padding == (0, 0)
    whole = (features.height, features.width) == (array.height, array.width)
    known = features.precision in (FP16, INT8) and plan.pend is None and not front.weights.depthwise
    return pointwise and whole and known and not features.pixel_channels


def multiply(numbers: Numbers, kernels: Kernels, front: Front, array: core.Core) -> Numbers:
    """What ``Convolution.accumulate`` returns: (pixels, array.channels), from features (height, width, channels)."""
    rows = numbers.reshape(-1, numbers.shape[2])
    if front.features.precision is INT8:
        sums = np.zeros((len(rows), array.channels), np.int64)
        sums[:, : front.weights.kernels] = multiply_integers(rows, kernels)
        return core.hand_over(sums, array, core.ACCUMULATOR_BITS)
    out = np.zeros((len(rows), array.channels), np.float32)
    out[:, : front.weights.kernels] = multiply_halves(rows, kernels, FP16.chunk)
    return out


@dataclass(frozen=True, eq=False)
class IntegerMatrix:
    """Kernels (channels, kernels) in a float type that holds every sum."""

    values: Numbers


def multiply_integers(rows: Ints, kernels: Kernels) -> Ints:
    """Exact sums, (pixels, kernels)."""
    matrix = kernels.derived.get(IntegerMatrix)
    if not isinstance(matrix, IntegerMatrix):
        numbers = kernels.numbers()[:, 0, 0].T
        bound = LARGEST_INT8 * float(np.abs(numbers).sum(axis=0).max())
        kind = np.dtype(np.float32 if bound < FLOAT_EXACT else np.float64)
        matrix = IntegerMatrix(np.ascontiguousarray(numbers, kind))
        kernels.derived[IntegerMatrix] = matrix
    sums: Numbers = rows.astype(matrix.values.dtype) @ matrix.values
    return sums.astype(np.int64)


@dataclass(frozen=True, eq=False)
class HalfMatrix:
    """Kernels in groups of channels, (groups, channels of a group, kernels), the last filled up with zeros."""

    values: Doubles
    reach: Doubles  # (groups): largest norm of a kernel's part, in units of which all its numbers are multiples
    finite: bool


def multiply_halves(rows: Floats, kernels: Kernels, chunk: int) -> Floats:
    """Singles (pixels, kernels): groups exact, each rounded once, added in order (S-66)."""
    matrix = kernels.derived.get(HalfMatrix)
    if not isinstance(matrix, HalfMatrix):
        matrix = kernels.derived[HalfMatrix] = half_matrix(kernels.numbers()[:, 0, 0], chunk)
    groups = len(matrix.values)
    out = np.zeros((len(rows), matrix.values.shape[2]), np.float32)
    finite = matrix.finite and bool(np.isfinite(rows).all())
    used = rows.any(axis=1) if finite else np.ones(len(rows), bool)  # rows of zeros stay zero
    left = in_groups(rows[used], groups, chunk)  # (groups, pixels, channels of a group)
    exact = reaches(left).max(axis=1, initial=0.0) * matrix.reach < DOUBLE_EXACT if finite else np.zeros(groups, bool)
    total = np.zeros((left.shape[1], out.shape[1]), np.float32)
    step = max(1, BLOCK // max(1, total.size))
    with np.errstate(all="ignore"):
        for first in range(0, groups, step):
            part = slice(first, first + step)
            for sums in group_sums(left[part], matrix.values[part], exact[part]):
                total += sums
    out[used] = total
    return out


def group_sums(left: Doubles, right: Doubles, exact: npt.NDArray[np.bool_]) -> list[Floats]:
    """The rounded sums of each group, (pixels, kernels)."""
    rounded = (left @ right).astype(np.float32)
    plain = {
        int(group): core.exact_products(left[group].astype(np.float32), right[group].T.astype(np.float32))
        for group in np.flatnonzero(~exact)
    }
    return [plain.get(group, sums) for group, sums in enumerate(rounded)]


def half_matrix(numbers: Floats, chunk: int) -> HalfMatrix:
    """Kernels (kernels, channels) as HalfMatrix."""
    groups = -(-numbers.shape[1] // chunk)
    grouped = in_groups(numbers, groups, chunk)
    finite = bool(np.isfinite(numbers).all())
    reach = reaches(grouped).max(axis=1) if finite else np.full(groups, np.inf)
    return HalfMatrix(np.ascontiguousarray(grouped.transpose(0, 2, 1)), reach, finite)


def in_groups(rows: Floats, groups: int, chunk: int) -> Doubles:
    """(rows, channels) as doubles (groups, rows, chunk), zeros at the end."""
    padded = np.zeros((len(rows), groups * chunk))
    padded[:, : rows.shape[1]] = rows
    return np.ascontiguousarray(padded.reshape(len(rows), groups, chunk).transpose(1, 0, 2))


def reaches(grouped: Doubles) -> Doubles:
    """For (groups, rows, chunk) of finite halves: the norm of each row over the largest power of two that divides it.

    The product of the reaches of two rows bounds every sum of their products in units of the two powers (Cauchy).
    """
    bits = np.bitwise_or.reduce((grouped / HALF_UNIT).astype(np.int64), axis=2)
    unit = np.where(bits == 0, 1, bits & -bits) * HALF_UNIT
    norm = np.sqrt(np.einsum("grc,grc->gr", grouped, grouped))
    result: Doubles = norm * SAFETY / unit
    return result
