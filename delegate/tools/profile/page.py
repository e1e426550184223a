"""A profile as one HTML page that needs nothing from elsewhere: table, bars, time line."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import pairwise

from delegate.hw.timing import Slot
from delegate.tools.profile.layers import PARTS, Profile
from delegate.tools.profile.table import MODELLED, cells, headings, notes
from delegate.tools.profile.timeline import BARRIER, BLOCKS, TASKS, spans, traffic, waits

COLOURS = {
    "task overhead": "#c9c9c9",
    "start": "#8f8f8f",
    "features": "#4e9bd1",
    "weights": "#2f5f9e",
    "operands": "#55b8a6",
    "MAC": "#e08a3c",
    "PPU": "#b5638f",
    "write": "#7d67b5",
}
BLOCK_COLOURS = {
    "PC": COLOURS["start"],
    "CNA": COLOURS["features"],
    "CORE": COLOURS["MAC"],
    "DPU_RDMA": COLOURS["operands"],
    "DPU": COLOURS["write"],
    "PPU_RDMA": COLOURS["features"],
    "PPU": COLOURS["PPU"],
}
WIDTH, LABEL = 1200, 260  # of drawings and of the text at their left, in the units of their view
BAR, ROW = 14, 18
WAIT, TASK, STOP = COLOURS["task overhead"], "#5a9367", "#e4a5a5"

STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 10px; border-bottom: 1px solid #ddd; text-align: right; }
th:nth-child(2), td:nth-child(2), th:nth-child(3), td:nth-child(3) { text-align: left; }
svg { width: 100%; border: 1px solid #ddd; margin: 0.5em 0; }
svg text { font: 11px system-ui, sans-serif; }
.key span { display: inline-block; width: 1em; height: 1em; margin: 0 0.3em 0 1.2em; vertical-align: -0.1em; }
.note { color: #555; }
"""

# The wheel magnifies the time line where the pointer is, dragging moves it, a double click shows all of it again.
SCRIPT = """
const line = document.getElementById('timeline'), all = line.viewBox.baseVal, full = [all.x, all.width];
const show = (x, width) => {
  all.width = Math.min(full[1], Math.max(full[1] / 5000, width));
  all.x = Math.max(full[0], Math.min(full[0] + full[1] - all.width, x));
};
line.addEventListener('wheel', event => {
  event.preventDefault();
  const box = line.getBoundingClientRect(), at = (event.clientX - box.left) / box.width;
  const width = all.width * (event.deltaY < 0 ? 0.8 : 1.25), x = all.x + at * (all.width - width);
  show(x, width);
}, { passive: false });
line.addEventListener('pointermove', event => {
  if (event.buttons) show(all.x - event.movementX * all.width / line.getBoundingClientRect().width, all.width);
});
line.addEventListener('dblclick', () => show(full[0], full[1]));
"""


def html(profile: Profile) -> str:
    """The page."""
    title = escape(f"Profile of {profile.name}")
    parts = [
        "<!DOCTYPE html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head><body>',
        f"<h1>{title}</h1>",
        f"<p><strong>All times are {escape(MODELLED)}.</strong></p>",
        *(f'<p class="note">{escape(note)}</p>' for note in notes(profile)),
        "<h2>Where the time of a layer goes</h2>",
        key(COLOURS),
        "<p>What overlaps in time is drawn behind each other, so a bar may be longer than the layer takes.</p>",
        *bars(profile),
        "<h2>Time line</h2>",
        "<p>Turn the wheel to magnify, drag to move, double click for all of it. When a task begins and ends is the "
        "model's; where in it a block works is drawn from the lengths of its parts.</p>",
        *timeline(profile),
        "<h2>Layers</h2>",
        *table(profile),
        f"<script>{SCRIPT}</script></body></html>",
    ]
    return "\n".join(parts) + "\n"


def key(colours: dict[str, str]) -> str:
    items = "".join(f'<span style="background:{colour}"></span>{name}' for name, colour in colours.items())
    return f'<p class="key">{items}</p>'


