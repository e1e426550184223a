"""The command line tools of ``benchmarks``: what they read, print and return."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import generate
import numpy as np
import pytest
from tflite_writer import write

from benchmarks import accuracy, harness, speed

TRACE = """\
idx type            ver support     inputs
================================================================================================
  0 CONV            v3  supported   in: 0(i8) 28(i8) 27(i32) out: 29(i8) ReLU6
  1 CONV            v3  unsupported in: 29(i8) 30(i8) - out: 31(i8) ReLU (not so that dilation is 1 (y); second)
 10 RESHAPE         v1  unsupported in: 84(u8) 86(i32) out: 87(u8)

teflon: compiling graph: 89 tensors 27 operations
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small convolution in a file."""
    path = tmp_path / "small.tflite"
    path.write_bytes(write(generate.random_convolution(np.random.default_rng(3))))
    return path


def test_the_trace_gives_nodes_and_reasons() -> None:
    reasons = ("CONV: not so that dilation is 1 (y); second", "RESHAPE: no reason given")
    assert accuracy.parse_support(TRACE) == (3, 1, reasons)


def test_steps_of_integers_do_not_wrap() -> None:
    low, high = np.array([-128], np.int8), np.array([127], np.int8)
    assert accuracy.steps(low, high).tolist() == [255]


def test_steps_of_floats_are_parts_of_the_range() -> None:
    assert accuracy.steps(np.array([0.0, 255.0]), np.array([0.0, 253.5])).tolist() == [0, 2]


def test_models_are_found_in_folders_and_archives(tmp_path: Path) -> None:
    for name in ("mb10.tflite", "mb2.tflite"):
        (tmp_path / name).write_bytes(b"x")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("a.tflite", b"inside")
        archive.writestr("readme.txt", b"")
    found = list(harness.model_files([tmp_path]))
    assert [file.name for file in found] == ["mb2", "mb10", "more/a"]
    assert found[2].read() == b"inside"


@pytest.mark.parametrize("tool", [accuracy, speed])
def test_a_missing_model_is_one_line(tool: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["/nowhere/a.tflite"]) == 2  # type: ignore[attr-defined]
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("tool", [accuracy, speed])
def test_help_has_examples(tool: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool.main(["--help"])  # type: ignore[attr-defined]
    assert ended.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_accuracy_of_a_small_model(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    assert accuracy.main([str(model), "--csv", str(table), "--max-difference", "1"]) == 0
    assert "one layer, on the NPU: 1 models, 1 within 1 everywhere" in capsys.readouterr().out
    (row,) = csv.DictReader(table.open())
    assert (row["nodes"], row["npu_nodes"], row["error"]) == ("1", "1", "")


def test_accuracy_passes_options_on(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert accuracy.main([str(model), "-o", "unproven=never", "-o", "cores=2", "--max-difference", "1"]) == 0
    assert "one layer, on the NPU: 1 models" in capsys.readouterr().out
    assert accuracy.main([str(model), "--option", "unproven=perhaps"]) == 1
    assert "auto, never, always" in capsys.readouterr().out


def test_accuracy_goes_on_after_a_model_that_tflite_does_not_run(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "a_text.tflite"
    text.write_text("not a model")
    assert accuracy.main([str(text), str(model)]) == 0
    printed = capsys.readouterr().out
    assert "TFLite does not run it" in printed
    assert "not run by TFLite itself: 1 models" in printed


def test_a_worker_that_takes_too_long_is_reported(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert accuracy.main([str(model), "--timeout", "0.01"]) == 1
    assert "no result after 0.01 s" in capsys.readouterr().out


def test_speed_of_a_small_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main([str(model), "--repeat", "1", "--runs", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["models"]["small"]
    assert set(result["median_ms"]) == set(speed.COLUMNS)
    assert all(value > 0 for value in result["median_ms"].values())
