"""How near the NPU comes to TFLite's reference kernels: a table of exact shares and largest differences.

Each model runs in a process of its own, once on the reference kernels (no XNNPACK) and once with the delegate, on the
same seeded random inputs and, where the input is a picture, on the pictures beside the models. Which nodes the NPU
took, and why not the others, is read from the delegate's own trace.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # lets this file run as a script

from benchmarks import harness
from delegate.errors import DelegateError

EXAMPLES = """examples:
  python benchmarks/accuracy.py                                      all models of ../shared/models
  python benchmarks/accuracy.py ../shared/models/mesa-tests          a folder
  python benchmarks/accuracy.py ../shared/models/sweep.zip           a zip archive
  python benchmarks/accuracy.py model.tflite --runs 10 --csv out.csv
  python benchmarks/accuracy.py model.tflite -o unproven=never        with an option of the delegate
"""

# A row of the trace's table of support: index, type, version, support, tensors, then activation and (reasons).
SUPPORT_ROW = re.compile(r"^\s*\d+ (\S+)\s+v\d+\s+(supported|unsupported)\s+in:(.*)$")
REASONS = re.compile(r" out:(?: -| \d+\([^)]*\))*(?: \w+)?(?: \((.*)\))?$")
HEADER = (
    f"{'model':<48} {'output':<14} {'NPU':>7} {'elements':>9} {'exact %':>9} {'within 1 %':>10} {'max':>4} {'s':>6}"
)


@dataclass(frozen=True)
class Comparison:
    """One output tensor over all inputs. Differences are in steps of the output's type."""

    tensor: str
    elements: int
    exact: int  # elements that are equal
    within_one: int  # elements that differ by 1 at most
    largest: int


@dataclass(frozen=True)
class Result:
    """One model."""

    name: str
    error: str = ""  # what went wrong, one line
    refused: str = ""  # why TFLite itself does not run the model, one line
    nodes: int = 0
    npu_nodes: int = 0
    reasons: tuple[str, ...] = ()  # one for each node that stays on the CPU
    seconds: float = 0.0
    outputs: tuple[Comparison, ...] = field(default=())

    @property
    def largest(self) -> int:
        """The largest difference of all outputs."""
        return max((output.largest for output in self.outputs), default=0)


def steps(expected: harness.Array, got: harness.Array) -> harness.Array:
    """|difference| in steps, int64; a float tensor's step is a 255th of its range."""
    if np.issubdtype(expected.dtype, np.integer):
        return np.asarray(np.abs(expected.astype(np.int64) - got.astype(np.int64)))
    step = max(float(np.ptp(expected)) / 255, 1e-12)
    return np.asarray(np.ceil(np.abs(expected - got) / step), np.int64)


def make_inputs(reference: Any, runs: int, seed: int, pictures: Path | None) -> list[list[harness.Array]]:
    """Random inputs, then the pictures of the folder that the model takes."""
    rng = np.random.default_rng(seed)
    inputs = [harness.random_inputs(reference, rng) for _ in range(runs)]
    if pictures is not None:
        filled = [
            harness.picture_inputs(reference, path)
            for path in map(pictures.joinpath, harness.PICTURES)
            if path.exists()
        ]
        inputs += [arrays for arrays in filled if arrays is not None]
    return inputs


def compare(reference: Any, npu: Any, inputs: Sequence[Sequence[harness.Array]]) -> list[Comparison]:
    """Runs two interpreters of one model; one comparison for each output."""
    details = reference.get_output_details()
    counts = np.zeros((len(details), 4), np.int64)  # elements, exact, within one, largest
    for arrays in inputs:
        for row, expected, got in zip(
            counts, harness.infer(reference, arrays), harness.infer(npu, arrays), strict=True
        ):
            difference = steps(expected, got)
            row[:3] += difference.size, int((difference == 0).sum()), int((difference <= 1).sum())
            row[3] = max(row[3], difference.max(initial=0))
    return [
        Comparison("x".join(str(n) for n in detail["shape"]), *(int(n) for n in row))
        for detail, row in zip(details, counts, strict=True)
    ]


