"""The pipeline, top to bottom: lower, fuse, allocate, tile, emit, link."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from delegate.chains import chains
from delegate.cores import Cutter, Division, Planner, Work, Workload
from delegate.errors import CompileError
from delegate.exchange import exchanges
from delegate.fuse import fuse_additions
from delegate.hw.emit import emit_task
from delegate.hw.emit.stream import assemble, link
from delegate.hw.layout import (
    align,
    divide_up,
    pack_bias,
    pack_bias_and_multipliers,
    pack_constant,
    pack_depthwise_weights,
    pack_gains,
    pack_weights,
)
from delegate.hw.soc import ADDRESS_LIMIT, Soc, Target
from delegate.hw.task import Buffer, Bytes, Job, Layer, Place, Program, Relocation, Task, Words
from delegate.ir import (
    AnyLayer,
    Convolution,
    Elementwise,
    Graph,
    Node,
    Pooling,
    Tensor,
    View,
    as_cube,
)
from delegate.memory import Allocation, Cube, Views, allocate, port
from delegate.ops import OPERATORS
from delegate.ops.copies import selection
from delegate.place import place
from delegate.quantize import to_int8
from delegate.tile import Operands, tile, tile_elementwise, tile_pooling
from delegate.witness import witnesses

REGCMD, WEIGHTS, FIRST_CUBES = 0, 1, 2  # buffer numbers


def compile_graph(
    graph: Graph,
    target: Target,
    full_chains: bool = False,
    division: Division | None = None,
    witnessed: bool = True,
) -> Program:
    """Compiles a partition whose nodes have passed the rules.

    ``full_chains``: tasks may be chained by the program controller even where one reads through CNA what another
    wrote, which the hardware book doubts (C-4). ``division``: how it may be spread over cores; by default it runs on
    one. ``witnessed``: no two tensors share memory, so that it can be seen of each task whether it has run
    (delegate.witness). Raises CompileError.
    """
    soc = target.soc
    layers, views = layers_of(graph, target)
    if not layers:
        raise CompileError("a partition of aliases alone has nothing to compute")
    own_memory = division is not None and division.own_memory
    memory = allocate(graph, layers, views, soc, FIRST_CUBES, apart=own_memory, shared=not witnessed)
    coefficients = Coefficients()
    cutters = [cutter(layer, memory, coefficients, soc) for layer in layers]
    buffers = (Buffer("regcmd", 1, "regcmd"), coefficients.buffer(), *memory.buffers)
    places = {index: cube.place.buffer for index, cube in memory.cubes.items()}
    work: list[Workload] = [(tuple((index, tile) for index, cut in enumerate(cutters) for tile in cut(None)),)]
    if division is not None:
        work = Planner(layers, cutters, views, buffers, places, soc, full_chains, division).workloads()
    split = any(len(stage) > 1 for stage in work)
    tasks, relocations, regcmd = emit([one for stage in work for core in stage for one in core], soc)
    buffers = (regcmd, *buffers[1:])
    total = sum(buffer.size for buffer in buffers)
    if total > ADDRESS_LIMIT:
        raise CompileError(f"its buffers take {total} bytes of the {ADDRESS_LIMIT} that the NPU addresses")
    inputs, outputs = (
        tuple(port(graph.tensors[index], memory.cubes[index]) for index in indices)
        for indices in (graph.inputs, graph.outputs)
    )
    jobs = jobs_of(
        work, tasks, buffers, lambda own: chains([layers[i] for i, _ in own], views, soc.largest_chain, full_chains)
    )
    return Program(
        soc=soc.name,
        buffers=buffers,
        jobs=jobs,
        relocations=relocations,
        inputs=inputs,
        outputs=outputs,
        layers=tuple(Layer(layer.operator, layer.node, describe(layer)) for layer in layers),
        witnesses=witnesses([tile for stage in work for core in stage for _, tile in core], buffers, inputs)
        if witnessed
        else (),
        copies=division.cores if division is not None and own_memory and split else 1,
        exchanges=exchanges(work, buffers, inputs, outputs) if own_memory and split else (),
    )


def jobs_of(
    work: Sequence[Workload],
    tasks: Sequence[Task],
    buffers: Sequence[Buffer],
    chain: Callable[[Sequence[Work]], tuple[range, ...]],
) -> tuple[Job, ...]:
    """A job for each core of each stage."""
    jobs: list[Job] = []
    first = 0
    for stage, cores in enumerate(work):
        for core, own in enumerate(cores):
            written = {tile.output.buffer for _, tile in own}
            jobs.append(
                Job(
                    tasks=tuple(tasks[first : first + len(own)]),
                    chains=chain(own),
                    reads=tuple(i for i, b in enumerate(buffers) if b.role == "input" and i not in written),
                    writes=tuple(sorted(written)),
                    stage=stage,
                    core=core,
                )
            )
            first += len(own)
    return tuple(jobs)


def layers_of(graph: Graph, target: Target) -> tuple[list[AnyLayer], Views]:
    """(what runs on the NPU, in order, which tensors lie in the memory of others); raises CompileError."""
    placed, views = place(*lower(graph, target), graph, target.soc)
    fused = fuse_additions(placed, graph, views, target.soc)
    layers = separate(fused, views, first_free=max(graph.tensors) + 1, soc=target.soc)
    check_order(graph, layers, views)
    return layers, views


def check_order(graph: Graph, layers: Sequence[AnyLayer], views: Views) -> None:
    """Every tensor is written before it is read; raises CompileError, for that would be a bug of ours."""
    made = {views.root(as_cube(graph.tensors[index])).tensor.index for index in graph.inputs}
    for layer in layers:
        for tensor in layer.reads:
            if views.root(tensor).tensor.index not in made:
                raise CompileError(
                    f"{layer.operator} of node {layer.node} reads {tensor.name}, which nobody has written"
                )
        made.add(views.root(layer.output).tensor.index)


def lower(graph: Graph, target: Target) -> tuple[list[AnyLayer], Views]:
    """(layers of all nodes in order, which tensors lie in the memory of others).

    Raises CompileError for an operator that no rule should have let through.
    """
    layers: list[AnyLayer] = []
    views: list[View] = []
    for node in graph.nodes:
        if node.op not in OPERATORS:
            raise CompileError(f"operator {node.op} has no lowering")
        for layer in OPERATORS[node.op].lower(node, target):
            if isinstance(layer, View):
                views.append(layer)
            else:
                layers.append(layer)
    return layers, Views(views)


def separate(layers: Sequence[AnyLayer], views: Views, first_free: int, soc: Soc) -> list[AnyLayer]:
    """Puts a copy before a layer that reads cubes as one where one of them already has another neighbour or is there.

    So never more than two tensors have to lie behind each other, and what such a layer reads has a known bound. A
    tensor inside another is copied as well. ``first_free``: number of the first new tensor.
    """
    result: list[AnyLayer] = []
    partnered: set[int] = set()
    for layer in layers:
        if not isinstance(layer, Convolution) or len(layer.inputs) < 2:
            result.append(layer)
            continue
        inputs = list(layer.inputs)
        for position, tensor in enumerate(inputs):
            twice = views.root(tensor).tensor.index in [views.root(other).tensor.index for other in inputs[:position]]
            if twice or views.root(tensor).tensor.index in partnered or not views.stands_alone(tensor, soc):
                inputs[position] = replace(tensor, index=first_free, name=f"copy of {tensor.name}")
                result.append(copy_layer(layer, tensor, inputs[position]))
                first_free += 1
        partnered |= {views.root(tensor).tensor.index for tensor in inputs}
        result.append(replace(layer, inputs=tuple(inputs)))
    return result


def copy_layer(reader: Convolution, tensor: Tensor, copy: Tensor) -> Convolution:
    """Writes a tensor a second time, for a layer that reads it."""
    node = Node(reader.node, reader.operator, (tensor,), (copy,), {})
    return selection(node, [tensor], [np.ones(tensor.shape[3], np.bool_)])


def describe(layer: AnyLayer) -> str:
    """A layer in a line, for reports."""
    images, height, width, channels = layer.reads[0].shape
    _, output_height, output_width, output_channels = layer.output.shape
    sizes = f"{height}x{width}x{channels} -> {output_height}x{output_width}x{output_channels}"
    batch = f"{images} images of " * (images > 1)
    if isinstance(layer, Elementwise):
        table = ["table"] * (layer.table is not None)
        return f"{batch}{sizes}, {', '.join([*([layer.operation] if layer.operation else []), *table]) or 'copy'}"
    if isinstance(layer, Pooling):
        return f"{batch}{sizes}, {layer.kernel[0]}x{layer.kernel[1]}, stride {layer.stride[0]}x{layer.stride[1]}"
    marks = [", depthwise" * layer.depthwise, ", addition fused" * (layer.addend is not None)]
    marks.append(f", {len(layer.moves)} parts" * (len(layer.moves) > 0))
    return (
        f"{batch}{sizes}, "
        f"{layer.weight.shape[1]}x{layer.weight.shape[2]}, stride {layer.stride[0]}x{layer.stride[1]}{''.join(marks)}"
    )


@dataclass(frozen=True)
class Source:
    """The cubes of a layer's inputs seen as one."""

    cube: Cube
    channels: int  # from the first cube's first to the last cube's last true channel
    offsets: tuple[int, ...]  # first channel of each input


