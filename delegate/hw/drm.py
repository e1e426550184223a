"""What the kernel drivers have in common: ioctl numbers, the DRM core's own ioctls, device nodes, errors that help.

Layouts and numbers: uapi.md, Linux include/uapi/drm/drm.h and asm-generic/ioctl.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import grp
import mmap
import os
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from delegate.errors import DeviceError
from delegate.hw.task import Bytes

NODE_VARIABLE = "TEFLON_NODE"  # environment: the only node to look at, for boards with several

DRM = ord("d")  # magic of DRM ioctls
COMMAND_BASE = 0x40  # first number of a DRM driver's own ioctls

u32, u64, s32, s64 = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int32, ctypes.c_int64

Direction = Literal["w", "rw"]
DIRECTION_BITS: Mapping[Direction, int] = {"w": 1, "rw": 3}  # from the process's point of view


@dataclass(frozen=True)
class Request:
    """An ioctl: its name, for messages, and its code."""

    name: str
    code: int


def code(direction: Direction, magic: int, number: int, size: int) -> int:
    """An ioctl's code: direction 31:30, size in bytes 29:16, magic 15:8, number 7:0."""
    return DIRECTION_BITS[direction] << 30 | size << 16 | magic << 8 | number


def check_layout(structure: type[ctypes.Structure], size: int, offsets: tuple[int, ...]) -> None:
    """Raises TypeError unless a structure has the published size and, field by field, offsets (bytes)."""
    found = tuple(int(getattr(structure, str(field[0])).offset) for field in structure._fields_)
    if (ctypes.sizeof(structure), found) != (size, offsets):
        raise TypeError(f"{structure.__name__} has {ctypes.sizeof(structure)} bytes {found}, not {size} {offsets}")


class Version(ctypes.Structure):
    """drm_version: the driver's name and version; strings are filled in as far as their buffers go."""

    _fields_ = [
        ("major", s32),
        ("minor", s32),
        ("patch", s32),
        ("name_size", u64),
        ("name", u64),
        ("date_size", u64),
        ("date", u64),
        ("description_size", u64),
        ("description", u64),
    ]


class Close(ctypes.Structure):
    """drm_gem_close: gives a handle back."""

    _fields_ = [("handle", u32), ("pad", u32)]


check_layout(Version, 64, (0, 4, 8, 16, 24, 32, 40, 48, 56))
check_layout(Close, 8, (0, 4))
VERSION = Request("DRM_IOCTL_VERSION", code("rw", DRM, 0x00, ctypes.sizeof(Version)))
GEM_CLOSE = Request("DRM_IOCTL_GEM_CLOSE", code("w", DRM, 0x09, ctypes.sizeof(Close)))

SUBSYSTEMS = {"accel": "accel", "dri": "drm"}  # by folder in /dev

INTERRUPTIONS = 10_000  # of one call: as many as a profiler's timer makes in 10 s; then it is no interruption any more

ADVICE = {
    errno.EINTR: "signals interrupt every call: stop what sends them, a profiler or a timer",
    errno.EAGAIN: "the driver asks for another try again and again: `dmesg` may say why",
    errno.ENOMEM: "no memory is left for the NPU: close other users of it, or take a smaller model",
    errno.ENOSPC: "no I/O addresses are left: close other sessions of this process",
    errno.EINVAL: "the driver does not take this request: `python -m delegate doctor` shows its version",
    errno.ENOTTY: "the driver does not know this request: `python -m delegate doctor` shows its version",
    errno.EFAULT: "the driver could not read what the request points to, which is a bug of ours: please report it",
    errno.ETIMEDOUT: "the NPU did not finish in time and was reset: `dmesg` may say why; try again",
    errno.EBUSY: "the NPU is still working: wait longer, or close other users of it",
    errno.EIO: "the NPU failed: `dmesg` may say why; if it lasts, reload the driver or restart the board",
    errno.ENODEV: "the NPU is gone: `dmesg` may say why; reload the driver or restart the board",
    errno.EACCES: "permission was denied: `python -m delegate doctor` says what is missing",
    errno.EPERM: "permission was denied: `python -m delegate doctor` says what is missing",
    errno.ENOENT: "the buffer is not there any more, which is a bug of ours: please report it",
}
OTHER_ADVICE = "`dmesg` and `python -m delegate doctor` may say why"


def failure(error: OSError, what: str) -> DeviceError:
    """The DeviceError for a call that the kernel refused: what, the errno's name, and what to do."""
    number = error.errno or 0
    name = errno.errorcode.get(number, f"errno {number}")
    return DeviceError(f"{what}: {name} ({os.strerror(number)}); {ADVICE.get(number, OTHER_ADVICE)}", number)


def call(file: int, request: Request, argument: ctypes.Structure) -> None:
    """An ioctl, made again when a signal interrupts it or the kernel asks for that; raises DeviceError.

    What Python's handlers of signals raise passes.
    """
    for left in reversed(range(INTERRUPTIONS)):
        try:
            fcntl.ioctl(file, request.code, argument)
            return
        except OSError as error:
            if not left or error.errno not in (errno.EINTR, errno.EAGAIN):
                raise failure(error, request.name) from None


