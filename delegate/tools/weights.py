"""``convert-weights`` and ``inspect``: checkpoints of language models as packed weights, and what is in a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from delegate.errors import ModelError
from delegate.weights.checkpoint import open_checkpoint
from delegate.weights.convert import convert
from delegate.weights.packed import Description, PackedWeights, is_packed

Row = dict[str, object]


def convert_weights(path: Path, output: Path, force: bool) -> None:
    """Converts a checkpoint with a progress bar on stderr, and says on stdout what was written."""
    if output.exists() and not force:
        raise ModelError(f"{output} exists; give --force to replace it")
    if output.exists() and path.exists() and output.samefile(path):
        raise ModelError(f"{output} is the checkpoint itself; give the packed file another name")
    if not output.parent.is_dir():
        raise ModelError(f"{output.parent} is no folder; make it first")
    try:
        description, kept = convert_shown(path, output)
    except KeyboardInterrupt:
        print(f"interrupted; the same command goes on behind what is in {output}.partial", file=sys.stderr)
        raise
    went_on = f", {kept} bytes taken over from an interrupted conversion" if kept else ""
    print(f"{output}: {len(description.tensors)} tensors, {description.file_size} bytes{went_on}")


def convert_shown(path: Path, output: Path) -> tuple[Description, int]:
    """convert() with a bar on stderr where that is a terminal; also the bytes that were taken over (writer.py)."""
    console = Console(stderr=True)
    columns = (TextColumn(f"packing {path.name}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    kept = 0
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:

        def begin(description: Description) -> Callable[[int, bool], None]:
            task = bar.add_task("", total=sum(block.size for block in description.blocks))

            def report(size: int, made: bool) -> None:
                nonlocal kept
                kept += 0 if made else size
                bar.advance(task, size)

            return report

        return convert(path, output, begin), kept


def inspect(path: Path, verify: bool, as_json: bool) -> bool:
    """Prints what a file of packed weights, or a checkpoint, holds; False if ``verify`` finds a damaged tensor."""
    if is_packed(path):
        return _inspect_packed(PackedWeights(path), verify, as_json)
    if verify:
        raise ModelError(f"{path} is a checkpoint, which has no checksums; --verify is for packed weights")
    source = open_checkpoint(path)
    model = {"format": source.format} | ({} if source.llama is None else source.llama.as_json())
    rows: list[Row] = [{"name": name, "shape": list(tensor.shape)} for name, tensor in source.tensors.items()]
    _print(path, model, rows, as_json)
    return True


def _inspect_packed(packed: PackedWeights, verify: bool, as_json: bool) -> bool:
    rows: list[Row] = [
        {
            "name": stored.name,
            "kind": stored.kind,
            "element": stored.element,
            "shape": list(stored.shape),
            "bytes": sum(block.size for block in stored.blocks),
            "blocks": len(stored.blocks),
        }
        for stored in packed.description.tensors
    ]
    bad = [name for name, is_bad in packed.damaged() if is_bad] if verify else []
    for row in rows if verify else ():
        row["state"] = "DAMAGED" if row["name"] in bad else "whole"
    _print(packed.path, dict(packed.model) | {"size": packed.description.file_size}, rows, as_json)
    if bad:
        print(f"{packed.path} is damaged ({', '.join(bad)}); convert it again", file=sys.stderr)
    return not bad


def _print(path: Path, model: dict[str, object], rows: list[Row], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"file": str(path), "model": model, "tensors": rows}, indent=2))
        return
    print(path)
    for name, value in _flat(model):
        print(f"  {name}: {value}")
    names = list(rows[0]) if rows else []
    table = Table(*names, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(str(row[name]) for name in names))
    Console(width=max(100, Console().width), highlight=False).print(table)


def _flat(fields: dict[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
