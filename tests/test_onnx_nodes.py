"""delegate.onnx: each operator in all its forms beside onnxruntime, and what is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

from onnx import TensorProto, helper
from onnx_models import Array, absolute, bound, build, normal, reference, saved

from delegate.errors import ModelError
from delegate.onnx.cut import choose, cut
from delegate.onnx.model import read_model
from delegate.onnx.nodes import ProductNode
from delegate.onnx.session import Session


def check(model: Any, feeds: dict[str, Array], depth: int, folder: Path) -> None:
    """The model's product runs on the NPU and is within the bound of fp16."""
    path = saved(model, folder)
    expected = reference(path, feeds)
    with Session(path, min_macs=0, device="simulator") as session:
        assert any(isinstance(step, ProductNode) for step in session.plan.steps)
        results = session.run(None, feeds)
    for result, other in zip(results, expected, strict=True):
        assert (result.dtype, result.shape) == (other.dtype, other.shape)
    assert (np.abs(results[0] - expected[0]) <= bound(model, feeds, depth)).all()


@pytest.mark.parametrize("b_shape", [(20, 9), (1, 20, 9), (1, 1, 20, 9)])
@pytest.mark.parametrize("a_shape", [(20,), (3, 20), (2, 3, 20), (2, 1, 3, 20), (0, 20)])
def test_matmul(a_shape: tuple[int, ...], b_shape: tuple[int, ...], tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["a", "b"], ["c"])]
    model = build(nodes, {"a": a_shape}, {"c": None}, {"b": normal(*b_shape, seed=1)})
    check(model, {"a": normal(*a_shape)}, 20, tmp_path)


@pytest.mark.parametrize("bias", ["none", "(N)", "(1, N)", "(M, 1)", "scalar", "computed"])
@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (-0.25, 3.0)])
def test_gemm(bias: str, trans_a: int, trans_b: int, alpha: float, beta: float, tmp_path: Path) -> None:
    m, k, n = 5, 24, 7
    a = normal(*((k, m) if trans_a else (m, k)))
    constants = {"b": normal(*((n, k) if trans_b else (k, n)), seed=1)}
    inputs, feeds = {"a": a.shape}, {"a": a}
    shapes = {"(N)": (n,), "(1, N)": (1, n), "(M, 1)": (m, 1), "scalar": (), "computed": (m, n)}
    if bias == "computed":
        inputs["c"], feeds["c"] = (m, n), normal(m, n, seed=2)
    elif bias != "none":
        constants["c"] = normal(*shapes[bias], seed=2)
    names = ["a", "b"] + ["c"] * (bias != "none")
    node = helper.make_node("Gemm", names, ["y"], alpha=alpha, beta=beta, transA=trans_a, transB=trans_b)
    check(build([node], inputs, {"y": None}, constants), feeds, k, tmp_path)


CONVOLUTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "1x1": ((2, 6, 5, 4), (8, 6, 1, 1), {}),
    "3x3": ((1, 4, 7, 6), (5, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
    "pads that differ": ((1, 3, 6, 5), (4, 3, 3, 2), {"pads": [0, 1, 2, 0]}),
    "strides": ((2, 3, 9, 8), (4, 3, 3, 3), {"strides": [2, 3], "pads": [1, 0, 1, 2]}),
    "dilations": ((1, 3, 9, 11), (4, 3, 3, 2), {"dilations": [2, 3]}),
    "groups": ((2, 6, 5, 5), (9, 2, 3, 3), {"group": 3, "pads": [1, 1, 1, 1]}),
    "depthwise": ((1, 4, 6, 6), (4, 1, 3, 3), {"group": 4}),
    "SAME_UPPER": ((1, 3, 8, 7), (4, 3, 3, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "SAME_LOWER": ((1, 3, 8, 7), (4, 3, 3, 2), {"auto_pad": "SAME_LOWER", "strides": [3, 1]}),
    "VALID": ((1, 3, 8, 7), (4, 3, 3, 2), {"auto_pad": "VALID", "strides": [2, 1]}),
    "one dimension": ((2, 3, 20), (4, 3, 5), {"strides": [2], "pads": [2, 1]}),
    "three dimensions": ((1, 2, 4, 5, 6), (3, 2, 2, 3, 2), {"pads": [1, 0, 0, 0, 1, 1]}),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv(name: str, bias: bool, tmp_path: Path) -> None:
    x_shape, w_shape, attributes = CONVOLUTIONS[name]
    constants = {"w": normal(*w_shape, seed=1)} | ({"b": normal(w_shape[0], seed=2)} if bias else {})
    node = helper.make_node("Conv", ["x", *constants], ["y"], **attributes)
    model = build([node], {"x": x_shape}, {"y": None}, constants)
    check(model, {"x": normal(*x_shape)}, math.prod(w_shape[1:]), tmp_path)


def test_the_windows_of_a_convolution_are_laid_out_a_part_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("delegate.onnx.execute.WINDOW_ROWS", 12)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    model = build([node], {"x": (2, 3, 7, 5)}, {"y": None}, {"w": normal(4, 3, 3, 3, seed=1)})
    check(model, {"x": normal(2, 3, 7, 5)}, 27, tmp_path)


REFUSED: dict[str, tuple[Any, str]] = {
    "computed": (
        build([helper.make_node("MatMul", ["a", "b"], ["c"])], {"a": (2, 3), "b": (3, 4)}, {"c": None}, {}),
        "its second input is computed",
    ),
    "stack": (
        build([helper.make_node("MatMul", ["a", "b"], ["c"])], {"a": (5, 2, 3)}, {"c": None}, {"b": normal(5, 3, 4)}),
        r"\[5, 3, 4\] is a stack of matrices",
    ),
    "vector": (
        build([helper.make_node("MatMul", ["a", "b"], ["c"])], {"a": (2, 3)}, {"c": None}, {"b": normal(3)}),
        "its second input is a vector",
    ),
    "first input constant": (
        build([helper.make_node("MatMul", ["b", "a"], ["c"])], {"a": (3, 2)}, {"c": None}, {"b": normal(4, 3)}),
        "its second input is computed",
    ),
    "fp64": (
        build(
            [helper.make_node("MatMul", ["a", "b"], ["c"])],
            {"a": (2, 3)},
            {"c": None},
            {"b": normal(3, 4).astype(np.float64)},
            elements={"a": TensorProto.DOUBLE, "c": TensorProto.DOUBLE},
        ),
        "is not float32",
    ),
    "NaN": (
        build(
            [helper.make_node("MatMul", ["a", "b"], ["c"])],
            {"a": (2, 3)},
            {"c": None},
            {"b": np.full((3, 4), np.nan, "f")},
        ),
        "its constants hold NaN or infinity",
    ),
    "computed bias": (
        build(
            [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
            {"x": (1, 3, 4, 4), "b": (2,)},
            {"y": None},
            {"w": normal(2, 3, 3, 3)},
        ),
        "its bias is computed",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_runs_in_onnxruntime(name: str, tmp_path: Path) -> None:
    proto, reason = REFUSED[name]
    path = saved(proto, tmp_path)
    model = read_model(path)
    choices = choose(model, min_macs=0)
    (choice,) = choices.values()
    assert not choice.on_npu
    assert re.search(reason, choice.reason), choice.reason
    assert not any(isinstance(step, ProductNode) for step in cut(model, choices).steps)
    feeds = {
        argument.name: normal(*argument.shape).astype("d" if name == "fp64" else "f")
        for argument in cut(model, choices).inputs
    }
    with Session(path, min_macs=0, device="simulator") as session:
        assert np.array_equal(session.run(None, feeds)[0], reference(path, feeds)[0], equal_nan=True)


def test_shapes_that_do_not_fit_are_said(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    model = build([node], {"x": ("n", "c", "h", "w_")}, {"y": None}, {"w": normal(4, 3, 3, 3)})
    with Session(saved(model, tmp_path), min_macs=0, device="simulator") as session:
        assert session.run(None, {"x": normal(1, 3, 5, 5)})[0].shape == (1, 4, 3, 3)
        with pytest.raises(ModelError, match=r"its input is \[1, 2, 5, 5\]; 3 channels are asked for"):
            session.run(None, {"x": normal(1, 2, 5, 5)})
        with pytest.raises(ModelError, match="smaller than its window"):
            session.run(None, {"x": normal(1, 3, 2, 5)})


def test_the_bound_is_of_absolute_values() -> None:
    model = build(
        [helper.make_node("MatMul", ["a", "b"], ["c"])], {"a": (1, 2)}, {"c": None}, {"b": -(normal(2, 1) ** 2)}
    )
    assert reference(absolute(model), {"a": np.ones((1, 2), np.float32)})[0] > 0
