"""The wheels for both architectures, the emulated board and other people's programs on it, where those are there."""

from __future__ import annotations

import importlib.util
import re
import shutil
import struct
import zipfile
from pathlib import Path

import pytest

from delegate.build import library_names
from delegate.errors import DelegateError
from release import board, clients, wheels

MACHINE_NUMBERS = {"x86_64": 62, "aarch64": 183}  # e_machine of ELF


@pytest.fixture(scope="module")
def emulated() -> board.Board:
    found = board.existing()
    if found is None:
        pytest.skip("no userland in build/board, or no qemu-aarch64; `make wheels` makes it")
    return found


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed; `make wheels` does")
@pytest.mark.parametrize("machine", wheels.MACHINES)
def test_a_wheel_has_libraries_of_its_machine_for_its_glibc(tmp_path: Path, machine: str) -> None:
    wheel = wheels.build(machine, tmp_path)
    assert wheel.name.endswith(f"-manylinux_2_28_{machine}.whl")
    newest = tuple(map(int, wheels.GLIBC.split(".")))
    with zipfile.ZipFile(wheel) as archive:
        for name in library_names():
            data = archive.read(f"delegate/{name}")
            assert data[:5] == b"\x7fELF\x02" and struct.unpack_from("<H", data, 18)[0] == MACHINE_NUMBERS[machine]
            wanted = re.findall(rb"GLIBC_(\d+)\.(\d+)", data)
            assert wanted and max((int(major), int(minor)) for major, minor in wanted) <= newest
            assert str(board.ROOT).encode() not in data and b"/lib/libpython" not in data


def test_upstreams_delegate_classifies_on_the_stand_in(emulated: board.Board, tmp_path: Path) -> None:
    """Mesa's own libteflon.so for boards: 29 convolutions of MobileNetV1 in two submits."""
    model = clients.MODELS / "mobilenet_v1_0.25_128_quant.tflite"
    if not model.exists() or importlib.util.find_spec("ziglang") is None:
        pytest.skip("../shared/models or ziglang is missing")
    library = clients.shim_for_aarch64(tmp_path)
    ((name, kind, different, largest, same, said),) = clients.try_model(emulated, library, model, "ai-edge-litert")
    assert (name, kind, same, said) == (model.stem, "uint8", "yes", "2 submits")
    assert int(different.split()[0]) < 30 and int(largest) < 16


def test_what_a_client_that_fails_leaves_behind(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("1.0 accel0#1 SUBMIT jobs=1 = 0\n2.0 # rocket: core 0: job 1 ends by the watchdog\n")
    assert clients.stand_in_log(log) == "1 submits; rocket: core 0: job 1 ends by the watchdog"
    assert clients.stand_in_log(tmp_path / "none") == "0 submits"
    assert clients.ending(-11, "qemu: uncaught target signal 11\nmore") == "qemu: uncaught target signal 11"
    assert clients.ending(3, "nothing said") == "status 3"


def test_a_command_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(DelegateError, match="no-such-file"):
        board.quietly(["ls", "no-such-file"])
    assert board.quietly(["echo", "text"]) == "text\n"


def test_the_stand_in_gets_the_emulators_preload(tmp_path: Path) -> None:
    words = board.Board(tmp_path).on_stand_in(board.Board(tmp_path).python(["x.py"], {"A": 1}), tmp_path / "shim.so")
    assert words[words.index("qemu-aarch64") + 1 :][:2] == ["-E", f"LD_PRELOAD={tmp_path / 'shim.so'}"]
    assert words[-2:] == [str(tmp_path / f"root/usr/bin/python{board.VERSION}"), "x.py"] and "A=1" in words
    assert "LD_PRELOAD" in words[: words.index("qemu-aarch64")], "the emulator itself is of this machine"


def test_a_userland_of_another_recipe_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert board.existing(tmp_path) is None
    (tmp_path / "made").write_text(board.recipe())
    assert board.existing(tmp_path) == board.Board(tmp_path)
    (tmp_path / "made").write_text("another")
    assert board.existing(tmp_path) is None
