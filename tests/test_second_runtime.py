"""The tests of the plugin once more with the other TFLite runtime, in a Python and an environment of its own.

Python 3.11 uses tflite-runtime, newer ones ai-edge-litert. The environment is made on first use and kept in the user's
cache folder; the project is copied, and the library built there for that Python.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import platformdirs
import pytest
import pythons
from chosen import bare_environment

from benchmarks import harness

ROOT = harness.ROOT
TESTS = (
    "test_plugin.py",
    "test_plugin_hosts.py",
    "test_end_to_end.py",
    "test_tflite.py",
    "test_trace.py",
    "ops/test_table.py",
)
CLEAN = bare_environment("PYTHON", "VIRTUAL")
OTHERS = {"tflite_runtime.interpreter": "ai-edge-litert", "ai_edge_litert.interpreter": "tflite-runtime"}


def choose(runtime: str) -> str:
    """A Python that has a wheel of the runtime; newer ones come first for ai-edge-litert, which exists for 3.11 too."""
    versions = ("3.11",) if runtime == "tflite-runtime" else ("3.13", "3.12", "3.14", "3.11")
    for version in versions:
        python = pythons.find(version)
        if python is not None:
            return python
    pytest.skip(f"there is no Python {' or '.join(versions)} for {runtime}")


def requirements(runtime: str) -> list[str]:
    """What the project and its tests need, with that runtime and without the other one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    kept = [line for line in listed if re.split(r"[<>=; ]", line)[0] not in OTHERS.values()]
    return [*kept, runtime]


def environment(runtime: str, python: str) -> Path:
    """The environment's Python, made if it is not there; skips the test if the packages cannot be had."""
    needed = requirements(runtime)
    mark = hashlib.sha256("\n".join([python, *needed]).encode()).hexdigest()[:12]
    folder = Path(platformdirs.user_cache_dir("teflon-rknpu-tests", False)) / f"{runtime}-{mark}"
    inside = folder / "bin" / "python"
    if (folder / "complete").exists():
        return inside
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True, env=CLEAN)
    command = [str(inside), "-m", "pip", "install", "-q", "--disable-pip-version-check", *needed]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=CLEAN)
    if result.returncode:
        pytest.skip(f"{runtime} cannot be installed: {result.stderr.strip().splitlines()[-1]}")
    (folder / "complete").touch()
    return inside


@pytest.mark.slow
def test_the_plugin_with_the_other_runtime(tmp_path: Path) -> None:
    runtime = OTHERS[harness.runtime().__name__]
    python = environment(runtime, choose(runtime))
    copy = tmp_path / "project"
    skipped = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("delegate", "tests", "benchmarks", "models"):
        shutil.copytree(ROOT / name, copy / name, ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", copy)
    if harness.SHARED.is_dir():
        (tmp_path / harness.SHARED.name).symlink_to(harness.SHARED)
    subprocess.run([python, "-m", "delegate.build"], check=True, cwd=copy, env=CLEAN, stdout=subprocess.DEVNULL)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in TESTS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=copy, env=CLEAN)
    sys.stdout.write(result.stdout)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert re.search(r"^\d+ passed", result.stdout, re.MULTILINE), result.stdout
