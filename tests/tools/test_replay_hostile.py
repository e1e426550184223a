"""Damaged and hostile captures give one clear error, in bounded time and memory."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import capture_writer
import numpy as np
import pytest

from benchmarks import harness
from delegate.errors import DelegateError
from delegate.tools import capture as capture_module
from delegate.tools.replay_command import Request, limited, replay_one

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = harness.SHARED / "golden"
SECONDS = 10.0  # of one damaged capture; a sound one of this size takes a hundredth
MEMORY = 4 << 30  # bytes of address space of a child process
REQUEST = Request(timeout=SECONDS, judge=True)
HOSTILE: list[Any] = [
    *(-1, 0, 1, 3, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 64, 10**9, 1e308, float("nan"), None, True),
    *([], {}, "", "zz", "-1", "ffffffff", "100000000", "\0" * 9, [1], [[1]], {"a": 1}, "CONV", [0, 0], [10**9, 10**9]),
]


def outcome(file: Path) -> str:
    """Empty, or the one line that the command would print; anything but a DelegateError fails the test."""
    began = time.monotonic()
    try:
        replay_one(file, REQUEST)
        message = ""
    except DelegateError as error:
        message = str(error)
    assert time.monotonic() - began < SECONDS
    assert len(message.splitlines()) <= 1, message
    return message


def written(folder: Path, data: Any) -> Path:
    return capture_writer.write(folder, data) / "stream.json.gz"


def streams() -> list[list[list[Any]]]:
    return [capture_writer.words(link=True), capture_writer.words()]


# --- Single attacks -------------------------------------------------------------------------------------------------


def edited(edit: Callable[[dict[str, Any]], None], vendor: bool = False) -> dict[str, Any]:
    data = copy.deepcopy(capture_writer.rknpu(streams()) if vendor else capture_writer.rocket(streams()))
    edit(data)
    return data


def task(data: dict[str, Any]) -> dict[str, Any]:
    submit = data["submits"][0]
    found: dict[str, Any] = (submit["jobs"][0] if "jobs" in submit else submit)["tasks"][0]
    return found


def job(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = data["submits"][0]["jobs"][0]
    return found


ATTACKS: dict[str, tuple[dict[str, Any], str]] = {
    "a buffer beyond 32 bits": (edited(lambda d: d["bos"][0].update(iova="fffffffff")), "buffer address"),
    "a buffer of 2**40 bytes": (edited(lambda d: d["bos"][0].update(size=1 << 40)), "buffer size"),
    "buffers of many GiB": (
        edited(lambda d: d["bos"].extend({"bo": 10 + i, "size": 1 << 30, "iova": i << 30} for i in range(3))),
        "together",
    ),
    "a negative size": (edited(lambda d: d["bos"][0].update(size=-4096)), "buffer size"),
    "overlapping buffers": (edited(lambda d: d["bos"][3].update(iova=d["bos"][2]["iova"])), "overlap"),
    "a negative count": (edited(lambda d: task(d).update(count=-1)), "word count"),
    "an absurd count": (edited(lambda d: task(d).update(count=1 << 40)), "word count"),
    "a stream outside its buffer": (edited(lambda d: task(d).update(regcmd=[2, 1 << 30])), "leaves buffer"),
    "a stream in no buffer": (edited(lambda d: task(d).update(regcmd=[99, 0])), "does not exist"),
    "an odd stream address": (edited(lambda d: task(d).update(regcmd=[2, 4])), ""),
    "a billion tasks": (
        edited(lambda d: d["submits"][0].update(subcore_task=[[0, 10**9]] * 5, task_number=10**9), vendor=True),
        "runs tasks",
    ),
    "tasks before the first": (
        edited(lambda d: d["submits"][0].update(subcore_task=[[-3, 2]] * 5), vendor=True),
        "runs tasks",
    ),
    "a word of 33 bits": (edited(lambda d: task(d)["words"][0].__setitem__(2, "1ffffffff")), "value"),
    "an unknown block": (edited(lambda d: task(d)["words"][0].__setitem__(0, "LASER")), "malformed"),
    "an unknown driver": (edited(lambda d: d.update(uapi="xyz")), "uapi"),
    "chains that do not cover a job": (edited(lambda d: job(d).update(chains=[[0, 1]])), "do not cover"),
    "a chain of a billion tasks": (edited(lambda d: job(d).update(chains=[[0, 10**9]])), "chain"),
    "chains that are none": (edited(lambda d: job(d).update(chains=[5])), "malformed"),
    "no submits": (edited(lambda d: d.update(submits={"a": 1})), "not a list"),
    "a table of tensors that is none": (
        edited(lambda d: d["bos"][0].update(role="tensor", tensor=0, graph=0)),
        "malformed table",
    ),
    "a tensor of 2**80 elements": (
        edited(
            lambda d: (
                d["bos"][0].update(role="tensor", tensor=0, graph=0),
                d.update(
                    graphs=[
                        {
                            "tensors": [{"idx": 0, "zp_hex": "0", "dims": [1, 1 << 40, 1 << 40, 1]}],
                            "operations": [],
                        }
                    ]
                ),
            )
        ),
        "shape",
    ),
}


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_an_attack_is_one_error(name: str, tmp_path: Path):
    data, words = ATTACKS[name]
    message = outcome(written(tmp_path, data))
    assert words in message
    assert message or not words


def test_a_chain_that_leads_to_itself_ends(tmp_path: Path):
    """The number of tasks ends a chain, whatever its links say (S-94)."""
    loop = capture_writer.words(link=True)
    link = next(index for index, item in enumerate(loop) if item[:2] == ["PC", "0010"])
    loop[link] = ["PC", "0010", f"{capture_writer.BASES[2]:08x}", [2, 0]]
    outcome(written(tmp_path, capture_writer.rknpu([loop] * 50)))


def test_an_address_outside_all_buffers_is_where_silicon_would_fault(tmp_path: Path):
    stream = capture_writer.words()
    place = next(index for index, item in enumerate(stream) if item[:2] == ["DPU", "4020"])
    stream[place] = ["DPU", "4020", "e0000000", [4, 0]]
    played, _ = replay_one(written(tmp_path, capture_writer.rocket([stream])), REQUEST)
    assert played.errors


def test_relocation_needs_words_that_agree(tmp_path: Path):
    stream = capture_writer.words()
    place = next(index for index, item in enumerate(stream) if item[:2] == ["DPU", "4020"])
    stream[place] = ["DPU", "4020", "e0000000", [4, 0]]
    file = written(tmp_path, capture_writer.rocket([stream]))
    with pytest.raises(DelegateError, match="is not byte 0 of buffer 4"):
        replay_one(file, Request(base=0x70000000))
    for base in (12, -4096, 1 << 32, (1 << 32) - 4096):
        with pytest.raises(DelegateError, match="base"):
            replay_one(file, Request(base=base))


# --- Files ----------------------------------------------------------------------------------------------------------


def member(array_header: str, content: bytes) -> bytes:
    """An .npz with one member whose header says what it likes."""
    header = array_header.encode().ljust(117) + b"\n"
    raw = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("s0_bo3.npy", raw)
    return stream.getvalue()


def archives() -> dict[str, bytes]:
    header = "{{'descr': {!r}, 'fortran_order': False, 'shape': {}, }}".format
    plain = member(header("|u1", "(64,)"), bytes(64))
    return {
        "huge shape": member(header("|u1", "(1000000000000000,)"), bytes(64)),
        "negative shape": member(header("|u1", "(-5,)"), bytes(64)),
        "pickle": member(header("|O", "(1,)"), b"cos\nsystem\n(S'touch /tmp/owned'\ntR."),
        "floats": member(header("<f8", "(8,)"), bytes(64)),
        "longer than the buffer": member(header("|u1", "(100000,)"), bytes(100000)),
        "short": member(header("|u1", "(640,)"), bytes(64)),
        "no zip": b"PK\x03\x04" + bytes(100),
        "empty": b"",
        "cut": plain[: len(plain) // 2],
        "flipped": plain[:90] + bytes([plain[90] ^ 0xFF]) + plain[91:],
    }


@pytest.mark.parametrize("name", sorted(archives()))
@pytest.mark.parametrize("file", ["bos.npz", "coefs.npz", "outputs.npz"])
def test_a_hostile_archive_is_one_error(name: str, file: str, tmp_path: Path):
    stream = written(tmp_path, capture_writer.rocket(streams()))
    (tmp_path / file).write_bytes(archives()[name])
    message = outcome(stream)
    assert message or (file == "coefs.npz" and name == "longer than the buffer")  # it holds no such buffer


def test_an_archive_that_unpacks_to_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(capture_module, "ARRAY_LIMIT", 1 << 20)
    stream = written(tmp_path, capture_writer.rocket(streams()))
    np.savez_compressed(tmp_path / "bos.npz", s0_bo3=np.zeros(2 << 20, np.uint8))
    assert "unpacks to" in outcome(stream)


@pytest.mark.parametrize("content", [b"[" * 200_000, b"\xff\xfe", b"", b"[]", b"nul", b'{"bos": 5}', b'"text"'])
def test_json_that_is_no_capture(content: bytes, tmp_path: Path):
    file = tmp_path / "stream.json.gz"
    file.write_bytes(gzip.compress(content))
    assert outcome(file)


def test_truncated_and_flipped_files(tmp_path: Path):
    """Every hundredth length, and a thousand flipped bits, of a capture's gzip file."""
    file = written(tmp_path / "whole", capture_writer.rocket(streams()))
    whole = file.read_bytes()
    damaged = tmp_path / "stream.json.gz"
    for length in range(0, len(whole), max(len(whole) // 100, 1)):
        damaged.write_bytes(whole[:length])
        assert outcome(damaged)
    choice = random.Random(1)
    checked = 10 + len("stream.json\0")  # the gzip header's own bytes and the file's name have no checksum
    refused = 0
    for _ in range(1000):
        content = bytearray(whole)
        content[choice.randrange(checked, len(whole))] ^= 1 << choice.randrange(8)
        damaged.write_bytes(content)
        refused += bool(outcome(damaged))
    assert refused > 980  # the checksum sees all bits but those that fill up the last byte


# --- Seeded mutations -----------------------------------------------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a JSON value."""
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from places(inner, (*path, key))


def mutated(data: Any, paths: list[tuple[Any, ...]], choice: random.Random) -> Any:
    """A copy with one to four places removed, doubled, moved a little, or replaced by something hostile."""
    data = copy.deepcopy(data)
    for _ in range(choice.choice((1, 1, 2, 4))):
        *parents, last = choice.choice(paths) or ("submits",)
        try:
            holder = data
            for key in parents:
                holder = holder[key]
            kind = choice.random()
            if kind < 0.15:
                del holder[last]
            elif kind < 0.25 and isinstance(holder, list):
                holder.insert(last, copy.deepcopy(holder[last]))
            elif kind < 0.35 and isinstance(holder[last], int):
                holder[last] += choice.choice((-1, 1, 4096, -4096))
            else:
                holder[last] = copy.deepcopy(choice.choice(HOSTILE))
        except (KeyError, IndexError, TypeError):
            pass  # an earlier change took the place away
    return data


def mutate(data: Any, folder: Path, count: int, seed: str) -> tuple[int, int]:
    """Runs mutations; how many were refused, and how many ran."""
    choice = random.Random(seed)
    every = list(places(data))
    tables = [path for path in every if "words" not in path]
    refused = 0
    for _ in range(count):
        refused += bool(outcome(written(folder, mutated(data, choice.choice((tables, tables, every)), choice))))
    return refused, count - refused


@pytest.mark.parametrize("vendor", [False, True])
def test_mutated_tables(vendor: bool, tmp_path: Path):
    data = capture_writer.rknpu(streams()) if vendor else capture_writer.rocket(streams())
    refused, ran = mutate(data, tmp_path, 1000, f"tables {vendor}")
    assert refused > 100
    assert ran > 100


@pytest.mark.parametrize("name", ["sweep/s003", "sweep/add10a", "programs/rus-mm_int8-4x64x32"])
def test_mutated_captures(name: str, shared: Path, tmp_path: Path):
    for file in (GOLDEN / name).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = json.loads(gzip.decompress((GOLDEN / name / "stream.json.gz").read_bytes()))
    refused, ran = mutate(data, tmp_path, 500, name)
    assert refused > 50
    assert ran > 50


# --- Limits ---------------------------------------------------------------------------------------------------------


def test_time_is_limited():
    with pytest.raises(DelegateError, match="not done after"), limited(0.05, 1 << 30, "a capture"):
        time.sleep(5)


def test_memory_is_limited():
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(DelegateError, match="MiB"), limited(10, 64 << 20, "a capture"):
        np.ones(1 << 28)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def bomb(folder: Path) -> Path:
    """A small gzip file of much JSON."""
    folder.mkdir()
    file = folder / "stream.json.gz"
    with gzip.open(file, "wb", compresslevel=1) as stream:
        for _ in range(200):
            stream.write(b"[" + b"[]," * (1 << 19))
    return file


def large(folder: Path) -> Path:
    """Buffers as large as is allowed, and a task that writes all over them."""
    data = capture_writer.rocket([capture_writer.words(width=8191)])
    data["bos"][2].update(size=1 << 28, iova="30000000")
    data["bos"][3].update(size=1 << 28, iova="50000000")
    return written(folder, data)


@pytest.mark.parametrize("make", [bomb, large])
def test_the_command_stays_small(make: Callable[[Path], Path], tmp_path: Path):
    """In a process that may not have more: one line, no traceback, in seconds."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (30, 30))

    command = [sys.executable, "-m", "delegate", "replay", str(make(tmp_path / "capture")), "--timeout", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 1)
    assert len(done.stderr.splitlines()) <= 1
