"""What boards did, one measured fact after the other; those of formats, pooling and EW have files of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hw.sim import golden, silicon_model
from hw.sim.flying import elementwise
from hw.sim.products import KINDS, multiply, product
from hw.sim.programs import (
    BIAS,
    CONVOLUTION,
    FLYING,
    INPUT,
    OPERAND,
    OUTPUT,
    STREAM,
    WEIGHTS,
    Board,
    Shape,
    change,
    convolution,
    pack_weights,
    words,
)
from hw.sim.test_convolution import PATHS, expected, place, random_data, records, residual, result

from delegate.errors import RegisterError, SimulatorError
from delegate.hw.registers import Register
from delegate.hw.regs import CNA, CORE, DPU, DPU_RDMA, PPU
from delegate.hw.sim.device import Simulator
from delegate.hw.sim.options import Options
from delegate.hw.soc import RK3588

SMALL = Shape(4, 4, 16, 32, output=(4, 4))

# (channels, height, width, kernels, kernel, stride, pad), zi 23, zo -7: equal to the model on a board.
DIRECT = [
    (32, 8, 8, 32, 1, 1, 0),
    (64, 10, 12, 64, 3, 1, 1),
    (96, 11, 9, 32, 3, 2, 1),
    (32, 12, 12, 64, 5, 2, 2),
    (32, 9, 9, 160, 3, 1, 1),
    (40, 10, 10, 160, 3, 1, 0),
]
# (channels, height, width, kernel, stride y, stride x, zi, zo)
DEPTHWISE = [
    (64, 8, 8, 3, 1, 1, -2, 5),
    (64, 6, 10, 3, 1, 1, 37, -20),
    (64, 9, 7, 3, 2, 1, -128, 127),
    (128, 7, 5, 3, 1, 2, 127, -128),
    (64, 8, 11, 5, 1, 1, -2, 5),
]


def check_shape(shape: Shape, zero: int, offset: int, factor: int, options: Options) -> None:
    """Runs a padded convolution with weight zero point -factor and compares every element."""
    features, kernels, bias = random_data(shape, 1)
    board = Board(options)
    place(board, shape, features, kernels, bias)
    requantize = silicon_model.Requantize(22000, 26, offset)
    fields = convolution(shape, requantize.scale, requantize.shift, offset, factor)
    board.run(words(change(fields, CNA.PAD_CON1, pad_value=(zero & 0xFF) * 0x01010101)))
    if shape.padded != shape.channels:  # the CNA sums the channels of the last atom too, here 0 and pads of 0
        assert max(shape.padding) == 0
    total = expected(shape, features, kernels, bias, zero, factor)
    assert np.array_equal(result(board, shape), silicon_model.finish(total, requantize))


@pytest.mark.parametrize("options", PATHS)
@pytest.mark.parametrize("case", DIRECT)
@pytest.mark.parametrize("factor", [0, 62, -90])
def test_proven_direct_shapes(case: tuple[int, ...], factor: int, options: Options):
    """S-188: every element of these shapes, also with weight zero points from -62 to 90."""
    channels, height, width, kernels, size, stride, pad = case
    out = tuple((extent + 2 * pad - size) // stride + 1 for extent in (height, width))
    shape = Shape(height, width, channels, kernels, (size, size), (stride, stride), (pad, pad), output=out)  # type: ignore[arg-type]
    check_shape(shape, 23, -7, factor, options)


@pytest.mark.parametrize("options", PATHS)
@pytest.mark.parametrize("case", DEPTHWISE)
def test_proven_depthwise_shapes(case: tuple[int, ...], options: Options):
    """S-189; S-44: groups of 64 channels."""
    channels, height, width, size, step_y, step_x, zero, offset = case
    pad = size // 2
    out = ((height - 1) // step_y + 1, (width - 1) // step_x + 1)
    shape = Shape(height, width, channels, channels, (size, size), (step_y, step_x), (pad, pad), (1, 1), True, out)
    check_shape(shape, zero, offset, -17, options)


@pytest.mark.parametrize("count", [16, 48])
def test_parts_of_a_group_never_complete(count: int):
    """S-50, S-190: 16 or 48 of 32-kernel groups, and depthwise channels that are no multiple of 64."""
    with pytest.raises(SimulatorError, match="S-190"):
        Board().run(words(change(convolution(Shape()), CORE.DATAOUT_SIZE_1, dataout_channel=count - 1)))
    fields = convolution(Shape(channels=64, depthwise=True))
    with pytest.raises(SimulatorError, match="S-190"):
        Board().run(words(change(fields, CORE.DATAOUT_SIZE_1, dataout_channel=count - 1)))


def test_the_words_of_every_program_that_works():
    """S-184: CVT_CON0 0xB, bursts 0xF000F; S-186: int8 out with BS_CFG 0x20150, BRDMA 0x2, QD_EN, depthwise grains."""
    fields = convolution(Shape(channels=64, depthwise=True))
    encoded = {register.full_name: register.encode(**values) for register, values in fields.items()}
    assert encoded["CNA.CVT_CON0"] == 0xB
    assert encoded["CNA.DMA_CON0"] == 0xF000F
    assert (encoded["DPU.BS_CFG"], encoded["DPU_RDMA.RDMA_BRDMA_CFG"]) == (0x20150, 0x2)
    assert fields[CNA.CONV_CON2]["feature_grains"] == 52
    Board().run(words(fields))


@pytest.mark.parametrize("grains", [9, 10, 33, 65])
def test_grains_are_a_hint(grains: int):
    """S-83, S-183: 9 to 65 all right at eight rows."""
    shape = Shape()
    features, kernels, bias = random_data(shape, 2)
    board = Board()
    place(board, shape, features, kernels, bias)
    board.run(words(change(convolution(shape, 0x4000, 22), CNA.CONV_CON2, feature_grains=grains)))
    total = expected(shape, features, kernels, bias, 0, 0)
    assert np.array_equal(result(board, shape), silicon_model.finish(total, silicon_model.Requantize(0x4000, 22, 0)))


def test_minus_exp_and_cvt_type_do_nothing_on_integers():
    """S-07: also S-08, the product is not cut to 32 bits."""
    outputs = []
    for change_ in ({}, {"minus_exp": 15}, {"cvt_type": 1}, {"cvt_type": 1, "minus_exp": 255}):
        board = Board()
        place(board, SMALL, *random_data(SMALL, 3))
        board.put(BIAS, np.arange(-(2**30), 2**30, 2**26, dtype=np.int32))
        board.run(words(change(convolution(SMALL, 0x7FFF, 40), DPU.OUT_CVT_SHIFT, **change_)))
        outputs.append(result(board, SMALL).tolist())
    assert len(np.unique(outputs[0])) > 20
    assert all(output == outputs[0] for output in outputs)


@pytest.mark.parametrize("options", PATHS)
def test_the_bs_shift_rounds_half_to_even(options: Options):
    """S-21: ties of (acc + A) C at shift 1, both signs."""
    board = Board(options)
    place(board, SMALL, *(np.zeros_like(part) for part in random_data(SMALL, 4)))
    odd = np.arange(-31, 33, 2)
    board.put(BIAS, records(odd, np.zeros(32), np.ones(32)))
    fields = change(convolution(SMALL, 1, 0), DPU.BS_CFG, bs_mul_bypass=0)
    fields = change(fields, DPU.BS_MUL_CFG, bs_mul_src=1, bs_mul_shift_value=1)
    fields = change(fields, DPU.DATA_FORMAT, bs_mul_shift_value_neg=1)
    board.run(words(change(fields, DPU_RDMA.RDMA_BRDMA_CFG, brdma_data_use=7)))
    assert result(board, SMALL)[0, 0].tolist() == silicon_model.half_even(odd.astype(np.int64), 1).tolist()


def test_pad_fields_have_four_bits():
    """S-38, S-78, S-79: 16 would act as 0 and wider sizes wrap; such a value cannot be written into its field."""
    for register, values in (
        (CNA.PAD_CON0, {"pad_top": 16}),
        (CNA.DATA_SIZE0, {"datain_width": 2500}),
        (CNA.CONV_CON2, {"feature_grains": 1024}),
        (CNA.WEIGHT_SIZE1, {"weight_bytes_per_kernel": 1 << 19}),
        (DPU.DATA_CUBE_WIDTH, {"width": 1 << 13}),
        (PPU.POOLING_KERNEL_CFG, {"kernel_width": 16}),  # S-135: kernel and stride up to 16
        (PPU.POOLING_PADDING_CFG, {"pad_left": 8}),
    ):
        with pytest.raises(RegisterError, match="does not fit"):
            register.encode(**values)


@pytest.mark.parametrize(("pixels", "right"), [(4096, True), (8190, True), (8191, False), (8192, False)])
def test_the_widest_rows_lose_columns(pixels: int, right: bool):
    """S-80, C-2: 8191 columns of fp16 are wrong at the end, 4096 are clean."""
    stream = words(elementwise(np.float16, "add", pixels), FLYING)
    if right:
        Board().run(stream)
        return
    with pytest.raises(SimulatorError, match="S-80"):
        Board().run(stream)


def test_twelve_banks():
    """S-72: DATA_BANK + WEIGHT_BANK up to 12 of 32 KiB; S-82: what a square tile of 256 may be deep in K."""
    assert (RK3588.cbuf_banks, RK3588.cbuf_bank_bytes) == (12, 32768)
    for name, depth in (("fp16 to fp32", 384), ("int8 to int32", 768), ("int4 to int16", 1536)):
        kind = KINDS[name]
        banks = -(-256 * depth * kind.bits // 8 // 32768)
        assert 2 * banks <= 12
        fields = change(product(kind, 256, depth, 256), CNA.CBUF_CON0, data_bank=banks, weight_bank=12 - banks)
        fields = change(fields, DPU.DST_BASE_ADDR, dst_base_addr=OUTPUT)
        Board().run(words(fields))
    with pytest.raises(SimulatorError, match="at most 12"):
        Board().run(words(change(convolution(Shape()), CNA.CBUF_CON0, data_bank=1, weight_bank=12)))


@pytest.mark.parametrize(("gates", "runs"), [(0x07800800, True), (0x01800800, True), (0x07000800, False), (0, False)])
def test_clock_gates_of_the_array(gates: int, runs: bool):
    """S-71: bits 11 and 23 clock the output lanes, without bit 24 the job stops; the others have no effect."""
    fields = {**convolution(Shape()), CORE.MAC_GATING: {"slcg_op_en": gates}}
    fields |= {CNA.CLK_GATE: {"csc_disable_clkgate": 1}, CORE.UNDOC_3030: {"value": 0x1234}}
    if runs:
        Board().run(words(change(fields, CORE.MISC_CFG, soft_gating=63)))
        return
    with pytest.raises(SimulatorError, match="S-71"):
        Board().run(words(fields))


def test_clients_that_are_left_on_change_nothing():
    """S-32: BRDMA and NRDMA enabled in an element-wise task; S-158: bit 0 turns a client off, whatever its address."""
    results = []
    for config in ({}, {"on": 1}):
        fields = elementwise(np.int16, "add", 8)
        if config:
            for register, name in ((DPU_RDMA.RDMA_BRDMA_CFG, "brdma"), (DPU_RDMA.RDMA_NRDMA_CFG, "nrdma")):
                fields = change(fields, register, **{f"{name}_disable": 0, f"{name}_data_use": 1})
            fields[DPU_RDMA.RDMA_BS_BASE_ADDR] = {"bs_base_addr": BIAS}
            fields[DPU_RDMA.RDMA_BN_BASE_ADDR] = {"bn_base_addr": BIAS}
        else:
            fields[DPU_RDMA.RDMA_BS_BASE_ADDR] = {"bs_base_addr": 0xFFFFFFF0}
        board = Board()
        board.put(INPUT, np.arange(64, dtype=np.int16))
        board.put(OPERAND, np.arange(64, dtype=np.int16) * 3)
        board.run(words(fields, FLYING))
        results.append(board.get(OUTPUT, 64, np.int16).tolist())
    assert results[0] == results[1] == (np.arange(64) * 4).tolist()


def test_cores_agree():
    """S-68: integers are the same on all three cores; each has its own registers and CBUF."""
    simulator = Simulator(cores=3)
    outputs = []
    for machine in simulator.machines:
        board = Board()
        board.machine = type(machine)(board.memory)
        place(board, SMALL, *random_data(SMALL, 5))
        board.run(words(convolution(SMALL, 0x4000, 21)))
        outputs.append(result(board, SMALL).tolist())
    simulator.close()
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_task_beyond_the_watchdog_never_completes():
    """S-195: half a second of wall time a job; here 470 x 470 pixels of 1024 kernels of 7 x 7 x 64."""
    shape = Shape(60, 60, 64, 1024, (7, 7), (1, 1), (3, 3), output=(470, 470))
    fields = change(convolution(shape), CNA.CONV_CON1, deconv=1)
    fields = change(fields, CNA.CONV_CON3, deconv_y_stride=7, deconv_x_stride=7)
    fields = change(fields, CNA.CBUF_CON0, data_bank=8, weight_bank=4)
    with pytest.raises(SimulatorError, match=r"0\.5 s of the watchdog"):
        Board().run(words(fields))


def linked_products(count: int, fields_of: list[dict[Register, dict[str, int]]], fire: int) -> list[list[int]]:
    """Tasks that lead to each other, 64-byte aligned from STREAM on; S-100: ceil(words / 2) of the next, less 1."""
    sizes = [len(words(fields, fire)) for fields in fields_of]
    starts = [STREAM + sum(-(-8 * size // 64) * 64 for size in sizes[:index]) for index in range(count + 1)]
    return [
        words(fields, fire, 0 if last else starts[index + 1], 0 if last else (sizes[index + 1] + 1) // 2 - 1)
        for index, fields in enumerate(fields_of)
        for last in (index + 1 == count,)
    ]


def test_chains_of_raw_products_are_exact():
    """S-96: int8 to int32 in chains, also behind a task of zeros; S-100: the amounts of captured chains."""
    kind = KINDS["int8 to int32"]
    rng = np.random.default_rng(6)
    left, right = rng.integers(-9, 9, (4, 64)), rng.integers(-9, 9, (32, 64))
    board = Board()
    alone = multiply(kind, left, right)
    fields = []
    for index in range(3):
        one = product(kind, 4, 64, 32)
        one = change(one, CNA.FEATURE_DATA_ADDR, feature_base_addr=INPUT + 4096 * index)
        fields.append(change(one, DPU.DST_BASE_ADDR, dst_base_addr=OUTPUT + 512 * index))
    packed = left.reshape(4, 4, 16).transpose(1, 0, 2).astype(np.int8)
    for index in (1, 2):
        board.buffers[INPUT][4096 * index : 4096 * index + 256] = packed.reshape(-1).view(np.uint8)
    board.put(WEIGHTS, right.reshape(1, 32, 2, 32).transpose(0, 2, 1, 3).astype(np.int8))
    board.run(*linked_products(3, fields, CONVOLUTION), tasks=3)
    got = board.get(OUTPUT, 3 * 128, np.int32).reshape(3, 8, 4, 4).transpose(0, 2, 1, 3).reshape(3, 4, 32)
    assert (got[0] == 0).all()
    assert np.array_equal(got[1], alone)
    assert np.array_equal(got[2], alone)


def sums_in_a_chain(pointers: bool) -> list[list[int]]:
    fields = []
    for index in range(3):
        one = change(elementwise(np.int16, "add", 8), DPU.DST_BASE_ADDR, dst_base_addr=OUTPUT + 128 * index)
        source = OPERAND if index == 0 else OUTPUT + 128 * (index - 1)
        fields.append(change(one, DPU_RDMA.RDMA_EW_BASE_ADDR, ew_base_addr=source))
    streams = linked_products(3, fields, FLYING)
    if pointers:
        return streams
    return [streams[0], *([0, 0, *stream[2:]] for stream in streams[1:])]  # no S_POINTER, the same length


def test_a_chained_task_reads_what_the_one_before_wrote():
    """S-97: through ERDMA; byte for byte."""
    board = Board()
    board.put(INPUT, np.arange(64, dtype=np.int16))
    board.run(*sums_in_a_chain(True), tasks=3)
    assert board.get(OUTPUT, 192, np.int16).reshape(3, 64).tolist() == [(np.arange(64) * k).tolist() for k in (1, 2, 3)]


def test_chained_tasks_arm_their_pointers():
    """S-101: without S_POINTER in every segment, task 0's result would be in all outputs."""
    with pytest.raises(SimulatorError, match="S-101"):
        Board().run(*sums_in_a_chain(False), tasks=3)


