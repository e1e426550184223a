"""Products through the drivers, on a kernel in this process: as on the simulator, or an error."""

from __future__ import annotations

import errno
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hw.fake_kernel import SUBMIT, FakeKernel

from delegate.errors import DeviceError
from delegate.hw import rknpu_interface, rocket
from delegate.hw.device import open_device
from delegate.matmul import Matmul


@pytest.fixture(params=["rocket", "rknpu"])
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FakeKernel]:
    """At the end no buffer is left; when the devices of this process are closed, no mapping."""
    fake = FakeKernel(monkeypatch, request.param, tmp_path)
    monkeypatch.setattr(rocket, "NODES", (f"{tmp_path}/accel*",))
    monkeypatch.setattr(rknpu_interface, "NODES", (f"{tmp_path}/renderD*",))
    devices: dict[tuple[Any, ...], Any] = {}

    def shared(*key: Any) -> Any:
        if key not in devices:
            devices[key] = open_device(*key)
        return devices[key]

    monkeypatch.setattr("delegate.matmul.api.shared_device", shared)
    yield fake
    gc.collect()
    assert fake.buffers == 0
    for device in devices.values():
        device.close()  # ends the threads of rknpu, which may still hold their last job
    devices.clear()
    gc.collect()
    assert not fake.mappings


def operands(depth: int = 64, columns: int = 96) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(depth)
    return rng.integers(-128, 128, (300, depth)).astype(np.int8), rng.integers(-128, 128, (depth, columns)).astype(
        np.int8
    )


@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("split", ["columns", "rows"])
def test_results_are_exact_on_all_cores(kernel: FakeKernel, cores: int, split: Any) -> None:
    a, b = operands()
    wanted = a.astype(np.int32) @ b.astype(np.int32)
    with Matmul(b, device=kernel.driver, cores=cores, split=split) as product:
        for rows in (1, 5, 300):
            assert np.array_equal(product(a[:rows]), wanted[:rows])
        pending = [product.submit(a[row : row + 1]) for row in range(6)]
        for row, waiting in enumerate(pending):
            assert np.array_equal(waiting.result(), wanted[row : row + 1])
        if kernel.driver == "rocket" and cores > 1:
            assert min(len(file.buffers) for file in kernel.files.values()) > 0  # each core has memory of its own


def test_a_part_of_the_depth_after_the_other(kernel: FakeKernel) -> None:
    a, b = operands(200, 40)
    with Matmul(b, device=kernel.driver, part_depth=64) as product:
        assert np.array_equal(product(a), a.astype(np.int32) @ b.astype(np.int32))


def test_many_products_take_no_more_memory(kernel: FakeKernel) -> None:
    a, b = operands()
    with Matmul(b, device=kernel.driver) as product:
        product(a[:4])
        held = kernel.buffers
        for _ in range(5):
            product(a[:4])
        assert kernel.buffers == held


@pytest.mark.parametrize("kernel", ["rocket"], indirect=True)
def test_a_job_that_is_dropped_once_is_run_again(kernel: FakeKernel) -> None:
    """S-208c: on mainline nothing else says so."""
    a, b = operands()
    with Matmul(b, device="rocket") as product:
        kernel.drop = 1
        assert np.array_equal(product(a), a.astype(np.int32) @ b.astype(np.int32))
        assert kernel.log.count(SUBMIT) == 2


def test_a_job_that_never_runs_is_an_error(kernel: FakeKernel) -> None:
    a, b = operands()
    lost = "1 of 1 jobs of a product ended twice without" if kernel.driver == "rocket" else "ran 0 of "
    with Matmul(b, device=kernel.driver) as product:
        product(a)  # C holds the right result of the same A
        kernel.drop = 2
        with pytest.raises(DeviceError, match=lost):
            product(a)
        kernel.drop = 0
        assert np.array_equal(product(a), a.astype(np.int32) @ b.astype(np.int32))


@pytest.mark.parametrize("position", range(4))
def test_memory_that_the_kernel_refuses_leaves_nothing(kernel: FakeKernel, position: int) -> None:
    """The fixture counts what is left."""
    a, b = operands()
    code = 0xC0186440 if kernel.driver == "rocket" else 0xC0306442
    with Matmul(b, device=kernel.driver) as product:
        product(a[:4])
        kernel.errors[code] = [errno.EINTR] * position + [errno.ENOMEM, errno.ENOMEM]
        with pytest.raises(DeviceError, match="ENOMEM"):
            product(a)
        kernel.errors.clear()
        assert np.array_equal(product(a), a.astype(np.int32) @ b.astype(np.int32))
