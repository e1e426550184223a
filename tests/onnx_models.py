"""Small ONNX models for tests, and what fp16 may change of their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
Shape = Sequence[int | str] | None


def normal(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    constants: Mapping[str, Array],
    opset: int = 17,
    elements: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model of fp32 tensors, except for those in ``elements``."""
    kinds = elements or {}

    def values(named: Mapping[str, Shape]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)
            for name, shape in named.items()
        ]

    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "test", values(inputs), values(outputs), tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(model: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    onnx.save(model, path)
    return path


def reference(path: Path | onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """onnxruntime alone."""
    source = str(path) if isinstance(path, Path) else path.SerializeToString()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    results: list[Array] = session.run(None, dict(feeds))
    return results


def absolute(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the absolute values of all constants and of Gemm's factors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.abs(numpy_helper.to_array(tensor)), tensor.name))
    for node in copy.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.FLOAT:
                attribute.f = abs(attribute.f)
    return copy


def bound(model: onnx.ModelProto, feeds: Mapping[str, Array], depth: int) -> Array:
    """The largest error of the first output, if all before it is one product over ``depth``: of each product of two
    numbers a rounding of both to 11 bits, and a rounding to 24 bits for each sum, twice since onnxruntime rounds too.
    """
    sizes = reference(absolute(model), {name: np.abs(value) for name, value in feeds.items()})[0]
    return (2.0**-10 + 2.0**-20 + 4 * (depth + 4) * 2.0**-24) * sizes + 1e-12
