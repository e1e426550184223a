"""How long programs take: MAC cycles and DRAM bytes of each task, read from its command words, and seconds on a board.

A model, nothing is measured. Its form is timing.md §4: a task's transfers and its products follow each other, except
for a part that overlaps. ``benchmarks/calibration.py`` compares it with every published figure (docs/timing.md).
The simulator's decoders read the words, so what it refuses has no time either.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from delegate.errors import SimulatorError
from delegate.hw.device import Kernel
from delegate.hw.regs import CNA
from delegate.hw.sim.dpu_rdma import RECORD_BYTES, RECORD_CHANNELS, USE_ADD, USE_MULTIPLY, Lane, Reader
from delegate.hw.sim.machine import Decoded, Machine
from delegate.hw.sim.memory import AddressSpace
from delegate.hw.sim.options import Options
from delegate.hw.sim.passes import Convolution, Flying
from delegate.hw.sim.ppu import Pooling
from delegate.hw.sim.writer import Writer
from delegate.hw.soc import RK3588, Soc
from delegate.hw.task import Program, Words

Kind = Literal["convolution", "depthwise", "element-wise", "pooling"]
ATOM_BYTES = 16
WORD_BYTES = 8
POOLED_TAPS = 4  # atoms that the PPU takes up in a cycle (timing.md §4: a guess)
# Rows that are apart are written to other pages of DRAM. Extra cycles a row for each 4 KiB of pitch above the first:
# what 1.15 times the time is in the published 256x384x256 product with rows 8 KiB apart (silicon-figures §4).
PAGE_BYTES, PAGE_CYCLES = 4096, 1.2


@dataclass(frozen=True)
class Board:
    """How fast a board is. What is called fitted was chosen by ``benchmarks/calibration.py --fit``; docs/timing.md."""

    name: str
    clock_hz: float  # of the NPU
    chains: bool  # the kernel lets PC follow a chain of tasks by itself
    job_seconds: float = 54e-6  # from submit to end of a job with one tiny task (silicon-figures §2)
    # From the end of one start of PC to the next start in a job, by an interrupt: 45 to 70 (silicon-figures §10).
    task_seconds: float = 55e-6
    chain_seconds: float = 1e-6  # between two tasks of a chain (timing.md §2, inferred)
    port_bytes: float = 12  # that a core moves in a cycle; fitted
    overlap: float = 0.5  # part of the shorter of products and transfers behind their lead that is hidden; fitted
    start_cycles: int = 300  # of a task, before anything moves (timing.md §4)
    bandwidth: float = 20e9  # bytes a second of DRAM, all cores together: what is usable of 33.8e9 (timing.md §1)
    cores: int = 1  # that work at the same time
    own_memory: bool = False  # each core has its own, and the host copies between them (S-203)
    core_seconds: float = 0.0  # that a stage takes longer for each further core
    # That the host shows to the NPU or itself in a second: 320 MB a worker in 127 ms of up to five workers
    # (silicon-figures §5) are 2.5 to 12.6e9, whose middle this is.
    sync_bytes: float = 5.6e9
    copy_bytes: float = 13.4e9  # a second, by the host (silicon-figures §9)

    @property
    def core_bytes(self) -> float:
        """Bytes that one core moves in a second while all cores do."""
        return min(self.port_bytes * self.clock_hz, self.bandwidth / self.cores)


ROCKET = Board("rocket", 600e6, chains=False, own_memory=True, core_seconds=10e-6)
"""Mainline's kernel at the clock of tuned boards; it boots at 200 MHz (silicon-figures §1, §10).

A further core is two more requests, SUBMIT and PREP_BO, of the thread that waits: 10 µs are assumed.
"""
RKNPU = Board("rknpu", 1000e6, chains=True)
"""The vendor's kernel at the highest clock; one submit starts all cores and ends with the last of them (S-104)."""
BOARDS: dict[Kernel, Board] = {"rocket": ROCKET, "rknpu": RKNPU}


@dataclass(frozen=True)
class Bytes:
    """What a task moves between the core and DRAM."""

    commands: int = 0  # its own stream, the entries of lookup tables among it
    features: int = 0  # by CNA, or by the PPU
    weights: int = 0
    operands: int = 0  # by DPU_RDMA: the main feed without convolution, biases and multipliers, the other addend
    output: int = 0

    @property
    def total(self) -> int:
        return self.commands + self.features + self.weights + self.operands + self.output

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(
            self.commands + other.commands,
            self.features + other.features,
            self.weights + other.weights,
            self.operands + other.operands,
            self.output + other.output,
        )


@dataclass(frozen=True)
class Cost:
    """What a task asks for, on any board."""

    kind: Kind
    products: int  # cycles of the MAC array, or of the PPU
    bytes: Bytes
    lead: int  # bytes that must have arrived before the first product: some rows, the first kernels
    page_cycles: float = 0.0  # that the writer loses between rows that are apart


