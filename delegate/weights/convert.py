"""From a checkpoint to a file of packed weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from delegate.errors import ModelError
from delegate.hw.task import Bytes
from delegate.matmul import pack
from delegate.weights.checkpoint import Entry, digest_of, entries_of, open_checkpoint
from delegate.weights.packed import PART_DEPTH, Block, Description, Stored, describe
from delegate.weights.source import Array, Source
from delegate.weights.writer import Made, write_packed


def description_of(source: Source, entries: list[Entry]) -> Description:
    """The description of the file that a checkpoint becomes."""
    model: dict[str, Any] = {
        "architecture": "other" if source.llama is None else "llama",
        "source": {"name": source.path.name, "format": source.format, "sha256": digest_of(source)},
    }
    if source.llama is not None:
        model["sizes"] = source.llama.as_json()
    return describe(model, [(entry.name, entry.kind, entry.shape) for entry in entries])


def convert(
    path: Path,
    output: Path,
    begin: Callable[[Description], Callable[[int, bool], None]] = lambda description: lambda size, made: None,
) -> Description:
    """Converts a checkpoint; ``begin`` is told what will be written, and gives what hears of each block (writer.py).

    Raises ModelError for a checkpoint that is damaged, has NaN, or weights beyond fp16, and for an output that cannot
    be written; no file is left then.
    """
    source = open_checkpoint(path)
    entries = entries_of(source)
    description = description_of(source, entries)
    write_packed(output, description, _makers(path, entries, description), begin(description))
    return description


def _makers(path: Path, entries: list[Entry], description: Description) -> Iterator[Made]:
    """One a block; a tensor is in memory while its blocks are made, and no longer."""
    for entry, stored in zip(entries, description.tensors, strict=True):
        read = lru_cache(maxsize=1)(entry.read)  # one reading for all blocks of a matrix
        for block in stored.blocks:
            yield partial(_made, path, stored, block, read)


def _made(path: Path, stored: Stored, block: Block, read: Callable[[], Array]) -> Bytes:
    values = read()
    with np.errstate(over="ignore"):
        converted = values.astype(stored.element)
    if not np.isfinite(converted).all():
        largest = float(np.abs(values).max())
        raise ModelError(f"{path}: {stored.name} has weights up to {largest:g}, more than fp16 holds (65504)")
    if stored.kind == "matrix":
        return pack(np.ascontiguousarray(converted[:, block.columns.start : block.columns.stop]), PART_DEPTH)
    return np.ascontiguousarray(converted).reshape(-1).view(np.uint8) if converted.size else np.zeros(1, np.uint8)
