"""docs/hardware.md and docs/silicon-coverage.md: every number, place and test that they name is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "hardware.md"
COVERAGE = ROOT / "docs" / "silicon-coverage.md"
DECISIONS = ROOT / "docs" / "decisions"
BOOK = ROOT / ".." / "shared" / "hardware" / "silicon-facts.md"
PLACES = ("delegate/hw/sim", "delegate/hw", "delegate")
TAGS = ("silicon", "program", "source", "inferred", "choice", "sibling")


def facts() -> Iterator[list[str]]:
    """Rows of hardware.md: number, fact, source, tag, place, tests."""
    for line in PAGE.read_text().splitlines():
        if re.match(r"\| F-\d+ \|", line):
            yield [cell.strip() for cell in line.strip("|").split("|")]


@cache
def text_of(folder: str, pattern: str = "*.py") -> str:
    return "\n".join(file.read_text() for file in sorted((ROOT / folder).rglob(pattern)))


def numbers(kind: str, text: str) -> set[str]:
    return set(re.findall(rf"\b{kind}-\d+[bc]?\b", text))


def test_facts_have_six_cells_and_one_number_each():
    rows = list(facts())
    assert all(len(row) == 6 for row in rows)
    assert len({row[0] for row in rows}) == len(rows) > 100
    assert all(row[3].startswith(TAGS) for row in rows)


def test_code_and_page_name_the_same_facts():
    listed = {row[0] for row in facts()}
    assert numbers("F", text_of("delegate")) == listed
    assert numbers("F", text_of("tests")) <= listed
    assert numbers("F", text_of("docs", "*.md")) <= listed


@pytest.mark.parametrize("row", tuple(facts()), ids=lambda row: row[0])
def test_a_fact_is_checked_where_the_page_says(row: list[str]):
    """Files exist and hold the names that follow them."""
    if row[4] in ("–", "not read"):
        assert row[3].startswith("choice") or row[4] == "not read"
        return
    parts = re.findall(r"`([\w/]+\.py)`((?:,? \w+)*)", row[4])
    assert parts
    for file, names in parts:
        place = next((ROOT / folder / file for folder in PLACES if (ROOT / folder / file).exists()), None)
        assert place is not None, file
        for name in re.findall(r"\w*[_A-Z]\w*", names):
            assert re.search(rf"\b{name}\b", place.read_text()), f"{file} has no {name}"


@pytest.mark.parametrize("row", tuple(facts()), ids=lambda row: row[0])
def test_a_fact_has_a_test_that_would_refute_it(row: list[str]):
    """The file exists; words in brackets are a part of a test's or a case's name."""
    if row[5] == "–":
        assert row[3].startswith("choice"), "only what is not modelled has no test"
        return
    for name, words in re.findall(r"(test_\w+)(?: \(([^)]*)\))?", row[5]):
        file = next((ROOT / "tests").rglob(f"{name}.py"), None)
        assert file is not None, name
        text = file.read_text()
        titles = re.findall(r"def (test_\w+)|^\s*\"([^\"]+)\":", text, re.MULTILINE)
        for word in filter(None, re.split(r", ", words)):
            assert any(word.replace(" ", "_") in "_".join(title).replace(" ", "_") for title in titles), (name, word)


def coverage() -> dict[str, tuple[str, str]]:
    rows = re.findall(r"^\| (S-\d+[bc]?) \| (yes|no) \| (.*?) \|$", COVERAGE.read_text(), re.MULTILINE)
    return {number: (modelled, note) for number, modelled, note in rows}


def test_modelled_measurements_are_named_by_tests():
    """By the files that the page names; one that is not modelled has a reason."""
    for number, (modelled, note) in coverage().items():
        if modelled == "no":
            assert len(note) > 10
            continue
        files = note.split(", ")
        assert files
        for name in files:
            file = next((ROOT / "tests").rglob(f"{name}.py"), None)
            assert file is not None, name
            assert number in numbers("S", file.read_text()), f"{name} does not name {number}"
        assert any(name.startswith("test_") for name in files), number


@pytest.mark.skipif(not BOOK.exists(), reason="../shared/hardware is not there")
def test_every_measurement_is_covered():
    """All facts that the book marks as measured; section K is measured unless a row says otherwise."""
    wanted, section = set(), ""
    for line in BOOK.read_text().splitlines():
        section = line[3] if re.match(r"## [A-Z]\.", line) else section
        found = re.match(r"\| (S-\d+[bc]?) \|", line)
        plain = section == "K" and "[inferred]" not in line and "[computed" not in line
        if found and ("[silicon]" in line or plain):
            wanted.add(found[1])
        if line.startswith("(S-52"):  # the nine rows of the table above it
            wanted |= {f"S-{number}" for number in range(52, 61)}
    assert set(coverage()) == wanted


def test_every_contradiction_is_decided():
    """C-1 to C-27 in order, each with the place in the code."""
    page = next(DECISIONS.glob("*contradictions.md")).read_text()
    rows = re.findall(r"^\| (C-\d+) \|(.*)\|$", page, re.MULTILINE)
    assert [number for number, _ in rows] == [f"C-{number}" for number in range(1, 28)]
    assert all("`" in row or "not read" in row for _, row in rows)
    for file, names in re.findall(r"`([\w/]+\.py)`((?:,? [a-zA-Z]\w+)*)", page):
        place = next((ROOT / folder / file for folder in PLACES if (ROOT / folder / file).exists()), None)
        assert place is not None, file
        for name in re.findall(r"\b\w*_\w+\b", names):
            assert re.search(rf"\b{name}\b", place.read_text()), f"{file} has no {name}"
