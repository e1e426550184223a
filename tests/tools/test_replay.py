"""``python -m delegate replay`` over the captures beside the project: a fixed part in the quick tests, then all."""

from __future__ import annotations

import subprocess
import sys
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import reference
import tflite_reader

from benchmarks import harness
from delegate.errors import DelegateError
from delegate.tools.capture import load
from delegate.tools.captured.model import find_model, recorded_inputs
from delegate.tools.captured.play import play, statistics
from delegate.tools.captured.relocate import relocate
from delegate.tools.captured.upstream import (
    coefficients,
    convolution_of,
    has_contents,
    pack_biases,
    pack_weights,
)
from delegate.tools.replay_command import Request, replay_one
from delegate.tools.replay_summary import run_row, same_results, write_summary, wrong

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = harness.SHARED / "golden"
PROGRAMS = "programs"
QUICK_MODELS, QUICK_SWEEP, QUICK_PROGRAMS = 12, 20, 30
NETWORK = "mobilenet_v1_0.25_128_quant"
TIMEOUT = 60.0  # seconds for a capture; the largest takes two


@cache
def names() -> tuple[str, ...]:
    return tuple(sorted(str(file.parent.relative_to(GOLDEN)) for file in GOLDEN.rglob("stream.json.gz")))


def drawn(candidates: list[str], count: int) -> list[str]:
    """A fixed draw that does not depend on what else is there."""
    return sorted(sorted(candidates, key=lambda name: zlib.crc32(name.encode()))[:count])


def quick() -> list[str]:
    """The part of the captures that is replayed in every run of the tests."""
    models = [name for name in names() if "/" not in name and not name.startswith("mobilenet")]
    sweep = [name for name in names() if name.startswith("sweep/")]
    programs = [name for name in names() if name.startswith(PROGRAMS)]
    chosen = [*drawn(models, QUICK_MODELS), *drawn(sweep, QUICK_SWEEP), *drawn(programs, QUICK_PROGRAMS)]
    return [*chosen, NETWORK] if names() else []


@pytest.mark.parametrize("name", quick())
def test_part_of_the_captures(name: str):
    """Runs, gives the same at other addresses, and every operation and every result is right or explained."""
    row = run_row(GOLDEN / name, TIMEOUT)
    assert not wrong(row), row
    if name.startswith(PROGRAMS):
        assert row.case is not None


@pytest.mark.slow
def test_the_table_of_all_captures_is_fresh(shared: Path, tmp_path: Path):
    """docs/replay.md is what its command writes, with nothing unexplained."""
    written = tmp_path / "replay.md"
    assert write_summary([Path("../shared/golden")], written, TIMEOUT) == 0
    assert written.read_text() == (ROOT / "docs" / "replay.md").read_text()


def test_there_are_as_many_captures_as_the_readme_says(shared: Path):
    assert len([name for name in names() if "/" not in name]) == 85
    assert len([name for name in names() if name.startswith("sweep/")]) == 201


def test_upstream_packing_is_proved_by_every_buffer(shared: Path):
    """Weights and biases packed from the models have the recorded sha256, stored or not, but for depth multipliers."""
    proved = 0
    for name in names():
        capture = load(GOLDEN / name)
        model = find_model(capture)
        if model is None or not capture.submits:
            continue
        packed = dict(coefficients(replace(capture, submits=()), model.graph)) if not multiplied(model) else {}
        proved += len(packed)
        for handle, content in packed.items():
            stored = capture.submits[0].contents.get(handle)
            if stored is not None:
                assert np.array_equal(content[: stored.size], stored)
    assert proved > 900


def multiplied(model) -> bool:  # type: ignore[no-untyped-def]
    return any(node.params.get("depth_multiplier", 1) != 1 for node in model.graph.nodes)


def test_weights_that_are_stored_in_part_are_found(shared: Path):
    """A capture with partial weights runs on weights packed from its model."""
    partial = [
        name
        for name in names()
        if any(b.facts.get("stored") == "first 4096 bytes" for b in load(GOLDEN / name).buffers)
    ]
    assert partial
    name = next(name for name in partial if name.startswith("sweep/"))
    capture = load(GOLDEN / name)
    assert not all(has_contents(capture, buffer) for buffer in capture.buffers if buffer.role == "weights")
    played, _ = replay_one(GOLDEN / name, Request(judge=True))
    assert any("packed from" in note for note in played.notes)
    assert all(result.agreement and result.agreement.largest <= 1 for result in played.results)


@pytest.mark.parametrize("name", [name for name in quick() if not name.startswith(PROGRAMS)])
def test_our_tflite_is_tflite(name: str):
    """The arithmetic that operations are judged by: TFLite's own kernels and the tests' own model, on the same input.

    Only first operations have the same input from the model's start on.
    """
    capture = load(GOLDEN / name)
    model = find_model(capture)
    if model is None or len(model.graph.nodes) != 1:
        pytest.skip("no model of one operation")
    played, _ = replay_one(GOLDEN / name, Request(judge=True))
    if not played.results or played.results[0].agreement is None or played.reference is None:
        pytest.skip("nothing ran")
    agreement = played.results[0].agreement
    index = model.graph.outputs[0]
    exact, near, largest = statistics(played.tensors[index], played.reference[index])
    assert (round(exact * agreement.elements), round(near * agreement.elements), largest) == (
        agreement.exact,
        agreement.within_one,
        agreement.largest,
    )
    spec = tflite_reader.read(model.content)
    plain = reference.evaluate(spec, recorded_inputs(model.graph))[index]
    assert np.array_equal(plain, played.reference[index])


