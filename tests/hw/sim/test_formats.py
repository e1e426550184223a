"""Data types, layouts and the writer's geometry: sections D and E of silicon-facts.md."""

from __future__ import annotations

import numpy as np
import pytest
from hw.sim.products import KINDS, Kind, multiply, pack_features, product
from hw.sim.programs import INPUT, OUTPUT, WEIGHTS, Board, Fields, Shape, change, convolution, words

from delegate.errors import SimulatorError
from delegate.hw.regs import CNA, CORE, DPU

INTEGERS = [name for name in KINDS if name.startswith("int")]
FLOATS = [name for name in KINDS if not name.startswith("int")]


def numbers(kind: Kind, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Random numbers that the format holds exactly and whose sums are exact too."""
    limit = {4: 8, 8: 12}.get(kind.bits, 50) if kind.name.startswith("int") else 9
    return np.random.default_rng(seed).integers(-limit, limit, shape)


@pytest.mark.parametrize("name", KINDS)
def test_products_of_every_type_have_the_layouts_of_the_table(name: str):
    """S-40: [K/C2][M][C2], [N/G][K/chunk][G][chunk], [N/C2][M][C2]; two chunks and two groups (S-43). S-42: K in whole
    chunks, N in whole groups. Types with their size_e and SURFACE_ADD: S-52, S-53, S-54, S-55, S-56, S-57."""
    kind = KINDS[name]
    left, right = numbers(kind, (8, 2 * kind.chunk), 1), numbers(kind, (2 * kind.group, 2 * kind.chunk), 2)
    exact = left @ right.T
    if kind.out == 0:
        exact = np.clip(exact, -128, 127)
    assert np.array_equal(multiply(kind, left, right), exact)


def test_nibbles_lie_low_first():
    """S-41: the first of two int4 numbers is in the low nibble; N K / 2 bytes of weights."""
    kind = KINDS["int4 to int16"]
    left, right = np.zeros((4, 32), np.int64), np.zeros((64, 32), np.int64)
    left[:, 0], left[:, 1] = 3, -5
    right[7, 0] = 2
    assert pack_features(kind, left)[0, 0, 0] == (-5 & 15) << 4 | 3
    assert (multiply(kind, left, right)[:, 7] == 6).all()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size_e", [0, 1, 3, 7])
def test_only_one_size_e_fits_a_type(name: str, size_e: int):
    """S-53 to S-57: another size_e leaves columns unwritten or hangs."""
    kind = KINDS[name]
    fields = product(kind, 8, kind.chunk, kind.group)
    sizes = dict.fromkeys(("size_e_0", "size_e_1", "size_e_2"), size_e)
    fields = change(change(fields, DPU.BS_OW_CFG, **sizes), DPU.SURFACE_ADD, surf_add=8 * (size_e + 1))
    if size_e == kind.size_e:
        Board().run(words(fields))
    else:
        with pytest.raises(SimulatorError, match=f"size_e {size_e}"):
            Board().run(words(fields))


def test_int8_depthwise_has_no_raw_writer():
    """S-60: no setting of size_e writes int32 from an int8 depthwise convolution. Int8 has
    size_e 3 to int8 (S-58), fp16 to fp16 (S-59)."""
    fields = convolution(Shape(channels=64, depthwise=True))
    fields = change(fields, DPU.DATA_FORMAT, out_precision=4)
    for size_e in range(8):
        sizes = dict.fromkeys(("size_e_0", "size_e_1", "size_e_2"), size_e)
        with pytest.raises(SimulatorError, match="size_e"):
            Board().run(words(change(fields, DPU.BS_OW_CFG, **sizes)))


@pytest.mark.parametrize(("code", "dpu"), [(4, 4), (5, 5), (2, 7)])
def test_other_precision_codes_are_refused(code: int, dpu: int):
    """S-61: CORE has no 4 and no 5, the DPU no 7."""
    fields = product(KINDS["fp16 to fp32"], 8, 32, 16)
    fields = change(fields, CNA.CONV_CON1, in_precision=code, proc_precision=code)
    fields = change(fields, CORE.MISC_CFG, proc_precision=code)
    with pytest.raises(SimulatorError, match="precision"):
        Board().run(words(change(fields, DPU.DATA_FORMAT, in_precision=dpu, proc_precision=dpu)))


def test_bf16_differs_from_fp16_in_three_words():
    """S-62: CONV_CON1, CORE MISC_CFG and DPU DATA_FORMAT; values of 1e5 and beyond are fine."""
    half, brain = (product(KINDS[f"{name} to fp32"], 8, 32, 16) for name in ("fp16", "bf16"))
    assert {r.full_name for r in half if half[r] != brain[r]} == {
        "CNA.CONV_CON1",
        "CORE.MISC_CFG",
        "DPU.DATA_FORMAT",
    }
    left = np.zeros((8, 32), np.float32)
    left[:, 3] = 2.0**18
    right = np.zeros((16, 32), np.float32)
    right[5, 3] = -(2.0**17)
    assert (multiply(KINDS["bf16 to fp32"], left, right)[:, 5] == -(2.0**35)).all()


def test_tf32_rounds_to_ten_bits():
    """S-63: raw fp32 in, a mantissa of 10 bits in the MAC, single sums."""
    left, right = np.zeros((8, 16), np.float32), np.zeros((16, 16), np.float32)
    left[:, 0] = 1 + 2.0**-10 + 2.0**-12
    right[:, 0] = 1
    assert (multiply(KINDS["tf32 to fp32"], left, right) == 1 + 2.0**-10).all()


def test_int16_sums_beyond_32_bits_come_back():
    """S-64: sums up to 2**35 that return inside int32 are exact; the output saturates."""
    kind = KINDS["int16 to int32"]
    left, right = np.zeros((4, 64), np.int64), np.zeros((16, 64), np.int64)
    left[:, :32], right[:, :32] = 32767, 32767
    left[:, 32:], right[:, 32:] = 32767, -32767
    assert (multiply(kind, left, right) == 0).all()
    left[:, 32:] = 0
    assert (multiply(kind, left, right) == 2**31 - 1).all()


def test_int4_saturates_to_int16():
    """S-65."""
    kind = KINDS["int4 to int16"]
    left, right = np.full((4, 1024), 7), np.full((64, 1024), 7)
    assert (multiply(kind, left, right) == 32767).all()


def test_groups_of_32_halves_are_exact():
    """S-66: each group of 32 products is summed exactly, then rounded; a plain single sum would lose the 1."""
    kind = KINDS["fp16 to fp32"]
    left, right = np.zeros((4, 64), np.float32), np.ones((16, 64), np.float32)
    left[:, :3] = 2.0**15, 2.0**-10, -(2.0**15)
    assert (multiply(kind, left, right) == 2.0**-10).all()
    left[:, 2], left[:, 32] = 0, -(2.0**15)  # another group: the small one was rounded away
    assert (multiply(kind, left, right) == np.float32(2.0**15 + 2.0**-10) - np.float32(2.0**15)).all()


def test_raw_sums_are_integers():
    """S-12: int8 sums to fp32 are exact casts; S-13: nothing fractional; S-185: the raw writer's registers."""
    kind = KINDS["int8 to fp32"]
    left, right = numbers(kind, (8, 64), 3), numbers(kind, (32, 64), 4)
    fields = change(product(kind, 8, 64, 32), DPU.OUT_CVT_SHIFT, out_cvt_shift=3)
    got = multiply(kind, left, right, fields)
    assert np.array_equal(got, np.rint((left @ right.T) / 8))
    raw = product(KINDS["int8 to int32"], 8, 64, 32)
    assert raw[DPU.BS_OW_CFG] == {"size_e_0": 7, "size_e_1": 7, "size_e_2": 7, "od_bypass": 1}
    assert raw[DPU.DATA_FORMAT]["out_precision"] == 4
    assert not raw[CORE.MISC_CFG]["qd_en"]


@pytest.mark.parametrize("quantized", [0, 1])
def test_cpend_has_no_raw_writer(quantized: int):
    """S-26: with OD_BYPASS 0 every raw int32 is wrong at any OW_OP and either QD_EN."""
    fields = change(product(KINDS["int8 to int32"], 8, 32, 32), DPU.BS_OW_CFG, od_bypass=0)
    fields = change(fields, CORE.MISC_CFG, qd_en=quantized)
    with pytest.raises(SimulatorError, match="S-26"):
        Board().run(words(change(fields, DPU.BS_OW_OP, ow_op=-3)))


def test_weight_zero_point_words_of_floats():
    """S-28: fp16 writes OW_OP 128 or 0, without effect; other values are refused."""
    kind = KINDS["fp16 to fp32"]
    left, right = numbers(kind, (8, 32), 5), numbers(kind, (16, 32), 6)
    fields = change(product(kind, 8, 32, 16), DPU.BS_OW_CFG, od_bypass=0)
    for factor in (0, 128):
        got = multiply(kind, left, right, change(fields, DPU.BS_OW_OP, ow_op=factor))
        assert np.array_equal(got, left @ right.T)
    with pytest.raises(SimulatorError, match="S-28"):
        Board().run(words(change(fields, DPU.BS_OW_OP, ow_op=5)))


def row_major(kind: Kind, rows: int, depth: int, columns: int) -> Fields:
    """S-47, S-48: A[M][K] and C[M][N] as they are."""
    size = np.dtype(kind.out_type).itemsize
    fields = change(product(kind, rows, depth, columns), CNA.CONV_CON1, group_line_off=1)
    fields = change(fields, CNA.DMA_CON1, line_stride=depth * kind.bits // 128)
    fields = change(fields, CNA.DMA_CON2, surf_stride=0)
    notch = columns * size // 16 - 1
    fields = change(fields, DPU.DATA_CUBE_NOTCH_ADDR, notch_addr_0=notch, notch_addr_1=notch)
    fields = change(fields, DPU.DST_SURF_STRIDE, dst_surf_stride=1)
    return change(fields, DPU.SURFACE_ADD, surf_add=kind.group * size // 16)


@pytest.mark.parametrize("name", ["int8 to int32", "fp16 to fp32", "fp16 to fp16"])
@pytest.mark.parametrize(("rows", "depth"), [(4, 64), (12, 256)])
def test_row_major_operands(name: str, rows: int, depth: int):
    """S-47, S-48: row-major in and out, exact."""
    kind = KINDS[name]
    columns = 2 * kind.group
    left, right = numbers(kind, (rows, depth), 7), numbers(kind, (columns, depth), 8)
    board = Board()
    board.put(INPUT, left.astype(np.int8 if kind.code == 0 else np.float16))
    chunks = right.reshape(2, kind.group, depth // kind.chunk, kind.chunk).transpose(0, 2, 1, 3)
    board.put(WEIGHTS, chunks.astype(np.int8 if kind.code == 0 else np.float16))
    board.run(words(row_major(kind, rows, depth, columns)))
    got = board.get(OUTPUT, rows * columns, kind.out_type).reshape(rows, columns)
    assert np.array_equal(got, (left @ right.T).astype(kind.out_type))


@pytest.mark.parametrize(("name", "unit"), [("int8 to int32", 64), ("fp16 to fp32", 32), ("int4 to int16", 128)])
def test_entries_of_a_row(name: str, unit: int):
    """S-46: W C es / 64 entries of 64 bytes; S-182: twice or half as many are wrong."""
    kind = KINDS[name]
    fields = product(kind, 8, 8 * unit, kind.group)
    assert fields[CNA.CBUF_CON1]["data_entries"] == 8
    Board().run(words(fields))
    for entries in (4, 16):
        with pytest.raises(SimulatorError, match="8 units"):
            Board().run(words(change(fields, CNA.CBUF_CON1, data_entries=entries)))


def test_an_output_cube_is_the_next_input_cube():
    """S-49: int8 to int8 and fp16 to fp16 outputs are read as they lie."""
    for name in ("int8 to int8", "fp16 to fp16"):
        kind = KINDS[name]
        left, right = numbers(kind, (8, 32), 9), np.eye(32, dtype=np.int64)
        board = Board()
        board.put(INPUT, pack_features(kind, left))
        identity = right.reshape(32 // kind.group, kind.group, 1, 32).transpose(0, 2, 1, 3)
        board.put(WEIGHTS, identity.astype(kind.out_type))
        board.run(words(product(kind, 8, 32, 32)))
        size = 8 * 32 * np.dtype(kind.out_type).itemsize
        assert np.array_equal(board.buffers[OUTPUT][:size], board.buffers[INPUT][:size])


def test_sums_begin_anew_in_every_task():
    """S-70: the accumulator is cleared; no bit makes it go on."""
    kind = KINDS["int8 to int32"]
    left, right = numbers(kind, (8, 32), 10), numbers(kind, (32, 32), 11)
    board = Board()
    board.put(INPUT, pack_features(kind, left))
    board.put(WEIGHTS, right.astype(np.int8))
    results = []
    for _ in range(2):
        board.run(words(product(kind, 8, 32, 32)))
        results.append(board.get(OUTPUT, 256, np.int32).tolist())
    assert results[0] == results[1]


def test_truncation_leaves_floats_alone():
    """S-168: CLIP_TRUNCATE 0, 1, 2, 0x40 and 0x41 had no effect on fp16."""
    kind = KINDS["fp16 to fp32"]
    left, right = numbers(kind, (8, 32), 12), numbers(kind, (16, 32), 13)
    for shift, rounding in ((1, 0), (2, 0), (0, 1), (1, 1)):
        fields = change(product(kind, 8, 32, 16), CORE.CLIP_TRUNCATE, clip_truncate=shift, round_type=rounding)
        assert np.array_equal(multiply(kind, left, right, fields), left @ right.T)


def test_fp16_pads_with_the_low_half():
    """S-170: 0x4000 pads with 2.0; the bits of a single 2.0 act as 0."""
    kind = KINDS["fp16 to fp32"]
    right = numbers(kind, (16, 32), 14)
    fields = change(product(kind, 4, 32, 16), CNA.PAD_CON0, pad_top=1)
    for bits, value in ((0x4000, 2.0), (0x40000000, 0.0)):
        got = multiply(kind, np.ones((4, 32)), right, change(fields, CNA.PAD_CON1, pad_value=bits))
        assert np.array_equal(got[0], right.sum(axis=1) * value)
        assert np.array_equal(got[1], right.sum(axis=1))
