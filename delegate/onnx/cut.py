"""Cuts a graph into steps: what onnxruntime runs together, then the products that can follow, and so on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from delegate.errors import ModelError
from delegate.hw.timing import ROCKET, Board
from delegate.onnx.cost import Estimate, estimate
from delegate.onnx.model import Array, Model, NodeArg, TensorType, arguments, outer_names
from delegate.onnx.nodes import ProductNode, examine, title

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto


@dataclass(frozen=True)
class Choice:
    """Where a node that may be a product runs, and why not on the NPU."""

    name: str
    op: str
    product: ProductNode | None
    cost: Estimate | None
    reason: str = ""

    @property
    def on_npu(self) -> bool:
        return self.product is not None and not self.reason


@dataclass(frozen=True)
class Segment:
    """A part of the graph for onnxruntime, as a model of its own."""

    proto: ModelProto

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(value.name for value in self.proto.graph.input)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(value.name for value in self.proto.graph.output)


@dataclass(frozen=True)
class Plan:
    """A model as steps in their order. ``constants``: outputs that no step makes, by name."""

    name: str
    inputs: tuple[NodeArg, ...]
    outputs: tuple[NodeArg, ...]
    steps: tuple[Segment | ProductNode, ...]
    constants: Mapping[str, Array]


def choose(
    model: Model, board: Board = ROCKET, min_macs: int | None = None, types: Mapping[str, TensorType] | None = None
) -> dict[int, Choice]:
    """By the number of the node. A product runs on the NPU where the estimate sees it faster there, or, with
    ``min_macs``, where it has that many MACs; ``types``: with sizes filled in that the model leaves open.
    """
    found = {}
    for index, node in enumerate(model.nodes):
        product = examine(node, model)
        if isinstance(product, str):
            found[index] = Choice(title(node), node.op_type, None, None, product)
        elif product is not None:
            cost = estimate(product, (types or model.types).get(product.output, TensorType(0, None)), board)
            found[index] = Choice(product.name, product.op, product, cost, too_small(cost, min_macs))
    return found


def too_small(cost: Estimate, min_macs: int | None) -> str:
    """Why a product stays on the CPU, or nothing."""
    if min_macs is not None:
        return f"{cost.macs} MACs are less than {min_macs}" if cost.macs < min_macs else ""
    if cost.npu < cost.cpu:
        return ""
    return f"the CPU is as fast: {1e3 * cost.cpu:.3g} ms, NPU with packing {1e3 * cost.npu:.3g} ms"


def cut(model: Model, choices: Mapping[int, Choice]) -> Plan:
    """The steps of a model whose products are chosen. Raises ModelError where a tensor's type has to be known and is
    not.
    """
    nodes = model.nodes
    products = {index: choice.product for index, choice in choices.items() if choice.on_npu and choice.product}
    stages = stages_of(nodes, products)
    outputs = {value.name for value in model.proto.graph.output}
    readers: dict[str, set[int]] = {}
    for index, node in enumerate(nodes):
        for name in outer_names(node):
            readers.setdefault(name, set()).add(index)
    steps: list[Segment | ProductNode] = []
    for stage in range(max(stages, default=-1) + 1):
        own = [index for index, other in enumerate(stages) if other == stage]
        together = [index for index in own if index not in products]
        if together:
            inside = set(together)
            wanted = {
                name
                for index in together
                for name in nodes[index].output
                if name in outputs or readers.get(name, set()) - inside
            }
            steps.append(Segment(segment(model, [nodes[index] for index in together], wanted)))
        steps += [product for index in own if (product := products.get(index))]
    graph = model.proto.graph
    inputs = tuple(arguments(value for value in graph.input if value.name not in model.constants))
    constants = {name: model.constant(name) for name in outputs if name in model.constants}
    return Plan(model.name, inputs, tuple(arguments(graph.output)), tuple(steps), constants)


def stages_of(nodes: Sequence[NodeProto], products: Collection[int]) -> list[int]:
    """The stage of each node: in a stage, onnxruntime's nodes come first, then products. A node is in the stage of what
    it reads, or in the next one where that is a product.
    """
    ready: dict[str, int] = {}  # the first stage in which a tensor can be read
    stages = []
    for index, node in enumerate(nodes):
        stage = max((ready.get(name, 0) for name in outer_names(node)), default=0)
        stages.append(stage)
        ready |= dict.fromkeys(node.output, stage + (index in products))
    return stages


def segment(model: Model, nodes: Sequence[NodeProto], wanted: Collection[str]) -> ModelProto:
    """Some nodes, in their order, as a model that gives the tensors that are wanted."""
    graph = model.proto.graph
    made = {name for node in nodes for name in node.output}
    read = {name for node in nodes for name in outer_names(node)} - made
    initializers = [tensor for tensor in graph.initializer if tensor.name in read]
    sparse = [tensor for tensor in graph.sparse_initializer if tensor.values.name in read]
    inside = {tensor.name for tensor in initializers} | {tensor.values.name for tensor in sparse}
    part = onnx.helper.make_graph(
        list(nodes),
        graph.name or "segment",
        list(values(model, sorted(read - inside))),
        list(values(model, sorted(name for name in wanted if name))),
        initializers,
        sparse_initializer=sparse,
    )
    return onnx.helper.make_model(
        part, opset_imports=model.proto.opset_import, functions=model.proto.functions, ir_version=model.proto.ir_version
    )


def values(model: Model, names: Sequence[str]) -> Iterator[onnx.ValueInfoProto]:
    """Declarations of tensors at a cut; sizes that are not known stay open."""
    declared = {value.name: value for value in (*model.proto.graph.input, *model.proto.graph.output)}
    for name in names:
        if name in declared:
            yield declared[name]
            continue
        kind = model.types.get(name)
        if kind is None:
            raise ModelError(f"{model.name}: the type of {name}, where the graph would be cut, is not known")
        yield onnx.helper.make_tensor_value_info(name, kind.element, kind.shape)
