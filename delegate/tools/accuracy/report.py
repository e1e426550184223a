"""The report of ``python -m delegate accuracy``: one description of its tables, printed by rich or as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from delegate.hw.soc import FORMS
from delegate.tools.accuracy.causes import Cause, merged
from delegate.tools.accuracy.counts import Difference, total
from delegate.tools.accuracy.measure import LayerResult, ModelResult

NOTHING = "-"


@dataclass(frozen=True)
class Sheet:
    """A table; the first ``texts`` columns are words, the others numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1


def percent(part: int, whole: int) -> str:
    """A share that is 100 only if it is all."""
    if not whole:
        return NOTHING
    return "100" if part == whole else f"{min(100 * part / whole, 99.9999):.4f}"


def counted(found: Difference | None) -> tuple[str, str, str]:
    """Share exact, share within 1, largest difference."""
    if found is None or not found.elements:
        return (NOTHING,) * 3
    return percent(found.exact, found.elements), percent(found.within_one, found.elements), str(found.maximum)


def drifted(found: Difference | None) -> str:
    """Mean and largest difference in quanta."""
    return NOTHING if found is None or not found.elements else f"{found.mean:.4f} / {found.maximum}"


def size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "1"


def form(layer: LayerResult) -> str:
    """By which register programs a layer is done."""
    if not layer.npu:
        return NOTHING
    if layer.forms:
        return f"unproven {', '.join(str(FORMS.index(name) + 1) for name in layer.forms)}"
    return "no work" if layer.alias else "proven"


def legend(results: Iterable[ModelResult]) -> Iterator[str]:
    """The unproven forms that were used, a line each."""
    used = {name for result in results for layer in result.layers for name in layer.forms}
    for number, name in enumerate(FORMS, 1):
        if name in used:
            yield f"unproven {number}: {name}"


def layer_sheet(result: ModelResult) -> Sheet:
    """A row for each layer of a model."""
    header = ("node", "operator", "output", "on", "form", "hardware-exact %")
    isolated = ("alone: exact %", "within 1 %", "max")
    in_place = ("in place: exact %", "within 1 %", "max")
    rows = [
        (
            "+".join(map(str, layer.nodes)),
            layer.operator,
            size(layer.shape),
            "NPU" if layer.npu else "CPU",
            form(layer),
            percent(layer.hardware.exact, layer.hardware.elements),
            *counted(layer.isolated),
            *counted(layer.in_place),
        )
        for layer in result.layers
    ]
    return Sheet(result.name, (*header, *isolated, *in_place), tuple(rows), texts=5)


def summary_sheet(results: Sequence[ModelResult]) -> Sheet:
    """A row for each model that ran."""
    header = ("model", "NPU nodes in partitions", "inputs", "hardware-exact %")
    layers = ("layers alone: exact %", "within 1 %", "max")
    outputs = ("outputs: exact %", "within 1 %", "max", "top-1")
    last = ("drift, mean / max", "XNNPACK's drift")
    rows = [
        (
            result.name,
            f"{result.npu_nodes}/{result.nodes} in {result.partitions}",
            str(len(result.inputs)),
            percent(result.hardware.exact, result.hardware.elements),
            *counted(result.isolated),
            *counted(result.outputs),
            NOTHING if result.top1 is None else f"{result.top1[0]} of {result.top1[1]}",
            drifted(result.drift),
            result.xnnpack_note.removeprefix("XNNPACK ") if result.xnnpack_note else drifted(result.xnnpack_drift),
        )
        for result in ran(results)
    ]
    return Sheet("models", (*header, *layers, *outputs, *last), tuple(rows))


def totals_sheet(results: Sequence[ModelResult]) -> Sheet:
    """A row for each folder or archive of models, and one for what is in neither."""
    families: dict[str, list[ModelResult]] = {}
    for result in ran(results):
        families.setdefault(result.name.rpartition("/")[0] or "others", []).append(result)
    header = ("models", "count", "wholly on the NPU", "elements", "hardware-exact %")
    isolated = ("layers alone: exact %", "within 1 %", "max")
    outputs = ("outputs: exact %", "within 1 %", "max")
    rows = []
    for family, members in families.items():
        hardware = total(member.hardware for member in members)
        rows.append(
            (
                family,
                str(len(members)),
                str(sum(member.npu_nodes == member.nodes for member in members)),
                str(hardware.elements),
                percent(hardware.exact, hardware.elements),
                *counted(total(member.isolated for member in members)),
                *counted(total(member.outputs for member in members)),
            )
        )
    return Sheet("together", (*header, *isolated, *outputs), tuple(rows))


def cause_sheet(results: Sequence[ModelResult]) -> Sheet:
    """Why elements differ from TFLite's, over all layers."""
    layers = [layer for result in results for layer in result.layers]
    found = merged(cause for layer in layers for cause in layer.causes)
    used = Counter(cause.text for layer in layers for cause in layer.causes)
    header = ("cause", "layers", "elements", "max", "steps from a tie, at most")
    rows = [
        (cause.text, str(used[cause.text]), str(cause.elements), str(cause.largest), margin(cause)) for cause in found
    ]
    return Sheet("causes of what differs from TFLite", header, tuple(rows))


