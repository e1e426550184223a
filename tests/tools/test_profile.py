"""`python -m delegate profile`: sums, CSV, the page, the trace, and what is said of inputs that cannot be profiled."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tflite_writer import Builder, Model, write
from typer.testing import CliRunner

from benchmarks import calibration
from benchmarks.figures import FIGURES
from benchmarks.products import FORMS, product
from delegate.__main__ import app, main
from delegate.errors import DelegateError
from delegate.hw.timing import RKNPU, ROCKET, Board, task_costs
from delegate.ops import OPERATORS
from delegate.tools.profile import page, perfetto
from delegate.tools.profile.command import board_of
from delegate.tools.profile.layers import PARTS, Profile, profile
from delegate.tools.profile.table import COLUMNS, csv_text, notes
from delegate.tools.profile.timeline import BARRIER, BLOCKS, TASKS, spans, traffic

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = ROOT / "models" / "mobilenet_digits.tflite"
MOBILENET = "golden/mobilenet_v1_1.0_224_quant"


@pytest.fixture(scope="module")
def embedded() -> Profile:
    return profile(EMBEDDED, ROCKET)


@pytest.fixture(scope="module")
def three() -> Profile:
    return profile(EMBEDDED, replace(RKNPU, cores=3))


def save(model: Model, folder: Path) -> Path:
    (folder / "model.tflite").write_bytes(write(model))
    return folder / "model.tflite"


def test_layers_add_up_to_the_whole(embedded: Profile) -> None:
    assert sum(layer.seconds for layer in embedded.layers) == pytest.approx(embedded.seconds)
    assert sum(layer.share for layer in embedded.layers) == pytest.approx(1)
    assert sum(layer.tasks for layer in embedded.layers) == len(embedded.slots)
    costs = [cost for job in embedded.jobs for cost in job.costs]
    assert sum(layer.bytes.total for layer in embedded.layers) == sum(cost.bytes.total for cost in costs)
    assert sum(layer.products for layer in embedded.layers) == sum(cost.products for cost in costs)
    for layer in embedded.layers:
        assert layer.seconds == pytest.approx(layer.overhead + layer.cycles / embedded.board.clock_hz)


def test_what_bounds_a_layer() -> None:
    """A small model waits for interrupts; without them and at a low clock its first layer is bound by its transfers."""
    slow = replace(ROCKET, job_seconds=0, task_seconds=0, start_cycles=0, bandwidth=1e7)
    found = profile(EMBEDDED, slow)
    assert {layer.bound for layer in profile(EMBEDDED, ROCKET).layers} == {"task overhead"}
    assert found.layers[0].bound == "features"  # 96x96x3, of which each pixel is an atom
    assert all(layer.bound not in ("task overhead", "MAC", "start") for layer in found.layers)
    fast = replace(ROCKET, job_seconds=0, task_seconds=0, start_cycles=0, port_bytes=1e6, bandwidth=1e18)
    assert {layer.bound for layer in profile(EMBEDDED, fast).layers} == {"MAC"}


def test_mobilenet_s_capture(shared: Path) -> None:
    """968,872 MAC cycles in 42 tasks of 28 operations (timing.md)."""
    found = profile(shared / MOBILENET, ROCKET)
    assert len(found.layers) == 28
    assert sum(layer.products for layer in found.layers) == 968872
    assert sum(layer.tasks for layer in found.layers) == 42
    assert [layer.tasks for layer in found.layers[:6]] == [3, 2, 2, 3, 1, 2]
    weights = [layer for layer in found.layers if layer.bound == "weights"]
    assert {layer.title.rpartition(" ")[2] for layer in weights} >= {"7x7x1024", "1x1x1001"}


def test_a_compiled_program_is_that_of_its_model(tmp_path: Path, embedded: Profile) -> None:
    from delegate.tools.compile import compile_model

    compile_model(EMBEDDED, tmp_path, full_chains=False)
    (program,) = tmp_path.iterdir()
    found = profile(program, ROCKET)
    assert found.seconds == embedded.seconds
    assert [layer.title for layer in found.layers] == [layer.title for layer in embedded.layers]


def test_cores_share_dram(three: Profile) -> None:
    single = profile(EMBEDDED, RKNPU)
    assert len(three.slots) == 3 * len(single.slots)
    assert {slot.core for slot in three.slots} == {0, 1, 2}
    assert single.seconds < three.seconds < 3 * single.seconds
    assert sum(layer.seconds for layer in three.layers) == pytest.approx(three.seconds)
    assert any(f"{3 / three.seconds:.1f} a second" in note for note in notes(three))


def test_a_chain_of_a_capture_saves_interrupts(shared: Path) -> None:
    """A vendor's list of element-wise tasks in one chain; the mainline kernel starts each of them."""
    path = shared / "golden" / "programs" / "ab-ew_add_131072_chain"
    chained = profile(path, replace(RKNPU, clock_hz=ROCKET.clock_hz))
    single = profile(path, ROCKET)
    count = len(single.slots)
    assert count > 1
    assert [slot.wait for slot in chained.slots] == ["job", *["chain"] * (count - 1)]
    assert [slot.wait for slot in single.slots] == ["job", *["interrupt"] * (count - 1)]
    assert single.seconds - chained.seconds == pytest.approx((count - 1) * (55e-6 - 1e-6))


