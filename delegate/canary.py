"""Whether a run is complete: a pattern put into places beforehand must be gone from all of them afterwards.

Mainline reports a job that its watchdog ended as done (S-195) and drops others silently (S-208c), so that no error is
no proof of a run.

The pattern stands in the last atom of each row of each surface of the outputs: tiles and concatenated parts follow each
other in rows and surfaces, so that each has one that it alone writes, but for parts side by side in a row. It stands
also in the witness of each task (delegate.witness), for programs that have them: then no task was left out.

Its 16 bytes are random: no output has them but by chance (1 in 2**128), for the NPU writes whole atoms (F-70). Where
only a few lanes of a last surface should be written after all, an output might have the pattern in them; then the
second run, with all bits the other way round, differs.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from delegate.exchange import HOST
from delegate.hw.task import Bytes, Port, Program

Pattern = npt.NDArray[np.uint8]  # (16)
Numbers = npt.NDArray[np.intp]  # of atoms in a buffer
Places = Mapping[int, Numbers]  # by buffer
ATOM = 16  # bytes


def patterns() -> tuple[Pattern, Pattern]:
    """Two patterns of which no byte is the same in both."""
    first = np.frombuffer(os.urandom(ATOM), np.uint8)
    return first, ~first


def places(program: Program) -> tuple[tuple[Places, ...], tuple[Places, ...]]:
    """(atoms that a pattern is put into, those that tell of a run), for each copy of the program's buffers.

    Outputs are looked at in the copy that the host reads, to which those of others are brought; witnesses where their
    task writes.
    """
    outputs = [(port.buffer, last_atoms(port)) for port in proofs(program)]
    copies = [program.copy_of(job) for job in program.jobs for _ in job.tasks]
    own: list[list[tuple[int, Numbers]]] = [[] for _ in range(program.copies)]
    for copy, place in zip(copies, program.witnesses, strict=False):
        if place is not None:
            own[copy].append((place.buffer, np.array([place.offset // ATOM])))
    armed = tuple(by_buffer([*outputs, *witnesses]) for witnesses in own)
    return armed, (armed[HOST], *(by_buffer(witnesses) for witnesses in own[HOST + 1 :]))


def by_buffer(found: Iterable[tuple[int, Numbers]]) -> Places:
    """Numbers of atoms put together by buffer, each once."""
    gathered: dict[int, list[Numbers]] = defaultdict(list)
    for buffer, numbers in found:
        gathered[buffer].append(numbers)
    return {buffer: np.unique(np.concatenate(own)) for buffer, own in sorted(gathered.items())}


def proofs(program: Program) -> list[Port]:
    """The outputs that the NPU writes; one that lies in the memory of an input has the host's numbers."""
    written = {index for job in program.jobs for index in job.writes}
    return [
        port
        for port in program.outputs
        if port.buffer in written and not any(overlap(port, given) for given in program.inputs)
    ]


def overlap(a: Port, b: Port) -> bool:
    """Whether two ports have memory between their ends in common."""
    ends = [p.offset + (p.shape[0] - 1) * p.image_bytes + p.surfaces * p.surface_bytes for p in (a, b)]
    return a.buffer == b.buffer and a.offset < ends[1] and b.offset < ends[0]


def last_atoms(port: Port) -> Numbers:
    """Numbers of the last atoms of all rows of all surfaces of all images."""
    images, height, width, _ = port.shape
    counts, pitches = (images, port.surfaces, height), (port.image_bytes, port.surface_bytes, width * ATOM)
    numbers = np.array([port.offset // ATOM + width - 1])
    for count, pitch in zip(counts, pitches, strict=True):
        numbers = np.add.outer(numbers, np.arange(count) * (pitch // ATOM)).reshape(-1)
    return numbers


def atoms(memory: Bytes) -> npt.NDArray[np.uint8]:
    """A buffer's memory as atoms: uint8 (n, 16)."""
    return memory[: len(memory) // ATOM * ATOM].reshape(-1, ATOM)


def arm(memories: Sequence[Bytes], where: Places, pattern: Pattern) -> None:
    """Puts a pattern into places; ``memories``: of all buffers."""
    for buffer, numbers in where.items():
        atoms(memories[buffer])[numbers] = pattern


def untouched(memories: Sequence[Bytes], where: Places, pattern: Pattern) -> int:
    """How many places still hold the pattern."""
    return sum(int((atoms(memories[b])[numbers] == pattern).all(axis=-1).sum()) for b, numbers in where.items())
