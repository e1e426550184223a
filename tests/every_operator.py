"""One small model for every operator and kind of options that the tests' writer has, by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tflite_writer import Array, Builder, Model

SHAPE = (2, 6, 8, 12)  # NHWC of every input
SCALE = 0.05
# Operators of one tensor without options.
UNARY = (
    *("RELU", "RELU6", "RELU_N1_TO_1", "LOGISTIC", "TANH", "HARD_SWISH", "ELU", "EXP", "ABS", "GELU"),
    *("LOG", "NEG", "SQRT", "SQUARE", "SIN", "COS", "FLOOR"),
)
# Cases of each type that the reference kernels of tflite-runtime 2.14 do not run.
UNARY_OF_FLOATS = {"LOG", "NEG", "SQRT", "SQUARE", "SIN", "COS", "FLOOR"}
REFUSED = {
    "int8": {"ELU", *UNARY_OF_FLOATS},  # the optimized kernels have ELU
    "uint8": {"ELU", "EXP", "ABS", "RSQRT", *UNARY_OF_FLOATS},
}

Outputs = int | tuple[int, ...]
Case = Callable[[Builder, int, int, "Values"], Outputs]  # of a builder and two inputs


class Values:
    """Random constants of a type."""

    def __init__(self, dtype: str) -> None:
        self.rng = np.random.default_rng(7)
        self.dtype = dtype
        self.zero_point = 0 if dtype == "int8" else 128  # of weights
        self.quantization = (SCALE, -20 if dtype == "int8" else 100)  # of the inputs

    def weight(self, *shape: int) -> Array:
        """Weights, symmetric for int8."""
        low = -127 if self.dtype == "int8" else 0
        return self.rng.integers(low, low + 255, shape).astype(self.dtype)

    def bias(self, count: int) -> Array:
        return self.rng.integers(-900, 900, count).astype(np.int32)


def convolution(builder: Builder, first: int, second: int, values: Values) -> Outputs:
    return builder.convolution(
        *(first, values.weight(5, 3, 2, 12), 0.01, (0.2, 3)),
        weight_zero_point=values.zero_point,
        bias=values.bias(5),
        stride=(2, 1),
        padding="VALID",
        activation="RELU6",
    )


def dilated(builder: Builder, first: int, second: int, values: Values) -> Outputs:
    weight, bias = values.weight(5, 3, 3, 12), values.bias(5)
    return builder.convolution(
        first, weight, 0.01, (0.2, 3), weight_zero_point=values.zero_point, bias=bias, dilation=(1, 2)
    )


def grouped(builder: Builder, first: int, second: int, values: Values) -> Outputs:
    weight, bias = values.weight(6, 3, 3, 4), values.bias(6)
    return builder.convolution(first, weight, 0.01, (0.2, 3), weight_zero_point=values.zero_point, bias=bias)


def depthwise(builder: Builder, first: int, second: int, values: Values) -> Outputs:
    weight, bias = values.weight(1, 3, 3, 24), values.bias(24)
    return builder.convolution(
        first, weight, 0.01, (0.2, 3), weight_zero_point=values.zero_point, bias=bias, depthwise=True, dilation=(2, 1)
    )


def product(builder: Builder, first: int, second: int, values: Values) -> Outputs:
    weight, bias = values.weight(7, 12), values.bias(7)
    return builder.fully_connected(first, weight, 0.01, (0.2, 3), values.zero_point, bias, "RELU")


def product_of_as_many_dimensions(builder: Builder, first: int, second: int, values: Values) -> Outputs:
    return builder.fully_connected(
        first, values.weight(7, 12), 0.01, (0.2, 3), values.zero_point, values.bias(7), keep=True
    )


def product_without_bias(builder: Builder, first: int, second: int, values: Values) -> Outputs:
    return builder.fully_connected(first, values.weight(7, 12), 0.01, (0.2, 3), values.zero_point)


def transposed(
    stride: tuple[int, int] = (2, 2), padding: str = "SAME", activation: str = "NONE", with_bias: bool = True
) -> Case:
    def build(builder: Builder, first: int, second: int, values: Values) -> Outputs:
        weight, bias = values.weight(5, 3, 3, 12), values.bias(5) if with_bias else None
        return builder.transpose_conv(
            *(first, weight, 0.01, (0.2, 3)),
            weight_zero_point=values.zero_point,
            bias=bias,
            stride=stride,
            padding=padding,
            activation=activation,
        )

    return build


def prelu(builder: Builder, first: int, second: int, values: Values) -> Outputs:
    return builder.prelu(first, values.weight(1, 1, 12), 0.01, (0.04, 2), values.zero_point)


def pooled(kind: str, padding: str, activation: str) -> Case:
    return lambda builder, first, second, values: builder.pool(first, kind, (3, 2), (2, 1), padding, activation)


def resized(kind: str, align_corners: bool, half_pixel: bool) -> Case:
    return lambda builder, first, second, values: builder.resize(first, kind, (9, 16), align_corners, half_pixel)


def unary(op: str) -> Case:
    return lambda builder, first, second, values: builder.unary(op, first)


def binary(op: str, activation: str | None) -> Case:
    def build(builder: Builder, first: int, second: int, values: Values) -> Outputs:
        output = None if activation is None else (0.11, 5)
        return builder.binary(op, first, second, output, activation)

    return build


def large_product(builder: Builder, first: int, second: int, values: Values) -> Outputs:
    """MUL whose output's scale is below the product of the inputs'."""
    return builder.mul(first, second, (SCALE * SCALE / 2, 5))


def broadcast(builder: Builder, first: int, second: int, values: Values) -> Outputs:
    return builder.add(first, builder.constant(values.weight(12), 0.02, values.zero_point), (0.1, 5))


def shortened(builder: Builder, first: int, second: int, values: Values) -> Outputs:
    return builder.strided_slice(first, (0, 1, 7, 0), (0, 5, 0, 9), (1, 2, -1, 3), begin_mask=1, end_mask=1)


def one_row(builder: Builder, first: int, second: int, values: Values) -> Outputs:
    return builder.strided_slice(first, (0, 1, 0), (2, 2, 8), (1, 1, 1), shrink_axis_mask=2)


def ellipsis(builder: Builder, first: int, second: int, values: Values) -> Outputs:
    return builder.strided_slice(first, (0, 0, 3), (0, 0, 9), (1, 1, 2), ellipsis_mask=1, new_axis_mask=2)


def offset(builder: Builder, first: int, second: int, values: Values) -> Outputs:
    return builder.strided_slice(first, (0, 1, 2, 3), (2, 4, 5, 6), (1, 1, 1, 1), offset=True)


def rsqrt(builder: Builder, first: int, second: int, values: Values) -> Outputs:
    """RSQRT of what is above 0; others are an error of TFLite's."""
    scale, zero_point = values.quantization
    least = builder.constant(np.array([zero_point + 1], values.dtype), scale, zero_point)
    return builder.unary("RSQRT", builder.maximum(first, least))


