"""delegate/partition.py and cost.py: which partitions are taken, by cost and by the options of other delegates."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generate import random_graph
from layers import EVERY_FORM, PROVEN, convolution, feature, graph, quant
from tflite_writer import Array, Builder, Model, write

from benchmarks.harness import infer, random_inputs
from delegate import cost
from delegate.builtin_operators import NAMES
from delegate.ir import Convolution, Graph, Node, Tensor
from delegate.ops import OPERATORS, Operator, Rule
from delegate.partition import (
    NODE_MARGIN,
    ONLY_NAMES,
    QUANTIZE,
    UNSUPPORTED,
    Selection,
    examine,
    partitions,
    refusal,
    taken,
    verdicts,
)
from delegate.tflite import read_model

Interpreters = Callable[..., Any]
COST = Selection(by_cost=True)
REFUSED = "AVERAGE_POOL_2D"  # taken away from the operators where a test needs one that stays on the CPU


def chain(sizes: Sequence[int]) -> Model:
    """So many convolutions, a pool, so many convolutions, a pool…: a partition of each size, in this order."""
    builder = Builder()
    source = current = builder.tensor((1, 8, 8, 4), "int8", 0.5, 3)
    for number, size in enumerate(sizes):
        if number:
            current = builder.pool(current, REFUSED, (1, 1))
        for _ in range(size):
            weight, bias = np.ones((4, 1, 1, 4), np.int8), np.zeros(4, np.int32)
            current = builder.convolution(current, weight, 0.1, (0.5, 3), bias=bias)
    return builder.finish([source], [current])


def model_graph(model: Model, folder: Path) -> Graph:
    (folder / "model.tflite").write_bytes(write(model))
    return read_model(folder / "model.tflite")


def sizes(parts: Sequence[Graph]) -> list[int]:
    return [len(part.nodes) for part in parts]


# (nodes of each partition, max_delegated_partitions, min_nodes_per_partition, nodes of those that are taken). The first
# rows are a model of GraphPartitionHelper.GetFirstNLargestPartitions: the largest first, and none below the minimum.
LIMITS = [
    ((1, 4, 3, 2), 1, 0, [4]),
    ((1, 4, 3, 2), 1, 5, []),
    ((1, 4, 3, 2), 10, 3, [4, 3]),
    ((1, 4, 3, 2), 3, 1, [4, 3, 2]),
    ((1, 3, 2), 2, 3, [3]),
    ((1, 3, 2), 0, 0, [1, 3, 2]),  # no limit, every size
    ((1, 3, 2), -1, -7, [1, 3, 2]),
    ((1, 3, 2), 0, 2, [3, 2]),
    ((2, 1, 2), 1, 1, [2]),
]


@pytest.mark.parametrize(("parts", "most", "fewest", "expected"), LIMITS)
def test_limits_are_those_of_other_delegates(
    parts: tuple[int, ...],
    most: int,
    fewest: int,
    expected: list[int],
    npu_interpreter: Interpreters,
    reference_interpreter: Interpreters,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In the interpreter: what is compiled, in how many nodes, and the numbers that come out."""
    monkeypatch.delitem(OPERATORS, REFUSED)
    content = write(chain(parts))
    limits = {"max_delegated_partitions": str(most), "min_nodes_per_partition": str(fewest)}
    npu, plain = npu_interpreter(content, debug="verbose", **limits), reference_interpreter(content)
    compiled = [int(count) for count in re.findall(r"tensors (\d+) operations", capfd.readouterr().err)]
    assert compiled == expected
    assert len(npu._get_ops_details()) == len(plain._get_ops_details()) + len(expected)
    inputs = random_inputs(plain, np.random.default_rng(1))
    np.testing.assert_array_equal(infer(npu, inputs)[0], infer(plain, inputs)[0])


