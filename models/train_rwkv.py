"""Trains the small RWKV-4 that comes with examples/rwkv, on the stories of story_grammar.py, letter by letter.

    python3.11 -m venv build/train && build/train/bin/pip install jax safetensors
    build/train/bin/python models/train_rwkv.py         # some eight minutes on a free core

It writes stories_rwkv.safetensors beside itself, in the names and shapes of the published RWKV-4 checkpoints, with the
letters of the vocabulary in the file's metadata. JAX is never needed to run the example.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file
from story_grammar import story

HERE = Path(__file__).resolve().parent
LAYERS, WIDTH = 3, 128
BATCH, LENGTH = 8, 256  # sequences a step, letters of each
EPSILON = 1e-5  # of the layer norms, as in the published models

Weights = dict[str, jax.Array]


def initial(vocabulary: int, seed: int) -> Weights:
    """Matrices (out, in) with small random entries, those that write to the residual stream zero; decays spread from
    slow to fast over the channels, as RWKV-4's own training starts."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}

    def matrix(name: str, rows: int, columns: int, gain: float) -> None:
        weights[name] = gain * rng.standard_normal((rows, columns)) / math.sqrt(columns)

    def norm(name: str) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ones(WIDTH), np.zeros(WIDTH)

    matrix("emb.weight", vocabulary, WIDTH, 1.0)
    matrix("head.weight", vocabulary, WIDTH, 0.5)
    norm("blocks.0.ln0")
    norm("ln_out")
    place = np.arange(WIDTH) / (WIDTH - 1)
    for layer in range(LAYERS):
        block = f"blocks.{layer}"
        norm(f"{block}.ln1")
        norm(f"{block}.ln2")
        depth = layer / max(1, LAYERS - 1)
        weights[f"{block}.att.time_decay"] = -5 + 8 * place ** (0.7 + 1.3 * depth)
        weights[f"{block}.att.time_first"] = math.log(0.3) + 0.5 * ((np.arange(WIDTH) + 1) % 3 - 1)
        for mix in ("att.time_mix_k", "att.time_mix_v", "att.time_mix_r", "ffn.time_mix_k", "ffn.time_mix_r"):
            weights[f"{block}.{mix}"] = (place ** (1 - layer / LAYERS)).reshape(1, 1, WIDTH)
        for name in ("key", "value", "receptance"):
            matrix(f"{block}.att.{name}.weight", WIDTH, WIDTH, 1.0)
        matrix(f"{block}.att.output.weight", WIDTH, WIDTH, 0.0)
        matrix(f"{block}.ffn.key.weight", 4 * WIDTH, WIDTH, 1.0)
        matrix(f"{block}.ffn.receptance.weight", WIDTH, WIDTH, 0.0)
        matrix(f"{block}.ffn.value.weight", WIDTH, 4 * WIDTH, 0.0)
    return {name: jnp.asarray(value, jnp.float32) for name, value in weights.items()}


def normalized(x: jax.Array, weights: Weights, name: str) -> jax.Array:
    """Layer norm over the channels."""
    x = x - x.mean(-1, keepdims=True)
    x = x / jnp.sqrt((x * x).mean(-1, keepdims=True) + EPSILON)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def shifted(x: jax.Array) -> jax.Array:
    """x (batch, time, channel) one step later, zeros at first."""
    return jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]


def weighted_mean(key: jax.Array, value: jax.Array, decay: jax.Array, first: jax.Array) -> jax.Array:
    """RWKV-4's wkv: means of the values so far, weighted by exp(key), older ones decayed; (batch, time, channel)."""

    def step(
        state: tuple[jax.Array, ...], pair: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, ...], jax.Array]:
        above, below, peak = state  # numerator and denominator, both times exp(-peak)
        k, v = pair
        top = jnp.maximum(peak, first + k)
        old, new = jnp.exp(peak - top), jnp.exp(first + k - top)
        out = (old * above + new * v) / (old * below + new)
        top = jnp.maximum(peak + decay, k)
        old, new = jnp.exp(peak + decay - top), jnp.exp(k - top)
        return (old * above + new * v, old * below + new, top), out

    zero = jnp.zeros_like(key[:, 0])
    _, out = jax.lax.scan(step, (zero, zero, zero - 1e30), (key.swapaxes(0, 1), value.swapaxes(0, 1)))
    return out.swapaxes(0, 1)


