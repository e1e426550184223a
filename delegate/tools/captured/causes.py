"""Why a captured operation differs from TFLite: what the words say beside what the model means, part by part.

A cause counts only if its arithmetic shows it: the layer as sent gives the simulator's result on every element, and
gives another one once that part is put right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from delegate.tools.captured.ideal import (
    Work,
    added,
    ideal_layer,
    ideal_output,
    real_multiplier,
    tflite_output,
)
from delegate.tools.captured.integer import Converter, Ints, Layer, evaluate, uncarried_multiplier
from delegate.tools.captured.upstream import zero_point

# The causes, in the order of the table (golden/README.md, "Read with care"; docs/hardware.md).
SIGNED = "int8 bytes are handled as uint8"
SWAPPED = "width and height are swapped in places"
DILATION = "dilation is not in the words"
MULTIPLIED = "a depth multiplier is not in the words"
PACKED = "weights do not lie as the chip reads them"
PITCH = "rows of a one-channel input are sought at another pitch than they have"
PADDING = "the padding value is not the input's zero point"
TRUNCATED = "the accumulator is truncated by one bit (CLIP_TRUNCATE), biases halved"
CARRY = "the multiplier lost its carry (S-10)"
MULTIPLIER = "the multiplier is not that of the scales"
BIAS = "the biases are not those of the model"
ACTIVATION = "the activation is not in the words"
OFFSET = "the output's zero point is not the model's"
FUSED = "the addition sees the convolution neither rounded nor clamped"

FIELDS = {
    SWAPPED: ("features", "kernels", "stride", "padding", "output", "dilation"),
    DILATION: ("features", "kernels", "stride", "padding", "output", "dilation"),
    MULTIPLIED: ("features", "kernels", "bias"),
    PACKED: ("features", "kernels"),
    PITCH: ("features",),
    PADDING: ("pad",),
    TRUNCATED: ("truncate", "bias", "converter"),
    CARRY: ("converter",),
    MULTIPLIER: ("converter",),
    BIAS: ("bias",),
    ACTIVATION: ("low", "high"),
    OFFSET: ("converter",),
}


@dataclass(frozen=True)
class Agreement:
    """How one operation's result on the simulator compares; element counts."""

    elements: int
    model_equal: int  # equal to the integer model of the layer as the TFLite model means it
    sent_equal: int  # equal to the integer model of the layer as the words and buffers have it
    exact: int  # equal to TFLite's reference arithmetic
    within_one: int
    largest: int  # difference to TFLite
    ideal_largest: int  # difference of the integer model, as the TFLite model means it, to TFLite
    causes: tuple[str, ...]  # of what is sent being another layer than the model's

    @property
    def verdict(self) -> str:
        """exact, within 1, explained or unexplained."""
        if self.sent_equal < self.elements:
            return "unexplained"
        if self.exact == self.elements:
            return "exact"
        if self.within_one == self.elements:
            return "within 1"
        return "explained" if self.causes and self.ideal_largest <= 1 else "unexplained"


def judge(work: Work, sent: Layer, got: Ints) -> Agreement:
    """Compares a result in the chip's domain, (output pixels, channels), with both integer models and with TFLite.

    The multiplier of the integer model of the TFLite model is that of the words.
    """
    shift = 0 if work.signed else 128
    tflite = tflite_output(work)
    seen = host_view(got, work.signed)
    as_sent = evaluate(sent)
    meant = ideal_output(work)
    with_words = replace_multiplier(work, sent, meant)
    difference = np.abs(seen - tflite)
    same = np.array_equal(with_words + shift, seen) and difference.max(initial=0) <= 1
    return Agreement(
        elements=got.size,
        model_equal=int((with_words + shift == seen).sum()),
        sent_equal=int((as_sent == got).sum()),
        exact=int((difference == 0).sum()),
        within_one=int((difference <= 1).sum()),
        largest=int(difference.max(initial=0)),
        ideal_largest=int(np.abs(meant + shift - tflite).max(initial=0)),
        causes=() if same else tuple(causes(work, sent, as_sent)),
    )


