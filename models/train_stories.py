"""Train the embedded language model: a Llama of half a million weights on stories of models/story_grammar.py.

It needs numpy alone and writes, beside itself, stories_tiny.bin (llama2.c's format, version 0), its tokenizer
stories_tiny_tokenizer.bin, and stories_tiny.md with the losses.

    .venv/bin/python models/train_stories.py          # about ten minutes on one idle core

The seed fixes text, tokenizer, weights and order; with one thread of BLAS two runs on one machine give the same bytes.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the order of sums is then always the same

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from story_grammar import story

from examples.llama.tokenizer import BEGIN, FIRST_PIECE, Tokenizer, write_tokenizer

HERE = Path(__file__).resolve().parent
Array = npt.NDArray[np.float32]
Weights = dict[str, Array]

VOCABULARY, DIM, HIDDEN, LAYERS, HEADS, CONTEXT = 512, 96, 256, 4, 6, 256
HEAD = DIM // HEADS
EPSILON = 1e-5  # of the normalization, llama2.c's
NEGATIVE = np.float32(-1e9)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast; a warm-up of ``warm`` steps, then a cosine down to a tenth."""

    steps: int
    batch: int  # windows of CONTEXT tokens a step
    rate: float = 4e-3
    warm: int = 50
    decay: float = 0.05  # of weights, a step and unit of rate
    clip: float = 1.0  # largest norm of a step's gradient

    def at(self, step: int) -> float:
        """The learning rate of a step."""
        share = max(0.0, (step - self.warm) / (self.steps - self.warm))
        return self.rate * min(1.0, (step + 1) / self.warm) * (0.1 + 0.45 * (1 + np.cos(np.pi * share)))


def train_tokenizer(texts: Iterable[str], count: int) -> tuple[list[bytes], list[float]]:
    """(pieces, scores) of a byte pair encoding: the most frequent pair of neighbours within a word is merged, again and
    again; a merge scores the less the later it was found, a single character less than any merge."""
    words = Counter(word for text in texts for word in _words(text))
    split = {word: [character.encode() for character in word] for word in words}
    characters = sorted({character for parts in split.values() for character in parts})
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    merges: list[bytes] = []
    while len(pieces) + len(merges) + len(characters) < count:
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            raise SystemExit(f"the text has only {len(pieces) + len(merges) + len(characters)} pieces, not {count}")
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(b"".join(best))
        split = {word: _joined(parts, best) for word, parts in split.items()}
    scores = [0.0] * FIRST_PIECE + [-float(rank) for rank in range(len(merges) + len(characters))]
    return pieces + merges + characters, scores


def _words(text: str) -> list[str]:
    """Words and marks, each with the space before it if there is one; the tokenizer puts one before a text."""
    return re.findall(r" ?\w+| ?[^\w\s]", f" {text}")


