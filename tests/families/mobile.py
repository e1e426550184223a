"""MobileDet, EfficientNet-Lite and MobileNetV3: inverted bottlenecks and what their papers make of them."""

from __future__ import annotations

from collections.abc import Callable

from families.network import Network

Outputs = tuple[Network, list[int]]


def residual(network: Network, source: int, branch: int) -> int:
    """An addition where the block keeps the shape."""
    return network.add(source, branch) if network.shape(source) == network.shape(branch) else branch


def inverted(
    network: Network, source: int, channels: int, expansion: int, kernel: int, stride: int = 1, dilation: int = 1
) -> int:
    """MobileNetV2's block: expand, filter each channel, project."""
    expanded = source
    if expansion > 1:
        expanded = network.convolution(source, network.channels(source) * expansion, activation="RELU6")
    filtered = network.depthwise(expanded, kernel, stride, dilation=dilation, activation="RELU6")
    return residual(network, source, network.convolution(filtered, channels))


def fused(network: Network, source: int, channels: int, expansion: int, kernel: int, stride: int = 1) -> int:
    """MobileDet's fused inverted bottleneck: one regular convolution expands and filters."""
    count = network.channels(source) * expansion
    expanded = network.convolution(source, count, kernel, stride, activation="RELU6")
    return residual(network, source, network.convolution(expanded, channels))


def tucker(network: Network, source: int, channels: int, shares: tuple[float, float], stride: int = 1) -> int:
    """MobileDet's Tucker layer: compress to a share of the input's channels, filter to one of the output's, project."""
    compressed = network.convolution(source, int(network.channels(source) * shares[0]), activation="RELU6")
    filtered = network.convolution(compressed, int(channels * shares[1]), 3, stride, activation="RELU6")
    return residual(network, source, network.convolution(filtered, channels))


def box_head(network: Network, source: int, numbers: int, kernel: int) -> int:
    """SSDLite's predictor: depthwise and pointwise; a row of ``numbers`` for each of two anchors a pixel."""
    filtered = network.depthwise(source, kernel, activation="RELU6")
    return network.reshape(network.convolution(filtered, 2 * numbers), -1, numbers)


def smaller(network: Network, source: int, channels: int) -> int:
    """One of SSDLite's layers behind the backbone: half the size."""
    compressed = network.convolution(source, channels // 2, activation="RELU6")
    filtered = network.depthwise(compressed, 3, 2, activation="RELU6")
    return network.convolution(filtered, channels, activation="RELU6")


def mobiledet(seed: int) -> Outputs:
    """SSDLite MobileDet (Xiong et al., 2020; the EdgeTPU's blocks): boxes and the scores of five classes."""
    network = Network(96, 96, 3, seed=seed)
    stem = network.convolution(network.input, 16, 3, 2, activation="RELU6")
    x = tucker(network, stem, 8, (0.5, 0.75))
    x = fused(network, x, 16, 4, 3, 2)
    x = fused(network, x, 16, 4, 3)
    x = tucker(network, x, 16, (0.25, 0.75))
    x = fused(network, x, 24, 4, 5, 2)
    x = fused(network, x, 24, 4, 3)
    x = inverted(network, x, 32, 4, 5, 2)
    x = inverted(network, x, 32, 4, 3)
    first = inverted(network, x, 40, 8, 3)
    x = inverted(network, first, 48, 4, 5, 2)
    second = inverted(network, x, 48, 4, 5)
    third = smaller(network, second, 32)
    fourth = smaller(network, third, 24)
    maps = [(first, 3), (second, 5), (third, 3), (fourth, 3)]
    boxes = network.concatenation(*(box_head(network, source, 4, kernel) for source, kernel in maps), axis=1)
    classes = network.concatenation(*(box_head(network, source, 5, kernel) for source, kernel in maps), axis=1)
    return network, [boxes, network.unary("LOGISTIC", classes)]


def efficientnet_lite(seed: int) -> Outputs:
    """EfficientNet-Lite (Tan and Le, 2019, without squeeze and excitation, RELU6): a classifier."""
    network = Network(64, 64, 3, seed=seed)
    x = network.convolution(network.input, 16, 3, 2, activation="RELU6")
    x = inverted(network, x, 8, 1, 3)
    for channels, expansion, kernel, stride, repeats in [
        (16, 6, 3, 2, 2),
        (24, 6, 5, 2, 2),
        (40, 6, 3, 2, 2),
        (48, 6, 5, 1, 2),
        (64, 6, 5, 2, 2),
        (80, 6, 3, 1, 1),
    ]:
        for repeat in range(repeats):
            x = inverted(network, x, channels, expansion, kernel, stride if repeat == 0 else 1)
    x = network.convolution(x, 128, activation="RELU6")
    height, _, _ = network.shape(x)
    x = network.averages(x, height, padding="VALID")
    return network, [network.unary("SOFTMAX", network.fully_connected(x, 20))]


def hard_sigmoid(network: Network, source: int) -> int:
    """relu6(x + 3) / 6 as TensorFlow exports it."""
    shifted = network.add(source, network.constant(3.0), "RELU6")
    return network.multiply(shifted, network.constant(1 / 6))


def squeezed(network: Network, source: int) -> int:
    """Squeeze and excitation: a factor for each channel from the mean of all."""
    channels = network.channels(source)
    mean = network.mean(source, keep=True)
    reduced = network.convolution(mean, channels // 4, activation="RELU", normalized=False)
    factors = network.convolution(reduced, channels, normalized=False)
    return network.multiply(source, hard_sigmoid(network, factors))


def v3_block(network: Network, source: int, sizes: tuple[int, int, int, int], squeeze: bool, swish: bool) -> int:
    """MobileNetV3's block; sizes: kernel, expanded channels, output channels, stride."""
    kernel, expansion, channels, stride = sizes

    def activated(make: Callable[[str], int]) -> int:
        return network.unary("HARD_SWISH", make("NONE")) if swish else make("RELU")

    expanded = activated(lambda name: network.convolution(source, expansion, activation=name))
    filtered = activated(lambda name: network.depthwise(expanded, kernel, stride, activation=name))
    if squeeze:
        filtered = squeezed(network, filtered)
    return residual(network, source, network.convolution(filtered, channels))


def mobilenet_v3(seed: int) -> Outputs:
    """MobileNetV3 Small (Howard et al., 2019) with thinner layers: a classifier."""
    network = Network(64, 64, 3, seed=seed)
    x = network.unary("HARD_SWISH", network.convolution(network.input, 8, 3, 2))
    for sizes, squeeze, swish in [
        ((3, 8, 8, 2), True, False),
        ((3, 36, 12, 2), False, False),
        ((3, 44, 12, 1), False, False),
        ((5, 48, 20, 2), True, True),
        ((5, 60, 20, 1), True, True),
        ((5, 72, 24, 2), True, True),
        ((5, 72, 24, 1), True, True),
    ]:
        x = v3_block(network, x, sizes, squeeze, swish)
    x = network.unary("HARD_SWISH", network.convolution(x, 96))
    x = network.mean(x, keep=True)
    x = network.unary("HARD_SWISH", network.convolution(x, 128, normalized=False))
    x = network.reshape(network.convolution(x, 16, normalized=False), 16)
    return network, [network.unary("SOFTMAX", x)]
