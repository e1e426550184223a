"""The constants of a chip. One place for each limit; the hardware book's section is named beside it."""

from __future__ import annotations

from dataclasses import dataclass

ADDRESS_LIMIT = 1 << 32  # command words hold 32-bit addresses, and so do the starts of streams (uapi.md A.2, B)


@dataclass(frozen=True)
class Soc:
    """What the compiler and the simulator have to know about a chip."""

    name: str
    atom_bytes: int  # bytes of one atom, the unit of feature memory (npu.md §3.1)
    kernel_group: int  # output channels computed side by side, int8 direct convolution (§1)
    depthwise_group: int  # channels computed side by side, int8 depthwise convolution (§3.4)
    channel_chunk: int  # input channels per MAC step, int8 (§3.4)
    cbuf_banks: int  # §4
    cbuf_bank_bytes: int
    cbuf_entry_bytes: int  # a bank's row, the unit of the bank arithmetic
    cbuf_line_unit_bytes: int  # the unit of CBUF_CON1.DATA_ENTRIES (S-46)
    feature_slack_banks: int  # int8 features need one bank more than their size (S-73)
    line_group: int  # lines fetched together; heights below it are padded to it (S-69, S-181)
    kernel_bytes_limit: int  # bytes of one kernel (§8)
    largest_stride: int  # §8
    largest_kernel: int  # §8
    largest_dilation: int  # §8
    largest_padding: int  # §8, S-38
    largest_width: int  # pixels, §8
    largest_height: int  # pixels, §8; FEATURE_GRAINS limits nothing here, it is a hint
    largest_channels: int  # DPU field, §8
    largest_chain: int  # tasks one PC chain may have (S-199)
    stream_alignment: int  # bytes, start of a command stream (§8)
    page_bytes: int  # granularity of I/O addresses


@dataclass(frozen=True)
class Target:
    """A chip as a device offers it.

    ``forms``: register programs that are not proven on silicon but may be used, because the device passed their
    known-answer probe or because the user allows them. ``signals_pooling``: the kernel is told when a task of the PPU
    ends; the mainline kernel is not (S-137). ``converter_only``: weights of one scale are requantized by OUT_CVT alone,
    as the upstream driver does it, so that command words can be compared with its.
    """

    soc: Soc
    forms: frozenset[str] = frozenset()
    signals_pooling: bool = False
    converter_only: bool = False


# Forms without proof on RK3588 silicon, by name.
NORM_SHIFT = "BN multiplies by a register and shifts (int8)"
OPERAND_GAIN = "the element-wise unit adds an operand times a gain behind BS (int8)"
BS_CLAMP = "BS clamps at 0 or at a value of a register (int8)"
TABLE = "the DPU looks an integer up in its tables (int8)"
FLYING_SCALE = "a task without convolution adds and multiplies in BS and scales in OUT_CVT (int8)"
CHANNEL_GAIN = "BN adds a register, EW multiplies a convolution's result by a number a channel (int8)"
CHANNEL_OPERAND = "the element-wise operand is one number a channel for all pixels (int8)"
PART_OF_ROW = "CNA reads a part of each row, the line stride being that of the whole (int8)"
ROW_SKIP = "the DPU leaves memory out behind each row that it writes (int8)"
FORMS = (
    NORM_SHIFT,
    OPERAND_GAIN,
    BS_CLAMP,
    TABLE,
    FLYING_SCALE,
    CHANNEL_GAIN,
    CHANNEL_OPERAND,
    PART_OF_ROW,
    ROW_SKIP,
)

RK3588 = Soc(
    name="rk3588",
    atom_bytes=16,
    kernel_group=32,
    depthwise_group=64,
    channel_chunk=32,
    cbuf_banks=12,
    cbuf_bank_bytes=32768,
    cbuf_entry_bytes=128,
    cbuf_line_unit_bytes=64,
    feature_slack_banks=1,
    line_group=4,
    kernel_bytes_limit=32768,
    largest_stride=7,
    largest_kernel=31,
    largest_dilation=32,
    largest_padding=15,
    largest_width=2047,
    largest_height=2047,
    largest_channels=8192,
    largest_chain=4095,
    stream_alignment=64,
    page_bytes=4096,
)

SOCS = {RK3588.name: RK3588}

EVERY_FORM = Target(RK3588, frozenset(FORMS))
"""The chip as the simulator offers it."""

AS_UPSTREAM = Target(RK3588, frozenset({BS_CLAMP}), converter_only=True)
"""The chip as the upstream driver uses it, save that activations it leaves out are done."""
