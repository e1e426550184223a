"""A program that uses the delegate while the stand-in's faults come, and counts what each leaves behind."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tflite_writer
from generate import random_weights

from benchmarks import harness
from delegate.devices import POOL
from delegate.errors import DelegateError
from delegate.hw import drm
from delegate.recovery import REPORTS

LIFETIME, RENEWED = 250, 50  # invokes of an interpreter, and under one seed
PATIENCE = 5.0  # seconds for the server to notice that a file was closed
SIZE = (1, 6, 6, 16)


def model() -> bytes:
    """Four convolutions, one of them depthwise, and an addition of two tensors: several tasks in one partition."""
    rng = np.random.default_rng(3)
    builder = tflite_writer.Builder()
    source = builder.tensor(SIZE, "int8", 0.02, 0)

    def layer(tensor: int, kernel: int, scale: float, depthwise: bool = False) -> int:
        weight, zero_point = random_weights(rng, (1 if depthwise else 16, kernel, kernel, 16), "int8")
        bias = rng.integers(-500, 500, 16).astype(np.int32)
        return builder.convolution(
            tensor, weight, 0.01, (scale, 0), weight_zero_point=zero_point, bias=bias, depthwise=depthwise
        )

    first = layer(source, 3, 0.05)
    second = layer(first, 3, 0.1, depthwise=True)
    third = layer(second, 1, 0.2)
    added = builder.add(third, first, (0.3, 0))
    return tflite_writer.write(builder.finish([source], [layer(added, 1, 0.5)]))


CONTENT = model()
INPUTS = np.random.default_rng(4).integers(-128, 128, (8, *SIZE)).astype(np.int8)


def run(interpreter: Any, data: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return harness.infer(interpreter, [data])[0]


def make(**options: str) -> Any:
    made = harness.npu_interpreter(CONTENT, **{"cache_dir": "off", "unproven": "never", **options})
    made.allocate_tensors()
    return made


@contextlib.contextmanager
def stderr_lines() -> Iterator[list[str]]:
    """What is written to stderr, by whatever."""
    found: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile("w+") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield found
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            found += [line for line in file.read().splitlines() if not line.startswith("INFO: ")]


@dataclass
class Left:
    """What there is of a kind when nobody uses the delegate."""

    descriptors: int
    threads: int
    mappings: int  # of buffers, in this process
    buffers: int  # of the server

    @staticmethod
    def now(server: int) -> Left:
        def buffers(process: str | int) -> int:
            return Path(f"/proc/{process}/maps").read_text().count("npu buffer")

        count = len(os.listdir("/proc/self/fd"))
        return Left(count, threading.active_count(), buffers("self"), buffers(server) if server else 0)


@dataclass
class Outcome:
    """What became of a case: results right, wrong or an error's text, in order; lines for the user; what is left."""

    results: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    left: str = ""  # what there is more or less of than before
    calls: int = 0  # of the device, by the stand-in's log


class Client:
    """One kernel's device under faults that are written to a file."""

    def __init__(self, device: str, rules: Path, server: int) -> None:
        self.device, self.server = device, server
        self._rules = rules
        self._count = 0
        drm.INTERRUPTIONS = 50
        expected = make(device="simulator", kernel=device)
        self.wanted = [run(expected, data) for data in INPUTS]
        del expected
        make(device=device)
        self.clean()
        gc.freeze()  # what the imports made is not looked at again
        self.before = Left.now(server)

    def set(self, rules: str) -> None:
        """Puts rules in force; counts begin anew, for each file is another."""
        self._count += 1
        new = self._rules.with_suffix(".new")
        new.write_text(f"{rules}\n#{self._count}\n")
        new.rename(self._rules)

    def clean(self) -> None:
        """Gives back what interpreters shared."""
        gc.collect()
        POOL.close()
        REPORTS.forget()

    def invoke(self, interpreter: Any, number: int) -> str:
        """ "right", "wrong", or the message of an error."""
        try:
            got = run(interpreter, INPUTS[number])
        except (RuntimeError, ValueError, DelegateError) as error:
            return str(error)
        return "right" if np.array_equal(got, self.wanted[number]) else "wrong"

    def case(self, rules: str, phase: str, **options: str) -> Outcome:
        """Faults from a phase on (load, first, steady), over two invokes and, for the phase "load", the end."""
        outcome, before = Outcome(), self.calls()
        with stderr_lines() as outcome.lines:
            self._case(outcome.results, rules, phase, options)
        self.set("")
        outcome.left = self.left()
        self.clean()
        outcome.left = outcome.left or self.left(self.before)
        outcome.calls = self.calls() - before
        return outcome

    def calls(self) -> int:
        """Calls that the log has so far."""
        lines = Path(os.environ["TEFLON_SHIM_LOG"]).read_text().splitlines()
        return sum(" close(" not in line and " # " not in line for line in lines)

    def left(self, wanted: Left | None = None) -> str:
        """What is left that should not be: buffers, or whatever there was not before."""
        deadline = time.monotonic() + PATIENCE
        while True:
            now = Left.now(self.server)
            if now == wanted or (wanted is None and not now.buffers and not now.mappings):
                return ""
            if time.monotonic() > deadline:
                return f"{self.before} -> {now}"
            time.sleep(0.002)

    def _case(self, results: list[str], rules: str, phase: str, options: dict[str, str]) -> None:
        if phase == "load":
            self.set(rules)
        try:
            interpreter = make(device=self.device, **options)
        except (RuntimeError, ValueError, DelegateError) as error:
            results.append(str(error))
            return
        if phase == "steady":
            assert [self.invoke(interpreter, number) for number in (0, 1)] == ["right"] * 2
        if phase != "load":
            self.set(rules)
        results += [self.invoke(interpreter, number) for number in (2, 3)]
        if phase != "load":
            self.set("")
            results.append(self.invoke(interpreter, 4))

    def soak(self, rules: str, invokes: int, seed: int) -> Outcome:
        """Invokes under faults by chance; now and then a lost device comes back, and another interpreter is made."""
        outcome = Outcome()
        counts: Counter[str] = Counter()
        with stderr_lines() as outcome.lines:
            for number in range(invokes):
                if number % LIFETIME == 0:
                    interpreter = None
                    interpreter = make(device=self.device)
                if number % RENEWED == 0:
                    self.set(f"seed={seed + number}; {rules}")
                counts[self.invoke(interpreter, number % len(INPUTS))] += 1
            interpreter = None
        outcome.results = [f"{count} {text}" for text, count in counts.items()]
        self.set("")
        self.clean()
        outcome.left = self.left(self.before)
        return outcome


def main() -> None:
    """Arguments: kernel, file of rules, server's process, cases as JSON; prints their outcomes as JSON.

    A case without a phase is a soak.
    """
    client = Client(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    for case in json.loads(sys.argv[4]):
        outcome = (client.case if "phase" in case else client.soak)(**case)
        print(json.dumps(asdict(outcome)), flush=True)


if __name__ == "__main__":
    main()
