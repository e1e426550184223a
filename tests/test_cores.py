"""An inference over several cores: the same bytes as on one, and no core touches what another one writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from drawn_graphs import build, draw
from tflite_writer import write
from watched import WatchedSimulator

from delegate import runtime
from delegate.cache import deserialize, serialize
from delegate.errors import DelegateError
from delegate.hw.device import KERNELS, Kernel
from delegate.hw.task import Program, check
from delegate.ir import Graph
from delegate.options import Options, parse
from delegate.partition import taken
from delegate.runtime import Session, target_of
from delegate.tflite import read_graph, read_model

Arrays = list[npt.NDArray[Any]]
DIGITS = Path(__file__).resolve().parents[1] / "models" / "mobilenet_digits.tflite"
SHARED_MODELS: tuple[tuple[str, Kernel], ...] = (
    ("mobilenet_v1_1.0_224_quant", "rknpu"),
    ("mobilenet_v2_1.0_224_inat_bird_quant", "rocket"),
    ("tf2_mobilenet_v2_1.0_224_ptq", "rknpu"),
)
DRAWN = (1, 2, 3, 5, 9, 13, 20, 24, 55)  # seeds of graphs that are quick, and mostly large enough to be split


def options_of(kernel: Kernel, cores: int, split: str, **others: str) -> Options:
    given = {"device": "simulator", "kernel": kernel, "cores": str(cores), "split": split, "cache_dir": "off"}
    return parse(given | others, {})


def inputs_of(program: Program) -> Arrays:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, port.shape, np.uint8).view(port.dtype) for port in program.inputs]


def run(graph: Graph, options: Options, times: int = 1) -> tuple[Program, Arrays]:
    """(program, outputs of the last of several runs)."""
    session = Session(graph, options)
    outputs = [np.zeros(port.shape, port.dtype) for port in session.program.outputs]
    for _ in range(times):
        session.invoke(inputs_of(session.program), outputs)
    program = session.program
    session.close()
    return program, outputs


def watched(graph: Graph, options: Options, monkeypatch: pytest.MonkeyPatch) -> tuple[Program, Arrays, list[str]]:
    """(program, outputs, where cores met)."""
    device = WatchedSimulator(options.cores, options.kernel)
    monkeypatch.setattr(runtime, "shared_device", lambda *_: device)
    session = Session(graph, options)
    outputs = [np.zeros(port.shape, port.dtype) for port in session.program.outputs]
    session.invoke(inputs_of(session.program), outputs)
    met = list(device.meetings())
    program = session.program
    session.close()
    device.close()
    monkeypatch.undo()
    return program, outputs, met


def same(graph: Graph, kernel: Kernel, cores: int, monkeypatch: pytest.MonkeyPatch, **others: str) -> bool:
    """Compares one core with several; whether anything was split."""
    _, expected = run(graph, options_of(kernel, 1, "never", **others))
    program, found, met = watched(graph, options_of(kernel, cores, "always", **others), monkeypatch)
    check(program)
    assert not met
    for one, several in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, several)
    return any(len(stage) > 1 for stage in program.stages)


@pytest.mark.parametrize("kernel", KERNELS)
def test_drawn_graphs_are_the_same_on_all_cores(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    split = graphs = 0
    for seed in DRAWN:
        model = build(draw(seed))
        if model is None:
            continue
        for part in taken(read_graph(write(model)), target_of(options_of(kernel, 1, "never"))):
            split += same(part, kernel, 2 + seed % 2, monkeypatch)
            graphs += 1
    assert split > graphs / 2


@pytest.mark.parametrize("cores", [2, 3])
@pytest.mark.parametrize("chain", ["safe", "full"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_embedded_model_is_the_same(
    kernel: Kernel, chain: str, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (part,) = taken(read_model(DIGITS), target_of(options_of(kernel, 1, "never")))
    assert same(part, kernel, cores, monkeypatch, chain=chain)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kernel"), SHARED_MODELS)
def test_shared_models_are_the_same(name: str, kernel: Kernel, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (part,) = taken(read_model(shared / "models" / f"{name}.tflite"), target_of(options_of(kernel, 1, "never")))
    assert same(part, kernel, 3, monkeypatch)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_program_of_several_cores_is_cached(kernel: Kernel, tmp_path: Path) -> None:
    """One for each number of cores and way to split, and as good as new."""
    (part,) = taken(read_model(DIGITS), target_of(options_of(kernel, 1, "never")))
    settings = [(1, "auto"), (2, "always"), (3, "always"), (3, "never")]
    for from_cache in (False, True):
        results = []
        for cores, split in settings:
            session = Session(part, options_of(kernel, cores, split, cache_dir=str(tmp_path)))
            assert session.from_cache == (from_cache or (cores, split) == (3, "never"))  # a program of one core
            outputs = [np.zeros(port.shape, port.dtype) for port in session.program.outputs]
            session.invoke(inputs_of(session.program), outputs)
            assert deserialize(serialize(session.program)).exchanges == session.program.exchanges
            assert session.program.copies == (cores if kernel == "rocket" and split == "always" else 1)
            results.append(outputs[0])
            session.close()
        assert all(np.array_equal(result, results[0]) for result in results)


def test_exchanges_name_what_is_there() -> None:
    """A program file is not trusted."""
    (part,) = taken(read_model(DIGITS), target_of(options_of("rocket", 1, "never")))
    session = Session(part, options_of("rocket", 3, "always"))
    program = session.program
    session.close()
    move, stage = program.exchanges[-1], len(program.stages)
    for bad, message in (
        (replace(move, target=3), "out of bounds"),
        (replace(move, source=move.target), "out of bounds"),
        (replace(move, buffer=99), "out of bounds"),
        (replace(move, stop=1 << 40), "out of bounds"),
        (replace(move, stage=stage + 1), "out of bounds"),
        (replace(move, stage=0), "lack order"),
    ):
        with pytest.raises(DelegateError, match=message):
            check(replace(program, exchanges=(*program.exchanges[:-1], bad)))
    jobs = program.jobs
    for changed, message in (
        ((replace(jobs[0], core=1), *jobs[1:]), "one core"),
        ((replace(jobs[0], stage=1), *jobs[1:]), "not in order"),
        ((replace(jobs[0], core=-1), *jobs[1:]), "is not one of"),
    ):
        with pytest.raises(DelegateError, match=message):
            check(replace(program, jobs=changed))


def test_the_race_check_sees_a_race(monkeypatch: pytest.MonkeyPatch) -> None:
    """All jobs of the embedded model at once, as if nothing depended on anything."""
    (part,) = taken(read_model(DIGITS), target_of(options_of("rknpu", 1, "never")))
    device = WatchedSimulator(3, "rknpu")
    monkeypatch.setattr(runtime, "shared_device", lambda *_: device)
    session = Session(part, options_of("rknpu", 3, "always"))
    session._stages = [[job for stage in session._stages for job in stage]]
    session._run_stages([])
    assert list(device.meetings())
    session.close()
    device.close()
