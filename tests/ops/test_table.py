"""Operators of one tensor: the outputs of all 256 values against TFLite's own kernels, the tables, and whole models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from chosen import on_device
from layers import EVERY_FORM, PROVEN, feature, graph, quant
from tflite_writer import Builder, Model, write

import delegate
from benchmarks import harness
from delegate import runtime
from delegate.compile import compile_graph
from delegate.errors import CompileError
from delegate.hw.sim import options as simulation
from delegate.hw.sim.device import Simulator
from delegate.hw.soc import BS_CLAMP, FLYING_SCALE, NORM_SHIFT, TABLE, Target
from delegate.ir import Elementwise, Node
from delegate.ops import OPERATORS
from delegate.ops.unary import KERNELS, outputs
from delegate.options import CACHE_OFF, Options
from delegate.partition import refusals
from delegate.quantize import domain_offset
from delegate.tflite import read_graph

# What the reference kernels of tflite-runtime 2.14 do not have; ELU is in the optimized ones of every runtime.
NEWER = ("LOG", "NEG", "SQRT")
WITHOUT_TABLE = ("ABS", "LEAKY_RELU", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1")
CASES = [(op, dtype) for op, (_, dtypes) in KERNELS.items() for dtype in dtypes] + [
    ("GELU approximate", "int8"), ("GELU approximate", "uint8"),
]  # fmt: skip


def drawn(
    rng: np.random.Generator, case: str, dtype: str, shape: tuple[int, ...], spread: float = 50.0
) -> tuple[Model, str]:
    """A model of one operator, its scales up to ``spread`` times above or below 0.03, zero points anywhere."""
    op, _, variant = case.partition(" ")
    info = np.iinfo(dtype)
    scales = 0.03 * np.exp(rng.uniform(-np.log(spread), np.log(spread), 2))
    points = rng.integers(info.min, info.max + 1, 2)
    if op in ("SQRT", "RSQRT"):
        points[0] = info.min
    builder = Builder()
    source = builder.tensor(shape, dtype, float(scales[0]), int(points[0]))
    output = (1 / 256, int(rng.choice([info.min, points[1]]))) if op == "LOGISTIC" else (scales[1], int(points[1]))
    options: dict[str, Any] = {}
    if op == "LEAKY_RELU":
        options = {"Alpha": float(rng.choice([0.0, 1.0, -0.3, rng.uniform(0, 1), rng.uniform(1, 3)]))}
    if op == "GELU":
        options = {"Approximate": variant == "approximate"}
    return builder.finish([source], [builder.unary(op, source, output, options)]), op


def interpreter(content: bytes, op: str, **options: str) -> Any:
    """One on TFLite's reference kernels, of which ELU alone is missing; with options, the NPU before them."""
    module = harness.runtime()
    kernels = module.OpResolverType
    resolver = kernels.BUILTIN_WITHOUT_DEFAULT_DELEGATES if op == "ELU" else kernels.BUILTIN_REF
    delegates = [delegate.load(**on_device(**options))] if options else []
    made = module.Interpreter(
        model_content=content, experimental_op_resolver_type=resolver, experimental_delegates=delegates
    )
    made.allocate_tensors()
    assert not options or len(made._get_ops_details()) == 2, f"{op} is not on the NPU"
    return made


def skip_newer(op: str) -> None:
    if op in NEWER and harness.runtime().__name__ == "tflite_runtime.interpreter":
        pytest.skip(f"tflite-runtime 2.14 has no {op} of int8")


def all_values(dtype: str) -> npt.NDArray[Any]:
    info = np.iinfo(dtype)
    return np.arange(info.min, info.max + 1).astype(dtype).reshape(1, 256)


