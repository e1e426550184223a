"""A convolution as the captured words and buffers have it, as plain arrays for ``integer.evaluate``.

Read from the words with the register tables and the layouts of the hardware book (npu.md §3.1, §3.4), not with the
simulator's code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delegate.hw.registers import Register, split
from delegate.hw.regs import CNA, CORE, DPU
from delegate.hw.task import Bytes
from delegate.tools.capture import CaptureError, CaptureTask
from delegate.tools.captured.integer import Addend, Converter, Ints, Layer
from delegate.tools.captured.upstream import ATOM, CHUNK, DEPTHWISE_GROUP, GROUP, SIGN, read_atoms

DEPTHWISE_MODE = 3  # CONV_MODE


@dataclass(frozen=True)
class Buffers:
    """What a convolution reads, as it was when its first task began; uint8."""

    features: Bytes
    weights: Bytes
    biases: Bytes
    addend: Bytes | None


@dataclass(frozen=True)
class Shapes:
    """True sizes of the tensors, (height, width, channels)."""

    features: tuple[int, int, int]
    output: tuple[int, int, int]


class Fields:
    """The registers that a task writes, the last value of each; 0 where it writes none."""

    def __init__(self, task: CaptureTask) -> None:
        self._values: Mapping[tuple[int, int], int] = {
            (target, offset): value for target, offset, value in map(split, task.words.tolist())
        }

    def __call__(self, register: Register, label: str) -> int:
        value = self._values.get((register.block.target, register.offset), register.reset)
        return register.fields[label].decode(value)


def layer_sent(tasks: Sequence[CaptureTask], buffers: Buffers, shapes: Shapes) -> Layer:
    """The layer of all tasks of an operation; raises CaptureError where sizes do not fit each other."""
    fields = Fields(tasks[0])
    depthwise = fields(CNA.CONV_CON1, "conv_mode") == DEPTHWISE_MODE
    kernel = (fields(CNA.WEIGHT_SIZE2, "weight_height"), fields(CNA.WEIGHT_SIZE2, "weight_width"))
    features = features_sent(fields, buffers.features, shapes)
    channels = fields(CNA.DATA_SIZE1, "datain_channel")
    kernels = 1 if depthwise else -(-shapes.output[2] // 2) * 2
    weights = unpack_weights(buffers.weights, kernels, kernel, channels, depthwise).astype(np.int64)
    pixels, out_width = shapes.output[0] * shapes.output[1], fields(CNA.DATA_SIZE2, "dataout_width")
    if out_width == 0 or pixels % out_width:
        raise CaptureError(f"output rows of {out_width} pixels do not divide {pixels}")
    bias = buffers.biases[: 4 * shapes.output[2]].view("<i4").astype(np.int64)
    return Layer(
        features=features,
        kernels=weights[: shapes.output[2], :, :, : features.shape[2]] + fields(DPU.BS_OW_OP, "ow_op"),
        depthwise=depthwise,
        stride=(fields(CNA.CONV_CON3, "conv_y_stride"), fields(CNA.CONV_CON3, "conv_x_stride")),
        dilation=(
            fields(CNA.CONV_CON3, "atrous_y_dilation") + 1,
            fields(CNA.CONV_CON3, "atrous_x_dilation") + 1,
        ),
        padding=(fields(CNA.PAD_CON0, "pad_top"), fields(CNA.PAD_CON0, "pad_left")),
        output=(pixels // out_width, out_width),
        pad=((fields(CNA.PAD_CON1, "pad_value") & 0xFF) ^ 0x80) - 0x80,
        bias=bias,
        truncate=fields(CORE.CLIP_TRUNCATE, "clip_truncate"),
        converter=Converter(
            fields(DPU.OUT_CVT_SCALE, "out_cvt_scale"),
            fields(DPU.OUT_CVT_SHIFT, "out_cvt_shift"),
            fields(DPU.OUT_CVT_OFFSET, "out_cvt_offset"),
        ),
        addend=addend_sent(fields, buffers.addend, shapes),
    )


def features_sent(fields: Fields, stored: Bytes, shapes: Shapes) -> Ints:
    """The input as the words cut it into rows, int64 (height, width, channels)."""
    height, width, channels = shapes.features
    pixels, row = height * width, fields(CNA.FC_DATA_SIZE0, "dma_width")
    if row == 0 or pixels % row:
        raise CaptureError(f"input rows of {row} pixels do not divide {pixels}")
    if fields(CNA.CONV_CON1, "argb_in"):
        pitch = fields(CNA.DMA_CON1, "line_stride")
        if height * pitch > stored.size or pitch < width:
            raise CaptureError(f"an input of {height} rows of {pitch} pixels in a buffer of {stored.size} bytes")
        rows = stored[: height * pitch].reshape(height, pitch)[:, :width]
        return (rows ^ SIGN).view(np.int8).astype(np.int64).reshape(height, width, 1)
    return read_atoms(stored, pixels, channels).astype(np.int64).reshape(pixels // row, row, -1)


def addend_sent(fields: Fields, stored: Bytes | None, shapes: Shapes) -> Addend | None:
    """The element-wise unit's operand; None where the unit is bypassed."""
    if fields(DPU.EW_CFG, "ew_bypass"):
        return None
    if stored is None:
        raise CaptureError("the element-wise unit is on, but the capture names no tensor that is added")
    height, width, channels = shapes.output
    return Addend(
        read_atoms(stored, height * width, channels)[:, :channels].astype(np.int64),
        fields(DPU.EW_CVT_OFFSET_VALUE, "ew_op_cvt_offset"),
        fields(DPU.EW_CVT_SCALE_VALUE, "ew_op_cvt_scale"),
        fields(DPU.EW_CVT_SCALE_VALUE, "ew_op_cvt_shift"),
    )


def unpack_weights(
    stored: Bytes, kernels: int, kernel: tuple[int, int], channels: int, depthwise: bool
) -> npt.NDArray[np.int8]:
    """Weights in the chip's order as int8 (kernels, height, width, channels); CaptureError if the buffer is short."""
    height, width = kernel
    need = kernels * height * width * channels
    if need == 0 or need > stored.size or channels % ATOM:
        raise CaptureError(f"{kernels} kernels of {height} x {width} x {channels} in a buffer of {stored.size} bytes")
    weights = np.zeros((kernels, height, width, channels), np.int8)
    place = 0
    chunk = DEPTHWISE_GROUP if depthwise else CHUNK
    for first in range(0, kernels, GROUP):
        for channel in range(0, channels, chunk):
            part = weights[first : first + GROUP, :, :, channel : channel + chunk]
            packed = stored[place : place + part.size].view(np.int8)
            part[...] = packed.reshape(height, width, part.shape[0], part.shape[3]).transpose(2, 0, 1, 3)
            place += part.size
    return weights
