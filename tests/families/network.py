"""A float network that computes itself while it is described: each method adds an operator and returns its output.

Tensors are numbers; ``arrays`` holds what each of them is for the calibration images. Weights are drawn as He's paper
has it (sigma² = 2 / inputs), and a batch normalization with the images' own statistics is folded into them, whose
factors spread from channel to channel as those of trained networks do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tflite_writer import Array

from families import floats
from families.floats import Pair

IMAGES = 6  # to calibrate with
SMALLEST_FACTOR, LARGEST_FACTOR = 0.15, 2.5  # of a batch normalization
VARIANCE_FLOOR = 0.1  # share of the mean variance of all channels: what is nearly dead is not blown up


@dataclass(frozen=True, eq=False)
class Step:
    """An operator; convolutions and products have a weight (OHWI, 1HWC, or outputs by inputs) and a bias."""

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    weight: Array | None = None
    bias: Array | None = None


def pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def pictures(rng: np.random.Generator, images: int, height: int, width: int, channels: int) -> Array:
    """Smooth shapes with some detail, from -1 to 1: noise alone would be averaged away by the first layers."""
    result = rng.uniform(-0.2, 0.2, (images, height, width, channels))
    for cells, strength in ((2, 0.7), (5, 0.6), (11, 0.4)):
        coarse = rng.uniform(-strength, strength, (images, min(cells, height), min(cells, width), channels))
        result = result + floats.bilinear(coarse, (height, width))
    return np.asarray(np.clip(result, -1, 1), np.float32)


class Network:
    """Operators in order, and all tensors as floats; ``constants`` are the numbers of those that nothing computes."""

    def __init__(self, height: int, width: int, channels: int, *, seed: int, batch: int = 1) -> None:
        self.rng = np.random.default_rng(seed)
        self.batch = batch
        self.steps: list[Step] = []
        self.arrays: list[Array] = []
        self.constants: list[int] = []
        self.input = self._tensor(pictures(self.rng, IMAGES, height, width, channels))

    def _tensor(self, array: Array) -> int:
        self.arrays.append(np.asarray(array, np.float32))
        return len(self.arrays) - 1

    def _step(self, op: str, inputs: Sequence[int], array: Array, **options: Any) -> int:
        output = self._tensor(array)
        self.steps.append(Step(op, tuple(inputs), (output,), options))
        return output

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Without the images."""
        return self.arrays[tensor].shape[1:]

    def channels(self, tensor: int) -> int:
        return self.arrays[tensor].shape[-1]

    def constant(self, value: float) -> int:
        """A number without dimensions."""
        tensor = self._tensor(np.array(value))
        self.constants.append(tensor)
        return tensor

    def weight(self, shape: Sequence[int], inputs: int) -> Array:
        return self.rng.normal(0, (2 / inputs) ** 0.5, shape)

    def _scaled(self, step: Step, sums: Array, axis: int, activation: str, normalized: bool = True) -> int:
        """Folds a batch normalization, or drawn factors alone, into the step's weight, whose outputs are ``axis``."""
        assert step.weight is not None
        count = sums.shape[-1]
        logarithms = np.log([SMALLEST_FACTOR, LARGEST_FACTOR])
        gamma, beta = np.exp(self.rng.uniform(*logarithms, count)), self.rng.normal(0, 0.5, count)
        others = tuple(range(sums.ndim - 1))
        if normalized:
            variance = sums.var(axis=others)
            factor = gamma / np.sqrt(variance + VARIANCE_FLOOR * variance.mean())
            bias = beta - factor * sums.mean(axis=others)
        else:
            factor, bias = gamma, beta
        shape = [count if i == axis else 1 for i in range(step.weight.ndim)]
        output = self._tensor(floats.UNARY[activation](sums * factor + bias))
        options = {**step.options, "activation": activation}
        folded = step.weight * factor.reshape(shape)
        self.steps.append(Step(step.op, step.inputs, (output,), options, folded, bias))
        return output

    def convolution(
        self,
        source: int,
        channels: int,
        kernel: int | Pair = 1,
        stride: int = 1,
        *,
        dilation: int = 1,
        padding: str = "SAME",
        activation: str = "NONE",
        normalized: bool = True,
    ) -> int:
        """CONV_2D with batch normalization, if wanted; kernel (y, x) or one number for both sides."""
        depth = self.channels(source)
        height, width = pair(kernel)
        weight = self.weight((channels, height, width, depth), depth * height * width)
        options = {"stride": pair(stride), "dilation": pair(dilation), "padding": padding}
        sums = floats.convolution(self.arrays[source], weight, **options)
        return self._scaled(Step("CONV_2D", (source,), (), options, weight), sums, 0, activation, normalized)

    def depthwise(
        self,
        source: int,
        kernel: int | Pair = 3,
        stride: int = 1,
        *,
        dilation: int = 1,
        padding: str = "SAME",
        activation: str = "NONE",
    ) -> int:
        """DEPTHWISE_CONV_2D with batch normalization."""
        height, width = pair(kernel)
        weight = self.weight((1, height, width, self.channels(source)), height * width)
        options = {"stride": pair(stride), "dilation": pair(dilation), "padding": padding}
        sums = floats.depthwise(self.arrays[source], weight, **options)
        return self._scaled(Step("DEPTHWISE_CONV_2D", (source,), (), options, weight), sums, 3, activation)

    def transpose_convolution(self, source: int, channels: int, stride: int = 2) -> int:
        """TRANSPOSE_CONV of a kernel as large as its stride."""
        depth = self.channels(source)
        weight = self.weight((channels, stride, stride, depth), depth)
        sums = floats.transpose_convolution(self.arrays[source], weight, stride)
        step = Step("TRANSPOSE_CONV", (source,), (), {"stride": pair(stride)}, weight)
        return self._scaled(step, sums, 0, "NONE")

    def fully_connected(self, source: int, outputs: int, activation: str = "NONE") -> int:
        """FULLY_CONNECTED of all numbers of an image."""
        flat = self.arrays[source].reshape(IMAGES, -1)
        weight = self.weight((outputs, flat.shape[1]), flat.shape[1])
        step = Step("FULLY_CONNECTED", (source,), (), {}, weight)
        return self._scaled(step, flat @ weight.T, 0, activation, normalized=False)

    def add(self, first: int, second: int, activation: str = "NONE") -> int:
        sums = floats.UNARY[activation](self.arrays[first] + self.arrays[second])
        return self._step("ADD", (first, second), sums, activation=activation)

    def multiply(self, first: int, second: int) -> int:
        return self._step("MUL", (first, second), self.arrays[first] * self.arrays[second], activation="NONE")

    def unary(self, op: str, source: int) -> int:
        """LOGISTIC, HARD_SWISH, RELU6…, SOFTMAX too."""
        return self._step(op, (source,), floats.UNARY[op](self.arrays[source]))

    def maxima(self, source: int, window: int, stride: int = 1, padding: str = "SAME") -> int:
        """MAX_POOL_2D."""
        options = {"window": pair(window), "stride": pair(stride), "padding": padding}
        return self._step("MAX_POOL_2D", (source,), floats.largest(self.arrays[source], **options), **options)

    def averages(self, source: int, window: int, stride: int = 1, padding: str = "SAME") -> int:
        """AVERAGE_POOL_2D."""
        options = {"window": pair(window), "stride": pair(stride), "padding": padding}
        return self._step("AVERAGE_POOL_2D", (source,), floats.average(self.arrays[source], **options), **options)

    def mean(self, source: int, keep: bool = False) -> int:
        """MEAN over height and width."""
        return self._step("MEAN", (source,), self.arrays[source].mean(axis=(1, 2), keepdims=keep), keep=keep)

    def pad(self, source: int, pixels: int) -> int:
        """PAD by zeros on all four sides."""
        edges = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
        return self._step("PAD", (source,), np.pad(self.arrays[source], edges), edges=edges)

    def concatenation(self, *sources: int, axis: int = -1) -> int:
        """CONCATENATION, by default of channels."""
        arrays = [self.arrays[source] for source in sources]
        return self._step("CONCATENATION", sources, np.concatenate(arrays, axis), axis=axis % arrays[0].ndim)

    def split(self, source: int, count: int) -> tuple[int, ...]:
        """SPLIT of the channels into equal parts."""
        outputs = tuple(self._tensor(array) for array in np.split(self.arrays[source], count, axis=-1))
        self.steps.append(Step("SPLIT", (source,), outputs))
        return outputs

    def reshape(self, source: int, *shape: int) -> int:
        """RESHAPE of each image; one extent may be -1."""
        return self._step("RESHAPE", (source,), self.arrays[source].reshape(IMAGES, *shape))

    def nearest(self, source: int, factor: int) -> int:
        """RESIZE_NEAREST_NEIGHBOR."""
        height, width, _ = self.shape(source)
        size = (height * factor, width * factor)
        return self._step("RESIZE_NEAREST_NEIGHBOR", (source,), floats.nearest(self.arrays[source], size), size=size)

    def bilinear(self, source: int, height: int, width: int) -> int:
        """RESIZE_BILINEAR with aligned corners."""
        size = (height, width)
        return self._step("RESIZE_BILINEAR", (source,), floats.bilinear(self.arrays[source], size), size=size)

    def requantize(self, source: int) -> int:
        """QUANTIZE, where a converter puts one: before a concatenation, to a scale that is not the source's."""
        return self._step("QUANTIZE", (source,), self.arrays[source])

    def largest_class(self, source: int) -> int:
        """ARG_MAX over the channels."""
        return self._step("ARG_MAX", (source,), self.arrays[source].argmax(axis=-1))
