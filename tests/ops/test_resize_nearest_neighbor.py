"""RESIZE_NEAREST_NEIGHBOR through the real library against TFLite's reference kernels, moves and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from resizing import (
    ALIGNED,
    BOTH,
    CENTERED,
    PLAIN,
    Interpreters,
    check_shared_refusals,
    difference,
    drawn,
    moves,
    resize,
)

NEAREST = "RESIZE_NEAREST_NEIGHBOR"
SIZES = [
    ((1, 5, 7, 20), (10, 14)),  # twice
    ((2, 5, 7, 70), (20, 7)),  # rows alone
    ((2, 5, 7, 3), (5, 21)),  # columns alone
    ((1, 9, 8, 20), (3, 4)),  # smaller
    ((1, 5, 7, 20), (7, 10)),  # nothing in common
    ((1, 5, 5, 17), (9, 17)),  # corners aligned
    ((1, 9, 17, 4), (5, 9)),
    ((3, 1, 1, 70), (6, 33)),  # one pixel
    ((1, 6, 1, 5), (6, 5)),
    ((1, 1, 6, 5), (5, 6)),
    ((1, 7, 6, 33), (7, 6)),  # the same
]


@pytest.mark.parametrize(("shape", "size"), SIZES)
@pytest.mark.parametrize(("flags", "dtype"), [(PLAIN, "int8"), (ALIGNED, "uint8"), (CENTERED, "int8"), (BOTH, "uint8")])
def test_nearest_is_exact(
    shape: tuple[int, ...], size: tuple[int, int], flags: tuple[bool, bool], dtype: str,
    reference_interpreter: Interpreters, npu_interpreter: Interpreters,
) -> None:  # fmt: skip
    rng = np.random.default_rng(1)
    assert difference(rng, NEAREST, shape, size, flags, dtype, reference_interpreter, npu_interpreter) == 0


@pytest.mark.parametrize("seed", range(24))
def test_drawn_sizes(seed: int, reference_interpreter: Interpreters, npu_interpreter: Interpreters) -> None:
    assert drawn(seed, NEAREST, reference_interpreter, npu_interpreter) == 0


def test_blocks_need_few_moves() -> None:
    """A move for each column of a block, then one for each row of a block."""
    assert moves(resize(NEAREST, (1, 64, 64, 16), (128, 128))) == [2, 2]
    assert moves(resize(NEAREST, (1, 64, 64, 16), (32, 64))) == [1]
    assert moves(resize(NEAREST, (1, 33, 33, 16), (65, 65), ALIGNED)) == [2, 2]
    assert moves(resize(NEAREST, (1, 1, 1, 16), (33, 33))) == [1]
    assert moves(resize(NEAREST, (1, 5, 5, 16), (5, 5))) == [0]


def test_refusals_name_their_reason() -> None:
    check_shared_refusals(NEAREST)
