"""Ways to add convolutions, products and blocks of them to a random model (drawing.py)."""

from __future__ import annotations

import numpy as np
from drawing import ACTIVATIONS, LARGEST_WEIGHT, Drawing, choice, kind
from tflite_writer import Array, Quantization


def weights(drawing: Drawing, rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, float, int]:
    """(weights, scale, zero point); wild ones reach to the type's ends, and some kernels are all zero point."""
    scale = float(rng.uniform(0.003, 0.03))
    info = np.iinfo(drawing.dtype)
    point = int(rng.integers(90, 170)) if drawing.dtype == "uint8" else 0
    low = info.min if drawing.wild or drawing.dtype == "uint8" else -127
    data = rng.integers(low, info.max + 1, shape).astype(drawing.dtype)
    if drawing.wild and drawing.dtype == "uint8":
        point = choice(rng, 0, 255, point)
    if drawing.wild and rng.integers(2):
        axis = 3 if shape[0] == 1 and len(shape) == 4 else 0
        dead = rng.random(shape[axis]) < 0.3
        data = np.where(dead.reshape([-1 if i == axis else 1 for i in range(len(shape))]), point, data)
    return data.astype(drawing.dtype), scale, point


def channel_scales(drawing: Drawing, rng: np.random.Generator, scale: float, count: int) -> float | list[float]:
    """One scale, or for int8 in half of the cases one a channel."""
    if drawing.dtype == "uint8" or rng.integers(2):
        return scale
    lowest = choice(rng, -1, -4) if drawing.wild else -0.7
    return (scale * 10 ** rng.uniform(lowest, 0, count)).tolist()


def bias(drawing: Drawing, rng: np.random.Generator, count: int) -> Array:
    largest = choice(rng, 2000, 100_000, 1 << 24) if drawing.wild else 2000
    return rng.integers(-largest, largest, count).astype(np.int32)


def output_of(drawing: Drawing, rng: np.random.Generator, tensor: int, scale: float, taps: int) -> Quantization:
    """The quantization of a sum of so many products of random numbers: some saturate, most do not."""
    return drawing.quantization(rng, *(drawing.scale(tensor) * scale * 50 * taps**0.5 * part for part in (0.3, 1.5)))


def padding(rng: np.random.Generator) -> str:
    return str(rng.choice(["SAME", "VALID"]))


