"""What each of several cores computes of a layer, and how a range is cut evenly."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Literal

from delegate.errors import CompileError
from delegate.hw.layout import divide_up
from delegate.hw.soc import Soc
from delegate.ir import Requantize


def parts(total: int, count: int) -> list[range]:
    """``total`` cut into ``count`` ranges whose lengths differ by one at most."""
    edges = [total * index // count for index in range(count + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


def slices(rows: range, count: int) -> list[range]:
    """Rows cut as evenly as parts() does."""
    return [range(rows.start + part.start, rows.start + part.stop) for part in parts(len(rows), count)]


Kind = Literal["rows", "channels"]


@dataclass(frozen=True)
class Share:
    """What one of several cores computes of a layer: rows of each image, or groups of its output channels."""

    kind: Kind
    core: int
    cores: int
    rows: range | None = None  # of the output, where a core computes more than its own for layers behind this one

    def of(self, total: int) -> range:
        """This core's part of so many rows or groups."""
        return parts(total, self.cores)[self.core]


def rows_of(share: Share | None, height: int, soc: Soc) -> range:
    """The output rows of a share; raises CompileError where a core would get less than a line group (S-69)."""
    if share is None or share.kind == "channels":
        return range(height)
    if height // share.cores < soc.line_group:
        raise CompileError(f"{height} rows are too few for {share.cores} cores")
    return share.of(height) if share.rows is None else share.rows


def channels_of(share: Share | None, channels: int, group: int, soc: Soc) -> range:
    """The output channels of a share, whole groups; raises CompileError where there are not as many as cores.

    If there are enough, the groups are those of depthwise convolutions for all layers, so that their shares agree.
    """
    if share is None or share.kind == "rows":
        return range(channels)
    unit = soc.depthwise_group if channels >= soc.depthwise_group * share.cores else group
    count = divide_up(channels, unit)
    if count < share.cores:
        raise CompileError(f"{channels} channels are too few for {share.cores} cores")
    groups = share.of(count)
    return range(groups.start * unit, min(groups.stop * unit, channels))


def narrowed(run: Requantize, channels: range) -> Requantize | None:
    """A run's part in some output channels of its layer; None if it has none."""
    start, stop = max(run.channels.start, channels.start), min(run.channels.stop, channels.stop)
    if start >= stop:
        return None
    own = slice(start - run.channels.start, stop - run.channels.start)
    return replace(
        run,
        channels=range(start, stop),
        channel_multiplier=None if run.channel_multiplier is None else run.channel_multiplier[own],
        gain=None if run.gain is None else run.gain[own],
    )
