"""Who gets cores when: calls in the order in which they came, wide ones too."""

from __future__ import annotations

import random
import threading
from collections import Counter, deque

import pytest

from delegate.errors import DeviceError
from delegate.hw.turns import Turn, Turns


def test_a_call_gets_the_first_cores_that_are_free() -> None:
    turns = Turns(3)
    one, two, pair = turns.enter(1), turns.enter(1), turns.enter(2)
    with one as first, two as second:
        assert (first, second) == ((0,), (1,))
    with pair as cores:
        assert cores == (0, 1)


def test_more_cores_than_there_are_cannot_be_had() -> None:
    for count in (0, 3):
        with pytest.raises(DeviceError, match=f"{count} jobs at the same time on 2 cores"):
            Turns(2).enter(count)


def test_a_wide_call_is_not_passed_by_narrow_ones() -> None:
    turns = Turns(3)
    begun: list[str] = []

    def run(name: str, turn: Turn) -> None:
        with turn:
            begun.append(name)

    busy, wide, narrow = turns.enter(1), turns.enter(3), turns.enter(1)
    with busy:
        threads = [threading.Thread(target=run, args=item) for item in (("narrow", narrow), ("wide", wide))]
        for thread in threads:
            thread.start()
        threads[0].join(0.05)
        assert begun == []  # two cores are free, and the narrow one could have one
    for thread in threads:
        thread.join()
    assert begun == ["wide", "narrow"]


class Noting(deque[Turn]):
    """A line that knows in which order turns have left it; it is used with the lock held."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[Turn] = []

    def popleft(self) -> Turn:
        self.left.append(super().popleft())
        return self.left[-1]


@pytest.mark.parametrize("seed", range(5))
def test_turns_are_taken_in_the_order_of_the_line(seed: int) -> None:
    """Whichever thread waits first: no call begins before one that was in the line before it; no core has two."""
    draw = random.Random(seed)
    turns = Turns(3)
    turns._waiting = noting = Noting()
    line = [turns.enter(draw.choice((1, 1, 2, 3))) for _ in range(40)]
    held, twice = Counter[int](), []

    def run(turn: Turn) -> None:
        with turn as cores:
            held.update(cores)
            twice.extend(core for core in cores if held[core] != 1)
            held.subtract(cores)

    threads = [threading.Thread(target=run, args=(turn,)) for turn in draw.sample(line, len(line))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert noting.left == line
    assert twice == []
