"""The whole path, TFLite to simulator and back, against TFLite's reference kernels and against the plain silicon model.

Each test runs with the forms that silicon has proven and with every form (option ``unproven``). Against the tools'
``silicon``, which shares no code with compiler or simulator, every element must be equal. Against TFLite's reference:

* every form, weights of one scale: equal on every element, because BS and BN together reproduce TFLite's 31-bit
  multiplier and its two roundings (docs/decisions/0007-requantization.md); an addition may differ at ties, one element
  in 10,000;
* a scale a channel, or proven forms alone: within 1 for a single operator, because a 15-bit multiplier stands against
  one of 31 bits.
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
from layers import EVERY_FORM, PROVEN, TARGETS
from tflite_writer import Array, Model, write

from benchmarks import harness
from benchmarks.harness import infer
from delegate import requantize
from delegate.compile import layers_of
from delegate.hw.soc import BS_CLAMP, Target
from delegate.ir import Convolution, Graph
from delegate.partition import taken, verdicts
from delegate.tflite import read_model
from delegate.tools.accuracy import silicon

Interpreters = Callable[..., Any]

MESA_TESTS = harness.SHARED / "models" / "mesa-tests"
SINGLE_LAYERS = [model.name.split("/")[1] for model in harness.model_files([MESA_TESTS])] if MESA_TESTS.is_dir() else []
FEWEST_ON_THE_NPU = 60  # models of mesa-tests (issue 2)
MEAN_EXACT = 0.995  # share of equal elements over a family of single operators, with factors of 15 bits
MEAN_EXACT_FAR = 0.99  # with proven forms and scales far apart: RELU6 has large factors, which TFLite rounds twice
MEAN_EXACT_SUM = 0.9999  # of an addition by the element-wise unit
FEWEST_TAKEN = 0.9  # share of a family that the rules must let through
FEWEST_GRAPHS_TAKEN = 0.6  # several additions each, with drawn scales that may be too far apart for weights of 8 bits
UNPROVEN = {"proven": "never", "every form": "auto"}  # the option for each target; the simulator offers every form


def refused(graph: Graph, target: Target) -> list[str]:
    """Why nodes of a model stay on the CPU."""
    found = verdicts(graph, target)
    return [f"{node.op}: {reason}" for node in graph.nodes for reason in found[node.index]]


def convolutions_of(graph: Graph, target: Target) -> list[Convolution]:
    """The layers of a model that is wholly on the NPU; none of another."""
    if refused(graph, target):
        return []
    (part,) = taken(graph, target)
    return [layer for layer in layers_of(part, target)[0] if isinstance(layer, Convolution)]


def on_silicon(part: Graph, target: Target, inputs: list[Array]) -> dict[int, Array]:
    """What the silicon's arithmetic makes of a partition: its outputs by number."""
    memory = silicon.evaluate(
        *layers_of(part, target), zip([part.tensors[index] for index in part.inputs], inputs, strict=True)
    )
    return {index: memory.fetch(part.tensors[index]) for index in part.outputs}


def kernels_of_the_delegate(interpreter: Any, graph: Graph) -> int:
    """How many nodes the interpreter has beyond the model's own: one for each partition."""
    return len(interpreter._get_ops_details()) - len(graph.nodes)


def largest_difference(got: Array, expected: Array) -> int:
    return int(np.abs(got.astype(np.int64) - expected.astype(np.int64)).max(initial=0))


def has_one_scale(graph: Graph) -> bool:
    """No weights with a scale for each channel."""
    tensors = [tensor for tensor in graph.constants() if tensor.dtype in ("int8", "uint8")]
    return not any(tensor.quant is not None and tensor.quant.per_channel for tensor in tensors)


