"""Whole models through the drivers, on a kernel in this process: as on the simulator, or an error."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite_writer
from hw.fake_kernel import FINI_BO, MEM_SYNC, NPU_SUBMIT, PREP_BO, SUBMIT, FakeKernel

import delegate
from benchmarks import harness
from delegate import runtime
from delegate.canary import arm, last_atoms, patterns, untouched
from delegate.errors import DelegateError
from delegate.hw import rknpu_interface, rocket
from delegate.hw.task import Port
from delegate.tools import registry

MODEL = registry.models_folder() / "mobilenet_digits.tflite"
Interpreters = Callable[..., Any]


@pytest.fixture(params=["rocket", "rknpu"])
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FakeKernel]:
    """At the end no buffer is left; then the devices of this process are closed."""
    fake = FakeKernel(monkeypatch, request.param, tmp_path)
    monkeypatch.setattr(rocket, "NODES", (f"{tmp_path}/accel*",))
    monkeypatch.setattr(rknpu_interface, "NODES", (f"{tmp_path}/renderD*",))
    devices: dict[tuple[Any, ...], Any] = {}

    def shared(*key: Any) -> Any:
        if key not in devices:
            devices[key] = runtime.open_device(*key)
        return devices[key]

    with pytest.raises(DelegateError):  # any call starts the embedding, whose module the plugin imports
        delegate.load(unknown="")
    from delegate import plugin

    monkeypatch.setattr(runtime, "shared_device", shared)
    monkeypatch.setattr(plugin, "shared_device", shared)
    yield fake
    gc.collect()
    assert fake.buffers == 0
    assert not fake.mappings
    for device in devices.values():
        device.close()
    assert not fake.files


@pytest.fixture
def npu_interpreter() -> Interpreters:
    """On the simulator, or on the device that a test names."""

    def make(content: bytes, **options: str) -> Any:
        return harness.npu_interpreter(content, **{"device": "simulator", "cache_dir": "off", **options})

    return make


def run(interpreter: Any, data: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], data)
    interpreter.invoke()
    return [interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()]


def make(interpreters: Interpreters, content: bytes, **options: str) -> Any:
    interpreter = interpreters(content, **options)
    interpreter.allocate_tensors()
    return interpreter


def inputs(interpreter: Any, count: int) -> Iterator[np.ndarray[Any, Any]]:
    details = interpreter.get_input_details()[0]
    rng = np.random.default_rng(5)
    limits = np.iinfo(details["dtype"])
    for _ in range(count):
        yield rng.integers(limits.min, limits.max + 1, details["shape"]).astype(details["dtype"])


@pytest.mark.parametrize("unproven", ["never", "always"])
def test_mobilenet_is_bit_for_bit_the_simulators(kernel: FakeKernel, npu_interpreter: Interpreters, unproven: str):
    content = MODEL.read_bytes()
    expected = make(npu_interpreter, content, unproven=unproven, kernel=kernel.driver)
    ours = make(npu_interpreter, content, unproven=unproven, device=kernel.driver)
    for data in inputs(ours, 3):
        for got, want in zip(run(ours, data), run(expected, data), strict=True):
            np.testing.assert_array_equal(got, want)
    assert kernel.submits


def test_steady_state_makes_few_requests(kernel: FakeKernel, npu_interpreter: Interpreters):
    """Nothing is allocated or mapped; only inputs and outputs are synchronized."""
    ours = make(npu_interpreter, MODEL.read_bytes(), device=kernel.driver)
    first, second = inputs(ours, 2)
    run(ours, first)
    kernel.log.clear()
    run(ours, second)
    if kernel.driver == "rocket":
        assert kernel.log == [FINI_BO, FINI_BO, SUBMIT, PREP_BO]
    else:
        assert kernel.log[:2] == [MEM_SYNC, MEM_SYNC]
        assert kernel.log[-1] == MEM_SYNC
        assert set(kernel.log[2:-1]) == {NPU_SUBMIT}


def test_auto_takes_the_npu(kernel: FakeKernel, npu_interpreter: Interpreters):
    interpreter = make(npu_interpreter, MODEL.read_bytes(), device="auto")
    assert kernel.buffers
    del interpreter


def test_two_interpreters_have_files_of_their_own(kernel: FakeKernel, npu_interpreter: Interpreters):
    one, two = (make(npu_interpreter, MODEL.read_bytes(), device=kernel.driver, cores="2") for _ in range(2))
    (data,) = inputs(one, 1)
    np.testing.assert_array_equal(run(one, data), run(two, data))
    counts = sorted(len(file.buffers) for file in kernel.files.values())
    if kernel.driver == "rocket":
        assert counts[0] == counts[1] > 0


def convolution() -> bytes:
    builder = tflite_writer.Builder()
    source = builder.tensor((1, 8, 8, 4), "int8", 0.5, 3)
    weight = np.ones((20, 1, 1, 4), np.int8)
    result = builder.convolution(source, weight, 0.1, (0.5, 3), bias=np.zeros(20, np.int32))
    return tflite_writer.write(builder.finish([source], [result]))


@pytest.mark.parametrize("kernel", ["rocket"], indirect=True)
def test_a_job_that_is_dropped_once_is_run_again(kernel: FakeKernel, npu_interpreter: Interpreters):
    """S-208c: on mainline nothing else says so; the vendor's kernel counts the tasks that ran."""
    ours, expected = make(npu_interpreter, convolution(), device="rocket"), make(npu_interpreter, convolution())
    (data,) = inputs(ours, 1)
    kernel.drop = 1
    np.testing.assert_array_equal(run(ours, data), run(expected, data))
    assert kernel.log.count(SUBMIT) == 2