def table(profile: Profile) -> Iterator[str]:
    yield (
        "<table><thead><tr>"
        + "".join(f"<th>{escape(heading)}</th>" for heading in headings(profile))
        + "</tr></thead><tbody>"
    )
    for index, layer in enumerate(profile.layers):
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(index, layer)) + "</tr>"
    yield "</tbody></table>"


def rectangle(x: float, y: float, width: float, height: float, colour: str, hint: str) -> str:
    place = f'x="{x:.3f}" y="{y:g}" width="{max(width, 0):.3f}" height="{height:g}"'
    return f'<rect {place} fill="{colour}"><title>{escape(hint)}</title></rect>'


def bars(profile: Profile) -> Iterator[str]:
    """A bar for each layer, cut into its parts."""
    longest = max((sum(layer.parts.values()) for layer in profile.layers), default=0.0) or 1.0
    scale = (WIDTH - LABEL) / longest
    yield f'<svg id="bars" viewBox="0 0 {WIDTH} {ROW * len(profile.layers) + 4}">'
    for index, layer in enumerate(profile.layers):
        x, y = float(LABEL), ROW * index + 2
        shown = layer.title if len(layer.title) <= 46 else layer.title[:45] + "…"
        yield f'<text x="{LABEL - 6}" y="{y + 11}" text-anchor="end">{escape(shown)}</text>'
        for part in PARTS:
            width = layer.parts[part] * scale
            if width:
                hint = f"{layer.title}: {part} {1e6 * layer.parts[part]:.1f} µs"
                yield rectangle(x, y, width, BAR, COLOURS[part], hint)
            x += width
    yield "</svg>"


def timeline(profile: Profile) -> Iterator[str]:
    """A row for the tasks and for each block that works, of each core, and DRAM below."""
    every = list(spans(profile))
    used = [block for block in BLOCKS if any(span.track == block for span in every)]
    rows = {(core, track): index for index, (core, track) in enumerate(tracks(profile.board.cores, used))}
    scale = WIDTH / (profile.seconds or 1.0)
    height = ROW * (len(rows) + 3)
    names = ", ".join(f"core {core} {track}" for core, track in rows)
    yield f'<p class="note">Rows from the top: {escape(names)}, DRAM.</p>'
    yield f'<svg id="timeline" viewBox="0 0 {WIDTH} {height}" preserveAspectRatio="none" height="{height}">'
    for span in every:
        own = STOP if span.name == BARRIER else WAIT if waits(span) else TASK
        colour = own if span.track == TASKS else BLOCK_COLOURS[span.track]
        hint = f"{span.name}: {1e6 * span.begin:.1f} to {1e6 * span.end:.1f} µs, {described(profile, span.slot)}"
        y = ROW * rows[span.core, span.track] + 2
        yield rectangle(span.begin * scale, y, (span.end - span.begin) * scale, BAR, colour, hint)
    yield from dram(profile, scale, height)
    yield "</svg>"


def described(profile: Profile, slot: Slot) -> str:
    cost = profile.cost(slot)
    return f"job {slot.job} task {slot.task}, {cost.products} cycles, {cost.bytes.total} bytes"


def tracks(cores: int, used: list[str]) -> Iterator[tuple[int, str]]:
    for core in range(cores):
        yield core, TASKS
        yield from ((core, block) for block in used)


def dram(profile: Profile, scale: float, bottom: float) -> Iterator[str]:
    """The bytes a second of DRAM as columns."""
    levels = traffic(profile)
    tallest = max((level for _, level in levels), default=0.0) or 1.0
    for (begin, level), (end, _) in pairwise(levels):
        if level:
            height = 2 * ROW * level / tallest
            hint = f"DRAM {level / 1e9:.2f} GB/s"
            yield rectangle(begin * scale, bottom - height, (end - begin) * scale, height, COLOURS["features"], hint)
