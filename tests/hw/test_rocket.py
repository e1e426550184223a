"""The driver of the mainline kernel, on a kernel in this process."""

from __future__ import annotations

import errno
import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hw.convolution_job import Job
from hw.fake_kernel import CREATE_BO, FINI_BO, GEM_CLOSE, PREP_BO, SUBMIT, VERSION, FakeKernel
from hw.sim.programs import INPUT, OUTPUT

from delegate.errors import DeviceError
from delegate.hw import rocket
from delegate.hw.device import DeviceJob, DeviceTask, open_device
from delegate.hw.rocket import Rocket


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeKernel]:
    """At the end no file, buffer or mapping is left."""
    fake = FakeKernel(monkeypatch, "rocket", tmp_path)
    monkeypatch.setattr(rocket, "NODES", (f"{tmp_path}/accel*",))
    yield fake
    gc.collect()
    assert not fake.files
    assert not fake.mappings


@pytest.fixture
def device(kernel: FakeKernel) -> Iterator[Rocket]:
    device = Rocket(2)
    yield device
    device.close()


def test_the_node_is_found_by_its_drivers_name(kernel: FakeKernel, tmp_path: Path):
    device = open_device("rocket", cores=3)
    assert isinstance(device, Rocket)
    assert (device.node.path, device.node.driver, device.node.version) == (kernel.path, "rocket", "0.0.0")
    assert len(kernel.files) == 3
    assert not device.signals_pooling
    device.close()
    with pytest.raises(DeviceError, match="closed"):
        device.allocate(1)


def test_a_node_of_another_driver_is_not_taken(kernel: FakeKernel):
    kernel.driver = "ethosu"
    kernel._rocket, kernel._rknpu = kernel._rknpu, kernel._rocket  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="no node of this driver"):
        Rocket()
    assert not kernel.files


def test_a_node_that_fails_is_closed(kernel: FakeKernel):
    kernel.errors[VERSION] = [errno.EIO]
    with pytest.raises(DeviceError, match="DRM_IOCTL_VERSION: EIO"):
        Rocket()
    kernel.errors[VERSION] = []
    assert not kernel.files


def test_the_first_address_is_zero(device: Rocket):
    """S-201."""
    memory = device.allocate(10)
    assert (memory.address, len(memory.view), memory.view.any()) == (0, 10, False)
    assert device.allocate(10).address == 4096
    device.free(memory)
    with pytest.raises(DeviceError, match="not allocated"):
        device.free(memory)


@pytest.mark.parametrize("size", [0, -1, 1 << 32])
def test_a_size_that_no_buffer_has_is_refused(device: Rocket, size: int):
    with pytest.raises(DeviceError, match=f"buffer of {size} bytes"):
        device.allocate(size)


def test_a_job_runs_and_only_what_is_needed_is_synchronized(kernel: FakeKernel, device: Rocket):
    job = Job(device, 7)
    kernel.log.clear()
    device.flush(job.buffers[INPUT])
    ticket = device.submit([job.job])
    assert job.output == [0]  # nothing has shown it to the host
    device.wait(ticket, 1, [job.buffers[OUTPUT]])
    assert job.output == [7]
    assert kernel.log == [FINI_BO, SUBMIT, PREP_BO]


def test_a_wait_without_reads_synchronizes_one_buffer(kernel: FakeKernel, device: Rocket):
    jobs = [Job(device, 7), Job(device, 8)]
    kernel.log.clear()
    device.wait(device.submit([job.job for job in jobs]), 1)
    assert kernel.log.count(PREP_BO) == 2


def test_what_the_host_wrote_is_not_seen_without_a_flush(device: Rocket):
    job = Job(device, 7)
    job.stream.view[:] = 0  # not flushed: the NPU still has the stream
    device.wait(device.submit([job.job]), 1, [job.buffers[OUTPUT]])
    assert job.output == [7]


def test_programs_spread_over_files(kernel: FakeKernel, device: Rocket):
    jobs = [Job(device, value) for value in (1, 2, 3)]
    assert sorted(len(file.buffers) for file in kernel.files.values()) == [5, 10]
    device.wait(device.submit([job.job for job in jobs]), 1, [job.buffers[OUTPUT] for job in jobs])
    assert [job.output for job in jobs] == [[1], [2], [3]]
    assert kernel.log.count(SUBMIT) == 2


def test_memory_of_two_files_makes_no_job(device: Rocket):
    one, two = Job(device, 1), Job(device, 2)
    mixed = DeviceJob(one.job.tasks, one.job.chains, one.job.reads, two.job.writes)
    with pytest.raises(DeviceError, match="2 address spaces"):
        device.submit([mixed])


