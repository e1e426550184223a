"""What TEFLON_DEBUG=verbose prints, in the manner of Mesa's Teflon: its tables column by column, ours behind them.

The functions return text and look at nothing but their arguments; ``say`` prints it on stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

from delegate.builtin_operators import SHORT_NAMES
from delegate.ir import Graph, Node, Tensor

DTYPES = {"uint8": "u8", "int8": "i8", "uint16": "u16", "int16": "i16", "uint32": "u32", "int32": "i32"} | {
    "uint64": "u64", "int64": "i64", "float16": "f16", "float32": "f32", "float64": "f64"
}  # fmt: skip
ACTIVATIONS = {"NONE": "", "RELU": "ReLU", "RELU6": "ReLU6"}
SUPPORT_RULE, TENSOR_RULE, OPERATION_RULE = 96, 39, 96  # characters under a heading


def say(text: str) -> None:
    """Prints on stderr at once; a host without one, or that closed it, does not break."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError):
        return


def activation(node: Node) -> str:
    """The fused activation as the tables write it; empty if there is none."""
    name = str(node.params.get("activation", "NONE"))
    return ACTIVATIONS.get(name, name)


def typed(tensors: Iterable[Tensor | None]) -> str:
    """Tensors as "28(u8)"; an optional one that is absent is "-"."""
    return " ".join("-" if t is None else f"{t.index}({DTYPES.get(t.dtype, t.dtype)})" for t in tensors)


def indices(tensors: Iterable[Tensor | None]) -> str:
    """Tensors as "0,28,27"."""
    return ",".join("-1" if tensor is None else str(tensor.index) for tensor in tensors)


def extents(values: Iterable[int]) -> str:
    """Sizes as "3x3"."""
    return "x".join(str(value) for value in values)


def loaded(device: str) -> str:
    """The line of a delegate that has found its device."""
    return f"Teflon delegate: loaded {device} driver\n"


def chosen(reasons: Iterable[str]) -> str:
    """Why device=auto did not take the devices before the one that it took."""
    return "".join(f"teflon: device=auto passed over: {reason}\n" for reason in reasons)


def support_table(nodes: Iterable[Node], refusals: Mapping[int, tuple[str, ...]]) -> str:
    """All operations of the model; behind an unsupported one the reasons. ``refusals``: by index of the node."""
    lines = ["idx type            ver support     inputs", "=" * SUPPORT_RULE]
    for node in nodes:
        reasons = refusals.get(node.index, ())
        name, support = SHORT_NAMES.get(node.op, node.op), "unsupported" if reasons else "supported"
        line = f"{node.index:3d} {name:<15} v{node.version:<2d} {support:<11} "
        line += f"in: {typed(node.inputs)} out: {typed(node.outputs)}"
        if activation(node):
            line += f" {activation(node)}"
        if reasons:
            line += f" ({'; '.join(reasons)})"
        lines.append(line)
    return "\n".join(lines) + "\n"


def tensor_row(tensor: Tensor) -> str:
    """Index, scale, zero point (of the first channel; hexadecimal, two's complement), has data, size (4 at least)."""
    scale = float(tensor.quant.scale[0]) if tensor.quant else 0.0
    zero_point = int(tensor.quant.zero_point[0]) & 0xFFFFFFFF if tensor.quant else 0
    size = extents((1,) * (4 - len(tensor.shape)) + tensor.shape)
    has_data = "no" if tensor.data is None else "yes"
    return f"{tensor.index:3d} {scale:6f} {zero_point:3x} {has_data:<8} {size}"


def operation_row(index: int, node: Node) -> str:
    """Teflon's columns, then kernel, stride and dilation (height x width), padding, activation."""
    name = SHORT_NAMES.get(node.op, node.op)
    kernel, stride, dilation = "", "", ""
    if node.op in ("CONV_2D", "DEPTHWISE_CONV_2D") and node.inputs[1] is not None:
        kernel = extents(node.inputs[1].shape[1:3])
    if "stride" in node.params:
        stride = extents(node.params["stride"])
    if "dilation" in node.params:
        dilation = extents(node.params["dilation"])
    row = f"{index:3d} {name:<15} {indices(node.inputs):<20} {indices(node.outputs):<20} "
    return (
        row + f"{kernel:<6} {stride:<6} {dilation:<8} {node.params.get('padding', ''):<7} {activation(node)}".rstrip()
    )


def compiling(graph: Graph) -> str:
    """The partition that is compiled next: all tensors of the model and the partition's operations."""
    lines = [
        "",
        f"teflon: compiling graph: {len(graph.tensors)} tensors {len(graph.nodes)} operations",
        "idx scale     zp has_data size        ",
        "=" * TENSOR_RULE,
        *(tensor_row(tensor) for tensor in graph.tensors.values()),
        "",
        "idx type            inputs               outputs              kernel stride dilation padding activation",
        "=" * OPERATION_RULE,
        *(operation_row(index, node) for index, node in enumerate(graph.nodes)),
        "",
    ]
    return "\n".join(lines) + "\n"


def compiled(seconds: float, from_cache: bool, note: str | None) -> str:
    """That a partition can run; ``note``: why the cache was of no use, if so."""
    reason = f"teflon: cache not used: {note}\n" if note else ""
    what = "loaded compiled graph from the cache" if from_cache else "compiled graph"
    return f"{reason}teflon: {what}, took {milliseconds(seconds)} ms\n"


def left_to_cpu(nodes: Sequence[int], reason: str) -> str:
    """That a partition which the rules allow could not be compiled."""
    which = f"node {nodes[0]}" if len(nodes) == 1 else f"{len(nodes)} nodes, {nodes[0]} to {nodes[-1]},"
    return f"teflon: {which} left to the CPU, for compiling failed: {reason}; please report it with the model\n"


def invoked(seconds: float) -> str:
    """That a partition has run."""
    return f"teflon: invoked graph, took {milliseconds(seconds)} ms\n"


def milliseconds(seconds: float) -> int:
    """Whole milliseconds."""
    return round(seconds * 1000)
