"""Disassembly: goldens as text for programs and both drivers' captures, every shared capture, and damaged files."""

from __future__ import annotations

import copy
import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import capture_writer
import numpy as np
import pytest

from delegate import cache
from delegate.__main__ import main
from delegate.errors import DelegateError
from delegate.hw.regs import CNA, DPU, PC
from delegate.hw.task import Buffer, Job, Layer, Port, Program, Relocation, Task
from delegate.tools.disasm import disassembly, one_task
from delegate.tools.listing import open_listing

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
ROOT = Path(__file__).resolve().parents[2]


def small_program() -> Program:
    """Two tasks of one layer, linked."""
    body = [CNA.CONV_CON3(conv_y_stride=2, conv_x_stride=1), CNA.FEATURE_DATA_ADDR(), DPU.DST_BASE_ADDR()]
    first = [*body, PC.BASE_ADDRESS(), PC.REGISTER_AMOUNTS(pc_data_amount=2), 0x0041 << 48, 0x0081_0000_001D_0008]
    last = [*body, 0, PC.REGISTER_AMOUNTS(), 0x0041 << 48, 0x0081_0000_001D_0008]
    buffers = (
        Buffer("regcmd", 128, "regcmd"),
        Buffer("weights", 64, "weight", np.arange(64, dtype=np.uint8)),
        Buffer("input 0", 1024, "input"),
        Buffer("output 1", 1024, "output"),
    )
    places = [(0, 1, 2, 0), (0, 2, 3, 0), (0, 3, 0, 64), (1, 1, 2, 256), (1, 2, 3, 256)]
    return Program(
        soc="rk3588",
        buffers=buffers,
        jobs=(Job(tuple(Task(np.array(w, np.uint64), 0) for w in (first, last)), (range(2),), (2,), (3,)),),
        relocations=tuple(Relocation(*place) for place in places),
        inputs=(Port(0, 2, 0, (1, 8, 8, 16), "uint8", 1, 1024, 1024, -5),),
        outputs=(Port(7, 3, 0, (1, 8, 8, 16), "int8", 1, 1024, 1024, 0),),
        layers=(Layer("CONV_2D", 3, "8x8x16 -> 8x8x16, 1x1, stride 2x1"),),
    )


def write_program(path: Path) -> Path:
    path.write_bytes(cache.serialize(small_program()))
    return path


def subjects(folder: Path) -> dict[str, Path]:
    """A file of each kind, by the name of its golden."""
    tasks = [capture_writer.words(link=True), capture_writer.words(algorithm=4)]
    return {
        "program": write_program(folder / "small.program"),
        "rocket": capture_writer.write(folder / "rocket", capture_writer.rocket(tasks)),
        "rknpu": capture_writer.write(folder / "rknpu", capture_writer.rknpu(tasks)),
    }


def text(path: Path, folder: Path, words: bool = True) -> str:
    return "\n".join(disassembly(open_listing(path), words)).replace(f"{folder}/", "") + "\n"


@pytest.mark.parametrize("kind", ["program", "rocket", "rknpu"])
def test_the_text_is_the_golden_one(kind: str, tmp_path: Path) -> None:
    assert text(subjects(tmp_path)[kind], tmp_path) == (GOLDEN / f"{kind}.disasm").read_text()


def test_without_words_only_the_structure_is_printed(tmp_path: Path) -> None:
    shown = text(subjects(tmp_path)["rocket"], tmp_path, words=False)
    assert "task 1: 10 words" in shown
    assert "DPU." not in shown


def test_one_task_can_be_chosen(tmp_path: Path) -> None:
    listing = open_listing(subjects(tmp_path)["program"])
    lines = list(one_task(listing, 1, words=True))
    assert any("input 0 + 0x100" in line for line in lines)
    with pytest.raises(DelegateError, match="task 2 of 2"):
        list(one_task(listing, 2, words=True))


