"""One compiled partition on a device: compiled or taken from the cache once, then invoked.

And what becomes of an invoke when the device fails: another try on a device opened anew, then the CPU (decision 0012).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from weakref import WeakSet

import platformdirs

from delegate import cache, canary, trace
from delegate.canary import Pattern
from delegate.compile import compile_graph
from delegate.cores import Division
from delegate.devices import POOL
from delegate.errors import DelegateError, DeviceError
from delegate.hw.capabilities import find
from delegate.hw.device import KERNELS, Device, Kernel, check_process, open_device
from delegate.hw.record import Recorder
from delegate.hw.soc import FORMS, RK3588, Target
from delegate.hw.task import Program, unproven_tasks
from delegate.hw.timing import BOARDS, BoardClock
from delegate.ir import Graph
from delegate.loaded import Arrays, Loaded
from delegate.options import CACHE_OFF, Options
from delegate.recovery import OF_MEMORY, PASSING, REPORTS, Pause

NOT_FOR_US = (errno.ENOENT, errno.EACCES, errno.EPERM)  # of a device that would need the user's hand
PRIVATE = ("record", "cache_dir", "capabilities")  # options that a capture does not tell: they hold names of folders

shared_device = POOL.open
"""See delegate.devices.Pool.open."""


def passed_over(options: Options) -> tuple[str, ...]:
    """Why the shared device, where it is called auto, is none of those before it."""
    return POOL.passed_over(options.device, options.cores, options.kernel, options.capabilities)


def cache_folder(options: Options) -> Path | None:
    """Where compiled programs are kept; None if they are not."""
    if options.cache_dir == CACHE_OFF:
        return None
    return Path(options.cache_dir) if options.cache_dir else Path(platformdirs.user_cache_dir("teflon-rknpu", False))


def target_of(options: Options) -> Target:
    """The chip as the options' device offers it, with the forms that the user allows where nobody has proven them."""
    device = present_device(options)
    forms, signals = (device.forms, device.signals_pooling) if device else (frozenset[str](), options.device == "rknpu")
    allowed = {"auto": forms, "never": frozenset[str](), "always": frozenset(FORMS)}
    return Target(RK3588, allowed[options.unproven], signals)


def present_device(options: Options) -> Device | None:
    """The options' device; None for a kernel's that fails to open, if the CPU is to stand in for it.

    Raises DeviceError for one that fails otherwise, that is not there, or that the user may not open.
    """
    try:
        return shared_device(options.device, options.cores, options.kernel, options.capabilities)
    except DeviceError as error:
        if options.fallback == "error" or options.device not in KERNELS or error.errno in NOT_FOR_US:
            raise
        REPORTS.failed(options.device, error)
        return None


def division_of(options: Options) -> Division | None:
    """How one inference may be spread over the cores of the options' device."""
    if options.cores == 1 or options.split == "never":
        return None
    device = present_device(options)
    board = BOARDS[device.kernel if device else "rknpu" if options.device == "rknpu" else "rocket"]
    return Division(options.cores, options.split == "always", board.own_memory, BoardClock(board))


def capability_file(options: Options) -> Path | None:
    """The file that says which unproven forms may be used; None where the device or the user says so without one."""
    device = shared_device(options.device, options.cores, options.kernel, options.capabilities)
    return find(device.name, options.capabilities) if options.unproven == "auto" else None


def obtain(graph: Graph, options: Options) -> tuple[Program, bool, str | None]:
    """(program, whether it came from the cache, why the cache could not be used)."""
    folder, full_chains, witnessed = cache_folder(options), options.chain == "full", options.verify == "tasks"
    target, division = target_of(options), division_of(options)
    if folder is None:
        return compile_graph(graph, target, full_chains, division, witnessed), False, None
    name, note = cache.key(graph, target, full_chains, division, witnessed), None
    try:
        program = cache.load(folder, name)
        if program is not None:
            return program, True, None
    except cache.CacheError as error:
        note = str(error)
    program = compile_graph(graph, target, full_chains, division, witnessed)
    try:
        cache.store(folder, name, program, options.cache_size << 20)
    except cache.CacheError as error:
        note = str(error)
    return program, False, note


