"""Our drivers on the stand-in: both were written from uapi.md without sight of each other and meet at the ABI."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("caches", ["0", "1"])
@pytest.mark.parametrize("device", ["rocket", "rknpu"])
def test_the_demonstration_says_what_the_simulator_says(stand_in, device, caches):
    """With caches a forgotten synchronisation would show; no buffer is made after the first invoke."""
    server = stand_in(TEFLON_SHIM_CACHES=caches, TEFLON_SHIM_STRICT="1", TEFLON_CACHE_DIR="off")
    command = [sys.executable, "classification.py", "--runs", "3", "--device"]
    seen = [server.run([*command, name], cwd=ROOT).stdout.splitlines() for name in (device, "simulator")]
    labels = [[line for line in lines if line[:1].isdigit()] for lines in seen]
    assert labels[0] == labels[1] and len(labels[0]) == 5
    server.settled()
    calls = [line for line in server.lines() if "#1 " in line]
    submits = [index for index, line in enumerate(calls) if " SUBMIT " in line]
    assert len(submits) >= 3
    assert not [line for line in server.lines() if line.startswith("# ")], "strict mode has nothing to say"
    steady = calls[submits[0] : submits[-1]]
    assert not [
        line for line in steady if "CREATE" in line or "mmap" in line or "DESTROY" in line or "GEM_CLOSE" in line
    ]