@pytest.mark.parametrize(("case", "dtype"), CASES)
def test_the_outputs_of_all_values_are_tflites(case: str, dtype: str) -> None:
    """Floats differ from the C library's in their last bit at most, which one output in a million may show."""
    rng = np.random.default_rng(sum(case.encode()) + len(dtype))
    compared = differing = 0
    for _ in range(80):
        model, op = drawn(rng, case, dtype, (1, 256))
        skip_newer(op)
        content = write(model)
        node = read_graph(content).nodes[0]
        try:
            got = outputs(KERNELS[op][0], node) + domain_offset(dtype)
        except CompileError:
            assert op in ("EXP", "HARD_SWISH")
            continue
        (expected,) = harness.infer(interpreter(content, op), [all_values(dtype)])
        difference = np.abs(got - expected.reshape(-1))
        assert difference.max() <= 1
        compared, differing = compared + 256, differing + int((difference > 0).sum())
    assert compared > 5000
    assert differing <= (1 if op in ("GELU", "TANH", "LOGISTIC", "EXP", "ELU", "LOG") else 0)


def unary_node(op: str, dtype: str = "int8", **params: Any) -> Node:
    """A node of 3 x 5 pixels and 20 channels."""
    low = np.iinfo(dtype).min
    source = feature(1, 3, 5, 20, dtype, 0.04, low)
    return Node(
        0, op, (source,), (feature(2, 3, 5, 20, dtype, 0.05, low + 64),), {"alpha": 0.1, "approximate": False} | params
    )


