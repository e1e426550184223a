"""`python -m delegate probe`: asks all questions on a device, shows the answers and writes the capability file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from delegate.errors import DeviceError, OptionError
from delegate.hw.capabilities import SIMULATOR, STAND_IN, Capabilities, Result, board_model, default_path, save
from delegate.hw.device import Device, Kernel, open_device
from delegate.hw.questions import PROBED, QUESTIONS, Question
from delegate.hw.soc import FORMS
from delegate.tools.probe import places
from delegate.tools.probe.child import ask_apart
from delegate.tools.probe.judge import Finding
from delegate.tools.probe.probes import PROBES
from delegate.tools.probe.rig import Rig

NOT_ASKED = "not asked"
NONE_OF_THEM = "none of them"
NO_ANSWER = "no answer"
ATTEMPTS = 3  # of the convolution that shows whether a core has recovered


@dataclass(frozen=True)
class Request:
    """What the command line says. ``like``: a capability file that the simulator behaves as."""

    device: str = "auto"
    kernel: Kernel = "rocket"
    output: Path | None = None
    risky: bool = False
    only: tuple[str, ...] = ()
    like: str | None = None


def chosen(request: Request) -> list[Question]:
    """The questions to ask, those that may hang a core last; raises OptionError for a name that is none of them."""
    for name in request.only:
        if name not in QUESTIONS:
            raise OptionError(f"question {name!r} is unknown; `python -m delegate probe --list` lists them")
        if QUESTIONS[name].risky and not request.risky:
            raise OptionError(f"question {name} may hang a core of the NPU until it is reset: add --risky to ask it")
    wanted = [question for question in PROBED if not request.only or question.name in request.only]
    return sorted((one for one in wanted if request.risky or not one.risky), key=lambda one: one.risky)


@contextmanager
def opened(request: Request) -> Iterator[Device]:
    """The device."""
    device = open_device(request.device, 1, request.kernel, request.like)
    try:
        yield device
    finally:
        device.close()


def kernel_of(device: Device) -> str:
    """Whose manner of starting tasks a device has."""
    return str(getattr(device, "kernel", device.name))


def check(device: Device) -> None:
    """Raises DeviceError unless the device computes a plain convolution, without which no answer means anything."""
    with Rig(device) as rig:
        finding = places.plain().ask(rig)
    if finding.verdict is None:
        why = finding.note or "its output is wrong"
        raise DeviceError(f"device {device.name} does not compute a plain convolution: {why}; see `delegate doctor`")


def recovers(device: Device) -> bool:
    """Whether a device computes again after a program that may have hung a core."""
    for _ in range(ATTEMPTS):
        try:
            check(device)
            return True
        except DeviceError:
            continue
    return False


def ask(name: str, device: Device) -> Finding:
    """The answer to a question, asked again if a job was not done: mainline drops some silently (S-208c).

    Raises DeviceError if the device is gone.
    """
    with Rig(device) as rig:
        finding = PROBES[name]().ask(rig)
        return PROBES[name]().ask(rig) if None in finding.observed else finding


def probe(request: Request, console: Console, keep: Callable[[Capabilities], object]) -> Capabilities:
    """Asks the questions and returns what was found; raises DelegateError where nothing can be asked.

    ``keep`` is given what is known before each question that may hang the board.
    """
    questions = chosen(request)
    results: dict[str, Result] = {}
    with opened(request) as device, Progress(console=console, transient=True) as progress:
        check(device)
        bar = progress.add_task("", total=len(questions))
        found = describe(device)
        for question in questions:
            progress.update(bar, description=question.name)
            progress.advance(bar)
            if question.chained and kernel_of(device) != "rknpu":
                continue
            if question.risky:
                keep(found)
            finding = ask_question(question, request, device)
            results[question.name] = Result(finding.verdict, finding.observed, finding.note)
            found = replace(found, results=dict(results))
            if (question.risky or None in finding.observed) and not recovers(device):
                console.print(f"after {question.name} the NPU computes no convolution any more: restart the board")
                break
    return found


def ask_question(question: Question, request: Request, device: Device) -> Finding:
    """A risky one in a process of its own, so that whatever becomes of it this one goes on."""
    if question.risky:
        return ask_apart(question.name, device.name, request.kernel, request.like)
    return ask(question.name, device)


def describe(device: Device) -> Capabilities:
    """Who answers, so far without answers."""
    node = getattr(device, "node", None)
    return Capabilities(
        device=device.name,
        driver=f"{device.name} {getattr(node, 'version', None) or kernel_of(device)}",
        kernel=os.uname().release,
        board=board_model(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        tool=metadata.version("teflon-rknpu"),
        results={},
    )


def target_file(request: Request, found: Capabilities) -> Path | None:
    """Where the file goes; None for what is no whole picture of a board, unless the user names a place."""
    if request.output is not None:
        return request.output
    return None if request.only or found.device == SIMULATOR else default_path(found.device, found.board)


def run_probe(request: Request) -> None:
    """The command: progress, a table of answers, the file."""
    console = Console(stderr=True)

    def keep(known: Capabilities) -> Path | None:
        path = target_file(request, known)
        if path is not None:
            save(known, path)
        return path

    found = probe(request, console, keep)
    path = keep(found)
    print_answers(chosen(request), found, request.kernel if found.device == SIMULATOR else found.device)
    for line in notes(found, path):
        Console().print(escape(line), highlight=False, soft_wrap=True)


def print_answers(questions: Sequence[Question], found: Capabilities, kernel: str) -> None:
    """A line a question; ``kernel``: who starts the tasks."""
    table = Table(title=escape(f"{found.driver} on {found.board}"), title_justify="left", box=SIMPLE_HEAD)
    table.add_column("question", no_wrap=True)
    table.add_column("answer", no_wrap=True)
    table.add_column("as assumed")
    table.add_column("", overflow="fold")
    for question in questions:
        result = found.results.get(question.name)
        answer, fits = said(question, result, kernel)
        style = None if fits == "yes" or result is None else "yellow"
        table.add_row(question.name, escape(answer), fits, escape(result.note if result else ""), style=style)
    Console().print(table)


def said(question: Question, result: Result | None, kernel: str) -> tuple[str, str]:
    """(answer, whether it is the assumed one)."""
    if result is None:
        return NOT_ASKED, ""
    if result.verdict is None:
        return (NONE_OF_THEM if any(output is not None for output in result.observed) else NO_ANSWER), "no"
    return result.verdict, "yes" if result.verdict == question.assumed_with(kernel) else "no"


def notes(found: Capabilities, path: Path | None) -> Iterator[str]:
    """What follows from the answers."""
    allowed = found.forms
    yield f"unproven forms that may be used: {len(allowed)} of {len(FORMS)}"
    for form in FORMS:
        if form not in allowed:
            yield f"not allowed: {form} ({'; '.join(doubts(form, found.verdicts))})"
    for question in PROBED:
        if question.always and found.verdicts.get(question.name, question.assumed) != question.assumed:
            yield f"the compiler relies on another answer to {question.name}: results may be wrong; please report it"
    if path is None:
        yield "not saved; -o FILE saves the answers"
        return
    yield f"saved in {path}"
    if found.device != SIMULATOR and found.board != STAND_IN:
        yield "please send this file to the project: it settles these questions for everybody"
    if found.device != SIMULATOR and path != default_path(found.device, found.board):
        yield f"to use it: TEFLON_CAPABILITIES={path}, or the option capabilities"


def doubts(form: str, verdicts: Mapping[str, str | None]) -> list[str]:
    """The questions about a form that are not answered as assumed, with the answers."""
    return [
        f"{one.name}: {verdicts[one.name] or 'another answer' if one.name in verdicts else NOT_ASKED}"
        for one in PROBED
        if form in one.forms and verdicts.get(one.name) != one.assumed
    ]
