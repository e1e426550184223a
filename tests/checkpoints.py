"""Small Llamas with random weights, written in every format by code that shares nothing with the readers."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import safetensors.numpy

Array = npt.NDArray[Any]
Weights = dict[str, Array]
LAYER = ("attention_norm", "wq", "wk", "wv", "wo", "ffn_norm", "w1", "w2", "w3")
HUGGING_FACE = (
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.down_proj",
    "mlp.up_proj",
)
GGML = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_down", "ffn_up")


@dataclass(frozen=True)
class Sizes:
    """llama2.c's seven numbers; the defaults have fewer heads of keys than of queries."""

    dim: int = 64
    hidden: int = 128
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    vocabulary: int = 300
    context: int = 40

    @property
    def kv_dim(self) -> int:
        return self.dim // self.heads * self.kv_heads


SIZES = Sizes()


def random_weights(seed: int = 0, shared: bool = True, sizes: Sizes = SIZES) -> Weights:
    """Weights by this project's names, float32."""
    rng = np.random.default_rng(seed)
    dim, hidden, kv_dim = sizes.dim, sizes.hidden, sizes.kv_dim
    shapes = ((dim,), (dim, dim), (kv_dim, dim), (kv_dim, dim), (dim, dim), (dim,), (hidden, dim), (dim, hidden))
    weights: Weights = {"embedding": rng.standard_normal((sizes.vocabulary, dim))}
    for layer in range(sizes.layers):
        for name, shape in zip(LAYER, (*shapes, (hidden, dim)), strict=True):
            scale = shape[-1] ** -0.5 if len(shape) == 2 else 1.0
            weights[f"layers.{layer}.{name}"] = rng.standard_normal(shape) * scale + (len(shape) == 1)
    weights["norm"] = 1 + 0.1 * rng.standard_normal(dim)
    if not shared:
        weights["classifier"] = rng.standard_normal((sizes.vocabulary, dim))
    return {name: weight.astype(np.float32) for name, weight in weights.items()}


def stacked(weights: Weights, part: str) -> list[Array]:
    return [weight for name, weight in weights.items() if name.startswith("layers.") and name.endswith(f".{part}")]


def numbers(sizes: Sizes, vocabulary: int) -> bytes:
    fields = (sizes.dim, sizes.hidden, sizes.layers, sizes.heads, sizes.kv_heads, vocabulary, sizes.context)
    return struct.pack("<7i", *fields)


