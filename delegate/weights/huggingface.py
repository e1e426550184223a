"""Safetensors: one file, or a folder with one or more and Hugging Face's config.json.

A file is the size of its header (uint64), the header (JSON: for each tensor its type, shape and place), and tensors.
The package ``safetensors`` is not used: with numpy it cannot read bfloat16, which most checkpoints are in.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from delegate.errors import ModelError
from delegate.weights.source import Array, Llama, Source, Tensor, check_shapes, unpermuted

LARGEST_HEADER = 100_000_000  # bytes, the format's own limit
TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
NAMES = {
    "model.embed_tokens.weight": "embedding",
    "model.norm.weight": "norm",
    "lm_head.weight": "classifier",
}
LAYER_NAMES = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "wq",
    "self_attn.k_proj": "wk",
    "self_attn.v_proj": "wv",
    "self_attn.o_proj": "wo",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "w1",
    "mlp.down_proj": "w2",
    "mlp.up_proj": "w3",
}


@dataclass(frozen=True)
class Place:
    """A tensor's place in a file."""

    path: Path
    element: str  # of TYPES
    shape: tuple[int, ...]
    offset: int  # bytes


def read_safetensors(path: Path) -> Source:
    """A checkpoint: as a Llama if there is a config.json that calls it one, else under the names in the file.

    Raises ModelError for one that is cut or damaged.
    """
    folder = path if path.is_dir() else path.parent
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise ModelError(f"{path} has no .safetensors file in it")
    places = {name: place for file in files for name, place in _places(file)}
    config = _config(folder / "config.json")
    if config.get("model_type") == "llama":
        return check_shapes(_llama(path, files, places, config))
    tensors = {name: Tensor(place.shape, partial(_read, place)) for name, place in places.items()}
    return Source(path, "safetensors", tensors, files=tuple(files))


def _places(path: Path) -> Iterator[tuple[str, Place]]:
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, LARGEST_HEADER):
                raise ModelError(f"{path}: its header has {length} bytes, the file {size}; it is cut or damaged")
            header = json.loads(file.read(length))
        for name, fields in header.items():
            if name != "__metadata__":
                yield name, _place(path, name, fields, 8 + length, size)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{path} is no safetensors file, or a damaged one: {error}") from error


def _place(path: Path, name: str, fields: Mapping[str, Any], data: int, size: int) -> Place:
    begin, end = fields["data_offsets"]
    shape = tuple(fields["shape"])
    if not all(isinstance(number, int) for number in (begin, end, *shape)):
        raise ModelError(f"{path}: {name} has a shape or a place that is no whole number; the file is damaged")
    if fields["dtype"] not in TYPES:
        raise ModelError(f"{path}: {name} is {fields['dtype']}; types that are read: {', '.join(TYPES)}")
    count = prod(shape) * np.dtype(TYPES[fields["dtype"]]).itemsize
    if any(length < 0 for length in shape) or end - begin != count or not 0 <= begin <= end <= size - data:
        raise ModelError(
            f"{path}: {name} {shape} has the bytes {begin} to {end} of {size - data}, not {count} of them; "
            "the file is cut or damaged"
        )
    return Place(path, fields["dtype"], shape, data + begin)


def _read(place: Place) -> Array:
    values = np.fromfile(place.path, TYPES[place.element], prod(place.shape), offset=place.offset)
    if place.element == "BF16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False).reshape(place.shape)


def _config(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    return config if isinstance(config, dict) else {}


def _llama(path: Path, files: list[Path], places: Mapping[str, Place], config: Mapping[str, Any]) -> Source:
    if config.get("rope_scaling"):
        raise ModelError(f"{path}: config.json scales the rotary embedding (rope_scaling), which is not supported")
    try:
        llama = Llama(
            dim=config["hidden_size"],
            hidden=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
            vocabulary=config["vocab_size"],
            context=config["max_position_embeddings"],
            epsilon=float(config["rms_norm_eps"]),
            theta=float(config.get("rope_theta") or 10000.0),
        )
        llama.check(path)
    except KeyError as error:
        raise ModelError(f"{path}: config.json has no {error}") from error
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: config.json has a size that is no number: {error}") from error
    names = dict(NAMES)
    for layer in range(llama.layers):
        names |= {
            f"model.layers.{layer}.{theirs}.weight": f"layers.{layer}.{ours}" for theirs, ours in LAYER_NAMES.items()
        }
    tensors = {ours: _tensor(places[theirs], ours, llama) for theirs, ours in names.items() if theirs in places}
    return Source(path, "safetensors", tensors, llama, tuple(files))


def _tensor(place: Place, name: str, llama: Llama) -> Tensor:
    """A tensor of a Llama; queries and keys in the order of elements that llama2.c has."""
    part = name.rpartition(".")[2]
    if part not in ("wq", "wk"):
        return Tensor(place.shape, partial(_read, place))
    heads = llama.heads if part == "wq" else llama.kv_heads
    return Tensor(place.shape, lambda: unpermuted(_read(place), heads))
