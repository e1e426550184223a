"""Where tensors lie: all tensors of a partition as cubes in buffers, sharing memory where lifetimes allow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from delegate import quantize
from delegate.errors import CompileError
from delegate.hw.layout import align, divide_up, surface_rows
from delegate.hw.soc import Soc
from delegate.hw.task import Buffer, Place, Port, Role
from delegate.ir import AnyLayer, Convolution, Elementwise, Graph, Tensor, View, as_cube

ALIGNMENT = 64  # bytes; start of a cube


@dataclass(frozen=True)
class Cube:
    """A tensor's surfaces in a buffer; the images of a batch follow each other."""

    place: Place
    surfaces: int  # of an image
    surface_bytes: int
    image_bytes: int  # from an image to the next

    def image(self, index: int) -> Place:
        """Where an image begins."""
        return self.place + index * self.image_bytes

    def from_surface(self, index: int) -> Cube:
        """What is left of it from a surface on, of each image."""
        return replace(self, place=self.place + index * self.surface_bytes, surfaces=self.surfaces - index)


@dataclass
class Block:
    """Tensors that are read as one cube and so lie behind each other, and the layers during which they are alive."""

    tensors: list[Tensor]
    first: int  # layer that writes first; -1 for an input of the partition
    last: int  # layer that reads last; the number of layers for an output
    pitch: int  # bytes from a surface to the next, of all its tensors
    size: int = 0  # bytes


@dataclass(frozen=True)
class Root:
    """The tensor in whose memory another lies, and where it begins."""

    tensor: Tensor
    pixel: int
    channel: int


class Views:
    """Which tensors lie in the memory of others."""

    def __init__(self, views: Iterable[View] = ()) -> None:
        self._views = {view.part.index: view for view in views}

    def root(self, tensor: Tensor) -> Root:
        """Where a tensor lies in the end; a tensor of its own lies in itself."""
        pixel = channel = 0
        while tensor.index in self._views:
            view = self._views[tensor.index]
            tensor = as_cube(view.whole)
            pixel, channel = pixel + view.row * tensor.shape[2], channel + view.channel
        return Root(as_cube(tensor), pixel, channel)

    def stands_alone(self, tensor: Tensor, soc: Soc) -> bool:
        """Whether a tensor has memory as if it were its own: it begins a root of as many surfaces of as many atoms."""
        root, own = self.root(tensor), as_cube(tensor)
        alike = surface_bytes(root.tensor, soc) == surface_bytes(own, soc) and root.tensor.shape[3] == own.shape[3]
        return root.pixel == root.channel == 0 and alike

    @property
    def widest_row(self) -> int:
        """Pixels of the longest row at which a part begins within its whole, 0 if all begin at the first."""
        return max((as_cube(view.whole).shape[2] for view in self._views.values() if view.row), default=0)

    def with_views(self, views: Iterable[View]) -> Views:
        """These and more."""
        return Views([*self._views.values(), *views])

    def parts(self) -> list[Tensor]:
        """All tensors that lie in another."""
        return [view.part for view in self._views.values()]


def channels_touched(layer: AnyLayer, tensor: Tensor, soc: Soc) -> int:
    """Channels of a tensor that a layer reads or writes.

    The DPU writes whole kernel groups, depthwise convolutions read whole groups too, everything else whole atoms.
    """
    if not isinstance(layer, Convolution):
        return align(tensor.shape[3], soc.atom_bytes)
    group = soc.depthwise_group if layer.depthwise else soc.kernel_group
    reached = 0
    if tensor.index == layer.output.index:
        reached = max(step.target.channel for step in layer.steps) + align(layer.bias.size, group)
    if layer.addend is not None and tensor.index == layer.addend.tensor.index:
        reached = max(reached, align(tensor.shape[3], group))
    if any(tensor.index == read.index for read in layer.inputs):
        if len(layer.inputs) > 1:  # more atoms would belong to the neighbour
            reached = max(reached, align(tensor.shape[3], soc.atom_bytes))
        else:
            unit = group if layer.depthwise else soc.atom_bytes
            first = max(step.source.channel for step in layer.steps)
            reached = max(reached, first + align(layer.weight.shape[3], unit))
    return reached


def surfaces_of_roots(graph: Graph, layers: Sequence[AnyLayer], views: Views, soc: Soc) -> dict[int, int]:
    """Surfaces of an image of each tensor that has memory of its own, all that any layer reads or writes of it."""
    found: dict[int, int] = {}

    def need(tensor: Tensor, channels: int) -> None:
        root = views.root(tensor)
        surfaces = divide_up(root.channel + channels, soc.atom_bytes)
        found[root.tensor.index] = max(found.get(root.tensor.index, 0), surfaces)

    for index in (*graph.inputs, *graph.outputs):
        tensor = as_cube(graph.tensors[index])
        need(tensor, tensor.shape[3])
    for layer in layers:
        for tensor in (*layer.reads, layer.output):
            need(tensor, max(tensor.shape[3], channels_touched(layer, tensor, soc)))
    return found


