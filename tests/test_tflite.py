"""delegate/tflite.py against the tests' own reader, and against files that are no models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import every_operator
import numpy as np
import pytest
import tflite
import tflite_reader
import tflite_writer
from chosen import DEVICE
from generate import random_graph
from hypothesis import given, settings
from hypothesis import strategies as st

import delegate
from benchmarks import harness
from delegate.builtin_operators import NAMES, operator_name
from delegate.context import read_context
from delegate.errors import DelegateError, ModelError
from delegate.ir import Graph, Tensor
from delegate.parameters import OPTIONS
from delegate.tflite import read_model

ACTIVATIONS = {code: name for name, code in tflite_writer.ACTIVATIONS.items()}
PADDINGS = {code: name for name, code in tflite_writer.PADDINGS.items()}


def assert_tensor(tensor: Tensor, spec: tflite_writer.TensorSpec) -> None:
    assert tensor.shape == spec.shape
    assert tensor.dtype == spec.dtype
    if spec.scale:
        assert tensor.quant is not None
        np.testing.assert_array_equal(tensor.quant.scale, np.float32(spec.scale))
        np.testing.assert_array_equal(tensor.quant.zero_point, spec.zero_point)
        assert tensor.quant.axis == spec.axis
    else:
        assert tensor.quant is None
    if spec.data is None:
        assert tensor.data is None
    else:
        np.testing.assert_array_equal(tensor.data, spec.data)


# What ir calls the schema's fields; one that is not here is no parameter.
SINGLE = {
    "AlignCorners": "align_corners",
    "Alpha": "alpha",
    "Approximate": "approximate",
    "Axis": "axis",
    "BeginMask": "begin_mask",
    "Beta": "beta",
    "BlockSize": "block_size",
    "DepthMultiplier": "depth_multiplier",
    "EllipsisMask": "ellipsis_mask",
    "EndMask": "end_mask",
    "HalfPixelCenters": "half_pixel_centers",
    "KeepDims": "keep_dims",
    "KeepNumDims": "keep_num_dims",
    "NewAxisMask": "new_axis_mask",
    "NewShape": "new_shape",
    "NumSplits": "num_splits",
    "Offset": "offset",
    "ShrinkAxisMask": "shrink_axis_mask",
    "SqueezeDims": "squeeze_dims",
}
PAIRS = {
    "stride": ("StrideH", "StrideW"),
    "dilation": ("DilationHFactor", "DilationWFactor"),
    "filter": ("FilterHeight", "FilterWidth"),
}


def expected_params(options: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that ir has for the schema's options."""
    params: dict[str, Any] = {name: options[field] for field, name in SINGLE.items() if field in options}
    for name, (vertical, horizontal) in PAIRS.items():
        if vertical in options:
            params[name] = (options[vertical], options[horizontal])
    if "Padding" in options:
        params["padding"] = PADDINGS[options["Padding"]]
    if "FusedActivationFunction" in options:
        params["activation"] = ACTIVATIONS[options["FusedActivationFunction"]]
    if "WeightsFormat" in options:
        params["shuffled"] = options["WeightsFormat"] != 0
    return params


def assert_same(graph: Graph, model: tflite_writer.Model) -> None:
    """The graph says what the record says."""
    assert (graph.inputs, graph.outputs) == (model.inputs, model.outputs)
    assert list(graph.tensors) == list(range(len(model.tensors)))
    for index, spec in enumerate(model.tensors):
        assert_tensor(graph.tensors[index], spec)
    for node, operator in zip(graph.nodes, model.operators, strict=True):
        assert node.op == operator.op
        assert tuple(-1 if t is None else t.index for t in node.inputs) == operator.inputs
        assert tuple(t.index for t in node.outputs) == operator.outputs
        assert node.params == expected_params(operator.options)


def written(model: tflite_writer.Model, folder: Path) -> Path:
    path = folder / "model.tflite"
    path.write_bytes(tflite_writer.write(model))
    return path


