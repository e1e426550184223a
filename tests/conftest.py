"""Fixtures that several tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of references beside the project; the test is skipped where it is missing."""
    if not harness.SHARED.is_dir():
        pytest.skip(f"the reference folder {harness.SHARED} is not here")
    return harness.SHARED


@pytest.fixture(scope="session")
def reference_interpreter() -> Callable[[bytes], Any]:
    """Makes an interpreter on TFLite's reference kernels from a model's bytes."""
    return harness.reference_interpreter


@pytest.fixture
def npu_interpreter() -> Callable[..., Any]:
    """Makes an interpreter with our delegate on the simulator, nothing cached unless the test asks for it."""

    def make(content: bytes, **options: str) -> Any:
        return harness.npu_interpreter(content, **{"device": "simulator", "cache_dir": "off", **options})

    return make