def _joined(parts: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    joined: list[bytes] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def initial_weights(rng: np.random.Generator) -> Weights:
    """Weights by name in the order of a version 0 file; those that add to the residual stream start smaller."""
    shapes: dict[str, tuple[tuple[int, ...], float]] = {
        "embedding": ((VOCABULARY, DIM), 0.05),
        "norm_attention": ((LAYERS, DIM), 0.0),
        "wq": ((LAYERS, DIM, DIM), DIM**-0.5),
        "wk": ((LAYERS, DIM, DIM), DIM**-0.5),
        "wv": ((LAYERS, DIM, DIM), DIM**-0.5),
        "wo": ((LAYERS, DIM, DIM), DIM**-0.5 / (2 * LAYERS) ** 0.5),
        "norm_ffn": ((LAYERS, DIM), 0.0),
        "w1": ((LAYERS, HIDDEN, DIM), DIM**-0.5),
        "w2": ((LAYERS, DIM, HIDDEN), HIDDEN**-0.5 / (2 * LAYERS) ** 0.5),
        "w3": ((LAYERS, HIDDEN, DIM), DIM**-0.5),
        "norm_final": ((DIM,), 0.0),
    }
    return {
        name: (rng.standard_normal(shape) * deviation if deviation else np.ones(shape)).astype(np.float32)
        for name, (shape, deviation) in shapes.items()
    }


def rotation() -> tuple[Array, Array]:
    """(cosine, sine) float32 (CONTEXT, HEAD / 2) of the rotary embedding."""
    angles = np.outer(np.arange(CONTEXT), 10000.0 ** (-np.arange(0, HEAD, 2) / HEAD))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


COSINE, SINE = rotation()


def rotate(x: Array, sine: Array = SINE) -> Array:
    """x (batch, heads, CONTEXT, HEAD) with its pairs of neighbours turned; with -SINE turned back."""
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = np.empty_like(x)
    turned[..., 0::2] = even * COSINE - odd * sine
    turned[..., 1::2] = even * sine + odd * COSINE
    return turned


def normalize(x: Array, gain: Array) -> tuple[Array, tuple[Array, Array]]:
    """RMSNorm of (..., DIM), and what its gradient needs."""
    scale = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPSILON)
    return x * scale * gain, (x * scale, scale)


def normalize_back(grad: Array, gain: Array, kept: tuple[Array, Array]) -> tuple[Array, Array]:
    """(gradient of x, of gain)."""
    normal, scale = kept
    inner = grad * gain
    x = scale * (inner - normal * np.mean(inner * normal, axis=-1, keepdims=True))
    return x, np.sum(grad * normal, axis=(0, 1))


def heads(x: Array) -> Array:
    """(batch, CONTEXT, DIM) to (batch, HEADS, CONTEXT, HEAD)."""
    return x.reshape(*x.shape[:2], HEADS, HEAD).transpose(0, 2, 1, 3)


def joined(x: Array) -> Array:
    """The inverse of heads()."""
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(x.shape[0], x.shape[2], DIM)


def outer(grad: Array, x: Array) -> Array:
    """The gradient of a matrix (outputs, inputs) from those of its outputs, and its inputs."""
    return grad.reshape(-1, grad.shape[-1]).T @ x.reshape(-1, x.shape[-1])


MASK = np.triu(np.full((CONTEXT, CONTEXT), NEGATIVE, np.float32), 1)


def attend(w: Weights, layer: int, x: Array) -> tuple[Array, Any]:
    """What the attention of a layer adds to x (batch, CONTEXT, DIM), and what its gradient needs."""
    h, kept = normalize(x, w["norm_attention"][layer])
    q, k = rotate(heads(h @ w["wq"][layer].T)), rotate(heads(h @ w["wk"][layer].T))
    v = heads(h @ w["wv"][layer].T)
    scores = q @ k.transpose(0, 1, 3, 2) * np.float32(HEAD**-0.5) + MASK
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    mixed = joined(scores @ v)
    return mixed @ w["wo"][layer].T, (h, kept, q, k, v, scores, mixed)


def attend_back(w: Weights, g: Weights, layer: int, grad: Array, state: Any) -> Array:
    h, kept, q, k, v, scores, mixed = state
    g["wo"][layer] = outer(grad, mixed)
    mixed_grad = heads(grad @ w["wo"][layer])
    values = scores.transpose(0, 1, 3, 2) @ mixed_grad
    by_score = mixed_grad @ v.transpose(0, 1, 3, 2)
    by_score = scores * (by_score - np.sum(by_score * scores, -1, keepdims=True)) * np.float32(HEAD**-0.5)
    queries, keys = rotate(by_score @ k, -SINE), rotate(by_score.transpose(0, 1, 3, 2) @ q, -SINE)
    h_grad = np.zeros_like(h)
    for name, part in (("wq", queries), ("wk", keys), ("wv", values)):
        g[name][layer] = outer(joined(part), h)
        h_grad += joined(part) @ w[name][layer]
    x_grad, g["norm_attention"][layer] = normalize_back(h_grad, w["norm_attention"][layer], kept)
    return x_grad


