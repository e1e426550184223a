"""tokenizer.bin and byte pair encoding, beside the plain algorithm of llama2.c."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delegate.errors import ModelError
from delegate.tools import registry
from examples.llama.tokenizer import BEGIN, FIRST_BYTE, FIRST_PIECE, Tokenizer, read_tokenizer, write_tokenizer

FIXED = (b"<unk>", b"\n<s>\n", b"\n</s>\n", *(f"<0x{byte:02X}>".encode() for byte in range(256)))
EMBEDDED = registry.models_folder() / "stories_tiny_tokenizer.bin"


def plain_encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """llama2.c's way: look all pairs up, merge the best, begin again."""
    ids = []
    for character in f" {text}" if text else "":
        raw = character.encode()
        ids += [tokenizer.pieces.index(raw)] if raw in tokenizer.pieces else [FIRST_BYTE + byte for byte in raw]
    while True:
        best, place, merged = -1e10, -1, -1
        for index in range(len(ids) - 1):
            piece = tokenizer.pieces[ids[index]] + tokenizer.pieces[ids[index + 1]]
            if piece in tokenizer.pieces and tokenizer.scores[tokenizer.pieces.index(piece)] > best:
                merged = tokenizer.pieces.index(piece)
                best, place = tokenizer.scores[merged], index
        if place < 0:
            return [BEGIN, *ids]
        ids[place : place + 2] = [merged]


@st.composite
def tokenizers(draw: st.DrawFn) -> Tokenizer:
    """Pieces of a few letters, merged at random; scores may be equal, and not every piece can be reached."""
    letters = [b" ", b"a", b"b", b"c", "ä".encode()]
    pieces = list(letters)
    for _ in range(draw(st.integers(0, 14))):
        piece = draw(st.sampled_from(pieces)) + draw(st.sampled_from(pieces))
        if piece not in pieces:
            pieces.append(piece)
    scores = draw(st.lists(st.integers(-6, 0), min_size=len(pieces), max_size=len(pieces)))
    return Tokenizer((*FIXED, *pieces), (*([0.0] * len(FIXED)), *map(float, scores)))


@settings(max_examples=100, deadline=None)
@given(tokenizer=tokenizers(), text=st.text("abcä €", max_size=24))
def test_encoding_is_the_plain_algorithms(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.encode(text) == plain_encode(tokenizer, text)


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_comes_back(text: str) -> None:
    tokenizer = read_tokenizer(EMBEDDED, 512)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_embedded_tokenizer() -> None:
    tokenizer = read_tokenizer(EMBEDDED, 512)
    text = "Once upon a time, there was a little fox."
    ids = tokenizer.encode(text)
    assert ids == plain_encode(tokenizer, text)
    assert ids[0] == BEGIN
    assert len(ids) < 14  # words are pieces
    assert tokenizer.encode("") == [BEGIN]
    assert tokenizer.encode("", begin=False) == []


def test_a_character_of_several_tokens_comes_whole() -> None:
    tokenizer = Tokenizer((*FIXED, b" "), (0.0,) * (FIRST_PIECE + 1))
    ids = tokenizer.encode("€!")
    assert len(ids) == 6
    assert "".join(tokenizer.stream(ids)) == "€!"
    assert list(tokenizer.stream(ids))[2:6] == ["", "", "€", "!"]
    assert tokenizer.decode(ids[:4]) == "�"


def test_a_file_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.bin"
    pieces, scores = [*FIXED, b" a", "ä".encode(), b""], [0.0] * FIRST_PIECE + [-1.0, -2.5, 3.0]
    write_tokenizer(path, pieces, scores)
    assert read_tokenizer(path, len(pieces)) == Tokenizer(tuple(pieces), tuple(scores))


@pytest.mark.parametrize(
    ("content", "count", "message"),
    [
        (b"", 512, "ends in the middle of token 0"),
        (EMBEDDED.read_bytes()[:-1], 512, "token 511 has 1 bytes; the file is damaged or cut"),
        (EMBEDDED.read_bytes()[:-5], 512, "ends in the middle of token 511"),
        (EMBEDDED.read_bytes(), 32000, "has 512 tokens, the model 32000"),
        (struct.pack("<ifi", 4, 0.0, -1), 512, "token 0 has -1 bytes"),
        (struct.pack("<ifi", 4, 0.0, 5) + b"12345", 512, "token 0 has 5 bytes"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, count: int, message: str) -> None:
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_tokenizer(path, count)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        read_tokenizer(tmp_path / "none", 512)