def windows(
    drawing: Drawing, source: int, rng: np.random.Generator, largest: int, strides: int = 3
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """(kernel, stride, dilation); no larger than the tensor, with a stride or a dilation and seldom both."""
    _, height, width, _ = drawing.shape(source)
    kernel = [int(rng.integers(1, min(largest, size) + 1)) for size in (height, width)]
    stride, dilation = [int(rng.integers(1, strides + 1)) for _ in range(2)], [1, 1]
    if rng.integers(3) == 0 or stride == [1, 1]:
        dilation = [
            int(rng.integers(1, max(1, min(18, (size - 1) // max(taps - 1, 1))) + 1))
            for size, taps in zip((height, width), kernel, strict=True)
        ]
        if rng.integers(5):
            stride = [1, 1]
    return (kernel[0], kernel[1]), (stride[0], stride[1]), (dilation[0], dilation[1])


@kind("CONV_2D")
def conv2d(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    channels = drawing.shape(source)[3]
    kernel, stride, dilation = windows(drawing, source, rng, choice(rng, 1, 3, 5, 31), choice(rng, 1, 3, 3, 9))
    groups = int(rng.choice([n for n in (1, 1, 1, 2, 3, 4) if channels % n == 0]))
    outputs = groups * int(rng.integers(1, 1 + choice(rng, 8, 40, 300)))
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
        bias=bias(drawing, rng, outputs) if rng.integers(6) else None,
        stride=stride,
        dilation=dilation,
        padding=padding(rng),
        activation=str(rng.choice(ACTIVATIONS)),
    )


@kind("DEPTHWISE_CONV_2D")
def depthwise(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    channels = drawing.shape(source)[3]
    kernel, stride, dilation = windows(drawing, source, rng, choice(rng, 3, 7, 31), choice(rng, 1, 3, 9))
    outputs = channels * (int(rng.integers(2, 9)) if channels < 100 and rng.integers(4) == 0 else 1)
    data, scale, point = weights(drawing, rng, (1, *kernel, outputs))
    if data.size > LARGEST_WEIGHT:
        return None
    return drawing.builder.convolution(
        source,
        data,
        channel_scales(drawing, rng, scale, outputs),
        output_of(drawing, rng, source, scale, int(np.prod(kernel))),
        weight_zero_point=point,
        bias=bias(drawing, rng, outputs),  # TFLite 2.14 reads it even where there is none
        stride=(stride[0], stride[0]),  # TFLite takes no other
        dilation=dilation,
        padding=padding(rng),
        activation=str(rng.choice(ACTIVATIONS)),
        depthwise=True,
    )


@kind("TRANSPOSE_CONV")
def transpose_conv(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    channels = drawing.shape(source)[3]
    outputs, kernel = int(rng.integers(1, 70)), [int(rng.integers(1, choice(rng, 5, 9))) for _ in range(2)]
    data, scale, point = weights(drawing, rng, (outputs, *kernel, channels))
    if data.size > LARGEST_WEIGHT:
        return None
    return drawing.builder.transpose_conv(
        source,
        data,
        channel_scales(drawing, rng, scale, outputs),
        output_of(drawing, rng, source, scale, channels),
        weight_zero_point=point,
        bias=bias(drawing, rng, outputs) if rng.integers(4) else None,
        stride=(int(rng.integers(1, 5)), int(rng.integers(1, 5))),
        padding=padding(rng),
    )


@kind("FULLY_CONNECTED")
def fully_connected(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    outputs, depth = int(rng.integers(1, 200)), drawing.shape(source)[3]
    if outputs * depth > LARGEST_WEIGHT:
        return None
    data, scale, point = weights(drawing, rng, (outputs, depth))
    added = bias(drawing, rng, outputs) if rng.integers(4) else None
    output = output_of(drawing, rng, source, scale, depth)
    activation = str(rng.choice(ACTIVATIONS))
    return drawing.builder.fully_connected(source, data, scale, output, point, added, activation, keep=True)


def pointwise(drawing: Drawing, source: int, outputs: int, output: Quantization, rng: np.random.Generator) -> int:
    """A 1x1 convolution into so many channels."""
    data, _, point = weights(drawing, rng, (outputs, 1, 1, drawing.shape(source)[3]))
    scale = output[0] / (drawing.scale(source) * 50 * data.shape[3] ** 0.5)
    added = bias(drawing, rng, outputs)
    return drawing.builder.convolution(source, data, scale, output, weight_zero_point=point, bias=added)


@kind("branches")
def branches(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> tuple[int, ...] | None:
    """Two to four convolutions of one tensor into tensors of one shape and quantization, at times concatenated."""
    count, outputs = int(rng.integers(2, 5)), choice(rng, 1, int(rng.integers(1, 60)), drawing.shape(source)[3])
    if outputs * drawing.shape(source)[3] > LARGEST_WEIGHT:
        return None
    output = drawing.factor(rng, source)
    made = tuple(pointwise(drawing, source, outputs, output, rng) for _ in range(count))
    if rng.integers(2):
        return made
    return (drawing.builder.concatenation((*made, *made[: choice(rng, 0, 0, 1)]), output, choice(rng, 1, 2, 3, 3)),)


@kind("residual")
def residual(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    """A tensor and a convolution of it, added."""
    channels = drawing.shape(source)[3]
    if channels * channels > LARGEST_WEIGHT:
        return None
    made = pointwise(drawing, source, channels, drawing.factor(rng, source), rng)
    pair = (source, made) if rng.integers(2) else (made, source)
    return drawing.builder.binary("ADD", *pair, drawing.factor(rng, source), str(rng.choice(ACTIVATIONS)))


@kind("gate")
def gate(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    """A tensor times one number a channel that is computed from it, or one a pixel."""
    builder, channels = drawing.builder, drawing.shape(source)[3]
    if rng.integers(2):
        gates = builder.mean(source, drawing.factor(rng, source))
        if channels * channels < LARGEST_WEIGHT and rng.integers(2):
            gates = pointwise(drawing, gates, channels, drawing.factor(rng, source), rng)
    else:
        gates = pointwise(drawing, source, 1, drawing.factor(rng, source), rng)
    if rng.integers(2):
        gates = builder.unary("LOGISTIC", gates)
    name = str(rng.choice(["MUL", "MUL", "ADD", "SUB"]))
    scale = drawing.scale(gates) * 100 if name == "MUL" else 1
    low, high = scale * drawing.scale(source) * 0.3, scale * drawing.scale(source)
    pair = (source, gates) if rng.integers(2) else (gates, source)
    return builder.binary(name, *pair, drawing.quantization(rng, low, high), str(rng.choice(ACTIVATIONS)))
