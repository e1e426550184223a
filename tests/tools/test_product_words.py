"""Captured products: our results and words beside theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from delegate.__main__ import app
from delegate.errors import DelegateError
from delegate.hw.emit import product
from delegate.tools.words import products

PAGE = Path(__file__).resolve().parents[2] / "docs" / "matmul-words.md"


def test_all_captured_products_are_reproduced(shared: Path) -> None:
    compared = products.compare_folder(shared / "golden" / "programs")
    assert len(compared) == 25
    assert [item.name for item in compared if not item.equal] == []
    assert [item.wrong for item in compared if item.wrong] == []
    assert products.page(compared) == PAGE.read_text()


def test_a_word_without_a_reason_is_wrong(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "TO_MEMORY", 3)
    folder = shared / "golden" / "programs" / "mtx-mm_4_36_16"
    monkeypatch.setattr(
        products.Matmul, "__call__", lambda self, a: np.zeros((4, 16), np.float32)
    )  # the simulator refuses the word
    compared = products.compare(folder)
    assert compared is not None
    assert compared.wrong == ("DPU.FEATURE_MODE_CFG: 486 and 484",)
    monkeypatch.setattr(products, "compare_folder", lambda _: [compared])
    assert CliRunner().invoke(app, ["products", str(folder)]).exit_code == 1


def test_folders_without_products_are_named(tmp_path: Path) -> None:
    with pytest.raises(DelegateError, match="holds no captured products"):
        products.write_products(tmp_path, None)
    with pytest.raises(DelegateError, match="is no folder"):
        products.write_products(tmp_path / "missing", None)
