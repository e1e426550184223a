"""The wheel: it builds, holds what a user needs, and works from where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from chosen import bare_environment

from benchmarks import harness

CLEAN = bare_environment("PYTHON")


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *(str(word) for word in arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=CLEAN)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources without libraries, for setuptools leaves its traces where it builds."""
    pytest.importorskip("setuptools", minversion="70.1")  # the first that builds wheels by itself
    pytest.importorskip("pip")
    folder = tmp_path_factory.mktemp("wheel")
    skipped = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("delegate", "models"):
        shutil.copytree(harness.ROOT / name, folder / "project" / name, ignore=skipped)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        if (harness.ROOT / name).exists():
            shutil.copy(harness.ROOT / name, folder / "project")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder / "out", folder / "project")
    return next((folder / "out").glob("*.whl"))


def test_the_wheel_is_of_this_python_and_machine(wheel: Path) -> None:
    version = f"cp{sys.version_info.major}{sys.version_info.minor}"
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.startswith("teflon_rknpu-")
    assert wheel.name.endswith(f"-{version}-{version}-{platform}.whl")


def test_the_wheel_has_all_parts(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(harness.ROOT)) for path in (harness.ROOT / "delegate").rglob("*.py")}
    assert modules <= names
    assert {"delegate/libteflon.so", f"delegate/libteflon-python{sysconfig.get_config_var('LDVERSION')}.so"} <= names
    assert {"delegate/py.typed", "delegate/models/models.toml", "delegate/hw/shim/libteflon-shim.so"} <= names
    for folder, pattern in (("models", "*.tflite"), ("models", "*_labels.txt"), ("models/images", "*.jpg")):
        data = {f"delegate/{folder}/{path.name}" for path in (harness.ROOT / folder).glob(pattern)}
        assert data
        assert data <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]


def test_the_installed_wheel_works(wheel: Path, tmp_path: Path) -> None:
    """Unpacked to a folder of its own, with the dependencies of this environment."""
    pip("install", "--no-deps", "--no-compile", "--target", tmp_path / "site", wheel)
    program = """
import delegate
from delegate.tools import registry
path = delegate.library_path()
module = delegate.interpreter_module()
made = module.Interpreter(str(next(registry.models_folder().glob("*.tflite"))),
                          experimental_delegates=[delegate.load(debug="verbose", cache_dir="off")])
made.allocate_tensors()
made.invoke()
print(path)
"""
    environment = {**CLEAN, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(tmp_path / "site" / "delegate" / "libteflon.so")
    assert "teflon: invoked graph" in result.stderr
    command = [sys.executable, "-m", "delegate", "shim", "ls", "/dev/accel"]
    seen = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert seen.stdout == "accel0\n", seen.stderr
