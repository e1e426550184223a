"""Capability files: read in full or refused, and what compiler, simulator and tools make of them."""

from __future__ import annotations

import json
import logging
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hw.fake_kernel import FakeKernel
from typer.testing import CliRunner

from delegate import runtime
from delegate.__main__ import app
from delegate.errors import DelegateError, OptionError
from delegate.hw import capabilities, rknpu_interface, rocket
from delegate.hw.capabilities import Capabilities, Result, default_path, dump, load, of_device, parse, save
from delegate.hw.device import open_device
from delegate.hw.questions import PROBED
from delegate.hw.soc import BS_CLAMP, FORMS, OPERAND_GAIN
from delegate.options import Options
from delegate.runtime import target_of
from delegate.tools.doctor import examine, lines

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "mobilenet_digits.tflite"


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's data folder; no node of this machine, and devices of their own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(rocket, "NODES", (f"{tmp_path}/accel*",))
    monkeypatch.setattr(rknpu_interface, "NODES", (f"{tmp_path}/renderD*",))
    monkeypatch.setattr(runtime, "shared_device", open_device)
    return tmp_path / "data"


def found(device: str = "rocket", board: str | None = None, **verdicts: str | None) -> Capabilities:
    """All answers as assumed, save some."""
    answers: dict[str, str | None] = {question.name: question.assumed for question in PROBED} | verdicts
    results = {name: Result(verdict, (b"\1\2", None), "a note") for name, verdict in answers.items()}
    board = board or capabilities.board_model()
    return Capabilities(device, f"{device} 1.0", "6.18", board, "2026-01-01T00:00:00+00:00", "0.1.0", results)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "board.json"
    save(found(bs_clamp=None), path)
    assert load(path) == found(bs_clamp=None)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_what_a_terminal_would_obey_is_not_written() -> None:
    hostile = replace(found(), board="\x1b[2J\nboard", results={"bs_clamp": Result(None, (), "\x1b]0;\a" + "x" * 5000)})
    again = parse(dump(hostile))
    assert again.board == " [2J board"
    assert again.results["bs_clamp"].note.isprintable()


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    content = json.loads(dump(found()))
    change(content)
    return json.dumps(content)


def result(**values: object) -> str:
    return changed(lambda content: content["results"]["bs_clamp"].update(values))


HOSTILE = {
    "nothing": ("", "Expecting value"),
    "no JSON": ("{'a': 1}", "Expecting property name"),
    "a list": ("[]", "has not the keys"),
    "a number": ("1", "has not the keys"),
    "too deep": ("[" * 100000, "nested too deeply"),
    "not a number": ('{"format": NaN}', "NaN is no JSON"),
    "a key twice": ('{"format": 1, "format": 2}', "a key stands twice"),
    "a key less": (changed(lambda content: content.pop("date")), "has not the keys"),
    "a key more": (changed(lambda content: content.update(more=1)), "has not the keys"),
    "another format": (changed(lambda content: content.update(format="x")), "format is not"),
    "another version": (changed(lambda content: content.update(version=2)), "version is 2, this program reads 1"),
    "version true": (changed(lambda content: content.update(version=True)), "version is True"),
    "no device": (changed(lambda content: content.update(device="tpu")), "device is 'tpu': one of rocket"),
    "board is a list": (changed(lambda content: content.update(board=[])), "board is no printable text"),
    "board is long": (changed(lambda content: content.update(board="x" * 201)), "board is no printable text"),
    "escape codes": (changed(lambda content: content.update(board="\x1b[2J")), "board is no printable text"),
    "results is a list": (changed(lambda content: content.update(results=[])), "results is no object"),
    "unknown question": (changed(lambda content: content["results"].update(x={})), "'x' is not known"),
    "result is a text": (changed(lambda content: content["results"].update(bs_clamp="x")), "bs_clamp has not the keys"),
    "unknown verdict": (result(verdict="upwards"), "verdict 'upwards' is none of behind the product"),
    "verdict is a list": (result(verdict=["nothing"]), "is none of"),
    "observed is a text": (result(observed="00"), "observed is no short list"),
    "too many outputs": (result(observed=["00"] * 9), "observed is no short list"),
    "output is a number": (result(observed=[1]), "observed is no hexadecimal"),
    "half a byte": (result(observed=["0"]), "observed is no hexadecimal"),
    "a line more": (result(observed=["00\n"]), "observed is no hexadecimal"),
    "capitals": (result(observed=["AB"]), "observed is no hexadecimal"),
    "a large output": (result(observed=["00" * 70000]), "observed is no hexadecimal"),
    "note is a number": (result(note=1), "note is no printable text"),
    "note of lines": (result(note="a\nb"), "note is no printable text"),
}