def margin(cause: Cause) -> str:
    return NOTHING if cause.margin is None else f"{cause.margin:.2g}"


def ran(results: Iterable[ModelResult]) -> list[ModelResult]:
    """Those that TFLite runs and the NPU did not fail."""
    return [result for result in results if not result.error and not result.refused]


def complaints(results: Iterable[ModelResult]) -> Iterator[str]:
    """A line for each model that did not run, and for each layer that is not the silicon's."""
    for result in results:
        if result.error:
            yield f"{result.name}: {result.error}"
        elif result.refused:
            yield f"{result.name}: TFLite does not run it: {result.refused}"
        for layer in result.layers:
            if not layer.hardware.equal:
                wrong = layer.hardware.elements - layer.hardware.exact
                name = f"node {'+'.join(map(str, layer.nodes))} {layer.operator}"
                yield f"{result.name}: {name}: {wrong} elements are not what the silicon computes"
        if not result.partition_outputs.equal:
            wrong = result.partition_outputs.elements - result.partition_outputs.exact
            yield f"{result.name}: partitions as delegated: {wrong} elements are not what the silicon computes"


def conclusions(results: Sequence[ModelResult]) -> Iterator[str]:
    """What both oracles say, a sentence each."""
    hardware, alone = total(r.hardware for r in results), total(r.isolated for r in results)
    wrong, failed = hardware.elements - hardware.exact, sum(bool(result.error) for result in results)
    yield (
        f"hardware-exact: {hardware.exact} of {hardware.elements} elements are what the model of the silicon computes"
        + (f"; {wrong} are NOT" if wrong else "")
        + (f"; {failed} models FAILED" if failed else "")
    )
    yield (
        f"TFLite-reference: of {alone.elements} elements of layers alone {percent(alone.exact, alone.elements)} % are "
        f"exact, {percent(alone.within_one, alone.elements)} % within 1, the largest difference is {alone.maximum}"
    )
    tops = [result.top1 for result in results if result.top1 is not None]
    if tops:
        yield f"top-1: the reference's class on {sum(a for a, _ in tops)} of {sum(n for _, n in tops)} inputs"


def lines_of(results: Sequence[ModelResult]) -> list[str]:
    """What is said in words."""
    return [*conclusions(results), *complaints(results), *legend(results)]


def sheets(results: Sequence[ModelResult]) -> list[Sheet]:
    """What is shown: the layers of a single model, totals of several; the causes if there are any."""
    shown = [layer_sheet(result) for result in ran(results)] if len(results) == 1 else []
    shown.append(summary_sheet(results))
    shown += [totals_sheet(results)] if len(results) > 1 else []
    return [sheet for sheet in (*shown, cause_sheet(results)) if sheet.rows]


def rich_table(sheet: Sheet) -> Table:
    """For the terminal."""
    table = Table(title=sheet.title, title_justify="left")
    for number, name in enumerate(sheet.header):
        table.add_column(name, justify="left" if number < sheet.texts else "right", overflow="fold", no_wrap=not number)
    for row in sheet.rows:
        table.add_row(*row)
    return table


def markdown(results: Sequence[ModelResult], command: str) -> str:
    """A page that says how it was made."""
    lines = ["# Accuracy", "", INTRODUCTION, "", f"Made by `{command}`.", ""]
    lines += [f"- {line}" for line in lines_of(results)]
    for sheet in sheets(results):
        alignment = ["---" if number < sheet.texts else "---:" for number in range(len(sheet.header))]
        lines += ["", f"## {sheet.title[:1].upper()}{sheet.title[1:]}", ""]
        lines += [f"| {' | '.join(row)} |" for row in (sheet.header, alignment, *sheet.rows)]
    return "\n".join(lines) + "\n"


INTRODUCTION = """\
Two oracles judge what the NPU computes. *Hardware-exact*: a model of the silicon in plain integers
(`delegate/tools/accuracy/silicon.py`), which shares no code with compiler or simulator; every partition as it is
delegated, every tensor inside it and every layer alone must equal it on every element. *TFLite-reference*: TFLite's
reference kernels (BUILTIN_REF); a layer *alone* is fed with the reference's own tensors, *in place* with what the NPU
made of the model up to there; differences are in quanta of the output. *Drift* is that of the last layer on the NPU, in
place, beside the drift of the same tensor with XNNPACK's 8-bit kernels."""


def as_json(results: Sequence[ModelResult], command: str) -> dict[str, Any]:
    """Everything, counts included."""
    return {
        "command": command,
        "failed": any(result.failed for result in results),
        "models": [asdict(result) | {"hardware": asdict(result.hardware)} for result in results],
    }
