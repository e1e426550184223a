"""Tensors, nodes and graphs for tests of the compiler, without a model file."""

from __future__ import annotations

from typing import Any

import numpy as np

from delegate.hw.soc import FORMS, RK3588, Target
from delegate.ir import Convolution, Graph, Node, Quant, Tensor, View
from delegate.memory import Views
from delegate.ops import OPERATORS
from delegate.tools.accuracy import silicon

PROVEN = Target(RK3588)  # forms that silicon has shown
EVERY_FORM = Target(RK3588, frozenset(FORMS))
TARGETS = {"proven": PROVEN, "every form": EVERY_FORM}


def quant(scale: float = 0.05, zero_point: int = 0) -> Quant:
    return Quant(np.array([scale], np.float32), np.array([zero_point], np.int32))


def feature(
    index: int, height: int, width: int, channels: int, dtype: str = "int8", scale: float = 0.05, zero_point: int = 0
) -> Tensor:
    return Tensor(index, f"t{index}", (1, height, width, channels), dtype, quant(scale, zero_point))


def convolution(
    index: int,
    source: Tensor,
    channels: int,
    kernel: tuple[int, int] = (1, 1),
    stride: tuple[int, int] = (1, 1),
    padding: str = "SAME",
    depthwise: bool = False,
    activation: str = "NONE",
    scale: float = 0.5,
    zero_point: int = 0,
    seed: int = 0,
    weight_scales: tuple[float, ...] = (0.02,),
) -> tuple[Node, Tensor]:
    """(node, its output); tensor numbers are 10 * index + 1… and weights random, with one scale or one a channel."""
    rng = np.random.default_rng(seed)
    outputs = source.shape[3] if depthwise else channels
    shape = (1, *kernel, outputs) if depthwise else (channels, *kernel, source.shape[3])
    low, high = (0, 256) if source.dtype == "uint8" else (-127, 128)
    weight = rng.integers(low, high, shape).astype(source.dtype)
    extents = [
        -(-size // step) if padding == "SAME" else (size - tap) // step + 1
        for size, tap, step in zip(source.shape[1:3], kernel, stride, strict=True)
    ]
    output = feature(10 * index + 1, *extents, outputs, source.dtype, scale, zero_point)
    params: dict[str, Any] = {"stride": stride, "dilation": (1, 1), "padding": padding, "activation": activation}
    if depthwise:
        params["depth_multiplier"] = 1
    scales = np.array(weight_scales, np.float32)
    zero_points = np.full(scales.size, 121 if source.dtype == "uint8" else 0, np.int32)
    inputs = (
        source,
        Tensor(
            *(10 * index + 2, "w", shape, source.dtype),
            Quant(scales, zero_points, 3 if depthwise else 0),
            weight,
        ),
        Tensor(
            10 * index + 3, "b", (outputs,), "int32", quant(0.001), rng.integers(-500, 500, outputs).astype(np.int32)
        ),
    )
    return Node(index, "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", inputs, (output,), params), output


def addition(
    index: int, a: Tensor, b: Tensor, activation: str = "NONE", scale: float = 0.1, zero_point: int = 0
) -> tuple[Node, Tensor]:
    return binary("ADD", index, a, b, activation, scale, zero_point)


def binary(
    op: str, index: int, a: Tensor, b: Tensor, activation: str = "NONE", scale: float = 0.1, zero_point: int = 0
) -> tuple[Node, Tensor]:
    """(node of two operands, its output)."""
    shape = np.broadcast_shapes(a.shape, b.shape)
    output = Tensor(10 * index + 1, f"t{10 * index + 1}", shape, a.dtype, quant(scale, zero_point))
    return Node(index, op, (a, b), (output,), {"activation": activation}), output


def graph(nodes: list[Node], inputs: list[Tensor], outputs: list[Tensor]) -> Graph:
    tensors = {t.index: t for node in nodes for t in (*node.inputs, *node.outputs) if t is not None}
    return Graph(tensors, tuple(nodes), tuple(t.index for t in inputs), tuple(t.index for t in outputs))


def real_values(tensor: Tensor, stored: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """real = scale * (q - zero point), float64."""
    assert tensor.quant is not None
    return float(tensor.quant.scale[0]) * (stored.astype(np.float64) - int(tensor.quant.zero_point[0]))


def store(tensor: Tensor, real: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Real values as the tensor stores them: rounded and saturated."""
    assert tensor.quant is not None
    info = np.iinfo(tensor.dtype)
    q = np.round(real / float(tensor.quant.scale[0])) + int(tensor.quant.zero_point[0])
    return np.clip(q, info.min, info.max).astype(tensor.dtype)


def evaluate(
    layer: Convolution, images: list[np.ndarray[Any, Any]], addend: np.ndarray[Any, Any] | None = None
) -> np.ndarray[Any, Any]:
    """What the silicon makes of a layer; int8 domain (height, width, channels), inputs, addend and output."""
    tensors = (*layer.inputs, layer.addend.tensor) if layer.addend is not None and addend is not None else layer.inputs
    stored = [*images, addend] if len(tensors) > len(images) else images
    inputs = [
        (tensor, array.astype(np.int64)) for tensor, array in zip(tensors, stored, strict=True) if array is not None
    ]
    memory = silicon.evaluate([layer], Views(), inputs)
    return np.asarray(memory.read(layer.output).reshape(layer.output.shape)[0])


def computed(node: Node, target: Target, images: dict[int, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The output of a node's layers in the int8 domain, (batch, height, width, channels), as the silicon has it.

    ``images``: the computed inputs by tensor number, in the same domain.
    """
    lowered = OPERATORS[node.op].lower(node, target)
    views = Views(layer for layer in lowered if isinstance(layer, View))
    given = [(t, images[t.index].astype(np.int64)) for t in node.inputs if t is not None and t.index in images]
    memory = silicon.evaluate([layer for layer in lowered if not isinstance(layer, View)], views, given)
    output = node.outputs[0]
    return np.asarray(memory.read(output).reshape(output.shape))
