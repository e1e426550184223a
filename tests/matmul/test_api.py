"""Products against models that know nothing of the NPU's programs."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matmul.model import multiply_halves, multiply_integers

from delegate.errors import DeviceError, MatmulError
from delegate.hw.sim.device import Simulator
from delegate.matmul import Matmul, Requantization, matmul, pack
from delegate.matmul.packing import Packing

Array = npt.NDArray[Any]
SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 150), st.integers(1, 100))
CORES = st.integers(1, 3)
SPLITS = st.sampled_from(("columns", "rows"))


def halves(rng: np.random.Generator, shape: tuple[int, ...], spread: int) -> Array:
    """Numbers whose exponents differ by up to ``spread``, subnormal ones and zeros among them."""
    scales = np.ldexp(1.0, rng.integers(-spread, 1, shape))
    values = (rng.standard_normal(shape) * scales).astype(np.float16)
    values[rng.random(shape) < 0.1] = 0
    return values


def int8s(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.integers(-128, 128, shape).astype(np.int8)


@settings(max_examples=25, deadline=None)
@given(shape=SHAPES, cores=CORES, split=SPLITS, spread=st.sampled_from((0, 6, 20)), seed=st.integers(0, 2**32 - 1))
def test_fp16_equals_the_exact_model_bit_for_bit(shape: Any, cores: int, split: Any, spread: int, seed: int) -> None:
    rows, depth, columns = shape
    rng = np.random.default_rng(seed)
    a, b = halves(rng, (rows, depth), spread), halves(rng, (depth, columns), spread)
    wanted = multiply_halves(a, b)
    with Matmul(b, device="simulator", cores=cores, split=split) as product:
        assert product(a).tobytes() == wanted.tobytes()
    with Matmul(b, "float16", "simulator", cores, split=split) as product:
        assert product(a).tobytes() == wanted.astype(np.float16).tobytes()


@settings(max_examples=25, deadline=None)
@given(shape=SHAPES, cores=CORES, split=SPLITS, seed=st.integers(0, 2**32 - 1))
def test_int8_is_exact(shape: Any, cores: int, split: Any, seed: int) -> None:
    rows, depth, columns = shape
    rng = np.random.default_rng(seed)
    a, b = int8s(rng, (rows, depth)), int8s(rng, (depth, columns))
    wanted = multiply_integers(a, b)
    with Matmul(b, device="simulator", cores=cores, split=split) as product:
        result = product(a)
        assert result.dtype == np.int32
        assert np.array_equal(result, wanted)
    bias = rng.integers(-999, 999, columns)
    scales = rng.uniform(1e-5, 1e-3, columns) if seed % 2 else float(rng.uniform(1e-5, 1e-2))
    run = Requantization(scales, int(rng.integers(-128, 128)), bias if seed % 3 else None)
    with Matmul(b, run, "simulator", cores, split=split) as product:
        assert np.array_equal(product(a), requantized(wanted, run, depth))


def round_shift(values: Array, shift: int) -> Array:
    """Python's integers over a power of two, to nearest, ties to even."""
    whole, left, half = values >> shift, values & ((1 << shift) - 1), (1 << shift) // 2
    return whole + ((left > half) | ((left == half) & (half > 0) & (whole & 1 == 1)))


def requantized(sums: Array, run: Requantization, depth: int) -> Array:
    """The converter by S-01, S-04, S-19: exact fractions, ties to even; within its bits of the real scales."""
    values = sums.astype(object) + (0 if run.bias is None else np.asarray(run.bias).astype(object))
    registers = run.converter(depth)
    real = np.array([float(value) for value in values.reshape(-1)]).reshape(values.shape) * run.scale + run.zero_point
    gain = registers.multiplier / 2**registers.shift
    if registers.channel_shift is None:
        assert abs(gain / run.scale - 1) < 2**-15
    else:
        factors = run.multipliers(registers)
        assert (np.abs(factors / 2**registers.channel_shift * gain / run.scale - 1) < 0.6 / factors + 2**-15).all()
        values = round_shift(values * factors.astype(object), registers.channel_shift)
        assert (np.abs(values) < 1 << 31).all()
    exact = round_shift(values * registers.multiplier, registers.shift) + run.zero_point
    clipped = np.clip(exact, -128, 127).astype(np.int8)
    assert (np.abs(clipped - np.clip(real, -128, 127)) < 1.6).all()
    return clipped


