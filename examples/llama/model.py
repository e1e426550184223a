"""A Llama whose matrix products run on the NPU, in fp16 with sums in fp32.

On the NPU: queries, keys and values (one product), the output of the attention, gate and up (one product), down, the
classifier; and the attention's scores and mixtures of values, head by head, while a prompt is read. With a single token
these two are products of a vector by a matrix that is used once: packing it for the NPU costs more than multiplying,
so the host does it (``ATTENTIONS``). Normalization, rotation, softmax, SiLU and additions are numpy's, in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from delegate.errors import ModelError
from delegate.matmul import Matmul
from delegate.weights.packed import PART_DEPTH, PackedWeights
from delegate.weights.source import Llama

Array = npt.NDArray[np.float32]
ATTENTIONS = ("auto", "npu", "host")
FEW_ROWS = 16  # tokens at once; with fewer, "auto" leaves the attention to the host
LARGEST = 65504.0  # of fp16


@dataclass(frozen=True)
class Board:
    """Where products run: as Matmul's arguments of these names."""

    device: str = "auto"
    cores: int = 1


class Product:
    """A matrix of a file on the NPU, in one product or in one for each block of its columns."""

    def __init__(self, weights: PackedWeights, name: str, board: Board, stack: ExitStack) -> None:
        self._parts = [
            stack.enter_context(
                Matmul.from_packed(
                    packed, shape, np.float16, device=board.device, cores=board.cores, part_depth=PART_DEPTH
                )
            )
            for shape, packed in weights.matrix(name)
        ]

    def __call__(self, x: Array) -> Array:
        """``x`` (rows, K) @ the matrix: float32 (rows, N)."""
        a = np.clip(x, -LARGEST, LARGEST).astype(np.float16)
        pending = [part.submit(a) for part in self._parts]
        results = [each.result() for each in pending]
        return results[0] if len(results) == 1 else np.concatenate(results, axis=1)


