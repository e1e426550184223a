"""Operators end to end: small models through the real library, against TFLite's reference kernels.

With all forms allowed (the simulator offers them) results are TFLite's own where the table says so, else within 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tflite_writer import Array, Builder, Model, write

pytestmark = pytest.mark.device

Interpreters = Callable[..., Any]
Case = tuple[str, Model]


def source(builder: Builder, rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> int:
    info = np.iinfo(dtype)
    return builder.tensor(shape, dtype, float(rng.uniform(0.01, 0.1)), int(rng.integers(info.min, info.max + 1)))


def averages(rng: np.random.Generator) -> Iterator[Case]:
    for dtype in ("int8", "uint8"):
        for height, width, channels, window, stride in [
            (7, 7, 64, (7, 7), (1, 1)), (8, 6, 5, (2, 3), (2, 3)), (9, 9, 33, (3, 3), (1, 2)),
            (4, 4, 70, (4, 4), (9, 9)),
            (1, 1, 16, (1, 1), (1, 1)), (31, 29, 3, (20, 25), (1, 1)), (6, 5, 1, (1, 5), (1, 1)),
        ]:  # fmt: skip
            builder = Builder()
            tensor = source(builder, rng, (1, height, width, channels), dtype)
            yield (
                f"{dtype} {window}",
                builder.finish([tensor], [builder.pool(tensor, "AVERAGE_POOL_2D", window, stride)]),
            )


def means(rng: np.random.Generator) -> Iterator[Case]:
    for dtype in ("int8", "uint8"):
        for shape, keep in [
            ((1, 7, 7, 40), True),
            ((1, 3, 5, 64), False),
            ((1, 1, 1, 8), True),
            ((1, 12, 4, 129), False),
        ]:
            builder = Builder()
            tensor = source(builder, rng, shape, dtype)
            info, scale = np.iinfo(dtype), builder.tensors[tensor].scale[0]
            output = (scale * float(rng.uniform(0.4, 1.2)), int(rng.integers(info.min, info.max + 1)))
            yield f"{dtype} {shape}", builder.finish([tensor], [builder.mean(tensor, output, keep)])


def products(rng: np.random.Generator) -> Iterator[Case]:
    for dtype in ("int8", "uint8"):
        for shape, outputs, activation in [
            ((1, 64), 10, "NONE"), ((5, 48), 33, "RELU"), ((1, 4, 3, 8), 20, "NONE"), ((1, 1, 1, 100), 7, "RELU"),
            ((2, 17), 1, "NONE"),
        ]:  # fmt: skip
            depth = shape[-1] if len(shape) == 2 else int(np.prod(shape))
            builder = Builder()
            tensor = source(builder, rng, shape, dtype)
            info = np.iinfo(dtype)
            weight = rng.integers(max(info.min, -127), info.max + 1, (outputs, depth)).astype(dtype)
            bias = rng.integers(-3000, 3000, outputs).astype(np.int32)
            zero_point = 0 if dtype == "int8" else int(rng.integers(90, 160))
            output = (builder.tensors[tensor].scale[0] * 0.01 * depth**0.5 * 60, info.min)
            target = builder.fully_connected(tensor, weight, 0.01, output, zero_point, bias, activation)
            yield f"{dtype} {shape}", builder.finish([tensor], [target])


def conversions(rng: np.random.Generator) -> Iterator[Case]:
    """With a convolution beside them, for conversions alone stay on the CPU."""
    for first, second in (("uint8", "int8"), ("int8", "uint8"), ("int8", "int8"), ("uint8", "uint8")):
        for factor in (1.0, 0.37, 2.9):
            builder = Builder()
            tensor = source(builder, rng, (1, 6, 7, 20), first)
            spec = builder.tensors[tensor]
            shift = np.iinfo(second).min - np.iinfo(first).min
            converted = builder.quantize(tensor, second, (spec.scale[0] * factor, spec.zero_point[0] + shift))
            weight, bias = rng.integers(1, 128, (8, 1, 1, 20)).astype(first), np.zeros(8, np.int32)
            beside = builder.convolution(tensor, weight, 0.01, (spec.scale[0] * 3, 0), bias=bias)
            yield f"{first} to {second} {factor}", builder.finish([tensor], [converted, beside])


def concatenations(rng: np.random.Generator) -> Iterator[Case]:
    """Inputs of any number of channels, one of them made by a convolution and read by it too."""
    for dtype in ("int8", "uint8"):
        for counts, factors in [
            ((16, 32), (1, 1)),
            ((5, 40, 3), (1, 1, 1)),
            ((64, 64), (1, 1)),
            ((7, 9), (1.0, 0.6)),
            ((130, 20), (0.3, 1.3)),
            ((32, 16, 20), (1.0, 0.6, 1.3)),
            ((16, 8, 24, 32), (0.5, 0.5, 1.0, 1.0)),
        ]:
            if dtype == "int8" and len(set(factors)) > 1:
                continue  # TFLite refuses scales that differ
            builder = Builder()
            info, scale = np.iinfo(dtype), float(rng.uniform(0.01, 0.1))
            point = int(rng.integers(info.min, info.max + 1))
            sources = [
                builder.tensor((1, 6, 5, n), dtype, scale * f, point) for n, f in zip(counts, factors, strict=True)
            ]
            weight = rng.integers(1, 100, (counts[0], 1, 1, counts[0])).astype(dtype)
            bias = np.zeros(counts[0], np.int32)
            made = builder.convolution(sources[0], weight, 0.01, (scale * factors[0], point), bias=bias)
            joined = builder.concatenation([made, *sources[1:]], (scale, point))
            again = builder.concatenation([joined, made], (scale, point))
            yield f"{dtype} {counts} {factors}", builder.finish(sources, [joined, again])


def concatenations_of_rows(rng: np.random.Generator) -> Iterator[Case]:
    """Boxes and scores of maps of several sizes with scales of their own, as SSD joins them; uint8 alone has those."""
    for axis, shapes, factors in [
        (1, ((1, 32, 4), (1, 32, 4)), (2, 1)),
        (1, ((1, 20, 7), (1, 6, 7), (1, 3, 7)), (0.4, 1, 1.7)),
        (-2, ((1, 4, 3, 40), (1, 4, 5, 40)), (0.9, 1.1)),
        (0, ((2, 3, 5, 33), (1, 3, 5, 33)), (1, 3.1)),
    ]:
        builder = Builder()
        scale, points = float(rng.uniform(0.03, 0.1)), rng.integers(100, 150, len(shapes)).tolist()
        sources, parts = [], []
        for shape, factor, point in zip(shapes, factors, points, strict=True):
            count = shape[-1]
            sources.append(builder.tensor((*(1,) * (4 - len(shape)), *shape), "uint8", 0.05, 128))
            weight = rng.integers(100, 150, (count, 1, 1, count)).astype("uint8")
            bias = np.zeros(count, np.int32)
            made = builder.convolution(
                sources[-1], weight, 0.01, (scale * factor, point), weight_zero_point=128, bias=bias
            )
            parts.append(builder.reshape(made, shape))
        joined = builder.concatenation(parts, (scale, points[0]), axis)
        yield f"axis {axis} {shapes}", builder.finish(sources, [joined])


def reshapes(rng: np.random.Generator) -> Iterator[Case]:
    """Behind a convolution, and before another where the shape allows one."""
    for dtype in ("int8", "uint8"):
        for shape, new in [
            ((1, 4, 6, 20), (1, 24, 1, 20)),
            ((1, 1, 1, 33), (1, 33)),
            ((1, 8, 2, 5), (1, 16, 5)),
            ((1, 4, 4, 16), (16, 16)),
        ]:
            builder = Builder()
            tensor = source(builder, rng, shape, dtype)
            weight = rng.integers(1, 100, (shape[3], 1, 1, shape[3])).astype(dtype)
            bias = np.zeros(shape[3], np.int32)
            made = builder.convolution(tensor, weight, 0.01, (0.5, 3), bias=bias)
            reshaped = builder.reshape(made, new)
            outputs = [reshaped]
            if len(new) == 4:
                outputs.append(builder.convolution(reshaped, weight, 0.01, (5.0, 1), bias=bias))
            yield f"{dtype} {shape} {new}", builder.finish([tensor], outputs)


FAMILIES = {
    "AVERAGE_POOL_2D": averages,
    "CONCATENATION": concatenations,
    "CONCATENATION of rows": concatenations_of_rows,
    "FULLY_CONNECTED": products,
    "MEAN": means,
    "QUANTIZE": conversions,
    "RESHAPE": reshapes,
}
EXACT = ("AVERAGE_POOL_2D", "FULLY_CONNECTED", "QUANTIZE", "RESHAPE")


def run(interpreter: Any, values: list[Array]) -> list[Array]:
    for detail, value in zip(interpreter.get_input_details(), values, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


@pytest.mark.parametrize("forms", ["auto", "never"])
@pytest.mark.parametrize("operator", FAMILIES)
def test_operator(
    operator: str, forms: str, reference_interpreter: Interpreters, npu_interpreter: Interpreters
) -> None:
    rng = np.random.default_rng(sum(operator.encode()))
    for name, model in FAMILIES[operator](rng):
        content = write(model)
        plain, npu = reference_interpreter(content), npu_interpreter(content, unproven=forms)
        assert len(npu._get_ops_details()) == len(plain._get_ops_details()) + 1, f"{name} is not on the NPU"
        info = np.iinfo(model.tensors[model.inputs[0]].dtype)
        for _ in range(3):
            shapes = [model.tensors[index].shape for index in model.inputs]
            values = [rng.integers(info.min, info.max + 1, shape).astype(info.dtype) for shape in shapes]
            for got, expected in zip(run(npu, values), run(plain, values), strict=True):
                difference = np.abs(got.astype(int) - expected.astype(int)).max()
                assert difference <= (0 if operator in EXACT and forms == "auto" else 1), f"{name}: {difference}"
