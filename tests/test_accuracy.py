"""The whole path, TFLite to simulator and back, against TFLite's reference kernels and against the plain silicon model.

Tolerances: 1 against TFLite for a single operator, because a 15-bit multiplier with one rounding stands against a
31-bit one with two (npu.md §5.5); none at all against ``reference``'s model of the silicon, which shares no code with
compiler or simulator.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import generate
import numpy as np
import pytest
import reference
import tflite_reader
from tflite_writer import Array, Model, write

from benchmarks import harness
from benchmarks.harness import infer
from delegate import quantize
from delegate.compile import lower
from delegate.fuse import fuse_additions
from delegate.hw.soc import RK3588
from delegate.ir import Graph
from delegate.partition import refusals
from delegate.tflite import read_model

Interpreters = Callable[..., Any]

MESA_TESTS = harness.SHARED / "models" / "mesa-tests"
SINGLE_LAYERS = [model.name.split("/")[1] for model in harness.model_files([MESA_TESTS])] if MESA_TESTS.is_dir() else []
FEWEST_ON_THE_NPU = 60  # models of mesa-tests (issue 2)
MEAN_EXACT = 0.99  # share of equal elements over all generated models of a family
FEWEST_TAKEN = 0.9  # share of a family that the rules must let through
FEWEST_GRAPHS_TAKEN = 0.6  # several additions each, with drawn scales that may be too far apart for weights of 8 bits


def reasons(graph: Graph) -> list[str]:
    """Why nodes of a model stay on the CPU."""
    return [f"{node.op}: {reason}" for node in graph.nodes for reason in refusals(node, graph, RK3588)]


def kernels_of_the_delegate(interpreter: Any, graph: Graph) -> int:
    """How many nodes the interpreter has beyond the model's own: one for each partition."""
    return len(interpreter._get_ops_details()) - len(graph.nodes)


def largest_difference(got: Array, expected: Array) -> int:
    return int(np.abs(got.astype(np.int64) - expected.astype(np.int64)).max(initial=0))


