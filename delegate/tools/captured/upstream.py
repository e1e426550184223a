"""What the upstream driver's host side does: weights, biases and tensors as they lie in its buffers.

Found from the hardware book (npu.md §3.1, §3.3, §3.4, §5.1) and proved by the sha256 of every captured buffer. Bytes
are handled as unsigned whatever the tensor's type; 0x80 is taken from each (golden/README.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.hw.task import Bytes
from delegate.ir import Array, Graph, Node, Quant, Tensor
from delegate.tools.capture import Capture, CaptureBuffer, CaptureError

SIGN = np.uint8(0x80)
ATOM = 16  # bytes; channels of a surface
GROUP, DEPTHWISE_GROUP, CHUNK = 32, 64, 32  # kernels, channels, channels (S-44, S-45)
PIXEL_ROW = 16  # pixels: shortest row of a one-channel input (npu.md §3.3)
CONVOLUTIONS = {"CONV": "CONV_2D", "DWCONV": "DEPTHWISE_CONV_2D"}  # names in a capture, in TFLite


def zero_point(tensor: Tensor) -> int:
    """The zero point as the model has it; raises CaptureError for a tensor that is not quantized per tensor."""
    quant: Quant | None = tensor.quant
    if quant is None or quant.per_channel:
        raise CaptureError(f"tensor {tensor.index} is not quantized per tensor")
    return int(quant.zero_point[0])


def constant(node: Node, number: int) -> Array:
    """The values of a constant input; raises CaptureError if there are none."""
    tensor = node.inputs[number] if number < len(node.inputs) else None
    if tensor is None or tensor.data is None:
        raise CaptureError(f"operation {node.index} {node.op}: input {number} is no constant")
    return tensor.data


def is_depthwise(node: Node) -> bool:
    """One channel is no depthwise convolution for the driver."""
    return node.op == "DEPTHWISE_CONV_2D" and constant(node, 1).shape[3] > 1


def pack_weights(node: Node, size: int) -> Bytes:
    """The weights buffer of a convolution, uint8 (size).

    Kernels are filled up to an even number with one of zeros. Channels are filled with the zero point to 16, and to
    the whole chunk only where more than 16 of 32 are taken: so a depthwise group of 33 to 48 channels is not filled,
    and the kernel of zeros, which is never shortened, is too long behind a short chunk.
    """
    values, depthwise = constant(node, 1), is_depthwise(node)
    if node.params.get("depth_multiplier", 1) != 1:
        raise CaptureError(f"operation {node.index}: how weights with a depth multiplier are packed is not known")
    weight = node.inputs[1]
    assert weight is not None
    zero = np.uint8(zero_point(weight) & 0xFF)
    channels, chunk = values.shape[3], DEPTHWISE_GROUP if depthwise else CHUNK
    parts = []
    for first in range(0, values.shape[0], GROUP):
        for channel in range(0, channels, chunk):
            widest = min(chunk, -(-channels // ATOM) * ATOM)
            real = min(chunk, channels - channel)
            filled = widest if channels % 32 > ATOM else max(real, min(ATOM, widest))
            block = np.full((*values[first : first + GROUP].shape[:3], max(real, filled)), zero, np.uint8)
            block[..., :real] = values[first : first + GROUP, :, :, channel : channel + chunk].view(np.uint8)
            taps = (block ^ SIGN).transpose(1, 2, 0, 3).reshape(values.shape[1] * values.shape[2], -1)
            if not depthwise and first + GROUP > values.shape[0] and values.shape[0] % 2:
                taps = np.pad(taps, ((0, 0), (0, widest)))
            parts.append(taps.reshape(-1))
    return _fitted(np.concatenate(parts), size, f"weights of operation {node.index}")


def pack_biases(node: Node, size: int, truncated: bool) -> Bytes:
    """The biases buffer: bias - zi * sum(w - zw) as int32; halved toward zero where CORE shifts by one (§5.2)."""
    source, weight = node.inputs[0], node.inputs[1]
    assert source is not None and weight is not None
    values = constant(node, 1).view(np.uint8).astype(np.int64) - zero_point(weight)
    sums = values.sum(axis=(0, 1, 2) if is_depthwise(node) else (1, 2, 3))
    total = constant(node, 2).astype(np.int64) - (zero_point(source) - 0x80) * sums
    if truncated:
        total = np.sign(total) * (np.abs(total) // 2)
    return _fitted(total.astype("<i4").view(np.uint8), size, f"biases of operation {node.index}")


def _fitted(packed: npt.NDArray[Any], size: int, what: str) -> Bytes:
    if packed.size > size:
        raise CaptureError(f"{what}: {packed.size} bytes, the buffer has {size}")
    buffer = np.zeros(size, np.uint8)
    buffer[: packed.size] = packed
    return buffer


def pack_tensor(values: Array, zero: int, size: int) -> Bytes:
    """A host-filled buffer from a tensor (height, width, channels) of 8 bits: a cube, or rows of one-channel pixels."""
    height, width, channels = values.shape
    pixels, fill = values.view(np.uint8), np.uint8(zero & 0xFF)
    if channels == 1:
        rows = np.full((height, max(width, PIXEL_ROW)), fill, np.uint8)
        rows[:, :width] = pixels[:, :, 0]
        return _fitted(rows.reshape(-1), size, "input")
    surfaces = -(-channels // ATOM)
    full = np.full((height, width, surfaces * ATOM), fill, np.uint8)
    full[:, :, :channels] = pixels
    cube = (full ^ SIGN).reshape(height, width, surfaces, ATOM).transpose(2, 0, 1, 3)
    return _fitted(cube.reshape(-1), size, "input")


def read_atoms(stored: Bytes, pixels: int, channels: int) -> npt.NDArray[np.int8]:
    """The stored numbers of a cube, int8 (pixels, whole atoms of channels); CaptureError if the buffer is too small."""
    surfaces = -(-channels // ATOM)
    need = surfaces * pixels * ATOM
    if need > stored.size:
        raise CaptureError(f"a tensor of {pixels} pixels of {channels} channels in a buffer of {stored.size} bytes")
    return stored[:need].reshape(surfaces, pixels, ATOM).transpose(1, 0, 2).reshape(pixels, -1).view(np.int8)


def unpack_tensor(stored: Bytes, shape: tuple[int, ...], signed: bool) -> Array:
    """A tensor (1, height, width, channels) as the host gives it to TFLite: every byte with 0x80 added."""
    _, height, width, channels = shape
    values = read_atoms(stored, height * width, channels)[:, :channels].view(np.uint8) ^ SIGN
    return values.reshape(shape).view(np.int8 if signed else np.uint8)


def graph_operations(capture: Capture, graph: int, convolutions: bool = False) -> list[Mapping[str, Any]]:
    """The operations of a partition as the capture lists them; only the convolutions, which ``op`` counts."""
    graphs = capture.facts.get("graphs", [])
    try:
        operations = graphs[graph]["operations"]
        return [entry for entry in operations if entry["type"] in CONVOLUTIONS or not convolutions]
    except (IndexError, KeyError, TypeError):
        raise CaptureError(f"{capture.path}: no table of the operations of graph {graph}") from None


def node_of(model: Graph, entry: Mapping[str, Any]) -> Node:
    """The model's node of an entry of the operation table; raises CaptureError if there is none."""
    for node in model.nodes:
        if [tensor.index for tensor in node.outputs] == list(entry.get("outputs", [])):
            return node
    raise CaptureError(f"the model has no operation that gives tensors {entry.get('outputs')}")


