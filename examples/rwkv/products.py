"""What a model's matrix products are made of: numpy alone, or the NPU with a share of the columns on the CPU."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from delegate.hw.device import Kernel
from delegate.product import FloatProduct
from examples.rwkv.model import Array, Product

Matrix = npt.NDArray[Any]


def on_cpu(b: Matrix) -> Product:
    """By B (K, N) in fp32, without the NPU."""
    wide = b.astype(np.float32)
    return lambda a: a @ wide


class OnNpu:
    """Makes products by matrices (K, N) on the NPU, and closes all of them; see FloatProduct."""

    def __init__(self, device: str = "auto", cores: int = 1, kernel: Kernel = "rocket", cpu_share: float = 0.0) -> None:
        self.options: dict[str, Any] = {"device": device, "cores": cores, "kernel": kernel, "cpu_share": cpu_share}
        self._open = ExitStack()

    def __call__(self, b: Matrix) -> Product:
        return self._open.enter_context(FloatProduct(b, **self.options))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def compared(own: Array, other: Array) -> tuple[float, bool]:
    """(the largest difference of logits as a share of the other's range, whether both prefer the same token)."""
    span = float(other.max() - other.min()) or 1.0
    return float(np.abs(own - other).max()) / span, int(own.argmax()) == int(other.argmax())
