"""The model of the silicon: numbers worked out by hand, and beside the simulator every type of layer by itself."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chosen import DEVICE, on_device
from layers import EVERY_FORM, feature

from delegate.ir import AnyLayer, Convolution, Elementwise, Graph, Move, Node, Pixels, Pooling, Requantize, Tensor, View
from delegate.memory import Views
from delegate.ops import OPERATORS, Operator
from delegate.options import parse
from delegate.tools.accuracy import silicon
from delegate.tools.accuracy.measure import compiled

OPTIONS = parse(on_device(kernel="rknpu"), {})  # that kernel hears of the PPU
Layers = Sequence[AnyLayer | View]


def plain(channels: int, shift: int = 7, offset: int = 3) -> Requantize:
    return Requantize(range(channels), 1, shift, offset)


def weights(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int8]]:
    return np.random.default_rng(len(shape) + shape[0]).integers(-9, 10, shape).astype(np.int8)


def convolution(source: Tensor, output: Tensor, weight: np.ndarray[tuple[int, ...], np.dtype[np.int8]]) -> Convolution:
    """VALID, stride 1, one factor."""
    channels = output.shape[3]
    return Convolution(
        node=0,
        operator="TEST",
        inputs=(source,),
        output=output,
        weight=weight,
        weight_zero_point=0,
        bias=np.arange(channels, dtype=np.int32) * 50,
        input_zero_point=5,
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        depthwise=weight.shape[0] == 1 != channels,
        requantize=(plain(channels),),
        accumulator_scale=None,
    )


def images(tensor: Tensor, count: int) -> Tensor:
    return replace(tensor, shape=(count, *tensor.shape[1:]))


def padded_and_strided(a: Tensor, b: Tensor) -> tuple[Layers, Tensor]:
    output = feature(3, 3, 4, 20)
    return [replace(convolution(a, output, weights(20, 3, 3, 24)), stride=(2, 2), padding=(1, 0, 1, 1))], output


def dilated_depthwise(a: Tensor, b: Tensor) -> tuple[Layers, Tensor]:
    output = feature(3, 2, 4, 24)
    return [replace(convolution(a, output, weights(1, 3, 3, 24)), dilation=(2, 2))], output


def with_weight_zero_point(a: Tensor, b: Tensor) -> tuple[Layers, Tensor]:
    output = feature(3, 6, 8, 32)
    layer = convolution(a, output, weights(32, 1, 1, 24))
    run = replace(plain(32), half_away=True, channel_multiplier=np.full(32, 300, np.int16), channel_shift=8)
    return [replace(layer, weight_zero_point=-7, requantize=(run,))], output


def clamped_in_two_runs(a: Tensor, b: Tensor) -> tuple[Layers, Tensor]:
    output = feature(3, 6, 8, 64)
    runs = (
        replace(plain(32), relu=True, relu_limit=9000, channel_multiplier=np.full(32, 900, np.int16), channel_shift=9),
        replace(
            plain(64), channels=range(32, 64), channel_multiplier=np.full(32, 9, np.int16), norm_multiplier=900,
            norm_shift=13, half_away=True, shift=2,
        ),
    )  # fmt: skip
    return [replace(convolution(a, output, weights(64, 1, 1, 24)), requantize=runs)], output


def two_inputs(a: Tensor, b: Tensor) -> tuple[Layers, Tensor]:
    output = feature(3, 6, 8, 16)
    return [replace(convolution(a, output, weights(16, 1, 1, 48)), inputs=(a, b))], output


def moved_pixels(a: Tensor, b: Tensor) -> tuple[Layers, Tensor]:
    """A part of each row read, to where rows are left out and to another group of channels."""
    output = feature(3, 12, 8, 64)
    moves = [
        Move(Pixels(5, 6, 8, first=first, channel=16), Pixels(5, 6, 16, first=target, channel=channel))
        for first, target, channel in ((0, 0, 0), (2, 9, 32))
    ]
    layer = replace(convolution(a, feature(3, 12, 8, 32), weights(32, 1, 1, 8)), output=output, moves=tuple(moves))
    everything = [Move(Pixels(6, 8, 8), Pixels(6, 8, 8, first=first)) for first in (0, 48)]
    return [replace(convolution(a, output, weights(64, 1, 1, 24)), moves=tuple(everything)), layer], output


def part_of_a_tensor(a: Tensor, b: Tensor) -> tuple[Layers, Tensor]:
    """Rows 2 to 5 and channels 16 to 23 of a computed tensor, under a number of their own."""
    whole, output = feature(4, 6, 8, 24), feature(3, 4, 8, 10)
    part = feature(5, 4, 8, 8)
    first = convolution(a, whole, weights(24, 1, 1, 24))
    last = replace(convolution(part, output, weights(10, 1, 1, 8)), requantize=(plain(10, 4),))
    return [View(part, whole, row=2, channel=16), first, last], output


def elementwise(operation: str) -> Callable[[Tensor, Tensor], tuple[Layers, Tensor]]:
    def layers(a: Tensor, b: Tensor) -> tuple[Layers, Tensor]:
        output = feature(3, 6, 8, 24)
        run = Requantize(range(24), 1, 0, 0) if operation in ("max", "min") else plain(24, 8)
        gains = {} if operation in ("max", "min") else {"main_offset": -7, "main_multiplier": 90, "main_shift": 2}
        if operation in ("add", "subtract"):
            gains |= {"operand_offset": 9, "operand_multiplier": -70}
        return [Elementwise(0, "TEST", a, output, run, operation=operation, operand=b, **gains)], output  # type: ignore[arg-type]

    return layers


def operand_a_channel(a: Tensor, b: Tensor) -> tuple[Layers, Tensor]:
    output = feature(3, 6, 8, 24)
    data = np.arange(-60, 60, 5).astype(np.int8).reshape(1, 1, 1, 24)
    constant = replace(feature(4, 1, 1, 24), data=data)
    return [Elementwise(0, "TEST", a, output, plain(24, 6), operation="multiply", operand=constant)], output


def table(step: int) -> Callable[[Tensor, Tensor], tuple[Layers, Tensor]]:
    """Indices ``step`` apart: 32 meets every entry, other numbers lie between."""

    def layers(a: Tensor, b: Tensor) -> tuple[Layers, Tensor]:
        output = feature(3, 6, 8, 24)
        entries = np.random.default_rng(0).integers(-(1 << 15), 1 << 15, (2, 513)).astype(np.int16)
        entries[1, 0] = entries[0, 512]
        return [Elementwise(0, "TEST", a, output, plain(24, 8), 0, step, 0, table=entries)], output

    return layers


def largest(a: Tensor, b: Tensor) -> tuple[Layers, Tensor]:
    return [Pooling(0, "TEST", a, feature(3, 3, 4, 24), (3, 3), (2, 2), (1, 0, 1, 0))], feature(3, 3, 4, 24)


CASES = {
    "padding and stride": padded_and_strided,
    "depthwise, dilated": dilated_depthwise,
    "weight zero point, a multiplier a channel": with_weight_zero_point,
    "clamps and two runs": clamped_in_two_runs,
    "two inputs": two_inputs,
    "moves": moved_pixels,
    "part": part_of_a_tensor,
    **{name: elementwise(name) for name in ("max", "min", "add", "subtract", "multiply")},
    "a channel": operand_a_channel,
    "table on entries": table(32),
    "table between entries": table(27),
    "pooling": largest,
}


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_the_simulator_computes_what_the_model_does(case: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if (case, DEVICE) == ("pooling", "rocket"):
        pytest.skip("that kernel does not hear of the end of a PPU task (S-196)")
    a, b = images(feature(1, 6, 8, 24), batch), images(feature(2, 6, 8, 24), batch)
    found, output = CASES[case](a, b)
    if batch > 1 and (case in ("moves", "part") or len(found) > 1):
        pytest.skip("what a layer moves is named image by image")
    if batch > 1:
        output = images(output, batch)
        found = [replace(layer, output=output) for layer in found if not isinstance(layer, View)]
    monkeypatch.setitem(OPERATORS, "TEST", Operator("TEST", (), lambda node, target: found))
    graph = Graph({1: a, 2: b, 3: output}, (Node(0, "TEST", (a, b), (output,), {}),), (1, 2), (3,))
    subject = compiled(graph, OPTIONS, EVERY_FORM)
    rng = np.random.default_rng(1)
    fed = {tensor.index: rng.integers(-128, 128, tensor.shape).astype(np.int8) for tensor in (a, b)}
    got, expected = subject.run(fed)
    subject.session.close()
    np.testing.assert_array_equal(got[3], expected.fetch(output))
    assert len(np.unique(got[3])) > 20


def test_ties() -> None:
    values = np.array([-24, -8, -7, 7, 8, 24])
    assert silicon.half_to_even(values, 4).tolist() == [-2, 0, 0, 0, 0, 2]
    assert silicon.half_away(values, 4).tolist() == [-2, -1, 0, 0, 1, 2]
    assert silicon.margins(values, plain(1, 4)).tolist() == [0, 0, 1 / 16, 1 / 16, 0, 0]


def test_the_table_by_hand() -> None:
    """Entry n of each table stands for 32 n; -16384 is the first of the lower one."""
    table = np.stack([np.arange(513) * 10, np.arange(513) * 6 + 7])
    index = np.array([-20000, -16384, -16370, -32, -1, 0, 16, 32, 48, 16383, 16384, 20000])
    wanted = [0, 0, 4, 5110, 5120, 7, 10, 13, 16, 3079, 3079, 3079]
    assert silicon.looked_up(index, table).tolist() == wanted


def test_a_tensor_is_not_read_before_it_is_written() -> None:
    a, output = feature(1, 2, 2, 4), feature(2, 2, 2, 4)
    memory = silicon.Memory(Views())
    with pytest.raises(AssertionError, match="before it is written"):
        memory.read(a)
    assert not memory.holds(output)


def test_it_shares_no_code_with_compiler_and_simulator() -> None:
    tree = ast.parse(Path(silicon.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {name for name in imported if name.startswith("delegate")} == {"delegate.ir", "delegate.memory"}
    (only_types,) = [node for node in tree.body if isinstance(node, ast.If)]
    assert "TYPE_CHECKING" in ast.unparse(only_types) and "delegate.memory" in ast.unparse(only_types)