def parse_support(trace: str) -> tuple[int, int, tuple[str, ...]]:
    """(nodes, nodes on the NPU, "TYPE: reason" of each other) from the delegate's verbose trace."""
    nodes = npu_nodes = 0
    reasons = []
    for row in filter(None, map(SUPPORT_ROW.match, trace.splitlines())):
        nodes += 1
        if row[2] == "supported":
            npu_nodes += 1
        else:
            found = REASONS.search(row[3])
            reasons.append(f"{row[1]}: {found[1] if found and found[1] else 'no reason given'}")
    return nodes, npu_nodes, tuple(reasons)


def failure(process: subprocess.CompletedProcess[str]) -> str:
    """What ended a worker, one line."""
    lines = [line for line in process.stderr.splitlines() if line.strip()]
    if process.returncode < 0:
        return f"crashed with {signal.Signals(-process.returncode).name}"
    return lines[-1].strip() if lines else f"ended with status {process.returncode}"


def measure(model: harness.ModelFile, arguments: argparse.Namespace) -> Result:
    """Runs the worker for one model and reads its answer."""
    command = [sys.executable, __file__, "--worker", "--runs", str(arguments.runs), "--seed", str(arguments.seed)]
    command += ["--device", arguments.device, str(model.path), "--member", model.member]
    command += [f"--option={option}" for option in arguments.option]
    start = time.monotonic()
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=arguments.timeout, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return Result(model.name, f"no result after {arguments.timeout} s", seconds=arguments.timeout)
    seconds = time.monotonic() - start
    nodes, npu_nodes, reasons = parse_support(process.stderr)
    if process.returncode != 0:
        return Result(model.name, failure(process), "", nodes, npu_nodes, reasons, seconds)
    answer = json.loads(process.stdout.splitlines()[-1])
    outputs = tuple(Comparison(**fields) for fields in answer.get("outputs", ()))
    return Result(model.name, "", answer.get("refused", ""), nodes, npu_nodes, reasons, seconds, outputs)


def one_line(error: Exception) -> str:
    """The first line of an error's message, with its type."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def work(arguments: argparse.Namespace) -> int:
    """The worker: compares one model and prints JSON as the last line of stdout."""
    model = harness.ModelFile(arguments.models[0], arguments.member)
    pictures = None if model.member or model.path.parent.name == "mesa-tests" else model.path.parent
    try:
        reference = harness.reference_interpreter(model.read())
        inputs = make_inputs(reference, arguments.runs, arguments.seed, pictures)
        harness.infer(reference, inputs[0])
    except (RuntimeError, ValueError, OSError) as error:
        print(json.dumps({"refused": one_line(error)}))
        return 0
    try:
        given = dict(option.partition("=")[::2] for option in arguments.option)
        options = {"device": arguments.device, "cache_dir": "off", **given, "debug": "verbose"}
        npu = harness.npu_interpreter(model.read(), **options)
        comparisons = compare(reference, npu, inputs)
    except (RuntimeError, ValueError, OSError, DelegateError) as error:
        print(one_line(error), file=sys.stderr)
        return 1
    print(json.dumps({"outputs": [vars(comparison) for comparison in comparisons]}))
    return 0


def rows(result: Result) -> list[str]:
    """A model's lines of the table."""
    npu = f"{result.npu_nodes}/{result.nodes}" if result.nodes else "?"
    if result.error or result.refused:
        message = result.error or f"TFLite does not run it: {result.refused}"
        return [f"{result.name:<48} {'-':<14} {npu:>7} {message}"]
    lines = []
    for output in result.outputs:
        exact, near = (100 * count / output.elements for count in (output.exact, output.within_one))
        lines.append(
            f"{result.name:<48} {output.tensor:<14} {npu:>7} {output.elements:>9} {exact:>9.4f} {near:>10.4f} "
            f"{output.largest:>4} {result.seconds:>6.1f}"
        )
    return lines


