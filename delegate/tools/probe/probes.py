"""The probe of each question; ``hw.questions`` says in words what they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from delegate.tools.probe import arithmetic, bytewise, control, places
from delegate.tools.probe.judge import Finding
from delegate.tools.probe.rig import Rig


class Probe(Protocol):
    """What can be asked on a device."""

    def ask(self, rig: Rig) -> Finding:
        """Runs the programs and says which candidate has answered; raises DeviceError if the device is gone."""


PROBES: Mapping[str, Callable[[], Probe]] = {
    "norm_shift": arithmetic.norm_shift,
    "norm_order": arithmetic.norm_order,
    "operand_rounding": arithmetic.operand_rounding,
    "operand_width": arithmetic.operand_width,
    "operand_offset": arithmetic.operand_offset,
    "bs_clamp": arithmetic.bs_clamp,
    "bs_prelu": bytewise.bs_prelu,
    "addend_overflow": arithmetic.addend_overflow,
    "truncation": arithmetic.truncation,
    "flying_width": bytewise.flying_width,
    "operand_conversion": bytewise.operand_conversion,
    "channel_operand": bytewise.channel_operand,
    "operand_register": bytewise.operand_register,
    "table_path": bytewise.table_path,
    "interpolation": bytewise.interpolation,
    "table_zero": bytewise.table_zero,
    "part_of_row": places.part_of_row,
    "row_skip": places.row_skip,
    "surface_pitch": places.surface_pitch,
    "short_kernels": places.short_kernels,
    "written_channels": places.written_channels,
    "spare_lanes": bytewise.spare_lanes,
    "pad_lanes": places.pad_lanes,
    "pad_after": places.pad_after,
    "low_height": places.low_height,
    "entries_of_three": places.entries_of_three,
    "chain_order": control.ChainOrder,
    "pooling_interrupt": control.PoolingInterrupt,
    "pooling_width": control.pooling_width,
    "average_rounding": control.average_rounding,
    "average_overflow": control.average_overflow,
    "gain_operand": bytewise.gain_operand,
    "part_of_group": places.part_of_group,
    "sync_word": places.sync_word,
}
