"""Why a layer's numbers may differ from TFLite's, and which unproven forms it uses; read off the layer itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from delegate.hw import soc
from delegate.ir import AnyLayer, Array, Convolution, Elementwise, Pooling, Requantize
from delegate.tools.accuracy.counts import quanta
from delegate.tools.accuracy.silicon import Reals

CARRIED = "differences of its inputs carried on"
TIE = "a tie on the NPU that is none, or goes the other way, in TFLite"


@dataclass(frozen=True)
class Cause:
    """``margin``: how far from a tie the NPU's number was at most, in output steps; None where it says nothing."""

    text: str
    elements: int
    largest: int  # quanta
    margin: float | None = None


def forms_of(layers: Iterable[AnyLayer]) -> tuple[str, ...]:
    """The unproven forms that layers use, in the order of ``hw.soc.FORMS``."""
    used = {form for layer in layers for form in forms_of_layer(layer)}
    return tuple(form for form in soc.FORMS if form in used)


def forms_of_layer(layer: AnyLayer) -> set[str]:
    """The unproven forms of one layer."""
    if isinstance(layer, Pooling):
        return set()
    if isinstance(layer, Elementwise):
        run = layer.requantize
        scales = layer.scales_main or (run.multiplier, run.shift, run.offset) != (1, 0, 0)
        found = {soc.FLYING_SCALE} if scales else set()
        found |= {soc.TABLE} if layer.table is not None else set()
        return found | ({soc.CHANNEL_OPERAND} if layer.per_channel else set())
    found = set()
    runs = layer.requantize
    if any(run.norm_multiplier is not None for run in runs):
        found.add(soc.NORM_SHIFT)
    if any(run.gain is not None for run in runs):
        found.add(soc.CHANNEL_GAIN)
    if layer.addend is not None and any(run.channel_multiplier is not None for run in runs):
        found.add(soc.OPERAND_GAIN)
    if any(run.relu or run.relu_limit is not None for run in runs):
        found.add(soc.BS_CLAMP)
    if any(move.source.pitch > move.source.width for move in layer.moves):
        found.add(soc.PART_OF_ROW)
    if any(move.target.pitch > move.target.width for move in layer.moves):
        found.add(soc.ROW_SKIP)
    return found


def arithmetic(layers: Sequence[AnyLayer]) -> str:
    """What of the layers' arithmetic is not TFLite's, in words."""
    return "; ".join(dict.fromkeys(text for layer in layers for text in texts_of(layer))) or "no rounding at all"


def texts_of(layer: AnyLayer) -> list[str]:
    """The same of one layer."""
    if isinstance(layer, Pooling):
        return []
    if isinstance(layer, Elementwise):
        texts = ["table of 16 bits, lines between its entries"] if layer.table is not None else []
        texts += ["factors of 16 bits in BS and EW"] if layer.scales_main else []
        return texts + (["factor of 15 bits in OUT_CVT"] if layer.requantize.multiplier > 1 else [])
    if layer.addend is not None and layer.operator != "ADD":
        return ["fused addition leaves a rounding out"]
    if layer.addend is not None:
        return ["sum: BS's factor of 20 bits and EW's of 15 against TFLite's of 31"]
    if layer.operator == "ADD" and len(layer.inputs) > 1:
        return ["sum: two weights of 8 bits and a factor of 15"]
    return list(dict.fromkeys(text_of_run(run) for run in layer.requantize if not is_copy(layer, run)))


def is_copy(layer: Convolution, run: Requantize) -> bool:
    """Whether a run gives bytes as they are: one weight, divided out again."""
    weights = np.unique(layer.weight)
    alone = run.channel_multiplier is None and run.norm_multiplier is None and weights.size <= 2
    return alone and int(weights[-1]) * run.multiplier == 1 << run.shift


def text_of_run(run: Requantize) -> str:
    if run.norm_multiplier is not None:
        return "two factors of 15 bits against TFLite's of 31"
    if run.gain is not None:
        return "factors of 15 and 7 bits a channel against TFLite's of 31"
    if run.channel_multiplier is not None:
        return "factor of 15 bits a channel against TFLite's of 31"
    return "factor of 15 bits and one rounding against TFLite's 31 and two"


def causes(layers: Sequence[AnyLayer], expected: Array, got: Array, margins: Reals) -> list[Cause]:
    """The elements that differ, ties apart from the rest; ``margins`` as in ``silicon.Memory``."""
    apart = quanta(expected, got).reshape(margins.shape)
    single = sum(layer.output.index == layers[-1].output.index for layer in layers) == len(layers)
    result = []
    for text, which in ((TIE, margins == 0), (arithmetic(layers), margins > 0)):
        where = (apart > 0) & which
        if where.any():
            margin = float(margins[where].max()) if single else None
            result.append(Cause(text, int(where.sum()), int(apart[where].max()), margin))
    return result


def merged(found: Iterable[Cause]) -> tuple[Cause, ...]:
    """One of each text, the most elements first."""
    result: dict[str, Cause] = {}
    for cause in found:
        old = result.get(cause.text, Cause(cause.text, 0, 0, None))
        known = [margin for margin in (old.margin, cause.margin) if margin is not None]
        result[cause.text] = Cause(
            cause.text, old.elements + cause.elements, max(old.largest, cause.largest), max(known, default=None)
        )
    return tuple(sorted(result.values(), key=lambda cause: -cause.elements))
