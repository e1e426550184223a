"""delegate.product: fp32 products in fp16 on the NPU, a share of the columns on the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from chosen import DEVICE

from delegate.errors import MatmulError
from delegate.hw.timing import RKNPU, ROCKET
from delegate.product import GROUP, FloatProduct, columns_of_npu, pieces, scaled
from delegate.product_cost import best_share, cpu_seconds, npu_seconds, product_seconds

pytestmark = pytest.mark.device

Array = npt.NDArray[np.float32]


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def allowed(a: Array, b: Array) -> npt.NDArray[np.float64]:
    """The largest error of a sum: both factors rounded to 11 bits, products and sums to 24."""
    return (2.0**-10 + 2.0**-20 + (len(b) + 1) * 2.0**-23) * (np.abs(a).astype(np.float64) @ np.abs(b)) + 1e-30


@pytest.mark.parametrize("cpu_share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("cores", [1, 2, 3])
def test_a_product_is_within_the_bound_of_fp16(cores: int, cpu_share: float) -> None:
    a, b = drawn(5, 70), drawn(70, 90, seed=1)
    with FloatProduct(b, DEVICE, cores, cpu_share=cpu_share) as product:
        c = product(a)
    assert c.dtype == np.float32
    assert (np.abs(c - a.astype(np.float64) @ b) <= allowed(a, b)).all()


def test_the_share_of_the_cpu_changes_nothing_but_the_order_of_sums() -> None:
    a, b = drawn(3, 128), drawn(128, 96, seed=1)
    results = []
    for cores, share in ((1, 0.0), (3, 0.0), (1, 0.4), (2, 0.7), (1, 1.0)):
        with FloatProduct(b, DEVICE, cores, cpu_share=share) as product:
            results.append((product.npu_columns, product(a)))
    (_, whole), (_, on_three), *parted = results
    assert np.array_equal(on_three, whole)
    halves, rows = scaled(a, "A")
    columns, exponents = scaled(b.T, "B")
    size = np.ldexp(np.abs(halves).astype(np.float64) @ np.abs(columns.T), rows[:, None] + exponents)
    for npu_columns, result in parted:
        assert np.array_equal(result[:, :npu_columns], whole[:, :npu_columns])
        assert (np.abs(result - whole) <= 2 * (len(b) + 1) * 2.0**-23 * size).all()


def test_numbers_far_beyond_fp16_are_scaled_without_loss() -> None:
    a, b = drawn(4, 64), drawn(64, 32, seed=1)
    rows = np.float32(2.0) ** np.array([[60], [-60], [0], [30]], np.float32)
    columns = np.float32(2.0) ** np.arange(-16, 16, dtype=np.float32)
    with FloatProduct(b, DEVICE) as plain, FloatProduct(b * columns, DEVICE) as wide:
        assert np.array_equal(wide(a * rows), plain(a) * rows * columns)


def test_rows_and_columns_of_zeros_give_zeros() -> None:
    a, b = drawn(3, 40), drawn(40, 20, seed=1)
    a[1], b[:, 7] = 0, 0
    with FloatProduct(b, DEVICE, cpu_share=0.5) as product:
        c = product(a)
    assert not c[1].any()
    assert not c[:, 7].any()
    assert c[0, :7].all()


def test_matrices_larger_than_a_product_takes_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("delegate.product.LARGEST_SIZE", 48)
    a, b = drawn(2, 100), drawn(100, 110, seed=1)
    assert len(list(pieces(100, 110))) == 9
    with FloatProduct(b, DEVICE) as product:
        assert (np.abs(product(a) - a.astype(np.float64) @ b) <= allowed(a, b)).all()


@pytest.mark.parametrize(
    ("b", "share", "message"),
    [
        (np.zeros(3), 0.0, "a matrix"),
        (np.zeros((0, 3)), 0.0, "a matrix"),
        (np.array([[1.0, np.nan]]), 0.0, "B holds NaN or infinity"),
        (np.ones((2, 2)), 1.5, "cpu_share is 1.5: 0 to 1"),
    ],
)
def test_what_no_product_can_be_made_of(b: npt.NDArray[np.float64], share: float, message: str) -> None:
    with pytest.raises(MatmulError, match=message):
        FloatProduct(b, DEVICE, cpu_share=share)


def test_rows_that_do_not_fit() -> None:
    with FloatProduct(drawn(8, 8), DEVICE) as product:
        with pytest.raises(MatmulError, match=r"A has the shape \(2, 7\)"):
            product(drawn(2, 7))
        with pytest.raises(MatmulError, match="A holds NaN or infinity"):
            product(np.full((1, 8), np.inf, np.float32))


def test_the_share_is_whole_groups_of_columns() -> None:
    assert columns_of_npu(100, 0.0) == 100
    assert columns_of_npu(100, 1.0) == 0
    for share in (0.1, 0.25, 0.5, 0.9):
        own = columns_of_npu(1000, share)
        assert own % GROUP == 0
        assert abs(own - 1000 * (1 - share)) <= GROUP / 2


def test_the_times_are_those_of_the_parts() -> None:
    alone = product_seconds(1, 1024, 1024, RKNPU)
    assert (alone.cpu, alone.npu) == (0.0, npu_seconds(1, 1024, 1024, RKNPU))
    every = product_seconds(1, 1024, 1024, RKNPU, cpu_share=1.0)
    assert (every.npu, every.host, every.cpu) == (0.0, 0.0, cpu_seconds(1, 1024, 1024))
    # Its 2 MB of fp16 at 12 bytes a cycle, beside the launch of a job.
    assert alone.npu == pytest.approx(1024 * 1024 * 2 / 12 / RKNPU.clock_hz + RKNPU.job_seconds, rel=0.1)


def test_more_cores_and_the_best_share_are_no_slower() -> None:
    boards = [replace(ROCKET, cores=cores) for cores in (1, 2, 3)]
    times = [product_seconds(1, 1024, 4096, board).total for board in boards]
    assert times == sorted(times, reverse=True)
    share = best_share(1, 1024, 4096, boards[0])
    assert 0 < share < 1
    assert product_seconds(1, 1024, 4096, boards[0], share).total < times[0]