def host_view(stored: Ints, signed: bool) -> Ints:
    """Stored numbers as the host hands them on: each byte with 0x80 added, then read as the tensor's type."""
    unsigned = stored + 128
    return np.where(unsigned > 127, unsigned - 256, unsigned) if signed else unsigned


def replace_multiplier(work: Work, sent: Layer, meant: Ints) -> Ints:
    """The meant result with the multiplier in the words, which an addition has not got by itself."""
    if work.addition is not None or work.signed:
        return meant
    layer = ideal_layer(work, work.output)
    shift = sent.converter.shift + sent.truncate
    return evaluate(replace(layer, converter=Converter(sent.converter.multiplier, shift, layer.converter.offset)))


def causes(work: Work, sent: Layer, as_sent: Ints) -> Iterator[str]:
    """The parts of the layer as sent that are not the model's and whose repair changes the result."""
    if work.signed:
        yield SIGNED
        if work.addition is not None:
            yield FUSED
        return
    ideal = ideal_layer(work, work.output)
    for cause in differences(work, sent, ideal):
        if effective(cause, sent, ideal, as_sent):
            yield cause
    if work.addition is not None and not np.array_equal(unfused(work, sent), as_sent):
        yield FUSED


def differences(work: Work, sent: Layer, ideal: Layer) -> Iterator[str]:
    """What of the layer is not as the model has it."""
    if sent.dilation != ideal.dilation:
        yield DILATION
    elif shape(sent) != shape(ideal):
        yield SWAPPED
    elif work.node.params.get("depth_multiplier", 1) != 1:
        yield MULTIPLIED
    elif not np.array_equal(sent.kernels[..., : ideal.kernels.shape[3]], ideal.kernels):
        yield PACKED
    elif not np.array_equal(sent.features[..., : ideal.features.shape[2]], ideal.features):
        yield PITCH
    if sent.pad != ideal.pad:
        yield PADDING
    if sent.truncate:
        yield TRUNCATED
    elif not np.array_equal(sent.bias, ideal.bias):
        yield BIAS
    if (sent.converter.multiplier, sent.converter.shift + sent.truncate) != (
        ideal.converter.multiplier,
        ideal.converter.shift,
    ):
        lost = uncarried_multiplier(real_multiplier(work.node, work.output))[0] == 0x8000
        yield CARRY if lost else MULTIPLIER
    if sent.converter.offset != ideal.converter.offset:
        yield OFFSET
    if (sent.low, sent.high) != (ideal.low, ideal.high):
        yield ACTIVATION


def shape(layer: Layer) -> tuple[object, ...]:
    """Everything about the geometry that may be swapped."""
    return (layer.features.shape[:2], layer.kernels.shape[1:3], layer.stride, layer.padding, layer.output)


def effective(cause: str, sent: Layer, ideal: Layer, as_sent: Ints) -> bool:
    """Whether the layer as sent, with that part put right, gives another result."""
    repaired = replace(sent, **{name: getattr(ideal, name) for name in FIELDS[cause]})
    if cause == TRUNCATED:  # the multiplier stays that of the words
        converter = replace(sent.converter, shift=sent.converter.shift + sent.truncate)
        repaired = replace(repaired, converter=converter)
    elif cause in (CARRY, MULTIPLIER):
        converter = replace(ideal.converter, shift=ideal.converter.shift - sent.truncate, offset=sent.converter.offset)
        repaired = replace(repaired, converter=converter)
    elif cause == OFFSET:
        repaired = replace(repaired, converter=replace(sent.converter, offset=ideal.converter.offset))
    elif cause in (PADDING, BIAS, ACTIVATION) and shape(sent) != shape(ideal):
        return True  # alone it cannot be judged: the rest of the layer is another one
    return not np.array_equal(evaluate(repaired), as_sent)


def unfused(work: Work, sent: Layer) -> Ints:
    """The layer as sent, but the convolution is rounded and clamped to its own tensor before the addition."""
    own = work.node.outputs[0]
    alone = ideal_layer(work, own)
    converter = replace(alone.converter, shift=alone.converter.shift - sent.truncate)
    layer = replace(sent, addend=None, converter=converter, low=alone.low, high=alone.high)
    assert zero_point(own) == alone.converter.offset + 128
    return added(work, evaluate(layer))
