"""`python -m delegate probe`: each candidate that the simulator is switched to is recognised; the command; the page."""

from __future__ import annotations

import errno
import json
import re
from dataclasses import fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from delegate.__main__ import app
from delegate.errors import DelegateError, DeviceError
from delegate.hw import capabilities
from delegate.hw.capabilities import Capabilities, Result, load
from delegate.hw.questions import PROBED, QUESTIONS, Question, forms_allowed
from delegate.hw.sim.answers import FastFlying
from delegate.hw.sim.device import Simulator
from delegate.hw.sim.fast import FastConvolution
from delegate.hw.sim.options import USUAL, Options, switched
from delegate.hw.soc import FORMS
from delegate.hw.unprobed import UNPROBED
from delegate.tools.probe import child, command
from delegate.tools.probe.control import ChainOrder
from delegate.tools.probe.judge import HANG, WRONG, Known, judge
from delegate.tools.probe.page import page
from delegate.tools.probe.places import plain
from delegate.tools.probe.probes import PROBES
from delegate.tools.probe.rig import Answer, Rig

ROOT = Path(__file__).resolve().parents[2]
RISKY = [question.name for question in PROBED if question.risky]
CANDIDATES = [(question.name, candidate) for question in PROBED for candidate in question.candidates]


@pytest.fixture(autouse=True)
def no_file_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def ask(name: str, options: Options) -> str | None:
    """The verdict about a simulator that chains and is told of the end of pooling tasks."""
    device = Simulator(1, "rknpu", options=options)
    try:
        with Rig(device) as rig:
            return PROBES[name]().ask(rig).verdict
    finally:
        device.close()


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
@pytest.mark.parametrize(("name", "candidate"), CANDIDATES)
def test_a_switched_candidate_is_recognised(name: str, candidate: str, plain: bool) -> None:
    assert ask(name, replace(Options(plain=plain), **{name: candidate})) == candidate


@pytest.mark.parametrize(
    ("name", "fast"), [("norm_shift", True), ("table_path", True), ("operand_rounding", False), ("pad_after", True)]
)
def test_a_switch_slows_only_what_it_is_about(name: str, fast: bool) -> None:
    """A user's board can be simulated at the speed of any other."""
    device = Simulator(options=Options(operand_rounding="floor", interpolation="away", pad_after="0"))
    with Rig(device) as rig:
        PROBES[name]().ask(rig)
    device.close()
    passes = [decoded.run for decoded in device.machines[0]._decoded.values()]
    assert passes
    assert all(isinstance(one, (FastConvolution, FastFlying)) is fast for one in passes)


def test_every_question_has_a_probe_and_a_switch_and_a_candidate_to_tell_apart() -> None:
    assert list(PROBES) == list(QUESTIONS) == [question.name for question in PROBED]
    assert {field.name for field in fields(Options)} == {"plain", *QUESTIONS}
    assert all(len(question.candidates) > 1 for question in PROBED)
    assert {question.name for question in PROBED}.isdisjoint(one.name for one in UNPROBED)
    by_default = {name: getattr(USUAL, name) for name in QUESTIONS if name != "pooling_interrupt"}
    assert by_default == {name: QUESTIONS[name].assumed for name in by_default}
    with pytest.raises(DelegateError, match="option bs_clamp is 'upwards'; valid: behind the product, before"):
        Options(bs_clamp="upwards")


@pytest.mark.parametrize("name", PROBES)
def test_no_two_candidates_would_answer_alike(name: str) -> None:
    """Each expects other bytes of at least one job, so that an answer fits one candidate at most."""
    probe = PROBES[name]()
    if not isinstance(probe, Known):
        return
    assert set(probe.expected) == set(QUESTIONS[name].candidates)
    for left, right in combinations(probe.expected.values(), 2):
        assert any(differ(a, b) for a, b in zip(left, right, strict=True))


def differ(left: Any, right: Any) -> bool:
    arrays = isinstance(left, np.ndarray) and isinstance(right, np.ndarray)
    return bool(left.shape != right.shape or (left != right).any()) if arrays else left is not right


@pytest.mark.parametrize("name", PROBES)
def test_what_no_candidate_explains_is_none_of_them(name: str) -> None:
    """A chip that returns something else, and one that returns nothing where no candidate hangs."""
    probe = PROBES[name]()
    if not isinstance(probe, Known):
        return
    noise = np.random.default_rng(0)
    answers = [Answer(noise.integers(0, 256, job.size).astype(np.uint8), 0.0) for job in probe.jobs]
    assert judge(answers, probe.expected).verdict is None
    finding = judge([Answer(None, 0.5, "it hangs")] * len(probe.jobs), probe.expected)
    hanging = [candidate for candidate, wanted in probe.expected.items() if wanted[0] is HANG]
    assert (finding.verdict, finding.note) == (hanging[0] if hanging else None, "it hangs")


def test_a_wrong_answer_is_not_another_candidates_right_one() -> None:
    right, other = np.zeros(4, np.uint8), np.ones(4, np.uint8)
    expected = {"a": (right,), "b": (WRONG,)}
    assert judge([Answer(right, 0)], expected).verdict == "a"
    assert judge([Answer(other, 0)], expected).verdict == judge([Answer(None, 0)], expected).verdict == "b"