def take_all(steps: list[Callable[[], None]]) -> None:
    """Takes all steps, whichever fails; raises the DeviceError of the first that did.

    Not an ExitStack: that leaves errors in cycles, and with them all that their frames hold, mapped memory for one.
    """
    first: DeviceError | None = None
    for step in steps:
        try:
            step()
        except DeviceError as error:
            first = first or DeviceError(str(error), error.errno)
    try:
        if first is not None:
            raise first
    finally:
        del first, steps


LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
MAP_FAILED = ctypes.c_void_p(-1).value


class HostMemory:
    """A buffer in this process's memory, as long as an array looks at it; raises OSError.

    Python's own mmap keeps a duplicate of the descriptor for each mapping, and a process has some 1000.
    """

    def __init__(self, file: int, size: int, offset: int) -> None:
        address = LIBC.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, file, offset)
        if address == MAP_FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        weakref.finalize(self, LIBC.munmap, address, size).atexit = False
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}


def map_memory(file: int, size: int, offset: int) -> Bytes:
    """The host's view of a buffer, uint8 (size); raises DeviceError."""
    try:
        return np.asarray(HostMemory(file, size, offset))
    except OSError as error:
        raise failure(error, f"mmap of a buffer of {size} bytes") from None


def read_version(file: int) -> tuple[str, str]:
    """(driver's name, version) of an open DRM node; raises DeviceError."""
    name = ctypes.create_string_buffer(64)
    version = Version(name_size=ctypes.sizeof(name) - 1, name=ctypes.addressof(name))
    call(file, VERSION, version)
    return name.value.decode(errors="replace"), f"{version.major}.{version.minor}.{version.patch}"


@dataclass(frozen=True)
class Node:
    """A device node; ``driver`` and ``version`` are None where it could not be asked, ``error`` then says why."""

    path: Path
    driver: str | None
    version: str | None
    error: DeviceError | None = None


Identify = Callable[[int, Path], tuple[str, str]]
"""(driver's name, version) of an open node; raises DeviceError."""


def identify_drm(file: int, path: Path) -> tuple[str, str]:
    """Identifies a DRM node by what it says itself."""
    return read_version(file)


def candidates(patterns: Sequence[str]) -> list[Path]:
    """The nodes that may be an NPU's, lowest number first; only the environment's, if it names one of them."""
    wanted = os.environ.get(NODE_VARIABLE)
    found = [Path(path) for pattern in patterns for path in sorted(glob.glob(pattern), key=number_last)]
    return [path for path in found if not wanted or str(path) == wanted]


def number_last(path: str) -> tuple[str, int]:
    """Sorts accel10 behind accel9."""
    digits = re.search(r"\d*$", path)
    assert digits is not None
    return path[: digits.start()], int(digits[0] or 0)


def bound_driver(path: Path, classes: Path = Path("/sys/class")) -> str | None:
    """The driver that a node's device is bound to, in lower case; None where sysfs does not say (rocket's is bare)."""
    for group in ("accel", "drm"):
        link = classes / group / path.name / "device" / "driver"
        if link.is_symlink():
            return Path(os.readlink(link)).name.lower()
    return None


def open_path(path: Path) -> int:
    """A file descriptor; raises DeviceError, which for a user without access says what gives it."""
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        raise DeviceError(f"{path}: permission denied; {remedy(path)}", errno.EACCES) from None
    except OSError as error:
        raise failure(error, f"open {path}") from None


def remedy(path: Path) -> str:
    """How a user gets access to a node: the command line that adds them to its group."""
    status = path.stat()
    group = group_name(status.st_gid)
    if status.st_mode & 0o060 != 0o060 or group == "root":
        kept = f'SUBSYSTEM=="{SUBSYSTEMS.get(path.parent.name, "misc")}", GROUP="render", MODE="0660"'
        now = f'sudo sh -c "chgrp render {path} && chmod 660 {path}"'
        return f"its group cannot read and write it: {now}; a udev rule makes it last: {kept}"
    return f"it belongs to the group {group}: sudo usermod -aG {group} $USER, then log in again"


def group_name(number: int) -> str:
    """A group's name, or its number where it has none."""
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def open_node(driver: str, patterns: Sequence[str], identify: Identify, absent: str) -> tuple[int, Node]:
    """(file descriptor, node) of the first node of a driver; raises DeviceError with the reason of each that failed.

    ``absent``: what to check where there is no node at all; the error's number is then ENOENT.
    """
    failures: list[tuple[str, int]] = []  # not the errors, which would hold this frame and its callers' in a cycle
    for path in candidates(patterns):
        if bound_driver(path) not in (None, driver):
            continue
        try:
            file = open_path(path)
        except DeviceError as error:
            failures.append((str(error), error.errno))
            continue
        try:
            name, version = identify(file, path)
            if name == driver:
                return file, Node(path, name, version)
        except DeviceError as error:
            failures.append((str(error), error.errno))
        except BaseException:
            os.close(file)
            raise
        os.close(file)
    if failures:
        raise DeviceError(f"device {driver}: {'; '.join(text for text, _ in failures)}", failures[0][1])
    looked = os.environ.get(NODE_VARIABLE) or ", ".join(patterns)
    raise DeviceError(f"device {driver}: there is no node of this driver ({looked}); {absent}", errno.ENOENT)


def probe(path: Path, identify: Identify) -> Node:
    """What can be said about a node without using it."""
    try:
        file = open_path(path)
        try:
            return Node(path, *identify(file, path))
        finally:
            os.close(file)
    except DeviceError as error:
        return Node(path, None, None, error)