def test_limits_come_from_the_environment(
    npu_interpreter: Interpreters, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(OPERATORS, REFUSED)
    monkeypatch.setenv("TEFLON_MAX_DELEGATED_PARTITIONS", "1")
    npu_interpreter(write(chain((1, 3, 2))), debug="verbose")
    assert re.findall(r"tensors (\d+) operations", capfd.readouterr().err) == ["3"]


@pytest.mark.parametrize("seed", range(6))
def test_tools_see_the_partitions_that_tflite_makes(
    seed: int,
    npu_interpreter: Interpreters,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Drawn graphs that their additions cut."""
    monkeypatch.delitem(OPERATORS, "ADD")
    model = random_graph(np.random.default_rng(seed))
    npu_interpreter(write(model), debug="verbose")
    compiled = [int(count) for count in re.findall(r"tensors (\d+) operations", capfd.readouterr().err)]
    assert compiled == sizes(taken(model_graph(model, tmp_path), EVERY_FORM))


@pytest.mark.parametrize("seed", range(20))
def test_a_partition_that_goes_does_not_change_the_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tensors = [tensor(index, (1, 2, 2, 4)) for index in range(25)]
    nodes = []
    for index in range(24):  # reads one or two tensors of those before it
        reads = rng.choice(index + 1, size=min(index + 1, int(rng.integers(1, 3))), replace=False)
        nodes.append(Node(index, "X", tuple(tensors[int(i)] for i in reads), (tensors[index + 1],), {}))
    drawn = graph(nodes, tensors[:1], tensors[-1:])
    refused = {node.index: bool(rng.random() < 0.4) for node in nodes}
    parts = [[node.index for node in part.nodes] for part in partitions(drawn, refused)]
    for gone in parts:
        rest = partitions(drawn, refused | dict.fromkeys(gone, True))
        assert [[node.index for node in part.nodes] for part in rest] == [part for part in parts if part != gone]


def test_of_equal_partitions_the_first_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(OPERATORS, REFUSED)
    model = model_graph(chain((2, 2, 2)), tmp_path)
    found = verdicts(model, EVERY_FORM, Selection(max_partitions=2))
    assert [index for index, reasons in found.items() if not reasons] == [0, 1, 3, 4]


def test_a_limit_says_what_would_lift_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(OPERATORS, REFUSED)
    model = model_graph(chain((1, 3, 2)), tmp_path)
    found = examine(model, EVERY_FORM, Selection(min_nodes=2, max_partitions=1))
    small, second = found[0], found[6]
    assert small is not None
    assert second is not None
    assert (small.reason, small.remedy) == (
        "its partition has 1 of the 2 nodes that one must have",
        "lower the option min_nodes_per_partition to 1",
    )
    assert (second.reason, second.remedy) == (
        "its partition is number 2 by size, and 1 may be taken",
        "raise the option max_delegated_partitions to 2",
    )
    assert sizes(partitions(model, examine(model, EVERY_FORM, Selection(min_nodes=2, max_partitions=2)))) == [3, 2]


def single(kind: str) -> Model:
    """A model of one operator that moves or converts numbers; channels are not whole atoms."""
    builder = Builder()
    if kind == "CONCATENATION":
        inputs = [builder.tensor((1, 6, 5, count), "uint8", 0.05, 7) for count in (5, 7)]
        return builder.finish(inputs, [builder.concatenation(inputs, (0.05, 7))])
    source = builder.tensor((1, 4, 6, 20), "uint8", 0.05, 131)
    output = {
        "QUANTIZE to another scale": lambda: builder.quantize(source, "uint8", (0.03, 100)),
        "QUANTIZE to another type": lambda: builder.quantize(source, "int8", (0.05, 3)),
        "RESHAPE": lambda: builder.reshape(source, (1, 24, 1, 20)),
    }[kind]()
    return builder.finish([source], [output])


@pytest.mark.parametrize("kind", ["CONCATENATION", "QUANTIZE to another scale"])
def test_an_operator_that_only_moves_or_converts_is_taken(
    kind: str, npu_interpreter: Interpreters, reference_interpreter: Interpreters
) -> None:
    content = write(single(kind))
    npu, plain = npu_interpreter(content), reference_interpreter(content)
    assert len(npu._get_ops_details()) == 2
    inputs = random_inputs(plain, np.random.default_rng(1))
    np.testing.assert_array_equal(infer(npu, inputs)[0], infer(plain, inputs)[0])


@pytest.mark.parametrize("kind", ["QUANTIZE to another type", "RESHAPE"])
def test_a_partition_that_computes_nothing_stays_out(
    kind: str, npu_interpreter: Interpreters, reference_interpreter: Interpreters, tmp_path: Path
) -> None:
    model = single(kind)
    graph = model_graph(model, tmp_path)
    assert refusal(graph.nodes[0], EVERY_FORM) is None
    assert verdicts(graph, EVERY_FORM) == {0: (ONLY_NAMES,)}
    npu, plain = npu_interpreter(write(model)), reference_interpreter(write(model))
    assert len(npu._get_ops_details()) == 1
    inputs = random_inputs(plain, np.random.default_rng(1))
    np.testing.assert_array_equal(infer(npu, inputs)[0], infer(plain, inputs)[0])


def one_convolution(size: int, channels: int) -> Graph:
    source = feature(0, size, size, channels)
    node, output = convolution(1, source, channels, (3, 3))
    return graph([node], [source], [output])


def test_a_small_partition_is_left_to_the_cpu_by_cost_alone() -> None:
    small, large = one_convolution(8, 4), one_convolution(56, 64)
    assert sizes(taken(small, EVERY_FORM)) == sizes(taken(large, EVERY_FORM)) == [1]
    assert verdicts(large, EVERY_FORM, COST) == {1: ()}
    ((reason,),) = verdicts(small, EVERY_FORM, COST).values()
    numbers = re.fullmatch(r"the NPU would take (\S+) ms with its borders, the CPU (\S+) ms", reason)
    assert numbers
    assert 1000 * (cost.JOB_SECONDS + cost.PASS_SECONDS) < float(numbers[1]) < 0.2
    assert 0 < float(numbers[2]) < 0.01


def test_a_node_that_costs_more_than_the_cpu_leaves_a_partition_that_pays() -> None:
    """An addition behind a large convolution; in its middle it would cut the partition, and stays."""
    source = feature(0, 56, 56, 64)
    first, made = convolution(1, source, 64, (3, 3), scale=0.05)
    slow = Node(2, "MAXIMUM", (made, source), (feature(21, 56, 56, 64),), {})
    last, output = convolution(3, slow.outputs[0], 64, (3, 3))
    at_the_end = graph([first, slow], [source], list(slow.outputs))
    in_the_middle = graph([first, slow, last], [source], [output])
    assert verdicts(at_the_end, EVERY_FORM) == {1: (), 2: ()}
    assert {index for index, why in verdicts(at_the_end, EVERY_FORM, COST).items() if why} == {2}
    assert {index for index, why in verdicts(in_the_middle, EVERY_FORM, COST).items() if why} == set()


def npu_cost(part: Graph) -> float:
    return cost.border_seconds(part, EVERY_FORM) + sum(cost.npu_seconds(node, EVERY_FORM) for node in part.nodes)


def total(model: Graph, parts: Sequence[Graph]) -> float:
    """Seconds of the accepted nodes in partitions and of all others on the CPU."""
    inside = {node.index for part in parts for node in part.nodes}
    left = sum(cost.cpu_seconds(node) for node in model.nodes if node.index not in inside)
    return left + sum(map(npu_cost, parts))


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_left_that_would_lower_the_cost(seed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Drawn graphs, with a CPU so slow that a part of the nodes pays."""
    monkeypatch.setattr(cost, "CPU_PRODUCTS", 1e8)
    monkeypatch.setattr(cost, "CPU_DEPTHWISE_PRODUCTS", 2e7)
    model = model_graph(random_graph(np.random.default_rng(seed)), tmp_path)
    found = examine(model, EVERY_FORM, COST)
    parts = partitions(model, found)
    assert found == examine(model, EVERY_FORM, COST)
    assert all(npu_cost(part) <= sum(map(cost.cpu_seconds, part.nodes)) for part in parts)
    assert total(model, parts) <= total(model, taken(model, EVERY_FORM))
    for part in parts:
        for node in part.nodes:
            without = partitions(model, found | {node.index: QUANTIZE})
            saved = sum(map(npu_cost, parts)) - sum(map(npu_cost, without))
            assert len(part.nodes) == 1 or saved <= NODE_MARGIN * cost.cpu_seconds(node)


def test_large_networks_pay_in_one_partition(shared: Path) -> None:
    for name in ("mobilenet_v1_1.0_224_quant", "mobilenet_v2_1.0_224_inat_bird_quant"):
        model = read_model(shared / "models" / f"{name}.tflite")
        (whole,) = taken(model, EVERY_FORM)
        (chosen,) = partitions(model, examine(model, EVERY_FORM, COST))
        assert len(chosen.nodes) == len(whole.nodes)


def test_cycles_are_those_of_the_timing_model(shared: Path) -> None:
    """timing.md §4, worked figures of MobileNetV1: the first six layers and all 28."""
    model = read_model(shared / "models" / "mobilenet_v1_1.0_224_quant.tflite")
    cycles = [
        cost.product_cycles(layer, EVERY_FORM.soc)
        for node in model.nodes
        if "CONV" in node.op
        for layer in OPERATORS[node.op].lower(node, EVERY_FORM)
        if isinstance(layer, Convolution)
    ]
    assert cycles[:6] == [112_896, 112_896, 25_088, 28_224, 25_088, 56_448]
    assert sum(cycles) == 968_872
    assert sum(map(cost.macs, model.nodes)) == 568_740_352 + 1024  # as its authors say, and a class more


def seconds(op: str, source: Tensor, output: Tensor, *others: Tensor, **params: Any) -> float:
    return cost.npu_seconds(Node(0, op, (source, *others), (output,), params), EVERY_FORM)


def numbers(*given: int) -> Tensor:
    return Tensor(5, "", (len(given),), "int32", None, np.array(given, np.int32))


def test_moves_are_tasks_and_what_they_read_and_write_is_counted() -> None:
    """A part of a large tensor costs as much as of a small one; a task in a chain less than a pass."""
    part = feature(1, 4, 30, 32)
    of_many, of_few = (
        seconds("SLICE", feature(0, rows, 60, 32), part, numbers(0, 1, 3, 0), numbers(1, 4, 30, 32)) for rows in (60, 6)
    )
    assert of_many == of_few
    moved = 2 * 4 * 30 * 32 / cost.PORT_BYTES
    assert of_many > cost.PASS_SECONDS + moved / cost.CLOCK
    one, several = (
        seconds("PAD", Tensor(0, "", (n, 6, 6, 16), "int8", quant()), Tensor(1, "", (n, 8, 8, 16), "int8", quant()),
                numbers_of_sides(1))
        for n in (1, 3)
    )  # fmt: skip
    products = 64 * 3 * 3
    each = (products + (6 * 6 * 16 + 8 * 8 * 16) / cost.PORT_BYTES) / cost.CLOCK
    assert several - one == pytest.approx(2 * (cost.TASK_SECONDS + each))


def numbers_of_sides(side: int) -> Tensor:
    sides = np.array([(0, 0), (side, side), (side, side), (0, 0)], np.int32)
    return Tensor(5, "", sides.shape, "int32", None, sides)


def test_a_constant_of_the_elementwise_unit_is_read() -> None:
    """For every pixel by devices that may read nothing smaller."""
    source, output = feature(0, 16, 16, 32), feature(1, 16, 16, 32)
    factors = Tensor(2, "", (1, 1, 1, 32), "int8", quant(), np.ones((1, 1, 1, 32), np.int8))
    node = Node(0, "MAXIMUM", (source, factors), (output,), {})
    cubes = 16 * 16 * 32 / cost.PORT_BYTES / cost.CLOCK
    assert cost.npu_seconds(node, PROVEN) == pytest.approx(cost.PASS_SECONDS + 3 * cubes)
    constant = 32 / cost.PORT_BYTES / cost.CLOCK
    assert cost.npu_seconds(node, EVERY_FORM) == pytest.approx(cost.PASS_SECONDS + 2 * cubes + constant)


def tensor(index: int, shape: tuple[int, ...], data: Array | None = None) -> Tensor:
    return Tensor(index, "", shape, "int8", None, data)


@pytest.mark.parametrize(
    ("op", "shapes", "output", "expected"),
    [
        ("CONV_2D", [(1, 8, 8, 6), (10, 3, 3, 6)], (1, 4, 4, 10), 4 * 4 * 10 * 3 * 3 * 6),
        ("CONV_2D", [(1, 8, 8, 6), (10, 3, 3, 3)], (1, 8, 8, 10), 8 * 8 * 10 * 3 * 3 * 3),  # two groups
        ("DEPTHWISE_CONV_2D", [(1, 8, 8, 6), (1, 3, 5, 12)], (1, 8, 8, 12), 8 * 8 * 12 * 3 * 5),
        ("FULLY_CONNECTED", [(2, 40), (7, 40)], (2, 7), 2 * 7 * 40),
        ("TRANSPOSE_CONV", [(4,), (5, 2, 2, 3), (1, 4, 6, 3)], (1, 8, 12, 5), 4 * 6 * 3 * 2 * 2 * 5),
        ("ADD", [(1, 8, 8, 6), (1, 8, 8, 6)], (1, 8, 8, 6), 0),
        ("CONV_2D", [(1, 8, 8, 6)], (1, 8, 8, 6), 0),
        ("CONV_2D", [(1, 8, 8, 6), (0, 3, 3, 6)], (1, 8, 8, 0), 0),
        ("CONV_2D", [(1, 8, 8, 6), (10,)], (-1, 8, -1, 10), 0),
        ("DEPTHWISE_CONV_2D", [(1, 8, 8, 6), (3, 5)], (1, 8, 8, 12), 0),
    ],
)
def test_macs_are_those_of_the_definition(
    op: str, shapes: list[tuple[int, ...]], output: tuple[int, ...], expected: int
) -> None:
    node = Node(0, op, tuple(tensor(index, shape) for index, shape in enumerate(shapes)), (tensor(9, output),), {})
    assert cost.macs(node) == expected


def test_a_missing_weight_or_output_counts_nothing() -> None:
    assert cost.macs(Node(0, "CONV_2D", (tensor(0, (1, 2, 2, 1)), None), (tensor(1, (1, 2, 2, 1)),), {})) == 0
    assert cost.macs(Node(0, "FULLY_CONNECTED", (tensor(0, (1, 2)), tensor(1, (2, 2))), (), {})) == 0


def test_remedies_fit_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    source = feature(0, 8, 8, 16)
    node, _ = convolution(1, source, 16)

    def rules(*given: Rule) -> None:
        monkeypatch.setitem(OPERATORS, "CONV_2D", Operator("CONV_2D", given, OPERATORS["CONV_2D"].lower))

    def remedy(of: Node) -> str:
        found = refusal(of, PROVEN)
        assert found is not None
        return found.remedy

    rules(Rule("it is blue", lambda node, target: False))
    assert remedy(node) == "change the model so that it is blue"
    rules(Rule("it is blue", lambda node, target: False, "paint it"))
    assert remedy(node) == "paint it"
    rules(Rule("the form may be used", lambda node, target: bool(target.forms)))
    assert "unproven=always" in remedy(node)
    rules(Rule("first", lambda node, target: True), Rule("second", lambda node, target: False))
    assert remedy(node) == "change the model so that second"
    floats = Tensor(0, "", (1, 8, 8, 16), "float32")
    assert remedy(Node(1, "CONV_2D", (floats, *node.inputs[1:]), (floats,), {})) == QUANTIZE
    assert remedy(Node(1, "NOTHING_LIKE_IT", (floats,), (floats,), {})) == QUANTIZE
    assert "delegate ops" in remedy(Node(1, "NOTHING_LIKE_IT", (source,), (source,), {}))


@pytest.mark.parametrize("op", UNSUPPORTED)
def test_operators_that_the_npu_has_no_form_for_say_why(op: str) -> None:
    """In words of their own, in place of a rule's; QUANTIZE is taken where nothing is a float."""
    source, floats = feature(0, 8, 8, 16), Tensor(1, "", (1, 8, 8, 16), "float32")
    assert op in NAMES
    whole = refusal(Node(0, op, (source,), (replace(source, index=2),), {}), EVERY_FORM)
    assert whole == (UNSUPPORTED[op] if op != "QUANTIZE" else None)
    to_floats = refusal(Node(0, op, (source,), (floats,), {}), EVERY_FORM)
    assert to_floats is not None
    assert to_floats.reason == UNSUPPORTED[op].reason
    assert (to_floats.remedy == QUANTIZE) == (op not in ("QUANTIZE", "DEQUANTIZE", "CAST"))
