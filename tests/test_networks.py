"""Whole networks on pictures: TFLite's own numbers, or what the silicon's arithmetic gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chosen import on_device
from layers import EVERY_FORM, PROVEN, TARGETS
from test_accuracy import UNPROVEN, Interpreters, on_silicon
from tflite_writer import Array

from benchmarks import harness
from benchmarks.harness import infer
from delegate.hw.soc import Target
from delegate.ir import Graph
from delegate.options import parse
from delegate.partition import taken, verdicts
from delegate.runtime import Session
from delegate.tflite import read_model

pytestmark = pytest.mark.device


def pictures_of(plain: Any, shared: Path) -> dict[str, list[Array]]:
    """The four pictures as inputs of a model, by name."""
    found = {name: harness.picture_inputs(plain, shared / "models" / name) for name in harness.PICTURES}
    return {name: inputs for name, inputs in found.items() if inputs is not None}


def work_of(graph: Graph, target: Target) -> tuple[int, int]:
    """(convolutions and additions, those of them on the NPU)."""
    found = verdicts(graph, target)
    nodes = [node for node in graph.nodes if node.op in ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD")]
    return len(nodes), sum(not found[node.index] for node in nodes)


def partition_output(graph: Graph, inputs: list[Array], forms: str) -> tuple[int, Array]:
    """(tensor that leaves the only partition, its values): TFLite may use its memory again behind it."""
    (part,) = taken(graph, TARGETS[forms])
    (index,) = part.outputs
    tensor = part.tensors[index]
    session = Session(part, parse(on_device(unproven=UNPROVEN[forms]), {}))
    values = np.zeros(tensor.shape, tensor.dtype)
    session.invoke(inputs, [values])
    session.close()
    return index, values


UINT8_NETWORKS = {
    "mobilenet_v1_1.0_224_quant": 28,
    "mobilenet_v1_0.25_128_quant": 28,
    "mobilenet_v1_0.75_192_quant": 28,
    "mobilenet_v2_1.0_224_inat_bird_quant": 62,
}  # and their convolutions and additions


@pytest.mark.slow
@pytest.mark.parametrize("name", UINT8_NETWORKS)
def test_a_uint8_network_gives_the_references_own_numbers(
    name: str, shared: Path, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    """Every convolution and addition on the NPU; every output of every picture equal to TFLite's."""
    path = shared / "models" / f"{name}.tflite"
    content, graph = path.read_bytes(), read_model(path)
    assert work_of(graph, EVERY_FORM) == (UINT8_NETWORKS[name], UINT8_NETWORKS[name])
    plain, npu = reference_interpreter(content), npu_interpreter(content)
    labels = (shared / "models" / "imagenet_labels.txt").read_text().splitlines()
    for picture, inputs in pictures_of(plain, shared).items():
        (expected,), (got,) = infer(plain, inputs), infer(npu, inputs)
        np.testing.assert_array_equal(got, expected, picture)
        if (name, picture) == ("mobilenet_v1_1.0_224_quant", "grace_hopper.bmp"):
            assert "military uniform" in labels[int(got.argmax())]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v1_1.0_224_quant", "mobilenet_v1_0.25_128_quant"])
def test_mobilenet_v1_sees_what_the_cpu_sees_with_proven_forms(
    name: str, shared: Path, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    """All 28 convolutions in one partition, on every picture what the silicon's arithmetic gives.

    Through 28 layers of 15-bit multipliers a score drifts from TFLite's by a few 256ths, in the simulator and in the
    plain model alike; 0.02 is asked of the picture for which the issue states it.
    """
    path = shared / "models" / f"{name}.tflite"
    content, graph = path.read_bytes(), read_model(path)
    assert work_of(graph, PROVEN) == (28, 28)
    (part,) = taken(graph, PROVEN)
    plain, npu = reference_interpreter(content), npu_interpreter(content, unproven="never")
    for picture, inputs in pictures_of(plain, shared).items():
        (expected,), (got,) = infer(plain, inputs), infer(npu, inputs)
        index, logits = partition_output(graph, inputs, "proven")
        np.testing.assert_array_equal(logits, on_silicon(part, PROVEN, inputs)[index], picture)
        best = int(expected.argmax())
        assert got.argmax() == best, picture
        if picture == "grace_hopper.bmp":
            assert abs(float(got[0, best]) - float(expected[0, best])) / 256 <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("forms", TARGETS)
def test_a_network_with_a_scale_for_each_channel_sees_what_the_cpu_sees(
    forms: str, shared: Path, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    """MobileNet V2 as the converter of TensorFlow 2 quantizes it: all convolutions and additions on the NPU."""
    path, target = shared / "models" / "tf2_mobilenet_v2_1.0_224_ptq.tflite", TARGETS[forms]
    content, graph = path.read_bytes(), read_model(path)
    (part,) = taken(graph, target)
    assert work_of(graph, target) == (63, 63)
    plain, npu = reference_interpreter(content), npu_interpreter(content, unproven=UNPROVEN[forms])
    for picture, inputs in pictures_of(plain, shared).items():
        (expected,), (got,) = infer(plain, inputs), infer(npu, inputs)
        index, logits = partition_output(graph, inputs, forms)
        np.testing.assert_array_equal(logits, on_silicon(part, target, inputs)[index], picture)
        assert got.argmax() == expected.argmax(), picture
