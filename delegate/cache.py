"""Compiled programs on disk: keyed by content, checksummed, written atomically, bounded in size, never trusted.

A file is magic, sha256 of the rest, length of the header, header (JSON), arrays. Whatever is wrong with it, the answer
is "not cached" with a reason, and the program is compiled again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, astuple
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.cores import Division
from delegate.errors import DelegateError
from delegate.hw.soc import Target
from delegate.hw.task import Buffer, Exchange, Job, Layer, Port, Program, Relocation, Task, check
from delegate.ir import Graph

MAGIC = b"TEFLONC2"
SUFFIX = ".program"
DIGEST_BYTES = 32
# What decides on a program's words, relative to the package: any change makes old entries stale.
COMPILER_SOURCES = ("*.py", "ops/*.py", "hw/*.py", "hw/emit/*.py", "hw/regs/*.py")


class CacheError(DelegateError):
    """An entry cannot be read or written; the message says why."""


@cache
def compiler_digest() -> str:
    """A digest of the compiler's sources: the version of what it emits."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for pattern in COMPILER_SOURCES for path in package.glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def key(graph: Graph, target: Target, full_chains: bool, division: Division | None = None) -> str:
    """The name of a graph's program: everything that the words depend on."""
    digest = hashlib.sha256()
    tensors = {tensor.index: tensor for node in graph.nodes for tensor in (*node.inputs, *node.outputs) if tensor}
    description = {
        "compiler": compiler_digest(),
        "soc": target.soc.name,
        "target": [sorted(target.forms), target.signals_pooling, target.converter_only],
        "full_chains": full_chains,
        "division": repr(division),
        "inputs": graph.inputs,
        "outputs": graph.outputs,
        "nodes": [
            [
                node.index,
                node.op,
                [t.index if t else -1 for t in node.inputs],
                [t.index for t in node.outputs],
                dict(node.params),
            ]
            for node in graph.nodes
        ],
        "tensors": [
            [
                t.index,
                t.shape,
                t.dtype,
                [t.quant.scale.tolist(), t.quant.zero_point.tolist(), t.quant.axis] if t.quant else None,
            ]
            for t in tensors.values()
        ],
    }
    digest.update(json.dumps(description, sort_keys=True).encode())
    for tensor in tensors.values():
        if tensor.data is not None:
            digest.update(np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()


def serialize(program: Program) -> bytes:
    """A program as bytes; deserialize() is the way back."""
    arrays: list[npt.NDArray[Any]] = [
        np.array([[r.task, r.word, r.buffer, r.offset] for r in program.relocations], "<i8"),
        np.array([astuple(exchange) for exchange in program.exchanges], "<i8"),
    ]
    arrays += [task.words for task in program.tasks]
    arrays += [buffer.data for buffer in program.buffers if buffer.data is not None]
    header = {
        "soc": program.soc,
        "buffers": [[b.name, b.size, b.role, b.data is not None] for b in program.buffers],
        "jobs": [
            {
                "tasks": [[task.layer, len(task.words)] for task in job.tasks],
                "chains": [[chain.start, chain.stop] for chain in job.chains],
                "reads": job.reads,
                "writes": job.writes,
                "stage": job.stage,
                "core": job.core,
            }
            for job in program.jobs
        ],
        "relocations": len(program.relocations),
        "copies": program.copies,
        "exchanges": len(program.exchanges),
        "inputs": [asdict(port) for port in program.inputs],
        "outputs": [asdict(port) for port in program.outputs],
        "layers": [asdict(layer) for layer in program.layers],
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join([len(text).to_bytes(8, "little"), text, *(array.tobytes() for array in arrays)])
    return MAGIC + hashlib.sha256(body).digest() + body


def deserialize(data: bytes) -> Program:
    """The program of a file's bytes; raises CacheError, whatever the bytes are."""
    if data[: len(MAGIC)] != MAGIC:
        raise CacheError("not a program of this version")
    start = len(MAGIC) + DIGEST_BYTES
    body = memoryview(data)[start:]
    if hashlib.sha256(body).digest() != data[len(MAGIC) : start]:
        raise CacheError("truncated or damaged: the checksum does not match")
    try:
        program = _program(body)
        check(program)
    except (ValueError, KeyError, TypeError, IndexError, DelegateError) as error:
        raise CacheError(f"malformed: {error}") from None
    return program


def _program(body: memoryview) -> Program:
    length = int.from_bytes(body[:8], "little")
    header = json.loads(bytes(body[8 : 8 + length]))
    position = 8 + length

    def take(count: int, dtype: str) -> npt.NDArray[Any]:
        nonlocal position
        array = np.frombuffer(body, dtype, count, position)
        position += array.nbytes
        return array

    table = take(4 * int(header["relocations"]), "<i8").reshape(-1, 4)
    moves = take(6 * int(header["exchanges"]), "<i8").reshape(-1, 6)
    jobs = [
        Job(
            tasks=tuple(Task(take(int(count), "<u8"), int(layer)) for layer, count in job["tasks"]),
            chains=tuple(range(int(start), int(stop)) for start, stop in job["chains"]),
            reads=tuple(int(index) for index in job["reads"]),
            writes=tuple(int(index) for index in job["writes"]),
            stage=int(job["stage"]),
            core=int(job["core"]),
        )
        for job in header["jobs"]
    ]
    buffers = [
        Buffer(str(name), int(size), role, take(int(size), "u1") if filled else None)
        for name, size, role, filled in header["buffers"]
    ]
    if position != len(body):
        raise CacheError(f"{len(body) - position} bytes too many")
    return Program(
        soc=str(header["soc"]),
        buffers=tuple(buffers),
        jobs=tuple(jobs),
        relocations=tuple(Relocation(*map(int, row)) for row in table.tolist()),
        inputs=tuple(_port(port) for port in header["inputs"]),
        outputs=tuple(_port(port) for port in header["outputs"]),
        layers=tuple(Layer(**layer) for layer in header["layers"]),
        copies=int(header["copies"]),
        exchanges=tuple(Exchange(*map(int, row)) for row in moves.tolist()),
    )


def _port(fields: dict[str, Any]) -> Port:
    return Port(**{**fields, "shape": tuple(int(size) for size in fields["shape"])})


def load(folder: Path, name: str) -> Program | None:
    """The program of a key, or None if there is no such entry; raises CacheError for one that is not sound."""
    path = folder / (name + SUFFIX)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CacheError(f"{path}: {error.strerror}") from None
    try:
        program = deserialize(data)
    except CacheError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise CacheError(f"{path}: {error}") from None
    with contextlib.suppress(OSError):
        os.utime(path)  # the oldest are deleted first
    return program


def store(folder: Path, name: str, program: Program, limit: int) -> None:
    """Writes an entry in one step; deletes the least recently used ones beyond ``limit`` bytes. Raises CacheError."""
    data = serialize(program)
    if len(data) > limit:
        raise CacheError(f"program of {len(data)} bytes exceeds the cache's limit of {limit} bytes")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=name[:16], suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, folder / (name + SUFFIX))
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _evict(folder, limit)
    except OSError as error:
        raise CacheError(f"cache folder {folder}: {error.strerror}") from None


def _evict(folder: Path, limit: int) -> None:
    total = 0
    for _, size, path in sorted(_entries(folder), reverse=True):
        total += size
        if total > limit:
            with contextlib.suppress(OSError):
                path.unlink()


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """(time of last use, bytes, path) of each entry."""
    for path in folder.glob("*" + SUFFIX):
        with contextlib.suppress(OSError):  # another process may just have deleted it
            status = path.stat()
            yield status.st_mtime, status.st_size, path
