"""Command streams: 64-bit words to writes and control words, and to readable text.

Layout of a word and the special targets: hardware book npu.md §2.1, §2.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from delegate.errors import RegisterError
from delegate.hw import regs
from delegate.hw.registers import Register, lookup, split

NOP_TARGETS = (0x0000, 0x0001)  # both are without effect (npu.md §2.1)
SYNC_TARGET = 0x0041  # stands before the fire word
FIRE_TARGET = 0x0081  # offset 8; the value is a bitmap of blocks (S-88)
FIRE_OFFSET = 0x0008

# Bits of the fire word (S-88).
FIRE_BITS: dict[str, int] = {"CNA": 0, "CORE": 2, "DPU": 3, "DPU_RDMA": 4, "PPU": 5, "PPU_RDMA": 6}

Kind = Literal["write", "nop", "sync", "fire"]


@dataclass(frozen=True)
class Command:
    """One word of a stream."""

    kind: Kind
    value: int  # 32 bits
    register: Register | None  # only of a write


def parse_word(word: int) -> Command:
    """One 64-bit word; raises RegisterError for a target or register that does not exist. Bits are not checked here."""
    target, offset, value = split(int(word))
    if target in NOP_TARGETS:
        if offset or value:
            raise RegisterError(f"word {int(word):#018x} has a no-op target but carries a value")
        return Command("nop", value, None)
    if target == SYNC_TARGET:
        return Command("sync", value, None)
    if target == FIRE_TARGET:
        if offset != FIRE_OFFSET:
            raise RegisterError(f"fire word has register offset {offset:#06x}, expected {FIRE_OFFSET:#06x}")
        return Command("fire", value, None)
    return Command("write", value, lookup(target, offset))


def parse(words: Iterable[int]) -> Iterator[Command]:
    """The commands of a stream, in order; raises RegisterError as parse_word does."""
    return (parse_word(word) for word in words)


def fire_names(mask: int) -> tuple[str, ...]:
    """The blocks that a fire bitmap starts; raises RegisterError for a bit without a block."""
    known = sum(1 << position for position in FIRE_BITS.values())
    if mask & ~known:
        raise RegisterError(f"fire bitmap {mask:#x} sets bits {mask & ~known:#x}, which start no block")
    return tuple(name for name, position in FIRE_BITS.items() if mask >> position & 1)


def describe(register: Register, value: int) -> str:
    """Block, register and the fields that are not 0, in the order of the table; ``?`` shows bits without a name."""
    parts = []
    for label, bits in register.fields.items():
        number = bits.decode(value)
        if number:
            wide = register.address or (bits.width == 32 and not bits.signed)
            parts.append(f"{label}={number:#x}" if wide else f"{label}={number}")
    unnamed = value & ~register.known_mask & 0xFFFFFFFF
    if unnamed:
        parts.append(f"?={unnamed:#x}")
    return f"{register.full_name} {' '.join(parts) or '0'}"


def disassemble_word(word: int) -> str:
    """One line for one word; a word that cannot be read becomes a line that starts with ``?``."""
    try:
        command = parse_word(word)
    except RegisterError as error:
        return f"? {int(word):#018x} {error}"
    if command.register is not None:
        return describe(command.register, command.value)
    if command.kind == "fire":
        try:
            return "FIRE " + "|".join(fire_names(command.value) or ("none",))
        except RegisterError:
            return f"FIRE {command.value:#x}"
    return command.kind.upper()


def disassemble(words: Iterable[int]) -> str:
    """Text with one line a word, each ended by a newline."""
    return "".join(disassemble_word(word) + "\n" for word in words)


BLOCKS = (regs.PC, regs.CNA, regs.CORE, regs.DPU, regs.DPU_RDMA, regs.PPU, regs.PPU_RDMA)
TARGET_NAMES: dict[int, str] = {block.target: block.__name__ for block in BLOCKS} | {
    SYNC_TARGET: "VERSION",
    FIRE_TARGET: "PC_OP_EN",
}
"""Names of targets as captures have them."""