def write_version0(path: Path, weights: Weights, sizes: Sizes = SIZES) -> Path:
    shared = "classifier" not in weights
    parts = [weights["embedding"]]
    for part in LAYER:
        parts += stacked(weights, part)
    parts += [weights["norm"], np.zeros(2 * sizes.context * (sizes.dim // sizes.heads // 2), np.float32)]
    parts += [] if shared else [weights["classifier"]]
    header = numbers(sizes, sizes.vocabulary if shared else -sizes.vocabulary)
    path.write_bytes(header + b"".join(part.tobytes() for part in parts))
    return path


def write_version1(path: Path, weights: Weights, sizes: Sizes = SIZES) -> Path:
    shared = "classifier" not in weights
    parts = [*stacked(weights, "attention_norm"), *stacked(weights, "ffn_norm"), weights["norm"], weights["embedding"]]
    for part in ("wq", "wk", "wv", "wo", "w1", "w2", "w3"):
        parts += stacked(weights, part)
    parts += [] if shared else [weights["classifier"]]
    header = struct.pack("<Ii", 0x616B3432, 1) + numbers(sizes, sizes.vocabulary) + struct.pack("<B", shared)
    path.write_bytes(header.ljust(256, b"\0") + b"".join(part.tobytes() for part in parts))
    return path


def quantized(weight: Array, group: int) -> tuple[bytes, Array]:
    """(bytes, what they mean) of a matrix as int8 with a scale for each group."""
    groups = weight.reshape(-1, group)
    scales = (np.abs(groups).max(axis=1) / 127).astype(np.float32)
    levels = np.round(groups / scales[:, None]).astype(np.int8)
    return levels.tobytes() + scales.tobytes(), (levels * scales[:, None]).reshape(weight.shape)


def write_version2(path: Path, weights: Weights, group: int = 64, sizes: Sizes = SIZES) -> Weights:
    """Returns the weights that the file means."""
    shared = "classifier" not in weights
    meant = dict(weights)
    vectors = [*stacked(weights, "attention_norm"), *stacked(weights, "ffn_norm"), weights["norm"]]
    header = struct.pack("<Ii", 0x616B3432, 2) + numbers(sizes, sizes.vocabulary) + struct.pack("<Bi", shared, group)
    content = [header.ljust(256, b"\0"), *(vector.tobytes() for vector in vectors)]
    names = ["embedding"]
    for part in ("wq", "wk", "wv", "wo", "w1", "w2", "w3"):
        names += [f"layers.{layer}.{part}" for layer in range(sizes.layers)]
    for name in [*names, *([] if shared else ["classifier"])]:
        raw, meant[name] = quantized(weights[name], group)
        content.append(raw)
    path.write_bytes(b"".join(content))
    return meant


def permuted(weight: Array, heads: int) -> Array:
    """wq or wk as Hugging Face has them: of each head first the even rows, then the odd ones."""
    rows = weight.reshape(heads, -1, weight.shape[1])
    return np.concatenate([rows[:, 0::2], rows[:, 1::2]], axis=1).reshape(weight.shape)


def write_safetensors(
    folder: Path, weights: Weights, element: npt.DTypeLike = np.float32, sizes: Sizes = SIZES
) -> Path:
    """A folder with two files and config.json."""
    named = {"model.embed_tokens.weight": weights["embedding"], "model.norm.weight": weights["norm"]}
    for layer in range(sizes.layers):
        for ours, theirs in zip(LAYER, HUGGING_FACE, strict=True):
            weight = weights[f"layers.{layer}.{ours}"]
            if ours in ("wq", "wk"):
                weight = permuted(weight, sizes.heads if ours == "wq" else sizes.kv_heads)
            named[f"model.layers.{layer}.{theirs}.weight"] = weight
    if "classifier" in weights:
        named["lm_head.weight"] = weights["classifier"]
    converted = {name: np.ascontiguousarray(weight.astype(element)) for name, weight in named.items()}
    names = sorted(converted)
    folder.mkdir()
    for index, chosen in enumerate((names[::2], names[1::2])):
        path = folder / f"model-0000{index + 1}-of-00002.safetensors"
        safetensors.numpy.save_file({name: converted[name] for name in chosen}, path)
    config = {
        "model_type": "llama",
        "hidden_size": sizes.dim,
        "intermediate_size": sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": sizes.context,
        "rms_norm_eps": 1e-5,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_gguf(path: Path, weights: Weights, element: str, sizes: Sizes = SIZES) -> Weights:
    """``element``: F32, F16 or Q8_0, of the matrices. Returns the weights that the file means."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(sizes.dim)
    writer.add_feed_forward_length(sizes.hidden)
    writer.add_block_count(sizes.layers)
    writer.add_head_count(sizes.heads)
    writer.add_head_count_kv(sizes.kv_heads)
    writer.add_context_length(sizes.context)
    writer.add_layer_norm_rms_eps(1e-5)
    named = {"embedding": "token_embd", "norm": "output_norm", "classifier": "output"}
    for layer in range(sizes.layers):
        named |= {f"layers.{layer}.{ours}": f"blk.{layer}.{theirs}" for ours, theirs in zip(LAYER, GGML, strict=True)}
    meant = dict(weights)
    kind = gguf.GGMLQuantizationType[element]
    for name, weight in weights.items():
        if weight.ndim == 1:
            writer.add_tensor(f"{named[name]}.weight", weight)
            continue
        raw = gguf.quants.quantize(weight, kind)
        meant[name] = gguf.quants.dequantize(raw, kind).astype(np.float32)
        writer.add_tensor(f"{named[name]}.weight", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant
