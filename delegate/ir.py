"""The graph as TFLite has it (Quant, Tensor, Node, Graph) and as the NPU runs it (Convolution, Elementwise, Pooling).

Graph types keep TFLite's values; layer types are in the NPU's int8 domain, where a uint8 tensor is stored less 128
(hardware book S-34).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from delegate.hw.task import Place

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Quant:
    """real = scale * (q - zero_point), per tensor or per channel of ``axis``."""

    scale: npt.NDArray[np.float32]  # float32 (1) or (channels)
    zero_point: npt.NDArray[np.int32]  # int32 (1) or (channels)
    axis: int = 0

    @property
    def per_channel(self) -> bool:
        return self.scale.size > 1


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the model. ``data`` is None for one that is computed or fed."""

    index: int
    name: str
    shape: tuple[int, ...]  # NHWC, or OHWI for weights, 1HWC for depthwise weights
    dtype: str  # numpy's name
    quant: Quant | None = None
    data: Array | None = field(default=None, repr=False)


def as_cube(tensor: Tensor) -> Tensor:
    """A tensor of up to three dimensions as one of four: rows become the height, as in a product of matrices."""
    if len(tensor.shape) >= 4:
        return tensor
    *rows, channels = tensor.shape or (1,)
    return replace(tensor, shape=(1, math.prod(rows), 1, channels))


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. ``op`` is TFLite's builtin operator name; an optional input that is absent is None."""

    index: int  # in the model
    op: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    params: Mapping[str, Any]  # stride (y,x), dilation (y,x), padding SAME|VALID, activation NONE|RELU|RELU6…
    version: int = 1


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in execution order and the tensors that cross the border. All tensors of the model by index."""

    tensors: Mapping[int, Tensor]
    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def constants(self) -> Iterator[Tensor]:
        """The constant tensors that the nodes read, each once."""
        seen: set[int] = set()
        for node in self.nodes:
            for tensor in node.inputs:
                if tensor is not None and tensor.data is not None and tensor.index not in seen:
                    seen.add(tensor.index)
                    yield tensor


@dataclass(frozen=True, eq=False)
class Requantize:
    """How the accumulators of some output channels become bytes: through BS, BN, EW and OUT_CVT, one after the other.

    v = round((accumulator + bias) * channel_multiplier / 2**channel_shift), in BS, ties to even (S-19, S-21)
    v = clamp of v to [0, relu_limit] if ``relu``
    v = round(v * norm_multiplier / 2**norm_shift) + norm_addend, in BN (S-154)
    v = v * gain, in EW
    out = saturate(round(v * multiplier / 2**shift) + offset), ties to even, or away from zero (S-01, S-04)
    """

    channels: range  # of the layer's output
    multiplier: int
    shift: int
    offset: int  # output zero point, int8 domain
    half_away: bool = False
    channel_multiplier: npt.NDArray[np.int16] | None = None  # (channels); None: BS does not multiply
    channel_shift: int = 0
    norm_multiplier: int | None = None  # None: BN does nothing
    norm_shift: int = 0
    norm_addend: int = 0
    gain: npt.NDArray[np.int8] | None = None  # (channels), signed bytes, not 0; None: EW does nothing
    relu: bool = False
    relu_limit: int | None = None


@dataclass(frozen=True, eq=False)
class Addend:
    """A tensor that the element-wise unit adds to the accumulator: (q + offset) * multiplier / 2**shift, rounded."""

    tensor: Tensor
    offset: int  # minus the zero point, int8 domain
    multiplier: int  # 15 bits
    shift: int


@dataclass(frozen=True)
class Pixels:
    """Pixels of a tensor that a layer reads or writes: ``rows`` rows of ``width``, the first pixel being ``first``."""

    rows: int
    width: int
    pitch: int  # pixels from a row to the next
    first: int = 0  # counted along the rows of the whole tensor
    image: int = 0
    channel: int = 0  # where the channels begin; whole atoms


@dataclass(frozen=True)
class Move:
    """Pixels read, and where the results go."""

    source: Pixels
    target: Pixels


def all_pixels(tensor: Tensor, image: int) -> Pixels:
    """One whole image of a tensor of four dimensions."""
    _, height, width, _ = tensor.shape
    return Pixels(height, width, width, image=image)


def spanned(taps: int, dilation: int) -> int:
    """Pixels from the first tap of a kernel to the last."""
    return (taps - 1) * dilation + 1


@dataclass(frozen=True, eq=False)
class Convolution:
    """One pass CNA -> CORE -> DPU.

    out[y,x,k] = requantize(bias[k] + sum over i,j,c of in[y*sy+i*dy-top, x*sx+j*dx-left, c] * (weight[k,i,j,c] - zw))

    zw is ``weight_zero_point``; ``bias`` holds the input's zero point already. ``inputs`` are cubes that are read as
    one, behind each other in channels; ``weight`` has the channels of all of them. A depthwise weight has one kernel.
    ``moves``: what is read and written where that is not whole images; padding then surrounds the pixels of a source.
    """

    node: int  # index of the node in the partition
    operator: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    weight: npt.NDArray[np.int8]  # (kernels, height, width, channels)
    weight_zero_point: int
    bias: npt.NDArray[np.int32]  # (output channels)
    input_zero_point: int  # value of the padding, int8 domain
    stride: tuple[int, int]  # y, x
    padding: tuple[int, int, int, int]  # pixels: top, bottom, left, right
    depthwise: bool
    requantize: tuple[Requantize, ...]  # for runs of whole groups of channels, in order
    accumulator_scale: (
        float | None
    )  # real value of one step of the accumulator; None: it differs from channel to channel
    addend: Addend | None = None
    dilation: tuple[int, int] = (1, 1)  # dy, dx
    moves: tuple[Move, ...] = ()

    @property
    def reads(self) -> tuple[Tensor, ...]:
        """All tensors that are read."""
        return (*self.inputs, self.addend.tensor) if self.addend else self.inputs

    @property
    def steps(self) -> tuple[Move, ...]:
        """The moves, by default one for each image."""
        images = range(self.output.shape[0])
        return self.moves or tuple(Move(all_pixels(self.inputs[0], i), all_pixels(self.output, i)) for i in images)

    @property
    def window(self) -> tuple[int, int]:
        """Height and width in pixels that a kernel spans."""
        _, height, width, _ = self.weight.shape
        return spanned(height, self.dilation[0]), spanned(width, self.dilation[1])


@dataclass(frozen=True, eq=False)
class Elementwise:
    """One pass DPU_RDMA -> DPU, without convolution, over all pixels and channels of a tensor.

    v = round((main + main_offset) * main_multiplier / 2**main_shift), in BS, ties to even (S-19, S-21)
    v = v operation ((operand + operand_offset) * operand_multiplier), in EW
    v = table[v], or nothing (S-220)
    out = saturate(round(v * multiplier / 2**shift) + offset), as in Requantize, of which BS and BN are not used
    """

    node: int  # index of the node in the partition
    operator: str
    main: Tensor
    output: Tensor
    requantize: Requantize
    main_offset: int = 0
    main_multiplier: int = 1  # signed 16 bits
    main_shift: int = 0
    operation: Literal["max", "min", "add", "subtract", "multiply"] | None = None
    # Of main's shape, or (1, 1, 1, channels) for all pixels; may be a constant, and then of some rows that repeat.
    operand: Tensor | None = None
    operand_first: int = 0  # pixel of the operand that meets main's first; behind its last lies what nobody looks at
    operand_offset: int = 0
    operand_multiplier: int = 1  # signed 16 bits
    table: npt.NDArray[np.int16] | None = None  # (2, 513): below 0, from 0 on

    @property
    def reads(self) -> tuple[Tensor, ...]:
        """All tensors that are read and computed."""
        return (self.main,) if self.operand is None or self.operand.data is not None else (self.main, self.operand)

    @property
    def per_channel(self) -> bool:
        """Whether the operand is one number a channel, for all of several pixels."""
        return self.operand is not None and self.operand.shape[1:3] == (1, 1) != self.output.shape[1:3]

    @property
    def repeats(self) -> bool:
        """Whether the operand is a constant of fewer rows, which meet the first rows, the next ones, and so on."""
        return self.operand is not None and not self.per_channel and self.operand.shape[1] < self.output.shape[1]

    @property
    def scales_main(self) -> bool:
        """Whether BS does anything."""
        return (self.main_offset, self.main_multiplier, self.main_shift) != (0, 1, 0)


@dataclass(frozen=True, eq=False)
class Pooling:
    """One pass PPU_RDMA -> PPU: the largest value of each window; padding counts as -128."""

    node: int  # index of the node in the partition
    operator: str
    input: Tensor
    output: Tensor
    kernel: tuple[int, int]  # pixels: height, width
    stride: tuple[int, int]  # y, x
    padding: tuple[int, int, int, int]  # pixels: top, bottom, left, right

    @property
    def reads(self) -> tuple[Tensor, ...]:
        """All tensors that are read."""
        return (self.input,)


AnyLayer = Convolution | Elementwise | Pooling


@dataclass(frozen=True, eq=False)
class View:
    """No work: ``part`` lies in the memory of ``whole``, under a shape and a type of its own.

    ``row`` and ``channel`` are those of ``whole`` at which it begins; the channel begins an atom.
    """

    part: Tensor
    whole: Tensor
    row: int = 0
    channel: int = 0


@dataclass(frozen=True, eq=False)
class ConvTile:
    """A part of a Convolution that fits the CBUF: one task. All sizes are true sizes.

    ``input_surface`` and ``output_surface`` are the pitches of a surface of the whole tensor, in atoms; the places are
    those of the tile's first row and first channel.
    """

    layer: Convolution
    requantize: Requantize
    input_height: int  # rows of the slice
    input_width: int
    input_pitch: int  # pixels from a row to the next
    input_channels: int  # programmed: whole atoms, whole groups for depthwise
    input_channels_real: int
    input_surface: int  # atoms
    output_height: int  # rows of the slice
    output_width: int
    output_skip: int  # pixels left out behind each row
    output_channels: int  # programmed: whole kernel groups
    output_channels_real: int
    output_surface: int  # atoms
    padding_top: int  # pixels; only the first slice has any
    kernel_bytes: int
    feature_banks: int
    weight_banks: int
    weights_resident: bool  # the task before left the same weights in the CBUF
    feature: Place
    weight: Place
    bias: Place
    output: Place
    gain: Place | None  # a byte a channel
    addend: Place | None
    addend_surface: int  # atoms
    addend_skip: int  # atoms of a surface of the addend that other slices read


@dataclass(frozen=True, eq=False)
class FlyingTile:
    """Some rows of an image of an Elementwise layer: one task. All sizes are true sizes."""

    layer: Elementwise
    rows: int
    width: int
    channels: int  # whole atoms
    main: Place
    main_surface: int  # atoms
    operand: Place | None
    operand_surface: int  # atoms
    output: Place
    output_surface: int  # atoms


@dataclass(frozen=True, eq=False)
class PoolTile:
    """One image of a Pooling layer: one task. All sizes are true sizes."""

    layer: Pooling
    input_height: int  # rows that windows see
    input_width: int
    input_pitch: int  # pixels from a row to the next
    output_height: int
    output_width: int
    channels: int  # whole atoms
    source: Place
    source_surface: int  # atoms
    output: Place
    output_surface: int  # atoms


AnyTile = ConvTile | FlyingTile | PoolTile
