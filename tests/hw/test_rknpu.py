"""The driver of the vendor's kernel, on a kernel in this process."""

from __future__ import annotations

import errno
import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hw.convolution_job import Job
from hw.fake_kernel import ACTION, MEM_CREATE, MEM_DESTROY, MEM_MAP, MEM_SYNC, NPU_SUBMIT, FakeKernel
from hw.sim.programs import INPUT, OUTPUT, WEIGHTS

from delegate.errors import DeviceError
from delegate.hw import rknpu_interface as interface
from delegate.hw.device import DeviceJob, DeviceTask, open_device
from delegate.hw.rknpu import Rknpu


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, misc: bool) -> FakeKernel:
    fake = FakeKernel(monkeypatch, "rknpu", folder, misc)
    monkeypatch.setattr(interface, "NODES", (str(fake.path),))
    if misc:
        monkeypatch.setattr(interface, "MISC_NODE", str(fake.path))
    return fake


@pytest.fixture(params=["drm", "misc"])
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FakeKernel]:
    """At the end no file, buffer or mapping is left."""
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    fake = install(monkeypatch, tmp_path, request.param == "misc")
    yield fake
    gc.collect()
    assert not fake.files
    assert not fake.mappings
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def device(kernel: FakeKernel) -> Iterator[Rknpu]:
    device = Rknpu()
    yield device
    device.close()


def test_the_node_says_its_version_and_clock(kernel: FakeKernel):
    device = open_device("rknpu")
    assert isinstance(device, Rknpu)
    assert (device.node.path, device.node.driver, device.node.version) == (kernel.path, "rknpu", "0.9.8")
    assert (device.version, device.frequency, device.signals_pooling) == (908, 1_000_000_000, True)
    device.close()
    with pytest.raises(DeviceError, match="closed"):
        device.allocate(1)


@pytest.mark.parametrize(("version", "size"), [(802, 40), (905, 40), (906, 48), (10000, 48)])
def test_memory_is_created_as_the_driver_knows_it(kernel: FakeKernel, version: int, size: int):
    kernel.version = version
    device = Rknpu()
    memory = device.allocate(10)
    assert [MEM_CREATE[code] for code in kernel.log if code in MEM_CREATE] == [size]
    assert (memory.address, len(memory.view)) == ((1 << 32) - 4096, 10)
    assert kernel.flags == interface.CACHEABLE | interface.ZEROING | interface.IOMMU | interface.NON_CONTIGUOUS
    device.close()


def test_without_an_iommu_memory_is_contiguous(kernel: FakeKernel):
    kernel.iommu = 0
    device = Rknpu()
    device.allocate(10)
    assert kernel.flags == interface.CACHEABLE | interface.ZEROING
    device.close()


def test_a_job_runs_and_only_what_is_needed_is_synchronized(kernel: FakeKernel, device: Rknpu):
    job = Job(device, 7)
    device.wait(device.submit([job.job]), 10)  # makes the task array
    assert kernel.flags & interface.KERNEL_MAPPING
    kernel.log.clear()
    device.flush(job.buffers[INPUT])
    ticket = device.submit([job.job])
    device.wait(ticket, 10)
    assert job.output == [0]  # nothing has shown it to the host
    device.wait(ticket, 10, [job.buffers[OUTPUT]])
    assert job.output == [7]
    assert kernel.log == [MEM_SYNC, NPU_SUBMIT, MEM_SYNC]
    assert kernel.submits[-1] == (0, 1, 1, [(0, 1), (0, 0), (0, 0), (0, 0), (0, 0)])


def test_each_chain_is_a_submit(kernel: FakeKernel, device: Rknpu):
    jobs = [Job(device, value) for value in (1, 2)]
    tasks = tuple(job.job.tasks[0] for job in jobs)
    writes = tuple(job.job.writes[0] for job in jobs)
    device.wait(device.submit([DeviceJob(tasks, (range(1), range(1, 2)), (), writes)]), 10, writes)
    assert [job.output for job in jobs] == [[1], [2]]
    assert [(start, count) for start, count, *_ in kernel.submits] == [(0, 1), (1, 1)]


@pytest.mark.parametrize(
    ("ranges", "mask", "places"),
    [
        ({0: range(5)}, 1, [(0, 5), (0, 0), (0, 0), (0, 0), (0, 0)]),
        ({2: range(3, 5)}, 4, [(0, 0), (0, 0), (3, 2), (0, 0), (0, 0)]),
        ({0: range(2), 1: range(2, 5)}, 3, [(0, 2), (2, 3), (0, 0), (0, 0), (0, 0)]),
        ({0: range(1), 1: range(1, 3), 2: range(3, 6)}, 7, [(0, 0), (0, 0), (0, 1), (1, 2), (3, 3)]),
    ],
)
def test_ranges_of_several_cores(ranges: dict[int, range], mask: int, places: list[tuple[int, int]]):
    """S-104, S-208: three cores have the last three places."""
    assert [(place.task_start, place.task_number) for place in interface.subcores(ranges)] == places
    assert sum(1 << core for core in ranges) == mask


