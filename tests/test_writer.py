"""The tests' own tools: written models load in TFLite and read back; the plain reference is TFLite's, bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import every_operator
import generate
import numpy as np
import pytest
import reference
import tflite_reader
from tflite_writer import Array, Builder, Model, write

from benchmarks.harness import infer, random_inputs, runtime

Interpreters = Callable[[bytes], Any]

FAMILIES: dict[str, Callable[[np.random.Generator], Model]] = {
    "convolution": generate.random_convolution,
    "dilated": lambda rng: generate.random_convolution(rng, dilate=True),
    "depthwise": lambda rng: generate.random_convolution(rng, depthwise=True),
    "depth multiplier": lambda rng: generate.random_convolution(rng, depthwise=True, dilate=True, multiplier=3),
    "addition": generate.random_add,
    "residual": generate.random_residual,
    "graph": generate.random_graph,
}


def outputs_of(model: Model, values: dict[int, Array]) -> list[Array]:
    return [values[index] for index in model.outputs]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_reference_equals_tflites_reference_kernels(family: str, reference_interpreter: Interpreters) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        model = FAMILIES[family](rng)
        inputs = generate.random_inputs(rng, model)
        expected = infer(reference_interpreter(write(model)), inputs)
        for ours, theirs in zip(outputs_of(model, reference.evaluate(model, inputs)), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs, f"{family}, seed {seed}")


@pytest.mark.parametrize("family", ["convolution", "dilated", "depthwise", "depth multiplier"])
@pytest.mark.parametrize("rule", reference.MULTIPLIERS)
def test_the_silicons_requantization_is_within_1_of_tflites(family: str, rule: str) -> None:
    """15 bits of multiplier are wrong by at most 2**-15, so 255 steps by less than a hundredth."""
    requantize = reference.silicon_requantize(reference.MULTIPLIERS[rule])
    for seed in range(30):
        rng = np.random.default_rng(seed)
        model = FAMILIES[family](rng)
        inputs = generate.random_inputs(rng, model)
        silicon = outputs_of(model, reference.evaluate(model, inputs, requantize))
        tflite = outputs_of(model, reference.evaluate(model, inputs))
        for ours, theirs in zip(silicon, tflite, strict=True):
            assert int(np.abs(ours.astype(int) - theirs.astype(int)).max()) <= 1, f"{family}, seed {seed}"


def same_tensors(first: Model, second: Model) -> bool:
    return all(
        (a.shape, a.dtype, a.scale, a.zero_point, a.axis) == (b.shape, b.dtype, b.scale, b.zero_point, b.axis)
        and (a.data is None) == (b.data is None)
        and (a.data is None or np.array_equal(a.data, b.data))  # type: ignore[arg-type]
        for a, b in zip(first.tensors, second.tensors, strict=True)
    )


def with_single_precision(options: Mapping[str, Any] | None) -> dict[str, Any]:
    return {k: float(np.float32(v)) if isinstance(v, float) else v for k, v in (options or {}).items()}


def written_models() -> Iterator[Model]:
    for family in FAMILIES.values():
        yield from (family(np.random.default_rng(seed)) for seed in range(10))
    yield from (every_operator.build(name, dtype) for name in every_operator.CASES for dtype in ("int8", "uint8"))


def test_written_models_read_back() -> None:
    for model in written_models():
        again = tflite_reader.read(write(model))
        assert same_tensors(model, again)
        assert (again.inputs, again.outputs) == (model.inputs, model.outputs)
        for written, read in zip(model.operators, again.operators, strict=True):
            assert (written.op, written.inputs, written.outputs) == (read.op, read.inputs, read.outputs)
            assert read.options == {**read.options, **with_single_precision(written.options)}


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_a_model_of_several_partitions_runs_on_the_cpu(dtype: str, reference_interpreter: Interpreters) -> None:
    model = generate.partitioned(np.random.default_rng(5), dtype)
    interpreter = reference_interpreter(write(model))
    results = [infer(interpreter, generate.random_inputs(np.random.default_rng(seed), model))[0] for seed in range(8)]
    assert np.stack(results).std(axis=0).min() > 2  # the logits depend on the input, each of them


@pytest.mark.parametrize("name", every_operator.CASES)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_every_operator_runs_on_tflites_reference_kernels(
    dtype: str, name: str, reference_interpreter: Interpreters
) -> None:
    """In the shape and type that the writer says, or TFLite has no kernel for it."""
    model = every_operator.build(name, dtype)
    if name in every_operator.REFUSED[dtype]:
        if not runtime().__name__.startswith("tflite_runtime"):
            pytest.skip("what is refused is listed for tflite-runtime")
        with pytest.raises((RuntimeError, ValueError)):
            infer(reference_interpreter(write(model)), generate.random_inputs(np.random.default_rng(1), model))
        return
    interpreter = reference_interpreter(write(model))
    results = infer(interpreter, random_inputs(interpreter, np.random.default_rng(1)))
    for index, values in zip(model.outputs, results, strict=True):
        assert (values.shape, str(values.dtype)) == (model.tensors[index].shape, model.tensors[index].dtype)
        assert np.unique(values).size >= 6  # something that depends on the input


def test_per_channel_weights_run_and_equal_the_reference(reference_interpreter: Interpreters) -> None:
    rng = np.random.default_rng(5)
    builder = Builder()
    source = builder.tensor((1, 6, 7, 5), "int8", 0.05, -3)
    weight = rng.integers(-127, 128, (9, 3, 3, 5)).astype(np.int8)
    scales = rng.uniform(0.001, 0.02, 9).tolist()
    current = builder.convolution(source, weight, scales, (0.3, 4), bias=rng.integers(-900, 900, 9).astype(np.int32))
    model = builder.finish([source], [current])
    inputs = generate.random_inputs(rng, model)
    (expected,) = infer(reference_interpreter(write(model)), inputs)
    np.testing.assert_array_equal(reference.evaluate(model, inputs)[model.outputs[0]], expected)


@pytest.mark.parametrize(
    ("scales", "expected"), [((0.03657235, 0.00079638, 0.00691164), (17675, 22)), ((1.0, 0.5, 1.0), (16385, 15))]
)
def test_multiplier_of_s09(scales: Sequence[float], expected: tuple[int, int]) -> None:
    """The first is a capture (S-09); of a power of two the rule makes one step too much."""
    assert reference.upper_multiplier(scales[0] * scales[1] / scales[2]) == expected


@pytest.mark.parametrize("real", [1 - 2**-17, 0.5 - 2**-20, 2.0, 1 / 3, 3e-5])
def test_nearest_multiplier_is_within_half_a_step(real: float) -> None:
    multiplier, shift = reference.nearest_multiplier(real)
    assert 1 << 14 <= multiplier < 1 << 15
    assert abs(multiplier / 2**shift - real) <= 2.0 ** -(shift + 1)


def test_half_to_even_vectors_of_s04() -> None:
    sums = np.array([1, 3, -1, -3, 5])
    assert reference.shift_half_to_even(sums * 0x4000, 15).tolist() == [0, 2, 0, -2, 2]
