"""Files of packed weights: what is in them, what damage does, and conversions that end early."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import mmap
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from typer.testing import CliRunner

from delegate.__main__ import app
from delegate.errors import ModelError
from delegate.matmul import pack
from delegate.weights import convert as conversion
from delegate.weights import packed, writer
from delegate.weights.convert import convert
from delegate.weights.packed import HEADER, PackedWeights, describe

SIZES = checkpoints.SIZES


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return checkpoints.write_version0(tmp_path / "model.bin", checkpoints.random_weights())


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "model.npu"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_is_in_a_file(checkpoint: Path, output: Path) -> None:
    weights = checkpoints.random_weights()
    convert(checkpoint, output)
    found = PackedWeights(output)
    assert found.model["architecture"] == "llama"
    assert found.model["sizes"]["kv_heads"] == SIZES.kv_heads
    assert found.model["source"]["name"] == "model.bin"
    np.testing.assert_array_equal(found.array("embedding"), weights["embedding"].astype(np.float16))
    np.testing.assert_array_equal(found.array("layers.1.ffn_norm"), weights["layers.1.ffn_norm"])
    w13 = np.concatenate([weights["layers.0.w1"], weights["layers.0.w3"]]).T.astype(np.float16)
    [(shape, content)] = found.matrix("layers.0.w13")
    assert shape == w13.shape
    np.testing.assert_array_equal(content, pack(np.ascontiguousarray(w13), 2048))
    assert not any(bad for _, bad in found.damaged())


def test_it_is_mapped_and_aligned(checkpoint: Path, output: Path) -> None:
    """Tensors are views of the file's pages, which begin where pages do, and cannot be written."""
    convert(checkpoint, output)
    found = PackedWeights(output)
    base: Any = found.array("embedding")
    while not isinstance(base, mmap.mmap):
        base = base.base
    for stored in found.description.tensors:
        view = found.matrix(stored.name)[0][1] if stored.kind == "matrix" else found.array(stored.name)
        assert view.ctypes.data % packed.PAGE == 0
        assert not view.flags.writeable
        assert np.shares_memory(view, np.frombuffer(base, np.uint8))


