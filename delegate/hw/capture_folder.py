"""The files of a capture that grows: each is replaced as a whole, and no more is written than may be.

A file is on the disk when its method returns: should the job that follows take the machine down, the capture is there.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np

from delegate.errors import DelegateError
from delegate.hw.task import Bytes

STREAM, CONTENTS, OUTPUTS, NOTES = "stream.json.gz", "bos.npz", "outputs.npz", "README.md"
JSON_LIMIT = 64 << 20  # bytes of the decompressed JSON of a capture
ARRAY_LIMIT = 512 << 20  # bytes of all decompressed arrays of a file
TRIM = 16  # bytes: an array ends with the last byte that is not zero, rounded up to this

numbers = itertools.count()

README = """\
# A capture of an NPU's jobs

Recorded by teflon-rknpu's option `record`: everything that was sent to the NPU, and what came out. It holds the model's
weights and the inputs of the recorded runs: look whether you may pass them on before you attach it to a report.

```
python -m delegate replay {folder}                    # on the simulator, beside what came out
python -m delegate replay {folder} --device rocket    # the same on a board
python -m delegate disasm {folder}                    # in words
```

{facts}
"""


class CaptureFolder:
    """A new folder in ``root``, made with the first file. All methods raise OSError, and DelegateError for too much.

    ``size``: bytes that all files in ``root`` may take, those of other captures too.
    """

    def __init__(self, root: Path, size: int, facts: Mapping[str, Any]) -> None:
        self.path = root / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}-{next(numbers)}"
        self._root, self._size, self._facts = root, size, facts
        self._unpacked = {CONTENTS: 0, OUTPUTS: 0}  # bytes of the arrays

    @property
    def is_capture(self) -> bool:
        """Whether there is something to replay."""
        return (self.path / STREAM).exists()

    def write_stream(self, data: Mapping[str, Any]) -> None:
        """Writes stream.json.gz; to be called last, for it is what makes a capture of a folder."""
        text = json.dumps(data, separators=(",", ":")).encode()
        if len(text) > JSON_LIMIT:
            raise DelegateError(f"the streams take more than {JSON_LIMIT >> 20} MiB; set record_submits lower")
        self._replace(STREAM, lambda file: file.write(gzip.compress(text, 6)))

    def append(self, name: str, arrays: Mapping[str, Bytes]) -> None:
        """Adds arrays to an archive."""
        trimmed = {key: trim(array) for key, array in arrays.items()}
        self._unpacked[name] += sum(array.nbytes for array in trimmed.values())
        if self._unpacked[name] > ARRAY_LIMIT:
            raise DelegateError(f"{name} would unpack to more than {ARRAY_LIMIT >> 20} MiB; set record_submits lower")
        before = self.path / name

        def write(file: IO[bytes]) -> None:
            if before.exists():
                with before.open("rb") as old:
                    shutil.copyfileobj(old, file)
            with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for key, array in trimmed.items():
                    with archive.open(f"{key}.npy", "w") as member:
                        np.save(member, array, allow_pickle=False)

        if trimmed:
            self._replace(name, write)

    def remove(self) -> None:
        """Takes the folder away, as far as that is possible."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _replace(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        """Writes a file as a whole or not at all."""
        if not self.path.exists():
            self.path.mkdir(parents=True)
            facts = "\n".join(f"- {key}: {value}" for key, value in self._facts.items())
            (self.path / NOTES).write_text(README.format(folder=self.path.name, facts=facts))
        path, part = self.path / name, self.path / f"{name}.part"
        try:
            with part.open("w+b") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            others = [entry.lstat().st_size for entry in self._root.rglob("*") if entry != path and entry.is_file()]
            if sum(others) > self._size:
                raise DelegateError(f"{self._root} would hold more than {self._size >> 20} MiB (option record_size)")
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def trim(array: Bytes) -> Bytes:
    """An array without the zeros at its end."""
    filled = np.flatnonzero(array)
    size = int(filled[-1]) + 1 if filled.size else 0
    return array[: -(-size // TRIM) * TRIM]