def test_the_published_product_of_4_36_16(shared: Any) -> None:
    """A, B and C of the public test of the rk3588-npu project, values and result as captured."""
    with np.load(shared / "golden" / "programs" / "mtx-mm_4_36_16" / "expected.npz") as arrays:
        a, b, c = arrays["A"], arrays["B"], arrays["expected"]
    assert a.shape == (4, 36)
    assert np.array_equal(matmul(a.astype(np.float16), b.astype(np.float16).T, device="simulator"), c)


@pytest.mark.parametrize("part_depth", [32, 64, 8192])
def test_parts_of_the_depth_are_added_in_order(part_depth: int) -> None:
    rng = np.random.default_rng(part_depth)
    a, b = halves(rng, (5, 150), 4), halves(rng, (150, 40), 4)
    parts = Packing("float16", 150, 40, part_depth).parts
    wanted = multiply_halves(a, b, parts)
    with Matmul(b, device="simulator", part_depth=part_depth) as product:
        assert product(a).tobytes() == wanted.tobytes()
    with Matmul(b, "float16", device="simulator", part_depth=part_depth) as product:
        assert product(a).tobytes() == wanted.astype(np.float16).tobytes()


@pytest.mark.parametrize("part_depth", [2048, 8192])
def test_the_largest_depth(part_depth: int) -> None:
    rng = np.random.default_rng(1)
    a, b = int8s(rng, (2, 16384)), int8s(rng, (16384, 33))
    wanted = a.astype(np.int32) @ b.astype(np.int32)
    run = Requantization(1e-4, 3, np.arange(33))
    columns = Requantization(np.geomspace(1e-5, 1e-3, 33), 3, np.arange(33))
    with Matmul(b, device="simulator", cores=2, part_depth=part_depth) as product:
        assert np.array_equal(product(a), wanted)
    for each in (run, columns):
        with Matmul(b, each, "simulator", part_depth=part_depth) as product:
            assert np.array_equal(product(a), requantized(wanted, each, 16384))


def test_a_tall_product_is_computed_in_several_runs() -> None:
    rng = np.random.default_rng(2)
    a, b = int8s(rng, (9001, 40)), int8s(rng, (40, 36))
    assert np.array_equal(matmul(a, b, device="simulator", cores=2), a.astype(np.int32) @ b.astype(np.int32))


def test_a_wide_product_in_blocks_of_columns() -> None:
    rng = np.random.default_rng(3)
    b = int8s(rng, (64, 9000))
    run = Requantization(rng.uniform(1e-4, 1e-3, 9000), -4, rng.integers(-9999, 9999, 9000))
    with Matmul(b, device="simulator") as exact, Matmul(b, run, device="simulator") as narrow:
        for rows in (1, 50):
            a = int8s(rng, (rows, 64))
            wanted = a.astype(np.int32) @ b.astype(np.int32)
            assert np.array_equal(exact(a), wanted)
            assert np.array_equal(narrow(a), requantized(wanted, run, 64))


def test_numbers_that_are_not_finite_reach_only_their_rows_and_columns() -> None:
    a, b = np.ones((4, 32), np.float16), np.ones((32, 16), np.float16)
    a[1, 3], b[5, 7] = np.inf, np.nan
    c = matmul(a, b, device="simulator")
    touched = np.zeros((4, 16), bool)
    touched[1], touched[:, 7] = True, True
    assert not np.isfinite(c[touched]).any()
    assert (c[~touched] == 32).all()


def test_a_packed_matrix_gives_the_same_product(tmp_path: Any) -> None:
    rng = np.random.default_rng(4)
    for b in (halves(rng, (100, 70), 3), int8s(rng, (100, 70))):
        (tmp_path / "b").write_bytes(pack(b))
        mapped = np.memmap(tmp_path / "b", np.uint8, "r")
        a = halves(rng, (3, 100), 3) if b.dtype == np.float16 else int8s(rng, (3, 100))
        for cores in (1, 3):
            with Matmul.from_packed(mapped, b.shape, b.dtype, device="simulator", cores=cores) as product:
                assert product(a).tobytes() == matmul(a, b, device="simulator").tobytes()
    with pytest.raises(MatmulError, match="6144 bytes of packed B: 12288 for"):
        Matmul.from_packed(bytes(6144), (100, 70), np.int8, device="simulator")


