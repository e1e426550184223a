"""Matrix products on the NPU: ``C = A @ B``, numpy in and out. See docs/matmul.md."""

from delegate.matmul.api import Matmul, Pending, matmul
from delegate.matmul.packing import pack
from delegate.matmul.requantization import Requantization

__all__ = ["Matmul", "Pending", "Requantization", "matmul", "pack"]