def source(layer: Convolution, memory: Allocation, soc: Soc) -> Source:
    """Where a layer reads: its input's cube, or several that the allocator has put behind each other."""
    cubes = [memory.cubes[tensor.index] for tensor in layer.inputs]
    lowest = min(cubes, key=lambda cube: cube.place.offset)
    offsets = []
    for cube in cubes:
        surfaces, rest = divmod(cube.place.offset - lowest.place.offset, lowest.surface_bytes)
        if rest or cube.place.buffer != lowest.place.buffer or cube.surface_bytes != lowest.surface_bytes:
            raise CompileError(f"{layer.operator}: inputs do not lie whole surfaces apart")
        offsets.append(surfaces * soc.atom_bytes)
    if len(cubes) == 1:
        return Source(lowest, layer.weight.shape[3], (0,))
    channels = max(offset + tensor.shape[3] for offset, tensor in zip(offsets, layer.inputs, strict=True))
    return Source(lowest, channels, tuple(offsets))


def place_weights(layer: Convolution, where: Source) -> npt.NDArray[np.int8]:
    """The weights with each input's channels at their place among the channels that are read; gaps count as 0."""
    if len(layer.inputs) == 1:
        return layer.weight
    kernels, height, width, _ = layer.weight.shape
    placed = np.full((kernels, height, width, where.channels), layer.weight_zero_point, np.int8)
    first = 0
    for offset, tensor in zip(where.offsets, layer.inputs, strict=True):
        count = tensor.shape[3]
        placed[..., offset : offset + count] = layer.weight[..., first : first + count]
        first += count
    return placed