CASES: dict[str, Case] = {
    "RSQRT": rsqrt,
    "GELU approximate": lambda builder, first, second, values: builder.unary(
        "GELU", first, options={"Approximate": True}
    ),
    "CONV_2D": convolution,
    "CONV_2D dilated": dilated,
    "CONV_2D grouped": grouped,
    "DEPTHWISE_CONV_2D": depthwise,
    "FULLY_CONNECTED": product,
    "FULLY_CONNECTED keep_num_dims": product_of_as_many_dimensions,
    "FULLY_CONNECTED without bias": product_without_bias,
    "TRANSPOSE_CONV": transposed(),
    "TRANSPOSE_CONV without bias": transposed(with_bias=False),
    "TRANSPOSE_CONV VALID": transposed((1, 2), "VALID"),
    "TRANSPOSE_CONV RELU": transposed(activation="RELU"),
    "PRELU": prelu,
    "LEAKY_RELU": lambda builder, first, second, values: builder.leaky_relu(first, 0.3, (0.04, 2)),
    "SOFTMAX": lambda builder, first, second, values: builder.softmax(first, 0.5),
    "QUANTIZE": lambda builder, first, second, values: builder.quantize(first, values.dtype, (0.07, 4)),
    "QUANTIZE to the other": lambda builder, first, second, values: builder.quantize(
        first, "int8" if values.dtype == "uint8" else "uint8", (0.07, 4)
    ),
    "QUANTIZE of float": lambda builder, first, second, values: builder.quantize(
        builder.dequantize(first), values.dtype, (0.07, 4)
    ),
    "DEQUANTIZE": lambda builder, first, second, values: builder.dequantize(first),
    "CONCATENATION": lambda builder, first, second, values: builder.concatenation(
        (first, second), values.quantization, 1
    ),
    "SPLIT": lambda builder, first, second, values: builder.split(first, 3),
    "SPLIT of rows": lambda builder, first, second, values: builder.split(first, 2, 1),
    "SPLIT_V": lambda builder, first, second, values: builder.split_v(first, (5, 7)),
    "SLICE": lambda builder, first, second, values: builder.slice(first, (0, 1, 2, 3), (2, -1, 4, 8)),
    "STRIDED_SLICE": shortened,
    "STRIDED_SLICE shrink": one_row,
    "STRIDED_SLICE ellipsis": ellipsis,
    "STRIDED_SLICE offset": offset,
    "PAD": lambda builder, first, second, values: builder.pad(first, ((0, 0), (1, 2), (0, 3), (0, 4))),
    "PADV2": lambda builder, first, second, values: builder.padv2(first, ((0, 0), (1, 2), (0, 3), (0, 0)), 9),
    "RESHAPE": lambda builder, first, second, values: builder.reshape(first, (2, 4, 12, 12)),
    "RESHAPE by option": lambda builder, first, second, values: builder.reshape(first, (2, 4, 12, 12), by_option=True),
    "SQUEEZE": lambda builder, first, second, values: builder.squeeze(builder.expand_dims(first, 1), (1,)),
    "EXPAND_DIMS": lambda builder, first, second, values: builder.expand_dims(first, -1),
    "DEPTH_TO_SPACE": lambda builder, first, second, values: builder.depth_to_space(first, 2),
    "TRANSPOSE": lambda builder, first, second, values: builder.transpose(first, (0, 2, 1, 3)),
    "SPACE_TO_DEPTH": lambda builder, first, second, values: builder.space_to_depth(first, 2),
    "SPACE_TO_BATCH_ND": lambda builder, first, second, values: builder.space_to_batch(first, (2, 2), ((1, 1), (0, 2))),
    "BATCH_TO_SPACE_ND": lambda builder, first, second, values: builder.batch_to_space(first, (1, 2), ((1, 1), (0, 2))),
    "PACK": lambda builder, first, second, values: builder.pack((first, second), 1),
    "UNPACK": lambda builder, first, second, values: builder.unpack(first, 1),
    "ARG_MAX": lambda builder, first, second, values: builder.arg_max(first, 3),
    "ARG_MAX int32": lambda builder, first, second, values: builder.arg_max(first, 3, "int32"),
    "MEAN": lambda builder, first, second, values: builder.mean(first, (0.03, 7)),
    "MEAN without dimensions": lambda builder, first, second, values: builder.mean(first, (0.03, 7), keep=False),
    "MEAN of channels": lambda builder, first, second, values: builder.mean(first, (0.03, 7), axes=(3,)),
    "MUL of a large scale": large_product,
    "ADD of a constant": broadcast,
    **{f"{op}": binary(op, "RELU") for op in ("ADD", "SUB", "MUL")},
    **{op: binary(op, None) for op in ("MAXIMUM", "MINIMUM")},
    **{op: unary(op) for op in UNARY},
    **{
        f"{kind} {padding} {activation}": pooled(kind, padding, activation)
        for kind in ("AVERAGE_POOL_2D", "MAX_POOL_2D")
        for padding, activation in (("VALID", "NONE"), ("SAME", "RELU6"))
    },
    **{
        f"{kind} {note}": resized(kind, align_corners, half_pixel)
        for kind in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
        for note, align_corners, half_pixel in (
            ("plain", False, False),
            ("corners", True, False),
            ("half pixels", False, True),
        )
    },
}


def build(name: str, dtype: str) -> Model:
    """The model of a case with two inputs of ``dtype``, of which it reads one or both."""
    builder, values = Builder(), Values(dtype)
    first, second = (builder.tensor(SHAPE, dtype, *values.quantization) for _ in range(2))
    outputs = CASES[name](builder, first, second, values)
    read = [i for i in (first, second) if any(i in operator.inputs for operator in builder.operators)]
    return builder.finish(read, (outputs,) if isinstance(outputs, int) else outputs)
