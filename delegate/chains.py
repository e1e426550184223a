"""Which tasks of a core the program controller may follow by itself (decision 0003)."""

from __future__ import annotations

from collections.abc import Sequence

from delegate.ir import AnyLayer, Convolution, Elementwise, Pooling, Tensor
from delegate.memory import Views


def read_early(layer: AnyLayer) -> tuple[Tensor, ...]:
    """What a layer reads through a client not shown to wait for writes of its chain (C-4, S-97)."""
    if isinstance(layer, Convolution):
        return layer.inputs
    return layer.reads if isinstance(layer, Pooling) else ()


def chains(owners: Sequence[AnyLayer], views: Views, limit: int, full: bool) -> tuple[range, ...]:
    """Ranges of tasks for Job.chains: a new one begins where a task may read too early what one of its range wrote.

    ``owners``: the layer of each task. A task of the PPU ends a range before it and behind it: only one kind of
    interrupt ends a chain (S-196). A range has the lookup tables of one layer, for only the first that are loaded in a
    chain take effect (S-218).
    """
    result: list[range] = []
    start = 0
    wrote: set[int] = set()
    pooled = False
    looked_up: AnyLayer | None = None  # the layer whose tables the range has loaded
    for index, layer in enumerate(owners):
        depends = not full and any(views.root(tensor).tensor.index in wrote for tensor in read_early(layer))
        pools = isinstance(layer, Pooling)
        has_table = isinstance(layer, Elementwise) and layer.table is not None
        reloads = has_table and looked_up not in (None, layer)
        if index > start and (depends or index - start == limit or pools != pooled or reloads):
            result.append(range(start, index))
            start, wrote, looked_up = index, set(), None
        wrote.add(views.root(layer.output).tensor.index)
        pooled = pools
        looked_up = layer if has_table else looked_up
    return (*result, range(start, len(owners)))