def test_partitions_with_the_same_layer_stay_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two equal convolutions with an operator of the CPU between them; both are node 0 of their partition."""
    monkeypatch.delitem(OPERATORS, "SOFTMAX", raising=False)
    builder = Builder()
    source = builder.tensor((1, 8, 8, 4), "int8", 1 / 256, -128)
    weight, bias = np.ones((4, 1, 1, 4), np.int8), np.zeros(4, np.int32)
    first = builder.convolution(source, weight, 0.1, (1 / 256, -128), bias=bias)
    second = builder.convolution(builder.softmax(first), weight, 0.1, (1 / 256, -128), bias=bias)
    found = profile(save(builder.finish([source], [second]), tmp_path), ROCKET)
    assert len(found.layers) == 2
    assert [layer.title.partition(",")[0] for layer in found.layers] == ["partition 0", "partition 1"]
    assert found.cpu == 1
    assert any("1 of the model's operators" in note for note in notes(found))
    assert [slot.wait for slot in found.slots] == ["job", "job"]


def test_csv_holds_what_the_layers_hold(embedded: Profile) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(embedded))))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(embedded.layers)
    for row, layer in zip(rows, embedded.layers, strict=True):
        assert row["title"] == layer.title
        assert row["bound_by"] == layer.bound
        assert float(row["seconds"]) == layer.seconds
        assert float(row["cycles"]) == layer.cycles
        assert int(row["product_cycles"]) == layer.products
        parts = sum(int(row[name]) for name in COLUMNS if name.endswith("_bytes") and name != "total_bytes")
        assert parts == int(row["total_bytes"]) == layer.bytes.total


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects texts, rows and what would be loaded."""

    VOID = ("meta", "br", "link", "img", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.rectangles: list[dict[str, str | None]] = []
        self.loaded: list[str] = []
        self.cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        if tag == "rect":
            self.rectangles.append(dict(attrs))
        self.cell = tag == "td"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.cell = False

    def handle_data(self, data: str) -> None:
        if self.cell:
            self.rows[-1][-1] += data


@pytest.mark.parametrize("name", ["embedded", "three"])
def test_the_page_holds_every_layer_and_needs_nothing(name: str, request: pytest.FixtureRequest) -> None:
    found: Profile = request.getfixturevalue(name)
    text = page.html(found)
    parsed = Page()
    parsed.feed(text)
    parsed.close()
    assert parsed.open == []
    assert parsed.loaded == []
    assert not re.search(r"https?:|@import|url\(", text)
    assert "modelled, not measured" in text
    titles = [row[1] for row in parsed.rows if row]
    assert titles == [layer.title for layer in found.layers]
    parts = sum(bool(layer.parts[part]) for layer in found.layers for part in PARTS)
    assert len(parsed.rectangles) >= parts + len(list(spans(found)))
    assert all(float(str(rect["width"])) >= 0 and float(str(rect["x"])) >= 0 for rect in parsed.rectangles)


def test_names_from_files_are_escaped_on_the_page(embedded: Profile) -> None:
    layers = (replace(embedded.layers[0], title="<script>alert(1)</script>"), *embedded.layers[1:])
    text = page.html(replace(embedded, name="a<b>&c", layers=layers))
    assert "<script>alert" not in text
    assert "a&lt;b&gt;&amp;c" in text


@pytest.mark.parametrize("name", ["embedded", "three"])
def test_the_trace_is_valid_and_sums_to_the_total(name: str, request: pytest.FixtureRequest) -> None:
    found: Profile = request.getfixturevalue(name)
    trace: dict[str, Any] = json.loads(perfetto.text(found))
    events = trace["traceEvents"]
    names = {(event["pid"], event["tid"]): event["args"]["name"] for event in events if event["name"] == "thread_name"}
    complete = [event for event in events if event["ph"] == "X"]
    for core in range(found.board.cores):
        own = [event for event in complete if event["pid"] == core + 1 and names[core + 1, event["tid"]] == TASKS]
        assert sum(event["dur"] for event in own) == pytest.approx(1e6 * found.seconds)
        assert max(event["ts"] + event["dur"] for event in own) == pytest.approx(1e6 * found.seconds)
        assert sum(event["cat"] == "wait" for event in own) == sum(slot.core == core for slot in found.slots)
    for event in complete:
        assert event["ts"] >= 0
        assert event["dur"] > 0
        assert names[event["pid"], event["tid"]] in (TASKS, *BLOCKS)
    counters = [event for event in events if event["ph"] == "C"]
    assert [event["ts"] for event in counters] == sorted(event["ts"] for event in counters)
    assert counters[-1]["args"]["GB/s"] == 0
    moved = sum(
        before["args"]["GB/s"] * 1e9 * (after["ts"] - before["ts"]) / 1e6 for before, after in pairwise(counters)
    )
    assert moved == pytest.approx(found.board.cores * sum(layer.bytes.total for layer in found.layers))


def test_blocks_work_within_their_tasks(three: Profile, shared: Path) -> None:
    for found in (three, *(profile(shared / "golden" / "programs" / name, ROCKET) for name in CAPTURES)):
        for span in spans(found):
            first = span.slot.begin if span.name.startswith("wait") else span.slot.start
            assert first - 1e-12 <= span.begin <= span.end <= span.slot.end + 1e-12, span
        for _, level in traffic(found):
            assert level <= found.board.cores * found.board.core_bytes * (1 + 1e-9)


CAPTURES = ("ab-ppu_fp16_max_strided", "ab-ew_add_5", "rus-conv_fp16_dw-c96_12x12_o96_k5x5_s1_p2", "rus-ew_mul_64")


def test_the_command(tmp_path: Path) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("csv", "html", "perfetto")}
    arguments = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    ran = CliRunner().invoke(
        app, ["profile", str(EMBEDDED), "--clock", "200", "--cores", "2", "--split", "never", *arguments]
    )
    assert ran.exit_code == 0, ran.output
    assert "modelled, not measured" in ran.output
    assert "200 MHz" in ran.output
    found = profile(EMBEDDED, replace(ROCKET, clock_hz=200e6, cores=2))
    assert files["csv"].read_text() == csv_text(found)
    assert files["html"].read_text() == page.html(found)
    assert files["perfetto"].read_text() == perfetto.text(found)


