"""An open NPU stack for Rockchip SoCs: a TFLite delegate, its compiler, drivers and a register-level simulator."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from delegate.errors import DelegateError

__all__ = ["DelegateError", "library_path", "load"]

# Runtimes that have load_delegate, in order of preference.
RUNTIMES = ("tflite_runtime.interpreter", "ai_edge_litert.interpreter")


def library_path() -> Path:
    """The delegate's shared library; raises DelegateError when it is not built."""
    path = Path(__file__).resolve().parent / "libteflon.so"
    if not path.exists():
        raise DelegateError(f"{path} is not built; run `make`, or install the package")
    return path


def interpreter_module() -> Any:
    """The module with Interpreter and load_delegate: the one in use, else the first that is installed.

    Raises DelegateError when there is none.
    """
    for name in RUNTIMES:
        if name in sys.modules:
            return sys.modules[name]
    for name in RUNTIMES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise DelegateError("no TFLite runtime is installed; install tflite-runtime (Python 3.11) or ai-edge-litert")


def load(**options: object) -> Any:
    """The loaded delegate, for ``Interpreter(path, experimental_delegates=[delegate.load()])``.

    ``options`` are those of ``delegate.options``. Raises DelegateError for one that is wrong.
    """
    path = str(library_path())
    try:
        return interpreter_module().load_delegate(path, {name: str(value) for name, value in options.items()})
    except ValueError as error:
        raise DelegateError(str(error).rpartition("\n")[2]) from error  # the runtime puts a line of its own before ours
