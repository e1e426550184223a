"""From a tile to the command words of one task: one generator a block, and the tail that fires it."""

from __future__ import annotations

from collections.abc import Iterator

from delegate.hw.emit.cna import emit_cna
from delegate.hw.emit.core import emit_core
from delegate.hw.emit.dpu import emit_dpu
from delegate.hw.emit.dpu_rdma import emit_dpu_rdma
from delegate.hw.emit.flying import emit_flying
from delegate.hw.emit.pooling import emit_pooling
from delegate.hw.emit.stream import FIRE_CONVOLUTION, FIRE_FLYING, FIRE_POOLING, Command
from delegate.ir import AnyTile, ConvTile, FlyingTile

__all__ = ["emit_convolution", "emit_task"]


def emit_task(tile: AnyTile) -> tuple[Iterator[Command], int]:
    """(the body of a tile's task, the blocks that it starts)."""
    if isinstance(tile, ConvTile):
        return emit_convolution(tile), FIRE_CONVOLUTION
    if isinstance(tile, FlyingTile):
        return emit_flying(tile), FIRE_FLYING
    return emit_pooling(tile), FIRE_POOLING


def emit_convolution(tile: ConvTile) -> Iterator[Command]:
    """The body of a convolution's task: every register of the four blocks, so that nothing is inherited (S-102)."""
    yield from emit_cna(tile)
    yield from emit_core(tile)
    yield from emit_dpu(tile)
    yield from emit_dpu_rdma(tile)
