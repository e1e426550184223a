"""How far two tensors are apart, counted so that counts of several can be added."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from delegate.ir import Array


@dataclass(frozen=True)
class Difference:
    """Elements, how many are equal or differ by 1 at most, the largest difference and the sum of all, in quanta."""

    elements: int = 0
    exact: int = 0
    within_one: int = 0
    maximum: int = 0
    total: int = 0

    def __add__(self, other: Difference) -> Difference:
        return Difference(
            self.elements + other.elements,
            self.exact + other.exact,
            self.within_one + other.within_one,
            max(self.maximum, other.maximum),
            self.total + other.total,
        )

    @property
    def equal(self) -> bool:
        return self.exact == self.elements

    @property
    def mean(self) -> float:
        """Quanta."""
        return self.total / self.elements if self.elements else 0.0


def quanta(expected: Array, got: Array) -> Array:
    """|difference| in quanta, int64; a float tensor's quantum is a 255th of its range."""
    if expected.dtype.kind in "iub":
        return np.asarray(np.abs(expected.astype(np.int64) - got.astype(np.int64)))
    step = max(float(np.ptp(expected)) / 255, 1e-12) if expected.size else 1.0
    return np.asarray(np.ceil(np.abs(expected - got) / step), np.int64)


def difference(expected: Array, got: Array) -> Difference:
    """The counts for two tensors of one shape."""
    apart = quanta(expected, got)
    return Difference(
        apart.size,
        int((apart == 0).sum()),
        int((apart <= 1).sum()),
        int(apart.max(initial=0)),
        int(apart.sum()),
    )


def total(differences: Iterable[Difference | None]) -> Difference:
    """The sum of those that there are."""
    return sum((found for found in differences if found is not None), Difference())
