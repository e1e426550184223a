"""The page docs/probe.md: every open question, with its candidates and what tells them apart, or why nothing does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from delegate.errors import DelegateError
from delegate.hw.questions import PROBED, Question
from delegate.hw.soc import FORMS
from delegate.hw.unprobed import UNPROBED

INTRODUCTION = """\
# Open questions about the silicon

What the compiler or the simulator relies on without proof on an RK3588; printed by
`python -m delegate probe --list -o docs/probe.md`. Sources are as in [hardware.md](hardware.md) and the decision on
[contradictions](decisions/0006-contradictions.md); how all this works: [decision 0014](decisions/0014-probe.md).

You have a board? `python -m delegate probe` runs a program or a few for each question, tells the candidates apart by
what they write, and saves a capability file, which the compiler then goes by and which you can send.
"""
PROBED_HEAD = """\
## Questions with a probe

The first candidate is the one that is assumed, and the simulator's default; the others are its switches
(`delegate/hw/sim/options.py`). A form that is not proven is used only if all its questions are answered as assumed.
Questions marked *risky* may hang a core: they run last, in a process of their own, and only with `--risky`. Those
marked *chained* can be asked only where the kernel hands chains of tasks to the NPU (`rknpu`). On those marked *always*
the compiler relies whatever the answer is; a board that answers otherwise is news.
"""
UNPROBED_HEAD = "## Questions without a probe"


def write_page(output: Path | None) -> None:
    """Prints the page, or writes it to a file; raises DelegateError."""
    text = page()
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise DelegateError(f"{output}: {error.strerror}") from None


def page() -> str:
    """The whole page."""
    return "\n".join(lines()) + "\n"


def lines() -> Iterator[str]:
    yield INTRODUCTION
    yield PROBED_HEAD
    for question in PROBED:
        yield from section(question)
    yield UNPROBED_HEAD + "\n"
    yield "| question | source | why |"
    yield "| --- | --- | --- |"
    for one in UNPROBED:
        yield f"| `{one.name}`: {one.text} | {one.source} | {one.why} |"
    yield "\n## Forms\n"
    yield "| form | questions |"
    yield "| --- | --- |"
    for form in FORMS:
        about = ", ".join(f"`{question.name}`" for question in PROBED if form in question.forms)
        yield f"| {form} | {about} |"


def section(question: Question) -> Iterator[str]:
    """A question with its candidates."""
    marks = " *(risky)*" * question.risky + " *(chained)*" * question.chained + " *(always)*" * question.always
    yield f"### `{question.name}`{marks}\n"
    yield f"{question.text} Source: {question.source}. Probe: {question.probe}.\n"
    yield "| candidate | what it does |"
    yield "| --- | --- |"
    for name, text in question.candidates.items():
        yield f"| {name} | {text} |"
    yield ""