def logits(weights: Weights, tokens: jax.Array) -> jax.Array:
    """(batch, time, vocabulary) for tokens (batch, time)."""
    x = normalized(weights["emb.weight"][tokens], weights, "blocks.0.ln0")
    for layer in range(LAYERS):
        block = f"blocks.{layer}"

        def mixed(now: jax.Array, name: str, part: str, block: str = block) -> jax.Array:
            share = weights[f"{block}.{part}.time_mix_{name[0]}"]
            return (now * share + shifted(now) * (1 - share)) @ weights[f"{block}.{part}.{name}.weight"].T

        now = normalized(x, weights, f"{block}.ln1")
        key, value, receptance = (mixed(now, name, "att") for name in ("key", "value", "receptance"))
        decay = -jnp.exp(weights[f"{block}.att.time_decay"])
        mean = weighted_mean(key, value, decay, weights[f"{block}.att.time_first"])
        x = x + (jax.nn.sigmoid(receptance) * mean) @ weights[f"{block}.att.output.weight"].T
        now = normalized(x, weights, f"{block}.ln2")
        key, receptance = (mixed(now, name, "ffn") for name in ("key", "receptance"))
        change = jnp.square(jax.nn.relu(key)) @ weights[f"{block}.ffn.value.weight"].T
        x = x + jax.nn.sigmoid(receptance) * change
    return normalized(x, weights, "ln_out") @ weights["head.weight"].T


def loss(weights: Weights, tokens: jax.Array) -> jax.Array:
    """Mean cross entropy of every next letter, in nats; tokens (batch, time + 1)."""
    scores = jax.nn.log_softmax(logits(weights, tokens[:, :-1]))
    return -jnp.take_along_axis(scores, tokens[:, 1:, None], -1).mean()


@jax.jit
def update(
    weights: Weights, moments: tuple[Weights, Weights], tokens: jax.Array, step: jax.Array, rate: jax.Array
) -> tuple[Weights, tuple[Weights, Weights], jax.Array]:
    """One step of Adam, gradients clipped to a norm of 1."""
    value, gradient = jax.value_and_grad(loss)(weights, tokens)
    size = jnp.sqrt(sum(jnp.square(part).sum() for part in gradient.values()))
    gradient = {name: part * jnp.minimum(1.0, 1.0 / size) for name, part in gradient.items()}
    first = {name: 0.9 * moments[0][name] + 0.1 * part for name, part in gradient.items()}
    second = {name: 0.99 * moments[1][name] + 0.01 * part**2 for name, part in gradient.items()}

    def moved(name: str) -> jax.Array:
        return rate * (first[name] / (1 - 0.9**step)) / (jnp.sqrt(second[name] / (1 - 0.99**step)) + 1e-8)

    return {name: part - moved(name) for name, part in weights.items()}, (first, second), value


def corpus(count: int, seed: int) -> str:
    """``count`` stories, a line each."""
    rng = np.random.default_rng(seed)
    return "".join(f"{story(rng)}\n" for _ in range(count))


def batches(text: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Pieces of the text from anywhere, (BATCH, LENGTH + 1), without end."""
    while True:
        starts = rng.integers(0, len(text) - LENGTH - 1, BATCH)
        yield np.stack([text[start : start + LENGTH + 1] for start in starts])


def main() -> None:
    """Trains, measures on stories that were not trained on, writes the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--stories", type=int, default=8000)
    parser.add_argument("-o", "--output", type=Path, default=HERE / "stories_rwkv.safetensors")
    arguments = parser.parse_args()
    seed, steps = arguments.seed, arguments.steps
    text, unseen = corpus(arguments.stories, seed), corpus(200, seed + 1)
    letters = sorted(set(text) | set(unseen))
    numbers = {letter: number for number, letter in enumerate(letters)}
    tokens, test = (np.array([numbers[letter] for letter in part], np.int32) for part in (text, unseen))

    weights = initial(len(letters), seed)
    zeros = {name: jnp.zeros_like(part) for name, part in weights.items()}
    moments, source, began = (zeros, zeros), batches(tokens, np.random.default_rng(seed + 2)), time.monotonic()
    for step in range(1, steps + 1):
        rate = 4e-3 * min(1.0, step / 50) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * step / steps)))
        weights, moments, value = update(weights, moments, next(source), jnp.float32(step), jnp.float32(rate))
        if step % 100 == 0:
            print(f"step {step}/{steps}: loss {float(value):.4f}, {time.monotonic() - began:.0f} s", flush=True)

    held_out = batches(test, np.random.default_rng(seed + 3))
    nats = float(np.mean([loss(weights, next(held_out)) for _ in range(20)]))
    print(f"unseen stories: {nats:.4f} nats a letter, {nats / math.log(2):.3f} bits")
    stored = {name: np.asarray(part, np.float16) for name, part in weights.items()}
    metadata = {"vocabulary": json.dumps(letters), "licence": "MIT", "unseen_nats": f"{nats:.4f}"}
    save_file(stored, arguments.output, metadata=metadata)
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes, {len(letters)} letters")


if __name__ == "__main__":
    main()
