"""A described network as a quantized model, the way a post-training quantizer does it: ranges from minimum to maximum.

int8: weights symmetric with a scale a channel (products: one scale), as TensorFlow 2 writes them. uint8: weights with
one scale and a zero point, as those of quantization-aware training in TensorFlow 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tflite_writer import FIXED_SCALES, Array, Builder, Model, Quantization

from families.network import Network, Step

UNARY = ("HARD_SWISH", "LOGISTIC", "RELU", "RELU6")
KEEP_QUANTIZATION = (
    "AVERAGE_POOL_2D",
    "MAX_POOL_2D",
    "PAD",
    "RESHAPE",
    "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR",
    "SPLIT",
)  # TFLite asks for one scale and zero point of inputs and outputs; of CONCATENATION only in int8
BIAS_LIMIT = 2**30


def quantization_of(arrays: Sequence[Array], dtype: str) -> Quantization:
    """Scale and zero point of an asymmetric range that has a zero."""
    low = min(0.0, *(float(array.min()) for array in arrays))
    high = max(0.0, *(float(array.max()) for array in arrays))
    info = np.iinfo(dtype)
    scale = float(np.float32(max(high - low, 1e-6) / 255))
    return scale, int(np.clip(round(info.min - low / scale), info.min, info.max))


def groups_of(network: Network, dtype: str) -> list[int]:
    """For each tensor the first of those that have to share its quantization."""
    group = list(range(len(network.arrays)))
    for step in network.steps:
        if step.op in KEEP_QUANTIZATION or (step.op == "CONCATENATION" and dtype == "int8"):
            members = {group[tensor] for tensor in (*step.inputs, *step.outputs)}
            group = [min(members) if number in members else number for number in group]
    return group


def quantizations_of(network: Network, dtype: str) -> list[Quantization]:
    """One a tensor."""
    group = groups_of(network, dtype)
    shift = 128 if dtype == "uint8" else 0
    fixed: dict[int, Quantization] = {}
    for step in network.steps:
        if step.op in FIXED_SCALES:
            scale, point = FIXED_SCALES[step.op]
            fixed[group[step.outputs[0]]] = (scale, point + shift)
    result = []
    for number in group:
        members = [array for array, other in zip(network.arrays, group, strict=True) if other == number]
        result.append(fixed[number] if number in fixed else quantization_of(members, dtype))
    return result


def stored(array: Array, quantization: Quantization, dtype: str) -> Array:
    """Numbers as a type of 8 bits has them."""
    info = np.iinfo(dtype)
    return np.clip(np.round(array / quantization[0]) + quantization[1], info.min, info.max).astype(dtype)


class Quantizer:
    """Writes the steps of a network one after the other."""

    def __init__(self, network: Network, dtype: str) -> None:
        self.network, self.dtype = network, dtype
        self.builder = Builder()
        self.quantizations = quantizations_of(network, dtype)
        self.tensors: dict[int, int] = {}  # of the network: of the model
        shape = (network.batch, *network.shape(network.input))
        self.tensors[network.input] = self.builder.tensor(shape, dtype, *self.quantizations[network.input])
        for tensor in network.constants:
            quantization = self.quantizations[tensor]
            data = stored(network.arrays[tensor], quantization, dtype)
            self.tensors[tensor] = self.builder.constant(data, *quantization)

    def weights(self, step: Step) -> dict[str, Any]:
        """The arguments of the builder's methods for a step with weights."""
        assert step.weight is not None and step.bias is not None
        axis = 3 if step.op == "DEPTHWISE_CONV_2D" else 0
        others = tuple(i for i in range(step.weight.ndim) if i != axis)
        if self.dtype == "uint8":
            scale, point = quantization_of([step.weight], "uint8")
            scales = np.full(step.weight.shape[axis], scale)
            weight, given = stored(step.weight, (scale, point), "uint8"), scale
        else:
            per_channel = step.op != "FULLY_CONNECTED"
            largest = np.abs(step.weight).max(axis=others if per_channel else None)
            scales = np.broadcast_to(np.float32(np.maximum(largest, 1e-6) / 127), step.bias.shape)
            shape = [-1 if i == axis else 1 for i in range(step.weight.ndim)]
            weight, point = np.round(step.weight / scales.reshape(shape)).astype(np.int8), 0
            given = scales.tolist() if per_channel else float(scales[0])
        bias = np.round(step.bias / (self.quantizations[step.inputs[0]][0] * scales))
        return {
            "weight": weight,
            "weight_scale": given,
            "weight_zero_point": point,
            "bias": np.clip(bias, -BIAS_LIMIT, BIAS_LIMIT).astype(np.int32),
        }

    def product(self, step: Step, source: int, output: Quantization) -> int:
        """Convolutions and matrix products."""
        arguments = self.weights(step) | dict(step.options)
        if step.op == "FULLY_CONNECTED":
            return self.builder.fully_connected(source, output=output, **arguments)
        if step.op == "TRANSPOSE_CONV":
            return self.builder.transpose_conv(source, output=output, **arguments)
        depthwise = step.op == "DEPTHWISE_CONV_2D"
        return self.builder.convolution(source, output=output, depthwise=depthwise, **arguments)

    def reshaped(self, step: Step, source: int, output: Quantization) -> int:
        """What only moves numbers, or picks some."""
        builder, options, shape = self.builder, step.options, self.network.shape(step.outputs[0])
        if step.op == "RESHAPE":
            return builder.reshape(source, (self.network.batch, *shape))
        if step.op == "PAD":
            return builder.pad(source, options["edges"])
        if step.op == "CONCATENATION":
            return builder.concatenation([self.tensors[i] for i in step.inputs], output, options["axis"])
        if step.op == "ARG_MAX":
            return builder.arg_max(source, len(shape) + 1)
        return builder.resize(source, step.op, options["size"], align_corners=step.op == "RESIZE_BILINEAR")

    def write(self, step: Step) -> None:
        """Adds one operator."""
        builder, source, output = self.builder, self.tensors[step.inputs[0]], self.quantizations[step.outputs[0]]
        if step.op == "QUANTIZE" and output == self.quantizations[step.inputs[0]]:
            target = source  # converters leave out what changes nothing
        elif step.weight is not None:
            target = self.product(step, source, output)
        elif step.op == "SPLIT":
            parts = builder.split(source, len(step.outputs))
            self.tensors.update(zip(step.outputs, parts, strict=True))
            return
        elif step.op in ("ADD", "MUL"):
            target = builder.binary(step.op, source, self.tensors[step.inputs[1]], output, step.options["activation"])
        elif step.op == "MEAN":
            target = builder.mean(source, output, step.options["keep"])
        elif step.op in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
            target = builder.pool(source, step.op, **step.options)
        elif step.op == "QUANTIZE":
            target = builder.quantize(source, self.dtype, output)
        elif step.op == "SOFTMAX":
            target = builder.softmax(source)
        elif step.op in UNARY:
            target = builder.unary(step.op, source, output)
        else:
            target = self.reshaped(step, source, output)
        self.tensors[step.outputs[0]] = target


def quantize(network: Network, outputs: Sequence[int], dtype: str) -> Model:
    """The model; ``outputs`` are tensors of the network."""
    quantizer = Quantizer(network, dtype)
    for step in network.steps:
        quantizer.write(step)
    return quantizer.builder.finish(
        [quantizer.tensors[network.input]], [quantizer.tensors[output] for output in outputs]
    )
