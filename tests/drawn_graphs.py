"""Random models of up to a dozen operators, and the way from one that fails to the smallest that still does.

A recipe says everything by small numbers: the shape of the input and, for each operator, which of the tensors at hand
it reads and the seed of all else. Any part of a recipe is a recipe too, so a failing one can be cut down blindly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from tflite_writer import Array, Builder, Model, Quantization

LARGEST_TENSOR = 300_000  # elements; keeps a graph to a second or so
LARGEST_WEIGHT = 300_000
ACTIVATIONS = ("NONE", "NONE", "NONE", "RELU", "RELU6")


@dataclass(frozen=True)
class Step:
    """One operator. ``source`` and ``other`` count from the newest tensor back, as far as there are any."""

    kind: str
    source: int
    other: int
    seed: int


@dataclass(frozen=True)
class Recipe:
    """A model, and inputs for it by ``seed``."""

    shape: tuple[int, int, int, int]
    dtype: str
    seed: int
    steps: tuple[Step, ...]


class Drawing:
    """A model under construction."""

    def __init__(self, recipe: Recipe) -> None:
        self.builder = Builder()
        self.dtype = recipe.dtype
        rng = np.random.default_rng(recipe.seed)
        self.source = self.builder.tensor(recipe.shape, recipe.dtype, *self.quantization(rng, 0.02, 0.1))
        self.tensors = [self.source]

    def shape(self, tensor: int) -> tuple[int, int, int, int]:
        batch, height, width, channels = self.builder.tensors[tensor].shape
        return batch, height, width, channels

    def scale(self, tensor: int) -> float:
        return self.builder.tensors[tensor].scale[0]

    def quantization(self, rng: np.random.Generator, low: float, high: float) -> Quantization:
        """A scale between two, and a zero point that leaves both signs more often than not."""
        info = np.iinfo(self.dtype)
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


def weights(drawing: Drawing, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, float, int]:
    """(weights, scale, zero point)."""
    scale = float(rng.uniform(0.003, 0.03))
    if drawing.dtype == "uint8":
        return rng.integers(0, 256, shape).astype(np.uint8), scale, int(rng.integers(90, 170))
    return rng.integers(-127, 128, shape).astype(np.int8), scale, 0


def channel_scales(drawing: Drawing, rng: np.random.Generator, scale: float, count: int) -> float | list[float]:
    """One scale, or for int8 in half of the cases one a channel."""
    if drawing.dtype == "uint8" or rng.integers(2):
        return scale
    return (scale * rng.uniform(0.2, 1.0, count)).tolist()


def output_of(drawing: Drawing, rng: np.random.Generator, tensor: int, scale: float, taps: int) -> Quantization:
    """The quantization of a sum of so many products of random numbers: some saturate, most do not."""
    return drawing.quantization(rng, *(drawing.scale(tensor) * scale * 50 * taps**0.5 * part for part in (0.3, 1.5)))


def windows(drawing: Drawing, source: int, rng: np.random.Generator, largest: int) -> tuple[tuple[int, int], ...]:
    """(kernel, stride, dilation); no larger than the tensor."""
    _, height, width, _ = drawing.shape(source)
    kernel = tuple(int(rng.integers(1, min(largest, size) + 1)) for size in (height, width))
    stride = tuple(int(rng.integers(1, 4)) for _ in range(2))
    dilation = (1, 1)
    if stride == (1, 1):
        dilation = tuple(  # type: ignore[assignment]
            int(rng.integers(1, max(1, (size - 1) // max(taps - 1, 1)) + 1)) if size < 40 else 1
            for size, taps in zip((height, width), kernel, strict=True)
        )
    return kernel, stride, dilation  # type: ignore[return-value]


def padding(rng: np.random.Generator) -> str:
    return str(rng.choice(["SAME", "VALID"]))


@kind("CONV_2D")
def conv2d(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    channels = drawing.shape(source)[3]
    kernel, stride, dilation = windows(drawing, source, rng, 5)
    groups = int(rng.choice([n for n in (1, 1, 1, 2, 3, 4) if channels % n == 0]))
    outputs = groups * int(rng.integers(1, 1 + int(rng.choice([8, 40, 300]))))
    shape = (outputs, *kernel, channels // groups)
    if np.prod(shape) * groups > LARGEST_WEIGHT:
        return None
    data, scale, point = weights(drawing, rng, shape)
    return drawing.builder.convolution(
        source,
        data,
        channel_scales(drawing, rng, scale, outputs),
        output_of(drawing, rng, source, scale, int(np.prod(shape[1:]))),
        weight_zero_point=point,
        bias=rng.integers(-2000, 2000, outputs).astype(np.int32),
        stride=stride,  # type: ignore[arg-type]
        dilation=dilation,  # type: ignore[arg-type]
        padding=padding(rng),
        activation=str(rng.choice(ACTIVATIONS)),
    )


@kind("DEPTHWISE_CONV_2D")
def depthwise(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    channels = drawing.shape(source)[3]
    kernel, stride, dilation = windows(drawing, source, rng, 7)
    stride = (stride[0], stride[0])  # TFLite takes no other
    outputs = channels * (int(rng.integers(2, 4)) if channels < 100 and rng.integers(4) == 0 else 1)
    data, scale, point = weights(drawing, rng, (1, *kernel, outputs))
    return drawing.builder.convolution(
        source,
        data,
        channel_scales(drawing, rng, scale, outputs),
        output_of(drawing, rng, source, scale, int(np.prod(kernel))),
        weight_zero_point=point,
        bias=rng.integers(-2000, 2000, outputs).astype(np.int32),
        stride=stride,
        dilation=dilation,  # type: ignore[arg-type]
        padding=padding(rng),
        activation=str(rng.choice(ACTIVATIONS)),
        depthwise=True,
    )


@kind("TRANSPOSE_CONV")
def transpose_conv(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    channels = drawing.shape(source)[3]
    outputs, kernel = int(rng.integers(1, 70)), tuple(int(rng.integers(1, 5)) for _ in range(2))
    data, scale, point = weights(drawing, rng, (outputs, *kernel, channels))
    if data.size > LARGEST_WEIGHT:
        return None
    return drawing.builder.transpose_conv(
        source,
        data,
        channel_scales(drawing, rng, scale, outputs),
        output_of(drawing, rng, source, scale, channels),
        weight_zero_point=point,
        bias=rng.integers(-2000, 2000, outputs).astype(np.int32),
        stride=(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
        padding=padding(rng),
    )


@kind("FULLY_CONNECTED")
def fully_connected(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    outputs, depth = int(rng.integers(1, 200)), drawing.shape(source)[3]
    if outputs * depth > LARGEST_WEIGHT:
        return None
    data, scale, point = weights(drawing, rng, (outputs, depth))
    bias = rng.integers(-2000, 2000, outputs).astype(np.int32)
    output = output_of(drawing, rng, source, scale, depth)
    return drawing.builder.fully_connected(source, data, scale, output, point, bias, keep=True)


def partner(drawing: Drawing, source: int, other: int, rng: np.random.Generator, dtype: str) -> int:
    """The other tensor where shapes agree, else a constant: one number, one a channel, or one for each."""
    if drawing.shape(source) == drawing.shape(other) and rng.integers(4):
        return other
    channels = drawing.shape(source)[3]
    shapes = [(1,), (1, 1, 1, channels), (channels,)]
    shape = shapes[int(rng.integers(len(shapes)))]
    info = np.iinfo(dtype)
    scale, point = drawing.factor(rng, source)
    return drawing.builder.constant(rng.integers(info.min, info.max + 1, shape).astype(dtype), scale, point)


def binary(name: str) -> Draw:
    def draw(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
        second = partner(drawing, source, other, rng, drawing.dtype)
        if name == "MUL":
            scale = drawing.scale(source) * drawing.scale(second) * 100
            output = drawing.quantization(rng, 0.2 * scale, scale)
        else:
            output = drawing.factor(rng, source)
        pair = (source, second) if rng.integers(2) else (second, source)
        return drawing.builder.binary(name, *pair, output, str(rng.choice(ACTIVATIONS)))

    return draw


for name in ("ADD", "SUB", "MUL"):
    kind(name)(binary(name))


def extreme(name: str) -> Draw:
    def draw(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
        """TFLite compares the numbers as they are stored, so both have one quantization."""
        second = partner(drawing, source, other, rng, drawing.dtype)
        specs = [drawing.builder.tensors[index] for index in (source, second)]
        if specs[1].data is None and (specs[0].scale, specs[0].zero_point) != (specs[1].scale, specs[1].zero_point):
            return None
        if specs[1].data is not None:
            second = drawing.builder.constant(specs[1].data, specs[0].scale[0], specs[0].zero_point[0])
        return drawing.builder.binary(name, source, second)

    return draw


for name in ("MAXIMUM", "MINIMUM"):
    kind(name)(extreme(name))


def unary(name: str, low: float | None = None, high: float = 1.0) -> Draw:
    """``low``: the output's scale lies between so many input scales; None: it is what TFLite asks for."""

    def draw(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
        scale = drawing.scale(source)
        output = None if low is None else drawing.quantization(rng, low * scale, high * scale)
        return drawing.builder.unary(name, source, output)

    return draw


for name in ("LOGISTIC", "TANH"):
    kind(name)(unary(name))
for name in ("RELU", "RELU6", "RELU_N1_TO_1", "HARD_SWISH"):
    kind(name)(unary(name, 0.5, 1.5))


@kind("LEAKY_RELU")
def leaky_relu(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    return drawing.builder.leaky_relu(source, float(rng.uniform(0.01, 0.9)), drawing.factor(rng, source))


@kind("PRELU")
def prelu(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    info = np.iinfo(drawing.dtype)
    alpha = rng.integers(info.min, info.max + 1, (1, 1, drawing.shape(source)[3])).astype(drawing.dtype)
    scale, point = drawing.quantization(rng, 0.001, 0.01)
    return drawing.builder.prelu(source, alpha, scale, drawing.factor(rng, source), point)


def pool(name: str) -> Draw:
    def draw(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
        kernel, stride, _ = windows(drawing, source, rng, 8)
        return drawing.builder.pool(source, name, kernel, stride, padding(rng))  # type: ignore[arg-type]

    return draw


for name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
    kind(name)(pool(name))


@kind("MEAN")
def mean(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    return drawing.builder.mean(source, drawing.factor(rng, source))


@kind("CONCATENATION")
def concatenation(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    axis = int(rng.integers(1, 4))
    shapes = [list(drawing.shape(tensor)) for tensor in (source, other)]
    for shape in shapes:
        del shape[axis]
    if shapes[0] != shapes[1]:
        return None
    specs = [drawing.builder.tensors[index] for index in (source, other)]
    same = (specs[0].scale, specs[0].zero_point) == (specs[1].scale, specs[1].zero_point)
    if drawing.dtype == "int8" and not same:  # TFLite's int8 kernel does not rescale
        return None
    output = (specs[0].scale[0], specs[0].zero_point[0]) if same else drawing.factor(rng, source)
    return drawing.builder.concatenation((source, other), output, axis)


@kind("SPLIT")
def split(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> tuple[int, ...] | None:
    axis = int(rng.integers(1, 4))
    counts = [n for n in (2, 3, 4) if drawing.shape(source)[axis] % n == 0]
    return drawing.builder.split(source, int(rng.choice(counts)), axis) if counts else None


@kind("SLICE")
def slice_(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    shape = drawing.shape(source)
    begin = [int(rng.integers(size)) if rng.integers(2) else 0 for size in shape]
    size = [int(rng.integers(1, extent - first + 1)) for extent, first in zip(shape, begin, strict=True)]
    return drawing.builder.slice(source, begin, size)


@kind("STRIDED_SLICE")
def strided_slice(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    shape = drawing.shape(source)
    begin = [0, *(int(rng.integers(size)) for size in shape[1:])]
    strides = [1, *(int(rng.integers(1, 4)) for _ in shape[1:])]
    return drawing.builder.strided_slice(source, begin, list(shape), strides)


@kind("PAD")
def pad(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    sides = [(0, 0), *((int(rng.integers(4)), int(rng.integers(4))) for _ in range(2)), (0, 0)]
    return drawing.builder.pad(source, sides)


@kind("PADV2")
def padv2(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    info = np.iinfo(drawing.dtype)
    sides = [(0, 0), *((int(rng.integers(4)), int(rng.integers(4))) for _ in range(2)), (0, 0)]
    return drawing.builder.padv2(source, sides, int(rng.integers(info.min, info.max + 1)))


@kind("RESHAPE")
def reshape(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    batch, height, width, channels = drawing.shape(source)
    shapes = [
        (batch, height * width, 1, channels),
        (batch, 1, height * width, channels),
        (batch, width, height, channels),
    ]
    if height * width * channels < 3000:
        shapes.append((batch, 1, 1, height * width * channels))
    shape = shapes[int(rng.integers(len(shapes)))]
    return drawing.builder.reshape(source, shape) if max(shape) < 2000 else None


def resize(name: str) -> Draw:
    def draw(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
        _, height, width, _ = drawing.shape(source)
        factor = int(rng.integers(2, 4))
        flags = [(False, False), (False, True)][int(rng.integers(2))]
        return drawing.builder.resize(source, name, (height * factor, width * factor), *flags)

    return draw


for name in ("RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR"):
    kind(name)(resize(name))


@kind("QUANTIZE")
def quantize(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    return drawing.builder.quantize(source, drawing.dtype, drawing.factor(rng, source))


def build(recipe: Recipe) -> Model | None:
    """The model; None where no operator of the recipe could be added. Its outputs are what nobody reads."""
    drawing = Drawing(recipe)
    for step in recipe.steps:
        at_hand = drawing.tensors[::-1]
        source, other = at_hand[step.source % len(at_hand)], at_hand[step.other % len(at_hand)]
        kept = (list(drawing.builder.tensors), list(drawing.builder.operators))
        made = KINDS[step.kind](drawing, source, other, np.random.default_rng(step.seed))
        outputs = () if made is None else (made,) if isinstance(made, int) else made
        sizes = [int(np.prod(drawing.builder.tensors[output].shape)) for output in outputs]
        if not outputs or min(sizes) == 0 or max(sizes) > LARGEST_TENSOR:
            drawing.builder.tensors, drawing.builder.operators = kept
            continue
        drawing.tensors += outputs
    read = {index for operator in drawing.builder.operators for index in operator.inputs}
    outputs = tuple(tensor for tensor in drawing.tensors[1:] if tensor not in read)
    return drawing.builder.finish([drawing.source], outputs) if outputs else None


def draw(seed: int) -> Recipe:
    """A recipe of 1 to 12 operators over an odd or even input of 1x1 to 300x300 pixels and 1 to 1024 channels."""
    rng = np.random.default_rng(seed)

    def size(largest: int) -> int:
        return int(np.exp(rng.uniform(0, np.log(largest + 0.999))))

    height, width, channels = size(300), size(300), size(1024)
    while height * width * channels > LARGEST_TENSOR // 2:
        height, width, channels = -(-height // 2), -(-width // 2), -(-channels // 2)
    names = sorted(KINDS)
    steps = tuple(
        Step(str(rng.choice(names)), int(rng.integers(3)), int(rng.integers(5)), int(rng.integers(1 << 31)))
        for _ in range(int(rng.integers(1, 13)))
    )
    batch = int(rng.choice([1, 1, 1, 2, 3]))
    return Recipe((batch, height, width, channels), str(rng.choice(["int8", "uint8"])), seed, steps)


def smaller(recipe: Recipe) -> Iterator[Recipe]:
    """Recipes with one thing less: an operator, half of a side; or with an operator that reads what is nearest."""
    for index, step in enumerate(recipe.steps):
        before, after = recipe.steps[:index], recipe.steps[index + 1 :]
        yield replace(recipe, steps=before + after)
        if step.source or step.other:
            yield replace(recipe, steps=(*before, replace(step, source=0, other=0), *after))
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
