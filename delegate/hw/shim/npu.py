"""The three cores behind a kernel driver: which run what, how a run ends, and what a core reset does.

Everything but the simulation itself happens in the event loop's thread; each core has one thread that simulates.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from delegate.errors import SimulatorError
from delegate.hw.regs import CNA, CORE, DPU, PPU
from delegate.hw.shim.faults import JobFault
from delegate.hw.shim.memory import Domain
from delegate.hw.shim.strict import Watch
from delegate.hw.sim.machine import Decoded, Machine
from delegate.hw.sim.memory import AddressSpace
from delegate.hw.sim.options import Options

CORES = 3
# Interrupt status bits of the blocks, a pair each, one for each register group (npu.md §2.4).
STATUS_BITS = {CNA: 0x3F, CORE: 0xC0, DPU: 0x300, PPU: 0xC00}
FIRST_OF_PAIRS = 0x555


@dataclass(frozen=True)
class Chain:
    """One start of PC: ``tasks`` streams, the first of ``words`` 64-bit words."""

    address: int
    words: int
    tasks: int
    index: int  # of its first task, for faults
    mask: int  # interrupts that the kernel waits for
    exact: bool  # whether all of them have to come, and not any


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``hang`` says why the kernel never hears of its end."""

    hang: str | None
    tasks: int  # done
    status: int  # of the last task, one bit a pair, as the kernel reads it
    warnings: tuple[str, ...] = ()  # what the core has warned of since it was made


def both_of_pairs(status: int) -> int:
    """Either bit of a pair as both of it."""
    first = (status | status >> 1) & FIRST_OF_PAIRS
    return first | first << 1


class Core:
    """A simulated core and its thread, which starts with the first run."""

    def __init__(self, index: int, post: Callable[..., object], options: Options) -> None:
        self.index = index
        self._post = post
        self._machine = Machine(AddressSpace(), options=options)
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(
        self,
        domain: Domain,
        chains: list[Chain],
        fault: JobFault,
        done: Callable[[Outcome], None],
        watch: Watch | None = None,
    ) -> None:
        """Runs chains one after the other as a job; ``done`` is called in the event loop's thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, daemon=True, name=f"npu core {self.index}")
            self._thread.start()
        space = domain.begin()
        seen = space if watch is None else watch

        def finish(outcome: Outcome) -> None:
            domain.end()
            done(outcome)

        def work() -> None:
            outcome = self._simulate(seen, chains, fault)
            outcome = replace(outcome, warnings=tuple(self._machine.warnings))
            self._machine.memory, self._machine.observe = AddressSpace(), None  # no view of a buffer outlives the run
            self._post(lambda: finish(outcome))

        self._work.put(work)

    def reset(self) -> None:
        """Register files and CBUF are lost, after the run that is under way."""
        self._work.put(self._machine.reset)

    def _loop(self) -> None:
        while True:
            self._work.get()()

    def _simulate(self, space: AddressSpace, chains: list[Chain], fault: JobFault) -> Outcome:
        if fault.hang:
            return Outcome("a fault was put in: the job hangs", 0, 0)
        run = _Run(self._machine, space, fault.skipped)
        self._machine.observe = run.observe
        self._machine.begin_job()
        try:
            for chain in chains:
                run.start(chain)
                self._machine.run_chain(chain.address, chain.words, chain.tasks)
                run.finish()
                raised = run.status & chain.mask
                if raised == 0 or (chain.exact and both_of_pairs(raised) != chain.mask):
                    text = f"the interrupt of its last task is {run.status:#x}, the kernel waits for {chain.mask:#x}"
                    return Outcome(text, run.done, raised & FIRST_OF_PAIRS)
        except SimulatorError as error:
            return Outcome(str(error), run.done, 0)
        except Exception as error:  # a bug of the simulator must not look like a kernel that never answers
            return Outcome(f"the simulator failed: {type(error).__name__}: {error}", run.done, 0)
        return Outcome(None, run.done, raised & FIRST_OF_PAIRS)


class _Run:
    """What the machine shows of its tasks; a task that is to be skipped runs on a copy of memory."""

    def __init__(self, machine: Machine, space: AddressSpace, skipped: int | None) -> None:
        self.machine, self.space, self.skipped = machine, space, skipped
        self.done = self.status = 0
        self._next = 0  # index of the task that comes
        self._under_way = False

    def start(self, chain: Chain) -> None:
        self.machine.memory, self._next = self.space, chain.index

    def observe(self, decoded: Decoded) -> None:
        """Called before each task runs."""
        self.finish()
        self.machine.memory = _copy(self.space) if self._next == self.skipped else self.space
        if isinstance(self.space, Watch):
            self.space.observe(decoded)
        self.status = sum(STATUS_BITS[block] for block in STATUS_BITS if block in decoded.registers.groups)
        self._next += 1
        self._under_way = True

    def finish(self) -> None:
        """The task before is done."""
        self.done += self._under_way
        self._under_way = False
        self.machine.memory = self.space


def _copy(space: AddressSpace) -> AddressSpace:
    copy = AddressSpace()
    for region in space.regions:
        copy.map(region.address, region.view.copy())
    return copy
