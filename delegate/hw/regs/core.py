"""Registers of the block CORE. MAC array and accumulator (NVDLA CMAC+CACC).

Source: the hardware book's registers.json (TRM names, bit ranges from the TRM and Mesa's register list).
"""

from __future__ import annotations

from delegate.hw.registers import Bits, Block, Register, bit


class CORE(Block, target=0x0801):
    # status_1: State of register group 1. 0 idle, 1 busy, 2 busy, other group queued.
    # status_0: State of register group 0. 0 idle, 1 busy, 2 busy, other group queued.
    S_STATUS = Register(0x3000, status_1=Bits(17, 16), status_0=Bits(1, 0))
    # Same rule as CNA.S_POINTER.
    # executer: Read only: group the datapath is using.
    # executer_pp_clear: Write 1: executer pointer back to group 0.
    # pointer_pp_clear: Write 1: write pointer back to group 0.
    # pointer_pp_mode: What toggles the write pointer. 0 follows executer, 1 toggles by itself.
    # executer_pp_en: Executer alternates groups.
    # pointer_pp_en: Write pointer alternates groups.
    # pointer: Group that receives register writes.
    S_POINTER = Register(
        0x3004,
        executer=bit(16),
        executer_pp_clear=bit(5),
        pointer_pp_clear=bit(4),
        pointer_pp_mode=bit(3),
        executer_pp_en=bit(2),
        pointer_pp_en=bit(1),
        pointer=bit(0),
    )
    # op_en: Start the block with the currently selected group (shadowed register).
    OPERATION_ENABLE = Register(0x3008, op_en=bit(0))
    # slcg_op_en: Clock gating bits; reset 0x7800800. Bit 11/23 clock output lanes 0-7/8-15, bit 24 must stay set.
    MAC_GATING = Register(0x300C, reset=0x07800800, slcg_op_en=Bits(26, 0))
    # soft_gating: Accumulator soft clock gating.
    # proc_precision: MAC precision. 0 int8, 1 int16, 2 fp16, 3 bf16, 6 int4, 7 tf32.
    # dw_en: Depthwise MAC mode.
    # qd_en: Quantised data path: 1 for on-chip requantised int8 output and for fp16 programs, 0 for raw int32
    #   output in the reference matmul.
    MISC_CFG = Register(0x3010, soft_gating=Bits(19, 14), proc_precision=Bits(10, 8), dw_en=bit(1), qd_en=bit(0))
    # dataout_height: Output rows minus 1.
    # dataout_width: Output width minus 1.
    DATAOUT_SIZE_0 = Register(0x3014, dataout_height=Bits(31, 16), dataout_width=Bits(15, 0))
    # dataout_channel: Output channels (padded) minus 1.
    DATAOUT_SIZE_1 = Register(0x3018, dataout_channel=Bits(15, 0))
    # round_type: Tie rule of CLIP_TRUNCATE. 0 ties to even, 1 ties away from zero (TRM: always carry).
    # clip_truncate: Right shift of the accumulator before the 32-bit hand-over to the DPU.
    CLIP_TRUNCATE = Register(0x301C, round_type=bit(6), clip_truncate=Bits(4, 0))
    # Undocumented; all known programs write 0; any value is inert on silicon.
    # value: Undocumented; all known programs write 0; any value is inert on silicon.
    UNDOC_3030 = Register(0x3030, value=Bits(31, 0))
