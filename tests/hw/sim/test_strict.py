"""What the silicon would hang on, fault on or compute wrongly is refused, by task, register, value and limit."""

from __future__ import annotations

import pytest
from hw.sim.programs import (
    BUFFER_BYTES,
    FLYING,
    INPUT,
    OUTPUT,
    POOLING,
    WITHOUT_RDMA,
    Board,
    Fields,
    Shape,
    change,
    convolution,
    words,
)

from delegate.errors import SimulatorError
from delegate.hw.registers import Register, word
from delegate.hw.regs import CNA, CORE, DPU, DPU_RDMA, PC

FIELDS = convolution(Shape())
DEPTHWISE = convolution(Shape(channels=64, depthwise=True))

# name: register, fields that are changed, what the message must name
CASES: dict[str, tuple[Register, dict[str, int], str]] = {
    "banks together (npu.md §4)": (CNA.CBUF_CON0, {"data_bank": 7, "weight_bank": 6}, "at most 12"),
    "no data bank": (CNA.CBUF_CON0, {"data_bank": 0}, "data_bank 0"),
    "zero skip bank (S-77)": (CNA.CBUF_CON0, {"fc_data_bank": 1}, "S-77"),
    "entries of a row (S-182)": (CNA.CBUF_CON1, {"data_entries": 8}, "4 units"),
    "input width": (CNA.DATA_SIZE0, {"datain_width": 0}, "width 0"),
    "fetched width": (CNA.FC_DATA_SIZE0, {"dma_width": 9}, "DATAIN_WIDTH 8"),
    "fetched height": (CNA.FC_DATA_SIZE0, {"dma_height": 7}, "DATAIN_HEIGHT 8"),
    "fetched channels": (CNA.FC_DATA_SIZE1, {"dma_channel": 48}, "DATAIN_CHANNEL 32"),
    "weight bytes": (CNA.WEIGHT_SIZE0, {"weight_bytes": 1000}, "32 kernels of 32 bytes"),
    "no kernels": (CNA.WEIGHT_SIZE2, {"weight_kernels": 0}, "weight_kernels 0"),
    "stride 0": (CNA.CONV_CON3, {"conv_x_stride": 0}, "stride"),
    "multi-core array": (CNA.CONV_CON3, {"nn_mode": 1}, "F-39"),
    "compressed weights": (CNA.DCOMP_CTRL, {"decomp_control": 1}, "must be 0"),
    "compressed amount": (CNA.DCOMP_AMOUNT3, {"dcomp_amount3": 1}, "compressed"),
    "precision pair": (CNA.CONV_CON1, {"proc_precision": 1}, "both precisions"),
    "unknown precision": (CNA.CONV_CON1, {"in_precision": 5, "proc_precision": 5}, "both precisions"),
    "unknown mode": (CNA.CONV_CON1, {"conv_mode": 1}, "0 or 3"),
    "feature alignment": (CNA.FEATURE_DATA_ADDR, {"feature_base_addr": INPUT + 8}, "16-byte"),
    "feature fault": (CNA.FEATURE_DATA_ADDR, {"feature_base_addr": INPUT + BUFFER_BYTES - 16}, "CNA features"),
    "surface fault": (CNA.DMA_CON2, {"surf_stride": 1 << 20}, "CNA features"),
    "weight fault": (CNA.DCOMP_ADDR0, {"decompress_addr0": 0}, "CNA weights"),
    "input converter on a cube": (CNA.CVT_CON0, {"cvt_bypass": 0}, "CVT_CON0"),
    "CORE precision": (CORE.MISC_CFG, {"proc_precision": 2}, "the CNA's 0"),
    "depthwise bit": (CORE.MISC_CFG, {"dw_en": 1}, "depthwise mode"),
    "CORE width": (CORE.DATAOUT_SIZE_0, {"dataout_width": 6}, "output width 8"),
    "CORE height": (CORE.DATAOUT_SIZE_0, {"dataout_height": 6}, "64 atomics"),
    "partial group (S-190)": (CORE.DATAOUT_SIZE_1, {"dataout_channel": 15}, "S-190"),
    "too few channels": (CNA.WEIGHT_SIZE2, {"weight_kernels": 33}, "33 kernels"),
    "DPU width": (DPU.DATA_CUBE_WIDTH, {"width": 6}, "CORE's 8"),
    "DPU height": (DPU.DATA_CUBE_HEIGHT, {"height": 6}, "CORE's 8"),
    "DPU channels": (DPU.DATA_CUBE_CHANNEL, {"channel": 63}, "CORE's 32"),
    "real channels": (DPU.DATA_CUBE_CHANNEL, {"orig_channel": 32}, "at most CHANNEL"),
    "DPU precision": (DPU.DATA_FORMAT, {"proc_precision": 2}, "CORE's int8"),
    "DPU mode": (DPU.FEATURE_MODE_CFG, {"conv_mode": 3}, "CNA's"),
    "flying with CORE": (DPU.FEATURE_MODE_CFG, {"flying_mode": 1}, "no CORE"),
    "to the PPU (S-180)": (DPU.FEATURE_MODE_CFG, {"output_mode": 1}, "S-180"),
    "transposed writer": (DPU.FEATURE_MODE_CFG, {"tp_en": 1}, "tp_en"),
    "size_e (S-52)": (DPU.BS_OW_CFG, {"size_e_0": 3, "size_e_1": 3, "size_e_2": 3}, "size_e 3"),
    "uneven size_e": (DPU.BS_OW_CFG, {"size_e_1": 0}, "all three"),
    "one notch (S-48)": (DPU.DATA_CUBE_NOTCH_ADDR, {"notch_addr_0": 3}, "S-48"),
    "WDMA channel": (DPU.WDMA_SIZE_0, {"channel_wdma": 15}, "cube's 32"),
    "WDMA width": (DPU.WDMA_SIZE_1, {"width_wdma": 6}, "cube's"),
    "output fault": (DPU.DST_BASE_ADDR, {"dst_base_addr": OUTPUT + BUFFER_BYTES - 64}, "DPU output"),
    "output alignment": (DPU.DST_BASE_ADDR, {"dst_base_addr": OUTPUT + 4}, "16-byte"),
    "raw without known pair": (DPU.DATA_FORMAT, {"out_precision": 5}, "size_e 1"),
    "narrowing integers": (DPU.OUT_CVT_SCALE, {"fp32tofp16_en": 1}, "fp32tofp16_en"),
    "quantized path (S-186)": (CORE.MISC_CFG, {"qd_en": 0}, "QD_EN"),
    "main DMA trap (S-114)": (DPU_RDMA.RDMA_FEATURE_MODE_CFG, {"mrdma_disable": 0}, "S-114"),
    "residual not armed": (DPU_RDMA.RDMA_FEATURE_MODE_CFG, {"comb_use": 5, "mrdma_disable": 0}, "erdma_disable"),
    "comb without residual": (DPU_RDMA.RDMA_FEATURE_MODE_CFG, {"comb_use": 4}, "comb_use 4"),
    "bias not fetched (S-114)": (DPU_RDMA.RDMA_BRDMA_CFG, {"brdma_disable": 1}, "BS addend"),
    "bias of another layout": (DPU_RDMA.RDMA_BRDMA_CFG, {"brdma_data_use": 3}, "data_use 3"),
    "multiplier not fetched": (DPU.BS_CFG, {"bs_mul_bypass": 0}, "BS multiplier|read"),
    "BN multiplier and addend (S-31)": (
        DPU_RDMA.RDMA_NRDMA_CFG,
        {"nrdma_disable": 0, "nrdma_data_use": 5},
        "S-31",
    ),
    "RDMA width": (DPU_RDMA.RDMA_DATA_CUBE_WIDTH, {"width": 6}, "DPU_RDMA's 7"),
    "RDMA height": (DPU_RDMA.RDMA_DATA_CUBE_HEIGHT, {"height": 6}, "DPU_RDMA's 7"),
    "RDMA channels": (DPU_RDMA.RDMA_DATA_CUBE_CHANNEL, {"channel": 63}, "DPU_RDMA's 64"),
    "RDMA mode": (DPU_RDMA.RDMA_FEATURE_MODE_CFG, {"conv_mode": 3}, "CNA's"),
    "un-pooling": (DPU_RDMA.RDMA_SRC_DMA_CFG, {"unpooling_en": 1}, "un-pooling"),
    "bias fault": (DPU_RDMA.RDMA_BS_BASE_ADDR, {"bs_base_addr": 0}, "BRDMA operands"),
}
MULTIPLY = {"bs_mul_src": 1}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_wrong_field_is_refused(case: tuple[Register, dict[str, int], str]):
    register, values, message = case
    fields = change(FIELDS, register, **values)
    if "bs_mul_bypass" in values:
        fields = change(fields, DPU.BS_MUL_CFG, **MULTIPLY)
    with pytest.raises(SimulatorError, match=message) as caught:
        Board().run(words(fields))
    assert str(caught.value).startswith("task 0 (stream 0x600000): ")