def test_a_word_that_cannot_be_read_is_shown(tmp_path: Path) -> None:
    stream = capture_writer.words()
    stream[1] = ["DPU", "4ff0", "00000007"]
    path = capture_writer.write(tmp_path, capture_writer.rocket([stream]))
    assert "? 0x1001000000074ff0 DPU has no register at 0x4ff0" in text(path, tmp_path)


def test_names_from_a_file_cannot_steer_a_terminal(tmp_path: Path) -> None:
    data = capture_writer.rocket([capture_writer.words()])
    data["case"]["op"] = "red \x1b[31m" + "x" * 1000
    shown = text(capture_writer.write(tmp_path, data), tmp_path)
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) < 250


def test_every_shared_capture_is_readable(shared: Path) -> None:
    """All of programs, and every fifth of the models; every word of every task has a name."""
    found = sorted((shared / "golden").rglob("stream.json.gz"))
    programs = [path for path in found if "programs" in path.parts]
    for path in (*programs, *sorted(set(found) - set(programs))[::5]):
        listing = open_listing(path)
        lines = list(disassembly(listing))
        assert not any(" ? " in line for line in lines), path
        assert len(lines) > sum(task.words.size for task in listing.tasks)
        addresses = sum(len(task.pointers) for task in listing.tasks)
        assert addresses or not listing.tasks, path


def mutations(data: Any, seed: int, count: int) -> Iterator[Any]:
    """The data with one entry somewhere replaced by something unfit, or left out."""
    rng = random.Random(seed)
    for _ in range(count):
        changed = copy.deepcopy(data)
        node = changed
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            key = rng.choice(keys)
            inner = node[key]
            if isinstance(inner, dict | list) and inner and rng.random() < 0.85:
                node = inner
                continue
            break
        if rng.random() < 0.2:
            del node[key]
        else:
            node[key] = rng.choice([None, -1, 1 << 70, 0.5, "zz", "\x00", [], {}, [[]], {"a": 1}, True, 12345678])
        yield changed


@pytest.mark.parametrize("kind", ["rocket", "rknpu"])
def test_unfit_captures_are_one_clear_error(kind: str, tmp_path: Path) -> None:
    data = getattr(capture_writer, kind)([capture_writer.words(link=True), capture_writer.words()])
    refused = 0
    for changed in mutations(data, 7, 400):
        path = capture_writer.write(tmp_path, changed)
        try:
            list(disassembly(open_listing(path)))
        except DelegateError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100


def damaged(tmp_path: Path) -> dict[str, Path]:
    """Files that are nothing of what they seem."""
    whole = gzip.compress(json.dumps(capture_writer.rocket([capture_writer.words()])).encode())
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    program = bytearray(cache.serialize(small_program()))
    program[-1] ^= 1
    contents = {
        "text": b"hello",
        "empty": b"",
        "truncated.gz": whole[: len(whole) // 2],
        "flipped.gz": bytes(flipped),
        "no json.gz": gzip.compress(b"{"),
        "deep.gz": gzip.compress(b"[" * 100000),
        "no list.gz": gzip.compress(b'{"submits": []}'),
        "small.program": bytes(program),
        "model.tflite": b"\0\0\0\0TFL3",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in (*contents, "missing")} | {"folder": tmp_path}


@pytest.mark.parametrize("command", ["disasm", "diff"])
def test_damaged_files_end_in_one_line(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, path in damaged(tmp_path).items():
        files = [str(path)] * (2 if command == "diff" else 1)
        monkeypatch.setattr(sys, "argv", ["delegate", command, *files])
        with pytest.raises(SystemExit) as stopped:
            main()
        message = str(stopped.value.code)
        assert message.startswith("error: ") and "\n" not in message, (name, message)
        assert str(path) in message, (name, message)


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    """`disasm FILE | head -1`: what comes is clean text, and nothing is said on stderr."""
    data = capture_writer.rocket([capture_writer.words() * 300])
    path = capture_writer.write(tmp_path, data)
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "delegate", "disasm", str(path)], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT
    )
    os.close(writer)
    first = os.read(reader, 8)
    os.close(reader)
    _, errors = process.communicate(timeout=60)
    assert first == b"capture "
    assert errors == b""
