"""The tables of docs/language-models.md, and what they stand on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from benchmarks import harness, language_models
from benchmarks.language_models import SHAPES, product_seconds, token_seconds
from delegate.hw.timing import RKNPU, ROCKET

PAGE = (harness.ROOT / "docs" / "language-models.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("table", [language_models.speed_table, language_models.groups_table])
def test_the_page_is_fresh(table: Callable[[], Iterable[str]]) -> None:
    """Else: python -m benchmarks.language_models"""
    assert "\n".join(table()) in PAGE


def test_weights_are_those_of_the_published_models() -> None:
    """The checkpoints' bytes less header, norms and rotation, at two bytes a weight."""
    for shape, size, context in zip(SHAPES, (60_816_028, 167_020_572, 438_381_596), (256, 1024, 1024), strict=True):
        head = 48 if shape.dim % 64 else 64
        others = 28 + 4 * (shape.dim * (2 * shape.layers + 1) + context * head)
        assert 2 * shape.weights == size - others


def test_time_follows_weights_and_cores() -> None:
    shape = SHAPES[-1]
    bound = shape.weights / ROCKET.core_bytes  # the transfers alone
    assert bound < token_seconds(shape, ROCKET) < 1.5 * bound
    assert token_seconds(shape, replace(RKNPU, cores=3)) > shape.weights / RKNPU.bandwidth
    assert product_seconds(ROCKET, 1, 288, 864) > ROCKET.job_seconds
