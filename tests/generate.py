"""Seeded random models for property tests.

Shapes, strides, paddings, types, zero points and activations are drawn; the output scales are mostly calibrated on a
random input, so that outputs use the whole range of their type, and sometimes drawn too, so that outputs saturate.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import reference
from tflite_writer import Array, Builder, Model, TensorSpec

Rng = np.random.Generator
Output = tuple[float, int]  # scale, zero point

ACTIVATION_CHOICES = ("NONE", "NONE", "RELU", "RELU6")


def random_values(rng: Rng, shape: tuple[int, ...], dtype: str) -> Array:
    """Values over the whole range of the type."""
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def random_inputs(rng: Rng, model: Model) -> list[Array]:
    """One array for each input of the model."""
    return [random_values(rng, model.tensors[i].shape, model.tensors[i].dtype) for i in model.inputs]


def random_zero_point(rng: Rng, dtype: str) -> int:
    """Often an end of the range or the middle, where zero points lie in practice."""
    info = np.iinfo(dtype)
    middle = (int(info.min) + int(info.max) + 1) // 2
    return int(rng.choice([info.min, info.max, middle, rng.integers(info.min, info.max + 1)]))


def random_weights(rng: Rng, shape: tuple[int, ...], dtype: str) -> tuple[Array, int]:
    """Weights and their zero point (0 for int8: TFLite knows no other); uniform, bell-shaped, sparse or extreme."""
    info = np.iinfo(dtype)
    zero_point = 0 if dtype == "int8" else int(np.clip(round(rng.normal(128, 30)), 0, 255))
    kind = rng.choice(["uniform", "normal", "sparse", "extreme"], p=[0.3, 0.5, 0.1, 0.1])
    if kind == "uniform":
        values = rng.integers(info.min, info.max + 1, shape)
    elif kind == "extreme":
        values = rng.choice([info.min, info.max], shape)
    else:
        values = np.round(rng.normal(0, 35, shape)).astype(np.int64) + zero_point
        if kind == "sparse":
            values = np.where(rng.random(shape) < 0.8, zero_point, values)
    return np.clip(values, info.min, info.max).astype(dtype), zero_point


def calibrated(low: float, high: float, dtype: str) -> Output:
    """Scale and zero point for real values from ``low`` to ``high``, as converters choose them."""
    info = np.iinfo(dtype)
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    return scale, int(np.clip(round(info.min - low / scale), info.min, info.max))


def choose_output(rng: Rng, reals: Array, activation: str, dtype: str) -> Output:
    """An output quantization for these real values: calibrated four times of five, else drawn."""
    if activation.startswith("RELU"):
        reals = np.maximum(reals, 0)
    if activation == "RELU6":
        reals = np.minimum(reals, 6)
    scale, zero_point = calibrated(float(reals.min()), float(reals.max()), dtype)
    if rng.random() < 0.2:
        return scale * float(np.exp(rng.uniform(-1.5, 1.0))), random_zero_point(rng, dtype)
    return scale, zero_point


class Sketch:
    """A model being drawn: a Builder and the values its tensors have for one random input."""

    def __init__(self, rng: Rng, dtype: str) -> None:
        self.rng = rng
        self.dtype = dtype
        self.builder = Builder()
        self.values: dict[int, Array] = {}
        self.inputs: list[int] = []

    def spec(self, index: int) -> TensorSpec:
        """A tensor's record."""
        return self.builder.tensors[index]

    def input(self, shape: tuple[int, ...], scale: float | None = None) -> int:
        """Adds an input of the model; without ``scale`` one is drawn."""
        scale = scale or float(np.exp(self.rng.uniform(-6, -1)))
        index = self.builder.tensor(shape, self.dtype, scale, random_zero_point(self.rng, self.dtype))
        self.values[index] = random_values(self.rng, shape, self.dtype)
        self.inputs.append(index)
        return index

    def through(self, index: int, values: Callable[[Array], Array]) -> int:
        """Notes the newest operator's output as about ``values`` of its input; returns the output's index."""
        self.values[index] = values(self.values[self.builder.operators[-1].inputs[0]])
        return index

    def requantize(self, index: int, output: Output) -> None:
        """Puts another quantization on the newest tensor and computes its values."""
        node = self.builder.operators[-1]
        assert node.outputs[0] == index
        spec = self.builder.tensors[index]
        self.builder.tensors[index] = TensorSpec(spec.shape, spec.dtype, (float(np.float32(output[0])),), (output[1],))
        model = self.builder.finish(self.inputs, [index])
        if node.op == "ADD":
            self.values[index] = reference.tflite_add(model, node, self.values)
        else:
            source = self.values[node.inputs[0]]
            self.values[index] = reference.convolution(model, node, source, reference.tflite_requantize)

    def convolution(
        self,
        source: int,
        kernels: int,
        size: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        padding: str = "SAME",
        activation: str = "NONE",
        depthwise: bool = False,
        bias: bool = True,
        spread: float = 0.0,
    ) -> int:
        """Adds a convolution with random weights; for a depthwise one ``kernels`` is the number of output channels.

        ``spread`` above 0: a weight scale for each channel, drawn up to 2**spread apart.
        """
        rng, spec = self.rng, self.spec(source)
        shape = (1, *size, kernels) if depthwise else (kernels, *size, spec.shape[3])
        weight, weight_zero_point = random_weights(rng, shape, self.dtype)
        weight_scale: float | list[float] = float(np.exp(rng.uniform(-7, -2)))
        if spread:
            weight_scale = (weight_scale * np.exp2(-rng.uniform(0, spread, kernels))).tolist()
        index = self.builder.convolution(
            *(source, weight, weight_scale, (1.0, 0)),
            weight_zero_point=weight_zero_point,
            bias=np.zeros(kernels, np.int32) if bias else None,
            stride=stride,
            dilation=dilation,
            padding=padding,
            activation=activation,
            depthwise=depthwise,
        )
        node = self.builder.operators[-1]
        sums = reference.convolution_sums(self.builder.finish(self.inputs, [index]), node, self.values[source])
        if bias:
            bound = max(int(np.abs(sums).max()), 16)
            shift = self.builder.tensors[node.inputs[2]].data
            assert shift is not None
            shift[:] = rng.integers(-bound // 2, bound // 2, kernels)
            sums = sums + shift
        reals = sums * (spec.scale[0] * np.asarray(weight_scale))
        self.requantize(index, choose_output(rng, reals, activation, self.dtype))
        return index

    def add(self, first: int, second: int, activation: str = "NONE") -> int:
        """Adds an addition."""
        index = self.builder.add(first, second, (1.0, 0), activation)
        reals = np.zeros(())
        for operand in (first, second):
            spec = self.spec(operand)
            reals = reals + (self.values[operand].astype(np.float64) - spec.zero_point[0]) * spec.scale[0]
        self.requantize(index, choose_output(self.rng, reals, activation, self.dtype))
        return index

    def finish(self, *outputs: int) -> Model:
        """The finished record."""
        return self.builder.finish(self.inputs, outputs)


def random_size(rng: Rng, largest: int = 24) -> tuple[int, int]:
    """Height and width: any, often not square, sometimes a single row or column."""
    height, width = (int(rng.integers(1, largest + 1)) for _ in (0, 1))
    kind = rng.random()
    if kind < 0.15:
        return (1, width) if rng.random() < 0.5 else (height, 1)
    return (height, height) if kind < 0.35 else (height, width)


def random_window(rng: Rng, size: tuple[int, int], padding: str, dilate: bool) -> tuple[tuple[int, int], ...]:
    """Kernel, stride and dilation, each (y, x), that fit an input of this size."""
    square = rng.random() < 0.6
    kernel = [int(rng.choice([1, 1, 2, 3, 3, 3, 4, 5, 7])) for _ in (0, 1)]
    stride = [int(rng.choice([1, 1, 1, 2, 2, 3, 4])) for _ in (0, 1)]
    dilation = [int(rng.choice([1, 2, 3])) if dilate else 1 for _ in (0, 1)]
    if square:
        kernel[1], stride[1], dilation[1] = kernel[0], stride[0], dilation[0]
    for i in (0, 1):
        if (kernel[i] - 1) * dilation[i] + 1 > size[i] and (padding == "VALID" or dilation[i] > 1):
            kernel[i], dilation[i] = min(kernel[i], size[i]), 1
    return tuple(kernel), tuple(stride), tuple(dilation)  # type: ignore[return-value]


def random_dtype(rng: Rng) -> str:
    """int8 or uint8."""
    return str(rng.choice(["int8", "uint8"]))


def random_channels(rng: Rng, largest: int = 80) -> int:
    """Often around the borders of atoms (16), chunks (32) and groups (32, 64)."""
    edges = [n + d for n in (16, 32, 48, 64) for d in (-1, 0, 1)]
    return min(largest, int(rng.choice([rng.integers(1, 9), rng.choice(edges), rng.integers(1, largest + 1)])))


def random_convolution(
    rng: Rng, depthwise: bool = False, dilate: bool = False, multiplier: int = 1, spread: float = 0.0
) -> Model:
    """A model of one CONV_2D or DEPTHWISE_CONV_2D; ``multiplier`` is the depth multiplier.

    ``spread`` above 0: int8 weights with a scale for each channel, up to 2**spread apart.
    """
    sketch = Sketch(rng, "int8" if spread else random_dtype(rng))
    size, padding = random_size(rng), str(rng.choice(["SAME", "VALID"]))
    channels = random_channels(rng, 160 if depthwise else 80)
    kernel, stride, dilation = random_window(rng, size, padding, dilate)
    source = sketch.input((1, *size, channels))
    output = sketch.convolution(
        source,
        channels * multiplier if depthwise else random_channels(rng),
        (kernel[0], kernel[1]),
        stride=(stride[0], stride[1]),
        dilation=(dilation[0], dilation[1]),
        padding=padding,
        activation=str(rng.choice(ACTIVATION_CHOICES)),
        depthwise=depthwise,
        bias=not depthwise or bool(rng.random() < 0.7),  # TFLite takes no CONV_2D without a bias
        spread=spread,
    )
    return sketch.finish(output)


def random_add(rng: Rng) -> Model:
    """A model of one ADD of two inputs, or of an input with itself."""
    sketch = Sketch(rng, random_dtype(rng))
    shape = (1, *random_size(rng), random_channels(rng))
    first = sketch.input(shape)
    second = first if rng.random() < 0.2 else sketch.input(shape)
    return sketch.finish(sketch.add(first, second, str(rng.choice(ACTIVATION_CHOICES))))


def random_branch(sketch: Sketch, source: int, channels: int) -> int:
    """One or two convolutions that keep the size."""
    rng = sketch.rng
    current = source
    if rng.random() < 0.6:
        wide = random_channels(rng, 64)
        current = sketch.convolution(current, wide, (1, 1), activation=str(rng.choice(ACTIVATION_CHOICES)))
        if rng.random() < 0.5:
            current = sketch.convolution(current, wide, (3, 3), depthwise=True)
    side = int(rng.choice([1, 3]))
    return sketch.convolution(current, channels, (side, side), activation=str(rng.choice(["NONE", "NONE", "RELU"])))


def random_graph(rng: Rng) -> Model:
    """A chain of convolutions with residual additions of every form, sometimes with two outputs."""
    sketch = Sketch(rng, random_dtype(rng))
    current = sketch.input((1, *random_size(rng, 14), random_channels(rng, 48)))
    kept: list[int] = []
    for _ in range(int(rng.integers(1, 4))):
        channels = sketch.spec(current).shape[3]
        form = rng.choice(["chain", "older first", "older second", "itself", "two branches", "twice"])
        if form == "chain":
            depthwise = bool(rng.random() < 0.5)
            kernels = channels if depthwise else random_channels(rng, 48)
            stride = int(rng.choice([1, 2]))
            current = sketch.convolution(current, kernels, (3, 3), stride=(stride, stride), depthwise=depthwise)
        elif form == "itself":
            current = sketch.add(current, current)
        elif form == "two branches":
            sides = [random_branch(sketch, current, channels) for _ in (0, 1)]
            current = sketch.add(sides[0], sides[1])
        else:
            branch = random_branch(sketch, current, channels)
            pair = (current, branch) if form == "older first" else (branch, current)
            summed = sketch.add(*pair, str(rng.choice(["NONE", "RELU"])))
            current = sketch.add(branch, summed) if form == "twice" else summed
        kept.append(current)
    outputs = [current] if rng.random() < 0.7 else sorted({kept[0], current})
    return sketch.finish(*outputs)


def random_residual(rng: Rng) -> Model:
    """A convolution and an addition that may be done in one pass, the convolution's output on either side.

    The scale between the two has room for the largest sums that any input gives, so nothing is clamped there, and the
    output's steps are larger: what a sound fusion needs.
    """
    sketch = Sketch(rng, random_dtype(rng))
    height, width = (int(rng.integers(4, 13)) for _ in (0, 1))
    channels, kernels = random_channels(rng, 48), random_channels(rng, 64)
    source = sketch.input((1, height, width, channels))
    side = int(rng.choice([1, 3]))
    middle = sketch.convolution(source, kernels, (side, side))
    node, spec = sketch.builder.operators[-1], sketch.spec(middle)
    weight = sketch.spec(node.inputs[1])
    assert weight.data is not None
    reach = np.abs(weight.data.astype(np.int64) - weight.zero_point[0]).sum(axis=(1, 2, 3)).max() * 255
    bias = sketch.spec(node.inputs[2]).data
    assert bias is not None
    largest = float(reach + np.abs(bias).max()) * sketch.spec(source).scale[0] * weight.scale[0]
    zero_point = (spec.limits[0] + spec.limits[1] + 1) // 2
    sketch.requantize(middle, (largest / 120, zero_point))
    other = sketch.input((1, height, width, kernels), largest / 120 * float(np.exp(rng.uniform(-3, 3))))
    output = sketch.add(*((middle, other) if rng.random() < 0.5 else (other, middle)))
    sketch.requantize(output, (largest / 120 * float(rng.uniform(1.3, 3.0)), random_zero_point(rng, sketch.dtype)))
    return sketch.finish(output)


def partitioned(rng: Rng, dtype: str) -> Model:
    """Convolutions on the NPU and, with a stride that it has not got, on the CPU in turns; gives logits, softmax."""
    sketch = Sketch(rng, dtype)
    source = sketch.input((1, 55, 144, 4))
    first = sketch.convolution(source, 8, (3, 3), activation="RELU")
    apart = sketch.convolution(first, 8, (2, 2), stride=(11, 11))
    second = sketch.convolution(apart, 8, (1, 1))
    narrow = sketch.convolution(second, 8, (1, 2), stride=(1, 11))
    third = sketch.convolution(narrow, 5, (5, 2), padding="VALID")
    logits = sketch.builder.reshape(third, (1, 5))
    return sketch.finish(logits, sketch.builder.softmax(logits))
