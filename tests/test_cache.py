"""The cache: what is read is what was written, and nothing that lies in the folder can do harm."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layers import EVERY_FORM, PROVEN
from test_compile import small_graph

from delegate import cache
from delegate.compile import compile_graph
from delegate.hw.task import Program

LIMIT = 1 << 20


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_graph(small_graph(), EVERY_FORM)


def assert_equal(a: Program, b: Program) -> None:
    for name in ("soc", "relocations", "inputs", "outputs", "layers"):
        assert getattr(a, name) == getattr(b, name)
    for x, y in zip(a.tasks, b.tasks, strict=True):
        np.testing.assert_array_equal(x.words, y.words)
    for left, right in zip(a.buffers, b.buffers, strict=True):
        assert (left.name, left.size, left.role) == (right.name, right.size, right.role)
        np.testing.assert_array_equal(left.data, right.data)
    for first, second in zip(a.jobs, b.jobs, strict=True):
        assert (first.chains, first.reads, first.writes) == (second.chains, second.reads, second.writes)


def test_a_program_comes_back_as_it_was(tmp_path: Path, program: Program) -> None:
    assert cache.load(tmp_path, "k") is None
    cache.store(tmp_path / "new", "k", program, LIMIT)
    loaded = cache.load(tmp_path / "new", "k")
    assert loaded is not None
    assert_equal(loaded, program)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_bit_is_found(program: Program, data: st.DataObject) -> None:
    content = bytearray(cache.serialize(program))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(cache.CacheError):
        cache.deserialize(bytes(content))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_truncated_file_is_found(program: Program, data: st.DataObject) -> None:
    content = cache.serialize(program)
    with pytest.raises(cache.CacheError):
        cache.deserialize(content[: data.draw(st.integers(0, len(content) - 1))])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_forged_header_with_a_right_checksum_gives_a_sound_program_or_an_error(
    program: Program, data: st.DataObject
) -> None:
    """The header's characters are changed one at a time; what still loads has passed task.check."""
    content = cache.serialize(program)
    body = bytearray(content[40:])
    length = int.from_bytes(body[:8], "little")
    body[8 + data.draw(st.integers(0, length - 1))] = ord(data.draw(st.sampled_from('0123456789-,[]{}":ax')))
    forged = content[:8] + hashlib.sha256(body).digest() + bytes(body)
    with contextlib.suppress(cache.CacheError):
        cache.deserialize(forged)


def test_a_damaged_entry_is_reported_and_removed(tmp_path: Path, program: Program) -> None:
    cache.store(tmp_path, "k", program, LIMIT)
    path = tmp_path / "k.program"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(cache.CacheError, match=r"k\.program: truncated or damaged"):
        cache.load(tmp_path, "k")
    assert cache.load(tmp_path, "k") is None


def test_another_versions_file_is_not_read(tmp_path: Path, program: Program) -> None:
    data = cache.serialize(program)
    (tmp_path / "k.program").write_bytes(b"TEFLONC0" + data[8:])
    with pytest.raises(cache.CacheError, match="not a program of this version"):
        cache.load(tmp_path, "k")


def test_an_unusable_folder_is_an_error_with_its_name(tmp_path: Path, program: Program) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(cache.CacheError, match=f"cache folder {occupied}"):
        cache.store(occupied, "k", program, LIMIT)
    with pytest.raises(cache.CacheError, match="file"):
        cache.load(occupied, "k")


def test_the_least_recently_used_entries_go_first(tmp_path: Path, program: Program) -> None:
    size = len(cache.serialize(program))
    for number, name in enumerate("abc"):
        cache.store(tmp_path, name, program, 3 * size)
        os.utime(tmp_path / f"{name}.program", (number, number))
    assert cache.load(tmp_path, "a") is not None  # used now
    cache.store(tmp_path, "d", program, 3 * size)
    assert sorted(path.stem for path in tmp_path.glob("*.program")) == ["a", "c", "d"]
    with pytest.raises(cache.CacheError, match="exceeds"):
        cache.store(tmp_path, "e", program, size - 1)


def test_many_writers_leave_whole_files_only(tmp_path: Path, program: Program) -> None:
    threads = [threading.Thread(target=cache.store, args=(tmp_path, "k", program, LIMIT)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["k.program"]
    assert cache.load(tmp_path, "k") is not None


def test_the_key_depends_on_weights_and_options() -> None:
    model, other = small_graph(), small_graph()
    assert cache.key(model, EVERY_FORM, False) == cache.key(other, EVERY_FORM, False)
    assert cache.key(model, EVERY_FORM, False) != cache.key(model, EVERY_FORM, True)
    assert cache.key(model, EVERY_FORM, False) != cache.key(model, PROVEN, False)
    weight = other.nodes[0].inputs[1]
    assert weight is not None and weight.data is not None
    weight.data.reshape(-1)[5] ^= 1
    assert cache.key(model, EVERY_FORM, False) != cache.key(other, EVERY_FORM, False)
