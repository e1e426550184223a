"""What can be changed in a stream: a field of a register, a bit of a word, or a word as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from delegate.errors import RegisterError
from delegate.hw.regcmd import parse_word
from delegate.hw.registers import Bits, Register, split, word
from delegate.hw.regs import PC
from delegate.hw.task import Words
from delegate.tools.mutate.subjects import SPARE_WORDS, Subject

TARGET_BITS, OFFSET_BITS, MASK_BITS = 16, 16, 8
REMOVED, DUPLICATED, TARGET, OFFSET, UNNAMED = "word removed", "word twice", "target bit", "offset bit", "unnamed bit"
SWAPPED, FIRE, SYNC, NOP = "link and amount swapped", "fire word", "sync word", "no-op word"


@dataclass(frozen=True)
class Mutation:
    """One change; ``row`` says what is changed, in the table: block, then register and field or a kind of damage."""

    row: tuple[str, str]
    stream: int
    at: int  # index of the word
    value: int  # the new word
    kind: str = ""

    def apply(self, words: Words) -> Words:
        result = words.copy()
        if self.kind == DUPLICATED:
            return np.insert(result, self.at, result[self.at])
        if self.kind == SWAPPED:
            result[self.at], result[self.at + 1] = _swap(int(words[self.at]), int(words[self.at + 1]))
            return result
        result[self.at] = self.value
        return result


def _swap(link: int, amount: int) -> tuple[int, int]:
    (target, offset, value), (other_target, other_offset, other) = split(link), split(amount)
    return word(target, offset, other), word(other_target, other_offset, value)


def values(bits: Bits, value: int, rng: np.random.Generator) -> list[int]:
    """Other values of a field (unsigned bits) that are worth trying, each once."""
    count = 1 << bits.width
    tried = [value + 1, value - 1, 0, count - 1, int(rng.integers(count))]
    tried += [value ^ 1 << position for position in range(bits.width)]
    return [new for new in dict.fromkeys(new % count for new in tried) if new != value]


def mutations(subject: Subject, rng: np.random.Generator) -> Iterator[Mutation]:
    """Every mutation of a subject."""
    for index, stream in enumerate(subject.streams):
        listed = [int(command) for command in stream.words]
        for at, command in enumerate(listed):
            try:
                parsed = parse_word(command)
            except RegisterError:
                continue
            if parsed.register is None:
                yield from _control(index, at, command, parsed.kind)
                continue
            yield from _fields(index, at, command, parsed.register, rng)
            yield from _words(index, at, command, parsed.register.block.__name__, listed)


def _fields(index: int, at: int, command: int, register: Register, rng: np.random.Generator) -> Iterator[Mutation]:
    target, offset, value = split(command)
    block = register.block.__name__
    for label, bits in register.fields.items():
        for new in values(bits, (value & bits.mask) >> bits.low, rng):
            changed = value & ~bits.mask | new << bits.low
            yield Mutation((block, f"{register.name}.{label}"), index, at, word(target, offset, changed))
    for position in range(32):
        if not register.known_mask >> position & 1:
            yield Mutation((block, UNNAMED), index, at, word(target, offset, value ^ 1 << position))


def _words(index: int, at: int, command: int, block: str, listed: Sequence[int]) -> Iterator[Mutation]:
    """A word left out, sent twice, or sent elsewhere."""
    yield Mutation((block, REMOVED), index, at, 0)
    if len(listed) < SPARE_WORDS:
        yield Mutation((block, DUPLICATED), index, at, command, DUPLICATED)
    for position in range(TARGET_BITS):
        yield Mutation((block, TARGET), index, at, command ^ 1 << 48 + position)
    for position in range(OFFSET_BITS):
        yield Mutation((block, OFFSET), index, at, command ^ 1 << position)
    following = listed[at + 1] if at + 1 < len(listed) else 0
    link, amount = PC.BASE_ADDRESS, PC.REGISTER_AMOUNTS
    if (split(command)[:2], split(following)[:2]) == ((PC.target, link.offset), (PC.target, amount.offset)):
        yield Mutation((block, SWAPPED), index, at, command, SWAPPED)


def _control(index: int, at: int, command: int, kind: str) -> Iterator[Mutation]:
    """Sync, fire and no-op words: every bit of them, and left out."""
    row = ("PC", {"sync": SYNC, "fire": FIRE, "nop": NOP}[kind])
    if command:
        yield Mutation(row, index, at, 0)
    for position in range(64):
        yield Mutation(row, index, at, command ^ 1 << position)


def choose(subjects: Sequence[Subject], count: int, rng: np.random.Generator) -> list[tuple[int, Mutation]]:
    """``count`` mutations as (subject, mutation): the rows in turn, at random within a row."""
    rows: dict[tuple[str, str], list[tuple[int, Mutation]]] = {}
    for number, subject in enumerate(subjects):
        for mutation in mutations(subject, rng):
            rows.setdefault(mutation.row, []).append((number, mutation))
    shuffled = [[rows[row][i] for i in rng.permutation(len(rows[row]))] for row in sorted(rows)]
    chosen: list[tuple[int, Mutation]] = []
    turn = 0
    while len(chosen) < count and any(turn < len(row) for row in shuffled):
        chosen += [row[turn] for row in shuffled if turn < len(row)]
        turn += 1
    return chosen[:count]
