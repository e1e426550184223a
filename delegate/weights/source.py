"""What the readers of checkpoints give: tensors by name, read when they are wanted, and the sizes of a Llama."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.errors import ModelError

Array = npt.NDArray[Any]
LARGEST = 1 << 24  # of any size in a header; what is beyond is a damaged file, not a model
MOST_LAYERS = 1024  # of which each is nine tensors to keep a list of


@dataclass(frozen=True)
class Llama:
    """The sizes of a Llama, as llama2.c's header has them, and what only newer formats say."""

    dim: int  # of the residual stream
    hidden: int  # of the feed-forward part
    layers: int
    heads: int
    kv_heads: int  # heads of keys and values; each is shared by heads / kv_heads query heads
    vocabulary: int
    context: int  # tokens
    epsilon: float = 1e-5  # of the normalization
    theta: float = 10000.0  # base of the rotary embedding

    @property
    def head(self) -> int:
        """Elements of a head."""
        return self.dim // self.heads

    @property
    def kv_dim(self) -> int:
        """Elements of all heads' keys, or values."""
        return self.head * self.kv_heads

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def check(self, where: object) -> None:
        """Raises ModelError where the sizes are those of no Llama."""
        for name, value in asdict(self).items():
            number = isinstance(value, float if name in ("epsilon", "theta") else int)
            if not number or not 0 < value <= (MOST_LAYERS if name == "layers" else LARGEST):
                raise ModelError(f"{where}: {name} is {value}; the file is damaged or no Llama")
        if self.dim % self.heads or self.heads % self.kv_heads or self.head % 2:
            raise ModelError(
                f"{where}: {self.heads} heads and {self.kv_heads} of keys do not divide {self.dim} elements into even "
                "shares; the file is damaged or no Llama"
            )


@dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint; ``read`` gives it as float32."""

    shape: tuple[int, ...]
    read: Callable[[], Array]


@dataclass(frozen=True)
class Source:
    """A checkpoint. ``llama`` with tensors under the names of ``llama_shapes``, or None and the file's own names."""

    path: Path
    format: str
    tensors: Mapping[str, Tensor]
    llama: Llama | None = None
    files: tuple[Path, ...] = ()  # all that it is made of, if not ``path`` alone


def llama_shapes(llama: Llama) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama and their shapes, matrices as (outputs, inputs); "classifier" may be missing: it is then
    the embedding.
    """
    dim, hidden, kv_dim = llama.dim, llama.hidden, llama.kv_dim
    shapes: dict[str, tuple[int, ...]] = {"embedding": (llama.vocabulary, dim), "norm": (dim,)}
    for layer in range(llama.layers):
        parts = {
            "attention_norm": (dim,),
            "wq": (dim, dim),
            "wk": (kv_dim, dim),
            "wv": (kv_dim, dim),
            "wo": (dim, dim),
            "ffn_norm": (dim,),
            "w1": (hidden, dim),
            "w2": (dim, hidden),
            "w3": (hidden, dim),
        }
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in parts.items()}
    return shapes | {"classifier": (llama.vocabulary, dim)}


def check_shapes(source: Source) -> Source:
    """The source itself; raises ModelError where a Llama lacks a tensor or one has another shape than its sizes say."""
    if source.llama is not None:
        source.llama.check(source.path)
        for name, shape in llama_shapes(source.llama).items():
            tensor = source.tensors.get(name)
            if tensor is None and name != "classifier":
                raise ModelError(f"{source.path}: the tensor {name} is missing")
            if tensor is not None and tensor.shape != shape:
                raise ModelError(
                    f"{source.path}: {name} has the shape {tensor.shape}; the sizes in the file say {shape}"
                )
    return source


def finite(name: str, values: Array, where: object) -> Array:
    """``values``; raises ModelError if one is NaN or infinite."""
    if not np.isfinite(values).all():
        count = int(values.size - np.count_nonzero(np.isfinite(values)))
        raise ModelError(f"{where}: {name} has {count} values that are NaN or infinite; the checkpoint is damaged")
    return values


def unpermuted(weight: Array, heads: int) -> Array:
    """wq or wk of Hugging Face's files, whose heads have first all even then all odd elements, with pairs side by side
    as llama2.c and this project's rotary embedding want them.
    """
    outputs, inputs = weight.shape
    return weight.reshape(heads, 2, outputs // heads // 2, inputs).swapaxes(1, 2).reshape(outputs, inputs)