@pytest.mark.parametrize(("cores", "mask", "first"), [(2, 3, 0), (3, 7, 2)])
def test_jobs_of_a_call_are_one_submit(kernel: FakeKernel, cores: int, mask: int, first: int):
    """A range of one task array for each core; three cores have theirs in the last places (S-104)."""
    device = Rknpu(3)
    jobs = [Job(device, value) for value in range(1, 1 + cores)]
    device.wait(device.submit([job.job for job in jobs]), 10, [job.buffers[OUTPUT] for job in jobs])
    assert [job.output for job in jobs] == [[1 + core] for core in range(cores)]
    ((start, number, used, ranges),) = kernel.submits
    assert (start, number, used) == (0, cores, mask)
    assert ranges[first : first + cores] == [(core, 1) for core in range(cores)]
    device.close()


def test_chains_of_jobs_that_start_together_go_step_by_step(kernel: FakeKernel):
    """The second chain of each job starts when the first chains of all have ended; a core without one is left out."""
    device = Rknpu(3)
    jobs = [Job(device, value) for value in range(1, 6)]
    tasks = [job.job.tasks[0] for job in jobs]
    writes = [job.job.writes[0] for job in jobs]
    long = DeviceJob(tuple(tasks[:3]), (range(1), range(1, 3)), (), tuple(writes[:3]))
    short = DeviceJob(tuple(tasks[3:]), (range(2),), (), tuple(writes[3:]))
    assert [[list(tasks) for tasks in step] for step in device._prepare((long, short)).steps] == [
        [[0], [3, 4]],
        [[1, 2]],
    ]
    device.close()


def test_more_jobs_than_cores_are_refused(kernel: FakeKernel):
    device = Rknpu(2)
    jobs = [Job(device, value) for value in range(3)]
    with pytest.raises(DeviceError, match="3 jobs at the same time on 2 cores"):
        device.submit([job.job for job in jobs])
    device.close()