def test_jobs_that_the_kernel_would_drop_or_crash_on_are_refused(kernel: FakeKernel, device: Rocket):
    """S-202, S-204."""
    job = Job(device, 1).job
    count = kernel.log.count(SUBMIT)
    for bad, message in (
        (DeviceJob((), (), (), job.writes), "no tasks"),
        (DeviceJob((DeviceTask(0, 0),), (range(1),), (), job.writes), "without words"),
        (DeviceJob(job.tasks, job.chains, job.writes, job.writes), "twice"),
        (DeviceJob(job.tasks, job.chains, job.reads, ()), "writes 0 buffers"),
        (DeviceJob((DeviceTask(1 << 30, 10),), (range(1),), (), job.writes), "in no memory"),
        (DeviceJob((DeviceTask(job.tasks[0].address, 4000),), (range(1),), (), job.writes), "in no memory"),
    ):
        with pytest.raises(DeviceError, match=message):
            device.submit([bad])
    device.free(job.writes[0])
    with pytest.raises(DeviceError, match="not allocated"):
        device.submit([job])
    assert kernel.log.count(SUBMIT) == count


def test_interrupted_requests_are_tried_again(kernel: FakeKernel, device: Rocket):
    """S-208b."""
    kernel.errors = {code: [errno.EINTR] * 3 for code in (CREATE_BO, FINI_BO, SUBMIT, PREP_BO, GEM_CLOSE)}
    job = Job(device, 7)
    device.wait(device.submit([job.job]), 1, [job.buffers[OUTPUT]])
    assert job.output == [7]
    device.free(job.stream)
    assert not any(kernel.errors.values())


def test_the_deadline_is_absolute_and_kept(kernel: FakeKernel, device: Rocket):
    """S-200: a wait that is interrupted does not begin again."""
    job = Job(device, 7)
    kernel.delay = 200_000_000
    ticket = device.submit([job.job])
    kernel.errors[PREP_BO] = [errno.EINTR] * 2
    start = time.monotonic()
    with pytest.raises(DeviceError, match="PREP_BO: ETIMEDOUT") as caught:
        device.wait(ticket, 0.05)
    assert caught.value.errno == errno.ETIMEDOUT
    assert 0.04 < time.monotonic() - start < 0.15
    with pytest.raises(DeviceError, match="PREP_BO: EBUSY"):
        device.wait(ticket, 0)
    device.wait(ticket, 1e12, [job.buffers[OUTPUT]])  # clamped, else it would lie in the past
    assert job.output == [7]


def test_memory_is_freed_after_the_jobs_that_use_it(kernel: FakeKernel, device: Rocket):
    """S-204: weights and streams are in no list of the job, so that the kernel would not keep them."""
    job = Job(device, 7)
    kernel.delay = 50_000_000
    device.submit([job.job])
    start = time.monotonic()
    device.free(job.stream)
    assert time.monotonic() - start > 0.04


@pytest.mark.parametrize(
    ("code", "number", "message"),
    [
        (CREATE_BO, errno.ENOMEM, "CREATE_BO: ENOMEM .*no memory is left"),
        (0, errno.ENOMEM, "mmap of a buffer of 10 bytes: ENOMEM"),
        (0, errno.EACCES, "mmap of a buffer of 10 bytes: EACCES"),
    ],
)
def test_a_failed_allocation_leaves_nothing(kernel: FakeKernel, device: Rocket, code: int, number: int, message: str):
    before = len(os.listdir("/proc/self/fd"))
    kernel.errors[code] = [number]
    with pytest.raises(DeviceError, match=message) as caught:
        device.allocate(10)
    assert caught.value.errno == number
    assert kernel.buffers == 0
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_exhausted_address_space_is_an_error(kernel: FakeKernel, device: Rocket):
    kernel.aperture = 8192
    device.allocate(8192)
    with pytest.raises(DeviceError, match=r"ENOSPC .*no I/O addresses"):
        device.allocate(1)
    device.allocate(1, space=1)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENODEV, errno.EINVAL, errno.ENOMEM])
def test_a_refused_submit_says_so_and_can_be_repeated(kernel: FakeKernel, device: Rocket, number: int):
    job = Job(device, 7)
    kernel.errors[SUBMIT] = [number]
    with pytest.raises(DeviceError, match=f"ROCKET_SUBMIT: {errno.errorcode[number]}"):
        device.submit([job.job])
    device.wait(device.submit([job.job]), 1, [job.buffers[OUTPUT]])
    assert job.output == [7]


def test_a_ticket_of_another_device_is_refused(device: Rocket):
    with pytest.raises(DeviceError, match="no ticket"):
        device.wait(3, 1)


def test_closing_on_a_lost_device_still_closes(kernel: FakeKernel):
    device = Rocket()
    device.allocate(1)
    kernel.errors[GEM_CLOSE] = [errno.ENODEV]
    with pytest.raises(DeviceError, match="GEM_CLOSE: ENODEV"):
        device.close()
    assert not kernel.files


def test_a_mapping_goes_with_the_last_view(kernel: FakeKernel, device: Rocket):
    memory = device.allocate(10)
    device.free(memory)
    assert np.array_equal(memory.view, np.zeros(10))  # the host may still look
    assert len(kernel.mappings) == 1
    del memory
    assert len(kernel.mappings) == 0
