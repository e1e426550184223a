"""CORE: the MAC array and its accumulators.

Plain models: integers are summed exactly; floats are summed exactly in groups of one chunk of input channels, each
group rounded once to single, and the groups added in single in the order the kernels are stored (S-66). The rare low
results of one lane in 16 (S-67) are not modelled (F-58).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delegate.hw.regs import CORE
from delegate.hw.sim import settings
from delegate.hw.sim.cna import Front, Window
from delegate.hw.sim.fetch import pad_extent
from delegate.hw.sim.numbers import Floats, Ints, Numbers, round_shift, saturate
from delegate.hw.sim.options import Options
from delegate.hw.sim.precision import INT8
from delegate.hw.sim.registers import TaskRegisters

ACCUMULATOR_BITS = 34  # int8 and int4 (npu.md §1, F-56); int16 has 48
WIDE_ACCUMULATOR_BITS = 48
CLOCK_HZ = 1_000_000_000  # the highest clock: what takes longer than the watchdog here does so on any board
WATCHDOG_SECONDS = 0.5  # of a job (S-195)


@dataclass(frozen=True)
class Core:
    """The CORE's part of a task: true sizes."""

    height: int
    width: int
    channels: int  # whole groups, padded
    quantized: bool  # QD_EN
    truncate: int  # right shift of the accumulators
    away_from_zero: bool


def decode(regs: TaskRegisters, front: Front, options: Options) -> Core:
    """The CORE's plan; raises SimulatorError where it contradicts the CNA."""
    settings.check_core(regs)
    misc, size = regs[CORE.MISC_CFG], regs[CORE.DATAOUT_SIZE_0]
    precision = front.features.precision
    match = misc["proc_precision"] == precision.code
    regs.require(match, CORE.MISC_CFG, f"precision {misc['proc_precision']}", f"the CNA's {precision.code}")
    match = bool(misc["dw_en"]) == front.weights.depthwise
    regs.require(match, CORE.MISC_CFG, f"dw_en {misc['dw_en']}", "set exactly for the CNA's depthwise mode")
    height, width = size["dataout_height"] + 1, size["dataout_width"] + 1
    match = width == front.output_width
    regs.require(match, CORE.DATAOUT_SIZE_0, f"width {width}", f"the CNA's output width {front.output_width}")
    atoms = front.output_atoms
    regs.require(height * width == atoms, CORE.DATAOUT_SIZE_0, f"{height} x {width}", f"the CNA's {atoms} atomics")
    clip = regs[CORE.CLIP_TRUNCATE]
    core = Core(
        height,
        width,
        regs[CORE.DATAOUT_SIZE_1]["dataout_channel"] + 1,
        bool(misc["qd_en"]),
        clip["clip_truncate"],
        bool(clip["round_type"]),
    )
    _check_reach(regs, front, core)
    _check_groups(regs, front, core, options)
    _check_time(regs, front, core)
    return core


def _check_reach(regs: TaskRegisters, front: Front, core: Core) -> None:
    """Each window must touch the input: an output larger than that is a size that belongs to another input (F-50)."""
    window, features = front.window, front.features
    for axis, (out, extent, name) in enumerate(
        ((core.height, features.height, "height"), (core.width, features.width, "width"))
    ):
        surface = (extent - 1) * window.upsampling[axis] + 1
        first = (out - 1) * window.stride[axis] - window.padding[axis]
        limit = f"the last window starts at {first} of {surface} pixels of input"
        regs.require(first < surface, CORE.DATAOUT_SIZE_0, f"{name} {out}", limit)
        reach = (window.kernel[axis] - 1) * window.dilation[axis] + 1
        if window.padding[axis] >= reach:
            regs.warn(f"the first windows of the {name} lie wholly in padding: a kernel of another orientation?")
    last = (core.width - 1) * window.stride[1] + (window.kernel[1] - 1) * window.dilation[1] - window.padding[1]
    limit = f"the windows reach column {last}, of {features.declared_width} only {features.width} are fetched"
    inside = features.width == features.declared_width or last < features.width
    regs.require(inside, CORE.DATAOUT_SIZE_0, f"width {core.width}", limit)


def check_pad_lanes(regs: TaskRegisters, front: Front, core: Core) -> None:
    """int8 depthwise pads that differ between the two lowest bytes mean two things in two sources (F-30)."""
    features, window = front.features, front.window
    if features.precision is not INT8 or not front.weights.depthwise:
        return
    *_, below, right = pad_extent(features, window, (core.height, core.width))
    low, second = window.pad_value & 0xFF, window.pad_value >> 8 & 0xFF
    if low != second and max(*window.padding, below, right) > 0:
        regs.warn(f"CNA.PAD_CON1 = {window.pad_value:#x}: unequal lanes in a depthwise convolution (S-36)")


def _check_groups(regs: TaskRegisters, front: Front, core: Core, options: Options) -> None:
    """CHANNEL is whole groups (S-190, S-191, F-52) and holds all kernels, not more than the last group is short of."""
    precision, weights = front.features.precision, front.weights
    group = precision.depthwise_group if weights.depthwise else precision.kernel_group
    whole = core.channels % group == 0 or options.part_of_group == "completes"
    limit = f"a multiple of {group}: a part of a group never completes (S-190)"
    regs.require(whole, CORE.DATAOUT_SIZE_1, core.channels, limit)
    count = weights.channels if weights.depthwise else weights.kernels
    limit = f"at least the {count} {'channels' if weights.depthwise else 'kernels'} of the task"
    regs.require(core.channels >= count, CORE.DATAOUT_SIZE_1, core.channels, limit)