def feed(w: Weights, layer: int, x: Array) -> tuple[Array, Any]:
    """What the feed-forward part of a layer adds to x, and what its gradient needs."""
    h, kept = normalize(x, w["norm_ffn"][layer])
    gate, up = h @ w["w1"][layer].T, h @ w["w3"][layer].T
    sigmoid = 1 / (1 + np.exp(-gate))
    product = gate * sigmoid * up
    return product @ w["w2"][layer].T, (h, kept, gate, up, sigmoid, product)


def feed_back(w: Weights, g: Weights, layer: int, grad: Array, state: Any) -> Array:
    h, kept, gate, up, sigmoid, product = state
    g["w2"][layer] = outer(grad, product)
    inner = grad @ w["w2"][layer]
    up_grad = inner * gate * sigmoid
    gate_grad = inner * up * sigmoid * (1 + gate * (1 - sigmoid))
    g["w1"][layer], g["w3"][layer] = outer(gate_grad, h), outer(up_grad, h)
    h_grad = gate_grad @ w["w1"][layer] + up_grad @ w["w3"][layer]
    x_grad, g["norm_ffn"][layer] = normalize_back(h_grad, w["norm_ffn"][layer], kept)
    return x_grad


def forward(w: Weights, tokens: npt.NDArray[np.int64]) -> tuple[Array, Any]:
    """Probabilities (batch, CONTEXT, VOCABULARY) of the next tokens, and what the gradient needs."""
    x = w["embedding"][tokens]
    states = []
    for layer in range(LAYERS):
        for part in (attend, feed):
            added, state = part(w, layer, x)
            x = x + added
            states.append(state)
    normal, kept = normalize(x, w["norm_final"])
    logits = normal @ w["embedding"].T
    chances = np.exp(logits - logits.max(-1, keepdims=True))
    chances /= chances.sum(-1, keepdims=True)
    return chances, (states, normal, kept)


def loss_of(chances: Array, targets: npt.NDArray[np.int64]) -> float:
    """The mean negative log-likelihood of the targets (batch, CONTEXT)."""
    return float(-np.mean(np.log(np.take_along_axis(chances, targets[..., None], -1) + 1e-12)))


def gradient(w: Weights, tokens: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]) -> tuple[float, Weights]:
    """(loss, its gradient by weight) of windows (batch, CONTEXT)."""
    chances, (states, normal, kept) = forward(w, tokens)
    loss = loss_of(chances, targets)
    g = {name: np.zeros_like(weight) for name, weight in w.items()}
    grad = chances
    np.put_along_axis(grad, targets[..., None], np.take_along_axis(grad, targets[..., None], -1) - 1, -1)
    grad /= np.float32(targets.size)
    g["embedding"] = outer(grad, normal)
    x_grad, g["norm_final"] = normalize_back(grad @ w["embedding"], w["norm_final"], kept)
    for layer in reversed(range(LAYERS)):
        x_grad = x_grad + feed_back(w, g, layer, x_grad, states.pop())
        x_grad = x_grad + attend_back(w, g, layer, x_grad, states.pop())
    np.add.at(g["embedding"], tokens, x_grad)
    return loss, g


def train(w: Weights, batches: Iterator[Any], schedule: Schedule) -> None:
    """AdamW, in place."""
    first = {name: np.zeros_like(weight) for name, weight in w.items()}
    second = {name: np.zeros_like(weight) for name, weight in w.items()}
    begin = time.monotonic()
    for step in range(schedule.steps):
        loss, g = gradient(w, *next(batches))
        norm = float(np.sqrt(sum(np.sum(part * part, dtype=np.float64) for part in g.values())))
        rate = schedule.at(step)
        for name, weight in w.items():
            part = g[name] * np.float32(min(1.0, schedule.clip / norm))
            first[name] += 0.1 * (part - first[name])
            second[name] += 0.05 * (part * part - second[name])
            move = (first[name] / (1 - 0.9 ** (step + 1))) / (
                np.sqrt(second[name] / (1 - 0.95 ** (step + 1))) + np.float32(1e-8)
            )
            if not name.startswith("norm"):
                move += schedule.decay * weight
            weight -= np.float32(rate) * move
        if step % 25 == 0 or step == schedule.steps - 1:
            print(f"step {step}: loss {loss:.3f}, {time.monotonic() - begin:.0f} s", flush=True)


