"""Where int8 cubes lie when a task reads or writes a part of a larger tensor; plain and fast path."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from hw.sim import silicon_model
from hw.sim.flying import elementwise
from hw.sim.programs import FLYING, INPUT, OPERAND, OUTPUT, Board, Fields, Shape, change, convolution, words
from hw.sim.test_convolution import expected, place, random_data

from delegate.errors import SimulatorError
from delegate.hw.regs import CNA, DPU, DPU_RDMA
from delegate.hw.sim.answers import FastFlying
from delegate.hw.sim.fast import FastConvolution
from delegate.hw.sim.options import Options

Ints = npt.NDArray[np.int64]
PATHS = pytest.mark.parametrize("plain", [True, False], ids=["plain", "fast"])
REQUANTIZE = silicon_model.Requantize(0x4000, 24, -7)
UNTOUCHED = 0x55


def is_fast(board: Board) -> bool:
    return all(isinstance(task.run, (FastConvolution, FastFlying)) for task in board.machine._decoded.values())


@dataclass(frozen=True)
class Pitches:
    """In atoms: behind each row, from surface to surface, from group to group."""

    notch: int
    surface: int
    group: int


def spaced(fields: Fields, pitches: Pitches) -> Fields:
    fields = change(fields, DPU.DATA_CUBE_NOTCH_ADDR, notch_addr_0=pitches.notch, notch_addr_1=pitches.notch)
    fields = change(fields, DPU.DST_SURF_STRIDE, dst_surf_stride=pitches.surface)
    return change(fields, DPU.SURFACE_ADD, surf_add=pitches.group)


def scattered(values: Ints, pitches: Pitches, surfaces: int, size: int) -> list[int]:
    """Atom by atom: F-70 for (height, width, channels), ``surfaces`` in a group, the rest untouched."""
    memory = np.full(size, UNTOUCHED, np.int64)
    height, width, channels = values.shape
    for first in range(0, channels, 16):
        group, surface = divmod(first // 16, surfaces)
        for y in range(height):
            for x in range(width):
                atom = group * pitches.group + surface * pitches.surface + y * (width + pitches.notch) + x
                memory[16 * atom : 16 * atom + 16] = values[y, x, first : first + 16]
    return memory.tolist()


KINDS = {
    "direct": Shape(5, 7, 32, 64, output=(5, 7)),
    "depthwise": Shape(5, 7, 128, 128, (3, 3), padding=(1, 1), depthwise=True, output=(5, 7)),
}
PLACES = {
    "planes": Pitches(0, 35, 0),
    "rows apart": Pitches(3, 50, 0),
    "rows and surfaces apart": Pitches(1, 64, 0),
    "groups apart": Pitches(2, 47, 9),
}


@PATHS
@pytest.mark.parametrize("pitches", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("shape", KINDS.values(), ids=KINDS.keys())
def test_a_convolution_writes_apart(shape: Shape, pitches: Pitches, plain: bool):
    """DATA_CUBE_NOTCH skips atoms behind each row, surfaces and groups may be further apart than planes (F-125, F-126):
    size_e 1 behind a direct convolution, 3 behind a depthwise one."""
    pitches = replace(pitches, group=shape.surfaces * pitches.surface + pitches.group)
    features, kernels, bias = random_data(shape, 1)
    board = Board(Options(plain=plain))
    place(board, shape, features, kernels, bias)
    board.buffers[OUTPUT][:] = UNTOUCHED
    fields = convolution(shape, REQUANTIZE.scale, REQUANTIZE.shift, REQUANTIZE.offset)
    board.run(words(spaced(fields, pitches)))
    wanted = silicon_model.finish(expected(shape, features, kernels, bias, 0, 0), REQUANTIZE)
    size = len(board.buffers[OUTPUT])
    assert board.get(OUTPUT, size, np.int8).tolist() == scattered(wanted, pitches, shape.surfaces, size)
    assert is_fast(board) != plain


def plane(fields: Fields, height: int, width: int) -> Fields:
    """A task without convolution over more than one row."""
    for register in (DPU.DATA_CUBE_WIDTH, DPU_RDMA.RDMA_DATA_CUBE_WIDTH):
        fields = change(fields, register, width=width - 1)
    for register in (DPU.DATA_CUBE_HEIGHT, DPU_RDMA.RDMA_DATA_CUBE_HEIGHT):
        fields = change(fields, register, height=height - 1)
    return change(fields, DPU.WDMA_SIZE_1, width_wdma=width - 1, height_wdma=height - 1)


@PATHS
@pytest.mark.parametrize("pitches", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("channels", [48, 40])
def test_a_task_without_convolution_writes_apart(channels: int, pitches: Pitches, plain: bool):
    """size_e 0: SURFACE_ADD leads from surface to surface (F-125, F-126); the operand may lie apart as well (S-160)."""
    height, width, apart = 5, 7, 41
    rng = np.random.default_rng(channels)
    left = rng.integers(-128, 128, (3, height * width, 16))
    right = rng.integers(-128, 128, (3, apart, 16))
    board = Board(Options(plain=plain))
    board.put(INPUT, left.astype(np.int8))
    board.put(OPERAND, right.astype(np.int8))
    board.buffers[OUTPUT][:] = UNTOUCHED
    fields = plane(elementwise(np.int8, "add", height * width, channels), height, width)
    fields = change(fields, DPU_RDMA.RDMA_EW_SURF_STRIDE, ew_surf_stride=apart)
    pitches = replace(pitches, group=pitches.surface + pitches.group)
    board.run(words(spaced(fields, pitches), FLYING))
    wanted = np.clip(left + right[:, : height * width], -128, 127).transpose(1, 0, 2).reshape(height, width, -1)
    wanted[:, :, channels:] = 0  # F-72
    size = len(board.buffers[OUTPUT])
    assert board.get(OUTPUT, size, np.int8).tolist() == scattered(wanted, pitches, 1, size)


@PATHS
def test_many_rows_apart_without_convolution(plain: bool):
    """Large enough for looked-up pairs; the main feed's surfaces lie apart too (SURF_NOTCH)."""
    height, width, channels, gap = 24, 30, 32, 17
    rng = np.random.default_rng(3)
    left = rng.integers(-128, 128, (2, height * width + gap, 16))
    right = rng.integers(-128, 128, (2, height * width, 16))
    board = Board(Options(plain=plain))
    board.put(INPUT, left.astype(np.int8))
    board.put(OPERAND, right.astype(np.int8))
    board.buffers[OUTPUT][:] = UNTOUCHED
    fields = plane(elementwise(np.int8, "max", height * width, channels), height, width)
    fields = change(fields, DPU_RDMA.RDMA_SURF_NOTCH, surf_notch_addr=gap)
    pitches = Pitches(5, 900, 900)
    board.run(words(spaced(fields, pitches), FLYING))
    wanted = np.maximum(left[:, : height * width], right).transpose(1, 0, 2).reshape(height, width, -1)
    size = len(board.buffers[OUTPUT])
    assert board.get(OUTPUT, size, np.int8).tolist() == scattered(wanted, pitches, 1, size)
    assert is_fast(board) != plain


