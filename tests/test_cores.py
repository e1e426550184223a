"""An inference over several cores: the same bytes as on one, and no core touches what another one writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from drawn_graphs import build, draw
from tflite_writer import write
from watched import WatchedSimulator

from delegate import runtime
from delegate.hw.device import KERNELS, Kernel
from delegate.hw.task import Program, check
from delegate.ir import Graph
from delegate.options import Options, parse
from delegate.partition import taken
from delegate.runtime import Session, target_of
from delegate.tflite import read_graph, read_model

Arrays = list[npt.NDArray[Any]]
DIGITS = Path(__file__).resolve().parents[1] / "models" / "mobilenet_digits.tflite"
SHARED_MODELS = (
    "mobilenet_v1_1.0_224_quant",
    "mobilenet_v2_1.0_224_inat_bird_quant",
    "tf2_mobilenet_v2_1.0_224_ptq",
)
DRAWN = range(60)  # seeds


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
    assert split > graphs / 4


@pytest.mark.parametrize("cores", [2, 3])
@pytest.mark.parametrize("chain", ["safe", "full"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_embedded_model_is_the_same(
    kernel: Kernel, chain: str, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (part,) = taken(read_model(DIGITS), target_of(options_of(kernel, 1, "never")))
    assert same(part, kernel, cores, monkeypatch, chain=chain)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", SHARED_MODELS)
def test_shared_models_are_the_same(name: str, kernel: Kernel, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (part,) = taken(read_model(shared / "models" / f"{name}.tflite"), target_of(options_of(kernel, 1, "never")))
    assert same(part, kernel, 3, monkeypatch)
