"""The vendor kernel's rknpu driver (uapi.md B), version 0.9.8: one address space for all, submits of task ranges."""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import time
from collections.abc import Callable
from functools import partial

from delegate.hw.shim.core import table
from delegate.hw.shim.drm import Call, Driver, File, Ioctl, failure
from delegate.hw.shim.faults import Faults
from delegate.hw.shim.memory import Buffer, Domain, Hole, top_down
from delegate.hw.shim.npu import CORES, Chain, Core, Outcome
from delegate.hw.shim.rknpu_jobs import Job, Object
from delegate.hw.shim.strict import Strict, Watch
from delegate.hw.shim.wire import Channel
from delegate.hw.sim.options import Options
from delegate.hw.soc import ADDRESS_LIMIT

ACTION = struct.Struct("<II")  # flags, value
MEM_CREATE = struct.Struct("<IIQQQQiI")  # handle, flags, size, obj_addr, dma_addr, sram_size; domain, core_mask
MEM_MAP = struct.Struct("<IIQ")  # handle, reserved, offset
MEM_DESTROY = struct.Struct("<IIQ")  # handle, reserved, obj_addr
MEM_SYNC = struct.Struct("<IIQQQ")  # flags, reserved, obj_addr, offset, size
# flags, timeout, task_start, task_number, task_counter, priority, task_obj_addr, domain, reserved, task_base_addr,
# hw_elapse_time, core_mask, fence_fd, then (task_start, task_number) five times
SUBMIT = struct.Struct("<IIIIIiQIIQqIi10I")
TASK = struct.Struct("<8IQ")  # flags, op_idx, enable_mask, int_mask, int_clear, int_status, amount, offset, address
COUNTER, ELAPSED, CORE_MASK, FENCE = 16, 48, 56, 60  # offsets in a submit that the kernel writes
INT_STATUS = 20  # offset in a task
INT = struct.Struct("<I")
PC, NONBLOCK, FENCE_IN, FENCE_OUT = 1, 2, 8, 16
KERNEL_MAPPING, CACHEABLE, UNALIGNED = 0x8, 0x2, 0x400
TO_DEVICE, FROM_DEVICE = 1, 2
LARGEST_SUBMIT = 4095  # tasks of a start of PC; longer ranges are cut
TAIL_WORDS = 4
DOMAINS = 16
OBJECTS = 0xFFFF_FF80_0000_0000  # where the kernel pointers that serve as ids begin
HARDWARE_VERSION = 0x46495245 + 0x5332  # unknown for RK3588 (uapi.md B); anything but 0
FREQUENCY, VOLTAGE = 1_000_000_000, 800_000  # Hz, µV
GET_HW, GET_DRV, GET_FREQ, GET_VOLT, RESET = 0, 1, 2, 4, 6
AMOUNTS = range(13, 18)  # clear and read byte counters, which RK3588 has not: they succeed and write nothing
GET_IOMMU, SET_NICE, GET_DOMAIN, SET_DOMAIN = 18, 19, 24, 25
SRAM = (22, 23)


