"""What TFLite's reference kernels make of all 256 values, for every operator of one tensor that takes 8-bit numbers.

There are three kinds of kernels: those that TFLite looks up itself, in a table computed with floats of 32 bits; those
that multiply by numbers of 31 bits; and HARD_SWISH, in fixed point of 16 bits. The functions of floats are the nearest
floats to the true value, which the C library's may miss by their last bit; a table differs from TFLite's only where a
result lies that near to the middle between two outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from delegate import quantize
from delegate.errors import CompileError
from delegate.ir import Node
from delegate.quantize import INT8_HIGH, INT8_LOW, Ints, round_shifts_away, tflite_multiplier, tflite_product

Floats = npt.NDArray[np.float32]
FloatFunction = Callable[[Floats], Floats]
VALUES: Ints = np.arange(INT8_LOW, INT8_HIGH + 1)
RSQRT_BITS = 20  # of the fraction of RSQRT's inner number
HIRES_BITS = 7  # HARD_SWISH's input is shifted left by so many
INT16_LOW, INT16_HIGH = -(2**15), 2**15 - 1


@dataclass(frozen=True)
class Ends:
    """Quantization of a node's input and output; zero points in the NPU's domain."""

    scale_in: np.float32
    zero_in: int
    scale_out: np.float32
    zero_out: int

    @property
    def inputs(self) -> Ints:
        """q - zero point of all 256 values, in order."""
        return VALUES - self.zero_in


Kernel = Callable[[Node, Ends], Ints]  # the outputs for VALUES, in the NPU's domain, not yet saturated


def ends_of(node: Node) -> Ends:
    """The quantization of a node whose tensors have one scale each."""
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None and source.quant is not None and output.quant is not None
    return Ends(
        source.quant.scale[0],
        quantize.zero_point(source.quant, source.dtype),
        output.quant.scale[0],
        quantize.zero_point(output.quant, output.dtype),
    )


def nearest(function: Callable[[float], float], values: Floats) -> Floats:
    """A function of reals as floats of 32 bits, infinite where it leaves them."""

    def one(value: float) -> float:
        try:
            return function(value)
        except OverflowError:
            return math.inf

    return np.array([one(float(value)) for value in values], np.float64).astype(np.float32)


def truncated(values: Floats | npt.NDArray[np.float64]) -> Ints:
    """Floats as C converts them to integers; raises CompileError where what C does then depends on the processor."""
    if not (np.abs(values) < 2.0**31).all():
        raise CompileError("a result leaves the 32 bits that TFLite converts it to")
    return values.astype(np.int64)


def looked_up(function: Callable[[Node, Ends], FloatFunction]) -> Kernel:
    """A kernel that TFLite fills a table for: real input, function, times 1 / scale, rounded with ties away from 0."""

    def kernel(node: Node, ends: Ends) -> Ints:
        real = ends.scale_in * ends.inputs.astype(np.float32)
        scaled = (function(node, ends)(real) * (np.float32(1) / ends.scale_out)).astype(np.float64)
        return truncated(np.copysign(np.floor(np.abs(scaled) + 0.5), scaled)) + ends.zero_out

    return kernel


def logistic(values: Floats) -> Floats:
    result: Floats = np.float32(1) / (np.float32(1) + nearest(math.exp, -values))
    return result


def elu(values: Floats) -> Floats:
    return np.where(values < 0, nearest(math.expm1, np.minimum(values, 0)), values)


def gelu(values: Floats) -> Floats:
    result: Floats = np.float32(0.5) * values * nearest(math.erfc, values * np.float32(-math.sqrt(0.5)))
    return result


def gelu_approximate(values: Floats) -> Floats:
    cube = np.float32(0.044715) * values * values * values
    inner = nearest(math.tanh, np.float32(math.sqrt(2 / math.pi)) * (values + cube))
    result: Floats = np.float32(0.5) * values * (np.float32(1) + inner)
    return result


def logarithm(least: np.float32, values: Floats) -> Floats:
    """ln, and ``least`` where there is none."""
    return np.where(values > 0, nearest(math.log, np.where(values > 0, values, np.float32(1))), least)


def clamped_to(activation: str) -> Kernel:
    """A kernel that requantizes and clamps."""

    def kernel(node: Node, ends: Ends) -> Ints:
        output = node.outputs[0]
        assert output.quant is not None
        low, high = quantize.activation_range(activation, output.quant, output.dtype)
        product = tflite_product(ends.inputs, float(ends.scale_in / ends.scale_out))
        return np.minimum(np.maximum(product + ends.zero_out, low), high)

    return kernel


def requantized(node: Node, ends: Ends) -> Ints:
    """QUANTIZE of 8-bit numbers; it alone divides its scales in double precision."""
    return tflite_product(ends.inputs, float(ends.scale_in) / float(ends.scale_out)) + ends.zero_out


def two_slopes(ends: Ends, above: float, below: float, factor: int = 1) -> Ints:
    """inputs * above from 0 on, inputs * factor * below under it, each with a multiplier of its own."""
    inputs = ends.inputs
    positive = tflite_product(np.maximum(inputs, 0), above)
    return positive + tflite_product(np.minimum(inputs, 0) * factor, below) + ends.zero_out


def leaky_relu(node: Node, ends: Ends) -> Ints:
    alpha = np.float32(node.params["alpha"])
    above, below = ends.scale_in / ends.scale_out, ends.scale_in * alpha / ends.scale_out
    return two_slopes(ends, float(above), float(below))


def prelu(node: Node, ends: Ends) -> Ints:
    """PRELU with one alpha for all."""
    alpha = node.inputs[1]
    assert alpha is not None and alpha.data is not None and alpha.quant is not None
    factor = int(quantize.to_int8(alpha.data).flat[0]) - quantize.zero_point(alpha.quant, alpha.dtype)
    above, below = ends.scale_in / ends.scale_out, ends.scale_in * alpha.quant.scale[0] / ends.scale_out
    return two_slopes(ends, float(above), float(below), factor)


def absolute(node: Node, ends: Ends) -> Ints:
    return tflite_product(np.abs(ends.inputs), float(ends.scale_in / ends.scale_out)) + ends.zero_out


def negated(node: Node, ends: Ends) -> Ints:
    """The stored number negated, whatever the quantization is; -128 stays."""
    return np.where(VALUES == INT8_LOW, INT8_LOW, -VALUES)


def square_root(node: Node, ends: Ends) -> Ints:
    """Not rounded but cut off. Of inputs below 0, which TFLite gives an error for, there are none (rules)."""
    real = ends.scale_in * ends.inputs.astype(np.float32)
    return truncated(np.sqrt(real) / ends.scale_out) + ends.zero_out


def reciprocal_root(node: Node, ends: Ends) -> Ints:
    """1 / sqrt in 20 bits of fraction, times 1 / (sqrt(input scale) * output scale); 0 gives the largest number."""
    inputs = np.maximum(ends.inputs, 1)
    roots = np.rint(np.ldexp(1 / np.sqrt(inputs), RSQRT_BITS)).astype(np.int64)
    factor = 1 / (float(np.sqrt(ends.scale_in)) * float(ends.scale_out))
    outputs = tflite_product(roots, math.ldexp(factor, -RSQRT_BITS)) + ends.zero_out
    return np.where(ends.inputs == 0, INT8_HIGH, outputs)


def multiplier_of_16_bits(real: np.float32) -> tuple[int, int]:
    """(multiplier of 15 bits, exponent) that HARD_SWISH uses."""
    multiplier, exponent = tflite_multiplier(float(real))
    return min((multiplier + (1 << 15)) >> 16, INT16_HIGH), exponent


def high_product(values: Ints, factor: int) -> Ints:
    """values * factor / 2**15, halves up."""
    return (values * factor + (1 << 14)) >> 15


def hard_swish(node: Node, ends: Ends) -> Ints:
    """input * (a line from 0 at -3 to 1 at 3, saturated), all in numbers of 16 bits.

    Raises CompileError for scales that TFLite refuses, or shifts by more than its 16 bits.
    """
    hires_scale = np.float32(1 / (1 << HIRES_BITS)) * ends.scale_in
    factor, exponent = multiplier_of_16_bits(hires_scale / ends.scale_out)
    line_factor, line_exponent = multiplier_of_16_bits(hires_scale / (np.float32(3) / np.float32(1 << 15)))
    if exponent > 0 or min(exponent, line_exponent) < -15:
        raise CompileError(f"HARD_SWISH: scales {ends.scale_in} and {ends.scale_out} are too far apart for TFLite")
    hires = ends.inputs << HIRES_BITS
    line = hires
    if line_exponent > 0:  # saturates in the last bit alone, so that a multiplier below 1 comes first
        line = np.clip(hires * 2 ** min(line_exponent - 1, 15), INT16_LOW, INT16_HIGH)
    line = high_product(line, line_factor)
    if line_exponent > 0:
        line = np.clip(line * 2, INT16_LOW, INT16_HIGH)
    line = round_shifts_away(line, max(-line_exponent, 0))
    line = (line + (1 << 15)) >> 1
    products = line * high_product(hires, factor)
    cut = np.sign(products) * (np.abs(products) >> 15)
    return round_shifts_away(cut, -exponent) + ends.zero_out


def fixed(function: FloatFunction) -> Kernel:
    """A kernel whose function has no parameters."""
    return looked_up(lambda node, ends: function)


def least_real(ends: Ends) -> np.float32:
    """The smallest number that the output can hold."""
    return np.float32(INT8_LOW - ends.zero_out) * ends.scale_out


BOTH, INT8 = ("int8", "uint8"), ("int8",)
# What each kernel computes, and for which types TFLite has it.
KERNELS: dict[str, tuple[Kernel, tuple[str, ...]]] = {
    "ABS": (absolute, INT8),
    "ELU": (fixed(elu), INT8),
    "EXP": (fixed(partial(nearest, math.exp)), INT8),
    "GELU": (looked_up(lambda node, ends: gelu_approximate if node.params["approximate"] else gelu), BOTH),
    "HARD_SWISH": (hard_swish, BOTH),
    "LEAKY_RELU": (leaky_relu, BOTH),
    "LOG": (looked_up(lambda node, ends: partial(logarithm, least_real(ends))), INT8),
    "LOGISTIC": (fixed(logistic), BOTH),
    "NEG": (negated, INT8),
    "RELU": (clamped_to("RELU"), BOTH),
    "RELU6": (clamped_to("RELU6"), BOTH),
    "RELU_0_TO_1": (clamped_to("RELU_0_TO_1"), BOTH),
    "RELU_N1_TO_1": (clamped_to("RELU_N1_TO_1"), BOTH),
    "RSQRT": (reciprocal_root, INT8),
    "SQRT": (square_root, INT8),
    "TANH": (fixed(partial(nearest, math.tanh)), BOTH),
}


def outputs(kernel: Kernel, node: Node) -> Ints:
    """The 256 outputs, saturated, in the NPU's domain; raises CompileError where TFLite's arithmetic overflows."""
    with np.errstate(all="ignore"):  # what is no number, the kernels refuse
        return np.clip(kernel(node, ends_of(node)), INT8_LOW, INT8_HIGH)
