"""Moving numbers without changing them: convolutions with an identity, exact for every number (64 * q / 2**6).

Which pixels go where is said by moves: rows of a tensor, parts of rows (form PART_OF_ROW), places apart in the output
(form ROW_SKIP). A move of one pixel a row takes its pixels at any distance: rows of one pixel, ``pitch`` pixels apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from delegate.hw.soc import PART_OF_ROW, ROW_SKIP
from delegate.ir import Convolution, Move, Node, Pixels, Tensor, all_pixels
from delegate.quantize import zero_point
from delegate.requantize import plain

ONE = 1 << 6  # weight of an identity; with a shift of 6 behind it nothing is rounded
FILL = -1  # in place of a channel's number: the channel is filled with one value


def rectangle(tensor: Tensor, row: int, column: int, rows: int, width: int, image: int = 0, channel: int = 0) -> Pixels:
    """Some rows and columns of an image of a tensor, from a channel on that begins an atom."""
    pitch = tensor.shape[2]
    return Pixels(rows, width, pitch, row * pitch + column, image, channel)


def forms_of(moves: Sequence[Move]) -> set[str]:
    """The unproven forms that moves are of; a single row is read and written like any other."""
    reads = any(move.source.rows > 1 and move.source.width != move.source.pitch for move in moves)
    writes = any(move.target.rows > 1 and move.target.width != move.target.pitch for move in moves)
    return {form for form, needed in ((PART_OF_ROW, reads), (ROW_SKIP, writes)) if needed}


def one_hot(kernel: npt.NDArray[np.int64], window: tuple[int, int], channels: int) -> npt.NDArray[np.int8]:
    """Weights of a direct convolution, of which each kernel takes one number as it is.

    ``kernel`` (kernels, 3): row and column in the window and channel; a channel of FILL takes nothing.
    """
    weight = np.zeros((len(kernel), *window, channels), np.int8)
    takes = np.flatnonzero(kernel[:, 2] != FILL)
    weight[takes, kernel[takes, 0], kernel[takes, 1], kernel[takes, 2]] = ONE
    return weight


def tap(window: tuple[int, int], row: int, column: int, channels: int) -> npt.NDArray[np.int8]:
    """Weights of a depthwise convolution that takes one pixel of the window as it is."""
    weight = np.zeros((1, *window, channels), np.int8)
    weight[0, row, column] = ONE
    return weight


def copy(
    node: Node,
    source: Tensor,
    output: Tensor,
    moves: tuple[Move, ...] = (),
    *,
    channels: npt.NDArray[np.int64] | None = None,
    weight: npt.NDArray[np.int8] | None = None,
    depthwise: bool = False,
    fill: int = 0,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Convolution:
    """A layer that copies; tensors have four dimensions, ``moves`` () stands for whole images.

    ``channels``: for each channel that is written the number of the one that is read, counted from the move's first
    channel, or FILL; whole kernel groups are written, so what lies behind them has to be written later. None: all
    channels as they are, in whole depthwise groups. ``fill``: int8 domain, value of filled channels and of the padding.
    ``weight``: in place of an identity, ``depthwise`` or not; kernels of zeros fill.
    """
    if channels is not None:
        kernel = np.stack([np.zeros_like(channels), np.zeros_like(channels), channels], axis=1)
        weight = one_hot(kernel, (1, 1), int(channels.max(initial=0)) + 1)
    elif weight is None:
        weight, depthwise = tap((1, 1), 0, 0, source.shape[3]), True
    count = weight.shape[3] if depthwise else weight.shape[0]
    filled = np.zeros(count, np.bool_) if depthwise else ~weight.any(axis=(1, 2, 3))
    return Convolution(
        node=node.index,
        operator=node.op,
        inputs=(source,),
        output=output,
        weight=weight,
        weight_zero_point=0,
        bias=np.where(filled, ONE * fill, 0).astype(np.int32),
        input_zero_point=fill,
        stride=stride,
        padding=padding,
        depthwise=depthwise,
        requantize=(plain(1 / ONE, count, 0),),
        accumulator_scale=None,  # stored numbers, whose zero is not the real one: nothing is to be added to them
        moves=moves,
    )


def selection(node: Node, parts: list[Tensor], classes: list[npt.NDArray[np.bool_]]) -> Convolution:
    """A 1x1 convolution that takes each channel from one of several tensors: 64 * (q - zero point) / 2**6, exact."""
    output = node.outputs[0]
    assert output.quant is not None
    channels, offset = output.shape[3], zero_point(output.quant, output.dtype)
    blocks = [np.diag(np.where(used, ONE, 0).astype(np.int8)) for used in classes]
    return Convolution(
        node=node.index,
        operator=node.op,
        inputs=tuple(parts),
        output=output,
        weight=np.concatenate(blocks, axis=1).reshape(channels, 1, 1, -1),
        weight_zero_point=0,
        bias=np.full(channels, -ONE * offset, np.int32),
        input_zero_point=0,
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        depthwise=False,
        requantize=(plain(1 / ONE, channels, offset),),
        accumulator_scale=float(output.quant.scale[0]) / ONE,
    )


def place_at(
    node: Node, piece: Tensor, output: Tensor, channel: int, kernel_group: int, depthwise_group: int
) -> Convolution:
    """Copies a whole tensor into the channels of a larger one from ``channel`` on, which begins an atom.

    Depthwise where that writes no further than a direct convolution.
    """
    count = piece.shape[3]
    moves = tuple(
        Move(all_pixels(piece, image), replace(all_pixels(piece, image), channel=channel))
        for image in range(piece.shape[0])
    )
    even = -(-count // kernel_group) * kernel_group == -(-count // depthwise_group) * depthwise_group
    return copy(node, piece, output, moves, channels=None if even else np.arange(count))


def changes_nothing(layer: Convolution) -> bool:
    """Whether what a kernel of ONE takes comes out as it is: int8 numbers, 0 being 0."""
    expected = plain(1 / ONE, layer.bias.size, 0)
    fields = ("multiplier", "shift", "offset", "channel_multiplier", "norm_multiplier", "relu")
    return (
        len(layer.inputs) == len(layer.requantize) == 1
        and all(getattr(layer.requantize[0], field) == getattr(expected, field) for field in fields)
        and layer.addend is None
        and layer.stride == layer.dilation == (1, 1)
        and layer.weight_zero_point == 0
        and not layer.bias.any()
    )


def copies_everything(layer: Convolution) -> bool:
    """Whether a layer writes all numbers of its one input, unchanged and in order, to somewhere in its output."""
    piece, count = layer.inputs[0], layer.bias.size
    identity = np.eye(count, dtype=np.int8) * np.int8(ONE)
    expected = tap((1, 1), 0, 0, count) if layer.depthwise else identity.reshape(count, 1, 1, count)
    return (
        changes_nothing(layer)
        and not any(layer.padding)
        and piece.shape[3] == count
        and np.array_equal(layer.weight, expected)
        and [move.source for move in layer.steps] == [all_pixels(piece, image) for image in range(piece.shape[0])]
    )


def pads(layer: Convolution) -> bool:
    """Whether a layer does nothing but put padding around its input."""
    taken = layer.weight.any(axis=3)
    return (
        layer.depthwise
        and not layer.moves
        and any(layer.padding)
        and changes_nothing(layer)
        and np.count_nonzero(taken) == 1
        and bool((layer.weight[taken] == ONE).all())
    )
