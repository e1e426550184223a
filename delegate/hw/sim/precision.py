"""The number formats of the machine: codes, sizes, and how channels are grouped in each (npu.md §1, S-40, S-61)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Precision:
    """A MAC format of CNA and CORE."""

    name: str
    code: int  # CNA and CORE; the DPU uses the same codes but 5 for tf32 (S-61, S-63)
    bits: int  # of one feature or weight element
    kernel_group: int  # output channels side by side, direct convolution
    depthwise_group: int  # channels side by side, depthwise; 0 where no program is known
    chunk: int  # input channels per step; also products that are summed exactly in float formats (S-66)
    integer: bool

    @property
    def atom(self) -> int:
        """Elements of a 16-byte atom (F-21)."""
        return 128 // self.bits


INT8 = Precision("int8", 0, 8, 32, 64, 32, True)
INT16 = Precision("int16", 1, 16, 16, 0, 32, True)
FP16 = Precision("fp16", 2, 16, 16, 32, 32, False)
BF16 = Precision("bf16", 3, 16, 16, 0, 32, False)
INT4 = Precision("int4", 6, 4, 64, 0, 32, True)
TF32 = Precision("tf32", 7, 32, 16, 0, 16, False)
PRECISIONS: dict[int, Precision] = {p.code: p for p in (INT8, INT16, FP16, BF16, INT4, TF32)}


@dataclass(frozen=True)
class Format:
    """A storage or arithmetic format of the DPU."""

    name: str
    code: int
    bits: int
    integer: bool

    @property
    def atom(self) -> int:
        """Elements of a 16-byte atom."""
        return 128 // self.bits


FORMATS: dict[int, Format] = {
    f.code: f
    for f in (
        Format("int8", 0, 8, True),
        Format("int16", 1, 16, True),
        Format("fp16", 2, 16, False),
        Format("bf16", 3, 16, False),
        Format("int32", 4, 32, True),
        Format("fp32", 5, 32, False),
        Format("int4", 6, 4, True),
    )
}
DPU_CODE: dict[int, int] = {0: 0, 1: 1, 2: 2, 3: 3, 6: 6, 7: 5}  # of the main format that a MAC format hands over
