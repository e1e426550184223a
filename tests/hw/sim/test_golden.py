"""The captures of the upstream driver: all replay, and single layers give what the silicon's arithmetic gives."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tflite_reader
from hw.sim import golden, silicon_model
from tflite_writer import Model, TensorSpec

from delegate.errors import SimulatorError
from delegate.hw.registers import Register, split
from delegate.hw.regs import CNA, CORE, DPU
from delegate.hw.sim.options import Options
from delegate.tools.capture import Capture, load
from delegate.tools.replay import Replay

SLACK = 4 << 20  # bytes; upstream allocates two of the four surfaces of a shallow depthwise output (F-73)
QUICK_SHARE = 8  # one of so many captures runs in the quick tests

# Captures whose numbers cannot be right, with what upstream did (golden/README.md, docs/hardware.md).
SWAPPED = "width and height are swapped in places"
PACKED = "depthwise weights are packed without their padding to 16 channels"
MULTIPLIED = "a depth multiplier is not in the words"
PITCH = "rows of a one-channel input are sought at another pitch than they have"
UPSTREAM_FAULTS = {  # where it shows: all of odd01's results are beyond the clamp
    "sweep/odd03": SWAPPED,
    "sweep/odd05": SWAPPED,
    "sweep/odd07": MULTIPLIED,
    "sweep/s043": PITCH,
    "sweep/s087": PITCH,
    "sweep/s007": PACKED,
    "sweep/s011": PACKED,
    "sweep/s107": PACKED,
    "sweep/s179": PACKED,
}
# Width 8 with a residual: the input width is doubled, the columns in between are not fetched.
REFUSED = {"sweep/add00a": "columns? 8, of 16 only 8", "sweep/add06a": "columns? 8, of 16 only 8"}
GOLDEN = Path(__file__).parents[4] / "shared" / "golden"


def names() -> list[str]:
    files = [*GOLDEN.glob("*/stream.json.gz"), *GOLDEN.glob("sweep/*/stream.json.gz")]
    return sorted(str(file.parent.relative_to(GOLDEN)) for file in files)


def quick(name: str) -> bool:
    return zlib.crc32(name.encode()) % QUICK_SHARE == 0


def marked(chosen: list[str]) -> list:  # type: ignore[type-arg]
    return [name if quick(name) else pytest.param(name, marks=pytest.mark.slow) for name in chosen]


def field(capture: Capture, register: Register, label: str) -> int:
    """A field of the first task."""
    for word in capture.submits[0].tasks[0].words.tolist():
        target, offset, value = split(word)
        if (target, offset) == (register.block.target, register.offset):
            result = register.fields[label].decode(value)
    return result


def test_the_captures_are_there(shared: Path):
    assert len(names()) > 250
    assert len(single_layers()) > 150


@pytest.mark.parametrize("name", marked(names()))
def test_every_capture_replays(name: str):
    """Fast and plain path give the same bytes in every buffer, or the same refusal."""
    capture = load(GOLDEN / name)
    replays = [Replay(capture, Options(plain=plain), SLACK) for plain in (False, True)]
    outcomes = []
    for replay in replays:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        for buffer in golden.tensors(capture):
            replay.buffers[buffer.handle][:] = rng.integers(0, 256, len(replay.buffers[buffer.handle]), np.uint8)
        try:
            replay.run()
            outcomes.append("")
        except SimulatorError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
    assert bool(outcomes[0]) == (name in REFUSED), outcomes[0]
    for handle, content in replays[0].buffers.items():
        assert np.array_equal(content, replays[1].buffers[handle])


def single_layers() -> list[str]:
    """uint8 models that are one convolution and whose coefficients are stored whole."""
    chosen = []
    for name in names():
        capture = load(GOLDEN / name)
        whole = all(b.facts.get("stored") == "whole" for b in capture.buffers if b.role == "weights")
        operations = capture.facts["ops"]
        one = len(operations) == 1 and operations[0]["type"] in ("CONV", "DWCONV")
        if whole and one and capture.submits and operations[0]["inputs"][0][1] == "u8":
            chosen.append(name)
    return chosen


def signed(tensor: TensorSpec) -> npt.NDArray[np.int64]:
    """A uint8 constant in the int8 domain."""
    assert tensor.data is not None
    return tensor.data.astype(np.int64) - 128


def same_padding(size: int, kernel: int, stride: int) -> int:
    """Padding before, as TFLite splits it."""
    return max((-(-size // stride) - 1) * stride + kernel - size, 0) // 2


def layer_model(capture: Capture, model: Model, values: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """The layer on ordinary arrays: geometry, weights and bias of the model, the converter's numbers of the words."""
    layer = model.operators[0]
    given, weight, bias, output = (model.tensors[index] for index in (*layer.inputs[:3], layer.outputs[0]))
    zero_in, zero_weight = given.zero_point[0] - 128, weight.zero_point[0] - 128
    kernels = signed(weight) - zero_weight
    stride = (layer.options["StrideH"], layer.options["StrideW"])
    padding = (0, 0)
    if layer.options["Padding"] == 0:
        sizes = zip(given.shape[1:3], kernels.shape[1:3], stride, strict=True)
        padding = tuple(same_padding(*size) for size in sizes)
    pad = field(capture, CNA.PAD_CON1, "pad_value") & 0xFF
    depthwise = layer.op == "DEPTHWISE_CONV_2D"
    total = silicon_model.sums(
        values.astype(np.int64) - 128, kernels, stride, padding, output.shape[1:3], (pad ^ 0x80) - 0x80, depthwise
    )
    corrected = bias.data.astype(np.int64) - zero_in * kernels.sum(axis=(0, 1, 2) if depthwise else (1, 2, 3))
    requantize = silicon_model.Requantize(
        field(capture, DPU.OUT_CVT_SCALE, "out_cvt_scale"),
        field(capture, DPU.OUT_CVT_SHIFT, "out_cvt_shift"),
        field(capture, DPU.OUT_CVT_OFFSET, "out_cvt_offset"),
        field(capture, CORE.CLIP_TRUNCATE, "clip_truncate"),
    )
    if requantize.truncate:  # upstream halves the bias, toward zero, and the shift is one less
        total, corrected = silicon_model.half_even(total, requantize.truncate), np.fix(corrected / 2).astype(np.int64)
    return silicon_model.finish(total + corrected, requantize)


