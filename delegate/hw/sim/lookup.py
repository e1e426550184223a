"""The DPU's lookup tables: two tables of 513 entries, linear interpolation, slopes outside (npu.md §6, S-117 to S-123).

How the silicon rounds inside an interpolation is not known; ``evaluate`` interpolates ideally (F-90), and without the
spikes of S-120 to S-122 (F-94).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from delegate.errors import SimulatorError
from delegate.hw.regs import DPU
from delegate.hw.sim.numbers import Floats
from delegate.hw.sim.registers import LookupTables, TaskRegisters

Doubles = npt.NDArray[np.float64]
ENTRIES = 513
SIGN_HYBRID = 2  # LUT_LO_LE_MUX: low table below zero, high table above


@dataclass(frozen=True)
class Table:
    """One table: entries, the index of the first, index units of a segment, and the slope beyond its outer end."""

    entries: tuple[int | None, ...]
    start: int
    end: int
    segment: int
    slope: float  # entry units per index unit


@dataclass(frozen=True)
class Tables:
    low: Table
    high: Table


def store(tables: LookupTables, config: dict[str, int], position: int, value: int) -> LookupTables:
    """The tables after one write of LUT_ACCESS_DATA, the ``position``-th since LUT_ACCESS_CFG (auto increment)."""
    address = config["lut_addr"] + position
    if not config["lut_access_type"]:
        raise SimulatorError("DPU.LUT_ACCESS_DATA is written while LUT_ACCESS_CFG selects reading")
    if address >= ENTRIES:
        raise SimulatorError(f"DPU.LUT_ACCESS_DATA: entry {address} is written, a table has {ENTRIES}")
    old = tables.high if config["lut_table_id"] else tables.low
    entries = list(old) + [None] * (ENTRIES - len(old))
    entries[address] = value - 0x10000 if value & 0x8000 else value
    if config["lut_table_id"]:
        return LookupTables(tables.low, tuple(entries))
    return LookupTables(tuple(entries), tables.high)


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def decode_tables(regs: TaskRegisters) -> Tables:
    """The tables of a task; raises SimulatorError for settings other than the sign-hybrid one (F-91)."""
    config, info = regs[DPU.LUT_CFG], regs[DPU.LUT_INFO]
    known = config["lut_lo_le_mux"] == SIGN_HYBRID and not config["lut_expand_en"] and not config["lut_cal_sel"]
    limit = "LO_LE_MUX 2 without expansion: no other setting is known"
    regs.require(known and not config["lut_road_sel"], DPU.LUT_CFG, hex(regs.value(DPU.LUT_CFG)), limit)
    low_scale, low_shift = regs[DPU.LUT_LE_SLOPE_SCALE], regs[DPU.LUT_LE_SLOPE_SHIFT]
    high_scale, high_shift = regs[DPU.LUT_LO_SLOPE_SCALE], regs[DPU.LUT_LO_SLOPE_SHIFT]
    low = Table(
        regs.tables.low,
        _signed(regs[DPU.LUT_LE_START]["lut_le_start"], 32),
        _signed(regs[DPU.LUT_LE_END]["lut_le_end"], 32),
        1 << info["lut_le_index_select"],
        _signed(low_scale["lut_le_slope_uflow_scale"], 16) / 2.0 ** low_shift["lut_le_slope_uflow_shift"],
    )
    high = Table(
        regs.tables.high,
        _signed(regs[DPU.LUT_LO_START]["lut_lo_start"], 32),
        _signed(regs[DPU.LUT_LO_END]["lut_lo_end"], 32),
        1 << info["lut_lo_index_select"],
        _signed(high_scale["lut_lo_slope_oflow_scale"], 16) / 2.0 ** high_shift["lut_lo_slope_oflow_shift"],
    )
    for table, name in ((low, "LE"), (high, "LO")):
        span = (table.end - table.start) / table.segment
        limit = f"{ENTRIES - 1} segments between start and end of {name}"
        regs.require(span == ENTRIES - 1, DPU.LUT_INFO, f"{name}: {span} segments", limit)
        loaded = len(table.entries) == ENTRIES and None not in table.entries
        limit = f"all {ENTRIES} entries of {name} loaded in this job: tables do not survive into the next (S-166)"
        regs.require(loaded, DPU.LUT_ACCESS_CFG, f"{name} incomplete", limit)
    return Tables(low, high)


def evaluate(values: Floats, tables: Tables) -> Floats:
    """Table values, in entry units, at the given indices (any shape)."""
    index = values.astype(np.float64)
    low = _interpolate(index, tables.low)
    high = _interpolate(index, tables.high)
    below = tables.low.slope * (index - tables.low.start)
    above = tables.high.slope * (index - tables.high.end)
    low = np.where(index < tables.low.start, _entry(tables.low, 0) + below, low)
    high = np.where(index >= tables.high.end, _entry(tables.high, ENTRIES - 1) + above, high)
    return np.where(index < tables.high.start, low, high).astype(np.float32)


def _entry(table: Table, at: int) -> float:
    entry = table.entries[at]
    assert entry is not None
    return float(entry)


def _interpolate(index: Doubles, table: Table) -> Doubles:
    entries = np.array(table.entries, np.float64)
    position = np.nan_to_num((index - table.start) / table.segment)
    segment = np.clip(np.floor(position), 0, ENTRIES - 2).astype(np.int64)
    fraction = np.clip(position - segment, 0.0, 1.0)
    result: Doubles = entries[segment] + (entries[segment + 1] - entries[segment]) * fraction
    return result
