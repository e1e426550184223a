"""Conditions that several operators share."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from delegate.errors import CompileError
from delegate.hw.soc import Target
from delegate.ir import Node, Tensor, as_cube
from delegate.ops import Rule
from delegate.quantize import ACTIVATION_RANGES

ACTIVATIONS = tuple(ACTIVATION_RANGES)
NODES_AT_A_TIME = 8  # whose layers are kept, for rules and lowering ask for them one after the other
ALLOW = "allow unproven register programs (option unproven=always), or run the device's known-answer probes"
MALFORMED = "convert the model again: as it is, TFLite itself would not run it"
CBUF_REMEDY = "fewer input channels, a narrower input or a smaller kernel"
SCALES_REMEDY = "calibrate again: some scale is far from the others"


def computed_inputs(node: Node) -> list[Tensor]:
    """The inputs that are not constants."""
    return [tensor for tensor in node.inputs if tensor is not None and tensor.data is None]


def feature_tensors(node: Node) -> list[Tensor]:
    """The tensors that lie in cubes: computed inputs and outputs."""
    return [*computed_inputs(node), *node.outputs]


def asked_of(change: Callable[[Node], Node], rule: Rule) -> Rule:
    """The rule, asked of what a node is changed into."""
    return Rule(rule.text, lambda node, target: rule.holds(change(node), target), rule.remedy)


def possible(make: Callable[[Node, Target], object]) -> Callable[[Node, Target], bool]:
    """Whether something can be made of a node, or else raises CompileError."""

    def holds(node: Node, target: Target) -> bool:
        try:
            make(node, target)
        except CompileError:
            return False
        return True

    return holds


def is_quantized_per_tensor(tensor: Tensor | None) -> bool:
    return (
        tensor is not None
        and tensor.dtype in ("int8", "uint8")
        and tensor.quant is not None
        and tensor.quant.scale.size == 1
        and zero_points_fit(tensor)
    )


def zero_points_fit(tensor: Tensor) -> bool:
    """The zero points are numbers of the tensor's type."""
    limits = np.iinfo(tensor.dtype)
    return tensor.quant is not None and bool(
        ((tensor.quant.zero_point >= limits.min) & (tensor.quant.zero_point <= limits.max)).all()
    )


def same_dtype(node: Node) -> bool:
    return len({tensor.dtype for tensor in feature_tensors(node)}) == 1


def same_quantization(node: Node) -> bool:
    """The input and the output have the same scale and zero point."""
    feature, output = node.inputs[0], node.outputs[0]
    assert feature is not None and feature.quant is not None and output.quant is not None
    same_scale = bool(feature.quant.scale[0] == output.quant.scale[0])
    return same_scale and bool(feature.quant.zero_point[0] == output.quant.zero_point[0])


FEATURES_8_BIT = Rule(
    "inputs and output are int8 or uint8 with one scale each and a zero point of that type",
    lambda node, target: all(is_quantized_per_tensor(tensor) for tensor in feature_tensors(node)),
    "quantize to 8 bits with one scale a tensor",
)
SCALES_POSITIVE = Rule(
    "scales are positive numbers",
    lambda node, target: all(
        tensor.quant is not None
        and float(tensor.quant.scale.min()) > 0
        and float(tensor.quant.scale.max()) < float("inf")
        for tensor in [*node.inputs, *node.outputs]
        if tensor is not None and tensor.dtype in ("int8", "uint8")
    ),
    "calibrate again: a scale is 0 or no number",
)
SAME_DTYPE = Rule(
    "inputs and output have one dtype",
    lambda node, target: same_dtype(node),
    "put a QUANTIZE before it that makes the types one",
)


