"""`python -m delegate probe` on the stand-in: through both drivers, on other silicon, and with cores that hang."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from delegate.hw.capabilities import Capabilities, Result, load, save
from delegate.hw.questions import PROBED

PROBE = [sys.executable, "-m", "delegate", "probe", "--device"]
DRIVERS = pytest.mark.parametrize("driver", ["rocket", "rknpu"])
WATCHDOG = {"TEFLON_SHIM_TIME_SCALE": "1"}  # the silence of the PPU is told by the half second that it lasts


@DRIVERS
def test_a_board_answers_as_assumed(stand_in, driver: str, tmp_path: Path):
    """And the file lies where the delegate finds it."""
    server = stand_in(XDG_DATA_HOME=str(tmp_path), TEFLON_SHIM_CACHES="1", **WATCHDOG)
    output = server.run([*PROBE, driver]).stdout
    found = load(tmp_path / "teflon-rknpu" / "capabilities" / f"{driver}-stand-in.json")
    wanted = {one.name: one.assumed_with(driver) for one in PROBED if not one.risky}
    if driver == "rocket":
        del wanted["chain_order"]
    assert found.verdicts == wanted
    assert (found.device, found.board) == (driver, "stand-in")
    assert "unproven forms that may be used: 9 of 9" in output
    assert "please send" not in output
    doctor = server.run([sys.executable, "-m", "delegate", "doctor", "--json"]).stdout
    assert f"{driver}-stand-in.json" in doctor or driver == "rknpu"  # device=auto takes rocket


@DRIVERS
def test_other_silicon_is_recognised(stand_in, driver: str, tmp_path: Path):
    """TEFLON_SHIM_CAPABILITIES: the stand-in behaves as the board of a file."""
    other = {"interpolation": "floor", "row_skip": "behind pixels", "pad_after": "0", "gain_operand": "by pixel"}
    other |= {"chain_order": "stale"} if driver == "rknpu" else {"sync_word": "needed"}
    results = {name: Result(verdict) for name, verdict in other.items()}
    save(Capabilities("rocket", "rocket 1", "6.18", "a board", "2026-01-01", "0.1", results), tmp_path / "other.json")
    server = stand_in(TEFLON_SHIM_CAPABILITIES=str(tmp_path / "other.json"))
    only = [argument for name in other for argument in ("--only", name)]
    server.run([*PROBE, driver, *only, "--risky", "-o", str(tmp_path / "found.json")])
    assert load(tmp_path / "found.json").verdicts == other


@DRIVERS
@pytest.mark.parametrize(
    ("fault", "verdict", "said"),
    [
        ("job:2=hang", "needed", ""),  # the first is the convolution that shows that the NPU works
        ("job:after=1=hang", "needed", "restart the board"),
    ],
)
def test_a_core_that_hangs_is_an_answer(stand_in, driver: str, fault: str, verdict: str, said: str, tmp_path: Path):
    path = tmp_path / "found.json"
    server = stand_in(fault)
    result = server.run([*PROBE, driver, "--only", "sync_word", "--risky", "-o", str(path)])
    assert load(path).verdicts == {"sync_word": verdict}
    assert (said in result.stderr) if said else ("restart" not in result.stderr)


@DRIVERS
@pytest.mark.parametrize(
    ("fault", "verdicts"),
    [
        ("job:2=hang", {"norm_shift": "even", "norm_order": "multiply first"}),  # asked again
        ("job:after=1=hang", {"norm_shift": None}),  # nothing more is asked of a core that stays stuck
    ],
)
def test_a_job_that_is_lost_is_asked_again(
    stand_in, driver: str, fault: str, verdicts: dict[str, str | None], tmp_path: Path
):
    path = tmp_path / "found.json"
    result = stand_in(fault).run([*PROBE, driver, "--only", "norm_shift", "--only", "norm_order", "-o", str(path)])
    assert load(path).verdicts == verdicts
    assert ("restart the board" in result.stderr) == (None in verdicts.values())


@DRIVERS
@pytest.mark.parametrize("fault", ["job:1=hang", "device:after=20=lost"])
def test_an_npu_that_does_not_work_is_asked_nothing(stand_in, driver: str, fault: str, tmp_path: Path):
    server = stand_in(fault)
    result = server.run([*PROBE, driver, "--only", "norm_shift", "-o", str(tmp_path / "found.json")], status=1)
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "found.json").exists()


def test_a_wrong_file_is_said_before_anything_runs(stand_in, tmp_path: Path):
    command = [sys.executable, "-m", "delegate", "shim", "--", "true"]
    server = stand_in()
    server.environment = {**server.environment, "TEFLON_SHIM_CAPABILITIES": str(tmp_path / "nowhere")}
    assert "nowhere: no such file" in server.run(command, status=1).stderr
