"""The timing model: cycles and bytes computed by hand with timing.md's formulas, reuse, monotony, schedules."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hw.sim.flying import elementwise, pooling, table_words
from hw.sim.products import KINDS, product
from hw.sim.programs import FLYING, POOLING, WITHOUT_RDMA, Fields, Shape, change, convolution, words
from hw.sim.test_convolution import residual

from delegate.errors import SimulatorError
from delegate.hw.regs import CNA, DPU, DPU_RDMA
from delegate.hw.task import Words
from delegate.hw.timing import (
    RKNPU,
    ROCKET,
    Board,
    Bytes,
    Cost,
    TimedJob,
    schedule,
    task_costs,
    task_cycles,
    task_seconds,
    total_seconds,
)
from delegate.tools.listing import open_listing

# One byte a cycle and nothing else: sums can be done by hand.
PLAIN = Board(
    "plain",
    clock_hz=1e6,
    chains=False,
    job_seconds=0,
    task_seconds=0,
    chain_seconds=0,
    port_bytes=1,
    overlap=0,
    start_cycles=0,
    bandwidth=1e12,
)


def stream(fields: Fields, fire: int = 0x1D) -> Words:
    return np.array(words(fields, fire), np.uint64)


def cost(fields: Fields, fire: int = 0x1D) -> Cost:
    return task_costs([stream(fields, fire)])[0]


def test_a_pointwise_convolution() -> None:
    """8x8, 64 channels to 96 kernels: 3 groups, 2 chunks, 64 pixels."""
    found = cost(convolution(Shape(channels=64, kernels=96)))
    assert found.kind == "convolution"
    assert found.products == 3 * 2 * 64
    commands = 8 * len(words(convolution(Shape(channels=64, kernels=96))))
    assert found.bytes == Bytes(commands, features=64 * 64, weights=64 * 96, operands=4 * 96, output=96 * 64)
    assert found.lead == 64 * 64 + 64 * 32  # all 8 rows, as FEATURE_GRAINS is larger, and one group of kernels


def test_a_strided_convolution_of_padded_channels_and_kernels() -> None:
    """3x3, stride 2, 9x7 to 4x3: 40 channels are 48 in memory and 2 chunks, 20 kernels are a group of 32."""
    shape = Shape(9, 7, 40, 20, (3, 3), (2, 2), output=(4, 3))
    found = cost(convolution(shape))
    assert found.products == 1 * 2 * 9 * 12
    assert found.bytes.features == 9 * 7 * 48
    assert found.bytes.weights == 20 * 9 * 48
    assert found.bytes.output == 12 * 32
    assert found.bytes.operands == 4 * 32


def test_a_depthwise_convolution() -> None:
    """64 channels a cycle: 96 channels are two groups, whole groups are written."""
    shape = Shape(8, 8, 96, 96, (3, 3), padding=(1, 1), depthwise=True)
    found = cost(convolution(shape))
    assert found.kind == "depthwise"
    assert found.products == 2 * 9 * 64
    assert found.bytes.features == 96 * 64
    assert found.bytes.weights == 96 * 9
    assert found.bytes.output == 128 * 64
    assert found.lead == 96 * 64 + 64 * 9


@pytest.mark.parametrize(
    ("kind", "groups", "chunks", "element", "result"),
    [
        ("int8 to int32", 2, 4, 1, 4),
        ("fp16 to fp32", 4, 4, 2, 4),
        ("int4 to int16", 1, 4, 0.5, 2),
        ("tf32 to fp32", 4, 8, 4, 4),
    ],
)
def test_products_of_other_formats(kind: str, groups: int, chunks: int, element: float, result: int) -> None:
    """12 x 128 x 64; groups and chunks as timing.md §4 has them."""
    found = cost(product(KINDS[kind], 12, 128, 64), WITHOUT_RDMA)
    assert found.products == groups * chunks * 12
    assert found.bytes.features == 12 * 128 * element
    assert found.bytes.weights == 64 * 128 * element
    assert found.bytes.output == 12 * 64 * result
    assert found.bytes.operands == 0


def test_an_element_wise_task_reads_both_operands() -> None:
    found = cost(elementwise(np.int8, "add", 100, 32), FLYING)
    assert found.kind == "element-wise"
    assert found.products == 0
    assert found.bytes.operands == 2 * 100 * 32
    assert found.bytes.output == 100 * 32
    assert found.bytes.features == found.bytes.weights == 0


def test_a_residual_is_an_operand() -> None:
    shape = Shape()
    fields = residual(convolution(shape), 64, 64 * 16 // 16, 0, 1, 0)
    assert cost(fields).bytes.operands == 4 * 32 + 64 * 32


def test_a_record_of_bias_and_multiplier_has_eight_bytes_a_channel() -> None:
    fields = change(convolution(Shape()), DPU_RDMA.RDMA_BRDMA_CFG, brdma_data_use=7)
    fields = change(fields, DPU.BS_CFG, bs_mul_bypass=0)
    fields = change(fields, DPU.BS_MUL_CFG, bs_mul_src=1)
    assert cost(fields).bytes.operands == 8 * 32


def test_a_pooling_task() -> None:
    """3x3, stride 2 on 9x9, 32 channels: two surfaces; a quarter of the taps are cycles (a guess of timing.md)."""
    fields, output = pooling(np.int8, 1, (9, 9), (3, 3), (2, 2), (0, 0, 0, 0), 32)
    assert output == (4, 4)
    found = cost(fields, POOLING)
    assert found.kind == "pooling"
    assert found.bytes.features == 2 * 81 * 16
    assert found.bytes.output == 2 * 16 * 16
    assert found.products == 2 * 16 * 9 / 4
    cycles = task_cycles(found, PLAIN)
    assert cycles.total == found.bytes.total  # transfers are longer
    fast = replace(PLAIN, port_bytes=1e9)
    assert task_cycles(found, fast).total == pytest.approx(found.products, rel=1e-4)


def test_tables_are_in_the_words() -> None:
    plain = stream(elementwise(np.int8, "add", 100, 32), FLYING)
    loaded = np.concatenate([np.array(table_words(0, [7] * 513), np.uint64), plain])
    few, many = (task_costs([item])[0].bytes.commands for item in (plain, loaded))
    assert many - few == 8 * 514


def test_kept_weights_and_features_are_not_fetched() -> None:
    fields = convolution(Shape(channels=64, kernels=96))
    whole = cost(fields)
    weights = cost(change(fields, CNA.CBUF_CON0, weight_reuse=1))
    features = cost(change(fields, CNA.CBUF_CON0, data_reuse=1))
    assert weights.bytes == replace(whole.bytes, weights=0)
    assert weights.lead == whole.bytes.features
    assert features.bytes == replace(whole.bytes, features=0)
    assert features.lead == 64 * 32
    saved = task_cycles(whole, PLAIN).total - task_cycles(weights, PLAIN).total
    assert saved == whole.bytes.weights


def test_grains_say_how_many_rows_must_be_there_first() -> None:
    fields = change(convolution(Shape()), CNA.CONV_CON2, feature_grains=3)
    assert cost(fields).lead == 3 * 8 * 32 + 32 * 32


def test_rows_that_are_apart_cost_pages() -> None:
    """8 rows of 2 surfaces with a pitch of 3 pages: what lies above the first page counts twice."""
    shape = Shape()
    notch = 3 * 4096 // 16 - 8
    fields = change(convolution(shape), DPU.DATA_CUBE_NOTCH_ADDR, notch_addr_0=notch, notch_addr_1=notch)
    fields = change(fields, DPU.DST_SURF_STRIDE, dst_surf_stride=8 * 3 * 256)
    fields = change(fields, DPU.SURFACE_ADD, surf_add=2 * 8 * 3 * 256)
    found = cost(fields)
    assert found.page_cycles == pytest.approx(1.2 * 2 * 16)
    assert task_cycles(found, PLAIN).total == pytest.approx(found.bytes.total + found.products + found.page_cycles)


def test_the_formula_by_hand() -> None:
    """timing.md §4 with a lead: 100 bytes of words, 400 of transfers, 150 of which lead, 200 products."""
    sample = Cost("convolution", 200, Bytes(100, 150, 50, 80, 120), 150)
    board = replace(PLAIN, port_bytes=2, start_cycles=30)
    assert task_cycles(sample, board).total == 30 + 50 + 200 + 200
    assert task_cycles(sample, replace(board, overlap=1)).total == 30 + 50 + 75 + 200  # 125 behind 200
    assert task_cycles(sample, replace(board, overlap=0.4)).total == 30 + 50 + 400 - 50
    assert task_seconds(sample, board) == pytest.approx(480e-6)


def test_a_core_moves_what_its_port_or_its_share_of_dram_allows() -> None:
    board = Board("b", 1e9, chains=False, port_bytes=10, bandwidth=24e9)
    assert [replace(board, cores=cores).core_bytes for cores in (1, 2, 3)] == [10e9, 10e9, 8e9]


def growing(key: str, values: tuple[int, ...]) -> list[Shape]:
    base = Shape(channels=32, kernels=32, output=(8, 8))
    return [replace(base, **{key: value}) for value in values]  # type: ignore[arg-type]


@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("key", ["channels", "kernels"])
def test_more_channels_are_never_faster(key: str, overlap: float) -> None:
    board = replace(ROCKET, overlap=overlap)
    times = [task_cycles(cost(convolution(shape)), board).total for shape in growing(key, tuple(range(16, 257, 16)))]
    assert times == sorted(times)
    assert times[-1] > times[0]


@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
def test_more_rows_and_slower_boards_are_never_faster(overlap: float) -> None:
    board = replace(ROCKET, overlap=overlap)
    costs = [cost(convolution(Shape(height=rows, output=(rows, 8)))) for rows in range(4, 40)]
    times = [task_cycles(item, board).total for item in costs]
    assert times == sorted(times)
    for change_of in ({"clock_hz": 300e6}, {"bandwidth": 1e9}, {"cores": 3, "bandwidth": 9e9}, {"port_bytes": 4}):
        slower = replace(board, **change_of)  # type: ignore[arg-type]
        assert task_seconds(costs[-1], slower) > task_seconds(costs[-1], board)


def test_a_task_that_would_not_run_has_no_time() -> None:
    with pytest.raises(SimulatorError, match="bank"):
        cost(change(convolution(Shape()), CNA.CBUF_CON0, data_bank=12))


SAMPLE = Cost("convolution", 600, Bytes(), 0)  # a microsecond at 600 MHz, beside the start of a task


def jobs(*lengths: int, core: int = 0) -> tuple[TimedJob, ...]:
    return tuple(TimedJob((SAMPLE,) * length, (range(length),), core) for length in lengths)


def test_mainline_interrupts_for_every_task_and_the_vendor_for_a_chain() -> None:
    single = task_seconds(SAMPLE, ROCKET)
    assert total_seconds(jobs(3, 1), ROCKET) == pytest.approx(4 * single + 2 * 54e-6 + 2 * 55e-6)
    vendor = task_seconds(SAMPLE, RKNPU)
    assert total_seconds(jobs(3, 1), RKNPU) == pytest.approx(4 * vendor + 2 * 54e-6 + 2 * 1e-6)
    cut = TimedJob((SAMPLE,) * 3, (range(2), range(2, 3)))
    assert [slot.wait for slot in schedule([cut], RKNPU)] == ["job", "chain", "interrupt"]


def test_tasks_of_a_core_follow_each_other_and_cores_run_side_by_side() -> None:
    slots = schedule([*jobs(2, 2), *jobs(3, core=1)], replace(ROCKET, cores=2))
    for core in (0, 1):
        own = [slot for slot in slots if slot.core == core]
        assert own[0].begin == 0
        for before, after in pairwise(own):
            assert before.begin < before.start < before.end == after.begin
    assert {slot.job for slot in slots if slot.core == 1} == {2}


def test_nothing_takes_no_time() -> None:
    assert total_seconds([], ROCKET) == 0


@pytest.fixture(scope="module")
def mobilenet(shared: Path) -> list[Cost]:
    """The 42 tasks of the upstream driver's MobileNetV1."""
    return task_costs(task.words for task in open_listing(shared / "golden" / "mobilenet_v1_1.0_224_quant").tasks)


