"""One pass through the blocks: a fired task, decoded, with the plain way to run it.

Convolution: CNA -> CORE -> DPU (-> with DPU_RDMA's operands); flying: DPU_RDMA -> DPU; pooling: PPU_RDMA -> PPU.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from delegate.errors import SimulatorError
from delegate.hw.registers import Register
from delegate.hw.regs import CORE, DPU, PPU
from delegate.hw.sim import answers, cna, core, dpu, dpu_rdma, fast, fetch, ppu, products, stages, writer
from delegate.hw.sim.cna import Front, Weights
from delegate.hw.sim.dpu_rdma import LaneValues, Reader
from delegate.hw.sim.lookup import Bools
from delegate.hw.sim.memory import AddressSpace
from delegate.hw.sim.numbers import Numbers, saturate
from delegate.hw.sim.options import Options
from delegate.hw.sim.precision import INT16
from delegate.hw.sim.registers import TaskRegisters
from delegate.hw.soc import Soc
from delegate.hw.task import Bytes

KNOWN_FIRES = (
    frozenset({"CNA", "CORE", "DPU"}),
    frozenset({"CNA", "CORE", "DPU", "DPU_RDMA"}),
    frozenset({"DPU", "DPU_RDMA"}),
    frozenset({"PPU", "PPU_RDMA"}),
)
LARGEST_WORK = 1 << 27  # elements of an intermediate array: 1 GiB of int64; no real task comes near (F-113)
KEPT_LIMIT = 64 << 20  # bytes of packed kernels that are kept; what fast paths derive is some four times as much


class Pass(Protocol):
    def run(self, memory: AddressSpace, buffers: Buffers, task: str) -> None:
        """Runs the task; raises SimulatorError."""


@dataclass(frozen=True, eq=False)
class Kernels:
    """Fetched kernels: the packed bytes, and forms that fast paths derive and keep."""

    packed: Bytes
    weights: Weights
    derived: dict[object, object] = field(default_factory=dict)

    def numbers(self) -> Numbers:
        """(kernels, kh, kw, channels), or (1, kh, kw, channels) for depthwise."""
        return fetch.unpack_weights(self.packed, self.weights)


@dataclass(eq=False)
class Buffers:
    """The CBUF between tasks, and kernels met before (kept as long as memory holds the same bytes).

    ``warn`` takes what a run met that silicon may do differently.
    """

    warn: Callable[[str], None]
    features: tuple[tuple[int, ...], Callable[[], Numbers]] | None = None  # geometry, values
    kernels: Kernels | None = None
    earlier: AddressSpace | None = None  # a copy from before the task of the chain before (F-13)
    _kept: dict[Hashable, Kernels] = field(default_factory=dict)
    _kept_bytes: int = 0

    def seen(self, memory: AddressSpace) -> AddressSpace:
        """The memory that CNA reads: this one, unless it reads what lay there before the task of the chain before."""
        return self.earlier or memory

    def forget(self) -> None:
        """CBUF contents are lost; what was derived is still right for equal bytes."""
        self.features = self.kernels = None

    def fetch_kernels(self, memory: AddressSpace, weights: Weights, task: str) -> Kernels:
        """The kernels of a task, from memory or, with WEIGHT_REUSE, as the task before left them (F-35)."""
        if weights.reuse:
            held = self.kernels
            if held is None or not _reusable(held.weights, weights):
                have = "nothing" if held is None else "other kernels or bank split"
                raise SimulatorError(
                    f"{task}: CNA.CBUF_CON0.weight_reuse = 1: the CBUF holds {have}: needs the same kernels and banks, "
                    "left by the task before in the same job (S-75, S-76)"
                )
            return held
        packed = memory.bytes(weights.address, weights.size, f"{task}: CNA weights")
        shape = (weights.kernels, weights.kernel, weights.channels, weights.depthwise, weights.precision)
        key = (weights.address, weights.size, shape, weights.banks)  # reuse asks for the split as well
        known = self._kept.get(key)
        if known is None or not _same_bytes(known.packed, packed):
            known = Kernels(packed.copy(), weights)
            self._kept_bytes += packed.size
            if self._kept_bytes > KEPT_LIMIT:
                self._kept.clear()
                self._kept_bytes = packed.size
            self._kept[key] = known
        self.kernels = known
        return known


def _same_bytes(left: Bytes, right: Bytes) -> bool:
    if left.size % 8 == 0:
        return bool((left.view(np.uint64) == right.view(np.uint64)).all())
    return bool((left == right).all())


def _reusable(held: Weights, wanted: Weights) -> bool:
    """Same kernels and split, and all of them in the CBUF."""
    same = (held.kernels, held.kernel, held.channels, held.precision, held.depthwise, held.banks) == (
        wanted.kernels,
        wanted.kernel,
        wanted.channels,
        wanted.precision,
        wanted.depthwise,
        wanted.banks,
    )
    return same and held.resident


def fetch_features(memory: AddressSpace, buffers: Buffers, front: Front, task: str) -> Numbers:
    """Features of a task, (height, width, channels), from memory or as the task before left them (DATA_REUSE)."""
    features = front.features
    if features.reuse:
        if buffers.features is None or buffers.features[0] != features.geometry:
            raise SimulatorError(
                f"{task}: CNA.CBUF_CON0.data_reuse = 1: the CBUF does not hold a feature window of this geometry from "
                "the task before in the same job (S-75, S-76)"
            )
        return buffers.features[1]()
    numbers = fetch.read_features(memory, features, task)
    buffers.features = (features.geometry, lambda: numbers)
    return numbers


@dataclass(frozen=True, eq=False)
class Convolution:
    """CNA -> CORE -> DPU."""

    front: Front
    core: core.Core
    dpu: dpu.Dpu
    reader: Reader | None
    options: Options
    product: bool = False  # a matrix product whose sums are worked out by the fast path

    def run(self, memory: AddressSpace, buffers: Buffers, task: str) -> None:
        writer.check_mapped(memory, self.dpu.writer, task)
        kernels = buffers.fetch_kernels(memory, self.front.weights, task)
        numbers = fetch_features(buffers.seen(memory), buffers, self.front, task)
        lane = scale_lane(memory, self.dpu, self.reader, task)
        if self.product:
            sums = products.multiply(numbers, kernels, self.front, self.core)
        else:
            sums = self.accumulate(numbers, kernels.numbers(), lane, task)
        finish(memory, buffers, self.dpu, self.reader, sums, lane, task)

    def accumulate(self, numbers: Numbers, kernels: Numbers, scale_lane: LaneValues, task: str) -> Numbers:
        """What enters the DPU's BS stage, (pixels, channels): the accumulators, CPEND included."""
        front, plan = self.front, self.core
        depthwise, window, precision = front.weights.depthwise, front.window, front.features.precision
        pads = fetch.pad_values(window, front.features, depthwise, self.options, task)
        full = fetch.padded(numbers, front.features, window, (plan.height, plan.width), pads, self.options)
        if not precision.integer:
            return core.accumulate_float(full, kernels, window, plan, depthwise, precision.chunk)
        total = core.accumulate_integer(full, kernels, window, plan, depthwise)
        bits = core.WIDE_ACCUMULATOR_BITS if precision is INT16 else core.ACCUMULATOR_BITS
        pended: Numbers | np.int64 = np.int64(0)
        if self.dpu.pend is not None:
            sums = core.window_sums(full, window, plan, depthwise)
            pended = stages.pend_factor(self.dpu.pend, scale_lane) * sums
            if self.options.short_kernels == "nothing" and not depthwise:  # F-51
                pended[:, len(kernels) :] = 0
        if self.options.truncation == "sum with CPEND":  # F-54
            return core.hand_over(saturate(total, bits) + pended, plan, bits)
        plan = replace(plan, truncate=0) if self.options.truncation == "nothing" else plan
        return saturate(core.hand_over(total, plan, bits) + pended, 32)


