"""``python -m delegate accuracy``: what it measures on models whose answer is known, and what it says."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import every_operator
import generate
import numpy as np
import pytest
from chosen import DEVICE, on_device
from PIL import Image
from tflite_writer import Array, Builder, Model, write
from typer.testing import CliRunner

from benchmarks import harness
from delegate.__main__ import app
from delegate.hw.soc import NORM_SHIFT
from delegate.runtime import Session
from delegate.tflite import read_graph
from delegate.tools.accuracy import measure as measuring
from delegate.tools.accuracy import xnnpack
from delegate.tools.accuracy.causes import CARRIED, Cause, merged
from delegate.tools.accuracy.counts import Difference, difference
from delegate.tools.accuracy.inputs import RANDOM_INPUTS, Request, make_inputs
from delegate.tools.accuracy.measure import ModelResult, measure
from delegate.tools.accuracy.models import (
    ModelFile,
    infer,
    model_files,
    reference_interpreter,
    with_outputs,
)
from delegate.tools.accuracy.xnnpack import Peer

EMBEDDED = harness.ROOT / "models" / "mobilenet_digits.tflite"
RNG = np.random.default_rng


def run(*arguments: object) -> tuple[int, str]:
    """(exit status, what is printed)."""
    result = CliRunner().invoke(app, ["accuracy", *map(str, arguments), "--device", DEVICE])
    return result.exit_code, result.output


def saved(model: Model, folder: Path, name: str = "model") -> Path:
    path = folder / f"{name}.tflite"
    path.write_bytes(write(model))
    return path


def measured(path: Path, request: Request | None = None, **options: str) -> ModelResult:
    return measure(ModelFile(path), request or Request(), on_device(**options), lambda step: None)


def feature(builder: Builder, channels: int = 20, scale: float = 0.05) -> int:
    return builder.tensor((1, 9, 8, channels), "int8", scale, -3)


def convolved(builder: Builder, source: int, channels: int = 20, stride: int = 1) -> int:
    inputs = builder.tensors[source].shape[3]
    weight = RNG(channels).integers(-127, 128, (channels, 3, 3, inputs)).astype(np.int8)
    bias = RNG(1).integers(-900, 900, channels).astype(np.int32)
    return builder.convolution(source, weight, 0.004, (0.08, 5), bias=bias, stride=(stride, stride))


def every_kind(builder: Builder, source: int) -> Sequence[int]:
    """Every operator that the NPU takes, in a row."""
    first = convolved(builder, source)
    depthwise = RNG(5).integers(-127, 128, (1, 3, 3, 20)).astype(np.int8)
    second = builder.convolution(first, depthwise, [0.02 + 0.001 * n for n in range(20)], (0.1, 2), depthwise=True)
    added = builder.add(first, second, (0.15, 1))
    largest, least = builder.maximum(added, added), builder.minimum(added, added)
    joined = builder.concatenation([largest, least], builder_quantization(builder, added))
    pooled = builder.pool(joined, "AVERAGE_POOL_2D", (3, 2), (1, 1))
    meant = builder.mean(pooled, (0.12, 0), keep=False)
    weight = RNG(6).integers(-127, 128, (10, 40)).astype(np.int8)
    return [builder.fully_connected(meant, weight, 0.01, (0.2, 4), bias=np.zeros(10, np.int32))]


def builder_quantization(builder: Builder, tensor: int) -> tuple[float, int]:
    spec = builder.tensors[tensor]
    return spec.scale[0], spec.zero_point[0]


def with_the_cpu_between(builder: Builder, source: int) -> Sequence[int]:
    """A softmax, then an addition in place, as TFLite does it."""
    near, far = convolved(builder, source), builder.softmax(source)
    again = convolved(builder, far)
    return [convolved(builder, near), again]


def build(outputs: Callable[[Builder, int], Sequence[int]]) -> Model:
    builder = Builder()
    source = feature(builder)
    return builder.finish([source], outputs(builder, source))


@pytest.mark.parametrize("unproven", ["auto", "never"])
def test_every_operator_is_hardware_exact_and_within_one(unproven: str, tmp_path: Path) -> None:
    result = measured(saved(build(every_kind), tmp_path), unproven=unproven)
    assert not result.error and not result.refused and not result.failed
    assert (result.npu_nodes, result.partitions) == (result.nodes, 1)
    assert len(result.inputs) == RANDOM_INPUTS
    for layer in result.layers:
        assert layer.npu and layer.hardware.elements and layer.hardware.equal, layer.operator
        assert layer.isolated.elements and layer.isolated.maximum <= 1, layer.operator
        assert bool(layer.causes) != (layer.isolated.equal and layer.in_place.equal), layer.operator
    assert any(NORM_SHIFT in layer.forms for layer in result.layers) == (unproven == "auto")
    assert result.partition_outputs.elements == 2 * 10 == result.outputs.elements
    assert result.top1 is not None and result.top1[1] == 2


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_whatever_operator_the_npu_takes(dtype: str, tmp_path: Path) -> None:
    """Of all operators that the tests' writer has; those that the NPU refuses are in the report all the same."""
    taken = set()
    for name in every_operator.CASES:
        result = measured(saved(every_operator.build(name, dtype), tmp_path))
        assert not result.failed, f"{name}: {result.error}"
        assert bool(result.refused) == (name in every_operator.REFUSED[dtype]), f"{name}: {result.refused}"
        for layer in result.layers:
            assert layer.npu or not layer.hardware.elements
            assert layer.isolated.maximum <= 1, name
            if layer.npu and not layer.alias:
                assert layer.hardware.elements and layer.isolated.elements, name
                taken.add(layer.operator)
    assert taken >= {"CONV_2D", "DEPTHWISE_CONV_2D", "MAXIMUM", "MINIMUM"}