def convolution_of(capture: Capture, model: Graph, buffer: CaptureBuffer) -> Node:
    """The convolution that a weights or biases buffer belongs to."""
    operations = graph_operations(capture, int(buffer.facts["graph"]), convolutions=True)
    number = buffer.facts["op"]
    if not isinstance(number, int) or not 0 <= number < len(operations):
        raise CaptureError(f"buffer {buffer.handle} belongs to convolution {number!r} of {len(operations)}")
    return node_of(model, operations[number])


def coefficients(capture: Capture, model: Graph) -> Iterator[tuple[int, Bytes]]:
    """Weights and biases that the capture has not got whole, packed from the model and proved by their sha256."""
    for buffer in capture.buffers:
        if buffer.role not in ("weights", "biases") or has_contents(capture, buffer):
            continue
        node = convolution_of(capture, model, buffer)
        digest = buffer.facts.get("sha256")
        packings = (
            [pack_weights(node, buffer.size)]
            if buffer.role == "weights"
            else [pack_biases(node, buffer.size, truncated) for truncated in (False, True)]
        )
        fitting = [packed for packed in packings if hashlib.sha256(packed.tobytes()).hexdigest() == digest]
        if not fitting:
            raise CaptureError(
                f"{capture.path}: {buffer.role} of operation {node.index} packed from the model are not the recorded "
                f"ones of sha256 {str(digest)[:12]}"
            )
        yield buffer.handle, fitting[0]


def has_contents(capture: Capture, buffer: CaptureBuffer) -> bool:
    """Whether the capture stores the buffer whole."""
    stored = buffer.facts.get("stored") == "whole"
    return stored and any(buffer.handle in submit.contents for submit in capture.submits)
