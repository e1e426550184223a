"""What CNA reads from memory, as numbers: features (height, width, channels) and kernels (kernels, kh, kw, channels).

The integer formats come back as int64, the others as float32.
"""

from __future__ import annotations

import numpy as np

from delegate.errors import SimulatorError
from delegate.hw.sim.cna import Converter, Features, Weights, Window
from delegate.hw.sim.memory import AddressSpace
from delegate.hw.sim.numbers import (
    Numbers,
    Stored,
    bfloat_to_float,
    half_to_float,
    nibbles,
    round_shift,
    round_to_tf32,
    saturate,
)
from delegate.hw.sim.options import Options
from delegate.hw.sim.precision import BF16, FP16, INT4, INT8, INT16, TF32, Precision
from delegate.hw.task import Bytes

STORED = {INT8: np.int8, INT16: np.int16, INT4: np.uint8, FP16: np.float16, BF16: np.uint16, TF32: np.float32}


def to_numbers(stored: Stored, precision: Precision) -> Numbers:
    """Stored elements (the last axis holds whole atoms or chunks) to int64 or float32."""
    if precision is INT4:
        return nibbles(np.ascontiguousarray(stored)).astype(np.int64)
    if precision is BF16:
        return bfloat_to_float(stored)
    if precision is TF32:
        return round_to_tf32(np.ascontiguousarray(stored))
    return stored.astype(np.int64 if precision.integer else np.float32)


