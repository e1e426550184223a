"""CONCATENATION: each piece is copied to its place, or, in the first place, written there (place.py).

Along channels a piece can be placed where it begins an atom. Pieces between two such places, and pieces of another
scale than the output's, go through a 1x1 convolution over their cubes as one, its kernels an identity. Along another
axis a piece of another scale is quantized anew before it is placed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from delegate import quantize
from delegate.errors import CompileError
from delegate.hw.layout import align, fits_cbuf
from delegate.hw.soc import Target
from delegate.ir import AnyLayer, Convolution, Elementwise, Move, Node, Requantize, Tensor, View, all_pixels, as_cube
from delegate.ops import Rule, lowers
from delegate.ops.borrowed import fits
from delegate.ops.conv2d import CBUF_TEXT
from delegate.ops.copies import FILL, ONE, copy, place_at
from delegate.ops.inner import PIECES, inner
from delegate.ops.movement import FEATURES, can_be_copied, few_elements
from delegate.ops.rearrange import ELSEWHERE, MOST_ELEMENTS, Piece, arranged, elements
from delegate.ops.rules import CBUF_REMEDY, MALFORMED, computed_inputs, is_quantized_per_tensor
from delegate.requantize import LARGEST_ERROR, factor, plain, rounded_once

MOST_INPUTS = len(PIECES) // 2  # a constant takes two tensors


def pieces(node: Node) -> list[Tensor]:
    """The inputs as cubes."""
    return [as_cube(tensor) for tensor in node.inputs if tensor is not None]


def along_channels(node: Node) -> bool:
    return bool(node.params["axis"] % len(node.outputs[0].shape) == len(node.outputs[0].shape) - 1)


def conversions(node: Node) -> dict[int, Node]:
    """By their place among the inputs, the QUANTIZE that gives an input the output's scale and zero point."""
    found: dict[int, Node] = {}
    for number, tensor in enumerate(computed_inputs(node)):
        if not is_alike(tensor, node.outputs[0]):
            output = inner(node.outputs[0], PIECES[number], tensor.shape)
            found[number] = replace(node, op="QUANTIZE", inputs=(tensor,), outputs=(output,), params={})
    return found


def side_by_side(node: Node) -> list[Piece]:
    """The pieces, in the output's scale, along another axis than that of the channels: none for that one."""
    if along_channels(node):
        return []
    axis, converted, found = node.params["axis"], conversions(node), []
    for number, tensor in enumerate(computed_inputs(node)):
        parts = [np.full(other.shape, ELSEWHERE, np.int32) for other in computed_inputs(node)]
        parts[number] = elements(tensor)
        source = converted[number].outputs[0] if number in converted else tensor
        found.append(Piece(source, node.outputs[0], np.concatenate(parts, axis)))
    return found


def segments(node: Node, target: Target) -> list[tuple[int, list[Tensor]]]:
    """(first channel, pieces) of what one layer writes: a new one where a piece begins an atom."""
    found: list[tuple[int, list[Tensor]]] = []
    channel = 0
    for tensor in pieces(node):
        if channel % target.soc.atom_bytes == 0:
            found.append((channel, []))
        found[-1][1].append(tensor)
        channel += tensor.shape[3]
    return found


def is_alike(a: Tensor, b: Tensor) -> bool:
    """Whether both have one scale and zero point."""
    assert a.quant is not None and b.quant is not None
    return bool(a.quant.scale[0] == b.quant.scale[0] and a.quant.zero_point[0] == b.quant.zero_point[0])


def is_placed(node: Node, segment: Sequence[Tensor]) -> bool:
    """Whether a segment is one piece as it is."""
    return len(segment) == 1 and is_alike(segment[0], node.outputs[0])


def axis_exists(node: Node, target: Target) -> bool:
    return -len(node.outputs[0].shape) <= int(node.params["axis"]) < len(node.outputs[0].shape)


