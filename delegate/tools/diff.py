"""Compares two programs or captures operation by operation, register field by register field.

Addresses are compared as positions: in the same kind of listing by buffer and offset, between a program and a capture,
whose buffers are cut differently, relative to the first task of the operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from delegate.errors import RegisterError
from delegate.hw.regcmd import FIRE_BITS, parse_word
from delegate.hw.registers import Register, split
from delegate.hw.regs import PC
from delegate.tools.listing import ListedTask, Listing, Operation, Pointer, open_listing

FIRE = "FIRE"
NOTHING = "0"  # of a field that one side has not got
NEXT_STREAM = PC.BASE_ADDRESS.full_name
WIDE = 32  # bits of a field that is shown in hexadecimal
TABLE_LENGTH = 2  # a register written more often than once ahead and once in place takes a table (LUT_ACCESS_DATA)


@dataclass(frozen=True)
class Written:
    """What a task writes to one register."""

    register: Register | None  # None of the fire word, and of a word that names no register
    values: tuple[int, ...]  # in order; only the last one counts, unless it is a table
    pointer: Pointer | None  # of the last

    @property
    def value(self) -> int:
        return self.values[-1]

    @property
    def is_table(self) -> bool:
        return len(self.values) > TABLE_LENGTH


@dataclass(frozen=True)
class Difference:
    """One field that differs; None: this side does not write the register."""

    field: str  # block.register.field
    a: str | None
    b: str | None

    def __str__(self) -> str:
        if self.a is None or self.b is None:
            return f"{self.field}: only in {'A' if self.b is None else 'B'}: {self.a or self.b}"
        return f"{self.field}: {self.a} -> {self.b}"


Place = Callable[[str, Pointer], str]  # register, pointer -> a text that is equal where the positions agree


def written(task: ListedTask) -> dict[str, Written]:
    """All registers a task writes, by full name; the fire word as FIRE, unreadable words by target and offset."""
    result: dict[str, Written] = {}
    for index, word in enumerate(task.words.tolist()):
        register: Register | None = None
        try:
            command = parse_word(word)
            register = command.register
            if command.kind in ("nop", "sync"):
                continue
            name, value = (register.full_name if register else FIRE), command.value
        except RegisterError:
            target, offset, value = split(word)
            name = f"?{target:04x}.{offset:04x}"
        earlier = result[name].values if name in result else ()
        result[name] = Written(register, (*earlier, value), task.pointers.get(index))
    return result


def fields(entry: Written) -> dict[str, int]:
    """The fields of a register's last value; bits without a name are a field ``?``."""
    if entry.register is None:
        return {"": entry.value}
    result = {label: bits.decode(entry.value) for label, bits in entry.register.fields.items()}
    unnamed = entry.value & ~entry.register.known_mask & 0xFFFFFFFF
    return result | ({"?": unnamed} if unnamed else {})


def shown(name: str, entry: Written, place: Place) -> dict[str, str]:
    """The fields of a register as text."""
    if entry.is_table:
        return {"": f"{len(entry.values)} values, the last {entry.value:#x}"}
    if entry.pointer is not None:
        return {"": place(name, entry.pointer)}
    if name == FIRE:
        return {"": "|".join(label for label, bit in FIRE_BITS.items() if entry.value >> bit & 1) or "none"}
    wide = {label for label, bits in entry.register.fields.items() if bits.width == WIDE} if entry.register else {""}
    return {
        label: f"{value:#x}" if label in wide and value >= 0 else str(value) for label, value in fields(entry).items()
    }


def task_differences(a: ListedTask, b: ListedTask, place_a: Place, place_b: Place) -> Iterator[Difference]:
    """The fields in which two tasks differ, in the order of A's words, then those that only B writes."""
    ours, theirs = written(a), written(b)
    for name in dict.fromkeys([*ours, *theirs]):
        left = shown(name, ours[name], place_a) if name in ours else {}
        right = shown(name, theirs[name], place_b) if name in theirs else {}
        if not left or not right:
            text = " ".join(f"{key}={value}" if key else value for key, value in (left or right).items())
            yield Difference(name, text if left else None, text if right else None)
            continue
        if ours[name].is_table and theirs[name].is_table:
            yield from table_differences(name, ours[name].values, theirs[name].values)
            continue
        for label in dict.fromkeys([*left, *right]):
            x, y = left.get(label, NOTHING), right.get(label, NOTHING)
            if x != y:
                yield Difference(f"{name}.{label}" if label else name, x, y)


def table_differences(name: str, a: Sequence[int], b: Sequence[int]) -> Iterator[Difference]:
    """One line for a whole table."""
    changed = [index for index, (x, y) in enumerate(zip_longest(a, b)) if x != y]
    if changed:
        first = changed[0]
        x, y = (f"{len(v)} values, {v[first] if first < len(v) else 'nothing'} at {first}" for v in (a, b))
        yield Difference(f"{name} ({len(changed)} of {max(len(a), len(b))} values)", x, y)