@pytest.mark.parametrize("forms", TARGETS)
@pytest.mark.parametrize("name", SINGLE_LAYERS)
def test_a_single_layer_equals_the_reference_kernels(
    name: str, forms: str, shared: Path, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    """With proven forms alone within 1, else equal; an addition at all but one element in 10,000."""
    path, target = MESA_TESTS / f"{name}.tflite", TARGETS[forms]
    graph = read_model(path)
    if refused(graph, target):
        pytest.skip(f"not on the NPU: {'; '.join(refused(graph, target))}")
    content = path.read_bytes()
    npu = npu_interpreter(content, unproven=UNPROVEN[forms])
    assert kernels_of_the_delegate(npu, graph) == 1
    plain, (part,) = reference_interpreter(content), taken(graph, target)
    additions = any(node.op == "ADD" for node in graph.nodes)
    for seed in range(2):
        inputs = harness.random_inputs(plain, np.random.default_rng(seed))
        ((got,), (expected,)) = infer(npu, inputs), infer(plain, inputs)
        np.testing.assert_array_equal(got, on_silicon(part, target, inputs)[graph.outputs[0]])
        assert largest_difference(got, expected) <= 1
        if target is EVERY_FORM and has_one_scale(graph):
            assert (got == expected).mean() >= (MEAN_EXACT_SUM if additions else 1)


@pytest.mark.parametrize("forms", TARGETS)
def test_enough_single_layers_run_on_the_npu(forms: str, shared: Path) -> None:
    graphs = [read_model(MESA_TESTS / f"{name}.tflite") for name in SINGLE_LAYERS]
    assert sum(not refused(graph, TARGETS[forms]) for graph in graphs) >= FEWEST_ON_THE_NPU


def check(
    model: Model, content: bytes, rng: np.random.Generator, path: Path, forms: str, npu_interpreter: Interpreters
) -> tuple[int, int] | None:
    """Runs a model of convolutions and additions; (elements, exact ones), or None if a node stays on the CPU.

    Every element must be what the silicon's arithmetic gives, and as near to TFLite's as the model's gains allow.
    """
    path.write_bytes(content)
    graph, target = read_model(path), TARGETS[forms]
    if refused(graph, target):
        return None
    npu = npu_interpreter(content, unproven=UNPROVEN[forms])
    assert kernels_of_the_delegate(npu, graph) == 1
    bounds, (part,) = reference.error_bounds(model), taken(graph, target)
    elements = exact = 0
    for _ in range(2):
        inputs = generate.random_inputs(rng, model)
        expected = on_silicon(part, target, inputs)
        in_tflite = reference.evaluate(model, inputs)
        for index, got in zip(model.outputs, infer(npu, inputs), strict=True):
            np.testing.assert_array_equal(got, expected[index])
            assert largest_difference(got, in_tflite[index]) <= bounds[index]
            elements += got.size
            exact += int((got == in_tflite[index]).sum())
    return elements, exact


@pytest.mark.slow
@pytest.mark.parametrize("forms", TARGETS)
def test_the_sweeps_models_equal_the_silicon(
    forms: str, shared: Path, tmp_path: Path, npu_interpreter: Interpreters
) -> None:
    """201 layers, chains and residual blocks; through several layers a difference to TFLite travels on and grows."""
    files = list(harness.model_files([shared / "models" / "sweep.zip"]))
    left, clamps, elements, exact = [], 0, 0, 0
    for number, file in enumerate(files):
        content, rng = file.read(), np.random.default_rng(number)
        path = tmp_path / "model.tflite"
        try:
            result = check(tflite_reader.read(content), content, rng, path, forms, npu_interpreter)
        except AssertionError as error:
            error.add_note(file.name)
            raise
        if result is None:
            clamp = any(BS_CLAMP in reason for reason in refused(read_model(path), TARGETS[forms]))
            left += [] if clamp else [file.name]
            clamps += clamp
            continue
        elements, exact = elements + result[0], exact + result[1]
    assert len(left) <= 0.05 * len(files), left
    assert clamps <= (0 if TARGETS[forms] is EVERY_FORM else 0.1 * len(files))
    assert exact >= (MEAN_EXACT_SUM if TARGETS[forms] is EVERY_FORM else MEAN_EXACT) * elements


FAMILIES: dict[str, Callable[[np.random.Generator], Model]] = {
    "convolution": generate.random_convolution,
    "depthwise": lambda rng: generate.random_convolution(rng, depthwise=True),
    "depth multiplier": lambda rng: generate.random_convolution(
        rng, depthwise=True, multiplier=int(rng.integers(2, 5))
    ),
    "dilated": lambda rng: generate.random_convolution(rng, depthwise=bool(rng.random() < 0.5), dilate=True),
    "per channel": lambda rng: generate.random_convolution(rng, spread=4),
    "per channel depthwise": lambda rng: generate.random_convolution(rng, depthwise=True, spread=4),
    "scales far apart": lambda rng: generate.random_convolution(rng, depthwise=bool(rng.random() < 0.5), spread=24),
    "addition": generate.random_add,
    "residual": generate.random_residual,
    "graph": generate.random_graph,
}
EQUAL = ("convolution", "depthwise", "depth multiplier", "dilated")  # to TFLite with every form: weights of one scale
TRAVELS_ON = ("graph", "residual")  # a difference to TFLite, or a rounding that is left out
QUICK_SEEDS = {"convolution": 40, "depth multiplier": 10}  # others 20
SLOW_SEEDS = {"convolution": 200, "depth multiplier": 40}  # others 100


def check_family(family: str, forms: str, seeds: range, path: Path, npu_interpreter: Interpreters) -> None:
    """Runs generated models; nearly all must be on the NPU, and nearly all elements equal to TFLite's."""
    counts, left = [], []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        try:
            model = FAMILIES[family](rng)
            counts.append(check(model, write(model), rng, path, forms, npu_interpreter))
        except AssertionError as error:
            error.add_note(f"{family}, seed {seed}")
            raise
        if counts[-1] is None:
            left += refused(read_model(path), TARGETS[forms])
    ran = [count for count in counts if count is not None]
    every = TARGETS[forms] is EVERY_FORM
    clamps = sum(BS_CLAMP in reason for reason in left)
    assert every <= (clamps == 0)
    fewest = FEWEST_GRAPHS_TAKEN if family == "graph" else FEWEST_TAKEN
    assert len(ran) >= fewest * (len(counts) - clamps)
    elements, exact = sum(count[0] for count in ran), sum(count[1] for count in ran)
    if every and family in EQUAL:
        assert exact == elements
    elif every and family in ("addition", *TRAVELS_ON):  # through a graph a difference travels on
        assert exact >= (MEAN_EXACT if family == "graph" else MEAN_EXACT_SUM) * elements
    elif family not in TRAVELS_ON:
        far = family == "scales far apart" and not every
        assert exact >= (MEAN_EXACT_FAR if far else MEAN_EXACT) * elements


@pytest.mark.parametrize("forms", TARGETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_generated_models(family: str, forms: str, tmp_path: Path, npu_interpreter: Interpreters) -> None:
    check_family(family, forms, range(QUICK_SEEDS.get(family, 20)), tmp_path / "model.tflite", npu_interpreter)


@pytest.mark.slow
@pytest.mark.parametrize("forms", TARGETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_many_generated_models(family: str, forms: str, tmp_path: Path, npu_interpreter: Interpreters) -> None:
    first = QUICK_SEEDS.get(family, 20)
    seeds = range(first, first + SLOW_SEEDS.get(family, 100))
    check_family(family, forms, seeds, tmp_path / "model.tflite", npu_interpreter)


@pytest.mark.parametrize("forms", TARGETS)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_npu_and_cpu_in_turns(
    dtype: str, forms: str, tmp_path: Path, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    """Three convolutions in three partitions; with proven forms the logits may drift by what the layers make of it."""
    differences = []
    for seed in range(8):
        content = write(generate.partitioned(np.random.default_rng(seed), dtype))
        path = tmp_path / "model.tflite"
        path.write_bytes(content)
        npu, plain = npu_interpreter(content, unproven=UNPROVEN[forms]), reference_interpreter(content)
        graph = read_model(path)
        convolutions = [reason for reason in refused(graph, TARGETS[forms]) if "stride" not in reason]
        if any(BS_CLAMP in reason for reason in convolutions):
            continue
        assert kernels_of_the_delegate(npu, graph) == 3
        for turn in range(4):
            inputs = harness.random_inputs(plain, np.random.default_rng(turn))
            differences.append(largest_difference(infer(npu, inputs)[0], infer(plain, inputs)[0]))
    assert len(differences) >= 16
    assert max(differences) <= (0 if TARGETS[forms] is EVERY_FORM else 4)
    assert np.mean(np.array(differences) <= 1) >= 0.8


def added(graph: Graph, target: Target) -> list[Convolution]:
    """The layers with something to add, of a model that is wholly on the NPU."""
    return [layer for layer in convolutions_of(graph, target) if layer.addend is not None]


def test_generated_residuals_meet_the_elementwise_unit(tmp_path: Path) -> None:
    """So that the family "residual" is a test of the fused form, and of the exact sum."""
    fused = exact = 0
    for seed in range(20):
        path = tmp_path / "model.tflite"
        path.write_bytes(write(generate.random_residual(np.random.default_rng(seed))))
        graph = read_model(path)
        fused += any(layer.operator != "ADD" for layer in added(graph, PROVEN))
        exact += any(layer.operator == "ADD" for layer in added(graph, EVERY_FORM))
    assert fused >= 10
    assert exact == 20


def test_scales_far_apart_need_more_than_one_task(tmp_path: Path) -> None:
    """So that the family of that name is a test of classes and of the selection between them."""
    several = 0
    for seed in range(20):
        path = tmp_path / "model.tflite"
        path.write_bytes(write(FAMILIES["scales far apart"](np.random.default_rng(seed))))
        graph = read_model(path)
        several += len(convolutions_of(graph, EVERY_FORM)) > len(graph.nodes)
    assert several >= 3


@pytest.mark.parametrize("family", [*EQUAL, "per channel"])
def test_lowered_sums_are_the_models(family: str, tmp_path: Path) -> None:
    """Weights, zero points, padding and bias of a layer, against the sums that the model's definition gives.

    With a scale a channel the bias may be another, one that meets the product with a factor of 15 bits.
    """
    for seed in range(20):
        rng = np.random.default_rng(seed)
        model = FAMILIES[family](rng)
        path = tmp_path / "model.tflite"
        path.write_bytes(write(model))
        layers = convolutions_of(read_model(path), EVERY_FORM)
        (source,) = generate.random_inputs(rng, model)
        sums = silicon.accumulators(layers[0], silicon.to_domain(source), *layers[0].output.shape[1:3])
        difference = sums - reference.convolution_sums(model, model.operators[0], source)
        assert (difference == difference[0, 0, 0] * (family == "per channel")).all()


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
        converter = requantize.plain(real, 1, 0)
        assert (converter.multiplier, converter.shift) == reference.nearest_multiplier(real)
