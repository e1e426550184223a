"""Where a number lies in memory: cubes of atoms, weights, bias. The compiler's side; the simulator has its own.

A cube is NC1HWC2: surfaces of atoms of 16 bytes, an atom the 16 channels of one pixel (npu.md §3.1, S-40). Weights lie
in groups of kernels and chunks of channels (npu.md §3.4, S-44, S-45).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.hw.soc import Soc
from delegate.hw.task import Bytes, Port

Int8 = npt.NDArray[np.int8]
SIGN = np.uint8(0x80)  # uint8 tensors are stored less 128 (S-34)


def align(value: int, unit: int) -> int:
    """``value`` rounded up to a multiple of ``unit``."""
    return -(-value // unit) * unit


def divide_up(value: int, unit: int) -> int:
    return -(-value // unit)


def surface_rows(height: int, soc: Soc) -> int:
    """Rows of a surface in memory: never fewer than a line group, so that no stride is negative (S-69, S-181)."""
    return max(height, soc.line_group)


def row_entries(width: int, channels: int, soc: Soc) -> int:
    """CBUF entries of 128 bytes of one feature row; three atoms left over take whole entries (npu.md §4)."""
    per_entry = soc.cbuf_entry_bytes // soc.atom_bytes
    whole, rest = divmod(divide_up(channels, soc.atom_bytes), per_entry)
    return whole * width + (width if rest == 3 else divide_up(rest * width, per_entry))


def fits_cbuf(rows: int, width: int, channels: int, group_bytes: int, soc: Soc) -> bool:
    """Whether some feature rows and one group of kernels find room side by side: no layer can be cut finer."""
    weight_banks = divide_up(group_bytes, soc.cbuf_bank_bytes)
    feature_banks = divide_up(rows * row_entries(width, channels, soc) * soc.cbuf_entry_bytes, soc.cbuf_bank_bytes)
    return feature_banks + soc.feature_slack_banks + weight_banks <= soc.cbuf_banks


def cube_view(memory: Bytes, port: Port) -> npt.NDArray[np.uint8]:
    """The cubes of a port in its buffer's memory: uint8 (images, surfaces, rows, width, 16).

    Rows beyond the height pad it, unless the tensor is a part of another, whose rows they are then.
    """
    images, _, width, _ = port.shape
    atom = 16
    row = width * atom
    shape = (images, port.surfaces, port.surface_bytes // row, width, atom)
    strides = (port.image_bytes, port.surface_bytes, row, atom, 1)
    room = memory[port.offset :].size - (images - 1) * port.image_bytes - (port.surfaces - 1) * port.surface_bytes
    rows = min(shape[2], room // row)  # a part may begin below the first row of the last surface
    return np.lib.stride_tricks.as_strided(memory[port.offset :], (*shape[:2], rows, *shape[3:]), strides)


def pack_features(array: npt.NDArray[Any], memory: Bytes, port: Port) -> None:
    """Writes an NHWC int8 or uint8 array into its cubes; padding rows and channels are left alone."""
    cubes = cube_view(memory, port)
    _, height, _, channels = port.shape
    images = array.reshape(port.shape).view(np.uint8)
    flip = SIGN if port.dtype == "uint8" else np.uint8(0)
    atom = cubes.shape[4]
    whole = channels // atom
    if whole:
        blocks = images[..., : whole * atom].reshape(*images.shape[:3], whole, atom)
        np.bitwise_xor(blocks.transpose(0, 3, 1, 2, 4), flip, out=cubes[:, :whole, :height])
    if channels % atom:
        np.bitwise_xor(images[..., whole * atom :], flip, out=cubes[:, whole, :height, :, : channels % atom])


def unpack_features(memory: Bytes, port: Port, array: npt.NDArray[Any]) -> None:
    """Fills an NHWC int8 or uint8 array from its cubes."""
    cubes = cube_view(memory, port)
    _, height, _, channels = port.shape
    images = array.reshape(port.shape).view(np.uint8)
    flip = SIGN if port.dtype == "uint8" else np.uint8(0)
    atom = cubes.shape[4]
    whole = channels // atom
    if whole:
        blocks = images[..., : whole * atom].reshape(*images.shape[:3], whole, atom)
        np.bitwise_xor(cubes[:, :whole, :height].transpose(0, 2, 3, 1, 4), flip, out=blocks)
    if channels % atom:
        np.bitwise_xor(cubes[:, whole, :height, :, : channels % atom], flip, out=images[..., whole * atom :])


def pack_constant(array: npt.NDArray[Any], fill: int, soc: Soc) -> Bytes:
    """The cube of a constant: int8 (height, width, channels); padding rows and channels hold ``fill``."""
    height, width, channels = array.shape
    surfaces = divide_up(channels, soc.atom_bytes)
    padded = np.full((surface_rows(height, soc), width, surfaces * soc.atom_bytes), fill, np.int8)
    padded[:height, :, :channels] = array
    cube = padded.reshape(*padded.shape[:2], surfaces, soc.atom_bytes).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(cube).view(np.uint8).reshape(-1)


def fill_padding(memory: Bytes, port: Port) -> None:
    """Fills a port's whole cubes with the zero point; pack_features then writes the true values over it."""
    cube_view(memory, port)[...] = np.uint8(port.fill & 0xFF)


