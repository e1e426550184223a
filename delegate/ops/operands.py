"""The operands of operators of two tensors: as cubes, one of them broadcast, constants included."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from delegate import quantize
from delegate.hw.layout import align, surface_rows
from delegate.hw.soc import CHANNEL_OPERAND, Target
from delegate.ir import AnyLayer, Array, Node, Tensor, as_cube
from delegate.ops import Rule
from delegate.ops.copies import copy
from delegate.ops.inner import SPREAD, inner
from delegate.ops.rules import EXTENT, ROOM, SCALES_POSITIVE, asked_of, is_quantized_per_tensor
from delegate.sums import Operand

LARGEST_CONSTANT = 1 << 20  # bytes of a constant that is stored for every pixel


def cube(tensor: Tensor, dimensions: int) -> Tensor:
    """A tensor, aligned with others of so many dimensions as TFLite broadcasts, as one of four."""
    if len(tensor.shape) == 4:
        return tensor
    shaped = as_cube(replace(tensor, shape=(1,) * (dimensions - len(tensor.shape)) + tensor.shape))
    return shaped if tensor.data is None else replace(shaped, data=tensor.data.reshape(shaped.shape))


def as_cubes(node: Node) -> Node:
    """The node with inputs and outputs of four dimensions; they broadcast as they did, or no longer."""
    dimensions = len(node.outputs[0].shape)
    inputs = tuple(tensor and cube(tensor, dimensions) for tensor in node.inputs)
    return replace(node, inputs=inputs, outputs=(cube(node.outputs[0], dimensions),))


def pair(node: Node) -> tuple[Tensor, Tensor]:
    """Both operands; rules that run first make sure that they are there."""
    a, b = node.inputs
    assert a is not None and b is not None
    return a, b


def point(tensor: Tensor) -> int:
    """The zero point in the NPU's domain."""
    assert tensor.quant is not None
    return quantize.zero_point(tensor.quant, tensor.dtype)


def scale(tensor: Tensor) -> float:
    assert tensor.quant is not None
    return float(tensor.quant.scale[0])


def measures(tensor: Tensor) -> Operand:
    """What sums and products need to know of a tensor."""
    return Operand(scale(tensor), max(quantize.INT8_HIGH - point(tensor), point(tensor) - quantize.INT8_LOW))


def values(tensor: Tensor) -> Array:
    """A constant's numbers less their zero point, int64."""
    assert tensor.data is not None
    return quantize.to_int8(tensor.data).astype(np.int64) - point(tensor)


@dataclass(frozen=True, eq=False)
class Operands:
    """``main`` is computed and has the output's shape; ``other`` may be a constant, or broadcast, or the same tensor.

    ``layers`` make what the model has not got.
    """

    main: Tensor
    other: Tensor
    output: Tensor
    swapped: bool  # main is the node's second operand
    layers: tuple[AnyLayer, ...]


def is_whole(tensor: Tensor, output: Tensor) -> bool:
    """Computed, with the output's images and pixels."""
    return tensor.data is None and tensor.shape[:3] == output.shape[:3]


def is_per_channel(tensor: Tensor) -> bool:
    """One number, or one a channel, for all pixels and images."""
    return tensor.shape[:3] == (1, 1, 1)


def operands(node: Node) -> Operands:
    """The operands of a node of cubes that met RULES; one number a pixel, or one in all, is spread over channels."""
    a, b = pair(node)
    output = node.outputs[0]
    swapped = not is_whole(a, output) or (a.shape != output.shape and is_whole(b, output) and b.shape == output.shape)
    main, other = (b, a) if swapped else (a, b)
    layers: list[AnyLayer] = []

    def spread(tensor: Tensor) -> Tensor:
        channels = output.shape[3]
        if tensor.data is not None or tensor.shape[3] == channels:
            return tensor
        index = inner(output, SPREAD).index
        wide = replace(tensor, index=index, name=f"{tensor.name} spread", shape=(*tensor.shape[:3], channels))
        layers.append(copy(node, tensor, wide, channels=np.zeros(channels, np.int64)))
        return wide

    return Operands(spread(main), spread(other), output, swapped, tuple(layers))


