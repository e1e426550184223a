"""A Llama in plain numpy and fp32, one token at a time: what the NPU's results are judged by.

It shares nothing with model.py: weights as the checkpoint has them, no batches, no fused matrices, no fp16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.errors import ModelError
from delegate.weights.checkpoint import open_checkpoint

Vector = npt.NDArray[np.float32]


class Reference:
    """A checkpoint and the keys and values of the tokens so far.

    ``multiply``: how a matrix (outputs, inputs) is multiplied by a vector; benchmarks try others than fp32.
    """

    def __init__(self, path: Path, multiply: Callable[[Any, Any], Any] = np.matmul) -> None:
        source = open_checkpoint(path)
        if source.llama is None:
            raise ModelError(f"{path} is no Llama")
        self.sizes = source.llama
        self.multiply = multiply
        self.w: dict[str, Any] = {name: tensor.read().astype(np.float32) for name, tensor in source.tensors.items()}
        self.w.setdefault("classifier", self.w["embedding"])
        self.keys: list[list[Vector]] = [[] for _ in range(self.sizes.layers)]
        self.values: list[list[Vector]] = [[] for _ in range(self.sizes.layers)]

    def step(self, token: int) -> Vector:
        """The logits (vocabulary) behind a further token."""
        x = self.w["embedding"][token].copy()
        position = len(self.keys[0])
        for layer in range(self.sizes.layers):
            part = {name: self.w[f"layers.{layer}.{name}"] for name in ("wq", "wk", "wv", "wo", "w1", "w2", "w3")}
            h = self._normalize(x, self.w[f"layers.{layer}.attention_norm"])
            q = self._rotate(self.multiply(part["wq"], h), position)
            self.keys[layer].append(self._rotate(self.multiply(part["wk"], h), position))
            self.values[layer].append(self.multiply(part["wv"], h))
            mixed = self._attend(q, np.array(self.keys[layer]), np.array(self.values[layer]))
            x = x + self.multiply(part["wo"], mixed)
            h = self._normalize(x, self.w[f"layers.{layer}.ffn_norm"])
            gate = self.multiply(part["w1"], h)
            x = x + self.multiply(part["w2"], gate / (1 + np.exp(-gate)) * self.multiply(part["w3"], h))
        logits: Vector = self.multiply(self.w["classifier"], self._normalize(x, self.w["norm"]))
        return logits

    def _normalize(self, x: Vector, gain: Vector) -> Vector:
        normal: Vector = x / np.sqrt(np.mean(x * x) + np.float32(self.sizes.epsilon)) * gain
        return normal

    def _rotate(self, x: Vector, position: int) -> Vector:
        """Pairs of neighbours are complex numbers, turned by an angle that grows with the position and falls along the
        head.
        """
        head = self.sizes.head
        angles = position * self.sizes.theta ** -(np.arange(0, head, 2) / head)
        turned = x.reshape(-1, head).view(np.complex64) * np.exp(1j * angles).astype(np.complex64)
        flat: Vector = turned.view(np.float32).reshape(-1)
        return flat

    def _attend(self, q: Vector, keys: Vector, values: Vector) -> Vector:
        """``q`` (dim), ``keys`` and ``values`` (tokens, kv_dim): (dim)."""
        head, shared = self.sizes.head, self.sizes.heads // self.sizes.kv_heads
        mixed = np.empty_like(q)
        for index in range(self.sizes.heads):
            own = slice(index * head, (index + 1) * head)
            theirs = slice(index // shared * head, (index // shared + 1) * head)
            scores = keys[:, theirs] @ q[own] / np.float32(np.sqrt(head))
            chances = np.exp(scores - scores.max())
            mixed[own] = (chances / chances.sum()) @ values[:, theirs]
        return mixed


def greedy(reference: Reference, prompt: Sequence[int], count: int) -> tuple[list[int], list[Vector]]:
    """(``count`` tokens behind a prompt, each the most likely; the logits that each was chosen by)."""
    logits = [reference.step(token) for token in prompt][-1:]
    tokens = [int(np.argmax(logits[-1]))]
    while len(tokens) < count:
        logits.append(reference.step(tokens[-1]))
        tokens.append(int(np.argmax(logits[-1])))
    return tokens, logits
