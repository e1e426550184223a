"""The library inside a TFLite interpreter, with a stand-in for the compiled partition.

What the NPU computes is tested elsewhere (test_end_to_end.py); here it is what TFLite and the plugin say to each other.
"""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import tflite_writer
from generate import random_graph

import delegate
from benchmarks import harness
from delegate.errors import CompileError, DelegateError, DeviceError
from delegate.ir import Graph, Tensor
from delegate.ops import OPERATORS
from delegate.options import Options
from delegate.tflite import read_model


class StandIn:
    """A Session that notes what is done to it and answers with its number."""

    made: ClassVar[list[StandIn]] = []
    failure: BaseException | None = None  # raised by the next one that is made
    from_cache = False
    cache_note = None

    def __init__(self, graph: Graph, options: Options) -> None:
        if StandIn.failure is not None:
            raise StandIn.failure
        self.graph, self.options = graph, options
        self.closed = False
        self.invoke_failure: BaseException | None = None
        StandIn.made.append(self)
        self.value = len(StandIn.made)

    def invoke(self, inputs: Sequence[np.ndarray[Any, Any]], outputs: Sequence[np.ndarray[Any, Any]]) -> None:
        assert not self.closed
        if self.invoke_failure is not None:
            raise self.invoke_failure
        assert [a.shape for a in inputs] == [self.graph.tensors[i].shape for i in self.graph.inputs]
        assert [a.dtype for a in inputs] == [self.graph.tensors[i].dtype for i in self.graph.inputs]
        for array in outputs:
            array[...] = self.value

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class StandInDevice:
    name = "stand-in"


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """delegate.plugin of this process, without pools, so that models here can have an operator that stays on the CPU.

    At the end nothing of the test is left in it.
    """
    with pytest.raises(DelegateError):  # any call starts the embedding, whose module the plugin imports
        delegate.load(unknown="")
    from delegate import plugin as module

    monkeypatch.delenv("TEFLON_DEVICE", raising=False)  # no device of these tests runs a job
    monkeypatch.setattr(module, "kernels", {})  # other tests may have interpreters that live
    monkeypatch.setattr(module, "delegates", {})
    monkeypatch.delitem(OPERATORS, "AVERAGE_POOL_2D")
    monkeypatch.setattr(module, "Session", StandIn)
    monkeypatch.setattr(module, "shared_device", lambda *_: StandInDevice)
    monkeypatch.setattr(module, "passed_over", lambda _: ("device rocket: this is a test",))
    StandIn.made, StandIn.failure = [], None
    yield module
    StandIn.failure = None  # its traceback holds the frames of the test, and these an interpreter
    for session in StandIn.made:
        session.invoke_failure = None
    gc.collect()
    assert not module.kernels
    assert not module.delegates
    assert all(session.closed for session in StandIn.made)


def two_convolutions() -> tflite_writer.Model:
    """convolution, average pool (not for the NPU), convolution: two partitions."""
    builder = tflite_writer.Builder()
    source = builder.tensor((1, 8, 8, 4), "int8", 0.5, 3)
    weight = np.ones((4, 1, 1, 4), np.int8)
    first = builder.convolution(source, weight, 0.1, (0.5, 3), bias=np.zeros(4, np.int32), activation="RELU6")
    pooled = builder.pool(first, "AVERAGE_POOL_2D", (2, 2), (2, 2))
    last = builder.convolution(pooled, weight, 0.1, (0.5, 3), bias=np.zeros(4, np.int32))
    return builder.finish([source], [last])


def interpreter(model: tflite_writer.Model | bytes, *delegates: Any) -> Any:
    content = model if isinstance(model, bytes) else tflite_writer.write(model)
    made = harness.runtime().Interpreter(
        model_content=content, experimental_delegates=list(delegates) or [delegate.load()]
    )
    made.allocate_tensors()
    return made


def output(made: Any) -> np.ndarray[Any, Any]:
    return np.asarray(made.get_tensor(made.get_output_details()[0]["index"]))


def test_partitions_are_claimed_and_run(plugin: ModuleType) -> None:
    made = interpreter(two_convolutions())
    assert [[node.op for node in session.graph.nodes] for session in StandIn.made] == [["CONV_2D"], ["CONV_2D"]]
    made.invoke()
    assert np.all(output(made) == 2)
    del made


def test_a_model_without_anything_for_the_npu_runs(plugin: ModuleType) -> None:
    builder = tflite_writer.Builder()
    source = builder.tensor((1, 4, 4, 4), "uint8", 0.5, 3)
    made = interpreter(builder.finish([source], [builder.softmax(source)]))
    made.invoke()
    assert not StandIn.made


