"""Runs other people's programs on the stand-in: upstream's libteflon.so, mtx512's rk3588-npu, allbilly's rk3588.

The first two are programs for aarch64, run by qemu-user on the userland of board.py; the server and the simulator are
this machine's. A model's outputs are compared with those of TFLite's own kernels in the same process. The third are
scripts for any machine's Python.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from delegate.errors import DelegateError
from release import board

ROOT = board.ROOT
MODELS = ROOT.parent / "shared" / "models"
TIMEOUT = 600  # seconds for a model
EXAMPLES = """examples:
  python -m release.clients                                  upstream's delegate, all models of ../shared/models
  python -m release.clients a.tflite b.tflite --runtime tflite-runtime
  python -m release.clients --rk3588-npu ~/rk3588-npu        a checkout of mtx512/rk3588-npu
  python -m release.clients --rk3588 ~/rk3588                one of allbilly/rk3588
"""
# argv: delegate, runtime, model. Prints a line of JSON for each output.
CLIENT = """
import json, sys, numpy
library, runtime, model = sys.argv[1:]
if runtime == "tflite-runtime":
    from tflite_runtime.interpreter import Interpreter, load_delegate
else:
    from ai_edge_litert.interpreter import Interpreter, load_delegate

def run(delegates):
    interpreter = Interpreter(model, experimental_delegates=delegates, num_threads=1)
    interpreter.allocate_tensors()
    for number, given in enumerate(interpreter.get_input_details()):
        random = numpy.random.default_rng(number).integers(0, 256, given["shape"], numpy.uint8)
        type = given["dtype"]
        values = random.view(type) if type().itemsize == 1 else (random / 255).astype(type)
        interpreter.set_tensor(given["index"], values)
    interpreter.invoke()
    details = interpreter.get_output_details()
    return [(given["name"], interpreter.get_tensor(given["index"])) for given in details]

for (name, expected), (_, found) in zip(run([]), run([load_delegate(library, {})])):
    error = numpy.abs(expected.astype(float) - found)
    print("output " + json.dumps({"name": name, "type": str(expected.dtype), "numbers": expected.size,
          "different": int((error > 0).sum()), "largest": float(error.max()),
          "same_top": bool(expected.argmax() == found.argmax())}))
