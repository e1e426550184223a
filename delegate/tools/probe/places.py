"""Probes of where numbers are read and written: parts of rows, gaps, groups of channels, padding, low heights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from delegate.hw.regs import CNA, DPU
from delegate.hw.task import Place
from delegate.tools.probe.arithmetic import SIZE, drawn
from delegate.tools.probe.judge import HANG, WRONG, Ints, Known, clipped
from delegate.tools.probe.programs import (
    ATOM,
    GROUP,
    Pitches,
    diagonal,
    direct,
    elementwise,
    flying,
    kernels,
    laid_out,
    packed,
    stream,
)
from delegate.tools.probe.rig import BIAS, INPUT, OUTPUT, WEIGHTS, Array, Job

HEIGHT, WIDTH, _ = SIZE
PLANE = HEIGHT * WIDTH
NO_BIAS = np.zeros(4 * GROUP, np.int32)


def data_of(features: Array, weight: Array, bias: Array = NO_BIAS, depthwise: bool = False) -> dict[int, Array]:
    """The buffers of a convolution."""
    return {INPUT: features, WEIGHTS: kernels(weight, depthwise), BIAS: bias}


def part_of_row() -> Known:
    """Columns of wider rows; atoms are drawn for the whole surfaces, so that a wrong step reads others of them."""
    jobs: list[Job] = []
    right: list[Array] = []
    dense: list[Array] = []
    pad = -50
    for height, width, pitch, left, padded in ((4, 5, 9, 2, False), (8, 1, 3, 1, False), (4, 5, 9, 2, True)):
        atoms = drawn(30 + pitch, (2, height * pitch, ATOM))
        weight = tap(0, 0, GROUP) if padded else diagonal()
        padding = (1, 1) if padded else (0, 0)
        tile = replace(
            direct(weight, (height, width), (height, width), padding=padding, padding_value=pad),
            input_pitch=pitch,
            input_surface=height * pitch,
            feature=Place(INPUT, left * ATOM),
        )
        jobs.append(Job((stream(tile),), data_of(atoms.astype(np.int8), weight), height * width * GROUP))
        y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        for found, step in ((right, pitch), (dense, width)):
            seen = np.concatenate(atoms[:, left + y * step + x], axis=2)
            found.append(laid_out(moved(seen, 1, 1, np.full(GROUP, pad)) if padded else seen))
    return Known(tuple(jobs), {"line stride": tuple(right), "width": tuple(dense)})


def row_skip() -> Known:
    side, skip, surface, channels = 4, 3, 72, GROUP
    values, size = drawn(33, (side, side, channels)), 2 * surface * ATOM
    convolved = replace(direct(diagonal(), (side, side), (side, side)), output_skip=skip, output_surface=surface)
    copied = replace(flying(elementwise((side, side, channels)), (side, side, channels)), output_surface=surface)
    skipping = {DPU.DATA_CUBE_NOTCH_ADDR: {"notch_addr_0": skip, "notch_addr_1": skip}}
    jobs = (
        Job((stream(convolved),), data_of(laid_out(values), diagonal()), size),
        Job((stream(copied, skipping),), {INPUT: laid_out(values)}, size),
    )
    places = {
        "behind rows": Pitches(1, side + skip, surface),
        "behind pixels": Pitches(1 + skip, side * (1 + skip), surface),
        "nowhere": Pitches(1, side, surface),
    }
    return Known(jobs, {name: (laid_out(values, where, size),) * 2 for name, where in places.items()})


def surface_pitch() -> Known:
    channels, apart = 2 * GROUP, PLANE + 5
    values = drawn(34, (HEIGHT, WIDTH, channels))
    weight = diagonal(channels=channels)
    tile = replace(direct(weight, SIZE[:2], SIZE[:2]), output_surface=apart)
    size = 4 * apart * ATOM
    job = Job((stream(tile),), data_of(laid_out(values), weight), size)
    places = {"registers": Pitches(1, WIDTH, apart), "plane": packed(HEIGHT, WIDTH)}
    return Known((job,), {name: (laid_out(values, where, size),) for name, where in places.items()})


def short_kernels() -> Known:
    """The registers say 20 kernels, whose weights alone are there; bias and CHANNEL are of the whole group."""
    count, zero_point, bias = 20, -1, 11
    values = drawn(44, low=-3, high=3)
    weight = diagonal()
    tile = direct(weight, SIZE[:2], SIZE[:2], weight_zero_point=zero_point)
    changes = {
        CNA.WEIGHT_SIZE0: {"weight_bytes": count * GROUP},
        CNA.WEIGHT_SIZE2: {"weight_kernels": count},
    }
    data = data_of(laid_out(values), weight[:count], np.full(GROUP, bias, np.int32))
    job = Job((stream(tile, changes),), data, values.size)
    real, part = np.arange(GROUP) < count, -zero_point * values.sum(axis=2, keepdims=True)
    sums = {
        "window sum": np.where(real, values + part, part),
        "nothing": np.where(real, values + part, 0),
    }
    return Known((job,), {name: (laid_out(clipped(numbers + bias)),) for name, numbers in sums.items()})


def written_channels() -> Known:
    """The first task writes 16 of 32 channels behind a surface that is left alone, the second reads them there."""
    values, spare = drawn(35), -77
    weight, narrow = diagonal(), diagonal()[:, :, :, :ATOM].copy()
    bias = np.concatenate((np.where(np.arange(GROUP) < ATOM, 0, spare), np.zeros(GROUP, int))).astype(np.int32)
    weight[ATOM:] = 0
    first = replace(direct(weight, SIZE[:2], SIZE[:2]), output_channels_real=ATOM, output=Place(OUTPUT, PLANE * ATOM))
    second = replace(
        direct(narrow, SIZE[:2], SIZE[:2]),
        feature=Place(OUTPUT, PLANE * ATOM),
        weight=Place(WEIGHTS, weight.size),
        bias=Place(BIAS, GROUP * 4),
        output=Place(OUTPUT, 3 * PLANE * ATOM),
    )
    packed_weights = np.concatenate((kernels(weight), kernels(narrow)))
    data = {INPUT: laid_out(values), WEIGHTS: packed_weights, BIAS: bias}
    real = values[:, :, :ATOM]
    filled = np.concatenate((real, np.full_like(real, spare)), axis=2)
    size = 5 * PLANE * ATOM
    again = np.concatenate((real, np.zeros_like(real)), axis=2)
    end = laid_out(again, replace(packed(HEIGHT, WIDTH), first=3 * PLANE), size)
    expected = {}
    for name, written in (("CHANNEL", filled), ("ORIG_CHANNEL", real)):
        start = laid_out(written, replace(packed(HEIGHT, WIDTH), first=PLANE), size)
        expected[name] = (np.concatenate((start[: 3 * PLANE * ATOM], end[3 * PLANE * ATOM :])),)
    return Known((Job((stream(first), stream(second)), data, size),), expected)


def tap(y: int, x: int, channels: int, depthwise: bool = False) -> Array:
    """3 x 3 kernels that see one pixel of the window."""
    weight = np.zeros((1 if depthwise else channels, 3, 3, channels), np.int8)
    weight[:, y, x] = 1 if depthwise else np.eye(channels, dtype=np.int8)
    return weight


def pad_lanes() -> Known:
    channels, low, second = 64, 0x10, 0x20
    values = drawn(36, (HEIGHT, WIDTH, channels))
    weight = tap(0, 0, channels, depthwise=True)
    tile = direct(weight, SIZE[:2], SIZE[:2], padding=(1, 1), depthwise=True)
    changes = {CNA.PAD_CON1: {"pad_value": 0x40300000 | second << 8 | low}}
    job = Job((stream(tile, changes),), data_of(laid_out(values), weight, depthwise=True), values.size)
    channel = np.arange(channels)
    pads = {
        "lowest": np.full(channels, low),
        "two lanes": np.where((channel < 32) & (channel % 2 == 1), second, low),
    }
    return Known((job,), {name: (laid_out(moved(values, 1, 1, pad)),) for name, pad in pads.items()})


def moved(values: Ints, down: int, right: int, pad: Array) -> Ints:
    """The image moved by a pixel or so, what comes in being ``pad`` (channels); negative: up, left."""
    height, width, _ = values.shape
    result = np.empty_like(values)
    result[...] = pad
    y, x = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
    from_y, from_x = slice(max(-down, 0), height - max(down, 0)), slice(max(-right, 0), width - max(right, 0))
    result[y, x] = values[from_y, from_x]
    return result


def pad_after() -> Known:
    values, pad = drawn(37), 9
    weight = tap(2, 2, GROUP)
    tile = direct(weight, SIZE[:2], SIZE[:2], padding_value=pad)
    job = Job((stream(tile),), data_of(laid_out(values), weight), values.size)
    pads = {"padding": np.full(GROUP, pad), "0": np.zeros(GROUP, int)}
    return Known((job,), {name: (laid_out(moved(values, -2, -2, filling)),) for name, filling in pads.items()})


def low_height() -> Known:
    height, width = 2, 5
    atoms = drawn(38, (6 * width, ATOM))
    tile = direct(diagonal(), (height, width), (height, width))
    job = Job((stream(tile),), data_of(atoms.astype(np.int8), diagonal()), height * width * GROUP)
    expected = {}
    for name, rows in (("signed", height), ("0", 4)):
        surfaces = [atoms[rows * width * k :][: height * width].reshape(height, width, ATOM) for k in range(2)]
        expected[name] = (laid_out(np.concatenate(surfaces, axis=2)),)
    return Known((job,), expected)


def entries_of_three() -> Known:
    channels = 3 * ATOM
    values = drawn(39, (HEIGHT, WIDTH, channels))
    weight = diagonal(channels=channels)[:GROUP]
    tile = direct(weight, SIZE[:2], SIZE[:2])
    data, size = data_of(laid_out(values), weight), PLANE * GROUP
    four = {CNA.CBUF_CON1: {"data_entries": WIDTH}}  # of 64 bytes: four atoms a pixel
    jobs = tuple(Job((stream(tile, changes),), data, size) for changes in ({}, four))
    right = laid_out(values[:, :, :GROUP])
    return Known(jobs, {"either": (right, right), "three": (right, WRONG), "four": (WRONG, right)})


def part_of_group() -> Known:
    """48 kernels of 32 channels, the last 16 like the first."""
    values = drawn(40)
    weight = np.concatenate((diagonal(), diagonal()[:ATOM]))
    job = Job((stream(direct(weight, SIZE[:2], SIZE[:2])),), data_of(laid_out(values), weight), 4 * PLANE * ATOM)
    written = np.concatenate((values, values[:, :, :ATOM]), axis=2)
    return Known((job,), {"never": (HANG,), "completes": (laid_out(written, size=job.size),)})


def sync_word() -> Known:
    values = drawn(41)
    tile = direct(diagonal(), SIZE[:2], SIZE[:2])
    job = Job((stream(tile, synced=False),), data_of(laid_out(values), diagonal()), values.size)
    return Known((job,), {"not needed": (laid_out(values),), "needed": (HANG,)})


def plain() -> Known:
    """A convolution that every NPU computes; not a question."""
    values = drawn(42)
    job = Job((stream(direct(diagonal(), SIZE[:2], SIZE[:2])),), data_of(laid_out(values), diagonal()), values.size)
    return Known((job,), {"right": (laid_out(values),)})
