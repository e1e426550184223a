"""Random graphs through the real library: what the silicon would compute, within 1 of TFLite, and never an exception.

``--fuzz-seconds`` says for how long; a failing graph is cut down to the smallest that fails before it is shown.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from chosen import on_device
from drawn_graphs import Recipe, build, draw, minimized
from tflite_writer import write

from delegate.tools.accuracy.inputs import Request
from delegate.tools.accuracy.measure import LayerResult, ModelResult, measure
from delegate.tools.accuracy.models import ModelFile

SETTINGS = (
    {},
    {"kernel": "rknpu"},
    {"unproven": "never"},
    {"kernel": "rknpu", "cores": "3", "chain": "full", "split": "always"},
    {"cores": "2", "split": "always"},
    {"partitioning": "cost", "min_nodes_per_partition": "2"},
)
EVERYTHING_TAKEN = SETTINGS[:2]  # that leave nothing to the CPU which could run on the NPU
FARTHEST = 1  # quanta from TFLite's reference kernels, each operator fed with TFLite's own tensors
SECONDS_TO_MINIMIZE = 120
LEAST_TAKEN = 0.85  # share of the drawn operators that have to run on the NPU with all forms


@dataclass(frozen=True)
class Outcome:
    """``problem`` is empty where nothing is wrong."""

    problem: str
    layers: tuple[LayerResult, ...]


def problem_of(result: ModelResult) -> str:
    """What is wrong with a result, in a line."""
    if result.error:
        return result.error
    for layer in result.layers:
        if not layer.hardware.equal:
            return f"{layer.operator} {layer.shape}: not what the silicon computes"
        if layer.isolated.maximum > FARTHEST:
            return f"{layer.operator} {layer.shape}: {layer.isolated.maximum} from TFLite"
    return "" if result.partition_outputs.equal else "the partition's outputs are not what the silicon computes"


def run(recipe: Recipe, options: dict[str, str], folder: Path) -> Outcome:
    """Runs a recipe; models that TFLite itself refuses count as fine."""
    model = build(recipe)
    if model is None:
        return Outcome("", ())
    path = folder / "model.tflite"
    path.write_bytes(write(model))
    options = on_device(**options)
    result = measure(ModelFile(path), Request(random=1, seed=recipe.seed), options, lambda step: None)
    return Outcome("" if result.refused else problem_of(result), result.layers)


def show(recipe: Recipe) -> str:
    """A recipe for the eye, and the line that brings it back."""
    model = build(recipe)
    assert model is not None
    lines = [
        f"  {operator.op}: {[model.tensors[i].shape for i in operator.inputs]} -> "
        f"{[model.tensors[i].shape for i in operator.outputs]} {dict(operator.options or {})}"
        for operator in model.operators
    ]
    return "\n".join([repr(recipe), *lines])


def smallest(recipe: Recipe, options: dict[str, str], folder: Path) -> Recipe:
    """The smallest recipe with any problem that can be found in the time there is."""
    end = time.monotonic() + SECONDS_TO_MINIMIZE
    return minimized(recipe, lambda less: time.monotonic() < end and bool(run(less, options, folder).problem))


def test_random_graphs(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    seconds, first = pytestconfig.getoption("fuzz_seconds"), pytestconfig.getoption("fuzz_seed")
    end = time.monotonic() + seconds
    taken = drawn = graphs = 0
    for seed in itertools.count(first):
        if time.monotonic() > end:
            break
        options, recipe = SETTINGS[seed % len(SETTINGS)], draw(seed)
        outcome = run(recipe, options, tmp_path)
        if outcome.problem:
            recipe = smallest(recipe, options, tmp_path)
            found = run(recipe, options, tmp_path).problem
            pytest.fail(f"seed {seed}, options {options}: {outcome.problem}\nsmallest: {found}\n{show(recipe)}")
        graphs += 1
        if options in EVERYTHING_TAKEN:
            drawn += len(outcome.layers)
            taken += sum(layer.npu for layer in outcome.layers)
    print(f"{graphs} graphs, {drawn} operators, {taken} of them on the NPU")
    assert graphs > 0
    assert drawn < 100 or taken / drawn >= LEAST_TAKEN


def test_a_failing_graph_is_cut_down_to_what_fails() -> None:
    """With a made-up problem, 'it has a PRELU and a TANH', only these are left."""
    wanted = {"PRELU", "TANH"}

    def operators(recipe: Recipe) -> list[str]:
        model = build(recipe)
        return [] if model is None else [operator.op for operator in model.operators]

    recipe = next(recipe for recipe in map(draw, range(500)) if wanted <= set(operators(recipe)))
    small = minimized(recipe, lambda less: wanted <= set(operators(less)))
    assert sorted(operators(small)) == ["PRELU", "TANH"]
    assert small.shape == (1, 1, 1, 1)
