"""int8 convolutions against loops over ordinary arrays, plain and fast path, and the book's facts about them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hw.sim import golden, silicon_model
from hw.sim.programs import (
    BIAS,
    INPUT,
    OPERAND,
    OUTPUT,
    WEIGHTS,
    Board,
    Fields,
    Shape,
    change,
    convolution,
    pack_depthwise,
    pack_weights,
    words,
)

from delegate.errors import SimulatorError
from delegate.hw.regs import CNA, CORE, DPU, DPU_RDMA
from delegate.hw.sim.options import Options

Int8s = npt.NDArray[np.int8]
PATHS = [pytest.param(Options(plain=True), id="plain"), pytest.param(Options(), id="fast")]
SHAPES = {
    "pointwise": Shape(),
    "odd": Shape(9, 7, 48, 40, (3, 3), (2, 1), (1, 1), output=(5, 7)),
    "one channel deep": Shape(6, 5, 3, 33, (3, 2), (1, 1), (2, 0), output=(6, 4)),
    "large kernel": Shape(12, 12, 32, 32, (5, 5), (2, 2), (2, 2), output=(6, 6)),
    "dilated": Shape(11, 12, 16, 32, (3, 3), (1, 1), (2, 2), (2, 3), output=(11, 8)),
    "tall": Shape(40, 1, 64, 96, output=(40, 1)),
    "depthwise": Shape(8, 11, 64, 64, (5, 5), (1, 1), (2, 2), depthwise=True, output=(8, 11)),
    "depthwise stride": Shape(9, 7, 128, 128, (3, 3), (2, 3), (1, 0), depthwise=True, output=(5, 3)),
    "depthwise short": Shape(6, 6, 32, 32, (3, 3), (1, 1), (1, 1), (1, 2), depthwise=True, output=(6, 4)),
}


def random_data(shape: Shape, seed: int) -> tuple[Int8s, Int8s, npt.NDArray[np.int32]]:
    """Features (height, width, channels), kernels (kernels, kh, kw, channels) or (1, kh, kw, channels), bias."""
    rng = np.random.default_rng(seed)
    features = rng.integers(-128, 128, (shape.height, shape.width, shape.channels)).astype(np.int8)
    count = 1 if shape.depthwise else shape.kernels
    kernels = rng.integers(-128, 128, (count, *shape.kernel, shape.channels)).astype(np.int8)
    return features, kernels, rng.integers(-4000, 4000, shape.written).astype(np.int32)


def place(board: Board, shape: Shape, features: Int8s, kernels: Int8s, bias: npt.NDArray[np.int32]) -> None:
    golden.write_cube(board.buffers[INPUT], features, 0)
    board.put(WEIGHTS, pack_depthwise(kernels[0]) if shape.depthwise else pack_weights(kernels))
    board.put(BIAS, bias)


def result(board: Board, shape: Shape) -> Int8s:
    """What is written for channels with a kernel, (height, width, kernels); the others hold what nobody promises."""
    count = shape.channels if shape.depthwise else shape.kernels
    return golden.read_cube(board.buffers[OUTPUT], *shape.output, count)


def expected(
    shape: Shape, features: Int8s, kernels: Int8s, bias: npt.NDArray[np.int32], pad: int, factor: int
) -> npt.NDArray[np.int64]:
    """Accumulators with bias, (height, width, kernels); taps apart by the dilation are a larger kernel with zeros."""
    spread = np.zeros(
        (
            kernels.shape[0],
            (shape.kernel[0] - 1) * shape.dilation[0] + 1,
            (shape.kernel[1] - 1) * shape.dilation[1] + 1,
            shape.channels,
        ),
        np.int64,
    )
    spread[:, :: shape.dilation[0], :: shape.dilation[1]] = kernels.astype(np.int64) + factor
    sums = silicon_model.sums(features.astype(np.int64), spread, shape.stride, shape.padding, shape.output, pad)
    return sums + bias[: sums.shape[2]]


@pytest.mark.parametrize("options", PATHS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_convolution_is_the_sum_over_its_window(shape: Shape, options: Options):
    """npu.md §5.1 to §5.6: sums, bias, multiplier, half to even, offset after the shift, saturation (S-01 to S-08)."""
    features, kernels, bias = random_data(shape, 1)
    board = Board(options)
    place(board, shape, features, kernels, bias)
    requantize = silicon_model.Requantize(0x4000, 24, -7)
    board.run(words(convolution(shape, requantize.scale, requantize.shift, requantize.offset)))
    total = expected(shape, features, kernels, bias, 0, 0)
    assert np.array_equal(result(board, shape), silicon_model.finish(total, requantize))


@pytest.mark.parametrize("options", PATHS)
@pytest.mark.parametrize("factor", [-128, -62, 37, 128])
@pytest.mark.parametrize("name", ["odd", "depthwise"])
def test_weight_zero_points_and_pads(name: str, factor: int, options: Options):
    """S-24, S-25: OW_OP times the sum of the window, pads included; PAD_CON1 = zi in every lane (S-34)."""
    shape = SHAPES[name]
    features, kernels, bias = random_data(shape, 2)
    board = Board(options)
    place(board, shape, features, kernels, bias)
    zero = -5
    fields = convolution(shape, 20000, 26, 3, factor)
    fields = change(fields, CNA.PAD_CON1, pad_value=(zero & 0xFF) * 0x01010101)
    board.run(words(fields))
    total = expected(shape, features, kernels, bias, zero, factor)
    assert np.array_equal(result(board, shape), silicon_model.finish(total, silicon_model.Requantize(20000, 26, 3)))


@pytest.mark.parametrize("options", PATHS)
def test_cpend_sums_every_programmed_channel(options: Options):
    """S-27: padded channels take part in the window sum, in the border with the pad value."""
    shape = Shape(6, 6, 16, 32, (3, 3), (1, 1), (1, 1), output=(6, 6))
    features, kernels, bias = random_data(shape, 3)
    wide = replace(shape, channels=32)
    board = Board(options)
    place(board, wide, features, np.zeros((32, 3, 3, 32), np.int8), bias)
    padded = np.zeros((32, 3, 3, 32), np.int8)
    padded[..., :16] = kernels
    board.put(WEIGHTS, pack_weights(padded))
    board.buffers[INPUT][16 * 36 : 32 * 36] = 0
    zero, factor = 11, 9
    fields = change(convolution(wide, 0x4000, 23, 0, factor), CNA.PAD_CON1, pad_value=zero * 0x01010101)
    board.run(words(fields))
    real = expected(shape, features, kernels, bias, zero, factor)
    outside = silicon_model.sums(
        np.zeros((6, 6, 1), np.int64), np.ones((1, 3, 3, 1), np.int64), (1, 1), (1, 1), (6, 6), 1
    )
    total = real + outside * 16 * zero * factor
    assert np.array_equal(result(board, wide), silicon_model.finish(total, silicon_model.Requantize(0x4000, 23, 0)))
    assert (outside[0, 0] == 5).all()
    assert (outside[3, 3] == 0).all()


@pytest.mark.parametrize("options", PATHS)
def test_the_pad_probe(options: Options):
    """S-37: unit weight at tap (0, 0), bias 0, scale 1, input all zi: the corner is pad - zi."""
    shape = Shape(6, 6, 64, 64, (3, 3), (1, 1), (1, 1), depthwise=True, output=(6, 6))
    kernels = np.zeros((1, 3, 3, 64), np.int8)
    kernels[0, 0, 0] = 1
    zero, pad = -2, 9
    board = Board(options)
    bias = np.full(64, -zero, np.int32)  # takes zi away again
    place(board, shape, np.full((6, 6, 64), zero, np.int8), kernels, bias)
    fields = change(convolution(shape, 1, 0), CNA.PAD_CON1, pad_value=pad * 0x01010101)
    board.run(words(fields))
    got = result(board, shape)
    assert (got[0, 0] == pad - zero).all()
    assert (got[1:, 1:] == 0).all()


@pytest.mark.parametrize("plain", [True, False])
def test_pad_lanes_of_a_depthwise_convolution(plain: bool):
    """S-36, where the machine is told to follow it: odd channels among the first 32 of 64 read byte 1 (F-30)."""
    shape = Shape(4, 4, 64, 64, (3, 3), (1, 1), (1, 1), depthwise=True, output=(4, 4))
    kernels = np.zeros((1, 3, 3, 64), np.int8)
    kernels[0, 0, 0] = 1
    corners = []
    for lanes in ("lowest", "two lanes"):
        board = Board(Options(plain=plain, pad_lanes=lanes))
        place(board, shape, np.zeros((4, 4, 64), np.int8), kernels, np.zeros(64, np.int32))
        board.run(words(change(convolution(shape, 1, 0), CNA.PAD_CON1, pad_value=0x40302010)))
        corners.append(result(board, shape)[0, 0].tolist())
    assert corners[0] == [0x10] * 64
    assert corners[1] == [0x10, 0x20] * 16 + [0x10] * 32


def records(add: npt.NDArray, pend: npt.NDArray, multiply: npt.NDArray) -> npt.NDArray[np.uint8]:
    """S-17: 64 bytes for 8 channels: int32 add, int16 CPEND factor, int16 multiplier."""
    raw = np.zeros((len(add) // 8, 64), np.uint8)
    raw[:, :32] = add.astype(np.int32).view(np.uint8).reshape(-1, 32)
    raw[:, 32:48] = pend.astype(np.int16).view(np.uint8).reshape(-1, 16)
    raw[:, 48:] = multiply.astype(np.int16).view(np.uint8).reshape(-1, 16)
    return raw


def per_channel(fields: Fields, shift: int, negative: int, own_factor: bool) -> Fields:
    """S-18: multiplier live, both from memory, both shifts."""
    fields = change(fields, DPU.BS_CFG, bs_mul_bypass=0)
    fields = change(fields, DPU.BS_MUL_CFG, bs_mul_src=1, bs_mul_shift_value=shift)
    fields = change(fields, DPU.DATA_FORMAT, bs_mul_shift_value_neg=negative)
    fields = change(fields, DPU.BS_OW_CFG, ow_src=int(own_factor))
    return change(fields, DPU_RDMA.RDMA_BRDMA_CFG, brdma_data_use=7)


@pytest.mark.parametrize("options", PATHS)
@pytest.mark.parametrize(("shift", "negative", "own_factor"), [(14, 14, False), (12, 9, False), (10, 10, True)])
@pytest.mark.parametrize("name", ["odd", "depthwise stride"])
def test_per_channel_multipliers(name: str, shift: int, negative: int, own_factor: bool, options: Options):
    """S-19 to S-23: (acc + A + B S) C, wide product, half to even, shift split by sign, then OUT_CVT."""
    shape = SHAPES[name]
    features, kernels, bias = random_data(shape, 4)
    rng = np.random.default_rng(5)
    multiply = rng.integers(1, 32768, shape.written)
    factors = rng.integers(-128, 128, shape.written) if own_factor else np.zeros(shape.written, np.int64)
    board = Board(options)
    place(board, shape, features, kernels, bias)
    board.put(BIAS, records(bias, factors, multiply))
    requantize = silicon_model.Requantize(17675, 25, 5)
    fields = convolution(shape, requantize.scale, requantize.shift, requantize.offset, -17 if own_factor else 0)
    board.run(words(per_channel(fields, shift, negative, own_factor)))
    total = expected(shape, features, kernels, bias, 0, 0)
    ones = expected(shape, features, np.ones_like(kernels), np.zeros_like(bias), 0, 0)
    count = total.shape[2]
    product = (total + factors[:count] * ones) * multiply[:count]
    scaled = np.where(product >= 0, silicon_model.half_even(product, shift), silicon_model.half_even(product, negative))
    scaled = np.clip(scaled, -(2**31), 2**31 - 1)
    assert np.array_equal(result(board, shape), silicon_model.finish(scaled, requantize))


@pytest.mark.parametrize("options", PATHS)
def test_an_unshifted_product_saturates(options: Options):
    """S-20: at shift 0 the product saturates to 32 bits."""
    shape = Shape(4, 4, 16, 32, output=(4, 4))
    kernels = np.full((32, 1, 1, 16), 127, np.int8)
    board = Board(options)
    place(board, shape, np.full((4, 4, 16), 127, np.int8), kernels, np.zeros(32, np.int32))
    board.put(BIAS, records(np.zeros(32), np.zeros(32), np.full(32, 32767)))
    board.run(words(per_channel(convolution(shape, 1, 26), 0, 0, False)))
    assert (result(board, shape) == 2**31 // 2**26).all()  # 32 - 2**-26, rounded


@pytest.mark.parametrize("options", PATHS)
@pytest.mark.parametrize("sliced", [False, True])
def test_a_fused_residual(sliced: bool, options: Options):
    """npu.md §5.4 a, C-confirmed: COMB_USE 5 alternates SRC (even surfaces) and EW (odd); also for a slice of rows."""
    shape = Shape(6, 8, 32, 96, (3, 3), (1, 1), (1, 1), output=(6, 8))
    features, kernels, bias = random_data(shape, 6)
    rows = slice(0, 4) if sliced else slice(0, 6)
    rng = np.random.default_rng(7)
    operand = rng.integers(-128, 128, (6, 8, 96)).astype(np.int8)
    board = Board(options)
    place(board, shape, features, kernels, bias)
    golden.write_cube(board.buffers[OPERAND], operand, 0)
    part = replace(shape, height=6, output=(rows.stop, 8))
    plane = 6 * 8
    fields = convolution(part, 18589, 24, -3)
    fields = change(fields, DPU.DST_SURF_STRIDE, dst_surf_stride=plane)
    fields = change(fields, DPU.SURFACE_ADD, surf_add=2 * plane)
    fields = residual(fields, plane, plane + 8 * (6 - rows.stop), offset=11, scale=24971, shift=5)
    board.run(words(fields))
    total = expected(shape, features, kernels, bias, 0, 0)
    addend = silicon_model.Residual(operand.astype(np.int64), 11, 24971, 5)
    wanted = silicon_model.finish(total, silicon_model.Requantize(18589, 24, -3), addend)
    got = golden.read_cube(board.buffers[OUTPUT], 6, 8, 96)
    assert np.array_equal(got[rows], wanted[rows])


def residual(fields: Fields, plane: int, notch: int, offset: int, scale: int, shift: int) -> Fields:
    """Adds a residual operand of the given plane (atoms) to a convolution (worked-examples.md §5b)."""
    fields = dict(fields)
    fields[DPU.EW_CFG] = {
        "ew_cvt_type": 1,
        "ew_data_mode": 1,
        "edata_size": 1,
        "ew_alu_algo": 2,
        "ew_relu_bypass": 1,
        "ew_lut_bypass": 1,
        "ew_op_src": 1,
    }
    fields[DPU.EW_CVT_OFFSET_VALUE] = {"ew_op_cvt_offset": offset}
    fields[DPU.EW_CVT_SCALE_VALUE] = {"ew_op_cvt_scale": scale, "ew_op_cvt_shift": shift}
    fields[DPU_RDMA.RDMA_SRC_BASE_ADDR] = {"src_base_addr": OPERAND}
    fields[DPU_RDMA.RDMA_EW_BASE_ADDR] = {"ew_base_addr": OPERAND + 16 * plane}
    fields[DPU_RDMA.RDMA_ERDMA_CFG] = {"erdma_data_mode": 1, "erdma_data_size": 1}
    fields[DPU_RDMA.RDMA_EW_SURF_STRIDE] = {"ew_surf_stride": plane}
    fields[DPU_RDMA.RDMA_SURF_NOTCH] = {"surf_notch_addr": notch}
    fields[DPU_RDMA.RDMA_EW_SURF_NOTCH] = {"ew_surf_notch": notch}
    return change(fields, DPU_RDMA.RDMA_FEATURE_MODE_CFG, comb_use=5, mrdma_disable=0)


@pytest.mark.parametrize("options", PATHS)
def test_relu_clamps_accumulators(options: Options):
    """npu.md §5.3: ReLU in the accumulator's domain, the output offset comes after."""
    shape = Shape()
    features, kernels, bias = random_data(shape, 8)
    board = Board(options)
    place(board, shape, features, kernels, bias)
    board.run(words(change(convolution(shape, 0x4000, 24, 20), DPU.BS_CFG, bs_relu_bypass=0)))
    total = np.maximum(expected(shape, features, kernels, bias, 0, 0), 0)
    assert np.array_equal(result(board, shape), silicon_model.finish(total, silicon_model.Requantize(0x4000, 24, 20)))