def test_a_chain_that_is_wrong_in_another_way_is_no_stale_one(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Simulator(1, "rknpu")
    with Rig(device) as rig:
        run = rig.run
        monkeypatch.setattr(rig, "run", lambda job: replace(run(job), output=np.zeros(job.size, np.uint8)))
        finding = ChainOrder(rounds=2).ask(rig)
    device.close()
    assert (finding.verdict, finding.note) == (None, "2 of 2 runs are wrong in another way")
    assert len(finding.observed[0] or b"") == ChainOrder.job(0)[0].size


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_allowed_only_if_all_its_answers_are_as_assumed(form: str) -> None:
    about = [question for question in PROBED if form in question.forms]
    assert about, f"nobody asks about {form}"
    everything: dict[str, str | None] = {question.name: question.assumed for question in PROBED}
    assert forms_allowed(everything) == set(FORMS)
    assert form not in forms_allowed({})
    for question in about:
        for other in (None, *list(question.candidates)[1:]):
            allowed = forms_allowed(everything | {question.name: other})
            assert allowed == set(FORMS) - set(question.forms)


def test_every_assumption_of_the_page_of_facts_is_a_question() -> None:
    """Facts without a measurement, and the book's list of unknowns; only the simulator's own limits are none."""
    sources = " ".join(question.source for question in (*PROBED, *UNPROBED))
    named = set(re.findall(r"F-\d+", sources))
    rows = re.findall(r"^\| (F-\d+) \|[^|]*\|[^|]*\| ([^|]*) \|", (ROOT / "docs/hardware.md").read_text(), re.M)
    unproven = {number for number, tag in rows if re.search("inferred|choice|sibling|source", tag)}
    assert unproven - named == {"F-113"}
    unknown = " ".join(re.findall(r"unknown ([\d, ]+)", sources))
    assert set(map(int, re.findall(r"\d+", unknown))) == set(range(1, 16))


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["probe", *map(str, arguments)])


def test_the_command_asks_everything_and_saves_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "board.json"
    result = run("--device", "simulator", "--kernel", "rknpu", "-o", path)
    assert result.exit_code == 0, result.output
    found = load(path)
    assert found.verdicts == {one.name: one.assumed_with("rknpu") for one in PROBED if not one.risky}
    assert (found.device, found.driver, found.forms) == ("simulator", "simulator rknpu", set(FORMS))
    assert all(name in result.output for name in found.results)
    assert f"unproven forms that may be used: {len(FORMS)} of {len(FORMS)}" in result.output
    assert f"saved in {path}" in result.output.replace("\n", "")
    assert "please send" not in result.output


def test_what_is_not_answered_is_said(tmp_path: Path) -> None:
    """Chains are not asked for with rocket, and its pooling tasks never end on the simulator."""
    result = run("--device", "simulator", "--only", "chain_order", "--only", "average_rounding", "--only", "bs_clamp")
    assert result.exit_code == 0, result.output
    assert re.search(r"chain_order +not asked", result.output)
    assert re.search(r"average_rounding +no answer +no", result.output)
    assert "not saved" in result.output
    assert not list((tmp_path / "data").rglob("*.json"))
    assert "FLYING" not in result.output
    assert "not allowed: the DPU looks an integer up in its tables (int8) (table_path: not asked)" in result.output


def written(path: Path, device: str = "rocket", **verdicts: str | None) -> Path:
    """A file with all answers as assumed, save some."""
    answers: dict[str, str | None] = {question.name: question.assumed for question in PROBED} | verdicts
    results = {name: Result(verdict, (b"\1", None), "") for name, verdict in answers.items()}
    capabilities.save(Capabilities(device, f"{device} 1.0", "6.18", "a board", "2026-01-01", "0.1", results), path)
    return path


def test_the_simulator_behaves_as_the_board_of_a_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.json", interpolation="floor", pad_after="0", bs_clamp=None)
    result = run("--device", "simulator", "--like", path, "-o", tmp_path / "b.json")
    assert result.exit_code == 0, result.output
    assert load(tmp_path / "b.json").verdicts["interpolation"] == "floor"
    assert load(tmp_path / "b.json").verdicts["bs_clamp"] == QUESTIONS["bs_clamp"].assumed
    assert "relies on another answer to pad_after" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "colour"], "question 'colour' is unknown"),
        (["--only", RISKY[0]], f"question {RISKY[0]} may hang a core of the NPU until it is reset: add --risky"),
        (["--device", "tpu"], "device is 'tpu'; valid: auto"),
        (["--kernel", "linux"], "kernel is 'linux'; valid: rocket, rknpu"),
        (["--device", "rocket"], "there is no node of this driver"),
        (["--device", "simulator", "--like", "nowhere.json"], "nowhere.json: no such file"),
        (["--device", "simulator", "--only", "bs_clamp", "-o", "/proc/nowhere/x"], "capability file /proc/nowhere/x"),
        (["--list", "-o", "/proc/nowhere"], "/proc/nowhere: "),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from delegate.hw import rocket

    monkeypatch.setattr(rocket, "NODES", ("/nowhere/accel*",))
    result = run(*arguments)
    assert isinstance(result.exception, DelegateError), result.output
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_a_device_that_computes_wrong_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(self: Rig, job: Any) -> Answer:
        return Answer(None, 0.5, "the NPU sleeps")

    monkeypatch.setattr(Rig, "run", nothing)
    result = run("--device", "simulator")
    assert isinstance(result.exception, DeviceError)
    assert "does not compute a plain convolution: the NPU sleeps" in str(result.exception)


