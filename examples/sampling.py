"""The next token from a model's logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Sampling:
    """``temperature`` 0: always the likeliest token. ``top_p``: the share of all chances that is chosen from."""

    temperature: float = 0.8
    top_p: float = 0.9


def sample(logits: npt.NDArray[np.float32], sampling: Sampling, rng: np.random.Generator) -> int:
    """A token by its chance; logits (vocabulary)."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / sampling.temperature
    chances = np.exp(scaled - scaled.max())
    chances /= chances.sum()
    order = np.argsort(-chances, kind="stable")
    before = np.cumsum(chances[order]) - chances[order]  # the share of all likelier ones
    kept = order[: max(1, np.count_nonzero(before < sampling.top_p))]
    return int(rng.choice(kept, p=chances[kept] / chances[kept].sum()))
