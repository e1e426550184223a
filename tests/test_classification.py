"""classification.py as a user runs it: in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from chosen import DEVICE, bare_environment
from PIL import Image

from delegate.tools import registry
from delegate.tools.guard import SIGNALLED
from delegate.tools.labels import read_labels
from delegate.tools.picture import read_picture, to_input, to_scores

ROOT = Path(__file__).resolve().parents[1]
SCORE = re.compile(r"\d\.\d{6}: .+")
TIME = re.compile(r"time: \d+\.\d{3}ms")

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs classification.py in an empty folder, with a cache of its own."""
    folder = tmp_path / "current"
    folder.mkdir()

    def start(*arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **bare_environment(),
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            **variables,
        }
        return subprocess.run(
            [sys.executable, ROOT / "classification.py", *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return start


def assert_refused(result: subprocess.CompletedProcess[str], *words: str, status: int = 1) -> None:
    """One line on stderr that has the words, and the exit status."""
    assert result.returncode == status, result.stderr
    assert result.stderr.startswith("classification.py: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


def answers(lines: Sequence[str]) -> list[tuple[float, str]]:
    return [(float(score), label) for score, label in (line.split(": ", 1) for line in lines)]


# What it prints


def test_without_arguments_it_classifies_a_digit(run: Run) -> None:
    result = run("--device", DEVICE)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    first, *scores, took = result.stdout.splitlines()
    assert first == f"Loading external delegate from libteflon.so with args: {{'device': '{DEVICE}'}}"
    assert len(scores) == 5 and all(SCORE.fullmatch(line) for line in scores)
    assert TIME.fullmatch(took)
    values = [value for value, _ in answers(scores)]
    assert values == sorted(values, reverse=True)
    assert answers(scores)[0][1] == "seven" and values[0] > 0.5


def test_no_options_are_an_empty_dictionary(run: Run) -> None:
    result = run(TEFLON_DEVICE=DEVICE)
    assert result.stdout.startswith("Loading external delegate from libteflon.so with args: {}\n0."), result.stderr


@pytest.mark.parametrize("digit", ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
def test_the_demonstration_pictures_are_recognized(run: Run, digit: str) -> None:
    result = run("-i", registry.models_folder() / "images" / f"{digit}.jpg", "--device", DEVICE, "--top", "1")
    assert result.stdout.splitlines()[1].endswith(f": {digit}"), result.stdout + result.stderr


def test_the_comparison_with_the_cpu(run: Run) -> None:
    result = run("--device", DEVICE, "--cpu", "--runs", "3", "--top", "2")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert TIME.fullmatch(lines[3])
    assert re.fullmatch(r"runs: 3, first \d+\.\d{3}ms, fastest \d+\.\d{3}ms, slowest \d+\.\d{3}ms", lines[4])
    assert lines[5] == "TFLite's own kernels:"
    found = re.fullmatch(r"largest difference: (\d\.\d{6}) \(\w+\); equal scores: \d+ of 10", lines[-1])
    assert found and float(found[1]) <= 0.02


def test_options_reach_the_delegate(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "programs"
    result = run("-o", f"device={DEVICE}", "-o", "debug=verbose", "--cache-dir", folder)
    assert result.returncode == 0, result.stderr
    assert f"'cache_dir': '{folder}'" in result.stdout.splitlines()[0]
    assert f"Teflon delegate: loaded {DEVICE} driver" in result.stderr
    assert re.search(r"teflon: compiling graph: \d+ tensors 30 operations", result.stderr)
    assert list(folder.iterdir())


def test_grace_hopper(run: Run, shared: Path) -> None:
    models = shared / "models"
    result = run(
        *("-m", models / "mobilenet_v1_1.0_224_quant.tflite", "-l", models / "imagenet_labels.txt"),
        *("-i", models / "grace_hopper.bmp", "--device", DEVICE, "--cpu"),
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    score, label = answers(lines[1:2])[0]
    expected, expected_label = answers(lines[8:9])[0]
    assert label == expected_label == "military uniform"
    assert expected == pytest.approx(0.8828, abs=1e-4)  # ../shared/models/README.md, LANCZOS
    assert abs(score - expected) <= 0.02


def test_help_has_examples_and_the_models(run: Run) -> None:
    result = run("--help")
    assert result.returncode == 0
    assert "examples:" in result.stdout and "mobilenet_v1_1.0_224" in result.stdout


# What it refuses


def test_a_missing_model(run: Run) -> None:
    assert_refused(run("-m", "nothing.tflite"), "nothing.tflite does not exist")


def test_a_folder_as_model(run: Run, tmp_path: Path) -> None:
    assert_refused(run("-m", tmp_path), str(tmp_path), "not a file")


def test_a_name_that_no_file_can_have(run: Run) -> None:
    name = "n" * 5000 + ".x"
    assert_refused(run("-m", name), "does not exist")
    assert_refused(run("-i", name), "cannot be read")
    assert_refused(run("-l", name), "cannot be read")
    assert_refused(run("-e", f"./{name}"), "does not exist")


def test_an_unknown_name(run: Run) -> None:
    assert_refused(run("-m", "nonet"), "nonet", "mobilenet, mobilenet_v1_1.0_224")


def test_a_text_as_model(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_text("This is no model.\n" * 100)
    assert_refused(run("-m", path), str(path))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_model(run: Run, tmp_path: Path, share: float) -> None:
    content = (registry.models_folder() / "mobilenet_digits.tflite").read_bytes()
    path = tmp_path / "model.tflite"
    path.write_bytes(content[: int(len(content) * share)])
    assert_refused(run("-m", path), str(path))


def test_damaged_models_never_end_in_a_traceback(run: Run, tmp_path: Path) -> None:
    """Random bytes changed in the first and the last part of the file, where its structure is."""
    content = (registry.models_folder() / "mobilenet_digits.tflite").read_bytes()
    path = tmp_path / "model.tflite"
    rng = np.random.default_rng(7)
    for _ in range(12):
        damaged = np.frombuffer(content, np.uint8).copy()
        places = np.concatenate([rng.integers(0, 600, 8), len(content) - rng.integers(1, 12000, 40)])
        damaged[places] = rng.integers(0, 256, places.size)
        path.write_bytes(damaged.tobytes())
        result = run("-m", path, "--device", DEVICE)
        if result.returncode:
            assert result.returncode == 1 or result.returncode > SIGNALLED
            assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr, result.stderr


def test_a_missing_image(run: Run) -> None:
    assert_refused(run("-i", "nothing.png"), "image nothing.png does not exist")


def test_a_text_as_image(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_text("This is no picture.")
    assert_refused(run("-i", path), str(path), "Pillow")


@pytest.mark.parametrize("name", ["image.png", "image.jpg", "image.bmp", "image.gif", "image.tiff", "image.webp"])
def test_a_truncated_image(run: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-1500])
    assert_refused(run("-i", path), str(path))


def test_labels_of_the_wrong_length(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("one\ntwo\n")
    assert_refused(run("-l", path), str(path), "2 labels", "10 classes")


def test_labels_that_are_not_there_or_no_text(run: Run, tmp_path: Path) -> None:
    assert_refused(run("-l", "nothing.txt"), "labels file nothing.txt cannot be read")
    assert_refused(run("-l", registry.default_image()), "not UTF-8")


@pytest.mark.parametrize("device", ["rocket", "rknpu"])
def test_a_device_that_is_not_there(run: Run, device: str) -> None:
    if Path("/dev/accel").exists() or Path("/dev/dri").exists():
        pytest.skip("this machine has devices of its own")
    assert_refused(run("--device", device), device)


def test_an_unknown_device_and_option(run: Run) -> None:
    assert_refused(run("--device", "nonsense"), "nonsense", "simulator")
    assert_refused(run("-o", "nonsense=1"), "nonsense", "cache_dir")
    assert_refused(run("-o", "nonsense"), "nonsense", "NAME=VALUE")


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["--top", "0"], ["--runs", "many"], ["--std", "0"], ["--mean", "a"], ["extra"]]
)
def test_a_wrong_command_line(run: Run, arguments: list[str]) -> None:
    assert_refused(run(*arguments), arguments[-1] if len(arguments) == 1 else arguments[0], "--help", status=2)


def test_a_library_that_is_not_there_or_none(run: Run, tmp_path: Path) -> None:
    assert_refused(run("-e", "./nothing.so"), "./nothing.so", "does not exist")
    path = tmp_path / "library.so"
    path.write_text("This is no library.")
    assert_refused(run("-e", path), str(path), "cannot be loaded")
    assert_refused(run("-e", "libm.so.6"), "libm.so.6", "tflite_plugin_create_delegate")


def test_a_cache_that_cannot_be_written_is_said_and_the_run_goes_on(run: Run, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    result = run("--device", DEVICE, "--cache-dir", blocked / "cache")
    assert result.returncode == 0
    assert result.stderr.count("\n") == 1 and str(blocked) in result.stderr
    assert result.stdout.splitlines()[1].endswith(": seven")


def test_a_download_without_a_network_is_one_line_more(run: Run) -> None:
    result = run("-m", "mobilenet_v1_0.25_128", HTTPS_PROXY="http://127.0.0.1:1", NO_PROXY="")
    assert result.returncode == 1
    first, second = result.stderr.splitlines()
    assert first.startswith("downloading https://github.com/") and "Apache-2.0" in first
    assert second.startswith("classification.py: https://github.com/") and "cannot be downloaded" in second


def test_a_crash_of_native_code_is_one_line(tmp_path: Path) -> None:
    script = tmp_path / "crash.py"
    script.write_text(
        "import os, signal, sys\n"
        "from delegate.tools.guard import run_guarded\n"
        "sys.exit(run_guarded('crash.py', lambda: os.kill(os.getpid(), signal.SIGSEGV)))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == SIGNALLED + 11
    assert result.stdout == ""
    assert result.stderr == "crash.py: ended by SIGSEGV: the model is damaged, or a library is faulty\n"


# Labels, pictures, tensors


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("cat\ndog\n", ["cat", "dog"]),
        ("cat\r\ndog\r\n\r\n", ["cat", "dog"]),
        ("\ufeff0 cat\n1  guinea pig", ["cat", "guinea pig"]),
        ("1: dog\n0: cat\n", ["cat", "dog"]),
        ("7 up\n3 musketeers\n", ["7 up", "3 musketeers"]),
        ("0 cat\ndog\n", ["0 cat", "dog"]),
        ("", []),
    ],
)
def test_labels(tmp_path: Path, text: str, labels: list[str]) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(text.encode())
    assert read_labels(path) == labels


def save(path: Path, picture: Image.Image, **parameters: object) -> Path:
    picture.save(path, **parameters)
    return path


def test_pictures_of_every_kind_become_rgb(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert read_picture(save(tmp_path / "clear.png", clear), 2, 3, 3).tolist() == [[[255] * 3] * 3] * 2
    grey = Image.fromarray(np.full((4, 4), 0x8042, np.uint16))
    assert np.unique(read_picture(save(tmp_path / "grey.png", grey), 2, 2, 3)) == [0x80]
    palette = Image.new("RGB", (4, 4), (255, 0, 0)).quantize()
    assert read_picture(save(tmp_path / "palette.gif", palette), 1, 1, 3).tolist() == [[[255, 0, 0]]]
    assert read_picture(save(tmp_path / "cmyk.jpg", Image.new("CMYK", (4, 4))), 5, 7, 1).shape == (5, 7, 1)


def test_the_orientation_of_a_camera_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 4))
    picture.paste((255, 255, 255), (0, 0, 4, 4))  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: rotate by 90 degrees clockwise
    turned = read_picture(save(tmp_path / "turned.png", picture, exif=exif), 8, 4, 3)
    assert turned[0].min() == 255 and turned[-1].max() == 0


PIXELS = np.array([[[0, 127, 255]]], np.uint8)


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "mean", "std", "expected"),
    [
        ("uint8", 0.5, 3, None, None, [0, 127, 255]),
        ("int8", 0.5, 3, None, None, [-128, -1, 127]),
        ("float32", 1.0, 0, None, None, [-1, -0.5 / 127.5, 1]),
        ("float32", 1.0, 0, 0.0, 255.0, [0, 127 / 255, 1]),
        ("uint8", 1 / 128, 128, 127.5, 127.5, [0, 127, 255]),
        ("int8", 2.0, 10, 0.0, 1.0, [10, 74, 127]),
        ("int16", 1 / 32768, 0, None, None, [-32768, -129, 32767]),
    ],
)
def test_the_input_tensor(
    dtype: str, scale: float, zero_point: int, mean: float | None, std: float | None, expected: list[float]
) -> None:
    tensor = to_input(PIXELS, dtype, scale, zero_point, mean, std)
    assert tensor.dtype == dtype and tensor.shape == (1, 1, 1, 3)
    np.testing.assert_allclose(tensor.reshape(-1), expected, atol=1e-6)


def test_scores() -> None:
    assert to_scores(np.array([[0, 255]], np.uint8), 1 / 256, 0).tolist() == [0, 255 / 256]
    assert to_scores(np.array([[-128, 127]], np.int8), 1 / 256, -128).tolist() == [0, 255 / 256]
    assert to_scores(np.array([[[[0.25, 0.75]]]], np.float32), 0.0, 0).tolist() == [0.25, 0.75]
