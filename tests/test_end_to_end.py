"""Interpreters with the delegate on the simulator: the same answers however they are used, and no memory lost."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite_writer
from chosen import on_device
from generate import Rng, random_inputs, random_weights

import delegate
from benchmarks import harness

pytestmark = pytest.mark.device

Interpreters = Callable[..., Any]
Arrays = list[np.ndarray[Any, Any]]
KIB_PER_PAGE = 4


def network(rng: Rng, dtype: str, size: tuple[int, int] = (12, 16)) -> tflite_writer.Model:
    """Convolutions, a residual addition, a pool for the CPU, and a convolution behind it."""
    builder = tflite_writer.Builder()
    limits = np.iinfo(dtype)
    middle = (int(limits.min) + int(limits.max) + 1) // 2
    source = builder.tensor((1, *size, 3), dtype, 0.02, middle)

    def layer(tensor: int, channels: int, kernel: int, scale: float, **options: Any) -> int:
        depthwise = options.get("depthwise", False)
        inputs = builder.tensors[tensor].shape[3]
        weight, zero_point = random_weights(rng, (1 if depthwise else channels, kernel, kernel, inputs), dtype)
        bias = rng.integers(-500, 500, channels).astype(np.int32)
        output = (scale, int(limits.min) if options.get("activation") else middle)
        return builder.convolution(tensor, weight, 0.01, output, weight_zero_point=zero_point, bias=bias, **options)

    first = layer(source, 24, 3, 0.05, stride=(2, 2), activation="RELU6")
    second = layer(first, 24, 3, 0.1, depthwise=True)
    third = layer(second, 24, 1, 0.2)
    added = builder.add(third, second, (0.3, middle), "RELU")
    pooled = builder.pool(added, "AVERAGE_POOL_2D", (3, 3), (1, 1))
    last = layer(pooled, 10, 1, 0.5, padding="VALID")
    return builder.finish([source], [last])


@pytest.fixture(scope="module", params=["uint8", "int8"])
def model(request: pytest.FixtureRequest) -> tflite_writer.Model:
    return network(np.random.default_rng(7), request.param)


def many_inputs(model: tflite_writer.Model, count: int) -> list[Arrays]:
    rng = np.random.default_rng(11)
    return [random_inputs(rng, model) for _ in range(count)]


def assert_equal(left: list[Arrays], right: list[Arrays]) -> None:
    for one, other in zip(left, right, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def assert_close(left: list[Arrays], right: list[Arrays], steps: int) -> None:
    """No element differs by more than ``steps`` of quantization."""
    for one, other in zip(left, right, strict=True):
        for a, b in zip(one, other, strict=True):
            assert np.abs(a.astype(int) - b.astype(int)).max() <= steps


def test_the_answers_are_tflites(
    model: tflite_writer.Model, npu_interpreter: Interpreters, reference_interpreter: Interpreters
) -> None:
    """Within 2: a difference of 1 in a layer can become one more in the next."""
    content = tflite_writer.write(model)
    npu, reference = npu_interpreter(content), reference_interpreter(content)
    inputs = many_inputs(model, 5)
    assert_close([harness.infer(npu, i) for i in inputs], [harness.infer(reference, i) for i in inputs], 2)


def test_ten_images_in_a_row_are_as_one_each(model: tflite_writer.Model, npu_interpreter: Interpreters) -> None:
    content, inputs = tflite_writer.write(model), many_inputs(model, 10)
    one = npu_interpreter(content)
    in_a_row = [harness.infer(one, i) for i in inputs]
    assert_equal(in_a_row, [harness.infer(npu_interpreter(content), i) for i in inputs])
    assert_equal(in_a_row[:1], [harness.infer(one, inputs[0])])
    assert len({answer[0].tobytes() for answer in in_a_row}) == len(inputs)


@pytest.mark.parametrize("shares_delegate", [False, True])
def test_interpreters_in_threads_do_not_disturb_each_other(
    model: tflite_writer.Model, npu_interpreter: Interpreters, shares_delegate: bool
) -> None:
    """Two interpreters at once, of two models, each in its thread from its making to its end."""
    other = network(np.random.default_rng(8), model.tensors[0].dtype, (9, 20))
    models = (model, other)
    contents = [tflite_writer.write(m) for m in models]
    inputs = [many_inputs(m, 12) for m in models]
    expected = []
    for content, images in zip(contents, inputs, strict=True):
        alone = npu_interpreter(content)
        expected.append([harness.infer(alone, image) for image in images])
    shared = delegate.load(**on_device())
    barrier = threading.Barrier(len(models))

    def work(index: int) -> list[Arrays]:
        barrier.wait()
        if shares_delegate:
            module = harness.runtime()
            made = module.Interpreter(model_content=contents[index], experimental_delegates=[shared])
            made.allocate_tensors()
        else:
            made = npu_interpreter(contents[index])
        return [harness.infer(made, image) for image in inputs[index] for _ in range(2)][::2]

    with ThreadPoolExecutor(len(models)) as pool:
        results = list(pool.map(work, range(len(models))))
    for result, answer in zip(results, expected, strict=True):
        if shares_delegate:  # these have TFLite's fast kernels below them, of which the pool may round otherwise
            assert_close(result, answer, 1)
        else:
            assert_equal(result, answer)


def test_a_resized_interpreter_is_as_a_new_one(npu_interpreter: Interpreters) -> None:
    sizes = [(12, 16), (16, 12), (12, 16), (21, 9)]
    made = npu_interpreter(tflite_writer.write(network(np.random.default_rng(3), "int8")))
    index = made.get_input_details()[0]["index"]
    for size in sizes:
        made.resize_tensor_input(index, (1, *size, 3))
        made.allocate_tensors()
        resized = network(np.random.default_rng(3), "int8", size)
        fresh = npu_interpreter(tflite_writer.write(resized))
        inputs = many_inputs(resized, 3)
        assert_equal([harness.infer(made, i) for i in inputs], [harness.infer(fresh, i) for i in inputs])


def flattened(rng: np.random.Generator) -> tflite_writer.Model:
    """A convolution, its pixels in a row whose length is computed as converters of models without a batch size do."""
    builder = tflite_writer.Builder()
    source = builder.tensor((1, 6, 6, 8), "int8", 0.05, 3)
    weight, last = rng.integers(-127, 128, (16, 3, 3, 8), np.int8), rng.integers(-127, 128, (10, 144), np.int8)
    features = builder.convolution(source, weight, 0.01, (0.1, 0), bias=np.zeros(16, np.int32), stride=(2, 2))
    shape = builder.operator(
        "SHAPE", (features,), builder.tensor((4,), "int32"), {"OutType": tflite_writer.TYPES["int32"]}
    )
    batch = builder.strided_slice(shape, (0,), (1,), (1,), shrink_axis_mask=1)
    wanted = builder.pack([batch, builder.scalar(144)], 0)
    row = builder.operator("RESHAPE", (features, wanted), builder.like(features, (1, 144)))
    result = builder.fully_connected(row, last, 0.01, (0.3, 0), bias=np.zeros(10, np.int32))
    return builder.finish([source], [result])


def test_shapes_that_are_computed_while_the_model_runs(
    npu_interpreter: Interpreters, reference_interpreter: Interpreters
) -> None:
    """Such a tensor is dynamic for TFLite, which asks what reads it for its shapes at each invoke."""
    model = flattened(np.random.default_rng(3))
    content = tflite_writer.write(model)
    made, reference = npu_interpreter(content), reference_interpreter(content)
    index = made.get_input_details()[0]["index"]
    for batch in (1, 1, 3, 2):
        for interpreter in (made, reference):
            interpreter.resize_tensor_input(index, (batch, 6, 6, 8))
            interpreter.allocate_tensors()
        image = np.random.default_rng(batch).integers(-128, 128, (batch, 6, 6, 8), np.int8)
        assert_equal(harness.infer(made, [image]), harness.infer(reference, [image]))


def resident_kib() -> int:
    """Memory of this process, in KiB, after all that can be freed is."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * KIB_PER_PAGE


