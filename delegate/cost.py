"""What a node costs on the NPU and on the CPU: an estimate in seconds, for partitioning by cost (decision 0008).

The form of the NPU's side is timing.md §4, without overlap of transfers and products. Figures without a source of an
RK3588 are marked as assumed. Nothing here decides what a program looks like.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from delegate.hw.layout import align, divide_up
from delegate.hw.soc import Soc, Target
from delegate.ir import AnyLayer, Convolution, Elementwise, Graph, Node, Tensor, View
from delegate.ops import OPERATORS

CLOCK = 600e6  # Hz, as tuned boards have it (silicon-figures §10.1); it boots at 200e6
PORT_BYTES = 16  # moved in a cycle (timing.md §1)
PASS_SECONDS = 50e-6  # from one task's end to the next one's start, by the mainline kernel's interrupt (timing.md §2)
TASK_SECONDS = 1e-6  # from one task's end to the next one's start in a chain (timing.md §2)
JOB_SECONDS = 69e-6  # an empty job from submit to end, 52 µs, and the attachment of its addresses, 17 µs (timing.md §4)
COPY_BYTES = 13.4e9  # a second, by one core of the CPU (silicon-figures §9); also the packing of a cube (assumed)
# Products a second of one Cortex-A76 at 2.4 GHz, int8: half of two dot products of 16 a cycle (assumed).
CPU_PRODUCTS = 0.5 * 2 * 16 * 2.4e9
# Depthwise kernels have no use for dot products; a core without them does 8 to 11e9 a second in whole networks
# (silicon-figures §7: the CPU of RK3576, 72 ms for MobileNetV1's 0.57e9).
CPU_DEPTHWISE_PRODUCTS = 8e9

# Place of the weights among the inputs, and of their output channels among the dimensions.
WEIGHTS = {"CONV_2D": (1, 0), "DEPTHWISE_CONV_2D": (1, 3), "FULLY_CONNECTED": (1, 0), "TRANSPOSE_CONV": (1, 0)}


def size(shape: Iterable[int]) -> int:
    """Elements of a shape; 0 where an extent is not known."""
    extents = tuple(shape)
    return 0 if min(extents, default=1) < 1 else math.prod(extents)


def macs(node: Node) -> int:
    """Products that the operator's definition asks for; 0 for one without weights, or whose shapes make no sense."""
    place, axis = WEIGHTS.get(node.op, (0, 0))
    weight = node.inputs[place] if place and len(node.inputs) > place else None
    if weight is None or len(weight.shape) <= axis or min(weight.shape) < 1 or not node.outputs:
        return 0
    transposed = node.inputs[2] if node.op == "TRANSPOSE_CONV" and len(node.inputs) > 2 else None
    if transposed is not None:  # every pixel that is read meets every weight of its channel
        return size(transposed.shape[:-1]) * math.prod(weight.shape)
    return size(node.outputs[0].shape) * (math.prod(weight.shape) // weight.shape[axis])


def cube_bytes(tensor: Tensor, soc: Soc) -> int:
    """Bytes of a tensor in the NPU's layout: whole atoms."""
    return math.prod(tensor.shape[:-1]) * align(tensor.shape[-1] if tensor.shape else 1, soc.atom_bytes)


def features(node: Node) -> Iterable[Tensor]:
    """The tensors that a node reads or writes and nobody knows beforehand."""
    return (tensor for tensor in (*node.inputs, *node.outputs) if tensor is not None and tensor.data is None)


def product_cycles(layer: Convolution, soc: Soc) -> int:
    """Cycles of the MAC array: whole groups of kernels, whole chunks of channels (timing.md §4)."""
    kernels, height, width, channels = layer.weight.shape
    pixels = sum(step.target.rows * step.target.width for step in layer.steps)
    if layer.depthwise:
        return divide_up(channels, soc.depthwise_group) * height * width * pixels
    return divide_up(kernels, soc.kernel_group) * divide_up(channels, soc.channel_chunk) * height * width * pixels


def tasks(layer: AnyLayer) -> int:
    """Tasks of a layer that nothing cuts but its moves, or else its images."""
    return len(layer.steps) if isinstance(layer, Convolution) else layer.output.shape[0]


def transfer_bytes(layer: AnyLayer, soc: Soc) -> int:
    """What a layer reads and writes of tensors, parts of which its moves name, and its coefficients."""
    if not isinstance(layer, Convolution):
        constant = layer.operand if isinstance(layer, Elementwise) and layer.operand not in layer.reads else None
        tensors = (*layer.reads, layer.output, *([constant] if constant else []))
        return sum(cube_bytes(tensor, soc) for tensor in tensors)
    read, written = (align(channels, soc.atom_bytes) for channels in (layer.weight.shape[3], layer.bias.size))
    moved = layer.weight.nbytes + (cube_bytes(layer.addend.tensor, soc) if layer.addend else 0)
    for step in layer.steps:
        moved += step.source.rows * step.source.width * read + step.target.rows * step.target.width * written
    return moved


def computes(node: Node, target: Target) -> bool:
    """Whether an accepted node has any work on the NPU; else its tensors only lie in each other's memory."""
    return any(not isinstance(layer, View) for layer in OPERATORS[node.op].lower(node, target))


def npu_seconds(node: Node, target: Target) -> float:
    """An accepted node inside a partition: every layer has its interrupt, every move of one a task in its chain."""
    layers = [layer for layer in OPERATORS[node.op].lower(node, target) if not isinstance(layer, View)]
    if not layers:
        return 0.0
    convolutions = [layer for layer in layers if isinstance(layer, Convolution)]
    moved = sum(transfer_bytes(layer, target.soc) for layer in layers)
    cycles = sum(product_cycles(layer, target.soc) for layer in convolutions) + moved / PORT_BYTES
    chained = sum(map(tasks, layers)) - len(layers)
    return cycles / CLOCK + PASS_SECONDS * len(layers) + TASK_SECONDS * chained


def border_seconds(part: Graph, target: Target) -> float:
    """What a partition costs beside its nodes: a job, and the packing and unpacking of what crosses its border."""
    crossing = (part.tensors[index] for index in (*part.inputs, *part.outputs))
    return JOB_SECONDS + sum(packing_seconds(tensor, target.soc) for tensor in crossing)


def packing_seconds(tensor: Tensor, soc: Soc) -> float:
    """From TFLite's layout to the NPU's, or back."""
    return cube_bytes(tensor, soc) / COPY_BYTES


def cpu_seconds(node: Node) -> float:
    """A node on one core with XNNPACK: its products, and its tensors moved once."""
    rate = CPU_DEPTHWISE_PRODUCTS if node.op == "DEPTHWISE_CONV_2D" else CPU_PRODUCTS
    moved = sum(math.prod(tensor.shape) for tensor in (*node.inputs, *node.outputs) if tensor is not None)
    return macs(node) / rate + moved / COPY_BYTES