@pytest.mark.parametrize("options", PATHS)
def test_truncation_comes_after_cpend(options: Options):
    """F-54: CLIP_TRUNCATE halves the accumulator, zero-point correction included, before the bias."""
    shape = SHAPES["odd"]
    features, kernels, bias = random_data(shape, 9)
    board = Board(options)
    place(board, shape, features, kernels, bias)
    board.run(words(change(convolution(shape, 0x4000, 23, 0, -17), CORE.CLIP_TRUNCATE, clip_truncate=1)))
    total = silicon_model.half_even(expected(shape, features, kernels, np.zeros_like(bias), 0, -17), 1) + bias[:40]
    assert np.array_equal(result(board, shape), silicon_model.finish(total, silicon_model.Requantize(0x4000, 23, 0)))


@pytest.mark.parametrize("options", PATHS)
def test_sums_beyond_a_float_are_exact(options: Options):
    """The fast path takes doubles where 128 * sum |w| is 2**24 or more, and the plain path where int32 saturates."""
    shape = Shape(4, 4, 2048, 32, output=(4, 4))
    rng = np.random.default_rng(10)
    features = rng.integers(100, 128, (4, 4, 2048)).astype(np.int8)
    kernels = rng.integers(100, 128, (32, 1, 1, 2048)).astype(np.int8)
    bias = np.where(np.arange(32) % 2, 2**31 - 1, -5).astype(np.int32)
    board = Board(options)
    place(board, shape, features, kernels, bias)
    board.run(words(convolution(shape, 0x4000, 14 + 18)))
    total = np.clip(expected(shape, features, kernels, bias, 0, 0), -(2**31), 2**31 - 1)
    requantize = silicon_model.Requantize(1, 18, 0)
    assert np.array_equal(result(board, shape), silicon_model.finish(total, requantize))