def shapes_match(node: Node, target: Target) -> bool:
    output, axis = node.outputs[0].shape, node.params["axis"] % len(node.outputs[0].shape)
    shapes = [tensor.shape for tensor in node.inputs if tensor is not None]
    others = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes if len(shape) == len(output)}
    return (
        {len(shape) for shape in shapes} == {len(output)}
        and others == {(*output[:axis], *output[axis + 1 :])}
        and sum(shape[axis] for shape in shapes) == output[axis]
    )


def constants_fit(node: Node, target: Target) -> bool:
    """A constant is compared with the least number there is, in the pixels of a computed input."""
    constants = [tensor for tensor in node.inputs if tensor is not None and tensor.data is not None]
    if len(constants) == 0:
        return bool(computed_inputs(node)) and None not in node.inputs
    described = all(is_quantized_per_tensor(t) and t.dtype == node.outputs[0].dtype for t in constants)
    one_image = as_cube(node.outputs[0]).shape[0] == 1
    return bool(computed_inputs(node)) and described and along_channels(node) and one_image and None not in node.inputs


def read_channels(segment: Sequence[Tensor], target: Target) -> int:
    """A bound of the channels of all cubes behind each other: who reads a cube's last atom may read a whole group."""
    return sum(align(tensor.shape[3], target.soc.atom_bytes) + target.soc.depthwise_group for tensor in segment)


def kernels_fit(node: Node, target: Target) -> bool:
    joined = [read_channels(segment, target) for _, segment in segments(node, target) if not is_placed(node, segment)]
    return not along_channels(node) or max(joined, default=0) <= target.soc.kernel_bytes_limit


def cbuf_fits(node: Node, target: Target) -> bool:
    width, soc = as_cube(node.outputs[0]).shape[2], target.soc
    if not along_channels(node):
        return True
    for _, segment in segments(node, target):
        channels = read_channels(segment, target)
        if not fits_cbuf(1, width, channels, soc.kernel_group * channels, soc):
            return False
    return True


def points(segment: Sequence[Tensor]) -> list[int]:
    """The zero point of each piece."""
    found = []
    for tensor in segment:
        assert tensor.quant is not None
        found.append(quantize.zero_point(tensor.quant, tensor.dtype))
    return found


def converter(node: Node, segment: Sequence[Tensor]) -> tuple[int, Requantize]:
    """(weight of the identity, from accumulators to the output); raises CompileError.

    TFLite computes round((q - zero point) * ratio) in floats: one rounding.
    """
    output = node.outputs[0]
    assert output.quant is not None
    scale, offset = float(output.quant.scale[0]), quantize.zero_point(output.quant, output.dtype)
    ratios = [float(tensor.quant.scale[0]) / scale for tensor in segment if tensor.quant is not None]
    counts = [tensor.shape[3] for tensor in segment]
    channels = sum(counts)
    if all(ratio == 1.0 for ratio in ratios):
        return ONE, plain(1 / ONE, channels, offset)
    run = rounded_once(np.repeat(np.array(ratios, np.float64), counts), offset)
    worst = 255 / 2 * factor(run)
    if worst > LARGEST_ERROR:
        raise CompileError(f"CONCATENATION: a scale is so large that results could err by {worst:.2f} steps")
    return 1, run


def converters_exist(node: Node, target: Target) -> bool:
    if along_channels(node):
        converted = [segment for _, segment in segments(node, target)]
    else:
        parts = conversions(node)
        if parts and node.outputs[0].dtype != "uint8":
            return False
        if not all(fits(part, target) for part in parts.values()):  # their room in CBUF and in a kernel
            return False
        converted = [[tensor] for part in parts.values() for tensor in computed_inputs(part)]
    try:
        for segment in converted:
            converter(node, segment)
    except CompileError:
        return False
    return True