def windows(tokens: npt.NDArray[np.int64], batch: int, rng: np.random.Generator) -> Iterator[Any]:
    """Endless (tokens, targets) of (batch, CONTEXT), at random places; a third begin where a story begins."""
    begins = np.flatnonzero(tokens[: -CONTEXT - 1] == BEGIN)
    while True:
        places = rng.integers(0, len(tokens) - CONTEXT - 1, batch)
        places[: batch // 3] = rng.choice(begins, batch // 3)
        chosen = places[:, None] + np.arange(CONTEXT + 1)
        yield tokens[chosen[:, :-1]], tokens[chosen[:, 1:]]


def write_checkpoint(path: Path, w: Weights) -> None:
    """llama2.c's version 0: seven int32, then the weights and the tables of the rotary embedding (float32)."""
    header = np.array([DIM, HIDDEN, LAYERS, HEADS, HEADS, VOCABULARY, CONTEXT], "<i4")
    parts = [*w.values(), COSINE, SINE]
    path.write_bytes(header.tobytes() + b"".join(part.astype("<f4").tobytes() for part in parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stories", type=int, default=20000, help="to write and train on")
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=8, help=f"windows of {CONTEXT} tokens a step")
    parser.add_argument("--output", type=Path, default=HERE, help="folder")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    texts = [story(rng) for _ in range(arguments.stories)]
    held_out = [text for text in (story(rng) for _ in range(200)) if text not in set(texts)]
    pieces, scores = train_tokenizer(texts[:2000], VOCABULARY)
    tokenizer = Tokenizer(tuple(pieces), tuple(scores))
    known: dict[str, list[int]] = {}

    def ids(text: str) -> list[int]:
        """The ids of a story, word by word: merges never cross a space, so this is encode(), only faster."""
        parts = []
        for word in text.split(" "):
            if word not in known:
                known[word] = tokenizer.encode(word, begin=False)
            parts += known[word]
        return [BEGIN, *parts]

    assert ids(texts[0]) == tokenizer.encode(texts[0])
    tokens = np.array([token for text in texts for token in ids(text)], np.int64)
    test = np.array([token for text in held_out for token in ids(text)], np.int64)
    print(f"{len(tokens)} tokens, {len(tokens) / len(texts):.0f} a story; {len(held_out)} stories held out")
    w = initial_weights(rng)
    schedule = Schedule(arguments.steps, arguments.batch)
    train(w, windows(tokens, arguments.batch, rng), schedule)
    checks = windows(test, 16, np.random.default_rng(0))
    tested = float(np.mean([loss_of(forward(w, x)[0], y) for x, y in (next(checks) for _ in range(8))]))
    count = sum(weight.size for weight in w.values())
    report = (
        f"Written by `python models/train_stories.py`: seed {arguments.seed}, {arguments.steps} steps of "
        f"{arguments.batch} x {CONTEXT} tokens, {len(tokens)} tokens of {len(texts)} stories.\n\n"
        f"{count} weights; loss {tested:.3f} a token on {len(held_out)} stories that are not among those "
        f"({np.exp(tested):.2f} tokens to choose from).\n"
    )
    print(report)
    write_checkpoint(arguments.output / "stories_tiny.bin", w)
    write_tokenizer(arguments.output / "stories_tiny_tokenizer.bin", pieces, scores)
    (arguments.output / "stories_tiny.md").write_text(report)


if __name__ == "__main__":
    main()
