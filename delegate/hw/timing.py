"""How long programs take: MAC cycles and DRAM bytes of each task, read from its command words, and seconds on a board.

A model, nothing is measured. Its form is timing.md §4: a task's transfers and its products follow each other, except
for a part that overlaps. ``benchmarks/calibration.py`` compares it with every published figure (docs/timing.md).
The simulator's decoders read the words, so what it refuses has no time either.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
from delegate.hw.task import Words

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

    @property
    def core_bytes(self) -> float:
        """Bytes that one core moves in a second while all cores do."""
        return min(self.port_bytes * self.clock_hz, self.bandwidth / self.cores)


ROCKET = Board("rocket", 600e6, chains=False)
"""Mainline's kernel at the clock of tuned boards; it boots at 200 MHz (silicon-figures §1, §10)."""
RKNPU = Board("rknpu", 1000e6, chains=True)
"""The vendor's kernel at the highest clock."""
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
    """When each task runs: the jobs of a core in order, without a pause; ``board.cores`` of them share DRAM."""
    free: dict[int, float] = {}
    slots: list[Slot] = []
    for number, job in enumerate(jobs):
        now = free.get(job.core, 0.0)
        begins = {chain.start for chain in job.chains} if board.chains else set(range(len(job.costs)))
        for index, cost in enumerate(job.costs):
            wait: Wait = "job" if index == 0 else "interrupt" if index in begins else "chain"
            start = now + wait_seconds(wait, board)
            end = start + task_seconds(cost, board)
            slots.append(Slot(number, index, job.core, now, wait, start, end))
            now = end
        free[job.core] = now
    return slots


def wait_seconds(wait: Wait, board: Board) -> float:
    """How long a wait is."""
    return {"job": board.job_seconds, "interrupt": board.task_seconds, "chain": board.chain_seconds}[wait]


def total_seconds(jobs: Sequence[TimedJob], board: Board) -> float:
    """From the first submit to the end of the last job."""
    return max((slot.end for slot in schedule(jobs, board)), default=0.0)
