"""The command: models in, report out."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from delegate.errors import DelegateError, ModelError
from delegate.options import CACHE_OFF, parse
from delegate.tools.accuracy import report
from delegate.tools.accuracy.inputs import Request
from delegate.tools.accuracy.measure import ModelResult, measure
from delegate.tools.accuracy.models import ModelFile, model_files
from delegate.tools.accuracy.xnnpack import Peer

NARROW = 160  # columns that the tables take where the output is no terminal


@dataclass(frozen=True)
class Output:
    """Where the report goes, besides the terminal."""

    file: Path | None = None
    json: bool = False
    markdown: bool = False


def report_accuracy(paths: Sequence[Path], request: Request, options: dict[str, str], output: Output) -> bool:
    """Measures all models and writes the report; whether any ran and all are hardware-exact. Raises DelegateError."""
    if output.json and output.markdown:
        raise DelegateError("--json and --markdown exclude each other")
    options = {"cache_dir": CACHE_OFF, "debug": "off", **options}
    parse(options, {})
    models = list(model_files(paths))
    if not models:
        raise ModelError(f"no models in {', '.join(map(str, paths))}")
    results = measure_all(models, request, options)
    text = written(results, output)
    if text is None or output.file is not None:
        show(results)
    if text is not None and output.file is None:
        sys.stdout.write(text)
    elif text is not None and output.file is not None:
        try:
            output.file.write_text(text)
        except OSError as error:
            raise DelegateError(f"{output.file}: {error.strerror}") from error
    return not any(result.failed for result in results) and bool(report.ran(results))


def measure_all(models: Sequence[ModelFile], request: Request, options: dict[str, str]) -> list[ModelResult]:
    """One after the other; progress on stderr."""
    columns = (TextColumn("[{task.completed}/{task.total}] {task.description}"), TimeElapsedColumn())
    results: list[ModelResult] = []
    peer = Peer()
    with closing(peer), Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(models))
        for model in models:

            def say(step: str, model: ModelFile = model) -> None:
                progress.update(task, description=f"{model.name}: {step}")

            say("reading")
            results.append(measure(model, request, options, say, peer))
            progress.advance(task)
    return results


def written(results: Sequence[ModelResult], output: Output) -> str | None:
    """The report as a file has it; None where only the terminal was asked for."""
    command = " ".join(["python -m delegate", *sys.argv[1:]])
    if output.json:
        return json.dumps(report.as_json(results, command), indent=2) + "\n"
    if output.markdown or output.file is not None:
        return report.markdown(results, command)
    return None


def show(results: Sequence[ModelResult]) -> None:
    """Tables and sentences on the terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=NARROW)
    for sheet in report.sheets(results):
        console.print(report.rich_table(sheet))
    for line in report.lines_of(results):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