def test_products_run_beside_each_other_and_end_in_any_order() -> None:
    rng = np.random.default_rng(5)
    b = int8s(rng, (64, 64))
    given = [int8s(rng, (4, 64)) for _ in range(5)]
    with Matmul(b, device="simulator", cores=2) as product:
        pending = [product.submit(a.copy()) for a in given]
        for a, waiting in reversed(list(zip(given, pending, strict=True))):
            assert np.array_equal(waiting.result(), a.astype(np.int32) @ b.astype(np.int32))
            assert waiting.result() is waiting.result()


def test_out_takes_the_result() -> None:
    rng = np.random.default_rng(6)
    a, b = int8s(rng, (6, 64)), int8s(rng, (64, 48))
    wanted = a.astype(np.int32) @ b.astype(np.int32)
    with Matmul(b, device="simulator") as product:
        out = np.zeros((48, 6), np.int32).T
        assert product(a, out=out) is out
        assert np.array_equal(out, wanted)
        assert np.array_equal(product(np.asfortranarray(a)[::2]), wanted[::2])
        for wrong in (np.zeros((6, 47), np.int32), np.zeros((6, 48), np.int64)):
            with pytest.raises(MatmulError, match=r"out is .* a writeable array of int32 \(6, 48\)"):
                product(a, out=wrong)


def test_an_input_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    b = int8s(rng, (64, 48))
    with Matmul(b, device="simulator") as product:
        a = product.input(6)
        monkeypatch.setattr(Matmul, "_fill", None)  # what copies A
        for _ in range(2):
            a[...] = int8s(rng, (6, 64))
            assert np.array_equal(product(a), a.astype(np.int32) @ b.astype(np.int32))
        first = product.submit(a)
        with pytest.raises(MatmulError, match="whose result nobody has asked for yet"):
            product.submit(a)
        first.result()
        product.submit(a).result()
    with Matmul(b[:63], device="simulator") as product, pytest.raises(MatmulError, match="K = 63"):
        product.input(6)


def test_a_result_in_one_piece_of_rows_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    b = int8s(rng, (64, 40))
    run = Requantization(1e-3)
    with Matmul(b, device="simulator") as product, Matmul(b, run, "simulator") as cube:
        a, other = product.input(6), cube.input(6)
        a[...] = other[...] = int8s(rng, (6, 64))
        wanted = a.astype(np.int32) @ b.astype(np.int32)
        assert np.array_equal(cube(other, copy=False), run.apply(wanted, 64))  # lies in a cube: copied
        out = np.empty((6, 40), np.int32)
        assert product(a, out=out, copy=False) is out
        monkeypatch.setattr(Matmul, "_read", None)  # what copies C
        c = product(a, copy=False)
        assert np.array_equal(c, wanted)
        a[...] = 1
        product(a, copy=False)
        assert np.array_equal(c, np.broadcast_to(b.astype(np.int32).sum(axis=0), (6, 40)))  # the same memory


def test_results_that_nobody_asks_for_take_no_memory() -> None:
    b = int8s(np.random.default_rng(9), (64, 40))
    a = np.ones((4, 64), np.int8)
    with Matmul(b, device="simulator") as product:
        for _ in range(20):
            product.submit(a)
        assert len(product._slots) == 1
        regions = len(product._device.memory.regions)
    forgotten = Matmul(b, device="simulator")
    device = forgotten._device
    forgotten(a)
    assert len(device.memory.regions) >= regions - 4
    before = len(device.memory.regions)
    del forgotten
    gc.collect()
    assert len(device.memory.regions) == before - 4