def joined(node: Node, segment: Sequence[Tensor], output: Tensor, channel: int) -> Convolution:
    """out[..., channel + c] = requantize(in[..., c - first] - zi), ``in`` the piece whose channels begin at first."""
    weight, run = converter(node, segment)
    counts = [tensor.shape[3] for tensor in segment]
    channels = sum(counts)
    images = [all_pixels(output, image) for image in range(output.shape[0])]
    return Convolution(
        node=node.index,
        operator=node.op,
        inputs=tuple(segment),
        output=output,
        weight=(np.eye(channels, dtype=np.int8) * np.int8(weight)).reshape(channels, 1, 1, channels),
        weight_zero_point=0,
        bias=np.repeat(-weight * np.array(points(segment), np.int32), counts),
        input_zero_point=0,  # nothing is padded
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        depthwise=False,
        requantize=(run,),
        accumulator_scale=None,
        moves=tuple(Move(image, replace(image, channel=channel)) for image in images),
    )


def made(node: Node, constant: Tensor, number: int) -> tuple[list[AnyLayer], Tensor]:
    """(layers that write a constant, the tensor they write): the larger of it and of -128, the least number."""
    floor, result = (
        replace(inner(node.outputs[0], PIECES[number + i], constant.shape), quant=constant.quant) for i in (0, 1)
    )
    source = as_cube(computed_inputs(node)[0])
    assert constant.data is not None
    operand = replace(constant, data=constant.data.reshape(constant.shape))
    empty = copy(node, source, floor, channels=np.full(constant.shape[3], FILL), fill=quantize.INT8_LOW)
    largest = Requantize(range(constant.shape[3]), multiplier=1, shift=0, offset=0)
    fill = Elementwise(node.index, node.op, floor, result, largest, operation="max", operand=operand)
    return [empty, fill], result


def along(node: Node, target: Target) -> list[AnyLayer]:
    """Concatenation of channels, from the first on, for a layer writes whole groups and so into the next piece."""
    layers: list[AnyLayer] = []
    steps = 0
    for channel, segment in segments(node, target):
        own: list[Tensor] = []
        for tensor in segment:
            piece = tensor
            if tensor.data is not None:
                more, piece = made(node, tensor, steps)
                layers += more
                steps += 2
            own.append(piece)
        if is_placed(node, segment):
            soc = target.soc
            output = as_cube(node.outputs[0])
            layers.append(place_at(node, own[0], output, channel, soc.kernel_group, soc.depthwise_group))
        else:
            layers.append(joined(node, own, as_cube(node.outputs[0]), channel))
    return layers


@lowers(
    "CONCATENATION",
    [
        *FEATURES,
        Rule(
            "there is no fused activation",
            lambda node, target: node.params["activation"] == "NONE",
            "put the activation behind as an operator",
        ),
        Rule("there is such an axis", axis_exists, MALFORMED),
        Rule(
            f"tensors have at most {MOST_ELEMENTS} elements, or the axis is that of the channels",
            lambda node, target: along_channels(node) or few_elements(node, target),
            "concatenate along channels",
        ),
        Rule(
            "some input is computed; a constant is joined along channels, with one image",
            constants_fit,
            "join constants along channels, or compute them beforehand",
        ),
        Rule(
            f"there are at most {MOST_INPUTS} inputs",
            lambda node, target: len(node.inputs) <= MOST_INPUTS,
            "concatenate in two steps",
        ),
        Rule(
            "inputs have the output's shape but for the axis",
            shapes_match,
            MALFORMED,
        ),
        Rule(
            "pieces between two multiples of 16 channels, in all their groups, fit one kernel of 32 KiB",
            kernels_fit,
            "pieces of multiples of 16 channels",
        ),
        Rule(CBUF_TEXT, cbuf_fits, CBUF_REMEDY),
        Rule(
            "scales are met within 0.45 output steps (int8 along other axes than channels: there is one quantization)",
            converters_exist,
            "quantize all inputs alike, as the TFLite converter does",
        ),
        *can_be_copied(side_by_side),
    ],
)
def concatenation(node: Node, target: Target) -> Sequence[AnyLayer | View]:
    """out = the pieces one behind the other along the axis, each requantized."""
    if along_channels(node):
        return along(node, target)
    converted = [
        joined(node, [as_cube(tensor)], as_cube(part.outputs[0]), 0)
        for part in conversions(node).values()
        for tensor in computed_inputs(part)
    ]
    return [*converted, *arranged(node, side_by_side, target)]
