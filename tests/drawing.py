"""A random model under construction, and the register of the ways to add an operator to it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tflite_writer import Builder, Quantization

LARGEST_WEIGHT = 300_000  # elements
ACTIVATIONS = ("NONE", "NONE", "NONE", "RELU", "RELU6", "RELU_N1_TO_1")


class Drawing:
    """The tensors at hand have four dimensions; ``wild`` ones have scales and zero points that no converter picks."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: str, seed: int, wild: bool) -> None:
        self.builder = Builder()
        self.dtype = dtype
        self.wild = wild
        rng = np.random.default_rng(seed)
        scale = float(10 ** rng.uniform(-6, 2)) if wild else 0.05
        self.inputs: list[int] = []
        self.tensors = [self.input(shape, self.quantization(rng, 0.4 * scale, 2 * scale))]

    def input(self, shape: tuple[int, int, int, int], quantization: Quantization) -> int:
        """Adds an input of the model."""
        self.inputs.append(self.builder.tensor(shape, self.dtype, *quantization))
        return self.inputs[-1]

    def shape(self, tensor: int) -> tuple[int, int, int, int]:
        batch, height, width, channels = self.builder.tensors[tensor].shape
        return batch, height, width, channels

    def scale(self, tensor: int) -> float:
        return self.builder.tensors[tensor].scale[0]

    def quantization_of(self, tensor: int) -> Quantization:
        spec = self.builder.tensors[tensor]
        return spec.scale[0], spec.zero_point[0]

    def quantization(self, rng: np.random.Generator, low: float, high: float) -> Quantization:
        """A scale between two, and a zero point that leaves both signs more often than not."""
        info = np.iinfo(self.dtype)
        if self.wild:
            scale = float(np.exp(rng.uniform(np.log(low / 3), np.log(high * 3))))
            return scale, int(rng.choice([info.min, info.max, rng.integers(info.min, info.max + 1)]))
        middle = (info.min + info.max + 1) // 2
        point = int(np.clip(middle + rng.integers(-160, 161), info.min, info.max))
        return float(rng.uniform(low, high)), point

    def factor(self, rng: np.random.Generator, tensor: int) -> Quantization:
        """A quantization whose scale is not far from a tensor's."""
        scale = self.scale(tensor)
        return self.quantization(rng, 0.4 * scale, 2.5 * scale)


Draw = Callable[[Drawing, int, int, np.random.Generator], int | tuple[int, ...] | None]
KINDS: dict[str, Draw] = {}


def kind(name: str) -> Callable[[Draw], Draw]:
    """Registers a way to add an operator; it returns None where the operator cannot read these tensors."""

    def register(function: Draw) -> Draw:
        KINDS[name] = function
        return function

    return register


def choice(rng: np.random.Generator, *values: int) -> int:
    return int(rng.choice(values))
