"""Allocation: what lives together never overlaps, cubes hold what is written, operands lie surfaces apart."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from layers import EVERY_FORM, TARGETS, addition, convolution, feature, graph

from delegate.compile import lower, separate
from delegate.hw.soc import RK3588
from delegate.ir import Convolution, Graph, Node, Tensor
from delegate.memory import allocate


def random_graph(height: int, width: int, channels: int, choices: list[tuple[int, int, int]]) -> Graph:
    """Convolutions and additions over tensors of one shape, chosen by numbers."""
    source = feature(0, height, width, channels)
    tensors, nodes = [source], []
    for index, (kind, first, second) in enumerate(choices, start=1):
        a, b = tensors[first % len(tensors)], tensors[second % len(tensors)]
        node: Node
        output: Tensor
        if kind == 0:
            node, output = addition(index, a, b)
        else:
            node, output = convolution(index, a, channels, (3, 3), depthwise=kind == 1)
        nodes.append(node)
        tensors.append(output)
    return graph(nodes, [source], [tensors[-1]])


graphs = st.builds(
    random_graph,
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 130),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9),
)


@settings(deadline=None, max_examples=80)
@given(graphs, st.sampled_from(list(TARGETS)))
def test_living_tensors_do_not_overlap(model: Graph, forms: str) -> None:
    lowered, views = lower(model, TARGETS[forms])
    layers = separate(lowered, views, first_free=1000, soc=RK3588)
    allocation = allocate(model, layers, views, RK3588, 2)
    birth: dict[int, int] = dict.fromkeys(model.inputs, -1)
    death: dict[int, int] = dict.fromkeys(model.inputs, -1)
    for time, layer in enumerate(layers):
        birth[layer.output.index] = time
        death[layer.output.index] = time
        for tensor in layer.reads:
            death[tensor.index] = max(death[tensor.index], time)
    for index in model.outputs:
        death[index] = len(layers)
    for a, b in itertools.combinations(birth, 2):
        if birth[a] <= death[b] and birth[b] <= death[a]:
            first, second = allocation.cubes[a], allocation.cubes[b]
            if first.place.buffer == second.place.buffer:
                ends = [cube.place.offset + cube.surfaces * cube.surface_bytes for cube in (first, second)]
                assert ends[0] <= second.place.offset or ends[1] <= first.place.offset
    for layer in layers:
        assert isinstance(layer, Convolution)
        output = allocation.cubes[layer.output.index]
        group = 64 if layer.depthwise else 32
        assert output.surfaces * 16 >= -(-layer.output.shape[3] // group) * group  # the DPU writes whole groups
        for tensor in layer.inputs[1:]:
            apart = allocation.cubes[tensor.index].place.offset - allocation.cubes[layer.inputs[0].index].place.offset
            assert apart % output.surface_bytes == 0
    for cube in allocation.cubes.values():
        assert cube.place.offset + cube.surfaces * cube.surface_bytes <= allocation.buffers[cube.place.buffer - 2].size


def test_a_chain_shares_memory() -> None:
    """Of six tensors in a row only two live at a time."""
    source = feature(0, 8, 8, 32)
    nodes, tensor = [], source
    for index in range(1, 8):
        node, tensor = convolution(index, tensor, 32)
        nodes.append(node)
    model = graph(nodes, [source], [tensor])
    scratch = allocate(model, *lower(model, EVERY_FORM), RK3588, 2).buffers[-1]
    assert scratch.role == "scratch"
    assert scratch.size == 2 * 8 * 8 * 32
