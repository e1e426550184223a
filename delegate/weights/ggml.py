"""GGUF files, by the package ``gguf``: float32, float16, bfloat16 and whatever else it can turn into float32."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from delegate.errors import ModelError
from delegate.weights.source import Array, Llama, Source, Tensor, check_shapes

MAGIC = b"GGUF"
NAMES = {"token_embd.weight": "embedding", "output_norm.weight": "norm", "output.weight": "classifier"}
LAYER_NAMES = {
    "attn_norm": "attention_norm",
    "attn_q": "wq",
    "attn_k": "wk",
    "attn_v": "wv",
    "attn_output": "wo",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "w1",
    "ffn_down": "w2",
    "ffn_up": "w3",
}
TYPES = ("F32", "F16", "BF16", "Q8_0")  # tested; further ones are taken as the package decodes them


def read_gguf(path: Path) -> Source:
    """A checkpoint: as a Llama if its architecture is that, else under the names in the file.

    Raises ModelError for one that is cut or damaged, or where the package is missing.
    """
    try:
        import gguf
    except ImportError as error:
        raise ModelError(f"{path}: GGUF needs the package gguf: pip install 'teflon-rknpu[weights]'") from error
    try:
        reader = gguf.GGUFReader(path)
        tensors = {tensor.name: Tensor(_shape(tensor), partial(_read, path, tensor)) for tensor in reader.tensors}
        fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer")}
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise ModelError(f"{path} is no GGUF file that can be read; it is cut or damaged ({error})") from error
    if fields.get("general.architecture") != "llama":
        return Source(path, "GGUF", tensors)
    return check_shapes(_llama(path, tensors, fields))


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(length) for length in reversed(tensor.shape))  # ggml counts from the fastest


def _read(path: Path, tensor: Any) -> Array:
    import gguf

    try:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    except (NotImplementedError, KeyError) as error:
        raise ModelError(f"{path}: {tensor.name} is {tensor.tensor_type.name}, which cannot be decoded") from error
    return np.asarray(values, np.float32).reshape(_shape(tensor))


def _llama(path: Path, tensors: dict[str, Tensor], fields: dict[str, Any]) -> Source:
    """llama.cpp's files have queries and keys in llama2.c's order already."""
    if "token_embd.weight" not in tensors:
        raise ModelError(f"{path}: the tensor token_embd.weight is missing")
    if fields.get("llama.rope.scaling.type") not in (None, "none") or "rope_freqs.weight" in tensors:
        raise ModelError(f"{path}: its rotary embedding is scaled, which is not supported")
    shape = tensors["token_embd.weight"].shape
    try:
        heads = fields["llama.attention.head_count"]
        llama = Llama(
            dim=fields["llama.embedding_length"],
            hidden=fields["llama.feed_forward_length"],
            layers=fields["llama.block_count"],
            heads=heads,
            kv_heads=fields.get("llama.attention.head_count_kv", heads),
            vocabulary=shape[0],
            context=fields["llama.context_length"],
            epsilon=float(fields["llama.attention.layer_norm_rms_epsilon"]),
            theta=float(fields.get("llama.rope.freq_base", 10000.0)),
        )
        llama.check(path)
    except KeyError as error:
        raise ModelError(f"{path}: the GGUF file does not say {error}") from error
    except (TypeError, ValueError) as error:
        raise ModelError(f"{path}: the GGUF file has a size that is no number: {error}") from error
    names = dict(NAMES)
    for layer in range(llama.layers):
        names |= {f"blk.{layer}.{theirs}.weight": f"layers.{layer}.{ours}" for theirs, ours in LAYER_NAMES.items()}
    return Source(path, "GGUF", {ours: tensors[theirs] for theirs, ours in names.items() if theirs in tensors}, llama)
