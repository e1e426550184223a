"""Who may import whom in delegate/ (design, section 2); a module that is in no layer is an error too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "delegate"

# Layer of a module; a name with a dot at its end stands for all modules of a package.
LAYERS = {
    "errors": "0",
    "builtin_operators": "0",
    "parameters": "0",
    "hw": "0",
    "hw.registers": "0",
    "hw.questions": "0",
    "hw.soc": "0",
    "hw.unprobed": "0",
    "hw.regs.": "0",
    "hw.regcmd": "1",
    "hw.task": "1",
    "hw.native.": "1",
    "hw.layout": "1",
    "quantize": "1",
    "requantize": "1",
    "gains": "1",
    "sums": "1",
    "ir": "1",
    "hw.emit.": "2a",
    "hw.sim.": "2b",
    "hw.shim.": "2b",
    "hw.capabilities": "2b",
    "hw.device": "2b",
    "hw.drm": "2b",
    "hw.rocket": "2b",
    "hw.rknpu": "2b",
    "hw.rknpu_interface": "2b",
    "hw.record": "2b",
    "hw.capture_folder": "2b",
    "hw.timing": "2b",
    "hw.turns": "2b",
    "ops.": "3",
    "bands": "4",
    "chains": "4",
    "cores": "4",
    "cost": "4",
    "exchange": "4",
    "footprint": "4",
    "fuse": "4",
    "place": "4",
    "share": "4",
    "memory": "4",
    "tile": "4",
    "partition": "4",
    "compile": "4",
    "cache": "4",
    "witness": "4",
    "canary": "5",
    "": "5",
    "__main__": "5",
    "bootstrap": "5",
    "build": "5",
    "context": "5",
    "devices": "5",
    "loaded": "5",
    "matmul.": "5",
    "onnx.": "5",
    "product": "5",
    "product_cost": "5",
    "options": "5",
    "plugin": "5",
    "recovery": "5",
    "runtime": "5",
    "tflite": "5",
    "tools.": "5",
    "weights.": "5",
    "trace": "5",
}

# What a layer may import, as layers; then what of that it may not.
MAY_IMPORT = {
    "0": {"0"},
    "1": {"0", "1"},
    "2a": {"0", "1", "2a"},
    "2b": {"0", "1", "2b"},
    "3": {"0", "1", "3"},
    "4": {"0", "1", "2a", "3", "4"},
    "5": {"0", "1", "2a", "2b", "3", "4", "5"},
}
NOT_FOR_DEVICES = {"quantize", "requantize", "gains", "sums", "ir"}
NOT_FOR_SIMULATOR = {"hw.layout"}
NOT_FOR_STAND_IN = {"hw.rocket", "hw.rknpu", "hw.rknpu_interface", "hw.drm", "hw.layout"}  # it plays the kernel
FOR_OPERATORS = {"errors", "ir", "quantize", "requantize", "gains", "sums", "hw.soc", "hw.layout"}  # and ops itself


def module_name(path: Path) -> str:
    """The module's name inside the package: "hw.soc"; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def layer(module: str) -> str | None:
    """The layer of a module; None if nobody gave it one."""
    if module in LAYERS:
        return LAYERS[module]
    packages = [name for name in LAYERS if name.endswith(".") and f"{module}.".startswith(name)]
    return LAYERS[max(packages, key=len)] if packages else None


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of everything of the package that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is relative"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "delegate":
                inner = name.partition(".")[2]
                while inner not in MODULES:  # the name of something in a module
                    inner = inner.rpartition(".")[0]
                yield node.lineno, inner


def is_allowed(module: str, imported: str) -> bool:
    """Whether ``module`` may import ``imported``."""
    own, other = layer(module), layer(imported)
    assert own is not None
    assert other is not None
    if own == "3" and other != "3":
        return imported in FOR_OPERATORS
    if own == "2b" and imported in NOT_FOR_DEVICES:
        return False
    if f"{module}.".startswith("hw.shim.") and imported in NOT_FOR_STAND_IN:
        return False
    if f"{module}.".startswith("hw.sim.") and imported in NOT_FOR_SIMULATOR:
        return False
    return other in MAY_IMPORT[own]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_layer_may(module: str) -> None:
    assert layer(module) is not None, f"delegate.{module} is in no layer; give it one in {Path(__file__).name}"
    wrong = [
        f"{MODULES[module]}:{line} imports delegate.{imported} (layer {layer(imported)})"
        for line, imported in imports(MODULES[module])
        if not is_allowed(module, imported)
    ]
    assert not wrong, f"delegate.{module} is in layer {layer(module)}\n" + "\n".join(wrong)


def test_the_package_imports_nothing_from_around_it() -> None:
    outside = {"tests", "benchmarks", "examples", "release", "classification"}
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not outside & {name.split(".")[0] for name in names}, f"{path}:{getattr(node, 'lineno', 0)}"


@pytest.mark.parametrize(
    ("module", "imported", "allowed"),
    [
        ("hw.sim.cna", "hw.regs.cna", True),
        ("hw.sim.cna", "hw.layout", False),
        ("hw.sim.cna", "ir", False),
        ("hw.sim.cna", "hw.emit.cna", False),
        ("hw.shim.rocket", "hw.rocket", False),
        ("hw.shim.npu", "hw.sim.machine", True),
        ("hw.device", "hw.layout", True),
        ("compile", "hw.sim.device", False),
        ("compile", "hw.emit.cna", True),
        ("ops.add", "hw.task", False),
        ("plugin", "hw.device", True),
    ],
)
def test_the_rules_are_those_of_the_design(module: str, imported: str, allowed: bool) -> None:
    assert is_allowed(module, imported) is allowed
