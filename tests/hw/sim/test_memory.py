"""The address space faults outside mapped buffers."""

from __future__ import annotations

import numpy as np
import pytest

from delegate.errors import SimulatorError
from delegate.hw.sim.memory import AddressSpace

BYTE = np.dtype(np.uint8)


@pytest.fixture
def space() -> AddressSpace:
    space = AddressSpace()
    space.map(0x2000, np.arange(256, dtype=np.uint8))
    space.map(0x1000, np.zeros(16, np.uint8))
    return space


def test_views_are_the_memory_itself(space: AddressSpace):
    space.bytes(0x2010, 4, "test")[:] = 7
    assert space.bytes(0x200F, 6, "test").tolist() == [15, 7, 7, 7, 7, 20]


def test_strides_may_be_anything_inside_the_buffer(space: AddressSpace):
    view = space.strided(0x2010, (3, 2), (-8, 1), BYTE, "test")
    assert view.tolist() == [[16, 17], [8, 9], [0, 1]]


@pytest.mark.parametrize(
    ("address", "shape", "strides"),
    [
        (0x0FFF, (1,), (1,)),
        (0x1008, (16,), (1,)),
        (0x20FF, (2,), (1,)),
        (0x2000, (2,), (-1,)),
        (0x2100, (1,), (1,)),
        (0xFFFFFFFF, (2,), (1,)),
    ],
)
def test_an_access_outside_is_a_fault(
    space: AddressSpace, address: int, shape: tuple[int, ...], strides: tuple[int, ...]
):
    with pytest.raises(SimulatorError, match=r"test: addresses 0x[0-9a-f]+ to 0x[0-9a-f]+ (are not mapped|leave)"):
        space.strided(address, shape, strides, BYTE, "test")


def test_buffers_do_not_overlap(space: AddressSpace):
    for address in (0x1008, 0x0FF8, 0x20FF):
        with pytest.raises(SimulatorError, match="overlaps"):
            space.map(address, np.zeros(16, np.uint8))
    with pytest.raises(SimulatorError, match="32-bit"):
        space.map(0xFFFFFFF8, np.zeros(16, np.uint8))


def test_an_unmapped_buffer_faults(space: AddressSpace):
    space.unmap(0x2000)
    with pytest.raises(SimulatorError, match="not mapped"):
        space.bytes(0x2000, 1, "test")
    with pytest.raises(SimulatorError, match="no buffer"):
        space.unmap(0x2000)


def test_slack_is_noted():
    space = AddressSpace()
    space.map(0, np.zeros(32, np.uint8), slack=16)
    space.bytes(0, 16, "task 0: DPU output")
    assert not space.faults
    space.bytes(8, 16, "task 0: DPU output")
    assert list(space.faults) == ["DPU output leaves the mapped buffers (IOMMU fault on a board)"]