@pytest.mark.parametrize("name", SINGLE_LAYERS)
def test_a_single_layer_is_within_1_of_the_reference_kernels(
    name: str, shared: Path, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    path = MESA_TESTS / f"{name}.tflite"
    graph = read_model(path)
    if reasons(graph):
        pytest.skip(f"not on the NPU: {'; '.join(reasons(graph))}")
    content = path.read_bytes()
    npu = npu_interpreter(content)
    assert kernels_of_the_delegate(npu, graph) == 1
    plain = reference_interpreter(content)
    for seed in range(2):
        inputs = harness.random_inputs(plain, np.random.default_rng(seed))
        for got, expected in zip(infer(npu, inputs), infer(plain, inputs), strict=True):
            assert largest_difference(got, expected) <= 1


def test_enough_single_layers_run_on_the_npu(shared: Path) -> None:
    taken = [name for name in SINGLE_LAYERS if not reasons(read_model(MESA_TESTS / f"{name}.tflite"))]
    assert len(taken) >= FEWEST_ON_THE_NPU


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v1_1.0_224_quant", "mobilenet_v1_0.25_128_quant"])
def test_mobilenet_v1_sees_what_the_cpu_sees(
    name: str, shared: Path, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    """All 28 convolutions in one partition, on every picture what the silicon's arithmetic gives.

    Through 28 layers of 15-bit multipliers a score drifts from TFLite's by up to 7/256 (hot_dog.jpg), in the
    simulator and in the plain model alike; 0.02 is asked of the picture for which the issue states it.
    """
    path = shared / "models" / f"{name}.tflite"
    content, graph = path.read_bytes(), read_model(path)
    convolutions = [node for node in graph.nodes if node.op in ("CONV_2D", "DEPTHWISE_CONV_2D")]
    assert sum(not refusals(node, graph, RK3588) for node in convolutions) == 28
    model = tflite_reader.read(content)
    plain, npu = reference_interpreter(content), npu_interpreter(content)
    silicon = reference.silicon_requantize(reference.nearest_multiplier)
    for picture in harness.PICTURES:
        inputs = harness.picture_inputs(plain, shared / "models" / picture)
        assert inputs is not None
        (expected,), (got,) = infer(plain, inputs), infer(npu, inputs)
        np.testing.assert_array_equal(got, reference.evaluate(model, inputs, silicon)[model.outputs[0]], picture)
        best = int(expected.argmax())
        assert got.argmax() == best, picture
        if picture == "grace_hopper.bmp":
            assert abs(float(got[0, best]) - float(expected[0, best])) / 256 <= 0.02
            labels = (shared / "models" / "imagenet_labels.txt").read_text().splitlines()
            assert name != "mobilenet_v1_1.0_224_quant" or "military uniform" in labels[best]


def additions(graph: Graph) -> dict[int, reference.WeightedSum | reference.FusedSum]:
    """The compiler's plan of each ADD by output tensor; what it computes is the reference's own business."""
    producers = {tensor.index: node for node in graph.nodes for tensor in node.outputs}
    plans: dict[int, reference.WeightedSum | reference.FusedSum] = {}
    for layer in fuse_additions(lower(graph, RK3588), graph, RK3588):
        output, converter = layer.output.index, (layer.requantize.multiplier, layer.requantize.shift)
        weights = None
        if layer.operator == "ADD":
            first, *second = layer.weight[0, 0, 0, :: layer.output.shape[3]].tolist()
            weights = (first, second[0] if second else 0)
        if layer.addend is not None:
            (fused,) = {t.index for t in producers[output].inputs if t is not None} - {layer.addend.tensor.index}
            gain = (layer.addend.multiplier, layer.addend.shift)
            plans[output] = reference.FusedSum(fused, gain, converter, weights)
        elif weights is not None:
            plans[output] = reference.WeightedSum(weights, converter)
    return plans


def check(
    model: Model, content: bytes, rng: np.random.Generator, path: Path, npu_interpreter: Interpreters
) -> tuple[int, int] | None:
    """Runs a model of convolutions and additions; (elements, exact ones), or None if a node stays on the CPU.

    Every element must be what the silicon's arithmetic gives, and as near to TFLite's as the model's gains allow.
    """
    path.write_bytes(content)
    graph = read_model(path)
    if reasons(graph):
        return None
    npu = npu_interpreter(content)
    assert kernels_of_the_delegate(npu, graph) == 1
    silicon = reference.silicon_requantize(reference.nearest_multiplier)
    bounds = reference.error_bounds(model)
    elements = exact = 0
    for _ in range(2):
        inputs = generate.random_inputs(rng, model)
        on_silicon = reference.evaluate(model, inputs, silicon, reference.silicon_add(additions(graph)))
        in_tflite = reference.evaluate(model, inputs)
        for index, got in zip(model.outputs, infer(npu, inputs), strict=True):
            np.testing.assert_array_equal(got, on_silicon[index])
            assert largest_difference(got, in_tflite[index]) <= bounds[index]
            elements += got.size
            exact += int((got == in_tflite[index]).sum())
    return elements, exact


@pytest.mark.slow
def test_the_sweeps_models_equal_the_silicon(shared: Path, tmp_path: Path, npu_interpreter: Interpreters) -> None:
    """201 layers, chains and residual blocks; through several layers a difference to TFLite travels on and grows."""
    files = list(harness.model_files([shared / "models" / "sweep.zip"]))
    refused = []
    for number, file in enumerate(files):
        content, rng = file.read(), np.random.default_rng(number)
        try:
            result = check(tflite_reader.read(content), content, rng, tmp_path / "model.tflite", npu_interpreter)
        except AssertionError as error:
            error.add_note(file.name)
            raise
        refused += [file.name] if result is None else []
    assert len(refused) <= 0.05 * len(files), refused


FAMILIES: dict[str, Callable[[np.random.Generator], Model]] = {
    "convolution": generate.random_convolution,
    "depthwise": lambda rng: generate.random_convolution(rng, depthwise=True),
    "depth multiplier": lambda rng: generate.random_convolution(
        rng, depthwise=True, multiplier=int(rng.integers(2, 5))
    ),
    "addition": generate.random_add,
    "residual": generate.random_residual,
    "graph": generate.random_graph,
}
QUICK_SEEDS = {"convolution": 40, "depthwise": 20, "depth multiplier": 10, "addition": 20, "residual": 20, "graph": 20}
SLOW_SEEDS = {
    "convolution": 200,
    "depthwise": 100,
    "depth multiplier": 40,
    "addition": 100,
    "residual": 100,
    "graph": 100,
}


def check_family(family: str, seeds: range, path: Path, npu_interpreter: Interpreters) -> None:
    """Runs generated models; nearly all must be on the NPU, and nearly all elements equal to TFLite's."""
    counts = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        try:
            model = FAMILIES[family](rng)
            counts.append(check(model, write(model), rng, path, npu_interpreter))
        except AssertionError as error:
            error.add_note(f"{family}, seed {seed}")
            raise
    taken = [count for count in counts if count is not None]
    assert len(taken) >= (FEWEST_GRAPHS_TAKEN if family == "graph" else FEWEST_TAKEN) * len(counts)
    if family not in ("graph", "residual"):  # where a difference travels on, or a rounding is left out
        assert sum(exact for _, exact in taken) >= MEAN_EXACT * sum(elements for elements, _ in taken)


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_models(family: str, tmp_path: Path, npu_interpreter: Interpreters) -> None:
    check_family(family, range(QUICK_SEEDS[family]), tmp_path / "model.tflite", npu_interpreter)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_many_generated_models(family: str, tmp_path: Path, npu_interpreter: Interpreters) -> None:
    seeds = range(QUICK_SEEDS[family], QUICK_SEEDS[family] + SLOW_SEEDS[family])
    check_family(family, seeds, tmp_path / "model.tflite", npu_interpreter)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_npu_and_cpu_in_turns(
    dtype: str, tmp_path: Path, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    """Three convolutions in three partitions; the logits may drift by what the last layer makes of two differences."""
    differences = []
    for seed in range(8):
        content = write(generate.partitioned(np.random.default_rng(seed), dtype))
        path = tmp_path / "model.tflite"
        path.write_bytes(content)
        npu, plain = npu_interpreter(content), reference_interpreter(content)
        assert kernels_of_the_delegate(npu, read_model(path)) == 3
        for turn in range(4):
            inputs = harness.random_inputs(plain, np.random.default_rng(turn))
            differences.append(largest_difference(infer(npu, inputs)[0], infer(plain, inputs)[0]))
    assert max(differences) <= 4
    assert np.mean(np.array(differences) <= 1) >= 0.8


def test_generated_residuals_are_fused(tmp_path: Path) -> None:
    """So that the family "residual" is a test of the fused form."""
    fused = 0
    for seed in range(20):
        path = tmp_path / "model.tflite"
        path.write_bytes(write(generate.random_residual(np.random.default_rng(seed))))
        graph = read_model(path)
        fused += not reasons(graph) and any(isinstance(p, reference.FusedSum) for p in additions(graph).values())
    assert fused >= 10


@pytest.mark.parametrize(
    "options", [{"cores": "2"}, {"cores": "3"}, {"chain": "full"}, {"cores": "3", "chain": "full"}]
)
def test_options_do_not_change_results(options: dict[str, str], npu_interpreter: Interpreters) -> None:
    for seed in range(10):
        content = write(generate.random_graph(np.random.default_rng(seed)))
        plain, changed = npu_interpreter(content), npu_interpreter(content, **options)
        inputs = harness.random_inputs(plain, np.random.default_rng(seed))
        for got, expected in zip(infer(changed, inputs), infer(plain, inputs), strict=True):
            np.testing.assert_array_equal(got, expected)


def test_the_compiler_takes_the_nearest_multiplier() -> None:
    """Of the two forms that the silicon bears (nearest, or S-09's one above) the compiler takes the nearest."""
    edges = [1 - 2**-17, 0.25 - 2**-19, 0.5]  # mantissas that carry, or are a power of two
    for real in [*edges, *np.exp(np.random.default_rng(0).uniform(-12, 0, 500)).tolist()]:
        converter = quantize.requantize(real, 0)
        assert (converter.multiplier, converter.shift) == reference.nearest_multiplier(real)
