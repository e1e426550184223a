"""A profile as a trace in Chrome's format, which ui.perfetto.dev and chrome://tracing show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from delegate.tools.profile.layers import Profile
from delegate.tools.profile.timeline import BLOCKS, TASKS, Span, spans, traffic, waits

MICROSECOND = 1e6  # the format's unit
DRAM = 0  # process of the counter; cores follow
TRACKS = (TASKS, *BLOCKS)


def trace(profile: Profile) -> dict[str, Any]:
    """The trace as JSON's types: a process a core, a thread a block, a counter of DRAM."""
    return {
        "traceEvents": [*names(profile), *(event(profile, span) for span in spans(profile)), *counters(profile)],
        "displayTimeUnit": "ns",
        "otherData": {
            "program": profile.name,
            "board": profile.board.name,
            "clock_hz": profile.board.clock_hz,
            "note": "modelled, not measured",
        },
    }


def text(profile: Profile) -> str:
    return json.dumps(trace(profile)) + "\n"


def names(profile: Profile) -> Iterator[dict[str, Any]]:
    yield metadata("process_name", DRAM, 0, "DRAM (modelled)")
    for core in range(profile.board.cores):
        yield metadata("process_name", core + 1, 0, f"core {core} (modelled)")
        for thread, track in enumerate(TRACKS):
            yield metadata("thread_name", core + 1, thread, track)


def metadata(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def event(profile: Profile, span: Span) -> dict[str, Any]:
    cost = profile.cost(span.slot)
    return {
        "ph": "X",
        "name": span.name,
        "cat": "wait" if span.track == TASKS and waits(span) else cost.kind,
        "pid": span.core + 1,
        "tid": TRACKS.index(span.track),
        "ts": span.begin * MICROSECOND,
        "dur": (span.end - span.begin) * MICROSECOND,
        "args": {"job": span.slot.job, "task": span.slot.task, "cycles": cost.products, "bytes": cost.bytes.total},
    }


def counters(profile: Profile) -> Iterator[dict[str, Any]]:
    for time, level in traffic(profile):
        yield {
            "ph": "C",
            "name": "GB/s",
            "pid": DRAM,
            "tid": 0,
            "ts": time * MICROSECOND,
            "args": {"GB/s": level / 1e9},
        }