@pytest.mark.parametrize("op", KERNELS)
def test_a_table_has_what_the_silicon_wants(op: str) -> None:
    """Every value hits an entry of the upper table far from the join; no entry is 0 and none equals the next."""
    node = unary_node(op)
    (layer,) = OPERATORS[op].lower(node, EVERY_FORM)
    assert isinstance(layer, Elementwise) and layer.table is not None
    assert layer.table.dtype == np.int16 and layer.table.shape == (2, 513)
    for table in layer.table:
        assert (table != 0).all() and (np.diff(table.astype(int)) != 0).all()
    index = (np.arange(-128, 128) + layer.main_offset) * layer.main_multiplier
    assert layer.main_shift == 0 and (index % 32 == 0).all() and index.min() >= 32 * 8 and index.max() <= 32 * 512
    entries = layer.table[1][index // 32].astype(int)
    run = layer.requantize
    got = np.floor(entries * run.multiplier / 2.0**run.shift + 0.5) + run.offset
    np.testing.assert_array_equal(got, outputs(KERNELS[op][0], node))


SHAPES = ((2, 5, 3, 20), (1, 7, 9, 16), (3, 1, 1, 1), (4, 33), (50,), (1, 6, 65))


@pytest.mark.parametrize(("case", "dtype"), CASES)
def test_models(case: str, dtype: str) -> None:
    """Exact with a table; without, within 1, or refused by name."""
    rng = np.random.default_rng(sum(case.encode()))
    info = np.iinfo(dtype)
    for shape in SHAPES:
        model, op = drawn(rng, case, dtype, shape, spread=3.0)
        skip_newer(op)
        content = write(model)
        (node,) = read_graph(content).nodes
        if refusals(node, graph([node], [], []), EVERY_FORM):
            assert op == "HARD_SWISH"
            continue
        values = rng.integers(info.min, info.max + 1, shape).astype(dtype)
        (expected,) = harness.infer(interpreter(content, op), [values])
        (exact,) = harness.infer(interpreter(content, op, unproven="auto"), [values])
        assert np.abs(exact.astype(int) - expected).max() <= (op in ("GELU", "TANH", "LOGISTIC", "EXP", "ELU", "LOG"))
        if op not in WITHOUT_TABLE:
            assert TABLE in refusals(node, graph([node], [], []), PROVEN)[0]
            continue
        (proven,) = harness.infer(interpreter(content, op, unproven="never"), [values])
        assert np.abs(proven.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("forms", [(), (BS_CLAMP,), (NORM_SHIFT,), (TABLE,), (TABLE, FLYING_SCALE)])
@pytest.mark.parametrize("op", ["RELU", "RELU6", "RELU_N1_TO_1"])
def test_a_rectifier_takes_the_form_that_there_is(op: str, forms: tuple[str, ...]) -> None:
    target = Target(PROVEN.soc, frozenset(forms))
    node = unary_node(op)
    layers = OPERATORS[op].lower(node, target)
    assert refusals(node, graph([node], [], []), target) == ()
    if FLYING_SCALE in forms or (BS_CLAMP in forms and op != "RELU_N1_TO_1"):
        assert len(layers) == 1
    else:
        assert [getattr(layer, "operation", None) for layer in layers[1:]] == (
            ["max"] if op == "RELU" else ["max", "min"]
        )
    assert {layer.operator for layer in layers if not hasattr(layer, "whole")} == {op}


def test_refusals_name_their_reason() -> None:
    node = unary_node("EXP")
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None

    def refused(node: Node, target: Target = EVERY_FORM) -> str:
        return " ".join(refusals(node, graph([node], [], []), target))

    assert refused(node) == ""
    assert TABLE in refused(node, PROVEN)
    assert "int8, the only type" in refused(unary_node("EXP", "uint8"))
    other = unary_node("TANH")
    assert "one dtype" in refused(replace(other, outputs=(replace(output, dtype="uint8", quant=quant(0.05, 100)),)))
    assert "one shape" in refused(replace(node, outputs=(replace(output, shape=(1, 5, 3, 20)),)))
    large = replace(source, shape=(1, 1, 3000, 20))
    assert "extents" in refused(replace(node, inputs=(large,), outputs=(replace(output, shape=large.shape),)))
    assert "computed" in refused(replace(node, inputs=(replace(source, data=np.zeros(source.shape, np.int8)),)))
    assert "32 bits" in refused(replace(node, inputs=(replace(source, quant=quant(0.5, -128)),)))
    assert "positive" in refused(replace(node, inputs=(replace(source, quant=quant(float("nan"))),)))
    root = unary_node("SQRT")
    assert refused(root) == ""
    assert "least value" in refused(replace(root, inputs=(replace(source, quant=quant(0.04, -127)),)))
    for op in ("SIN", "COS", "SQUARE", "FLOOR"):
        assert "not supported" in refused(replace(node, op=op))


@pytest.mark.parametrize("scales", [(1e-40, 1e-40), (1e-40, 3e38), (3e38, 1e-40), (3e38, 3e38), (1.0, float("inf"))])
@pytest.mark.parametrize("op", KERNELS)
def test_hostile_scales_are_refused_or_computed(op: str, scales: tuple[float, float]) -> None:
    for alpha in (0.1, float("nan"), 1e-46, -3e38):
        node = unary_node(op, alpha=alpha)
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        ends = (replace(source, quant=quant(scales[0], -128)), replace(output, quant=quant(scales[1], 5)))
        hostile = replace(node, inputs=ends[:1], outputs=ends[1:])
        for target in (EVERY_FORM, PROVEN):
            if not refusals(hostile, graph([hostile], [], []), target):
                assert OPERATORS[op].lower(hostile, target)


@pytest.mark.parametrize("forms", [(), (NORM_SHIFT,), (TABLE, FLYING_SCALE), (NORM_SHIFT, TABLE, FLYING_SCALE)])
def test_quantize_takes_the_form_that_is_exact(forms: tuple[str, ...]) -> None:
    source, output = feature(1, 3, 5, 20, "uint8", 0.04, 100), feature(2, 3, 5, 20, "int8", 0.05, 64)
    node = Node(0, "QUANTIZE", (source,), (output,), {})
    target = Target(PROVEN.soc, frozenset(forms))
    (layer,) = OPERATORS["QUANTIZE"].lower(node, target)
    assert isinstance(layer, Elementwise) == (forms == (TABLE, FLYING_SCALE))
    assert refusals(node, graph([node], [], []), target) == ()


@pytest.mark.parametrize("unproven", ["auto", "never"])
@pytest.mark.parametrize(("first", "second"), [("uint8", "int8"), ("int8", "uint8"), ("int8", "int8")])
def test_batches_are_converted(first: str, second: str, unproven: str) -> None:
    """Beside an operator that computes, or the conversion would stay on the CPU."""
    rng = np.random.default_rng(3)
    builder = Builder()
    source = builder.tensor((3, 5, 4, 20), first, 0.04, 30)
    converted = builder.quantize(builder.unary("RELU", source), second, (0.03, 20))
    content = write(builder.finish([source], [converted]))
    made = harness.npu_interpreter(content, **on_device(unproven=unproven))
    values = harness.random_inputs(made, rng)
    (got,), (expected,) = harness.infer(made, values), harness.infer(harness.reference_interpreter(content), values)
    assert np.abs(got.astype(int) - expected).max() <= (unproven == "never")


@pytest.mark.parametrize(("scale", "zero_point"), [(0.01, 20), (0.007, 0), (0.001, -5)])
def test_a_fused_activation_from_minus_1_to_1(scale: float, zero_point: int) -> None:
    """Below the zero point BS cannot clamp: comparisons do, where the ends of 8 bits do not."""
    builder = Builder()
    rng = np.random.default_rng(4)
    source = builder.tensor((1, 6, 6, 16), "int8", 0.02, 3)
    weight, bias = rng.integers(-127, 128, (8, 1, 1, 16)).astype(np.int8), np.zeros(8, np.int32)
    out = builder.convolution(source, weight, 0.01, (scale, zero_point), bias=bias, activation="RELU_N1_TO_1")
    content = write(builder.finish([source], [out]))
    (node,) = read_graph(content).nodes
    assert refusals(node, graph([node], [], []), EVERY_FORM) == ()
    compared = [layer for layer in OPERATORS[node.op].lower(node, EVERY_FORM) if isinstance(layer, Elementwise)]
    assert bool(compared) == (scale == 0.01)
    made = harness.npu_interpreter(content, **on_device())
    values = harness.random_inputs(made, rng)
    (got,), (expected,) = harness.infer(made, values), harness.infer(harness.reference_interpreter(content), values)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("rounding", ["even", "away", "floor"])
@pytest.mark.parametrize("op", KERNELS)
def test_no_doubt_about_the_silicon_matters(op: str, rounding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the tables interpolate, and without a warning about entries of 0, flat runs or the join."""
    device = Simulator(options=simulation.Options(interpolation=rounding))
    monkeypatch.setattr(runtime, "shared_device", lambda *_: device)
    node = unary_node(op)
    ends = (replace(feature(1, 16, 16, 1), quant=node.inputs[0].quant), replace(node.outputs[0], shape=(1, 16, 16, 1)))
    node = replace(node, inputs=ends[:1], outputs=ends[1:])
    session = runtime.Session(graph([node], [ends[0]], [ends[1]]), Options("simulator", CACHE_OFF))
    got = np.zeros((1, 16, 16, 1), np.int8)
    session.invoke([np.arange(-128, 128).astype(np.int8).reshape(got.shape)], [got])
    np.testing.assert_array_equal(got.reshape(-1), outputs(KERNELS[op][0], node))
    assert device.warnings == {}


def test_a_chain_has_the_tables_of_one_layer() -> None:
    """Only the first that are loaded in a chain take effect (S-218); images of one layer share theirs."""
    source = replace(feature(1, 4, 4, 16), shape=(3, 4, 4, 16))
    tensors = [source, *(replace(source, index=index) for index in (2, 3, 4))]
    nodes = [
        Node(index, op, (tensors[index],), (tensors[index + 1],), {})
        for index, op in enumerate(("TANH", "EXP", "HARD_SWISH"))
    ]
    for full in (False, True):
        (job,) = compile_graph(graph(nodes, [source], [tensors[-1]]), EVERY_FORM, full).jobs
        assert job.chains == (range(3), range(3, 6), range(6, 9))
