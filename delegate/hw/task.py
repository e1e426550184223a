"""What the compiler hands to a device: tasks, jobs, buffers, relocations, programs.

A Program never holds an absolute address, so that it can be cached, diffed, replayed and moved between devices.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from delegate.errors import DelegateError
from delegate.hw.soc import ADDRESS_LIMIT

VALUE_SHIFT, VALUE_MASK = 16, 0xFFFFFFFF  # where the value stands in a command word
MOST_CORES = 3  # of an NPU
Role = Literal["input", "output", "weight", "scratch", "regcmd"]
Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Buffer:
    """A piece of device memory; ``data`` is what it holds before the first run (None: nothing in particular)."""

    name: str
    size: int  # bytes
    role: Role
    data: Bytes | None = None


@dataclass(frozen=True)
class Task:
    """One fetch of the program controller: a command stream, tail included, and the layer it belongs to."""

    words: Words  # uint64 (n)
    layer: int  # index in Program.layers


@dataclass(frozen=True)
class Job:
    """Tasks that run in order on one core.

    ``chains`` cuts the tasks into ranges that a driver may hand to the program controller as one chain: inside a range
    no task reads through CNA what another task of the range wrote (hardware book C-4), unless the program was compiled
    with full chains. Drivers that start every task themselves need not look at it.

    Jobs of one ``stage`` may run at the same time, each on a core of its own; a stage begins when the one before it has
    ended on all cores.
    """

    tasks: tuple[Task, ...]
    chains: tuple[range, ...]  # of indices in tasks, in order, covering all
    reads: tuple[int, ...]  # buffer indices; never one that is in writes too (S-202)
    writes: tuple[int, ...]
    stage: int = 0
    core: int = 0  # which of the program's cores; a device is free to take another of its own


@dataclass(frozen=True)
class Exchange:
    """Bytes that the host copies before a stage, from one core's copy of a buffer to another's.

    A stage behind the last one stands for the host, which reads the outputs in the copy of core 0.
    """

    stage: int
    buffer: int
    source: int  # core
    target: int  # core
    start: int  # bytes
    stop: int


@dataclass(frozen=True)
class Relocation:
    """The value of word ``word`` of task ``task`` is the address of ``buffer`` plus ``offset`` bytes."""

    task: int  # counted over all jobs of the program
    word: int
    buffer: int
    offset: int  # bytes


@dataclass(frozen=True)
class Place:
    """A position in one of a program's buffers."""

    buffer: int
    offset: int  # bytes

    def __add__(self, bytes_further: int) -> Place:
        return Place(self.buffer, self.offset + bytes_further)


@dataclass(frozen=True)
class Port:
    """Where a tensor of the host lies in device memory: a cube of ``surfaces`` surfaces of atoms."""

    tensor: int  # index in the model
    buffer: int
    offset: int  # bytes
    shape: tuple[int, int, int, int]  # N H W C
    dtype: Literal["int8", "uint8"]
    surfaces: int
    surface_bytes: int  # pitch of a surface, at least H * W atoms
    image_bytes: int  # from an image of the batch to the next
    fill: int  # int8 domain: value of padding rows and channels, the zero point


@dataclass(frozen=True)
class Layer:
    """One pass through the blocks, for reports: the operator it came from and its true sizes."""

    operator: str  # TFLite's name
    node: int  # index of the node in the partition
    description: str


