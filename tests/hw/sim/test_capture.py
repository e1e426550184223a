"""Captures from elsewhere: malformed, truncated or hostile ones give one clear error, in bounded time and memory."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from delegate.errors import DelegateError
from delegate.tools.capture import CaptureError, load
from delegate.tools.replay import Replay

GOLDEN = Path(__file__).parents[4] / "shared" / "golden"


def capture(**changes: Any) -> dict[str, Any]:
    """A capture with one task that fires nothing known."""
    task = {"regcmd": [1, 0], "count": 2, "words": [["VERSION", "0000", "0"], ["PC_OP_EN", "0008", "1d"]]}
    base = {
        "bos": [{"bo": 1, "size": 4096, "iova": "20000000", "role": "regcmd"}],
        "submits": [{"jobs": [{"tasks": [task]}]}],
    }
    return {**base, **changes}


def write(folder: Path, data: Any) -> Path:
    (folder / "stream.json.gz").write_bytes(gzip.compress(json.dumps(data).encode()))
    return folder


def test_a_well_formed_one_loads(tmp_path: Path):
    loaded = load(write(tmp_path, capture()))
    assert loaded.submits[0].tasks[0].words.tolist() == [0x0041 << 48, 0x0081_0000001D_0008]


@pytest.mark.parametrize(
    "changes",
    [
        {"bos": {}},
        {"bos": [{"bo": 1, "size": -1, "iova": 0}]},
        {"bos": [{"bo": 1, "size": 1 << 31, "iova": 0}]},
        {"bos": [{"bo": 1, "size": 4096, "iova": "100000000"}]},
        {"bos": [{"bo": 1, "size": 4096}]},
        {"bos": [{"bo": 1, "size": 4096, "iova": "zz"}]},
        {"submits": [{"jobs": [{"tasks": [{"regcmd": [2, 0], "count": 1, "words": []}]}]}]},
        {"submits": [{"jobs": [{"tasks": [{"regcmd": [1, 4090], "count": 1, "words": [["0000", "0", "0"]]}]}]}]},
        {"submits": [{"jobs": [{"tasks": [{"regcmd": [1, 0], "count": 1, "words": [["CNA"]]}]}]}]},
        {"submits": [{"jobs": [{"tasks": [{"regcmd": [1, 0], "count": 1, "words": [["NPU", "0", "0"]]}]}]}]},
        {"submits": [{"jobs": [{"tasks": [{"regcmd": [1, 0], "count": 1 << 40, "words": []}]}]}]},
        {"submits": [{"jobs": [{"tasks": 7}]}]},
        {"uapi": "other"},
        {"uapi": "rknpu", "submits": [{"tasks": [], "subcore_task": [[0, 1]], "core_mask": 1}]},
        {"uapi": "rknpu", "submits": [{"tasks": [], "subcore_task": [], "core_mask": 1}]},
        {"uapi": "rknpu", "submits": [{"tasks": [], "subcore_task": [[0, 1]], "core_mask": 99}]},
    ],
)
def test_malformed_entries_are_refused(tmp_path: Path, changes: dict[str, Any]):
    with pytest.raises(CaptureError, match=r"^capture .*stream\.json\.gz: "):
        load(write(tmp_path, capture(**changes)))


def test_files_that_are_no_captures(tmp_path: Path):
    with pytest.raises(CaptureError):
        load(tmp_path)
    for content in (
        b"",
        b"text",
        gzip.compress(b"[]"),
        gzip.compress(b"{"),
        gzip.compress(b"{}")[:-6],
        b"\x1f\x8b" * 9,
    ):
        (tmp_path / "stream.json.gz").write_bytes(content)
        with pytest.raises(CaptureError):
            load(tmp_path)


def test_arrays_must_be_bytes(tmp_path: Path):
    write(tmp_path, capture())
    for array in (np.zeros(4), np.zeros((2, 2), np.uint8), np.array([{}], object)):
        np.savez(tmp_path / "bos.npz", s0_bo1=array)
        with pytest.raises(CaptureError):
            load(tmp_path)
    np.savez(tmp_path / "bos.npz", s0_bo1=np.zeros(8192, np.uint8))
    with pytest.raises(CaptureError, match="do not fit"):
        load(tmp_path)
    np.savez(tmp_path / "bos.npz", s0_bo9=np.zeros(1, np.uint8))
    with pytest.raises(CaptureError, match="no such buffer"):
        load(tmp_path)
    (tmp_path / "bos.npz").write_bytes(b"PK")
    with pytest.raises(CaptureError):
        load(tmp_path)


def test_overlapping_buffers_are_refused(tmp_path: Path):
    bos = [{"bo": 1, "size": 8192, "iova": "20000000"}, {"bo": 2, "size": 1, "iova": "20001000"}]
    loaded = load(write(tmp_path, capture(bos=bos)))
    with pytest.raises(CaptureError, match="overlap"):
        Replay(loaded)


def test_a_chain_that_loops_ends(tmp_path: Path):
    """TASK_NUMBER bounds what a stream that leads to itself can do."""
    words = [["PC", "0010", "20000000"], ["PC", "0014", "ffff"], ["VERSION", "0000", "0"], ["PC_OP_EN", "0008", "18"]]
    task = {"regcmd": [1, 0], "count": 4, "words": words}
    job = {"tasks": [task] * 3, "job_tail": "01"}
    with pytest.raises(DelegateError):
        Replay(load(write(tmp_path, capture(submits=[{"jobs": [job]}])))).run()


@pytest.mark.parametrize(
    "name", ["sweep/s001", "sweep/add02a", "programs/rus-mm_fp16-4x32x16", "programs/ab-pool_max_9x7"]
)
def test_flipped_bits_and_cuts(tmp_path: Path, name: str):
    """Whatever happens to the file, a DelegateError or a run."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    whole = (GOLDEN / name / "stream.json.gz").read_bytes()
    text = gzip.decompress(whole)
    for _ in range(30):
        damaged = bytearray(text)
        for position in rng.integers(0, len(text), 3):
            damaged[position] = int(rng.integers(32, 127))
        (tmp_path / "stream.json.gz").write_bytes(gzip.compress(bytes(damaged)))
        try:
            Replay(load(tmp_path), slack=1 << 20).run()
        except DelegateError:
            continue
    for length in rng.integers(0, len(whole), 10):
        (tmp_path / "stream.json.gz").write_bytes(whole[: int(length)])
        with pytest.raises(CaptureError):
            load(tmp_path)
