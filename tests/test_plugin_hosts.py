"""The library in processes of all kinds: C programs, a Python that is linked statically, one of another version.

Never two interpreters in a process, never a crash; who cannot be served gets an error that says why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import pythons
import tflite_writer
from chosen import bare_environment
from test_plugin import two_convolutions

import delegate
from benchmarks import harness

HERE = Path(__file__).resolve().parent
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
SITE_PACKAGES = sysconfig.get_path("purelib")
LIBPYTHON = Path(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var("INSTSONAME") or "none")
# Nothing of the tests' own environment, where a host would find the packages without looking for them.
CLEAN = bare_environment("PYTHON", "VIRTUAL")


def run(command: Sequence[object], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    variables = {**CLEAN, **(environment or {})}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=variables, cwd="/", timeout=120)


def assert_clean_end(result: subprocess.CompletedProcess[str]) -> None:
    """Not by a signal (status below 0), and not with a traceback."""
    assert result.returncode >= 0, result
    assert "Traceback" not in result.stderr
    assert "Fatal" not in result.stderr


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C program, compiled."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    program = tmp_path_factory.mktemp("host") / "host"
    headers = delegate.library_path().parent
    source = HERE / "host" / "host.c"
    command = [compiler, "-O1", "-Wall", "-Wextra", "-Werror", f"-I{headers}", source, "-o", program, "-ldl"]
    subprocess.run([str(word) for word in command], check=True)
    return program


def with_libpython(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a C program that can load a libpython of the tests' version; skips where there is none."""
    if not LIBPYTHON.is_file():
        pytest.skip(f"this Python has no shared library ({LIBPYTHON})")
    return {"VIRTUAL_ENV": sys.prefix, "TEFLON_CACHE_DIR": "off", **(environment or {})}


def test_a_c_program_runs_a_convolution(host: Path) -> None:
    result = run([host, delegate.library_path()], with_libpython())
    assert (result.returncode, result.stdout, result.stderr) == (0, "right, with 1 libpython\n", "")


def test_a_c_program_may_make_many_delegates(host: Path) -> None:
    result = run([host, delegate.library_path()], with_libpython({"HOST_TIMES": "50"}))
    assert (result.returncode, result.stdout, result.stderr) == (0, "right, with 1 libpython\n", "")


def test_a_link_to_the_library_works(host: Path, tmp_path: Path) -> None:
    link = tmp_path / "libother.so"
    link.symlink_to(delegate.library_path())
    assert run([host, link], with_libpython()).stdout == "right, with 1 libpython\n"


def test_a_copy_of_the_library_alone_is_an_error(host: Path, tmp_path: Path) -> None:
    copy = shutil.copy(delegate.library_path(), tmp_path)
    result = run([host, copy], with_libpython())
    assert_clean_end(result)
    assert result.returncode == 3
    assert f"teflon: libteflon.so was built for Python {VERSION}" in result.stderr


def test_a_python_that_the_program_keeps_to_itself_is_used(host: Path) -> None:
    """No second interpreter, though the first one's symbols are not visible to the process."""
    result = run([host, delegate.library_path()], with_libpython({"HOST_PYTHON": str(LIBPYTHON)}))
    assert (result.returncode, result.stdout, result.stderr) == (0, "right, with 1 libpython\n", "")


@pytest.mark.parametrize(("reports", "prefix"), [({}, "teflon: "), ({"HOST_REPORTS": "1"}, "reported: ")])
def test_a_c_program_gets_errors(host: Path, reports: dict[str, str], prefix: str) -> None:
    """By its function, or on stderr if it gave none."""
    result = run([host, delegate.library_path(), "colour=red"], with_libpython(reports))
    assert_clean_end(result)
    assert result.returncode == 3
    assert result.stderr.startswith(f"{prefix}option 'colour' is unknown; valid options: ")


def test_a_c_program_without_libpython_gets_an_error(host: Path) -> None:
    result = run([host, delegate.library_path()], {"TEFLON_LIBPYTHON": "/nowhere/libpython.so"})
    assert_clean_end(result)
    assert result.returncode == 3
    assert "this program has no Python" in result.stderr
    assert "/nowhere/libpython.so" in result.stderr
    assert "set TEFLON_LIBPYTHON" in result.stderr


def test_a_c_program_whose_python_cannot_start_gets_an_error(host: Path, tmp_path: Path) -> None:
    """PYTHONHOME without a standard library would end the program, if Python were asked in the usual way."""
    result = run([host, delegate.library_path()], with_libpython({"PYTHONHOME": str(tmp_path)}))
    assert result.returncode == 3
    assert "teflon: Python cannot be started in this program: " in result.stderr


def test_a_c_program_without_the_packages_gets_an_error(host: Path, tmp_path: Path) -> None:
    """The package's folder copied to where nothing is beside it, and no site-packages."""
    package = shutil.copytree(delegate.library_path().parent, tmp_path / "delegate")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nsys.path[:] = [p for p in sys.path if '-packages' not in p]\n"
    )
    environment = with_libpython({"PYTHONPATH": str(tmp_path), "VIRTUAL_ENV": str(tmp_path)})
    result = run([host, Path(package) / "libteflon.so"], environment)
    assert_clean_end(result)
    assert result.returncode == 3
    assert "has no package numpy, cffi, platformdirs" in result.stderr
    assert "set VIRTUAL_ENV or PYTHONPATH" in result.stderr


