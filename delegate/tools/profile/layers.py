"""A program, a capture or a model on a board of ``hw.timing``: its layers and its time line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path

from delegate.compile import compile_graph
from delegate.cores import Division
from delegate.errors import DelegateError
from delegate.hw.soc import EVERY_FORM
from delegate.hw.timing import (
    Board,
    BoardClock,
    Bytes,
    Cost,
    Kind,
    Slot,
    TimedJob,
    schedule,
    sharing,
    task_costs,
    task_cycles,
)
from delegate.partition import taken
from delegate.tflite import IDENTIFIER, read_model
from delegate.tools.listing import ListedJob, Listing, Operation, from_program, open_listing

PARTS = ("task overhead", "start", "features", "weights", "operands", "MAC", "PPU", "write")
"""What a layer's time may go to: before its tasks, at their start, in transfers, in products, in pooling."""


@dataclass(frozen=True)
class LayerTime:
    """A layer, or an operation of a capture, on one core. Seconds; what overlaps is in ``parts`` twice."""

    title: str
    kinds: tuple[Kind, ...]
    tasks: int
    products: int  # cycles of the MAC array or the PPU
    bytes: Bytes
    cycles: float  # of its tasks
    seconds: float  # of its tasks and the overhead before each
    overhead: float
    parts: dict[str, float]  # by PARTS
    share: float  # of the total
    one_core: float | None = None  # seconds on one core, of a layer of an inference that is spread over several

    @property
    def bound(self) -> str:
        """What most of the time goes to."""
        return max(PARTS, key=lambda part: self.parts[part])


@dataclass(frozen=True)
class Profile:
    """One inference on each core of the board at the same time, or, with ``one_core``, one spread over all cores."""

    name: str
    board: Board
    layers: tuple[LayerTime, ...]
    jobs: tuple[TimedJob, ...]  # of all cores
    slots: tuple[Slot, ...]  # of all cores
    owners: tuple[tuple[int, ...], ...]  # layer of each task of each job
    cpu: int  # operators of the model that are not in it
    gathering: float = 0.0  # seconds for which the host copies outputs from other cores, at the end
    one_core: float | None = None  # seconds of the inference on one core

    @property
    def seconds(self) -> float:
        """Of one inference."""
        return max((slot.end for slot in self.slots), default=0.0) + self.gathering

    @cached_property
    def boards(self) -> list[Board]:
        """The board as each job has it."""
        return [sharing(job, self.board) for job in self.jobs]

    def cost(self, slot: Slot) -> Cost:
        return self.jobs[slot.job].costs[slot.task]

    def title(self, slot: Slot) -> str:
        return self.layers[self.owners[slot.job][slot.task]].title


def profile(path: Path, board: Board, split: str = "never", full_chains: bool = False) -> Profile:
    """Models a compiled program, a capture, or a .tflite file, which is compiled; raises DelegateError.

    ``split``: whether an inference is spread over the board's cores, as option split says; else each core has its own.
    ``full_chains``: see compile_graph.
    """
    listings, cpu = read(path, board, split, full_chains)
    alone = split != "never" or any(job.core for listing in listings for job in listing.jobs)
    board = replace(board, cores=max(board.cores, *(1 + job.core for listing in listings for job in listing.jobs)))
    jobs: list[TimedJob] = []
    for listing in listings:
        jobs += timed_jobs(listing, board, alone, first_stage=max((job.stage + 1 for job in jobs), default=0))
    titles, owners = operations(listings)
    cores = 1 if alone else board.cores
    copies = [replace(job, core=core) for core in range(cores) for job in jobs] if cores > 1 else jobs
    found = Profile(
        name=str(path),
        board=board,
        layers=(),
        jobs=tuple(copies),
        slots=tuple(schedule(copies, board)),
        owners=owners * cores,
        cpu=cpu,
        gathering=sum(BoardClock(board).exchange(*listing.gathered) for listing in listings),
    )
    layers = tuple(layer_time(index, title, found, len(jobs)) for index, title in enumerate(titles))
    found = replace(found, layers=layers)
    if split == "never" or board.cores == 1:
        return found
    return compared(found, profile(path, replace(board, cores=1), full_chains=full_chains))


def compared(found: Profile, one: Profile) -> Profile:
    """A profile beside that of one core. A program file that says itself what its cores do is not compared."""
    if [layer.title for layer in found.layers] != [layer.title for layer in one.layers]:
        return found
    layers = [replace(layer, one_core=other.seconds) for layer, other in zip(found.layers, one.layers, strict=True)]
    return replace(found, layers=tuple(layers), one_core=one.seconds)


