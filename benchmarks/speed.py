"""How long compiling, starting and running take: medians of several processes, with TFLite's own kernels beside them.

A repetition is two processes with one cache folder: the first finds it empty (cold), the second finds what the first
stored (cached). Each process loads the delegate, makes an interpreter, runs a first inference and then more (steady),
and measures TFLite's reference kernels and XNNPACK in between, so that ratios come from one machine in one state.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # lets this file run as a script

from benchmarks import harness
from delegate.errors import DelegateError

EXAMPLES = """examples:
  python benchmarks/speed.py                                   MobileNetV1 1.0/224 of ../shared/models
  python benchmarks/speed.py a.tflite b.tflite --repeat 5
  python benchmarks/speed.py --json > speed.json
"""

DEFAULT_MODEL = harness.SHARED / "models" / "mobilenet_v1_1.0_224_quant.tflite"

# Key of a measurement: title in the table. All are milliseconds.
COLUMNS = {
    "load": "load library",
    "cold": "prepare, cold",
    "cached": "prepare, cached",
    "first": "first inference",
    "steady": "inference",
    "reference": "TFLite reference",
    "xnnpack": "TFLite XNNPACK",
}
RATIOS = {
    "steady/reference": ("steady", "reference"),
    "steady/xnnpack": ("steady", "xnnpack"),
    "cached/cold": ("cached", "cold"),
}


def milliseconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call took, and its result."""
    start = time.perf_counter()
    result = call()
    return 1000 * (time.perf_counter() - start), result


def steady(interpreter: Any, runs: int) -> float:
    """The median time of invoke() in milliseconds, each on other inputs; a first call, not counted, goes before."""
    rng = np.random.default_rng(0)
    interpreter.invoke()
    times = []
    for _ in range(runs):
        for detail, values in zip(
            interpreter.get_input_details(), harness.random_inputs(interpreter, rng), strict=True
        ):
            interpreter.set_tensor(detail["index"], values)
        times.append(milliseconds(interpreter.invoke)[0])
    return statistics.median(times)


def work(arguments: argparse.Namespace) -> int:
    """The worker: measures one model in this process and prints JSON as the last line of stdout."""
    import delegate

    content = arguments.models[0].read_bytes()
    options = {"device": arguments.device, "cache_dir": arguments.cache_dir}
    try:
        load, _ = milliseconds(lambda: delegate.load(**options))
        prepare, npu = milliseconds(lambda: harness.npu_interpreter(content, **options))
        inputs = harness.random_inputs(npu, np.random.default_rng(0))
        first, _ = milliseconds(lambda: harness.infer(npu, inputs))
        reference = harness.reference_interpreter(content)
        xnnpack = harness.xnnpack_interpreter(content, arguments.threads)
        times = {
            "load": load,
            "prepare": prepare,
            "first": first,
            "xnnpack": steady(xnnpack, arguments.runs),
            "reference": steady(reference, min(arguments.runs, 3)),
            "steady": steady(npu, arguments.runs),
        }
    except (RuntimeError, ValueError, OSError, DelegateError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(times))
    return 0


def process(model: Path, cache: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One worker's times in milliseconds; raises RuntimeError with its last line if it failed."""
    command = [sys.executable, __file__, "--worker", str(model), "--cache-dir", cache, "--device", arguments.device]
    command += ["--runs", str(arguments.runs), "--threads", str(arguments.threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no result after {arguments.timeout} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"ended with status {done.returncode}")
    times: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return times


def measure(model: Path, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """All measurements of a model: for each key of COLUMNS the values of the repetitions."""
    samples: dict[str, list[float]] = {key: [] for key in COLUMNS}
    for number in range(arguments.repeat):
        print(f"{model.stem}: {number + 1} of {arguments.repeat}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="teflon-speed-") as cache:
            for prepare in ("cold", "cached"):
                times = process(model, cache, arguments)
                samples[prepare].append(times.pop("prepare"))
                for key, value in times.items():
                    samples[key].append(value)
    return samples


def summary(samples: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, smallest and largest values, and ratios of medians."""
    medians = {key: statistics.median(values) for key, values in samples.items()}
    return {
        "median_ms": medians,
        "smallest_ms": {key: min(values) for key, values in samples.items()},
        "largest_ms": {key: max(values) for key, values in samples.items()},
        "ratios": {name: medians[above] / medians[below] for name, (above, below) in RATIOS.items()},
    }


def table(name: str, result: dict[str, Any]) -> str:
    """A model's lines for the terminal."""
    lines = [name, f"  {'':<20} {'median':>10} {'smallest':>10} {'largest':>10}  ms"]
    for key, title in COLUMNS.items():
        values = [result[kind][key] for kind in ("median_ms", "smallest_ms", "largest_ms")]
        lines.append(f"  {title:<20} " + " ".join(f"{value:>10.2f}" for value in values))
    ratios = ", ".join(f"{ratio} {value:.3g}" for ratio, value in result["ratios"].items())
    return "\n".join([*lines, f"  ratios: {ratios}"])


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "runtime": harness.runtime().__name__,
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="*", type=Path, default=[DEFAULT_MODEL], help=".tflite files")
    parser.add_argument("--repeat", type=int, default=3, help="pairs of processes for each model (default 3)")
    parser.add_argument("--runs", type=int, default=10, help="steady inferences in each process (default 10)")
    cores = os.cpu_count() or 1  # as many as numpy's BLAS takes, so that the ratio compares like with like
    parser.add_argument("--threads", type=int, default=cores, help=f"threads of XNNPACK (default {cores}, all cores)")
    parser.add_argument("--device", default="simulator", help="device of the delegate (default simulator)")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one process (default 600)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--cache-dir", default="off", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures all models; status 1 if one could not be measured."""
    arguments = parse(argv)
    if arguments.worker:
        return work(arguments)
    missing = [str(path) for path in arguments.models if not path.is_file()]
    if missing or min(arguments.repeat, arguments.runs) < 1:
        what = f"no such file: {', '.join(missing)}" if missing else "--repeat and --runs must be at least 1"
        print(f"speed: {what}", file=sys.stderr)
        return 2
    results: dict[str, Any] = {}
    failed = False
    for model in arguments.models:
        try:
            results[model.stem] = summary(measure(model, arguments))
        except RuntimeError as error:
            print(f"speed: {model.name}: {error}", file=sys.stderr)
            failed = True
            continue
        if not arguments.json:
            print(table(model.stem, results[model.stem]), flush=True)
    if arguments.json:
        print(json.dumps({"machine": machine(), "models": results}, indent=2))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
