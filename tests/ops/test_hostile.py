"""Nodes that no converter writes: an operator's rules refuse them, or they compile; nothing else is ever raised."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import every_operator
import numpy as np
import pytest
from layers import TARGETS
from tflite_writer import write

from delegate.compile import compile_graph
from delegate.errors import CompileError
from delegate.hw.soc import Target
from delegate.ir import Graph, Node, Quant, Tensor
from delegate.ops import OPERATORS
from delegate.partition import refusals
from delegate.tflite import read_graph

ROUNDS = 60  # corruptions of every node
Random = np.random.Generator


def pick(rng: Random, choices: list[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]


def other_shape(tensor: Tensor, rng: Random) -> Tensor:
    shape = list(tensor.shape)
    place = int(rng.integers(len(shape) + 1))
    if place == len(shape) or rng.random() < 0.2:
        return replace(tensor, shape=tuple(pick(rng, [shape[1:], [*shape, 2], [], [1, *shape], [5]])))
    shape[place] = pick(rng, [0, -1, 1, 3, shape[place] + 1, 2049, 1 << 16, 1 << 31])
    return replace(tensor, shape=tuple(shape))


def other_quant(tensor: Tensor, rng: Random) -> Tensor:
    scales = [0.0, -1.0, float("nan"), float("inf"), 1e-30, 1e30, 1e-9, 4.0, 0.051]
    points = [-129, 256, 1 << 30, -(1 << 31), 0, 255, -128]
    scale, point = np.float32(pick(rng, scales)), np.int32(pick(rng, points))
    old = tensor.quant or Quant(np.ones(1, np.float32), np.zeros(1, np.int32))
    changed = [
        None,
        Quant(old.scale * 0 + scale, old.zero_point),
        Quant(old.scale, old.zero_point * 0 + point),
        Quant(np.full(3, 0.1, np.float32), np.zeros(3, np.int32), 3),
        Quant(np.zeros(0, np.float32), np.zeros(0, np.int32)),
        Quant(old.scale, np.zeros(0, np.int32)),
        replace(old, axis=7),
    ]
    return replace(tensor, quant=pick(rng, changed))


def other_type(tensor: Tensor, rng: Random) -> Tensor:
    return replace(tensor, dtype=pick(rng, ["float32", "int32", "int8", "uint8", "int16", "int64", "bool", "string"]))


def other_data(tensor: Tensor, rng: Random) -> Tensor:
    if tensor.data is None:
        return replace(tensor, data=np.zeros([max(min(n, 9), 0) for n in tensor.shape], tensor.dtype))
    flat = tensor.data.reshape(-1)
    changed = [None, flat[:0], flat[:-1], flat, tensor.data.astype(np.float64), tensor.data * 0 + 99, -tensor.data]
    return replace(tensor, data=pick(rng, changed))


def other_inputs(node: Node, rng: Random) -> Node:
    inputs = list(node.inputs)
    place = int(rng.integers(len(inputs)))
    changed = [
        [],
        inputs[:place],
        inputs[::-1],
        [*inputs, inputs[place]],
        [None if i == place else tensor for i, tensor in enumerate(inputs)],
        [inputs[place]] * len(inputs),
    ]
    return replace(node, inputs=tuple(pick(rng, changed)))


def other_outputs(node: Node, rng: Random) -> Node:
    return replace(node, outputs=pick(rng, [(), node.outputs * 2, node.outputs[:1]]))


def other_parameter(node: Node, rng: Random) -> Node:
    if not node.params:
        return node
    name = pick(rng, sorted(node.params))
    old = node.params[name]
    number = pick(rng, [0, -1, 1, 2, 33, 255, (1 << 31) - 1, -(1 << 31)])
    if isinstance(old, str):
        changed = pick(rng, ["padding 0", "activation 9", "TANH", "RELU_N1_TO_1", "RELU6", "SAME", "VALID"])
    elif isinstance(old, tuple):
        changed = tuple(number if i == 0 or rng.random() < 0.5 else n for i, n in enumerate(old))
    else:
        changed = type(old)(number)
    return replace(node, params={**node.params, name: changed})


def other_tensor(node: Node, rng: Random) -> Node:
    change: Callable[[Tensor, Random], Tensor] = pick(rng, [other_shape, other_quant, other_type, other_data])
    inputs, outputs = list(node.inputs), list(node.outputs)
    place = int(rng.integers(len(inputs) + len(outputs))) if inputs or outputs else 0
    if place < len(inputs):
        tensor = inputs[place]
        inputs[place] = None if tensor is None else change(tensor, rng)
    elif outputs:
        outputs[place - len(inputs)] = change(outputs[place - len(inputs)], rng)
    return replace(node, inputs=tuple(inputs), outputs=tuple(outputs))


def corrupted(node: Node, rng: Random) -> Node:
    for _ in range(int(rng.integers(1, 3))):
        changes = [other_tensor, other_tensor, other_tensor, other_parameter, other_parameter]
        change: Callable[[Node, Random], Node] = pick(
            rng, [*changes, *([other_inputs] if node.inputs else []), other_outputs]
        )
        node = change(node, rng)
    return node


def alone(node: Node) -> Graph:
    """The node as a graph."""
    tensors = {tensor.index: tensor for tensor in (*node.inputs, *node.outputs) if tensor is not None}
    read = [t.index for t in node.inputs if t is not None and t.data is None]
    return Graph(tensors, (node,), tuple(dict.fromkeys(read)), tuple(tensor.index for tensor in node.outputs))


def refused_or_compiled(node: Node, target: Target) -> bool:
    """Whether a node is refused; it compiles otherwise, or CompileError says why not."""
    graph = alone(node)
    if refusals(node, graph, target):
        return True
    with contextlib.suppress(CompileError):
        compile_graph(graph, target)
    return False


NAMES = [name for name in every_operator.CASES if name.split()[0] in OPERATORS]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_refusals(name: str, dtype: str) -> None:
    rng = np.random.default_rng(sum(f"{name} {dtype}".encode()))
    graph = read_graph(write(every_operator.build(name, dtype)))
    targets = [*TARGETS.values(), replace(TARGETS["every form"], signals_pooling=True)]
    refused = 0
    for node in graph.nodes:
        for _ in range(ROUNDS if node.op in OPERATORS else 0):
            broken = corrupted(node, rng)
            try:
                refused += refused_or_compiled(broken, pick(rng, targets))
            except Exception as error:
                error.add_note(f"{broken}")
                raise
    assert refused > ROUNDS / 4


@pytest.mark.parametrize("name", ["RELU", "LOGISTIC", "PRELU", "QUANTIZE", "ADD", "MUL", "MAXIMUM"])
def test_no_tensor_is_larger_than_the_addresses_allow(name: str) -> None:
    """Every extent by itself is within the chip's."""
    model = read_graph(write(every_operator.build(name, "int8")))
    node = model.nodes[0]
    shape = (2, 2047, 2047, 256)
    computed = [tensor for tensor in (*node.inputs, *node.outputs) if tensor is not None and tensor.data is None]
    large = {tensor.index: replace(tensor, shape=shape) for tensor in computed}
    inputs = tuple(t and large.get(t.index, t) for t in node.inputs)
    outputs = tuple(large[t.index] for t in node.outputs)
    if name == "PRELU":
        alpha = inputs[1]
        assert alpha is not None
        inputs = (inputs[0], replace(alpha, shape=(1, 1, 256), data=np.ones((1, 1, 256), np.int8)))
    found = refusals(replace(node, inputs=inputs, outputs=outputs), model, TARGETS["every form"])
    assert "1 GiB" in " ".join(found)
