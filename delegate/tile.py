"""Layers into tiles that fit the CBUF: rows, output channels, or both; by traffic, never by a table of shapes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from delegate.errors import CompileError
from delegate.hw.layout import align, divide_up, row_entries, surface_rows
from delegate.hw.soc import Soc
from delegate.hw.task import Place
from delegate.ir import Convolution, ConvTile, Requantize
from delegate.memory import Cube

LARGEST_ATOMICS = (1 << 18) - 1  # output pixels a task may have (npu.md §8)


@dataclass(frozen=True)
class Geometry:
    """A layer's true sizes as the blocks are programmed with them."""

    input_height: int
    input_width: int
    input_channels: int  # programmed
    output_height: int
    output_width: int
    output_channels: int  # programmed: whole groups
    group: int  # kernel group, or depthwise group
    window_height: int  # rows that a kernel spans
    taps: int  # of a kernel


@dataclass(frozen=True)
class Plan:
    """How a layer is cut."""

    part_groups: int  # kernel groups of a part of the output channels
    row_parts: int
    whole: bool  # one slice of all rows
    feature_banks: int
    weight_banks: int
    reuse: bool  # weights stay in the CBUF from one slice of rows to the next
    traffic: int  # bytes read from DRAM


def geometry(layer: Convolution, run: Requantize, channels: int, soc: Soc) -> Geometry:
    """Sizes of a run of a layer's output channels, reading ``channels`` channels.

    Heights below a line group give wrong results (S-69). Where every output row reads just its own input row, the rows
    behind the tensor, which lie in memory, are computed as well and never looked at.
    """
    _, input_height, input_width, _ = layer.inputs[0].shape
    _, output_height, output_width, _ = layer.output.shape
    if layer.window[0] == 1 and layer.stride[0] == 1:
        input_height = output_height = surface_rows(input_height, soc)
    group = soc.depthwise_group if layer.depthwise else soc.kernel_group
    output_channels = align(len(run.channels), group)
    input_channels = output_channels if layer.depthwise else align(channels, soc.atom_bytes)
    return Geometry(
        input_height,
        input_width,
        input_channels,
        output_height,
        output_width,
        output_channels,
        group,
        layer.window[0],
        layer.weight.shape[1] * layer.weight.shape[2],
    )


def input_rows(layer: Convolution, shape: Geometry, outputs: range) -> tuple[range, int]:
    """(rows read for a range of output rows, rows of padding above them)."""
    start = outputs.start * layer.stride[0] - layer.padding[0]
    stop = (outputs.stop - 1) * layer.stride[0] + shape.window_height - layer.padding[0]
    return range(max(0, start), min(stop, shape.input_height)), max(0, -start)