def replay_layer(name: str, model: Model, capture: Capture) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
    """The recorded input (height, width, channels) and the simulator's output."""
    layer = model.operators[0]
    given, output = model.tensors[layer.inputs[0]], model.tensors[layer.outputs[0]]
    values = golden.recorded_input(int(np.prod(given.shape)), 0).reshape(given.shape)[0]
    replay = Replay(capture, slack=SLACK)
    buffers = {buffer.facts["tensor"]: buffer for buffer in golden.tensors(capture)}
    golden.feed(replay, buffers[layer.inputs[0]], values, given.zero_point[0])
    replay.run()
    return values, golden.read_cube(replay.buffers[buffers[layer.outputs[0]].handle], *output.shape[1:])


@pytest.mark.parametrize("name", marked(single_layers()))
def test_single_layers_equal_the_integer_model(name: str, shared: Path):
    """npu.md §5 on every element: 15-bit multiplier, half to even, offset after the shift, CPEND, pads."""
    capture = load(GOLDEN / name)
    model = tflite_reader.read(golden.model_bytes(shared, name))
    layer = model.operators[0]
    if (
        layer.op == "DEPTHWISE_CONV_2D"
        and model.tensors[layer.inputs[0]].shape[3] != model.tensors[layer.outputs[0]].shape[3]
    ):
        pytest.skip(MULTIPLIED)
    values, got = replay_layer(name, model, capture)
    equal = np.array_equal(got, layer_model(capture, model, values))
    assert equal == (name not in UPSTREAM_FAULTS), UPSTREAM_FAULTS.get(name)


@pytest.mark.parametrize("name", ["sweep/s007", "sweep/s011", "sweep/s107", "sweep/s179"])
def test_upstream_packs_depthwise_weights_too_tight(name: str, shared: Path):
    """The fault behind PACKED, by arithmetic: with the taps 16-channel multiples apart the numbers agree."""
    capture = load(GOLDEN / name)
    model = tflite_reader.read(golden.model_bytes(shared, name))
    weight = model.tensors[model.operators[0].inputs[1]]
    channels = weight.shape[3]
    padded = -(-channels // 16) * 16
    stored = np.zeros((*weight.shape[1:3], padded), np.int8)
    stored[:, :, :channels] = signed(weight)[0]
    handle = next(buffer.handle for buffer in capture.buffers if buffer.role == "weights")
    content = dict(capture.submits[0].contents)
    content[handle] = stored.reshape(-1).view(np.uint8)
    repaired = replace(capture, submits=(replace(capture.submits[0], contents=content), *capture.submits[1:]))
    values, got = replay_layer(name, model, repaired)
    assert np.array_equal(got, layer_model(repaired, model, values))


@pytest.mark.parametrize("name", ["mobilenet_v1_1.0_224_quant", "mobilenet_v1_0.25_128_quant"])
def test_mobilenet_replays_job_by_job(name: str, shared: Path):
    """The first layer is within 1 of the integer model on every element of the recorded run."""
    capture = load(GOLDEN / name)
    replay = Replay(capture, slack=SLACK)
    count = sum(1 for _ in replay.steps())
    assert count == sum(len(job) for submit in capture.submits for job in submit.starts)
    model = tflite_reader.read(golden.model_bytes(shared, name))
    first = Model(model.tensors, model.operators[:1], model.inputs, model.outputs)
    shape = model.tensors[model.inputs[0]].shape
    values = golden.recorded_input(int(np.prod(shape)), 0).reshape(shape)[0]
    output = model.operators[0].outputs[0]
    buffer = next(b for b in golden.tensors(capture) if b.facts["tensor"] == output)
    got = golden.read_cube(replay.buffers[buffer.handle], *model.tensors[output].shape[1:])
    assert np.array_equal(got, layer_model(capture, first, values))


def test_the_fault_list_names_captures(shared: Path):
    known = set(names())
    assert set(UPSTREAM_FAULTS) <= known
    assert set(REFUSED) <= known
