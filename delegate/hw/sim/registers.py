"""The register files of one core: two groups per block that take turns (ping-pong), and what a task sees of them.

While one group is executed the next task's writes go to the other, so a task inherits what it does not write from the
task two back (S-89); with ping-pong off it inherits from its direct predecessor (S-90). The state survives tasks and
jobs (S-93) and is lost in a core reset.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace

from delegate.errors import RegisterError, SimulatorError
from delegate.hw.regcmd import BLOCKS
from delegate.hw.registers import Block, Register
from delegate.hw.regs import CNA, CORE, DPU, DPU_RDMA, PC, PPU, PPU_RDMA

POINTERS: dict[type[Block], Register] = {
    CNA: CNA.S_POINTER,
    CORE: CORE.S_POINTER,
    DPU: DPU.S_POINTER,
    DPU_RDMA: DPU_RDMA.RDMA_S_POINTER,
    PPU: PPU.S_POINTER,
    PPU_RDMA: PPU_RDMA.RDMA_S_POINTER,
}
BLOCK_NAMES: dict[str, type[Block]] = {block.__name__: block for block in BLOCKS}

# Values the blocks must not see as zeros after a core reset although no program wrote them: streams that leave these
# registers alone after a reset run on boards as if the unit were bypassed (F-05, C-26).
UNWRITTEN: dict[Register, int] = {
    DPU.BS_CFG: DPU.BS_CFG.encode(bs_relu_bypass=1, bs_mul_bypass=1, bs_alu_bypass=1, bs_bypass=1),
    DPU.BN_CFG: DPU.BN_CFG.encode(bn_relu_bypass=1, bn_mul_bypass=1, bn_alu_bypass=1, bn_bypass=1),
    DPU.EW_CFG: DPU.EW_CFG.encode(ew_relu_bypass=1, ew_op_cvt_bypass=1, ew_lut_bypass=1, ew_op_bypass=1, ew_bypass=1),
    DPU.OUT_CVT_SCALE: DPU.OUT_CVT_SCALE.encode(out_cvt_scale=1),
    DPU.BS_OW_CFG: DPU.BS_OW_CFG.encode(od_bypass=1),
    DPU_RDMA.RDMA_BRDMA_CFG: DPU_RDMA.RDMA_BRDMA_CFG.encode(brdma_disable=1),
    DPU_RDMA.RDMA_NRDMA_CFG: DPU_RDMA.RDMA_NRDMA_CFG.encode(nrdma_disable=1),
}

# Bits without a name (or without effect) that programs with proven results write; the silicon ignores them (F-06).
# CONV_CON2[31:28]: the vendor's split hint (npu.md quirk 20); [15:14]: a FEATURE_GRAINS of 1024 that ran over its
# field; DST_SURF_STRIDE[3:0]: a pitch that is not in bytes, where one surface is written; RDMA cube channel [28:16]:
# a copy of ORIG_CHANNEL; REGISTER_AMOUNTS [31:16]: the vendor's core count (C-24).
IGNORED_BITS: dict[Register, int] = {
    CNA.CONV_CON2: 0xF000C000,
    PC.REGISTER_AMOUNTS: 0xFFFF0000,
    DPU_RDMA.RDMA_DATA_CUBE_CHANNEL: 0x1FFF0000,
    PPU.DST_SURF_STRIDE: 0xF,
}


@dataclass(frozen=True)
class BlockState:
    """One block: two groups (register offset to value), and the pointers that choose between them."""

    groups: tuple[Mapping[int, int], Mapping[int, int]] = ({}, {})
    pointer: int = 0  # group that receives writes
    executer: int = 0  # group the next fire executes
    pointer_toggles: bool = False
    executer_toggles: bool = False
    pointer_toggles_itself: bool = False  # else it follows the executer (S-91)

    def set_pointer(self, fields: Mapping[str, int]) -> BlockState:
        """A write of S_POINTER (S-91); with ping-pong on, bit 0 does not move the pointer (F-03, follows from S-89)."""
        pointer, executer = self.pointer, self.executer
        if not fields["pointer_pp_en"]:
            pointer = fields["pointer"]
        if fields["pointer_pp_clear"]:
            pointer = 0
        if fields["executer_pp_clear"]:
            executer = 0
        return replace(
            self,
            pointer=pointer,
            executer=executer,
            pointer_toggles=bool(fields["pointer_pp_en"]),
            executer_toggles=bool(fields["executer_pp_en"]),
            pointer_toggles_itself=bool(fields["pointer_pp_mode"]),
        )

    def write(self, offset: int, value: int) -> None:
        """Writes into the group the pointer selects. Only for a state that nobody else holds yet."""
        group = self.groups[self.pointer]
        assert isinstance(group, dict)
        group[offset] = value

    def fired(self) -> BlockState:
        """The state after the block executed a group."""
        executer = self.executer ^ 1 if self.executer_toggles else self.executer
        pointer = self.pointer
        if self.pointer_toggles:
            pointer = pointer ^ 1 if self.pointer_toggles_itself else executer
        return replace(self, pointer=pointer, executer=executer)

    def copy(self) -> BlockState:
        return replace(self, groups=(dict(self.groups[0]), dict(self.groups[1])))

    @property
    def flags(self) -> tuple[int, int, bool, bool, bool]:
        """All but the groups."""
        return self.pointer, self.executer, self.pointer_toggles, self.executer_toggles, self.pointer_toggles_itself

    def key(self) -> Hashable:
        """Equal keys mean equal states."""
        return (self.flags, *(tuple(sorted(group.items())) for group in self.groups))


@dataclass(frozen=True)
class LookupTables:
    """The two tables of the DPU: entries by address, None where nothing was loaded; low (LE, id 0) and high (LO, 1)."""

    low: tuple[int | None, ...] = ()
    high: tuple[int | None, ...] = ()


@dataclass(frozen=True)
class CoreState:
    """All register files of one core and the lookup tables. Never changed in place once the machine holds it."""

    blocks: Mapping[type[Block], BlockState]
    tables: LookupTables = LookupTables()

    @staticmethod
    def reset() -> CoreState:
        """After a core reset: nothing written, pointers at group 0, tables empty."""
        return CoreState({block: BlockState() for block in POINTERS})

    def copy(self) -> CoreState:
        return CoreState({block: state.copy() for block, state in self.blocks.items()}, self.tables)

    @property
    def flags(self) -> Hashable:
        """Where the pointers of all blocks stand, and how they move."""
        return tuple(state.flags for state in self.blocks.values())

    def key(self) -> Hashable:
        return (self.tables, *(state.key() for state in self.blocks.values()))


@dataclass(frozen=True)
class TaskRegisters:
    """What the blocks of a fired task execute: one group per block, fixed while the task runs.

    ``registers[CNA.DATA_SIZE0]`` gives the fields by name. Reading a register that nobody wrote since the reset adds a
    warning and gives its documented reset value (F-04).
    """

    task: str
    groups: Mapping[type[Block], Mapping[int, int]]
    tables: LookupTables
    warn: Callable[[str], None]
    asked: set[Register] = field(default_factory=set, compare=False, repr=False)  # registers that anything depends on
    _decoded: dict[Register, dict[str, int]] = field(default_factory=dict, compare=False, repr=False)

    def written(self, register: Register) -> bool:
        self.asked.add(register)
        return register.offset in self.groups[register.block]

    def value(self, register: Register) -> int:
        """The 32 bits of a register, without the bits that are known to be ignored."""
        self.asked.add(register)
        value = self.groups[register.block].get(register.offset)
        if value is None:
            value = UNWRITTEN.get(register, register.reset)
            self.warn(f"{register.full_name} is read but was not written since the core reset; taken as {value:#x}")
        return value & ~IGNORED_BITS.get(register, 0)

    def __getitem__(self, register: Register) -> dict[str, int]:
        """All fields by name; raises SimulatorError for a bit without a name."""
        fields = self._decoded.get(register)
        if fields is None:
            try:
                fields = register.decode(self.value(register))
            except RegisterError as error:
                raise SimulatorError(f"{self.task}: {error}") from None
            self._decoded[register] = fields
        return fields

    def refuse(self, register: Register, value: object, limit: str) -> SimulatorError:
        """The error for a register whose value breaks a rule; ``limit`` says which."""
        return SimulatorError(f"{self.task}: {register.full_name} = {value}: {limit}")

    def require(self, holds: bool, register: Register, value: object, limit: str) -> None:
        """Raises SimulatorError unless ``holds``."""
        if not holds:
            raise self.refuse(register, value, limit)

    def require_zero_if_written(self, register: Register) -> None:
        """require_zero for a register that many programs leave alone."""
        if self.written(register):
            self.require_zero(register)

    def require_zero(self, register: Register, *labels: str, why: str = "its effect is not known") -> None:
        """Raises SimulatorError if one of the named fields (all, if none is named) is not 0."""
        fields = self[register]
        for label in labels or tuple(fields):
            if fields[label]:
                raise self.refuse(register, f"{label} {fields[label]}", f"must be 0, {why}")