def test_cpu_operators_between_partitions(tmp_path: Path) -> None:
    result = measured(saved(build(with_the_cpu_between), tmp_path))
    assert [layer.npu for layer in result.layers] == [True, False, True, True]
    assert not result.failed and result.partitions == 2 and result.npu_nodes == 3
    assert result.outputs.equal and result.top1 is None
    assert result.layers[1].hardware.elements == 0


def test_an_addition_that_a_convolution_does_is_one_layer(tmp_path: Path) -> None:
    fused = []
    for seed in range(6):
        result = measured(saved(generate.random_residual(RNG(seed)), tmp_path), unproven="never")
        assert not result.failed
        fused += [layer for layer in result.layers if layer.operator == "CONV_2D+ADD"]
    assert fused and all(layer.isolated.elements and layer.isolated.maximum <= 1 for layer in fused)
    assert any("fused addition" in cause.text for layer in fused for cause in layer.causes)


def test_the_embedded_model(tmp_path: Path) -> None:
    """Pictures of its own, one partition, all of them recognized as TFLite does; layers, JSON and Markdown."""
    file = tmp_path / "report.json"
    status, printed = run(EMBEDDED, "--json", "-o", file)
    assert status == 0
    assert "top-1: the reference's class on 10 of 10 inputs" in printed
    report = json.loads(file.read_text())
    (model,) = report["models"]
    assert not report["failed"] and (model["nodes"], model["npu_nodes"]) == (31, 30)
    assert model["inputs"] == sorted(path.name for path in (EMBEDDED.parent / "images").iterdir())
    assert model["hardware"]["exact"] == model["hardware"]["elements"] > 1_000_000
    assert model["xnnpack_drift"]["elements"] == model["drift"]["elements"] == 100
    assert [layer["npu"] for layer in model["layers"]] == [True] * 30 + [False]


