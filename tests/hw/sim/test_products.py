"""The fast path of matrix products beside the plain model, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hw.sim.products import KINDS, Array, Kind, pack_features, pack_kernels, product, read_result
from hw.sim.programs import INPUT, WEIGHTS, Board, words

from delegate.hw.sim import products
from delegate.hw.sim.options import Options

FLOATS, INTEGERS = ("fp16 to fp32", "fp16 to fp16"), ("int8 to int32", "int8 to fp32")


def both(kind: Kind, left: Array, right: Array) -> tuple[Array, Array]:
    """What the fast and the plain machine write for A (M, K) and B (N, K)."""
    results = []
    for plain in (False, True):
        board = Board(Options(plain=plain))
        board.put(INPUT, pack_features(kind, left))
        board.put(WEIGHTS, pack_kernels(kind, right))
        board.run(words(product(kind, len(left), left.shape[1], len(right))))
        results.append(read_result(board, kind, len(left), len(right)))
    return results[0], results[1]


def halves(rng: np.random.Generator, shape: tuple[int, int], spread: int) -> Array:
    scales = np.ldexp(1.0, rng.integers(-spread, 1, shape))
    return (rng.standard_normal(shape) * scales).astype(np.float16)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("spread", [0, 8, 24])
def test_products_of_halves(name: str, spread: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(spread)
    left, right = halves(rng, (12, 96), spread), halves(rng, (48, 96), spread)
    left[3] = 0
    left[4] = -0.0
    monkeypatch.setattr(products, "BLOCK", 12 * 48)  # a group at a time
    fast, plain = both(KINDS[name], left, right)
    assert fast.tobytes() == plain.tobytes()
    assert np.any(fast != 0)


@pytest.mark.parametrize("spread", [15, 26])
def test_groups_whose_sums_a_double_may_not_hold_are_left_to_the_plain_model(
    spread: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both largest and least halves in a group: products from 2**-48 to 2**30 add up in more than 53 bits."""
    rng = np.random.default_rng(spread)
    left, right = halves(rng, (8, 64), spread), halves(rng, (16, 64), spread)
    left[:, 0], right[:, 1], left[:, 1], right[:, 0] = 65504, 65504, 2.0**-24, 2.0**-24
    left[:, 2] = right[:, 2] = 60000
    plainly: list[int] = []
    exactly = products.core.exact_products
    monkeypatch.setattr(products.core, "exact_products", lambda *both: plainly.append(1) or exactly(*both))
    fast = both(KINDS["fp16 to fp32"], left, right)[0]
    assert len(plainly) == 3  # a group by the fast machine, two by the plain one
    monkeypatch.undo()
    assert fast.tobytes() == both(KINDS["fp16 to fp32"], left, right)[1].tobytes()


def test_halves_that_are_not_finite() -> None:
    rng = np.random.default_rng(0)
    left, right = halves(rng, (8, 64), 3), halves(rng, (16, 64), 3)
    left[1, 2], left[2, 3], right[4, 5] = np.inf, np.nan, -np.inf
    fast, plain = both(KINDS["fp16 to fp32"], left, right)
    assert fast.tobytes() == plain.tobytes()


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("depth", [32, 4096])  # sums that singles hold, and that only doubles do
def test_products_of_bytes(name: str, depth: int) -> None:
    rng = np.random.default_rng(depth)
    left, right = rng.integers(-128, 128, (8, depth)), rng.integers(-128, 128, (32, depth))
    left[0], right[0] = -128, -128
    fast, plain = both(KINDS[name], left, right)
    assert fast.tobytes() == plain.tobytes()
    assert fast[0, 0] == 128 * 128 * depth
