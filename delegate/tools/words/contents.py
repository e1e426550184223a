"""Weights and biases: what ours hold by the hardware book's layouts, and upstream's (``captured/upstream.py``)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from delegate.ir import Node, Tensor
from delegate.tools.captured import upstream
from delegate.tools.words.facts import DEPTHWISE_GROUP, KERNEL_GROUP, Facts, domain

CHUNK = 32  # input channels of a step


def weight_of(node: Node) -> tuple[npt.NDArray[np.int8], int]:
    """(weights, their zero point) in the silicon's domain (S-34)."""
    tensor = node.inputs[1]
    assert tensor is not None and tensor.data is not None and tensor.quant is not None
    data = tensor.data
    values = (data ^ np.uint8(0x80)).view(np.int8) if data.dtype == np.uint8 else data
    return values, domain(tensor.quant, tensor.dtype)


def our_weights(node: Node, f: Facts) -> bytes:
    """[K/32][C/32][H][W][32][32], depthwise [C/64][H][W][64] (npu.md §3.4); filled up with the zero point."""
    values, fill = weight_of(node)
    _, height, width, channels = values.shape
    if f.depthwise:
        plane = np.full((height, width, f.input_channels), fill, np.int8)
        plane[:, :, :channels] = values[0]
        groups = range(0, f.input_channels, DEPTHWISE_GROUP)
        return b"".join(plane[:, :, start : start + DEPTHWISE_GROUP].tobytes() for start in groups)
    count = f.output_channels_real
    padded = np.full((f.kernels, height, width, f.input_channels), fill, np.int8)
    if node.op == "CONV_2D":
        padded[:count, :, :, :channels] = values
    else:  # with a depth multiplier kernel k has weights for one input channel only
        kernels = np.arange(count)
        padded[kernels, :, :, kernels * f.input_channels_real // count] = values[0].transpose(2, 0, 1)
    parts = (
        padded[group : group + KERNEL_GROUP, :, :, chunk : chunk + CHUNK].transpose(1, 2, 0, 3)
        for group in range(0, f.kernels, KERNEL_GROUP)
        for chunk in range(0, f.input_channels, CHUNK)
    )
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


def our_bias(node: Node, f: Facts) -> bytes:
    """bias - zi * sum(w - zw) over the kernel (S-25), zeros for the channels that fill the group."""
    values, zero_point = weight_of(node)
    sums = (values.astype(np.int64) - zero_point).sum(axis=(1, 2, 3) if node.op == "CONV_2D" else (0, 1, 2))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    padded = np.zeros(f.output_channels, "<i4")
    padded[: sums.size] = -f.zero_points[0] * sums
    if bias is not None and bias.data is not None:
        padded[: sums.size] += bias.data.reshape(-1)
    return bytes(padded.tobytes())


def upstream_weights(node: Node, size: int) -> bytes:
    """A whole buffer of upstream's; with a depth multiplier it reads as many channels as the input has."""
    if node.params.get("depth_multiplier", 1) != 1:
        node = with_taps(node, input_channels(node))
    return bytes(upstream.pack_weights(node, size).tobytes())


def upstream_bias(node: Node, size: int, truncated: bool) -> bytes:
    """Upstream's bias; with a depth multiplier its taps are as many weights apart as the input has channels."""
    if node.params.get("depth_multiplier", 1) != 1:
        node = with_taps(node, node.outputs[0].shape[3])
    return bytes(upstream.pack_biases(node, size, truncated).tobytes())


def input_channels(node: Node) -> int:
    feature = node.inputs[0]
    assert feature is not None
    return feature.shape[3]


def with_taps(node: Node, channels: int) -> Node:
    """A depthwise node whose tap t has the ``channels`` weights from number t * (input channels) on, multiplier 1."""
    feature, weight, *rest = node.inputs
    assert feature is not None and weight is not None and weight.data is not None
    _, height, width, _ = weight.shape
    starts = np.arange(height * width) * feature.shape[3]
    data = weight.data.reshape(-1)[starts[:, None] + np.arange(channels)].reshape(1, height, width, channels)
    changed: Tensor = replace(weight, shape=data.shape, data=data)
    return replace(node, inputs=(feature, changed, *rest), params={**node.params, "depth_multiplier": 1})
