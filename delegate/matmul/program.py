"""From a plan to a Program: what one core does of a product, for a number of rows of A."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from delegate.hw.emit.product import Form, Matrix, ProductTile, Requantization, emit_product
from delegate.hw.emit.stream import FIRE_CONVOLUTION, assemble, link
from delegate.hw.layout import align, divide_up
from delegate.hw.soc import RK3588
from delegate.hw.task import Buffer, Job, Layer, Place, Program, Relocation, Task, Words
from delegate.matmul.packing import Packing
from delegate.matmul.plan import Cut, block_columns, cuts, cycles, equal_ranges

B, A, C, COMMANDS = range(4)  # buffers of a program
# A job may last half a second (S-195); this many cycles are a quarter of one at the clock after boot, 200 MHz.
JOB_CYCLES = 50_000_000


@dataclass(frozen=True)
class Converter:
    """How 8-bit results are made of sums; see hw.emit.product.Requantization."""

    multiplier: int
    shift: int
    offset: int
    channel_shift: int | None  # of the products with a multiplier a column; None: there are none

    @property
    def operand_bytes(self) -> int:
        """Of a column: int32, or an eighth of a record (S-17)."""
        return 4 if self.channel_shift is None else 8


@dataclass(frozen=True)
class Piece:
    """A block of columns of one part of the depth in C: in rows, or as a cube of surfaces of atoms."""

    columns: range  # of the core's
    offset: int  # bytes
    rows: int
    form: Form

    @property
    def size(self) -> int:
        """Bytes."""
        return self.rows * len(self.columns) * self.form.result_bytes

    @property
    def in_rows(self) -> bool:
        """Results of 8 bits are written as the cubes that are proven for them (S-186), others in rows (S-48)."""
        return not self.form.quantizes


@dataclass(frozen=True)
class CoreProgram:
    """A program and where its parts of C lie, those of the parts of the depth one behind the other."""

    program: Program
    rows: int
    pieces: tuple[tuple[Piece, ...], ...]  # for each part of the depth
    proofs: tuple[int, ...]  # for each job: offset in C of an atom that its last task writes


@dataclass(frozen=True)
class Step:
    """A task to be, and the cycles it is expected to take."""

    tile: ProductTile
    proof: int
    cycles: int


def column_shares(packing: Packing, cores: int) -> list[range]:
    """Columns of each core, whole groups; fewer cores than asked for where there are not so many groups."""
    return equal_ranges(packing.padded_columns, divide_up(packing.padded_columns, cores), packing.group)


def compile_core(packing: Packing, form: Form, rows: int, columns: int, converter: Converter | None) -> CoreProgram:
    """The program of a core for ``rows``, a bucket, and so many columns, whole groups."""
    pieces = tuple(lay_out(packing, form, rows, columns))
    steps = list(plan_steps(packing, form, rows, columns, pieces, converter))
    jobs = cut_jobs(steps)
    a_size = rows * packing.padded_depth * packing.element_bytes
    c_size = sum(piece.size for part in pieces for piece in part)
    weights = packing.padded_depth * columns * packing.element_bytes
    b_size = weights + (converter.operand_bytes * columns if converter else 0)
    tasks, relocations, stream_bytes = assemble_jobs(jobs)
    program = Program(
        soc=RK3588.name,
        buffers=(
            Buffer("B", b_size, "weight"),
            Buffer("A", a_size, "input"),
            Buffer("C", c_size, "output"),
            Buffer("commands", stream_bytes, "regcmd"),
        ),
        jobs=tuple(Job(job, (range(len(job)),), (B, A, COMMANDS), (C,)) for job in tasks),
        relocations=tuple(relocations),
        inputs=(),
        outputs=(),
        layers=(Layer("MATMUL", 0, f"{rows}x{packing.depth}x{columns} {form.element} to {form.result}"),),
    )
    return CoreProgram(program, rows, pieces, tuple(job[-1].proof for job in jobs))


def lay_out(packing: Packing, form: Form, rows: int, columns: int) -> Iterator[tuple[Piece, ...]]:
    """Where C lies: for each part of the depth, its blocks of columns one behind the other."""
    offset = 0
    for _ in packing.parts:
        part = []
        for block in equal_ranges(columns, block_columns(form, rows, columns), form.group):
            part.append(Piece(block, offset, rows, form))
            offset += part[-1].size
        yield tuple(part)


def plan_steps(
    packing: Packing,
    form: Form,
    rows: int,
    columns: int,
    pieces: tuple[tuple[Piece, ...], ...],
    converter: Converter | None,
) -> Iterator[Step]:
    """The tasks in order."""
    weights = 0  # bytes of B before this part
    for part, blocks in zip(packing.parts, pieces, strict=True):
        piece_of = {piece.columns: piece for piece in blocks}
        for cut in cuts(form, rows, len(part), columns):
            piece = piece_of[cut.columns]
            yield Step(
                tile_of(packing, form, cut, part, piece, weights, columns, converter),
                last_atom(cut, piece),
                cycles(form, len(part), cut),
            )
        weights += len(part) * columns * form.element_bytes


def tile_of(
    packing: Packing,
    form: Form,
    cut: Cut,
    part: range,
    piece: Piece,
    weights: int,
    columns: int,
    converter: Converter | None,
) -> ProductTile:
    """A cut with its places."""
    atom, row_bytes = RK3588.atom_bytes, packing.padded_depth * form.element_bytes
    a = Place(A, cut.rows.start * row_bytes + part.start * form.element_bytes)
    b = Place(B, weights + cut.columns.start * len(part) * form.element_bytes)
    run = None
    if converter is not None:
        operands = packing.padded_depth * columns * form.element_bytes + converter.operand_bytes * cut.columns.start
        run = Requantization(
            Place(B, operands), converter.multiplier, converter.shift, converter.offset, converter.channel_shift
        )
    if piece.in_rows:
        pitch = len(piece.columns) * form.result_bytes
        c = Matrix(Place(C, piece.offset + cut.rows.start * pitch), pitch // atom, 1)
    else:
        c = Matrix(Place(C, piece.offset + cut.rows.start * atom), 1, piece.rows)
    return ProductTile(
        form=form,
        rows=len(cut.rows),
        depth=len(part),
        columns=len(cut.columns),
        a=Matrix(a, row_bytes // atom, 1),
        b=b,
        c=c,
        feature_banks=cut.feature_banks,
        weight_banks=cut.weight_banks,
        reuses_rows=cut.reuses_rows,
        reuses_columns=cut.reuses_columns,
        requantization=run,
    )


def last_atom(cut: Cut, piece: Piece) -> int:
    """The offset in C of the last atom that a task writes, in its last row."""
    atom = RK3588.atom_bytes
    if piece.in_rows:
        return piece.offset + cut.rows.stop * len(piece.columns) * piece.form.result_bytes - atom
    return piece.offset + piece.size - (piece.rows - cut.rows.stop) * atom - atom


def cut_jobs(steps: list[Step]) -> list[list[Step]]:
    """Jobs that end long before the watchdog; what the task before left is no more there in another job (S-76)."""
    jobs: list[list[Step]] = [[]]
    total = 0
    for step in steps:
        if jobs[-1] and (total + step.cycles > JOB_CYCLES or len(jobs[-1]) >= RK3588.largest_chain):
            step = replace(step, tile=replace(step.tile, reuses_rows=False, reuses_columns=False))
            jobs.append([])
            total = 0
        jobs[-1].append(step)
        total += step.cycles
    return jobs


def assemble_jobs(jobs: list[list[Step]]) -> tuple[list[tuple[Task, ...]], list[Relocation], int]:
    """(tasks of each job, relocations, bytes of all streams); the tasks of a job are linked to one chain."""
    offset, number = 0, 0
    made: list[tuple[Task, ...]] = []
    relocations: list[Relocation] = []
    for job in jobs:
        streams: list[Words] = []
        for step in job:
            words, places = assemble(emit_product(step.tile), FIRE_CONVOLUTION)
            relocations += [Relocation(number, word, place.buffer, place.offset) for word, place in places]
            if streams:
                word = link(streams[-1], len(words))
                relocations.append(Relocation(number - 1, word, COMMANDS, offset))
            streams.append(words)
            offset += align(words.nbytes, RK3588.stream_alignment)
            number += 1
        made.append(tuple(Task(words, 0) for words in streams))
    return made, relocations, offset
