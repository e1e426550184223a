"""The delegate as TFLite sees it: the callbacks of libteflon.so. No exception leaves this file.

create: options, device. delegate_prepare: the interpreter's graph is read, nodes are refused or accepted, each
partition is compiled and then claimed. init: a claimed partition gets its kernel. prepare: it is compiled anew where
shapes have changed since. invoke, free: of a kernel. Several interpreters may do so in several threads; the GIL guards
the tables below.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from _teflon import ffi, lib

from delegate import trace
from delegate.context import int_array, partition_graph, read_context, view, with_shapes
from delegate.errors import CompileError, DelegateError
from delegate.ir import Array, Graph
from delegate.options import Options, parse
from delegate.partition import refusals, verdicts
from delegate.runtime import Session, passed_over, shared_device, target_of

OK, ERROR = 0, 1  # TfLiteStatus
# TfLiteDelegateFlags, as upstream's Teflon sets them: a model with tensors whose size is known only while it runs is
# not refused as a whole, and TFLite tells each kernel the shapes that result from a new one.
ALLOW_DYNAMIC_TENSORS, REQUIRE_PROPAGATED_SHAPES = 1, 2
RELOAD = "give the model's file these shapes, so that it is left to the CPU"


@dataclass
class Kernel:
    """A partition that is compiled, and the interpreter's memory as it was at the last invoke."""

    session: Session
    graph: Graph
    delegate: Delegate
    views: dict[int, tuple[int, Array]] = field(default_factory=dict)  # by tensor: address, array


@dataclass
class Delegate:
    """What belongs to a TfLiteDelegate. ``compiled`` holds kernels from compilation until TFLite asks for them."""

    struct: Any
    options: Options
    compiled: dict[tuple[int, tuple[int, ...]], Kernel] = field(default_factory=dict)  # by context, nodes

    @property
    def verbose(self) -> bool:
        return self.options.debug == "verbose"


delegates: dict[int, Delegate] = {}  # by address
kernels: dict[int, Kernel] = {}  # by the number that TFLite keeps as the node's user data
numbers = itertools.count(1)


def address(pointer: Any) -> int:
    """A pointer as a number; 0 for a null pointer."""
    return int(ffi.cast("uintptr_t", pointer))


