"""What the host copies between the memories of cores that cannot share one (mainline: S-203).

Each core has a copy of all buffers. Of every atom it is followed which copies hold its newest value; before a stage, a
core is given those that it reads and does not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from delegate.cores import Work, Workload
from delegate.errors import CompileError
from delegate.footprint import ATOM, Atoms, Box, boxes, read, written
from delegate.hw.layout import divide_up
from delegate.hw.task import Buffer, Exchange, Port

HOST = 0  # the core whose copy the host writes and reads


class Holders:
    """Which cores have the newest value of each atom: a bit for each core."""

    def __init__(self, buffers: Sequence[Buffer], inputs: Sequence[Port], cores: int) -> None:
        """Inputs are the host's, everything else is the same in all copies."""
        self.atoms = [np.full(divide_up(buffer.size, ATOM), (1 << cores) - 1, np.uint8) for buffer in buffers]
        self._buffers, self._cores = buffers, cores
        for port in inputs:
            for box in boxes(port):
                box.of(self.atoms[port.buffer])[...] = 1 << HOST

    def fetch(self, stage: int, core: int, lacking: Mapping[int, Atoms]) -> Iterator[Exchange]:
        """How a core gets the atoms it lacks, marked by buffer; it has them then."""
        for buffer, mask in lacking.items():
            for source in range(self._cores):
                has = (mask != 0) & (self.atoms[buffer] & 1 << source != 0)
                mask[has] = 0
                self.atoms[buffer][has] |= 1 << core
                edges = np.flatnonzero(np.diff(has, prepend=False, append=False))
                for start, stop in edges.reshape(-1, 2).tolist():
                    end = min(ATOM * stop, self._buffers[buffer].size)
                    yield Exchange(stage, buffer, source, core, ATOM * start, end)

    def lacking(self, core: int, own: Sequence[Work]) -> tuple[dict[int, Atoms], dict[int, Atoms]]:
        """(atoms that a core reads in a stage and has not got, those that it writes), marked by buffer."""
        lacks: dict[int, Atoms] = {}
        makes: dict[int, Atoms] = {}

        def marks(kept: dict[int, Atoms], box: Box) -> Atoms:
            buffer = box.place.buffer
            return box.of(kept.setdefault(buffer, np.zeros_like(self.atoms[buffer])))

        for _, tile in own:
            for box in read(tile):
                has = (box.of(self.atoms[box.place.buffer]) & 1 << core) | marks(makes, box)
                marks(lacks, box)[...] |= has == 0
            box = written(tile)
            marks(makes, box)[...] = 1
        return lacks, makes

    def end_stage(self, made: Sequence[Mapping[int, Atoms]]) -> None:
        """What several cores have made, all of them have."""
        for buffer in {buffer for makes in made for buffer in makes}:
            makers = np.zeros_like(self.atoms[buffer])
            for core, makes in enumerate(made):
                if buffer in makes:
                    makers |= makes[buffer] * np.uint8(1 << core)
            np.copyto(self.atoms[buffer], makers, where=makers != 0)

    def lacking_of(self, port: Port) -> dict[int, Atoms]:
        """Atoms of an output that are not in the host's copy."""
        mask = np.zeros_like(self.atoms[port.buffer])
        for box in boxes(port):
            box.of(mask)[...] |= box.of(self.atoms[port.buffer]) & 1 << HOST == 0
        return {port.buffer: mask}


def check_independence(lacks: Sequence[Mapping[int, Atoms]], made: Sequence[Mapping[int, Atoms]]) -> None:
    """No core may read in a stage what only others make in it; raises CompileError, which would be a bug of ours."""
    for core, own in enumerate(lacks):
        for other, makes in enumerate(made):
            for buffer in own.keys() & makes.keys():
                if other != core and np.any(own[buffer] & makes[buffer]):
                    raise CompileError(f"core {core} reads what core {other} writes in the same stage")


def exchanges(
    work: Sequence[Workload], buffers: Sequence[Buffer], inputs: Sequence[Port], outputs: Sequence[Port]
) -> tuple[Exchange, ...]:
    """All exchanges of a program, by stage; the last are for the outputs."""
    holders = Holders(buffers, inputs, max(len(stage) for stage in work))
    found: list[Exchange] = []
    for number, stage in enumerate(work):
        lacks, made = zip(*(holders.lacking(core, own) for core, own in enumerate(stage)), strict=True)
        check_independence(lacks, made)
        for core, own in enumerate(lacks):
            found += holders.fetch(number, core, own)
        holders.end_stage(made)
    for port in outputs:
        found += holders.fetch(len(work), HOST, holders.lacking_of(port))
    return tuple(found)
