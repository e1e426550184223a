"""Which core computes what of an inference: stages, between which the cores wait for each other (decision 0013).

A stage is a run of layers on one core, or a run of layers each of which is cut into as many shares as there are cores,
by rows or by channels. In such a run no core touches what another one writes (footprint.py), so that it needs no
barrier inside. The cheapest sequence of stages is searched with the times of a board's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal, Protocol

from delegate.chains import chains
from delegate.errors import CompileError
from delegate.footprint import Meeting
from delegate.hw.emit import emit_task
from delegate.hw.emit.stream import assemble
from delegate.hw.soc import Soc
from delegate.hw.task import Buffer, Words
from delegate.ir import AnyLayer, AnyTile
from delegate.memory import Views
from delegate.share import Share

Kind = Literal["rows", "channels"]
KINDS: tuple[Kind, ...] = ("rows", "channels")

Cutter = Callable[[Share | None], Sequence[AnyTile]]
"""The tiles of a layer, or of a share of it; raises CompileError for a share that cannot be."""

Work = tuple[int, AnyTile]
"""The index of a layer and a tile of it."""


class Clock(Protocol):
    """The times of a board in seconds: hw.timing's, which the compiler does not know."""

    @property
    def job(self) -> float:
        """From submit to end of a stage with a tiny task on one core."""

    @property
    def core(self) -> float:
        """More for each further core."""

    @property
    def restart(self) -> float:
        """Between tasks, by the kernel."""

    @property
    def step(self) -> float:
        """Between tasks that the program controller may chain."""

    def tasks(self, streams: Sequence[Words], cores: int) -> Sequence[float]:
        """How long streams take, one behind the other on a core, while so many cores work."""

    def exchange(self, synchronized: int, copied: int) -> float:
        """How long the host takes for showing and copying so many bytes."""


@dataclass(frozen=True)
class Division:
    """How an inference may be spread over cores."""

    cores: int
    always: bool  # split whatever can be split, whether it gains or not
    own_memory: bool  # each core has memory of its own, and the host copies between them (S-203)
    clock: Clock


@dataclass(frozen=True)
class Stage:
    """A run of layers between two barriers; ``kind`` None: on one core."""

    kind: Kind | None
    layers: range
    seconds: float


Workload = tuple[tuple[Work, ...], ...]
"""What each core of a stage does, in order."""


