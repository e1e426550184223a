"""Builds libteflon.so: loader.c, which TFLite loads, and the cffi embedding for one version of Python beside it; and
the stand-in's preload library.

``python -m delegate.build`` builds them into the package's folder; setup.py does it for wheels. Nothing is linked with
libpython; docs/decisions/0001-two-stage-library.md says why.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from delegate.errors import DelegateError

FOLDER = Path(__file__).resolve().parent
SOURCES = ("loader.c", "embed.c", "tflite_c_api.h", "bootstrap.py", "build.py")

# The callbacks, defined in plugin.py, and the C functions of embed.c that it calls.
CALLBACKS = """
typedef void (*Report)(const char *message);
extern "Python" {
  TfLiteDelegate *teflon_create(char **keys, char **values, size_t count, Report report);
  void teflon_destroy(TfLiteDelegate *);
  TfLiteStatus teflon_delegate_prepare(TfLiteContext *, TfLiteDelegate *);
  void *teflon_init(TfLiteContext *, TfLiteDelegateParams *);
  void teflon_free(void *);
  TfLiteStatus teflon_prepare(TfLiteContext *, TfLiteNode *);
  TfLiteStatus teflon_invoke(TfLiteContext *, TfLiteNode *);
}
static void teflon_interrupt_host(void);
static void teflon_set_prepare(TfLiteDelegate *delegate);
static TfLiteStatus teflon_claim(TfLiteContext *, const TfLiteIntArray *nodes, TfLiteDelegate *);
static void teflon_report(TfLiteContext *, const char *message);
"""


def python_version() -> str:
    """The ABI that the second part is made for, as it stands in its name: "3.11", or "3.13t" without a GIL."""
    return str(sysconfig.get_config_var("LDVERSION") or sysconfig.get_python_version()).rstrip("d")


def library_names() -> tuple[str, str, str]:
    """File names of both parts, and of the stand-in (hw/shim)."""
    return "libteflon.so", f"libteflon-python{python_version()}.so", "hw/shim/libteflon-shim.so"


def c_string(text: str) -> str:
    """A C literal."""
    lines = [line.replace("\\", "\\\\").replace('"', '\\"') for line in text.splitlines()]
    return "\n".join(f'  "{line}\\n"' for line in lines)


def embedding_source(path: Path) -> None:
    """Writes the second part's C source: embed.c and what cffi generates behind it."""
    import cffi

    ffi = cffi.FFI()
    ffi.embedding_api("")
    ffi.cdef((FOLDER / "tflite_c_api.h").read_text())
    ffi.cdef(CALLBACKS)
    ffi.embedding_init_code("")  # embed.c imports delegate.plugin, whose errors it can report
    bootstrap = f"static const char TEFLON_BOOTSTRAP[] =\n{c_string((FOLDER / 'bootstrap.py').read_text())};\n"
    ffi.set_source("_teflon", bootstrap + (FOLDER / "embed.c").read_text())
    with contextlib.redirect_stdout(None):  # cffi says what it generates
        ffi.emit_c_code(str(path))


def compile_library(source: Path, target: Path, arguments: Sequence[str]) -> None:
    """Compiles one C file to a shared library; replaces ``target`` at once, for a process may have it loaded.

    Raises DelegateError with the compiler's words.
    """
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread", "-Wl,-z,nodelete"]
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    command = [*compiler, *flags, "-o", str(partial), str(source), *arguments, "-ldl"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise DelegateError(f"the C compiler {compiler[0]!r} cannot be run: {error.strerror}; install gcc") from error
    if result.returncode:
        partial.unlink(missing_ok=True)
        hint = "; install python3-dev" if "Python.h" in result.stderr else ""
        raise DelegateError(f"{source.name} does not compile{hint}:\n{result.stderr.strip()}")
    sys.stderr.write(result.stderr)
    partial.replace(target)


def build(folder: Path = FOLDER) -> tuple[Path, Path, Path]:
    """Builds both parts and the stand-in into ``folder`` and returns their paths.

    TEFLON_PORTABLE=1: for other machines (release/wheels.py): no path of this machine's libpython in it.
    """
    outer, inner, shim = (folder / name for name in library_names())
    shim.parent.mkdir(parents=True, exist_ok=True)
    portable = os.environ.get("TEFLON_PORTABLE", "") not in ("", "0")
    shared = not portable and sysconfig.get_config_var("Py_ENABLE_SHARED") and sysconfig.get_config_var("INSTSONAME")
    libpython = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib", shared) if shared else ""
    macros = [f'-DTEFLON_PYTHON="{python_version()}"', f'-DTEFLON_LIBPYTHON="{libpython}"']
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "_teflon.c"
        embedding_source(source)
        includes = [f"-I{sysconfig.get_path('include')}", f"-I{sysconfig.get_path('platinclude')}", f"-I{FOLDER}"]
        compile_library(source, inner, [*includes, "-Wno-unused-parameter"])
    compile_library(FOLDER / "loader.c", outer, macros)
    compile_library(FOLDER / "hw" / "shim" / "preload.c", shim, ())
    return outer, inner, shim


if __name__ == "__main__":
    try:
        print(*build(), sep="\n")
    except DelegateError as error:
        sys.exit(f"error: {error}")
