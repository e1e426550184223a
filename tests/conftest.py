"""Fixtures that several tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long random graphs are drawn: long in CI, short beside other work."""
    seconds = 180.0 if os.environ.get("CI") else 20.0
    parser.addoption("--fuzz-seconds", type=float, default=seconds, help="time for random graphs (tests/test_fuzz.py)")
    parser.addoption("--fuzz-seed", type=int, default=0, help="number of the first random graph")


@pytest.fixture(scope="session", autouse=True)
def no_capability_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this machine's user has found out about a board changes nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


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
