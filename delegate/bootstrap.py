"""Run by embed.c in the host's Python before anything else: finds the packages and imports the plugin.

build.py puts this text into the library. Both functions return None, or one line that says what is wrong. They use the
standard library only, and put nothing before what the host's Python finds by itself.
"""

import importlib.util
import os
import sys

NEEDED = ("numpy", "_cffi_backend", "platformdirs")  # modules the plugin imports


def find_packages(folder: str) -> "str | None":
    """Appends to sys.path where NEEDED are, if the host's Python has not got them. ``folder`` is the package's.

    Looked for in that order: beside the package (it is installed), in $VIRTUAL_ENV, in the .venv beside the package.
    """
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    above = os.path.dirname(folder)
    environments = filter(None, (os.environ.get("VIRTUAL_ENV"), os.path.join(above, ".venv")))
    candidates = [above, *(os.path.join(place, "lib", python, "site-packages") for place in environments)]
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    for candidate in candidates:
        if not missing:
            return None
        if candidate in sys.path or not os.path.isdir(candidate):
            continue
        sys.path.append(candidate)
        importlib.invalidate_caches()
        found = [name for name in missing if importlib.util.find_spec(name) is not None]
        if not found:
            sys.path.remove(candidate)
        missing = [name for name in missing if name not in found]
    if not missing:
        return None
    names = ", ".join("cffi" if name == "_cffi_backend" else name for name in missing)
    return (
        f"Python {sys.version.split()[0]} of this program has no package {names}; install it there, or set VIRTUAL_ENV "
        f"or PYTHONPATH to where it is"
    )


def import_plugin(folder: str) -> "str | None":
    """Imports delegate.plugin out of ``folder``, whatever sys.path says."""
    try:
        package = sys.modules.get("delegate")
        if package is None:
            init = os.path.join(folder, "__init__.py")
            spec = importlib.util.spec_from_file_location("delegate", init, submodule_search_locations=[folder])
            if spec is None or spec.loader is None:
                return f"{init} cannot be imported"
            package = sys.modules["delegate"] = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(package)
            except BaseException:
                del sys.modules["delegate"]
                raise
        used = [os.path.realpath(path) for path in getattr(package, "__path__", [])]
        if os.path.realpath(folder) not in used:
            where = used[0] if used else package
            return f"libteflon.so belongs to {folder}, but this program has imported a package delegate from {where}"
        importlib.import_module("delegate.plugin")
    except Exception as error:
        return f"delegate.plugin cannot be imported: {type(error).__name__}: {error}"
    return None