"""
# mtx512/rk3588-npu: programs of tests/ with arguments, and what each prints when its product is right.
MATMULS = (
    ("matmul_4_36_16", ""),
    *(("matmul_fp16", shape) for shape in ("1 32 16", "4 32 16", "384 384 4096")),
    *(("matmul_int8", shape) for shape in ("1 32 32", "1 1024 1024")),
    ("matmul_fp16_fp16", "1 768 768"),
)
# allbilly/rk3588: scripts of examples/ with arguments; each prints PASS or FAIL for each of its cases.
SCRIPTS = (
    "simple_add.py",
    "gemm.py",
    "elementwise.py",
    "conv_simple.py b1_c32_h14_w14_oc128_wic32_k3x3_g1_s1_pvalid",
    "conv_simple.py conv2d_b1_c4_h9_w9_oc4_wic4_k3x3_g1",
    "kernel_6_18/simple_add.py",
)


def run(command: Sequence[str], folder: Path | None = None) -> tuple[int, str, str]:
    """(status, stdout, stderr); a signal as a negative status."""
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, cwd=folder, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"no end after {TIMEOUT} s"
    return result.returncode, result.stdout, result.stderr


def ending(status: int, said: str) -> str:
    """Why a program ended without an answer."""
    words = [line for line in said.splitlines() if "rror" in line or "signal" in line or "no end" in line]
    return words[-1].strip() if words else f"status {status}"


def stand_in_log(path: Path) -> str:
    """What the server did for the model: submits, and what it said about them."""
    lines = path.read_text().splitlines() if path.exists() else []
    said = [line.partition("# ")[2] for line in lines if " # " in line]
    return f"{sum(' SUBMIT ' in line for line in lines)} submits" + "".join(f"; {text}" for text in said[:3])


def try_model(emulated: board.Board, library: Path, model: Path, runtime: str) -> Iterator[tuple[str, ...]]:
    """Rows of the table for a model, one an output."""
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "log"
        words = emulated.python(["-P", "-c", CLIENT, emulated.mesa, runtime, model])
        status, out, said = run(emulated.on_stand_in(words, library, ["--nodes", "rocket", "--log", str(log)]))
        outputs = [json.loads(line[7:]) for line in out.splitlines() if line.startswith("output ")]
        for found in outputs:
            numbers = (f"{found['different']} of {found['numbers']}", f"{found['largest']:g}")
            yield model.stem, found["type"], *numbers, "yes" if found["same_top"] else "no", stand_in_log(log)
        if not outputs or status:
            yield model.stem, "", "", "", "", f"{ending(status, said)} after {stand_in_log(log)}"


def matmuls(emulated: board.Board, library: Path, source: Path, scratch: Path) -> Iterator[tuple[str, ...]]:
    """Builds and runs the programs of a checkout of mtx512/rk3588-npu."""
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu", "-O2", "-w", "-D_GNU_SOURCE"]
    (scratch / "libdrm").symlink_to(emulated.root / "usr/include/libdrm")  # without that glibc's headers
    headers = [f"-I{path}" for path in (source / "include", scratch, scratch / "libdrm")]
    for name, shape in MATMULS:
        program = scratch / name
        files = [source / "tests" / f"{name}.c", *sorted((source / "src").glob("*.c"))]
        if not program.exists():
            board.quietly([*compiler, *headers, "-o", program, *files, "-lm"])
        words = emulated.on_stand_in(emulated.command([program, *shape.split()]), library, ["--nodes", "rknpu"])
        status, out, said = run(words)
        lines = [line.strip() for line in out.splitlines() if re.search(r"\w", line)]
        wrong = [line for line in lines if "mismatch" in line]
        shown = ending(status, said) if status or not lines else (wrong or lines)[-1]
        yield f"{name} {shape}".strip(), shown


def scripts(source: Path) -> Iterator[tuple[str, ...]]:
    """Runs scripts of a checkout of allbilly/rk3588 with this Python."""
    for script in SCRIPTS:
        words = [sys.executable, "-m", "delegate", "shim", "--", sys.executable, *script.split()]
        status, out, said = run(words, source / "examples")
        counts = Counter(re.findall(r"\b(PASS|FAIL)\b", out))
        yield script, f"{counts['PASS']}", f"{counts['FAIL']}", ending(status, said) if status else "ok"


def shim_for_aarch64(folder: Path) -> Path:
    """The stand-in's library, compiled by Zig."""
    target = folder / "libteflon-shim.so"
    source = ROOT / "delegate" / "hw" / "shim" / "preload.c"
    flags = ["-target", "aarch64-linux-gnu.2.28", "-shared", "-fPIC", "-O2", "-fvisibility=hidden"]
    board.quietly([sys.executable, "-m", "ziglang", "cc", *flags, "-o", target, source, "-ldl"])
    return target


def table(head: Sequence[str], rows: Iterator[tuple[str, ...]]) -> None:
    """Prints a table in Markdown, row by row."""
    print("", f"| {' | '.join(head)} |", "|" + " --- |" * len(head), sep="\n")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="release.clients",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="*", type=Path, help="for upstream's delegate (all of ../shared/models)")
    parser.add_argument("--runtime", choices=("ai-edge-litert", "tflite-runtime"), default="ai-edge-litert")
    parser.add_argument("--rk3588-npu", type=Path, metavar="FOLDER", help="a checkout of mtx512/rk3588-npu")
    parser.add_argument("--rk3588", type=Path, metavar="FOLDER", help="a checkout of allbilly/rk3588")
    given = parser.parse_args(arguments)
    everything = [*sorted(MODELS.glob("*.tflite")), *sorted(MODELS.glob("*/*.tflite"))]
    models = given.models or ([] if given.rk3588_npu or given.rk3588 else everything)
    if given.rk3588:
        table(("script", "PASS", "FAIL", "end"), scripts(given.rk3588.resolve()))
    if models or given.rk3588_npu:
        on_board(models, given.runtime, given.rk3588_npu)


def on_board(models: Sequence[Path], runtime: str, matmul_source: Path | None) -> None:
    """The tables of the programs for aarch64; ends the process with a line if the userland cannot be had."""
    scratch = Path(tempfile.mkdtemp())
    try:
        emulated = board.prepare()
        library = shim_for_aarch64(scratch)
        if models:
            head = ("model", "type", "numbers that differ", "by at most", "same largest", "stand-in")
            table(head, (row for model in models for row in try_model(emulated, library, model, runtime)))
        if matmul_source:
            table(("program", "last line"), matmuls(emulated, library, matmul_source, scratch))
    except DelegateError as error:
        sys.exit(f"error: {error}")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