def test_jobs_of_several_threads_run_on_several_cores(kernel: FakeKernel):
    device = Rknpu(3)
    kernel.delay = 20_000_000
    jobs = [Job(device, value) for value in range(1, 7)]
    threads = [
        threading.Thread(target=lambda job=job: device.wait(device.submit([job.job]), 10, job.job.writes))  # type: ignore[misc]
        for job in jobs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [job.output for job in jobs] == [[value] for value in range(1, 7)]
    assert {submit[2] for submit in kernel.submits} == {1, 2, 4}
    device.close()


def test_the_interrupt_is_that_of_the_last_block():
    """S-88 for the bitmap; uapi.md B for the masks."""
    assert [interface.interrupts(fired) for fired in (0x1D, 0x0D, 0x18, 0x60, 0x7D)] == [
        0x300,
        0x300,
        0x300,
        0xC00,
        0xC00,
    ]
    for fired in (0, 1, 4):
        with pytest.raises(DeviceError, match="no interrupt ends it"):
            interface.interrupts(fired)


def test_the_task_array_is_as_the_kernel_reads_it(kernel: FakeKernel, device: Rknpu):
    job = Job(device, 7)
    prepared = device._prepare((job.job,))
    (task,) = job.job.tasks
    words = prepared.array.view.view("<u4").tolist()
    assert words == [0, 0, 0x1D, 0x300, 0x1FFFF, 0, task.count - 4, 0, task.address & 0xFFFFFFFF, 0]
    del prepared


def test_jobs_that_would_not_run_as_meant_are_refused(kernel: FakeKernel, device: Rknpu):
    job = Job(device, 1).job
    (task,) = job.tasks
    for bad, message in (
        (DeviceJob((), (), (), ()), "no tasks"),
        (DeviceJob(job.tasks, job.chains, job.writes, job.writes), "twice"),
        (DeviceJob((DeviceTask(task.address, 4),), (range(1),), (), job.writes), "nothing before its tail"),
        (DeviceJob((DeviceTask(task.address, task.count - 1),), (range(1),), (), job.writes), "end with a fire word"),
        (DeviceJob((DeviceTask(1 << 20, 10),), (range(1),), (), job.writes), "in no memory"),
    ):
        with pytest.raises(DeviceError, match=message):
            device.submit([bad])
    assert not kernel.submits
    with pytest.raises(DeviceError, match="no ticket"):
        device.wait(3, 1)


def test_a_chain_that_hangs_is_a_timeout_and_the_device_goes_on(kernel: FakeKernel, device: Rknpu):
    bad, good = Job(device, 6), Job(device, 5)
    device.wait(device.submit([bad.job]), 10)  # makes the task array, which else would come to lie there
    device.free(bad.buffers[WEIGHTS])  # an IOMMU fault
    ticket = device.submit([bad.job])
    with pytest.raises(DeviceError, match=r"RKNPU_SUBMIT: ETIMEDOUT .*was reset") as caught:
        device.wait(ticket, 10)
    assert caught.value.errno == errno.ETIMEDOUT
    device.wait(device.submit([good.job]), 10, [good.buffers[OUTPUT]])
    assert good.output == [5]


def test_a_dropped_chain_is_an_error(kernel: FakeKernel, device: Rknpu):
    """S-104: cores whose ranges were not found did nothing, silently."""
    job = Job(device, 5)
    kernel.drop = 1
    ticket = device.submit([job.job])
    with pytest.raises(DeviceError, match="ran 0 of 1 tasks"):
        device.wait(ticket, 10)


def test_waiting_ends_after_its_timeout(kernel: FakeKernel, device: Rknpu):
    job = Job(device, 5)
    kernel.delay = 100_000_000
    ticket = device.submit([job.job])
    with pytest.raises(DeviceError, match="not done after"):
        device.wait(ticket, 0.01)
    device.free(job.stream)  # waits
    device.wait(ticket, 0, [job.buffers[OUTPUT]])
    assert job.output == [5]


def test_task_arrays_go_with_the_memory_of_their_job(kernel: FakeKernel, device: Rknpu):
    job = Job(device, 5)
    for _ in range(3):
        device.wait(device.submit([job.job]), 10)
    assert kernel.buffers == 6  # those of the job, and one array
    device.free(job.stream)
    assert kernel.buffers == 4
    with pytest.raises(DeviceError, match="in no memory"):
        device.submit([job.job])


@pytest.mark.parametrize("code", [MEM_MAP, 0])
def test_a_failed_mapping_leaves_nothing(kernel: FakeKernel, device: Rknpu, code: int):
    if kernel.misc and code == MEM_MAP:
        code = 0
    kernel.errors[code] = [errno.ENOMEM]
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(DeviceError, match="ENOMEM"):
        device.allocate(10)
    assert kernel.buffers == 0
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("size", [0, -1, 1 << 32])
def test_a_size_that_no_buffer_has_is_refused(device: Rknpu, size: int):
    with pytest.raises(DeviceError, match=f"buffer of {size} bytes"):
        device.allocate(size)


def test_an_address_beyond_32_bits_is_refused(kernel: FakeKernel, device: Rknpu, monkeypatch: pytest.MonkeyPatch):
    """Command words and stream starts have no room for it (uapi.md B)."""
    monkeypatch.setattr("delegate.hw.rknpu.ADDRESS_LIMIT", (1 << 32) - 4096)
    with pytest.raises(DeviceError, match="beyond 32 bits"):
        device.allocate(4096)
    assert kernel.buffers == 0


def test_interrupted_requests_are_tried_again(kernel: FakeKernel, device: Rknpu):
    codes = (*MEM_CREATE, MEM_DESTROY, MEM_SYNC, NPU_SUBMIT)
    kernel.errors = {code: [errno.EINTR] * 2 for code in codes}
    job = Job(device, 7)
    device.wait(device.submit([job.job]), 10, [job.buffers[OUTPUT]])
    assert job.output == [7]
    device.free(job.stream)
    assert [code for code, left in kernel.errors.items() if left] == [0xC0286442]  # the layout that is not used


@pytest.mark.parametrize("number", [errno.EIO, errno.EBUSY, errno.ENOMEM, errno.EINVAL, errno.ENODEV])
def test_a_refused_submit_says_so_and_can_be_repeated(kernel: FakeKernel, device: Rknpu, number: int):
    job = Job(device, 7)
    kernel.errors[NPU_SUBMIT] = [number]
    ticket = device.submit([job.job])
    with pytest.raises(DeviceError, match=f"RKNPU_SUBMIT: {errno.errorcode[number]}"):
        device.wait(ticket, 10)
    device.wait(device.submit([job.job]), 10, [job.buffers[OUTPUT]])
    assert job.output == [7]


def test_a_driver_that_does_not_answer_is_closed(kernel: FakeKernel):
    kernel.errors[ACTION] = [errno.EIO] * 2
    with pytest.raises(DeviceError, match="RKNPU_ACTION: EIO"):
        Rknpu()
    assert not kernel.files


def test_closing_on_a_lost_device_still_closes(kernel: FakeKernel):
    device = Rknpu()
    device.allocate(1)
    kernel.errors[MEM_DESTROY] = [errno.ENODEV]
    with pytest.raises(DeviceError, match="MEM_DESTROY: ENODEV"):
        device.close()
    assert not kernel.files