def test_memory_does_not_grow_over_invokes(npu_interpreter: Interpreters) -> None:
    """Less than 1.3 KiB an invoke; the smallest tensor of this model has 2."""
    model = network(np.random.default_rng(5), "uint8", (48, 64))
    made, inputs = npu_interpreter(tflite_writer.write(model)), many_inputs(model, 1)[0]
    for _ in range(40):
        harness.infer(made, inputs)
    before = resident_kib()
    for _ in range(200):
        harness.infer(made, inputs)
    assert resident_kib() - before < 256


def test_memory_does_not_grow_over_interpreters(npu_interpreter: Interpreters) -> None:
    """Each has some MiB of tensors, weights and simulated memory, which must all come back."""
    model = network(np.random.default_rng(5), "uint8", (48, 64))
    content, inputs = tflite_writer.write(model), many_inputs(model, 1)[0]
    for _ in range(8):
        harness.infer(npu_interpreter(content), inputs)
    before = resident_kib()
    for _ in range(24):
        harness.infer(npu_interpreter(content), inputs)
    assert resident_kib() - before < 1024


def test_mobilenet_repeats_its_answer(
    shared: Path, npu_interpreter: Interpreters, reference_interpreter: Interpreters
) -> None:
    """Pictures and noise through one interpreter, then the pictures again; Grace Hopper's scores are within 0.02."""
    content = (shared / "models" / "mobilenet_v1_0.25_128_quant.tflite").read_bytes()
    npu, reference = npu_interpreter(content), reference_interpreter(content)
    pictures = [harness.picture_inputs(npu, shared / "models" / name) for name in harness.PICTURES]
    inputs = [picture for picture in pictures if picture is not None]
    assert len(inputs) == len(harness.PICTURES)
    answers = [harness.infer(npu, i) for i in inputs]
    assert_close(answers[:1], [harness.infer(reference, inputs[0])], 5)  # of 256
    rng = np.random.default_rng(2)
    for _ in range(6):
        harness.infer(npu, harness.random_inputs(npu, rng))
    assert_equal(answers, [harness.infer(npu, i) for i in inputs])
