"""``python -m delegate profile``: what is written, and where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from delegate.errors import DelegateError
from delegate.hw.device import KERNELS, Kernel
from delegate.hw.timing import BOARDS, Board
from delegate.options import CHAIN, SPLIT
from delegate.tools.profile import page, perfetto
from delegate.tools.profile.layers import Profile, profile
from delegate.tools.profile.table import csv_text, print_table


@dataclass(frozen=True)
class Outputs:
    """Files that are wanted beside the table."""

    csv: Path | None = None
    html: Path | None = None
    perfetto: Path | None = None

    @property
    def writers(self) -> Mapping[Path, Callable[[Profile], str]]:
        wanted = ((self.csv, csv_text), (self.html, page.html), (self.perfetto, perfetto.text))
        return {path: write for path, write in wanted if path is not None}


def board_of(kernel: str, clock: float | None, bandwidth: float | None, cores: int) -> Board:
    """A board; ``clock`` in MHz, ``bandwidth`` in GB/s. Raises DelegateError for a kernel that there is not."""
    known: dict[str, Kernel] = {name: name for name in KERNELS}
    if kernel not in known:
        raise DelegateError(f"kernel {kernel!r}: {' or '.join(KERNELS)}")
    board = replace(BOARDS[known[kernel]], cores=cores)
    if clock is not None:
        board = replace(board, clock_hz=1e6 * clock)
    return board if bandwidth is None else replace(board, bandwidth=1e9 * bandwidth)


def run_profile(path: Path, board: Board, split: str, chain: str, outputs: Outputs) -> None:
    """Prints the table of a model, program or capture and writes the files; raises DelegateError."""
    for option, value, values in (("split", split, SPLIT), ("chain", chain, CHAIN)):
        if value not in values:
            raise DelegateError(f"{option} {value!r}: {', '.join(values)}")
    with Console(stderr=True).status(f"reading {path}"):
        found = profile(path, board, split, chain == "full")
    print_table(found)
    for target, text in outputs.writers.items():
        try:
            target.write_text(text(found), encoding="utf-8")
        except OSError as error:
            raise DelegateError(f"{target}: {error.strerror}") from None
