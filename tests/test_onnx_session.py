"""delegate.onnx: graphs that are cut, as onnxruntime computes them whole; folders; the command; what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

import onnx
import onnxruntime
from chosen import DEVICE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_models import Array, build, normal, reference, saved

from delegate.__main__ import main
from delegate.errors import DelegateError, ModelError
from delegate.hw.timing import ROCKET
from delegate.onnx.cut import Segment, choose, cut
from delegate.onnx.folder import write_folder
from delegate.onnx.model import read_model
from delegate.onnx.nodes import ProductNode
from delegate.onnx.session import Session, last_uses


def steps(session: Session) -> str:
    """P for a product, S for a segment."""
    return "".join("P" if isinstance(step, ProductNode) else "S" for step in session.plan.steps)


def check(model: onnx.ModelProto, feeds: dict[str, Array], folder: Path, order: str, tolerance: float = 5e-3) -> None:
    """The steps are those, and the outputs onnxruntime's within what fp16 does to numbers about 1."""
    path = saved(model, folder)
    with Session(path, min_macs=0, device=DEVICE) as session:
        assert steps(session) == order
        results = session.run(None, feeds)
        outside = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert [argument.name for argument in session.get_outputs()] == [o.name for o in outside.get_outputs()]
        assert [(a.name, a.type) for a in session.get_inputs()] == [(a.name, a.type) for a in outside.get_inputs()]
    expected = reference(path, feeds)
    for result, other in zip(results, expected, strict=True):
        assert (result.dtype, result.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(result, other, rtol=tolerance, atol=tolerance)


def matrix(*shape: int, seed: int = 1) -> Array:
    values: Array = normal(*shape, seed=seed) / np.float32(np.sqrt(shape[0]))
    return values


@pytest.mark.device
def test_a_network_with_a_free_batch_and_two_outputs(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Gemm", ["t", "w2", "b2"], ["y"], transB=1),
        helper.make_node("Softmax", ["y"], ["p"]),
    ]
    constants = {"w1": matrix(12, 20), "w2": matrix(20, 6, seed=2).T.copy(), "b2": normal(6, seed=3)}
    model = build(nodes, {"x": ["batch", 12]}, {"p": ["batch", 6], "t": ["batch", 20]}, constants)
    for batch in (1, 5):
        check(model, {"x": normal(batch, 12)}, tmp_path, "PSPS")


def test_products_behind_each_other_and_side_by_side(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["b"]),
        helper.make_node("MatMul", ["x", "w3"], ["c"]),
        helper.make_node("Max", ["b", "c"], ["y"]),
    ]
    constants = {f"w{n}": matrix(8, 8, seed=n) for n in (1, 2, 3)}
    check(build(nodes, {"x": (3, 8)}, {"y": None}, constants), {"x": normal(3, 8)}, tmp_path, "PPPS")


