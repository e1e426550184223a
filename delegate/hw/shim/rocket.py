"""The mainline kernel's rocket driver (uapi.md A): buffers in an address space of each file, queued jobs, fences."""

from __future__ import annotations

import asyncio
import errno
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from delegate.hw.shim.core import table
from delegate.hw.shim.drm import Call, Driver, File, Ioctl, failure
from delegate.hw.shim.faults import Faults
from delegate.hw.shim.memory import Buffer, Domain, bottom_up
from delegate.hw.shim.npu import CORES, Chain, Core, Outcome
from delegate.hw.shim.strict import Strict
from delegate.hw.sim.options import Options
from delegate.hw.soc import ADDRESS_LIMIT

CREATE = struct.Struct("<IIQQ")  # size; handle, dma_address, offset
PREP = struct.Struct("<IIq")  # handle, reserved, absolute deadline in ns
FINI = struct.Struct("<II")  # handle, reserved
SUBMIT = struct.Struct("<QIIQ")  # jobs, job_count, job_struct_size, reserved
JOB = struct.Struct("<QQQIIII")  # tasks, in and out handles; task_count, task_struct_size, counts of handles
TASK = struct.Struct("<II")  # regcmd, regcmd_count
HANDLE = struct.Struct("<I")
DPU_INTERRUPTS = 0x300  # all that the kernel unmasks (S-196)
WATCHDOG = 0.5  # seconds (S-195)
LONGEST_WAIT = 1e6  # seconds; a deadline of INT64_MAX means for ever
LARGEST_COPY = 1 << 26  # bytes of an array that a job points to; more than kvmalloc gives, and than any job needs


@dataclass(eq=False)
class Job:
    """A job in its file's queue; ``done`` is its fence."""

    file: File
    chains: list[Chain]
    after: list[asyncio.Event]
    number: int
    reads: list[Buffer]
    writes: list[Buffer]
    pending: set[Buffer]  # what other jobs were to write when this one was queued
    done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class Queue:
    """A file's scheduler entity: its jobs run one after the other."""

    domain: Domain = field(default_factory=Domain)
    jobs: deque[Job] = field(default_factory=deque)
    running: Job | None = None
    closed: bool = False


def stride(address: int, count: int, given: int, known: int) -> list[tuple[int, int]]:
    """Where ``count`` structures lie of which the first ``known`` of ``given`` bytes each are read."""
    if given == known:
        return [(address, count * known)]
    return [(address + index * given, known) for index in range(count)]


