"""Windows of pools and reductions: which pixels give an output."""

from __future__ import annotations

from dataclasses import dataclass

from delegate.hw.soc import Target
from delegate.ir import Node
from delegate.ops.geometry import same_padding
from delegate.ops.parts import Shape, Sides, holds, reduced_axes

POOLS = ("AVERAGE_POOL_2D", "MAX_POOL_2D")


@dataclass(frozen=True)
class Windows:
    """Pixels that give an output, and the results' four dimensions; a stride between windows of which one is, is 1."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: Sides
    shape: Shape
    channels: bool = False  # whether they are reduced too

    @property
    def before(self) -> tuple[int, int]:
        """Pixels of padding: top, left."""
        return self.padding[0], self.padding[2]


def windows_of(node: Node) -> Windows:
    """The windows of a node whose output's shape follows from them."""
    feature = node.inputs[0]
    assert feature is not None
    images, *sizes, channels = feature.shape
    axes, sides = reduced_axes(node) or (), [(0, 0), (0, 0)]
    if node.op in POOLS:
        axes, kernel, stride = (), node.params["filter"], node.params["stride"]
        if node.params["padding"] == "SAME":
            sides = [same_padding(*axis) for axis in zip(sizes, kernel, stride, strict=True)]
    else:
        kernel, stride = tuple(size if axis in axes else 1 for axis, size in enumerate(sizes, 1)), (1, 1)
    extents = [
        (size + sum(side) - taps) // step + 1
        for size, side, taps, step in zip(sizes, sides, kernel, stride, strict=True)
    ]
    steps = [step if extent > 1 else 1 for step, extent in zip(stride, extents, strict=True)]
    shape = (images, extents[0], extents[1], 1 if 3 in axes else channels)
    return Windows((kernel[0], kernel[1]), (steps[0], steps[1]), (*sides[0], *sides[1]), shape, 3 in axes)


def output_is_computed(node: Node, target: Target) -> bool:
    """The output has the shape that the windows give."""
    shape = windows_of(node).shape
    return min(shape) >= 1 and holds(node.outputs[0], shape)
