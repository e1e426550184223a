"""Which nodes are matrix products by a constant, and what each of them multiplies: MatMul, Gemm, Conv.

A refusal is a sentence. Whether a product is worth the NPU is said in ``cost.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from delegate.onnx.model import FLOAT, Model, as_float32, attributes

if TYPE_CHECKING:
    from onnx import NodeProto

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ProductNode:
    """A node as products by constant matrices (K, N), one for each group of a convolution.

    ``inputs``: A, and what else is computed: the C of a Gemm. ``bias``: what is added and is constant. ``attributes``:
    as ONNX defines them, with their defaults.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    output: str
    matrices: tuple[Array, ...]
    bias: Array | None = None
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """K"""
        return int(self.matrices[0].shape[0])

    @property
    def columns(self) -> int:
        """N, of each group."""
        return int(self.matrices[0].shape[1])

    @property
    def groups(self) -> int:
        return len(self.matrices)


def title(node: NodeProto) -> str:
    """A node's name, or that of its output where it has none."""
    return str(node.name or node.output[0])


def examine(node: NodeProto, model: Model) -> ProductNode | str | None:
    """The product that a node is; a sentence why it is none; None for operators that never are."""
    reader = READERS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if reader is None:
        return None
    for name in node.input:
        kind = model.types.get(name)
        if name and (kind is None or kind.element != FLOAT):
            return f"the type of {name} is not float32" if kind else f"the type of {name} is not known"
    if node.output[0] not in model.types:
        return f"the type of {node.output[0]} is not known"
    if node.input[1] not in model.constants:
        return "its second input is computed: only products by constants are taken"
    if node.input[0] in model.constants:
        return "its first input is constant"
    if not all(np.isfinite(model.constant(name)).all() for name in node.input[1:] if name in model.constants):
        return "its constants hold NaN or infinity"
    return reader(node, model)


def read_matmul(node: NodeProto, model: Model) -> ProductNode | str:
    """A (..., M, K) @ B (K, N)."""
    b = model.constant(node.input[1])
    if b.ndim < 2:
        return "its second input is a vector"
    if math.prod(b.shape[:-2]) != 1:
        return f"its second input {list(b.shape)} is a stack of matrices, each for other rows"
    if not b.size:
        return f"its second input {list(b.shape)} is empty"
    matrix = as_float32(b.reshape(b.shape[-2:]))
    return ProductNode(
        title(node), node.op_type, (node.input[0],), node.output[0], (matrix,), attributes={"rank": b.ndim}
    )


def read_gemm(node: NodeProto, model: Model) -> ProductNode | str:
    """alpha * A' @ B' + beta * C."""
    given = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0} | attributes(node)
    b = model.constant(node.input[1])
    if not b.size:
        return f"its second input {list(b.shape)} is empty"
    matrix = as_float32(b.T if given["transB"] else b)
    c = node.input[2] if len(node.input) > 2 else ""
    constant = c in model.constants
    inputs = (node.input[0], *((c,) if c and not constant else ()))
    bias = as_float32(model.constant(c)) if constant else None
    return ProductNode(title(node), node.op_type, inputs, node.output[0], (matrix,), bias, given)


def read_conv(node: NodeProto, model: Model) -> ProductNode | str:
    """Windows of the input as rows, the kernels as columns."""
    w = as_float32(model.constant(node.input[1]))  # (kernels, channels of a group, *window)
    rank = w.ndim - 2
    if rank < 1 or not w.size:
        return f"its kernels {list(w.shape)} are not those of a convolution"
    defaults: dict[str, Any] = {
        "auto_pad": "NOTSET",
        "group": 1,
        "kernel_shape": list(w.shape[2:]),
        "strides": [1] * rank,
        "dilations": [1] * rank,
        "pads": [0] * (2 * rank),
    }
    given = defaults | attributes(node)
    if list(given["kernel_shape"]) != list(w.shape[2:]):
        return f"kernel_shape {given['kernel_shape']} is not that of its kernels {list(w.shape)}"
    if len(w) % given["group"]:
        return f"{len(w)} kernels cannot be in {given['group']} groups"
    bias = None
    if len(node.input) > 2 and node.input[2]:
        if node.input[2] not in model.constants:
            return "its bias is computed"
        bias = as_float32(model.constant(node.input[2]))
    matrices = tuple(as_float32(part.reshape(len(part), -1).T) for part in np.split(w, given["group"]))
    return ProductNode(title(node), node.op_type, (node.input[0],), node.output[0], matrices, bias, given)


READERS: dict[str, Callable[[NodeProto, Model], ProductNode | str]] = {
    "MatMul": read_matmul,
    "Gemm": read_gemm,
    "Conv": read_conv,
}
