"""Networks as their papers describe them, small, with random weights and calibrated scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tflite_writer import Model

from families import classifiers, mobile, pixels
from families.mobile import Outputs
from families.quantized import quantize

__all__ = ["FAMILIES", "SEED", "Family", "make"]

SEED = 4


@dataclass(frozen=True)
class Family:
    """A network, the types it comes in, and the operators at its end that stay on the CPU."""

    describe: Callable[[int], Outputs]
    dtypes: tuple[str, ...] = ("int8",)
    on_cpu: tuple[str, ...] = ()


BOTH = ("int8", "uint8")
FAMILIES: Mapping[str, Family] = {
    "MobileDet": Family(mobile.mobiledet, BOTH),
    "EfficientNet-Lite": Family(mobile.efficientnet_lite, on_cpu=("SOFTMAX",)),
    "MobileNetV3": Family(mobile.mobilenet_v3, on_cpu=("SOFTMAX",)),
    "ResNet": Family(classifiers.resnet, BOTH, ("SOFTMAX",)),
    "Inception": Family(classifiers.inception, BOTH, ("SOFTMAX",)),
    "DeepLab": Family(pixels.deeplab, on_cpu=("ARG_MAX",)),
    "U-Net": Family(pixels.unet, BOTH),
    "YOLOv8": Family(pixels.yolo),
    "keyword spotter": Family(classifiers.keyword_spotter, on_cpu=("SOFTMAX",)),
    "perceptron": Family(classifiers.perceptron, BOTH, ("SOFTMAX",)),
    "two images": Family(classifiers.two_images, BOTH, ("SOFTMAX",)),
}


def make(name: str, dtype: str) -> Model:
    """A family's quantized model."""
    network, outputs = FAMILIES[name].describe(SEED)
    return quantize(network, outputs, dtype)
