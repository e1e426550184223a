"""Plans: everything is computed once, in tasks that fit the chip."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delegate.hw.emit.product import Form
from delegate.hw.soc import RK3588
from delegate.matmul.packing import Packing, pack
from delegate.matmul.plan import bucket, cuts, feature_banks, read_bytes, weight_banks
from delegate.matmul.program import JOB_CYCLES, Converter, compile_core

FORMS = [Form("float16", "float32"), Form("float16", "float16"), Form("int8", "int32"), Form("int8", "int8")]


@settings(max_examples=60, deadline=None)
@given(form=st.sampled_from(FORMS), lines=st.integers(1, 1024), chunks=st.integers(1, 256), groups=st.integers(1, 512))
def test_every_row_and_column_is_computed_once_and_fits(form: Form, lines: int, chunks: int, groups: int) -> None:
    rows, depth, columns = 4 * lines, 32 * chunks, form.group * groups
    tasks = cuts(form, rows, depth, columns)
    covered = np.zeros((rows, columns // form.group), np.int8)
    before = None
    for cut in tasks:
        assert cut.columns.start % form.group == 0
        assert len(cut.rows) % RK3588.line_group == 0
        covered[cut.rows.start : cut.rows.stop, cut.columns.start // form.group : cut.columns.stop // form.group] += 1
        assert cut.feature_banks + cut.weight_banks == RK3588.cbuf_banks
        assert feature_banks(form, len(cut.rows), depth) <= cut.feature_banks
        assert weight_banks(form, form.group, depth) <= cut.weight_banks
        assert len(cut.rows) <= 1020
        assert len(cut.columns) <= 4096
        if cut.reuses_rows:
            assert before is not None
            assert (before.rows, before.feature_banks) == (cut.rows, cut.feature_banks)
        if cut.reuses_columns:
            assert before is not None
            assert (before.columns, before.weight_banks) == (cut.columns, cut.weight_banks)
            assert weight_banks(form, len(cut.columns), depth) <= cut.weight_banks
        before = cut
    assert (covered == 1).all()


def test_small_factors_are_read_once() -> None:
    form = Form("float16", "float32")
    for rows, depth, columns in ((4, 4096, 4096), (4096, 128, 256), (256, 512, 2048)):
        least = (rows + columns) * depth * 2
        assert read_bytes(form, depth, cuts(form, rows, depth, columns)) == least


@given(rows=st.integers(1, 5000))
def test_a_bucket_is_little_more_than_what_is_asked_for(rows: int) -> None:
    assert rows <= bucket(rows) <= max(4 * -(-rows // 4), rows * 5 / 4)
    assert bucket(rows) % 4 == 0
    assert bucket(bucket(rows)) == bucket(rows)


def test_few_buckets_serve_all_numbers_of_rows() -> None:
    assert len({bucket(rows) for rows in range(1, 4097)}) == 36


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.element} to {form.result}")
def test_jobs_end_before_the_watchdog(form: Form) -> None:
    """A product of half a second at 200 MHz is several jobs, none of which relies on what another left (S-76)."""
    converter = Converter(1 << 14, 14, 0, None) if form.quantizes else None
    core = compile_core(Packing(form.element, 4096, 4096), form, 4096, 4096, converter)
    assert len(core.program.jobs) > 1
    assert len(core.proofs) == len(core.program.jobs)
    assert JOB_CYCLES / 200e6 <= 0.25
    offset = 0x1040  # CNA.CBUF_CON0
    for job in core.program.jobs:
        (first,) = [int(word) for word in job.tasks[0].words if int(word) & 0xFFFF == offset]
        assert not first >> 16 & 3 << 12


@pytest.mark.parametrize("dtype", [np.float16, np.int8])
def test_packed_bytes_are_those_of_the_book(dtype: type[np.generic]) -> None:
    """[N/G][K/32][G][32] for each part of the depth (S-40)."""
    b = np.arange(100 * 50).reshape(100, 50).astype(dtype)
    group = 32 // np.dtype(dtype).itemsize
    packed = pack(b, 64).view(dtype)
    parts = Packing(np.dtype(dtype).name, 100, 50, 64).parts
    assert [len(part) for part in parts] == [64, 64]
    columns = -(-50 // group) * group
    for k in range(128):
        for n in range(columns):
            at = k // 64 * 64 * columns + n // group * group * 64 + k % 64 // 32 * group * 32 + n % group * 32 + k % 32
            assert packed[at] == (b[k, n] if k < 100 and n < 50 else 0)
