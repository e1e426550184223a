"""A task's witness is written by that task and by no other, as the simulator runs them; and most tasks have one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tflite_writer
from drawn_graphs import build, draw

from delegate import canary, memory
from delegate.compile import compile_graph
from delegate.errors import DelegateError
from delegate.hw.sim.device import Simulator
from delegate.hw.soc import EVERY_FORM, Target
from delegate.hw.task import Bytes, Place, Program, check, unproven_tasks
from delegate.loaded import Loaded
from delegate.partition import partitions, verdicts
from delegate.tflite import read_model
from delegate.tools import registry

MODEL = registry.models_folder() / "mobilenet_digits.tflite"
TARGET = Target(EVERY_FORM.soc, EVERY_FORM.forms, signals_pooling=True)
SEEDS = range(10)
FEWEST = 0.95  # share of the tasks that have a witness


def programs(path: Path) -> list[Program]:
    graph = read_model(path)
    return [compile_graph(part, TARGET) for part in partitions(graph, verdicts(graph, TARGET))]


class Watch:
    """Sees each task begin; the witness of the one before has to be gone then, all others have to be there."""

    def __init__(self, places: Sequence[Place | None], views: list[Bytes]) -> None:
        self.wrong: list[str] = []
        # One for each task: a maximum or a copy may hand on what stands in the place of the task before.
        self._patterns = np.random.default_rng(1).integers(0, 256, (len(places), canary.ATOM)).astype(np.uint8)
        self._places = places
        self._atoms = [place and canary.atoms(views[place.buffer])[place.offset // canary.ATOM] for place in places]
        self._started = 0
        for task in range(len(places)):
            self._arm(task)

    def _arm(self, task: int) -> None:
        if self._places[task] is not None:
            self._atoms[task][...] = self._patterns[task]

    def _check(self, task: int, there: bool) -> None:
        if self._places[task] is not None and (self._atoms[task] == self._patterns[task]).all() != there:
            self.wrong.append(f"task {task} of {len(self._places)}, after {self._started} began")

    def begins(self, _: object) -> None:
        """Called before each task."""
        self.ended()
        self._check(self._started, there=True)
        self._started += 1

    def ended(self) -> None:
        """The task that began last is done."""
        if self._started:
            self._check(self._started - 1, there=False)
            self._arm(self._started - 1)

    def all_there(self) -> None:
        """At the end: no task behind its own wrote a witness."""
        assert self._started == len(self._places)
        for task in range(self._started):
            self._check(task, there=True)


def watched(program: Program) -> list[str]:
    """What is wrong with the witnesses of a program."""
    device = Simulator(kernel="rknpu")
    loaded = Loaded(program, lambda: device)
    watch = Watch(program.witnesses, [memory.view for memory in loaded._memories])
    (machine,) = device.machines
    machine.observe = watch.begins
    device.wait(device.submit(loaded._stages[0]), 60)
    watch.ended()
    watch.all_there()
    loaded.close()
    device.close()
    return watch.wrong


def test_every_task_of_mobilenet_has_a_witness() -> None:
    (program,) = programs(MODEL)
    assert not unproven_tasks(program)
    assert watched(program) == []


def test_random_graphs(tmp_path: Path) -> None:
    """Concatenations, batches, depthwise convolutions, pools: wherever a witness is named, it is one."""
    tasks = without = 0
    for seed in SEEDS:
        model = build(draw(seed))
        if model is None:
            continue
        path = tmp_path / "model.tflite"
        path.write_bytes(tflite_writer.write(model))
        for program in programs(path):
            assert watched(program) == [], seed
            tasks += len(program.tasks)
            without += len(unproven_tasks(program))
    assert tasks > 100
    assert tasks - without > FEWEST * tasks


def test_where_memory_would_grow_too_much_tensors_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks whose numbers others write over have no witness then, and are listed; the others' are right."""
    monkeypatch.setattr(memory, "LARGEST_UNSHARED", 1 << 16)
    (program,) = programs(MODEL)
    assert watched(program) == []
    listed = unproven_tasks(program)
    assert 0 < len(listed) < len(program.tasks)
    assert all(text.startswith("task ") for text in listed)


def test_without_witnesses_tensors_share_memory() -> None:
    graph = read_model(MODEL)
    (part,) = partitions(graph, verdicts(graph, TARGET))
    shared, apart = (compile_graph(part, TARGET, witnessed=witnessed) for witnessed in (False, True))
    assert shared.witnesses == ()
    sizes = [sum(buffer.size for buffer in program.buffers) for program in (shared, apart)]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (Place(0, 0), "no buffer that tasks may write"),
        (Place(99, 0), "no buffer that tasks may write"),
        (Place(-1, 0), "no buffer that tasks may write"),
        (Place(3, 8), "no atom"),
        (Place(3, -16), "no atom"),
        (Place(3, 1 << 30), "no atom"),
    ],
)
def test_a_witness_of_a_file_is_checked(place: Place, message: str) -> None:
    (program,) = programs(MODEL)
    check(program)
    with pytest.raises(DelegateError, match=message):
        check(replace(program, witnesses=(place, *program.witnesses[1:])))
    with pytest.raises(DelegateError, match="one witness for each task"):
        check(replace(program, witnesses=program.witnesses[1:]))
