"""Times of matrix products: what is measured, what is modelled, and what is written."""

from __future__ import annotations

import csv
import importlib.machinery
import importlib.util
import json
import random
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hw.fake_kernel import FakeKernel
from typer.testing import CliRunner

from delegate.__main__ import app
from delegate.errors import DelegateError, OptionError
from delegate.hw import rocket
from delegate.hw.device import open_device
from delegate.hw.emit.product import Form
from delegate.hw.timing import RKNPU, ROCKET
from delegate.tools.bench import cpu, npu, plots, published
from delegate.tools.bench.command import Bench, Files, Wanted, run
from delegate.tools.bench.report import Row, compared_cells, number
from delegate.tools.bench.shapes import MODELS, Shape, squares

PAGE = Path(__file__).resolve().parents[2] / "docs" / "matmul-performance.md"
ARGUMENTS = ["bench", "matmul", "--sizes", "32:64:32", "--no-models", "--seconds", "0", "--device", "simulator"]


def test_times_are_written_with_how_they_were_had(tmp_path: Path) -> None:
    files = {name: tmp_path / f"times.{name}" for name in ("csv", "json", "markdown")}
    options = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    result = CliRunner().invoke(app, [*ARGUMENTS, *options])
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(files["csv"].open()))
    on_npu = [row for row in rows if row["by"].startswith("NPU")]
    assert [(row["rows"], row["element"]) for row in on_npu] == [
        ("32", "float16"),
        ("32", "int8"),
        ("64", "float16"),
        ("64", "int8"),
    ]
    assert {row["how"] for row in on_npu} == {"modelled, not measured"}
    others = [row for row in rows if row not in on_npu]
    assert {row["how"] for row in others} == {"measured on this machine's CPU"}
    assert {"numpy, float32"} <= {row["by"] for row in others}
    for row in rows:
        assert float(row["gops"]) == pytest.approx(2 * int(row["rows"]) ** 3 / float(row["seconds"]) / 1e9)
    written = json.loads(files["json"].read_text())
    assert written["facts"]["NPU"] == "modelled (docs/timing.md): rocket kernel, 600 MHz, 1 of 3 cores"
    assert len(written["products"]) == len(rows)
    text = files["markdown"].read_text()
    assert text.count("modelled, not measured") == 4
    assert "| 64 | 64×64×64 | int8 to int32 | numpy, float32 |" in text


def test_a_board_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeKernel(monkeypatch, "rocket", tmp_path)
    monkeypatch.setattr(rocket, "NODES", (f"{tmp_path}/accel*",))
    device = open_device("rocket")
    monkeypatch.setattr("delegate.matmul.api.shared_device", lambda *_: device)
    monkeypatch.setattr("delegate.tools.bench.command.shared_device", lambda *_: device)
    bench = Bench("rocket", ROCKET, Wanted("32:32:1", models=False, narrow=True, cpu=False, seconds=0))
    run(bench, Files(csv=tmp_path / "times.csv"))
    rows = list(csv.DictReader((tmp_path / "times.csv").open()))
    assert [(row["result"], row["how"]) for row in rows] == [
        ("float16", "measured on the board"),
        ("int8", "measured on the board"),
    ]
    monkeypatch.setattr(npu, "Matmul", type("Wrong", (npu.Matmul,), {"__call__": lambda self, a: np.zeros((32, 32))}))
    with pytest.raises(DelegateError, match="32×32×32 float16: the NPU's result is off by"):
        run(bench, Files())
    device.close()