def share(results: Sequence[Result], title: str) -> str:
    """One line of totals over some models."""
    outputs = [output for result in results for output in result.outputs]
    elements = sum(output.elements for output in outputs)
    if not elements:
        return f"{title}: none"
    exact, near = (sum(getattr(output, key) for output in outputs) / elements for key in ("exact", "within_one"))
    good = sum(result.largest <= 1 for result in results)
    return (
        f"{title}: {len(results)} models, {good} within 1 everywhere; {elements} elements, {100 * exact:.4f} % exact, "
        f"{100 * near:.4f} % within 1, largest difference {max(result.largest for result in results)}"
    )


def totals(results: Sequence[Result]) -> list[str]:
    """The lines below the table."""
    ran = [result for result in results if result.outputs]
    whole = [result for result in ran if result.npu_nodes == result.nodes]
    single = [result for result in whole if result.nodes == 1]
    some = [result for result in ran if 0 < result.npu_nodes < result.nodes]
    lines = [
        share(single, "one layer, on the NPU"),
        share([result for result in whole if result.nodes > 1], "several layers, all on the NPU"),
        share(some, "partly on the NPU"),
        f"nothing on the NPU: {sum(result.npu_nodes == 0 for result in ran)} models",
        f"not run by TFLite itself: {sum(bool(result.refused) for result in results)} models",
        f"failed: {sum(bool(result.error) for result in results)} models",
    ]
    nodes = Counter(reason for result in results for reason in result.reasons)
    models = Counter(reason for result in results for reason in set(result.reasons))
    lines += ["", "stays on the CPU (nodes, models, reason):"] if nodes else []
    return lines + [f"{count:>6} {models[reason]:>5}  {reason}" for reason, count in nodes.most_common()]


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """One row for each output tensor, or one for a model that failed."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["model", "nodes", "npu_nodes", "output", "elements", "exact", "within_one", "largest", "seconds", "error"]
        )
        for result in results:
            head: list[Any] = [result.name, result.nodes, result.npu_nodes]
            for output in result.outputs or (Comparison("", 0, 0, 0, 0),):
                writer.writerow(
                    [*head, *vars(output).values(), f"{result.seconds:.2f}", result.error or result.refused]
                )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = [harness.SHARED / "models"]
    parser.add_argument("models", nargs="*", type=Path, default=default, help=".tflite files, folders, zip archives")
    parser.add_argument("--runs", type=int, default=2, help="random inputs for each model (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random inputs (default 0)")
    parser.add_argument("--device", default="simulator", help="device of the delegate (default simulator)")
    parser.add_argument(
        *("-o", "--option"),
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the delegate, repeatable",
    )
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one model (default 300)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table to a file")
    parser.add_argument(
        "--max-difference", type=int, metavar="STEPS", help="exit with status 1 if an output of a model differs by more"
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--member", default="", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs all models; status 1 if one crashed, timed out or differs by more than was allowed."""
    arguments = parse(argv)
    if arguments.worker:
        return work(arguments)
    missing = [str(path) for path in arguments.models if not path.exists()]
    if missing:
        print(f"accuracy: no such file or folder: {', '.join(missing)}", file=sys.stderr)
        return 2
    models = list(harness.model_files(arguments.models))
    if not models:
        print(f"accuracy: no models in {', '.join(map(str, arguments.models))}", file=sys.stderr)
        return 2
    print(HEADER)
    results = []
    for number, model in enumerate(models, 1):
        if sys.stderr.isatty():
            print(f"\r[{number}/{len(models)}] {model.name:<60}\r", end="", file=sys.stderr, flush=True)
        results.append(measure(model, arguments))
        print("\n".join(rows(results[-1])), flush=True)
    print("", *totals(results), sep="\n")
    if arguments.csv:
        write_csv(arguments.csv, results)
    limit = arguments.max_difference
    return int(any(result.error or (limit is not None and result.largest > limit) for result in results))


if __name__ == "__main__":
    sys.exit(main())
