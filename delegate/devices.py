"""The devices of a process, which its sessions share: one for each (name, cores, kernel), replaced when it fails.

A device that failed may have memory that could not be given back, and jobs of which nobody knows whether they still
run. Only the kernel knows, and it puts all in order when the last descriptor of a file is closed. So such a device is
retired: who opens one from then on gets a new one, and with its last user the old one is closed.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from delegate.errors import DeviceError
from delegate.hw.device import Device, Kernel, open_auto, open_device
from delegate.recovery import PASSING, UNNAMED

Key = tuple[int, str, int, Kernel, str | None]  # process, name, cores, kernel, capability file


def open_key(key: Key) -> tuple[Device, tuple[str, ...]]:
    """(a device, why those before it were not taken, if it is called auto); raises DeviceError."""
    _, name, cores, kernel, capabilities = key
    if name == "auto":
        return open_auto(cores, kernel, capabilities)
    return open_device(name, cores, kernel, capabilities), ()


class Pool:
    """Devices by what was asked for, and how many use each."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._open: dict[Key, tuple[Device, tuple[str, ...]]] = {}
        self._users: Counter[int] = Counter()  # by id() of the device, which the user keeps alive
        self._retired: dict[int, Device] = {}

    def open(self, name: str, cores: int = 1, kernel: Kernel = "rocket", capabilities: str | None = None) -> Device:
        """The device of a name (cores, kernel, capability file), opened if nobody in this process has.

        An error that may pass is given a second chance; a forked child gets its own. Raises DeviceError.
        """
        return self._opened((os.getpid(), name, cores, kernel, capabilities))[0]

    def passed_over(self, name: str, cores: int, kernel: Kernel, capabilities: str | None) -> tuple[str, ...]:
        """Why an open device, where it is called auto, is none of those before it."""
        with self._lock:
            return self._open.get((os.getpid(), name, cores, kernel, capabilities), (None, ()))[1]

    def _opened(self, key: Key) -> tuple[Device, tuple[str, ...]]:
        with self._lock:
            if key not in self._open:
                try:
                    self._open[key] = open_key(key)
                except DeviceError as error:
                    if error.errno not in PASSING - {UNNAMED}:
                        raise
                    self._open[key] = open_key(key)
            return self._open[key]

    def forked(self) -> None:
        """In a forked child: whoever had the lock is not there."""
        self._lock = threading.RLock()

    def enter(self, opened: Callable[[], Device]) -> Device:
        """What ``opened`` gives, with one user more; nobody can close it in between."""
        with self._lock:
            device = opened()
            self._users[id(device)] += 1
            return device

    def leave(self, device: Device) -> None:
        """One user less."""
        with self._lock:
            self._users[id(device)] -= 1
        self._close_unused(device)

    def retire(self, device: Device) -> None:
        """Gives the device to nobody else; it is closed when nobody uses it any more."""
        with self._lock:
            self._open = {key: known for key, known in self._open.items() if known[0] is not device}
            self._retired[id(device)] = device
        self._close_unused(device)

    def private(self, device: Device) -> Device:
        """A device that nobody else gets, to be entered at once: its last user's leaving closes it."""
        with self._lock:
            self._retired[id(device)] = device
        return device

    def close(self) -> None:
        """Retires all devices."""
        for device, _ in list(self._open.values()):
            self.retire(device)

    def _close_unused(self, device: Device) -> None:
        with self._lock:
            if self._users[id(device)] or id(device) not in self._retired:
                return
            del self._retired[id(device)], self._users[id(device)]
        with suppress(DeviceError):  # the kernel frees what could not be given back
            device.close()


POOL = Pool()
"""Those of this process."""
os.register_at_fork(after_in_child=POOL.forked)
