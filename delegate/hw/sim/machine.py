"""One simulated NPU core: PC, which fetches command streams, and the pass through the blocks each stream fires.

A stream is decoded once for each register state it meets (all checks are made then); later runs find the decoded task
by the bytes of the stream and the state, both compared in full. Where a new state differs only in what the stream
overwrites or nobody asked for, the decoding is taken over. Registers survive tasks and jobs (F-12); a task sees all
that those before it wrote (F-13).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from delegate.errors import RegisterError, SimulatorError
from delegate.hw.regcmd import SYNC_TARGET, Command, fire_names, parse_word
from delegate.hw.registers import Block, Register, split
from delegate.hw.regs import CNA, CORE, DPU, PC
from delegate.hw.sim import lookup
from delegate.hw.sim.memory import AddressSpace
from delegate.hw.sim.options import Options
from delegate.hw.sim.passes import Buffers, Pass, decode_pass
from delegate.hw.sim.ppu import Pooling
from delegate.hw.sim.registers import BLOCK_NAMES, IGNORED_BITS, POINTERS, CoreState, LookupTables, TaskRegisters
from delegate.hw.soc import RK3588, Soc
from delegate.hw.task import Words

AMOUNT_BITS = 0xFFFF  # of PC.REGISTER_AMOUNTS; 17:16 hold a core count in vendor streams (C-24)
KERNEL_POINTER = 0xE  # what the kernel writes to S_POINTER of CNA and CORE before a start (npu.md §2.3)
DECODED_LIMIT = 2048  # tasks kept decoded, some 40 KB each
WARNING_LIMIT = 256
STATUS_REGISTERS = ("S_STATUS", "RDMA_S_STATUS")
ENABLE_REGISTERS = ("OPERATION_ENABLE", "RDMA_OPERATION_ENABLE")


@dataclass(frozen=True, eq=False)
class Decoded:
    """A stream met in a state: what it fires, the state after it, and where PC goes next."""

    run: Pass
    registers: TaskRegisters  # what the fired blocks execute
    state: CoreState
    state_id: int
    link: int | None  # address of the next stream
    link_words: int  # words that will be fetched there
    words: int  # up to the fire word, included
    unarmed: tuple[str, ...]  # fired blocks in ping-pong whose S_POINTER the stream does not write
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Known:
    """A decoded stream, what its decoding depended on beside its words and the pointers, and what it writes."""

    decoded: Decoded
    inherited: Mapping[Register, int | None]  # of the groups that are executed; None: not written since the reset
    writes: Mapping[tuple[type[Block], int], Mapping[int, int]]  # by block and register group
    executed: Mapping[type[Block], int]  # group of each fired block

    def holds_in(self, state: CoreState) -> bool:
        """Whether another state with the same pointers would decode the same."""
        blocks, executed = state.blocks, self.executed
        return state.tables == LookupTables() and all(
            blocks[register.block].groups[executed[register.block]].get(register.offset) == value
            for register, value in self.inherited.items()
        )

    def met_in(self, state: CoreState) -> tuple[TaskRegisters, CoreState]:
        """What the fired blocks execute in such a state, and the state after the task."""
        groups = {block: list(each.groups) for block, each in state.blocks.items()}
        for (block, group), written in self.writes.items():
            groups[block][group] = {**groups[block][group], **written}
        executed = {block: groups[block][group] for block, group in self.executed.items()}
        after = {b: replace(each, groups=(groups[b][0], groups[b][1])) for b, each in self.decoded.state.blocks.items()}
        registers = replace(self.decoded.registers, groups=executed, asked=set(), _decoded={})
        return registers, CoreState(after, state.tables)


@dataclass
class Stream:
    """A stream while it is decoded: the state it writes and what it says about its successor."""

    state: CoreState
    entries: dict[tuple[int, int], int] = field(default_factory=dict)  # loaded by it, by table and address
    link: int | None = None
    amount: int = 0
    synced: bool = False
    table_config: dict[str, int] | None = None
    table_position: int = 0
    armed: set[type[Block]] = field(default_factory=set)  # blocks whose S_POINTER is written
    writes: dict[tuple[type[Block], int], dict[int, int]] = field(default_factory=dict)  # by block and group
    warnings: list[str] = field(default_factory=list)


class Machine:
    """A core with its register files and CBUF, over an address space that may be shared with others.

    ``warnings`` collects what silicon tolerates but programs should not do; ``observe`` is shown each task that is
    about to run. ``signals_pooling``: whether the kernel hears of the end of a PPU task (F-105).
    """

    def __init__(
        self,
        memory: AddressSpace,
        soc: Soc = RK3588,
        options: Options | None = None,
        observe: Callable[[Decoded], None] | None = None,
        signals_pooling: bool = True,
    ) -> None:
        self.memory = memory
        self.soc = soc
        self.options = options or Options()
        self.observe = observe
        self.signals_pooling = signals_pooling
        self.warnings: dict[str, int] = {}
        self.tasks = 0  # fired since the start, for messages
        self._decoded: dict[tuple[int, bytes], Decoded] = {}
        self._known: dict[tuple[Hashable, bytes], Known] = {}
        self._state_ids: dict[Hashable, int] = {}
        self._state_count = 0
        self._buffers = Buffers(self.warn)
        self.reset()

    def reset(self) -> None:
        """A core reset: register files and CBUF are lost."""
        self._set_state(CoreState.reset())
        self._buffers.forget()

    def begin_job(self) -> None:
        """A new job: CBUF contents are not to be relied on (S-76), tables are gone (C-1, F-93)."""
        self._buffers.forget()
        if self._state.tables != LookupTables():
            self._set_state(replace(self._state, tables=LookupTables()))

    def run_chain(self, address: int, words: int, tasks: int) -> None:
        """One start of PC: ``tasks`` streams, the first of ``words`` 64-bit words; raises SimulatorError (F-08).

        After an error the core must be reset, as the kernel's watchdog does.
        """
        self._write_kernel_pointers()
        before: AddressSpace | None = None
        for index in range(tasks):
            task = f"task {self.tasks} (stream {address:#x})"
            self.tasks += 1
            decoded = self._fetch(address, words, task)
            if index and decoded.unarmed:
                names = ", ".join(decoded.unarmed)
                raise SimulatorError(f"{task}: chained, but S_POINTER of {names} is not written again (S-101, F-116)")
            if not self.signals_pooling and isinstance(decoded.run, Pooling):
                raise SimulatorError(
                    f"{task}: only the PPU fires, and the mainline kernel never hears of its end: the job would run "
                    "into the 500 ms watchdog (S-137, S-196)"
                )
            for warning in decoded.warnings:
                self.warn(warning)
            if self.observe is not None:
                self.observe(decoded)
            self._buffers.earlier, before = before, self._before_a_task()
            decoded.run.run(self.memory, self._buffers, task)
            self._state, self._state_id = decoded.state, decoded.state_id
            if index + 1 == tasks:
                return
            if decoded.link is None:
                raise SimulatorError(
                    f"{task}: PC stops after task {index + 1} of {tasks}: no PC.BASE_ADDRESS leads to the next (S-94)"
                )
            address, words = decoded.link, decoded.link_words

    def _before_a_task(self) -> AddressSpace | None:
        """What a task that is chained behind the next one reads through CNA, if that is stale (F-13)."""
        if self.options.usual("chain_order"):
            return None
        copy = AddressSpace()
        for region in self.memory.regions:
            copy.map(region.address, region.view.copy())
        return copy

    def decode(self, words: Words, task: str) -> Decoded:
        """What a stream would do after those decoded before it; nothing is run. Raises SimulatorError as a run does."""
        self._write_kernel_pointers()
        decoded = self._decode(words.tobytes(), task)
        self._state, self._state_id = decoded.state, decoded.state_id
        return decoded

    def warn(self, text: str) -> None:
        if text in self.warnings or len(self.warnings) < WARNING_LIMIT:
            self.warnings[text] = self.warnings.get(text, 0) + 1

    def _set_state(self, state: CoreState) -> None:
        self._state = state
        self._state_id = self._identify(state)

    def _identify(self, state: CoreState) -> int:
        """A number that only equal states share."""
        self._state_count += 1
        return self._state_ids.setdefault(state.key(), self._state_count)

    def _write_kernel_pointers(self) -> None:
        """The kernel's own writes before a start; a change of state only the first time."""
        fields = CNA.S_POINTER.decode(KERNEL_POINTER)
        blocks = dict(self._state.blocks)
        for block in (CNA, CORE):
            blocks[block] = blocks[block].set_pointer(fields)
        if any(blocks[block] != self._state.blocks[block] for block in (CNA, CORE)):
            self._set_state(replace(self._state, blocks=blocks))

    def _fetch(self, address: int, words: int, task: str) -> Decoded:
        if address % 16:
            raise SimulatorError(f"{task}: stream address {address:#x}: 16-byte aligned (PC.BASE_ADDRESS)")
        limit = 2 * (AMOUNT_BITS + 1)
        if not 0 < words <= limit:
            raise SimulatorError(f"{task}: {words} words: 1 to {limit} (PC.REGISTER_AMOUNTS)")
        raw = self._stream_bytes(address, words, task)
        key = (self._state_id, raw)
        decoded = self._decoded.get(key)
        if decoded is None:
            if len(self._decoded) >= DECODED_LIMIT:
                self._decoded.clear()
                self._known.clear()
                self._state_ids = {self._state.key(): self._state_id}
            decoded = self._decoded[key] = self._recall(raw) or self._decode(raw, task)
        return decoded

    def _recall(self, raw: bytes) -> Decoded | None:
        """A stream in a state that it has not met, if it was decoded in one that does not differ for it."""
        known = self._known.get((self._state.flags, raw))
        if known is None or not known.holds_in(self._state):
            return None
        registers, state = known.met_in(self._state)
        return replace(known.decoded, registers=registers, state=state, state_id=self._identify(state))

    def _stream_bytes(self, address: int, words: int, task: str) -> bytes:
        """The words of a stream; a prefetch may reach past the end of the buffer, its tail then reads as no-ops."""
        what = f"{task}: PC fetch"
        self.memory.bytes(address, 8, what)
        room = next(r.end - address for r in self.memory.regions if r.address <= address < r.end)
        return self.memory.bytes(address, min(8 * words, room // 8 * 8), what).tobytes()

    def _decode(self, raw: bytes, task: str) -> Decoded:
        stream = Stream(self._state.copy())
        words = np.frombuffer(raw, np.uint64)
        for index, word in enumerate(words.tolist()):
            try:
                command = parse_word(word)
            except RegisterError as error:
                raise SimulatorError(f"{task}: word {index}: {error}") from None
            if command.kind == "fire":
                return self._fire(stream, command.value, index + 1, raw, task)
            if command.kind == "sync":
                if split(word) != (SYNC_TARGET, 0, 0):
                    raise SimulatorError(f"{task}: word {index} = {word:#018x}: a sync word carries nothing (F-10)")
                stream.synced = True
            elif command.register is not None:
                write_register(stream, command.register, command, f"{task}: word {index}")
        raise SimulatorError(f"{task}: no fire word (target 0x0081) in {len(words)} words: the task never completes")

    def _fire(self, stream: Stream, mask: int, words: int, raw: bytes, task: str) -> Decoded:
        """Snapshots the groups that the fired blocks execute, builds their pass, and flips the pointers."""
        try:
            names = fire_names(mask)
        except RegisterError as error:
            raise SimulatorError(f"{task}: {error}") from None
        if not stream.synced and self.options.sync_word == "needed":
            raise SimulatorError(f"{task}: no 0x0041 word before the fire word: the task never completes")
        if not stream.synced:  # absence is tolerated (C-17)
            stream.warnings.append("no 0x0041 word before the fire word")
        fired = [BLOCK_NAMES[name] for name in names]
        blocks = stream.state.blocks
        groups = {block: blocks[block].groups[blocks[block].executer] for block in fired}
        for block, group in groups.items():
            if not group:
                raise SimulatorError(f"{task}: fire word {mask:#x} starts {block.__name__}, which was never programmed")
        tables = lookup.store(stream.state.tables, stream.entries)
        registers = TaskRegisters(task, groups, tables, stream.warnings.append)
        work = decode_pass(registers, frozenset(names), self.soc, self.options)
        after = {block: state.fired() if block in groups else state for block, state in blocks.items()}
        state = CoreState(after, tables)
        state_id = self._identify(state)
        # The amount counts pairs of words, less one (npu.md §2.2).
        amount = 2 * (stream.amount + 1)
        unarmed = tuple(
            block.__name__
            for block in fired
            if block not in (CNA, CORE) and blocks[block].executer_toggles and block not in stream.armed
        )
        found = Decoded(work, registers, state, state_id, stream.link, amount, words, unarmed, tuple(stream.warnings))
        if self._state.tables == tables == LookupTables():
            executed = {block: blocks[block].executer for block in fired}
            before = self._state.blocks
            inherited = {
                register: before[register.block].groups[executed[register.block]].get(register.offset)
                for register in registers.asked
                if register.offset not in stream.writes.get((register.block, executed[register.block]), {})
            }
            self._known[self._state.flags, raw] = Known(found, inherited, stream.writes, executed)
        return found


def write_register(stream: Stream, register: Register, command: Command, where: str) -> None:
    """One register write of a stream; raises SimulatorError for writes that a stream must not make (F-07)."""
    block = register.block
    unnamed = command.value & ~register.known_mask & ~IGNORED_BITS.get(register, 0)
    if unnamed:
        raise SimulatorError(
            f"{where}: {register.full_name} = {command.value:#x} sets bits {unnamed:#x} without a name"
        )
    if block is PC:
        _write_pc(stream, register, command.value, where)
        return
    if register.name in STATUS_REGISTERS:
        raise SimulatorError(f"{where}: {register.full_name} is read only")
    if register.name in ENABLE_REGISTERS:
        stream.warnings.append(f"{register.full_name} is written by a stream; the fire word starts the blocks")
        return
    if register is POINTERS[block]:
        if block in (CNA, CORE):
            raise SimulatorError(f"{where}: {register.full_name} belongs to the kernel: the job never finishes (S-92)")
        blocks = dict(stream.state.blocks)
        blocks[block] = blocks[block].set_pointer(register.decode(command.value))
        stream.armed.add(block)
        stream.state = CoreState(blocks, stream.state.tables)
        return
    if register is DPU.LUT_ACCESS_CFG:
        stream.table_config, stream.table_position = register.decode(command.value), 0
    elif register is DPU.LUT_ACCESS_DATA and stream.table_config and stream.table_config["lut_access_type"]:
        try:
            stream.entries[lookup.entry(stream.table_config, stream.table_position)] = command.value
        except SimulatorError as error:
            raise SimulatorError(f"{where}: {error}") from None
        stream.table_position += 1
    stream.state.blocks[block].write(register.offset, command.value)
    stream.writes.setdefault((block, stream.state.blocks[block].pointer), {})[register.offset] = command.value


def _write_pc(stream: Stream, register: Register, value: int, where: str) -> None:
    if register is PC.BASE_ADDRESS:
        if value & 0xF:
            raise SimulatorError(f"{where}: PC.BASE_ADDRESS = {value:#x}: 16-byte aligned, PC mode")
        stream.link = value or None
    elif register is PC.REGISTER_AMOUNTS:
        stream.amount = value & AMOUNT_BITS
    else:
        raise SimulatorError(f"{where}: {register.full_name} belongs to the kernel")
