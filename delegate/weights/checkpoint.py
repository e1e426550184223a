"""Opens a checkpoint of any format, and says which matrices and arrays a packed file of it has."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from delegate.errors import ModelError
from delegate.weights import ggml, llama2c
from delegate.weights.huggingface import read_safetensors
from delegate.weights.source import Array, Source, Tensor, finite

Kind = Literal["matrix", "array"]
# Of a file without an architecture: matrices of which the host takes rows are arrays, as all that is no matrix.
LOOKED_UP = ("*emb*",)


@dataclass(frozen=True)
class Entry:
    """What becomes one tensor of a packed file: a matrix (K, N) for the NPU or an array for the host; in float32."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    read: Callable[[], Array]


def open_checkpoint(path: Path) -> Source:
    """A checkpoint; raises ModelError for a file that is none, or a damaged one."""
    try:
        if path.is_dir():
            return read_safetensors(path)
        with path.open("rb") as file:
            head = file.read(16)
        if head.startswith(ggml.MAGIC):
            return ggml.read_gguf(path)
        if path.suffix == ".safetensors" or head[8:9] == b"{":
            return read_safetensors(path)
        if head.startswith(llama2c.MAGIC) or _may_be_version0(head):
            return llama2c.read_llama2c(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    raise ModelError(
        f"{path} is no checkpoint: neither llama2.c's (its first bytes are {head[:4]!r}), safetensors nor GGUF"
    )


def _may_be_version0(head: bytes) -> bool:
    """Whether the first numbers, dim, hidden and layers, may be those of a file without magic."""
    sizes = np.frombuffer(head[:12], "<i4") if len(head) >= 12 else np.zeros(1, "<i4")
    return bool((sizes > 0).all() and (sizes < 1 << 20).all())


def digest_of(source: Source) -> str:
    """The SHA-256 of all files of a checkpoint."""
    total = hashlib.sha256()
    try:
        for path in source.files or (source.path,):
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise ModelError(f"{source.path} cannot be read: {error.strerror or error}") from error
    return total.hexdigest()


def entries_of(source: Source) -> list[Entry]:
    """What a packed file of a checkpoint holds; the reading of each is checked for NaN and infinity."""
    found = _llama(source) if source.llama is not None else _others(source)
    return [Entry(entry.name, entry.kind, entry.shape, _checked(entry, source.path)) for entry in found]


def _checked(entry: Entry, path: Path) -> Callable[[], Array]:
    return lambda: finite(entry.name, entry.read(), path)


def _llama(source: Source) -> Iterator[Entry]:
    """Matrices that take the same vector are one: a product less to start is worth more than what it computes."""
    assert source.llama is not None
    tensors = source.tensors
    yield _array("embedding", tensors["embedding"])
    for layer in range(source.llama.layers):
        prefix = f"layers.{layer}"
        yield _array(f"{prefix}.attention_norm", tensors[f"{prefix}.attention_norm"])
        yield _matrix(f"{prefix}.qkv", [tensors[f"{prefix}.{part}"] for part in ("wq", "wk", "wv")])
        yield _matrix(f"{prefix}.wo", [tensors[f"{prefix}.wo"]])
        yield _array(f"{prefix}.ffn_norm", tensors[f"{prefix}.ffn_norm"])
        yield _matrix(f"{prefix}.w13", [tensors[f"{prefix}.{part}"] for part in ("w1", "w3")])
        yield _matrix(f"{prefix}.w2", [tensors[f"{prefix}.w2"]])
    yield _array("norm", tensors["norm"])
    yield _matrix("classifier", [tensors.get("classifier", tensors["embedding"])])


def _others(source: Source) -> Iterator[Entry]:
    for name, tensor in source.tensors.items():
        looked_up = any(fnmatch.fnmatch(name.lower(), pattern) for pattern in LOOKED_UP)
        if len(tensor.shape) == 2 and min(tensor.shape) > 1 and not looked_up:
            yield _matrix(name, [tensor])
        else:
            yield _array(name, tensor)


def _array(name: str, tensor: Tensor) -> Entry:
    return Entry(name, "array", tensor.shape, tensor.read)


def _matrix(name: str, parts: Sequence[Tensor]) -> Entry:
    """Weights (outputs, inputs) side by side, as B (K, N) of a product with rows of inputs."""
    shape = (parts[0].shape[1], sum(part.shape[0] for part in parts))
    return Entry(name, "matrix", shape, lambda: np.concatenate([part.read() for part in parts]).T)