PADDING_KNOWN = Rule(
    "padding is SAME or VALID",
    lambda node, target: node.params["padding"] in ("SAME", "VALID"),
    MALFORMED,
)
WINDOW_SIZES = Rule(
    "window and stride are at least 1, and the window at most 2047 x 2047",
    lambda node, target: (
        min(*node.params["filter"], *node.params["stride"]) >= 1
        and max(node.params["filter"]) <= min(target.soc.largest_height, target.soc.largest_width)
    ),
    "a window of at most 2047 x 2047 pixels",
)
ONE_FEATURE = Rule(
    "the first input alone is computed and there is one output",
    lambda node, target: (
        len(node.outputs) == 1
        and bool(node.inputs)
        and node.inputs[0] is not None
        and computed_inputs(node) == [node.inputs[0]]
    ),
    "constants for all other inputs",
)
LARGEST_TENSOR = 1 << 30  # bytes; a tensor's addresses have 32 bits
LARGEST_BATCH = 1024  # images; each is a task of its own


def has_room(tensor: Tensor, target: Target) -> bool:
    """Whether a tensor with whole kernel groups of channels is within LARGEST_TENSOR."""
    *pixels, channels = tensor.shape or (1,)
    group = target.soc.depthwise_group
    return (
        math.prod(max(size, target.soc.line_group) for size in pixels) * -(-channels // group) * group <= LARGEST_TENSOR
    )


ROOM = Rule(
    "a tensor takes at most 1 GiB and has at most 1024 images",
    lambda node, target: all(
        has_room(tensor, target) and (len(tensor.shape) < 4 or tensor.shape[0] <= LARGEST_BATCH)
        for tensor in feature_tensors(node)
    ),
    "a smaller image or batch",
)


def are_images(node: Node) -> bool:
    """Computed inputs and outputs are batches of as many images."""
    tensors = feature_tensors(node)
    return all(len(t.shape) == 4 and min(t.shape) > 0 for t in tensors) and len({t.shape[0] for t in tensors}) == 1


IMAGES = Rule(
    "tensors have four dimensions, none of them 0, and one batch size",
    lambda node, target: are_images(node),
    "reshape to images of one batch before",
)


def within_extents(shape: tuple[int, ...], target: Target) -> bool:
    """Whether the registers hold the sizes of images of that shape."""
    _, height, width, channels = shape
    soc = target.soc
    return height <= soc.largest_height and width <= soc.largest_width and channels <= soc.largest_channels


EXTENT = Rule(
    "height and width are within the chip's 2047 pixels and channels within 8192",
    lambda node, target: all(within_extents(tensor.shape, target) for tensor in feature_tensors(node)),
    "cut the image into tiles, or make it smaller",
)
INPUT_IMAGES = Rule(
    "the input has four dimensions, none of them 0, height and width of at most 2047 and at most 8192 channels",
    lambda node, target: all(
        len(tensor.shape) == 4 and min(tensor.shape) > 0 and within_extents(tensor.shape, target)
        for tensor in computed_inputs(node)
    ),
    "reshape to images within the chip's extents before",
)


def keeps_its_shape(node: Node, target: Target) -> bool:
    """Input and output have one shape that can be seen as images or rows, within the chip's extents."""
    source = node.inputs[0]
    assert source is not None
    if len(source.shape) not in (1, 2, 3, 4) or min(source.shape) < 1 or source.shape != node.outputs[0].shape:
        return False
    return within_extents(as_cube(source).shape, target)


ONE_INPUT = Rule(
    "the input is computed",
    lambda node, target: len(computed_inputs(node)) == 1 == len(node.inputs) and len(node.outputs) == 1,
    "compute it beforehand",
)
SAME_SHAPE = Rule(
    "input and output have one shape of one to four dimensions, none of them 0, within the chip's extents",
    keeps_its_shape,
    "reshape before, so that extents are within the chip's",
)
ACTIVATION = Rule(
    f"fused activation is one of {', '.join(ACTIVATIONS)}",
    lambda node, target: node.params["activation"] in ACTIVATIONS,
    "put the activation behind as an operator",
)
SAME_QUANTIZATION = Rule(
    "input and output have one scale and zero point",
    lambda node, target: same_quantization(node),
    "quantize input and output alike, as the TFLite converter does",
)
ONE_FEATURE_RULES = [ONE_FEATURE, FEATURES_8_BIT, SAME_DTYPE, SCALES_POSITIVE]
WINDOW_RULES = [*ONE_FEATURE_RULES, IMAGES, EXTENT, SAME_QUANTIZATION, ACTIVATION, PADDING_KNOWN, WINDOW_SIZES]
