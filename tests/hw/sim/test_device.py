"""The simulator behind the Device protocol: memory, jobs, cores, faults."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hw.convolution_job import Job, relocated
from hw.sim.flying import pooling
from hw.sim.programs import INPUT, OUTPUT, POOLING, WEIGHTS, change, words

from delegate.errors import DeviceError, SimulatorError
from delegate.hw.device import DeviceJob, DeviceTask, Kernel, open_device
from delegate.hw.regs import DPU, PPU, PPU_RDMA
from delegate.hw.sim.device import Simulator


@pytest.fixture(params=[1, 3])
def device(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    device = Simulator(cores=request.param)
    yield device
    device.close()


def test_addresses_ascend_from_zero_with_a_gap(device: Simulator):
    """S-201: the first buffer is at 0; whole pages; a page that is not mapped after each."""
    first, second = device.allocate(1), device.allocate(5000)
    third = device.allocate(1)
    assert [memory.address for memory in (first, second, third)] == [0, 0x2000, 0x5000]
    assert len(second.view) == 5000
    device.free(second)
    assert device.allocate(4096).address == 0x2000
    with pytest.raises(SimulatorError, match="not mapped"):
        device.memory.bytes(0x1000, 1, "test")


def test_memory_is_zeroed_and_limited(device: Simulator):
    memory = device.allocate(100)
    memory.view[:] = 7
    device.free(memory)
    assert not device.allocate(100).view.any()
    with pytest.raises(DeviceError, match="no room"):
        device.allocate(1 << 33)
    with pytest.raises(DeviceError, match="at least 1"):
        device.allocate(0)
    with pytest.raises(DeviceError, match="not allocated"):
        device.free(memory)
        device.free(memory)


def test_jobs_run(device: Simulator):
    jobs = [Job(device, bias) for bias in (1, 2, 3, 4)]
    device.wait(device.submit([job.job for job in jobs]), 10)
    assert [job.output for job in jobs] == [[1], [2], [3], [4]]


def test_readers_wait_for_writers(device: Simulator):
    """uapi.md A.2: a job sees what an earlier one wrote, whichever core it runs on."""
    jobs = [Job(device, 1)]
    for _ in range(9):
        job = Job(device, 1)
        before = jobs[-1].buffers[OUTPUT]
        job.buffers[INPUT] = before  # 32 channels of it, 16 are read
        job.buffers[WEIGHTS].view[::16] = 1
        stream = np.array(relocated(job.buffers), np.uint64)
        job.stream.view[:] = stream.view(np.uint8)
        job.job = DeviceJob(job.job.tasks, job.job.chains, (before,), (job.buffers[OUTPUT],))
        jobs.append(job)
    device.wait(device.submit([job.job for job in jobs]), 10)
    assert [job.output for job in jobs] == [[value] for value in range(1, 11)]


def test_a_fault_is_raised_and_the_device_goes_on(device: Simulator):
    """The kernel resets the core; the next job runs."""
    good, bad = Job(device, 5), Job(device, 6)
    broken = DeviceJob((DeviceTask(0xF0000000, 10),), (range(1),), (), (bad.buffers[OUTPUT],))
    ticket = device.submit([broken, good.job])
    with pytest.raises(SimulatorError, match="PC fetch"):
        device.wait(ticket, 10)
    assert good.output == [5]
    device.wait(device.submit([bad.job]), 10)
    assert bad.output == [6]


def test_jobs_that_a_kernel_drops_are_refused(device: Simulator):
    """S-202, S-204."""
    job = Job(device, 1).job
    both = DeviceJob(job.tasks, job.chains, job.writes, job.writes)
    for bad, message in (
        (both, "twice"),
        (DeviceJob((), (), (), ()), "no tasks"),
        (DeviceJob((DeviceTask(0, 0),), (range(1),), (), ()), "without words"),
        (DeviceJob(job.tasks, (), (), ()), "cover"),
    ):
        with pytest.raises(DeviceError, match=message):
            device.submit([bad])


def test_waiting_ends_after_its_timeout(monkeypatch: pytest.MonkeyPatch):
    device = Simulator()
    gate = threading.Event()
    monkeypatch.setattr(device.machines[0], "run_chain", lambda *_: gate.wait(10))
    ticket = device.submit([Job(device, 1).job])
    with pytest.raises(DeviceError, match="not done"):
        device.wait(ticket, 0.01)
    gate.set()
    device.wait(ticket, 10)
    with pytest.raises(DeviceError, match="no ticket"):
        device.wait(3, 1)
    device.close()


def test_two_threads_share_a_device(device: Simulator):
    results = {}

    def use(name: int) -> None:
        job = Job(device, name)
        for _ in range(20):
            job.buffers[OUTPUT].view[:] = 0
            device.wait(device.submit([job.job]), 10)
            results.setdefault(name, set()).add(tuple(job.output))

    threads = [threading.Thread(target=use, args=(name,)) for name in (11, 22, 33)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {name: {(name,)} for name in (11, 22, 33)}


@pytest.mark.parametrize("kernel", ["rocket", "rknpu"])
def test_both_kernels_run_chains(kernel: Kernel):
    """uapi.md: the mainline kernel starts each task, the vendor's hands the range to PC."""
    device = Simulator(kernel=kernel)
    jobs = [Job(device, bias) for bias in (1, 2)]
    stream = jobs[0].stream.view.view(np.uint64)
    count = len(stream)
    if kernel == "rknpu":
        stream[-4] = 0x0101 << 48 | jobs[1].stream.address << 16 | 0x10
        stream[-3] = 0x0101 << 48 | ((count + 1) // 2 - 1) << 16 | 0x14
    tasks = tuple(job.job.tasks[0] for job in jobs)
    writes = tuple(job.buffers[OUTPUT] for job in jobs)
    device.wait(device.submit([DeviceJob(tasks, (range(2),), (), writes)]), 10)
    assert [job.output for job in jobs] == [[1], [2]]
    device.close()


def test_the_device_opens_by_name():
    device = open_device("simulator", cores=2)
    assert isinstance(device, Simulator)
    assert len(device.machines) == 2
    device.close()
    with pytest.raises(DeviceError, match="closed"):
        device.allocate(1)
    for cores in (0, 4):
        with pytest.raises(DeviceError, match="1 to 3"):
            Simulator(cores=cores)
    with pytest.raises(DeviceError, match="rocket or rknpu"):
        Simulator(kernel="other")  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", ["rocket", "rknpu"])
def test_only_one_kernel_hears_of_the_end_of_a_pooling_task(kernel: Kernel):
    """S-137, S-196: stock mainline runs a pooling job into its watchdog; the vendor's kernel does not."""
    device = open_device("simulator", kernel=kernel)
    assert device.signals_pooling == (kernel == "rknpu")
    buffers = {address: device.allocate(2048) for address in (INPUT, OUTPUT)}
    given = np.random.default_rng(1).integers(-128, 128, (4, 4, 16)).astype(np.int8)
    buffers[INPUT].view[:256] = given.reshape(-1).view(np.uint8)
    fields, _ = pooling(np.int8, 1, (4, 4), (2, 2), (2, 2), (0, 0, 0, 0), 16)
    fields = change(fields, PPU_RDMA.RDMA_SRC_BASE_ADDR, src_base_addr=buffers[INPUT].address)
    fields = change(fields, PPU.DST_BASE_ADDR, dst_base_addr=buffers[OUTPUT].address >> 4)
    stream = np.array(words(fields, POOLING), np.uint64)
    place = device.allocate(stream.nbytes)
    place.view[:] = stream.view(np.uint8)
    job = DeviceJob((DeviceTask(place.address, len(stream)),), (range(1),), (buffers[INPUT],), (buffers[OUTPUT],))
    if kernel == "rocket":
        with pytest.raises(SimulatorError, match="never hears of its end: the job would run into the 500 ms watchdog"):
            device.wait(device.submit([job]), 10)
        assert not buffers[OUTPUT].view.any()
    else:
        device.wait(device.submit([job]), 10)
        wanted = given.reshape(2, 2, 2, 2, 16).max(axis=(1, 3))
        assert np.array_equal(buffers[OUTPUT].view[:64].view(np.int8), wanted.reshape(-1))
    device.close()


def test_warnings_are_collected(device: Simulator):
    job = Job(device, 1)
    stream = job.stream.view.view(np.uint64)
    at = next(i for i, word in enumerate(stream.tolist()) if word >> 48 == DPU.target and word & 0xFFFF == 0x4038)
    stream[at] = 0
    device.wait(device.submit([job.job]), 10)
    assert any("DATA_CUBE_NOTCH_ADDR" in text for text in device.warnings)
