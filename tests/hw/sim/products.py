"""Matrix products C[M, N] = A[M, K] B[N, K] of every data type as command streams, and the layouts of fact S-40."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hw.sim.programs import INPUT, OUTPUT, WEIGHTS, Board, Fields, Shape, change, convolution, words

from delegate.hw.regs import CNA, CORE, DPU, DPU_RDMA

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Kind:
    """A row of S-40's table; ``code`` as in CNA and CORE, ``dpu`` as in the DPU (S-61), ``size_e`` by S-52 to S-60."""

    name: str
    code: int
    dpu: int
    bits: int
    group: int
    chunk: int
    out: int
    out_type: type[np.generic]
    size_e: int
    quantized: int = 0


KINDS = {
    kind.name: kind
    for kind in (
        Kind("int8 to int8", 0, 0, 8, 32, 32, 0, np.int8, 1, 1),
        Kind("int8 to int32", 0, 0, 8, 32, 32, 4, np.int32, 7),
        Kind("int8 to fp32", 0, 0, 8, 32, 32, 5, np.float32, 7),
        Kind("int16 to int32", 1, 1, 16, 16, 32, 4, np.int32, 3, 1),
        Kind("int4 to int16", 6, 6, 4, 64, 32, 1, np.int16, 7),
        Kind("fp16 to fp16", 2, 2, 16, 16, 32, 2, np.float16, 1, 1),
        Kind("fp16 to fp32", 2, 2, 16, 16, 32, 5, np.float32, 3, 1),
        Kind("bf16 to fp32", 3, 3, 16, 16, 32, 5, np.float32, 3, 1),
        Kind("tf32 to fp32", 7, 5, 32, 16, 16, 5, np.float32, 3, 1),
    )
}


def product(kind: Kind, rows: int, depth: int, columns: int) -> Fields:
    """The registers; BS bypassed, OUT_CVT the identity."""
    shape = Shape(rows, 1, depth, columns, output=(rows, 1))
    fields = convolution(shape, 1, 0)
    per_kernel, written = depth * kind.bits // 8, -(-columns // kind.group) * kind.group
    entries = -(-per_kernel // 64)
    fields = change(fields, CNA.CONV_CON1, in_precision=kind.code, proc_precision=kind.code)
    fields = change(fields, CNA.DATA_SIZE1, datain_channel=depth)
    fields = change(fields, CNA.FC_DATA_SIZE1, dma_channel=depth)
    fields = change(fields, CNA.WEIGHT_SIZE0, weight_bytes=per_kernel * columns)
    fields = change(fields, CNA.WEIGHT_SIZE1, weight_bytes_per_kernel=per_kernel)
    banks = -(-entries * 64 * rows // 32768) + 1
    fields = change(fields, CNA.CBUF_CON0, data_bank=banks, weight_bank=12 - banks)
    fields = change(fields, CNA.CBUF_CON1, data_entries=entries)
    fields = change(fields, CORE.MISC_CFG, proc_precision=kind.code, qd_en=kind.quantized)
    fields = change(fields, CORE.DATAOUT_SIZE_1, dataout_channel=written - 1)
    fields = change(fields, DPU.DATA_FORMAT, in_precision=kind.dpu, proc_precision=kind.dpu, out_precision=kind.out)
    fields = change(fields, DPU.DATA_CUBE_CHANNEL, channel=written - 1, orig_channel=columns - 1)
    fields = change(fields, DPU.WDMA_SIZE_0, channel_wdma=written - 1)
    fields = change(fields, DPU_RDMA.RDMA_DATA_CUBE_CHANNEL, channel=written - 1)
    fields = change(fields, DPU.BS_CFG, bs_bypass=1, bs_alu_bypass=1)
    fields = change(fields, DPU_RDMA.RDMA_BRDMA_CFG, brdma_disable=1, brdma_data_use=0)
    sizes = dict.fromkeys(("size_e_0", "size_e_1", "size_e_2"), kind.size_e)
    fields = change(fields, DPU.BS_OW_CFG, od_bypass=int(kind.name != "int8 to int8"), **sizes)
    fields = change(fields, DPU.SURFACE_ADD, surf_add=(kind.size_e + 1) * rows)
    return change(fields, DPU.OUT_CVT_SCALE, fp32tofp16_en=int(kind.out == 2))


def stored(kind: Kind, values: Array) -> Array:
    """Numbers as bytes of the kind's elements, little end first; the last axis holds whole bytes."""
    if kind.bits == 4:
        low, high = values[..., 0::2] & 15, values[..., 1::2] & 15
        return (low | high << 4).astype(np.uint8)
    if kind.name.startswith("bf16"):
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    types = {0: np.int8, 1: np.int16, 2: np.float16, 7: np.float32}
    return values.astype(types[kind.code])


def pack_features(kind: Kind, values: Array) -> Array:
    """A[M, K] as [K/C2][M][C2] (S-40), C2 elements in 16 bytes."""
    rows, depth = values.shape
    atom = 128 // kind.bits
    return stored(kind, np.ascontiguousarray(values.reshape(rows, depth // atom, atom).transpose(1, 0, 2)))


def pack_kernels(kind: Kind, values: Array) -> Array:
    """B[N, K] as [N/G][K/chunk][G][chunk] (S-40); N in whole groups."""
    count, depth = values.shape
    parts = values.reshape(count // kind.group, kind.group, depth // kind.chunk, kind.chunk)
    return stored(kind, np.ascontiguousarray(parts.transpose(0, 2, 1, 3)))


def read_result(board: Board, kind: Kind, rows: int, columns: int) -> Array:
    """C[M, N] from [N/C2][M][C2] of the output type (S-40)."""
    atom = 16 // np.dtype(kind.out_type).itemsize
    raw = board.get(OUTPUT, rows * columns, kind.out_type)
    return raw.reshape(columns // atom, rows, atom).transpose(1, 0, 2).reshape(rows, columns)


def multiply(kind: Kind, left: Array, right: Array, fields: Fields | None = None) -> Array:
    """Runs A (M, K) times B (N, K); returns what is written, (M, N)."""
    (rows, depth), columns = left.shape, len(right)
    board = Board()
    board.put(INPUT, pack_features(kind, left))
    board.put(WEIGHTS, pack_kernels(kind, right))
    board.run(words(fields or product(kind, rows, depth, columns)))
    return read_result(board, kind, rows, columns)