def message(error: BaseException) -> str:
    """One line for the user; an error that is not the user's names its place."""
    if isinstance(error, DelegateError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def failed(context: Any, error: BaseException) -> int:
    """Reports an error through the interpreter; the status to return. Ctrl-C reaches the host's Python afterwards."""
    if isinstance(error, KeyboardInterrupt):
        lib.teflon_interrupt_host()
    lib.teflon_report(context, f"teflon: {message(error)}".encode())
    return ERROR


@ffi.def_extern(error=ffi.NULL)
def teflon_create(keys: Any, values: Any, count: int, report: Any) -> Any:
    """A new TfLiteDelegate, or NULL after a report."""
    try:
        given = {ffi.string(keys[i]).decode(): ffi.string(values[i]).decode() for i in range(count)}
        options = parse(given, os.environ)
        device = shared_device(options.device, options.cores, options.kernel, options.capabilities)
        struct = ffi.new("TfLiteDelegate *")
        lib.teflon_set_prepare(struct)
        struct.flags = ALLOW_DYNAMIC_TENSORS | REQUIRE_PROPAGATED_SHAPES
        delegates[address(struct)] = Delegate(struct, options)
        if options.debug == "verbose":
            trace.say(trace.loaded(device.name))
            trace.say(trace.chosen(passed_over(options)))
        return struct
    except BaseException as error:
        if report:
            report(ffi.new("char[]", message(error).encode()))
        else:
            sys.stderr.write(f"teflon: {message(error)}\n")
        return ffi.NULL


@ffi.def_extern()
def teflon_destroy(delegate: Any) -> None:
    """Forgets a delegate; its kernels are freed with their interpreters."""
    delegates.pop(address(delegate), None)


def compile_partition(graph: Graph, delegate: Delegate) -> Session:
    """Compiles a partition, or loads it from the cache; raises DelegateError."""
    if delegate.verbose:
        trace.say(trace.compiling(graph))
    start = time.perf_counter()
    session = Session(graph, delegate.options)
    if delegate.verbose:
        trace.say(trace.compiled(time.perf_counter() - start, session.from_cache, session.cache_note))
    return session


def previewed(context: Any, accepted: Sequence[int]) -> list[tuple[tuple[int, ...], ...]]:
    """(nodes, inputs, outputs) of the partitions that TFLite would make of the accepted nodes."""
    nodes = ffi.new("TfLiteIntArray *", (len(accepted), accepted))
    partitions, count = ffi.new("TfLiteDelegateParams **"), ffi.new("int *")
    if context.PreviewDelegatePartitioning(context, nodes, partitions, count):
        raise DelegateError("the interpreter does not tell how it would partition the graph")
    parts = []
    for i in range(count[0]):
        params = partitions[0][i]
        parts.append(
            tuple(int_array(a) for a in (params.nodes_to_replace, params.input_tensors, params.output_tensors))
        )
    return parts


def compile_accepted(context: Any, delegate: Delegate, graph: Graph, accepted: list[int]) -> list[int]:
    """Compiles what TFLite would make of the accepted nodes, before it is asked to; the nodes that can be claimed.

    A partition that does not compile although all rules hold is a fault of ours: it is left to the CPU, with a line.
    """
    while accepted:
        refused: set[int] = set()
        for nodes, inputs, outputs in previewed(context, accepted):
            if (address(context), nodes) in delegate.compiled:
                continue
            part = partition_graph(graph, nodes, inputs, outputs)
            try:
                session = compile_partition(part, delegate)
            except Exception as error:
                if isinstance(error, DelegateError) and not isinstance(error, CompileError):
                    raise  # of the device: no other partition would fare better
                trace.say(trace.left_to_cpu(nodes, message(error)))
                refused |= set(nodes)
            else:
                delegate.compiled[address(context), nodes] = Kernel(session, part, delegate)
        if not refused:
            break
        accepted = [node for node in accepted if node not in refused]
    return accepted


def forget_compiled(context: Any, delegate: Delegate) -> None:
    """Closes the kernels that a context compiled and did not take."""
    for key in [key for key in delegate.compiled if key[0] == address(context)]:
        delegate.compiled.pop(key).session.close()


def release_tensors(context: Any, pointer: Any) -> None:
    """Takes the delegate's name off the tensors of partitions that TFLite has undone.

    It does so after a change of shapes where another delegate needs it. TFLite leaves the name there, and refuses to
    give such a tensor to another delegate (ai-edge-litert 2.3: XNNPACK).
    """
    for index in range(int(context.tensors_size)):
        if context.tensors[index].delegate == pointer:
            context.tensors[index].delegate = ffi.NULL


@ffi.def_extern(error=ERROR)
def teflon_delegate_prepare(context: Any, pointer: Any) -> int:
    """Partitions the interpreter's graph; on an error the graph stays as it was."""
    try:
        delegate = delegates[address(pointer)]
        release_tensors(context, pointer)
        graph = read_context(ffi, context)
        target = target_of(delegate.options)
        reasons = verdicts(graph, target, delegate.options.selection)
        if delegate.verbose:
            trace.say(trace.support_table(graph.nodes, reasons))
        accepted = [node.index for node in graph.nodes if not reasons[node.index]]
        if not accepted:
            return OK
        try:
            accepted = compile_accepted(context, delegate, graph, accepted)
            nodes = ffi.new("TfLiteIntArray *", (len(accepted), accepted))
            return int(lib.teflon_claim(context, nodes, pointer)) if accepted else OK
        finally:
            forget_compiled(context, delegate)
    except BaseException as error:
        return failed(context, error)


@ffi.def_extern(error=ffi.NULL)
def teflon_init(context: Any, params: Any) -> Any:
    """The kernel of a partition, as the number that TFLite passes on; NULL after a report."""
    try:
        delegate = delegates[address(params.delegate)]
        kernel = delegate.compiled.pop((address(context), int_array(params.nodes_to_replace)))
        number = next(numbers)
        kernels[number] = kernel
        return ffi.cast("void *", number)
    except BaseException as error:
        failed(context, error)
        return ffi.NULL


@ffi.def_extern()
def teflon_free(user_data: Any) -> None:
    """Gives a kernel's memory and device back."""
    kernel = kernels.pop(address(user_data), None)
    if kernel is not None:
        try:
            kernel.session.close()
        except Exception as error:
            trace.say(f"teflon: {message(error)}\n")


def kernel_of(node: Any) -> Kernel:
    """The kernel of a node; raises DelegateError where init has failed."""
    try:
        return kernels[address(node.user_data)]
    except KeyError:
        raise DelegateError("this partition has no kernel") from None


def compile_anew(context: Any, kernel: Kernel) -> None:
    """Compiles a kernel's partition for the shapes that its tensors have now; raises DelegateError.

    A claimed node cannot go back to the CPU.
    """
    graph = with_shapes(kernel.graph, lambda index: int_array(context.tensors[index].dims))
    target = target_of(kernel.delegate.options)
    for node in graph.nodes:
        for reason in refusals(node, graph, target):
            raise CompileError(f"node {node.index} {node.op} of the new shapes: {reason}; {RELOAD}")
    session = compile_partition(graph, kernel.delegate)
    kernel.session.close()
    kernel.session, kernel.graph, kernel.views = session, graph, {}


@ffi.def_extern(error=ERROR)
def teflon_prepare(context: Any, node: Any) -> int:
    """Compiles a kernel anew if its shapes are not those that it was compiled for."""
    try:
        kernel = kernel_of(node)
        border = (*kernel.graph.inputs, *kernel.graph.outputs)
        if any(int_array(context.tensors[i].dims) != kernel.graph.tensors[i].shape for i in border):
            compile_anew(context, kernel)
        return OK
    except BaseException as error:
        return failed(context, error)


def arrays(context: Any, kernel: Kernel, indices: Sequence[int]) -> list[Array]:
    """The interpreter's memory of some tensors, as arrays; views of the last invoke are used where nothing moved."""
    found = []
    for index in indices:
        tensor = context.tensors[index]
        place = address(tensor.data)
        known = kernel.views.get(index)
        if known is None or known[0] != place:
            described = kernel.graph.tensors[index]
            array = view(ffi, tensor, described.dtype, described.shape)
            if array is None:
                raise DelegateError(f"tensor {index} has no memory for {described.dtype} {described.shape}")
            known = kernel.views[index] = (place, array)
        found.append(known[1])
    return found


@ffi.def_extern(error=ERROR)
def teflon_invoke(context: Any, node: Any) -> int:
    """Runs a partition on the interpreter's memory."""
    try:
        kernel = kernel_of(node)
        start = time.perf_counter()
        kernel.session.invoke(
            arrays(context, kernel, kernel.graph.inputs), arrays(context, kernel, kernel.graph.outputs)
        )
        if kernel.delegate.verbose:
            trace.say(trace.invoked(time.perf_counter() - start))
        return OK
    except BaseException as error:
        return failed(context, error)
