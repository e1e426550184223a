"""CORE: the MAC array and its accumulators."""

from __future__ import annotations

from collections.abc import Iterator

from delegate.hw.emit.stream import Command
from delegate.hw.regs import CORE
from delegate.ir import ConvTile


def emit_core(tile: ConvTile) -> Iterator[Command]:
    """The registers of CORE. QD_EN stands for 8-bit output (npu.md §5.2); CHANNEL holds whole groups (S-190, S-191)."""
    yield CORE.MISC_CFG(dw_en=tile.layer.depthwise, qd_en=1)
    yield CORE.DATAOUT_SIZE_0(dataout_height=tile.output_height - 1, dataout_width=tile.output_width - 1)
    yield CORE.DATAOUT_SIZE_1(dataout_channel=tile.output_channels - 1)
    yield CORE.CLIP_TRUNCATE()
    yield CORE.UNDOC_3030()
