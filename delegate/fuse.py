"""Additions that a convolution can do on its way out, where that is sound.

Fused, the convolution's result is neither rounded nor clamped to 8 bits before the sum, as TFLite does. So an addition
is fused only if a bound over all inputs shows that the clamp never acts and that the rounding left out, the operand
converter (whose rounding is not known: S-167) and the multipliers together stay below half an output step. Elsewhere it
stays a layer of its own (docs/decisions/0002-addition.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from delegate.errors import CompileError
from delegate.hw.layout import surface_rows
from delegate.hw.soc import Soc
from delegate.ir import Addend, AnyLayer, Convolution, Graph, Tensor
from delegate.memory import Views
from delegate.quantize import INT8_HIGH, INT8_LOW, zero_point
from delegate.requantize import LARGEST_ERROR, check_factor, factor, mantissa, plain

FEWEST_ATOMS = 12  # of a surface; fewer gave wrong sums (S-111)


def fuse_additions(layers: Sequence[AnyLayer], graph: Graph, views: Views, soc: Soc) -> list[AnyLayer]:
    """The layers with every addition folded into the convolution behind it that allows it."""
    result = list(layers)
    for layer in layers:
        if not isinstance(layer, Convolution) or layer.operator != "ADD" or len(layer.inputs) != 2 or layer.moves:
            continue
        for tensor, other in (layer.inputs, layer.inputs[::-1]):
            producer = sole_producer(tensor, other, layer, result, graph, views)
            fused = fuse(producer, layer, other, soc) if producer else None
            if producer and fused:
                result[result.index(producer)] = fused
                result.remove(layer)
                break
    return result


def sole_producer(
    tensor: Tensor, other: Tensor, addition: Convolution, layers: Sequence[AnyLayer], graph: Graph, views: Views
) -> Convolution | None:
    """The convolution that writes ``tensor`` for the addition alone, when ``other`` is there before it runs."""

    def memory(tensor: Tensor) -> int:
        return views.root(tensor).tensor.index

    writers = {memory(layer.output): position for position, layer in enumerate(layers)}
    own, last = memory(tensor), writers.get(memory(other), -1)
    if own not in writers or last > writers[own] or any(memory(graph.tensors[index]) == own for index in graph.outputs):
        return None
    readers = [layer for layer in layers if any(memory(read) == own for read in layer.reads)]
    written = [layer for layer in layers if memory(layer.output) == own]
    producer = layers[writers[own]]
    if readers != [addition] or len(written) > 1 or not isinstance(producer, Convolution) or producer.moves:
        return None
    return producer


def fuse(producer: Convolution, addition: Convolution, other: Tensor, soc: Soc) -> Convolution | None:
    """The producer with the addition in it, or None where that is not sound."""
    middle, output = producer.output, addition.output
    assert middle.quant is not None and output.quant is not None and other.quant is not None
    if middle.shape != output.shape:
        return None
    atoms = surface_rows(output.shape[1], soc) * output.shape[2]
    unclamped = not any(run.relu for run in (*producer.requantize, *addition.requantize))
    scale = producer.accumulator_scale
    if any(run.gain is not None for run in (*producer.requantize, *addition.requantize)):
        return None  # the element-wise unit is busy
    if producer.depthwise or producer.addend or not unclamped or atoms < FEWEST_ATOMS or scale is None:  # S-214
        return None
    if saturates(producer):
        return None
    scale_out = float(output.quant.scale[0])
    offset = zero_point(other.quant, other.dtype)
    try:
        run = plain(scale / scale_out, output.shape[3], addition.requantize[0].offset)
        check_factor(float(other.quant.scale[0]) / scale)
        multiplier, shift = mantissa(float(other.quant.scale[0]) / scale)
    except CompileError:
        return None
    low, high = accumulator_bounds(producer)
    reach = max(INT8_HIGH - offset, offset - INT8_LOW)
    gain = multiplier / 2**shift
    error = 0.5 * float(middle.quant.scale[0]) / scale_out  # the rounding that is left out
    error += max(-low, high) * abs(factor(run) - scale / scale_out)
    error += abs(gain * factor(run) - float(other.quant.scale[0]) / scale_out) * reach
    error += factor(run)  # the operand converter's rounding, whichever it is
    if error > LARGEST_ERROR:
        return None
    addend = Addend(other, -offset, multiplier, shift)
    return replace(producer, output=output, requantize=(run,), addend=addend)


def accumulator_bounds(layer: Convolution) -> tuple[int, int]:
    """(lowest, highest) accumulator over all inputs and all output channels, padding included."""
    weight = layer.weight.astype(np.int64) - layer.weight_zero_point
    axes = (0, 1, 2) if layer.depthwise else (1, 2, 3)
    positive = np.maximum(weight, 0).sum(axis=axes)
    negative = np.minimum(weight, 0).sum(axis=axes)
    bias = layer.bias + layer.input_zero_point * (positive + negative)  # of inputs less their zero point
    up, down = INT8_HIGH - layer.input_zero_point, INT8_LOW - layer.input_zero_point
    return int((bias + positive * down + negative * up).min()), int((bias + positive * up + negative * down).max())


def saturates(layer: Convolution) -> bool:
    """Whether any input could take the output beyond 8 bits."""
    assert layer.accumulator_scale is not None and layer.output.quant is not None
    ratio = layer.accumulator_scale / float(layer.output.quant.scale[0])
    low, high = (ratio * bound + layer.requantize[0].offset for bound in accumulator_bounds(layer))
    return low < INT8_LOW - 0.5 or high > INT8_HIGH + 0.5
