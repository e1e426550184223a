"""The command line tools of ``benchmarks``: what they read, print and return."""

from __future__ import annotations

import json
from pathlib import Path

import generate
import numpy as np
import pytest
from tflite_writer import write

from benchmarks import speed


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small convolution in a file."""
    path = tmp_path / "small.tflite"
    path.write_bytes(write(generate.random_convolution(np.random.default_rng(3))))
    return path


def test_a_missing_model_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main(["/nowhere/a.tflite"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        speed.main(["--help"])
    assert ended.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_speed_of_a_small_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main([str(model), "--repeat", "1", "--runs", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["models"]["small"]
    assert set(result["median_ms"]) == set(speed.COLUMNS)
    assert all(value > 0 for value in result["median_ms"].values())
