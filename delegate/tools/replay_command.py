"""``python -m delegate replay``: captures run on the simulator, reported operation by operation."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
from rich.console import Console
from rich.progress import Progress

from delegate.errors import DelegateError
from delegate.hw.capture_folder import STREAM
from delegate.hw.device import open_device
from delegate.ir import Array
from delegate.tools.capture import Capture, CaptureError, load
from delegate.tools.captured.cases import CaseResult, judge_case
from delegate.tools.captured.facts import tensors, title
from delegate.tools.captured.model import find_model
from delegate.tools.captured.play import Played, Result, input_position, play, statistics
from delegate.tools.captured.relocate import relocate

FILE_LIMIT = 100_000  # captures of one command
MEMORY_LIMIT = 6 << 30  # bytes that one capture may take
WARNINGS_SHOWN = 3  # of an operation


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    compare: Path | None = None  # model file, or a folder or archive of models
    inputs: tuple[Path, ...] = ()  # .npy, one for each input of the model
    output: Path | None = None  # folder for the results
    base: int | None = None  # I/O address of the lowest buffer, instead of the recorded ones
    timeout: float = 600.0  # seconds for each capture
    device: str | None = None  # where every submit runs too
    judge: bool = False  # compare with the model, searched beside the capture


def replay_files(files: Sequence[Path], request: Request) -> int:
    """Replays captures and prints a report of each; the number of those that failed. Raises DelegateError if none is.

    With one capture an error is raised; with several it is printed, and the next one follows.
    """
    console = Console(soft_wrap=True, highlight=False, markup=False)
    found = [capture for file in files for capture in captures_below(file)]
    failed = 0
    with Progress(console=Console(stderr=True), transient=True, disable=len(found) < 2) as progress:
        for file in progress.track(found, description="replaying"):
            try:
                failed += not report(console, file, request)
            except DelegateError as error:
                if len(found) == 1:
                    raise
                failed += 1
                console.print(f"error: {error}")
    return failed


def parse_address(text: str | None) -> int | None:
    """A number as Python writes it; raises CaptureError."""
    if text is None:
        return None
    try:
        return int(text, 0)
    except ValueError:
        raise CaptureError(f"address {text!r}: a number such as 0x40000000") from None


def captures_below(path: Path) -> list[Path]:
    """The capture files that a path stands for: itself, the one in the folder, or all below the folder."""
    if not path.is_dir():
        return [path]
    if (path / STREAM).is_file():
        return [path / STREAM]
    found = sorted(path.rglob(STREAM))[:FILE_LIMIT]
    if not found:
        raise CaptureError(f"{path}: no {STREAM} in this folder or below")
    return found


def replay_one(file: Path, request: Request) -> tuple[Played, CaseResult | None]:
    """Runs one capture within the time limit; raises DelegateError."""
    with limited(request.timeout, MEMORY_LIMIT, str(file)), malformed(str(file)):
        capture = load(file)
        if request.base is not None:
            capture = relocate(capture, request.base)
        model = find_model(capture, request.compare)
        judged = request.judge or request.compare is not None
        with contextlib.ExitStack() as closing:
            device = None
            if request.device is not None:
                device = open_device(request.device, kernel=capture.uapi)
                closing.callback(device.close)
            played = play(capture, model, read_inputs(capture, request.inputs), judged, device)
        return played, judge_case(played.capture, played.replay) if not played.errors else None


@contextlib.contextmanager
def malformed(what: str) -> Iterator[None]:
    """Tables of a capture that contradict each other end in a CaptureError, wherever that is noticed."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise CaptureError(f"capture {what}: malformed: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def limited(seconds: float, memory: int, what: str) -> Iterator[None]:
    """The body ends in a CaptureError once the time is over or it asks for more bytes. For the main thread."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise CaptureError(f"{what}: not done after {seconds:g} s; --timeout allows more")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limits = resource.getrlimit(resource.RLIMIT_AS)
    wanted = pages * resource.getpagesize() + memory
    soft = min(wanted, *(limit for limit in limits if limit != resource.RLIM_INFINITY), wanted)
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    resource.setrlimit(resource.RLIMIT_AS, (soft, limits[1]))
    try:
        yield
    except MemoryError:
        raise CaptureError(f"{what}: needs more than {memory >> 20} MiB of memory") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def read_inputs(capture: Capture, files: Sequence[Path]) -> list[Array] | None:
    """The arrays for the model's inputs, checked against the capture's tensors; None without files."""
    if not files:
        return None
    wanted = {}
    for tensor in tensors(capture):
        position = input_position(capture, tensor.index) if tensor.from_host else None
        if position is not None:
            wanted[position] = tensor
    if not wanted:
        raise CaptureError(f"{capture.path}: has no inputs that can be fed; a program's are in its buffers")
    arrays = []
    for position, file in enumerate(files):
        try:
            array: Array = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CaptureError(f"input {file} cannot be read: {error}") from None
        expected = wanted.get(position)
        if expected is not None:
            dtype = np.dtype(np.int8 if expected.signed else np.uint8)
            if array.dtype != dtype or array.shape not in (expected.shape, expected.shape[1:]):
                raise CaptureError(f"input {file}: {array.dtype} {array.shape}, needs {dtype} {expected.shape}")
            array = array.reshape(expected.shape)
        arrays.append(array)
    if len(arrays) <= max(wanted):
        raise CaptureError(f"{len(arrays)} inputs are given, the model has {max(wanted) + 1}")
    return arrays


def report(console: Console, file: Path, request: Request) -> bool:
    """Replays a capture, prints what became of it and writes its results; False where something is wrong."""
    played, case = replay_one(file, request)
    console.print(f"{file}")
    console.print(f"  {title(played.capture)}")
    for note in played.notes:
        console.print(f"  note: {note}")
    for result in played.results:
        for line in result_lines(result):
            console.print(f"  {line}")
    if not played.results:
        console.print("  nothing was submitted")
    for line in (*map(str, played.checks), *played.failures):
        console.print(f"  {line}")
    for line in comparison_lines(played):
        console.print(f"  {line}")
    if case is not None:
        console.print(f"  {case_line(case)}")
        for note in case.notes:
            console.print(f"  note: {note}")
    if request.output is not None:
        write_results(played, case, request.output / (file.parent.name if file.name == STREAM else file.stem))
    agreed = all(result.agreement is None or result.agreement.verdict != "unexplained" for result in played.results)
    same = not played.failures and not any(found.different for found in played.checks)
    return agreed and same and (case is None or case.passed)


def result_lines(result: Result) -> Iterator[str]:
    """An operation: tasks, status, agreement, warnings."""
    unit, outcome = result.outcome.unit, result.outcome
    status = "refused" if outcome.errors else "ok"
    what = f"operation {result.name}" if unit.operation is not None else result.name
    line = f"submit {unit.submit}, {what}: {len(unit.jobs)} jobs, {unit.tasks} tasks, {status}"
    agreement = result.agreement
    if agreement is not None:
        line += (
            f"; of {agreement.elements} elements {agreement.sent_equal} as the integer model; beside TFLite on the "
            f"same input {agreement.exact} exact, {agreement.within_one} within 1, largest {agreement.largest}: "
            f"{agreement.verdict}"
        )
    yield line
    if agreement is not None:
        yield from (f"  because: {cause}" for cause in agreement.causes)
    yield from (f"  silicon would stop here: {error}" for error in outcome.errors)
    yield from (f"  warning: {text}" for text in outcome.warnings[:WARNINGS_SHOWN])
    if len(outcome.warnings) > WARNINGS_SHOWN:
        yield f"  and {len(outcome.warnings) - WARNINGS_SHOWN} more warnings"


def comparison_lines(played: Played) -> Iterator[str]:
    """Every written tensor beside TFLite's, from the model's inputs on."""
    if played.reference is None:
        return
    for index, values in sorted(played.tensors.items()):
        wanted = played.reference.get(index)
        if wanted is None or wanted.size != values.size:
            yield f"tensor {index} {values.shape}: TFLite has none of that size"
            continue
        exact, near, largest = statistics(values, wanted)
        yield f"tensor {index} {values.shape}: {exact:.4%} exact, {near:.4%} within 1, largest difference {largest}"


def case_line(case: CaseResult) -> str:
    if not case.judged:
        return f"expected result: cannot be compared; {case.within} of {case.elements} elements would be right"
    bits = {None: "", True: ", bit for bit as the book's formulas", False: ", not bit for bit as the book's formulas"}
    return (
        f"expected result: {'pass' if case.passed else 'FAIL'}: of {case.elements} elements {case.rounded} are right "
        f"to the rounding, {case.within} within the tolerance, largest difference {case.largest:g}"
        f"{bits[case.bit_equal]}"
    )


def write_results(played: Played, case: CaseResult | None, folder: Path) -> None:
    """Writes tensors NHWC, a program's result, or else all buffers, as .npy; raises CaptureError."""
    arrays = {f"tensor{index}": values for index, values in played.tensors.items()}
    if case is not None:
        arrays["result"] = case.result
    elif not arrays:
        arrays = {f"buffer{handle}": values for handle, values in played.replay.buffers.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in arrays.items():
            np.save(folder / f"{name}.npy", values)
    except OSError as error:
        raise CaptureError(f"{folder}: {error.strerror}") from None
