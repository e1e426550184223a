"""What the benchmarks and the tests share: interpreters of either runtime, inputs, and models by name."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
PICTURES = ("grace_hopper.bmp", "cat.bmp", "parrot.jpg", "hot_dog.jpg")
RUNTIMES = ("tflite_runtime.interpreter", "ai_edge_litert.interpreter")  # the first that is installed is used


def runtime() -> ModuleType:
    """The interpreter module of the runtime that is installed."""
    for name in RUNTIMES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise SystemExit(f"none of the runtimes {', '.join(RUNTIMES)} is installed")


def reference_interpreter(content: bytes) -> Any:
    """TFLite's plain reference kernels, without XNNPACK; tensors allocated."""
    module = runtime()
    kernels = module.OpResolverType.BUILTIN_REF
    return _allocated(module.Interpreter(model_content=content, experimental_op_resolver_type=kernels))


def xnnpack_interpreter(content: bytes, threads: int) -> Any:
    """TFLite as it comes, with XNNPACK where it takes a node; tensors allocated."""
    return _allocated(runtime().Interpreter(model_content=content, num_threads=threads))


def npu_interpreter(content: bytes, **options: str) -> Any:
    """The reference kernels with this project's delegate before them; tensors allocated.

    The reference kernels stay below the delegate, so that all that differs from reference_interpreter is the NPU's.
    """
    import delegate

    module = runtime()
    kernels = module.OpResolverType.BUILTIN_REF
    delegates = [delegate.load(**options)]
    return _allocated(
        module.Interpreter(
            model_content=content, experimental_op_resolver_type=kernels, experimental_delegates=delegates
        )
    )


def _allocated(interpreter: Any) -> Any:
    interpreter.allocate_tensors()
    return interpreter


def infer(interpreter: Any, inputs: Sequence[Array]) -> list[Array]:
    """One inference; copies of the outputs in the interpreter's order."""
    for detail, values in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], values)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


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


@dataclass(frozen=True)
class ModelFile:
    """A model in a file, or a member of a zip archive."""

    path: Path
    member: str = ""

    @property
    def name(self) -> str:
        """A short name for tables."""
        if self.member:
            return f"{self.path.stem}/{Path(self.member).stem}"
        return f"{self.path.parent.name}/{self.path.stem}" if self.path.parent.name == "mesa-tests" else self.path.stem

    def read(self) -> bytes:
        """The model's bytes."""
        if not self.member:
            return self.path.read_bytes()
        with zipfile.ZipFile(self.path) as archive:
            return archive.read(self.member)


def model_files(paths: Sequence[Path]) -> Iterator[ModelFile]:
    """The models that the paths name: files, folders (searched below) and zip archives, in order of name."""
    for path in paths:
        if path.is_dir():
            yield from model_files(sorted([*path.rglob("*.tflite"), *path.rglob("*.zip")], key=_natural))
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                members = sorted(name for name in archive.namelist() if name.endswith(".tflite"))
            yield from (ModelFile(path, member) for member in members)
        else:
            yield ModelFile(path)


def _natural(path: Path) -> tuple[str, int, str]:
    """Orders mb2 before mb10."""
    letters = path.stem.rstrip("0123456789")
    digits = path.stem[len(letters) :]
    return str(path.parent / letters), int(digits or 0), path.suffix
