"""Registers of the block PC. Program controller: fetches 64-bit command words by AXI and distributes them to the blocks; owns interrupts and the task counter.

Source: the hardware book's registers.json (TRM names, bit ranges from the TRM and Mesa's register list).
"""

from __future__ import annotations

from delegate.hw.registers import Bits, Block, Register, bit


class PC(Block, target=0x0101):
    # version: Hardware version word (low part added to VERSION_NUM by the kernel).
    VERSION = Register(0x0000, version=Bits(31, 0))
    # version_num: Hardware version number word.
    VERSION_NUM = Register(0x0004, version_num=Bits(31, 0))
    # op_en: By MMIO: start fetching. In a command word with target 0x0081 the register acts as a bitmap of blocks
    #   to fire, see stream_notes.
    OPERATION_ENABLE = Register(0x0008, op_en=bit(0))
    # pc_source_addr: IOVA of the next command stream, 16-byte aligned (value is the address itself, low 4 bits
    #   clear).
    # pc_sel: Configuration source. 0 PC mode, AXI fetch, 1 slave mode, AHB writes.
    BASE_ADDRESS = Register(0x0010, address=True, pc_source_addr=Bits(31, 4), pc_sel=bit(0))
    # pc_data_amount: Fetch length for one task. On RK3588 the unit is 2 command words (128 bit); mainline writes
    #   (words+1)/2-1.
    REGISTER_AMOUNTS = Register(0x0014, pc_data_amount=Bits(15, 0))
    # TRM: 17 bits wide; registers.xml names 14. Last task mask wins in PC mode. Kernel clears with 0x1ffff.
    # dma_write_error: AXI write error event.
    # dma_read_error: AXI read error event.
    # ppu_1: Done event of PPU, register group 1.
    # ppu_0: Done event of PPU, register group 0.
    # dpu_1: Done event of DPU, register group 1.
    # dpu_0: Done event of DPU, register group 0.
    # core_1: Done event of CORE, register group 1.
    # core_0: Done event of CORE, register group 0.
    # cna_csc_1: Done event of CNA_CSC, register group 1.
    # cna_csc_0: Done event of CNA_CSC, register group 0.
    # cna_weight_1: Done event of CNA_WEIGHT, register group 1.
    # cna_weight_0: Done event of CNA_WEIGHT, register group 0.
    # cna_feature_1: Done event of CNA_FEATURE, register group 1.
    # cna_feature_0: Done event of CNA_FEATURE, register group 0.
    INTERRUPT_MASK = Register(
        0x0020,
        reset=0x0001FFFF,
        dma_write_error=bit(13),
        dma_read_error=bit(12),
        ppu_1=bit(11),
        ppu_0=bit(10),
        dpu_1=bit(9),
        dpu_0=bit(8),
        core_1=bit(7),
        core_0=bit(6),
        cna_csc_1=bit(5),
        cna_csc_0=bit(4),
        cna_weight_1=bit(3),
        cna_weight_0=bit(2),
        cna_feature_1=bit(1),
        cna_feature_0=bit(0),
    )
    INTERRUPT_CLEAR = Register(
        0x0024,
        dma_write_error=bit(13),
        dma_read_error=bit(12),
        ppu_1=bit(11),
        ppu_0=bit(10),
        dpu_1=bit(9),
        dpu_0=bit(8),
        core_1=bit(7),
        core_0=bit(6),
        cna_csc_1=bit(5),
        cna_csc_0=bit(4),
        cna_weight_1=bit(3),
        cna_weight_0=bit(2),
        cna_feature_1=bit(1),
        cna_feature_0=bit(0),
    )
    INTERRUPT_STATUS = Register(
        0x0028,
        dma_write_error=bit(13),
        dma_read_error=bit(12),
        ppu_1=bit(11),
        ppu_0=bit(10),
        dpu_1=bit(9),
        dpu_0=bit(8),
        core_1=bit(7),
        core_0=bit(6),
        cna_csc_1=bit(5),
        cna_csc_0=bit(4),
        cna_weight_1=bit(3),
        cna_weight_0=bit(2),
        cna_feature_1=bit(1),
        cna_feature_0=bit(0),
    )
    INTERRUPT_RAW_STATUS = Register(
        0x002C,
        dma_write_error=bit(13),
        dma_read_error=bit(12),
        ppu_1=bit(11),
        ppu_0=bit(10),
        dpu_1=bit(9),
        dpu_0=bit(8),
        core_1=bit(7),
        core_0=bit(6),
        cna_csc_1=bit(5),
        cna_csc_0=bit(4),
        cna_weight_1=bit(3),
        cna_weight_0=bit(2),
        cna_feature_1=bit(1),
        cna_feature_0=bit(0),
    )
    # Vendor kernel writes ((0x6 | pp_en) << 12) | task_number, i.e. bits 14 and 13 plus the ping-pong enable in
    # bit 12; mainline writes RESERVED_0=1 (bit 14), COUNT_CLEAR, PP_EN, TASK_NUMBER=1.
    # task_count_clear: Write 1 to clear the task counter.
    # task_pp_en: Prefetch the next task into the other register group while the current runs. 0 off, 1 ping-pong.
    # task_number: Number of tasks the PC executes before raising the final interrupt (12 bit, so at most 4095).
    TASK_CON = Register(0x0030, task_count_clear=bit(13), task_pp_en=bit(12), task_number=Bits(11, 0))
    # dma_base_addr: Added to every DMA address issued by the blocks; known drivers write 0.
    TASK_DMA_BASE_ADDR = Register(0x0034, dma_base_addr=Bits(31, 4))
    # task_status: [11:0] current task counter; upper bits say first/last task running or fetching.
    TASK_STATUS = Register(0x003C, task_status=Bits(27, 0))