def pack_weights(weight: Int8, soc: Soc, fill: int) -> Bytes:
    """Weights of a direct convolution: int8 (kernels, height, width, channels) → [K/32][C/32][H][W][32][32].

    Kernels are filled up to whole groups and channels to whole atoms with ``fill``, the weights' zero point, which
    makes a padded weight count as 0 (npu.md §5.1). A last chunk of 16 channels is stored 16 wide.
    """
    kernels, height, width, channels = weight.shape
    group, chunk = soc.kernel_group, soc.channel_chunk
    padded = np.full((align(kernels, group), height, width, align(channels, soc.atom_bytes)), fill, np.int8)
    padded[:kernels, :, :, :channels] = weight
    whole = padded.shape[3] // chunk
    count = padded.shape[0] // group
    groups = padded.reshape(count, group, height, width, padded.shape[3])
    chunks = groups[..., : whole * chunk].reshape(count, group, height, width, whole, chunk)
    parts = [chunks.transpose(0, 4, 2, 3, 1, 5).reshape(count, whole * height * width * group * chunk)]
    if padded.shape[3] % chunk:
        parts.append(groups[..., whole * chunk :].transpose(0, 2, 3, 1, 4).reshape(count, -1))
    return np.ascontiguousarray(np.concatenate(parts, axis=1)).view(np.uint8).reshape(-1)


def pack_depthwise_weights(weight: Int8, soc: Soc, fill: int) -> Bytes:
    """Weights of a depthwise convolution: int8 (1, height, width, channels) → [C/64][H][W][64]."""
    _, height, width, channels = weight.shape
    group = soc.depthwise_group
    padded = np.full((height, width, align(channels, group)), fill, np.int8)
    padded[:, :, :channels] = weight[0]
    groups = padded.reshape(height, width, -1, group).transpose(2, 0, 1, 3)
    return np.ascontiguousarray(groups).view(np.uint8).reshape(-1)


def pack_bias(bias: npt.NDArray[np.int32], channels: int) -> Bytes:
    """The dense int32 operand of BS (npu.md §3.5), zero beyond the true channels, as long as the programmed ones."""
    padded = np.zeros(channels, "<i4")
    padded[: bias.size] = bias
    return padded.view(np.uint8)


def pack_bias_and_multipliers(bias: npt.NDArray[np.int32], multipliers: npt.NDArray[np.int16], channels: int) -> Bytes:
    """The records of BS with a multiplier a channel: for eight channels 64 bytes, int32 A, int16 B, int16 C (S-17).

    B, a weight zero point a channel, is not used and 0. C is 1 beyond the true channels: 0 would switch BS off (S-223).
    """
    record = np.dtype([("add", "<i4", 8), ("pend", "<i2", 8), ("multiply", "<i2", 8)])
    records = np.zeros(channels // 8, record)
    padded = np.zeros(channels, "<i4")
    padded[: bias.size] = bias
    factors = np.ones(channels, "<i2")
    factors[: multipliers.size] = multipliers
    records["add"], records["multiply"] = padded.reshape(-1, 8), factors.reshape(-1, 8)
    return records.view(np.uint8)


def pack_gains(gains: npt.NDArray[np.int8], channels: int) -> Bytes:
    """A signed byte for each programmed channel; 1 beyond the true ones."""
    padded = np.ones(channels, np.int8)
    padded[: gains.size] = gains
    return padded.view(np.uint8)
