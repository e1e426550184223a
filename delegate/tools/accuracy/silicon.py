"""What the silicon makes of lowered layers, in plain numpy: all blocks from CNA to the output converter, and the PPU.

It shares no code with the compiler's arithmetic, its layouts, or the simulator: a layer is read as a record of numbers
(``ir``), and what they mean is taken from the hardware book (S-01, S-04, S-19 to S-25, S-107, S-111, S-130, S-220).
Emission, packing, tiling, allocation and the device all lie between this and what the delegate computes.

Arrays are int64 in the NPU's int8 domain. Sums of products run in float64, which is exact while they stay below 2**53.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from delegate.ir import Addend, AnyLayer, Convolution, Elementwise, Move, Pixels, Pooling, Requantize, Tensor

if TYPE_CHECKING:
    from delegate.memory import Views

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float32]

UNWRITTEN = -(1 << 15)  # what memory holds before a layer writes it
SEGMENT_BITS = 5  # of a table's index: 32 steps between two entries (S-117)
LAST_ENTRY = 512  # of each of the two tables
LOWEST = -128  # what the PPU pads with
EVERYWHERE = (slice(None), slice(None), slice(None))  # images, pixels, channels


def half_to_even(values: Ints, shift: int) -> Ints:
    """round(values / 2**shift), ties to even (S-04 with CVT_ROUND 0; S-21)."""
    if shift == 0:
        return values
    quotient, rest = values >> shift, values & ((1 << shift) - 1)
    twice, whole = 2 * rest, 1 << shift
    return np.asarray(quotient + ((twice > whole) | ((twice == whole) & (quotient % 2 == 1))))


def half_away(values: Ints, shift: int) -> Ints:
    """round(values / 2**shift), ties away from zero (S-04 with CVT_ROUND 1)."""
    if shift == 0:
        return values
    return np.asarray(np.sign(values) * ((np.abs(values) + (np.int64(1) << (shift - 1))) >> shift))


def saturate(values: Ints, bits: int) -> Ints:
    """To the range of a signed integer."""
    return np.clip(values, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def to_domain(stored: Array) -> Ints:
    """A uint8 tensor lies in the NPU's memory less 128 (S-34)."""
    return stored.astype(np.int64) - (128 if stored.dtype == np.uint8 else 0)


def from_domain(values: Ints, dtype: str, shape: Sequence[int]) -> Array:
    """The way back."""
    return (values + (128 if dtype == "uint8" else 0)).astype(dtype).reshape(shape)


class Memory:
    """Tensors by number, each as (images, pixels, channels); a part of another tensor lies in that one's numbers.

    ``margins``, in the same places: how far the last rounding of a number was from a tie, in output steps.
    """

    def __init__(self, views: Views) -> None:
        self._views = views
        self._values: dict[int, npt.NDArray[np.int16]] = {}
        self.margins: dict[int, Reals] = {}

    def part(self, tensor: Tensor, of: Mapping[int, Array]) -> Array:
        """The numbers of a tensor (images, pixels, channels), to read or to write; its memory is made if need be."""
        root = self._views.root(tensor)
        if root.tensor.index not in self._values:
            images, *sides, channels = root.tensor.shape
            self._values[root.tensor.index] = np.full((images, prod(sides), channels), UNWRITTEN, np.int16)
            self.margins[root.tensor.index] = np.full((images, prod(sides), channels), 0.5, np.float32)
        _, height, width, channels = cube_shape(tensor)
        first = root.pixel
        result: Array = of[root.tensor.index][:, first : first + height * width, root.channel : root.channel + channels]
        return result

    def read(self, tensor: Tensor, where: tuple[Any, ...] = EVERYWHERE) -> Ints:
        """Some numbers of (images, pixels, channels) of a tensor, all of which are written."""
        values = self.part(tensor, self._values)[where]
        assert not (values == UNWRITTEN).any(), f"tensor {tensor.index} is read before it is written"
        return np.asarray(values, np.int64)

    def fill(self, tensor: Tensor, stored: Array) -> None:
        """A tensor that comes from outside, as TFLite stores it."""
        target = self.part(tensor, self._values)
        target[:] = to_domain(stored).reshape(target.shape)

    def fetch(self, tensor: Tensor) -> Array:
        """A tensor as TFLite stores it, in its own shape."""
        return from_domain(self.read(tensor), tensor.dtype, tensor.shape)

    def holds(self, tensor: Tensor) -> bool:
        """Whether a layer wrote the tensor; one whose producer has an addition folded in is nowhere."""
        root = self._views.root(tensor).tensor.index
        return root in self._values and not (self.part(tensor, self._values) == UNWRITTEN).any()

    def write(self, tensor: Tensor, where: tuple[Any, ...], values: Ints, margins: Reals | float) -> None:
        """Some numbers of a tensor; ``where`` picks them from (images, pixels, channels)."""
        self.part(tensor, self._values)[where] = values
        self.part(tensor, self.margins)[where] = margins


