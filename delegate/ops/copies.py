"""Moving numbers without changing them: 1x1 convolutions with the identity, exact for every number (64 * q / 2**6).

Which pixels go where is said by moves: rows of a tensor, parts of rows (form PART_OF_ROW), places apart in the output
(form ROW_SKIP). A move of one pixel a row takes its pixels at any distance: rows of one pixel, ``pitch`` pixels apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from delegate.ir import Convolution, Move, Node, Pixels, Tensor
from delegate.requantize import plain

ONE = 1 << 6  # weight of an identity; with a shift of 6 behind it nothing is rounded
FILL = -1  # in place of a channel's number: the channel is filled with one value


def rectangle(tensor: Tensor, row: int, column: int, rows: int, width: int, image: int = 0, channel: int = 0) -> Pixels:
    """Some rows and columns of an image of a tensor, from a channel on that begins an atom."""
    pitch = tensor.shape[2]
    return Pixels(rows, width, pitch, row * pitch + column, image, channel)


def needs_forms(moves: Sequence[Move], source: Tensor, output: Tensor) -> tuple[bool, bool]:
    """Whether moves read parts of rows, and whether they leave memory out behind what they write."""
    reads = any(move.source.width != move.source.pitch for move in moves)
    writes = any(move.target.width != move.target.pitch for move in moves)
    return reads, writes


def copy(
    node: Node,
    source: Tensor,
    output: Tensor,
    moves: tuple[Move, ...] = (),
    *,
    channels: npt.NDArray[np.int64] | None = None,
    fill: int = 0,
    stride: tuple[int, int] = (1, 1),
) -> Convolution:
    """A layer that copies; tensors have four dimensions, ``moves`` () stands for whole images.

    ``channels``: for each channel that is written the number of the one that is read, counted from the move's first
    channel, or FILL; whole kernel groups are written, so what lies behind them has to be written later. None: all
    channels as they are, in whole depthwise groups. ``fill``: int8 domain, value of filled channels.
    """
    depthwise = channels is None
    count = source.shape[3] if channels is None else len(channels)
    bias = np.zeros(count, np.int32)
    if channels is None:
        weight = np.full((1, 1, 1, count), ONE, np.int8)
    else:
        read = int(channels.max(initial=0)) + 1
        weight = np.where(channels[:, None] == np.arange(read), np.int8(ONE), np.int8(0)).reshape(count, 1, 1, read)
        bias[channels == FILL] = ONE * fill
    return Convolution(
        node=node.index,
        operator=node.op,
        inputs=(source,),
        output=output,
        weight=weight,
        weight_zero_point=0,
        bias=bias,
        input_zero_point=0,  # nothing is padded
        stride=stride,
        padding=(0, 0, 0, 0),
        depthwise=depthwise,
        requantize=(plain(1 / ONE, count, 0),),
        accumulator_scale=None,  # stored numbers, whose zero is not the real one: nothing is to be added to them
        moves=moves,
    )
