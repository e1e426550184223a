"""Where tensors lie: all tensors of a partition as cubes in buffers, sharing memory where lifetimes allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from delegate import quantize
from delegate.errors import CompileError
from delegate.hw.layout import align, divide_up, surface_rows
from delegate.hw.soc import Soc
from delegate.hw.task import Buffer, Place, Port, Role
from delegate.ir import Convolution, Graph, Tensor, as_cube

ALIGNMENT = 64  # bytes; start of a cube


@dataclass(frozen=True)
class Cube:
    """A tensor's surfaces in a buffer."""

    place: Place
    surfaces: int
    surface_bytes: int


@dataclass
class Block:
    """Tensors that are read as one cube and so lie behind each other, and the layers during which they are alive."""

    tensors: list[Tensor]
    first: int  # layer that writes first; -1 for an input of the partition
    last: int  # layer that reads last; the number of layers for an output
    size: int = 0  # bytes


def surfaces_needed(tensor: Tensor, layers: Sequence[Convolution], soc: Soc) -> int:
    """Surfaces that any layer reads or writes: the DPU writes whole kernel groups, depthwise reads whole groups."""
    group = soc.atom_bytes
    for layer in layers:
        added = layer.addend is not None and tensor.index == layer.addend.tensor.index
        if layer.depthwise and tensor.index in (layer.inputs[0].index, layer.output.index):
            group = max(group, soc.depthwise_group)
        elif added or tensor.index == layer.output.index:
            group = max(group, soc.kernel_group)
    return align(tensor.shape[3], group) // soc.atom_bytes


def surface_bytes(tensor: Tensor, soc: Soc) -> int:
    """Pitch of a tensor's surfaces."""
    return surface_rows(tensor.shape[1], soc) * tensor.shape[2] * soc.atom_bytes


def blocks_of(graph: Graph, layers: Sequence[Convolution]) -> list[Block]:
    """One block for each set of tensors that some layer reads as one, in order of their first use."""
    block_of: dict[int, Block] = {}

    def touch(tensor: Tensor, time: int) -> Block:
        block = block_of.setdefault(tensor.index, Block([tensor], time, time))
        block.first, block.last = min(block.first, time), max(block.last, time)
        return block

    for index in graph.inputs:
        touch(as_cube(graph.tensors[index]), -1)
    for time, layer in enumerate(layers):
        for tensor in (*layer.inputs, *([layer.addend.tensor] if layer.addend else [])):
            touch(tensor, time)
        for tensor in layer.inputs[1:]:
            merge(block_of, layer.inputs[0], tensor)
        touch(layer.output, time)
    for index in graph.outputs:
        touch(as_cube(graph.tensors[index]), len(layers))
    return sorted({id(block): block for block in block_of.values()}.values(), key=lambda block: block.first)


def merge(block_of: dict[int, Block], a: Tensor, b: Tensor) -> None:
    """Puts the blocks of two tensors together."""
    kept, gone = block_of[a.index], block_of[b.index]
    if kept is gone:
        return
    kept.tensors += gone.tensors
    kept.first, kept.last = min(kept.first, gone.first), max(kept.last, gone.last)
    for tensor in gone.tensors:
        block_of[tensor.index] = kept


def first_fit(blocks: Sequence[Block]) -> tuple[list[int], int]:
    """(offset of each block in one arena, size of the arena): the lowest gap that no block alive at that time uses."""
    placed: list[tuple[Block, int]] = []
    offsets: dict[int, int] = {}
    # Large blocks first keep the gaps small.
    for block in sorted(blocks, key=lambda block: -block.size):
        offset = 0
        for other, start in sorted(placed, key=lambda item: item[1]):
            alive_together = block.first <= other.last and other.first <= block.last
            if alive_together and start < offset + block.size and offset < start + other.size:
                offset = align(start + other.size, ALIGNMENT)
        placed.append((block, offset))
        offsets[id(block)] = offset
    size = max((offset + block.size for block, offset in placed), default=0)
    return [offsets[id(block)] for block in blocks], size


@dataclass(frozen=True)
class Allocation:
    """Buffers for all tensors of a partition, and the cube of each by tensor index."""

    buffers: list[Buffer]
    cubes: dict[int, Cube]


def allocate(graph: Graph, layers: Sequence[Convolution], soc: Soc, first_buffer: int) -> Allocation:
    """Gives every tensor its cube; buffer numbers start at ``first_buffer``.

    Blocks that the host fills or reads get a buffer of their own, so that no other memory is synchronized for them.
    """
    cubes: dict[int, Cube] = {}
    buffers: list[Buffer] = []
    inner: list[Block] = []
    surfaces = {
        tensor.index: surfaces_needed(tensor, layers, soc)
        for block in blocks_of(graph, layers)
        for tensor in block.tensors
    }

    def place(block: Block, buffer: int, offset: int) -> None:
        for tensor in block.tensors:
            cubes[tensor.index] = Cube(Place(buffer, offset), surfaces[tensor.index], surface_bytes(tensor, soc))
            offset += surfaces[tensor.index] * surface_bytes(tensor, soc)

    for block in blocks_of(graph, layers):
        block.size = sum(surfaces[tensor.index] * surface_bytes(tensor, soc) for tensor in block.tensors)
        if block.first >= 0 and block.last < len(layers):
            inner.append(block)
            continue
        role: Role = "output" if block.last == len(layers) else "input"
        place(block, first_buffer + len(buffers), 0)
        buffers.append(Buffer(f"{role} {len(buffers)}", block.size, role))
    offsets, size = first_fit(inner)
    for block, offset in zip(inner, offsets, strict=True):
        place(block, first_buffer + len(buffers), offset)
    if inner:
        buffers.append(Buffer("scratch", size, "scratch"))
    return Allocation(buffers, cubes)


def port(tensor: Tensor, cube: Cube) -> Port:
    """What the host needs to know to fill or read a tensor."""
    tensor = as_cube(tensor)
    if tensor.quant is None or tensor.dtype not in ("int8", "uint8"):
        raise CompileError(f"tensor {tensor.index} of dtype {tensor.dtype} cannot cross the border of a partition")
    return Port(
        tensor=tensor.index,
        buffer=cube.place.buffer,
        offset=cube.place.offset,
        shape=(tensor.shape[0], tensor.shape[1], tensor.shape[2], tensor.shape[3]),
        dtype="uint8" if tensor.dtype == "uint8" else "int8",
        surfaces=divide_up(tensor.shape[3], 16),
        surface_bytes=cube.surface_bytes,
        fill=quantize.zero_point(tensor.quant, tensor.dtype),
    )