class Rocket(Driver):
    """See drm.Driver."""

    name, description, date, version, unique = "rocket", "rocket DRM", "0", (0, 0, 0), "rknn"

    def __init__(
        self, faults: Faults, scale: float, caches: bool, options: Options, strict: bool, say: Callable[[str], None]
    ) -> None:
        super().__init__()
        self._strict = Strict(strict, lambda text: say(f"rocket: {text}"), "FINI_BO")
        self.faults, self.scale, self.caches, self.say = faults, scale, caches, say
        self._writers: dict[Buffer, asyncio.Event] = {}  # fences of the jobs that write buffers
        post = asyncio.get_running_loop().call_soon_threadsafe
        self._free = deque(Core(index, post, options) for index in range(CORES))  # the one that waits longest first
        self._queues: list[Queue] = []
        self._submitted = 0
        self.ioctls = table(
            Ioctl("CREATE_BO", "create", 0xC0186440, self._create, "size:I handle:I dma_address:Q offset:Q"),
            Ioctl("SUBMIT", "submit", 0x40186441, self._submit, "jobs:Q job_count:I job_struct_size:I reserved:Q"),
            Ioctl("PREP_BO", "prep", 0x40106442, self._prep, "handle:I reserved:I timeout_ns:q"),
            Ioctl("FINI_BO", "fini", 0x40086443, self._fini, "handle:I reserved:I"),
        )

    def opened(self, file: File) -> None:
        super().opened(file)
        file.state = Queue()
        self._queues.append(file.state)

    def released(self, file: File) -> None:
        """Jobs that have not started never will; the one that runs ends first."""
        super().released(file)
        queue: Queue = file.state
        self._queues.remove(queue)
        for job in queue.jobs:
            job.done.set()
        queue.jobs.clear()
        queue.closed = True
        if queue.running is None:
            queue.domain.close()
        self._schedule()

    def freed(self, buffer: Buffer) -> None:
        self._writers.pop(buffer, None)
        buffer.domain.free(buffer)

    async def _create(self, file: File, call: Call) -> int:
        size = call.read(CREATE)[0]
        if size == 0:  # nothing checks it before drm_vma_offset_add asks drm_mm for a range of no pages
            raise failure(errno.ENOSPC)
        buffer = file.state.domain.create(size, bottom_up, self.faults.address_limit(ADDRESS_LIMIT), self.caches)
        handle, offset = file.add(buffer)
        call.write(CREATE, 0, size, handle, buffer.address, offset)
        return 0

    async def _prep(self, file: File, call: Call) -> int:
        """Waits for the buffer's writer; a deadline that is past asks only (S-200). In any case the CPU sees it."""
        handle, reserved, deadline = call.read(PREP)
        if reserved:
            raise failure(errno.EINVAL)
        buffer = file.lookup(handle)
        fence = self._writers.get(buffer)
        try:
            if fence is None or fence.is_set():
                return 0
            left = (deadline - time.monotonic_ns()) / 1e9
            if left <= 0:
                raise failure(errno.EBUSY)
            if not await call.channel.first(fence, timeout=min(left, LONGEST_WAIT), interruptible=True):
                raise failure(errno.ETIMEDOUT)
            return 0
        finally:
            if buffer in file.handles.values():
                buffer.from_device()
                self._strict.fetched(buffer)

    async def _fini(self, file: File, call: Call) -> int:
        handle, reserved = call.read(FINI)
        if reserved:
            raise failure(errno.EINVAL)
        buffer = file.lookup(handle)
        buffer.to_device()
        self._strict.show([buffer])
        return 0

    async def _submit(self, file: File, call: Call) -> int:
        """Queues jobs; what is wrong with one of them is said to nobody but the log (S-208c)."""
        jobs, count, size, reserved = call.read(SUBMIT)
        if count == 0:
            return 0
        if size < JOB.size or reserved:
            raise failure(errno.EINVAL)
        if count * JOB.size > LARGEST_COPY:
            raise failure(errno.ENOMEM)
        raw = b"".join(await call.channel.copy_in(stride(jobs, count, size, JOB.size)))
        for index, job in enumerate(JOB.iter_unpack(raw)):
            try:
                await self._submit_job(file, call, job)
            except OSError as error:
                self.say(f"rocket: job {index} of a submit was dropped: {errno.errorcode.get(error.errno or 0, '?')}")
        self._schedule()
        return 0

    async def _submit_job(self, file: File, call: Call, job: tuple[int, ...]) -> None:
        tasks_at, in_at, out_at, count, size, in_count, out_count = job
        if count == 0 or size < TASK.size:
            raise failure(errno.EINVAL)
        if max(count * TASK.size, in_count * HANDLE.size, out_count * HANDLE.size) > LARGEST_COPY:
            raise failure(errno.ENOMEM)
        ranges = stride(tasks_at, count, size, TASK.size)
        lists = [(in_at, in_count * HANDLE.size), (out_at, out_count * HANDLE.size)]
        copied = await call.channel.copy_in([*ranges, *lists])
        tasks = list(TASK.iter_unpack(b"".join(copied[:-2])))
        if any(words == 0 for _, words in tasks):
            raise failure(errno.EINVAL)
        reads, writes = ([file.lookup(handle) for (handle,) in HANDLE.iter_unpack(raw)] for raw in copied[-2:])
        self._queue(file, tasks, reads, writes)

    def _queue(self, file: File, tasks: list[tuple[int, int]], reads: list[Buffer], writes: list[Buffer]) -> None:
        queue: Queue = file.state
        buffers = [*reads, *writes]
        if len({id(buffer) for buffer in buffers}) < len(buffers):
            self.say("rocket: a job lists a buffer twice: it counts as done and is not run (S-202)")
            return
        self._submitted += 1
        # The kernel writes half of the rounded count to REGISTER_AMOUNTS: PC fetches pairs of words (npu.md §2.2).
        chains = [
            Chain(address, 2 * ((words + 1) // 2), 1, index, DPU_INTERRUPTS, exact=False)
            for index, (address, words) in enumerate(tasks)
        ]
        after = [self._writers[buffer] for buffer in buffers if buffer in self._writers]
        pending = {buffer for buffer, fence in self._writers.items() if not fence.is_set()}
        job = Job(file, chains, after, self._submitted, reads, writes, pending)
        for buffer in writes:
            self._writers[buffer] = job.done
        queue.jobs.append(job)

    def _schedule(self) -> None:
        """Gives free cores to the files whose first job may run; the file that came first has the oldest job."""
        ready = [queue for queue in self._queues if queue.jobs and queue.running is None]
        for queue in sorted(ready, key=lambda queue: queue.jobs[0].number):
            if self._free and all(fence.is_set() for fence in queue.jobs[0].after):
                self._start(queue, self._free.popleft())

    def _start(self, queue: Queue, core: Core) -> None:
        job = queue.running = queue.jobs.popleft()
        watch = self._strict.watch(queue.domain, lambda buffer: False)

        def ended(outcome: Outcome) -> None:
            self._strict.judge(watch, outcome.warnings)
            self._strict.judge_lists(watch, job.reads, job.writes, job.pending)
            if outcome.hang is None:
                self._end(queue, core)
                return
            reason = self._strict.explain(outcome.hang)
            self.say(f"rocket: core {core.index}: job {job.number} ends by the watchdog: {reason}")
            asyncio.get_running_loop().call_later(WATCHDOG * self.scale, self._expire, queue, core)

        core.run(queue.domain, job.chains, self.faults.job(), ended, watch)

    def _expire(self, queue: Queue, core: Core) -> None:
        """The watchdog resets the core; the fence tells nothing of it (S-195)."""
        core.reset()
        self._end(queue, core)

    def _end(self, queue: Queue, core: Core) -> None:
        job, queue.running = queue.running, None
        self._free.append(core)
        if job is not None:
            job.done.set()
        if queue.closed:
            queue.domain.close()
        self._schedule()
