"""Models of operators that only move numbers, and the comparison with TFLite's reference kernels, number by number.

Before and behind each stand convolutions that permute channels, which are exact whatever the device may use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from generate import random_inputs
from layers import EVERY_FORM, PROVEN
from tflite_writer import Builder, Model, write

from delegate.partition import verdicts
from delegate.tflite import read_graph

Interpreters = Callable[..., Any]
Rng = np.random.Generator
FORMS = ("auto", "never")


class Sketch:
    """A model of tensors of one quantization."""

    def __init__(self, rng: Rng, dtype: str) -> None:
        info = np.iinfo(dtype)
        self.rng, self.dtype, self.builder = rng, dtype, Builder()
        self.quant = (float(rng.uniform(0.01, 0.1)), int(rng.integers(info.min, info.max + 1)))
        self.inputs: list[int] = []
        self.computed: list[int] = []

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(self.builder.tensors[tensor].shape)

    def input(self, *shape: int) -> int:
        self.inputs.append(self.builder.tensor(shape, self.dtype, *self.quant))
        return self.inputs[-1]

    def permuted(self, source: int, channels: int = 0) -> int:
        """A 1x1 convolution, each output channel of which is an input channel."""
        count = self.shape(source)[3]
        channels = channels or count
        order = self.rng.permutation(max(count, channels))[:channels] % count
        weight = (order[:, np.newaxis] == np.arange(count)).astype(self.dtype).reshape(channels, 1, 1, count)
        return self.builder.convolution(source, weight, 1.0, self.quant, bias=np.zeros(channels, np.int32))

    def filtered(self, source: int) -> int:
        """A 1x1 depthwise convolution that changes nothing."""
        count = self.shape(source)[3]
        weight, bias = np.ones((1, 1, 1, count), self.dtype), np.zeros(count, np.int32)
        return self.builder.convolution(source, weight, 1.0, self.quant, bias=bias, depthwise=True)

    def made(self, *shape: int) -> int:
        """A tensor that the partition computes."""
        self.computed.append(self.permuted(self.input(*shape)))
        return self.computed[-1]

    def centre(self, source: int) -> int:
        """A 3x3 convolution without padding that takes the middle of each window."""
        count = self.shape(source)[3]
        weight = np.zeros((count, 3, 3, count), self.dtype)
        weight[np.arange(count), 1, 1, np.arange(count)] = 1
        bias = np.zeros(count, np.int32)
        return self.builder.convolution(source, weight, 1.0, self.quant, bias=bias, padding="VALID")

    def finish(self, *outputs: int, alone: bool = False) -> Model:
        """The outputs, each behind a convolution of its own if it has four dimensions, and as it is too."""
        found = []
        for output in outputs:
            if len(self.shape(output)) == 4 and not alone:
                found.append(self.permuted(output))
            if alone or len(self.shape(output)) != 4 or self.rng.random() < 0.5:
                found.append(output)
        return self.builder.finish(self.inputs, found)


def check(
    model: Model,
    reference: Interpreters,
    npu: Interpreters,
    rng: Rng,
    forms: str = "auto",
    whole: bool = True,
) -> None:
    """Compares two inferences; ``whole``: every node is on the NPU."""
    content = write(model)
    plain, tested = reference(content), npu(content, unproven=forms)
    target = EVERY_FORM if forms == "auto" else PROVEN
    refused = [reasons for reasons in verdicts(read_graph(content), target).values() if reasons]
    partitions = len(tested._get_ops_details()) - len(plain._get_ops_details())
    assert not whole or (refused, partitions) == ([], 1)
    for _ in range(2):
        values = random_inputs(rng, model)
        results = []
        for interpreter in (plain, tested):
            for detail, value in zip(interpreter.get_input_details(), values, strict=True):
                interpreter.set_tensor(detail["index"], value)
            interpreter.invoke()
            results.append([interpreter.get_tensor(d["index"]) for d in interpreter.get_output_details()])
        for expected, got in zip(*results, strict=True):
            np.testing.assert_array_equal(got, expected)
