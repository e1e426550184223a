"""Pictures to input tensors, output tensors to scores."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from delegate.errors import ModelError

MEAN = STANDARD_DEVIATION = 127.5  # of a float input: pixels become -1..1, as MobileNet is trained


def read_picture(path: Path, height: int, width: int, channels: int) -> npt.NDArray[np.uint8]:
    """The picture resized to uint8 (height, width, channels), 1 or 3 channels; ModelError if it is no picture.

    The camera's orientation is applied; what is transparent becomes white.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                picture = _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise ModelError(f"image {path} does not exist") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ModelError(f"image {path} is too large: more than {Image.MAX_IMAGE_PIXELS} pixels") from error
    except UnidentifiedImageError as error:
        raise ModelError(f"image {path} is not in a format that Pillow knows") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, MemoryError) as error:
        raise ModelError(f"image {path} cannot be read: {' '.join(str(error).split())}") from error
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture.convert("L" if channels == 1 else "RGB"), np.uint8).reshape(height, width, channels)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16-bit grey, which convert() would clip at 255
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return image.convert("RGB")


def to_input(
    pixels: npt.NDArray[np.uint8],
    dtype: npt.DTypeLike,
    scale: float,
    zero_point: int,
    mean: float | None,
    std: float | None,
) -> npt.NDArray[Any]:
    """The input tensor (1, height, width, channels) of a picture.

    An 8-bit input takes the bytes as they are (uint8) or less 128 (int8): what full-range quantization makes of them.
    A wider input, or with ``mean`` or ``std`` given any, takes (pixel - mean) / std, quantized where it is not float.
    """
    kind = np.dtype(dtype)
    if kind.itemsize == 1 and mean is None and std is None:
        return (pixels.astype(np.int16) + np.iinfo(kind).min).astype(kind)[None]
    real = (pixels.astype(np.float32) - (MEAN if mean is None else mean)) / (STANDARD_DEVIATION if std is None else std)
    if kind.kind == "f":
        return real.astype(kind)[None]
    limits = np.iinfo(kind)
    quantized: npt.NDArray[Any] = np.clip(np.round(real / scale) + zero_point, limits.min, limits.max).astype(kind)
    return quantized[None]


def to_scores(output: npt.NDArray[Any], scale: float, zero_point: int) -> npt.NDArray[np.float32]:
    """The output tensor as real numbers, float32 (classes)."""
    scores: npt.NDArray[np.float32] = output.reshape(-1).astype(np.float32)
    if output.dtype.kind != "f":
        scores = (scores - np.float32(zero_point)) * np.float32(scale)
    return scores
