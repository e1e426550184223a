"""Command streams for the tests of the simulator, built from the hardware book's worked examples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.hw.regcmd import FIRE_TARGET, SYNC_TARGET
from delegate.hw.registers import Register, word
from delegate.hw.regs import CNA, CORE, DPU, DPU_RDMA, PC
from delegate.hw.sim.machine import Machine
from delegate.hw.sim.memory import AddressSpace
from delegate.hw.sim.options import Options

INPUT, WEIGHTS, BIAS, OUTPUT, OPERAND, STREAM = 0x100000, 0x200000, 0x300000, 0x400000, 0x500000, 0x600000
BUFFER_BYTES = 0x80000
CONVOLUTION, WITHOUT_RDMA, FLYING, POOLING = 0x1D, 0x0D, 0x18, 0x60
Fields = dict[Register, dict[str, int]]


@dataclass(frozen=True)
class Shape:
    """An int8 convolution in true sizes; channels and kernels as the arrays have them."""

    height: int = 8
    width: int = 8
    channels: int = 32
    kernels: int = 32
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)  # top, left
    dilation: tuple[int, int] = (1, 1)
    depthwise: bool = False
    output: tuple[int, int] = (8, 8)

    @property
    def padded(self) -> int:
        """Input channels in whole atoms."""
        return -(-self.channels // 16) * 16

    @property
    def group(self) -> int:
        return 64 if self.depthwise else 32

    @property
    def written(self) -> int:
        """Output channels in whole groups."""
        return -(-(self.channels if self.depthwise else self.kernels) // self.group) * self.group

    @property
    def surfaces(self) -> int:
        return self.group // 16


def convolution(shape: Shape, scale: int = 0x4000, shift: int = 14, offset: int = 0, factor: int = 0) -> Fields:
    """All registers of an int8 convolution that writes int8 (worked-examples.md §1 to §3), bias from memory."""
    kernels = 1 if shape.depthwise else shape.kernels
    per_kernel = shape.kernel[0] * shape.kernel[1] * shape.padded
    height, width = shape.output
    mode = 3 if shape.depthwise else 0
    entries = -(-shape.width * shape.padded // 64)
    banks = min(-(-entries * 64 * shape.height // 32768) + 1, 11)
    size = shape.surfaces - 1
    fields: Fields = {
        CNA.CONV_CON1: {"conv_mode": mode},
        CNA.CONV_CON2: {"feature_grains": 50 + shape.stride[0] + 1},
        CNA.CONV_CON3: {
            "conv_x_stride": shape.stride[1],
            "conv_y_stride": shape.stride[0],
            "atrous_x_dilation": shape.dilation[1] - 1,
            "atrous_y_dilation": shape.dilation[0] - 1,
        },
        CNA.DATA_SIZE0: {"datain_width": shape.width, "datain_height": shape.height},
        CNA.DATA_SIZE1: {"datain_channel_real": shape.channels - 1, "datain_channel": shape.padded},
        CNA.DATA_SIZE2: {"dataout_width": width},
        CNA.DATA_SIZE3: {"dataout_atomics": width * height},
        CNA.WEIGHT_SIZE0: {"weight_bytes": per_kernel * kernels},
        CNA.WEIGHT_SIZE1: {"weight_bytes_per_kernel": per_kernel},
        CNA.WEIGHT_SIZE2: {
            "weight_width": shape.kernel[1],
            "weight_height": shape.kernel[0],
            "weight_kernels": kernels,
        },
        CNA.CBUF_CON0: {"data_bank": banks, "weight_bank": 12 - banks},
        CNA.CBUF_CON1: {"data_entries": entries},
        CNA.CVT_CON0: {"data_sign": 1, "cvt_type": 1, "cvt_bypass": 1},
        CNA.PAD_CON0: {"pad_left": shape.padding[1], "pad_top": shape.padding[0]},
        CNA.FEATURE_DATA_ADDR: {"feature_base_addr": INPUT},
        CNA.DMA_CON0: {"weight_burst_len": 15, "data_burst_len": 15},
        CNA.DMA_CON1: {"line_stride": 4 * shape.width},
        CNA.DMA_CON2: {"surf_stride": shape.width * (shape.height - 4)},
        CNA.FC_DATA_SIZE0: {"dma_width": shape.width, "dma_height": shape.height},
        CNA.FC_DATA_SIZE1: {"dma_channel": shape.padded},
        CNA.DCOMP_ADDR0: {"decompress_addr0": WEIGHTS},
        CNA.CVT_CON5: {},
        CNA.PAD_CON1: {},
        CORE.MISC_CFG: {"qd_en": 1, "dw_en": int(shape.depthwise)},
        CORE.DATAOUT_SIZE_0: {"dataout_height": height - 1, "dataout_width": width - 1},
        CORE.DATAOUT_SIZE_1: {"dataout_channel": shape.written - 1},
        CORE.CLIP_TRUNCATE: {},
        DPU.FEATURE_MODE_CFG: {"burst_len": 15, "output_mode": 2, "conv_mode": mode},
        DPU.DATA_FORMAT: {},
        DPU.DST_BASE_ADDR: {"dst_base_addr": OUTPUT},
        DPU.DST_SURF_STRIDE: {"dst_surf_stride": width * height},
        DPU.DATA_CUBE_WIDTH: {"width": width - 1},
        DPU.DATA_CUBE_HEIGHT: {"height": height - 1},
        DPU.DATA_CUBE_NOTCH_ADDR: {},
        DPU.DATA_CUBE_CHANNEL: {"orig_channel": min(shape.written, shape.kernels) - 1, "channel": shape.written - 1},
        DPU.BS_CFG: {"bs_alu_algo": 2, "bs_alu_src": 1, "bs_relu_bypass": 1, "bs_mul_bypass": 1},
        DPU.BS_OW_CFG: {"size_e_0": size, "size_e_1": size, "size_e_2": size},
        DPU.BS_OW_OP: {"ow_op": factor},
        DPU.WDMA_SIZE_0: {"channel_wdma": shape.written - 1},
        DPU.WDMA_SIZE_1: {"height_wdma": height - 1, "width_wdma": width - 1},
        DPU.BN_CFG: {"bn_relu_bypass": 1, "bn_mul_bypass": 1, "bn_alu_bypass": 1, "bn_bypass": 1},
        DPU.EW_CFG: {
            "ew_relu_bypass": 1,
            "ew_op_cvt_bypass": 1,
            "ew_lut_bypass": 1,
            "ew_op_bypass": 1,
            "ew_bypass": 1,
        },
        DPU.OUT_CVT_OFFSET: {"out_cvt_offset": offset},
        DPU.OUT_CVT_SCALE: {"out_cvt_scale": scale},
        DPU.OUT_CVT_SHIFT: {"out_cvt_shift": shift},
        DPU.SURFACE_ADD: {"surf_add": shape.surfaces * width * height},
        DPU_RDMA.RDMA_DATA_CUBE_WIDTH: {"width": width - 1},
        DPU_RDMA.RDMA_DATA_CUBE_HEIGHT: {"height": height - 1},
        DPU_RDMA.RDMA_DATA_CUBE_CHANNEL: {"channel": shape.written - 1},
        DPU_RDMA.RDMA_BRDMA_CFG: {"brdma_data_use": 1},
        DPU_RDMA.RDMA_BS_BASE_ADDR: {"bs_base_addr": BIAS},
        DPU_RDMA.RDMA_NRDMA_CFG: {"nrdma_disable": 1},
        DPU_RDMA.RDMA_ERDMA_CFG: {"erdma_disable": 1},
        DPU_RDMA.RDMA_FEATURE_MODE_CFG: {"burst_len": 15, "conv_mode": mode, "mrdma_disable": 1},
    }
    for index in range(16):
        fields[getattr(CNA, f"DCOMP_AMOUNT{index}")] = {}
    for register in (
        *(CNA.FC_CON0, CNA.FC_CON1, CNA.FC_CON2, CNA.DCOMP_CTRL, CNA.DCOMP_REGNUM),
        *(DPU_RDMA.RDMA_SRC_DMA_CFG, DPU_RDMA.RDMA_PAD_CFG),
    ):
        fields[register] = {}
    return fields


POINTERS = (DPU.S_POINTER, DPU_RDMA.RDMA_S_POINTER)
PING_PONG = {"pointer_pp_en": 1, "executer_pp_en": 1, "pointer_pp_mode": 1}


def words(
    fields: Mapping[Register, Mapping[str, int]],
    fire: int = CONVOLUTION,
    link: int = 0,
    amount: int = 0,
    pointers: bool = True,
) -> list[int]:
    """A stream: pointers, register writes, and the tail of four words."""
    head = [pointer(**PING_PONG) for pointer in POINTERS] if pointers else []
    body = [register(**values) for register, values in fields.items()]
    tail = [PC.BASE_ADDRESS(pc_source_addr=link >> 4) if link else 0, PC.REGISTER_AMOUNTS(pc_data_amount=amount)]
    return [*head, *body, *tail, word(SYNC_TARGET, 0, 0), word(FIRE_TARGET, 8, fire)]


def change(fields: Fields, register: Register, **values: int) -> Fields:
    """The same registers with some fields of one changed."""
    return {**fields, register: {**fields.get(register, {}), **values}}


@dataclass
class Board:
    """A machine with a buffer at each of the addresses above, and a page that is not mapped after each."""

    options: Options = field(default_factory=Options)
    memory: AddressSpace = field(default_factory=AddressSpace)

    def __post_init__(self) -> None:
        self.buffers = {
            address: np.zeros(BUFFER_BYTES, np.uint8) for address in (INPUT, WEIGHTS, BIAS, OUTPUT, OPERAND, STREAM)
        }
        for address, view in self.buffers.items():
            self.memory.map(address, view)
        self.machine = Machine(self.memory, options=self.options)

    def put(self, address: int, values: npt.NDArray[Any]) -> None:
        raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self.buffers[address][: raw.size] = raw

    def get(self, address: int, count: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
        return self.buffers[address][: count * np.dtype(dtype).itemsize].view(dtype).copy()

    def run(self, *streams: list[int], tasks: int | None = None) -> None:
        """Places streams behind each other and starts each by itself, or all as one chain of ``tasks``."""
        address = STREAM
        for stream in streams:
            raw = np.array(stream, np.uint64)
            self.memory.bytes(address, raw.nbytes, "stream")[:] = raw.view(np.uint8)
            if tasks is None:
                self.machine.run_chain(address, len(stream), 1)
            address += -(-raw.nbytes // 64) * 64
        if tasks is not None:
            self.machine.run_chain(STREAM, len(streams[0]), tasks)


def pack_weights(kernels: npt.NDArray[np.int8], fill: int = 0) -> npt.NDArray[np.int8]:
    """(kernels, kh, kw, channels) in the order of npu.md §3.4, channels filled up to whole atoms."""
    count, height, width, channels = kernels.shape
    padded = -(-channels // 16) * 16
    full = np.full((count, height, width, padded), fill, np.int8)
    full[..., :channels] = kernels
    parts = [
        full[k : k + 32, y, x, c : c + 32].reshape(-1)
        for k in range(0, count, 32)
        for c in range(0, padded, 32)
        for y in range(height)
        for x in range(width)
    ]
    return np.concatenate(parts)


def pack_depthwise(kernel: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """(kh, kw, channels) in groups of 64 channels."""
    parts = [kernel[:, :, c : c + 64].reshape(-1) for c in range(0, kernel.shape[2], 64)]
    return np.concatenate(parts)
