"""Cores for calls that want one or several of them at the same time, in the order in which the calls came."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType

from delegate.errors import DeviceError


class Turns:
    """The cores, and the calls that wait. A call that wants several holds up those behind it, or it would starve.

    Several cores are always the first ones: the vendor's kernel knows the sets 0, 1; and 0, 1, 2 (uapi.md B).
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._free = set(range(cores))
        self._waiting: deque[Turn] = deque()
        self._changed = threading.Condition()

    def enter(self, count: int) -> Turn:
        """A place at the end of the line, for ``count`` cores; raises DeviceError for more than there are."""
        if not 1 <= count <= self._cores:
            raise DeviceError(f"{count} jobs at the same time on {self._cores} cores")
        turn = Turn(self, count)
        with self._changed:
            self._waiting.append(turn)
        return turn

    def take(self, turn: Turn) -> tuple[int, ...]:
        """Waits until it is a call's turn and it can have its cores."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting[0] is turn and self._fits(turn.count))
            self._waiting.popleft()
            cores = (min(self._free),) if turn.count == 1 else tuple(range(turn.count))
            self._free.difference_update(cores)
            self._changed.notify_all()
        return cores

    def _fits(self, count: int) -> bool:
        return bool(self._free) if count == 1 else self._free.issuperset(range(count))

    def give_back(self, cores: tuple[int, ...]) -> None:
        with self._changed:
            self._free.update(cores)
            self._changed.notify_all()


class Turn:
    """A place in the line; as a context, the cores that it gets."""

    def __init__(self, turns: Turns, count: int) -> None:
        self.count = count
        self._turns = turns
        self._cores: tuple[int, ...] = ()

    def __enter__(self) -> tuple[int, ...]:
        self._cores = self._turns.take(self)
        return self._cores

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._turns.give_back(self._cores)
