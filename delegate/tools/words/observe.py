"""What a task writes, as numbers by field name, and how a layer is cut into tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from delegate.errors import DelegateError
from delegate.tools.diff import NEXT_STREAM, Written, fields, written
from delegate.tools.listing import ListedTask
from delegate.tools.words.facts import Facts

MAIN_OPERAND, ELEMENTWISE_OPERAND = "DPU_RDMA.RDMA_SRC_BASE_ADDR", "DPU_RDMA.RDMA_EW_BASE_ADDR"
Observed = Mapping[str, int]


@dataclass(frozen=True)
class Cut:
    """The part of a layer that a task computes."""

    input_rows: int
    first_row: int  # of the output
    rows: int
    first_channel: int  # of the output
    channels: int
    banks: int  # of the features
    reuse: bool  # of the weights


def observe(task: ListedTask, first: ListedTask) -> dict[str, int]:
    """All fields of a task by name; an address as its distance from the one of the layer's first task.

    The element-wise operand is told from the main operand of the same task; a link as 1 or 0.
    """
    entries, base = written(task), written(first)
    result: dict[str, int] = {}
    for name, entry in entries.items():
        if entry.register is None or not entry.register.address:
            result |= {f"{name}.{label}" if label else name: value for label, value in fields(entry).items()}
        elif name == NEXT_STREAM:
            result[name] = int(entry.pointer is not None)
        elif entry.pointer is None:
            result[name] = entry.value
        else:
            result[name] = distance(entry, entries[MAIN_OPERAND] if name == ELEMENTWISE_OPERAND else base[name])
    return result


def distance(entry: Written, base: Written) -> int:
    """Bytes from one address to another; where they fall into two buffers, as the capture's addresses have it."""
    if entry.pointer is None or base.pointer is None:
        raise DelegateError("an address of a task has no counterpart in the layer's first task")
    if entry.pointer.buffer != base.pointer.buffer:
        return entry.value - base.value
    return entry.pointer.offset - base.pointer.offset


def cuts(seen: Sequence[Observed], output_height: int) -> Iterator[Cut]:
    """The cut of each task: output channels outside, rows inside."""
    row = channel = 0
    for o in seen:
        rows = o["CORE.DATAOUT_SIZE_0.dataout_height"] + 1
        channels = o["CORE.DATAOUT_SIZE_1.dataout_channel"] + 1
        yield Cut(
            input_rows=o["CNA.DATA_SIZE0.datain_height"],
            first_row=row,
            rows=rows,
            first_channel=channel,
            channels=channels,
            banks=o["CNA.CBUF_CON0.data_bank"],
            reuse=bool(o["CNA.CBUF_CON0.weight_reuse"]),
        )
        row += rows
        if row == output_height:
            row, channel = 0, channel + channels


def with_cut(f: Facts, cut: Cut) -> Facts:
    """The facts of a task that computes a part of a layer; what the cut says is taken, the rest has to follow."""
    part = replace(
        f,
        input_height=cut.input_rows,
        output_height=cut.rows,
        padding_top=f.layer_padding_top if cut.first_row == 0 else 0,
        first_row=cut.first_row,
        banks=cut.banks,
        reuse=cut.reuse,
    )
    if cut.channels == f.output_channels:
        return part
    part = replace(
        part,
        output_channels=cut.channels,
        output_channels_real=min(f.output_channels_real - cut.first_channel, cut.channels),
        kernels=1 if f.depthwise else cut.channels,
        first_channel=cut.first_channel,
    )
    if not f.depthwise:
        return part
    return replace(part, input_channels=cut.channels, input_channels_real=part.output_channels_real)