def by_operation(listing: Listing) -> dict[tuple[int, ...], tuple[Operation, list[ListedTask]]]:
    """The tasks of each operation, in order."""
    result: dict[tuple[int, ...], tuple[Operation, list[ListedTask]]] = {}
    for task in listing.tasks:
        result.setdefault(task.operation.key, (task.operation, []))[1].append(task)
    return result


def absolute(listing: Listing) -> Place:
    """Positions as buffer and offset."""
    return lambda _, pointer: listing.place(pointer)


def relative(tasks: Sequence[ListedTask]) -> Place:
    """Positions relative to where the operation's first task has the same register; links only as present."""
    first = {name: entry.pointer for name, entry in written(tasks[0]).items() if entry.pointer is not None}

    def place(name: str, pointer: Pointer) -> str:
        if name == NEXT_STREAM:
            return "next stream"
        base = first.get(name)
        if base is None or base.buffer != pointer.buffer:
            return "another buffer"
        return f"first task + {pointer.offset - base.offset}"

    return place


def differences(a: Listing, b: Listing) -> Iterator[str]:
    """All lines of the comparison; none if the two are equal."""
    yield from structure_differences(a, b)
    left, right = by_operation(a), by_operation(b)
    for key in dict.fromkeys([*left, *right]):
        if key not in left or key not in right:
            operation, tasks = left[key] if key in left else right[key]
            yield f"only in {'A' if key in left else 'B'}: {operation.title}, {len(tasks)} tasks"
            continue
        lines = list(operation_differences(a, b, left[key][1], right[key][1]))
        if lines:
            yield ""
            yield left[key][0].title or f"job {key}"
            yield from ("  " + line for line in lines)


def operation_differences(
    a: Listing, b: Listing, left: Sequence[ListedTask], right: Sequence[ListedTask]
) -> Iterator[str]:
    """The lines of one operation; tasks with the same differences stand together."""
    if len(left) != len(right):
        yield f"tasks: {len(left)} -> {len(right)}"
    same_kind = a.kind == b.kind
    place_a = absolute(a) if same_kind else relative(left)
    place_b = absolute(b) if same_kind else relative(right)
    start, held = 0, None
    pairs = list(zip(left, right, strict=False))
    for index in range(len(pairs) + 1):
        found = None
        if index < len(pairs):
            found = [str(difference) for difference in task_differences(*pairs[index], place_a, place_b)]
        if index and found != held:
            if held:
                yield f"task {start}" if index - start == 1 else f"tasks {start} to {index - 1}"
                yield from ("  " + line for line in held)
            start = index
        held = found


def structure_differences(a: Listing, b: Listing) -> Iterator[str]:
    """Buffers, jobs, chains; sizes and contents of buffers only between listings of one kind."""
    for what, x, y in (("jobs", len(a.jobs), len(b.jobs)), ("tasks", len(a.tasks), len(b.tasks))):
        if x != y:
            yield f"{what}: {x} -> {y}"
    chains = ["+".join(str(length) for job in listing.jobs for length in job.chains) for listing in (a, b)]
    if chains[0] != chains[1]:
        yield f"chains, in tasks: {chains[0]} -> {chains[1]}"
    if len(a.buffers) != len(b.buffers):
        yield f"buffers: {len(a.buffers)} -> {len(b.buffers)}"
    if a.kind == b.kind:
        yield from notes_differences(a, b)
        yield from buffer_differences({x.name: x for x in a.buffers}, {x.name: x for x in b.buffers})


def notes_differences(a: Listing, b: Listing) -> Iterator[str]:
    yield from (f"{x} -> {y}" for x, y in zip_longest(a.notes, b.notes, fillvalue="nothing") if x != y)
    for number, (left, right) in enumerate(zip(a.jobs, b.jobs, strict=False)):
        pairs = zip_longest(left.notes, right.notes, fillvalue="nothing")
        yield from (f"job {number}: {x} -> {y}" for x, y in pairs if x != y)


def buffer_differences(a: Mapping[str, object], b: Mapping[str, object]) -> Iterator[str]:
    for name in dict.fromkeys([*a, *b]):
        if name not in a or name not in b:
            yield f"buffer {name}: only in {'A' if name in a else 'B'}"
            continue
        left, right = vars(a[name]), vars(b[name])
        for key in ("role", "size", "digest"):
            if left[key] != right[key]:
                yield f"buffer {name}: {key} {left[key] or 'unknown'} -> {right[key] or 'unknown'}"


def print_differences(a: Path, b: Path) -> bool:
    """Prints how two files differ; whether they do. Raises DelegateError."""
    left, right = open_listing(a), open_listing(b)
    different = False
    for line in differences(left, right):
        if not different:
            print(f"A: {left.kind} {left.name}\nB: {right.kind} {right.name}")
        different = True
        print(line)
    return different
