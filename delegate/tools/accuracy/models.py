"""Model files in folders and archives, and interpreters of them."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import tflite

import delegate
from delegate.errors import ModelError

Array = npt.NDArray[Any]
OUTPUTS_FIELD = 8  # of a SubGraph's table of fields: tensors 4, inputs 6, outputs 8


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
    """The models that the paths name: files, folders (searched below) and zip archives, in order of name.

    Raises ModelError for a path that does not exist, and for an archive that is none.
    """
    for path in paths:
        if path.is_dir():
            yield from model_files(sorted([*path.rglob("*.tflite"), *path.rglob("*.zip")], key=_natural))
        elif not path.exists():
            raise ModelError(f"{path} does not exist")
        elif path.suffix == ".zip":
            try:
                with zipfile.ZipFile(path) as archive:
                    members = sorted(name for name in archive.namelist() if name.endswith(".tflite"))
            except (OSError, zipfile.BadZipFile) as error:
                raise ModelError(f"{path}: {error}") from error
            yield from (ModelFile(path, member) for member in members)
        else:
            yield ModelFile(path)


def _natural(path: Path) -> tuple[str, int, str]:
    """Orders mb2 before mb10."""
    letters = path.stem.rstrip("0123456789")
    digits = path.stem[len(letters) :]
    return str(path.parent / letters), int(digits or 0), path.suffix


def reference_interpreter(content: bytes) -> Any:
    """TFLite's plain reference kernels, without XNNPACK; tensors allocated."""
    module = delegate.interpreter_module()
    kernels = module.OpResolverType.BUILTIN_REF
    return allocated(module.Interpreter(model_content=content, experimental_op_resolver_type=kernels))


def xnnpack_interpreter(content: bytes, threads: int = 1) -> Any:
    """TFLite as it comes, with XNNPACK where it takes a node; tensors allocated."""
    return allocated(delegate.interpreter_module().Interpreter(model_content=content, num_threads=threads))


def npu_interpreter(content: bytes, **options: str) -> Any:
    """The reference kernels with this project's delegate before them; tensors allocated.

    The reference kernels stay below the delegate, so that all that differs from reference_interpreter is the NPU's.
    """
    module = delegate.interpreter_module()
    return allocated(
        module.Interpreter(
            model_content=content,
            experimental_op_resolver_type=module.OpResolverType.BUILTIN_REF,
            experimental_delegates=[delegate.load(**options)],
        )
    )


def allocated(interpreter: Any) -> Any:
    """The interpreter, ready to run."""
    interpreter.allocate_tensors()
    return interpreter


def infer(interpreter: Any, inputs: Sequence[Array]) -> list[Array]:
    """One inference; copies of the outputs in the interpreter's order."""
    for detail, values in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], values)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def with_outputs(content: bytes, tensors: Sequence[int]) -> bytes:
    """The model with other outputs, for tensors inside it: what is no output may be written over by the next operator.

    A new list of outputs is put behind the file's end. Raises ValueError for a model without outputs.
    """
    subgraph = tflite.Model.GetRootAs(content, 0).Subgraphs(0)._tab
    field = subgraph.Offset(OUTPUTS_FIELD)
    if not field:
        raise ValueError("the model has no outputs")
    place = subgraph.Pos + field
    changed = bytearray(content + bytes(-len(content) % 4))
    changed[place : place + 4] = struct.pack("<I", len(changed) - place)
    return bytes(changed + struct.pack(f"<I{len(tensors)}i", len(tensors), *tensors))