def test_a_device_that_goes_away_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """And all memory is given back."""
    device = Simulator()
    monkeypatch.setattr(device, "submit", raising(DeviceError("gone", errno.ENODEV)))
    with Rig(device) as rig, pytest.raises(DeviceError, match="gone"):
        plain().ask(rig)
    assert not device.memory.regions
    device.close()


def raising(error: Exception) -> Any:
    def fail(*_: object) -> None:
        raise error

    return fail


def test_risky_questions_come_last_in_a_process_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known before is saved before."""
    asked, before = [], []

    def apart(name: str, *rest: object) -> Any:
        asked.append((name, *rest))
        before.append(set(load(tmp_path / "x.json").results))
        return child.no_answer(name, "it hangs")

    monkeypatch.setattr(command, "ask_apart", apart)
    only = [argument for name in (RISKY[0], "bs_clamp", RISKY[1]) for argument in ("--only", name)]
    result = run("--device", "simulator", "--risky", *only, "-o", tmp_path / "x.json")
    assert result.exit_code == 0, result.output
    assert asked == [(name, "simulator", "rocket", None) for name in RISKY[:2]]
    assert before == [{"bs_clamp"}, {"bs_clamp", RISKY[0]}]
    assert load(tmp_path / "x.json").verdicts["part_of_group"] == "never"
    assert load(tmp_path / "x.json").verdicts["sync_word"] == "needed"


def test_after_a_hang_for_good_nothing_more_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "ask_apart", lambda name, *_: child.no_answer(name, "it hangs"))
    monkeypatch.setattr(command, "recovers", lambda device: False)
    result = run("--device", "simulator", "--risky", "--only", RISKY[0], "--only", RISKY[1], "-o", tmp_path / "x.json")
    assert "restart the board" in result.output
    assert list(load(tmp_path / "x.json").results) == RISKY[:1]


def test_a_core_recovers_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = iter([DeviceError("stuck"), None])

    def check(device: object) -> None:
        if (outcome := next(outcomes)) is not None:
            raise outcome

    monkeypatch.setattr(command, "check", check)
    assert command.recovers(Simulator())


def test_a_process_apart_answers(tmp_path: Path) -> None:
    """With the simulator switched, as for every other question."""
    like = written(tmp_path / "a.json", sync_word="needed")
    assert child.ask_apart("sync_word", "simulator", "rocket", str(like)).verdict == "needed"


@pytest.mark.parametrize(
    ("body", "verdict", "note"),
    [
        ("import time; time.sleep(60)", "never", "no answer in 0 s"),
        ("import os; os.kill(os.getpid(), 9)", "never", "ended by signal 9"),
        ("raise SystemExit('device rocket is not there')", None, "device rocket is not there"),
    ],
)
def test_whatever_becomes_of_the_process_is_an_answer(
    body: str, verdict: str | None, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    popen = child.subprocess.Popen

    def other(arguments: list[str], **more: Any) -> Any:
        return popen([arguments[0], "-c", body], **more)

    monkeypatch.setattr(child, "PATIENCE", 0.3 if "sleep" in body else 60.0)
    monkeypatch.setattr(child.subprocess, "Popen", other)
    finding = child.ask_apart("part_of_group", "simulator", "rocket", None)
    assert finding.verdict == verdict
    assert note in finding.note


def test_the_page_is_fresh(tmp_path: Path) -> None:
    fresh = page()
    assert (ROOT / "docs" / "probe.md").read_text() == fresh, "run python -m delegate probe --list -o docs/probe.md"
    assert run("--list", "-o", tmp_path / "page.md").exit_code == 0
    assert (tmp_path / "page.md").read_text() == run("--list").stdout == fresh
    for question in PROBED:
        assert f"### `{question.name}`" in fresh
        assert all(f"| {name} | {text} |" in fresh for name, text in question.candidates.items())
    assert all(f"`{one.name}`: {one.text} | {one.source} | {one.why} |" in fresh for one in UNPROBED)


def test_a_verdict_switches_the_simulator() -> None:
    assert switched({"interpolation": "away", "bs_clamp": None}) == Options(interpolation="away")
    assert isinstance(QUESTIONS["interpolation"], Question)


def test_the_file_is_json(tmp_path: Path) -> None:
    content = json.loads(written(tmp_path / "a.json").read_text())
    assert (content["format"], content["version"]) == ("teflon-rknpu capabilities", 1)
    assert content["results"]["bs_clamp"] == {"verdict": "behind the product", "observed": ["01", None], "note": ""}