class Rknpu(Driver):
    """See drm.Driver."""

    name, description, date, version, unique = "rknpu", "RKNPU driver", "20240828", (0, 9, 8), "fdab0000.npu"
    has_iommu = True

    def __init__(
        self, faults: Faults, scale: float, caches: bool, options: Options, strict: bool, say: Callable[[str], None]
    ) -> None:
        super().__init__()
        self._strict = Strict(strict, lambda text: say(f"rknpu: {text}"), "MEM_SYNC")
        self.faults, self.scale, self.caches, self.say = faults, scale, caches, say
        post = asyncio.get_running_loop().call_soon_threadsafe
        self._cores = tuple(Core(index, post, options) for index in range(CORES))
        self._todo: tuple[list[Job], ...] = tuple([] for _ in range(CORES))
        self._current: list[Job | None] = [None] * CORES
        self._domains: dict[int, Domain] = {}
        self._domain_id = 0
        self._objects: dict[int, Object] = {}
        self._created = 0
        fields = "flags:I timeout:I task_start:I task_number:I task_counter:I priority:i task_obj_addr:Q domain:I _:I"
        memory = "handle:I flags:I size:Q obj_addr:Q dma_addr:Q sram_size:Q iommu_domain_id:i core_mask:I"
        self.ioctls = table(
            Ioctl("ACTION", "action", 0xC0086440, self._action, "flags:I value:I"),
            Ioctl("SUBMIT", "submit", 0xC0686441, self._submit, fields + " _:Q hw_elapse:q core_mask:I fence_fd:i"),
            Ioctl("MEM_CREATE", "create", 0xC0306442, self._create, memory),
            Ioctl("MEM_MAP", "map", 0xC0106443, self._map, "handle:I reserved:I offset:Q"),
            Ioctl("MEM_DESTROY", "destroy", 0xC0106444, self._destroy, "handle:I reserved:I obj_addr:Q"),
            Ioctl("MEM_SYNC", "sync", 0xC0206445, self._sync, "flags:I reserved:I obj_addr:Q offset:Q size:Q"),
        )

    def freed(self, buffer: Buffer) -> None:
        self._objects = {address: item for address, item in self._objects.items() if item.buffer is not buffer}
        buffer.domain.free(buffer)

    def _domain(self, number: int) -> Domain:
        if not 0 <= number < DOMAINS:
            raise failure(errno.EINVAL)
        if number not in self._domains:
            self._domains[number] = Domain()
        return self._domains[number]

    async def _action(self, file: File, call: Call) -> int:
        """Reads and sets what the board has; there is no bandwidth register, and no frequency or voltage to set."""
        action, value = call.read(ACTION)
        major, minor, patch = self.version
        answers = {
            GET_HW: HARDWARE_VERSION,
            GET_DRV: major * 10000 + minor * 100 + patch,
            GET_FREQ: FREQUENCY,
            GET_VOLT: VOLTAGE,
            GET_IOMMU: int(self.has_iommu),
            GET_DOMAIN: self._domain_id,
        }
        if action in answers:
            call.write(ACTION, 0, action, answers[action])
        elif action in SRAM:
            call.write(ACTION, 0, action, 0)
        elif action == RESET:
            self._soft_reset()
        elif action == SET_DOMAIN:
            self._domain(value)
            self._domain_id = value
        elif action != SET_NICE and action not in AMOUNTS:
            raise failure(errno.EINVAL)
        return 0

    async def _create(self, file: File, call: Call) -> int:
        """A buffer, or with a handle what is known about it."""
        handle, flags, size, _, _, _, number, core_mask = call.read(MEM_CREATE)
        if handle in file.handles:
            item = next(item for item in self._objects.values() if item.buffer is file.handles[handle])
        else:
            if size == 0:
                raise failure(errno.EINVAL)
            item = self._allocate(self._domain(number), size, flags)
            handle, _ = file.add(item.buffer)
        buffer = item.buffer
        call.write(MEM_CREATE, 0, handle, flags, buffer.size, item.address, buffer.address, 0, number, core_mask)
        return 0

    def _allocate(self, domain: Domain, size: int, flags: int) -> Object:
        def place(holes: list[Hole], rounded: int) -> int | None:
            return top_down(holes, rounded, aligned=not flags & UNALIGNED)

        try:
            cached = self.caches and bool(flags & CACHEABLE)
            buffer = domain.create(size, place, self.faults.address_limit(ADDRESS_LIMIT), cached)
        except OSError as error:
            raise failure(errno.ENOMEM) from error  # the DMA API knows nothing else
        return self._register(buffer, flags)

    def _register(self, buffer: Buffer, flags: int) -> Object:
        self._created += 1
        item = Object(buffer, flags, OBJECTS + 0x400 * self._created)
        self._objects[item.address] = item
        return item

    async def _map(self, file: File, call: Call) -> int:
        handle, reserved, _ = call.read(MEM_MAP)
        call.write(MEM_MAP, 0, handle, reserved, file.offset_of(file.lookup(handle)))
        return 0

    async def _destroy(self, file: File, call: Call) -> int:
        handle = call.read(MEM_DESTROY)[0]
        file.lookup(handle, errno.EINVAL)
        file.close_handle(handle)
        return 0

    async def _sync(self, file: File, call: Call) -> int:
        directions, _, address, offset, size = call.read(MEM_SYNC)
        item = self._object(address, "MEM_SYNC")
        if not self._syncs(item.flags):
            raise failure(errno.EINVAL)
        part = slice(offset, offset + size)
        if directions & TO_DEVICE:
            item.buffer.to_device(part)
            self._strict.show([item.buffer])
        if directions & FROM_DEVICE:
            item.buffer.from_device(part)
            self._strict.fetched(item.buffer)
        return 0

    def _syncs(self, flags: int) -> bool:
        """Only cached buffers can be synchronised."""
        return bool(flags & CACHEABLE)

    def _object(self, address: int, what: str) -> Object:
        """Raises OSError(EINVAL) for what would be a wild pointer in the kernel."""
        if address not in self._objects:
            if address:
                self.say(f"rknpu: {what}: obj_addr {address:#x} is no object: a kernel would follow it and oops")
            raise failure(errno.EINVAL)
        return self._objects[address]

    async def _submit(self, file: File, call: Call) -> int:
        """One job; blocks unless it is told not to."""
        fields = call.read(SUBMIT)
        flags, timeout, core_mask = fields[0], fields[1] / 1000 * self.scale, fields[11]
        if fields[3] == 0 or core_mask > 7:
            raise failure(errno.EINVAL)
        if flags & FENCE_IN:
            await self._wait_fence(call.channel, fields[12], timeout)
        if not core_mask:
            core_mask = 1 << min(range(CORES), key=lambda core: len(self._todo[core]) + bool(self._current[core]))
        if not flags & PC or core_mask not in (1, 2, 3, 4, 7):
            raise failure(errno.EINVAL)
        job = self._job(fields, core_mask)
        call.write(INT, CORE_MASK, core_mask)
        if flags & FENCE_OUT:
            end, job.fence = os.pipe()
            call.given.append((end, FENCE))
        if flags & NONBLOCK:
            self._clean(core_mask)
            self._schedule(job)
            return 0
        self._schedule(job)
        try:
            await self._wait(job, timeout)
        finally:
            self._report(job, call, fields[3])
        return 0

    async def _wait_fence(self, channel: Channel, number: int, timeout: float) -> None:
        descriptor = await self._take(channel, number)
        ready = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, ready.set)
        try:
            await channel.first(ready, timeout=timeout, interruptible=True)
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    @staticmethod
    async def _take(channel: Channel, number: int) -> int:
        """A fence of the client; raises OSError(EINVAL) if it has no such descriptor."""
        try:
            return await channel.take_descriptor(number)
        except OSError as error:
            raise failure(errno.EINVAL) from error

    def _job(self, fields: tuple[int, ...], core_mask: int) -> Job:
        """Ranges as the kernel reads them: from subcore_task[core], for three cores from [core + 2] (S-104)."""
        cores = [core for core in range(CORES) if core_mask >> core & 1]
        item = self._object(fields[6], "SUBMIT")
        if not item.flags & KERNEL_MAPPING:
            self.say("rknpu: SUBMIT: the buffer of the tasks has no KERNEL_MAPPING: a kernel would oops")
            raise failure(errno.EINVAL)
        slots = [fields[13 + 2 * slot : 15 + 2 * slot] for slot in range(5)]
        chains = {}
        for core in cores:
            start, count = slots[core + 2 if len(cores) == CORES else core]
            if not 0 < count <= item.buffer.size // TASK.size - start:
                self.say(f"rknpu: SUBMIT: core {core}: tasks {start} to {start + count} are not in the buffer of tasks")
                raise failure(errno.EINVAL)
            chains[core] = _chains(item.buffer, start, count)
        return Job(self._domain(fields[7]), item, chains, set(cores), set(cores))

    def _schedule(self, job: Job) -> None:
        for core in job.chains:
            self._todo[core].append(job)
        for core in job.chains:
            self._next(core)

    def _next(self, core: int) -> None:
        """A core takes its next job; the last of a job's cores to do so starts it on all."""
        if self._current[core] is not None or not self._todo[core]:
            return
        job = self._current[core] = self._todo[core].pop(0)
        job.waiting.discard(core)
        if not job.waiting:
            job.started = time.monotonic_ns()
            fault = self.faults.job()
            for each, chains in job.chains.items():
                watch = self._strict.watch(job.domain, self._is_coherent)
                self._cores[each].run(job.domain, chains, fault, partial(self._ended, job, each, watch), watch)

    def _is_coherent(self, buffer: Buffer) -> bool:
        return not any(item.flags & CACHEABLE for item in self._objects.values() if item.buffer is buffer)

    def _ended(self, job: Job, core: int, watch: Watch | None, outcome: Outcome) -> None:
        self._strict.judge(watch, outcome.warnings)
        job.status[core] = outcome.status
        if job is not self._current[core]:
            return  # a reset came first
        if outcome.hang is not None:
            self.say(f"rknpu: core {core}: a job never ends: {self._strict.explain(outcome.hang)}")
            job.hung, job.counter = True, outcome.tasks
            for other in (job, *self._todo[core]):
                other.changed.set()
            return
        self._current[core] = None
        job.left.discard(core)
        if job.done:
            job.elapsed = time.monotonic_ns() - job.started
            job.changed.set()
            job.signal()
        self._next(core)

    async def _wait(self, job: Job, timeout: float) -> None:
        """Until the job is done. Simulating may take its time; a job that hangs is given ``timeout`` seconds, one that
        stands behind such a job three times that."""
        while not job.done:
            job.changed.clear()
            if job.hung:
                await asyncio.sleep(timeout)
                self._drop(job)
                raise failure(errno.ETIMEDOUT)
            try:
                await asyncio.wait_for(job.changed.wait(), 3 * timeout if self._blocked(job) else None)
            except TimeoutError:
                for core in job.chains:
                    if job in self._todo[core]:
                        self._todo[core].remove(job)
                raise failure(errno.EINVAL) from None

    def _blocked(self, job: Job) -> bool:
        """Whether the job stands behind one that hangs."""
        ahead = [self._current[core] for core in job.waiting]
        return any(other is not None and other.hung for other in ahead)

    def _report(self, job: Job, call: Call, tasks: int) -> None:
        """What a blocking submit writes: the first core's status into the last core's last task, counter and time."""
        last = job.chains[max(job.chains)][-1]
        at = (last.index + last.tasks - 1) * TASK.size + INT_STATUS
        if job.tasks.address in self._objects:
            INT.pack_into(job.tasks.buffer.cpu.data, at, job.status.get(min(job.chains), 0))
        call.write(INT, COUNTER, tasks if job.done else job.counter)
        if job.done:
            call.write(struct.Struct("<q"), ELAPSED, job.elapsed)

    def _drop(self, job: Job) -> None:
        """Takes a hung job off its cores after a soft reset."""
        self._soft_reset()
        job.forget()
        cores = [core for core in range(CORES) if self._current[core] is job]
        for core in cores:
            self._current[core] = None
        for core in cores:
            self._next(core)

    def _clean(self, core_mask: int) -> None:
        """What a submit that does not block does first: hung jobs of its cores, and what waits behind them, go."""
        for core in range(CORES):
            current = self._current[core]
            if core_mask >> core & 1 and current is not None and current.hung:
                for waiting in self._todo[core]:
                    waiting.forget()
                self._todo[core].clear()
                self._drop(current)

    def _soft_reset(self) -> None:
        for core in self._cores:
            core.reset()


def _chains(tasks: Buffer, start: int, count: int) -> list[Chain]:
    """The starts of PC for a range of tasks: the first one's address and amount, the last one's mask."""
    raw = tasks.cpu[start * TASK.size : (start + count) * TASK.size].tobytes()
    listed = list(TASK.iter_unpack(raw))
    chains = []
    for first in range(0, count, LARGEST_SUBMIT):
        number = min(LARGEST_SUBMIT, count - first)
        amount, address = listed[first][6], listed[first][8]
        words = 2 * ((amount + TAIL_WORDS + 1) // 2)
        chains.append(
            Chain(address & 0xFFFFFFFF, words, number, start + first, listed[first + number - 1][3], exact=True)
        )
    return chains