@pytest.mark.parametrize("seed", range(12))
def test_a_written_model_is_read(seed: int, tmp_path: Path) -> None:
    model = random_graph(np.random.default_rng(seed))
    assert_same(read_model(written(model, tmp_path)), model)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("name", every_operator.CASES)
def test_every_operator_is_read(name: str, dtype: str, tmp_path: Path) -> None:
    path = written(every_operator.build(name, dtype), tmp_path)
    assert_same(read_model(path), tflite_reader.read(path.read_bytes()))


@pytest.fixture
def graph_in_interpreter(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], tuple[Graph, Any]]:
    """Makes what the delegate reads from an interpreter, of which it then takes nothing, and that interpreter."""
    with pytest.raises(DelegateError):  # any call starts the embedding, whose module the plugin imports
        delegate.load(unknown="")
    from delegate import plugin

    def make(content: bytes) -> tuple[Graph, Any]:
        graphs: list[Graph] = []

        def note(ffi: Any, context: Any) -> Graph:
            graphs.append(read_context(ffi, context))
            return replace(graphs[-1], nodes=())

        monkeypatch.setattr(plugin, "read_context", note)
        delegates = [delegate.load(device=DEVICE)]
        interpreter = harness.runtime().Interpreter(model_content=content, experimental_delegates=delegates)
        (graph,) = graphs
        return graph, interpreter

    return make


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_every_operator_of_an_interpreter_is_that_of_the_file(
    dtype: str, graph_in_interpreter: Callable[[bytes], tuple[Graph, Any]], tmp_path: Path
) -> None:
    for name in every_operator.CASES:
        if name in every_operator.REFUSED[dtype]:
            continue
        path = written(every_operator.build(name, dtype), tmp_path)
        graph, _interpreter = graph_in_interpreter(path.read_bytes())
        expected = read_model(path)
        for node, other in zip(graph.nodes, expected.nodes, strict=True):
            assert (node.index, node.op, node.version, node.params) == (
                *(other.index, other.op, other.version, other.params),
            ), name
            assert [t and t.index for t in node.inputs] == [t and t.index for t in other.inputs]
            assert [t.index for t in node.outputs] == [t.index for t in other.outputs]
        for index, tensor in expected.tensors.items():
            assert (graph.tensors[index].shape, graph.tensors[index].dtype) == (tensor.shape, tensor.dtype), name
            np.testing.assert_array_equal(graph.tensors[index].data, tensor.data, name)  # type: ignore[arg-type]


def with_options(model: tflite_writer.Model, op: str, options: Mapping[str, Any] | None) -> tflite_writer.Model:
    """The model with other options for the operators ``op``."""
    changed = (replace(o, options=options) if o.op == op else o for o in model.operators)
    return replace(model, operators=tuple(changed))


WITHOUT_TABLE = {
    "FULLY_CONNECTED": {"activation": "NONE", "shuffled": False, "keep_num_dims": False},
    "ADD": {"activation": "NONE"},
    "LEAKY_RELU": {"alpha": 0.0},
    "MEAN": {"keep_dims": False},
    "RESHAPE": {"new_shape": ()},
    "RESIZE_BILINEAR plain": {"align_corners": False, "half_pixel_centers": False},
    "SQUEEZE": {"squeeze_dims": ()},
    "STRIDED_SLICE": dict.fromkeys(("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask"), 0)
    | {"offset": False},
    "PAD": {},
}


@pytest.mark.parametrize("name", WITHOUT_TABLE)
def test_options_that_are_not_there_are_the_schemas_defaults(
    name: str, graph_in_interpreter: Callable[[bytes], tuple[Graph, Any]], tmp_path: Path
) -> None:
    op = name.split()[0]
    path = written(with_options(every_operator.build(name, "int8"), op, None), tmp_path)
    graph, _interpreter = graph_in_interpreter(path.read_bytes())
    for nodes in (read_model(path).nodes, graph.nodes):
        (node,) = [node for node in nodes if node.op == op]
        assert node.params == WITHOUT_TABLE[name]


