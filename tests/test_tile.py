"""Tiles: the output is covered once, every tile reads the rows it needs and fits the CBUF, for any shape."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layers import TARGETS, convolution, feature

from delegate.errors import CompileError
from delegate.hw.layout import surface_rows
from delegate.hw.soc import RK3588
from delegate.hw.task import Place
from delegate.ir import Convolution, ConvTile, Elementwise, FlyingTile, Node, Requantize
from delegate.memory import Cube, surface_bytes
from delegate.ops import OPERATORS
from delegate.ops.conv2d import CBUF_TEXT, conv2d
from delegate.ops.depthwise_conv2d import depthwise_conv2d
from delegate.share import Kind, Share
from delegate.tile import Operands, tile, tile_elementwise


def tiles_of(layer: Convolution, share: Share | None = None) -> list[ConvTile]:
    cubes = [
        Cube(Place(number, 0), 64, surface_bytes(tensor, RK3588), 64 * surface_bytes(tensor, RK3588))
        for number, tensor in enumerate((layer.inputs[0], layer.output))
    ]
    operands = Operands(layer.inputs[0].shape[3], *cubes, None, Place(2, 0), Place(3, 0), Place(4, 0))
    return tile(layer, operands, RK3588, share)


def layer_of(
    height: int,
    width: int,
    channels: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: str,
    depthwise: bool,
    forms: str = "every form",
) -> Convolution:
    if padding == "VALID":
        height, width = max(height, kernel[0]), max(width, kernel[1])
    node, _ = convolution(0, feature(0, height, width, channels), outputs, kernel, stride, padding, depthwise)
    return (depthwise_conv2d if depthwise else conv2d)(node, TARGETS[forms])[0]


shapes = st.builds(
    layer_of,
    st.integers(1, 260),
    st.integers(1, 260),
    st.integers(1, 300),
    st.integers(1, 300),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.sampled_from(["SAME", "VALID"]),
    st.booleans(),
    st.sampled_from(list(TARGETS)),
)


def fits(node: Node) -> bool:
    """What the rules say before anything is compiled."""
    rule = next(rule for rule in OPERATORS[node.op].rules if rule.text == CBUF_TEXT)
    return all(rule.holds(node, target) for target in TARGETS.values())


def bank_need(part: ConvTile) -> int:
    """Banks of the features alone, plainly counted: bytes of whole atoms."""
    atoms = -(-part.input_channels // 16)
    return -(-part.input_height * part.input_width * atoms * 16 // 32768)


@settings(deadline=None, max_examples=150)
@given(shapes)
def test_tiles_cover_and_fit(layer: Convolution) -> None:
    node, _ = convolution(
        0,
        layer.inputs[0],
        layer.output.shape[3],
        (layer.weight.shape[1], layer.weight.shape[2]),
        layer.stride,
        "VALID" if layer.padding == (0, 0, 0, 0) else "SAME",
        layer.depthwise,
    )
    if not fits(node):
        with pytest.raises(CompileError):
            tiles_of(layer)
        return
    parts = tiles_of(layer)
    pitch, out_pitch = parts[0].input_surface * 16, parts[0].output_surface * 16
    covered = set()
    before: ConvTile | None = None
    for part in parts:
        first_channel, rest = divmod(part.output.offset, out_pitch)
        first_row = rest // (part.output_width * 16)
        cells = {(first_channel * 16, row) for row in range(first_row, first_row + part.output_height)}
        assert not covered & cells
        covered |= cells
        # rows: the first window starts at the slice's first row, less the padding; the last ends within the slice
        in_row = part.feature.offset % pitch // (part.input_width * 16)
        assert in_row - part.padding_top == first_row * layer.stride[0] - layer.padding[0]
        last = (first_row + part.output_height - 1) * layer.stride[0] - layer.padding[0] + layer.weight.shape[1]
        assert in_row + part.input_height >= min(last, layer.inputs[0].shape[1])
        assert in_row + part.input_height <= surface_rows(layer.inputs[0].shape[1], RK3588)
        # CBUF: both shares hold what they must, one bank of slack for features (S-73)
        assert part.feature_banks + part.weight_banks == 12
        assert bank_need(part) + 1 <= part.feature_banks <= 11
        group_bytes = part.kernel_bytes // (part.output_channels // 64) if layer.depthwise else part.kernel_bytes * 32
        assert part.weight_banks * 32768 >= group_bytes
        if part.weights_resident:
            assert before is not None and before.weight == part.weight and before.weight_banks == part.weight_banks
            assert part.weight_banks * 32768 >= part.kernel_bytes * (1 if layer.depthwise else part.output_channels)
        # whole groups (S-190), true counts
        assert part.output_channels % (64 if layer.depthwise else 32) == 0
        assert part.output_width * part.output_height < 1 << 18
        before = part
    rows = max(row for _, row in covered) + 1
    assert rows >= layer.output.shape[1]
    assert (
        sum(part.output_channels_real for part in parts if part.output.offset % out_pitch == 0) == layer.output.shape[3]
    )


def test_a_layer_that_fits_is_one_task_with_all_other_banks_for_weights() -> None:
    layer = layer_of(4, 4, 8, 8, (1, 1), (1, 1), "VALID", False)
    (part,) = tiles_of(layer)
    assert (part.feature_banks, part.weight_banks, part.weights_resident) == (2, 10, False)
    assert (part.input_channels, part.kernel_bytes, part.output_channels, part.output_channels_real) == (16, 16, 32, 8)


def test_low_maps_of_1x1_kernels_run_as_four_rows() -> None:
    """S-69: fewer than four rows give wrong results."""
    (part,) = tiles_of(layer_of(1, 1, 64, 40, (1, 1), (1, 1), "SAME", False))
    assert (part.input_height, part.output_height, part.input_surface, part.output_surface) == (4, 4, 4, 4)


def test_only_the_first_slice_has_padding_above() -> None:
    parts = tiles_of(layer_of(224, 224, 32, 32, (3, 3), (1, 1), "SAME", False))
    assert len(parts) > 1
    assert [part.padding_top for part in parts] == [1] + [0] * (len(parts) - 1)
    assert [part.weights_resident for part in parts] == [False] + [True] * (len(parts) - 1)


def test_what_cannot_fit_is_refused_with_its_size() -> None:
    with pytest.raises(CompileError, match="do not fit the 12 CBUF banks"):
        tiles_of(layer_of(40, 1900, 256, 32, (3, 3), (1, 1), "SAME", False))


def test_one_slice_of_a_tensor_that_does_not_fit_reads_the_rows_it_needs() -> None:
    """A stride beyond the window leaves rows that nobody looks at."""
    (part,) = tiles_of(layer_of(4, 214, 289, 1, (1, 1), (4, 4), "SAME", False))
    assert (part.input_height, part.output_height) == (1, 1)
    assert part.feature_banks <= 11


def flying_tiles(height: int, width: int, channels: int, constant_a_channel: bool, first: int = 0) -> list[FlyingTile]:
    main, output = (feature(index, height, width, channels) for index in (0, 1))
    operand = feature(2, 1, 1, channels) if constant_a_channel else feature(2, height, width, channels)
    run = Requantize(range(channels), 1, 0, 0)
    layer = Elementwise(0, "MAXIMUM", main, output, run, operation="max", operand=operand, operand_first=first)
    cubes = [
        Cube(
            Place(number, 0),
            channels // 16,
            surface_bytes(tensor, RK3588),
            channels // 16 * surface_bytes(tensor, RK3588),
        )
        for number, tensor in enumerate((main, operand, output))
    ]
    return tile_elementwise(layer, *cubes, RK3588)


def test_a_large_image_is_one_task_of_the_elementwise_unit() -> None:
    (only,) = flying_tiles(2000, 2000, 16, False)
    assert (only.rows, only.width, only.main_surface) == (2000, 2000, 2000 * 2000)


@pytest.mark.parametrize("constant_a_channel", [False, True])
def test_rows_beyond_the_registers_are_tasks_of_their_own(constant_a_channel: bool) -> None:
    found = flying_tiles(20000, 3, 32, constant_a_channel, first=0 if constant_a_channel else 5)
    assert sum(part.rows for part in found) == 20000
    assert max(part.rows for part in found) <= 8192
    row = 0
    for part in found:
        assert part.operand is not None
        assert part.main.offset == part.output.offset == row * 3 * 16
        assert part.operand.offset == (0 if constant_a_channel else (5 + row * 3) * 16)
        assert (part.main_surface, part.channels) == (60000, 32)
        row += part.rows


def test_rows_that_are_too_wide_are_refused() -> None:
    assert len(flying_tiles(4, 4096, 16, False)) == 1
    with pytest.raises(CompileError, match="4097 pixels"):
        flying_tiles(4, 4097, 16, False)


@given(shapes, st.sampled_from(["rows", "channels"]), st.integers(2, 3))
@settings(deadline=None, max_examples=60)
def test_shares_cover_the_output_once(layer: Convolution, kind: Kind, cores: int) -> None:
    """Together the cores write what one core does, each by itself, none what another one does."""
    try:
        shares = [tiles_of(layer, Share(kind, core, cores)) for core in range(cores)]
        whole = tiles_of(layer)
    except CompileError:
        return
    seen: dict[tuple[int, int], int] = {}
    for core, tiles in enumerate(shares):
        assert not tiles[0].weights_resident  # another core's CBUF is not this one's
        for tile_ in tiles:
            for row, channel in pixels_of(tile_, layer):
                assert seen.setdefault((row, channel), core) == core
    assert seen.keys() == {place for tile_ in whole for place in pixels_of(tile_, layer)}


def pixels_of(tile_: ConvTile, layer: Convolution) -> Iterator[tuple[int, int]]:
    """(row, surface) of what a tile writes of the true output."""
    surface, rest = divmod(tile_.output.offset, tile_.output_surface * 16)
    first = rest // 16 // tile_.output_width
    for row in range(first, min(first + tile_.output_height, layer.output.shape[1])):
        for number in range(-(-tile_.output_channels_real // 16)):
            yield row, surface + number