def test_tensors_of_other_types_cross_a_cut(tmp_path: Path) -> None:
    """Token numbers, an embedding, a mask that is used before and behind a product."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("Equal", ["ids", "zero"], ["empty"]),
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["y"]),
        helper.make_node("Unsqueeze", ["empty", "last"], ["mask"]),
        helper.make_node("Where", ["mask", "floor", "y"], ["out"]),
    ]
    constants = {
        "table": normal(10, 16),
        "zero": np.array(0, np.int64),
        "last": np.array([-1]),
        "floor": np.array(-9, np.float32),
        "w": matrix(16, 4),
    }
    model = build(nodes, {"ids": ["n"]}, {"out": None}, constants, elements={"ids": TensorProto.INT64})
    check(model, {"ids": np.array([3, 0, 7])}, tmp_path, "SPS")


def test_graphs_inside_nodes_read_tensors_around_them(tmp_path: Path) -> None:
    def branch(name: str, op: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, ["h"], [f"{name}_y"])], name, [], [output])

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch("then", "Tanh"), else_branch=branch("else", "Neg")),
    ]
    model = build(
        nodes, {"x": (2, 8), "flag": ()}, {"y": None}, {"w": matrix(8, 8)}, elements={"flag": TensorProto.BOOL}
    )
    for flag in (True, False):
        check(model, {"x": normal(2, 8), "flag": np.array(flag)}, tmp_path, "PS")


def test_weights_behind_constant_nodes_are_found(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(matrix(6, 8))),
        helper.make_node("Transpose", ["w"], ["v"]),
        helper.make_node("MatMul", ["x", "v"], ["y"]),
    ]
    check(build(nodes, {"x": (2, 8)}, {"y": None}, {}), {"x": normal(2, 8)}, tmp_path, "P")


def test_normalization_goes_into_the_convolution_before_it(tmp_path: Path) -> None:
    constants = {name: normal(4, seed=seed) for seed, name in enumerate(("scale", "shift", "mean"))}
    constants |= {"var": normal(4, seed=9) ** 2 + 1, "w": normal(4, 3, 3, 3) / 5}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    check(build(nodes, {"x": (1, 3, 6, 6)}, {"y": None}, constants), {"x": normal(1, 3, 6, 6)}, tmp_path, "PS")


def test_an_addition_behind_a_product_is_its_bias(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])]
    model = build(nodes, {"x": (2, 8)}, {"y": None}, {"w": matrix(8, 8), "b": normal(8)})
    check(model, {"x": normal(2, 8)}, tmp_path, "P")


def test_a_graph_without_products_is_one_segment(tmp_path: Path) -> None:
    model = build([helper.make_node("Relu", ["x"], ["y"])], {"x": (2, 3)}, {"y": None}, {})
    check(model, {"x": normal(2, 3)}, tmp_path, "S")


UNARY = ("Tanh", "Relu", "Sigmoid", "Neg")


@st.composite
def graphs(draw: st.DrawFn) -> tuple[onnx.ModelProto, int]:
    """A random graph over rows of 8 numbers, and its number of products; values stay about 1."""
    nodes, constants, tensors, products = [], {}, ["x", "z"], 0
    for number in range(draw(st.integers(1, 9))):
        kind, out = draw(st.sampled_from(("MatMul", "Gemm", "unary", "Add", "Mul"))), f"t{number}"
        first, second = draw(st.sampled_from(tensors)), draw(st.sampled_from(tensors))
        if kind == "MatMul":
            constants[f"w{number}"] = matrix(8, 8, seed=number)
            nodes.append(helper.make_node("MatMul", [first, f"w{number}"], [out]))
        elif kind == "Gemm":
            constants[f"w{number}"] = matrix(8, 8, seed=number)
            nodes.append(helper.make_node("Gemm", [first, f"w{number}", second], [out], transB=1, beta=0.5))
        elif kind == "unary":
            nodes.append(helper.make_node(draw(st.sampled_from(UNARY)), [first], [out]))
        else:
            nodes.append(helper.make_node(kind, [first, second], [f"{out}_"]))
            nodes.append(helper.make_node("Tanh", [f"{out}_"], [out]))
        products += kind in ("MatMul", "Gemm")
        tensors.append(out)
    made = tensors[2:]
    outputs = draw(st.lists(st.sampled_from(made), min_size=1, max_size=3, unique=True))
    return build(nodes, {"x": ["n", 8], "z": ["n", 8]}, {name: ["n", 8] for name in outputs}, constants), products


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=graphs(), rows=st.integers(1, 3))
def test_random_graphs(drawn: tuple[onnx.ModelProto, int], rows: int, tmp_path: Path) -> None:
    proto, products = drawn
    path = saved(proto, tmp_path)
    feeds = {"x": normal(rows, 8), "z": normal(rows, 8, seed=1)}
    with Session(path, min_macs=0, device=DEVICE) as session:
        assert steps(session).count("P") <= products  # what no output needs is left out
        assert "SS" not in steps(session)
        results = session.run(None, feeds)
    for result, other in zip(results, reference(path, feeds), strict=True):
        np.testing.assert_allclose(result, other, atol=0.02 * (1 + np.abs(other).max()))


def test_only_what_is_still_needed_is_kept(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    model = read_model(saved(build(nodes, {"x": (2, 8)}, {"y": None}, {"w": matrix(8, 8)}), tmp_path))
    plan = cut(model, choose(model, min_macs=0))
    assert last_uses(plan) == {0: ["x"], 1: ["a"], 2: ["b"]}


def test_large_products_go_to_the_npu_and_small_ones_do_not(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "large"], ["a"], name="large"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "small"], ["y"], name="small"),
    ]
    constants = {"large": matrix(512, 512), "small": matrix(512, 2)}
    path = saved(build(nodes, {"x": (256, 512)}, {"y": None}, constants), tmp_path)
    model = read_model(path)
    on_npu = {choice.name: choice.on_npu for choice in choose(model, ROCKET).values()}
    assert list(on_npu.values()) == [True, False]
    limits = [sum(choice.on_npu for choice in choose(model, ROCKET, limit).values()) for limit in (0, 10**6, 10**9)]
    assert limits == [2, 1, 0]


def test_sizes_are_known_in_models_of_the_first_format(tmp_path: Path) -> None:
    """There, constants are inputs too."""
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    model = build([node], {"x": (1, 3, 9, 9), "w": (4, 3, 3, 3)}, {"y": None}, {"w": normal(4, 3, 3, 3)}, opset=8)
    model.ir_version = 3
    path = saved(model, tmp_path)
    (choice,) = choose(read_model(path), min_macs=0).values()
    assert choice.cost is not None
    assert (choice.cost.rows, choice.cost.macs) == (49, 49 * 27 * 4)
    with Session(path, min_macs=0, device=DEVICE) as session:
        assert [argument.name for argument in session.get_inputs()] == ["x"]


def simple(folder: Path) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Tanh", ["h"], ["y"])]
    return saved(build(nodes, {"x": ["n", 8]}, {"y": ["n", 4], "h": ["n", 4]}, {"w": matrix(8, 4)}), folder)


def test_outputs_by_name_as_onnxruntime_gives_them(tmp_path: Path) -> None:
    path, feeds = simple(tmp_path), {"x": normal(2, 8)}
    with Session(path, min_macs=0, device=DEVICE) as session:
        tanh, product = session.run(None, feeds)
        assert np.array_equal(session.run(["h", "y"], feeds)[0], product)
        assert np.array_equal(session.run(["y"], feeds)[0], tanh)


@pytest.mark.parametrize(
    ("outputs", "feeds", "message"),
    [
        (["z"], {"x": normal(2, 8)}, "has no output 'z'; it has y, h"),
        (None, {}, "the input 'x' is missing"),
        (None, {"x": normal(2, 8), "w": normal(8, 4)}, "has no input 'w'; it has x"),
        (None, {"x": normal(2, 8).astype(np.float64)}, r"'x' is float64, not tensor\(float\)"),
        (None, {"x": normal(2, 7)}, r"'x' has the shape \(2, 7\), not \('n', 8\)"),
        (None, {"x": normal(8)}, r"'x' has the shape \(8,\)"),
        (None, {"x": np.full((1, 8), np.nan, np.float32)}, "A holds NaN or infinity"),
    ],
)
def test_what_is_wrong_with_a_run(
    outputs: list[str] | None, feeds: dict[str, Array], message: str, tmp_path: Path
) -> None:
    with Session(simple(tmp_path), min_macs=0, device=DEVICE) as session:
        with pytest.raises(DelegateError, match=message) as raised:
            session.run(outputs, feeds)
        assert "\n" not in str(raised.value)
        assert session.run(None, {"x": normal(1, 8)})[0].shape == (1, 4)  # the session is as good as before


def test_a_folder_is_the_model_again(tmp_path: Path) -> None:
    path, feeds = simple(tmp_path), {"x": normal(3, 8)}
    model = read_model(path)
    write_folder(cut(model, choose(model, min_macs=0)), tmp_path / "parts")
    assert {file.name for file in (tmp_path / "parts").iterdir()} == {"plan.json", "products.npz", "segment-1.onnx"}
    with Session(path, min_macs=0, device=DEVICE) as session, Session(tmp_path / "parts") as again:
        assert again.get_inputs() == session.get_inputs()
        assert again.get_outputs() == session.get_outputs()
        for one, other in zip(again.run(None, feeds), session.run(None, feeds), strict=True):
            assert np.array_equal(one, other)
    with pytest.raises(DelegateError, match="is cut already"):
        Session(tmp_path / "parts", min_macs=1)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "no plan": lambda folder: (folder / "plan.json").unlink(),
    "no JSON": lambda folder: (folder / "plan.json").write_text("{"),
    "another format": lambda folder: (folder / "plan.json").write_text('{"format": 2}'),
    "no steps": lambda folder: (folder / "plan.json").write_text('{"format": 1}'),
    "a list": lambda folder: (folder / "plan.json").write_text("[]"),
    "no segment": lambda folder: (folder / "segment-1.onnx").unlink(),
    "a damaged segment": lambda folder: (folder / "segment-1.onnx").write_bytes(b"\xff" * 50),
    "no arrays": lambda folder: (folder / "products.npz").write_bytes(b"PK"),
    "pickled arrays": lambda folder: np.savez(folder / "products.npz", **{"0.matrix.0": np.array([{}], object)}),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_said_in_one_line(name: str, tmp_path: Path) -> None:
    model = read_model(simple(tmp_path))
    write_folder(cut(model, choose(model, min_macs=0)), tmp_path / "parts")
    DAMAGES[name](tmp_path / "parts")
    with pytest.raises(ModelError, match="parts") as raised:
        Session(tmp_path / "parts", device=DEVICE)
    assert "\n" not in str(raised.value)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    whole = simple(tmp_path).read_bytes()
    contents = {"empty": b"", "text": b"hello world", "zeros": bytes(100), "truncated": whole[: len(whole) // 2]}
    for name, content in contents.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=rf"{name}\.onnx") as raised:
            Session(path)
        assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match=r"missing\.onnx cannot be read: No such file or directory"):
        Session(tmp_path / "missing.onnx")
    unknown = build([helper.make_node("Frobnicate", ["x"], ["y"])], {"x": (1,)}, {"y": None}, {})
    with pytest.raises(ModelError, match="onnxruntime does not take it"):
        Session(saved(unknown, tmp_path, "unknown.onnx"))


Command = Callable[..., tuple[object, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """split-onnx with some arguments: (what the process would exit with, its stdout)."""

    def run(*arguments: object) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["delegate", "split-onnx", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, capsys.readouterr().out

    return run


def test_the_command_says_what_runs_where(command: Command, tmp_path: Path) -> None:
    options = ("--min-macs", 0, "--size", "n=3", "-o", tmp_path / "parts", "--device", "simulator")
    status, text = command(simple(tmp_path), *options)
    assert status == 0
    assert "3×8×4" in text
    assert "products by constants on the NPU: 1 of 1; 100.0 % of their 0.000 million MACs" in text
    assert "output y: differs from onnxruntime by " in text
    assert "of the bound of fp16 factors and fp32 sums" in text
    assert (tmp_path / "parts" / "plan.json").exists()


def test_the_command_for_programs(command: Command, tmp_path: Path) -> None:
    _, text = command(simple(tmp_path), "--json", "--min-macs", 0, "--device", "simulator", "--cores", 2)
    found = json.loads(text)
    assert found["nodes"][0]["on"] == "NPU"
    (product,) = found["comparison"]["products"]
    assert 0 < product["share"] <= 1
    for output in found["comparison"]["outputs"]:
        assert 0 < output["max"] < 0.01 * output["largest"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["missing.onnx"], "missing.onnx cannot be read: No such file or directory"),
        (["model.onnx", "--size", "m=3"], "model.onnx has no open dimension 'm'; it has n"),
        (["model.onnx", "--size", "n=0"], "--size n=0: NAME=N, N at least 1"),
        (["model.onnx", "--kernel", "other"], "--kernel other: rocket or rknpu"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(
    arguments: list[str], line: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simple(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert command(*arguments) == (f"error: {line}", "")


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['onnxruntime'] = None; from delegate.__main__ import main; main()"
    words = [sys.executable, "-c", program, "split-onnx", str(tmp_path / "model.onnx")]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    expected = "error: onnxruntime is not installed; pip install 'teflon-rknpu[onnx]' brings it\n"
    assert (result.returncode, result.stderr) == (1, expected)


def test_every_segment_is_a_model_of_its_own(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("Max", ["b", "a"], ["y"]),
    ]
    model = read_model(saved(build(nodes, {"x": (2, 8)}, {"y": (2, 8)}, {"w": matrix(8, 8)}), tmp_path))
    plan = cut(model, choose(model, min_macs=0))
    segments = [step for step in plan.steps if isinstance(step, Segment)]
    assert [(part.inputs, part.outputs) for part in segments] == [(("x",), ("a",)), (("a", "b"), ("y",))]
    for part in segments:
        onnx.checker.check_model(part.proto)
        assert not part.proto.graph.initializer  # the matrix is the product's
