"""XNNPACK's 8-bit kernels beside ours: the yardstick of drift. In a process of its own, for some models end it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import delegate
from delegate.errors import DelegateError
from delegate.ir import Array
from delegate.tools.accuracy.models import allocated, infer, xnnpack_interpreter

SIGNED_8_BITS, UNSIGNED_8_BITS = 1, 2  # flags of XNNPACK's delegate


class XnnpackOptions(ctypes.Structure):
    """The options of XNNPACK's delegate as far as they are the same in all versions, and room for what follows."""

    _fields_ = (("threads", ctypes.c_int32), ("flags", ctypes.c_uint32), ("others", ctypes.c_byte * 248))


class Xnnpack:
    """XNNPACK's delegate for 8-bit operators, which some builds of TFLite leave off by default."""

    def __init__(self, library: ctypes.CDLL) -> None:
        library.TfLiteXNNPackDelegateOptionsDefault.restype = XnnpackOptions
        library.TfLiteXNNPackDelegateCreate.restype = ctypes.c_void_p
        library.TfLiteXNNPackDelegateDelete.argtypes = (ctypes.c_void_p,)
        options = library.TfLiteXNNPackDelegateOptionsDefault()
        options.flags |= SIGNED_8_BITS | UNSIGNED_8_BITS
        self._pointer = library.TfLiteXNNPackDelegateCreate(ctypes.byref(options))
        self._delete = library.TfLiteXNNPackDelegateDelete

    def _get_native_delegate_pointer(self) -> int:
        """What the interpreter asks a delegate for."""
        return int(self._pointer)

    def __del__(self) -> None:
        self._delete(self._pointer)


def quantized_xnnpack_interpreter(content: bytes) -> Any:
    """TFLite with XNNPACK where that takes a node, 8-bit operators included; tensors allocated.

    A runtime that does not show XNNPACK's delegate comes with what it has by default.
    """
    module = delegate.interpreter_module()
    library = ctypes.CDLL(module._interpreter_wrapper.__file__)
    if not hasattr(library, "TfLiteXNNPackDelegateCreate"):
        return xnnpack_interpreter(content)
    return allocated(
        module.Interpreter(
            model_content=content,
            experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_delegates=[Xnnpack(library)],
        )
    )


def outputs_here(content: bytes, nodes: int, inputs: Sequence[Sequence[Array]]) -> list[Array] | None:
    """The first output for each of several inputs; None where XNNPACK takes none of the model's ``nodes``."""
    interpreter = quantized_xnnpack_interpreter(content)
    if len(interpreter._get_ops_details()) == nodes:
        return None
    return [infer(interpreter, arrays)[0] for arrays in inputs]


def hush() -> None:
    """Keeps what native code prints off the terminal."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class Peer:
    """The other process, started when it is needed and again where a model ended it."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def outputs(self, content: bytes, nodes: int, inputs: Sequence[Sequence[Array]]) -> list[Array] | str:
        """As ``outputs_here``, or why there are none."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=hush)
        try:
            found = self._pool.submit(outputs_here, content, nodes, inputs).result()
        except BrokenProcessPool:
            self.close()
            return "XNNPACK crashes"
        except (RuntimeError, ValueError, DelegateError) as error:
            return f"XNNPACK fails: {error}"
        return "XNNPACK takes no operator" if found is None else found

    def close(self) -> None:
        """Ends the process."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None
