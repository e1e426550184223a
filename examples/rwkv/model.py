"""RWKV-4: the recurrence and all that is element-wise in numpy, every matrix product by what ``make`` makes of it.

B. Peng et al., RWKV: Reinventing RNNs for the Transformer Era, 2023, equations 11 to 18. A layer keeps five vectors
from token to token, so a token costs the same however long the text is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from examples.rwkv.checkpoint import Checkpoint

Array = npt.NDArray[np.float32]
Product = Callable[[Array], Array]
"""A (rows, K) to A @ B (rows, N)."""
Make = Callable[[npt.NDArray[Any]], Product]
"""The product by a matrix B (K, N)."""

EPSILON = 1e-5  # of the layer norms, as in the published models
CHUNK = 32  # tokens of a prompt that go through the layers together


@dataclass
class State:
    """What the model remembers; each float32 (layers, width)."""

    time_input: Array  # the last input of time-mix
    channel_input: Array  # the last input of channel-mix
    above: Array  # the weighted sum of values, times exp(-peak)
    below: Array  # the sum of their weights, times exp(-peak)
    peak: Array  # the largest exponent of a weight


class SideBySide:
    """Products of several matrices with the same K, each by its own rows, as one product.

    B is [B1 | B2 | ...], A all rows one below the other; of A @ B only the blocks that belong together are used. It is
    cheaper than a product each as long as the NPU waits for B and not for its MACs: it computes at least four rows.
    """

    def __init__(self, matrices: Sequence[npt.NDArray[Any]], make: Make) -> None:
        self.ends = np.cumsum([matrix.shape[0] for matrix in matrices])
        self.product = make(np.concatenate(matrices).T)  # of matrices (out, in)

    def __call__(self, *inputs: Array) -> list[Array]:
        rows = len(inputs[0])
        result = self.product(np.concatenate(inputs))
        starts = [0, *self.ends[:-1]]
        return [
            result[index * rows : (index + 1) * rows, start:end]
            for index, (start, end) in enumerate(zip(starts, self.ends, strict=True))
        ]


class Layer:
    """The weights of a block."""

    def __init__(self, checkpoint: Checkpoint, number: int, make: Make) -> None:
        def tensor(name: str) -> npt.NDArray[Any]:
            return checkpoint.tensors[f"blocks.{number}.{name}"]

        def vector(name: str) -> Array:
            return tensor(name).astype(np.float32)

        self.norms = [(vector(f"ln{n}.weight"), vector(f"ln{n}.bias")) for n in (1, 2)]
        self.time_mix = [vector(f"att.time_mix_{name}") for name in "kvr"]
        self.channel_mix = [vector(f"ffn.time_mix_{name}") for name in "kr"]
        self.decay = -np.exp(vector("att.time_decay"))
        self.first = vector("att.time_first")
        names = ("key", "value", "receptance")
        self.time = SideBySide([tensor(f"att.{name}.weight") for name in names], make)
        self.output = make(tensor("att.output.weight").T)
        self.channel = SideBySide([tensor(f"ffn.{name}.weight") for name in ("key", "receptance")], make)
        self.value = make(tensor("ffn.value.weight").T)


class Model:
    """A checkpoint with its products made."""

    def __init__(self, checkpoint: Checkpoint, make: Make) -> None:
        self.width, self.words = checkpoint.width, checkpoint.words
        self.embedding = checkpoint.tensors["emb.weight"]
        self.norms = {
            name: tuple(checkpoint.tensors[f"{name}.{part}"].astype(np.float32) for part in ("weight", "bias"))
            for name in ("blocks.0.ln0", "ln_out")
        }
        self.layers = [Layer(checkpoint, number, make) for number in range(checkpoint.layers)]
        self.head = make(checkpoint.tensors["head.weight"].T)

    def start(self) -> State:
        """Nothing remembered."""

        def filled(value: float) -> Array:
            return np.full((len(self.layers), self.width), value, np.float32)

        return State(filled(0), filled(0), filled(0), filled(0), filled(-1e30))

    def read(self, tokens: Sequence[int], state: State) -> Array:
        """The logits (words) of what follows the tokens, at least one; moves ``state`` on."""
        for start in range(0, len(tokens), CHUNK):
            x = self._blocks(tokens[start : start + CHUNK], state)
        logits: Array = self.head(normalized(x[-1:], self.norms["ln_out"]))[0]
        return logits

    def _blocks(self, tokens: Sequence[int], state: State) -> Array:
        x = normalized(self.embedding[list(tokens)].astype(np.float32), self.norms["blocks.0.ln0"])
        for number, layer in enumerate(self.layers):
            x = x + time_mix(layer, normalized(x, layer.norms[0]), state, number)
            x = x + channel_mix(layer, normalized(x, layer.norms[1]), state, number)
        return x


def normalized(x: Array, norm: tuple[Array, ...]) -> Array:
    """Layer norm of each row."""
    centred = x - x.mean(1, keepdims=True)
    weight, bias = norm
    variance = (centred * centred).mean(1, keepdims=True)
    result: Array = centred / np.sqrt(variance + np.float32(EPSILON)) * weight + bias
    return result


def sigmoid(x: Array) -> Array:
    """Without overflow for any x."""
    half: Array = np.tanh(x * np.float32(0.5)) * np.float32(0.5) + np.float32(0.5)
    return half


def mixed(x: Array, memory: Array, shares: Sequence[Array]) -> list[Array]:
    """Each row of x mixed with the one before it, by each of some shares; ``memory`` becomes the last row."""
    before = np.concatenate([memory[None], x[:-1]])
    memory[...] = x[-1]
    return [x * share + before * (1 - share) for share in shares]


def time_mix(layer: Layer, x: Array, state: State, number: int) -> Array:
    """What a layer makes of all that came before: means of the values, weighted by exp(key), older ones decayed."""
    key, value, receptance = layer.time(*mixed(x, state.time_input[number], layer.time_mix))
    means = np.empty_like(value)
    above, below, peak = state.above[number], state.below[number], state.peak[number]
    for mean, k, v in zip(means, key, value, strict=True):
        top = np.maximum(peak, layer.first + k)
        old, new = np.exp(peak - top), np.exp(layer.first + k - top)
        mean[...] = (old * above + new * v) / (old * below + new)
        top = np.maximum(peak + layer.decay, k)
        old, new = np.exp(peak + layer.decay - top), np.exp(k - top)
        above[...], below[...], peak[...] = old * above + new * v, old * below + new, top
    return layer.output(sigmoid(receptance) * means)


def channel_mix(layer: Layer, x: Array, state: State, number: int) -> Array:
    """What a layer makes of this token and the one before."""
    key, receptance = layer.channel(*mixed(x, state.channel_input[number], layer.channel_mix))
    return sigmoid(receptance) * layer.value(np.square(np.maximum(key, 0)))
