"""The command line tools of ``benchmarks``: what they read, print and return."""

from __future__ import annotations

import json
from pathlib import Path

import generate
import numpy as np
import pytest
from tflite_writer import write

from benchmarks import cores, speed


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


def test_the_page_of_cores_is_fresh() -> None:
    """By the embedded model's lines; the page takes the shared models too and minutes."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "cores.md").read_text(encoding="utf-8")
    for section, setting in zip(page.split("\n## ")[1:], cores.SETTINGS, strict=True):
        assert section.startswith(setting.name)
        assert cores.row(cores.MODELS[0], setting) in section.splitlines()
