"""Pythons on this machine, besides the one that runs the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path


def candidates(version: str) -> Iterator[str]:
    """Where a Python of a version may be: on the PATH, or installed by pyenv."""
    on_path = shutil.which(f"python{version}")
    if on_path is not None:
        yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from (str(path) for path in sorted((pyenv / "versions").glob(f"{version}.*/bin/python")))


def find(version: str) -> str | None:
    """A Python of a version ("3.12") that starts; pyenv puts names on the PATH that do not."""
    for python in candidates(version):
        code = "import sys; print(*sys.version_info[:2], sep='.')"
        result = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        if result.stdout.strip() == version:
            return python
    return None