def cube_shape(tensor: Tensor) -> tuple[int, int, int, int]:
    """(images, height, width, channels); rows of numbers become pixels below each other."""
    shape = tensor.shape or (1,)
    if len(shape) < 4:
        return 1, prod(shape[:-1]), 1, shape[-1]
    images, height, width, channels = shape
    return images, height, width, channels


def pixel_numbers(pixels: Pixels) -> Ints:
    """Which pixels of a tensor are meant, (rows, width)."""
    rows = pixels.first + pixels.pitch * np.arange(pixels.rows)
    return np.asarray(rows[:, np.newaxis] + np.arange(pixels.width))


def accumulators(layer: Convolution, source: Ints, rows: int, columns: int) -> Ints:
    """bias + sum of in * (w - zw), what BS has behind its adder; padding reads the layer's value.

    ``source``: (images, height, width, channels); returns (images, rows, columns, output channels).
    """
    top, bottom, left, right = layer.padding
    edges = ((0, 0), (top, bottom), (left, right), (0, 0))
    padded = np.pad(source, edges, constant_values=layer.input_zero_point).astype(np.float64)
    weight = layer.weight.astype(np.float64) - layer.weight_zero_point
    sums = np.zeros((source.shape[0], rows, columns, layer.bias.size))
    step_y, step_x = layer.stride
    for i, j in np.ndindex(weight.shape[1:3]):
        y, x = i * layer.dilation[0], j * layer.dilation[1]
        window = padded[:, y : y + (rows - 1) * step_y + 1 : step_y, x : x + (columns - 1) * step_x + 1 : step_x]
        sums += window * weight[0, i, j] if layer.depthwise else window @ weight[:, i, j].T
    return np.asarray(sums.astype(np.int64) + layer.bias.astype(np.int64))


def converted(addend: Addend, stored: Ints) -> Ints:
    """The element-wise unit's operand; with a shift, whose rounding is not known (S-167), ties are taken to even."""
    return saturate(half_to_even((stored + addend.offset) * addend.multiplier, addend.shift), 32)


def scaled(values: Ints, run: Requantize) -> Ints:
    """BS behind its adder, BN, and EW where it multiplies by gains: 32 bits each (S-107, S-154)."""
    values = saturate(values, 32)
    if run.channel_multiplier is not None:
        products = values * run.channel_multiplier.astype(np.int64)
        values = saturate(half_to_even(products, run.channel_shift), 32)
    if run.relu:
        values = np.maximum(values, 0)
    if run.relu_limit is not None:
        values = np.minimum(values, run.relu_limit)
    if run.norm_multiplier is not None:
        values = saturate(half_to_even(values * run.norm_multiplier, run.norm_shift), 32)
    values = saturate(values + run.norm_addend, 32)
    return values if run.gain is None else saturate(values * run.gain.astype(np.int64), 32)


def written(values: Ints, run: Requantize) -> Ints:
    """OUT_CVT: multiply, shift, add the offset, saturate."""
    products = values * run.multiplier
    rounded = half_away(products, run.shift) if run.half_away else half_to_even(products, run.shift)
    return saturate(rounded + run.offset, 8)


def margins(values: Ints, run: Requantize) -> Reals:
    """How far OUT_CVT's numbers are from a tie between two results, in output steps; at most a half."""
    whole = 1 << run.shift
    return np.asarray(np.abs(((values * run.multiplier) & (whole - 1)) / whole - 0.5), np.float32)


def convolve(layer: Convolution, memory: Memory) -> None:
    """CNA, CORE and DPU for a whole layer."""
    for move in layer.steps:
        numbers = pixel_numbers(move.target)
        sums = accumulators(layer, gathered(layer, move, memory), *numbers.shape).reshape(numbers.size, -1)
        operand = None
        if layer.addend is not None:
            operand = converted(layer.addend, memory.read(layer.addend.tensor)[move.target.image])
        for run in layer.requantize:
            channels = slice(run.channels.start, run.channels.stop)
            values = scaled(sums[:, channels], run)
            if operand is not None:
                values = saturate(values + operand[:, channels], 32)
            first = move.target.channel
            place = slice(first + channels.start, first + channels.stop)
            where = (move.target.image, numbers.reshape(-1), place)
            memory.write(layer.output, where, written(values, run), margins(values, run))


