"""The graph as TFLite has it (Quant, Tensor, Node, Graph) and as the NPU runs it (Convolution).

Graph types keep TFLite's values; layer types are in the NPU's int8 domain, where a uint8 tensor is stored less 128
(hardware book S-34).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

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
    """How the accumulators of some output channels become bytes: through BS, BN and OUT_CVT, one after the other.

    v = round((accumulator + bias) * channel_multiplier / 2**channel_shift), in BS, ties to even (S-19, S-21)
    v = clamp of v to [0, relu_limit] if ``relu``
    v = round(v * norm_multiplier / 2**norm_shift), in BN
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
    relu: bool = False
    relu_limit: int | None = None


@dataclass(frozen=True, eq=False)
class Addend:
    """A tensor that the element-wise unit adds to the accumulator: (q + offset) * multiplier / 2**shift, rounded."""

    tensor: Tensor
    offset: int  # minus the zero point, int8 domain
    multiplier: int  # 15 bits
    shift: int


def spanned(taps: int, dilation: int) -> int:
    """Pixels from the first tap of a kernel to the last."""
    return (taps - 1) * dilation + 1


@dataclass(frozen=True, eq=False)
class Convolution:
    """One pass CNA -> CORE -> DPU.

    out[y,x,k] = requantize(bias[k] + sum over i,j,c of in[y*sy+i*dy-top, x*sx+j*dx-left, c] * (weight[k,i,j,c] - zw))

    zw is ``weight_zero_point``; ``bias`` holds the input's zero point already. ``inputs`` are cubes that are read as
    one, behind each other in channels; ``weight`` has the channels of all of them. A depthwise weight has one kernel.
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

    @property
    def window(self) -> tuple[int, int]:
        """Height and width in pixels that a kernel spans."""
        _, height, width, _ = self.weight.shape
        return spanned(height, self.dilation[0]), spanned(width, self.dilation[1])


@dataclass(frozen=True, eq=False)
class Alias:
    """No work: ``output`` is ``source`` under another shape or type, the bytes in device memory are the same."""

    source: Tensor
    output: Tensor


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
    input_channels: int  # programmed: whole atoms, whole groups for depthwise
    input_channels_real: int
    input_surface: int  # atoms
    output_height: int  # rows of the slice
    output_width: int
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
    addend: Place | None
    addend_surface: int  # atoms
    addend_skip: int  # atoms of a surface of the addend that other slices read
