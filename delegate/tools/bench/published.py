"""Published figures of boards beside what the timing model says of our programs of the same products."""

from __future__ import annotations

import csv
import importlib.resources
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, cast

from delegate.errors import DelegateError
from delegate.hw.device import Kernel
from delegate.hw.emit.product import Form
from delegate.hw.timing import BOARDS, Board
from delegate.tools.bench.npu import modelled
from delegate.tools.bench.shapes import Shape

FILE = "published.csv"
Unit = Literal["ms", "GOP/s"]


@dataclass(frozen=True)
class Figure:
    """A published figure, from ``low`` to ``high``."""

    what: str
    library: str
    source: str
    shape: Shape
    form: Form
    board: Board
    low: float
    high: float
    unit: Unit
    remark: str

    @property
    def middle(self) -> float:
        """The geometric middle of the range."""
        return math.sqrt(self.low * self.high)

    @property
    def seconds(self) -> float:
        """The published time."""
        return self.middle / 1e3 if self.unit == "ms" else self.shape.operations / self.middle / 1e9

    def in_unit(self, seconds: float) -> float:
        """A time in the figure's unit."""
        return 1e3 * seconds if self.unit == "ms" else self.shape.operations / seconds / 1e9


@dataclass(frozen=True)
class Compared:
    figure: Figure
    seconds: float  # modelled

    @property
    def ratio(self) -> float:
        """The modelled time over the published one: above 1 our program is expected to be slower."""
        return self.seconds / self.figure.seconds


def figures() -> list[Figure]:
    """All published figures of the data file."""
    text = importlib.resources.files(__package__).joinpath(FILE).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [figure_of(row) for row in csv.DictReader(lines)]


def figure_of(row: dict[str, str]) -> Figure:
    """A line of the data file; raises DelegateError where it is not one."""
    try:
        board = replace(BOARDS[cast(Kernel, row["kernel"])], clock_hz=1e6 * float(row["clock_mhz"]))
        board = replace(board, cores=int(row["cores"]))
        if row["job_us"]:
            board = replace(board, job_seconds=1e-6 * float(row["job_us"]))
        if row["unit"] not in ("ms", "GOP/s"):
            raise ValueError(row["unit"])
        shape = Shape(row["what"], int(row["M"]), int(row["K"]), int(row["N"]))
        return Figure(
            row["what"],
            row["library"],
            row["source"],
            shape,
            Form(row["element"], row["result"]),
            board,
            float(row["low"]),
            float(row["high"]),
            cast(Unit, row["unit"]),
            row["remark"],
        )
    except (KeyError, ValueError) as error:
        raise DelegateError(f"{FILE}: {row.get('what')}: {error}") from None


def compare() -> Iterator[Compared]:
    """All published figures beside the model's, in the file's order."""
    for figure in figures():
        yield Compared(figure, modelled(figure.shape, figure.form, figure.board))
