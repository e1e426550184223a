"""PPU: pooling from memory to memory."""

from __future__ import annotations

import numpy as np
import pytest
from hw.sim.flying import Values, half_bits, halves, integers, pooling
from hw.sim.programs import INPUT, OUTPUT, POOLING, Board, Fields, change, words

from delegate.errors import SimulatorError
from delegate.hw.registers import Register
from delegate.hw.regs import PPU, PPU_RDMA


def windows(given: Values, kernel: tuple[int, int], stride: tuple[int, int], output: tuple[int, int]) -> Values:
    """(surfaces, height, width, atom) to (surfaces, rows, columns, atom, kh * kw)."""
    view = np.lib.stride_tricks.sliding_window_view(given, kernel, axis=(1, 2))
    view = view[:, :: stride[0], :: stride[1]][:, : output[0], : output[1]]
    return view.reshape(*view.shape[:4], -1)


POOLS = [
    ((6, 6), (2, 2), (2, 2), (0, 0, 0, 0)),
    ((7, 9), (3, 3), (1, 1), (0, 0, 0, 0)),
    ((7, 9), (2, 3), (1, 2), (0, 0, 0, 0)),
    ((14, 14), (7, 7), (7, 7), (0, 0, 0, 0)),
    ((8, 8), (4, 4), (4, 4), (0, 0, 0, 0)),
    ((5, 6), (3, 2), (2, 2), (1, 1, 0, 0)),
]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.float16])
def test_maximum_and_minimum_are_exact(dtype: type[np.generic], pool: tuple):
    """S-128, S-129, S-178."""
    size, kernel, stride, pads = pool
    atom = 16 // np.dtype(dtype).itemsize
    shape = (2, *size, atom)
    count = int(np.prod(shape))
    given = (halves(1, count) if dtype is np.float16 else np.resize(integers(dtype, 1), count)).reshape(shape)
    for method, reduce in ((1, np.max), (2, np.min)):
        fields, output = pooling(dtype, method, size, kernel, stride, pads, 2 * atom)
        board = Board()
        board.put(INPUT, given)
        board.run(words(fields, POOLING))
        low = -np.inf if dtype is np.float16 else np.iinfo(dtype).min
        fill = low if method == 1 else 0
        full = np.pad(given.astype(np.float64), ((0, 0), pads[:2], pads[2:], (0, 0)), constant_values=fill)
        wanted = reduce(windows(full, kernel, stride, output), axis=-1)
        got = board.get(OUTPUT, wanted.size, dtype).reshape(wanted.shape)
        assert np.array_equal(got.astype(np.float64), wanted)


def case_rule(total: int, kernel: tuple[int, int]) -> int:
    """S-132: half away from zero; exact ties of an even window step toward zero, always or only if odd."""
    count = kernel[0] * kernel[1]
    sign = 1 if total >= 0 else -1
    quotient, rest = divmod(abs(total), count)
    nearest = quotient + (2 * rest >= count)
    if 2 * rest == count:
        exact = all(65536 % k == 0 for k in kernel)
        if not exact or nearest % 2:
            nearest -= 1
    return sign * nearest


@pytest.mark.parametrize("pool", POOLS[:5])
def test_int8_averages_follow_the_case_rule(pool: tuple):
    """S-129, S-132, S-179b: truncated reciprocals, for windows up to 8 x 8."""
    size, kernel, stride, pads = pool
    given = np.random.default_rng(2).integers(-128, 128, (2, *size, 16)).astype(np.int8)
    fields, output = pooling(np.int8, 0, size, kernel, stride, pads, 32)
    board = Board()
    board.put(INPUT, given)
    board.run(words(fields, POOLING))
    totals = windows(given.astype(np.int64), kernel, stride, output).sum(axis=-1)
    wanted = np.vectorize(lambda total: case_rule(int(total), kernel))(totals)
    assert np.array_equal(board.get(OUTPUT, wanted.size, np.int8).reshape(wanted.shape), wanted)


@pytest.mark.parametrize("kernel", [(1, 4), (2, 2), (3, 3), (5, 1)])
def test_half_averages(kernel: tuple[int, int]):
    """S-134, S-173: sum times both reciprocals, FP17 of 1/k; 0x7C00 for k = 1."""
    given = halves(3, 2 * 36 * 8).reshape(2, 6, 6, 8)
    fields, output = pooling(np.float16, 0, (6, 6), kernel, (1, 1), (0, 0, 0, 0), 16)
    board = Board()
    board.put(INPUT, given)
    board.run(words(fields, POOLING))
    wanted = windows(given.astype(np.float64), kernel, (1, 1), output).mean(axis=-1)
    got = board.get(OUTPUT, wanted.size, np.float16).reshape(wanted.shape)
    assert (np.abs(got - wanted) <= 1e-3 * (1 + np.abs(wanted))).all()


@pytest.mark.parametrize(
    ("register", "values", "message"),
    [
        (PPU.OPERATION_MODE_CFG, {"flying_mode": 0}, "S-180"),
        (PPU.OPERATION_MODE_CFG, {"notch_addr": 1}, "S-175"),
        (PPU.OPERATION_MODE_CFG, {"pooling_method": 3}, "pooling_method 3"),
        (PPU.DATA_FORMAT, {"proc_precision": 4}, "S-175"),
        (PPU_RDMA.RDMA_DATA_FORMAT, {"in_precision": 0}, "S-129"),
        (PPU.DATA_CUBE_OUT_WIDTH, {"cube_out_width": 3}, "starve"),
        (PPU.PADDING_VALUE_1_CFG, {"pad_value_0": 128}, "a number of int8"),
        (PPU.PADDING_VALUE_1_CFG, {"pad_value_0": 0x7FF7F}, "a number of int8"),
        (PPU.DATA_CUBE_IN_WIDTH, {"cube_in_width": 5}, "must agree"),
        (PPU.DST_BASE_ADDR, {"dst_base_addr": 0}, "PPU output"),
        (PPU_RDMA.RDMA_SRC_BASE_ADDR, {"src_base_addr": 0}, "PPU input"),
    ],
)
def test_conditions_of_pooling(register: Register, values: dict[str, int], message: str):
    fields, _ = pooling(np.int8, 1, (5, 5), (2, 2), (2, 2), (1, 0, 1, 0), 32)
    with pytest.raises(SimulatorError, match=message):
        Board().run(words(change(fields, register, **values), POOLING))


