"""QUANTIZE between int8 and uint8, or between scales of one of them: no work, an identity convolution, or a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from delegate import quantize as domain
from delegate.hw.layout import align, fits_cbuf
from delegate.hw.soc import NORM_SHIFT, Target
from delegate.ir import AnyLayer, Convolution, Node, Requantize, View, as_cube
from delegate.ops import Rule, lowers
from delegate.ops.conv2d import CBUF_TEXT
from delegate.ops.rules import (
    CBUF_REMEDY,
    FEATURES_8_BIT,
    ONE_INPUT,
    ROOM,
    SAME_SHAPE,
    SCALES_POSITIVE,
    SCALES_REMEDY,
    possible,
)
from delegate.ops.table import computable, lookup, may_look_up
from delegate.ops.unary import outputs, requantized
from delegate.requantize import exact, plain


def changes_nothing(node: Node) -> bool:
    """Both tensors are the same bytes in the NPU's domain."""
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None and source.quant is not None and output.quant is not None
    same_point = domain.zero_point(source.quant, source.dtype) == domain.zero_point(output.quant, output.dtype)
    return same_point and bool(source.quant.scale[0] == output.quant.scale[0])


def converter(node: Node, target: Target) -> Requantize:
    """From (q - zero point) to the output; raises CompileError."""
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None and source.quant is not None and output.quant is not None
    real = float(source.quant.scale[0]) / float(output.quant.scale[0])
    channels, offset = as_cube(output).shape[3], domain.zero_point(output.quant, output.dtype)
    return exact(real, 255, channels, offset) if NORM_SHIFT in target.forms else plain(real, channels, offset)


def looked_up(node: Node, target: Target) -> bool:
    """A table is the more exact way where BN cannot be used."""
    return NORM_SHIFT not in target.forms and may_look_up(target) and computable(requantized, node, target)


def converter_exists(node: Node, target: Target) -> bool:
    if looked_up(node, target):
        return True
    return possible(converter)(node, target)


def cbuf_fits(node: Node, target: Target) -> bool:
    if looked_up(node, target):
        return True
    source = node.inputs[0]
    assert source is not None
    _, _, width, channels = as_cube(source).shape
    return fits_cbuf(1, width, channels, target.soc.kernel_group * align(channels, target.soc.atom_bytes), target.soc)


@lowers(
    "QUANTIZE",
    [
        ONE_INPUT,
        FEATURES_8_BIT,
        SCALES_POSITIVE,
        SAME_SHAPE,
        ROOM,
        Rule(CBUF_TEXT, cbuf_fits, CBUF_REMEDY),
        Rule("the output converter can express the scales' ratio", converter_exists, SCALES_REMEDY),
    ],
)
def quantize(node: Node, target: Target) -> Sequence[AnyLayer | View]:
    """out = requantize(in - zi)."""
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None and source.quant is not None and output.quant is not None
    if changes_nothing(node):
        return [View(output, source)]
    if looked_up(node, target):
        return [lookup(node, outputs(requantized, node))]
    cube, channels = as_cube(source), as_cube(source).shape[3]
    point = domain.zero_point(source.quant, source.dtype)
    return [
        Convolution(
            node=node.index,
            operator=node.op,
            inputs=(cube,),
            output=as_cube(output),
            weight=np.eye(channels, dtype=np.int8).reshape(channels, 1, 1, channels),
            weight_zero_point=0,
            bias=np.full(channels, -point, np.int32),
            input_zero_point=point,
            stride=(1, 1),
            padding=(0, 0, 0, 0),
            depthwise=False,
            requantize=(converter(node, target),),
            accumulator_scale=float(source.quant.scale[0]),
        )
    ]
