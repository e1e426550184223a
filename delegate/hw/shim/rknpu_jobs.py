"""What the vendor's driver keeps: its objects, whose kernel pointers are ids, and its jobs with their fences."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, field

from delegate.hw.shim.memory import Buffer, Domain
from delegate.hw.shim.npu import Chain


@dataclass(eq=False)
class Object:
    """What an obj_addr stands for."""

    buffer: Buffer
    flags: int
    address: int  # the pretended kernel pointer


@dataclass(eq=False)
class Job:
    """A submit: the task range of each of its cores."""

    domain: Domain
    tasks: Object
    chains: dict[int, list[Chain]]  # by core
    waiting: set[int]  # cores that have not come to it yet
    left: set[int]  # cores that have not finished
    changed: asyncio.Event = field(default_factory=asyncio.Event)  # done, hung or dropped
    fence: int | None = None  # a pipe's end: the client's becomes readable when the job is done, or the server gone
    started: int = 0  # ns
    elapsed: int = 0  # ns
    hung: bool = False
    counter: int = 0  # tasks done when it hung
    status: dict[int, int] = field(default_factory=dict)  # by core

    @property
    def done(self) -> bool:
        return not self.left

    def signal(self) -> None:
        """The fence becomes readable."""
        if self.fence is not None:
            with contextlib.suppress(BrokenPipeError):  # nobody has it any more
                os.write(self.fence, b"\0")
            os.close(self.fence)
            self.fence = None

    def forget(self) -> None:
        """A fence that will never be signalled: it stays open as long as the client has it."""
        if self.fence is not None:
            fence, self.fence, loop = self.fence, None, asyncio.get_running_loop()

            def close() -> None:
                loop.remove_reader(fence)
                os.close(fence)

            loop.add_reader(fence, close)
