"""Tokens of llama2.c's tokenizer.bin: text to ids and back.

The file is the longest piece's length (int32), then for each id a score (float32), a length (int32) and so many bytes,
all little-endian. Ids 0, 1 and 2 are the unknown token, the beginning and the end of a text; 3 to 258 are single bytes.
"""

from __future__ import annotations

import codecs
import heapq
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from delegate.errors import ModelError

UNKNOWN, BEGIN, END = 0, 1, 2
FIRST_BYTE = 3  # the id of byte 0; the other 255 follow
FIRST_PIECE = FIRST_BYTE + 256


@dataclass(frozen=True)
class Tokenizer:
    """Pieces and their scores by id; of neighbours that can be merged, those go first whose result scores higher."""

    pieces: tuple[bytes, ...]
    scores: tuple[float, ...]

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """The id of each piece; of pieces that are there twice, the first."""
        return {piece: index for index, piece in reversed(list(enumerate(self.pieces)))}

    def encode(self, text: str, begin: bool = True) -> list[int]:
        """The ids of a text, behind BEGIN if wanted; a text that is not empty gets a space in front, as in training.

        Characters that are no piece become the tokens of their UTF-8 bytes. Then the pair of neighbours whose merged
        piece scores highest is merged, the leftmost of equals, until none is left.
        """
        ids = [BEGIN] if begin else []
        return ids + self._merge(self._characters(f" {text}")) if text else ids

    def _characters(self, text: str) -> list[int]:
        ids: list[int] = []
        for character in text:
            raw = character.encode()
            ids += [self.ids[raw]] if raw in self.ids else [FIRST_BYTE + byte for byte in raw]
        return ids

    def _merge(self, ids: list[int]) -> list[int]:
        """Merges until nothing scores; a heap of candidates and a linked list make that n log n."""
        count = len(ids)
        before, after = list(range(-1, count - 1)), [*range(1, count), -1]
        candidates: list[tuple[float, int, int, int, int]] = []  # (-score, left, its id, right's id, merged id)

        def consider(left: int) -> None:
            if left >= 0 and after[left] >= 0:
                pair = ids[left], ids[after[left]]
                merged = self.ids.get(self.pieces[pair[0]] + self.pieces[pair[1]])
                if merged is not None:
                    heapq.heappush(candidates, (-self.scores[merged], left, *pair, merged))

        for left in range(count):
            consider(left)
        while candidates:
            _, left, first, second, merged = heapq.heappop(candidates)
            right = after[left]
            if ids[left] != first or right < 0 or ids[right] != second:
                continue  # one of the two has been merged since
            ids[left], ids[right] = merged, -1
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            consider(before[left])
            consider(left)
        return [token for token in ids if token >= 0]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD, BEGIN and END nothing."""
        return "".join(self.stream(ids))

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """The text of ids as they come: a character whose bytes are several ids comes with its last."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        first = True
        for token in ids:
            fixed = token in (BEGIN, END)
            yield decoder.decode(b"" if fixed else self.piece(token, first))
            first = fixed
        yield decoder.decode(b"", final=True)

    def piece(self, token: int, first: bool = False) -> bytes:
        """The bytes that an id stands for; the first of a text loses the space that encode() put in front."""
        if FIRST_BYTE <= token < FIRST_PIECE:
            return bytes([token - FIRST_BYTE])
        raw = self.pieces[token]
        return raw[1:] if first and raw.startswith(b" ") else raw


def read_tokenizer(path: Path, count: int) -> Tokenizer:
    """The ``count`` tokens of a tokenizer.bin; raises ModelError for one that is cut, damaged or has fewer."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    pieces: list[bytes] = []
    scores: list[float] = []
    position = 4
    try:
        (longest,) = struct.unpack_from("<i", content)
        while position < len(content):
            score, length = struct.unpack_from("<fi", content, position)
            position += 8
            if not 0 <= length <= longest or position + length > len(content):
                raise ModelError(f"{path}: token {len(pieces)} has {length} bytes; the file is damaged or cut")
            pieces.append(content[position : position + length])
            scores.append(score)
            position += length
    except struct.error:
        raise ModelError(f"{path} ends in the middle of token {len(pieces)}; it is no whole tokenizer.bin") from None
    if len(pieces) != count or count < FIRST_PIECE:
        raise ModelError(f"{path} has {len(pieces)} tokens, the model {count}, of which {FIRST_PIECE} are fixed")
    return Tokenizer(tuple(pieces), tuple(scores))


def write_tokenizer(path: Path, pieces: Sequence[bytes], scores: Sequence[float]) -> None:
    """Writes a tokenizer.bin."""
    tokens = zip(pieces, scores, strict=True)
    content = [struct.pack("<i", max(map(len, pieces)))]
    content += [struct.pack("<fi", score, len(piece)) + piece for piece, score in tokens]
    path.write_bytes(b"".join(content))
