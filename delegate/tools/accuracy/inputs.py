"""What a model is fed: pictures where it takes one, else seeded random numbers over the range of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from delegate.errors import ModelError
from delegate.ir import Array, Graph, Tensor
from delegate.tools.accuracy.models import ModelFile
from delegate.tools.picture import read_picture, to_input

RANDOM_INPUTS = 2  # for a model that is fed no pictures


@dataclass(frozen=True)
class Request:
    """``random`` None: two where there are no pictures, else none."""

    images: Path | None = None
    random: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Inputs:
    """One array for each input of the model, and where they come from."""

    name: str
    arrays: tuple[Array, ...]


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder that Pillow knows by their endings."""
    known = Image.registered_extensions()
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in known and path.is_file())


def pictures_for(model: ModelFile, folder: Path | None) -> list[Path]:
    """The folder's pictures, by default those beside the model or in ``images`` beside it; ModelError for no folder."""
    if folder is not None:
        if not folder.is_dir():
            raise ModelError(f"images folder {folder} does not exist")
        found = pictures_in(folder)
        if not found:
            raise ModelError(f"images folder {folder} has no picture that Pillow knows")
        return found
    if model.member:
        return []
    beside = model.path.parent
    return pictures_in(beside) or (pictures_in(beside / "images") if (beside / "images").is_dir() else [])


def takes_picture(graph: Graph) -> bool:
    """One image of one or three channels, in a type that pictures are turned into."""
    tensors = [graph.tensors[index] for index in graph.inputs]
    if len(tensors) != 1 or len(tensors[0].shape) != 4:
        return False
    (tensor,) = tensors
    return tensor.shape[0] == 1 and tensor.shape[3] in (1, 3) and tensor.dtype in ("uint8", "int8", "float32")


def picture_inputs(tensor: Tensor, path: Path) -> Inputs:
    """A picture in the size of the only input."""
    pixels = read_picture(path, *tensor.shape[1:])
    return Inputs(path.name, (to_input(pixels, tensor.dtype, 1.0, 0, None, None),))


def range_of(graph: Graph, tensor: Tensor) -> tuple[float, float]:
    """What a float input is drawn from: what the model quantizes it to; 0 to 1 where it does not."""
    for node in graph.nodes:
        quant, dtype = node.outputs[0].quant, node.outputs[0].dtype
        read = node.inputs[0]
        if node.op == "QUANTIZE" and quant is not None and read is not None and read.index == tensor.index:
            limits, scale, point = np.iinfo(dtype), float(quant.scale[0]), int(quant.zero_point[0])
            return scale * (int(limits.min) - point), scale * (int(limits.max) - point)
    return 0.0, 1.0


def random_input(graph: Graph, tensor: Tensor, rng: np.random.Generator) -> Array:
    """Values over the whole range of an input."""
    if np.issubdtype(np.dtype(tensor.dtype), np.integer):
        info = np.iinfo(tensor.dtype)
        return rng.integers(info.min, int(info.max) + 1, tensor.shape).astype(tensor.dtype)
    if tensor.dtype == "bool":
        return rng.random(tensor.shape) < 0.5
    return rng.uniform(*range_of(graph, tensor), tensor.shape).astype(tensor.dtype)


def make_inputs(graph: Graph, pictures: Sequence[Path], request: Request) -> list[Inputs]:
    """Everything that a model is fed; raises ModelError for a picture that cannot be read."""
    tensors = [graph.tensors[index] for index in graph.inputs]
    filled = [picture_inputs(tensors[0], path) for path in pictures] if takes_picture(graph) else []
    count = request.random if request.random is not None else (0 if filled else RANDOM_INPUTS)
    rng = np.random.default_rng(request.seed)
    drawn = [tuple(random_input(graph, tensor, rng) for tensor in tensors) for _ in range(count)]
    return filled + [Inputs(f"random {number}", arrays) for number, arrays in enumerate(drawn)]