def test_the_unchanged_program_runs_without_warnings():
    for fields in (FIELDS, DEPTHWISE):
        board = Board()
        board.run(words(fields))
        assert board.machine.warnings == {}


@pytest.mark.parametrize(
    ("register", "values", "message"),
    [
        (CORE.DATAOUT_SIZE_1, {"dataout_channel": 31}, "S-190"),
        (CNA.WEIGHT_SIZE2, {"weight_kernels": 64}, "1 for depthwise"),
        (DPU.BS_OW_CFG, {"size_e_0": 1, "size_e_1": 1, "size_e_2": 1}, "size_e 1"),
    ],
)
def test_depthwise_rules(register: Register, values: dict[str, int], message: str):
    with pytest.raises(SimulatorError, match=message):
        Board().run(words(change(DEPTHWISE, register, **values)))


def _columns(height: int, banks: int) -> Fields:
    fields = convolution(Shape(height, 1, 1184, 32, output=(height, 1)))
    return change(fields, CNA.CBUF_CON0, data_bank=banks, weight_bank=12 - banks)


def test_features_must_fit_their_banks():
    with pytest.raises(SimulatorError, match=r"data_bank 6: 193 rows of 1216 bytes must fit"):
        Board().run(words(_columns(193, 6)))


@pytest.mark.parametrize("height", [189, 193, 216, 221])
def test_a_nearly_full_last_bank(height: int):
    """S-73, S-74: 1x1, IW 1, IC 1184: 97.6 to 99.8 % of the last bank give garbage; with a bank more they are right."""
    banks = -(-height * 1216 // 32768)
    fill = height * 1216 % 32768 / 32768
    fields = _columns(height, banks)
    if fill > 0.97:
        with pytest.raises(SimulatorError, match="S-74"):
            Board().run(words(fields))
    else:
        Board().run(words(fields))
    Board().run(words(_columns(height, banks + 1)))


def test_a_kernel_group_must_fit_its_banks():
    fields = convolution(Shape(8, 8, 32, 32, (8, 8), (1, 1), output=(1, 1)))
    with pytest.raises(SimulatorError, match="kernel group of 65536 bytes"):
        Board().run(words(change(fields, CNA.CBUF_CON0, weight_bank=1)))


def test_channels_are_whole_atoms():
    """F-24."""
    fields = change(convolution(Shape(8, 8, 32, 32)), CNA.DATA_SIZE1, datain_channel=24)
    fields = change(fields, CNA.FC_DATA_SIZE1, dma_channel=24)
    fields = change(change(fields, CNA.WEIGHT_SIZE0, weight_bytes=768), CNA.WEIGHT_SIZE1, weight_bytes_per_kernel=24)
    with pytest.raises(SimulatorError, match="DATA_SIZE1 = 24: a multiple of 16"):
        Board().run(words(fields))


def test_an_output_larger_than_its_input_is_refused():
    """F-50: sizes that contradict each other between CNA and CORE."""
    with pytest.raises(SimulatorError, match="last window starts at 8"):
        Board().run(words(convolution(Shape(output=(9, 8)))))


@pytest.mark.parametrize("fire", [0x00, 0x01, 0x05, 0x08, 0x10, 0x20, 0x3D, 0x7D])
def test_only_known_sets_of_blocks_are_fired(fire: int):
    with pytest.raises(SimulatorError, match=r"known are|never programmed"):
        Board().run(words(FIELDS, fire))


@pytest.mark.parametrize(("fire", "block"), [(POOLING, "PPU"), (0x1F, "start no block")])
def test_an_unprogrammed_block_wedges_the_core(fire: int, block: str):
    """npu.md §2.1."""
    with pytest.raises(SimulatorError, match=block):
        Board().run(words(FIELDS, fire))


def test_a_missing_part_of_the_fire_word():
    """Bias from memory, but DPU_RDMA is not started."""
    with pytest.raises(SimulatorError, match="BS addend"):
        Board().run(words(FIELDS, WITHOUT_RDMA))
    with pytest.raises(SimulatorError, match="flying_mode 0"):
        Board().run(words(FIELDS, FLYING))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (CNA.S_POINTER(pointer_pp_en=1), "S-92"),
        (CORE.S_POINTER(pointer_pp_en=1), "S-92"),
        (word(CNA.target, 0x1040, 1 << 14), "without a name"),
        (word(CNA.target, 0x10F0, 0), "no register"),
        (word(0x0301, 0, 0), "no block"),
        (PC.TASK_CON(task_number=2), "belongs to the kernel"),
        (word(DPU.target, 0x4000, 0), "read only"),
        (word(PC.target, 0x10, 0x600001), "16-byte"),
    ],
)
def test_words_a_stream_must_not_hold(command: int, message: str):
    with pytest.raises(SimulatorError, match=message):
        Board().run([command, *words(FIELDS)])


def test_what_silicon_tolerates_is_a_warning():
    """C-17: no sync word; C-19: WEIGHT_SIZE1; C-26: a register nobody wrote."""
    board = Board()
    stream = words(change(FIELDS, CNA.WEIGHT_SIZE1, weight_bytes_per_kernel=60))
    fields = {register: values for register, values in FIELDS.items() if register is not DPU.DATA_CUBE_NOTCH_ADDR}
    board.run([*stream[:-2], stream[-1]], words(fields))
    assert "no 0x0041 word before the fire word" in board.machine.warnings
    assert "CNA.WEIGHT_SIZE1 = 60, a kernel has 32 bytes" in board.machine.warnings
    assert any(text.startswith("DPU.DATA_CUBE_NOTCH_ADDR is read but") for text in board.machine.warnings)