def test_a_matrix_of_many_columns_has_several_blocks() -> None:
    [stored] = describe({}, [("classifier", "matrix", (288, 32000))]).tensors
    assert [block.columns for block in stored.blocks] == [range(16000), range(16000, 32000)]
    with pytest.raises(ModelError, match="down has 20000 rows"):
        describe({}, [("down", "matrix", (20000, 64))])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "cut or damaged"),
        (lambda content: content[:40], "less than the header"),
        (lambda content: b"", "less than the header"),
        (lambda content: b"x" + content[1:], "no file of packed weights"),
        (lambda content: content[:8] + b"\x02" + content[9:], "version 2"),
        (lambda content: content[:12] + b"\0" + content[13:], "not complete"),
        (lambda content: content[:100] + b"?" + content[101:], "checksum of its description"),
    ],
)
def test_damaged_headers(checkpoint: Path, output: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    convert(checkpoint, output)
    output.write_bytes(damage(output.read_bytes()))
    with pytest.raises(ModelError, match=message):
        PackedWeights(output)


def test_blocks_that_are_not_where_the_format_puts_them(output: Path) -> None:
    """A description with a right checksum is not trusted either."""
    right = describe({}, [("norm", "array", (64,))])
    moved = packed.Stored("norm", "array", "float32", (64,), (packed.Block(1 << 40, 256),))
    wrong = packed.Description({}, (moved,))
    digests = bytes(32)
    header = HEADER.pack(packed.MAGIC, 1, 1, len(wrong.content), 1, right.file_size, _sha(wrong.content + digests))
    content = (header + wrong.content).ljust(wrong.digests_offset, b"\0") + digests
    output.write_bytes(content.ljust(right.file_size, b"\0"))
    with pytest.raises(ModelError, match="do not lie where they should"):
        PackedWeights(output)


def _sha(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def test_a_damaged_weight_is_found_by_its_checksum(checkpoint: Path, output: Path) -> None:
    description = convert(checkpoint, output)
    content = bytearray(output.read_bytes())
    stored = next(stored for stored in description.tensors if stored.name == "layers.1.w2")
    content[description.blocks_offset + stored.blocks[0].offset + 77] ^= 4
    output.write_bytes(content)
    assert [name for name, bad in PackedWeights(output).damaged() if bad] == ["layers.1.w2"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layers.1.w2", np.nan, "layers.1.w2 has 1 values that are NaN or infinite"),
        ("layers.0.ffn_norm", np.inf, "layers.0.ffn_norm has 1 values"),
        ("layers.0.wk", 1e5, r"layers.0.qkv has weights up to 100000, more than fp16 holds"),
    ],
)
def test_weights_that_cannot_be(tmp_path: Path, output: Path, name: str, value: float, message: str) -> None:
    weights = checkpoints.random_weights()
    weights[name].reshape(-1)[5] = value
    path = checkpoints.write_version0(tmp_path / "model.bin", weights)
    with pytest.raises(ModelError, match=message):
        convert(path, output)
    assert names(tmp_path) == {"model.bin"}


class Interrupted(BaseException):
    """As KeyboardInterrupt, which pytest would take for its own."""


def interrupt_at(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Ends a conversion before a block is made."""
    made = iter(range(1000))
    whole = conversion._made

    def stop(*arguments: Any) -> Any:
        if next(made) == block:
            raise Interrupted
        return whole(*arguments)

    monkeypatch.setattr(conversion, "_made", stop)


def reports() -> tuple[list[bool], Callable[[Any], Callable[[int, bool], None]]]:
    """(whether each block was made, what to give to convert())."""
    made: list[bool] = []
    return made, lambda description: lambda size, new: made.append(new)


@pytest.mark.parametrize("block", [0, 1, 7])
def test_an_interrupted_conversion_goes_on(
    checkpoint: Path, output: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    convert(checkpoint, output)
    expected = output.read_bytes()
    output.unlink()
    with monkeypatch.context() as patched:
        interrupt_at(patched, block)
        with pytest.raises(Interrupted):
            convert(checkpoint, output)
    assert names(output.parent) == {"model.bin", "model.npu.partial"}
    made, begin = reports()
    convert(checkpoint, output, begin)
    assert made == [False] * block + [True] * (len(made) - block)
    assert output.read_bytes() == expected
    assert names(output.parent) == {"model.bin", "model.npu"}


def test_what_is_damaged_meanwhile_is_made_again(
    checkpoint: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = convert(checkpoint, output)
    expected = output.read_bytes()
    output.unlink()
    with monkeypatch.context() as patched:
        interrupt_at(patched, 6)
        with pytest.raises(Interrupted):
            convert(checkpoint, output)
    partial = output.with_name("model.npu.partial")
    content = bytearray(partial.read_bytes())
    content[description.blocks_offset + description.blocks[2].offset] ^= 1
    partial.write_bytes(content)
    made, begin = reports()
    convert(checkpoint, output, begin)
    assert made[:7] == [False, False, True, False, False, False, True]
    assert output.read_bytes() == expected


def test_another_checkpoint_takes_nothing_over(
    tmp_path: Path, checkpoint: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        interrupt_at(patched, 6)
        with pytest.raises(Interrupted):
            convert(checkpoint, output)
    other = checkpoints.write_version0(tmp_path / "other.bin", checkpoints.random_weights(seed=1))
    made, begin = reports()
    convert(other, output, begin)
    assert all(made)
    assert not any(bad for _, bad in PackedWeights(output).damaged())


def test_a_killed_conversion_goes_on(checkpoint: Path, output: Path) -> None:
    """SIGKILL in the middle: the process stops itself once some blocks are written, and is then killed."""
    program = f"""
import os, signal, sys
from pathlib import Path
from delegate.weights.convert import convert
seen = 0
def report(size, made):
    global seen
    seen += 1
    if seen == 5:
        os.kill(os.getpid(), signal.SIGKILL)
convert(Path({str(checkpoint)!r}), Path({str(output)!r}), lambda description: report)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not output.exists()
    made, begin = reports()
    convert(checkpoint, output, begin)
    assert made[:6] == [False] * 5 + [True]
    assert not any(bad for _, bad in PackedWeights(output).damaged())


@pytest.mark.parametrize("failing", ["posix_fallocate", "pwrite", "fsync", "replace"])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    checkpoint: Path, output: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    calls = iter(range(1000))
    real = getattr(os, failing)

    def full(*arguments: Any) -> Any:
        if failing == "pwrite" and next(calls) < 9:
            return real(*arguments)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer.os, failing, full)
    with pytest.raises(ModelError, match=r"\.npu cannot be written: the disk is full; it needs \d+ bytes") as caught:
        convert(checkpoint, output)
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert names(output.parent) == {"model.bin"}


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file of this process may grow beyond so many bytes."""
    limit, old = 100_000, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_limit_of_file_sizes(checkpoint: Path, output: Path, small_files: int) -> None:
    with pytest.raises(ModelError, match="files may not be so large"):
        convert(checkpoint, output)
    assert names(output.parent) == {"model.bin"}


def test_places_that_cannot_be_written(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be written: No such file or directory"):
        convert(checkpoint, tmp_path / "none" / "model.npu")
    (tmp_path / "folder.npu").mkdir()
    with pytest.raises(ModelError, match="cannot be written: Is a directory"):
        convert(checkpoint, tmp_path / "folder.npu")
    assert names(tmp_path) == {"model.bin", "folder.npu"}


def test_two_conversions_to_one_place(checkpoint: Path, output: Path) -> None:
    with output.with_name("model.npu.partial").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ModelError, match="being written by another process"):
            convert(checkpoint, output)
    convert(checkpoint, output)


def test_the_commands(checkpoint: Path, output: Path) -> None:
    made = run("-m", "delegate", "convert-weights", checkpoint, output)
    assert (made.returncode, made.stderr) == (0, "")
    assert "15 tensors" in made.stdout
    seen = CliRunner().invoke(app, ["inspect", str(output), "--verify"])
    assert seen.exit_code == 0
    assert "sizes.kv_heads: 2" in seen.stdout
    assert "layers.1.qkv" in seen.stdout
    again = CliRunner().invoke(app, ["convert-weights", str(checkpoint), str(output)])
    assert str(again.exception) == f"{output} exists; give --force to replace it"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-3])
    cut = run("-m", "delegate", "convert-weights", checkpoint, output, "--force")
    assert (cut.returncode, cut.stdout) == (1, "")
    assert cut.stderr.count("\n") == 1
    assert "cut off" in cut.stderr
    assert names(output.parent) == {"model.bin", "model.npu"}


def test_inspect_finds_damage(checkpoint: Path, output: Path) -> None:
    description = convert(checkpoint, output)
    content = bytearray(output.read_bytes())
    content[description.blocks_offset] ^= 1
    output.write_bytes(content)
    seen = CliRunner().invoke(app, ["inspect", str(output), "--verify", "--json"])
    assert seen.exit_code == 1
    assert "is damaged (embedding); convert it again" in seen.stderr
    tensors = json.loads(seen.stdout)["tensors"]
    assert [tensor["name"] for tensor in tensors if tensor["state"] == "DAMAGED"] == ["embedding"]
    assert CliRunner().invoke(app, ["inspect", str(checkpoint)]).exit_code == 0


def test_ctrl_c_says_how_to_go_on(checkpoint: Path, output: Path) -> None:
    """The signal comes while the fifth block is made."""
    program = f"""
import os, signal, sys
from delegate.__main__ import main
from delegate.weights import convert as conversion
whole, seen = conversion._made, []
def made(*arguments):
    seen.append(0)
    if len(seen) == 5:
        os.kill(os.getpid(), signal.SIGINT)
    return whole(*arguments)
conversion._made = made
sys.argv = ["delegate", "convert-weights", {str(checkpoint)!r}, {str(output)!r}]
main()
"""
    ended = run("-c", program)
    assert ended.returncode != 0
    assert f"interrupted; the same command goes on behind what is in {output}.partial" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert names(output.parent) == {"model.bin", "model.npu.partial"}
    went_on = CliRunner().invoke(app, ["convert-weights", str(checkpoint), str(output)])
    assert "taken over from an interrupted conversion" in went_on.stdout
    assert names(output.parent) == {"model.bin", "model.npu"}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
