"""What it costs to see of every task that it has run (option verify): memory, calls, bytes synchronized, and time.

Both ways run in one process, an invoke of each in turn, so that their ratio says more than either time.

examples:
  python -m benchmarks.verify models/mobilenet_digits.tflite
  delegate-shim -- python -m benchmarks.verify models/mobilenet_digits.tflite --device rocket
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import harness
from delegate import canary
from delegate.compile import compile_graph
from delegate.errors import DelegateError
from delegate.hw.soc import RK3588, Target
from delegate.hw.task import Program, unproven_tasks
from delegate.options import VERIFY
from delegate.partition import partitions, verdicts
from delegate.tflite import read_model

PROVEN = Target(RK3588)


def synchronized(program: Program) -> list[int]:
    """Bytes of each buffer that is shown to the NPU before a run, or to the host behind it."""
    ports = [{port.buffer for port in ports} for ports in (program.inputs, program.outputs)]
    reads = {*canary.places(program)[1][0], *ports[1]}
    return [program.buffers[index].size for index in (*(reads | ports[0]), *reads)]


def seconds(interpreters: Sequence[object], runs: int) -> list[float]:
    """Median time of an invoke of each."""
    times: list[list[float]] = [[] for _ in interpreters]
    inputs = harness.random_inputs(interpreters[0], np.random.default_rng(1))
    for _ in range(runs + 1):
        for own, interpreter in zip(times, interpreters, strict=True):
            start = time.perf_counter()
            harness.infer(interpreter, inputs)
            own.append(time.perf_counter() - start)
    return [median(own[1:]) for own in times]


def report(path: Path, device: str, runs: int) -> str:
    """A row of the table; raises DelegateError."""
    graph = read_model(path)
    parts = partitions(graph, verdicts(graph, PROVEN))
    both = [[compile_graph(part, PROVEN, witnessed=verify == "tasks") for part in parts] for verify in VERIFY]
    memory = [sum(buffer.size for program in programs for buffer in program.buffers) for programs in both]
    syncs = [[size for program in programs for size in synchronized(program)] for programs in both]
    tasks = sum(len(program.tasks) for program in both[0])
    without = sum(len(unproven_tasks(program)) for program in both[0])
    content = path.read_bytes()
    options = {"device": device, "unproven": "never", "fallback": "error"}
    interpreters = [harness.npu_interpreter(content, verify=verify, **options) for verify in VERIFY]
    for interpreter in interpreters:
        interpreter.allocate_tensors()
    times = seconds(interpreters, runs)
    return (
        f"| {path.stem} | {tasks} | {without} | {memory[0] / 1e6:.1f} / {memory[1] / 1e6:.1f} = "
        f"{memory[0] / memory[1]:.2f} | {len(syncs[0])} / {len(syncs[1])} | "
        f"{sum(syncs[0]) / 1e6:.2f} / {sum(syncs[1]) / 1e6:.2f} | "
        f"{1e3 * times[0]:.1f} / {1e3 * times[1]:.1f} = {times[0] / times[1]:.3f} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL")
    parser.add_argument("--device", default="simulator", help="a device of the delegate (simulator)")
    parser.add_argument("--runs", type=int, default=21, help="invokes of each way (21)")
    given = parser.parse_args(arguments)
    print("| model | tasks | unproven | device memory, MB | calls | MB synchronized | invoke, ms |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for path in given.models:
        try:
            print(report(path, given.device, given.runs), flush=True)
        except (DelegateError, OSError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
