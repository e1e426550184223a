"""Labels files: one label a line, with or without the class's number before it."""

from __future__ import annotations

import re
from pathlib import Path

from delegate.errors import ModelError

NUMBERED = re.compile(r"\s*(\d+)(?:\s*[:,]\s*|\s+)(\S.*)")


def read_labels(path: Path) -> list[str]:
    """The label of each class. Numbers are taken as such only if every line has one and together they are 0..n-1."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ModelError(f"labels file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"labels file {path} is not UTF-8 text: byte {error.start}") from error
    lines = [line.strip() for line in text.rstrip().splitlines()]
    matches = [NUMBERED.fullmatch(line) for line in lines]
    numbered = {int(match[1]): match[2] for match in matches if match}
    if lines and sorted(numbered) == list(range(len(lines))):
        return [numbered[index] for index in range(len(lines))]
    return lines
