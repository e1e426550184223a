"""Compiles a model file and shows what became of it."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from delegate import cache
from delegate.compile import compile_graph
from delegate.errors import DelegateError
from delegate.hw.soc import EVERY_FORM
from delegate.hw.task import Program, unproven_tasks
from delegate.partition import partitions, verdicts
from delegate.tflite import read_model


def compile_model(model: Path, output: Path | None, full_chains: bool) -> None:
    """Prints refusals and layers of a model; writes its programs to the folder ``output``. Raises DelegateError."""
    console = Console()
    graph = read_model(model)
    reasons = verdicts(graph, EVERY_FORM)
    for node in graph.nodes:
        for reason in reasons[node.index]:
            console.print(f"CPU: {node.index} {node.op}: {reason}", highlight=False)
    for number, part in enumerate(partitions(graph, reasons)):
        start = time.perf_counter()
        program = compile_graph(part, EVERY_FORM, full_chains)
        milliseconds = 1000 * (time.perf_counter() - start)
        sizes = ", ".join(f"{buffer.role} {buffer.size}" for buffer in program.buffers)
        console.print(
            f"partition {number}: {len(part.nodes)} operations, {len(program.tasks)} tasks, "
            f"{sum(len(job.chains) for job in program.jobs)} chains, compiled in {milliseconds:.0f} ms; bytes: {sizes}",
            highlight=False,
        )
        console.print(layer_table(program))
        for task in unproven_tasks(program):
            console.print(f"a run does not show whether this has run: {task}", highlight=False)
        if output is not None:
            write(program, output / f"{model.stem}.{number}{cache.SUFFIX}")


def layer_table(program: Program) -> Table:
    """A row for each layer."""
    table = Table("layer", "operator", "what", "tasks")
    for number, layer in enumerate(program.layers):
        tasks = sum(task.layer == number for task in program.tasks)
        table.add_row(str(number), f"{layer.node} {layer.operator}", layer.description, str(tasks))
    return table


def write(program: Program, path: Path) -> None:
    """Writes a program file; raises DelegateError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cache.serialize(program))
    except OSError as error:
        raise DelegateError(f"{path}: {error.strerror}") from None
