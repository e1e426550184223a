"""Text to tokens and back: letters, bytes, or the vocabulary file of RWKV's World models."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from delegate.errors import ModelError

END = b"\n"  # of a story of the small model


class Tokenizer(Protocol):
    """``end``: the token between texts, before a prompt and behind what follows it."""

    end: int

    def encode(self, text: str) -> list[int]: ...

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for: not always whole letters."""


class Pieces:
    """Each token is a piece of UTF-8; a text is cut into the longest pieces from its begin."""

    def __init__(self, pieces: Iterable[tuple[int, bytes]], end: int) -> None:
        self.pieces = dict(pieces)
        self.tokens = {piece: token for token, piece in self.pieces.items()}
        self.longest = max(len(piece) for piece in self.tokens)
        self.end = end

    def encode(self, text: str) -> list[int]:
        """Raises ModelError for a letter that no piece begins with."""
        content, tokens, place = text.encode(), [], 0
        while place < len(content):
            for length in range(min(self.longest, len(content) - place), 0, -1):
                token = self.tokens.get(content[place : place + length])
                if token is not None:
                    tokens.append(token)
                    place += length
                    break
            else:
                letter = content[place:].decode(errors="replace")[:1]
                raise ModelError(f"the model does not know the letter {letter!r}")
        return tokens

    def piece(self, token: int) -> bytes:
        return self.pieces.get(token, b"")


def letters(vocabulary: Iterable[str]) -> Pieces:
    """A letter a token; a line is a text."""
    pieces = [(token, letter.encode()) for token, letter in enumerate(vocabulary)]
    ends = [token for token, piece in pieces if piece == END]
    if not ends:
        raise ModelError("the model's letters have no end of line")
    return Pieces(pieces, ends[0])


def of_bytes() -> Pieces:
    """A byte a token, 0 between texts."""
    return Pieces(((byte, bytes([byte])) for byte in range(256)), 0)


def read_world(path: Path) -> Pieces:
    """The vocabulary of the World models: a line has a token, a Python literal, its length in bytes; 0 is the end."""
    pieces = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if line:
                first, last = line.index(" "), line.rindex(" ")
                value = ast.literal_eval(line[first:last].strip())
                piece = value.encode() if isinstance(value, str) else value
                if not isinstance(piece, bytes) or len(piece) != int(line[last:]):
                    raise ModelError(f"{path}:{number}: the piece {value!r} is not {line[last:].strip()} bytes long")
                pieces.append((int(line[:first]), piece))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, SyntaxError) as error:
        raise ModelError(f"{path} is not a vocabulary of RWKV's World models: {error}") from error
    if not pieces:
        raise ModelError(f"{path} has no tokens")
    return Pieces(pieces, 0)