def assert_same_tensor(ours: Tensor, expected: Tensor) -> None:
    assert (ours.index, ours.shape, ours.dtype) == (expected.index, expected.shape, expected.dtype)
    assert (ours.quant is None) == (expected.quant is None)
    if ours.quant is not None and expected.quant is not None:
        np.testing.assert_array_equal(ours.quant.scale, expected.quant.scale)
        np.testing.assert_array_equal(ours.quant.zero_point, expected.quant.zero_point)
        assert ours.quant.axis == expected.quant.axis
    if expected.data is None:
        assert ours.data is None
    else:
        assert ours.data is not None
        assert not ours.data.flags.writeable
        np.testing.assert_array_equal(ours.data, expected.data)


def assert_same_graph(ours: Graph, expected: Graph) -> None:
    """Two readings of one model agree: the interpreter's structs and the file."""
    assert list(ours.tensors) == list(expected.tensors)
    for index, tensor in expected.tensors.items():
        assert_same_tensor(ours.tensors[index], tensor)
    assert len(ours.nodes) == len(expected.nodes)
    for node, other in zip(ours.nodes, expected.nodes, strict=True):
        assert (node.index, node.op, node.version, node.params) == (other.index, other.op, other.version, other.params)
        assert [t and t.index for t in node.inputs] == [t and t.index for t in other.inputs]
        assert [t.index for t in node.outputs] == [t.index for t in other.outputs]


