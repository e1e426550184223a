"""The NPU's view of memory: I/O addresses behind an IOMMU, where only mapped buffers can be reached.

An access outside a mapped buffer is an IOMMU fault on the board and a SimulatorError here (F-01).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.errors import SimulatorError
from delegate.hw.soc import ADDRESS_LIMIT
from delegate.hw.task import Bytes


@dataclass(frozen=True, eq=False)
class Region:
    """A mapped buffer: its first I/O address and its bytes. The last ``slack`` bytes are not mapped on a board."""

    address: int
    view: Bytes
    slack: int = 0

    @property
    def end(self) -> int:
        return self.address + len(self.view)


class AddressSpace:
    """Mapped regions, sorted by address. Lookups work on an immutable snapshot, so they need no lock."""

    def __init__(self) -> None:
        self._regions: tuple[Region, ...] = ()
        self._starts: tuple[int, ...] = ()
        self.faults: dict[str, int] = {}  # accesses to slack, which a board would not have answered

    @property
    def regions(self) -> tuple[Region, ...]:
        return self._regions

    def map(self, address: int, view: Bytes, slack: int = 0) -> None:
        """Maps ``view`` (uint8, one dimension, contiguous) at ``address``; raises SimulatorError if it overlaps.

        The last ``slack`` bytes are there so that a run can go on: what touches them is noted in ``faults``.
        """
        region = Region(address, view, slack)
        if address < 0 or region.end > ADDRESS_LIMIT:
            raise SimulatorError(f"buffer {address:#x}+{len(view):#x} lies outside the 32-bit I/O address space")
        index = bisect_right(self._starts, address)
        before, after = self._regions[:index], self._regions[index:]
        if (before and before[-1].end > address) or (after and after[0].address < region.end):
            raise SimulatorError(f"buffer {address:#x}+{len(view):#x} overlaps a mapped buffer")
        self._set((*before, region, *after))

    def unmap(self, address: int) -> None:
        """Unmaps the region that starts at ``address``; raises SimulatorError if there is none."""
        if address not in self._starts:
            raise SimulatorError(f"no buffer is mapped at {address:#x}")
        self._set(tuple(region for region in self._regions if region.address != address))

    def _set(self, regions: tuple[Region, ...]) -> None:
        self._regions, self._starts = regions, tuple(region.address for region in regions)

    def bytes(self, address: int, size: int, what: str) -> Bytes:
        """The ``size`` bytes at ``address`` as a view, uint8 (size); ``what`` names the access in the error."""
        return self.strided(address, (size,), (1,), np.dtype(np.uint8), what)

    def strided(
        self, address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype[Any], what: str
    ) -> npt.NDArray[Any]:
        """A view of memory with the given shape and strides (bytes); raises SimulatorError where it leaves the buffer.

        Strides may be negative. The view is writable; nothing is copied.
        """
        low = address + sum(min(0, (count - 1) * step) for count, step in zip(shape, strides, strict=True))
        high = address + sum(max(0, (count - 1) * step) for count, step in zip(shape, strides, strict=True))
        high += dtype.itemsize
        index = bisect_right(self._starts, low) - 1
        region = self._regions[index] if index >= 0 else None
        if region is None or high > region.end:
            raise SimulatorError(self._fault(what, low, high, region))
        if region.slack and high > region.end - region.slack:
            text = f"{what.partition(': ')[2]} leaves the mapped buffers (IOMMU fault on a board)"
            self.faults[text] = self.faults.get(text, 0) + 1
        return np.ndarray(shape, dtype, region.view.data, address - region.address, strides)

    @staticmethod
    def _fault(what: str, low: int, high: int, region: Region | None) -> str:
        if region is None or low >= region.end:
            return f"{what}: addresses {low:#x} to {high:#x} are not mapped (IOMMU fault)"
        return f"{what}: addresses {low:#x} to {high:#x} leave the buffer {region.address:#x} to {region.end:#x}"
