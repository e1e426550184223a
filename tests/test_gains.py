"""Gains a channel: the closed forms against the model of the silicon, and the results against TFLite's integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from arithmetic import first_above, multiplied_by_tflite, on_silicon
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import EVERY_FORM
from tflite_writer import Builder, write

from benchmarks.harness import infer
from delegate import gains, requantize
from delegate.compile import compile_graph
from delegate.hw.regcmd import parse
from delegate.hw.regs import DPU
from delegate.hw.soc import CHANNEL_GAIN, Target
from delegate.ir import Requantize
from delegate.requantize import Channels
from delegate.tflite import read_graph

Interpreters = Callable[..., Any]
WRONG_ONE_SIGN = 1e-3  # of results, mean over channels whose outputs have one sign, spread up to 2**5
WRONG = 3e-3  # with both signs


def drawn(seed: int, count: int, spread: float, bits: float) -> Channels:
    """Channels whose sums reach all outputs, and one without weights; factors from 2**-bits down by 2**spread."""
    rng = np.random.default_rng(seed)
    factors = 2.0 ** -(bits + rng.uniform(0, spread, count))
    bias = (rng.uniform(-40, 40, count) / factors).astype(np.int32)
    reach = rng.uniform(100, 400, count) / factors
    factors[0], reach[0] = factors.min() / 100, 0.0
    return Channels(factors, bias, np.floor(reach))


def channel(run: Requantize, index: int) -> Requantize:
    """One channel of a run, for the model of the silicon."""
    assert run.channel_multiplier is not None and run.gain is not None
    place = slice(index, index + 1)
    return replace(run, channel_multiplier=run.channel_multiplier[place], gain=run.gain[place])


# no factor is a power of two, which makes ties that TFLite rounds up and the NPU to even (decision 0007)
bits = st.integers(250, 1200).map(lambda hundredths: hundredths / 100 + 1 / 300)
cases = st.tuples(st.integers(0, 999), st.floats(0, 5), bits, st.sampled_from([-128, -20, 0, 90]))


def made(case: tuple[int, float, float, int]) -> tuple[Channels, Requantize, Any]:
    """Eight channels, their run with gains, and the bias."""
    seed, spread, bits, offset = case
    channels = drawn(seed, 8, spread, bits)
    plain = requantize.per_channel(channels, offset, 32)
    (run,), bias = gains.with_bias(channels, plain, True)
    assert run.channel_multiplier is not None
    if run.gain is None:  # as good without, as for one power of two
        run = replace(run, gain=np.ones(8, np.int8))
    assert (
        run.gain is not None
        and (run.gain != 0).all()
        and (run.channel_multiplier != 0).all()
        and ((run.channel_multiplier < 0) == (run.gain < 0)).all()
    )  # S-223
    return channels, run, bias


@given(cases)
@settings(max_examples=40)
def test_steps_of_the_stages_are_where_the_closed_form_has_them(case: tuple[int, float, float, int]) -> None:
    _, run, _ = made(case)
    assert run.channel_multiplier is not None and run.gain is not None
    columns = [np.abs(array.astype(float))[:, np.newaxis] for array in (run.channel_multiplier, run.gain)]
    fit = gains.Fit(*columns, np.sign(run.gain.astype(float))[:, np.newaxis], np.zeros((8, 1)))
    stages = gains.Stages(run.channel_shift, run.norm_addend, run.shift)
    outputs = np.arange(-128, 127)
    below = outputs - run.offset
    targets = (2 * below + 1) * 2.0 ** (run.shift - 1) + (below < 0)
    closed = gains.first_above(targets, stages, fit)
    for index in range(8):
        limit = 1 << 30
        found = first_above(lambda values, index=index: on_silicon(values, channel(run, index)), limit, outputs)
        inside = np.abs(closed[index]) < limit
        assert np.array_equal(found[inside], closed[index][inside])


@given(cases)
@settings(max_examples=40)
def test_results_are_tflites_but_for_few(case: tuple[int, float, float, int]) -> None:
    """Every output's first accumulator, and the shares of accumulators between those of TFLite and of the stages."""
    channels, run, bias = made(case)
    outputs = np.arange(-128, 127)
    wrong = []
    for index in range(8):
        start, reach = int(channels.bias[index]), int(channels.reach[index])
        shift = int(bias[index]) - start

        def ours(values: Any, index: int = index, shift: int = shift) -> Any:
            return on_silicon(values + shift, channel(run, index))

        def theirs(values: Any, index: int = index) -> Any:
            return np.clip(multiplied_by_tflite(values, float(channels.factors[index])) + run.offset, -128, 127)

        limit = abs(start) + reach + 2
        edges = [np.clip(first_above(f, limit, outputs), start - reach, start + reach + 1) for f in (ours, theirs)]
        wrong.append(np.abs(edges[0] - edges[1]).sum() / (2 * reach + 1))
        ends = np.array([start - reach, start, start + reach])
        assert np.abs(ours(ends) - theirs(ends)).max() <= 1
    assert wrong[0] == 0  # without weights there is one result
    assert np.mean(wrong) <= (WRONG_ONE_SIGN if run.offset == -128 else WRONG)


