"""What the CBUF keeps from task to task: kernels and features that are used again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hw.sim import golden, silicon_model
from hw.sim.programs import BIAS, INPUT, OUTPUT, WEIGHTS, Board, Shape, change, convolution, pack_weights, words
from hw.sim.test_convolution import PATHS, expected, place, random_data

from delegate.errors import SimulatorError
from delegate.hw.regs import CNA, DPU
from delegate.hw.sim.options import Options


@pytest.mark.parametrize("options", PATHS)
def test_slices_in_height_and_weight_reuse(options: Options):
    """npu.md §4, S-75: bands of rows, the second one with the weights the first left in the CBUF."""
    shape = Shape(12, 8, 32, 64, (3, 3), (1, 1), (1, 1), output=(12, 8))
    features, kernels, bias = random_data(shape, 11)
    board = Board(options)
    place(board, shape, features, kernels, bias)
    streams = []
    for top, rows, first, count, pad in ((0, 7, 0, 6, 1), (5, 7, 6, 6, 0)):
        part = replace(shape, height=rows, output=(count, 8), padding=(pad, 1))
        fields = convolution(part, 0x4000, 23)
        fields = change(fields, CNA.FEATURE_DATA_ADDR, feature_base_addr=INPUT + top * 8 * 16)
        fields = change(fields, CNA.DMA_CON2, surf_stride=8 * (12 - 4))
        fields = change(fields, DPU.DST_BASE_ADDR, dst_base_addr=OUTPUT + first * 8 * 16)
        fields = change(fields, DPU.DST_SURF_STRIDE, dst_surf_stride=96)
        fields = change(fields, DPU.SURFACE_ADD, surf_add=192)
        fields = change(fields, CNA.CBUF_CON0, weight_reuse=int(top > 0))
        if top:  # nothing is read from there
            fields = change(fields, CNA.DCOMP_ADDR0, decompress_addr0=0xF0000000)
        streams.append(words(fields))
    board.run(*streams)
    total = expected(shape, features, kernels, bias, 0, 0)
    wanted = silicon_model.finish(total, silicon_model.Requantize(0x4000, 23, 0))
    assert np.array_equal(golden.read_cube(board.buffers[OUTPUT], 12, 8, 64), wanted)


@pytest.mark.parametrize("broken", ["job", "banks", "kernels", "first"])
def test_weight_reuse_without_its_precondition(broken: str):
    """S-76: another job in between, another split, other kernels, or nothing before."""
    shape = Shape()
    board = Board()
    place(board, shape, *random_data(shape, 12))
    reuse = change(convolution(shape), CNA.CBUF_CON0, weight_reuse=1)
    if broken != "first":
        board.run(words(convolution(shape)))
    if broken == "job":
        board.machine.begin_job()
    if broken == "banks":
        reuse = change(reuse, CNA.CBUF_CON0, weight_bank=9)
    if broken == "kernels":
        reuse = change(convolution(replace(shape, kernels=64)), CNA.CBUF_CON0, weight_reuse=1)
    with pytest.raises(SimulatorError, match="weight_reuse"):
        board.run(words(reuse))


def test_the_split_that_counts_is_that_of_the_task_before():
    """Kernels that an earlier task has fetched to as many banks as it liked are no reason to refuse a reuse."""
    shape = Shape()
    board = Board()
    place(board, shape, *random_data(shape, 12))
    other = change(convolution(shape), CNA.CBUF_CON0, weight_bank=9)
    board.run(words(other), words(convolution(shape)))
    board.run(words(change(convolution(shape), CNA.CBUF_CON0, weight_reuse=1)))
    with pytest.raises(SimulatorError, match="weight_reuse"):
        board.run(words(change(other, CNA.CBUF_CON0, weight_reuse=1)))


@pytest.mark.parametrize("options", PATHS)
def test_data_reuse(options: Options):
    """S-75: the features stay, the kernels are others; a changed geometry is refused."""
    shape = Shape(kernels=64)
    features, kernels, bias = random_data(shape, 13)
    board = Board(options)
    half = replace(shape, kernels=32)
    place(board, half, features, kernels[:32], bias[:32])
    board.run(words(convolution(half, 0x4000, 22)))
    board.put(WEIGHTS, pack_weights(kernels[32:]))
    board.put(BIAS, bias[32:])
    board.buffers[INPUT][:] = 0
    second = change(convolution(half, 0x4000, 22), CNA.CBUF_CON0, data_reuse=1)
    second = change(second, DPU.DST_BASE_ADDR, dst_base_addr=OUTPUT + 2 * 64 * 16)
    board.run(words(second))
    total = expected(shape, features, kernels, bias, 0, 0)
    wanted = silicon_model.finish(total, silicon_model.Requantize(0x4000, 22, 0))
    assert np.array_equal(golden.read_cube(board.buffers[OUTPUT], 8, 8, 64), wanted)
    with pytest.raises(SimulatorError, match="data_reuse"):
        board.run(words(change(second, CNA.DMA_CON2, surf_stride=0)))
