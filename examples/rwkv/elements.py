"""Number types of checkpoints, by their names in safetensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# BF16, which numpy has not, is read as its 16 bits.
NUMBERS: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}


def to_numpy(content: bytes | bytearray, numbers: str) -> npt.NDArray[Any]:
    """The numbers in a row; BF16 becomes float32, of which it is the upper half."""
    values: npt.NDArray[Any] = np.frombuffer(content, NUMBERS[numbers])
    return (values.astype(np.uint32) << 16).view(np.float32) if numbers == "BF16" else values
