"""A product's programs in device memory: B resident, and for each number of rows the memory of A and C."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate import canary
from delegate.errors import DeviceError, MatmulError
from delegate.hw.device import Device, DeviceJob, Memory
from delegate.hw.soc import RK3588
from delegate.loaded import TIMEOUT, write_streams
from delegate.matmul.program import COMMANDS, A, B, C, CoreProgram, Piece

ATOM = RK3588.atom_bytes


@dataclass(frozen=True, eq=False)
class Share:
    """What one core has of a product: rows of A, columns of B and the memory that holds them."""

    columns: range  # of B, whole groups, those that pad it among them
    space: int  # of addresses, in the device
    b: Memory


@dataclass(eq=False)
class Loaded:
    """A core's program in memory."""

    share: Share
    core: CoreProgram
    memories: tuple[Memory, ...]  # as the program's buffers
    jobs: tuple[DeviceJob, ...]
    proofs: canary.Places  # what its jobs write last

    @property
    def a(self) -> Memory:
        return self.memories[A]

    @property
    def c(self) -> Memory:
        return self.memories[C]

    def piece(self, piece: Piece) -> npt.NDArray[Any]:
        """A view of a block of C: (rows, columns), of a cube (surfaces, rows, lanes)."""
        raw = self.c.view[piece.offset : piece.offset + piece.size].view(piece.form.result)
        if piece.in_rows:
            return raw.reshape(piece.rows, len(piece.columns))
        return raw.reshape(-1, piece.rows, ATOM // piece.form.result_bytes)


def load(device: Device, share: Share, core: CoreProgram, allocate: Callable[[int, int], Memory]) -> Loaded:
    """Gives a program memory and writes its command streams."""
    program = core.program
    memories: list[Memory] = []
    with ExitStack() as undo:
        for index, buffer in enumerate(program.buffers):
            memories.append(share.b if index == B else allocate(buffer.size, share.space))
            if index != B:
                undo.callback(device.free, memories[-1])
        streams = write_streams(program, memories)
        device.flush(memories[COMMANDS])
        undo.pop_all()
    tasks = iter(streams)
    jobs = tuple(
        DeviceJob(
            tuple(next(tasks) for _ in job.tasks),
            job.chains,
            tuple(memories[index] for index in job.reads),
            tuple(memories[index] for index in job.writes),
        )
        for job in program.jobs
    )
    return Loaded(share, core, tuple(memories), jobs, {C: np.array(core.proofs) // ATOM})


def free(device: Device, loaded: Sequence[Loaded]) -> None:
    """Gives back all memory but B's."""
    with ExitStack() as freeing:
        for part in loaded:
            for index, memory in enumerate(part.memories):
                if index != B:
                    freeing.callback(device.free, memory)


@dataclass(eq=False)
class Slot:
    """Memory and programs of all cores for one run at a time of up to ``rows`` rows."""

    device: Device
    rows: int
    parts: tuple[Loaded, ...]
    row_shares: tuple[range, ...]  # the rows that each core computes

    def __post_init__(self) -> None:
        self.views = [[memory.view for memory in part.memories] for part in self.parts]
        self.jobs = [job for part in self.parts for job in part.jobs]
        self.written = tuple(part.c for part in self.parts)
        self.pattern = canary.patterns()[0]
        self.ticket: object = None  # of the run that goes on

    @property
    def whole(self) -> npt.NDArray[Any] | None:
        """C, (bucket of rows, whole groups of columns), where it lies in one piece of rows."""
        if len(self.parts) > 1 or len(self.parts[0].core.pieces) > 1 or len(self.parts[0].core.pieces[0]) > 1:
            return None
        (piece,) = self.parts[0].core.pieces[0]
        return self.parts[0].piece(piece) if piece.in_rows else None

    def a_views(self, dtype: npt.DTypeLike) -> Iterator[tuple[range, npt.NDArray[Any]]]:
        """For each core the rows it takes and its A, (bucket of rows, padded depth)."""
        for rows, part in zip(self.row_shares, self.parts, strict=True):
            yield rows, part.a.view.view(dtype).reshape(part.core.rows, -1)

    def start(self, pattern: npt.NDArray[np.uint8]) -> None:
        """Submits all jobs; A is in its memory. Raises MatmulError while an earlier run has not been waited for."""
        if self.ticket is not None:
            raise MatmulError("an input() is used by a product whose result nobody has asked for yet")
        self.pattern = pattern
        for part, views in zip(self.parts, self.views, strict=True):
            canary.arm(views, part.proofs, pattern)
            self.device.flush(part.a)
            self.device.flush(part.c)
        self.ticket = self.device.submit(self.jobs)

    def finish(self) -> None:
        """Waits; tries once more where C was not written (see delegate.canary). Raises DeviceError."""
        left = self.wait()
        if left:
            self.start(~self.pattern)
            left = self.wait()
        if left:
            raise DeviceError(
                f"device {self.device.name}: {left} of {len(self.jobs)} jobs of a product ended twice without "
                "writing their last rows: they hung or were dropped; `dmesg` may say why"
            )

    def wait(self) -> int:
        """Waits for the run, if there is one; how many of its jobs have not written what they write last."""
        ticket, self.ticket = self.ticket, None
        if ticket is None:
            return 0
        self.device.wait(ticket, TIMEOUT, self.written)
        return sum(
            canary.untouched(views, part.proofs, self.pattern)
            for part, views in zip(self.parts, self.views, strict=True)
        )


def piece_values(part: Loaded, pieces: Sequence[Piece], rows: int) -> Iterator[tuple[range, npt.NDArray[Any]]]:
    """(columns of C, values (rows, columns)) of a part of the depth."""
    first = part.share.columns.start
    for piece in pieces:
        columns = range(first + piece.columns.start, first + piece.columns.stop)
        values = part.piece(piece)
        if not piece.in_rows:
            values = values[:, :rows].transpose(1, 0, 2).reshape(rows, -1)
        yield columns, values[:rows]
