"""Captures of the demonstration from every device, replayed on every device: bit for bit what was recorded."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DEVICES = ("simulator", "rocket", "rknpu")


def test_every_recording_replays_on_every_device(stand_in, tmp_path):
    """Two submits of each recording, whose output and scratch the host reads back."""
    server = stand_in(TEFLON_CACHE_DIR="off", TEFLON_RECORD=str(tmp_path / "captures"), TEFLON_RECORD_SUBMITS="2")
    for device in DEVICES:
        server.run([sys.executable, "classification.py", "--runs", "2", "--device", device], cwd=ROOT)
    assert len(list((tmp_path / "captures").iterdir())) == len(DEVICES)
    for device in DEVICES:
        command = [sys.executable, "-m", "delegate", "replay", str(tmp_path / "captures"), "--device", device]
        lines = server.run(command, cwd=ROOT).stdout.splitlines()
        assert sum(f"device {device}: " in line and "as recorded" in line for line in lines) == 2 * 2 * len(DEVICES)
        assert sum("the simulator: " in line and "as recorded" in line for line in lines) == 2 * 2 * len(DEVICES)
        assert not [line for line in lines if "NOT" in line or "refused" in line or "not run" in line]
    assert sum(" SUBMIT " in line for line in server.lines()) > 2 * 2 * len(DEVICES)