def _check_time(regs: TaskRegisters, front: Front, core: Core) -> None:
    """A task that needs longer than the watchdog allows even at the highest clock never completes (S-195, F-16)."""
    precision, window = front.features.precision, front.window
    depth = 1 if front.weights.depthwise else -(-front.features.channels // precision.chunk)
    group = precision.depthwise_group if front.weights.depthwise else precision.kernel_group
    steps = core.height * core.width * window.kernel[0] * window.kernel[1] * depth * -(-core.channels // group)
    limit = f"{steps} MAC cycles are more than the {WATCHDOG_SECONDS} s of the watchdog"
    regs.require(steps <= CLOCK_HZ * WATCHDOG_SECONDS, CORE.DATAOUT_SIZE_0, f"{core.height} x {core.width}", limit)


def taps(full: Numbers, window: Window, core: Core) -> Iterator[tuple[int, int, Numbers]]:
    """For each tap of the kernel (ky, kx): what it sees of the padded features, (pixels, channels)."""
    for ky in range(window.kernel[0]):
        for kx in range(window.kernel[1]):
            y, x = ky * window.dilation[0], kx * window.dilation[1]
            rows = slice(y, y + (core.height - 1) * window.stride[0] + 1, window.stride[0])
            columns = slice(x, x + (core.width - 1) * window.stride[1] + 1, window.stride[1])
            yield ky, kx, full[rows, columns].reshape(core.height * core.width, -1)


def accumulate_integer(full: Ints, kernels: Ints, window: Window, core: Core, depthwise: bool) -> Ints:
    """Exact sums, (pixels, core.channels); channels without a kernel are 0 (F-51)."""
    out = np.zeros((core.height * core.width, core.channels), np.int64)
    for ky, kx, seen in taps(full, window, core):
        if depthwise:
            out[:, : kernels.shape[3]] += seen * kernels[0, ky, kx]
        else:
            out[:, : kernels.shape[0]] += np.einsum("pc,kc->pk", seen, kernels[:, ky, kx])
    return out


def window_sums(full: Ints, window: Window, core: Core, depthwise: bool) -> Ints:
    """The sum of the window's input for CPEND, (pixels, core.channels): all programmed channels (S-27), or its own
    channel for depthwise."""
    out = np.zeros((core.height * core.width, core.channels), np.int64)
    for _, _, seen in taps(full, window, core):
        if depthwise:
            out[:, : seen.shape[1]] += seen
        else:
            out += seen.sum(axis=1, keepdims=True)
    return out


def hand_over(sums: Ints, core: Core, bits: int) -> Ints:
    """Accumulators to the DPU: shift by CLIP_TRUNCATE (F-53), then saturate to 32 bits."""
    return saturate(round_shift(saturate(sums, bits), core.truncate, core.away_from_zero), 32)


def accumulate_float(full: Floats, kernels: Floats, window: Window, core: Core, depthwise: bool, chunk: int) -> Floats:
    """Single-precision sums, (pixels, core.channels). Depthwise adds tap by tap in single (F-55)."""
    out = np.zeros((core.height * core.width, core.channels), np.float32)
    seen = list(taps(full, window, core))
    if depthwise:
        for ky, kx, values in seen:
            out[:, : kernels.shape[3]] += values * kernels[0, ky, kx]
        return out
    for first in range(0, kernels.shape[3], chunk):
        part = slice(first, first + chunk)
        for ky, kx, values in seen:
            out[:, : kernels.shape[0]] += exact_products(values[:, part], kernels[:, ky, kx, part])
    return out


@np.errstate(all="ignore")
def exact_products(left: Floats, right: Floats) -> Floats:
    """left (p, n) times right (k, n) transposed: each sum of n products exact, rounded once to single (S-66, F-57).

    A double sum that is not near the middle between two singles rounds to the right one; the others are summed with
    an error term. Sums that are not finite are IEEE's (nobody measured them).
    """
    a, b = left.astype(np.float64), right.astype(np.float64)
    total = a @ b.T
    slack = (np.abs(a) @ np.abs(b).T) * (left.shape[1] * 2.0**-52)
    rounded = total.astype(np.float32)
    unsure = ((total - slack).astype(np.float32) != (total + slack).astype(np.float32)) & np.isfinite(total)
    if unsure.any():
        at, to = np.nonzero(unsure)
        rounded[at, to] = exact_sums(a[at] * b[to])
    return rounded


def exact_sums(terms: npt.NDArray[np.float64]) -> Floats:
    """Rows of doubles (n, count) summed exactly and rounded once to single, ties to even.

    The running error of each addition is exact (two-sum); the errors of products of halves add up without loss, so
    total + error is the exact sum. Rounding to odd before narrowing avoids a double rounding.
    """
    total = np.zeros(terms.shape[0])
    error = np.zeros(terms.shape[0])
    for column in terms.T:
        new = total + column
        seen = new - total
        error += (total - (new - seen)) + (column - seen)
        total = new
    high = total + error
    low = (total - (high - (high - total))) + (error - (high - total))
    bits = high.view(np.int64).copy()
    inexact = (low != 0) & np.isfinite(high)
    opposite = inexact & (np.signbit(low) != np.signbit(high))
    bits -= opposite
    bits |= inexact
    return bits.view(np.float64).astype(np.float32)
