"""Which behaviour of the silicon a machine has where nobody knows: a switch for each question of ``hw.questions``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from delegate.errors import SimulatorError
from delegate.hw.questions import QUESTIONS


@dataclass(frozen=True)
class Options:
    """How a machine runs. ``plain``: the plain models only. All others: the candidate of a question, by its name.

    ``pooling_interrupt`` None: as the kernel has it. Raises SimulatorError for a name that is no candidate.
    """

    plain: bool = False
    norm_shift: str = "even"
    norm_order: str = "multiply first"
    operand_rounding: str = "even"
    operand_width: str = "32 bits"
    operand_offset: str = "added"
    bs_clamp: str = "behind the product"
    bs_prelu: str = "negative ones"
    addend_overflow: str = "saturates"
    truncation: str = "sum with CPEND"
    flying_width: str = "32 bits"
    operand_conversion: str = "every one"
    channel_operand: str = "by channel"
    gain_operand: str = "by channel"
    operand_register: str = "channel modulo 8"
    table_path: str = "behind BS"
    interpolation: str = "even"
    table_zero: str = "0"
    part_of_row: str = "line stride"
    row_skip: str = "behind rows"
    surface_pitch: str = "registers"
    short_kernels: str = "window sum"
    written_channels: str = "CHANNEL"
    spare_lanes: str = "0"
    pad_lanes: str = "lowest"
    pad_after: str = "padding"
    low_height: str = "signed"
    entries_of_three: str = "either"
    chain_order: str = "in order"
    pooling_interrupt: str | None = None
    pooling_width: str = "yes"
    average_rounding: str = "reciprocals"
    average_overflow: str = "clamps"
    part_of_group: str = "never"
    sync_word: str = "not needed"

    def __post_init__(self) -> None:
        for name, question in QUESTIONS.items():
            chosen = getattr(self, name)
            if chosen not in question.candidates and not (chosen is None and name == "pooling_interrupt"):
                raise SimulatorError(f"option {name} is {chosen!r}; valid: {', '.join(question.candidates)}")

    def usual(self, *names: str) -> bool:
        """Whether these questions are answered as by default."""
        return all(getattr(self, name) == getattr(USUAL, name) for name in names)


def switched(verdicts: Mapping[str, str | None]) -> Options:
    """The machine that answers questions as a board did; where that is not known, as by default."""
    known = {field.name for field in fields(Options)} - {"plain"}
    chosen: dict[str, str] = {name: verdict for name, verdict in verdicts.items() if name in known and verdict}
    return Options(False, **chosen)


USUAL = Options()
