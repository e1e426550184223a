"""`python -m delegate explain` and `ops`: every kind of refusal, forms, sums, and the page of operators."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chosen import DEVICE
from layers import EVERY_FORM, PROVEN, addition, convolution, feature, graph
from tflite_writer import Builder, Model, write
from typer.testing import CliRunner

from delegate.__main__ import app, main
from delegate.errors import DelegateError
from delegate.hw.soc import BS_CLAMP, CHANNEL_GAIN, FLYING_SCALE, NORM_SHIFT, OPERAND_GAIN, Target
from delegate.ir import AnyLayer, Node, View
from delegate.ops import OPERATORS, Operator, Rule
from delegate.options import Options, parse
from delegate.partition import NOT_NEEDED, ONLY_NAMES, QUANTIZE, TAKE_ALL, Selection
from delegate.tools.explain import PROVEN as PROVEN_FORM
from delegate.tools.explain import REFUSED, Row, explain, explain_model, needed_forms, notes, same
from delegate.tools.operators import count_by_operator, count_tests, dtypes, form_is_needed, forms_of, page

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = ROOT / "models" / "mobilenet_digits.tflite"
SIMULATOR = {"device": "simulator"}
ABSENT = "rknpu" if DEVICE == "rocket" else "rocket"  # from a machine without a board


def save(model: Model, folder: Path) -> Path:
    (folder / "model.tflite").write_bytes(write(model))
    return folder / "model.tflite"


def rows_of(model: Model, folder: Path, **given: str) -> tuple[Row, ...]:
    return explain_model(save(model, folder), parse(SIMULATOR | given, {})).rows


@pytest.fixture
def without_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the models here have an operator that stays on the CPU."""
    monkeypatch.delitem(OPERATORS, "SOFTMAX", raising=False)


def softmax_model() -> Model:
    """A convolution, a softmax behind it."""
    builder = Builder()
    source = builder.tensor((1, 8, 8, 4), "int8", 0.5, 3)
    weight, bias = np.ones((4, 1, 1, 4), np.int8), np.zeros(4, np.int32)
    made = builder.convolution(source, weight, 0.1, (0.5, 3), bias=bias)
    return builder.finish([source], [builder.softmax(made)])


@pytest.mark.usefixtures("without_softmax")
def test_the_embedded_model() -> None:
    """All but the softmax on the NPU; shares add up; every number of the summary is that of the rows."""
    found = explain_model(EMBEDDED, Options(device="simulator"))
    rows, summary = found.rows, found.summary
    refused = [row for row in rows if row.partition is None]
    assert [row.operator for row in refused] == ["SOFTMAX"]
    assert all(row.reason and row.remedy for row in refused)
    assert not any(row.reason or row.remedy for row in rows if row.partition is not None)
    assert sum(row.mac_share or 0 for row in rows) == pytest.approx(1)
    assert summary.macs == summary.macs_on_npu == sum(row.macs for row in rows) > 7_000_000
    assert (summary.operators, summary.operators_on_npu) == (len(rows), len(rows) - 1)
    assert summary.partitions == (len(rows) - 1,)
    assert summary.cpu == {"SOFTMAX": 1}
    assert rows[0].inputs == ("1x96x96x3",)
    assert rows[0].dtypes == ("int8",)
    assert {row.unproven for row in rows if row.macs} == {(NORM_SHIFT,)}
    assert {row.without for row in rows if row.macs} == {PROVEN_FORM}
    proven = explain_model(EMBEDDED, Options(device="simulator", unproven="never"))
    assert proven.summary.operators_on_npu == summary.operators_on_npu
    assert proven.summary.unproven == 0 < summary.unproven


@pytest.mark.usefixtures("without_softmax")
def test_an_operator_that_is_not_supported(tmp_path: Path) -> None:
    row = rows_of(softmax_model(), tmp_path)[1]
    assert "divides floats only" in row.reason
    assert "apply it to the outputs" in row.remedy