def cube(memory: AddressSpace, features: Features, task: str) -> Stored:
    """The fetched cube as stored: a view (surfaces, height, width, elements of an atom). F-20: npu.md §3.2.

    The fetched columns may be a part of each row, a single one among them (F-127, F-128).
    """
    dtype = np.dtype(STORED[features.precision])
    shape = (features.surfaces, features.height, features.width, 16 // dtype.itemsize)
    strides = (features.surface_pitch, features.row_pitch, 16, dtype.itemsize)
    return memory.strided(features.address, shape, strides, dtype, f"{task}: CNA features")


def read_features(memory: AddressSpace, features: Features, task: str) -> Numbers:
    """Features as the MAC sees them, (height, width, channels)."""
    if features.pixel_channels:
        return _read_pixels(memory, features, task)
    if features.converter is not None:
        raise SimulatorError(f"{task}: CNA.CVT_CON0 converts a feature cube: only pixel input is known to")
    stored = cube(memory, features, task)
    rows = stored.transpose(1, 2, 0, 3)
    numbers = to_numbers(rows, features.precision)
    return numbers.reshape(features.height, features.width, -1)


def _read_pixels(memory: AddressSpace, features: Features, task: str) -> Numbers:
    """Interleaved pixels: a row of LINE_STRIDE pixels, the missing channels are 0 (F-27)."""
    precision, channels = features.precision, features.pixel_channels
    if precision not in (INT8, INT16, FP16):
        raise SimulatorError(f"{task}: CNA.CONV_CON1 pixel input in {precision.name}: int8, int16 or fp16")
    unsigned = precision is INT8 and not features.signed
    dtype = np.dtype(np.uint8 if unsigned else STORED[precision])
    shape = (features.height, features.width, channels)
    strides = (features.row_pitch, channels * dtype.itemsize, dtype.itemsize)
    stored = memory.strided(features.address, shape, strides, dtype, f"{task}: CNA pixels")
    numbers = stored.astype(np.int64 if precision.integer else np.float32)
    if features.converter is not None:
        if precision is not INT8:
            raise SimulatorError(f"{task}: CNA.CVT_CON0 converts {precision.name} pixels: only 8-bit ones are known")
        numbers = convert(numbers, features.converter)
    elif unsigned:
        raise SimulatorError(f"{task}: CNA.CVT_CON0 takes unsigned 8-bit pixels without conversion")
    full = np.zeros((features.height, features.width, features.channels), numbers.dtype)
    full[:, :, :channels] = numbers
    return full


def convert(numbers: Numbers, converter: Converter) -> Numbers:
    """The input converter on (height, width, lanes) integers; the result is an int8 (F-29)."""
    lanes = numbers.shape[2]
    scale, offset = (np.array(values[:lanes], np.int64) for values in (converter.scale, converter.offset))
    out = numbers + offset if converter.add_first else numbers
    out = out * scale
    for lane in range(lanes):
        out[:, :, lane] = round_shift(out[:, :, lane], converter.shift[lane], converter.away_from_zero)
    return saturate(out if converter.add_first else out + offset, 8)


def pad_values(window: Window, features: Features, depthwise: bool, options: Options, task: str) -> Numbers:
    """The value of a padded element for each channel (channels); fp16 in the low half (S-170).

    int8: the low byte, or the byte lanes of S-36 (F-30: why this is a choice).
    """
    precision, value = features.precision, window.pad_value
    if precision is INT8:
        lanes = np.array([value & 0xFF, value >> 8 & 0xFF], np.uint8).view(np.int8).astype(np.int64)
        pads = np.full(features.channels, lanes[0])
        if (
            depthwise and options.pad_lanes == "two lanes"
        ):  # odd channels among the first 32 of a 64-channel group read byte 1 (S-36)
            channel = np.arange(features.channels)
            pads[(channel % 64 < 32) & (channel % 2 == 1)] = lanes[1]
        return pads
    if precision is FP16:
        return np.full(features.channels, half_to_float(value & 0xFFFF), np.float32)
    if value:
        raise SimulatorError(f"{task}: CNA.PAD_CON1 = {value:#x}: only 0 is known for {precision.name}")
    return np.zeros(features.channels, np.int64 if precision.integer else np.float32)


def pad_extent(features: Features, window: Window, output: tuple[int, int]) -> tuple[int, int, int, int]:
    """(height, width) of the surface the kernel moves over, deconvolution included, then the rows and columns that
    are padded below and to the right, which the output size implies (S-39). Negative: not all input is used."""
    sizes = []
    after = []
    for axis, extent in enumerate((features.height, features.width)):
        dilated = (extent - 1) * window.upsampling[axis] + 1
        reach = (output[axis] - 1) * window.stride[axis] + (window.kernel[axis] - 1) * window.dilation[axis] + 1
        sizes.append(dilated)
        after.append(reach - dilated - window.padding[axis])
    return sizes[0], sizes[1], after[0], after[1]


def padded_elements(features: Features, window: Window, output: tuple[int, int]) -> int:
    """How many elements ``padded`` returns."""
    height, width, below, right = pad_extent(features, window, output)
    top, left = window.padding
    return (top + height + max(below, 0)) * (left + width + max(right, 0)) * features.channels


def padded(
    numbers: Numbers, features: Features, window: Window, output: tuple[int, int], pads: Numbers, options: Options
) -> Numbers:
    """Features with all padding the windows of ``output`` (height, width) reach, (height, width, channels) (F-31)."""
    height, width, below, right = pad_extent(features, window, output)
    top, left = window.padding
    full = np.empty((top + height + max(below, 0), left + width + max(right, 0), features.channels), numbers.dtype)
    full[...] = pads
    if options.pad_after == "0":
        full[top + height :] = 0
        full[:, left + width :] = 0
    inside = full[top : top + height, left : left + width]
    if window.upsampling != (1, 1):
        inside[...] = 0  # zeros between the pixels (S-140)
    inside[:: window.upsampling[0], :: window.upsampling[1]] = numbers
    return full


def unpack_weights(stored: Bytes, weights: Weights) -> Numbers:
    """Packed kernels to (kernels, kh, kw, channels), or (1, kh, kw, channels) for depthwise (F-37).

    Order outer to inner [kernels/G][channels/chunk][kh][kw][G][chunk], depthwise [channels/G][kh][kw][G]; the last
    group and chunk are as short as what is left (npu.md §3.4, S-44, S-45, C-22).
    """
    numbers = to_numbers(stored.view(STORED[weights.precision]), weights.precision).reshape(-1)
    height, width = weights.kernel
    out = np.empty((weights.kernels, height, width, weights.channels), numbers.dtype)
    at = 0
    if weights.depthwise:
        group = weights.precision.depthwise_group
        for first in range(0, weights.channels, group):
            last = min(first + group, weights.channels)
            count = height * width * (last - first)
            out[0, :, :, first:last] = numbers[at : at + count].reshape(height, width, last - first)
            at += count
        return out
    group, chunk = weights.precision.kernel_group, weights.precision.chunk
    for kernel in range(0, weights.kernels, group):
        end = min(kernel + group, weights.kernels)
        for channel in range(0, weights.channels, chunk):
            last = min(channel + chunk, weights.channels)
            shape = (height, width, end - kernel, last - channel)
            count = height * width * (end - kernel) * (last - channel)
            block = numbers[at : at + count].reshape(shape)
            out[kernel:end, :, :, channel:last] = block.transpose(2, 0, 1, 3)
            at += count
    return out
