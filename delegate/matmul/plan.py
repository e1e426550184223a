"""Which tasks compute A @ B: rows, columns and the depth cut so that each task fits the CBUF.

Tiles of rows with all columns streamed past them (the rows stay in the CBUF over blocks of columns), or blocks of
columns that stay while rows come and go: whichever reads less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from delegate.hw.emit.product import Form, row_entries
from delegate.hw.layout import align, divide_up
from delegate.hw.soc import RK3588

LARGEST_ROWS = 1020  # of a task: FEATURE_GRAINS is one more and has ten bits (S-78)
LARGEST_COLUMNS = 4096  # of a task
# Rows of C up to this pitch are written as fast as a cube, wider ones are not (silicon-figures §4); of a few rows that
# costs less than the start of another task (docs/matmul.md).
ROW_BYTES = 4096
FEW_ROWS = 16
PORT_BYTES = 12  # that a core moves in a cycle (docs/timing.md)


@dataclass(frozen=True)
class Cut:
    """A task of a product in rows of A and columns of B, counted from the first of the core's."""

    rows: range
    columns: range
    feature_banks: int
    weight_banks: int
    reuses_rows: bool
    reuses_columns: bool


def bucket(rows: int) -> int:
    """The rows that a program for ``rows`` has: whole line groups, and at most a quarter more than asked for."""
    step = max(RK3588.line_group, 1 << max(0, (rows - 1).bit_length() - 3))
    return align(rows, step)


def block_columns(form: Form, rows: int, columns: int) -> int:
    """Columns of a block, whole groups: what one task computes at most, and what lies in one piece of C."""
    row_bytes = ROW_BYTES if rows > FEW_ROWS and not form.quantizes else LARGEST_COLUMNS * form.result_bytes
    most = min(LARGEST_COLUMNS, row_bytes // form.result_bytes)
    return align(divide_up(columns, divide_up(columns, most)), form.group)


def feature_banks(form: Form, rows: int, depth: int) -> int:
    """CBUF banks of some rows of A; int8 needs one more (S-73)."""
    row = row_entries(depth * form.element_bytes) * RK3588.cbuf_line_unit_bytes
    slack = RK3588.feature_slack_banks if form.element == "int8" else 0
    return divide_up(rows * row, RK3588.cbuf_bank_bytes) + slack


def weight_banks(form: Form, columns: int, depth: int) -> int:
    """CBUF banks of some columns of B."""
    return divide_up(columns * depth * form.element_bytes, RK3588.cbuf_bank_bytes)


def most_rows(form: Form, depth: int, banks: int) -> int:
    """Rows of A that fit so many banks, whole line groups; 0 if not even one does."""
    row = row_entries(depth * form.element_bytes) * RK3588.cbuf_line_unit_bytes
    slack = RK3588.feature_slack_banks if form.element == "int8" else 0
    rows = max(0, banks - slack) * RK3588.cbuf_bank_bytes // row
    return min(rows, LARGEST_ROWS) // RK3588.line_group * RK3588.line_group


def equal_ranges(whole: int, largest: int, unit: int) -> list[range]:
    """``whole`` in ranges of at most ``largest``, as equal as multiples of ``unit`` allow."""
    step = align(divide_up(whole, divide_up(whole, largest)), unit)
    return [range(first, min(first + step, whole)) for first in range(0, whole, step)]


def cuts(form: Form, rows: int, depth: int, columns: int) -> list[Cut]:
    """The tasks of a product; ``rows``: whole line groups, ``depth``: whole chunks that one task can take,
    ``columns``: whole groups.
    """
    blocks = equal_ranges(columns, block_columns(form, rows, columns), form.group)
    options = [*streamed(form, rows, depth, blocks), *resident(form, rows, depth, blocks)]
    return min(options, key=lambda option: (read_bytes(form, depth, option), len(option)))


def streamed(form: Form, rows: int, depth: int, blocks: list[range]) -> Iterator[list[Cut]]:
    """Each tile of rows stays while all columns pass it, with room for two groups of columns or only for one."""
    for groups in (2, 1):
        room = weight_banks(form, groups * form.group, depth)
        largest = most_rows(form, depth, RK3588.cbuf_banks - room)
        if not largest:
            continue
        found = []
        for tile in equal_ranges(rows, largest, RK3588.line_group):
            held = feature_banks(form, len(tile), depth)
            found += [
                Cut(tile, block, held, RK3588.cbuf_banks - held, index > 0, False) for index, block in enumerate(blocks)
            ]
        yield found


def resident(form: Form, rows: int, depth: int, blocks: list[range]) -> Iterator[list[Cut]]:
    """Each block of columns stays while all rows pass it; nothing where a block does not fit beside some rows."""
    held = weight_banks(form, max(len(block) for block in blocks), depth)
    largest = most_rows(form, depth, RK3588.cbuf_banks - held)
    if not largest:
        return
    tiles = equal_ranges(rows, largest, RK3588.line_group)
    yield [
        Cut(tile, block, RK3588.cbuf_banks - held, held, False, index > 0)
        for block in blocks
        for index, tile in enumerate(tiles)
    ]


def read_bytes(form: Form, depth: int, tasks: list[Cut]) -> int:
    """What the tasks fetch of A and B."""
    lines = sum(len(cut.rows) * (not cut.reuses_rows) + len(cut.columns) * (not cut.reuses_columns) for cut in tasks)
    return lines * depth * form.element_bytes


def cycles(form: Form, depth: int, cut: Cut) -> int:
    """About how long a task takes, products and transfers added up (npu.md §1, docs/timing.md)."""
    products = divide_up(len(cut.rows) * depth * len(cut.columns), RK3588.channel_chunk * form.group)
    moved = read_bytes(form, depth, [cut]) + len(cut.rows) * len(cut.columns) * form.result_bytes
    return products + moved // PORT_BYTES
