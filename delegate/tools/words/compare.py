"""The verdict on each register of a layer: identical, different for a reason that is checked, or wrong."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Literal

from delegate.ir import Node
from delegate.tools.listing import ListedTask
from delegate.tools.words import contents
from delegate.tools.words.facts import FORMULAS, Facts, facts_of
from delegate.tools.words.observe import Cut, Observed, cuts, observe, with_cut
from delegate.tools.words.reasons import REASONS, Upstream

Status = Literal["identical", "deliberate", "wrong"]
WEIGHTS, BIAS = "contents: weights", "contents: bias"  # judged beside the registers
# Reasons that may change what the buffers hold.
WEIGHT_REASONS = (
    "signed bytes",
    "depth multiplier",
    "one channel is direct",
    "short kernel group",
    "short depthwise group",
)
BIAS_REASONS = ("signed bytes", "depth multiplier", "accumulator halved")
Steps = Sequence[tuple[str, Facts]]


@dataclass(frozen=True)
class Verdict:
    """What became of one register, or of a buffer's contents, in one layer."""

    status: Status
    reasons: tuple[str, ...] = ()  # titles
    details: tuple[str, ...] = ()  # of what is wrong: field, value, what the formula gives


@dataclass(frozen=True)
class Side:
    """A layer as one compiler has it."""

    tasks: Sequence[ListedTask]
    next_words: Sequence[int]  # of each task: words of the stream it leads to, 0 if to none
    weights_digest: str  # sha256 of all bytes
    weights_size: int
    bias: bytes | None  # None where it is not known

    def observed(self) -> list[Observed]:
        return [observe(task, self.tasks[0]) for task in self.tasks]


@dataclass(frozen=True)
class LayerResult:
    """A layer that both compilers take."""

    title: str
    ours: tuple[Cut, ...]
    theirs: tuple[Cut, ...]
    verdicts: Mapping[str, Verdict]  # by register; of a layer in several tasks only those that are wrong
    multipliers: tuple[float, float] | None  # ours, theirs: programmed by exact factor; None with a fused addition

    @property
    def is_whole(self) -> bool:
        """Whether neither side cuts the layer."""
        return len(self.ours) == len(self.theirs) == 1

    @property
    def status(self) -> Status:
        return worst(verdict.status for verdict in self.verdicts.values())


def worst(statuses: Iterable[Status]) -> Status:
    found = set(statuses)
    return "wrong" if "wrong" in found else "deliberate" if "deliberate" in found else "identical"


def compare_layer(title: str, node: Node, upstream: Upstream, ours: Side, theirs: Side) -> LayerResult:
    """Judges a layer that both sides take."""
    left, right = ours.observed(), theirs.observed()
    f = facts_of(node)
    expected = explain(f, upstream)[-1][1]
    our_cuts, their_cuts = tuple(cuts(left, f.output_height)), tuple(cuts(right, expected.output_height))
    verdicts = dict(judge_contents(node, ours, theirs, f, explain(f, upstream)))
    own = [replace(f, next_words=words) for words in ours.next_words]
    tails = zip_longest(ours.next_words[: len(right)], theirs.next_words, fillvalue=0)
    paths = [explain(replace(f, next_words=a), replace(upstream, next_words=b)) for a, b in tails]
    if len(left) == len(right) == 1:
        merge(verdicts, judge(left[0], right[0], own[0], paths[0]))
    else:
        for a, part, cut in zip(left, own, our_cuts, strict=True):
            merge(verdicts, wrong_only(errors("ours", a, with_cut(part, cut) if len(left) > 1 else part)))
        for b, path, cut in zip(right, paths, their_cuts, strict=True):
            part = with_cut(path[-1][1], cut) if len(right) > 1 else path[-1][1]
            merge(verdicts, wrong_only(errors("upstream's", b, part)))
    exact = f.real_scale
    factors = None if upstream.addition else (multiplier(left[0]) / exact, multiplier(right[0]) / exact)
    return LayerResult(title, our_cuts, their_cuts, verdicts, factors)


def multiplier(o: Observed) -> float:
    """The factor from accumulator to output as programmed."""
    shift = o["DPU.OUT_CVT_SHIFT.out_cvt_shift"] + o["CORE.CLIP_TRUNCATE.clip_truncate"]
    return math.ldexp(o["DPU.OUT_CVT_SCALE.out_cvt_scale"], -shift)


