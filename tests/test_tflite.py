"""delegate/tflite.py against the tests' own reader, and against files that are no models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite
import tflite_reader
import tflite_writer
from generate import random_graph
from hypothesis import given, settings
from hypothesis import strategies as st

from delegate.builtin_operators import NAMES, operator_name
from delegate.errors import ModelError
from delegate.ir import Graph, Tensor
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


def expected_params(options: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that ir has for the schema's options."""
    single = {"Axis": "axis", "DepthMultiplier": "depth_multiplier"}
    double = {"Stride{}": "stride", "Dilation{}Factor": "dilation"}
    params: dict[str, Any] = {name: options[field] for field, name in single.items() if field in options}
    for field, name in double.items():
        if field.format("H") in options:
            params[name] = (options[field.format("H")], options[field.format("W")])
    if "FilterHeight" in options:
        params["filter"] = (options["FilterHeight"], options["FilterWidth"])
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


@pytest.mark.parametrize("seed", range(12))
def test_a_written_model_is_read(seed: int, tmp_path: Path) -> None:
    model = random_graph(np.random.default_rng(seed))
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite_writer.write(model))
    assert_same(read_model(path), model)


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
    path = tmp_path_factory.mktemp("damaged") / "model.tflite"
    path.write_bytes(content)
    try:
        graph = read_model(path)
    except ModelError as error:
        assert "damaged" in str(error)
        assert "\n" not in str(error)
    else:
        assert set(graph.inputs) <= set(graph.tensors)
