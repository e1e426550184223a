"""What the benchmarks and the tests share: interpreters of either runtime, inputs, and models by name."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

import delegate
from delegate.tools.accuracy.models import (
    ModelFile,
    infer,
    model_files,
    npu_interpreter,
    reference_interpreter,
    xnnpack_interpreter,
)

__all__ = ["ModelFile", "infer", "model_files", "npu_interpreter", "reference_interpreter", "xnnpack_interpreter"]

Array = npt.NDArray[Any]

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
PICTURES = ("grace_hopper.bmp", "cat.bmp", "parrot.jpg", "hot_dog.jpg")


def runtime() -> ModuleType:
    """The interpreter module of the runtime that is installed."""
    module: ModuleType = delegate.interpreter_module()
    return module


def random_inputs(interpreter: Any, rng: np.random.Generator) -> list[Array]:
    """Values over the whole range of each input's type; floats from 0 to 1."""
    arrays = []
    for detail in interpreter.get_input_details():
        if np.issubdtype(detail["dtype"], np.integer):
            info = np.iinfo(detail["dtype"])
            arrays.append(rng.integers(info.min, info.max + 1, detail["shape"]).astype(detail["dtype"]))
        else:
            arrays.append(rng.random(detail["shape"]).astype(detail["dtype"]))
    return arrays


def picture_inputs(interpreter: Any, picture: Path) -> list[Array] | None:
    """A picture in the size of the only input; None if that input takes no RGB picture.

    An int8 input gets the bytes less 128, as converters quantize pictures.
    """
    details = interpreter.get_input_details()
    shape = details[0]["shape"]
    if len(details) != 1 or len(shape) != 4 or shape[3] != 3 or details[0]["dtype"] not in (np.uint8, np.int8):
        return None
    with Image.open(picture) as image:
        resized = image.convert("RGB").resize((int(shape[2]), int(shape[1])), Image.Resampling.LANCZOS)
    pixels = np.asarray(resized)[np.newaxis]
    return [pixels if details[0]["dtype"] == np.uint8 else (pixels ^ 0x80).view(np.int8)]