@pytest.mark.parametrize(("notch", "surface"), [(3, 49), (0, 34)])
def test_surfaces_may_not_overlap(notch: int, surface: int):
    """F-112: a surface with its skipped atoms must end before the next begins."""
    shape = KINDS["direct"]
    fields = spaced(convolution(shape), Pitches(notch, surface - 15 * (notch > 0), 200))
    with pytest.raises(SimulatorError, match="F-112"):
        Board().run(words(fields))


PARTS = {
    "pointwise": Shape(6, 5, 48, 32, output=(6, 5)),
    "padded": Shape(6, 5, 32, 32, (3, 3), padding=(1, 1), output=(6, 5)),
    "strided": Shape(9, 7, 16, 32, (3, 2), (2, 2), output=(4, 3)),
    "depthwise": Shape(6, 5, 64, 64, (3, 3), padding=(1, 1), depthwise=True, output=(6, 5)),
    "flat": Shape(2, 6, 32, 32, (2, 3), output=(1, 4)),
    "column": Shape(8, 1, 64, 32, output=(8, 1)),
    "column of windows": Shape(8, 1, 32, 32, (3, 1), (1, 1), (1, 0), output=(8, 1)),
}


@PATHS
@pytest.mark.parametrize(("full", "left", "top"), [(12, 0, 0), (12, 4, 2), (7, 0, 1), (31, 9, 3)])
@pytest.mark.parametrize("shape", PARTS.values(), ids=PARTS.keys())
def test_a_convolution_reads_a_part_of_each_row(shape: Shape, full: int, left: int, top: int, plain: bool):
    """DATAIN_WIDTH = DMA_WIDTH columns of rows that are LINE_STRIDE / 4 atoms apart (F-127); what lies beside them is
    never seen, in the windows' padding either. Columns (W = 1) at any pitch (F-128)."""
    rows = top + shape.height + 1
    _, kernels, bias = random_data(shape, 2)
    whole = np.random.default_rng(full).integers(-128, 128, (rows, full, shape.channels)).astype(np.int8)
    board = Board(Options(plain=plain))
    part = whole[top : top + shape.height, left : left + shape.width]
    place(board, replace(shape, height=rows, width=full), whole, kernels, bias)
    fields = convolution(shape, REQUANTIZE.scale, REQUANTIZE.shift, REQUANTIZE.offset)
    fields = change(fields, CNA.FEATURE_DATA_ADDR, feature_base_addr=INPUT + 16 * (top * full + left))
    fields = change(fields, CNA.DMA_CON1, line_stride=4 * full)
    fields = change(fields, CNA.DMA_CON2, surf_stride=full * rows - 4 * shape.width)
    board.run(words(fields))
    wanted = silicon_model.finish(expected(shape, part, kernels, bias, 0, 0), REQUANTIZE)
    height, width = shape.output
    got = board.get(OUTPUT, height * width * shape.written, np.int8).reshape(-1, height, width, 16)
    got = got.transpose(1, 2, 0, 3).reshape(height, width, -1)[:, :, : wanted.shape[2]]
    assert np.array_equal(got, wanted)
    assert is_fast(board) != plain


def test_a_part_of_a_row_takes_its_own_share_of_the_cbuf():
    """DATA_ENTRIES counts the columns that are fetched, not those of the tensor (F-33)."""
    shape = PARTS["pointwise"]
    fields = change(convolution(shape), CNA.DMA_CON1, line_stride=4 * 12)
    with pytest.raises(SimulatorError, match="CBUF_CON1"):
        Board().run(words(change(fields, CNA.CBUF_CON1, data_entries=-(-12 * 48 // 64))))
