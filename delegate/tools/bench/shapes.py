"""Which products are timed."""

from __future__ import annotations

from dataclasses import dataclass

from delegate.errors import OptionError
from delegate.matmul.packing import LARGEST_SIZE

LARGEST_ROWS = 4096


@dataclass(frozen=True)
class Shape:
    """A (rows, depth) times B (depth, columns)."""

    name: str
    rows: int
    depth: int
    columns: int

    @property
    def operations(self) -> int:
        """Two for each product that is added."""
        return 2 * self.rows * self.depth * self.columns

    @property
    def sizes(self) -> str:
        return f"{self.rows}×{self.depth}×{self.columns}"


def squares(text: str) -> list[Shape]:
    """Square products of FIRST:LAST:STEP, the last included; raises OptionError for another text."""
    parts = text.split(":")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise OptionError(f"sizes are {text!r}: FIRST:LAST:STEP, for instance 128:4096:128")
    first, last, step = map(int, parts)
    if not (1 <= first <= last <= LARGEST_ROWS and step >= 1):
        raise OptionError(f"sizes are {text!r}: from 1 to {LARGEST_ROWS}, ascending")
    return [Shape(str(size), size, size, size) for size in range(first, last + 1, step)]


def layers(name: str, rows: int, *sizes: tuple[str, int, int]) -> list[Shape]:
    return [Shape(f"{name}: {part}", rows, depth, columns) for part, depth, columns in sizes]


TINYLLAMA = (("q, o", 2048, 2048), ("k, v", 2048, 256), ("gate, up", 2048, 5632), ("down", 5632, 2048))
MODELS: tuple[Shape, ...] = (
    *layers("TinyLlama 1.1B, a token", 1, *TINYLLAMA),
    *layers("TinyLlama 1.1B, 256 tokens", 256, *TINYLLAMA),
    *layers("RWKV-4 169M, a token", 1, ("r, k, v, o", 768, 768), ("key", 768, 3072), ("value", 3072, 768)),
    *layers("BERT base, 128 tokens", 128, ("q, k, v, o", 768, 768), ("up", 768, 3072), ("down", 3072, 768)),
    *layers("ViT-B/16", 197, ("q, k, v", 768, 2304), ("up", 768, 3072)),
    *layers("MobileNetV1", 3136, ("pointwise 3", 128, 128)),
    *layers("MobileNetV1", 196, ("pointwise 7 to 11", 512, 512)),
    *layers("MobileNetV1", 49, ("pointwise 13", 1024, 1024)),
)
"""Layers of public models, in their true sizes."""
assert all(max(shape.depth, shape.columns) <= LARGEST_SIZE for shape in MODELS)