@pytest.mark.parametrize(
    "name", ["CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "MAX_POOL_2D VALID NONE", "CONCATENATION"]
)
def test_operators_that_need_their_options_are_damaged_without(name: str, tmp_path: Path) -> None:
    op = name.split()[0]
    path = written(with_options(every_operator.build(name, "int8"), op, None), tmp_path)
    with pytest.raises(ModelError, match=f"is damaged .*: an operator {op} has no options"):
        read_model(path)


@pytest.mark.parametrize("padding", [2, 127, -1])
@pytest.mark.parametrize("name", ["CONV_2D", "TRANSPOSE_CONV", "AVERAGE_POOL_2D VALID NONE"])
def test_a_padding_that_the_schema_has_not_is_damage(name: str, padding: int, tmp_path: Path) -> None:
    op = name.split()[0]
    path = written(with_options(every_operator.build(name, "int8"), op, {"Padding": padding}), tmp_path)
    with pytest.raises(ModelError, match=f"is damaged .*: an operator {op} has padding {padding}$"):
        read_model(path)


def test_public_models_are_read(shared: Path) -> None:
    paths = sorted((shared / "models" / "mesa-tests").glob("*.tflite"))
    for path in [*paths, shared / "models" / "mobilenet_v1_0.25_128_quant.tflite"]:
        assert_same(read_model(str(path)), tflite_reader.read(path.read_bytes()))


def test_operator_names_are_those_of_the_schema() -> None:
    assert dict(enumerate(NAMES)) == {
        code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)
    }
    assert operator_name(len(NAMES)) == f"BUILTIN_{len(NAMES)}"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"missing.tflite cannot be read: No such file"):
        read_model(tmp_path / "missing.tflite")


@pytest.mark.parametrize("content", [b"", b"TFL", b"hello, I am a text\n" * 40])
def test_another_file_is_no_model(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is no TFLite model"):
        read_model(path)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_damaged_model_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Nothing but ModelError comes out, wherever the file is cut or changed."""
    content = bytearray(tflite_writer.write(random_graph(np.random.default_rng(3))))
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(8, len(content))) :]
    read_or_refuse(bytes(content), tmp_path_factory.mktemp("damaged"))


WITH_OPTIONS = [name for name in every_operator.CASES if tflite_writer.TABLES[name.split()[0]][0]]


def options_place(content: bytes) -> int:
    """Where the last operator's table of options begins."""
    graph = tflite.Model.GetRootAs(content, 0).Subgraphs(0)
    return int(graph.Operators(graph.OperatorsLength() - 1).BuiltinOptions().Pos)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_damaged_options_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(tflite_writer.write(every_operator.build(data.draw(st.sampled_from(WITH_OPTIONS)), "int8")))
    place = options_place(bytes(content))
    for _ in range(data.draw(st.integers(1, 4))):
        content[place + data.draw(st.integers(-16, 31))] = data.draw(st.sampled_from([0, 1, 127, 128, 255]))
    read_or_refuse(bytes(content), tmp_path_factory.mktemp("damaged"))


@pytest.mark.parametrize("name", [name for name in WITH_OPTIONS if name.split()[0] in OPTIONS])
def test_options_whose_fields_are_listed_outside_the_file_are_damage(name: str, tmp_path: Path) -> None:
    content = bytearray(tflite_writer.write(every_operator.build(name, "int8")))
    place = options_place(bytes(content))
    content[place : place + 4] = (-(1 << 30)).to_bytes(4, "little", signed=True)
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is damaged"):
        read_model(path)


def read_or_refuse(content: bytes, folder: Path) -> None:
    path = folder / "model.tflite"
    path.write_bytes(content)
    try:
        graph = read_model(path)
    except ModelError as error:
        assert "damaged" in str(error)
        assert "\n" not in str(error)
    else:
        assert set(graph.inputs) <= set(graph.tensors)