class Model:
    """Packed weights on a device, and the keys and values of the tokens so far. A context manager: it holds memory."""

    def __init__(self, weights: PackedWeights, board: Board = Board(), attention: str = "auto") -> None:
        """Raises ModelError for a file that is no Llama, DeviceError where the device has no memory left.

        ``attention``: where its scores and mixtures are computed, one of ATTENTIONS.
        """
        if attention not in ATTENTIONS:
            raise ModelError(f"attention {attention!r}: {', '.join(ATTENTIONS)}")
        if weights.model.get("architecture") != "llama":
            raise ModelError(f"{weights.path} holds no Llama, but {weights.model.get('architecture')!r}")
        self.sizes = Llama(**weights.model["sizes"])
        self.length = 0  # tokens so far
        self._weights, self._board, self._attention = weights, board, attention
        self._stack = ExitStack()
        sizes = self.sizes
        self._keys = np.zeros((sizes.layers, sizes.kv_heads, sizes.context, sizes.head), np.float32)
        self._values = np.zeros_like(self._keys)
        angles = np.outer(np.arange(sizes.context), sizes.theta ** (-np.arange(0, sizes.head, 2) / sizes.head))
        self._cosines, self._sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        try:
            names = ["classifier", *(f"layers.{i}.{part}" for i in range(sizes.layers) for part in PARTS)]
            self._products = {name: Product(weights, name, board, self._stack) for name in names}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives the device's memory back."""
        self._stack.close()

    def forget(self) -> None:
        """Begins a new text."""
        self.length = 0

    def read(self, tokens: Sequence[int], batch: int) -> Array:
        """Takes tokens in, ``batch`` at once: the logits (vocabulary) of what comes behind the last.

        Raises ModelError where they are more than the context has left, or none.
        """
        if not tokens or self.length + len(tokens) > self.sizes.context:
            raise ModelError(
                f"{len(tokens)} tokens behind {self.length}: at least one, and all together at most the "
                f"{self.sizes.context} of the model's context"
            )
        for first in range(0, len(tokens), batch):
            x = self._layers(np.asarray(tokens[first : first + batch]))
        x = normalize(x[-1:], self._weights.array("norm"), self.sizes.epsilon)
        logits: Array = self._products["classifier"](x)[0]
        return logits

    def _layers(self, tokens: npt.NDArray[Any]) -> Array:
        """The residual stream (tokens, dim) behind all layers; keys and values are kept."""
        x: Array = self._weights.array("embedding")[tokens].astype(np.float32)
        for layer in range(self.sizes.layers):
            gain = self._weights.array(f"layers.{layer}.attention_norm")
            mixed = self._attend(layer, normalize(x, gain, self.sizes.epsilon))
            x = x + self._products[f"layers.{layer}.wo"](mixed)
            gain = self._weights.array(f"layers.{layer}.ffn_norm")
            both = self._products[f"layers.{layer}.w13"](normalize(x, gain, self.sizes.epsilon))
            gate, up = both[:, : self.sizes.hidden], both[:, self.sizes.hidden :]
            x = x + self._products[f"layers.{layer}.w2"](silu(gate) * up)
        self.length += len(tokens)
        return x

    def _attend(self, layer: int, h: Array) -> Array:
        """What the heads of a layer make of ``h`` (tokens, dim), side by side: (tokens, dim)."""
        sizes, count = self.sizes, len(h)
        now = slice(self.length, self.length + count)
        qkv = self._products[f"layers.{layer}.qkv"](h)
        q, k, v = np.split(qkv, [sizes.dim, sizes.dim + sizes.kv_dim], axis=1)
        q = self._rotate(q.reshape(count, sizes.heads, sizes.head), now)
        self._keys[layer, :, now] = self._rotate(k.reshape(count, sizes.kv_heads, sizes.head), now).swapaxes(0, 1)
        self._values[layer, :, now] = v.reshape(count, sizes.kv_heads, sizes.head).swapaxes(0, 1)
        # The query heads that share keys are so many rows of one product.
        queries = q.reshape(count, sizes.kv_heads, -1, sizes.head).transpose(1, 2, 0, 3)
        queries = queries.reshape(sizes.kv_heads, -1, sizes.head) / np.float32(np.sqrt(sizes.head))
        keys, values = self._keys[layer, :, : now.stop], self._values[layer, :, : now.stop]
        on_npu = self._attention == "npu" or (self._attention == "auto" and count >= FEW_ROWS)
        multiply = self._on_npu if on_npu else np.matmul
        scores = multiply(queries, keys.swapaxes(1, 2)).reshape(sizes.heads, count, now.stop)
        later = np.arange(now.stop) > np.arange(now.start, now.stop)[:, None]
        chances = softmax(np.where(later, -np.inf, scores))
        mixed = multiply(chances.reshape(sizes.kv_heads, -1, now.stop), values)
        return mixed.reshape(sizes.heads, count, sizes.head).swapaxes(0, 1).reshape(count, sizes.dim)

    def _rotate(self, x: Array, now: slice) -> Array:
        """``x`` (tokens, heads, head) with each pair of neighbours turned."""
        cosines, sines = self._cosines[now, None], self._sines[now, None]
        turned = np.empty_like(x)
        turned[..., 0::2] = x[..., 0::2] * cosines - x[..., 1::2] * sines
        turned[..., 1::2] = x[..., 0::2] * sines + x[..., 1::2] * cosines
        return turned

    def _on_npu(self, a: Array, b: Array) -> Array:
        """``a`` (heads, rows, K) @ ``b`` (heads, K, N), a product a head; all heads are under way at once."""
        with ExitStack() as stack:
            products = [
                stack.enter_context(Matmul(each.astype(np.float16), device=self._board.device, cores=1)) for each in b
            ]
            pending = [product.submit(rows.astype(np.float16)) for product, rows in zip(products, a, strict=True)]
            return np.stack([each.result() for each in pending])


PARTS = ("qkv", "wo", "w13", "w2")


def normalize(x: Array, gain: Array, epsilon: float) -> Array:
    """RMSNorm of rows (rows, dim)."""
    normal: Array = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(epsilon)) * gain
    return normal


def silu(x: Array) -> Array:
    """x times its sigmoid."""
    with np.errstate(over="ignore"):  # exp(-x) may be infinite: the sigmoid is then 0
        result: Array = x / (1 + np.exp(-x))
    return result


def softmax(x: Array) -> Array:
    """Along the last axis."""
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    result: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def likeliest(logits: Array) -> int:
    """The token that greedy generation takes."""
    return int(np.argmax(logits))


def generate(
    model: Model, prompt: Sequence[int], count: int, choose: Callable[[Array], int] = likeliest, batch: int = 64
) -> Iterator[int]:
    """``count`` tokens behind a prompt, or fewer where the context ends; the caller may stop at any.

    ``choose``: the next token by the logits (vocabulary).
    """
    logits = model.read(prompt, batch)
    for made in range(count):
        token = choose(logits)
        yield token
        if made + 1 == count or model.length == model.sizes.context:
            return
        logits = model.read([token], 1)