@pytest.mark.parametrize("name", ["mb4", "programs/rus-mm_int8-4x64x32", "programs/ab-ew_add_131072_chain"])
def test_only_marked_words_hold_addresses(name: str, shared: Path):
    """At another address the marked words alone differ, and so do all words that the simulator takes for addresses."""
    capture = load(GOLDEN / name)
    moved = relocate(capture, 0x60000000)
    distance = moved.buffers[0].address - capture.buffers[0].address
    for old, new in zip(capture.submits[0].tasks, moved.submits[0].tasks, strict=True):
        changed = np.flatnonzero(old.words != new.words).tolist()
        assert changed == [index for index, _, _ in old.relocations]
        assert new.address - old.address == distance
    first, second = (play(one, None, None, False) for one in (capture, moved))
    assert same_results(first, second)


@pytest.mark.parametrize("name", ["mb4", "sweep/s043", "sweep/multi01", "programs/rus-mm_int8-4x64x32"])
def test_a_device_gives_the_same_bytes(name: str, shared: Path):
    """At its own addresses, for either kernel; upstream's accesses past a buffer find the room they find here."""
    played, _ = replay_one(GOLDEN / name, Request(device="simulator"))
    assert played.checks
    assert {found.where for found in played.checks} == {"device simulator"}
    assert not [found for found in played.checks if found.different]


def test_a_packing_that_does_not_fit_is_refused(shared: Path):
    capture = load(GOLDEN / "mb4")
    model = find_model(capture)
    assert model is not None
    buffer = next(buffer for buffer in capture.buffers if buffer.role == "weights")
    node = convolution_of(capture, model.graph, buffer)
    with pytest.raises(Exception, match="the buffer has 16"):
        pack_weights(node, 16)
    with pytest.raises(Exception, match="the buffer has 16"):
        pack_biases(node, 16, truncated=False)


def test_an_input_of_ones_own(shared: Path, tmp_path: Path):
    """A fed picture goes through TFLite and the simulator alike; one that does not fit is refused."""
    capture = load(GOLDEN / "mb4")
    model = find_model(capture)
    assert model is not None
    shape = model.graph.tensors[model.graph.inputs[0]].shape
    picture = tmp_path / "picture.npy"
    np.save(picture, np.random.default_rng(3).integers(0, 256, shape, np.uint8))
    played, _ = replay_one(GOLDEN / "mb4", Request(inputs=(picture,), judge=True))
    recorded, _ = replay_one(GOLDEN / "mb4", Request(judge=True))
    assert played.reference is not None
    index = model.graph.outputs[0]
    assert statistics(played.tensors[index], played.reference[index])[2] <= 1
    assert not np.array_equal(played.tensors[index], recorded.tensors[index])
    for wrong_array in (np.zeros(shape, np.float32), np.zeros((1, 2, 3, 4), np.uint8)):
        np.save(picture, wrong_array)
        with pytest.raises(DelegateError, match="needs uint8"):
            replay_one(GOLDEN / "mb4", Request(inputs=(picture,)))
    with pytest.raises(DelegateError, match="cannot be read"):
        replay_one(GOLDEN / "mb4", Request(inputs=(tmp_path / "none.npy",)))
    with pytest.raises(DelegateError, match="no inputs that can be fed"):
        replay_one(GOLDEN / "programs" / "ab-ew_add_5", Request(inputs=(tmp_path / "none.npy",)))


def test_the_model_must_be_the_captures(shared: Path):
    with pytest.raises(DelegateError, match=r"not mb4\.tflite of sha256"):
        replay_one(GOLDEN / "mb4", Request(compare=shared / "models" / "mesa-tests" / "mb6.tflite"))


def test_partitions_get_what_the_cpu_computes(shared: Path):
    """The last convolution of the network reads the average pool, which the CPU runs."""
    played, _ = replay_one(GOLDEN / NETWORK, Request(judge=True))
    assert {result.outcome.unit.submit for result in played.results} == {0, 1}
    last = played.results[-1].agreement
    assert last is not None
    assert last.largest <= 1
    index = max(played.tensors)
    assert played.reference is not None
    assert statistics(played.tensors[index], played.reference[index])[2] <= 1


def test_the_command_line(shared: Path, tmp_path: Path):
    """One capture with its model: the report names the operation and TFLite's tensor, the result is written."""
    model = shared / "models" / "mesa-tests" / "mb4.tflite"
    command = [sys.executable, "-m", "delegate", "replay", str(GOLDEN / "mb4"), "--compare", str(model)]
    done = subprocess.run([*command, "-o", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "operation 0 CONV: 1 jobs, 1 tasks, ok" in done.stdout
    assert "100.0000% within 1" in done.stdout
    (written,) = tmp_path.rglob("*.npy")
    assert np.load(written).ndim == 4
