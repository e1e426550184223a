"""Checkpoints of RWKV-4 in the published names, as .safetensors or .pth; checked before anything is computed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

from delegate.errors import ModelError
from examples.rwkv.elements import NUMBERS, to_numpy
from examples.rwkv.pth import PthError, read_pth

Array = npt.NDArray[Any]

ZIP_MAGIC = b"PK\x03\x04"
LARGEST_FP16 = 65504.0


@dataclass(frozen=True)
class Checkpoint:
    """``tensors`` by name, of fp16, fp32 or fp64; ``vocabulary``: the letters of a model of letters, from the file."""

    tensors: Mapping[str, Array]
    layers: int
    width: int
    words: int  # size of the vocabulary
    vocabulary: tuple[str, ...] | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint of RWKV-4; raises ModelError with one line for what is damaged, no RWKV-4 or no number."""
    try:
        with path.open("rb") as file:
            is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
        tensors, metadata = (read_pth(path), {}) if is_zip else read_safetensors(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except PthError as error:
        raise ModelError(f"{path}: {error}") from error
    try:
        return checked(tensors, metadata)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def read_safetensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Tensors and metadata of a .safetensors file."""
    try:
        with safetensors.safe_open(path, "np") as file:  # which checks the header against the file's size
            metadata = file.metadata() or {}
        entries = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise ModelError(f"{path} is neither a .pth nor a whole .safetensors: {error}") from error
    tensors = {}
    for name, entry in entries:
        if entry["dtype"] not in NUMBERS:
            raise ModelError(f"{path}: {name} has numbers of type {entry['dtype']}; {', '.join(NUMBERS)} can be read")
        tensors[name] = to_numpy(entry["data"], entry["dtype"]).reshape(entry["shape"])
    return tensors, metadata


def shapes(layers: int, width: int, hidden: int, words: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor of an RWKV-4 and its shape, ones left out; matrices are (out, in)."""
    yield "emb.weight", (words, width)
    norms = ["blocks.0.ln0", "ln_out"]
    for layer in range(layers):
        block = f"blocks.{layer}"
        norms += [f"{block}.ln1", f"{block}.ln2"]
        for vector in ("time_decay", "time_first", "time_mix_k", "time_mix_v", "time_mix_r"):
            yield f"{block}.att.{vector}", (width,)
        for matrix in ("key", "value", "receptance", "output"):
            yield f"{block}.att.{matrix}.weight", (width, width)
        for vector in ("time_mix_k", "time_mix_r"):
            yield f"{block}.ffn.{vector}", (width,)
        yield f"{block}.ffn.key.weight", (hidden, width)
        yield f"{block}.ffn.receptance.weight", (width, width)
        yield f"{block}.ffn.value.weight", (width, hidden)
    for norm in norms:
        yield f"{norm}.weight", (width,)
        yield f"{norm}.bias", (width,)
    yield "head.weight", (words, width)


def checked(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> Checkpoint:
    """The checkpoint that the tensors are; raises ModelError for a missing, misshapen or infinite one."""
    sizes = {}
    for name in ("emb.weight", "blocks.0.ffn.key.weight"):
        if name not in tensors or tensors[name].ndim != 2:
            raise ModelError(f"there is no matrix {name!r}: not an RWKV model")
        sizes[name] = tensors[name].shape
    later = min((name for name in tensors if ".att.ln_x." in name or ".att.x_" in name), default=None)
    if later is not None:
        raise ModelError(f"{later!r} belongs to RWKV-5 or later; this example runs RWKV-4")
    (words, width), (hidden, _) = sizes["emb.weight"], sizes["blocks.0.ffn.key.weight"]
    layers = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    found = {}
    for name, shape in shapes(layers, width, hidden, words):
        if name not in tensors:
            raise ModelError(f"there is no tensor {name!r}, which an RWKV-4 of {layers} layers has")
        tensor = tensors[name]
        if tensor.size != math.prod(shape) or [n for n in tensor.shape if n != 1] != [n for n in shape if n != 1]:
            raise ModelError(f"{name!r} has the shape {tensor.shape}; with {width} channels it must be {shape}")
        largest = float(np.abs(tensor).max(initial=0.0))
        if not largest <= LARGEST_FP16:
            raise ModelError(f"{name!r} holds {'NaN' if math.isnan(largest) else f'{largest:g}'}, which fp16 has not")
        found[name] = tensor.reshape(shape)
    return Checkpoint(found, layers, width, words, vocabulary_of(metadata, words))


def vocabulary_of(metadata: Mapping[str, str], words: int) -> tuple[str, ...] | None:
    """The letters that the file says its tokens are, if it says any."""
    if "vocabulary" not in metadata:
        return None
    try:
        letters = json.loads(metadata["vocabulary"])
    except json.JSONDecodeError as error:
        raise ModelError(f"its vocabulary is not JSON: {error}") from error
    if not isinstance(letters, list) or not all(isinstance(letter, str) and len(letter) == 1 for letter in letters):
        raise ModelError("its vocabulary is not a list of letters")
    if len(letters) != words or len(set(letters)) != words:
        raise ModelError(f"its vocabulary has {len(set(letters))} letters; the model has {words}")
    return tuple(letters)
