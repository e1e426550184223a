"""Convolutions with groups: each group of kernels reads channels of its own (TFLite: fewer than the input has).

The engine computes 32 kernels over 32 channels at a time, so groups go together in runs that begin a kernel group and
an atom; within a run the weights of other groups' channels are the zero point, which counts as 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from delegate.hw.soc import Soc
from delegate.ir import Convolution, Move, Node, Quant, all_pixels
from delegate.ops.geometry import feature_and_weight

LARGEST_WEIGHTS = 1 << 24  # bytes of a run


@dataclass(frozen=True, eq=False)
class Run:
    """Some groups as a convolution without groups, and where their channels begin."""

    node: Node  # its output has the run's channels alone
    source: int
    target: int


def groups_of(node: Node) -> int:
    """How many groups; the rules make sure that channels and kernels are so many times as many."""
    feature, weight = feature_and_weight(node)
    return feature.shape[3] // weight.shape[3]


def channels_match(node: Node) -> bool:
    """Whether input channels and kernels are multiples of the groups."""
    feature, weight = feature_and_weight(node)
    kernels, _, _, channels = weight.shape
    return channels >= 1 and feature.shape[3] % channels == 0 and kernels % (feature.shape[3] // channels) == 0


def groups_together(node: Node, one_class: bool, soc: Soc) -> int:
    """The groups of a run: the fewest that begin kernel groups and atoms, or all; ``one_class``: scales are alike."""
    groups = groups_of(node)
    kernels, _, _, channels = feature_and_weight(node)[1].shape
    atoms = soc.atom_bytes // math.gcd(soc.atom_bytes, channels)
    whole = soc.kernel_group // math.gcd(soc.kernel_group, kernels // groups)
    together = math.lcm(atoms, whole)
    return together if together < groups and one_class else groups


def run_bytes(node: Node, together: int) -> int:
    """Bytes of the weights of a run."""
    weight = feature_and_weight(node)[1]
    return math.prod(weight.shape) // groups_of(node) * together**2


def runs(node: Node, one_class: bool, soc: Soc) -> Iterator[Run]:
    """The node as convolutions without groups, each over some of the channels."""
    groups, together = groups_of(node), groups_together(node, one_class, soc)
    if groups == 1:
        yield Run(node, 0, 0)
        return
    kernels, _, _, channels = feature_and_weight(node)[1].shape
    for first in range(0, groups, together):
        part = range(first, min(first + together, groups))
        yield Run(without_groups(node, part), first * channels, first * kernels // groups)


def without_groups(node: Node, part: range) -> Node:
    """Some groups as a node whose kernels read all channels of them."""
    _, weight = feature_and_weight(node)
    assert weight.data is not None and weight.quant is not None
    kernels, height, width, channels = weight.shape
    each = kernels // groups_of(node)
    chosen = slice(part.start * each, part.stop * each)
    # stored values; a uint8 zero point is that of the stored weights
    dense = np.full(
        (len(part) * each, height, width, len(part) * channels), weight.quant.zero_point[0], weight.data.dtype
    )
    for place, group in enumerate(part):
        block = weight.data[group * each : (group + 1) * each]
        dense[place * each : (place + 1) * each, :, :, place * channels : (place + 1) * channels] = block
    quant = weight.quant
    if quant.per_channel:
        points = quant.zero_point[chosen] if quant.zero_point.size > 1 else quant.zero_point
        quant = Quant(quant.scale[chosen], points, quant.axis)
    inputs = [node.inputs[0], replace(weight, shape=dense.shape, data=dense, quant=quant), *node.inputs[2:]]
    if len(inputs) > 2 and inputs[2] is not None and inputs[2].data is not None:
        inputs[2] = replace(inputs[2], shape=(len(dense),), data=inputs[2].data.reshape(-1)[chosen])
    output = node.outputs[0]
    return replace(node, inputs=tuple(inputs), outputs=(replace(output, shape=(*output.shape[:3], len(dense))),))


def within(layer: Convolution, run: Run, node: Node) -> Convolution:
    """The layer of a run with its channels in their place among the node's."""
    if groups_of(run.node) == 1:
        return layer
    output = node.outputs[0]
    moves = tuple(
        Move(
            replace(all_pixels(layer.inputs[0], image), channel=run.source),
            replace(all_pixels(output, image), channel=run.target),
        )
        for image in range(output.shape[0])
    )
    return replace(layer, output=output, moves=moves)
