"""The .tflite behind a capture: found beside it, and run with TFLite's reference kernels."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import delegate
from delegate.errors import ModelError
from delegate.ir import Array, Graph
from delegate.tflite import DAMAGE, IDENTIFIER, read_graph
from delegate.tools.capture import Capture

ANCESTORS = 6  # folders above a capture that may have the models beside them
MODELS = "models"  # folder of the models, beside the folder of the captures
REFERENCES = "../shared"  # from the working folder: the references, where a capture lies elsewhere
SUFFIX = ".tflite"
SIZE_LIMIT = 256 << 20  # bytes of a model file


@dataclass(frozen=True, eq=False)
class CaptureModel:
    """A model file."""

    name: str
    content: bytes
    graph: Graph
    group: str  # folder or archive it was found in


def find_model(capture: Capture, given: Path | None = None) -> CaptureModel | None:
    """The model that a capture was made of; None where it is nowhere, or the capture names none.

    ``given``: a .tflite file, or a folder or .zip to look into; otherwise the folders above the capture, the
    ``models`` beside them and ``../shared/models`` are searched. Raises ModelError if ``given`` is not, or has not,
    the model of the capture's sha256, or if the model is damaged.
    """
    facts = capture.facts.get("model")
    if not isinstance(facts, Mapping):
        return None
    name, digest = Path(str(facts.get("file"))).name, str(facts.get("sha256"))
    candidates = _below(given, name) if given else _beside(capture.path, name)
    seen = []
    for origin, content in candidates:
        if hashlib.sha256(content).hexdigest() == digest:
            return CaptureModel(name, content, _graph(str(origin), content), origin.parent.name)
        seen.append(str(origin))
    if given is not None:
        raise ModelError(f"{', '.join(seen) or given}: not {name} of sha256 {digest[:12]}, which {capture.path} is of")
    return None


def _graph(origin: str, content: bytes) -> Graph:
    if content[4:8] != IDENTIFIER:
        raise ModelError(f"model {origin} is no TFLite model")
    try:
        return read_graph(content)
    except DAMAGE as error:
        raise ModelError(f"model {origin} is damaged: {error}") from error


def _beside(path: Path, name: str) -> Iterator[tuple[Path, bytes]]:
    """Files of that name in the folders above ``path`` and in the ``models`` beside those."""
    for folder in [*list(path.resolve().parents)[:ANCESTORS], Path(REFERENCES).resolve()]:
        if (folder / name).is_file():
            yield from _file(folder / name)
        if (folder / MODELS).is_dir():
            yield from _below(folder / MODELS, name)


def _below(path: Path, name: str) -> Iterator[tuple[Path, bytes]]:
    """The file itself, or files of that name in a folder, its folders and its archives."""
    if path.is_dir():
        for pattern in (name, f"*/{name}", "*.zip", "*/*.zip"):
            for file in sorted(path.glob(pattern)):
                yield from _archive(file, name) if file.suffix == ".zip" else _file(file)
    elif path.suffix == ".zip":
        yield from _archive(path, name)
    else:
        yield from _file(path)


def _file(path: Path) -> Iterator[tuple[Path, bytes]]:
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise ModelError(f"model {path} has {path.stat().st_size} bytes, limit {SIZE_LIMIT}")
        yield path, path.read_bytes()
    except OSError as error:
        raise ModelError(f"model {path} cannot be read: {error.strerror}") from None


def _archive(path: Path, name: str) -> Iterator[tuple[Path, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if Path(info.filename).name == name and info.file_size <= SIZE_LIMIT:
                    yield path / info.filename, archive.read(info)
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"archive {path} cannot be read: {error}") from None


def run_reference(model: CaptureModel, inputs: Sequence[Array]) -> dict[int, Array]:
    """All computed tensors of a model by index, from TFLite's reference kernels; raises ModelError."""
    module = delegate.interpreter_module()
    try:
        interpreter = module.Interpreter(
            model_content=model.content,
            experimental_op_resolver_type=module.OpResolverType.BUILTIN_REF,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
        for detail, values in zip(interpreter.get_input_details(), inputs, strict=True):
            interpreter.set_tensor(detail["index"], values)
        interpreter.invoke()
        computed = {tensor.index for node in model.graph.nodes for tensor in node.outputs} | set(model.graph.inputs)
        return {index: np.array(interpreter.get_tensor(index)) for index in sorted(computed)}
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"model {model.name} does not run: {' '.join(str(error).split())}") from error


def recorded_input(shape: Sequence[int], dtype: str, number: int) -> Array:
    """Input ``number`` of the recorded run (golden/README.md, inputs and outputs of the run)."""
    v = (np.arange(int(np.prod(shape)), dtype=np.uint64) * 2654435761 + number * 40503 + 12345) % (1 << 32)
    values: Array = ((v >> np.uint64(13) ^ v) & np.uint64(0xFF)).astype(np.uint8).reshape(tuple(shape))
    if np.issubdtype(np.dtype(dtype), np.floating):
        return (values / 255).astype(dtype)
    return values.view(np.int8) if dtype == "int8" else values.astype(dtype)


def recorded_inputs(graph: Graph) -> list[Any]:
    """All inputs of a model as in the recorded run."""
    tensors = [graph.tensors[index] for index in graph.inputs]
    return [recorded_input(tensor.shape, tensor.dtype, number) for number, tensor in enumerate(tensors)]