def read(path: Path, board: Board, split: str, full_chains: bool) -> tuple[list[Listing], int]:
    """(what runs, operators that stay on the CPU); a model is compiled for the board's kernel and cores."""
    try:
        head = b"" if path.is_dir() else path.open("rb").read(8)
    except OSError as error:
        raise DelegateError(f"{path}: {error.strerror}") from None
    if head[4:8] != IDENTIFIER:
        return [open_listing(path)], 0
    target = replace(EVERY_FORM, signals_pooling=board.chains)  # both come with the vendor's kernel
    graph = read_model(path)
    parts = taken(graph, target)
    if not parts:
        raise DelegateError(f"{path}: the NPU takes none of its operators; python -m delegate explain says why")
    several = split != "never" and board.cores > 1
    division = Division(board.cores, split == "always", board.own_memory, BoardClock(board)) if several else None
    programs = [compile_graph(part, target, full_chains, division) for part in parts]
    listings = [from_program(program, f"partition {index}") for index, program in enumerate(programs)]
    return listings, len(graph.nodes) - sum(len(part.nodes) for part in parts)


def timed_jobs(listing: Listing, board: Board, alone: bool = False, first_stage: int = 0) -> Iterator[TimedJob]:
    """The jobs of a listing; raises SimulatorError for a task that would not run.

    ``alone``: only the jobs of a stage share the board's DRAM; else all of its cores always do.
    """
    costs = iter(task_costs(task.words for task in listing.tasks))
    clock = BoardClock(board)
    stages = Counter(job.stage for job in listing.jobs)
    for job in listing.jobs:
        if job.tasks:
            own = tuple(next(costs) for _ in job.tasks)
            stage, host = first_stage + job.stage, clock.exchange(*job.exchanged)
            cores = stages[job.stage] if alone else None
            yield TimedJob(own, chain_ranges(job), job.core, stage, cores, host)


def chain_ranges(job: ListedJob) -> tuple[range, ...]:
    """The chains of a job; they are listed as lengths. Tasks that are in none start by themselves."""
    ends = [0, *accumulate(job.chains)]
    rest = range(ends[-1], len(job.tasks))
    return (*(range(first, last) for first, last in pairwise(ends)), *(range(index, index + 1) for index in rest))


def operations(listings: Sequence[Listing]) -> tuple[list[str], tuple[tuple[int, ...], ...]]:
    """(titles in the order of their first task, the index of each task's among them)."""
    seen: dict[tuple[int, Operation], int] = {}
    owners = tuple(
        tuple(seen.setdefault((number, task.operation), len(seen)) for task in job.tasks)
        for number, listing in enumerate(listings)
        for job in listing.jobs
        if job.tasks
    )
    return [titled(listings[number], operation, len(listings) > 1) for number, operation in seen], owners


def titled(listing: Listing, operation: Operation, several: bool) -> str:
    """What an operation is called, its partition being named where there are several."""
    title = operation.title or "job " + ".".join(map(str, operation.key))
    return f"{listing.name}, {title}" if several else title


def layer_time(index: int, title: str, profile: Profile, jobs: int) -> LayerTime:
    """The sums over a layer's tasks in the first ``jobs`` jobs; its time is that of the core that has most of it."""
    own = [slot for slot in profile.slots if slot.job < jobs and profile.owners[slot.job][slot.task] == index]
    costs = [profile.cost(slot) for slot in own]
    parts = dict.fromkeys(PARTS, 0.0)
    cycles = 0.0
    for slot, cost in zip(own, costs, strict=True):
        cycles += task_cycles(cost, profile.boards[slot.job]).total
        for part, duration in part_seconds(cost, profile.boards[slot.job]):
            parts[part] += duration
    seconds: dict[int, float] = {}
    overhead: dict[int, float] = {}
    for slot in own:
        seconds[slot.core] = seconds.get(slot.core, 0.0) + slot.end - slot.begin
        overhead[slot.core] = overhead.get(slot.core, 0.0) + slot.start - slot.begin
    longest = max(seconds, key=lambda core: seconds[core])
    return LayerTime(
        title=title,
        kinds=tuple(dict.fromkeys(cost.kind for cost in costs)),
        tasks=len(own),
        products=sum(cost.products for cost in costs),
        bytes=sum((cost.bytes for cost in costs), Bytes()),
        cycles=cycles,
        seconds=seconds[longest],
        overhead=overhead[longest],
        parts=parts | {"task overhead": sum(overhead.values())},
        share=seconds[longest] / profile.seconds,
    )


def part_seconds(cost: Cost, board: Board) -> Iterator[tuple[str, float]]:
    """What a task's time goes to; what overlaps is counted twice."""
    cycles = task_cycles(cost, board)
    yield "start", cycles.start / board.clock_hz
    yield "PPU" if cost.kind == "pooling" else "MAC", cycles.products / board.clock_hz
    for part in ("features", "weights", "operands"):
        yield part, getattr(cost.bytes, part) / board.core_bytes
    yield "write", cost.bytes.output / board.core_bytes + cycles.pages / board.clock_hz