def pool(fields: Fields, given: Values, count: int, dtype: type[np.generic]) -> Values:
    board = Board()
    board.put(INPUT, given)
    board.run(words(fields, POOLING))
    return board.get(OUTPUT, count, dtype)


@pytest.mark.parametrize("storage", [0, 1, 2, 3])
def test_storage_codes_of_int8(storage: int):
    """S-130: 0 is always wrong, 1 and 2 are exact; 3 is unstable for averages and refused."""
    given = np.random.default_rng(4).integers(-128, 128, (1, 6, 6, 16)).astype(np.int8)
    fields, output = pooling(np.int8, 1, (6, 6), (2, 2), (2, 2), (0, 0, 0, 0), 16)
    fields = change(fields, PPU_RDMA.RDMA_DATA_FORMAT, in_precision=storage)
    if storage in (1, 2):
        wanted = windows(given, (2, 2), (2, 2), output).max(axis=-1)
        assert np.array_equal(pool(fields, given, wanted.size, np.int8), wanted.reshape(-1))
        return
    with pytest.raises(SimulatorError, match="S-129"):
        pool(fields, given, 1, np.int8)


def test_reciprocals_of_the_other_type_are_wrong():
    """S-131: fp16 reciprocals in an int8 average; S-174: truncated and rounded ones agree for k up to 5."""
    given = np.full((1, 4, 4, 16), 100, np.int8)
    fields, _ = pooling(np.int8, 0, (4, 4), (2, 2), (2, 2), (0, 0, 0, 0), 16)
    assert (pool(fields, given, 64, np.int8) == 100).all()
    for register, name in ((PPU.RECIP_KERNEL_HEIGHT, "height"), (PPU.RECIP_KERNEL_WIDTH, "width")):
        fields = change(fields, register, **{f"recip_kernel_{name}": half_bits(32768)})
    assert np.abs(pool(fields, given, 64, np.int8).astype(int) - 100).max() > 10
    assert [65536 // k for k in range(1, 6)] == [round(65536 / k) for k in range(1, 6)]


@pytest.mark.parametrize("count", range(8))
def test_pads_always_count(count: int):
    """S-133, S-176: the average divides by all taps, whatever USE_CNT says."""
    given = np.full((1, 4, 4, 16), 90, np.int8)
    fields, _ = pooling(np.int8, 0, (4, 4), (3, 3), (1, 1), (1, 1, 1, 1), 16)
    got = pool(change(fields, PPU.OPERATION_MODE_CFG, use_cnt=count), given, 256, np.int8).reshape(4, 4, 16)
    assert (got[1, 1] == 90).all()
    assert (got[0, 0] == 40).all()


def test_passes_behind_each_other():
    """S-136, S-178: 8 to 4 to 2 to 1, each pass reads what the one before wrote."""
    given = np.random.default_rng(5).integers(-128, 128, (1, 8, 8, 16)).astype(np.int8)
    board = Board()
    board.put(INPUT, given)
    source, target = INPUT, OUTPUT
    for size in (8, 4, 2):
        fields, _ = pooling(np.int8, 1, (size, size), (2, 2), (2, 2), (0, 0, 0, 0), 16)
        fields = change(fields, PPU_RDMA.RDMA_SRC_BASE_ADDR, src_base_addr=source)
        board.run(words(change(fields, PPU.DST_BASE_ADDR, dst_base_addr=target >> 4), POOLING))
        source, target = target, target + 4096
    assert np.array_equal(board.memory.bytes(source, 16, "result").view(np.int8), given.max(axis=(0, 1, 2)))


def test_the_largest_windows():
    """S-135, S-176: a kernel of 16, a pad of 7, and not both; S-177: the index output is refused."""
    given = np.random.default_rng(6).integers(-128, 128, (1, 20, 20, 16)).astype(np.int8)
    for kernel, pads in (((16, 16), (0, 0, 0, 0)), ((8, 8), (7, 7, 7, 7))):
        fields, output = pooling(np.int8, 1, (20, 20), kernel, (1, 1), pads, 16)
        full = np.pad(given, ((0, 0), pads[:2], pads[2:], (0, 0)), constant_values=-128)
        wanted = windows(full, kernel, (1, 1), output).max(axis=-1)
        assert np.array_equal(pool(fields, given, wanted.size, np.int8), wanted.reshape(-1))
    fields, _ = pooling(np.int8, 1, (20, 20), (16, 16), (1, 1), (7, 7, 7, 7), 16)
    with pytest.raises(SimulatorError, match="16"):
        pool(fields, given, 1, np.int8)
    fields, _ = pooling(np.int8, 1, (20, 20), (2, 2), (1, 1), (0, 0, 0, 0), 16)
    with pytest.raises(SimulatorError, match="index_en"):
        pool(change(fields, PPU.OPERATION_MODE_CFG, index_en=1), given, 1, np.int8)