def merge(verdicts: dict[str, Verdict], more: Mapping[str, Verdict]) -> None:
    """Adds the verdicts of one more task to those of a layer."""
    for name, new in more.items():
        old = verdicts.get(name, new)
        reasons = tuple(sorted({*old.reasons, *new.reasons}))
        details = tuple(dict.fromkeys((*old.details, *new.details)))
        verdicts[name] = Verdict(worst((old.status, new.status)), reasons, details)


def explain(f: Facts, upstream: Upstream) -> list[tuple[str, Facts]]:
    """The facts after each reason that applies, with its title; the last ones are upstream's."""
    steps = []
    for reason in REASONS:
        if reason.applies(f, upstream):
            f = reason.change(f, upstream)
            steps.append((reason.title, f))
    return steps


def register_of(name: str) -> str:
    return ".".join(name.split(".")[:2])


def errors(whose: str, o: Observed, f: Facts) -> Iterator[tuple[str, str]]:
    """(register, text) of the fields that are not what the formulas give."""
    for name, formula in FORMULAS.items():
        if o.get(name, 0) != formula(f):
            yield register_of(name), f"{whose} {name} is {o.get(name, 0)}, the formula gives {formula(f)}"


def wrong_only(found: Iterable[tuple[str, str]]) -> dict[str, Verdict]:
    texts: dict[str, list[str]] = {}
    for register, text in found:
        texts.setdefault(register, []).append(text)
    return {register: Verdict("wrong", details=tuple(lines)) for register, lines in texts.items()}


def judge(ours: Observed, theirs: Observed, f: Facts, path: Steps) -> dict[str, Verdict]:
    """The verdict on each register of two tasks that compute the same."""
    found = [*errors("ours", ours, f), *errors("upstream's", theirs, path[-1][1])]
    names = dict.fromkeys([*ours, *theirs])
    differing = [name for name in names if ours.get(name, 0) != theirs.get(name, 0)]
    for name in differing:
        if name not in FORMULAS:
            text = f"{name} is {ours.get(name)}, upstream's {theirs.get(name)}, and there is no formula"
            found.append((register_of(name), text))
    result = {register_of(name): Verdict("identical") for name in names}
    for name in differing:
        if name in FORMULAS:
            merge(result, {register_of(name): Verdict("deliberate", tuple(causes(name, f, path)))})
    return result | wrong_only(found)


def causes(name: str, f: Facts, path: Steps) -> Iterator[str]:
    """The reasons that change what a field's formula gives."""
    formula, before = FORMULAS[name], f
    for title, after in path:
        if formula(after) != formula(before):
            yield title
        before = after


def judge_contents(node: Node, ours: Side, theirs: Side, f: Facts, steps: Steps) -> Iterator[tuple[str, Verdict]]:
    """Weights and bias: each side by its formula, and whether the two are the same as far as both go."""
    applied = [title for title, _ in steps]
    own, other = contents.our_weights(node, f), contents.upstream_weights(node, theirs.weights_size)
    sound = digest(own) == ours.weights_digest and digest(other) == theirs.weights_digest
    yield WEIGHTS, content_verdict(sound, same(own, other), [title for title in WEIGHT_REASONS if title in applied])
    if theirs.bias is not None and ours.bias is not None:
        own = contents.our_bias(node, f)
        other = contents.upstream_bias(node, len(theirs.bias), steps[-1][1].truncate > 0)
        sound = ours.bias == own and theirs.bias == other
        yield BIAS, content_verdict(sound, same(own, other), [title for title in BIAS_REASONS if title in applied])


def same(a: bytes, b: bytes) -> bool:
    """Whether two contents are equal but for zeros at the end."""
    return a.rstrip(b"\0") == b.rstrip(b"\0")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def content_verdict(sound: bool, same: bool, reasons: Sequence[str]) -> Verdict:
    """``sound``: both sides hold what their formulas give."""
    if not sound:
        return Verdict("wrong", details=("the contents are not what the formulas give",))
    if same:
        return Verdict("identical")
    if not reasons:
        return Verdict("wrong", details=("the contents differ, and no reason applies",))
    return Verdict("deliberate", tuple(reasons))
