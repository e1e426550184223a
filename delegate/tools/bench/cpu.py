"""Seconds of a product on this machine's CPU, by numpy and, where they are installed, PyTorch and onnxruntime."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.hw.emit.product import Form
from delegate.tools.bench.npu import median_seconds, operands
from delegate.tools.bench.shapes import Shape

Array = npt.NDArray[Any]
Run = Callable[[], object]


def runners(a: Array, b: Array) -> Iterator[tuple[str, Run]]:
    """(name of a library and type, what it multiplies with).

    Singles everywhere, because numpy and PyTorch have no fast halves or bytes on most CPUs; of bytes what the libraries
    have for them as well.
    """
    left, right = a.astype(np.float32), b.astype(np.float32)
    out = np.empty((len(a), b.shape[1]), np.float32)
    yield "numpy, float32", lambda: np.matmul(left, right, out=out)
    if importlib.util.find_spec("torch"):
        yield from torch_runners(a, b)
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx"):
        yield onnx_runner(a, b)


def torch_runners(a: Array, b: Array) -> Iterator[tuple[str, Run]]:
    torch = importlib.import_module("torch")
    left, right = torch.from_numpy(a.astype(np.float32)), torch.from_numpy(b.astype(np.float32))
    yield "PyTorch, float32", lambda: torch.matmul(left, right)
    if a.dtype == np.int8 and hasattr(torch, "_int_mm"):
        bytes_left, bytes_right = torch.from_numpy(a), torch.from_numpy(b)
        yield "PyTorch, int8", lambda: torch._int_mm(bytes_left, bytes_right)


def onnx_runner(a: Array, b: Array) -> tuple[str, Run]:
    """A model of one node, B being a constant: MatMul of singles, MatMulInteger of bytes."""
    onnx, runtime = importlib.import_module("onnx"), importlib.import_module("onnxruntime")
    integer = a.dtype == np.int8
    given, constant = (a, b) if integer else (a.astype(np.float32), b.astype(np.float32))
    kind, result = (
        (onnx.TensorProto.INT8, onnx.TensorProto.INT32) if integer else (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT)
    )
    node = onnx.helper.make_node("MatMulInteger" if integer else "MatMul", ["a", "b"], ["c"])
    graph = onnx.helper.make_graph(
        [node],
        "product",
        [onnx.helper.make_tensor_value_info("a", kind, given.shape)],
        [onnx.helper.make_tensor_value_info("c", result, (len(a), b.shape[1]))],
        [onnx.numpy_helper.from_array(constant, "b")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return f"onnxruntime, {'int8' if integer else 'float32'}", lambda: session.run(None, {"a": given})


def measure(shape: Shape, form: Form, seconds: float, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """(library and type, seconds) of all that are installed."""
    a, b = operands(shape, form, rng)
    for name, run in runners(a, b):
        run()
        yield name, median_seconds(run, seconds)