def flipped(invoke: Callable[..., None], at: Callable[[Session], bool]) -> Callable[..., None]:
    """A device that flips the lowest bit of the last number of a result."""

    def broken(session: Session, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        invoke(session, inputs, outputs)
        if at(session):
            outputs[-1].reshape(-1)[-1] ^= 1

    return broken


@pytest.mark.parametrize(
    ("where", "wrong"),
    [
        (lambda session: True, ("partitions as delegated: 2 elements", "node 0 CONV_2D", "node 1 CONV_2D")),
        (
            lambda session: len(session.program.layers) == 1,
            ("node 0 CONV_2D: 2 elements", "node 1 CONV_2D: 2 elements"),
        ),
        (lambda session: len(session.program.outputs) == 2, ("node 1 CONV_2D: 2 elements",)),
    ],
)
def test_a_device_with_one_wrong_bit_is_found(
    where: Callable[[Session], bool], wrong: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(build(lambda builder, source: [convolved(builder, convolved(builder, source))]), tmp_path)
    assert run(path)[0] == 0
    monkeypatch.setattr(Session, "invoke", flipped(Session.invoke, where))
    status, printed = run(path)
    assert status == 1
    assert all(text in printed for text in wrong)
    assert "are NOT" in printed


def test_a_model_of_the_silicon_that_errs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle is asked, not only the device's own results among each other."""
    path = saved(build(lambda builder, source: [convolved(builder, source)]), tmp_path)
    plain = measuring.silicon.written
    monkeypatch.setattr(measuring.silicon, "written", lambda values, settings: plain(values, settings) ^ 1)
    assert run(path)[0] == 1


def test_folders_and_archives_have_a_line_a_model_and_totals(tmp_path: Path) -> None:
    for seed in range(2):
        saved(generate.random_convolution(RNG(seed)), tmp_path, f"small{seed}")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("inside.tflite", write(generate.random_add(RNG(3))))
        archive.writestr("damaged.tflite", b"nothing")
    file = tmp_path / "report.md"
    status, printed = run(tmp_path, "--random", 1, "-o", file)
    assert status == 0
    assert "TFLite does not run it" in printed
    text = file.read_text()
    assert all(f"| {name} |" in text for name in ("small0", "small1", "more/inside"))
    assert "| others | 2 | 2 |" in text and "| more | 1 | 1 |" in text
    assert "python -m delegate" in text and "not hardware" not in text


def test_a_file_that_is_no_model_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "text.tflite"
    path.write_text("not a model")
    status, printed = run(path)
    assert status == 1 and "TFLite does not run it" in printed


def test_pictures_of_a_folder(tmp_path: Path) -> None:
    builder = Builder()
    source = builder.tensor((1, 12, 10, 3), "uint8", 1 / 128, 128)
    weight = RNG(0).integers(0, 256, (5, 3, 3, 3)).astype(np.uint8)
    made = builder.convolution(source, weight, 0.01, (0.1, 128), weight_zero_point=128, bias=np.zeros(5, np.int32))
    path = saved(builder.finish([source], [made]), tmp_path)
    images = tmp_path / "photos"
    images.mkdir()
    for name in ("b.png", "a.jpg"):
        Image.fromarray(RNG(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(images / name)
    (images / "notes.txt").write_text("no picture")
    found = measured(path, Request(images, 1))
    assert found.inputs == ("a.jpg", "b.png", "random 0") and not found.failed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere/a.tflite"], "does not exist"),
        ([EMBEDDED, "--images", "/nowhere"], "does not exist"),
        ([EMBEDDED, "--unproven", "perhaps"], "auto, never, always"),
        ([EMBEDDED, "--json", "--markdown"], "exclude each other"),
    ],
)
def test_what_is_wrong_with_the_command_line_is_said(arguments: list[object], message: str) -> None:
    result = CliRunner().invoke(app, ["accuracy", *map(str, arguments)])
    assert result.exit_code != 0 and message in str(result.exception)


def test_tensors_inside_a_model_are_not_written_over(tmp_path: Path) -> None:
    """TFLite adds in place, and then an inner tensor has another's numbers; an output keeps its own."""
    builder = Builder()
    source = feature(builder)
    inner = convolved(builder, source)
    content = write(builder.finish([source], [convolved(builder, builder.add(inner, inner, (0.16, 5)))]))
    inputs = [RNG(0).integers(-128, 128, (1, 9, 8, 20)).astype(np.int8)]
    alone = write(builder.finish([source], [inner]))
    (wanted,) = infer(reference_interpreter(with_outputs(alone, [inner])), inputs)
    changed = with_outputs(content, [inner, source])
    got, untouched = infer(reference_interpreter(changed), inputs)
    np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(untouched, inputs[0])


def test_xnnpack_takes_8_bit_operators_and_may_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    content, inputs = EMBEDDED.read_bytes(), [[RNG(0).integers(-128, 128, (1, 96, 96, 3)).astype(np.int8)]]
    with closing(Peer()) as peer:
        (scores,) = peer.outputs(content, 31, inputs)
        assert scores.shape == (1, 10)
        partitions = 2
        assert peer.outputs(content, 31 + partitions, inputs) == "XNNPACK takes no operator"
        monkeypatch.setattr(xnnpack, "outputs_here", crash)
        assert peer.outputs(content, 31, inputs) == "XNNPACK crashes"


def crash(*arguments: object) -> None:
    os.abort()


def test_random_inputs_are_the_seeds() -> None:
    graph = read_graph(EMBEDDED.read_bytes())
    first, again, other = (make_inputs(graph, (), Request(None, 1, seed))[0].arrays[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and (first.min(), first.max()) == (-128, 127)


def test_counts_add_up() -> None:
    a = difference(np.array([0, -128, 5], np.int8), np.array([1, 127, 5], np.int8))
    assert a == Difference(3, 1, 2, 255, 256) and a.mean == pytest.approx(256 / 3)
    assert a + Difference() == a and (a + a).elements == 6 and not a.equal
    floats = difference(np.array([0.0, 255.0], np.float32), np.array([0.0, 253.5], np.float32))
    assert floats == Difference(2, 1, 1, 2, 2)


def test_causes_are_merged() -> None:
    causes = [Cause("a", 1, 1, 0.1), Cause(CARRIED, 9, 3), Cause("a", 2, 2, 0.3)]
    assert merged(causes) == (Cause(CARRIED, 9, 3), Cause("a", 3, 2, 0.3))


def test_models_are_found_in_folders_and_archives(tmp_path: Path) -> None:
    for name in ("mb10.tflite", "mb2.tflite"):
        (tmp_path / name).write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("a.tflite", b"inside")
        archive.writestr("readme.txt", b"")
    found = list(model_files([tmp_path]))
    assert [file.name for file in found] == ["mb2", "mb10", "more/a"]
    assert found[2].read() == b"inside"
