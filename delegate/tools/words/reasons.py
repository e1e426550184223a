"""Why our words differ from upstream's: the one list, each entry a change of facts that must lead to upstream's values.

An entry applies where its condition holds, in the order of the list; ``facts.FORMULAS`` over the changed facts give
what upstream is expected to write. So nothing is ignored: a value that neither side's formula gives is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from delegate.hw.layout import align
from delegate.ir import Node, Quant, Tensor
from delegate.tools.words.facts import ATOM, DEPTHWISE_GROUP, KERNEL_GROUP, Added, Facts, truncated_multiplier

UNSIGNED_OFFSET = 128
ENTRIES_MASK = 0x3FFF  # the field; larger pictures wrap
PIXEL_WIDTH = 16  # narrower pictures are read with lines of 16 pixels
FEWEST_ATOMS = 12  # of a surface that is added (npu.md §5.4a)


@dataclass(frozen=True)
class Upstream:
    """What upstream made of a layer, as the capture's structure tells."""

    node: Node
    addition: Node | None  # fused into the layer
    addend: Tensor | None  # what the addition adds
    feeds_addition: bool  # the layer's output is what some fused addition adds
    next_words: int  # words of the stream that the task leads to, 0 if to none
    truncates: bool  # the weight scale is among the 15 that upstream treats apart


@dataclass(frozen=True)
class Reason:
    """One cause of differences."""

    title: str
    text: str  # the condition and the formula of both sides
    reference: str
    applies: Callable[[Facts, Upstream], bool]
    change: Callable[[Facts, Upstream], Facts]


def unsigned(quant: Quant | None) -> int:
    """A zero point read as an unsigned byte and brought to the silicon's domain, whatever the dtype."""
    assert quant is not None
    return (int(quant.zero_point[0]) & 0xFF) - UNSIGNED_OFFSET


def scale(tensor: Tensor | None) -> float:
    assert tensor is not None and tensor.quant is not None
    return float(tensor.quant.scale[0])


def take_bytes_as_unsigned(f: Facts, u: Upstream) -> Facts:
    feature, weight = u.node.inputs[0], u.node.inputs[1]
    assert feature is not None and weight is not None
    points = unsigned(feature.quant), unsigned(weight.quant), unsigned(u.node.outputs[0].quant)
    return replace(f, zero_points=points)


def true_rows(f: Facts, u: Upstream) -> Facts:
    feature, output = u.node.inputs[0], u.node.outputs[0]
    assert feature is not None
    _, height, width, _ = feature.shape
    _, output_height, output_width, _ = output.shape
    return replace(
        f,
        input_height=height,
        input_surface=height * width,
        output_height=output_height,
        output_surface=output_height * output_width,
    )


def swap(f: Facts, u: Upstream) -> Facts:
    return replace(
        f,
        input_height=f.input_width,
        input_width=f.input_height,
        output_height=f.output_width,
        output_width=f.output_height,
        kernel_height=f.kernel_width,
        kernel_width=f.kernel_height,
    )


def as_depthwise(f: Facts, u: Upstream) -> Facts:
    return replace(
        f,
        depthwise=True,
        kernels=1,
        output_channels=align(f.output_channels_real, DEPTHWISE_GROUP),
    )


def as_direct(f: Facts, u: Upstream) -> Facts:
    channels = align(f.output_channels_real, KERNEL_GROUP)
    return replace(f, depthwise=False, kernels=channels, input_channels=ATOM, output_channels=channels)


def as_pixels(f: Facts, u: Upstream) -> Facts:
    width = max(f.input_width, PIXEL_WIDTH)
    packed = replace(f, pixel=True, wide_input=width, entries_override=width * f.input_height & ENTRIES_MASK)
    if u.node.op == "DEPTHWISE_CONV_2D":  # upstream's strides stay those of a cube there
        return packed
    return replace(packed, line_override=width, surface_override=width * (f.input_height - 1))


def fuse(f: Facts, u: Upstream) -> Facts:
    """Facts of the addition: the output's are the sum's, the operand is brought to the accumulator's scale."""
    assert u.addition is not None and u.addend is not None and u.addend.quant is not None
    output = u.addition.outputs[0]
    accumulator = float(np.float32(scale(u.node.inputs[0])) * np.float32(scale(u.node.inputs[1])))
    gain, shift = truncated_multiplier(scale(u.addend) / accumulator)
    surface = max(f.output_surface, FEWEST_ATOMS)
    added = Added(UNSIGNED_OFFSET - int(u.addend.quant.zero_point[0]), gain, shift, surface)
    points = (*f.zero_points[:2], unsigned(output.quant))
    return replace(f, added=added, zero_points=points, real_scale=accumulator / scale(output))


def kernels_for(f: Facts, u: Upstream) -> Facts:
    return replace(f, kernels=align(f.output_channels_real, 2))


