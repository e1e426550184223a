"""The float operators that the families need, in numpy: arrays are NHWC float32, the first axis counts images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from tflite_writer import Array, output_extent

Pair = tuple[int, int]  # (y, x)


def sides(size: int, kernel: int, stride: int, dilation: int, padding: str) -> Pair:
    """Pixels of padding (before, after) along one side, as TFLite places them."""
    if padding == "VALID":
        return 0, 0
    output = output_extent(size, kernel, stride, dilation, padding)
    total = max((output - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def windows(
    source: Array, kernel: Pair, stride: Pair, dilation: Pair, padding: str, filling: float
) -> dict[Pair, Array]:
    """For each place (y, x) of a kernel, what it reads for every output: (images, rows, columns, channels)."""
    edges = [sides(source.shape[1 + i], kernel[i], stride[i], dilation[i], padding) for i in (0, 1)]
    rows, columns = (output_extent(source.shape[1 + i], kernel[i], stride[i], dilation[i], padding) for i in (0, 1))
    padded = np.pad(source, ((0, 0), *edges, (0, 0)), constant_values=filling)
    result = {}
    for y, x in np.ndindex(kernel):
        top, left = y * dilation[0], x * dilation[1]
        down = slice(top, top + (rows - 1) * stride[0] + 1, stride[0])
        right = slice(left, left + (columns - 1) * stride[1] + 1, stride[1])
        result[y, x] = padded[:, down, right]
    return result


def convolution(source: Array, weight: Array, stride: Pair, dilation: Pair, padding: str) -> Array:
    """CONV_2D without bias; weight OHWI."""
    kernel = (weight.shape[1], weight.shape[2])
    read = windows(source, kernel, stride, dilation, padding, 0.0)
    return sum(part @ weight[:, y, x].T for (y, x), part in read.items())


def depthwise(source: Array, weight: Array, stride: Pair, dilation: Pair, padding: str) -> Array:
    """DEPTHWISE_CONV_2D without bias; weight 1HWC."""
    kernel = (weight.shape[1], weight.shape[2])
    read = windows(source, kernel, stride, dilation, padding, 0.0)
    return sum(part * weight[0, y, x] for (y, x), part in read.items())


def transpose_convolution(source: Array, weight: Array, stride: int) -> Array:
    """TRANSPOSE_CONV without bias, of a kernel as large as its stride, so that no two of its pixels meet."""
    images, height, width, _ = source.shape
    pixels = np.einsum("nhwc,oijc->nhiwjo", source, weight)
    return pixels.reshape(images, height * stride, width * stride, weight.shape[0])


def largest(source: Array, window: Pair, stride: Pair, padding: str) -> Array:
    """MAX_POOL_2D."""
    return np.max(list(windows(source, window, stride, (1, 1), padding, -np.inf).values()), axis=0)


def average(source: Array, window: Pair, stride: Pair, padding: str) -> Array:
    """AVERAGE_POOL_2D; what is outside the picture does not count."""
    sums = sum(windows(source, window, stride, (1, 1), padding, 0.0).values())
    counts = sum(windows(np.ones_like(source), window, stride, (1, 1), padding, 0.0).values())
    return np.asarray(sums / counts)


def nearest(source: Array, size: Pair) -> Array:
    """RESIZE_NEAREST_NEIGHBOR."""
    rows, columns = (np.arange(n) * source.shape[1 + i] // n for i, n in enumerate(size))
    return source[:, rows][:, :, columns]


def bilinear(source: Array, size: Pair) -> Array:
    """RESIZE_BILINEAR with aligned corners."""
    for axis, count in ((1, size[0]), (2, size[1])):
        places = np.linspace(0, source.shape[axis] - 1, count)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, source.shape[axis] - 1)
        share = (places - low).reshape(-1, *(1,) * (3 - axis))
        source = np.take(source, low, axis) * (1 - share) + np.take(source, high, axis) * share
    return source


def logistic(source: Array) -> Array:
    return 1 / (1 + np.exp(-source))


def softmax(source: Array) -> Array:
    powers = np.exp(source - source.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


UNARY: Mapping[str, Callable[[Array], Array]] = {
    "HARD_SWISH": lambda source: source * np.clip(source + 3, 0, 6) / 6,
    "LOGISTIC": logistic,
    "RELU": lambda source: np.maximum(source, 0),
    "RELU6": lambda source: np.clip(source, 0, 6),
    "SOFTMAX": softmax,
    "NONE": lambda source: source,
}
