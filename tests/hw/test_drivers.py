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
from hw.fake_kernel import FINI_BO, MEM_SYNC, NPU_SUBMIT, PREP_BO, SUBMIT, FakeKernel, own_devices

from benchmarks import harness
from delegate.recovery import REPORTS
from delegate.tools import registry

MODEL = registry.models_folder() / "mobilenet_digits.tflite"
Interpreters = Callable[..., Any]


@pytest.fixture(params=["rocket", "rknpu"])
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FakeKernel]:
    """At the end no buffer is left; then the devices of this process are closed."""
    fake = FakeKernel(monkeypatch, request.param, tmp_path)
    pool = own_devices(monkeypatch, tmp_path)
    REPORTS.forget()
    yield fake
    gc.collect()
    assert fake.buffers == 0
    assert not fake.mappings
    pool.close()
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


@pytest.mark.parametrize(("verify", "scratch"), [("tasks", 1), ("outputs", 0)])
def test_steady_state_makes_few_requests(kernel: FakeKernel, npu_interpreter: Interpreters, verify: str, scratch: int):
    """Nothing is allocated or mapped; inputs, outputs and what holds the witnesses of tasks are synchronized."""
    ours = make(npu_interpreter, MODEL.read_bytes(), device=kernel.driver, verify=verify)
    first, second = inputs(ours, 2)
    run(ours, first)
    kernel.log.clear()
    run(ours, second)
    if kernel.driver == "rocket":
        assert kernel.log == [FINI_BO] * (2 + scratch) + [SUBMIT] + [PREP_BO] * (1 + scratch)
    else:
        before, after = 2 + scratch, 1 + scratch
        assert kernel.log[:before] == [MEM_SYNC] * before
        assert kernel.log[-after:] == [MEM_SYNC] * after
        assert set(kernel.log[before:-after]) == {NPU_SUBMIT}


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
def test_a_job_that_is_dropped_once_is_run_again(
    kernel: FakeKernel, npu_interpreter: Interpreters, capfd: pytest.CaptureFixture[str]
):
    """S-208c: on mainline nothing else says so; the vendor's kernel counts the tasks that ran."""
    ours = make(npu_interpreter, convolution(), device="rocket", debug="verbose")
    expected = make(npu_interpreter, convolution())
    (data,) = inputs(ours, 1)
    kernel.drop = 1
    np.testing.assert_array_equal(run(ours, data), run(expected, data))
    assert kernel.log.count(SUBMIT) == 2
    assert "teflon: device rocket is tried again: device rocket: the job ended" in capfd.readouterr().err


def test_a_job_that_never_runs_is_an_error(kernel: FakeKernel, npu_interpreter: Interpreters):
    ours = make(npu_interpreter, convolution(), device=kernel.driver, fallback="error")
    (data,) = inputs(ours, 1)
    run(ours, data)  # the outputs hold the right result of the same inputs
    kernel.drop = 2
    lost = "without writing 16 of 16 places" if kernel.driver == "rocket" else "ran 0 of 1 tasks"
    with pytest.raises(RuntimeError, match=lost):
        run(ours, data)
    kernel.drop = 0
    run(ours, data)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM, errno.ENODEV, errno.ETIMEDOUT])
def test_a_refused_submit_reaches_the_user(kernel: FakeKernel, npu_interpreter: Interpreters, number: int):
    ours = make(npu_interpreter, convolution(), device=kernel.driver, fallback="error")
    (data,) = inputs(ours, 1)
    kernel.errors = {SUBMIT: [number] * 2, NPU_SUBMIT: [number] * 2}
    with pytest.raises(RuntimeError, match=f"teflon: DRM_IOCTL_.*SUBMIT: {errno.errorcode[number]}"):
        run(ours, data)


@pytest.mark.parametrize("position", range(6))
def test_a_failed_load_leaves_nothing(kernel: FakeKernel, npu_interpreter: Interpreters, position: int):
    """The fixture counts what is left."""
    code = 0xC0186440 if kernel.driver == "rocket" else 0xC0306442
    if position >= 3:
        code = FINI_BO if kernel.driver == "rocket" else MEM_SYNC
    kernel.errors[code] = [errno.EINTR] * (position % 3) + [errno.EINVAL]
    with pytest.raises((RuntimeError, ValueError), match="EINVAL"):
        make(npu_interpreter, convolution(), device=kernel.driver, fallback="error")


def test_under_random_faults_results_are_right_or_errors(kernel: FakeKernel, npu_interpreter: Interpreters):
    """And nothing piles up; the fixture counts what is left in the end."""
    ours = make(npu_interpreter, convolution(), device=kernel.driver, fallback="error")
    expected = make(npu_interpreter, convolution())
    wanted = [(data, run(expected, data)) for data in inputs(ours, 8)]
    run(ours, wanted[0][0])
    buffers, descriptors = kernel.buffers, len(os.listdir("/proc/self/fd"))
    kernel.chance = 0.02
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
    np.testing.assert_array_equal(run(ours, data), want)
    assert (kernel.buffers, len(os.listdir("/proc/self/fd"))) == (buffers, descriptors)


def test_interpreters_that_do_not_fit_side_by_side_take_turns(
    kernel: FakeKernel, npu_interpreter: Interpreters, capfd: pytest.CaptureFixture[str]
):
    """The one that is idle gives its memory back, and loads again; the CPU need not stand in."""
    kernel.aperture = 1 << 20  # MobileNet takes 0.7 MB of it, if tensors share memory
    ours = [make(npu_interpreter, MODEL.read_bytes(), device=kernel.driver, verify="outputs") for _ in range(2)]
    expected = make(npu_interpreter, MODEL.read_bytes(), unproven="never", verify="outputs")
    for data in inputs(expected, 2):
        wanted = run(expected, data)
        for interpreter in ours:
            np.testing.assert_array_equal(run(interpreter, data), wanted)
    assert "teflon: " not in capfd.readouterr().err


def test_the_cpu_stands_in_and_the_device_comes_back(
    kernel: FakeKernel, npu_interpreter: Interpreters, capfd: pytest.CaptureFixture[str]
):
    """Two failures in a row: then the device is left alone for one invoke."""
    ours = make(npu_interpreter, convolution(), device=kernel.driver)
    expected = make(npu_interpreter, convolution())
    code = SUBMIT if kernel.driver == "rocket" else NPU_SUBMIT
    kernel.errors[code] = [errno.EINVAL] * 2
    counts = []
    for data in inputs(ours, 5):
        kernel.log.clear()
        np.testing.assert_array_equal(run(ours, data), run(expected, data))
        counts.append(kernel.log.count(code))
    assert counts == [1, 1, 0, 1, 1]
    assert capfd.readouterr().err.count("teflon: ") == 1