@given(cases)
@settings(max_examples=20)
def test_gains_are_better_than_one_multiplier(case: tuple[int, float, float, int]) -> None:
    channels, run, bias = made(case)
    (plain,) = requantize.per_channel(channels, run.offset, 32)
    steps = gains.thresholds(channels, run.offset)

    def error(run: Requantize, gain: Any, bias: Any) -> float:
        assert run.channel_multiplier is not None
        columns = [np.abs(array.astype(float))[:, np.newaxis] for array in (run.channel_multiplier, gain)]
        correction = (bias - channels.bias).astype(float)[:, np.newaxis]
        fit = gains.Fit(*columns, np.sign(gain.astype(float))[:, np.newaxis], correction)
        stages = gains.Stages(run.channel_shift, run.norm_addend, run.shift)
        return float(gains.measured(channels, steps, stages, fit).sum())

    before = error(plain, np.ones(8), requantize.fitted_bias((plain,), channels))
    assert plain.multiplier == 1 and error(run, run.gain, bias) <= before


def test_no_gains_where_they_do_not_serve() -> None:
    channels = drawn(1, 8, 3, 6)
    plain = requantize.per_channel(channels, -128, 32)
    large = replace(channels, factors=channels.factors * 2.0**12)
    for given_channels, runs, allowed in (
        (channels, plain, False),
        (channels, (replace(plain[0], relu=True),), True),  # a clamp in BS
        (large, requantize.per_channel(large, 0, 32), True),
    ):
        ((found,), _) = gains.with_bias(given_channels, runs, allowed)
        assert found.gain is None and found.norm_addend == 0
        assert (found.multiplier, found.shift, found.channel_shift, found.relu) == (
            runs[0].multiplier, runs[0].shift, runs[0].channel_shift, runs[0].relu
        )  # fmt: skip


# --- End to end ----------------------------------------------------------------------------------------------------


def model(depthwise: bool, relu: bool, spread: float, seed: int) -> bytes:
    """A convolution of 72 channels whose scales spread; the last channel has no weights."""
    rng = np.random.default_rng(seed)
    kernel, outputs = ((1, 3, 3, 72), 72) if depthwise else ((72, 3, 3, 16), 72)
    weight = rng.integers(-127, 128, kernel).astype(np.int8)
    weight[(..., -1) if depthwise else -1] = 0
    scales = (0.01 * spread ** -rng.uniform(0, 1, outputs)).tolist()
    taps = 9 if depthwise else 9 * 16
    builder = Builder()
    source = builder.tensor((1, 20, 21, 72 if depthwise else 16), "int8", 0.05, 7)
    point, scale = (-128, 0.01 * taps**0.5) if relu else (5, 0.02 * taps**0.5)
    target = builder.convolution(
        source, weight, scales, (scale, point), weight_zero_point=0,
        bias=rng.integers(-2000, 2000, outputs).astype(np.int32), depthwise=depthwise,
        activation="RELU" if relu else "NONE",
    )  # fmt: skip
    return write(builder.finish([source], [target]))


@pytest.mark.parametrize("spread", [1.1, 10, 10_000])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("depthwise", [False, True])
def test_per_channel_convolutions(
    depthwise: bool, relu: bool, spread: float, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    """Within 1 of TFLite, nearly all equal, and more so than with proven forms."""
    content = model(depthwise, relu, spread, int(spread))
    rng = np.random.default_rng(3)
    values = [rng.integers(-128, 128, (1, 20, 21, 72 if depthwise else 16)).astype(np.int8)]
    (wanted,) = infer(reference_interpreter(content), values)
    shares = []
    for options in ({}, {"unproven": "never"}):
        npu = npu_interpreter(content, **options)
        assert len(npu._get_ops_details()) == 2, "not on the NPU"
        difference = np.abs(infer(npu, values)[0].astype(int) - wanted)
        assert difference.max() <= 1
        shares.append((difference > 0).mean())
    assert shares[0] <= (WRONG_ONE_SIGN if relu else WRONG)
    assert shares[0] <= shares[1]


@pytest.mark.parametrize("depthwise", [False, True])
def test_words_of_gains(depthwise: bool) -> None:
    """The element-wise unit's word is S-110's for products behind a convolution, but for operands of 8 bits a channel.

    Without the form it is bypassed.
    """
    graph = read_graph(model(depthwise, True, 8, 1))
    product = DPU.EW_CFG.encode(**{**DPU.EW_CFG.decode(0x108003C4), "ew_data_mode": 0, "edata_size": 1})
    without = Target(EVERY_FORM.soc, EVERY_FORM.forms - {CHANNEL_GAIN})
    for target, expected in ((EVERY_FORM, product), (without, 0x383)):
        for task in compile_graph(graph, target).tasks:
            values = [command.value for command in parse(task.words) if command.register is DPU.EW_CFG]
            assert values == [expected]
