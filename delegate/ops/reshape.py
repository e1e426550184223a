"""RESHAPE, SQUEEZE, EXPAND_DIMS: no work where the numbers lie in device memory as the new shape wants them."""

from __future__ import annotations

from delegate.hw.layout import surface_rows
from delegate.hw.soc import Target
from delegate.ir import Node, Tensor, View, as_cube
from delegate.ops import Rule, lowers
from delegate.ops.rules import FEATURES_8_BIT, SAME_DTYPE, SAME_QUANTIZATION


def one_image(tensor: Tensor) -> bool:
    shape = tensor.shape
    return 1 <= len(shape) <= 4 and min(shape) > 0 and as_cube(tensor).shape[0] == 1


def layout_stays(node: Node, target: Target) -> bool:
    """Channels stay, and pixels stay in order at the same pitch of a surface."""
    source = node.inputs[0]
    assert source is not None
    if not (one_image(source) and one_image(node.outputs[0])):
        return False
    before, after = as_cube(source).shape, as_cube(node.outputs[0]).shape
    pitches = {surface_rows(shape[1], target.soc) * shape[2] for shape in (before, after)}
    return before[3] == after[3] and before[1] * before[2] == after[1] * after[2] and len(pitches) == 1


RULES = [
    Rule("the input is computed", lambda node, target: node.inputs[0] is not None and node.inputs[0].data is None),
    FEATURES_8_BIT,
    SAME_DTYPE,
    SAME_QUANTIZATION,
    Rule("channels stay, and pixels stay where they are in memory", layout_stays),
]


def alias(node: Node, target: Target) -> list[View]:
    """out = in, under another shape."""
    source = node.inputs[0]
    assert source is not None
    return [View(node.outputs[0], source)]


for name in ("RESHAPE", "SQUEEZE", "EXPAND_DIMS"):
    lowers(name, RULES)(alias)