def float_model() -> Model:
    builder = Builder()
    source = builder.tensor((1, 8, 8, 4), "float32")
    weight = builder.constant(np.ones((4, 1, 1, 4), np.float32))
    bias = builder.constant(np.zeros(4, np.float32))
    made = builder.tensor((1, 8, 8, 4), "float32")
    window = {"Padding": 0, "StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
    builder.operator("CONV_2D", (source, weight, bias), made, window)
    total = builder.tensor((1, 8, 8, 4), "float32")
    builder.operator("ADD", (made, source), total)
    last = builder.tensor((1, 8, 8, 4), "float32")
    builder.operator("SOFTMAX", (total,), last, {"Beta": 1.0})
    return builder.finish([source], [last])


def test_a_float_model_is_refused_whole_with_one_remedy(tmp_path: Path) -> None:
    found = explain_model(save(float_model(), tmp_path), Options(device="simulator"))
    assert [row.partition for row in found.rows] == [None] * 3
    assert {row.remedy for row in found.rows} == {QUANTIZE}
    assert all(row.reason for row in found.rows)
    assert found.summary.macs == 8 * 8 * 4 * 4
    assert found.summary.macs_on_npu == found.summary.operators_on_npu == 0
    assert found.summary.partitions == ()


def test_a_rule_that_does_not_hold(tmp_path: Path) -> None:
    builder = Builder()
    source = builder.tensor((1, 32, 32, 4), "int8", 0.5, 3)
    weight, bias = np.ones((4, 1, 1, 4), np.int8), np.zeros(4, np.int32)
    made = builder.convolution(source, weight, 0.1, (0.5, 3), bias=bias, stride=(11, 11))
    (row,) = rows_of(builder.finish([source], [made]), tmp_path)
    assert row.partition is None
    assert row.reason.startswith("not so that stride is at most 7")
    assert row.remedy


def clamped_model() -> Model:
    """RELU6 that ends within the range of 8 bits."""
    builder = Builder()
    source = builder.tensor((1, 8, 8, 4), "int8", 0.5, 3)
    weight, bias = np.ones((4, 1, 1, 4), np.int8), np.zeros(4, np.int32)
    return builder.finish([source], [builder.convolution(source, weight, 0.1, (0.5, 3), bias=bias, activation="RELU6")])


def product_model() -> Model:
    """Of two computed tensors, which the element-wise unit alone can do."""
    builder = Builder()
    sources = [builder.tensor((1, 8, 8, 4), "int8", 0.5, point) for point in (3, -4)]
    return builder.finish(sources, [builder.mul(sources[0], sources[1], (20.0, 1))])


def test_a_form_that_may_not_be_used(tmp_path: Path) -> None:
    (refused,) = rows_of(product_model(), tmp_path, unproven="never")
    assert refused.partition is None
    assert FLYING_SCALE in refused.reason
    assert "unproven" in refused.remedy
    (taken,) = rows_of(product_model(), tmp_path)
    assert taken.partition == 0
    assert FLYING_SCALE in taken.unproven
    assert taken.without == REFUSED


def test_an_activation_has_a_proven_form(tmp_path: Path) -> None:
    (proven,) = rows_of(clamped_model(), tmp_path, unproven="never")
    assert (proven.partition, proven.unproven) == (0, ())
    (taken,) = rows_of(clamped_model(), tmp_path)
    assert BS_CLAMP in taken.unproven
    assert taken.without == PROVEN_FORM


def test_a_partition_that_computes_nothing(tmp_path: Path) -> None:
    builder = Builder()
    source = builder.tensor((1, 1, 1, 20), "int8", 0.5, 3)
    (row,) = rows_of(builder.finish([source], [builder.reshape(source, (1, 20))]), tmp_path)
    assert (row.partition, row.reason, row.remedy) == (None, ONLY_NAMES, NOT_NEEDED)
    assert row.mac_share is None


@pytest.mark.parametrize(
    ("options", "reason", "remedy"),
    [
        ({"partitioning": "cost"}, "the NPU would take", TAKE_ALL),
        ({"min_nodes_per_partition": "2"}, "its partition has 1 of the 2 nodes", "min_nodes_per_partition to 1"),
    ],
)
def test_partitions_that_the_options_leave_out(
    options: dict[str, str], reason: str, remedy: str, tmp_path: Path
) -> None:
    (row,) = rows_of(clamped_model(), tmp_path, **options)
    assert row.partition is None
    assert reason in row.reason
    assert remedy in row.remedy


def test_forms_are_those_that_the_layers_are_made_of() -> None:
    source, other = feature(0, 8, 8, 16, scale=0.02), feature(1, 8, 8, 16, scale=0.03)
    plain, _ = convolution(1, source, 16, weight_scales=tuple(np.linspace(0.01, 0.02, 16)))
    single, _ = convolution(1, source, 16)
    clamped, _ = convolution(1, source, 16, activation="RELU6", zero_point=3, scale=0.1)
    total, _ = addition(2, source, other)
    assert needed_forms(plain, EVERY_FORM) == ((CHANNEL_GAIN,), PROVEN_FORM)
    assert needed_forms(plain, PROVEN) == ((), "")
    assert needed_forms(single, EVERY_FORM) == ((NORM_SHIFT,), PROVEN_FORM)
    assert needed_forms(clamped, EVERY_FORM) == (tuple(sorted((NORM_SHIFT, BS_CLAMP))), PROVEN_FORM)
    assert needed_forms(total, EVERY_FORM) == ((OPERAND_GAIN,), PROVEN_FORM)
    assert needed_forms(single, PROVEN) == ((), "")
    assert needed_forms(single, Target(PROVEN.soc, frozenset({OPERAND_GAIN}))) == ((), "")


def test_layers_are_compared_in_every_field() -> None:
    source = feature(0, 8, 8, 16)
    node, _ = convolution(1, source, 16)
    (a,), (b,) = (OPERATORS["CONV_2D"].lower(node, PROVEN) for _ in range(2))
    assert a is not b
    assert same(a, b)
    b.bias[3] += 1
    assert not same([a], [b])
    assert not same((a, a), (a,))
    assert not same(a, None)
    assert not same(np.zeros(2, np.int8), np.zeros(2, np.int16))


def test_limits_of_the_device_count_for_the_whole_graph() -> None:
    """explain asks partition.examine, so it says what the plugin would do."""
    source = feature(0, 8, 8, 16)
    first, made = convolution(1, source, 16)
    stays = Node(2, "NOTHING_LIKE_IT", (made,), (feature(21, 8, 8, 16),), {})
    last, output = convolution(3, stays.outputs[0], 16)
    rows = explain(graph([first, stays, last], [source], [output]), EVERY_FORM, Selection(max_partitions=1))
    assert [row.partition for row in rows] == [0, None, None]
    assert "max_delegated_partitions" in rows[2].remedy


Invoke = Callable[..., Any]


@pytest.fixture
def run() -> Invoke:
    def invoke(*arguments: str) -> Any:
        return CliRunner().invoke(app, list(arguments))

    return invoke


@pytest.mark.usefixtures("without_softmax")
def test_the_table_has_a_row_for_each_operator(run: Invoke) -> None:
    result = run("explain", str(EMBEDDED), "--device", "simulator")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    rows = [line for line in lines if line.split() and line.split()[0].isdecimal()]
    assert len(rows) == len(explain_model(EMBEDDED, Options()).rows)
    assert sum("NPU 0" in row for row in rows) == len(rows) - 1
    assert "MACs on the NPU: 100.0 % of 7.49 million" in lines
    assert "on the CPU: 1 × SOFTMAX" in lines
    assert any(line.startswith("to get SOFTMAX (30) accepted: ") for line in lines)


def test_json_is_for_programs(run: Invoke, tmp_path: Path) -> None:
    path = save(float_model(), tmp_path)
    found = json.loads(run("explain", str(path), "--json").output)
    assert [row["operator"] for row in found["rows"]] == ["CONV_2D", "ADD", "SOFTMAX"]
    assert found["rows"][0]["remedy"] == QUANTIZE
    assert found["rows"][0]["mac_share"] == 1.0
    assert found["summary"]["cpu"] == {"ADD": 1, "CONV_2D": 1, "SOFTMAX": 1}


def test_markdown_is_a_table(run: Invoke) -> None:
    lines = run("explain", str(EMBEDDED), "--markdown", "-o", "unproven=never").output.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(explain_model(EMBEDDED, Options()).rows)
    assert len({line.count("|") for line in table}) == 1
    assert table[2].startswith("| 0 | CONV_2D | 1x96x96x3 → 1x48x48x8 | int8 | 0.50 | 6.6 % | NPU 0 | proven |")


def test_options_of_the_delegate_count(run: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    by_option = json.loads(run("explain", str(EMBEDDED), "--json", "-o", "partitioning=cost").output)
    assert by_option["summary"]["operators_on_npu"] == 0
    monkeypatch.setenv("TEFLON_PARTITIONING", "cost")
    assert json.loads(run("explain", str(EMBEDDED), "--json").output) == by_option


def test_both_formats_at_once_are_a_wrong_command_line(run: Invoke) -> None:
    assert run("explain", str(EMBEDDED), "--json", "--markdown").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.tflite"], "cannot be read"),
        ([str(ROOT / "README.md")], "is no TFLite model"),
        ([str(EMBEDDED), "-o", "colour"], "NAME=VALUE"),
        ([str(EMBEDDED), "-o", "colour=red"], "option 'colour' is unknown"),
        ([str(EMBEDDED), "--device", ABSENT], f"device {ABSENT}"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["delegate", "explain", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_that_is_refused_in_part(shared: Path) -> None:
    """Each operator has either a partition, or a reason and a remedy."""
    for partitioning in ("all", "cost"):
        options = Options(device="simulator", partitioning=partitioning)
        found = explain_model(shared / "models" / "deeplabv3_mnv2_pascal_quant.tflite", options)
        assert found.summary.operators == len(found.rows) > found.summary.operators_on_npu > 0
        assert sum(found.summary.partitions) == found.summary.operators_on_npu
        assert sum(found.summary.cpu.values()) == len(found.rows) - found.summary.operators_on_npu
        assert all(bool(row.reason) == bool(row.remedy) == (row.partition is None) for row in found.rows)
        assert len(list(notes(found))) > 4


# The page of operators.


def test_the_page_is_fresh() -> None:
    expected = page(count_tests(ROOT))
    assert (ROOT / "docs" / "operators.md").read_text() == expected, "run python -m delegate ops -o docs/operators.md"


def test_the_page_names_every_operator_rule_and_remedy() -> None:
    text = page(count_by_operator([], OPERATORS))
    for operator in OPERATORS.values():
        assert f"\n## {operator.name}\n" in text
        assert all(rule.text in text and rule.remedy in text for rule in operator.rules)


def test_the_page_can_be_written_or_printed(run: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run("ops", "-o", str(tmp_path / "operators.md")).exit_code == 0
    assert (tmp_path / "operators.md").read_text().startswith("# Operators\n")
    assert isinstance(run("ops", "-o", str(tmp_path / "missing" / "x.md")).exception, DelegateError)
    monkeypatch.chdir(tmp_path)
    printed = run("ops")  # where the tests are not
    assert printed.exit_code == 0
    assert "| [ADD](#add) | int8, uint8 | " in printed.output
    assert "| – |" in printed.output
    (tmp_path / "tests" / "ops").mkdir(parents=True)
    (tmp_path / "tests" / "ops" / "test_broken.py").write_text("import nothing_like_it")
    assert isinstance(run("ops").exception, DelegateError)


def test_tests_are_counted_by_the_words_of_their_names() -> None:
    names = [
        "tests/ops/test_add.py::test_sum[int8]",
        "tests/ops/test_add.py::test_add_to_itself",
        "tests/ops/test_operators.py::test_operator[LEAKY_RELU-auto]",
        "tests/ops/test_operators.py::test_operator[RELU6]",
        "tests/ops/test_operators.py::test_padding",
        "tests/ops/test_operators.py::test_operator[CONV_2D+ADD]",
        "3 tests collected, ADD",
    ]
    counted = count_by_operator(names, ["ADD", "RELU", "LEAKY_RELU", "RELU6", "PAD", "CONV_2D"])
    assert counted == {"ADD": 3, "LEAKY_RELU": 1, "RELU6": 1, "CONV_2D": 1}


def form_is_there(node: Node, target: Target) -> bool:
    return OPERAND_GAIN in target.forms


def compute_nothing(node: Node, target: Target) -> Sequence[AnyLayer | View]:
    return []


def test_forms_are_found_in_the_code() -> None:
    assert forms_of(OPERATORS["MEAN"]) == [NORM_SHIFT]
    assert {NORM_SHIFT, OPERAND_GAIN, BS_CLAMP} <= set(forms_of(OPERATORS["ADD"]))
    assert forms_of(Operator("X", (), compute_nothing)) == []
    assert BS_CLAMP in forms_of(OPERATORS["FULLY_CONNECTED"])  # its rules are CONV_2D's behind one function
    assert not form_is_needed(OPERATORS["ADD"])
    needs_one = Operator("X", (Rule("the form is there", form_is_there),), compute_nothing)
    needs_input = Operator("X", (Rule("it has inputs", lambda node, target: len(node.inputs) > 0),), compute_nothing)
    looks_first = Operator(
        "X", (Rule("no", lambda node, target: bool(node.inputs[0]) and bool(target.forms)),), compute_nothing
    )
    assert form_is_needed(needs_one)
    assert not form_is_needed(needs_input)
    assert not form_is_needed(looks_first)


def test_types_are_those_that_rules_name() -> None:
    rules = [Rule("a is uint8 or int8", form_is_there), Rule("the bias is int32", form_is_there)]
    assert dtypes(rules) == ["int32", "int8", "uint8"]