def task_costs(streams: Iterable[Words], soc: Soc = RK3588) -> list[Cost]:
    """The costs of streams that run behind each other on a core; raises SimulatorError for one that does not run."""
    machine = Machine(AddressSpace(), soc, Options(plain=True))
    return [task_cost(machine.decode(words, f"task {index}")) for index, words in enumerate(streams)]


def task_cost(decoded: Decoded) -> Cost:
    """The cost of a decoded task."""
    run, commands = decoded.run, WORD_BYTES * decoded.words
    if isinstance(run, Convolution):
        grains = decoded.registers[CNA.CONV_CON2]["feature_grains"]
        return _convolution(run, commands, grains)
    if isinstance(run, Flying):
        moved = Bytes(commands, operands=_operands(run.reader), output=_written(run.dpu.writer))
        return Cost("element-wise", 0, moved, 0, _page_cycles(run.dpu.writer))
    if isinstance(run, Pooling):
        return _pooling(run, commands)
    raise SimulatorError(f"{type(run).__name__}: its time is not modelled")


def _convolution(run: Convolution, commands: int, grains: int) -> Cost:
    features, weights, core = run.front.features, run.front.weights, run.core
    precision, depthwise = features.precision, weights.depthwise
    if features.pixel_channels:
        row = -(-features.width * features.pixel_channels * precision.bits // 8 // ATOM_BYTES) * ATOM_BYTES
    else:
        row = features.width * features.surfaces * ATOM_BYTES
    group = precision.depthwise_group if depthwise else precision.kernel_group
    groups = -(-core.channels // group)
    chunks = 1 if depthwise else -(-features.channels // precision.chunk)
    height, width = run.front.window.kernel
    count = weights.channels if depthwise else weights.kernels
    first = 0 if weights.reuse else weights.size * min(group, count) // count
    rows = 0 if features.reuse else min(grains, features.height)
    moved = Bytes(
        commands,
        features=0 if features.reuse else row * features.height,
        weights=0 if weights.reuse else weights.size,
        operands=_operands(run.reader),
        output=_written(run.dpu.writer),
    )
    return Cost(
        "depthwise" if depthwise else "convolution",
        groups * chunks * height * width * core.height * core.width,
        moved,
        first + rows * row,
        _page_cycles(run.dpu.writer),
    )


def _pooling(run: Pooling, commands: int) -> Cost:
    (height, width), (rows, columns) = run.size, run.output
    moved = Bytes(
        commands,
        features=run.surfaces * height * width * ATOM_BYTES,
        output=run.surfaces * rows * columns * ATOM_BYTES,
    )
    taps = run.kernel[0] * run.kernel[1] * rows * columns * run.surfaces
    return Cost("pooling", -(-taps // POOLED_TAPS), moved, 0)


def _written(writer: Writer) -> int:
    """Whole atoms, those of channels that pad the last group among them."""
    return writer.width * writer.height * -(-writer.channels // writer.format.atom) * ATOM_BYTES


def _page_cycles(writer: Writer) -> float:
    """See PAGE_CYCLES; rows that follow each other are one run."""
    if writer.row_pitch <= ATOM_BYTES * writer.width:
        return 0.0
    rows = _written(writer) // (ATOM_BYTES * writer.width)  # of all surfaces
    return PAGE_CYCLES * max(0.0, writer.row_pitch / PAGE_BYTES - 1) * rows


def _operands(reader: Reader | None) -> int:
    if reader is None:
        return 0
    pixels = reader.width * reader.height
    moved = _lane_bytes(reader.scale_lane, reader.channels) + _lane_bytes(reader.norm_lane, reader.channels)
    if reader.main is not None:
        moved += pixels * -(-reader.channels // reader.main.format.atom) * ATOM_BYTES
    if reader.operand is not None:
        atoms = -(-reader.channels // reader.operand.format.atom)
        moved += (pixels if reader.operand.per_pixel else 1) * atoms * ATOM_BYTES
    return moved


def _lane_bytes(lane: Lane, channels: int) -> int:
    """What BS or BN read for each channel: a number of 32 bits, one of 16, or the record of 64 bytes (S-17)."""
    if lane.use in (USE_ADD, USE_MULTIPLY):
        return channels * (4 if lane.use == USE_ADD else 2)
    return -(-channels // RECORD_CHANNELS) * RECORD_BYTES if lane.use else 0


@dataclass(frozen=True)
class Cycles:
    """Cycles of one task on a board, at its clock, while all its cores move data."""

    start: float  # fixed, and the fetch of its stream
    transfer: float  # all bytes but the stream's
    lead: float  # the part of them before the first product
    products: float
    pages: float
    total: float


def task_cycles(cost: Cost, board: Board) -> Cycles:
    """timing.md §4: what leads cannot overlap; of the rest, a part of the shorter is hidden behind the longer."""
    rate = board.core_bytes / board.clock_hz  # bytes in a cycle
    start = board.start_cycles + cost.bytes.commands / rate
    transfer = (cost.bytes.total - cost.bytes.commands) / rate
    lead = cost.lead / rate
    rest = transfer - lead
    hidden = board.overlap * min(rest, cost.products)
    total = start + transfer + cost.products - hidden + cost.page_cycles
    if cost.kind == "pooling":  # the PPU takes atoms as they arrive
        total = start + max(transfer, cost.products)
    return Cycles(start, transfer, lead, cost.products, cost.page_cycles, total)


def task_seconds(cost: Cost, board: Board) -> float:
    """From the start of PC at a task to its end."""
    return task_cycles(cost, board).total / board.clock_hz


Wait = Literal["job", "interrupt", "chain"]
"""What a core does before a task: a job begins, the kernel starts the next task, or PC goes on by itself."""


@dataclass(frozen=True)
class TimedJob:
    """Tasks in order on one core. ``chains``: ranges of them that PC may follow by itself, if the kernel lets it."""

    costs: tuple[Cost, ...]
    chains: tuple[range, ...]
    core: int = 0
    stage: int = 0  # jobs of a stage run at the same time, after those of the stage before
    cores: int | None = None  # that work in the stage and share DRAM; None: all of the board
    host: float = 0.0  # seconds that the host copies between cores before the stage


@dataclass(frozen=True)
class Slot:
    """A task on the time line; seconds."""

    job: int
    task: int  # of the job
    core: int
    begin: float  # of the wait before it
    wait: Wait
    start: float  # of the task itself
    end: float


def schedule(jobs: Sequence[TimedJob], board: Board) -> list[Slot]:
    """When each task runs: stage by stage; in a stage the jobs of a core in order, without a pause.

    Where it is not said which jobs have a stage of their own, all have the same.
    """
    slots: list[Slot] = []
    barrier = 0.0
    numbered = sorted(enumerate(jobs), key=lambda item: item[1].stage)
    for _, stage in itertools.groupby(numbered, key=lambda item: item[1].stage):
        own = list(stage)
        more = len({job.core for _, job in own}) - 1
        begin = barrier + max(job.host for _, job in own)
        slots += stage_slots(own, board, begin, begin + more * board.core_seconds)
        barrier = max((slot.end for slot in slots), default=0.0)
    return slots


def sharing(job: TimedJob, board: Board) -> Board:
    """The board as a job has it: with as many cores as work at the same time."""
    return board if job.cores is None else replace(board, cores=job.cores)


def exchanged(program: Program, stage: int) -> tuple[int, int]:
    """(bytes that the host and the NPU are shown, bytes that the host copies) before a stage.

    Whole buffers are shown (S-200): to the host those between which it copies, unless nothing has run yet; to the NPU
    those that the host has copied to, unless nothing runs any more.
    """
    moves = [move for move in program.exchanges if move.stage == stage]
    sides = {(move.buffer, core, False) for move in moves for core in (move.source, move.target) if stage > 0}
    if stage < len(program.stages):
        sides |= {(move.buffer, move.target, True) for move in moves}
    shown = sum(program.buffers[buffer].size for buffer, _, _ in sides)
    return shown, sum(move.stop - move.start for move in moves)


def stage_slots(jobs: Sequence[tuple[int, TimedJob]], board: Board, begin: float, now: float) -> list[Slot]:
    """The tasks of a stage, whose cores are waited for from ``begin`` on and get their first jobs at ``now``."""
    free: dict[int, float] = {}
    slots: list[Slot] = []
    for number, job in jobs:
        first = free.get(job.core, begin)
        ready = free.get(job.core, now)
        begins = {chain.start for chain in job.chains} if board.chains else set(range(len(job.costs)))
        for index, cost in enumerate(job.costs):
            wait: Wait = "job" if index == 0 else "interrupt" if index in begins else "chain"
            start = ready + wait_seconds(wait, board)
            end = start + task_seconds(cost, sharing(job, board))
            slots.append(Slot(number, index, job.core, first, wait, start, end))
            first = ready = end
        free[job.core] = ready
    return slots


def wait_seconds(wait: Wait, board: Board) -> float:
    """How long a wait is."""
    return {"job": board.job_seconds, "interrupt": board.task_seconds, "chain": board.chain_seconds}[wait]


def total_seconds(jobs: Sequence[TimedJob], board: Board) -> float:
    """From the first submit to the end of the last job."""
    return max((slot.end for slot in schedule(jobs, board)), default=0.0)


@dataclass(frozen=True)
class BoardClock:
    """The times of a board as the compiler asks for them (delegate.cores.Clock)."""

    board: Board

    @property
    def job(self) -> float:
        return self.board.job_seconds

    @property
    def core(self) -> float:
        return self.board.core_seconds

    @property
    def restart(self) -> float:
        return self.board.task_seconds

    @property
    def step(self) -> float:
        return self.board.chain_seconds if self.board.chains else self.board.task_seconds

    def tasks(self, streams: Sequence[Words], cores: int) -> list[float]:
        """Seconds of tasks that run behind each other on one of so many cores; raises SimulatorError."""
        sharing = replace(self.board, cores=cores)
        return [task_seconds(cost, sharing) for cost in task_costs(streams)]

    def exchange(self, synchronized: int, copied: int) -> float:
        """Seconds of the host for so many bytes."""
        return synchronized / self.board.sync_bytes + copied / self.board.copy_bytes
