"""A program, a capture or a model on a board of ``hw.timing``: its layers and its time line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

from delegate.compile import compile_graph
from delegate.errors import DelegateError
from delegate.hw.soc import EVERY_FORM
from delegate.hw.timing import Board, Bytes, Cost, Kind, Slot, TimedJob, schedule, task_costs, task_cycles
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

    @property
    def bound(self) -> str:
        """What most of the time goes to."""
        return max(PARTS, key=lambda part: self.parts[part])


@dataclass(frozen=True)
class Profile:
    """One inference on each core of the board at the same time."""

    name: str
    board: Board
    layers: tuple[LayerTime, ...]
    jobs: tuple[TimedJob, ...]  # of all cores
    slots: tuple[Slot, ...]  # of all cores
    owners: tuple[tuple[int, ...], ...]  # layer of each task of each job
    cpu: int  # operators of the model that are not in it

    @property
    def seconds(self) -> float:
        """Of one inference."""
        return max((slot.end for slot in self.slots), default=0.0)

    def cost(self, slot: Slot) -> Cost:
        return self.jobs[slot.job].costs[slot.task]

    def title(self, slot: Slot) -> str:
        return self.layers[self.owners[slot.job][slot.task]].title


def profile(path: Path, board: Board) -> Profile:
    """Models a compiled program, a capture, or a .tflite file, which is compiled; raises DelegateError."""
    listings, cpu = read(path, board)
    jobs = tuple(job for listing in listings for job in timed_jobs(listing))
    titles, owners = operations(listings)
    slots = schedule(jobs, board)
    layers = tuple(layer_time(index, title, jobs, owners, slots, board) for index, title in enumerate(titles))
    copies = [replace(job, core=core) for core in range(board.cores) for job in jobs]
    return Profile(
        name=str(path),
        board=board,
        layers=layers,
        jobs=tuple(copies),
        slots=tuple(schedule(copies, board)),
        owners=owners * board.cores,
        cpu=cpu,
    )


def read(path: Path, board: Board) -> tuple[list[Listing], int]:
    """(what runs, operators that stay on the CPU); a model is compiled for the board's kernel."""
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
    listings = [from_program(compile_graph(part, target), f"partition {index}") for index, part in enumerate(parts)]
    return listings, len(graph.nodes) - sum(len(part.nodes) for part in parts)


def timed_jobs(listing: Listing) -> tuple[TimedJob, ...]:
    """The jobs of a listing, all on core 0; raises SimulatorError for a task that would not run."""
    costs = iter(task_costs(task.words for task in listing.tasks))
    return tuple(
        TimedJob(tuple(next(costs) for _ in job.tasks), chain_ranges(job)) for job in listing.jobs if job.tasks
    )


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


def layer_time(
    index: int,
    title: str,
    jobs: Sequence[TimedJob],
    owners: Sequence[Sequence[int]],
    slots: Sequence[Slot],
    board: Board,
) -> LayerTime:
    """The sums over a layer's tasks."""
    own = [slot for slot in slots if owners[slot.job][slot.task] == index]
    costs = [jobs[slot.job].costs[slot.task] for slot in own]
    overhead = sum(slot.start - slot.begin for slot in own)
    seconds = sum(slot.end - slot.begin for slot in own)
    parts = dict.fromkeys(PARTS, 0.0) | {"task overhead": overhead}
    for cost in costs:
        for part, duration in part_seconds(cost, board):
            parts[part] += duration
    return LayerTime(
        title=title,
        kinds=tuple(dict.fromkeys(cost.kind for cost in costs)),
        tasks=len(own),
        products=sum(cost.products for cost in costs),
        bytes=sum((cost.bytes for cost in costs), Bytes()),
        cycles=sum(task_cycles(cost, board).total for cost in costs),
        seconds=seconds,
        overhead=overhead,
        parts=parts,
        share=seconds / max(slot.end for slot in slots),
    )


def part_seconds(cost: Cost, board: Board) -> Iterator[tuple[str, float]]:
    """What a task's time goes to; what overlaps is counted twice."""
    cycles = task_cycles(cost, board)
    yield "start", cycles.start / board.clock_hz
    yield "PPU" if cost.kind == "pooling" else "MAC", cycles.products / board.clock_hz
    for part in ("features", "weights", "operands"):
        yield part, getattr(cost.bytes, part) / board.core_bytes
    yield "write", cost.bytes.output / board.core_bytes + cycles.pages / board.clock_hz
