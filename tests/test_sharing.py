"""Several interpreters on one NPU's cores: each gets its own bytes, and none waits for more than its turn."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from drawn_graphs import build, draw
from test_cores import DIGITS, inputs_of, options_of
from tflite_writer import write

from delegate import runtime
from delegate.hw.device import KERNELS, DeviceJob, Kernel
from delegate.hw.sim.device import Simulator
from delegate.ir import Graph
from delegate.partition import taken
from delegate.runtime import Session, target_of
from delegate.tflite import read_graph, read_model

INVOKES = 4


class Line(Simulator):
    """Notes, with the queue locked, which call of which thread is queued, and when each of its jobs is taken up."""

    def __init__(self, cores: int, kernel: Kernel) -> None:
        super().__init__(cores, kernel)
        self.events: list[tuple[str, int, int]] = []  # (what, thread, number of the call)
        self._calls = 0
        self._of: dict[int, tuple[int, int]] = {}

    def _enqueue_all(self, jobs: Sequence[DeviceJob]) -> Any:
        self._calls += 1
        call = (threading.get_ident(), self._calls)
        self._of |= dict.fromkeys(map(id, jobs), call)
        self.events.append(("queued", *call))
        return super()._enqueue_all(jobs)

    def _next(self) -> Any:
        queued = super()._next()
        if queued is not None:
            self.events.append(("taken", *self._of[id(queued.job)]))
        return queued


def graphs_of(kernel: Kernel) -> list[Graph]:
    """Three different networks."""
    target = target_of(options_of(kernel, 1, "never"))
    drawn = [read_graph(write(model)) for model in map(build, map(draw, (3, 20))) if model is not None]
    return [taken(graph, target)[0] for graph in (read_model(DIGITS), *drawn)]


def invoked(session: Session, times: int) -> list[list[npt.NDArray[Any]]]:
    results = []
    for _ in range(times):
        outputs = [np.zeros(port.shape, port.dtype) for port in session.program.outputs]
        session.invoke(inputs_of(session.program), outputs)
        results.append(outputs)
    return results


@pytest.mark.parametrize("split", ["never", "always"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_no_interpreter_waits_for_more_than_its_turn(
    kernel: Kernel, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between queueing a stage and its last job's start, others start no stage that was queued behind it."""
    graphs = graphs_of(kernel)
    alone = [Session(graph, options_of(kernel, 1, "never")) for graph in graphs]
    expected = [invoked(session, 1)[0] for session in alone]
    device = Line(3, kernel)
    monkeypatch.setattr(runtime, "shared_device", lambda *_: device)
    sessions = [Session(graph, options_of(kernel, 3, split)) for graph in graphs]
    results: dict[int, list[list[npt.NDArray[Any]]]] = {}

    def work(number: int) -> None:
        results[number] = invoked(sessions[number], INVOKES)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(sessions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, outputs in results.items():
        for output in outputs:
            for found, wanted in zip(output, expected[number], strict=True):
                np.testing.assert_array_equal(found, wanted)
    waited = turns_waited(device.events)
    assert len(waited) == INVOKES * sum(len(session.program.stages) for session in sessions)
    assert max(waited) <= len(sessions) - 1
    assert any(waited), "they did not meet"
    for session in (*alone, *sessions):
        session.close()
    device.close()


def turns_waited(events: Sequence[tuple[str, int, int]]) -> list[int]:
    """For each call, how many calls of others are taken up between its queueing and the start of its last job."""
    found = []
    for begin, (what, _, call) in enumerate(events):
        if what == "queued":
            end = max(place for place, event in enumerate(events) if event[0] == "taken" and event[2] == call)
            between = [event[2] for event in events[begin:end] if event[0] == "taken"]
            found.append(len({other for other in between if other != call}))
    return found


def test_the_count_of_turns_sees_a_call_that_is_passed() -> None:
    fair = [("queued", 1, 1), ("queued", 2, 2), ("taken", 1, 1), ("taken", 2, 2)]
    unfair = [("queued", 1, 1), ("queued", 2, 2), ("taken", 2, 2), ("queued", 2, 3), ("taken", 2, 3), ("taken", 1, 1)]
    assert turns_waited(fair) == [0, 1]
    assert turns_waited(unfair) == [2, 0, 0]