class Coefficients:
    """The buffer of weights and biases while it grows."""

    def __init__(self) -> None:
        self._parts: list[Bytes] = []
        self._size = 0

    def add(self, data: Bytes) -> Place:
        """Appends data, aligned to 64 bytes, and says where it lies."""
        place = Place(WEIGHTS, self._size)
        padding = np.zeros(align(data.size, 64) - data.size, np.uint8)
        self._parts += [data, padding]
        self._size += data.size + padding.size
        return place

    def buffer(self) -> Buffer:
        """All of it; a buffer cannot be empty."""
        data = np.concatenate(self._parts) if self._parts else np.zeros(64, np.uint8)
        return Buffer("weights", data.size, "weight", data)


def cutter(layer: AnyLayer, memory: Allocation, coefficients: Coefficients, soc: Soc) -> Cutter:
    """Packs a layer's coefficients; what comes back cuts it into tiles."""
    output = memory.cubes[layer.output.index]
    if isinstance(layer, Convolution):
        operands = pack(layer, memory, coefficients, soc)
        return lambda share: tile(layer, operands, soc, share)
    if isinstance(layer, Pooling):
        return lambda share: tile_pooling(layer, memory.cubes[layer.input.index], output, soc, share)
    operand = operand_cube(layer, memory, coefficients, soc) if layer.operand else None
    return lambda share: tile_elementwise(layer, memory.cubes[layer.main.index], operand, output, soc, share)


