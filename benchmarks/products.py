"""Command words of matrix products of any size: those of captured programs, with the sizes in them replaced.

A product M x K x N is a 1x1 convolution of a column of M pixels with K channels by N kernels (npu.md §3, §10). The
simulator's decoders check every size that is written here against the others.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from delegate.hw.regcmd import parse_word
from delegate.hw.registers import Register, word
from delegate.hw.regs import CNA, CORE, DPU, DPU_RDMA
from delegate.hw.task import Words
from delegate.tools.capture import load

PROGRAMS = Path(__file__).resolve().parents[2] / "shared" / "golden" / "programs"
BANK, BANKS, ATOM, ENTRY, LINES = 32768, 12, 16, 64, 4  # bytes, banks, bytes, bytes, rows (npu.md §3.2, §4)


@dataclass(frozen=True)
class Form:
    """A captured product and what its sizes depend on."""

    capture: str
    task: int  # of all of its tasks
    bits: int  # of an element of either factor
    output_bytes: int  # of an element
    surfaces: int  # SIZE_E + 1
    slack: int  # banks that the features need beside those they fill (S-73)
    partial: int = 0  # bytes of an element of the partial sum that is added


FORMS: Mapping[str, Form] = {
    "fp16 to fp32": Form("mtx-mm_fp16-128x384x256", 0, 16, 4, 4, 0),
    "fp16 to fp16": Form("mtx-mm_fp16out-64x128x64", 0, 16, 2, 2, 0),
    "fp16 + partial": Form("rus-mm_fp16_kacc_kt128-16x512x32", 1, 16, 2, 2, 0, partial=2),
    "int8 to int32": Form("mtx-mm_int8-128x544x256", 0, 8, 4, 8, 1),
    "int4 to int16": Form("rus-mm_int4-64x256x64", 0, 4, 2, 8, 0),
}


@cache
def template(form: str) -> Words:
    """The captured words of a form."""
    chosen = FORMS[form]
    capture = load(PROGRAMS / chosen.capture)
    return [task.words for submit in capture.submits for task in submit.tasks][chosen.task]


def product(
    rows: int, depth: int, columns: int, form: str, *, reuse: bool = False, row_pitch: int | None = None
) -> Words:
    """The words of one task, ``rows`` x ``depth`` times ``depth`` x ``columns``, whole groups and at least 4 rows.

    ``reuse``: the features are still in the CBUF. ``row_pitch``: the result is row-major, its rows that many bytes
    apart (npu.md §3.7).
    """
    chosen = FORMS[form]
    fields = dict(sizes(chosen, rows, depth, columns))
    fields[CNA.CBUF_CON0]["data_reuse"] = int(reuse)
    if row_pitch is not None:
        notch = row_pitch // ATOM - 1
        fields[DPU.DATA_CUBE_NOTCH_ADDR] = {"notch_addr_0": notch, "notch_addr_1": notch}
        fields[DPU.DST_SURF_STRIDE] = {"dst_surf_stride": 1}
        fields[DPU.SURFACE_ADD] = {"surf_add": chosen.surfaces}
    return np.array([replaced(int(item), fields) for item in template(form)], np.uint64)


def replaced(item: int, fields: Mapping[Register, Mapping[str, int]]) -> int:
    """A word with the fields that are named for its register."""
    command = parse_word(item)
    register = command.register
    if register is None or register not in fields:
        return item
    value = register.encode(**(register.decode(command.value) | fields[register]))
    return word(register.block.target, register.offset, value)


def sizes(form: Form, rows: int, depth: int, columns: int) -> Iterator[tuple[Register, dict[str, int]]]:
    """All fields that depend on the sizes."""
    kernel = depth * form.bits // 8  # bytes
    data = -(-rows * -(-kernel // ENTRY) * ENTRY // BANK) + form.slack
    height, channel = {"height": rows - 1}, {"channel": columns - 1}
    yield CNA.CONV_CON2, {"feature_grains": min(rows + 1, 1023)}
    yield CNA.DATA_SIZE0, {"datain_height": rows}
    yield CNA.DATA_SIZE1, {"datain_channel": depth, "datain_channel_real": depth - 1}
    yield CNA.DATA_SIZE3, {"dataout_atomics": rows}
    yield CNA.WEIGHT_SIZE0, {"weight_bytes": kernel * columns}
    yield CNA.WEIGHT_SIZE1, {"weight_bytes_per_kernel": kernel}
    yield CNA.WEIGHT_SIZE2, {"weight_kernels": columns}
    yield CNA.CBUF_CON0, {"data_bank": data, "weight_bank": BANKS - data}
    yield CNA.CBUF_CON1, {"data_entries": -(-kernel // ENTRY)}
    yield CNA.DMA_CON2, {"surf_stride": rows - LINES}
    yield CNA.FC_DATA_SIZE0, {"dma_height": rows}
    yield CNA.FC_DATA_SIZE1, {"dma_channel": depth}
    yield CORE.DATAOUT_SIZE_0, {"dataout_height": rows - 1}
    yield CORE.DATAOUT_SIZE_1, {"dataout_channel": columns - 1}
    yield DPU.DST_SURF_STRIDE, {"dst_surf_stride": rows}
    yield DPU.SURFACE_ADD, {"surf_add": rows * form.surfaces}
    yield DPU.DATA_CUBE_HEIGHT, height
    yield DPU.DATA_CUBE_CHANNEL, channel | {"orig_channel": columns - 1}
    yield DPU.WDMA_SIZE_0, {"channel_wdma": columns - 1}
    yield DPU.WDMA_SIZE_1, {"height_wdma": rows - 1}
    yield DPU_RDMA.RDMA_DATA_CUBE_HEIGHT, height
    yield DPU_RDMA.RDMA_DATA_CUBE_CHANNEL, channel
    if form.partial:
        yield DPU_RDMA.RDMA_EW_SURF_STRIDE, {"ew_surf_stride": rows}


def tiled(
    rows: int, depth: int, columns: int, *, tile: tuple[int, int, int] = (256, 384, 256), reuse: bool = True
) -> list[Words]:
    """The tasks of an fp16 product in tiles; partial sums over the depth are added on the chip in fp16 (S-82, S-97).

    The order is rows, depth, columns, so that features stay in the CBUF over the columns (DATA_REUSE).
    """
    tall, deep, wide = tile
    tasks = []
    for top in range(0, rows, tall):
        for first in range(0, depth, deep):
            for left in range(0, columns, wide):
                size = (min(tall, rows - top), min(deep, depth - first), min(wide, columns - left))
                form = "fp16 + partial" if first else "fp16 to fp16"
                tasks.append(product(*size, form, reuse=reuse and left > 0))
    return tasks
