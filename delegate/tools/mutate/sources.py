"""Where subjects come from: captures, compiled programs, models, and a small graph that is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from delegate import cache
from delegate.compile import compile_graph
from delegate.errors import DelegateError
from delegate.hw.layout import align
from delegate.hw.soc import EVERY_FORM, SOCS
from delegate.hw.task import Program, located
from delegate.ir import Array, Graph, Node, Quant, Tensor
from delegate.partition import taken
from delegate.tflite import read_model
from delegate.tools.capture import Capture, load
from delegate.tools.mutate.subjects import PAGE, Start, Stream, Subject
from delegate.tools.replay import Replay

MEMORY_LIMIT = 24 << 20  # bytes of a subject: a mutation copies and compares all of it
TASK_LIMIT = 8
# Operators without a task, or with one like a convolution's.
MOVES = ("CONCATENATION", "EXPAND_DIMS", "QUANTIZE", "RESHAPE", "SQUEEZE")
SLACK = 1 << 16  # bytes behind a capture's buffers: upstream's shallow depthwise outputs run over their end


# Small captures in which values are not saturated, and programs for each data type and unit.
DEFAULT_CAPTURES = (
    "sweep/s009",
    "sweep/s047",
    "sweep/s037",
    "sweep/s101",
    "sweep/s179",
    "sweep/s129",
    "sweep/s131",
    "sweep/s161",
    "sweep/s215",
    "sweep/s283",
    "sweep/s109",
    "sweep/s053",
    "sweep/add02a",
    "programs/rus-act_exp_256",
    "programs/rus-act_wide_gelu_1000",
    "programs/rus-dw_uint8-c64_8x8_k3_s1_p1_zi126_zo133_zw128",
    "programs/rus-conv_fp16-c40_6x6_o20_k3x3_s1_p0",
    "programs/rus-conv_fp16_dw-c32_8x8_o32_k3x3_s1_p1",
    "programs/rus-mm_int16_tp-16x32x32",
    "programs/rus-mm_int4-4x64x64",
    "programs/rus-mm_tf32-4x32x16",
    "programs/rus-mm_bf16-4x32x16",
    "programs/mtx-mm_int8-4x32x32",
    "programs/ab-ewint_int16_add_8",
    "programs/ab-ewint_int32_mul_8",
    "programs/ab-ewint_int8_max_8",
    "programs/ab-ew_fdiv_8",
    "programs/ab-gemm_fp16_9x9x9_fp16out",
    "programs/rus-convt_fp16-c32_5x7_o16_k2_s2_p0",
    "programs/rus-conv_int8-c40_9x9_o48_k3x3_s1_p0",
    "programs/ab-conv_fp16_c1_h5_w7_oc6_wic1_k3x3_g1",
    "programs/rus-mm_fp16_kacc_kt128-16x512x32",
    "programs/rus-mm_fp16_tiled_weightreuse-128x128x512",
    "programs/ab-ppu_fp16_avg_4x4x8",
    "programs/ab-ppu_int8_max_2x2",
    "programs/ab-ppu_fp16_max_pad7",
    "programs/rus-ew_add_2000",
    "programs/rus-ew_mul_64",
)
DEFAULT_MODEL = Path(__file__).parents[3] / "models" / "mobilenet_digits.tflite"
MODEL_LAYERS = (0, 1, 4, 24)  # of the default model: a convolution, a depthwise one, one with a stride, the last


def default_subjects(golden: Path, rng: np.random.Generator) -> list[Subject]:
    """Our own programs and those of other drivers; raises DelegateError if ``golden`` is not there."""
    if not golden.is_dir():
        raise DelegateError(f"{golden}: no such folder of captures; name captures, programs or models")
    programs = [(compile_graph(drawn_graph(rng), EVERY_FORM), "drawn")]
    model = [graph for whole in taken(read_model(DEFAULT_MODEL), EVERY_FORM) for graph in single_layers(whole)]
    programs += [(compile_graph(model[layer], EVERY_FORM), f"{DEFAULT_MODEL.stem} {layer}") for layer in MODEL_LAYERS]
    subjects = fitting(programs, rng)
    for name in DEFAULT_CAPTURES:
        subjects += load_subjects(golden / name, rng)
    return subjects


def from_capture(capture: Capture, name: str, rng: np.random.Generator, chained: bool = False) -> Subject:
    """A capture's first submits as a subject; buffers that nobody fills get random bytes if they are int8 tensors.

    ``chained``: the tasks of a job run as one chain, as the vendor's kernel would have it.
    Raises DelegateError for one that is too large.
    """
    replay = Replay(capture, slack=SLACK)
    if sum(len(view) for view in replay.buffers.values()) > MEMORY_LIMIT:
        raise DelegateError(f"{name}: more than {MEMORY_LIMIT} bytes of buffers")
    for buffer in capture.buffers:
        if buffer.role == "tensor":
            view = replay.buffers[buffer.handle]
            view[:] = rng.integers(0, 256, len(view), np.uint8)
    for index in reversed(range(len(capture.submits))):  # the first submit's contents win
        replay.place(capture.submits[index], index)
    tasks = [task for submit in capture.submits for task in submit.tasks]
    places = {task.address: index for index, task in enumerate(tasks)}
    starts = []
    jobs = [job for submit in capture.submits for job in submit.starts]
    for number, job in enumerate(jobs):
        if chained and len(job) > 1:
            starts.append(Start(places[job[0].task.address], job[0].task.fetched, len(job), number))
            continue
        starts += [Start(places[start.task.address], start.task.fetched, start.tasks, number) for start in job]
    if len(tasks) > TASK_LIMIT or not tasks:
        raise DelegateError(f"{name}: {len(tasks)} tasks, 1 to {TASK_LIMIT} are mutated")
    image = [(region.address, region.view.copy(), region.slack) for region in replay.memory.regions]
    return Subject(name, image, [Stream(task.address, task.words) for task in tasks], starts)


def from_program(program: Program, name: str, rng: np.random.Generator, chained: bool) -> Subject:
    """A compiled program in pages with a gap between; inputs are random. Raises DelegateError if it is too large."""
    soc = SOCS[program.soc]
    if sum(buffer.size for buffer in program.buffers) > MEMORY_LIMIT or len(program.tasks) > TASK_LIMIT:
        raise DelegateError(f"{name}: more than {MEMORY_LIMIT} bytes or {TASK_LIMIT} tasks")
    image, address, regcmd = [], PAGE, 0
    for index, buffer in enumerate(program.buffers):
        content = rng.integers(0, 256, align(buffer.size, PAGE), np.uint8)
        if buffer.data is not None:
            content[: buffer.size] = buffer.data
        if buffer.role == "regcmd":
            regcmd = index
        image.append((address, content, 0))
        address += len(content) + PAGE
    words = located(program, [start for start, _, _ in image])
    streams, offset = [], 0
    for part in words:
        streams.append(Stream(image[regcmd][0] + offset, part))
        image[regcmd][1][offset : offset + part.nbytes] = part.astype("<u8").view(np.uint8)
        offset += align(part.nbytes, soc.stream_alignment)
    if chained:
        starts = [Start(0, len(words[0]), len(words), 0)]
    else:
        starts = [Start(index, len(stream.words), 1, 0) for index, stream in enumerate(streams)]
    return Subject(name, image, streams, starts)


def load_subjects(path: Path, rng: np.random.Generator) -> list[Subject]:
    """The subjects of a capture folder, a compiled program, or a model; raises DelegateError."""
    if path.suffix == ".tflite":
        graph = read_model(path)
        parts = [part for whole in taken(graph, EVERY_FORM) for part in single_layers(whole)]
        return fitting(
            [(compile_graph(part, EVERY_FORM), f"{path.stem} {number}") for number, part in enumerate(parts)], rng
        )
    if path.suffix == cache.SUFFIX:
        return fitting([(cache.deserialize(path.read_bytes()), path.stem)], rng)
    capture = load(path)
    subjects = [from_capture(capture, path.name, rng)]
    if any(len(job) > 1 for submit in capture.submits for job in submit.starts):
        chained = from_capture(capture, f"{path.name} chained", rng, chained=True)
        if chained.run().error is None:  # streams that link to each other
            subjects.append(chained)
    return subjects


def fitting(programs: Sequence[tuple[Program, str]], rng: np.random.Generator) -> list[Subject]:
    """Subjects of the programs that are small enough, those of several tasks also as one chain."""
    result = []
    for program, name in programs:
        small = sum(buffer.size for buffer in program.buffers) <= MEMORY_LIMIT and len(program.tasks) <= TASK_LIMIT
        if small:
            result.append(from_program(program, name, rng, False))
            if len(program.tasks) > 1:
                result.append(from_program(program, f"{name} chained", rng, True))
    return result


def single_layers(graph: Graph) -> list[Graph]:
    """Each node of a graph that computes something as a graph of its own."""
    result = []
    for node in graph.nodes:
        if node.op in MOVES:
            continue
        inputs = tuple(t.index for t in node.inputs if t is not None and t.data is None)
        result.append(Graph(graph.tensors, (node,), tuple(dict.fromkeys(inputs)), tuple(t.index for t in node.outputs)))
    return result


def drawn_graph(rng: np.random.Generator) -> Graph:
    """conv 3x3 -> depthwise 3x3, stride 2 -> conv 1x1 -> addition of the depthwise output; uint8, 9 x 7 x 24."""
    tensors: dict[int, Tensor] = {}

    def tensor(shape: tuple[int, ...], scale: float, zero: int, data: Array | None = None) -> Tensor:
        index = len(tensors)
        quant = Quant(np.array([scale], np.float32), np.array([zero], np.int32))
        kind = "int32" if data is not None and data.dtype == np.int32 else "uint8"
        tensors[index] = Tensor(index, f"t{index}", shape, kind, quant, data)
        return tensors[index]

    def weights(shape: tuple[int, ...], scale: float) -> tuple[Tensor, Tensor]:
        values = np.clip(np.rint(rng.normal(131, 30, shape)), 0, 255).astype(np.uint8)
        channels = shape[0] if shape[0] > 1 else shape[3]
        bias = rng.integers(-900, 900, channels).astype(np.int32)
        return tensor(shape, scale, 131, values), tensor((channels,), 0.02 * scale, 0, bias)

    def node(op: str, inputs: Sequence[Tensor], output: Tensor, stride: int = 1) -> Node:
        step, one = (stride, stride), (1, 1)
        params = {"stride": step, "dilation": one, "padding": "SAME", "activation": "NONE", "depth_multiplier": 1}
        return Node(output.index, op, tuple(inputs), (output,), params)

    first = tensor((1, 9, 7, 24), 0.02, 119)
    one, two, three, four = (
        tensor((1, *size, 64), 0.02, zero)
        for size, zero in (((9, 7), 140), ((5, 4), 125), ((5, 4), 118), ((5, 4), 130))
    )
    nodes = (
        node("CONV_2D", (first, *weights((64, 3, 3, 24), 0.0022)), one),
        node("DEPTHWISE_CONV_2D", (one, *weights((1, 3, 3, 64), 0.011)), two, 2),
        node("CONV_2D", (two, *weights((64, 1, 1, 64), 0.004)), three),
        node("ADD", (three, two), four),
    )
    return Graph(tensors, nodes, (first.index,), (four.index,))