def operand_cube(layer: Elementwise, memory: Allocation, coefficients: Coefficients, soc: Soc) -> Cube:
    """Where an element-wise operand lies; a constant is put beside the weights."""
    assert layer.operand is not None
    if layer.operand.data is None:
        return memory.cubes[layer.operand.index]
    if layer.operand.shape[0] != 1:
        raise CompileError(f"{layer.operator}: a constant operand of {layer.operand.shape[0]} images")
    data = pack_constant(to_int8(layer.operand.data)[0], -layer.operand_offset, soc)
    surfaces = divide_up(layer.operand.shape[3], soc.atom_bytes)
    return Cube(coefficients.add(data), surfaces, data.size // surfaces, data.size)


def pack(layer: Convolution, memory: Allocation, coefficients: Coefficients, soc: Soc) -> Operands:
    """Packs a convolution's coefficients; says where everything lies."""
    where = source(layer, memory, soc)
    weight = place_weights(layer, where)
    packed = (pack_depthwise_weights if layer.depthwise else pack_weights)(weight, soc, layer.weight_zero_point)
    count = align(layer.bias.size, soc.depthwise_group if layer.depthwise else soc.kernel_group)
    gains = [np.ones(len(run.channels), np.int8) if run.gain is None else run.gain for run in layer.requantize]
    gained = any(run.gain is not None for run in layer.requantize)
    return Operands(
        channels=where.channels,
        feature=where.cube,
        output=memory.cubes[layer.output.index],
        addend=memory.cubes[layer.addend.tensor.index] if layer.addend else None,
        weight=coefficients.add(packed),
        bias=coefficients.add(pack_bs_operands(layer, count)),
        gain=coefficients.add(pack_gains(np.concatenate(gains), count)) if gained else None,
    )


def pack_bs_operands(layer: Convolution, channels: int) -> Bytes:
    """What BS reads from memory: the bias alone, or with a multiplier for each channel."""
    multipliers = [run.channel_multiplier for run in layer.requantize if run.channel_multiplier is not None]
    if not multipliers:
        return pack_bias(layer.bias, channels)
    return pack_bias_and_multipliers(layer.bias, np.concatenate(multipliers), channels)


def emit(work: Sequence[Work], soc: Soc) -> tuple[tuple[Task, ...], tuple[Relocation, ...], Buffer]:
    """(tasks, relocations, the buffer for the streams); each task's tail leads to the next."""
    streams: list[tuple[Words, list[tuple[int, Place]], int]] = []
    streams += [(*assemble(*emit_task(part)), layer) for layer, part in work]
    relocations: list[Relocation] = []
    offset = 0  # bytes, of the stream in the regcmd buffer
    for index, (words, places, _) in enumerate(streams):
        relocations += [Relocation(index, position, place.buffer, place.offset) for position, place in places]
        offset += align(words.nbytes, soc.stream_alignment)
        if index + 1 < len(streams):
            relocations.append(Relocation(index, link(words, len(streams[index + 1][0])), REGCMD, offset))
    tasks = tuple(Task(words, layer) for words, _, layer in streams)
    return tasks, tuple(relocations), Buffer("regcmd", offset, "regcmd")
