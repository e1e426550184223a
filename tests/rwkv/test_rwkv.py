"""examples/rwkv: the model beside a plain reference, its split over cores and the CPU, and the embedded checkpoint."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from chosen import DEVICE
from rwkv_models import random_tensors, reference

from benchmarks import harness, rwkv
from delegate.errors import ModelError
from delegate.hw.timing import RKNPU
from delegate.tools.registry import models_folder
from examples.rwkv.checkpoint import checked, read_checkpoint
from examples.rwkv.model import CHUNK, Model
from examples.rwkv.products import OnNpu, on_cpu
from examples.rwkv.run import DEFAULT_MODEL, generate, run
from examples.rwkv.tokenizer import letters, of_bytes, read_world
from examples.sampling import Sampling, sample

RUN = harness.ROOT / "examples" / "rwkv" / "run.py"


def tokens(count: int, words: int = 20) -> list[int]:
    return [int(token) for token in np.random.default_rng(5).integers(0, words, count)]


@pytest.mark.parametrize("count", [1, 2, 17, CHUNK, CHUNK + 9])
def test_the_recurrence_is_the_sum_over_the_whole_past(count: int) -> None:
    tensors, read = random_tensors(), tokens(count)
    model = Model(checked(tensors, {}), on_cpu)
    np.testing.assert_allclose(model.read(read, model.start()), reference(tensors, read), rtol=2e-4, atol=2e-4)


def test_it_is_all_one_how_a_text_is_parted() -> None:
    model = Model(checked(random_tensors(), {}), on_cpu)
    read, whole, parted = tokens(CHUNK + 5), model.start(), model.start()
    expected = model.read(read, whole)
    for token in read:
        logits = model.read([token], parted)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(parted.above, whole.above, rtol=1e-4, atol=1e-4)


def test_large_keys_do_not_overflow() -> None:
    tensors = random_tensors()
    tensors["blocks.0.att.key.weight"] *= 300
    model = Model(checked(tensors, {}), on_cpu)
    assert np.isfinite(model.read(tokens(20), model.start())).all()


@pytest.mark.device
def test_the_split_over_cores_and_cpu_changes_next_to_nothing() -> None:
    tensors, read = random_tensors(), tokens(12)
    checkpoint = checked(tensors, {})
    results = {}
    for cores, share in ((1, 0.0), (2, 0.0), (3, 0.0), (1, 0.3), (3, 0.5), (2, 1.0)):
        with OnNpu(DEVICE, cores, cpu_share=share) as make:
            model = Model(checkpoint, make)
            results[cores, share] = model.read(read, model.start())
    first = results[1, 0.0]
    assert np.array_equal(results[2, 0.0], first)
    assert np.array_equal(results[3, 0.0], first)
    span = np.ptp(first)
    for result in results.values():  # sums in another order may round an input of the next layer otherwise
        assert np.abs(result - first).max() < 1e-3 * span
    assert np.abs(first - reference(tensors, read)).max() < 5e-3 * span


def test_the_embedded_model_writes_the_same_story_with_and_without_the_npu() -> None:
    checkpoint = read_checkpoint(models_folder() / DEFAULT_MODEL)
    assert checkpoint.vocabulary is not None
    tokenizer = letters(checkpoint.vocabulary)
    prompt = [tokenizer.end, *tokenizer.encode("Once upon a time")]
    texts = []
    with OnNpu("simulator", 2, cpu_share=0.25) as make:
        for maker in (make, on_cpu):
            source = generate(Model(checkpoint, maker), prompt, Sampling(0), 0, tokenizer.end, None)
            texts.append(b"".join(tokenizer.piece(token) for _, token in zip(range(60), source, strict=False)).decode())
    assert texts[0] == texts[1]
    assert re.match(r", there was a \w+ \w+ named \w+\. \w+ lived in ", texts[0]), texts[0]


def test_the_embedded_model_is_small() -> None:
    assert (models_folder() / DEFAULT_MODEL).stat().st_size <= 2_000_000


def test_the_command_tells_a_story_and_its_speed(tmp_path: Path) -> None:
    command = [sys.executable, str(RUN), "One day", "-n", "20", "--cores", "2", "--compare", "--device", "simulator"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("One day")
    assert len(result.stdout) == len("One day") + 20 + 1
    assert re.search(r"^prompt [\d.]+ s; 20 tokens: [\d.]+ tok/s$", result.stderr, re.MULTILINE)
    assert re.search(
        r"logits differ by \S+ of their range at most, the likeliest token is the same 2\d times of 2\d", result.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-m", "missing.pth"], "error: missing.pth cannot be read: No such file or directory"),
        (["Ünder"], "error: the model does not know the letter 'Ü'"),
        (["-v", "missing.txt"], "error: missing.txt cannot be read: No such file or directory"),
        (["--kernel", "other"], "error: --kernel other: rocket or rknpu"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == line


def test_sampling_keeps_to_the_likeliest() -> None:
    logits = np.log(np.array([0.05, 0.5, 0.3, 0.15], np.float32))
    rng = np.random.default_rng(0)
    assert sample(logits, Sampling(0), rng) == 1
    assert {sample(logits, Sampling(1.0, 0.7), rng) for _ in range(100)} == {1, 2}
    assert {sample(logits, Sampling(1.0, 0.0), rng) for _ in range(20)} == {1}
    counts = np.bincount([sample(logits, Sampling(1.0, 1.0), rng) for _ in range(4000)], minlength=4)
    np.testing.assert_allclose(counts / 4000, [0.05, 0.5, 0.3, 0.15], atol=0.03)


def test_letters_and_bytes_come_back() -> None:
    known = letters("\nab é")
    assert known.end == 0
    assert b"".join(known.piece(token) for token in known.encode("ab é a")).decode() == "ab é a"
    every = of_bytes()
    assert b"".join(every.piece(token) for token in every.encode("ab é €")).decode() == "ab é €"


def test_the_vocabulary_of_world_models(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.txt"
    path.write_text("1 'a' 1\n2 'ab' 2\n3 ' ' 1\n4 'abc ' 4\n5 b'\\xc3' 1\n6 'é' 2\n7 b'\\xa8' 1\n", encoding="utf-8")
    world = read_world(path)
    assert world.encode("abc aba éè") == [4, 2, 1, 3, 6, 5, 7]
    assert b"".join(map(world.piece, world.encode("aé è"))).decode() == "aé è"
    assert world.piece(0) == b""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 'a' 2\n", "vocabulary.txt:1: the piece 'a' is not 2 bytes long"),
        ("one\n", "is not a vocabulary of RWKV's World models"),
        ("1 __import__('os') 3\n", "is not a vocabulary of RWKV's World models"),
        ("", "has no tokens"),
    ],
)
def test_what_is_no_vocabulary(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match=re.escape(message)):
        read_world(path)


def test_the_times_of_a_token_are_those_of_its_weights() -> None:
    """Of RWKV-4 430M, each weight read once: by the NPU at 12 bytes a cycle with a launch for each product."""
    weights = 24 * 13 * 1024**2 + 1024 * 50277
    launches = RKNPU.job_seconds * (24 * 7 + 4)  # the head is four products of at most 16384 words
    assert rwkv.token_seconds(rwkv.APART, RKNPU) == pytest.approx(2 * weights / 12e9 + launches, rel=0.1)
    assert rwkv.token_seconds(rwkv.OURS, RKNPU) < rwkv.token_seconds(rwkv.APART, RKNPU)
    share = rwkv.token_seconds(rwkv.APART, RKNPU, 1.0)
    assert share == pytest.approx(2 * weights / 13.4e9)
