"""The comparison with upstream's words: formulas, that docs/words.md is fresh, and that a wrong word is found."""

from __future__ import annotations

import copy
import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from delegate.__main__ import app
from delegate.errors import DelegateError
from delegate.tools import capture
from delegate.tools.words.facts import plus_one, truncated_multiplier
from delegate.tools.words.models import ModelResult, compare_model, model_captures
from delegate.tools.words.reasons import REASONS
from delegate.tools.words.report import cut_table, model_table

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "words.md"
# One of each kind: direct, depthwise, several tasks, int8, fused additions, pixels, not square, a depth multiplier,
# low pictures, a whole network.
SUBSET = (
    "mb4", "mb11", "mb0", "mobiledet27", "mobiledet110", "mobiledet101", "mobilenet_v1_0.25_128_quant",
    "sweep/add00a", "sweep/add05c", "sweep/addm00", "sweep/chain03", "sweep/multi03", "sweep/odd01", "sweep/odd05",
    "sweep/odd07", "sweep/s033", "sweep/s043", "sweep/s087", "sweep/s105", "sweep/s167", "sweep/s283",
)  # fmt: skip


def result(shared: Path, name: str) -> ModelResult:
    return compare_model(capture.load(shared / "golden" / name))


def test_the_multiplier_of_the_hardware_book() -> None:
    """S-09's vector, and S-10: a mantissa of all ones carries into nothing, or into the sign."""
    assert plus_one(*truncated_multiplier(0.03657235 * 0.00079638 / 0.00691164)) == (17675, 22)
    assert plus_one(*truncated_multiplier(1.9999999)) == (-32768, 14)
    assert plus_one(*truncated_multiplier(3.9999998)) == (16384, 13)


def test_reasons_have_each_a_title_of_their_own() -> None:
    titles = [reason.title for reason in REASONS]
    assert len(set(titles)) == len(titles)
    assert all(reason.text and reason.reference for reason in REASONS)


@pytest.mark.parametrize("name", SUBSET)
def test_nothing_is_wrong_and_the_document_is_fresh(name: str, shared: Path) -> None:
    found = result(shared, name)
    wrong = [
        (layer.title, register, verdict.details)
        for layer in found.layers
        for register, verdict in layer.verdicts.items()
        if verdict.status == "wrong"
    ]
    assert wrong == []
    written = set(DOCUMENT.read_text().splitlines())
    rows = [line for table in (model_table, cut_table) for line in table([found]) if line.startswith("| ")]
    stale = [row for row in rows if row not in written]
    assert stale == [], "run the command at the top of docs/words.md"


def test_the_document_knows_every_capture_of_a_model(shared: Path) -> None:
    lines = DOCUMENT.read_text().splitlines()
    rows = {line.split("|")[1].strip() for line in lines[lines.index("## Models") :] if line.startswith("| ")}
    folders = {path.parent for path in (shared / "golden").rglob("stream.json.gz")}
    assert {folder.name for folder in folders if folder.parent.name != "programs"} <= rows


def changed_capture(shared: Path, folder: Path, register: str, value: int) -> capture.Capture:
    """The capture of mb13 with one word changed."""
    source = shared / "golden" / "mb13"
    with gzip.open(source / "stream.json.gz") as file:
        data = json.load(file)
    model = shared / "models" / "mesa-tests" / "mb13.tflite"
    shutil.copy(model, folder)
    shutil.copy(source / "coefs.npz", folder)
    words: list[list[Any]] = data["submits"][0]["jobs"][0]["tasks"][0]["words"]
    block, offset = register.split()
    for word in words:
        if word[:2] == [block, offset]:
            word[2] = f"{int(word[2], 16) ^ value:08x}"
    with gzip.open(folder / "stream.json.gz", "wt") as file:
        json.dump(data, file)
    return capture.load(folder)


@pytest.mark.parametrize(
    ("register", "name"),
    [
        ("CNA 1010", "CNA.CONV_CON2"),  # has a formula and is identical
        ("CNA 1040", "CNA.CBUF_CON0"),  # differs for a reason
        ("CNA 1184", "CNA.PAD_CON1"),
        ("DPU 4084", "DPU.OUT_CVT_SCALE"),
        ("DPU 40c0", "DPU.SURFACE_ADD"),
        ("DPU 4090", "DPU.EW_OP_VALUE_0"),  # has no formula
        ("DPU_RDMA 5044", "DPU_RDMA.RDMA_FEATURE_MODE_CFG"),
        ("PC_OP_EN 0008", "FIRE"),
    ],
)
def test_a_changed_word_is_wrong(register: str, name: str, shared: Path, tmp_path: Path) -> None:
    found = compare_model(changed_capture(shared, tmp_path, register, 0x10))
    wrong = [key for layer in found.layers for key, verdict in layer.verdicts.items() if verdict.status == "wrong"]
    assert wrong == [name]


def test_changed_weights_are_wrong(shared: Path, tmp_path: Path) -> None:
    source = changed_capture(shared, tmp_path, "CNA 1010", 0)
    sound = compare_model(source).layers[0].verdicts["contents: weights"].status
    facts = copy.deepcopy(dict(source.buffers[0].facts))
    assert sound != "wrong" and facts["sha256"]
    with gzip.open(tmp_path / "stream.json.gz") as file:
        data = json.load(file)
    data["bos"][0]["sha256"] = "0" * 64
    with gzip.open(tmp_path / "stream.json.gz", "wt") as file:
        json.dump(data, file)
    changed = compare_model(capture.load(tmp_path)).layers[0].verdicts["contents: weights"]
    assert changed.status == "wrong"


def test_the_command_prints_the_document(shared: Path, tmp_path: Path) -> None:
    folder = str(shared / "golden" / "mb4")
    printed = CliRunner().invoke(app, ["words", folder])
    assert printed.exit_code == 0
    assert "| mb4 | 1 | 0 |" in printed.stdout
    output = tmp_path / "words.md"
    assert CliRunner().invoke(app, ["words", folder, "-o", str(output)]).exit_code == 0
    assert output.read_text() == printed.stdout


def test_the_command_says_by_its_status_that_something_is_wrong(shared: Path, tmp_path: Path) -> None:
    changed_capture(shared, tmp_path, "CNA 1184", 1)
    printed = CliRunner().invoke(app, ["words", str(tmp_path)])
    assert printed.exit_code == 1
    assert "- **wrong**: layer 0" in printed.stdout


def test_a_folder_without_captures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DelegateError, match="no capture"):
        list(model_captures([tmp_path]))


def test_a_capture_whose_model_is_not_there_is_noted(shared: Path) -> None:
    found = capture.load(shared / "golden" / "mb4")
    key = next(key for key, value in found.facts["model"].items() if str(value).endswith(".tflite"))
    model = {**found.facts["model"], key: "nowhere.tflite", "sha256": "0" * 64}
    assert "not beside" in compare_model(replace(found, facts={**found.facts, "model": model})).note