@dataclass(frozen=True, eq=False)
class Flying:
    """DPU_RDMA -> DPU, without convolution."""

    dpu: dpu.Dpu
    reader: Reader

    def run(self, memory: AddressSpace, buffers: Buffers, task: str) -> None:
        writer.check_mapped(memory, self.dpu.writer, task)
        buffers.forget()  # the CBUF is not promised to survive another task
        lane = scale_lane(memory, self.dpu, self.reader, task)
        finish(memory, buffers, self.dpu, self.reader, dpu_rdma.read_main(memory, self.reader, task), lane, task)


def scale_lane(memory: AddressSpace, plan: dpu.Dpu, reader: Reader | None, task: str) -> LaneValues:
    """The per-channel operands of BS and CPEND."""
    if reader is None or (plan.scale is None and plan.pend is None):
        return LaneValues()
    return dpu_rdma.read_lane(memory, reader.scale_lane, plan.channels, plan.integer, task)


def finish(
    memory: AddressSpace,
    buffers: Buffers,
    plan: dpu.Dpu,
    reader: Reader | None,
    values: Numbers,
    lane: LaneValues,
    task: str,
) -> None:
    """Operands from memory, the DPU's stages, and the writer."""

    def doubt(text: str, where: Bools) -> None:
        if where.any():
            buffers.warn(text)

    norm_lane = LaneValues()
    operand = None
    if reader is not None:
        if plan.norm is not None:
            norm_lane = dpu_rdma.read_lane(memory, reader.norm_lane, plan.channels, plan.integer, task)
        if plan.elementwise is not None and plan.elementwise.source == "memory":
            operand = dpu_rdma.read_operand(memory, reader, task)
    result = stages.run(values, plan, lane, norm_lane, operand, doubt)
    writer.write(memory, plan.writer, result, task)