def lines_of_page() -> dict[tuple[str, ...], tuple[str, ...]]:
    """The lines of the tables in the page, by their first three cells."""
    lines = [line.strip("| ").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return {tuple(line[:3]): tuple(line[3:]) for line in lines}


def test_the_page_is_what_the_model_says() -> None:
    lines = lines_of_page()
    shapes = [*squares("128:4096:128"), *MODELS]
    assert len(lines) >= 2 * len(shapes) + len(published.figures())
    for shape in random.Random(1).sample([shape for shape in shapes if shape.operations < 1 << 32], 6):
        for form in (Form("float16", "float32"), Form("int8", "int32")):
            seconds = npu.modelled(shape, form, ROCKET)
            cells = lines[shape.name, shape.sizes, f"{form.element} to {form.result}"]
            assert cells[:3] == ("NPU, 1 core", number(1e3 * seconds), number(shape.operations / seconds / 1e9))


def test_published_figures_have_sources_and_stand_in_the_page() -> None:
    lines = lines_of_page()
    figures = published.figures()
    assert {"RKNN", "open"} == {figure.library for figure in figures}
    for figure in figures:
        assert "silicon-figures" in figure.source or "timing.md" in figure.source
        assert (figure.what, figure.library, figure.source) in lines
    small = [figure for figure in figures if figure.shape.operations < 1 << 28]
    assert len(small) >= 10
    for figure in small:
        item = published.Compared(figure, npu.modelled(figure.shape, figure.form, figure.board))
        cells = compared_cells(item)
        assert lines[cells[:3]] == tuple(cell for cell in cells[3:] if cell)
    with pytest.raises(DelegateError, match=r"published\.csv: x: "):
        published.figure_of({"what": "x", "kernel": "rocket"})


def test_cores_share_a_product_and_results_of_fewer_bytes_take_less() -> None:
    shape = Shape("", 256, 1024, 1024)
    wide, narrow = Form("int8", "int32"), Form("int8", "int8")
    times = [npu.modelled(shape, wide, board) for board in (RKNPU, npu.replace(RKNPU, cores=3))]
    assert times[1] < times[0] < 3 * times[1]
    assert npu.modelled(shape, narrow, RKNPU) < times[0]
    assert npu.peak(wide, RKNPU) == 2 * npu.peak(Form("float16", "float32"), RKNPU) == 2.048e12


def test_other_libraries_are_used_where_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = types.ModuleType("torch")
    torch.__spec__ = importlib.machinery.ModuleSpec("torch", None)
    torch.from_numpy = lambda array: array  # type: ignore[attr-defined]
    torch.matmul = np.matmul  # type: ignore[attr-defined]
    torch._int_mm = lambda a, b: a.astype(np.int32) @ b.astype(np.int32)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    rng = np.random.default_rng(0)
    for form, expected in ((Form("float16", "float32"), 1), (Form("int8", "int32"), 2)):
        a, b = npu.operands(Shape("", 8, 32, 16), form, rng)
        found = dict(cpu.runners(a, b))
        assert sum(name.startswith("PyTorch") for name in found) == expected
        for name, multiply in found.items():
            result: Any = multiply()
            result = result[0] if isinstance(result, list) else result
            assert np.allclose(result, a.astype(np.float64) @ b.astype(np.float64), atol=1e-4), name


def test_plots_are_drawn(tmp_path: Path) -> None:
    rows = [
        Row(str(size), kind, size, size, size, "int8", "int32", by, 1e-4 + 1e-12 * size**3, how, None)
        for kind in ("square", "model")
        for size in (128, 256, 384, 512)
        for by, how in (("NPU, 1 core", "modelled, not measured"), ("numpy", "measured on this machine's CPU"))
    ]
    compared = [published.Compared(figure, figure.seconds) for figure in published.figures()]
    written = plots.draw(rows, compared, tmp_path / "plots")
    assert [path.name for path in written] == [
        "matmul-bars.png",
        "matmul-bars.svg",
        "matmul-lines.png",
        "matmul-lines.svg",
        "matmul-published.png",
        "matmul-published.svg",
    ]
    assert b"<svg" in written[3].read_bytes()
    assert written[0].read_bytes().startswith(b"\x89PNG")


def test_what_is_missing_or_wrong_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted, message in (
        (Wanted("4096"), "FIRST:LAST:STEP"),
        (Wanted("0:8:1"), "from 1 to 4096"),
        (Wanted(dtypes=("fp8",)), "dtype 'fp8': fp16 or int8"),
        (Wanted("none", models=False), "nothing to time"),
    ):
        with pytest.raises(OptionError, match=message):
            run(Bench("simulator", ROCKET, wanted), Files())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DelegateError, match=r"pip install 'teflon-rknpu\[bench\]'"):
        run(Bench("simulator", ROCKET, Wanted("8:8:1", models=False)), Files(plots=tmp_path))
    with pytest.raises(DelegateError, match=r"missing/times\.csv: No such file"):
        quick = Wanted("8:8:1", models=False, cpu=False)
        run(Bench("simulator", ROCKET, quick), Files(csv=tmp_path / "missing" / "times.csv"))


def test_the_fit_finds_what_it_was_made_of() -> None:
    sizes = np.arange(128.0, 4097.0, 128.0)
    for terms in ([5e-5, 2e-10, 3e-12], [0.0, 0.0, 4e-12], [1e-4, 0.0, 1e-12]):
        seconds = plots.fitted(sizes, np.array(terms))
        assert plots.fit(sizes, seconds) == pytest.approx(terms, rel=1e-6, abs=1e-17)