def test_the_command_s_help_has_examples() -> None:
    ran = CliRunner().invoke(app, ["profile", "--help"])
    assert ran.exit_code == 0
    assert "Examples" in ran.output
    assert "not measured" in ran.output


def test_the_board_of_a_command_line() -> None:
    assert board_of("rknpu", None, None, 1) == RKNPU
    board = board_of("rocket", 700, 5, 3)
    assert (board.clock_hz, board.bandwidth, board.cores) == (700e6, 5e9, 3)
    with pytest.raises(DelegateError, match="rocket or rknpu"):
        board_of("linux", None, None, 1)


@pytest.mark.parametrize("content", [None, b"", b"what is this?"])
def test_a_file_that_is_nothing_is_one_line(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr("sys.argv", ["delegate", "profile", str(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert str(ended.value.code).startswith("error: ")
    assert str(ended.value.code).count("\n") == 0


def test_a_model_of_the_cpu_has_no_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(OPERATORS, "SOFTMAX", raising=False)
    builder = Builder()
    source = builder.tensor((1, 8), "int8", 1 / 256, -128)
    path = save(builder.finish([source], [builder.softmax(source)]), tmp_path)
    with pytest.raises(DelegateError, match="takes none of its operators"):
        profile(path, ROCKET)


def test_a_file_that_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["delegate", "profile", str(EMBEDDED), "--csv", "/nowhere/out.csv"])
    with pytest.raises(SystemExit, match=r"error: /nowhere/out\.csv"):
        main()


# The calibration


@pytest.mark.parametrize("form", FORMS)
def test_scaled_words_of_a_product_ask_for_its_products(form: str, shared: Path) -> None:
    """The simulator's decoders take them, and every size arrives."""
    chosen = FORMS[form]
    (cost,) = task_costs([product(64, 256, 128, form)])
    group = {16: 16, 8: 32, 4: 64}[chosen.bits]
    assert cost.products == 128 // group * 256 // 32 * 64
    assert cost.bytes.features == 64 * 256 * chosen.bits // 8
    assert cost.bytes.weights == 128 * 256 * chosen.bits // 8
    assert cost.bytes.output == 64 * 128 * chosen.output_bytes
    assert cost.bytes.operands == 64 * 128 * chosen.partial


def test_a_captured_product_is_itself(shared: Path) -> None:
    """Scaled to its own size, the words of a capture stay as they are."""
    from benchmarks.products import template

    assert np.array_equal(product(128, 384, 256, "fp16 to fp32"), template("fp16 to fp32"))


def test_the_chosen_constants_fit_best(shared: Path) -> None:
    best = calibration.fit()[0]
    assert best[1:] == (ROCKET.port_bytes, ROCKET.overlap)
    assert calibration.error(16, 0.0) > best[0]


def test_held_out_figures_were_not_used_and_are_met(shared: Path) -> None:
    """Where all conditions were published, every figure is met within a quarter."""
    compared = calibration.compare()
    assert [item.figure for item in compared] == list(FIGURES)
    held = [item for item in compared if not item.figure.used and not item.figure.note]
    assert len(held) >= 8
    assert all(0.8 <= item.ratio <= 1.25 for item in held)
    mean, spread = calibration.mean_and_spread([item.ratio for item in held])
    assert 0.9 < mean < 1.1
    assert spread < 1.15


def test_mean_and_spread() -> None:
    mean, spread = calibration.mean_and_spread([0.5, 2.0])
    assert (mean, spread) == (pytest.approx(1), pytest.approx(2))


def test_the_page_of_the_calibration_is_fresh(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert calibration.main([]) == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "timing.md").read_text(), (
        "python -m benchmarks.calibration -o docs/timing.md"
    )


def test_the_calibration_s_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        calibration.main(["--help"])
    assert ended.value.code == 0
    assert "examples:" in capsys.readouterr().out


@pytest.mark.parametrize("board", [ROCKET, RKNPU], ids=lambda board: board.name)
def test_an_inference_over_three_cores(board: Board) -> None:
    """It is as fast as it is said to be, its cores wait at barriers, and the gain is that against one core."""
    found, one = profile(EMBEDDED, replace(board, cores=3), "always"), profile(EMBEDDED, board)
    assert {slot.core for slot in found.slots} == {0, 1, 2}
    assert found.one_core == one.seconds
    assert [layer.one_core for layer in found.layers] == [layer.seconds for layer in one.layers]
    busy = {core: sum(s.end - s.begin for s in spans(found) if (s.core, s.track) == (core, TASKS)) for core in range(3)}
    assert list(busy.values()) == pytest.approx([found.seconds] * 3)
    assert any(span.name == BARRIER for span in spans(found))
    ends = [[slot.end for slot in found.slots if found.jobs[slot.job].stage == stage] for stage in (0, 1)]
    begins = [slot.begin for slot in found.slots if found.jobs[slot.job].stage == 1]
    assert max(ends[0]) <= min(begins)
    gain = f"{one.seconds / found.seconds:.2f} times as fast as on one core"
    assert any(gain in note for note in notes(found))
    assert any("host copies" in note for note in notes(found)) == board.own_memory
    rows = list(csv.DictReader(io.StringIO(csv_text(found))))
    assert [float(row["one_core_seconds"]) for row in rows] == [layer.seconds for layer in one.layers]
    assert "ms on one core" in page.html(found)


def test_auto_never_makes_it_slower() -> None:
    for board in (ROCKET, RKNPU, replace(ROCKET, sync_bytes=1e6), replace(RKNPU, job_seconds=1.0)):
        one, three = profile(EMBEDDED, board), profile(EMBEDDED, replace(board, cores=3), "auto")
        assert three.seconds <= one.seconds * (1 + 1e-9)
    dear = profile(EMBEDDED, replace(RKNPU, cores=3, job_seconds=1.0, task_seconds=0.0), "auto")
    assert {slot.core for slot in dear.slots} == {0}


@pytest.mark.parametrize(("option", "value"), [("--split", "sometimes"), ("--chain", "long")])
def test_unknown_choices_are_one_line(
    option: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["delegate", "profile", str(EMBEDDED), option, value])
    with pytest.raises(SystemExit, match=f"error: {option[2:]} '{value}'"):
        main()
