"""Ways to add operators other than convolutions to a random model (drawing.py)."""

from __future__ import annotations

import numpy as np
from drawing import ACTIVATIONS, Draw, Drawing, choice, kind
from drawn_convolutions import padding, windows


def partner(drawing: Drawing, source: int, other: int, rng: np.random.Generator, dtype: str) -> int:
    """The other tensor where shapes agree, else a constant: one number, one a channel, a pixel, or one for each."""
    if drawing.shape(source) == drawing.shape(other) and rng.integers(4):
        return other
    _, height, width, channels = drawing.shape(source)
    shapes = [(1,), (1, 1, 1, channels), (channels,), (1, height, width, channels), (height, width, 1)]
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
        spec = drawing.builder.tensors[second]
        if spec.data is None and drawing.quantization_of(source) != drawing.quantization_of(second):
            return None
        if spec.data is not None:
            second = drawing.builder.constant(spec.data, *drawing.quantization_of(source))
        return drawing.builder.binary(name, source, second)

    return draw


for name in ("MAXIMUM", "MINIMUM"):
    kind(name)(extreme(name))


def unary(name: str, low: float | None = None, high: float = 1.0, dtypes: tuple[str, ...] = ("int8", "uint8")) -> Draw:
    """``low``: the output's scale lies between so many input scales; None: it is what TFLite asks for."""

    def draw(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
        if drawing.dtype not in dtypes:
            return None
        scale = drawing.scale(source)
        output = None if low is None else drawing.quantization(rng, low * scale, high * scale)
        return drawing.builder.unary(name, source, output)

    return draw


for name in ("LOGISTIC", "TANH"):
    kind(name)(unary(name))
for name in ("RELU", "RELU6", "RELU_N1_TO_1", "HARD_SWISH", "GELU"):
    kind(name)(unary(name, 0.5, 1.5))
kind("ABS")(unary("ABS", 0.5, 1.5, ("int8",)))
kind("EXP")(unary("EXP", 0.5, 9.0, ("int8",)))


@kind("SiLU")
def silu(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    """A tensor times its own LOGISTIC."""
    gates = drawing.builder.unary("LOGISTIC", source)
    return drawing.builder.binary("MUL", source, gates, drawing.factor(rng, source), "NONE")


@kind("LEAKY_RELU")
def leaky_relu(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    return drawing.builder.leaky_relu(source, float(rng.uniform(-0.5, 1.5)), drawing.factor(rng, source))


@kind("PRELU")
def prelu(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    info = np.iinfo(drawing.dtype)
    alpha = rng.integers(info.min, info.max + 1, (1, 1, drawing.shape(source)[3])).astype(drawing.dtype)
    scale, point = drawing.quantization(rng, 0.001, 0.01)
    return drawing.builder.prelu(source, alpha, scale, drawing.factor(rng, source), point)


@kind("SOFTMAX")
def softmax(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    """TFLite aborts where the input's scale is too small for it."""
    return drawing.builder.softmax(source) if drawing.scale(source) > 1e-3 else None


@kind("QUANTIZE")
def quantize(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    """Directly, or by way of the other type."""
    if rng.integers(3) == 0:
        scale, point = drawing.factor(rng, source)
        dtype, point = ("uint8", point + 128) if drawing.dtype == "int8" else ("int8", point - 128)
        source = drawing.builder.quantize(source, dtype, (scale, point))
    return drawing.builder.quantize(source, drawing.dtype, drawing.factor(rng, source))


def pool(name: str) -> Draw:
    def draw(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
        kernel, stride, _ = windows(drawing, source, rng, choice(rng, 3, 8, 40), choice(rng, 3, 9))
        return drawing.builder.pool(source, name, kernel, stride, padding(rng), str(rng.choice(ACTIVATIONS)))

    return draw


for name in ("AVERAGE_POOL_2D", "MAX_POOL_2D"):
    kind(name)(pool(name))


def reduction(name: str) -> Draw:
    def draw(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
        """Over height and width or other axes; where dimensions go, a RESHAPE brings them back."""
        builder = drawing.builder
        axes = [(1, 2), (1, 2), (1,), (2,), (3,), (-1,), (2, 1), (1, 2, 3)][int(rng.integers(8))]
        keep = bool(rng.integers(3))
        output = drawing.factor(rng, source) if name in ("MEAN", "SUM") else None
        made = builder.mean(source, output or drawing.quantization_of(source), keep, axes)
        last = builder.operators[-1]
        builder.operators[-1] = type(last)(name, last.inputs, last.outputs, last.options)
        shape = drawing.shape(source)
        kept = [1 if axis in axes or axis - 4 in axes else size for axis, size in enumerate(shape)]
        return made if keep else builder.reshape(made, kept)

    return draw


for name in ("MEAN", "REDUCE_MAX", "REDUCE_MIN", "SUM"):
    kind(name)(reduction(name))


def resize(name: str) -> Draw:
    def draw(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
        """By whole factors in most cases, with rows and columns apart."""
        extents = drawing.shape(source)[1:3]
        size = [extent * int(rng.integers(1, 5)) for extent in extents]
        if rng.integers(2):
            size = [int(rng.integers(1, 2 * extent + 8)) for extent in extents]
        flags = [(False, False), (False, True), (True, False)][int(rng.integers(3))]
        return drawing.builder.resize(source, name, (size[0], size[1]), *flags)

    return draw


for name in ("RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR"):
    kind(name)(resize(name))
