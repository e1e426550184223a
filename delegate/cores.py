"""Which core computes what of an inference: stages, between which the cores wait for each other (decision 0013).

A stage is a run of layers on one core, or a run of layers each of which is cut into as many shares as there are cores,
by rows or by channels. In such a run no core touches what another one writes (footprint.py), so that it needs no
barrier inside; cores with memory of their own compute some rows twice for that (bands.py). The cheapest sequence of
stages is searched with the times of a board's clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Protocol

from delegate.bands import MOST_LAYERS, bands, depends_simply
from delegate.chains import chains
from delegate.errors import CompileError
from delegate.footprint import Meeting
from delegate.hw.emit import emit_task
from delegate.hw.emit.stream import assemble
from delegate.hw.soc import Soc
from delegate.hw.task import Buffer, Words
from delegate.ir import AnyLayer, AnyTile
from delegate.memory import Views
from delegate.share import Kind, Share

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
class Cut:
    """The tiles of a share of a layer."""

    tiles: Sequence[AnyTile]
    seconds: float  # without what is waited


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

    def workloads(self) -> list[Workload]:
        """What each core does in each of the stages that are the cheapest."""
        return [self.work(stage) for stage in self.stages()]

    def stages(self) -> list[Stage]:
        """The cheapest sequence, by dynamic programming over where a stage ends and whether it is split."""
        best: dict[tuple[int, bool], tuple[float, Stage | None, bool]] = {(0, False): (0.0, None, False)}
        for first in range(len(self.layers)):
            candidates = list(self.candidates(first))
            for before in (False, True):
                if (first, before) not in best:
                    continue
                for stage in candidates:
                    if stage.kind is None and first and not before:
                        continue  # the stage of one core before would go on
                    total = best[first, before][0] + stage.seconds + self.entering(stage, before)
                    key = (stage.layers.stop, stage.kind is not None)
                    if key not in best or total < best[key][0]:
                        best[key] = (total, stage, before)
        end = len(self.layers)
        ends = {split: best[end, split][0] for split in (False, True) if (end, split) in best}
        split = min(ends, key=lambda split: ends[split] + self.leaving(split))
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
            return (tuple((index, tile) for index in stage.layers for tile in self.whole[index].tiles),)
        shares = list(zip(stage.layers, self.shares(stage.kind, stage.layers), strict=True))
        return tuple(
            tuple((index, tile) for index, own in shares for tile in self.demand(index, own[core]).tiles)
            for core in range(self.division.cores)
        )

    def shares(self, kind: Kind, layers: range) -> list[list[Share]]:
        """What each core has of each layer of a stage."""
        cores = self.division.cores
        if kind == "rows" and self.division.own_memory:
            rows = bands([self.layers[index] for index in layers], cores)
            return [[Share(kind, core, cores, own[core] if own else None) for core in range(cores)] for own in rows]
        return [[Share(kind, core, cores) for core in range(cores)] for _ in layers]

    def candidates(self, first: int) -> Iterator[Stage]:
        """All stages that begin with a layer."""
        yield from self.splits(first)
        seconds = self.division.clock.job
        for index in range(first, len(self.layers)):
            if self.division.always and self.can_be_split[index]:
                return
            seconds += self.whole_waits[index] * (index > first) + self.whole_seconds[index]
            yield Stage(None, range(first, index + 1), seconds)

    def splits(self, first: int) -> Iterator[Stage]:
        """All stages of several cores that begin with a layer."""
        for kind in KINDS:
            if kind == "rows" and self.division.own_memory:
                yield from self.bands[first]
            else:
                yield from self.split_stages(kind, first)

    def split_stages(self, kind: Kind, first: int) -> Iterator[Stage]:
        """Stages of shares of one kind, as long as no core touches what another one writes."""
        meeting = Meeting(self.buffers)
        cuts: list[list[Cut]] = []
        for index in range(first, len(self.layers)):
            ((*shares,),) = self.shares(kind, range(index, index + 1))
            found = [cut for cut in (self.cut(index, share) for share in shares) if cut]
            if len(found) < len(shares) or not all(meeting.add(core, cut.tiles) for core, cut in enumerate(found)):
                return
            cuts.append(found)
            yield self.stage(kind, range(first, index + 1), cuts)

    def band_stages(self, last: int) -> Iterator[Stage]:
        """Stages of bands that end with a layer; its bands do not depend on where they begin."""
        for first in range(last, max(-1, last - MOST_LAYERS), -1):
            layers = range(first, last + 1)
            if not all(depends_simply(self.layers[index], self.layers[first], self.views) for index in layers):
                return
            found = [
                [self.cut(i, one) for one in own] for i, own in zip(layers, self.shares("rows", layers), strict=True)
            ]
            cuts = [[cut for cut in own if cut] for own in found]
            if any(len(own) < self.division.cores for own in cuts):
                return
            yield self.stage("rows", layers, cuts)

    def stage(self, kind: Kind, layers: range, cuts: Sequence[Sequence[Cut]]) -> Stage:
        """A stage that takes as long as its busiest core. ``cuts``: of each layer for each core."""
        clock, longest = self.division.clock, 0.0
        for core in range(self.division.cores):
            owners = [self.layers[i] for i, own in zip(layers, cuts, strict=True) for _ in own[core].tiles]
            longest = max(longest, sum(own[core].seconds for own in cuts) + self.waits(owners))
        return Stage(kind, layers, clock.job + clock.core * (self.division.cores - 1) + longest)

    def waits(self, owners: Sequence[AnyLayer]) -> float:
        """What a core waits between its tasks, given the layer of each."""
        restarts = len(chains(owners, self.views, self.soc.largest_chain, self.full_chains)) - 1
        clock = self.division.clock
        return restarts * clock.restart + (len(owners) - 1 - restarts) * clock.step

    def entering(self, stage: Stage, after_split: bool) -> float:
        """What the host has to do before a stage, at most: all that is read is shown, and copied to all or from all."""
        if not self.division.own_memory or (stage.kind is None and not after_split):
            return 0.0
        made = {self.layers[index].output.index for index in stage.layers}
        read = {t.index: t for index in stage.layers for t in self.layers[index].reads if t.index not in made}
        size = sum(
            self.buffers[buffer].size for buffer in {self.places[index] for index in read if index in self.places}
        )
        others = self.division.cores - 1
        if stage.layers.start == 0:
            shown = others  # nothing has run yet that the host would have to be shown
        elif stage.kind is None:
            shown = others + 2
        else:
            shown = 2 * others + (2 if after_split else 1)
        return self.division.clock.exchange(shown * size, others * size)

    def leaving(self, split: bool) -> float:
        """What the host has to do for the outputs, at most."""
        if not (split and self.division.own_memory):
            return 0.0
        size = sum(buffer.size for buffer in self.buffers if buffer.role == "output")
        return self.division.clock.exchange(self.division.cores * size, size)

    def cut(self, index: int, share: Share | None) -> Cut | None:
        """A share of a layer; None where it cannot be."""
        if (index, share) not in self._cuts:
            try:
                tiles = self.cutters[index](share)
            except CompileError:
                self._cuts[index, share] = None
            else:
                streams = [assemble(*emit_task(tile))[0] for tile in tiles]
                cores = self.division.cores if share else 1
                self._cuts[index, share] = Cut(tiles, sum(self.division.clock.tasks(streams, cores)))
        return self._cuts[index, share]

    def demand(self, index: int, share: Share | None) -> Cut:
        """A share that is known to be."""
        cut = self.cut(index, share)
        assert cut is not None
        return cut

    @cached_property
    def _cuts(self) -> dict[tuple[int, Share | None], Cut | None]:
        return {}

    @cached_property
    def bands(self) -> list[list[Stage]]:
        """All stages of bands, by where they begin."""
        found: list[list[Stage]] = [[] for _ in self.layers]
        for last in range(len(self.layers)):
            for stage in self.band_stages(last):
                found[stage.layers.start].append(stage)
        return found

    @cached_property
    def can_be_split(self) -> list[bool]:
        """Whether a stage of several cores can begin with each layer."""
        return [any(True for _ in self.splits(index)) for index in range(len(self.layers))]

    @cached_property
    def whole(self) -> list[Cut]:
        """Each layer on one core."""
        return [self.demand(index, None) for index in range(len(self.layers))]

    @cached_property
    def whole_seconds(self) -> list[float]:
        """Of each layer on one core, with what is waited between its tasks."""
        return [
            cut.seconds + self.waits([layer] * len(cut.tiles))
            for layer, cut in zip(self.layers, self.whole, strict=True)
        ]

    @cached_property
    def whole_waits(self) -> list[float]:
        """Before each layer on one core that goes on with it."""
        owners = [layer for layer, cut in zip(self.layers, self.whole, strict=True) for _ in cut.tiles]
        cuts = {chain.start for chain in chains(owners, self.views, self.soc.largest_chain, self.full_chains)}
        starts = [0, *accumulate(len(cut.tiles) for cut in self.whole)][:-1]
        clock = self.division.clock
        return [clock.restart if start in cuts else clock.step for start in starts]