WITH_CTYPES = """
import ctypes, sys
library = ctypes.PyDLL(sys.argv[1])
create = library.tflite_plugin_create_delegate
create.restype = ctypes.c_void_p
report = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(lambda text: print("reported:", text.decode()))
made = create(None, None, 0, report)
print("made" if made else "none", sum("libpython" in line for line in open("/proc/self/maps")))
if made:
    library.tflite_plugin_destroy_delegate(ctypes.c_void_p(made))
"""

WITH_RUNTIME = """
import sys
from tflite_runtime.interpreter import Interpreter, load_delegate
loaded = load_delegate(sys.argv[1], {"cache_dir": "off"})
made = Interpreter(sys.argv[2], experimental_delegates=[loaded])
made.allocate_tensors()
made.invoke()
print(made.get_tensor(made.get_output_details()[0]["index"]).shape)
print(sum("libpython" in line for line in open("/proc/self/maps")))
"""


def is_static(python: str) -> bool:
    """Whether a Python has itself inside, and of the tests' version."""
    code = "import sys, sysconfig; print(*sys.version_info[:2], sep='.'); print(sysconfig.get_config_var('LDLIBRARY'))"
    result = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    dynamic = subprocess.run(["ldd", os.path.realpath(python)], capture_output=True, text=True, check=False).stdout
    return result.stdout.startswith(f"{VERSION}\n") and "libpython" not in dynamic


@pytest.fixture(scope="module")
def static_python() -> str:
    """Debian's, which is linked statically."""
    python = f"/usr/bin/python{VERSION}"
    if not os.path.exists(python) or not is_static(python):
        pytest.skip(f"{python} is not there, or not linked statically")
    return python


def test_a_static_python_makes_a_delegate(static_python: str) -> None:
    """With ctypes alone; the packages are found in $VIRTUAL_ENV."""
    command = [static_python, "-c", WITH_CTYPES, delegate.library_path()]
    result = run(command, {"VIRTUAL_ENV": sys.prefix})
    assert (result.returncode, result.stdout, result.stderr) == (0, "made 0\n", "")


def test_a_static_python_without_the_packages_gets_an_error(static_python: str, tmp_path: Path) -> None:
    package = shutil.copytree(delegate.library_path().parent, tmp_path / "delegate")
    result = run([static_python, "-S", "-c", WITH_CTYPES, Path(package) / "libteflon.so"])
    assert_clean_end(result)
    assert "has no package numpy, cffi, platformdirs; install it there" in result.stdout
    assert result.stdout.endswith("none 0\n")


def test_a_static_python_runs_a_model(static_python: str, tmp_path: Path) -> None:
    if harness.runtime().__name__ != "tflite_runtime.interpreter":
        pytest.skip("tflite-runtime is not installed")
    model = tmp_path / "model.tflite"
    model.write_bytes(tflite_writer.write(two_convolutions()))
    command = [static_python, "-c", WITH_RUNTIME, delegate.library_path(), model]
    result = run(command, {"PYTHONPATH": SITE_PACKAGES})
    assert (result.returncode, result.stdout, result.stderr) == (0, "(1, 4, 4, 4)\n0\n", "")


def other_python() -> str:
    """A Python of another version than the library's; skips if there is none."""
    for version in ("3.13", "3.12", "3.11", "3.10"):
        python = None if version == VERSION else pythons.find(version)
        if python is not None:
            return python
    pytest.skip(f"there is no Python beside {VERSION}")


def test_another_python_gets_an_error_with_both_versions() -> None:
    python = other_python()
    result = run([python, "-c", WITH_CTYPES, delegate.library_path()])
    assert_clean_end(result)
    code = "import sys; print(*sys.version_info[:2], sep='.')"
    version = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    expected = f"libteflon.so was built for Python {VERSION}; this process runs Python {version}"
    assert result.stdout.startswith(f"reported: {expected}")
    assert "\nnone " in result.stdout


def test_another_package_of_that_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "delegate.py").write_text("")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import delegate\n{WITH_CTYPES}"
    result = run([sys.executable, "-c", program, delegate.library_path()])
    assert_clean_end(result)
    assert "but this program has imported a package delegate from" in result.stdout


def test_a_package_of_that_name_that_is_not_imported_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "delegate.py").write_text("raise SystemExit('wrong one')")
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{WITH_CTYPES}"
    result = run([sys.executable, "-c", program, delegate.library_path()])
    assert result.stdout.startswith("made "), result


def test_many_threads_may_be_the_first(tmp_path: Path) -> None:
    """With the GIL (PyDLL) and without (CDLL): the start neither happens twice nor locks up."""
    program = """
import ctypes, sys, threading
made = []
def work(kind):
    library = kind(sys.argv[1])
    library.tflite_plugin_create_delegate.restype = ctypes.c_void_p
    barrier.wait()
    made.append(library.tflite_plugin_create_delegate(None, None, 0, None))
barrier = threading.Barrier(8)
threads = [threading.Thread(target=work, args=((ctypes.PyDLL, ctypes.CDLL)[i % 2],)) for i in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
print(len(made), len(set(made)), all(made))
"""
    result = run([sys.executable, "-c", program, delegate.library_path()])
    assert (result.returncode, result.stdout, result.stderr) == (0, "8 8 True\n", "")
