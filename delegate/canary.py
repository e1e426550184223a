"""Whether a run has written its outputs: a pattern put into them beforehand must be gone afterwards.

Mainline reports a job that its watchdog ended as done (S-195) and drops others silently (S-208c), so that no error is
no proof of a run. The tasks of a job run in order, so that what the last of them writes is the proof.

The pattern stands in the last atom of each row of each surface: tiles and concatenated parts follow each other in rows
and surfaces, so that each has one that it alone writes, but for parts side by side in a row. Its 16 bytes are random:
no output has them but by chance (1 in 2**128), for the NPU writes whole atoms (F-70). Where only a few lanes of the
last surface should be written after all, an output might have the pattern in them; then the second run, with all bits
the other way round, differs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from delegate.hw.layout import cube_view
from delegate.hw.task import Bytes, Port, Program

Pattern = npt.NDArray[np.uint8]  # (16)
ATOM = 16  # bytes


def patterns() -> tuple[Pattern, Pattern]:
    """Two patterns of which no byte is the same in both."""
    first = np.frombuffer(os.urandom(ATOM), np.uint8)
    return first, ~first


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


def last_atoms(memory: Bytes, port: Port) -> npt.NDArray[np.uint8]:
    """A view of the atoms that a pattern is put into: uint8 (images, surfaces, height, 16)."""
    return cube_view(memory, port)[:, :, : port.shape[1], -1]


def arm(places: Sequence[npt.NDArray[np.uint8]], pattern: Pattern) -> None:
    """Puts a pattern into the outputs."""
    for place in places:
        place[...] = pattern


def untouched(places: Sequence[npt.NDArray[np.uint8]], pattern: Pattern) -> int:
    """How many atoms still hold the pattern."""
    return sum(int(np.count_nonzero((place == pattern).all(axis=-1))) for place in places)
