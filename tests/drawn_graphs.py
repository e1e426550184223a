"""Random models of up to a dozen operators, and the way from one that fails to the smallest that still does.

A recipe says everything by small numbers: the shape of the input and, for each operator, which of the tensors at hand
it reads and the seed of all else. Any part of a recipe is a recipe too, so a failing one can be cut down blindly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import drawn_convolutions
import drawn_movements
import drawn_operators
import numpy as np
from drawing import KINDS, Drawing
from tflite_writer import Model

__all__ = ["KINDS", "Recipe", "Step", "build", "draw", "drawn_convolutions", "drawn_movements", "drawn_operators"]

LARGEST_TENSOR = 300_000  # elements; keeps a graph to a second or so


@dataclass(frozen=True)
class Step:
    """One operator. ``source`` and ``other`` count from the newest tensor back, as far as there are any."""

    kind: str
    source: int
    other: int
    seed: int
    shown: bool = False  # an output of the model even where others read it


@dataclass(frozen=True)
class Recipe:
    """A model, and inputs for it by ``seed``."""

    shape: tuple[int, int, int, int]
    dtype: str
    seed: int
    steps: tuple[Step, ...]
    wild: bool = False  # scales and zero points that no converter picks


def build(recipe: Recipe) -> Model | None:
    """The model; None where no operator of the recipe could be added. Its outputs are those shown, and unread ones."""
    drawing = Drawing(recipe.shape, recipe.dtype, recipe.seed, recipe.wild)
    builder, shown = drawing.builder, set[int]()
    for step in recipe.steps:
        at_hand = drawing.tensors[::-1]
        source, other = at_hand[step.source % len(at_hand)], at_hand[step.other % len(at_hand)]
        kept = (list(builder.tensors), list(builder.operators), list(drawing.inputs))
        made = KINDS[step.kind](drawing, source, other, np.random.default_rng(step.seed))
        outputs = () if made is None else (made,) if isinstance(made, int) else made
        added = [spec.shape for spec in builder.tensors[len(kept[0]) :] if spec.data is None]
        sizes = [int(np.prod(shape)) for shape in added]
        if not outputs or min(sizes) == 0 or max(sizes) > LARGEST_TENSOR:
            builder.tensors, builder.operators, drawing.inputs = kept
            continue
        drawing.tensors += outputs
        shown |= set(outputs) if step.shown else set()
    read = {index for operator in builder.operators for index in operator.inputs}
    computed = [index for operator in builder.operators for index in operator.outputs]
    outputs = tuple(tensor for tensor in computed if tensor not in read or tensor in shown)
    inputs = [tensor for tensor in drawing.inputs if tensor in read]
    return builder.finish(inputs, outputs) if outputs else None


def draw(seed: int) -> Recipe:
    """A recipe of 1 to 12 operators over an odd or even input of 1x1 to 300x300 pixels and 1 to 1024 channels.

    Half of them are chains, where nearly each operator reads the one before it; a third is wild.
    """
    rng = np.random.default_rng(seed)

    def size(largest: int) -> int:
        return int(np.exp(rng.uniform(0, np.log(largest + 0.999))))

    height, width, channels = size(300), size(300), size(1024)
    while height * width * channels > LARGEST_TENSOR // 2:
        height, width, channels = -(-height // 2), -(-width // 2), -(-channels // 2)
    if rng.integers(4) == 0:  # a row, a column or one pixel
        height, width = [(1, width), (height, 1), (1, 1)][int(rng.integers(3))]
    names, farthest = sorted(KINDS), int(rng.choice([1, 3]))
    steps = tuple(
        Step(
            str(rng.choice(names if rng.integers(3) else ["CONV_2D", "DEPTHWISE_CONV_2D", "branches", "residual"])),
            int(rng.integers(farthest)) if rng.integers(6) else int(rng.integers(8)),
            int(rng.integers(5)),
            int(rng.integers(1 << 31)),
            bool(rng.integers(8) == 0),
        )
        for _ in range(int(rng.integers(1, 13)))
    )
    batch = int(rng.choice([1, 1, 1, 1, 2, 3, 4]))
    wild = bool(rng.integers(3) == 0)
    return Recipe((batch, height, width, channels), str(rng.choice(["int8", "uint8"])), seed, steps, wild)


def smaller(recipe: Recipe) -> Iterator[Recipe]:
    """Recipes with one thing less: an operator, half of a side; or with an operator that reads what is nearest."""
    if recipe.wild:
        yield replace(recipe, wild=False)
    for index, step in enumerate(recipe.steps):
        before, after = recipe.steps[:index], recipe.steps[index + 1 :]
        yield replace(recipe, steps=before + after)
        if step.source or step.other or step.shown:
            yield replace(recipe, steps=(*before, replace(step, source=0, other=0, shown=False), *after))
    for axis, extent in enumerate(recipe.shape):
        for less in {1, extent // 2, extent - 1} - {0, extent}:
            yield replace(recipe, shape=(*recipe.shape[:axis], less, *recipe.shape[axis + 1 :]))  # type: ignore[arg-type]


def minimized(recipe: Recipe, fails: Callable[[Recipe], bool]) -> Recipe:
    """The smallest recipe that still fails, as far as taking single things away leads."""
    shrinking = True
    while shrinking:
        shrinking = False
        for candidate in smaller(recipe):
            if fails(candidate):
                recipe, shrinking = candidate, True
                break
    return recipe
