"""Fixtures that several tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness
from delegate.errors import DeviceError
from delegate.hw.device import DEVICES, open_device


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long random graphs are drawn: long in CI, short beside other work."""
    seconds = 180.0 if os.environ.get("CI") else 20.0
    parser.addoption("--fuzz-seconds", type=float, default=seconds, help="time for random graphs (tests/test_fuzz.py)")
    parser.addoption("--fuzz-seed", type=int, default=0, help="number of the first random graph")
    drivers = [name for name in DEVICES if name != "auto"]
    parser.addoption(
        "--device", choices=drivers, default="simulator", help="what runs the NPU's jobs (tests/chosen.py)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Puts the chosen device where chosen.py and all processes of the tests find it."""
    device = config.getoption("--device")
    os.environ.pop("TEFLON_DEVICE", None)
    if device == "simulator":
        return
    os.environ["TEFLON_DEVICE"] = device
    try:
        open_device(device).close()
    except DeviceError as error:
        raise pytest.UsageError(f"{error}; without a board: make test DEVICE={device}") from None


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
    """Makes an interpreter with our delegate on the chosen device, nothing cached unless the test asks for it."""
    from chosen import on_device  # not before pytest_configure has said which device that is

    def make(content: bytes, **options: str) -> Any:
        return harness.npu_interpreter(content, **on_device(**options))

    return make
