"""Buffers after a submit beside what they should hold, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from delegate.hw.task import Bytes

SHOWN = 16  # bytes of a difference


@dataclass(frozen=True)
class Check:
    """A buffer after a submit."""

    submit: int
    handle: int
    where: str  # it ran
    source: str  # of what it should hold
    size: int  # bytes
    different: int  # of them
    first: int = 0  # byte that differs
    got: str = ""  # hexadecimal, from there on
    wanted: str = ""

    def __str__(self) -> str:
        what = f"submit {self.submit}, buffer {self.handle} on {self.where}"
        if not self.different:
            return f"{what}: {self.size} bytes as {self.source}"
        return (
            f"{what}: {self.different} of {self.size} bytes NOT as {self.source}; from byte {self.first:#x} on "
            f"{self.got}, should be {self.wanted}"
        )


def checks(
    submit: int, where: str, got: Mapping[int, Bytes], wanted: Mapping[int, Bytes], source: str
) -> Iterator[Check]:
    """Compares buffers by handle; those in ``wanted`` may end with their last byte that is not zero."""
    for handle, content in sorted(wanted.items()):
        held = got[handle]
        full = np.zeros(len(held), np.uint8)
        full[: len(content)] = content[: len(held)]
        wrong = np.flatnonzero(held != full)
        if not wrong.size:
            yield Check(submit, handle, where, source, len(held), 0)
            continue
        first = int(wrong[0])
        texts = [array[first : first + SHOWN].tobytes().hex() for array in (held, full)]
        yield Check(submit, handle, where, source, len(held), wrong.size, first, *texts)
