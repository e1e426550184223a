"""When a device that failed is tried again, and what the user is told of it."""

from __future__ import annotations

import errno

import pytest

from delegate.devices import Pool
from delegate.errors import DeviceError
from delegate.hw.sim.device import Simulator
from delegate.recovery import LONGEST_PAUSE, Pause, Reports


def left_alone(pause: Pause) -> int:
    """For how many invokes the device is not tried."""
    count = 0
    while pause.holds():
        count += 1
    return count


def test_a_device_that_keeps_failing_is_left_alone_longer_and_longer() -> None:
    pause = Pause()
    assert left_alone(pause) == 0
    seen = []
    for _ in range(13):
        pause.failed()
        seen.append(left_alone(pause))
    assert seen == [0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, LONGEST_PAUSE - 1, LONGEST_PAUSE - 1]
    pause.worked()
    assert left_alone(pause) == 0
    pause.failed()
    assert left_alone(pause) == 0


def test_each_kind_of_error_is_told_once_and_the_rest_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    reports = Reports()
    for number in range(120):
        reports.failed("rocket", DeviceError(f"row {number}", errno.EIO))
        reports.computed("rocket")
    reports.failed("rocket", DeviceError("gone", errno.ENODEV))
    reports.failed("rknpu", DeviceError("gone", errno.ENODEV))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert "row 0" in lines[0]
    assert "computed 10 invokes" in lines[1] and "computed 100 invokes" in lines[2]
    assert "gone" in lines[3] and "gone" in lines[4]


def test_a_retired_device_is_closed_when_its_last_user_leaves() -> None:
    pool = Pool()
    device = pool.enter(lambda: pool.open("simulator"))
    assert pool.enter(lambda: pool.open("simulator")) is device
    pool.retire(device)
    assert pool.open("simulator") is not device
    pool.leave(device)
    device.allocate(1)  # open still
    pool.leave(device)
    with pytest.raises(DeviceError, match="closed"):
        device.allocate(1)
    pool.close()


def test_a_private_device_is_nobody_elses() -> None:
    pool = Pool()
    own = Simulator()
    assert pool.enter(lambda: pool.private(own)) is own
    assert pool.open("simulator") is not own
    pool.leave(own)
    with pytest.raises(DeviceError, match="closed"):
        own.allocate(1)
    pool.close()
