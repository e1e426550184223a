"""Why a field may change without an effect: one list, each entry with its condition on the task and its source.

F-numbers are facts of docs/hardware.md, S- and C-numbers facts and contradictions of the hardware book, signs of
paragraphs sections of its npu.md.
"""

from __future__ import annotations

from delegate.hw.regs import PPU
from delegate.hw.sim.registers import IGNORED_BITS
from delegate.tools.mutate.outcome import BITS_WITHOUT_NAME, FIRED, Reason
from delegate.tools.mutate.reasons.cna import CNA_REASONS, HINTS
from delegate.tools.mutate.reasons.conditions import either, field, only_bits
from delegate.tools.mutate.reasons.dpu import DPU_REASONS
from delegate.tools.mutate.reasons.dpu_rdma import RDMA_REASONS

max_or_min = field(PPU.OPERATION_MODE_CFG, "pooling_method", 1, 2)
PPU_REASONS = (
    Reason(("PPU.OPERATION_MODE_CFG.use_cnt",), "makes no difference (S-176)"),
    Reason(("PPU.DATA_FORMAT.index_add",), "the index is not written (INDEX_EN 0, S-177)"),
    Reason(
        ("PPU.PADDING_VALUE_2_CFG.*", "PPU.UNDOC_*", "PPU_RDMA.UNDOC_*"), "not read: pads have at most 19 bits (§7)"
    ),
    Reason(
        ("PPU.PADDING_VALUE_1_CFG.*",),
        "no pads, or bits beyond the format's (§7)",
        either(field(PPU.POOLING_PADDING_CFG, "pad_left", 0), only_bits(0xFFFF0000)),
    ),
    Reason(("PPU.RECIP_*",), "the reciprocals belong to the average (§7)", max_or_min),
    Reason(("PPU.*", "PPU_RDMA.*"), "the values at hand do not tell", data=True),
)

SAME_BYTES = (
    Reason(
        ("*_ADDR.*", "*STRIDE.*", "*NOTCH*.*", "CNA.DMA_CON[12].*", "CNA.DCOMP_ADDR0.*"),
        "the same bytes lie there",
        data=True,
    ),
)
UNNAMED_REASONS = (
    Reason(
        (f"*.{BITS_WITHOUT_NAME}",),
        "bits that are known to be ignored (F-06)",
        lambda r, c: not (c.old ^ c.new) & ~_ignored(c.field),
    ),
    Reason((FIRED,), "a block left out had nothing to do (F-11)", data=False),
)


def _ignored(name: str) -> int:
    return next((mask | r.known_mask for r, mask in IGNORED_BITS.items() if name.startswith(r.full_name + ".")), 0)


REASONS = (*HINTS, *CNA_REASONS, *DPU_REASONS, *RDMA_REASONS, *PPU_REASONS, *SAME_BYTES, *UNNAMED_REASONS)

# Where no fired block sees a difference: by the mutation's row. Conditions cannot be on registers here.
UNSEEN = (
    Reason(("*.S_POINTER.*", "*.RDMA_S_POINTER.*"), "the group that is fired holds the same values (S-89 to S-91)"),
    Reason(("*.word twice",), "the same value again"),
    Reason(("*.word removed",), "the register held the value already, or was written twice, or no fired block has it"),
    Reason(("*.target bit", "*.offset bit"), "lands where it changes nothing that a fired block reads"),
    Reason(
        ("PC.REGISTER_AMOUNTS.*", "PC.BASE_ADDRESS.*", "PC.link and amount swapped"),
        "the last task of a start: nothing follows (S-94); or the amount still reaches the fire word (F-09)",
    ),
    Reason(("PC.unnamed bit",), "PC.REGISTER_AMOUNTS [31:16] is the vendor's core count (C-24)"),
    Reason(("PC.no-op word", "PC.sync word"), "no-ops have two targets (F-02)"),
    Reason(("DPU.LUT_ACCESS_*",), "the same entry in the same table, or a table that was loaded again"),
    Reason(("*.*OPERATION_ENABLE.*",), "the fire word starts the blocks (F-14)"),
    Reason(("*.*.*",), "the register is written again later in the stream, or its block is not fired"),
)
