"""What movements cost once what is around them is known: pieces written where they belong, paddings done by readers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from layers import PROVEN, convolution, feature, graph

from delegate.compile import lower
from delegate.ir import AnyLayer, Convolution, Graph, Node, Tensor
from delegate.memory import Views
from delegate.place import place

SCALE = 0.5


def placed(nodes: list[Node], inputs: list[Tensor], outputs: list[Tensor]) -> tuple[list[AnyLayer], Views]:
    model: Graph = graph(nodes, inputs, outputs)
    return place(*lower(model, PROVEN), model, PROVEN.soc)


def concatenation(index: int, pieces: list[Tensor], axis: int = 3) -> tuple[Node, Tensor]:
    shape = list(pieces[0].shape)
    shape[axis] = sum(piece.shape[axis] for piece in pieces)
    output = replace(pieces[0], index=10 * index + 1, shape=tuple(shape))
    return Node(index, "CONCATENATION", tuple(pieces), (output,), {"axis": axis, "activation": "NONE"}), output


def branches(source: Tensor, *channels: int, depthwise: tuple[int, ...] = ()) -> tuple[list[Node], list[Tensor]]:
    """A convolution for each number of channels, a depthwise one behind those at the places ``depthwise``."""
    nodes, outputs = [], []
    for place_, count in enumerate(channels):
        node, output = convolution(2 * place_ + 1, source, count, scale=SCALE)
        nodes.append(node)
        if place_ in depthwise:
            node, output = convolution(2 * place_ + 2, output, count, (3, 3), depthwise=True, scale=SCALE)
            nodes.append(node)
        outputs.append(output)
    return nodes, outputs


def copies(layers: list[AnyLayer]) -> int:
    return sum(layer.operator == "CONCATENATION" for layer in layers)


def starts(views: Views, tensors: list[Tensor], whole: Tensor) -> list[int | None]:
    """The channel of ``whole`` at which each tensor lies, None for one that lies elsewhere."""
    roots = [views.root(tensor) for tensor in tensors]
    return [root.channel if root.tensor.index == whole.index else None for root in roots]


@pytest.mark.parametrize(
    ("channels", "depthwise", "expected"),
    [
        ((32, 64, 20), (), [0, 32, 96]),
        ((32, 64, 20), (1,), [0, None, 96]),  # a depthwise group begins at a multiple of 64
        ((64, 64, 20), (1, 2), [0, 64, 128]),
        ((32, 32), (0,), [0, None]),  # a depthwise group writes over the next piece, which a copy writes again
        ((16, 16), (), [0, None]),  # nobody has shown that places between kernel groups are good
        ((48, 16, 32), (), [0, None, None]),  # the second copy writes over what would have been there already
        ((20, 12, 32), (), [None, None, 32]),  # two pieces in one group are joined by a layer
    ],
)
def test_pieces_of_whole_groups_are_written_in_place(
    channels: tuple[int, ...], depthwise: tuple[int, ...], expected: list[int | None]
) -> None:
    source = feature(0, 6, 5, 16)
    nodes, pieces = branches(source, *channels, depthwise=depthwise)
    node, whole = concatenation(50, pieces)
    layers, views = placed([*nodes, node], [source], [whole])
    assert starts(views, pieces, whole) == expected
    joined = any(len(layer.inputs) > 1 for layer in layers if isinstance(layer, Convolution))
    assert copies(layers) == expected.count(None) - joined


def test_nested_concatenations_are_one_tensor() -> None:
    source = feature(0, 6, 5, 16)
    nodes, pieces = branches(source, 32, 32, 64)
    inner_node, inner = concatenation(50, pieces[:2])
    outer_node, outer = concatenation(51, [inner, pieces[2]])
    layers, views = placed([*nodes, inner_node, outer_node], [source], [outer])
    assert copies(layers) == 0
    assert starts(views, [*pieces, inner], outer) == [0, 32, 64, 0]


def test_inputs_and_repeated_pieces_are_copied() -> None:
    source = feature(0, 6, 5, 32, scale=SCALE)
    nodes, pieces = branches(source, 32)
    node, whole = concatenation(50, [source, pieces[0], pieces[0]])
    layers, views = placed([*nodes, node], [source], [whole])
    assert copies(layers) == 2
    assert starts(views, [source, pieces[0]], whole) == [None, 32]


def test_a_piece_that_is_an_output_lies_in_the_whole() -> None:
    source = feature(0, 6, 5, 16)
    nodes, pieces = branches(source, 32, 32)
    node, whole = concatenation(50, pieces)
    layers, views = placed([*nodes, node], [source], [whole, pieces[1]])
    assert (copies(layers), starts(views, pieces, whole)) == (0, [0, 32])


def test_what_is_read_as_one_with_another_stays_alone() -> None:
    source = feature(0, 6, 5, 16)
    nodes, pieces = branches(source, 32, 32, 32)
    node, whole = concatenation(50, pieces[:2])
    total = replace(pieces[1], index=601)
    add = Node(60, "ADD", (pieces[1], pieces[2]), (total,), {"activation": "NONE"})
    layers, views = placed([*nodes, node, add], [source], [whole, total])
    assert starts(views, pieces[:2], whole) == [0, None]
    assert copies(layers) == 1


@pytest.mark.parametrize(("rows", "expected"), [((5, 4, 6), [0, 25, 45]), ((5, 3, 6), [0, None, 40])])
def test_rows_are_written_in_place_where_no_low_surface_is_filled_up(
    rows: tuple[int, ...], expected: list[int | None]
) -> None:
    sources = [feature(i, height, 5, 16) for i, height in enumerate(rows)]
    made = [convolution(i + 1, source, 20, scale=SCALE) for i, source in enumerate(sources)]
    pieces = [output for _, output in made]
    node, whole = concatenation(50, pieces, axis=1)
    layers, views = placed([*(node for node, _ in made), node], sources, [whole])
    roots = [views.root(piece) for piece in pieces]
    assert [root.pixel if root.tensor.index == whole.index else None for root in roots] == expected
    assert copies(layers) == expected.count(None)


def padding(index: int, source: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> tuple[Node, Tensor]:
    images, height, width, channels = source.shape
    shape = (images, height + sum(rows), width + sum(columns), channels)
    output = replace(source, index=10 * index + 1, shape=shape)
    sides = np.array([(0, 0), rows, columns, (0, 0)], np.int32)
    numbers = Tensor(10 * index + 2, "paddings", (4, 2), "int32", None, sides)
    return Node(index, "PAD", (source, numbers), (output,), {}), output


@pytest.mark.parametrize(
    ("rows", "columns", "kernel", "stride", "folded"),
    [
        ((3, 3), (3, 3), (7, 7), (2, 2), True),
        ((0, 1), (0, 1), (3, 3), (2, 2), True),
        ((1, 0), (0, 0), (3, 2), (1, 1), True),
        ((3, 0), (0, 0), (3, 3), (1, 1), False),  # the first window would see padding only
        ((0, 3), (0, 0), (3, 3), (1, 1), False),  # the last one
        ((0, 3), (0, 0), (3, 3), (6, 1), True),  # no window lies there
    ],
)
@pytest.mark.parametrize("depthwise", [False, True])
def test_a_padding_is_done_by_the_convolution_behind_it(
    rows: tuple[int, int],
    columns: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    folded: bool,
    depthwise: bool,
) -> None:
    source = feature(0, 14, 12, 8, zero_point=-5)
    pad, padded = padding(1, source, rows, columns)
    node, output = convolution(2, padded, 8, kernel, stride, "VALID", depthwise)
    layers, _ = placed([pad, node], [source], [output])
    assert [layer.operator for layer in layers] == [*["PAD"] * (not folded), node.op]
    last = layers[-1]
    assert isinstance(last, Convolution)
    assert last.padding == ((*rows, *columns) if folded else (0, 0, 0, 0))


def test_a_padding_that_others_need_stays() -> None:
    source = feature(0, 14, 12, 8, zero_point=-5)
    pad, padded = padding(1, source, (1, 1), (1, 1))
    node, output = convolution(2, padded, 8, (3, 3), padding="VALID")
    layers, _ = placed([pad, node], [source], [output, padded])
    assert [layer.operator for layer in layers] == ["PAD", "CONV_2D"]
    assert layers[1].reads == (source,)