def recorded(device: Device, options: Options) -> Device:
    """A device, with a recorder of its own before it where the options want that."""
    if options.record is None:
        return device
    facts = {f"option {name}": value for name, value in asdict(options).items() if name not in PRIVATE}
    return Recorder(device, Path(options.record), options.record_submits, options.record_size << 20, facts)


class Session:
    """A partition, ready to run. May be used from any thread, by one at a time."""

    def __init__(self, graph: Graph, options: Options) -> None:
        self.program, self.from_cache, self.cache_note = obtain(graph, options)
        self.unproven = unproven_tasks(self.program)
        self._options = options
        device = present_device(options)
        self._name = device.name if device else options.device
        self._wanted = options.device
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._pause = Pause()
        self._loaded: Loaded | None = None
        self._spare: Loaded | None = None  # on the CPU
        self._closed = False
        try:
            self._on_device(lambda loaded, pattern: None)
        except DeviceError as error:
            if not self._may_stand_in():
                raise
            self._stand_in(error)
        SESSIONS.add(self)

    def invoke(self, inputs: Arrays, outputs: Arrays) -> None:
        """Runs the partition once. ``inputs`` and ``outputs``: NHWC, int8 or uint8, C order, in the graph's order.

        Raises DeviceError if the device fails and the CPU is not to stand in; the outputs are as they were then.
        """
        check_process(self._process, self._name)
        with self._lock:
            if self._closed:
                raise DelegateError("this session is closed")
            if not self._pause.holds():
                try:
                    self._on_device(lambda loaded, pattern: loaded.run(inputs, outputs, pattern))
                    self._pause.worked()
                    return
                except DeviceError as error:
                    if not self._may_stand_in():
                        raise
                    self._stand_in(error)
            assert self._spare is not None
            self._spare.run(inputs, outputs, canary.patterns()[0])
            REPORTS.computed(self._name)

    def _on_device(self, use: Callable[[Loaded, Pattern], None]) -> None:
        """Uses the program on the device, loaded where it is not; after an error that may pass a second time, anew."""
        for pattern, last in zip(canary.patterns(), (False, True), strict=True):
            try:
                if self._loaded is None:
                    self._loaded = Loaded(self.program, self._open, lambda device: recorded(device, self._options))
                use(self._loaded, pattern)
                return
            except BaseException as error:
                if self._name not in KERNELS:
                    raise
                loaded, self._loaded, self._wanted = self._loaded, None, self._name
                if loaded is not None:
                    loaded.abandon(error)
                if last or not isinstance(error, DeviceError) or error.errno not in PASSING:
                    raise
                if error.errno in OF_MEMORY:
                    make_room(self)
                if self._options.debug == "verbose":
                    trace.say(trace.retried(self._name, str(error)))

    def _open(self) -> Device:
        options = self._options
        return shared_device(self._wanted, options.cores, options.kernel, options.capabilities)

    def _may_stand_in(self) -> bool:
        """Whether the CPU is to take over after an error; not for the simulator, which is the CPU."""
        return self._options.fallback == "cpu" and self._name in KERNELS

    def _stand_in(self, error: DeviceError) -> None:
        """Has the CPU take over after an error of the device; raises DeviceError if it cannot."""
        kernel: Kernel = "rknpu" if self._name == "rknpu" else "rocket"
        cores = self._options.cores
        self._pause.failed()
        REPORTS.failed(self._name, error)
        if self._spare is None:
            try:
                self._spare = Loaded(self.program, lambda: POOL.private(open_device("simulator", cores, kernel)))
            except DeviceError as second:
                raise DeviceError(f"{error}; nor can the CPU stand in: {second}", error.errno) from None

    def make_room(self) -> None:
        """Gives the device's memory back if the session is idle; the next invoke loads the program again."""
        if self._name in KERNELS and self._lock.acquire(blocking=False):
            try:
                loaded, self._loaded = self._loaded, None
                if loaded is not None:
                    loaded.close()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Gives the device's memory back; the session cannot be used afterwards."""
        with self._lock:
            self._closed = True
            for loaded in (self._loaded, self._spare):
                if loaded is not None:
                    loaded.close()
            self._loaded = self._spare = None


SESSIONS: WeakSet[Session] = WeakSet()
"""Those of this process."""


def make_room(besides: Session) -> None:
    """Has all sessions but one that are idle give their memory back."""
    for session in list(SESSIONS):
        if session is not besides:
            session.make_room()
