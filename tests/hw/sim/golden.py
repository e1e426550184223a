"""What the tests of the simulator need of the captures: models beside them, inputs, tensors as arrays."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from delegate.hw.task import Bytes
from delegate.tools.capture import Capture, CaptureBuffer
from delegate.tools.replay import Replay

Array = npt.NDArray


def model_bytes(shared: Path, name: str) -> bytes:
    """The .tflite of a capture folder (its path below golden/)."""
    base = Path(name).name + ".tflite"
    if name.startswith("sweep/"):
        with zipfile.ZipFile(shared / "models" / "sweep.zip") as archive:
            return archive.read(next(entry for entry in archive.namelist() if Path(entry).name == base))
    folders = (shared / "models", shared / "models" / "mesa-tests")
    return next((folder / base).read_bytes() for folder in folders if (folder / base).exists())


def recorded_input(count: int, index: int) -> Array:
    """Input ``index`` of the recorded run, uint8 (count); golden/README.md has the formula."""
    v = (np.arange(count, dtype=np.uint64) * 2654435761 + index * 40503 + 12345) % (1 << 32)
    return ((v >> 13 ^ v) & 0xFF).astype(np.uint8)


def read_cube(stored: Bytes, height: int, width: int, channels: int) -> Array:
    """An int8 cube from packed surfaces, (height, width, channels)."""
    surfaces = -(-channels // 16)
    atoms = stored[: surfaces * height * width * 16].reshape(surfaces, height, width, 16)
    return atoms.transpose(1, 2, 0, 3).reshape(height, width, -1)[:, :, :channels].view(np.int8)


def write_cube(stored: Bytes, values: Array, fill: int) -> None:
    """An int8 array (height, width, channels) as packed surfaces, missing channels ``fill``."""
    height, width, channels = values.shape
    surfaces = -(-channels // 16)
    full = np.full((height, width, surfaces * 16), fill, np.int8)
    full[:, :, :channels] = values
    packed = full.reshape(height, width, surfaces, 16).transpose(2, 0, 1, 3).reshape(-1).view(np.uint8)
    stored[: packed.size] = packed


def write_pixels(stored: Bytes, values: Array, fill: int) -> None:
    """A one-channel uint8 picture (height, width) in rows of at least 16 pixels."""
    height, width = values.shape
    rows = np.full((height, max(width, 16)), fill, np.uint8)
    rows[:, :width] = values
    stored[: rows.size] = rows.reshape(-1)


def tensors(capture: Capture) -> list[CaptureBuffer]:
    return [buffer for buffer in capture.buffers if buffer.role == "tensor"]


def feed(replay: Replay, tensor: CaptureBuffer, values: Array, zero_point: int) -> None:
    """Puts a uint8 (height, width, channels) tensor into its buffer."""
    stored = replay.buffers[tensor.handle]
    if values.shape[2] == 1:
        write_pixels(stored, values[:, :, 0], zero_point)
    else:
        write_cube(stored, (values ^ 0x80).view(np.int8), np.int8(zero_point - 128))