def parts(total: int, count: int) -> list[range]:
    """``total`` cut into ``count`` ranges whose lengths differ by one at most."""
    edges = [total * index // count for index in range(count + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


def row_parts(layer: Convolution, shape: Geometry, rows: int) -> int | None:
    """The fewest slices of output rows reading at most ``rows`` input rows each; None if one output row needs more."""
    most = LARGEST_ATOMICS // shape.output_width
    if rows >= shape.input_height and shape.output_height <= most:
        return 1
    fitting = min((rows - shape.window_height) // layer.stride[0] + 1, most)
    if fitting < 1:
        return None
    return divide_up(shape.output_height, fitting)


def plans(layer: Convolution, shape: Geometry, soc: Soc) -> Iterator[Plan]:
    """All ways to cut a layer that fit the CBUF.

    Channels are cut in whole groups. For each cut: all features at once while the weights stream through the banks
    left over; or slices of rows with the weights resident; or slices of rows, each streaming the weights.
    """
    groups = shape.output_channels // shape.group
    group_bytes = shape.group * kernel_bytes_per_channel(layer, shape)
    for part_groups in sorted({divide_up(groups, count) for count in range(1, groups + 1)}):
        channel_parts = divide_up(groups, part_groups)
        channels = part_groups * shape.group if layer.depthwise else shape.input_channels
        entries = row_entries(shape.input_width, channels, soc)
        group_banks = divide_up(group_bytes, soc.cbuf_bank_bytes)
        all_banks = divide_up(part_groups * group_bytes, soc.cbuf_bank_bytes)
        for weight_banks in sorted({group_banks, all_banks}):
            feature_banks = soc.cbuf_banks - weight_banks
            rows = (feature_banks - soc.feature_slack_banks) * soc.cbuf_bank_bytes // soc.cbuf_entry_bytes // entries
            count = row_parts(layer, shape, rows) if rows > 0 else None
            if count is None:
                continue
            # One slice may be of all rows, or, with a stride beyond the window, of the few that are looked at.
            whole = count == 1 and rows >= shape.input_height
            height = shape.input_height if whole else len(input_rows(layer, shape, range(shape.output_height))[0])
            if count == 1:
                used = divide_up(entries * height * soc.cbuf_entry_bytes, soc.cbuf_bank_bytes)
                feature_banks = used + soc.feature_slack_banks
            reuse = count > 1 and weight_banks == all_banks
            read = sum(len(input_rows(layer, shape, outputs)[0]) for outputs in parts(shape.output_height, count))
            passes = 1 if layer.depthwise else channel_parts  # times that a feature is read
            feature_bytes = read * shape.input_width * shape.input_channels * passes
            weight_bytes = groups * group_bytes * (1 if reuse else count)
            traffic = feature_bytes + weight_bytes
            yield Plan(part_groups, count, whole, feature_banks, soc.cbuf_banks - feature_banks, reuse, traffic)


def kernel_bytes_per_channel(layer: Convolution, shape: Geometry) -> int:
    """Bytes of weights for one output channel."""
    return shape.taps * (1 if layer.depthwise else shape.input_channels)


def choose(layer: Convolution, shape: Geometry, soc: Soc) -> Plan:
    """The cut with the least traffic; raises CompileError when none fits."""
    found = min(
        plans(layer, shape, soc), key=lambda plan: (plan.traffic, plan.row_parts, -plan.part_groups), default=None
    )
    if found is None:
        raise CompileError(
            f"{layer.operator} {layer.inputs[0].shape} -> {layer.output.shape}: {shape.window_height} input rows and "
            f"one kernel group do not fit the {soc.cbuf_banks} CBUF banks"
        )
    return found


def part_of(cube: Cube, channel: int, rows: range, shape: Geometry, soc: Soc) -> Place:
    """Where a slice of an output, or of what is added to it, begins."""
    row_bytes = shape.output_width * soc.atom_bytes
    return cube.place + (channel // soc.atom_bytes * cube.surface_bytes + rows.start * row_bytes)


def tile(
    layer: Convolution,
    channels: int,
    feature: Cube,
    output: Cube,
    addend: Cube | None,
    weight: Place,
    bias: Place,
    soc: Soc,
) -> list[ConvTile]:
    """A layer as tiles: output channels outside, rows inside, so that weights stay in the CBUF between slices of rows.

    ``channels``: channels from the first of the cube that are read. Places are those of the whole layer.
    """
    return [
        part
        for run in layer.requantize
        for part in tile_run(layer, run, channels, feature, output, addend, weight, bias, soc)
    ]


def tile_run(
    layer: Convolution,
    run: Requantize,
    channels: int,
    feature: Cube,
    output: Cube,
    addend: Cube | None,
    weight: Place,
    bias: Place,
    soc: Soc,
) -> list[ConvTile]:
    """The tiles of a run of output channels that are requantized alike."""
    shape = geometry(layer, run, channels, soc)
    plan = choose(layer, shape, soc)
    per_channel = kernel_bytes_per_channel(layer, shape)
    operand_bytes = 4 if run.channel_multiplier is None else 8
    tiles: list[ConvTile] = []
    for first in range(0, shape.output_channels // shape.group, plan.part_groups):
        within = first * shape.group
        start = run.channels.start + within
        count = min(plan.part_groups * shape.group, shape.output_channels - within)
        read_start, read_count = (start, count) if layer.depthwise else (0, shape.input_channels)
        real = min(channels - read_start, read_count)
        for index, outputs in enumerate(parts(shape.output_height, plan.row_parts)):
            rows, padding_top = input_rows(layer, shape, outputs)
            if plan.whole:
                rows = range(shape.input_height)
            row_bytes = shape.input_width * soc.atom_bytes
            tiles.append(
                ConvTile(
                    layer=layer,
                    requantize=run,
                    input_height=len(rows),
                    input_width=shape.input_width,
                    input_channels=read_count,
                    input_channels_real=real,
                    input_surface=feature.surface_bytes // soc.atom_bytes,
                    output_height=len(outputs),
                    output_width=shape.output_width,
                    output_channels=count,
                    output_channels_real=min(run.channels.stop - start, count),
                    output_surface=output.surface_bytes // soc.atom_bytes,
                    padding_top=padding_top,
                    kernel_bytes=per_channel * (count if layer.depthwise else 1),
                    feature_banks=plan.feature_banks,
                    weight_banks=plan.weight_banks,
                    weights_resident=plan.reuse and index > 0,
                    feature=feature.place
                    + (read_start // soc.atom_bytes * feature.surface_bytes + rows.start * row_bytes),
                    weight=weight + start * per_channel,
                    bias=bias + start * operand_bytes,
                    output=part_of(output, start, outputs, shape, soc),
                    addend=part_of(addend, start, outputs, shape, soc) if addend else None,
                    addend_surface=addend.surface_bytes // soc.atom_bytes if addend else 0,
                    addend_skip=addend.surface_bytes // soc.atom_bytes - len(outputs) * shape.output_width
                    if addend
                    else 0,
                )
            )
    return tiles