@dataclass(frozen=True)
class Planner:
    """A network to divide."""

    layers: Sequence[AnyLayer]
    cutters: Sequence[Cutter]
    views: Views
    buffers: Sequence[Buffer]
    places: Mapping[int, int]  # buffer of each tensor, by index
    soc: Soc
    full_chains: bool
    division: Division

    def stages(self) -> list[Stage]:
        """The cheapest sequence, by dynamic programming over where a stage ends and whether it is split."""
        best: dict[tuple[int, bool], tuple[float, Stage | None, bool]] = {(0, False): (0.0, None, False)}
        for first in range(len(self.layers)):
            candidates = list(self.candidates(first))
            for before in (False, True):
                if (first, before) not in best:
                    continue
                for stage in candidates:
                    total = best[first, before][0] + stage.seconds + self.entering(stage, before)
                    key = (stage.layers.stop, stage.kind is not None)
                    if key not in best or total < best[key][0]:
                        best[key] = (total, stage, before)
        end = len(self.layers)
        split = min((split for split in (False, True) if (end, split) in best), key=lambda split: best[end, split][0])
        found: list[Stage] = []
        while end:
            _, last, split = best[end, split]
            assert last is not None
            found.insert(0, last)
            end = last.layers.start
        return found

    def work(self, stage: Stage) -> Workload:
        """The tiles of each core."""
        if stage.kind is None:
            return (tuple((index, tile) for index in stage.layers for tile in self.whole[index]),)
        kind = stage.kind
        shares = [(index, self.shares[kind, index]) for index in stage.layers]
        return tuple(
            tuple((index, tile) for index, share in shares if share for tile in share.tiles[core])
            for core in range(self.division.cores)
        )

    def candidates(self, first: int) -> Iterator[Stage]:
        """All stages that begin with a layer."""
        for kind in KINDS:
            yield from self.split_stages(kind, first)
        seconds = self.division.clock.job
        for index in range(first, len(self.layers)):
            if self.division.always and self.can_be_split(index):
                return
            seconds += self.whole_waits[index] * (index > first) + self.whole_seconds[index]
            yield Stage(None, range(first, index + 1), seconds)

    def can_be_split(self, index: int) -> bool:
        return any(self.shares[kind, index] is not None for kind in KINDS)

    def split_stages(self, kind: Kind, first: int) -> Iterator[Stage]:
        """Stages of shares of one kind, as long as no core touches what another one writes."""
        division, meeting = self.division, Meeting(self.buffers)
        seconds = [0.0] * division.cores
        owners: list[list[AnyLayer]] = [[] for _ in seconds]
        for index in range(first, len(self.layers)):
            share = self.shares[kind, index]
            if share is None or not all(meeting.add(core, tiles) for core, tiles in enumerate(share.tiles)):
                return
            for core, tiles in enumerate(share.tiles):
                seconds[core] += share.seconds[core]
                owners[core] += [self.layers[index]] * len(tiles)
            longest = max(own + self.waits(layers) for own, layers in zip(seconds, owners, strict=True))
            clock = division.clock
            yield Stage(kind, range(first, index + 1), clock.job + clock.core * (division.cores - 1) + longest)

    def waits(self, owners: Sequence[AnyLayer]) -> float:
        """What a core waits between its tasks, given the layer of each."""
        restarts = len(chains(owners, self.views, self.soc.largest_chain, self.full_chains)) - 1
        clock = self.division.clock
        return restarts * clock.restart + (len(owners) - 1 - restarts) * clock.step

    def entering(self, stage: Stage, after_split: bool) -> float:
        """What the host has to do before a stage, about: all that it reads is shown, and copied to all or from all."""
        if not self.division.own_memory or (stage.kind is None and not after_split):
            return 0.0
        made = {self.layers[index].output.index for index in stage.layers}
        read = {t.index: t for index in stage.layers for t in self.layers[index].reads if t.index not in made}
        size = sum(self.buffers[self.places[index]].size for index in read)
        return self.division.clock.exchange(2 * self.division.cores * size, size)

    @cached_property
    def whole(self) -> list[Sequence[AnyTile]]:
        """The tiles of each layer on one core."""
        return [cut(None) for cut in self.cutters]

    @cached_property
    def whole_seconds(self) -> list[float]:
        """Of each layer on one core, with what is waited between its tasks."""
        return [
            sum(self.seconds(tiles, 1)) + self.waits([layer] * len(tiles))
            for layer, tiles in zip(self.layers, self.whole, strict=True)
        ]

    @cached_property
    def whole_waits(self) -> list[float]:
        """Before each layer on one core that goes on with it."""
        owners = [layer for layer, tiles in zip(self.layers, self.whole, strict=True) for _ in tiles]
        cuts = {chain.start for chain in chains(owners, self.views, self.soc.largest_chain, self.full_chains)}
        starts = [0, *accumulate(len(tiles) for tiles in self.whole)][:-1]
        clock = self.division.clock
        return [clock.restart if start in cuts else clock.step for start in starts]

    @cached_property
    def shares(self) -> dict[tuple[Kind, int], Shares | None]:
        """Of each layer by kind; None where it cannot be cut so, or where the cores would meet."""
        return {(kind, index): self.share(kind, index) for kind in KINDS for index in range(len(self.layers))}

    def share(self, kind: Kind, index: int) -> Shares | None:
        cores, meeting = self.division.cores, Meeting(self.buffers)
        try:
            tiles = [self.cutters[index](Share(kind, core, cores)) for core in range(cores)]
        except CompileError:
            return None
        if not all(meeting.add(core, own) for core, own in enumerate(tiles)):
            return None
        return Shares(tuple(tiles), tuple(sum(self.seconds(own, cores)) for own in tiles))

    def seconds(self, tiles: Sequence[AnyTile], cores: int) -> Sequence[float]:
        """How long tiles take."""
        return self.division.clock.tasks([assemble(*emit_task(tile))[0] for tile in tiles], cores)


@dataclass(frozen=True)
class Shares:
    """A layer cut for all cores."""

    tiles: tuple[Sequence[AnyTile], ...]
    seconds: tuple[float, ...]  # of each core, without what is waited
