"""Register fields encode and decode, and the tables agree with the hardware book's list."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from delegate.errors import RegisterError
from delegate.hw.regcmd import BLOCKS
from delegate.hw.registers import Bits, Block, Register, bit, lookup, split, word
from delegate.hw.regs import CNA, DPU, PC


def test_a_field_takes_its_range_and_nothing_more():
    unsigned, signed = Bits(7, 4), Bits(15, 0, signed=True)
    assert [unsigned.encode(value) for value in (0, 15)] == [0, 0xF0]
    assert [signed.encode(value) for value in (-1, -32768, 32767)] == [0xFFFF, 0x8000, 0x7FFF]
    for bits, value in ((unsigned, 16), (unsigned, -1), (signed, 32768), (signed, -32769)):
        with pytest.raises(RegisterError, match="does not fit"):
            bits.encode(value)


def test_decoding_undoes_encoding():
    values = {"datain_width": 224, "datain_height": 91}
    assert CNA.DATA_SIZE0.decode(CNA.DATA_SIZE0.encode(**values)) == values
    assert CNA.DMA_CON2.decode(CNA.DMA_CON2.encode(surf_stride=-3)) == {"surf_stride": -3}


def test_a_word_is_target_value_offset():
    command = CNA.CBUF_CON0(data_bank=10, weight_bank=2)
    assert command == 0x0201_0000002A_1040
    assert split(command) == (0x0201, 0x1040, 0x2A)
    assert word(0x0201, 0x1040, 0x2A) == command


def test_unknown_fields_bits_and_registers_are_refused():
    with pytest.raises(RegisterError, match="has no field banks"):
        CNA.CBUF_CON0.encode(banks=1)
    with pytest.raises(RegisterError, match="have no name"):
        CNA.CBUF_CON0.decode(1 << 14)
    with pytest.raises(RegisterError, match="no register at 0x1fff"):
        lookup(CNA.target, 0x1FFF)
    with pytest.raises(RegisterError, match="no block"):
        lookup(0x0301, 0x1040)


def test_overlapping_fields_and_offsets_are_refused():
    with pytest.raises(RegisterError, match="overlaps"):
        Register(0x0, low=Bits(4, 0), high=Bits(8, 4))
    with pytest.raises(RegisterError, match="one offset"):

        class Twice(Block, target=0x7001):
            FIRST = Register(0x0, value=bit(0))
            SECOND = Register(0x0, value=bit(1))

    Block.blocks.pop(0x7001, None)


def test_every_block_knows_its_target():
    assert {block.target for block in BLOCKS} == set(Block.blocks)
    assert lookup(DPU.target, 0x4084) is DPU.OUT_CVT_SCALE
    assert lookup(PC.target, 0x0010) is PC.BASE_ADDRESS


def _book(shared: Path) -> dict[tuple[int, int], dict[str, tuple[int, int]]]:
    """The book's streamable registers: (target, offset) to fields with (high, low)."""
    blocks = json.loads((shared / "hardware" / "registers.json").read_text())["blocks"]
    return {
        (block["stream_target"], register["offset"]): {
            field["name"].lower(): (field["high"], field["low"])
            for field in register["fields"]
            if not field.get("reserved")
        }
        for block in blocks
        if block["streamable"]
        for register in block["registers"]
    }


def test_the_tables_hold_every_register_of_the_book(shared: Path):
    more = set()
    for (target, offset), fields in _book(shared).items():
        ours = {(bits.high, bits.low) for bits in lookup(target, offset).fields.values()}
        assert set(fields.values()) <= ours, f"{target:#x} {offset:#x}"
        more |= {(target, offset, *position) for position in ours - set(fields.values())}
    assert more == {(0x2001, 0x501C, 0, 0), (0x2001, 0x5028, 0, 0)}  # S-158: bit 0 turns BRDMA and NRDMA off


def test_the_tables_hold_nothing_else_but_what_programs_write(shared: Path):
    ours = {(block.target, offset) for block in BLOCKS for offset in block.by_offset}
    assert ours - set(_book(shared)) == {(0x8001, 0x7038)}  # written 1 by pooling programs that pass