def test_a_job_that_never_runs_is_an_error(kernel: FakeKernel, npu_interpreter: Interpreters):
    ours = make(npu_interpreter, convolution(), device=kernel.driver)
    (data,) = inputs(ours, 1)
    run(ours, data)  # the outputs hold the right result of the same inputs
    kernel.drop = 2
    lost = "without writing 16 of the outputs' 16 rows" if kernel.driver == "rocket" else "ran 0 of 1 tasks"
    with pytest.raises(RuntimeError, match=lost):
        run(ours, data)
    kernel.drop = 0
    run(ours, data)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM, errno.ENODEV, errno.ETIMEDOUT])
def test_a_refused_submit_reaches_the_user(kernel: FakeKernel, npu_interpreter: Interpreters, number: int):
    ours = make(npu_interpreter, convolution(), device=kernel.driver)
    (data,) = inputs(ours, 1)
    kernel.errors = {SUBMIT: [number], NPU_SUBMIT: [number]}
    with pytest.raises(RuntimeError, match=f"teflon: DRM_IOCTL_.*SUBMIT: {errno.errorcode[number]}"):
        run(ours, data)


@pytest.mark.parametrize("position", range(6))
def test_a_failed_load_leaves_nothing(kernel: FakeKernel, npu_interpreter: Interpreters, position: int):
    """The fixture counts what is left."""
    code = 0xC0186440 if kernel.driver == "rocket" else 0xC0306442
    if position >= 3:
        code = FINI_BO if kernel.driver == "rocket" else MEM_SYNC
    kernel.errors[code] = [errno.EINTR] * (position % 3) + [errno.ENOMEM]
    with pytest.raises((RuntimeError, ValueError), match="ENOMEM"):
        run(ours := make(npu_interpreter, convolution(), device=kernel.driver), next(inputs(ours, 1)))


def test_under_random_faults_results_are_right_or_errors(kernel: FakeKernel, npu_interpreter: Interpreters):
    """And nothing piles up; the fixture counts what is left in the end."""
    ours, expected = make(npu_interpreter, convolution(), device=kernel.driver), make(npu_interpreter, convolution())
    wanted = [(data, run(expected, data)) for data in inputs(ours, 8)]
    run(ours, wanted[0][0])
    buffers, descriptors = kernel.buffers, len(os.listdir("/proc/self/fd"))
    kernel.chance = 0.1
    right = 0
    for index in range(400):
        data, want = wanted[index % len(wanted)]
        try:
            got = run(ours, data)
        except RuntimeError as error:
            assert "teflon: " in str(error)
            continue
        np.testing.assert_array_equal(got, want)
        right += 1
    kernel.chance, kernel.drop = 0.0, 0
    assert 50 < right < 400
    assert (kernel.buffers, len(os.listdir("/proc/self/fd"))) == (buffers, descriptors)
    np.testing.assert_array_equal(run(ours, data), want)


def test_a_pattern_is_in_every_row_of_every_surface():
    port = Port(0, 0, 64, (2, 3, 5, 40), "int8", 3, 256, 1024, 0)
    memory = np.zeros(4096, np.uint8)
    place = last_atoms(memory, port)
    assert place.shape == (2, 3, 3, 16)
    first, second = patterns()
    assert not (first == second).any()
    arm([place], first)
    offsets = [
        64 + image * 1024 + surface * 256 + (row * 5 + 4) * 16
        for image in range(2)
        for surface in range(3)
        for row in range(3)
    ]
    assert sorted(set(np.flatnonzero(memory) // 16 * 16)) == offsets
    assert untouched([place], first) == len(offsets)
    assert untouched([place], second) == 0
    memory[offsets[4] + 15] ^= 1
    assert untouched([place], first) == len(offsets) - 1
