"""Golden streams with a field changed: refused, or run to some result; never anything else, and in bounded time."""

from __future__ import annotations

import contextlib
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from delegate.errors import DelegateError, RegisterError
from delegate.hw.registers import lookup, split, word
from delegate.tools.capture import Capture, CaptureTask, load
from delegate.tools.replay import Replay

NAMES = (
    *("sweep/s001", "sweep/s187", "sweep/add02a", "sweep/chain01", "mobiledet2"),
    *("programs/rus-mm_fp16-4x32x16", "programs/ab-ewint_int8_add_8", "programs/ab-pool_max_9x7"),
    *("programs/rus-act_tanh_64", "programs/rus-mm_int4-4x64x64", "programs/ab-ew_add_131072_chain"),
)
SECONDS = 5.0  # of one run; the largest golden task takes less than a tenth of one


def mutated(capture: Capture, choice: random.Random) -> Capture:
    """A copy in which one field of one word of the first submit has another value."""
    submit = capture.submits[0]
    task = choice.choice(submit.tasks)
    index = choice.randrange(len(task.words))
    target, offset, value = split(int(task.words[index]))
    try:
        bits = choice.choice(list(lookup(target, offset).fields.values()))
        old = (value & bits.mask) >> bits.low
        options = (old + 1, old - 1, old ^ 1 << choice.randrange(bits.width), choice.getrandbits(bits.width))
        value = value & ~bits.mask | (choice.choice(options) << bits.low & bits.mask)
    except RegisterError:
        value ^= 1 << choice.randrange(32)
    words = task.words.copy()
    words[index] = word(target, offset, value)
    other = replace(task, words=words)

    def swap(one: CaptureTask) -> CaptureTask:
        return other if one is task else one

    starts = tuple(tuple(replace(start, task=swap(start.task)) for start in job) for job in submit.starts)
    changed = replace(submit, tasks=tuple(swap(one) for one in submit.tasks), starts=starts)
    return replace(capture, submits=(changed, *capture.submits[1:]))


@pytest.mark.parametrize("name", NAMES)
def test_changed_fields(name: str, shared: Path):
    capture = load(shared / "golden" / name)
    choice = random.Random(name)
    for _ in range(40):
        begin = time.monotonic()
        with contextlib.suppress(DelegateError):
            Replay(mutated(capture, choice), slack=1 << 20).run()
        assert time.monotonic() - begin < SECONDS
