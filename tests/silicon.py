"""What the silicon makes of a lowered layer, in plain numpy: convolution, BS, BN, element-wise unit, OUT_CVT.

It shares no code with ``delegate``: a layer is read as a record of numbers (``ir.Convolution``), and what they mean is
taken from the hardware book (S-01, S-04, S-19 to S-25, S-107, S-111). Emission, packing, tiling, allocation and the
simulator all lie between this and what the delegate computes.

Arrays are int64 (batch, height, width, channels) in the NPU's int8 domain. Products run in float64, which is exact
while sums stay below 2**53.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import reference
from tflite_writer import Array, Model

if TYPE_CHECKING:
    from delegate.ir import Addend, Convolution, Elementwise, Requantize


def half_to_even(values: Array, shift: int) -> Array:
    """round(values / 2**shift), ties to even (S-04 with CVT_ROUND 0; S-21)."""
    return reference.shift_half_to_even(values, shift)


def half_away(values: Array, shift: int) -> Array:
    """round(values / 2**shift), ties away from zero (S-04 with CVT_ROUND 1)."""
    if shift == 0:
        return values
    return np.asarray(np.sign(values) * ((np.abs(values) + (np.int64(1) << (shift - 1))) >> shift))


def saturate(values: Array, bits: int) -> Array:
    """To the range of a signed integer."""
    return np.clip(values, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def accumulators(layer: Convolution, sources: Sequence[Array]) -> Array:
    """bias + sum of in * (w - zw), what BS has behind its adder; padding reads the layer's value."""
    source = np.concatenate(sources, axis=3)
    top, bottom, left, right = layer.padding
    edges = ((0, 0), (top, bottom), (left, right), (0, 0))
    padded = np.pad(source, edges, constant_values=layer.input_zero_point).astype(np.float64)
    _, rows, columns, channels = layer.output.shape
    weight = layer.weight.astype(np.float64) - layer.weight_zero_point
    sums = np.zeros((source.shape[0], rows, columns, channels))
    step_y, step_x = layer.stride
    for i, j in np.ndindex(weight.shape[1:3]):
        y, x = i * layer.dilation[0], j * layer.dilation[1]
        window = padded[:, y : y + (rows - 1) * step_y + 1 : step_y, x : x + (columns - 1) * step_x + 1 : step_x]
        sums += window * weight[0, i, j] if layer.depthwise else window @ weight[:, i, j].T
    return np.asarray(sums.astype(np.int64) + layer.bias.astype(np.int64))


def converted(addend: Addend, stored: Array) -> Array:
    """The element-wise unit's operand; with a shift, whose rounding is not known (S-167), ties are taken to even."""
    return saturate(half_to_even((stored + addend.offset) * addend.multiplier, addend.shift), 32)


def scaled(values: Array, run: Requantize) -> Array:
    """BS behind its adder, and BN: 32 bits each."""
    values = saturate(values, 32)
    if run.channel_multiplier is not None:
        products = values * run.channel_multiplier.astype(np.int64)
        values = saturate(half_to_even(products, run.channel_shift), 32)
    if run.relu:
        values = np.maximum(values, 0)
    if run.relu_limit is not None:
        values = np.minimum(values, run.relu_limit)
    if run.norm_multiplier is not None:
        values = saturate(half_to_even(values * run.norm_multiplier, run.norm_shift), 32)
    return values


def written(values: Array, run: Requantize) -> Array:
    """OUT_CVT: multiply, shift, add the offset, saturate."""
    products = values * run.multiplier
    rounded = half_away(products, run.shift) if run.half_away else half_to_even(products, run.shift)
    return saturate(rounded + run.offset, 8)


def evaluate_layer(layer: Convolution, sources: Sequence[Array], addend: Array | None = None) -> Array:
    """A layer's output; ``addend``: the tensor that the element-wise unit adds."""
    sums = accumulators(layer, sources)
    operand = None if layer.addend is None or addend is None else converted(layer.addend, addend)
    output = np.empty_like(sums)
    for run in layer.requantize:
        part = np.s_[..., run.channels.start : run.channels.stop]
        values = scaled(sums[part], run)
        if operand is not None:
            values = saturate(values + operand[part], 32)
        output[part] = written(values, run)
    return output


def combined(operation: str | None, values: Array, operand: Array) -> Array:
    """The element-wise unit, 32 bits (S-107)."""
    results = {
        "add": values + operand,
        "subtract": values - operand,
        "multiply": values * operand,
        "max": np.maximum(values, operand),
        "min": np.minimum(values, operand),
    }
    return saturate(results[operation], 32) if operation else values


def evaluate_elementwise(layer: Elementwise, main: Array, operand: Array) -> Array:
    """The output of a task without convolution and without table; a narrow operand is the same for all pixels."""
    values = saturate(half_to_even((main + layer.main_offset) * layer.main_multiplier, layer.main_shift), 32)
    other = saturate((operand + layer.operand_offset) * layer.operand_multiplier, 32)
    return written(combined(layer.operation, values, other), layer.requantize)


def to_domain(stored: Array) -> Array:
    """A uint8 tensor lies in the NPU's memory less 128 (S-34)."""
    return stored.astype(np.int64) - (128 if stored.dtype == np.uint8 else 0)


def from_domain(values: Array, dtype: str, shape: Sequence[int]) -> Array:
    """The way back."""
    return (values + (128 if dtype == "uint8" else 0)).astype(dtype).reshape(shape)


def evaluate(model: Model, inputs: Sequence[Array], layers: Mapping[int, Sequence[Convolution]]) -> dict[int, Array]:
    """The tensors of a model by index, operators in ``layers`` (by position) as their layers compute them.

    An operator without layers is done by one before it, or its output is its input under another name. What comes
    behind the last operator in ``layers`` is left out.
    """
    values: dict[int, Array] = dict(zip(model.inputs, inputs, strict=True))
    cubes: dict[int, Array] = {}

    def read(tensor: Any) -> Array:
        if tensor.index not in cubes:
            cubes[tensor.index] = to_domain(values[tensor.index])
        return cubes[tensor.index].reshape(tensor.shape)

    for position, node in enumerate(model.operators[: max(layers) + 1]):
        if position not in layers:
            values[node.outputs[0]] = reference.operator(model, node, values)
            continue
        for layer in layers[position]:
            addend = None if layer.addend is None else read(layer.addend.tensor)
            cubes[layer.output.index] = evaluate_layer(layer, [read(tensor) for tensor in layer.inputs], addend)
            if layer.output.index >= 0:
                spec = model.tensors[layer.output.index]
                values[layer.output.index] = from_domain(cubes[layer.output.index], spec.dtype, spec.shape)
        output = node.outputs[0]
        if not layers[position] and output not in values:
            spec = model.tensors[output]
            values[output] = from_domain(to_domain(values[node.inputs[0]]), spec.dtype, spec.shape)
    return values
