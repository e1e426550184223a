"""DeepLab, U-Net and a YOLO: networks that say something about every pixel or place."""

from __future__ import annotations

from families.mobile import Outputs, inverted
from families.network import Network


def pyramid(network: Network, source: int, channels: int, rates: tuple[int, ...]) -> int:
    """DeepLab's atrous spatial pyramid with the picture's mean beside it."""
    height, width, _ = network.shape(source)
    branches = [
        network.convolution(source, channels, activation="RELU"),
        *(network.convolution(source, channels, 3, dilation=rate, activation="RELU") for rate in rates),
    ]
    mean = network.mean(source, keep=True)
    pooled = network.convolution(mean, channels, activation="RELU", normalized=False)
    branches.append(network.bilinear(pooled, height, width))
    return network.convolution(network.concatenation(*branches), channels, activation="RELU")


def deeplab(seed: int) -> Outputs:
    """DeepLabV3 on MobileNetV2 (Chen et al., 2017; Sandler et al., 2018), an eighth of the size: classes of pixels."""
    network = Network(97, 97, 3, seed=seed)
    x = network.convolution(network.input, 16, 3, 2, activation="RELU6")
    x = inverted(network, x, 8, 1, 3)
    x = inverted(network, x, 12, 6, 3, 2)
    x = inverted(network, x, 16, 6, 3, 2)
    x = inverted(network, x, 16, 6, 3)
    for channels, rate in ((24, 2), (24, 2), (32, 4), (32, 4)):
        x = inverted(network, x, channels, 6, 3, dilation=rate)
    x = network.convolution(pyramid(network, x, 24, (6, 12)), 8)
    x = network.bilinear(x, 97, 97)
    return network, [network.largest_class(x)]


def twice(network: Network, source: int, channels: int) -> int:
    """U-Net's two convolutions."""
    first = network.convolution(source, channels, 3, activation="RELU")
    return network.convolution(first, channels, 3, activation="RELU")


def unet(seed: int) -> Outputs:
    """U-Net (Ronneberger et al., 2015) of three levels, padded: the probability of each pixel."""
    network = Network(48, 48, 3, seed=seed)
    x, skipped = network.input, []
    for channels in (8, 16):
        x = twice(network, x, channels)
        skipped.append(x)
        x = network.maxima(x, 2, 2, "VALID")
    x = twice(network, x, 32)
    for channels, skip in zip((16, 8), reversed(skipped), strict=True):
        raised = network.transpose_convolution(x, channels)
        x = twice(network, network.concatenation(network.requantize(skip), raised), channels)
    return network, [network.unary("LOGISTIC", network.convolution(x, 1))]


def silu(network: Network, source: int) -> int:
    """x times its logistic, as exporters write it."""
    return network.multiply(source, network.unary("LOGISTIC", source))


def activated(network: Network, source: int, channels: int, kernel: int = 1, stride: int = 1) -> int:
    """YOLO's convolution with SiLU."""
    return silu(network, network.convolution(source, channels, kernel, stride))


def c2f(network: Network, source: int, channels: int, residual: bool) -> int:
    """YOLOv8's block: one half passes by, the other goes through bottlenecks, and every stage is kept."""
    first, second = network.split(activated(network, source, channels), 2)
    inner = activated(network, activated(network, second, channels // 2, 3), channels // 2, 3)
    if residual:
        inner = network.add(second, inner)
    parts = [network.requantize(part) for part in (first, second)]
    return activated(network, network.concatenation(*parts, inner), channels)


def pyramid_of_maxima(network: Network, source: int) -> int:
    """SPPF: three maxima of 5x5 behind each other, all kept."""
    stages = [activated(network, source, network.channels(source) // 2)]
    for _ in range(3):
        stages.append(network.maxima(stages[-1], 5))
    return activated(network, network.concatenation(*stages), network.channels(source))


def head(network: Network, source: int, numbers: int) -> int:
    """Rows of ``numbers``, one a pixel."""
    x = activated(network, activated(network, source, 16, 3), 16, 3)
    return network.reshape(network.convolution(x, numbers), -1, numbers)


def raised_beside(network: Network, low: int, high: int) -> int:
    """The smaller map, twice as large, beside the other."""
    return network.concatenation(network.requantize(network.nearest(low, 2)), network.requantize(high))


def yolo(seed: int) -> Outputs:
    """YOLOv8's backbone, neck and heads, thin, at two scales: box distributions and scores of classes."""
    network = Network(64, 64, 3, seed=seed)
    x = activated(network, network.input, 8, 3, 2)
    x = c2f(network, activated(network, x, 16, 3, 2), 16, True)
    large = c2f(network, activated(network, x, 24, 3, 2), 24, True)
    x = c2f(network, activated(network, large, 32, 3, 2), 32, True)
    small = pyramid_of_maxima(network, x)
    large = c2f(network, raised_beside(network, small, large), 24, False)
    lowered = network.requantize(activated(network, large, 24, 3, 2))
    small = c2f(network, network.concatenation(lowered, network.requantize(small)), 32, False)
    boxes = network.concatenation(*(head(network, source, 32) for source in (large, small)), axis=1)
    classes = network.concatenation(*(head(network, source, 10) for source in (large, small)), axis=1)
    return network, [boxes, network.unary("LOGISTIC", classes)]
