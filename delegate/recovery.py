"""What to do about a device that fails: which errors are worth another try, how long it is left alone, what is said.

Decision 0012 says why.
"""

from __future__ import annotations

import errno
import threading
from collections import Counter

from delegate import trace
from delegate.errors import DeviceError

LONGEST_PAUSE = 1024  # invokes
UNNAMED = 0  # errno of what the driver itself has found out: tasks that did not run, a job that does not end
# Errors that may be gone at the next try. EINTR and EAGAIN: a call that ends so time after time.
PASSING = {UNNAMED, errno.EINTR, errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ENOMEM, errno.ENOSPC, errno.ETIMEDOUT}
OF_MEMORY = {errno.ENOMEM, errno.ENOSPC}
OF_A_STUCK_NPU = {UNNAMED, errno.EBUSY, errno.EIO, errno.ETIMEDOUT}


class Pause:
    """For how many invokes a device that failed is left alone: none, then 1, 3, 7 and so on after failures in a row."""

    def __init__(self) -> None:
        self._failures = self._left = 0

    def failed(self) -> None:
        """One more failure."""
        self._left = min(1 << self._failures, LONGEST_PAUSE) - 1
        self._failures += 1

    def worked(self) -> None:
        """The device is well."""
        self._failures = self._left = 0

    def holds(self) -> bool:
        """Whether the next invoke is to leave the device alone; counts it."""
        self._left -= 1
        return self._left >= 0


class Reports:
    """Tells the user once of each kind of failure, and of all that follow how many they are: at 10, 100 and so on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: set[tuple[str, int]] = set()
        self._invokes: Counter[str] = Counter()

    def failed(self, device: str, error: DeviceError) -> None:
        """The CPU stands in because of an error."""
        with self._lock:
            kind = (device, error.errno)
            known = kind in self._told
            self._told.add(kind)
        if not known:
            trace.say(trace.fell_back(device, str(error)))

    def computed(self, device: str) -> None:
        """The CPU has computed an invoke for a device."""
        with self._lock:
            self._invokes[device] += 1
            count = self._invokes[device]
        if count >= 10 and set(str(count)[1:]) == {"0"} and str(count)[0] == "1":
            trace.say(trace.fell_back_often(device, count))

    def forget(self) -> None:
        """Begins anew."""
        with self._lock:
            self._told.clear()
            self._invokes.clear()


REPORTS = Reports()
"""Those of this process."""
