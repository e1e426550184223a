"""Writes a file of packed weights block by block, so that an interrupted conversion goes on where it was.

The file is NAME.partial until it is whole. An error removes it; a signal, a crash or Ctrl-C leaves it, and the next
conversion of the same checkpoint to the same place takes over every block whose checksum is right.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from delegate.errors import ModelError
from delegate.hw.task import Bytes
from delegate.weights.packed import DIGEST, Description

Made = Callable[[], Bytes]
FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "files may not be so large",
}
UNWRITTEN = bytes(DIGEST)


def write_packed(
    path: Path,
    description: Description,
    makers: Iterable[Made],
    progress: Callable[[int, bool], None] = lambda size, made: None,
) -> None:
    """Writes a file; ``makers``: one a block, which gives its bytes; ``progress`` hears of each block how many bytes it
    has and whether it was made or taken over.

    Raises ModelError where it cannot be written, or what a maker raises; no file is left then.
    """
    partial = path.with_name(path.name + ".partial")
    with _opened(partial) as file:
        try:
            _write(file, description, makers, progress)
            os.replace(partial, path)
        except OSError as error:
            partial.unlink()
            raise ModelError(_told(path, description, error)) from error
        except Exception:
            partial.unlink()
            raise
    with suppress(OSError):  # the name is then durable too; not every file system can
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def _told(path: Path, description: Description, error: OSError) -> str:
    reason = FULL.get(error.errno or 0, error.strerror or str(error))
    return f"{path} cannot be written: {reason}; it needs {description.file_size} bytes"


@contextmanager
def _opened(partial: Path) -> Iterator[int]:
    """The file, for this process alone."""
    try:
        file = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise ModelError(f"{partial} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ModelError(f"{partial} is being written by another process") from error
        yield file
    finally:
        os.close(file)


def _write(file: int, description: Description, makers: Iterable[Made], progress: Callable[[int, bool], None]) -> None:
    digests = _found(file, description)
    os.posix_fallocate(file, 0, description.file_size)  # a disk that is too small says so now
    for index, (block, make) in enumerate(zip(description.blocks, makers, strict=True)):
        made = digests[index] == UNWRITTEN
        if made:
            content = make().data
            assert content.nbytes == block.size
            _put(file, content, description.blocks_offset + block.offset)
            digests[index] = hashlib.sha256(content).digest()
            _put(file, digests[index], description.digests_offset + DIGEST * index)
        progress(block.size, made)
    os.fsync(file)
    _put(file, description.header(b"".join(digests), True), 0)
    os.fsync(file)


def _found(file: int, description: Description) -> list[bytes]:
    """The digests of the blocks that an earlier conversion of the same checkpoint left whole, and nothing else."""
    count = len(description.blocks)
    begun = description.header(UNWRITTEN * count, False) + description.content
    if os.pread(file, len(begun), 0) != begun:
        os.ftruncate(file, 0)
        _put(file, begun, 0)
        _put(file, UNWRITTEN * count, description.digests_offset)
        return [UNWRITTEN] * count
    kept = os.pread(file, DIGEST * count, description.digests_offset).ljust(DIGEST * count, b"\0")
    digests = []
    for index, block in enumerate(description.blocks):
        digest = kept[DIGEST * index : DIGEST * (index + 1)]
        content = os.pread(file, block.size, description.blocks_offset + block.offset) if any(digest) else b""
        digests.append(digest if hashlib.sha256(content).digest() == digest else UNWRITTEN)
    return digests


def _put(file: int, content: bytes | memoryview, offset: int) -> None:
    """Writes all of it; the kernel may take less at a time."""
    left = memoryview(content).cast("B")
    while left:
        count = os.pwrite(file, left, offset)
        left, offset = left[count:], offset + count
