"""Bars of the models' products and lines over the sizes of squares, with a fitted curve, as PNG and SVG."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.errors import DelegateError
from delegate.tools.bench.published import Compared
from delegate.tools.bench.report import Row

Doubles = npt.NDArray[np.float64]
SUFFIXES = (".png", ".svg")
MISSING = "plots need matplotlib: pip install 'teflon-rknpu[bench]', or leave --plots out"
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink", "tab:gray")


def pyplot() -> Any:
    """matplotlib without a display; raises DelegateError where it is not installed."""
    try:
        importlib.import_module("matplotlib").use("Agg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise DelegateError(MISSING) from None


def draw(rows: Sequence[Row], compared: Sequence[Compared], folder: Path) -> list[Path]:
    """Draws what there is to draw; returns the files. Raises DelegateError."""
    plot = pyplot()
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        models = [row for row in rows if row.kind == "model"]
        squares = [row for row in rows if row.kind == "square"]
        figures = {
            "bars": bars(plot, models) if models else None,
            "lines": lines(plot, squares, compared) if squares else None,
            "published": beside(plot, compared) if compared else None,
        }
        for name, figure in figures.items():
            if figure is None:
                continue
            for suffix in SUFFIXES:
                path = folder / f"matmul-{name}{suffix}"
                figure.savefig(path, bbox_inches="tight", dpi=120)
                written.append(path)
            plot.close(figure)
    except OSError as error:
        raise DelegateError(f"{error.filename}: {error.strerror}") from None
    return written


def series(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by what is timed how; the names of a legend."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        how = "modelled" if row.how.startswith("modelled") else "measured"
        found.setdefault(f"{row.by}, {row.element} ({how})", []).append(row)
    return found


def bars(plot: Any, rows: Sequence[Row]) -> Any:
    """A group of bars for each layer of a model."""
    names = list(dict.fromkeys(f"{row.name}\n{row.cells[1]}" for row in rows))
    groups = series(rows)
    figure, axes = plot.subplots(figsize=(max(8, 0.9 * len(names)), 6))
    width = 0.8 / len(groups)
    for index, (label, members) in enumerate(groups.items()):
        at = [names.index(f"{row.name}\n{row.cells[1]}") + (index + 0.5) * width - 0.4 for row in members]
        axes.bar(at, [row.gops for row in members], width, label=label, color=COLOURS[index % len(COLOURS)])
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
    axes.set_yscale("log")
    axes.set_ylabel("GOP/s")
    axes.set_title("Matrix products of models")
    axes.legend(fontsize=8)
    return figure


def lines(plot: Any, rows: Sequence[Row], compared: Sequence[Compared]) -> Any:
    """GOP/s over the size of squares; published figures where the third root of their M K N is."""
    figure, axes = plot.subplots(figsize=(10, 6))
    for index, (label, members) in enumerate(series(rows).items()):
        colour = COLOURS[index % len(COLOURS)]
        sizes = np.array([row.rows for row in members], np.float64)
        axes.plot(sizes, [row.gops for row in members], "o", markersize=3, color=colour, label=label)
        if len(members) > 2:
            smooth = np.linspace(sizes[0], sizes[-1], 300)
            terms = fit(sizes, np.array([row.seconds for row in members]))
            formula = " + ".join(f"{term:.2g} n{power}" for term, power in zip(terms, ("⁰", "²", "³"), strict=True))
            axes.plot(smooth, 2 * smooth**3 / fitted(smooth, terms) / 1e9, "-", color=colour, label=f"fit {formula} s")
    for library, marker in (("RKNN", "*"), ("open", "x")):
        chosen = [item for item in compared if item.figure.library == library]
        if chosen:
            at = [(item.figure.shape.operations / 2) ** (1 / 3) for item in chosen]
            rates = [item.figure.shape.operations / item.figure.seconds / 1e9 for item in chosen]
            axes.plot(
                at, rates, marker, color="black", markersize=8, label=f"published, {library} (measured by others)"
            )
            for item, x, y in zip(chosen, at, rates, strict=True):
                axes.annotate(item.figure.what, (x, y), fontsize=5, xytext=(3, 3), textcoords="offset points")
    axes.set_xlabel("n of n×n×n; of other products the third root of M·K·N")
    axes.set_ylabel("GOP/s")
    axes.set_yscale("log")
    axes.set_title("Square matrix products")
    axes.legend(fontsize=7)
    axes.grid(True, which="both", alpha=0.3)
    return figure


def beside(plot: Any, compared: Sequence[Compared]) -> Any:
    """Published figures, the vendor's library first, and the model's of our programs."""
    ordered = sorted(compared, key=lambda item: item.figure.library != "RKNN")
    figure, axes = plot.subplots(figsize=(max(8, 0.5 * len(ordered)), 6))
    at = np.arange(len(ordered))
    kinds = (
        ("published, measured by others", -0.2, [item.figure.seconds for item in ordered]),
        ("ours, modelled", 0.2, [item.seconds for item in ordered]),
    )
    for label, shift, seconds in kinds:
        rates = [item.figure.shape.operations / time / 1e9 for item, time in zip(ordered, seconds, strict=True)]
        axes.bar(at + shift, rates, 0.4, label=label)
    names = [f"{item.figure.library}: {item.figure.what}" for item in ordered]
    axes.set_xticks(at, names, rotation=60, ha="right", fontsize=7)
    axes.set_yscale("log")
    axes.set_ylabel("GOP/s")
    axes.set_title("Published products and ours")
    axes.legend(fontsize=8)
    return figure


def fit(sizes: Doubles, seconds: Doubles) -> Doubles:
    """Seconds as a constant, a part by the elements and a part by the products: (3), not negative.

    Least squares of relative errors; a term that would be negative is left out.
    """
    terms = np.stack([np.ones_like(sizes), sizes**2, sizes**3], axis=1)
    used = [0, 1, 2]
    while True:
        scaled = terms[:, used] / seconds[:, None]
        scale = np.abs(scaled).max(axis=0)
        found = np.linalg.lstsq(scaled / scale, np.ones_like(seconds), rcond=None)[0] / scale
        if (found >= 0).all():
            break
        used.pop(int(np.argmin(found * scale)))
    result = np.zeros(3)
    result[used] = found
    return result


def fitted(sizes: Doubles, terms: Doubles) -> Doubles:
    """The fitted seconds."""
    result: Doubles = terms[0] + terms[1] * sizes**2 + terms[2] * sizes**3
    return result