def gathered(layer: Convolution, move: Move, memory: Memory) -> Ints:
    """What CNA reads: all inputs' channels behind each other, (1, rows, width, channels)."""
    numbers, first = pixel_numbers(move.source), move.source.channel
    several = len(layer.inputs) > 1
    counts = [tensor.shape[3] if several else layer.weight.shape[3] for tensor in layer.inputs]
    read = [
        memory.read(tensor, (move.source.image, numbers, slice(first, first + count)))
        for tensor, count in zip(layer.inputs, counts, strict=True)
    ]
    return np.asarray(np.concatenate(read, axis=2)[np.newaxis])


def combine(layer: Elementwise, memory: Memory) -> None:
    """DPU_RDMA and DPU without a convolution: BS, EW or the table, OUT_CVT."""
    values = memory.read(layer.main)
    if layer.scales_main:
        values = saturate(half_to_even((values + layer.main_offset) * layer.main_multiplier, layer.main_shift), 32)
    if layer.operation is not None:
        values = operated(layer, values, memory)
    if layer.table is not None:
        values = looked_up(values, layer.table.astype(np.int64))
    memory.write(layer.output, EVERYWHERE, written(values, layer.requantize), margins(values, layer.requantize))


def operated(layer: Elementwise, values: Ints, memory: Memory) -> Ints:
    """EW: exact, saturating at 32 bits (S-107); the operand is one a pixel and channel, or one a channel."""
    assert layer.operand is not None
    if layer.operand.data is None:
        # what comes round from the start stands for what lies behind the tensor, which nobody looks at
        operand = np.roll(memory.read(layer.operand), -layer.operand_first, axis=1)
    else:
        images, height, width, channels = cube_shape(layer.operand)
        rows = to_domain(layer.operand.data).reshape(images, height * width, channels)
        operand = rows if height * width == 1 else np.resize(rows, (images, values.shape[1], channels))
    operand = saturate((operand + layer.operand_offset) * layer.operand_multiplier, 32)
    if layer.operation == "max":
        return np.maximum(values, operand)
    if layer.operation == "min":
        return np.minimum(values, operand)
    if layer.operation == "add":
        return saturate(values + operand, 32)
    return saturate(values - operand if layer.operation == "subtract" else values * operand, 32)


def looked_up(index: Ints, table: Ints) -> Ints:
    """The tables at some numbers; between two entries on the line through them (S-117, S-220).

    One table is for numbers below 0, the other from 0 on; beyond their ends the outermost entry counts. How the silicon
    rounds between entries is not known; here it is to the nearest integer, ties to even (F-121).
    """

    def line(entries: Ints, position: Ints) -> Ints:
        position = np.clip(position, 0, LAST_ENTRY << SEGMENT_BITS)
        segment = np.minimum(position >> SEGMENT_BITS, LAST_ENTRY - 1)
        rise = (entries[segment + 1] - entries[segment]) * (position - (segment << SEGMENT_BITS))
        return np.asarray(entries[segment] + half_to_even(rise, SEGMENT_BITS))

    return np.where(index < 0, line(table[0], index + (LAST_ENTRY << SEGMENT_BITS)), line(table[1], index))


def pool(layer: Pooling, memory: Memory) -> None:
    """PPU: the largest number of each window; what is outside counts as -128 (S-130)."""
    source = memory.read(layer.input)
    images, height, width, channels = layer.input.shape
    top, bottom, left, right = layer.padding
    edges = ((0, 0), (top, bottom), (left, right), (0, 0))
    padded = np.pad(source.reshape(images, height, width, channels), edges, constant_values=LOWEST)
    _, rows, columns, _ = layer.output.shape
    (step_y, step_x), result = layer.stride, np.full((images, rows, columns, channels), LOWEST)
    for y, x in np.ndindex(layer.kernel):
        window = padded[:, y : y + (rows - 1) * step_y + 1 : step_y, x : x + (columns - 1) * step_x + 1 : step_x]
        result = np.maximum(result, window)
    memory.write(layer.output, EVERYWHERE, result.reshape(images, rows * columns, channels), 0.5)


def evaluate(layers: Iterable[AnyLayer], views: Views, inputs: Iterable[tuple[Tensor, Array]]) -> Memory:
    """All tensors of a partition; ``inputs``: what it is fed, as TFLite stores it."""
    memory = Memory(views)
    for tensor, stored in inputs:
        memory.fill(tensor, stored)
    for layer in layers:
        if isinstance(layer, Convolution):
            convolve(layer, memory)
        elif isinstance(layer, Pooling):
            pool(layer, memory)
        else:
            combine(layer, memory)
    return memory
