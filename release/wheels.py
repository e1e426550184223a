"""Builds the wheels for x86-64 and aarch64 and tries the latter on an emulated board.

The compiler is Zig's, from PyPI, for both architectures: it brings the headers and stubs of the glibc that the wheels
are for, so that no package of a distribution is needed. Python's headers are this Python's: on 64-bit Linux, CPython's
differ between the two architectures in nothing that the library uses.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from delegate.errors import DelegateError
from release import board

ROOT = board.ROOT
MACHINES = ("x86_64", "aarch64")
GLIBC = "2.28"  # Debian 10's; RK3588's vendor images have 2.31 and newer
SOURCES = ("delegate", "models", "pyproject.toml", "setup.py", "README.md", "LICENSE")
EXAMPLES = """examples:
  make wheels                                   both, and the trial on the emulated board
  python -m release.wheels --machine aarch64    one
  python -m release.wheels --no-trial           without the trial, which downloads 100 MB the first time
"""
# Classifies the embedded model's test picture on the device of argv[1]; prints the answer and the raw output.
TRIAL = """
import sys, numpy, delegate
from PIL import Image
from delegate.tools import registry
from ai_edge_litert.interpreter import Interpreter, load_delegate
library = str(delegate.library_path())
made = load_delegate(library, {"device": sys.argv[1], "cache_dir": "off"})
folder = registry.models_folder()
interpreter = Interpreter(str(next(folder.glob("*.tflite"))), experimental_delegates=[made])
interpreter.allocate_tensors()
given, = interpreter.get_input_details()
picture = Image.open(sorted((folder / "images").glob("*.jpg"))[0]).convert("RGB").resize(given["shape"][2:0:-1])
pixels = numpy.asarray(picture, numpy.float32)
if given["shape"][3] == 1:
    pixels = pixels.mean(axis=2, keepdims=True)
pixels -= 128 if given["dtype"] == numpy.int8 else 0
interpreter.set_tensor(given["index"], pixels.astype(given["dtype"]).reshape(given["shape"]))
interpreter.invoke()
answer = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
print("answer", answer.argmax(), answer.tobytes().hex())
"""


def build(machine: str, target: Path) -> Path:
    """Builds one wheel into ``target``; raises DelegateError with the compiler's words."""
    tag = f"manylinux_{GLIBC.replace('.', '_')}_{machine}"
    compiler = f"{sys.executable} -m ziglang cc -target {machine}-linux-gnu.{GLIBC} -s"
    environment = {**os.environ, "CC": compiler, "TEFLON_PORTABLE": "1"}
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:  # setuptools leaves its traces where it builds
        for name in SOURCES:
            source = ROOT / name
            if source.is_dir():
                skipped = shutil.ignore_patterns("*.so", "__pycache__")
                shutil.copytree(source, Path(scratch) / name, ignore=skipped)
            elif source.exists():
                shutil.copy(source, scratch)
        command = [sys.executable, "setup.py", "-q", "bdist_wheel", "--plat-name", tag, "--dist-dir", str(target)]
        result = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
        if result.returncode:
            raise DelegateError(f"the wheel for {machine} cannot be built:\n{result.stderr.strip()[-2000:]}")
    return max(target.glob(f"*{tag}.whl"), key=lambda path: path.stat().st_mtime)


def unpack(wheel: Path, folder: Path) -> Path:
    """Installs a wheel's files into an empty folder, as pip would on its machine; returns the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def try_on_board(wheel: Path) -> dict[str, str]:
    """Classifies a picture with the wheel under qemu: with the simulator inside the delegate, and with both drivers on
    the wheel's stand-in. Returns the answers by device; raises DelegateError if one fails."""
    emulated = board.prepare()
    site = unpack(wheel, emulated.folder / "wheel")
    library = site / "delegate/hw/shim/libteflon-shim.so"
    command = {
        device: emulated.python(["-P", "-c", TRIAL, device], {"PYTHONPATH": site})
        for device in ("simulator", "rocket", "rknpu")
    }
    answers = {}
    for device, words in command.items():
        if device != "simulator":
            words = emulated.on_stand_in(words, library, ["--nodes", device])
        lines = board.quietly(words).splitlines()
        answers[device] = next(line for line in lines if line.startswith("answer "))
        print(f"aarch64, device={device}: class {answers[device].split()[1]}", file=sys.stderr, flush=True)
    if len(set(answers.values())) > 1:
        raise DelegateError(f"the devices' answers differ: {answers}")
    return answers


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="release.wheels",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--machine", choices=MACHINES, help="only this one")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder for the wheels (dist)")
    parser.add_argument("--no-trial", action="store_true", help="do not try the aarch64 wheel under qemu")
    given = parser.parse_args(arguments)
    try:
        for machine in [given.machine] if given.machine else MACHINES:
            wheel = build(machine, given.out)
            print(wheel)
            if machine == "aarch64" and not given.no_trial:
                if shutil.which("qemu-aarch64"):
                    try_on_board(wheel)
                else:
                    print("not tried: qemu-aarch64 is missing; `apt-get install qemu-user`", file=sys.stderr)
    except DelegateError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
