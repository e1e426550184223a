"""From a tile to the command words of one task: one generator a block, and the tail that fires it."""

from __future__ import annotations

from collections.abc import Iterator

from delegate.hw.emit.cna import emit_cna
from delegate.hw.emit.core import emit_core
from delegate.hw.emit.dpu import emit_dpu
from delegate.hw.emit.dpu_rdma import emit_dpu_rdma
from delegate.hw.emit.stream import Command
from delegate.ir import ConvTile

__all__ = ["emit_convolution"]


def emit_convolution(tile: ConvTile) -> Iterator[Command]:
    """The body of a convolution's task: every register of the four blocks, so that nothing is inherited (S-102)."""
    yield from emit_cna(tile)
    yield from emit_core(tile)
    yield from emit_dpu(tile)
    yield from emit_dpu_rdma(tile)
