"""Bands of rows through several layers: all that a core needs of them, and not more than its neighbours' edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from layers import EVERY_FORM, convolution, feature

from delegate.bands import bands, depends_simply, rows_read
from delegate.ir import Convolution, Move, Pixels, View, all_pixels
from delegate.memory import Views
from delegate.ops.conv2d import conv2d


def stack(*forms: tuple[int, int]) -> list[Convolution]:
    """Convolutions behind each other, each of a kernel size and a stride; SAME padding."""
    tensor, found = feature(0, 48, 16, 16), []
    for index, (kernel, stride) in enumerate(forms):
        node, tensor = convolution(index, tensor, 16, (kernel, kernel), (stride, stride), "SAME", False)
        (layer,) = conv2d(node, EVERY_FORM)
        assert isinstance(layer, Convolution)
        found.append(layer)
    return found


def test_a_band_grows_by_the_windows_behind_it() -> None:
    layers = stack((1, 1), (3, 1), (3, 1))
    assert bands(layers, 3) == [
        [range(18), range(14, 34), range(30, 48)],
        [range(17), range(15, 33), range(31, 48)],
        [range(16), range(16, 32), range(32, 48)],
    ]


def test_a_stride_is_followed() -> None:
    layers = stack((3, 1), (3, 2))
    assert [len(own) for own in bands(layers, 2)[0]] == [25, 24]
    assert bands(layers, 2)[1] == [range(12), range(12, 24)]


@pytest.mark.parametrize("cores", [2, 3])
def test_every_core_has_what_it_reads(cores: int) -> None:
    """Row by row, by the definition of a convolution."""
    layers = stack((5, 1), (1, 1), (3, 2), (3, 1))
    found = bands(layers, cores)
    for place, layer in enumerate(layers[1:], start=1):
        for core in range(cores):
            for row in found[place][core]:
                first = row * layer.stride[0] - layer.padding[0]
                rows = np.arange(first, first + layer.window[0])
                inside = rows[(rows >= 0) & (rows < layers[place - 1].output.shape[1])]
                assert set(inside.tolist()) <= set(found[place - 1][core])


def test_rows_of_an_addend_are_those_of_the_output() -> None:
    (layer,) = stack((3, 1))
    other = feature(9, 48, 16, 16)
    assert rows_read(layer, layer.inputs[0], range(10, 20)) == range(9, 21)
    assert rows_read(layer, other, range(10, 20)) == range(10, 20)


def test_what_is_not_known_by_rows_is_not_in_one_band() -> None:
    first, second = stack((1, 1), (1, 1))
    plain = Views([])
    assert depends_simply(second, first, plain)
    assert depends_simply(first, second, plain)  # reads nothing of it
    moved = replace(second, moves=(Move(all_pixels(second.inputs[0], 0), Pixels(48, 16, 16)),))
    assert not depends_simply(moved, first, plain)
    whole = feature(7, 48, 16, 32)
    assert not depends_simply(second, first, Views([View(first.output, whole, channel=16)]))
