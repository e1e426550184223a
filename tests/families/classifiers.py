"""ResNet, Inception, a keyword spotter, a perceptron, and a classifier of two images at once."""

from __future__ import annotations

from families.mobile import Outputs, inverted
from families.network import Network


def shortcut(network: Network, source: int, branch: int, stride: int) -> int:
    """The branch plus its source, or plus a projection of that where the shape changes."""
    if network.shape(source) != network.shape(branch):
        source = network.convolution(source, network.channels(branch), 1, stride)
    return network.add(source, branch, "RELU")


def basic(network: Network, source: int, channels: int, stride: int = 1) -> int:
    """The block of ResNet-18 and 34."""
    first = network.convolution(source, channels, 3, stride, activation="RELU")
    return shortcut(network, source, network.convolution(first, channels, 3), stride)


def bottleneck(network: Network, source: int, channels: int, stride: int = 1) -> int:
    """The block of ResNet-50 and larger ones; four times ``channels`` leave it."""
    x = network.convolution(source, channels, 1, stride, activation="RELU")
    x = network.convolution(x, channels, 3, activation="RELU")
    return shortcut(network, source, network.convolution(x, 4 * channels), stride)


def resnet(seed: int) -> Outputs:
    """ResNet (He et al., 2015) with both kinds of blocks: a classifier."""
    network = Network(64, 64, 3, seed=seed)
    x = network.convolution(network.pad(network.input, 3), 16, 7, 2, padding="VALID", activation="RELU")
    x = network.maxima(network.pad(x, 1), 3, 2, "VALID")
    x = basic(network, basic(network, x, 16), 16)
    x = basic(network, x, 24, 2)
    x = bottleneck(network, bottleneck(network, x, 16, 2), 16)
    x = bottleneck(network, bottleneck(network, x, 24, 2), 24)
    x = network.fully_connected(network.mean(x), 20)
    return network, [network.unary("SOFTMAX", x)]


def chain(network: Network, source: int, channels: int, *kernels: int | tuple[int, int]) -> int:
    """Convolutions behind each other."""
    for kernel in kernels:
        source = network.convolution(source, channels, kernel, activation="RELU")
    return source


def module_a(network: Network, source: int, channels: int) -> int:
    """Inception V3's first module: 1x1, 5x5, twice 3x3, and an average."""
    pooled = network.averages(source, 3)
    branches = [chain(network, source, channels, *kernels) for kernels in ((1,), (1, 5), (1, 3, 3))]
    return network.concatenation(*branches, chain(network, pooled, channels // 2, 1))


def reduction(network: Network, source: int, channels: int) -> int:
    """Half the size by strides and by maxima, beside each other."""
    first = network.convolution(source, channels, 3, 2, padding="VALID", activation="RELU")
    second = chain(network, source, channels, 1, 3)
    second = network.convolution(second, channels, 3, 2, padding="VALID", activation="RELU")
    return network.concatenation(first, second, network.maxima(source, 3, 2, "VALID"))


def module_b(network: Network, source: int, channels: int) -> int:
    """7x7 in factors: 1x7 and 7x1, once and twice."""
    row, column = (1, 7), (7, 1)
    pooled = network.averages(source, 3)
    branches = [
        chain(network, source, channels, *kernels)
        for kernels in ((1,), (1, row, column), (1, column, row, column, row))
    ]
    return network.concatenation(*branches, chain(network, pooled, channels, 1))


def inception(seed: int) -> Outputs:
    """Inception V3 (Szegedy et al., 2015): stem and one module of each kind: a classifier."""
    network = Network(71, 71, 3, seed=seed)
    x = network.convolution(network.input, 8, 3, 2, padding="VALID", activation="RELU")
    x = network.convolution(x, 8, 3, padding="VALID", activation="RELU")
    x = network.maxima(chain(network, x, 16, 3), 3, 2, "VALID")
    x = module_a(network, x, 16)
    x = reduction(network, x, 24)
    x = module_b(network, x, 24)
    x = network.fully_connected(network.mean(x), 20)
    return network, [network.unary("SOFTMAX", x)]


def keyword_spotter(seed: int) -> Outputs:
    """Separable convolutions over time (Choi et al., 2019; Zhang et al., 2017): 49 frames of 40 coefficients."""
    network = Network(49, 1, 40, seed=seed)
    x = network.convolution(network.input, 32, (3, 1), activation="RELU")
    for channels, size, stride in ((32, 9, 2), (48, 9, 1), (48, 9, 2), (64, 5, 1)):
        filtered = network.depthwise(x, (size, 1), stride, activation="RELU")
        x = network.convolution(filtered, channels, activation="RELU")
    x = network.fully_connected(network.mean(x), 48, "RELU")
    return network, [network.unary("SOFTMAX", network.fully_connected(x, 12))]


def perceptron(seed: int) -> Outputs:
    """Three matrix products on a picture of 16x16."""
    network = Network(16, 16, 1, seed=seed)
    x = network.reshape(network.input, 256)
    x = network.fully_connected(network.fully_connected(x, 96, "RELU"), 64, "RELU")
    return network, [network.unary("SOFTMAX", network.fully_connected(x, 10))]


def two_images(seed: int) -> Outputs:
    """A small MobileNetV2 of two images at once."""
    network = Network(32, 32, 3, seed=seed, batch=2)
    x = network.convolution(network.input, 16, 3, 2, activation="RELU6")
    x = network.maxima(inverted(network, x, 16, 4, 3), 2, 2, "VALID")
    x = inverted(network, inverted(network, x, 24, 4, 3), 24, 4, 5)
    x = network.fully_connected(network.mean(x), 10)
    return network, [network.unary("SOFTMAX", x)]
