"""The probes' programs: tasks by the compiler's own emitters, with single registers changed where a probe wants that.

All tensors lie in the buffers of the rig, each from its start. Sizes are (height, width, channels).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from delegate.hw.emit import emit_task
from delegate.hw.emit.stream import Command
from delegate.hw.layout import divide_up, pack_depthwise_weights, pack_weights
from delegate.hw.regcmd import parse_word
from delegate.hw.registers import Register
from delegate.hw.soc import RK3588
from delegate.hw.task import Place
from delegate.ir import (
    Addend,
    AnyTile,
    Convolution,
    ConvTile,
    Elementwise,
    FlyingTile,
    Pooling,
    PoolTile,
    Requantize,
    Tensor,
)
from delegate.tools.probe.rig import BIAS, INPUT, OPERAND, OUTPUT, UNWRITTEN, WEIGHTS, Array, Stream

ATOM, GROUP = RK3588.atom_bytes, RK3588.kernel_group
BANKS = 6  # of features and of weights: plenty for both
Ints = npt.NDArray[np.int64]
Changes = Mapping[Register, Mapping[str, int]]
NOTHING = Tensor(0, "", (1, 1, 1, 1), "int8")  # stands for tensors whose places the tiles say
PLAIN = Requantize(range(GROUP), multiplier=1, shift=0, offset=0)


def stream(tile: AnyTile, changes: Changes | None = None, synced: bool = True) -> Stream:
    """A tile's task, some fields of its registers changed."""
    body, blocks = emit_task(tile)
    return Stream(tuple(changed(body, changes or {})), blocks, synced)


def changed(body: Iterable[Command], changes: Changes) -> Iterator[Command]:
    """The same commands with other values in some fields."""
    for command in body:
        register = parse_word(command).register if isinstance(command, int) else None
        if register is not None and register in changes:
            fields = register.decode(parse_word(command).value)  # type: ignore[arg-type]
            yield register(**{**fields, **changes[register]})
        else:
            yield command


def direct(
    weight: npt.NDArray[np.int8],
    source: tuple[int, int],
    output: tuple[int, int],
    requantize: Requantize = PLAIN,
    padding: tuple[int, int] = (0, 0),
    padding_value: int = 0,
    weight_zero_point: int = 0,
    addend: Addend | None = None,
    gain: bool = False,
    depthwise: bool = False,
) -> ConvTile:
    """One task of a convolution; ``weight`` (kernels, kh, kw, channels), of whole groups; ``padding``: top, left.

    Bias, gains and addend are read from their buffers.
    """
    kernels, kernel_height, kernel_width, channels = weight.shape
    count = channels if depthwise else kernels
    layer = Convolution(
        node=0,
        operator="probe",
        inputs=(NOTHING,),
        output=NOTHING,
        weight=weight,
        weight_zero_point=weight_zero_point,
        bias=np.zeros(count, np.int32),
        input_zero_point=padding_value,
        stride=(1, 1),
        padding=(padding[0], 0, padding[1], 0),
        depthwise=depthwise,
        requantize=(requantize,),
        accumulator_scale=None,
        addend=addend,
    )
    height, width = source
    return ConvTile(
        layer=layer,
        requantize=requantize,
        input_height=height,
        input_width=width,
        input_pitch=width,
        input_channels=channels,
        input_channels_real=channels,
        input_surface=height * width,
        output_height=output[0],
        output_width=output[1],
        output_skip=0,
        output_channels=count,
        output_channels_real=count,
        output_surface=output[0] * output[1],
        padding_top=padding[0],
        kernel_bytes=kernel_height * kernel_width * channels,
        feature_banks=BANKS,
        weight_banks=BANKS,
        weights_resident=False,
        feature=Place(INPUT, 0),
        weight=Place(WEIGHTS, 0),
        bias=Place(BIAS, 0),
        output=Place(OUTPUT, 0),
        gain=Place(OPERAND, 0) if gain else None,
        addend=Place(OPERAND, 0) if addend is not None else None,
        addend_surface=output[0] * output[1],
        addend_skip=0,
    )


def added(offset: int = 0, multiplier: int = 1, shift: int = 0) -> Addend:
    """A tensor that the element-wise unit adds, converted."""
    return Addend(NOTHING, offset, multiplier, shift)


def flying(layer: Elementwise, size: tuple[int, int, int]) -> FlyingTile:
    """One task without convolution; the operand, if there is one, lies like the main tensor."""
    height, width, channels = size
    return FlyingTile(
        layer=layer,
        rows=height,
        width=width,
        channels=channels,
        main=Place(INPUT, 0),
        main_surface=height * width,
        operand=Place(OPERAND, 0) if layer.operand is not None else None,
        operand_surface=1 if layer.operand is not None and layer.per_channel else height * width,
        output=Place(OUTPUT, 0),
        output_surface=height * width,
    )


def elementwise(size: tuple[int, int, int]) -> Elementwise:
    """A copy; ``replace`` makes more of it."""
    tensor = Tensor(0, "", (1, *size), "int8")
    return Elementwise(0, "probe", tensor, tensor, replace(PLAIN, channels=range(size[2])))


def pooled(
    size: tuple[int, int], output: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int]
) -> PoolTile:
    """The largest of each window of one surface."""
    layer = Pooling(0, "probe", NOTHING, NOTHING, kernel, stride, (0, 0, 0, 0))
    return PoolTile(
        layer=layer,
        input_height=size[0],
        input_width=size[1],
        input_pitch=size[1],
        output_height=output[0],
        output_width=output[1],
        channels=ATOM,
        source=Place(INPUT, 0),
        source_surface=size[0] * size[1],
        output=Place(OUTPUT, 0),
        output_surface=output[0] * output[1],
    )


def diagonal(factor: int = 1, channels: int = GROUP) -> npt.NDArray[np.int8]:
    """Kernels of one pixel: each channel times a factor, (channels, 1, 1, channels)."""
    return (np.eye(channels, dtype=np.int64) * factor).astype(np.int8).reshape(channels, 1, 1, channels)


def kernels(weight: npt.NDArray[np.int8], depthwise: bool = False) -> Array:
    """Weights as they lie in memory."""
    return (pack_depthwise_weights if depthwise else pack_weights)(weight, RK3588, 0)


@dataclass(frozen=True)
class Pitches:
    """Where a cube lies, in atoms: from pixel to pixel, row to row, surface to surface; ``first``: before it."""

    pixel: int
    row: int
    surface: int
    first: int = 0


def packed(height: int, width: int) -> Pitches:
    """Pixels, rows and surfaces behind each other."""
    return Pitches(1, width, height * width)


def laid_out(values: Array, pitches: Pitches | None = None, size: int | None = None) -> npt.NDArray[np.uint8]:
    """Numbers (height, width, channels) as a cube in memory that is unwritten elsewhere; ``size`` bytes of it."""
    height, width, channels = values.shape
    where = pitches or packed(height, width)
    surfaces = divide_up(channels, ATOM)
    y, x, surface = np.meshgrid(np.arange(height), np.arange(width), np.arange(surfaces), indexing="ij")
    atoms = where.first + surface * where.surface + y * where.row + x * where.pixel
    memory = np.full((max(int(atoms.max()) + 1, divide_up(size or 0, ATOM)), ATOM), UNWRITTEN, np.uint8)
    lanes = np.full((height, width, surfaces * ATOM), UNWRITTEN, np.uint8)
    lanes[:, :, :channels] = np.asarray(values).astype(np.int64).astype(np.uint8)
    memory[atoms] = lanes.reshape(height, width, surfaces, ATOM)
    return memory.reshape(-1)[:size]
