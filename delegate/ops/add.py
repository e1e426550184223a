"""ADD and SUB: two tensors in one convolution, or in the element-wise unit; constants in a convolution's bias.

A 1x1 convolution over both cubes as one, its kernels two diagonal blocks, is exact on any chip of the family (S-225);
the ratio of the scales is in weights of 8 bits, whose error is bounded before a node is taken. Where the device may use
it, the element-wise unit adds the second operand instead: factors of 15 bits and more, none of which rounds, so that
results are TFLite's own. What broadcasts over pixels is for tasks of the element-wise unit alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from delegate.errors import CompileError
from delegate.hw.layout import align, fits_cbuf, surface_rows
from delegate.hw.soc import BS_CLAMP, FLYING_SCALE, NORM_SHIFT, OPERAND_GAIN, Target
from delegate.ir import Addend, AnyLayer, Convolution, Elementwise, Node, Requantize, Tensor, View
from delegate.ops import Rule, lowers
from delegate.ops.limits import activation_limits, is_limited, limits, unlimited
from delegate.ops.operands import (
    CHANNEL_OPERAND_TEXT,
    CONSTANT_TEXT,
    RULES,
    Operands,
    as_cubes,
    channel_operand_allowed,
    constants_fit,
    is_per_channel,
    measures,
    on_cubes,
    operands,
    pair,
    point,
    scale,
    stored,
    values,
)
from delegate.ops.rules import ACTIVATION, ALLOW, possible
from delegate.requantize import LARGEST_ERROR, clamped, factor, quotient
from delegate.sums import constant_sum, exact_sum, weighted_sum

FEWEST_ATOMS = 12  # of a surface that the element-wise unit reads beside a convolution; fewer gave wrong sums (S-111)


@dataclass(frozen=True, eq=False)
class Sum:
    """A node as sign * main + sign * other."""

    node: Node  # of cubes
    target: Target
    found: Operands
    signs: tuple[int, int]  # of main and other, 1 or -1

    @property
    def channels(self) -> int:
        return self.found.output.shape[3]


@dataclass(frozen=True, eq=False)
class Form:
    """A layer that computes a sum; it may err by so many output steps over all inputs."""

    layer: Convolution | Elementwise
    error: float


Maker = Callable[[Sum], Form]


def sum_of(node: Node, target: Target) -> Sum:
    """The node with its operands in order."""
    found = operands(node)
    signs = (1, -1) if node.op == "SUB" else (1, 1)
    return Sum(node, target, found, signs[::-1] if found.swapped else signs)


def has_constant(node: Node) -> bool:
    """Whether one operand is a constant number, or one a channel."""
    return any(tensor.data is not None and is_per_channel(tensor) for tensor in pair(node))


def fits_convolution(what: Sum) -> bool:
    """Whether one convolution can read both operands: their rows, and kernels over the channels of both.

    Channels of each are whole groups, as any producer may write them.
    """
    if what.found.other.data is not None or what.found.other.shape != what.found.output.shape:
        return False
    soc, channels = what.target.soc, 2 * align(what.channels, what.target.soc.depthwise_group)
    fits = fits_cbuf(1, what.found.output.shape[2], channels, soc.kernel_group * channels, soc)
    return fits and channels <= soc.kernel_bytes_limit


def form_is_allowed(node: Node, target: Target) -> bool:
    return bool(list(makers(sum_of(node, target))))


def convolution(
    what: Sum,
    inputs: Sequence[Tensor],
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    run: Requantize,
    depthwise: bool,
) -> Convolution:
    """A 1x1 convolution that writes the output."""
    return Convolution(
        node=what.node.index,
        operator=what.node.op,
        inputs=tuple(inputs),
        output=what.found.output,
        weight=weight,
        weight_zero_point=0,
        bias=bias,
        input_zero_point=0,  # nothing is padded
        stride=(1, 1),
        padding=(0, 0, 0, 0),
        depthwise=depthwise,
        requantize=(run,),
        accumulator_scale=factor(run) * scale(what.found.output) if run.channel_multiplier is None else None,
    )


def scaled(what: Sum, weight: int, run: Requantize, constants: npt.NDArray[np.int32] | None = None) -> Convolution:
    """A depthwise convolution: main less its zero point times a weight, plus a constant a channel."""
    weights = np.full((1, 1, 1, what.channels), weight, np.int8)
    bias = np.full(what.channels, -weight * point(what.found.main), np.int32)
    return convolution(what, (what.found.main,), weights, bias if constants is None else bias + constants, run, True)


def diagonal(what: Sum, tensors: Sequence[Tensor], weights: Sequence[int], run: Requantize) -> Convolution:
    """A convolution that adds tensors, each less its zero point and times its weight."""
    blocks = [np.eye(what.channels, dtype=np.int8) * np.int8(weight) for weight in weights]
    bias = -sum(weight * point(tensor) for weight, tensor in zip(weights, tensors, strict=True))
    weight = np.concatenate(blocks, axis=1).reshape(what.channels, 1, 1, -1)
    return convolution(what, tensors, weight, np.full(what.channels, bias, np.int32), run, False)


def with_itself(what: Sum) -> Form:
    """a + a, or a - a."""
    main, output = what.found.main, what.found.output
    real, norm = 2 * scale(main) / scale(output), NORM_SHIFT in what.target.forms
    run = quotient(real, measures(main).reach, what.channels, point(output), norm)
    return Form(scaled(what, sum(what.signs) // 2, run), 0.0)


def by_weights(what: Sum) -> Form:
    """Both tensors in the convolution; proven."""
    main, other, output = what.found.main, what.found.other, what.found.output
    result = weighted_sum(measures(main), measures(other), scale(output), what.channels, point(output))
    weights = (what.signs[0] * result.a, what.signs[1] * result.b)
    return Form(diagonal(what, (main, other), weights, result.run), result.error)


def by_gain(what: Sum) -> Form:
    """One tensor in the convolution, the other added by the element-wise unit."""
    inner, added, output = what.found.main, what.found.other, what.found.output
    sign = what.signs[0]
    if what.signs[1] < 0:  # the subtrahend has the weight, which may be negative
        inner, added, sign = added, inner, -1
    result = exact_sum(measures(inner), measures(added), scale(output), what.channels, point(output))
    layer = diagonal(what, (inner,), (sign * result.weight,), result.run)
    return Form(replace(layer, addend=Addend(added, -point(added), result.gain, 0)), result.error)


def by_bias(what: Sum) -> Form:
    """A constant in the bias of a depthwise convolution with one weight; proven."""
    main, other, output = what.found.main, what.found.other, what.found.output
    real = np.broadcast_to(what.signs[1] * values(other) * scale(other), (1, 1, 1, what.channels)).reshape(-1)
    result = constant_sum(measures(main), real, scale(output), point(output), NORM_SHIFT in what.target.forms)
    return Form(scaled(what, what.signs[0] * result.weight, result.run, result.constants), result.error)


def without_convolution(what: Sum) -> Form:
    """A task of the element-wise unit alone, for operands of any kind."""
    main, other, output = what.found.main, what.found.other, what.found.output
    result = exact_sum(measures(main), measures(other), scale(output), what.channels, point(output), largest_weight=1)
    multipliers = result.run.channel_multiplier
    assert multipliers is not None
    layer = Elementwise(
        node=what.node.index,
        operator=what.node.op,
        main=main,
        output=output,
        requantize=replace(result.run, channel_multiplier=None),
        main_offset=-point(main),
        main_multiplier=what.signs[0] * int(multipliers[0]),
        operation="add" if what.signs[1] > 0 else "subtract",
        operand=other if other.data is None else stored(other, output, what.target),
        operand_offset=-point(other),
        operand_multiplier=result.gain,
    )
    return Form(layer, result.error)


ENDING_IN_BS = (with_itself, by_weights, by_bias)  # forms in which nothing is added behind BS


def with_clamp(make: Maker) -> Maker:
    """The form with the activation in BS; it raises CompileError where BS cannot have it."""

    def made(what: Sum) -> Form:
        form = make(what)
        assert isinstance(form.layer, Convolution)
        (run,) = form.layer.requantize
        run = clamped(run, *activation_limits(what.node))
        return replace(form, layer=replace(form.layer, requantize=(run,)))

    return made


def makers(what: Sum) -> Iterator[Maker]:
    """The forms that the device may use, the best first."""
    node, forms = what.node, what.target.forms
    if has_constant(node):
        yield by_bias
        return
    if what.found.main.index == what.found.other.index:
        yield with_itself
        return
    if fits_convolution(what):
        output = what.found.output
        if OPERAND_GAIN in forms and surface_rows(output.shape[1], what.target.soc) * output.shape[2] >= FEWEST_ATOMS:
            yield by_gain
        yield by_weights
    if FLYING_SCALE in forms:
        yield without_convolution


def first_exact(what: Sum, forms: Sequence[Maker]) -> Form | None:
    """The first form that errs no more than LARGEST_ERROR."""
    for make in forms:
        try:
            form = make(what)
        except CompileError:
            continue
        if form.error <= LARGEST_ERROR:
            return form
    return None


def layers_of(node: Node, target: Target) -> list[AnyLayer]:
    """All layers of a node of cubes; raises CompileError where no form is exact enough.

    An activation is done in BS where that is possible, else by comparisons behind the sum.
    """
    what = sum_of(node, target)
    possible = list(makers(what))
    if is_limited(node) and BS_CLAMP in target.forms:
        form = first_exact(what, [with_clamp(make) for make in possible if make in ENDING_IN_BS])
        if form:
            return [*what.found.layers, form.layer]
    form = first_exact(what, possible)
    if form is None:
        raise CompileError(f"{node.op}: no form meets the scales")
    return [*what.found.layers, replace(form.layer, output=unlimited(node)), *limits(node, target)]


SUM_RULES = [
    *RULES,
    ACTIVATION,
    on_cubes(Rule(CHANNEL_OPERAND_TEXT, channel_operand_allowed, ALLOW)),
    on_cubes(
        Rule(
            "one operand is a constant for all pixels, or none is broadcast over them and a row of both fits the CBUF "
            f"of 384 KiB, or the device may use: {FLYING_SCALE}",
            form_is_allowed,
            f"{ALLOW}, or use fewer channels",
        )
    ),
    on_cubes(
        Rule(
            CONSTANT_TEXT,
            lambda node, target: has_constant(node) or constants_fit(node, target),
            f"{ALLOW}, or have constants that are one number a channel",
        )
    ),
    on_cubes(
        Rule(
            "the scales are met within 0.45 output steps",
            possible(layers_of),
            "calibrate both operands together, so that their scales are nearer to each other",
        )
    ),
]


@lowers("ADD", SUM_RULES)
def add(node: Node, target: Target) -> Sequence[AnyLayer | View]:
    """out[y,x,c] = requantize(sa * (a[y,x,c] - za) + sb * (b[y,x,c] - zb))."""
    return layers_of(as_cubes(node), target)


@lowers("SUB", SUM_RULES)
def subtract(node: Node, target: Target) -> Sequence[AnyLayer | View]:
    """out[y,x,c] = requantize(sa * (a[y,x,c] - za) - sb * (b[y,x,c] - zb))."""
    return layers_of(as_cubes(node), target)
