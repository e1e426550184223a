"""Layers into tiles, a task each. Convolutions have to fit the CBUF: rows or output channels are cut, by traffic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from delegate.errors import CompileError
from delegate.hw.layout import align, divide_up, row_entries, surface_rows
from delegate.hw.soc import Soc
from delegate.hw.task import Place
from delegate.ir import (
    Convolution,
    ConvTile,
    Elementwise,
    FlyingTile,
    Move,
    Pixels,
    Pooling,
    PoolTile,
    Requantize,
    all_pixels,
)
from delegate.memory import Cube
from delegate.share import Share, channels_of, narrowed, rows_of, slices

LARGEST_ATOMICS = (1 << 18) - 1  # output pixels a task may have (npu.md §8)
LARGEST_FLYING_ROWS = 8192  # of a task without convolution: 13 bits of DPU and DPU_RDMA (npu.md §8)
LARGEST_FLYING_WIDTH = 4096  # pixels; longer rows lose some (C-2)
LARGEST_ROWS = 1022  # rows a task may read or write: 11 bits, and FEATURE_GRAINS is no more than it (S-78, S-86)


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
    rows: range  # of the output that are computed

    @property
    def whole(self) -> bool:
        """Whether all rows are computed."""
        return len(self.rows) == self.output_height


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


def geometry(
    layer: Convolution, move: Move, run: Requantize, channels: int, soc: Soc, share: Share | None = None
) -> Geometry:
    """Sizes of a run of a layer's output channels for some pixels, reading ``channels`` channels.

    Heights below a line group give wrong results (S-69). Where every output row of a whole image reads just its own
    input row, the rows behind the image, which lie in memory, are computed as well and never looked at. A move that
    needs no padding below reads some more rows.
    """
    input_height, output_height = move.source.rows, move.target.rows
    if input_height == output_height and layer.window[0] == layer.stride[0] == 1 and whole_images(layer, move):
        input_height = output_height = surface_rows(input_height, soc)
    elif layer.moves and input_rows_below(layer, move) <= 0:
        input_height = max(input_height, soc.line_group)
    group = soc.depthwise_group if layer.depthwise else soc.kernel_group
    output_channels = align(len(run.channels), group)
    input_channels = output_channels if layer.depthwise else align(channels, soc.atom_bytes)
    return Geometry(
        input_height,
        move.source.width,
        input_channels,
        output_height,
        move.target.width,
        output_channels,
        group,
        layer.window[0],
        layer.weight.shape[1] * layer.weight.shape[2],
        rows_of(share, output_height, soc),
    )


def input_rows_below(layer: Convolution, move: Move) -> int:
    """How many rows of padding a move needs below its source."""
    return (move.target.rows - 1) * layer.stride[0] + layer.window[0] - layer.padding[0] - move.source.rows


def whole_images(layer: Convolution, move: Move) -> bool:
    """Whether a move reads and writes all pixels of an image, of some channels."""
    source, target = all_pixels(layer.inputs[0], move.source.image), all_pixels(layer.output, move.target.image)
    whole = Move(replace(source, channel=move.source.channel), replace(target, channel=move.target.channel))
    return not layer.moves or move == whole


def input_rows(layer: Convolution, shape: Geometry, outputs: range) -> tuple[range, int]:
    """(rows read for a range of output rows, rows of padding above them)."""
    start = outputs.start * layer.stride[0] - layer.padding[0]
    stop = (outputs.stop - 1) * layer.stride[0] + shape.window_height - layer.padding[0]
    return range(max(0, start), min(stop, shape.input_height)), max(0, -start)


def row_parts(layer: Convolution, shape: Geometry, rows: int) -> int | None:
    """The fewest slices of output rows reading at most ``rows`` input rows each; None if one output row needs more."""
    most = min(LARGEST_ATOMICS // shape.output_width, LARGEST_ROWS)
    rows = min(rows, LARGEST_ROWS)
    needed = shape.input_height if shape.whole else len(input_rows(layer, shape, shape.rows)[0])
    if rows >= needed and len(shape.rows) <= most:
        return 1
    fitting = min((rows - shape.window_height) // layer.stride[0] + 1, most)
    if fitting < 1:
        return None
    return divide_up(len(shape.rows), fitting)


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
        # the kernel of a depthwise convolution is one, of all channels, and has to be there as a whole
        for weight_banks in sorted({all_banks} if layer.depthwise else {group_banks, all_banks}):
            feature_banks = soc.cbuf_banks - weight_banks
            rows = (feature_banks - soc.feature_slack_banks) * soc.cbuf_bank_bytes // soc.cbuf_entry_bytes // entries
            count = row_parts(layer, shape, rows) if rows > 0 else None
            if count is None:
                continue
            # One slice may be of all rows, or, with a stride beyond the window, of the few that are looked at.
            whole = count == 1 and rows >= shape.input_height and shape.whole
            height = shape.input_height if whole else len(input_rows(layer, shape, shape.rows)[0])
            if count == 1:
                used = divide_up(entries * height * soc.cbuf_entry_bytes, soc.cbuf_bank_bytes)
                feature_banks = used + soc.feature_slack_banks
            reuse = count > 1 and weight_banks == all_banks
            read = sum(len(input_rows(layer, shape, outputs)[0]) for outputs in slices(shape.rows, count))
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


def place_of(cube: Cube, pixels: Pixels, soc: Soc) -> Place:
    """Where some pixels begin."""
    surface = pixels.channel // soc.atom_bytes
    return cube.image(pixels.image) + (surface * cube.surface_bytes + pixels.first * soc.atom_bytes)


@dataclass(frozen=True)
class Operands:
    """Where a convolution reads and writes; places are those of the whole layer."""

    channels: int  # that are read, from the first of the feature's cube on
    feature: Cube
    output: Cube
    addend: Cube | None
    weight: Place
    bias: Place
    gain: Place | None


def tile(layer: Convolution, where: Operands, soc: Soc, share: Share | None = None) -> list[ConvTile]:
    """A layer as tiles: runs, output channels, moves, rows, so that weights stay in the CBUF from slice to slice.

    ``share``: what a core has of it; CompileError if that cannot be.
    """
    tiles: list[ConvTile] = []
    plans: dict[Geometry, Plan] = {}
    group = soc.depthwise_group if layer.depthwise else soc.kernel_group
    channels = channels_of(share, layer.bias.size, group, soc)
    for run in filter(None, (narrowed(run, channels) for run in layer.requantize)):
        for move in layer.steps:
            shape = geometry(layer, move, run, where.channels, soc, share)
            if shape not in plans:
                plans[shape] = choose(layer, shape, soc)
            tiles += tile_move(layer, run, move, shape, plans[shape], where, soc)
    return tiles


def tile_move(
    layer: Convolution, run: Requantize, move: Move, shape: Geometry, plan: Plan, where: Operands, soc: Soc
) -> list[ConvTile]:
    """The tiles of some output channels that are requantized alike, for some pixels."""
    per_channel = kernel_bytes_per_channel(layer, shape)
    operand_bytes = 4 if run.channel_multiplier is None else 8
    source, target = place_of(where.feature, move.source, soc), place_of(where.output, move.target, soc)
    addend_surface = where.addend.surface_bytes // soc.atom_bytes if where.addend else 0
    tiles: list[ConvTile] = []
    for first in range(0, shape.output_channels // shape.group, plan.part_groups):
        within = first * shape.group
        start = run.channels.start + within
        count = min(plan.part_groups * shape.group, shape.output_channels - within)
        read_start, read_count = (start, count) if layer.depthwise else (0, shape.input_channels)
        for index, outputs in enumerate(slices(shape.rows, plan.row_parts)):
            rows, padding_top = input_rows(layer, shape, outputs)
            if plan.whole:
                rows = range(shape.input_height)

            def slice_of(cube: Cube, place: Place, pitch: int, channel: int, row: int) -> Place:
                surface = channel // soc.atom_bytes * cube.surface_bytes
                return place + (surface + row * pitch * soc.atom_bytes)

            tiles.append(
                ConvTile(
                    layer=layer,
                    requantize=run,
                    input_height=len(rows),
                    input_width=shape.input_width,
                    input_pitch=move.source.pitch,
                    input_channels=read_count,
                    input_channels_real=min(where.channels - read_start, read_count),
                    input_surface=where.feature.surface_bytes // soc.atom_bytes,
                    output_height=len(outputs),
                    output_width=shape.output_width,
                    output_skip=move.target.pitch - shape.output_width,
                    output_channels=count,
                    output_channels_real=min(run.channels.stop - start, count),
                    output_surface=where.output.surface_bytes // soc.atom_bytes,
                    padding_top=padding_top,
                    kernel_bytes=per_channel * (count if layer.depthwise else 1),
                    feature_banks=plan.feature_banks,
                    weight_banks=plan.weight_banks,
                    weights_resident=plan.reuse and index > 0,
                    feature=slice_of(where.feature, source, move.source.pitch, read_start, rows.start),
                    weight=where.weight + start * per_channel,
                    bias=where.bias + start * operand_bytes,
                    gain=where.gain + start if where.gain and run.gain is not None else None,
                    output=slice_of(where.output, target, move.target.pitch, start, outputs.start),
                    addend=slice_of(
                        where.addend, where.addend.image(move.target.image), shape.output_width, start, outputs.start
                    )
                    if where.addend
                    else None,
                    addend_surface=addend_surface,
                    addend_skip=addend_surface - len(outputs) * shape.output_width if where.addend else 0,
                )
            )
    return tiles


def tile_elementwise(
    layer: Elementwise, main: Cube, operand: Cube | None, output: Cube, soc: Soc, share: Share | None = None
) -> list[FlyingTile]:
    """Tasks for each image, one if it is not too high. Rows that pad a surface are computed where all cubes have them.

    ``share``: what a core has of it. Raises CompileError for rows that are too wide, and if the share cannot be.
    """
    images, height, width, channels = layer.output.shape
    if width > LARGEST_FLYING_WIDTH:
        raise CompileError(f"{layer.operator}: rows of {width} pixels, of which {LARGEST_FLYING_WIDTH} are possible")
    padded = surface_rows(height, soc)
    cubes = [main, output, *([operand] if operand and not layer.per_channel else [])]
    rows = padded if all(cube.surface_bytes == padded * width * soc.atom_bytes for cube in cubes) else height
    row_bytes = width * soc.atom_bytes
    most = layer.operand.shape[1] if layer.operand and layer.repeats else LARGEST_FLYING_ROWS
    if share and share.kind == "rows" and layer.repeats:
        raise CompileError(f"{layer.operator}: rows that meet the rows of an operand in turn stay together")
    own, part = rows_of(share, rows, soc), channels_of(share, channels, soc.kernel_group, soc)
    surface = part.start // soc.atom_bytes
    main, output = main.from_surface(surface), output.from_surface(surface)
    operand = operand.from_surface(surface) if operand else None
    tiles: list[FlyingTile] = []
    for image in range(images):
        for start in range(own.start, own.stop, most):
            first = start * row_bytes
            met = layer.operand_first * soc.atom_bytes + (0 if layer.per_channel or layer.repeats else first)
            tiles.append(
                FlyingTile(
                    layer=layer,
                    rows=min(most, own.stop - start),
                    width=width,
                    channels=align(len(part), soc.atom_bytes),
                    main=main.image(image) + first,
                    main_surface=main.surface_bytes // soc.atom_bytes,
                    operand=operand.image(image if layer.operand and layer.operand.shape[0] > 1 else 0) + met
                    if operand
                    else None,
                    operand_surface=operand.surface_bytes // soc.atom_bytes if operand else 0,
                    output=output.image(image) + first,
                    output_surface=output.surface_bytes // soc.atom_bytes,
                )
            )
    return tiles


def tile_pooling(layer: Pooling, source: Cube, output: Cube, soc: Soc, share: Share | None = None) -> list[PoolTile]:
    """One task an image; what no window sees is left out, or the PPU would wait for it (S-139).

    ``share``: what a core has of it, which can only be channels; CompileError else.
    """
    images, height, width, channels = layer.input.shape
    if share and share.kind == "rows":
        raise CompileError(f"{layer.operator}: pooling is not cut by rows")
    part = channels_of(share, channels, soc.kernel_group, soc)
    source, output = (cube.from_surface(part.start // soc.atom_bytes) for cube in (source, output))
    seen = [
        min(size, (extent - 1) * stride + kernel - before)
        for size, extent, stride, kernel, before in zip(
            (height, width), layer.output.shape[1:3], layer.stride, layer.kernel, layer.padding[::2], strict=True
        )
    ]
    return [
        PoolTile(
            layer=layer,
            input_height=seen[0],
            input_width=seen[1],
            input_pitch=width,
            output_height=layer.output.shape[1],
            output_width=layer.output.shape[2],
            channels=align(len(part), soc.atom_bytes),
            source=source.image(image),
            source_surface=source.surface_bytes // soc.atom_bytes,
            output=output.image(image),
            output_surface=output.surface_bytes // soc.atom_bytes,
        )
        for image in range(images)
    ]
