"""Capability files: what `python -m delegate probe` has found out about a board, read by everything that depends on it.

JSON, checked in full when it is read: such files are sent from one user to another.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import platformdirs

from delegate.errors import OptionError
from delegate.hw.questions import QUESTIONS, forms_allowed

FORMAT, VERSION = "teflon-rknpu capabilities", 1
SIMULATOR = "simulator"
DEVICES = ("rocket", "rknpu", SIMULATOR)
HEADER = ("device", "driver", "kernel", "board", "date", "tool")
LARGEST_FILE = 16 << 20  # bytes
LARGEST_OUTPUT = 1 << 16  # bytes of an observed output
LONGEST_TEXT = 2000
MOST_OUTPUTS = 8
AGAIN = "run `python -m delegate probe` again"
STAND_IN, STAND_IN_VARIABLE = "stand-in", "TEFLON_SHIM_SOCKET"
MODEL = Path("/proc/device-tree/model")


@dataclass(frozen=True)
class Result:
    """An answered question: a candidate, or None if it was none of them; the outputs of its jobs, None for no end."""

    verdict: str | None
    observed: tuple[bytes | None, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Capabilities:
    """What is known of a board. ``driver`` and ``kernel`` with their versions, ``date`` in ISO 8601."""

    device: str
    driver: str
    kernel: str
    board: str
    date: str
    tool: str
    results: Mapping[str, Result]

    @property
    def verdicts(self) -> dict[str, str | None]:
        return {name: result.verdict for name, result in self.results.items()}

    @property
    def forms(self) -> frozenset[str]:
        """The unproven forms that may be used on this board (``hw.soc.FORMS``)."""
        return forms_allowed(self.verdicts)

    @property
    def signals_pooling(self) -> bool | None:
        """Whether the kernel hears of the end of pooling tasks; None: not known."""
        return {"signalled": True, "silent": False}.get(self.verdicts.get("pooling_interrupt") or "")


def board_model() -> str:
    """The board's name as its device tree has it; programs under the stand-in see no board."""
    if STAND_IN_VARIABLE in os.environ:
        return STAND_IN
    try:
        text = MODEL.read_text(errors="replace").strip("\0\n ")
    except OSError:
        text = ""
    return printable(text)[:100] or "unknown board"


def printable(text: str) -> str:
    """The text without what a terminal might obey."""
    return "".join(character if character.isprintable() else " " for character in text)


def default_path(device: str, board: str | None = None) -> Path:
    """Where the file of a device on a board lies; ``board`` None: this one."""
    name = re.sub(r"[^a-z0-9]+", "-", (board or board_model()).lower()).strip("-")
    return platformdirs.user_data_path("teflon-rknpu", False) / "capabilities" / f"{device}-{name}.json"


def find(device: str, given: str | None) -> Path | None:
    """The file that a device goes by: the given one, else the board's own if there is one."""
    if given is not None:
        return Path(given)
    path = default_path(device)
    return path if device != SIMULATOR and path.exists() else None


def of_device(device: str, given: str | None) -> Capabilities | None:
    """What is known of a device. Raises OptionError for a given file that is none; the board's own is passed over then.

    A file of the simulator says nothing about a board.
    """
    path = find(device, given)
    if path is None:
        return None
    try:
        found = load(path)
        if found.device == SIMULATOR != device:
            raise OptionError(f"{path} was made on the simulator, which proves nothing about a board; {AGAIN} here")
        return found
    except OptionError as error:
        if given is not None:
            raise
        logging.getLogger("teflon").warning("teflon: %s; no unproven form is used", error)
        return None


def load(path: Path) -> Capabilities:
    """Reads a file; raises OptionError, which says what is wrong with it."""
    try:
        if not path.is_file():
            raise OptionError(f"capability file {path}: no such file; `python -m delegate probe -o {path}` makes one")
        if path.stat().st_size > LARGEST_FILE:
            raise OptionError(f"capability file {path}: larger than {LARGEST_FILE >> 20} MiB")
        text = path.read_bytes().decode()
    except OSError as error:
        raise OptionError(f"capability file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise OptionError(f"capability file {path}: no text in UTF-8") from None
    try:
        return parse(text)
    except ValueError as error:
        raise OptionError(f"capability file {path}: {printable(str(error))[:300]}; {AGAIN}") from None


def parse(text: str) -> Capabilities:
    """The content of a file; raises ValueError for anything that ``dump`` would not have written."""
    try:
        content = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    fields = _keys(content, ("format", "version", *HEADER, "results"), "the file")
    _demand(fields["format"] == FORMAT, f"format is not {FORMAT!r}")
    version = fields["version"]
    _demand(type(version) is int and version == VERSION, f"version is {version!r}, this program reads {VERSION}")
    header = {name: _text(fields[name], name, 200) for name in HEADER}
    _demand(header["device"] in DEVICES, f"device is {header['device']!r}: one of {', '.join(DEVICES)}")
    results = fields["results"]
    _demand(isinstance(results, dict), "results is no object")
    return Capabilities(**header, results={name: _result(name, entry) for name, entry in results.items()})


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    _demand(len(content) == len(pairs), "a key stands twice")
    return content


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _keys(content: Any, names: tuple[str, ...], what: str) -> dict[str, Any]:
    _demand(isinstance(content, dict) and set(content) == set(names), f"{what} has not the keys {', '.join(names)}")
    assert isinstance(content, dict)
    return content


def _text(value: Any, what: str, longest: int) -> str:
    fits = isinstance(value, str) and len(value) <= longest and printable(value) == value
    _demand(fits, f"{what} is no printable text of at most {longest} characters")
    return str(value)


def _result(name: str, entry: Any) -> Result:
    _demand(name in QUESTIONS, f"question {name!r} is not known: another version wrote it")
    fields = _keys(entry, ("verdict", "observed", "note"), name)
    verdict, observed = fields["verdict"], fields["observed"]
    known = verdict is None or (isinstance(verdict, str) and verdict in QUESTIONS[name].candidates)
    _demand(known, f"{name}: verdict {verdict!r} is none of {', '.join(QUESTIONS[name].candidates)}")
    _demand(isinstance(observed, list) and len(observed) <= MOST_OUTPUTS, f"{name}: observed is no short list")
    note = _text(fields["note"], f"{name}: note", LONGEST_TEXT)
    return Result(verdict, tuple(_output(name, output) for output in observed), note)


def _output(name: str, output: Any) -> bytes | None:
    if output is None:
        return None
    fits = isinstance(output, str) and len(output) <= 2 * LARGEST_OUTPUT
    _demand(fits and re.fullmatch(r"(?:[0-9a-f]{2})*", str(output)) is not None, f"{name}: observed is no hexadecimal")
    return bytes.fromhex(output)


def dump(found: Capabilities) -> str:
    """The text of a file."""
    results = {
        name: {
            "verdict": result.verdict,
            "observed": [None if output is None else output.hex() for output in result.observed],
            "note": printable(result.note)[:LONGEST_TEXT],
        }
        for name, result in found.results.items()
    }
    header = {name: printable(getattr(found, name))[:200] for name in HEADER}
    return json.dumps({"format": FORMAT, "version": VERSION, **header, "results": results}, indent=1) + "\n"


def save(found: Capabilities, path: Path) -> None:
    """Writes a file, whole or not at all; raises OptionError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            os.fchmod(descriptor, 0o644)
            with os.fdopen(descriptor, "w") as file:
                file.write(dump(found))
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise OptionError(f"capability file {path}: {error.strerror}") from None