def test_a_register_left_over_acts():
    """S-102: a NOTCH of an earlier task spoils the next one that does not write it, two tasks on (S-89)."""
    fields = convolution(SMALL, 1, 0)
    spoiled = change(fields, DPU.DATA_CUBE_NOTCH_ADDR, notch_addr_0=3, notch_addr_1=3)
    spoiled = change(change(spoiled, DPU.DST_SURF_STRIDE, dst_surf_stride=64), DPU.SURFACE_ADD, surf_add=128)
    without = {r: v for r, v in fields.items() if r is not DPU.DATA_CUBE_NOTCH_ADDR}
    without = change(change(without, DPU.DST_SURF_STRIDE, dst_surf_stride=64), DPU.SURFACE_ADD, surf_add=128)
    board = Board()
    board.put(BIAS, np.full(32, 5, np.int32))
    board.run(words(spoiled), words(spoiled))
    board.buffers[OUTPUT][:] = 0
    board.run(words(without))
    assert (board.buffers[OUTPUT][: 4 * 16] == 5).all()
    assert (board.buffers[OUTPUT][4 * 16 : 7 * 16] == 0).all()  # the gap of three atoms


@pytest.mark.parametrize("options", PATHS)
@pytest.mark.parametrize("rate", [2, 3])
def test_dilation_is_native(rate: int, options: Options):
    """S-144: the distance of the taps; S-169: field 1 is rate 2."""
    reach = 2 * rate + 1
    shape = Shape(12, 12, 32, 32, (3, 3), (1, 1), (0, 0), (rate, rate), output=(13 - reach, 13 - reach))
    features, kernels, bias = random_data(shape, 7)
    board = Board(options)
    place(board, shape, features, kernels, bias)
    fields = convolution(shape, 0x4000, 22)
    assert fields[CNA.CONV_CON3]["atrous_x_dilation"] == rate - 1
    board.run(words(fields))
    total = expected(shape, features, kernels, bias, 0, 0)
    assert np.array_equal(result(board, shape), silicon_model.finish(total, silicon_model.Requantize(0x4000, 22, 0)))


