"""The DPU's lookup tables: two tables of 513 entries, linear interpolation, slopes outside (npu.md §6, S-117 to S-123).

Indices are floats behind a float BN, and the integers behind BS in an int8 task (S-220, S-221: the sibling RK3576; on
this chip nobody measured it, F-120). How the silicon rounds inside an interpolation is not known: floats interpolate
ideally (F-90), integers as the machine is told (F-121), both without the spikes of S-120 to S-122: ``doubts`` says
where one would be (F-94). The sibling's broken first entries (F-130) are not modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from delegate.errors import SimulatorError
from delegate.hw.regs import DPU
from delegate.hw.sim.numbers import Floats, Ints, Numbers, round_by, saturate
from delegate.hw.sim.options import Options
from delegate.hw.sim.registers import LookupTables, TaskRegisters

Doubles = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Doubt = Callable[[str, Bools], None]  # takes a warning and the elements it is about
ENTRIES = 513
SIGN_HYBRID = 2  # LUT_LO_LE_MUX: low table below zero, high table above
ZERO_AS_HALF = 4 << 15  # an entry of 0 in fp16 (S-122), in steps of an entry
JOIN_UNITS = 4  # index units from the join within which a spike was seen: 0.0015 of x at 2596 units (S-118, S-121)


@dataclass(frozen=True)
class Table:
    """One table: entries, first index and the one past the last, and the slope beyond its outer end."""

    entries: tuple[int, ...]
    start: int
    end: int
    select: int  # a segment has 2**select index units
    slope: int  # entry units per index unit, times 2**slope_shift
    slope_shift: int
    zero: int = 0  # what an entry of 0 gives

    @cached_property
    def numbers(self) -> Ints:
        entries = np.array(self.entries, np.int64)
        return np.where(entries == 0, self.zero, entries)

    def locate(self, index: Numbers) -> tuple[Ints, Numbers]:
        """Segment of each index, and what is left of it in index units; the ends of the table beyond them."""
        inside = np.clip(index, self.start, self.end) - self.start
        segment = np.minimum(inside // (1 << self.select), ENTRIES - 2).astype(np.int64)
        return segment, inside - segment * (1 << self.select)


@dataclass(frozen=True)
class Tables:
    low: Table
    high: Table
    rounding: str  # of integers


def entry(config: dict[str, int], position: int) -> tuple[int, int]:
    """Table and address of the ``position``-th write of LUT_ACCESS_DATA since LUT_ACCESS_CFG (auto increment)."""
    address = config["lut_addr"] + position
    if address >= ENTRIES:
        raise SimulatorError(f"DPU.LUT_ACCESS_DATA: entry {address} is written, a table has {ENTRIES}")
    return config["lut_table_id"], address


def store(tables: LookupTables, written: Mapping[tuple[int, int], int]) -> LookupTables:
    """The tables after writes of LUT_ACCESS_DATA, by table and address."""
    if not written:
        return tables
    both = [list(old) + [None] * (ENTRIES - len(old)) for old in (tables.low, tables.high)]
    for (table, address), value in written.items():
        both[table][address] = _signed(value, 16)
    low, high = (tuple(entries) if any(entry is not None for entry in entries) else () for entries in both)
    return LookupTables(low, high)


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def decode_tables(regs: TaskRegisters, integer: bool, options: Options) -> Tables:
    """The tables of a task; raises SimulatorError for settings other than the sign-hybrid one (F-91)."""
    config, info = regs[DPU.LUT_CFG], regs[DPU.LUT_INFO]
    known = config["lut_lo_le_mux"] == SIGN_HYBRID and not config["lut_expand_en"] and not config["lut_cal_sel"]
    limit = "LO_LE_MUX 2 without expansion: no other setting is known"
    regs.require(known and not config["lut_road_sel"], DPU.LUT_CFG, hex(regs.value(DPU.LUT_CFG)), limit)
    low_scale, low_shift = regs[DPU.LUT_LE_SLOPE_SCALE], regs[DPU.LUT_LE_SLOPE_SHIFT]
    high_scale, high_shift = regs[DPU.LUT_LO_SLOPE_SCALE], regs[DPU.LUT_LO_SLOPE_SHIFT]
    zero = ZERO_AS_HALF if integer and options.table_zero == "4" else 0
    low = Table(
        _loaded(regs, regs.tables.low, "LE"),
        _signed(regs[DPU.LUT_LE_START]["lut_le_start"], 32),
        _signed(regs[DPU.LUT_LE_END]["lut_le_end"], 32),
        info["lut_le_index_select"],
        _signed(low_scale["lut_le_slope_uflow_scale"], 16),
        low_shift["lut_le_slope_uflow_shift"],
        zero,
    )
    high = Table(
        _loaded(regs, regs.tables.high, "LO"),
        _signed(regs[DPU.LUT_LO_START]["lut_lo_start"], 32),
        _signed(regs[DPU.LUT_LO_END]["lut_lo_end"], 32),
        info["lut_lo_index_select"],
        _signed(high_scale["lut_lo_slope_oflow_scale"], 16),
        high_shift["lut_lo_slope_oflow_shift"],
        zero,
    )
    for table, name in ((low, "LE"), (high, "LO")):
        span = (table.end - table.start) / (1 << table.select)
        limit = f"{ENTRIES - 1} segments between start and end of {name}"
        regs.require(span == ENTRIES - 1, DPU.LUT_INFO, f"{name}: {span} segments", limit)
    return Tables(low, high, options.interpolation)


def _loaded(regs: TaskRegisters, entries: tuple[int | None, ...], name: str) -> tuple[int, ...]:
    """The entries, all of them."""
    present = tuple(entry for entry in entries if entry is not None)
    limit = f"all {ENTRIES} entries of {name} loaded in this job: tables do not survive into the next (S-166)"
    regs.require(len(present) == ENTRIES, DPU.LUT_ACCESS_CFG, f"{name} incomplete", limit)
    return present


def evaluate(values: Floats, tables: Tables) -> Floats:
    """Table values, in entry units, at the given indices (any shape)."""
    index = np.nan_to_num(values.astype(np.float64))
    low, high = (_interpolate(index, table) for table in (tables.low, tables.high))
    low += np.ldexp(tables.low.slope * np.minimum(index - tables.low.start, 0), -tables.low.slope_shift)
    high += np.ldexp(tables.high.slope * np.maximum(index - tables.high.end, 0), -tables.high.slope_shift)
    return np.where(index < tables.high.start, low, high).astype(np.float32)


def _interpolate(index: Doubles, table: Table) -> Doubles:
    segment, rest = table.locate(index)
    first, second = table.numbers[segment], table.numbers[segment + 1]
    result: Doubles = first + (second - first) * np.ldexp(rest, -table.select)
    return result


def evaluate_integer(values: Ints, tables: Tables) -> Ints:
    """Table values at integer indices (any shape): the index v - START, low table below START of the high one (F-120).

    The index END reads the last entry, below START the first; there the slopes begin (S-221).
    """
    below, above = np.minimum(values - tables.low.start, 0), np.maximum(values - tables.high.end, 0)
    low = _one_integer(values, below, tables.low, tables.rounding)
    high = _one_integer(values, above, tables.high, tables.rounding)
    return saturate(np.where(values < tables.high.start, low, high), 32)


def _one_integer(values: Ints, beyond: Ints, table: Table, rounding: str) -> Ints:
    """Both roundings by one of the rules that the silicon may follow (F-121)."""
    segment, rest = table.locate(values)
    first = table.numbers[segment]
    step = round_by((table.numbers[segment + 1] - first) * rest, table.select, rounding)
    return first + step + round_by(beyond * table.slope, table.slope_shift, rounding)


def doubts(values: Numbers, tables: Tables, offset: int) -> Iterator[tuple[str, Bools]]:
    """Where the silicon is known to do something else than ``evaluate``, in fp16: a warning, and for which values."""
    low = values < tables.high.start
    zero, flat = np.zeros(values.shape, np.bool_), np.zeros(values.shape, np.bool_)
    for table, mine in ((tables.low, low), (tables.high, ~low)):
        segment, rest = table.locate(np.nan_to_num(values))
        between, whole = rest != 0, rest == 1 << table.select
        first, second = table.numbers[segment], table.numbers[segment + 1]
        zero |= mine & (((first == 0) & ~whole) | ((second == 0) & between))
        flat |= mine & (first == second) & between & ~whole
    yield "a table entry of 0 is looked up: it decodes to 4 (S-122)", zero
    yield "an index lies between two equal table entries: spikes were seen on flat runs (S-120)", flat
    if not np.issubdtype(values.dtype, np.integer) and offset < 0:
        near = np.abs(values - tables.high.start) < JOIN_UNITS
        yield "an index near the join of the tables beside a negative OUT_CVT_OFFSET: a spike was seen (S-121)", near
