"""How a register is described: bit fields, registers, blocks, and the 64-bit command words they turn into.

Every offset, mask and shift of the chip stands once, in ``hw/regs``; compiler, simulator, disassembler and tests read
it there. A command word is target << 48 | value << 16 | register offset (hardware book npu.md §2.1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from delegate.errors import RegisterError


@dataclass(frozen=True)
class Bits:
    """One field of a register: bits ``high`` down to ``low``, both included."""

    high: int
    low: int
    signed: bool = False  # a negative number is stored in two's complement

    @property
    def width(self) -> int:
        return self.high - self.low + 1

    @property
    def mask(self) -> int:
        """The field's bits in place."""
        return ((1 << self.width) - 1) << self.low

    def encode(self, value: int) -> int:
        """The bits of ``value`` in place; raises RegisterError if it does not fit (silicon would wrap it, S-79)."""
        lowest, highest = (
            (-(1 << (self.width - 1)), (1 << (self.width - 1)) - 1) if self.signed else (0, (1 << self.width) - 1)
        )
        if not lowest <= value <= highest:
            raise RegisterError(f"value {value} does not fit in bits {self.high}:{self.low} ({lowest} to {highest})")
        return (value << self.low) & self.mask

    def decode(self, register_value: int) -> int:
        value = (register_value & self.mask) >> self.low
        return value - (1 << self.width) if self.signed and value >> (self.width - 1) else value


def bit(position: int) -> Bits:
    """A field of one bit."""
    return Bits(position, position)


@dataclass(eq=False)
class Register:
    """A 32-bit register: its offset, its fields, the value after a core reset, and whether it holds an I/O address."""

    offset: int
    reset: int
    address: bool
    fields: dict[str, Bits]
    name: str = field(default="", init=False)
    block: type[Block] = field(init=False)

    def __init__(self, offset: int, *, reset: int = 0, address: bool = False, **fields: Bits) -> None:
        self.offset, self.reset, self.address, self.fields = offset, reset, address, fields
        taken = 0
        for label, bits in fields.items():
            if taken & bits.mask:
                raise RegisterError(f"register {offset:#06x}: field {label} overlaps another field")
            taken |= bits.mask
        self.known_mask = taken

    def __set_name__(self, owner: type[Block], name: str) -> None:
        self.name, self.block = name, owner

    @property
    def full_name(self) -> str:
        return f"{self.block.__name__}.{self.name}"

    def encode(self, **values: int) -> int:
        """The 32-bit value with the named fields set and all others 0."""
        result = 0
        for label, value in values.items():
            if label not in self.fields:
                raise RegisterError(f"{self.full_name} has no field {label}; it has {', '.join(self.fields)}")
            try:
                result |= self.fields[label].encode(int(value))
            except RegisterError as error:
                raise RegisterError(f"{self.full_name}.{label}: {error}") from None
        return result

    def decode(self, value: int) -> dict[str, int]:
        """All fields of a 32-bit value by name; raises RegisterError for a set bit that has no name."""
        if value & ~self.known_mask:
            raise RegisterError(
                f"{self.full_name} = {value:#010x} sets bits {value & ~self.known_mask:#010x}, which have no name"
            )
        return {label: bits.decode(value) for label, bits in self.fields.items()}

    def __call__(self, **values: int) -> int:
        """The command word that writes this register."""
        return word(self.block.target, self.offset, self.encode(**values))


class Block:
    """A block of the NPU: its class attributes are its registers, ``target`` is its number in command words."""

    target: ClassVar[int]
    by_offset: ClassVar[dict[int, Register]]
    blocks: ClassVar[dict[int, type[Block]]] = {}

    def __init_subclass__(cls, target: int) -> None:
        cls.target = target
        registers = [value for value in vars(cls).values() if isinstance(value, Register)]
        cls.by_offset = {register.offset: register for register in registers}
        if len(cls.by_offset) != len(registers):
            raise RegisterError(f"{cls.__name__} has two registers at one offset")
        Block.blocks[target] = cls

    @classmethod
    def registers(cls) -> Iterator[Register]:
        return iter(cls.by_offset.values())


def word(target: int, offset: int, value: int) -> int:
    """A 64-bit command word."""
    return target << 48 | (value & 0xFFFFFFFF) << 16 | offset


def split(command: int) -> tuple[int, int, int]:
    """(target, register offset, value) of a 64-bit command word."""
    return command >> 48 & 0xFFFF, command & 0xFFFF, command >> 16 & 0xFFFFFFFF


def lookup(target: int, offset: int) -> Register:
    """The register that a command word writes; raises RegisterError if there is none."""
    block = Block.blocks.get(target)
    if block is None:
        raise RegisterError(f"no block has the target {target:#06x}")
    register = block.by_offset.get(offset)
    if register is None:
        raise RegisterError(f"{block.__name__} has no register at {offset:#06x}")
    return register