def test_bands_of_rows_have_the_pitch_of_the_tensor():
    """S-85, S-87, S-181: SURF_STRIDE is W (H - 4) of the whole tensor; W (H / 4 - 1) in whole lines fails for 6, 7."""
    for height in (4, 6, 7, 8, 9):
        shape = Shape(height, 5, 48, 32, output=(height, 5))
        features, kernels, bias = random_data(shape, height)
        board = Board()
        place(board, shape, features, kernels, bias)
        fields = convolution(shape, 0x4000, 22)
        assert fields[CNA.DMA_CON2]["surf_stride"] == 5 * (height - 4)
        board.run(words(fields))
        total = expected(shape, features, kernels, bias, 0, 0)
        wanted = silicon_model.finish(total, silicon_model.Requantize(0x4000, 22, 0))
        assert np.array_equal(result(board, shape), wanted)
        truncated = 4 * 5 * (height // 4 - 1)
        if truncated != 5 * (height - 4):
            board.run(words(change(fields, CNA.DMA_CON2, surf_stride=truncated)))
            assert not np.array_equal(result(board, shape), wanted)


def test_deconvolution_pads_lie_on_the_spread_surface():
    """S-142: pads from 12 on at factor 2 are unexplained, and refused."""
    shape = Shape(8, 8, 32, 32, (15, 15), (1, 1), (12, 0), output=(8, 8))
    fields = change(convolution(shape), CNA.CONV_CON1, deconv=1)
    fields = change(fields, CNA.CONV_CON3, deconv_y_stride=1, deconv_x_stride=1)
    fields = change(fields, CNA.CBUF_CON0, data_bank=1, weight_bank=11)
    with pytest.raises(SimulatorError, match="S-142"):
        Board().run(words(fields))


def test_fused_operands_of_few_pixels_warn():
    """S-111: COMB_USE 5 needs 12 pixels; stride 0 would broadcast the first atom and is refused."""
    shape = Shape(2, 2, 16, 32, output=(2, 2))
    board = Board()
    place(board, shape, *random_data(shape, 8))
    fields = residual(convolution(shape), 4, 0, 0, 1, 0)
    board.run(words(fields))
    assert any("below 12" in text for text in board.machine.warnings)
    with pytest.raises(SimulatorError, match="S-111"):
        board.run(words(change(fields, DPU_RDMA.RDMA_EW_SURF_STRIDE, ew_surf_stride=0)))


def test_rows_below_four_warn():
    """S-69: fewer than four rows of width 1 gave wrong results."""
    board = Board()
    board.run(words(convolution(Shape(2, 1, 32, 32, output=(2, 1)))))
    assert any("below 4 rows" in text for text in board.machine.warnings)


def test_reads_and_writes_of_one_atom_per_channel_group():
    """S-49, S-51: what lies in lanes without a channel is written, and read again as it is."""
    shape = replace(SMALL, kernels=8)
    features, kernels, _ = random_data(shape, 9)
    board = Board()
    golden.write_cube(board.buffers[INPUT], features, 0)
    board.put(WEIGHTS, pack_weights(kernels[:8]))
    board.put(BIAS, np.full(32, 3, np.int32))
    board.run(words(convolution(shape, 1, 0)))
    assert (golden.read_cube(board.buffers[OUTPUT], 4, 4, 32)[:, :, 8:] == 3).all()