def stored_per_channel(tensor: Tensor, output: Tensor, target: Target) -> bool:
    """Whether a constant is stored as one number a channel; else it is for every pixel."""
    return is_per_channel(tensor) and CHANNEL_OPERAND in target.forms and output.shape[1:3] != (1, 1)


def stored(tensor: Tensor, output: Tensor, target: Target) -> Tensor:
    """A constant as the element-wise unit reads it."""
    assert tensor.data is not None
    pixels = (1, 1) if stored_per_channel(tensor, output, target) else output.shape[1:3]
    shape = (1, *pixels, output.shape[3])
    return replace(tensor, shape=shape, data=np.broadcast_to(tensor.data, shape))


def constant_fits(tensor: Tensor, output: Tensor, target: Target) -> bool:
    """Whether a constant may be stored, or the tensor is none."""
    _, height, width, channels = output.shape
    size = surface_rows(height, target.soc) * width * align(channels, target.soc.atom_bytes)
    return tensor.data is None or stored_per_channel(tensor, output, target) or size <= LARGEST_CONSTANT


def constants_fit(node: Node, target: Target) -> bool:
    return all(constant_fits(tensor, node.outputs[0], target) for tensor in pair(node))


def channel_operand_allowed(node: Node, target: Target) -> bool:
    """An operand of one number a channel is computed only where the device may use that."""
    output = node.outputs[0]
    narrow = any(tensor.data is None and tensor.shape[1:3] != output.shape[1:3] for tensor in pair(node))
    return not narrow or CHANNEL_OPERAND in target.forms


def two_operands(node: Node, target: Target) -> bool:
    given = [tensor for tensor in node.inputs if tensor is not None]
    return len(given) == 2 == len(node.inputs) and any(tensor.data is None for tensor in given)


def are_8_bit(node: Node, target: Target) -> bool:
    """All with one scale each, of one type."""
    tensors = [*node.inputs, *node.outputs]
    return all(is_quantized_per_tensor(tensor) for tensor in tensors) and len({t.dtype for t in tensors if t}) == 1


def shapes_fit(node: Node, target: Target) -> bool:
    shapes = [tensor.shape for tensor in (*pair(node), *node.outputs)]
    if any(len(shape) > 4 or min(shape, default=1) < 1 for shape in shapes):
        return False
    try:
        return np.broadcast_shapes(*shapes[:2]) == shapes[2]
    except ValueError:
        return False


def one_is_whole(node: Node, target: Target) -> bool:
    return any(is_whole(tensor, node.outputs[0]) for tensor in pair(node))


def broadcast_is_possible(node: Node, target: Target) -> bool:
    """Computed operands have the output's height and width, or neither; constants are the same for all images."""
    output = node.outputs[0]
    for tensor in pair(node):
        sizes = list(zip(tensor.shape, output.shape, strict=True))
        computed_whole = tensor.shape[1:3] in ((1, 1), output.shape[1:3])
        fits = all(size in (1, whole) for size, whole in sizes)
        if not fits or (tensor.data is None and not computed_whole) or (tensor.data is not None and sizes[0][0] != 1):
            return False
    return True


def on_cubes(rule: Rule) -> Rule:
    """The rule, asked of the node with four dimensions."""
    return asked_of(as_cubes, rule)


RULES = [
    Rule("there are two operands, one of them computed", two_operands, "compute constants beforehand"),
    Rule(
        "operands and output are int8, or all uint8, with one scale each and zero points of that type",
        are_8_bit,
        "quantize all of them to one type of 8 bits, with one scale a tensor",
    ),
    SCALES_POSITIVE,
    Rule(
        "tensors have at most four dimensions, none of them 0, and operands broadcast to the output",
        shapes_fit,
        "reshape to four dimensions before, and back behind",
    ),
    on_cubes(EXTENT),
    on_cubes(ROOM),
    on_cubes(
        Rule(
            "a computed operand has the output's images, height and width",
            one_is_whole,
            "broadcast one operand at a time",
        )
    ),
    on_cubes(
        Rule(
            "operands are broadcast over channels, or height and width together, and constants over the images",
            broadcast_is_possible,
            "broadcast over height and width together",
        )
    ),
]
CHANNEL_OPERAND_TEXT = f"no computed operand is broadcast over pixels, or the device may use: {CHANNEL_OPERAND}"
CONSTANT_TEXT = "a constant of the element-wise unit takes at most 1 MiB"
