"""Probes of what is around the stages: the order of chained tasks, the PPU, and its interrupt."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from delegate.hw.regs import PPU
from delegate.hw.task import Place
from delegate.tools.probe.arithmetic import drawn
from delegate.tools.probe.judge import WRONG, Finding, Ints, Known, clipped, divided, wrapped
from delegate.tools.probe.places import data_of
from delegate.tools.probe.programs import ATOM, GROUP, diagonal, direct, laid_out, pooled, stream
from delegate.tools.probe.rig import INPUT, OUTPUT, UNWRITTEN, Job, Rig

ROUNDS = 64  # of the chain; the sibling chip showed stale pixels in 1 to 10 % of runs (S-212)
SLOW = 0.4  # seconds that a job of some pixels takes only if the kernel's half second ends it (S-195)
Q16 = 1 << 16


@dataclass(frozen=True)
class ChainOrder:
    """A tiny task and its reader in one chain, again and again: four pixels, so that the first has hardly begun."""

    rounds: int = ROUNDS

    def ask(self, rig: Rig) -> Finding:
        stale, doubtful, last = 0, 0, b""
        unwritten = np.uint8(UNWRITTEN)
        for round_ in range(self.rounds):
            job, right = self.job(round_)
            answer = rig.run(job)
            if answer.output is None:
                return Finding(None, (None,), answer.error)
            wrong = answer.output != right
            if not wrong.any():
                continue
            last = answer.output.tobytes()
            stale += 1
            doubtful += bool((answer.output[wrong] != unwritten).any())
        if doubtful:
            return Finding(None, (last,), f"{doubtful} of {self.rounds} runs are wrong in another way")
        note = f"{stale} of {self.rounds} runs read what lay there before"
        return Finding("stale" if stale else "in order", (last,) if stale else (), note)

    @staticmethod
    def job(seed: int) -> tuple[Job, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
        """Two convolutions that copy; the second reads what the first writes."""
        height, width = 4, 1
        values = drawn(100 + seed, (height, width, GROUP))
        values[values == np.int8(np.uint8(UNWRITTEN).view(np.int8))] = 0
        first = direct(diagonal(), (height, width), (height, width))
        second = replace(first, feature=Place(OUTPUT, 0), output=Place(OUTPUT, values.size))
        right = laid_out(values)
        job = Job((stream(first), stream(second)), data_of(laid_out(values), diagonal()), 2 * values.size, chained=True)
        return job, np.concatenate((right, right))


def windows(size: tuple[int, int]) -> tuple[Job, Ints]:
    """Maxima over 2 x 2 windows of two rows, and what they are."""
    _, columns = size
    values = drawn(columns, (2, columns + 1, ATOM))
    tile = pooled((2, columns + 1), (1, columns), (2, 2), (1, 1))
    largest = np.maximum(values[:, :-1], values[:, 1:]).max(axis=0, keepdims=True)
    return Job((stream(tile),), {INPUT: laid_out(values)}, columns * ATOM), largest


@dataclass(frozen=True)
class PoolingInterrupt:
    """Whether a pooling task takes a moment or as long as the watchdog lets it; twice, for a busy machine."""

    def ask(self, rig: Rig) -> Finding:
        job, largest = windows((1, 8))
        answers = [rig.run(job) for _ in range(2)]
        output = answers[0].output
        observed = (None if output is None else output.tobytes(),)
        seconds = min(answer.seconds for answer in answers)
        note = f"the job took {seconds:.3f} s"
        if output is None:
            # A kernel that waits for the interrupt of a task says so in the end.
            said = answers[0].error
            return Finding("silent" if "has written nothing" not in said else None, observed, said)
        if not np.array_equal(output, laid_out(largest)):
            return Finding(None, observed, note)
        return Finding("silent" if seconds >= SLOW else "signalled", observed, note)


def pooling_width() -> Known:
    (narrow, left), (wide, right) = windows((1, 100)), windows((1, 160))
    return Known((narrow, wide), {"yes": (laid_out(left), laid_out(right)), "no": (laid_out(left), WRONG)})


def averaging(sums: Ints, kernel: tuple[int, int], reciprocals: tuple[int, int]) -> Job:
    """Averages over windows beside each other; ``sums`` (windows, 16), each of numbers as equal as can be."""
    count, taps = len(sums), kernel[0] * kernel[1]
    least, rest = np.divmod(sums, taps)
    window = least[:, None] + (np.arange(taps)[None, :, None] < rest[:, None])  # (windows, taps, 16)
    rows = window.reshape(count, *kernel, ATOM).transpose(1, 0, 2, 3).reshape(kernel[0], -1, ATOM)
    tile = pooled((kernel[0], count * kernel[1]), (1, count), kernel, kernel)
    changes = {
        PPU.OPERATION_MODE_CFG: {"pooling_method": 0},
        PPU.RECIP_KERNEL_HEIGHT: {"recip_kernel_height": reciprocals[0]},
        PPU.RECIP_KERNEL_WIDTH: {"recip_kernel_width": reciprocals[1]},
    }
    return Job((stream(tile, changes),), {INPUT: laid_out(rows)}, count * ATOM)


def by_reciprocals(sums: Ints, kernel: tuple[int, int]) -> Ints:
    return divided(sums * (Q16 // kernel[0]) * (Q16 // kernel[1]), 32, "even")


def by_cases(sums: Ints, kernel: tuple[int, int]) -> Ints:
    """S-132 for an odd number of taps, of which no sum is a tie."""
    count = kernel[0] * kernel[1]
    result: Ints = np.sign(sums) * ((2 * np.abs(sums) + count) // (2 * count))
    return result


def average_rounding() -> Known:
    kernel, count = (3, 11), 16
    every = np.arange(-128 * 33, 127 * 33 + 1)
    differ = every[by_reciprocals(every, kernel) != by_cases(every, kernel)]
    sums = np.concatenate((differ, drawn(50, (count * ATOM,), every[0], every[-1])))[: count * ATOM].reshape(
        count, ATOM
    )
    job = averaging(sums, kernel, (Q16 // kernel[0], Q16 // kernel[1]))
    expected = {"reciprocals": by_reciprocals(sums, kernel), "cases": by_cases(sums, kernel)}
    return Known((job,), {name: (laid_out(numbers[None]),) for name, numbers in expected.items()})


def average_overflow() -> Known:
    kernel, reciprocals = (2, 2), (Q16 // 2, Q16 * 2 // 3)
    sums = 4 * np.resize(np.array([127, -128, 100, -100, 5]), (4, ATOM))
    numbers = divided(sums * reciprocals[0] * reciprocals[1], 32, "even")
    expected = {"clamps": clipped(numbers), "wraps": wrapped(numbers)}
    job = averaging(sums, kernel, reciprocals)
    return Known((job,), {name: (laid_out(found[None]),) for name, found in expected.items()})