def graph_in_interpreter(content: bytes, plugin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> tuple[Graph, Any]:
    """The graph that the plugin reads from an interpreter, and the interpreter, for the graph's constants are there."""
    graphs: list[Graph] = []
    original = plugin.read_context

    def note(ffi: Any, context: Any) -> Graph:
        graphs.append(original(ffi, context))
        return graphs[-1]

    with monkeypatch.context() as patch:
        patch.setattr(plugin, "read_context", note)
        made = interpreter(content)
    assert len(graphs) == 1
    return graphs[0], made


@pytest.mark.parametrize("seed", range(10))
def test_the_graph_in_the_interpreter_is_that_of_the_file(
    seed: int, plugin: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    content = tflite_writer.write(random_graph(np.random.default_rng(seed)))
    (tmp_path / "model.tflite").write_bytes(content)
    expected = read_model(tmp_path / "model.tflite")
    graph, _made = graph_in_interpreter(content, plugin, monkeypatch)
    assert_same_graph(graph, expected)


def test_graphs_of_public_models_are_those_of_the_files(
    shared: Path, plugin: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Per-channel scales, scratch tensors of TFLite's own kernels, uint8 and int8."""
    for name in ("mobilenet_v2_1.0_224_inat_bird_quant", "tf2_mobilenet_v2_1.0_224_ptq"):
        path = shared / "models" / f"{name}.tflite"
        graph, _made = graph_in_interpreter(path.read_bytes(), plugin, monkeypatch)
        assert_same_graph(graph, read_model(path))


def test_a_partition_has_the_tensors_that_cross_its_border(plugin: ModuleType) -> None:
    model = two_convolutions()
    made = interpreter(model)
    first, last = (session.graph for session in StandIn.made)
    assert (first.inputs, last.outputs) == (model.inputs, model.outputs)
    assert first.outputs == (first.nodes[0].outputs[0].index,)
    assert last.inputs == (last.nodes[0].inputs[0].index,)
    assert first.nodes[0].params["activation"] == "RELU6"
    del made


def test_options_reach_the_session(plugin: ModuleType) -> None:
    made = interpreter(two_convolutions(), delegate.load(cores=2, cache_dir="off", chain="full"))
    assert StandIn.made[0].options == Options(cores=2, cache_dir="off", chain="full")
    del made


@pytest.mark.parametrize(
    ("options", "message"),
    [({"colour": "red"}, "option 'colour' is unknown; valid options: device"), ({"cores": 9}, "valid: 1 to 3")],
)
def test_wrong_options_are_errors(plugin: ModuleType, options: dict[str, object], message: str) -> None:
    with pytest.raises(DelegateError, match=message) as caught:
        delegate.load(**options)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=message):
        harness.runtime().load_delegate(str(delegate.library_path()), options)


def test_a_device_that_is_not_there_is_an_error(plugin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *_: object) -> None:
        raise DeviceError(f"device {name} is not there")

    monkeypatch.setattr(plugin, "shared_device", missing)
    with pytest.raises(DelegateError, match="device rocket is not there"):
        delegate.load(device="rocket")


@pytest.mark.parametrize("failure", [CompileError, KeyError])
def test_a_graph_that_does_not_compile_stays_on_the_cpu(
    failure: type[Exception], plugin: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    StandIn.failure = failure("layer 3 has 5 of 4 banks")
    made = interpreter(two_convolutions())
    made.invoke()
    lines = [line for line in capfd.readouterr().err.splitlines() if "left to the CPU" in line]
    assert len(lines) == 2 and all("layer 3 has 5 of 4 banks" in line for line in lines)
    assert not StandIn.made


def test_a_partition_that_does_not_compile_leaves_the_others(
    plugin: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    attempts = []

    def second_fails(graph: Graph, options: Options) -> StandIn:
        attempts.append(graph)
        if len(attempts) == 2:
            raise CompileError("the second one")
        return StandIn(graph, options)

    monkeypatch.setattr(plugin, "Session", second_fails)
    made = interpreter(two_convolutions())
    made.invoke()
    assert len(attempts) == 2  # what is compiled is kept
    assert capfd.readouterr().err.count("the second one") == 1
    assert [session.closed for session in StandIn.made] == [False]
    del made
    assert [session.closed for session in StandIn.made] == [True]


def test_a_device_that_fails_while_compiling_is_an_error(plugin: ModuleType) -> None:
    StandIn.failure = DeviceError("no memory left")
    with pytest.raises(RuntimeError, match="teflon: no memory left"):
        interpreter(two_convolutions())


def test_a_failing_invoke_is_an_error_and_the_next_may_succeed(plugin: ModuleType) -> None:
    made = interpreter(two_convolutions())
    StandIn.made[0].invoke_failure = DeviceError("the job timed out after 60 s")
    with pytest.raises(RuntimeError, match="teflon: the job timed out after 60 s"):
        made.invoke()
    StandIn.made[0].invoke_failure = None
    made.invoke()
    assert np.all(output(made) == 2)
    del made


def test_an_error_of_ours_names_its_place(plugin: ModuleType) -> None:
    made = interpreter(two_convolutions())
    StandIn.made[1].invoke_failure = KeyError("oops")
    with pytest.raises(RuntimeError, match=r"teflon: KeyError: 'oops' \(test_plugin.py:\d+\)"):
        made.invoke()
    del made


def test_control_c_reaches_the_host(plugin: ModuleType) -> None:
    """TFLite's binding raises RuntimeError for the failed invoke; the interrupt comes right behind it."""
    made = interpreter(two_convolutions())
    StandIn.made[0].invoke_failure = KeyboardInterrupt()

    def invoke(one: Any) -> None:
        with pytest.raises(RuntimeError, match="KeyboardInterrupt"):
            one.invoke()

    with pytest.raises(KeyboardInterrupt):
        invoke(made)


def test_a_resized_input_is_compiled_again(plugin: ModuleType) -> None:
    made = interpreter(two_convolutions())
    for size in ((6, 10), (8, 8)):
        before = list(StandIn.made)
        made.resize_tensor_input(made.get_input_details()[0]["index"], (1, *size, 4))
        made.allocate_tensors()
        assert all(session.closed for session in before)
        graph = StandIn.made[-2].graph
        assert graph.tensors[graph.inputs[0]].shape == (1, *size, 4)
        made.invoke()
        assert output(made).shape == (1, size[0] // 2, size[1] // 2, 4)
        assert np.all(output(made) == len(StandIn.made))
    made.allocate_tensors()  # nothing changed, nothing to compile
    assert len(StandIn.made) == 6
    del made


def test_shapes_that_the_npu_refuses_are_an_error(plugin: ModuleType) -> None:
    """What is refused now is not run with the old program, and a claimed node cannot go back to the CPU."""
    made = interpreter(two_convolutions())
    index = made.get_input_details()[0]["index"]
    made.resize_tensor_input(index, (1, 8000, 8, 4))  # too high, both
    with pytest.raises(RuntimeError, match=r"node 0 CONV_2D of the new shapes: .* 2047 .*; give the model's file"):
        made.allocate_tensors()
    made.resize_tensor_input(index, (1, 8, 8, 4))
    made.allocate_tensors()
    made.invoke()
    assert output(made).shape == (1, 4, 4, 4)
    del made, index


def test_a_delegate_can_serve_several_interpreters(plugin: ModuleType) -> None:
    loaded = delegate.load()
    first, second = (interpreter(two_convolutions(), loaded) for _ in range(2))
    assert len(plugin.delegates) == 1
    assert len(plugin.kernels) == 4
    second.invoke()
    first.invoke()
    assert np.all(output(first) == 2)
    assert np.all(output(second) == 4)
    del first
    gc.collect()
    assert len(plugin.kernels) == 2
    second.invoke()
    del second, loaded


def test_nothing_is_printed_without_debug(plugin: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    made = interpreter(two_convolutions())
    made.invoke()
    del made
    gc.collect()
    captured = capfd.readouterr()
    assert "teflon" not in (captured.out + captured.err).lower()


@pytest.mark.parametrize("by_option", [True, False])
def test_verbose_prints_everything_in_order(
    plugin: ModuleType, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, by_option: bool
) -> None:
    if not by_option:
        monkeypatch.setenv("TEFLON_DEBUG", "verbose")
    made = interpreter(two_convolutions(), delegate.load(**({"debug": "verbose"} if by_option else {})))
    made.invoke()
    del made
    captured = capfd.readouterr()
    assert captured.out == ""
    said = [line for line in captured.err.splitlines() if line.startswith(("teflon", "Teflon", "idx"))]
    compile_lines = [
        "teflon: compiling graph: 8 tensors 1 operations",
        "idx scale     zp has_data size        ",
        "idx type            inputs               outputs              kernel stride dilation padding activation",
        "teflon: compiled graph, took 0 ms",
    ]
    assert said == [
        "Teflon delegate: loaded stand-in driver",
        "teflon: device=auto passed over: device rocket: this is a test",
        "idx type            ver support     inputs",
        *compile_lines,
        *compile_lines,
        "teflon: invoked graph, took 0 ms",
        "teflon: invoked graph, took 0 ms",
    ]
    row = "  1 AVGPOOL         v2  unsupported in: 3(i8) out: 4(i8) (operator AVERAGE_POOL_2D is not supported)"
    assert row in captured.err.splitlines()


def test_the_cache_is_traced(
    plugin: ModuleType, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StandIn, "from_cache", True)
    made = interpreter(two_convolutions(), delegate.load(debug="verbose"))
    del made
    assert capfd.readouterr().err.count("teflon: loaded compiled graph from the cache, took 0 ms") == 2


def symbols(library: Path, *flags: str) -> set[str]:
    if shutil.which("nm") is None:
        pytest.skip("nm (binutils) is not installed")
    lines = subprocess.run(["nm", "-D", *flags, library], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].partition("@")[0] for line in lines.splitlines()}


def test_the_library_exports_two_functions_and_needs_neither_python_nor_tflite() -> None:
    path = delegate.library_path()
    assert symbols(path, "--defined-only") == {"tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate"}
    assert not [name for name in symbols(path, "--undefined-only") if name.startswith(("Py", "_Py", "TfLite"))]
    for part in path.parent.glob("libteflon-python*.so"):
        assert not [name for name in symbols(part, "--undefined-only") if name.startswith("TfLite")]
        dynamic = subprocess.run(["ldd", part], capture_output=True, text=True, check=True).stdout
        assert "libpython" not in dynamic


def test_a_library_that_is_not_built_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(delegate, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(DelegateError, match=r"libteflon\.so is not built; run `make`"):
        delegate.library_path()


ENDINGS: dict[str, str] = {
    "interpreter and delegate live to the end": "",
    "the delegate goes first": "del loaded",
    "an exception ends the program": "raise SystemExit(0)",
    "in a thread": "import threading; t = threading.Thread(target=made.invoke); t.start(); t.join()",
    "referred to by a module": "import json; json.keep = (made, loaded); del made, loaded",
    "in a cycle": "made.self = made; del made, loaded",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_program_ends_quietly(ending: str, tmp_path: Path, run_python: Callable[..., str]) -> None:
    """At the end of a program Python takes modules apart in any order; no message, no crash."""
    (tmp_path / "model.tflite").write_bytes(tflite_writer.write(two_convolutions()))
    program = f"""
import delegate
from benchmarks import harness
loaded = delegate.load(cache_dir="off")
made = harness.runtime().Interpreter({str(tmp_path / "model.tflite")!r}, experimental_delegates=[loaded])
made.allocate_tensors()
made.invoke()
{ENDINGS[ending]}
"""
    assert run_python(program) == ""


@pytest.fixture
def run_python() -> Callable[..., str]:
    """Runs a program in a Python of its own, asserts its status, returns what it said on stdout and stderr."""

    def run(program: str) -> str:
        command = [sys.executable, "-c", program]
        result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=harness.ROOT, timeout=120)
        assert result.returncode == 0, result.stderr
        own = [line for line in result.stderr.splitlines() if not line.startswith("INFO: ")]  # TFLite's
        return "\n".join([result.stdout, *own]).strip()

    return run