@pytest.mark.parametrize(("text", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_refused_in_a_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    path.write_text(text)
    with pytest.raises(OptionError) as caught:
        load(path)
    said = str(caught.value)
    assert said.startswith(f"capability file {path}: ")
    assert message in said
    assert said.isprintable()
    assert len(said) < 500 + len(str(path))
    with pytest.raises(DelegateError, match="capability file"):
        target_of(Options(device="simulator", capabilities=str(path)))


def test_what_is_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match=r"no such file; `python -m delegate probe -o .*` makes one"):
        load(tmp_path / "nowhere")
    with pytest.raises(OptionError, match="no such file"):
        load(tmp_path)
    (tmp_path / "raw").write_bytes(b"\xff\xfe")
    with pytest.raises(OptionError, match="no text in UTF-8"):
        load(tmp_path / "raw")
    monkeypatch.setattr(capabilities, "LARGEST_FILE", 1)
    with pytest.raises(OptionError, match="larger than"):
        load(tmp_path / "raw")


def test_every_part_of_a_file_cut_short_is_refused() -> None:
    text = dump(found()).rstrip()
    for end in range(0, len(text), 97):
        with pytest.raises(ValueError):
            parse(text[:end])


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "board.json"
    save(found(), path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(capabilities.os, "replace", full)
    with pytest.raises(OptionError, match="No space left"):
        save(found(bs_clamp=None), path)
    assert load(path) == found()
    assert list(tmp_path.iterdir()) == [path]


def test_boards_have_files_of_their_own(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = data / "teflon-rknpu" / "capabilities"
    assert default_path("rocket", "Radxa ROCK 5B") == folder / "rocket-radxa-rock-5b.json"
    assert default_path("rknpu", "../../etc/passwd") == folder / "rknpu-etc-passwd.json"
    monkeypatch.setenv("TEFLON_SHIM_SOCKET", "x")
    assert default_path("rocket") == folder / "rocket-stand-in.json"


@pytest.mark.parametrize("driver", ["rocket", "rknpu"])
def test_a_board_goes_by_its_own_file(driver: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FakeKernel(monkeypatch, driver, tmp_path)
    options = Options(device="auto")
    assert target_of(options).forms == set()
    assert target_of(options).signals_pooling is (driver == "rknpu")
    save(found(driver, operand_width=None, pooling_interrupt="signalled"), default_path(driver))
    assert target_of(options).forms == set(FORMS) - {OPERAND_GAIN}
    assert target_of(options).signals_pooling
    save(found(driver, pooling_interrupt="silent"), default_path(driver))
    assert not target_of(options).signals_pooling
    assert target_of(replace(options, unproven="never")).forms == set()
    assert runtime.capability_file(options) == default_path(driver)
    assert runtime.capability_file(replace(options, unproven="always")) is None


def test_a_given_file_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of another board too: forms are of the chip; but its kernel's interrupts say nothing about this one's."""
    FakeKernel(monkeypatch, "rocket", tmp_path)
    save(found("rocket"), default_path("rocket"))
    path = tmp_path / "other.json"
    save(found("rknpu", "another board", bs_clamp="nothing", pooling_interrupt="signalled"), path)
    target = target_of(Options(device="rocket", capabilities=str(path)))
    assert target.forms == set(FORMS) - {BS_CLAMP}
    assert not target.signals_pooling


def test_pooling_tasks_of_a_narrow_ppu_are_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FakeKernel(monkeypatch, "rknpu", tmp_path)
    save(found("rknpu", pooling_width="no", pooling_interrupt="signalled"), default_path("rknpu"))
    assert not target_of(Options(device="rknpu")).signals_pooling


def test_the_simulator_proves_nothing_about_a_board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FakeKernel(monkeypatch, "rocket", tmp_path)
    path = tmp_path / "simulated.json"
    save(found("simulator"), path)
    with pytest.raises(OptionError, match="made on the simulator, which proves nothing about a board"):
        target_of(Options(device="rocket", capabilities=str(path)))


def test_a_broken_file_of_the_board_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    """What the user did not ask for must not end a program; only the given file does."""
    path = default_path("rocket")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with caplog.at_level(logging.WARNING, "teflon"):
        assert of_device("rocket", None) is None
    assert f"capability file {path}" in caplog.text
    assert "no unproven form is used" in caplog.text
    with pytest.raises(OptionError):
        of_device("rocket", str(path))


def test_a_users_board_is_simulated(tmp_path: Path) -> None:
    """Forms and behaviours are the board's; where nothing is known, the simulator's own."""
    path = tmp_path / "board.json"
    save(found("rocket", operand_rounding="floor", pooling_interrupt="signalled", table_path=None), path)
    options = Options(device="simulator", capabilities=str(path))
    target = target_of(options)
    assert OPERAND_GAIN not in target.forms
    assert BS_CLAMP in target.forms
    assert target.signals_pooling
    device = open_device("simulator", capabilities=str(path))
    assert device.machines[0].options.operand_rounding == "floor"
    assert device.machines[0].options.table_path == "behind BS"
    device.close()
    assert target_of(Options(device="simulator")).forms == set(FORMS)


def test_explain_and_doctor_name_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    save(found(bs_clamp=None), path)
    shown = CliRunner().invoke(app, ["explain", str(MODEL), "--device", "simulator", "-o", f"capabilities={path}"])
    assert f"unproven forms are those that the probes allow: {path}" in shown.output
    assert runtime.capability_file(Options(device="simulator")) is None
    monkeypatch.setenv("TEFLON_CAPABILITIES", str(path))
    report = examine(tmp_path)
    assert report.capabilities == str(path)
    assert report.forms == tuple(form for form in FORMS if form != BS_CLAMP)
    monkeypatch.delenv("TEFLON_CAPABILITIES")
    FakeKernel(monkeypatch, "rocket", tmp_path)
    report = examine(tmp_path)
    assert (report.capabilities, report.forms) == (None, ())
    shown = dict(lines(report))
    assert shown["capability file"] == "none: `python -m delegate probe` makes one"
    assert shown["unproven forms"] == f"0 of {len(FORMS)} may be used"
