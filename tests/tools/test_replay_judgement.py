"""The judge of replayed captures: it finds each fault that is put in, and only explains what its arithmetic shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from delegate.hw.registers import Register, split, word
from delegate.hw.regs import CNA, DPU
from delegate.ir import Node, Quant, Tensor
from delegate.tools.capture import Capture, CaptureError, CaptureTask, load
from delegate.tools.captured import causes
from delegate.tools.captured.cases import allowances, judge_case
from delegate.tools.captured.causes import Agreement, judge
from delegate.tools.captured.ideal import Work, ideal_layer, ideal_output, real_multiplier, tflite_output
from delegate.tools.captured.integer import Converter, evaluate, uncarried_multiplier, upper_multiplier
from delegate.tools.captured.model import find_model
from delegate.tools.captured.play import play
from delegate.tools.replay import Replay


def tensor(index: int, shape: tuple[int, ...], dtype: str, scale: float, zero: int, data=None) -> Tensor:  # type: ignore[no-untyped-def]
    return Tensor(index, "", shape, dtype, Quant(np.array([scale], np.float32), np.array([zero], np.int32)), data)


def work(activation: str = "NONE", output_scale: float = 0.9, zero: int = 121, addition: bool = False) -> Work:
    """A 3x3 convolution of random numbers, 6x6x16 to 6x6x8."""
    rng = np.random.default_rng(5)
    source = tensor(0, (1, 6, 6, 16), "uint8", 0.02, 117)
    weight = tensor(1, (8, 3, 3, 16), "uint8", 0.013, 131, rng.integers(0, 256, (8, 3, 3, 16), np.uint8))
    bias = tensor(2, (8,), "int32", 0.00026, 0, rng.integers(-4000, 4000, 8).astype(np.int32))
    output = tensor(3, (1, 6, 6, 8), "uint8", output_scale, zero)
    params = {"stride": (1, 1), "dilation": (1, 1), "padding": "SAME", "activation": activation}
    node = Node(0, "CONV_2D", (source, weight, bias), (output,), params)
    features = rng.integers(0, 256, (6, 6, 16), np.uint8)
    if not addition:
        return Work(node, None, features, None)
    other, total = tensor(4, output.shape, "uint8", 0.4, 90), tensor(5, output.shape, "uint8", 0.7, 110)
    add = Node(1, "ADD", (output, other), (total,), {"activation": "NONE"})
    return Work(node, add, features, rng.integers(0, 256, (6, 6, 8), np.uint8))


def judged(asked: Work, **changes: object) -> Agreement:
    """The verdict on a chip that does exactly what a changed layer says."""
    sent = replace(ideal_layer(asked, asked.output), low=-128, high=127, **changes)  # type: ignore[arg-type]
    return judge(asked, sent, evaluate(sent))


def test_a_right_layer_is_right():
    agreement = judged(work())
    assert agreement.verdict in ("exact", "within 1")
    assert agreement.model_equal == agreement.sent_equal == agreement.elements
    assert agreement.causes == ()


def test_the_integer_model_is_near_tflite():
    for scale in (0.31, 0.5, 0.9, 1.7):
        asked = work(output_scale=scale)
        assert np.abs(ideal_output(asked) + 128 - tflite_output(asked)).max() <= 1


def faulty() -> dict[str, tuple[Work, dict[str, object]]]:
    """A work and what is wrong in the words, for each cause."""
    layer = ideal_layer(work(), work().output)
    good = layer.converter
    return {
        causes.PADDING: (work(), {"pad": layer.pad + 60}),
        causes.PACKED: (work(), {"kernels": np.roll(layer.kernels, 1, axis=3)}),
        causes.BIAS: (work(), {"bias": layer.bias + 9000}),
        causes.OFFSET: (work(), {"converter": replace(good, offset=good.offset + 5)}),
        causes.MULTIPLIER: (work(), {"converter": replace(good, multiplier=good.multiplier * 3 // 4)}),
        causes.ACTIVATION: (work("RELU"), {}),
        causes.PITCH: (work(), {"features": np.roll(layer.features, 2, axis=0)}),
        causes.SWAPPED: (work(), {"padding": (0, 1)}),
        causes.DILATION: (work(), {"dilation": (2, 1)}),
    }


@pytest.mark.parametrize("cause", sorted(faulty()))
def test_each_cause_is_found_and_named(cause: str):
    asked, changes = faulty()[cause]
    agreement = judged(asked, **changes)
    assert agreement.verdict == "explained", agreement
    assert agreement.causes == (cause,)


def test_truncation_is_found_though_it_is_within_one():
    asked = work(output_scale=0.003)  # a gain of 0.09: a bit of the accumulator is seen
    layer = ideal_layer(asked, asked.output)
    converter = replace(layer.converter, shift=layer.converter.shift - 1)
    bias = np.sign(layer.bias) * (np.abs(layer.bias) // 2)
    agreement = judged(asked, truncate=1, bias=bias, converter=converter)
    assert agreement.verdict == "within 1"
    assert agreement.model_equal < agreement.elements
    assert agreement.causes == (causes.TRUNCATED,)


def test_a_lost_carry_is_found():
    """S-10: the multiplier 0x8000 is written as it is, -32768 for the chip, or cut to 0x4000 at the old shift."""
    scale = 0.02 * 0.013 / float(np.nextafter(np.float32(0.5), np.float32(0)))
    asked = work(output_scale=scale)
    multiplier, shift = uncarried_multiplier(real_multiplier(asked.node, asked.output))
    assert multiplier == 0x8000
    assert upper_multiplier(real_multiplier(asked.node, asked.output)) == (0x4000, shift - 1)
    offset = ideal_layer(asked, asked.output).converter.offset
    for sent in (-0x8000, 0x4000):
        agreement = judged(asked, converter=Converter(sent, shift, offset))
        assert agreement.verdict == "explained"
        assert agreement.causes == (causes.CARRY,)


def test_what_no_cause_explains_is_unexplained():
    asked = work()
    sent = ideal_layer(asked, asked.output)
    got = evaluate(sent)
    got[3, 3] += 2
    assert judge(asked, sent, got).verdict == "unexplained"


def test_a_fused_addition_is_explained_only_by_its_own_arithmetic(shared: Path):
    played = run(load(shared / "golden" / "sweep" / "add02a"))
    fused = [result.agreement for result in played.results if result.name.endswith("ADD")]
    assert all(agreement and agreement.sent_equal == agreement.elements for agreement in fused)
    assert any(agreement and causes.FUSED in agreement.causes for agreement in fused)


def run(capture: Capture):  # type: ignore[no-untyped-def]
    return play(capture, find_model(capture), None, True)


def changed(capture: Capture, register: Register, label: str, value: int) -> Capture:
    """The capture with a field of every task of the first submit set."""

    def task(old: CaptureTask) -> CaptureTask:
        words = old.words.copy()
        for index, command in enumerate(words.tolist()):
            target, offset, content = split(command)
            if (target, offset) == (register.block.target, register.offset):
                bits = register.fields[label]
                words[index] = word(target, offset, content & ~bits.mask | bits.encode(value))
        return replace(old, words=words)

    submit = capture.submits[0]
    tasks = {id(old): task(old) for old in submit.tasks}
    starts = tuple(tuple(replace(start, task=tasks[id(start.task)]) for start in job) for job in submit.starts)
    return replace(capture, submits=(replace(submit, tasks=tuple(tasks.values()), starts=starts),))


@pytest.mark.parametrize(
    ("register", "label", "value", "cause"),
    [
        (DPU.OUT_CVT_OFFSET, "out_cvt_offset", 40, causes.OFFSET),
        (DPU.OUT_CVT_SCALE, "out_cvt_scale", 12345, causes.MULTIPLIER),
        (CNA.PAD_CON1, "pad_value", 0x22222222, causes.PADDING),
    ],
)
def test_a_changed_word_is_found_in_a_capture(register: Register, label: str, value: int, cause: str, shared: Path):
    capture = load(shared / "golden" / "mb3")
    assert not run(capture).results[0].agreement.causes
    agreement = run(changed(capture, register, label, value)).results[0].agreement
    assert agreement.sent_equal == agreement.elements
    assert cause in agreement.causes


# --- Programs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("exact", 0.0),
        ("the author allows 0.0625", 0.0625),
        ("about 5e-3 absolute", 7.5e-3),
        ("fp16 reciprocals: about 1e-3 relative; pads count", 1.5e-3 * 100),
        ("function in fp64; the author measures up to about 1e-2 absolute (worse near 0)", 1.5e-2),
    ],
)
def test_tolerances_are_read(text: str, stated: float):
    near, far = allowances(text, np.dtype(np.float16), np.array([100.0]), False)
    assert far - near == pytest.approx(stated)


def test_integers_have_no_tolerance():
    near, far = allowances("the author allows 3", np.dtype(np.int32), np.array([100.0]), False)
    assert near == far == 0


def test_a_wrong_element_fails_a_program(shared: Path):
    capture = load(shared / "golden" / "programs" / "rus-mm_int8-4x64x32")
    replay = Replay(capture)
    replay.run()
    right = judge_case(capture, replay)
    assert right is not None
    assert right.passed
    replay.buffers[capture.facts["case"]["out"]["bo"]][0] ^= 1
    broken = judge_case(capture, replay)
    assert broken is not None
    assert not broken.passed
    assert broken.rounded == broken.elements - 1


def test_expected_hardware_is_compared_bit_for_bit(shared: Path):
    name = next((shared / "golden" / "programs").glob("rus-dw_uint8*"))
    capture = load(name)
    replay = Replay(capture)
    replay.run()
    right = judge_case(capture, replay)
    assert right is not None
    assert right.bit_equal is True
    out = replay.buffers[capture.facts["case"]["out"]["bo"]]
    out[0] = out[0] - 1 if out[0] != 0x80 else 0x81
    broken = judge_case(capture, replay)
    assert broken is not None
    assert broken.bit_equal is False
    assert not broken.passed


def test_a_result_outside_its_buffer_is_an_error(shared: Path):
    capture = load(shared / "golden" / "programs" / "rus-mm_int8-4x64x32")
    replay = Replay(capture)
    replay.run()
    case = {**capture.facts["case"], "out": {"bo": 999}}
    with pytest.raises(CaptureError, match="999"):
        judge_case(replace(capture, facts={**capture.facts, "case": case}), replay)