def _check_work(regs: TaskRegisters, register: Register, elements: int) -> None:
    """Sizes that this machine could not hold are refused before anything is allocated (F-113)."""
    limit = f"{elements} elements are more than the {LARGEST_WORK} that the simulator holds"
    regs.require(elements <= LARGEST_WORK, register, regs.value(register), limit)


def decode_pass(regs: TaskRegisters, fired: frozenset[str], soc: Soc, options: Options) -> Pass:
    """The pass that the fired blocks make together; raises SimulatorError for a set that is not known to run."""
    if fired not in KNOWN_FIRES:
        names = ", ".join("|".join(sorted(known)) for known in KNOWN_FIRES)
        raise SimulatorError(f"{regs.task}: fire word starts {'|'.join(sorted(fired)) or 'nothing'}: known are {names}")
    if "PPU" in fired:
        pooling = ppu.decode(regs, options)
        _check_work(regs, PPU.DATA_CUBE_OUT_CHANNEL, pooling.elements)
        return pooling
    if "CNA" not in fired:
        plan = dpu.decode(regs, None, None, False, options)
        reader = dpu_rdma.decode(regs, True, False, options)
        dpu.check_operands(regs, plan, reader)
        _check_work(regs, DPU.DATA_CUBE_CHANNEL, plan.width * plan.height * plan.channels)
        flying = Flying(plan, reader)
        return flying if options.plain or not answers.suits(flying) else answers.FastFlying(flying)
    front = cna.decode(regs, soc, options)
    array = core.decode(regs, front, options)
    core.check_pad_lanes(regs, front, array)
    depthwise = front.weights.depthwise
    plan = dpu.decode(regs, array, front.features.precision, depthwise, options)
    reader_or_none = dpu_rdma.decode(regs, False, depthwise, options) if "DPU_RDMA" in fired else None
    dpu.check_operands(regs, plan, reader_or_none)
    _check_work(regs, DPU.DATA_CUBE_CHANNEL, plan.width * plan.height * plan.channels)
    _check_work(
        regs, CORE.DATAOUT_SIZE_0, fetch.padded_elements(front.features, front.window, (plan.height, plan.width))
    )
    product = not options.plain and products.suits(front, array, plan)
    convolution = Convolution(front, array, plan, reader_or_none, options, product)
    if options.plain or not fast.suits(convolution):
        return convolution
    return fast.FastConvolution(convolution)
