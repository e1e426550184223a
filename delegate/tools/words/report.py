"""The table of ``docs/words.md``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from delegate.errors import DelegateError
from delegate.tools.words.compare import BIAS, WEIGHTS, LayerResult, Verdict
from delegate.tools.words.models import ModelResult, compare_model, model_captures
from delegate.tools.words.observe import Cut
from delegate.tools.words.reasons import REASONS

CONTENTS = (WEIGHTS, BIAS)
COMMAND = "python -m delegate words ../shared/golden -o docs/words.md"
HEAD = f"""# Our words and upstream's

Written by `{COMMAND}`; do not edit. A test compares part of it with a fresh run.

The models in `../shared/golden` were compiled by Mesa's `rocket` driver, whose words were recorded, and here by our
compiler in its converter-only form, which requantizes as upstream does (decision 0007 says what is usual). A layer is
one convolution that both put on the NPU. Each register that either side writes is

* **identical**: the same value, addresses counted from the start of the layer's buffers;
* **deliberate**: different, and both values follow from the layer's shapes and scales by one formula, before and after
  the changes listed under *Reasons* (`delegate/tools/words`);
* **wrong**: anything else. The command ends with status 1 if there is any.

The formulas have to hold for registers that are identical too.
"""


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """A table in Markdown."""
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    yield from ("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
    yield ""


def report(results: Sequence[ModelResult]) -> Iterator[str]:
    """All lines of the document."""
    layers = [layer for result in results for layer in result.layers]
    paired = [layer for layer in layers if layer.is_whole]
    yield HEAD
    yield from totals(results, layers, paired)
    yield "## Registers\n"
    yield from register_table(paired, layers)
    yield "## Reasons\n"
    yield from reason_table(layers)
    yield "## Multipliers\n"
    yield from multiplier_lines(paired)
    yield "## Layers in several tasks\n"
    yield from cut_table(results)
    yield "## Models\n"
    yield from model_table(results)


def totals(
    results: Sequence[ModelResult], layers: Sequence[LayerResult], paired: Sequence[LayerResult]
) -> Iterator[str]:
    states = Counter(verdict.status for layer in layers for verdict in layer.verdicts.values())
    rows: list[list[object]] = [
        ["models", len(results)],
        ["models of which upstream sent nothing", sum(bool(result.note) for result in results)],
        ["layers on both sides", len(layers)],
        ["of these in one task on both sides", len(paired)],
        ["of these in several tasks on either side", len(layers) - len(paired)],
        ["layers with anything wrong", sum(layer.status == "wrong" for layer in layers)],
        ["registers and contents identical", states["identical"]],
        ["registers and contents deliberately different", states["deliberate"]],
        ["registers and contents wrong", states["wrong"]],
        ["layers that only we have", counted(operator for result in results for operator in result.only_ours)],
        ["layers that only upstream has", counted(text for result in results for text in result.only_theirs)],
        ["additions that we fuse, not judged", sum(len(result.fused_by_us) for result in results)],
    ]
    yield from table(("", "count"), rows)


def counted(items: Iterator[str]) -> str:
    counts = Counter(items)
    return "; ".join(f"{count} {item}" for item, count in counts.most_common()) or "0"


def register_table(paired: Sequence[LayerResult], layers: Sequence[LayerResult]) -> Iterator[str]:
    """A row for each register that differs anywhere; the others in a sentence."""
    found: dict[str, list[Verdict]] = {}
    for layer in paired:
        for name, verdict in layer.verdicts.items():
            if name not in CONTENTS:
                found.setdefault(name, []).append(verdict)
    for name in CONTENTS:  # known of layers in several tasks too
        found[name] = [layer.verdicts[name] for layer in layers if name in layer.verdicts]
    equal, rows = [], []
    for name in sorted(found):
        states = Counter(verdict.status for verdict in found[name])
        if states["identical"] == len(found[name]):
            equal.append(f"`{name}`")
            continue
        why = Counter(reason for verdict in found[name] for reason in verdict.reasons)
        causes = ", ".join(f"{reason} {count}" for reason, count in why.most_common())
        rows.append([f"`{name}`", states["identical"], states["deliberate"], states["wrong"], causes])
    yield "Layers in one task on both sides; contents of all layers.\n"
    yield from table(("register", "identical", "deliberate", "wrong", "why (layers)"), rows)
    yield f"Identical in every layer: {', '.join(equal)}.\n"
    for layer in layers:
        for name, verdict in layer.verdicts.items():
            yield from (f"- **wrong**: {layer.title}, `{name}`: {text}" for text in verdict.details)


def reason_table(layers: Sequence[LayerResult]) -> Iterator[str]:
    counts: Counter[str] = Counter()
    for layer in layers:
        counts.update({reason for verdict in layer.verdicts.values() for reason in verdict.reasons})
    rows = [[r.title, counts[r.title], r.text, r.reference] for r in REASONS]
    yield (
        "Applied in this order to the facts of a layer. A layer counts where the reason changed a value; a reason with "
        "0 acts only in layers in several tasks.\n"
    )
    yield from table(("reason", "layers", "ours and upstream's", "source"), rows)


def multiplier_lines(paired: Sequence[LayerResult]) -> Iterator[str]:
    """How far the two output multipliers are apart and from the exact factor."""
    pairs = [layer.multipliers for layer in paired if layer.multipliers is not None]
    if not pairs:
        yield "No layer to compare.\n"
        return
    rows = []
    for number, name in enumerate(("ours", "upstream's")):
        errors = [pair[number] - 1 for pair in pairs]
        mean = sum(errors) / len(errors)
        rows.append([name, f"{min(errors):.2e}", f"{mean:.2e}", f"{max(errors):.2e}"])
    yield f"Relative error of the factor from accumulator to output, {len(pairs)} layers without a fused addition:\n"
    yield from table(("", "least", "mean", "largest"), rows)


def parts(cuts: Sequence[Cut]) -> str:
    """A cut in short: output rows of the tasks, and into how many parts the channels go."""
    first = [str(cut.rows) for cut in cuts if cut.first_channel == cuts[0].first_channel]
    channels = len({cut.first_channel for cut in cuts})
    rows = "+".join(first) if len(set(first)) > 1 and len(first) < 8 else f"{len(first)} x {first[0]}"
    rows = f"{first[0]}" if len(first) == 1 else rows
    banks = f"{cuts[0].banks} banks"
    return f"{rows} rows{f', channels in {channels}' if channels > 1 else ''}, {banks}"


def cut_table(results: Sequence[ModelResult]) -> Iterator[str]:
    """The layers whose tasks cannot be paired."""
    rows = [
        [
            result.name,
            layer.title,
            parts(layer.ours),
            parts(layer.theirs),
            "wrong" if layer.status == "wrong" else "yes",
        ]
        for result in results
        for layer in result.layers
        if not layer.is_whole
    ]
    yield (
        "No register is compared with its counterpart here. But every register of every task on either side has to "
        "follow from how the layer is cut: sizes, paddings, offsets, strides. Our shares of the CBUF have the slack "
        "bank, we balance the rows of tasks, and where it costs less traffic we cut channels instead.\n"
    )
    yield from table(("model", "layer", "our output rows, data banks", "upstream's", "formulas hold"), rows)


def model_table(results: Sequence[ModelResult]) -> Iterator[str]:
    rows = []
    for result in results:
        states = Counter(verdict.status for layer in result.layers for verdict in layer.verdicts.values())
        different = sum(not layer.is_whole for layer in result.layers)
        notes = [result.note] if result.note else []
        if result.only_ours:
            notes.append(f"only ours: {counted(iter(result.only_ours))}")
        if result.only_theirs:
            notes.append(f"only upstream's: {counted(iter(result.only_theirs))}")
        numbers = (states["identical"], states["deliberate"], states["wrong"])
        rows.append([result.name, len(result.layers), different, *numbers, "; ".join(notes)])
    header = ("model", "layers", "in several tasks", "identical", "deliberate", "wrong", "notes")
    yield from table(header, rows)


def write_report(folders: Sequence[Path], output: Path | None) -> bool:
    """Prints or writes the document for the captures in and below some folders; whether nothing is wrong."""
    results = [compare_model(source) for source in model_captures(folders)]
    text = "\n".join(line.rstrip(" ") for line in report(results)).rstrip() + "\n"
    if output is None:
        print(text, end="")
    else:
        try:
            output.write_text(text)
        except OSError as error:
            raise DelegateError(f"{output}: {error.strerror}") from None
    return not any(layer.status == "wrong" for result in results for layer in result.layers)