def test_a_process_ends_though_products_are_left_over() -> None:
    """Cyclic garbage that is found when no thread runs any more must not be waited for."""
    code = (
        "import numpy as np; from delegate.matmul import Matmul\n"
        "ring = []; product = Matmul(np.ones((64, 64), np.float16), device='simulator')\n"
        "ring += [ring, product, product.submit(np.ones((4, 64), np.float16))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=Path(__file__).resolve().parents[2])


def test_an_error_is_raised_each_time_and_the_product_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(10)
    a, b = int8s(rng, (9000, 64)), int8s(rng, (64, 32))
    with Matmul(b, device="simulator") as product:
        pending = product.submit(a)
        with monkeypatch.context() as patch:
            patch.setattr("delegate.canary.untouched", lambda *_: 1)
            for _ in range(2):
                with pytest.raises(DeviceError, match="1 of 1 jobs of a product ended twice"):
                    pending.result()
        assert np.array_equal(product(a), a.astype(np.int32) @ b.astype(np.int32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: matmul(np.ones((2, 3), np.float16), np.ones((4, 5), np.float16)), r"A has the shape \(2, 3\)"),
        (lambda: matmul(np.ones((0, 4), np.float16), np.ones((4, 5), np.float16)), "M at least 1"),
        (lambda: matmul(np.ones(4, np.float16), np.ones((4, 5), np.float16)), r"A has the shape \(4,\)"),
        (lambda: matmul(np.ones((2, 4), np.float32), np.ones((4, 5), np.float16)), "A is float32, B float16"),
        (lambda: Matmul(np.ones((4, 5), np.float32)), "B is float32: matrices of float16 or int8"),
        (lambda: Matmul(np.ones((4, 5, 6), np.float16)), r"B has the shape \(4, 5, 6\)"),
        (lambda: Matmul(np.ones((16385, 1), np.int8)), r"B has 16385 rows \(K\): 1 to 16384"),
        (lambda: Matmul(np.ones((1, 16385), np.int8)), r"B has 16385 columns \(N\)"),
        (lambda: Matmul(np.ones((4, 5), np.int8), "float32"), "output is 'float32', B int8"),
        (lambda: Matmul(np.ones((4, 5), np.int8), "int8"), "a Requantization says how"),
        (lambda: Matmul(np.ones((4, 5), np.float16), Requantization(0.5)), "output is a Requantization, B float16"),
        (lambda: Requantization(0.0), "requantization with scale 0.0"),
        (lambda: Requantization(0.5, 128), "zero point 128"),
        (lambda: Requantization(np.array([1e-4, 1.0])), "scales 0.0001 to 1: at most 256 times each other"),
        (lambda: Matmul(np.ones((4, 5), np.int8), Requantization(np.full(5, 2.0**-47))), "K = 4: out of reach"),
        (lambda: Matmul(np.ones((4, 5), np.int8), Requantization(np.ones(4))), r"scales \(4,\): one, or \(5,\)"),
        (lambda: Matmul(np.ones((4, 5), np.int8), Requantization(0.5, 0, np.ones(4, int))), r"bias of int64 \(4,\)"),
        (lambda: Matmul(np.ones((4, 5), np.int8), cores=4), "cores is 4: 1 to 3"),
        (lambda: Matmul(np.ones((4, 5), np.int8), split="depth"), "split is 'depth'"),
        (lambda: Matmul(np.ones((4, 5), np.int8), part_depth=33), "part_depth 33: a multiple of 32"),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(MatmulError, match=message):
        make()


def test_unknown_devices_are_named() -> None:
    with pytest.raises(DeviceError, match="device 'gpu' is unknown"):
        Matmul(np.ones((4, 5), np.int8), device="gpu")


def test_a_closed_product_says_so() -> None:
    product = Matmul(np.ones((32, 16), np.float16), device="simulator")
    a = np.ones((4, 32), np.float16)
    pending = product.submit(a)
    product.close()
    product.close()
    for use in (pending.result, lambda: product(a), lambda: product.input(4)):
        with pytest.raises(MatmulError, match="this product is closed"):
            use()


def test_memory_that_is_used_up_is_said_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 4 GiB little is left; slots that nobody uses make room, and what cannot be had is said."""
    device = Simulator()
    monkeypatch.setattr("delegate.matmul.api.shared_device", lambda *_: device)
    monkeypatch.setattr("delegate.hw.sim.device.ADDRESS_LIMIT", 1 << 20)
    a = np.ones((512, 512), np.int8)
    with Matmul(np.ones((512, 128), np.int8)) as product:
        assert (product(a[:500]) == 512).all()
        assert (product(a[:384]) == 512).all()
        assert (product(a[:500]) == 512).all()
        with pytest.raises(DeviceError, match=r"int8 B \(512, 128\) needs .* bytes more in the NPU's memory of 4 GiB"):
            product(np.ones((2000, 512), np.int8))
        assert (product(a[:4]) == 512).all()
    assert not device.memory.regions
    device.close()


@pytest.mark.parametrize("page", ["README.md", "docs/matmul.md"])
def test_the_example_of_a_page_runs(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block of code that imports delegate.matmul; its last line's remark says what comes out."""
    text = (Path(__file__).resolve().parents[2] / page).read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "delegate.matmul" in block]
    monkeypatch.setenv("TEFLON_NODE", "/nowhere")  # no board
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(code.strip().splitlines()) <= 6
    assert names["c"].dtype == np.float32
    assert np.allclose(names["c"], names["b"].astype(np.float32).sum(axis=0), atol=1e-4)
    assert names["c"].shape == (4, 1000)