REASONS = (
    Reason(
        "signed bytes",
        "int8 models: upstream takes every byte as unsigned, so its zero points are (z & 0xff) - 128, ours z",
        "S-34, S-35",
        lambda f, u: u.node.outputs[0].dtype == "int8",
        take_bytes_as_unsigned,
    ),
    Reason(
        "low surfaces",
        "height below 4: our surfaces have max(H, 4) rows, and a 1x1 convolution with stride 1 computes all of them; "
        "upstream's have H",
        "S-69, S-181, C-13",
        lambda f, u: True,
        true_rows,
    ),
    Reason(
        "width and height swapped",
        "not square: upstream takes the height for the width",
        "npu.md §9 quirk 13",
        lambda f, u: f.input_height != f.input_width or f.kernel_height != f.kernel_width,
        swap,
    ),
    Reason(
        "depth multiplier",
        "DEPTHWISE_CONV_2D with a multiplier: ours is a direct convolution, upstream's an ordinary depthwise one",
        "npu.md §5.1",
        lambda f, u: u.node.op == "DEPTHWISE_CONV_2D" and not f.depthwise,
        as_depthwise,
    ),
    Reason(
        "one channel is direct",
        "depthwise with one channel: upstream makes it a direct convolution",
        "npu.md §3.3",
        lambda f, u: f.depthwise and f.input_channels_real == 1,
        as_direct,
    ),
    Reason(
        "short kernel group",
        "direct: we write whole groups, align(K, 32) kernels; upstream align(K, 2)",
        "S-50, S-190, S-191, C-3",
        lambda f, u: not f.depthwise,
        kernels_for,
    ),
    Reason(
        "short depthwise group",
        "depthwise: we read whole groups, align(C, 64) channels; upstream align(C, 16)",
        "S-50, S-190",
        lambda f, u: f.depthwise,
        lambda f, u: replace(f, input_channels=align(f.input_channels_real, ATOM)),
    ),
    Reason(
        "slack bank",
        "features get one CBUF bank more than they fill; upstream gives what they fill, the rest goes to the weights",
        "S-73",
        lambda f, u: True,
        lambda f, u: replace(f, slack_banks=0),
    ),
    Reason(
        "entries of 40x40",
        "input 40 wide with 40 channels: upstream writes 40 entries, the formula gives 30",
        "npu.md §4, C-9, S-182",
        lambda f, u: f.input_width == 40 and f.input_channels_real == 40,
        lambda f, u: replace(f, entries_override=40),
    ),
    Reason(
        "pixel input",
        "one input channel: upstream reads the packed picture in pixel mode, we read a cube of 16 channels",
        "npu.md §3.3",
        lambda f, u: f.input_channels_real == 1,
        as_pixels,
    ),
    Reason(
        "fused addition",
        "upstream adds in the convolution's task; we do where a bound over all inputs allows it, else in a layer",
        "docs/decisions/0002-addition.md",
        lambda f, u: u.addition is not None,
        fuse,
    ),
    Reason(
        "input width 8",
        "input 8 wide, and an addition or an output that another adds: upstream writes twice the width and entries",
        "npu.md §5.4a",
        lambda f, u: (f.added is not None or u.feeds_addition) and f.input_width == 8,
        lambda f, u: replace(f, wide_input=2 * f.input_width, entries_override=2 * f.data_entries),
    ),
    Reason(
        "padding lanes",
        "our padding value stands in all four bytes; upstream's is sign-extended",
        "S-36",
        lambda f, u: True,
        lambda f, u: replace(f, pad_lanes=False),
    ),
    Reason(
        "padding constants",
        "upstream's padding value is 0xffff8080 for zero point 0 and kernels 3 or more wide, 0x0b0b for depthwise and "
        "zero point 0x8b, 0xffffff80 with an addition, and where the output is what another adds",
        "golden/README.md, npu.md §5.1",
        lambda f, u: padding_constant(f, u) is not None,
        lambda f, u: replace(f, pad_override=padding_constant(f, u)),
    ),
    Reason(
        "multiplier",
        "our multiplier is the nearest of 15 bits; upstream's the truncated mantissa plus 1",
        "S-09, C-15",
        lambda f, u: True,
        lambda f, u: replace(f, truncated_scale=True),
    ),
    Reason(
        "accumulator halved",
        "for 15 weight scales upstream takes one bit off the accumulator and one off the shift",
        "npu.md §5.2",
        lambda f, u: u.truncates,
        lambda f, u: replace(f, truncate=1),
    ),
    Reason(
        "ReLU",
        "RELU with an output zero point above -128: ours clamps in BS, upstream does not clamp",
        "npu.md §5.3",
        lambda f, u: f.relu,
        lambda f, u: replace(f, relu=False),
    ),
    Reason(
        "NRDMA off",
        "we set the disable bit of the unused NRDMA; upstream writes 0, which fetches nothing either",
        "S-31, S-32",
        lambda f, u: True,
        lambda f, u: replace(f, nrdma_disable=0),
    ),
    Reason(
        "amount",
        "length of the next stream of n words: ours (n + 1) / 2 - 1, upstream's (n - 4) / 2 rounded up to even",
        "npu.md §2.2",
        lambda f, u: u.next_words > 0,
        lambda f, u: replace(f, even_amount=True, next_words=u.next_words),
    ),
    Reason(
        "link",
        "our streams lead to the next one of the program; upstream's only to the next of the same operation",
        "docs/decisions/0003-chains.md",
        lambda f, u: u.next_words == 0,
        lambda f, u: replace(f, next_words=0),
    ),
)


def padding_constant(f: Facts, u: Upstream) -> int | None:
    """Upstream's padding value where it does not follow from the zero point."""
    byte = f.zero_points[0] + UNSIGNED_OFFSET
    if f.added is not None or u.feeds_addition:
        return 0xFFFFFF80
    if f.depthwise and byte == 0x8B:
        return 0x0B0B
    if f.kernel_width >= 3 and byte == 0:
        return 0xFFFF8080
    return None
