"""delegate/trace.py against what Mesa's Teflon printed for the same models."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest

from delegate import trace
from delegate.ir import Graph, Node, Quant, Tensor
from delegate.tflite import read_model

# Models whose operators ask for no scratch tensors when they are made; upstream lists those behind the model's own.
MODELS = [
    "mobilenet_v1_1.0_224_quant",
    "mobilenet_v1_0.25_128_quant",
    "mobilenet_v1_0.75_192_quant",
    "mobilenet_v1_1.0_224_quant_embedding_extractor",
]


def upstream(shared: Path, model: str) -> list[str]:
    return (shared / "golden" / model / "verbose.txt").read_text().splitlines()


@pytest.mark.parametrize("model", [*MODELS, "mobilenet_v2_1.0_224_inat_bird_quant", "tf2_mobilenet_v2_1.0_224_ptq"])
def test_the_support_table_is_upstreams(shared: Path, model: str) -> None:
    """Line by line; our reasons are behind the rows that upstream calls unsupported."""
    lines = upstream(shared, model)
    table = lines[1 : lines.index("")]
    graph = read_model(shared / "models" / f"{model}.tflite")
    refused = {int(line[:3]): ("a reason",) for line in table[2:] if "unsupported" in line}
    printed = trace.support_table(graph.nodes, refused).splitlines()
    assert printed == [f"{line} (a reason)" if "unsupported" in line else line for line in table]


@pytest.mark.parametrize("model", MODELS)
def test_the_tables_of_a_partition_are_upstreams(shared: Path, model: str) -> None:
    """The tensor table exactly; the operation table has our columns behind upstream's."""
    lines = upstream(shared, model)
    starts = [i - 1 for i, line in enumerate(lines) if line.startswith("teflon: compiling graph")]
    assert starts
    graph = read_model(shared / "models" / f"{model}.tflite")
    claimed = [node for node in graph.nodes if node.op in ("CONV_2D", "DEPTHWISE_CONV_2D")]
    for start in starts:
        count = int(lines[start + 1].split()[5])
        nodes, claimed = tuple(claimed[:count]), claimed[count:]
        printed = trace.compiling(Graph(graph.tensors, nodes, (), ())).splitlines()
        operations = len(graph.tensors) + 5
        expected = lines[start : start + len(printed)]
        assert printed[:operations] == expected[:operations]
        for ours, theirs in zip(printed[operations:], expected[operations:], strict=True):
            assert ours.startswith(theirs.rstrip("="))
    assert not claimed


def test_messages_are_upstreams(shared: Path) -> None:
    lines = upstream(shared, MODELS[0])
    assert trace.loaded("rocket") == lines[0] + "\n"
    assert trace.compiled(0.057, False, None) == "teflon: compiled graph, took 57 ms\n"
    assert "teflon: compiled graph, took 57 ms" in lines
    assert trace.invoked(0.073) == "teflon: invoked graph, took 73 ms\n"
    assert "teflon: invoked graph, took 73 ms" in lines


def test_the_cache_is_mentioned() -> None:
    assert trace.compiled(0.0051, True, None) == "teflon: loaded compiled graph from the cache, took 5 ms\n"
    text = trace.compiled(0.2, False, "/x is not writable")
    assert text == "teflon: cache not used: /x is not writable\nteflon: compiled graph, took 200 ms\n"


def test_columns_of_ours() -> None:
    quant = Quant(np.float32([0.5, 1.0]), np.int32([-128, 0]))
    weight = Tensor(1, "w", (8, 3, 5, 4), "int8", quant, np.zeros((8, 3, 5, 4), np.int8))
    params = {"stride": (2, 1), "dilation": (1, 3), "padding": "VALID", "activation": "RELU"}
    node = Node(0, "CONV_2D", (Tensor(0, "x", (1, 9, 9, 4), "int8"), weight, None), (), params)
    row = trace.operation_row(0, node)
    assert row.split() == ["0", "CONV", "0,1,-1", "3x5", "2x1", "1x3", "VALID", "ReLU"]
    assert trace.tensor_row(weight) == "  1 0.500000 ffffff80 yes      8x3x5x4"
    assert "in: 0(i8) 1(i8) - out:" in trace.support_table([node], {})


def test_a_host_without_stderr_does_not_break(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        trace.say("nobody reads this")