def surface_bytes(tensor: Tensor, soc: Soc) -> int:
    """Pitch of the surfaces of a tensor with memory of its own."""
    return surface_rows(tensor.shape[1], soc) * tensor.shape[2] * soc.atom_bytes


def blocks_of(graph: Graph, layers: Sequence[AnyLayer], views: Views, soc: Soc) -> list[Block]:
    """One block for each set of tensors that some layer reads as one, in order of their first use."""
    block_of: dict[int, Block] = {}

    def touch(tensor: Tensor, time: int) -> None:
        """A tensor may come in several shapes of as many pixels; the pitch is that of the one that wants most."""
        root = views.root(tensor)
        block = block_of.setdefault(root.tensor.index, Block([root.tensor], time, time, 0))
        block.first, block.last = min(block.first, time), max(block.last, time)
        own = surface_bytes(tensor, soc) if root.pixel == 0 else 0
        block.pitch = max(block.pitch, surface_bytes(root.tensor, soc), own)

    for index in graph.inputs:
        touch(as_cube(graph.tensors[index]), -1)
    for time, layer in enumerate(layers):
        for tensor in layer.reads:
            touch(tensor, time)
        if isinstance(layer, Convolution):
            first, *others = (views.root(tensor).tensor for tensor in layer.inputs)
            for other in others:
                merge(block_of, first, other)
        touch(layer.output, time)
    for index in graph.outputs:
        touch(as_cube(graph.tensors[index]), len(layers))
    return sorted({id(block): block for block in block_of.values()}.values(), key=lambda block: block.first)


def room_behind(layers: Sequence[AnyLayer], views: Views, soc: Soc) -> int:
    """Bytes that a layer may read behind a tensor.

    A line group is read from a part's last row on, or from that of a move; an element-wise operand that begins later
    ends later.
    """
    rows, later = [views.widest_row], [0]
    for layer in layers:
        if isinstance(layer, Convolution):
            rows += [move.source.pitch for move in layer.moves]
        elif isinstance(layer, Elementwise):
            later.append(layer.operand_first)
    return max((soc.line_group - 1) * max(rows), max(later)) * soc.atom_bytes


def merge(block_of: dict[int, Block], a: Tensor, b: Tensor) -> None:
    """Puts the blocks of two tensors together."""
    kept, gone = block_of[a.index], block_of[b.index]
    if kept is gone:
        return
    kept.tensors += gone.tensors
    kept.first, kept.last = min(kept.first, gone.first), max(kept.last, gone.last)
    kept.pitch = max(kept.pitch, gone.pitch)
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


def allocate(
    graph: Graph, layers: Sequence[AnyLayer], views: Views, soc: Soc, first_buffer: int, apart: bool = False
) -> Allocation:
    """Gives every tensor its cube; buffer numbers start at ``first_buffer``.

    Blocks that the host fills or reads get a buffer of their own, so that no other memory is synchronized for them;
    with ``apart`` all do, for then the host copies each between the memories of the cores.
    """
    cubes: dict[int, Cube] = {}
    buffers: list[Buffer] = []
    inner: list[Block] = []
    surfaces = surfaces_of_roots(graph, layers, views, soc)
    behind = room_behind(layers, views, soc)

    def image_bytes(block: Block) -> int:
        return block.pitch * sum(surfaces[tensor.index] for tensor in block.tensors)

    def place(block: Block, buffer: int, offset: int) -> None:
        for tensor in block.tensors:
            cube = Cube(Place(buffer, offset), surfaces[tensor.index], block.pitch, image_bytes(block))
            cubes[tensor.index] = cube
            offset += cube.surfaces * cube.surface_bytes

    for block in blocks_of(graph, layers, views, soc):
        images = max(tensor.shape[0] for tensor in block.tensors)
        block.size = images * image_bytes(block)
        block.size += behind
        within = block.first >= 0 and block.last < len(layers)
        if within and not apart:
            inner.append(block)
            continue
        role: Role = "scratch" if within else "output" if block.last == len(layers) else "input"
        place(block, first_buffer + len(buffers), 0)
        buffers.append(Buffer(f"{role} {len(buffers)}", block.size, role))
    offsets, size = first_fit(inner)
    for block, offset in zip(inner, offsets, strict=True):
        place(block, first_buffer + len(buffers), offset)
    if inner:
        buffers.append(Buffer("scratch", size, "scratch"))
    for part in views.parts():
        root = views.root(part)
        if root.tensor.index in cubes:
            cubes[part.index] = part_of_cube(cubes[root.tensor.index], root, soc)
    return Allocation(buffers, cubes)


def part_of_cube(cube: Cube, root: Root, soc: Soc) -> Cube:
    """The cube of a tensor that lies in another's."""
    surface = root.channel // soc.atom_bytes
    offset = surface * cube.surface_bytes + root.pixel * soc.atom_bytes
    return replace(cube, place=cube.place + offset, surfaces=cube.surfaces - surface)


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
        image_bytes=cube.image_bytes,
        fill=quantize.zero_point(tensor.quant, tensor.dtype),
    )