def test_hardware_deconvolution():
    """S-140, S-141: zeros between the pixels, pad k - 1 - p, output extent = transposed extent."""
    shape = Shape(5, 4, 32, 32, (3, 3), (1, 1), (1, 1), output=(10, 8))
    features, kernels, bias = random_data(shape, 14)
    board = Board()
    place(board, shape, features, kernels, bias)
    fields = change(convolution(shape, 0x4000, 23), CNA.CONV_CON1, deconv=1)
    fields = change(fields, CNA.CONV_CON3, deconv_x_stride=1, deconv_y_stride=1)
    board.run(words(fields))
    spread = np.zeros((9, 7, 32), np.int8)
    spread[::2, ::2] = features
    total = expected(shape, spread, kernels, bias, 0, 0)
    wanted = silicon_model.finish(total, silicon_model.Requantize(0x4000, 23, 0))
    assert np.array_equal(result(board, shape), wanted)
    with pytest.raises(SimulatorError, match="S-140"):
        board.run(words(change(fields, CNA.CONV_CON3, deconv_x_stride=2)))


def test_equal_bytes_of_another_shape_are_unpacked_anew():
    """Kept kernels are told apart by shape: one direct kernel and a depthwise one of the same bytes."""
    direct = Shape(4, 4, 64, 1, output=(4, 4))
    depthwise = Shape(4, 4, 64, 64, depthwise=True, output=(4, 4))
    rng = np.random.default_rng(15)
    features = rng.integers(-8, 8, (4, 4, 64)).astype(np.int8)
    kernel = rng.integers(-8, 8, (1, 1, 1, 64)).astype(np.int8)
    board = Board()
    for shape in (direct, depthwise, direct):
        bias = np.zeros(shape.written, np.int32)
        place(board, shape, features, kernel, bias)
        board.run(words(convolution(shape, 0x4000, 20)))
        products = features.astype(np.int64) * kernel[0, 0, 0]
        total = products if shape.depthwise else products.sum(axis=2, keepdims=True)
        assert np.array_equal(result(board, shape), silicon_model.finish(total, silicon_model.Requantize(1, 6, 0)))
