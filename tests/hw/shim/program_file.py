"""Programs of our compiler as files that clients without our package can run: 64-bit little-endian numbers.

buffers tasks relocations reads writes chains
a buffer:      bytes, 0 or 1 | if 1 its bytes, padded to 8
a task:        words, then the words
a relocation:  task, word, buffer, offset
reads, writes: buffers            (of the one job)
a chain:       first task, tasks
(the first buffer is for the streams, each at the next multiple of 64 bytes)
expected:      after each written buffer's number its bytes, padded to 8
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from every_operator import build
from tflite_writer import write

from delegate.compile import compile_graph
from delegate.hw.device import DeviceJob, DeviceTask, Kernel
from delegate.hw.layout import fill_padding, pack_features
from delegate.hw.sim.device import Simulator
from delegate.hw.soc import FORMS, RK3588, Target
from delegate.hw.task import Program
from delegate.partition import partitions, verdicts
from delegate.tflite import read_graph, read_model

MODELS = Path(__file__).resolve().parents[3] / "models"
ALIGNMENT = 64  # bytes between streams, as the links expect them


def compiled(name: str, kernel: Kernel) -> Program:
    """A model of tests/every_operator.py, or a file's; one partition and one job."""
    target = Target(RK3588, frozenset(FORMS), kernel == "rknpu")  # the vendor's kernel hears of the end of pooling
    graph = read_model(MODELS / name) if name.endswith(".tflite") else read_graph(write(build(name, "int8")))
    (part,) = partitions(graph, verdicts(graph, target))
    program = compile_graph(part, target)
    assert len(program.jobs) == 1
    assert program.buffers[0].role == "regcmd"
    return program


def contents(program: Program) -> list[np.ndarray]:
    """What the buffers hold before the run, random inputs included, uint8 each."""
    random = np.random.default_rng(5)
    found = [
        np.zeros(buffer.size, np.uint8) if buffer.data is None else buffer.data.copy() for buffer in program.buffers
    ]
    for port in program.inputs:
        fill_padding(found[port.buffer], port)
        pack_features(random.integers(-128, 128, port.shape).astype(np.int8).view(port.dtype), found[port.buffer], port)
    return found


def expected(program: Program, before: list[np.ndarray], kernel: Kernel) -> list[np.ndarray]:
    """The written buffers after a run on the simulator, without any kernel between."""
    device = Simulator(kernel=kernel)
    memories = [device.allocate(buffer.size) for buffer in program.buffers]
    for memory, data in zip(memories, before, strict=True):
        memory.view[:] = data
    streams = [task.words.copy() for task in program.tasks]
    for r in program.relocations:
        streams[r.task][r.word] |= np.uint64(memories[r.buffer].address + r.offset << 16)
    offset, tasks = 0, []
    for stream in streams:
        memories[0].view[offset : offset + stream.nbytes] = stream.view(np.uint8)
        tasks.append(DeviceTask(memories[0].address + offset, len(stream)))
        offset += -(-stream.nbytes // ALIGNMENT) * ALIGNMENT
    (job,) = program.jobs
    reads, writes = (tuple(memories[index] for index in indices) for indices in (job.reads, job.writes))
    device.wait(device.submit([DeviceJob(tuple(tasks), job.chains, reads, writes)]), 60)
    after = [memories[index].view.copy() for index in job.writes]
    device.close()
    return after


def numbers(program: Program, kernel: Kernel) -> Iterator[list[int] | np.ndarray]:
    (job,), before = program.jobs, contents(program)
    counts = (program.buffers, program.tasks, program.relocations, job.reads, job.writes, job.chains)
    yield [len(items) for items in counts]
    for data in before:
        yield [len(data), int(data.any())]
        if data.any():
            yield data
    for task in program.tasks:
        yield [len(task.words)]
        yield task.words
    for r in program.relocations:
        yield [r.task, r.word, r.buffer, r.offset]
    yield [*job.reads, *job.writes]
    for chain in job.chains:
        yield [chain.start, len(chain)]
    for index, data in zip(job.writes, expected(program, before, kernel), strict=True):
        yield [index]
        yield data


def write_program(name: str, path: Path, kernel: Kernel = "rocket") -> Path:
    """Writes the program of a small model with what it is to give."""
    with path.open("wb") as file:
        for part in numbers(compiled(name, kernel), kernel):
            raw = np.array(part, np.uint64).tobytes() if isinstance(part, list) else part.tobytes()
            file.write(raw + bytes(-len(raw) % 8))
    return path