@dataclass(frozen=True)
class Program:
    """A compiled partition."""

    soc: str
    buffers: tuple[Buffer, ...]
    jobs: tuple[Job, ...]
    relocations: tuple[Relocation, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    layers: tuple[Layer, ...] = field(default=())
    # For each task an atom that it writes and nothing else does, None where it has none; empty: nobody has looked.
    witnesses: tuple[Place | None, ...] = field(default=())
    copies: int = 1  # of all buffers: one for all cores, or one for each where cores cannot share memory (S-203)
    exchanges: tuple[Exchange, ...] = ()  # by stage

    @property
    def stages(self) -> tuple[tuple[Job, ...], ...]:
        """The jobs, stage by stage."""
        return tuple(tuple(jobs) for _, jobs in itertools.groupby(self.jobs, key=lambda job: job.stage))

    def copy_of(self, job: Job) -> int:
        """Which copy of the buffers a job works with."""
        return job.core if self.copies > 1 else 0

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks in order, as Relocation.task counts them."""
        return tuple(task for job in self.jobs for task in job.tasks)


def located(program: Program, addresses: Sequence[int]) -> list[Words]:
    """The words of all tasks in order with addresses filled in; ``addresses``: of the buffers."""
    words = [task.words.copy() for task in program.tasks]
    for r in program.relocations:
        keep = int(words[r.task][r.word]) & ~(VALUE_MASK << VALUE_SHIFT)
        words[r.task][r.word] = keep | (addresses[r.buffer] + r.offset) << VALUE_SHIFT
    return words


def unproven_tasks(program: Program) -> list[str]:
    """The tasks that have no witness, in words; none for a program that was compiled without any."""
    without = [number for number, place in enumerate(program.witnesses) if place is None]
    layers = [(number, program.layers[program.tasks[number].layer]) for number in without]
    return [f"task {number}, {layer.operator} {layer.description}" for number, layer in layers]


def check_stages(program: Program, demand: Callable[[bool, str], None]) -> None:
    """Demands of a program what its stages, cores and exchanges promise."""
    jobs, stages = program.jobs, program.stages
    demand(
        [job.stage for job in jobs] == [n for n, stage in enumerate(stages) for _ in stage], "stages are not in order"
    )
    demand(all(len({job.core for job in stage}) == len(stage) for stage in stages), "two jobs of a stage have one core")
    demand(all(0 <= job.core < MOST_CORES for job in jobs), f"a job's core is not one of {MOST_CORES}")
    demand(program.copies == 1 or all(job.core < program.copies for job in jobs), "a core has no copy of the buffers")
    demand(1 <= program.copies <= MOST_CORES, f"{program.copies} copies of the buffers")
    demand([e.stage for e in program.exchanges] == sorted(e.stage for e in program.exchanges), "exchanges lack order")
    for e in program.exchanges:
        cores = 0 <= e.source < program.copies and 0 <= e.target < program.copies and e.source != e.target
        known = 0 <= e.buffer < len(program.buffers) and 0 <= e.stage <= len(stages)
        demand(cores and known and 0 <= e.start < e.stop <= program.buffers[e.buffer].size, f"{e} is out of bounds")


def check(program: Program) -> None:
    """Raises DelegateError unless all indices and extents of a program are within bounds.

    For programs that come from a file: a checksum says that the file is whole, not that it makes sense.
    """
    buffers, tasks = program.buffers, program.tasks

    def demand(holds: bool, what: str) -> None:
        if not holds:
            raise DelegateError(what)

    demand(all(0 < buffer.size < ADDRESS_LIMIT for buffer in buffers), "a buffer is empty or larger than 4 GiB")
    demand(all(b.data is None or b.data.size == b.size for b in buffers), "a buffer's data has not the buffer's size")
    demand(
        sum(buffer.role == "regcmd" for buffer in buffers) == 1, "there is not exactly one buffer for command streams"
    )
    for job in program.jobs:
        covered = [index for chain in job.chains for index in chain]
        demand(covered == list(range(len(job.tasks))), "chains do not cover a job's tasks in order")
        demand(
            all(0 <= index < len(buffers) for index in (*job.reads, *job.writes)),
            "a job names a buffer that is not there",
        )
        demand(not set(job.reads) & set(job.writes), "a buffer is both read and written by a job")
    check_stages(program, demand)
    demand(all(0 <= task.layer < len(program.layers) for task in tasks), "a task belongs to no layer")
    for r in program.relocations:
        inside = 0 <= r.task < len(tasks) and 0 <= r.word < len(tasks[r.task].words) and 0 <= r.buffer < len(buffers)
        demand(inside and 0 <= r.offset < buffers[r.buffer].size, f"relocation {r} is out of bounds")
    demand(len(program.witnesses) in (0, len(tasks)), "there is not one witness for each task")
    for place in program.witnesses:
        inside = place is None or (
            0 <= place.buffer < len(buffers) and buffers[place.buffer].role not in ("weight", "regcmd")
        )
        demand(inside, f"witness {place} lies in no buffer that tasks may write")
        whole = place is None or (place.offset % 16 == 0 and 0 <= place.offset <= buffers[place.buffer].size - 16)
        demand(whole, f"witness {place} is no atom of its buffer")
    for port in (*program.inputs, *program.outputs):
        demand(0 <= port.buffer < len(buffers), f"port of tensor {port.tensor}: no such buffer")
        images, height, width, channels = port.shape
        cube = (port.surfaces - 1) * port.surface_bytes + height * width * 16
        end = port.offset + (images - 1) * port.image_bytes + cube
        demand(port.offset >= 0 and end <= buffers[port.buffer].size, f"port of tensor {port.tensor} leaves its buffer")
        demand(
            images > 0 and (images == 1 or port.image_bytes >= cube), f"port of tensor {port.tensor}: images overlap"
        )
        fits = 0 < height * width * 16 <= port.surface_bytes and 0 < channels <= 16 * port.surfaces
        demand(fits, f"port of tensor {port.tensor}: shape does not fit its cube")
        pitches = (port.offset, port.surface_bytes, port.image_bytes)
        demand(all(size % 16 == 0 for size in pitches), f"port of tensor {port.tensor} does not lie in whole atoms")
        demand(port.dtype in ("int8", "uint8"), f"port of tensor {port.tensor}: dtype {port.dtype}")
