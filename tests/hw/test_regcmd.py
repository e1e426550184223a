"""Words parse to commands and print as readable lines."""

from __future__ import annotations

import pytest

from delegate.errors import RegisterError
from delegate.hw.regcmd import FIRE_TARGET, SYNC_TARGET, disassemble, fire_names, parse, parse_word
from delegate.hw.registers import word
from delegate.hw.regs import CNA, DPU, DPU_RDMA, PC


def test_each_kind_of_word_is_recognised():
    words = [CNA.CONV_CON3(conv_x_stride=1), 0, word(1, 0, 0), word(SYNC_TARGET, 0, 0), word(FIRE_TARGET, 8, 0x1D)]
    commands = list(parse(words))
    assert [command.kind for command in commands] == ["write", "nop", "nop", "sync", "fire"]
    assert commands[0].register is CNA.CONV_CON3
    assert commands[4].value == 0x1D


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (word(0x0301, 0x1040, 0), "no block"),
        (word(0x0201, 0x10F0, 0), "no register"),
        (word(FIRE_TARGET, 0x10, 0x1D), "fire word"),
        (word(0, 0x1040, 3), "no-op"),
    ],
)
def test_words_that_do_not_exist_are_refused(bad: int, message: str):
    with pytest.raises(RegisterError, match=message):
        parse_word(bad)


def test_the_fire_bitmap_names_blocks():
    """S-88: a bitmap of participating blocks; bit 1 belongs to none."""
    assert fire_names(0x1D) == ("CNA", "CORE", "DPU", "DPU_RDMA")
    assert fire_names(0x18) == ("DPU", "DPU_RDMA")
    assert fire_names(0x60) == ("PPU", "PPU_RDMA")
    with pytest.raises(RegisterError, match="start no block"):
        fire_names(0x1F)


def test_disassembly_is_one_line_a_word():
    words = [
        CNA.CBUF_CON0(data_bank=10, weight_bank=2, weight_reuse=1),
        CNA.DMA_CON2(surf_stride=-3),
        CNA.PAD_CON0(),
        CNA.FEATURE_DATA_ADDR(feature_base_addr=0x4000),
        DPU.OUT_CVT_OFFSET(out_cvt_offset=-12),
        DPU_RDMA.RDMA_FEATURE_MODE_CFG(burst_len=15, mrdma_disable=1),
        PC.REGISTER_AMOUNTS(pc_data_amount=64),
        word(SYNC_TARGET, 0, 0),
        word(FIRE_TARGET, 8, 0x1D),
        0,
        word(CNA.target, 0x1040, 1 << 14),
        word(0x0301, 0, 0),
    ]
    assert disassemble(words) == (
        "CNA.CBUF_CON0 weight_reuse=1 weight_bank=2 data_bank=10\n"
        "CNA.DMA_CON2 surf_stride=-3\n"
        "CNA.PAD_CON0 0\n"
        "CNA.FEATURE_DATA_ADDR feature_base_addr=0x4000\n"
        "DPU.OUT_CVT_OFFSET out_cvt_offset=-12\n"
        "DPU_RDMA.RDMA_FEATURE_MODE_CFG burst_len=15 mrdma_disable=1\n"
        "PC.REGISTER_AMOUNTS pc_data_amount=64\n"
        "SYNC\n"
        "FIRE CNA|CORE|DPU|DPU_RDMA\n"
        "NOP\n"
        "CNA.CBUF_CON0 ?=0x4000\n"
        "? 0x0301000000000000 no block has the target 0x0301\n"
    )
