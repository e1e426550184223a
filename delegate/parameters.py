"""The options of operators that ir.Node.params has, and where TFLite's structs and the schema's tables have them.

``context`` reads the structs of tflite_c_api.h, ``tflite`` the tables of schema.fbs, both by this one list. An operator
that is not in it has no parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PADDINGS = ("SAME", "VALID")  # Padding of schema.fbs; TfLitePadding counts from 1
# Place = ActivationFunctionType of schema.fbs, which TfLiteFusedActivation agrees with but for its last.
ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT", "SIGMOID")


@dataclass(frozen=True)
class Parameter:
    """One entry of Node.params, from the operator's C struct and from its flatbuffer table."""

    name: str
    from_struct: Callable[[Any], Any]
    from_table: Callable[[Any], Any]


@dataclass(frozen=True)
class Options:
    """Where an operator's parameters are: its struct, its table in the schema, and whether it needs that table."""

    struct: str
    table: str
    parameters: tuple[Parameter, ...]
    required: bool = False


def single(name: str, accessor: str) -> Parameter:
    """A number or a truth value; the struct calls it by the same name."""
    return Parameter(name, lambda struct: getattr(struct, name), lambda table: getattr(table, accessor)())


def pair(name: str, fields: tuple[str, str], accessors: tuple[str, str]) -> Parameter:
    """Two numbers, (y, x)."""
    return Parameter(
        name,
        lambda struct: tuple(getattr(struct, field) for field in fields),
        lambda table: tuple(getattr(table, accessor)() for accessor in accessors),
    )


def vector(name: str, field: str, count: str, accessor: str) -> Parameter:
    """Numbers, of which the struct has room for 8; the first ``count`` of them count."""
    return Parameter(
        name,
        lambda struct: tuple(getattr(struct, field)[0 : getattr(struct, count)]),
        lambda table: tuple(getattr(table, accessor)(i) for i in range(getattr(table, f"{accessor}Length")())),
    )


def activation_name(code: int) -> str:
    """The name of a fused activation; one that nobody knows is called by its number."""
    return ACTIVATIONS[code] if 0 <= code < len(ACTIVATIONS) else f"activation {code}"


def padding_name(code: int) -> str:
    """The name of the schema's Padding; one that nobody knows is called by its number."""
    return PADDINGS[code] if 0 <= code < len(PADDINGS) else f"padding {code}"


ACTIVATION = Parameter(
    "activation",
    lambda struct: activation_name(struct.activation),
    lambda table: activation_name(table.FusedActivationFunction()),
)
PADDING = Parameter(
    "padding", lambda struct: padding_name(struct.padding - 1), lambda table: padding_name(table.Padding())
)
STRIDE = pair("stride", ("stride_height", "stride_width"), ("StrideH", "StrideW"))
FILTER = pair("filter", ("filter_height", "filter_width"), ("FilterHeight", "FilterWidth"))
DILATION = pair("dilation", ("dilation_height_factor", "dilation_width_factor"), ("DilationHFactor", "DilationWFactor"))
SHUFFLED = Parameter("shuffled", lambda struct: struct.weights_format != 0, lambda table: table.WeightsFormat() != 0)
AXIS = single("axis", "Axis")
BLOCK_SIZE = single("block_size", "BlockSize")
NUM_SPLITS = single("num_splits", "NumSplits")
RESIZE = (single("align_corners", "AlignCorners"), single("half_pixel_centers", "HalfPixelCenters"))
MASKS = (
    single("begin_mask", "BeginMask"),
    single("end_mask", "EndMask"),
    single("ellipsis_mask", "EllipsisMask"),
    single("new_axis_mask", "NewAxisMask"),
    single("shrink_axis_mask", "ShrinkAxisMask"),
    single("offset", "Offset"),
)
CONVOLUTION = (STRIDE, DILATION, PADDING, ACTIVATION)
POOL = Options("TfLitePoolParams", "Pool2DOptions", (FILTER, STRIDE, PADDING, ACTIVATION), True)

OPTIONS = {
    "ADD": Options("TfLiteAddParams", "AddOptions", (ACTIVATION,)),
    "AVERAGE_POOL_2D": POOL,
    "CONCATENATION": Options("TfLiteConcatenationParams", "ConcatenationOptions", (AXIS, ACTIVATION), True),
    "CONV_2D": Options("TfLiteConvParams", "Conv2DOptions", CONVOLUTION, True),
    "DEPTHWISE_CONV_2D": Options(
        "TfLiteDepthwiseConvParams",
        "DepthwiseConv2DOptions",
        (*CONVOLUTION, single("depth_multiplier", "DepthMultiplier")),
        True,
    ),
    "DEPTH_TO_SPACE": Options("TfLiteDepthToSpaceParams", "DepthToSpaceOptions", (BLOCK_SIZE,)),
    "FULLY_CONNECTED": Options(
        "TfLiteFullyConnectedParams",
        "FullyConnectedOptions",
        (ACTIVATION, SHUFFLED, single("keep_num_dims", "KeepNumDims")),
    ),
    "GELU": Options("TfLiteGeluParams", "GeluOptions", (single("approximate", "Approximate"),)),
    "LEAKY_RELU": Options("TfLiteLeakyReluParams", "LeakyReluOptions", (single("alpha", "Alpha"),)),
    "MAX_POOL_2D": POOL,
    "MEAN": Options("TfLiteReducerParams", "ReducerOptions", (single("keep_dims", "KeepDims"),)),
    "MUL": Options("TfLiteMulParams", "MulOptions", (ACTIVATION,)),
    "PACK": Options("TfLitePackParams", "PackOptions", (AXIS,)),
    "RESHAPE": Options(
        "TfLiteReshapeParams", "ReshapeOptions", (vector("new_shape", "shape", "num_dimensions", "NewShape"),)
    ),
    "RESIZE_BILINEAR": Options("TfLiteResizeBilinearParams", "ResizeBilinearOptions", RESIZE),
    "RESIZE_NEAREST_NEIGHBOR": Options("TfLiteResizeNearestNeighborParams", "ResizeNearestNeighborOptions", RESIZE),
    "SOFTMAX": Options("TfLiteSoftmaxParams", "SoftmaxOptions", (single("beta", "Beta"),)),
    "SPACE_TO_DEPTH": Options("TfLiteSpaceToDepthParams", "SpaceToDepthOptions", (BLOCK_SIZE,)),
    "SPLIT": Options("TfLiteSplitParams", "SplitOptions", (NUM_SPLITS,)),
    "SPLIT_V": Options("TfLiteSplitVParams", "SplitVOptions", (NUM_SPLITS,)),
    "SQUEEZE": Options(
        "TfLiteSqueezeParams",
        "SqueezeOptions",
        (vector("squeeze_dims", "squeeze_dims", "num_squeeze_dims", "SqueezeDims"),),
    ),
    "STRIDED_SLICE": Options("TfLiteStridedSliceParams", "StridedSliceOptions", MASKS),
    "SUB": Options("TfLiteSubParams", "SubOptions", (ACTIVATION,)),
    "TRANSPOSE_CONV": Options("TfLiteTransposeConvParams", "TransposeConvOptions", (STRIDE, PADDING, ACTIVATION), True),
    "UNPACK": Options("TfLiteUnpackParams", "UnpackOptions", (AXIS,)),
}
