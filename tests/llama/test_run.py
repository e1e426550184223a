"""examples/llama/run.py as a user starts it."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import checkpoints
import numpy as np
import pytest

from benchmarks import harness
from delegate.tools import registry
from examples.llama.run import main

SERVED = str(registry.models_folder())
NAMES = ("stories_tiny.bin", "stories_tiny_tokenizer.bin")


class Quiet(SimpleHTTPRequestHandler):
    """Keeps stderr for the code under test."""

    def log_message(self, *_: object) -> None:
        return


SCRIPT = harness.ROOT / "examples" / "llama" / "run.py"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a folder "cache" for the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> object:
    """The exit status of the script, run in this process: 0, or a line that sys.exit() prints."""
    monkeypatch.setattr(sys, "argv", ["run.py", "--device", "simulator", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_the_embedded_model_tells_a_story(home: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--device", "simulator", "-n", "30"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("Once upon a time, there was a ")
    assert re.fullmatch(r"prompt: \d+ tokens, [\d.]+ tok/s; generated: 30 tokens, [\d.]+ tok/s\n", told.stderr)


def test_packed_weights_are_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "-n", 2) == 0
    [kept] = (home / "cache" / "teflon-rknpu" / "models").iterdir()
    assert kept.suffix == ".npu"
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1])
    assert run(monkeypatch, "-n", 2, "-t", 0.8, "--cores", 2) == 0
    assert kept.read_bytes() == whole
    assert run(monkeypatch, kept, "-z", registry.models_folder() / "stories_tiny_tokenizer.bin", "-n", 2) == 0
    assert capsys.readouterr().out.count("Once upon a time") == 3


def test_a_named_model_is_downloaded_and_verified(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a server on this machine, once; what has another checksum is one line."""
    files, server = registry.models_folder(), ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=SERVED))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    entry = '[{}]\ndescription = "d"\nlicence = "MIT"\nurl = "http://127.0.0.1:{}/{}"\nsha256 = "{}"\n'
    places = [(name, hashlib.sha256((files / name).read_bytes()).hexdigest()) for name in NAMES]
    port = server.server_port
    (model, right), tokenizer = places[0], places[1]
    table = entry.format("{}.tokenizer", port, *tokenizer).replace('description = "d"\nlicence = "MIT"\n', "")
    names = {"stories15M": right, "wrong": 64 * "0"}
    text = "".join(entry.format(name, port, model, sha) + table.format(name) for name, sha in names.items())
    (home / "language.toml").write_text(text)
    monkeypatch.setattr(registry, "models_folder", lambda: home)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    try:
        assert run(monkeypatch, "stories15M", "-n", 2) == 0
        assert "downloading http://127.0.0.1" in capsys.readouterr().err
        assert "its sha256 is not 000" in str(run(monkeypatch, "wrong"))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    capsys.readouterr()
    assert run(monkeypatch, "stories15M", "-n", 2) == 0
    assert "downloading" not in capsys.readouterr().err


def test_without_a_cache(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "cache").write_text("in the way")
    assert run(monkeypatch, "-n", 1) == 0
    assert capsys.readouterr().out.startswith("Once upon a time")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.bin"], "unknown model 'none.bin': neither a file nor one of stories_tiny, stories15M, "),
        (["--device", "gpu"], "device 'gpu' is unknown"),
        (["--attention", "gpu"], "attention 'gpu': auto, npu, host"),
        (["-z", "none"], "none cannot be read: No such file or directory"),
        (["-p", "a " * 300], "at least one, and all together at most the 256 of the model's context"),
        (["nan.bin", "-z", registry.models_folder() / "stories_tiny_tokenizer.bin"], "NaN or infinite"),
    ],
)
def test_mistakes_are_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], message: str
) -> None:
    weights = checkpoints.random_weights()
    weights["norm"][3] = np.nan
    checkpoints.write_version0(home / "nan.bin", weights)
    said = run(monkeypatch, *arguments)
    assert isinstance(said, str)
    assert said.startswith("error: ")
    assert "\n" not in said
    assert message in said


def test_help_has_examples(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert run(monkeypatch, "--help") == 0
    assert "python examples/llama/run.py stories15M --cores 3" in capsys.readouterr().out