# timing.md, "worked traffic figures": tasks, MAC cycles, feature, weight and output bytes of the first layers.
WORKED = (
    (3, 112896, 809984, 4608, 401408),
    (2, 112896, 408576, 288, 802816),
    (2, 25088, 401408, 2048, 802816),
    (3, 28224, 817152, 576, 200704),
    (1, 25088, 200704, 8192, 401408),
    (2, 56448, 415744, 1152, 401408),
)


def test_mobilenet_is_that_of_timing_md(mobilenet: list[Cost]) -> None:
    assert len(mobilenet) == 42
    assert sum(item.products for item in mobilenet) == 968872
    first = 0
    for tasks, products, features, weights, output in WORKED:
        own = mobilenet[first : first + tasks]
        moved = sum((item.bytes for item in own), Bytes())
        assert sum(item.products for item in own) == products
        assert (moved.features, moved.weights, moved.output) == (features, weights, output)
        first += tasks
    moved = sum((item.bytes for item in mobilenet), Bytes())
    rounded = [round(value / 1e6, 2) for value in (moved.features, moved.weights, moved.output)]
    assert rounded == [5.85, 4.21, 5.45]


def test_timing_md_s_own_prediction_of_mobilenet(mobilenet: list[Cost]) -> None:
    """§4: 16 bytes a cycle, no overlap, 200 MHz, 50 µs for each of 42 tasks: 11.8 ms."""
    board = replace(ROCKET, clock_hz=200e6, port_bytes=16, overlap=0.0, job_seconds=50e-6, task_seconds=50e-6)
    total = total_seconds([TimedJob(tuple(mobilenet), (range(42),))], board)
    words_and_starts = 42 * 300 / 200e6 + sum(item.bytes.commands + item.bytes.operands for item in mobilenet) / 3.2e9
    assert total - words_and_starts == pytest.approx(11.8e-3, rel=0.005)


def test_every_captured_program_has_a_time(shared: Path) -> None:
    """All kinds of tasks that boards have run; one stream is refused by the simulator too."""
    folders = sorted(folder for folder in (shared / "golden" / "programs").iterdir() if folder.is_dir())
    kinds = set()
    for folder in folders:
        if folder.name == "ab-conv_fp16_c480_h14_w14_oc16_wic480_k1x1_g1":
            continue
        for item in task_costs(task.words for task in open_listing(folder).tasks):
            assert task_seconds(item, ROCKET) > 0
            kinds.add(item.kind)
    assert kinds == {"convolution", "depthwise", "element-wise", "pooling"}
