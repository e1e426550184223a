"""DPU_RDMA: why a field may have no effect."""

from __future__ import annotations

from delegate.hw.regs import DPU_RDMA
from delegate.tools.mutate.outcome import Reason
from delegate.tools.mutate.reasons.conditions import (
    both,
    either,
    feeds_residual,
    field,
    from_memory,
    get,
    main_surfaces,
    no_operand,
    operand_surfaces,
    takes,
)

modes = field(DPU_RDMA.RDMA_FEATURE_MODE_CFG, "mrdma_disable", 1)
RDMA_REASONS = (
    Reason(
        ("DPU_RDMA.RDMA_ERDMA_CFG.*", "DPU_RDMA.RDMA_EW*"),
        "no operand is fetched (§5.4)",
        field(DPU_RDMA.RDMA_ERDMA_CFG, "erdma_disable", 1),
    ),
    Reason(
        ("DPU_RDMA.RDMA_ERDMA_CFG.*", "DPU_RDMA.RDMA_EW*"),
        "an operand is fetched that EW does not take (F-87)",
        lambda r, c: not from_memory(r),
    ),
    Reason(("DPU_RDMA.RDMA_SRC_BASE_ADDR.*", "DPU_RDMA.RDMA_SURF_NOTCH.*"), "the main DMA is off (S-114)", modes),
    Reason(
        ("DPU_RDMA.RDMA_FEATURE_MODE_CFG.*precision", "*.mrdma_fp16tofp32_en"),
        "main DMA and operand DMA are off (S-114)",
        both(modes, no_operand),
    ),
    Reason(
        ("DPU_RDMA.RDMA_FEATURE_MODE_CFG.in_precision", "*.mrdma_fp16tofp32_en"),
        "of the main feed, which is off (S-114)",
        modes,
    ),
    Reason(
        ("DPU_RDMA.RDMA_FEATURE_MODE_CFG.in_precision",),
        "of the main feed; a fused operand has ERDMA's size (§5.4)",
        lambda r, c: feeds_residual(r),
    ),
    Reason(
        ("*.mrdma_fp16tofp32_en",),
        "fp16 runs with either (F-111)",
        lambda r, c: get(r, DPU_RDMA.RDMA_FEATURE_MODE_CFG, "in_precision") == 2 or feeds_residual(r),
    ),
    Reason(
        ("DPU_RDMA.RDMA_FEATURE_MODE_CFG.comb_use",),
        "4 and 0 both run flying (S-109)",
        field(DPU_RDMA.RDMA_FEATURE_MODE_CFG, "flying_mode", 1),
    ),
    Reason(
        ("DPU_RDMA.RDMA_SURF_NOTCH.*",), "one surface comes through the main DMA", lambda r, c: main_surfaces(r) == 1
    ),
    Reason(
        ("DPU_RDMA.RDMA_EW_SURF_NOTCH.*", "DPU_RDMA.RDMA_EW_SURF_STRIDE.*"),
        "one surface comes through the operand DMA",
        lambda r, c: operand_surfaces(r) <= 1,
    ),
    Reason(
        ("DPU_RDMA.RDMA_EW_SURF_STRIDE.*",),
        "with COMB_USE 5 the pitch is the plane and the notch; 0 is refused (F-67)",
        lambda r, c: feeds_residual(r),
    ),
    Reason(
        ("DPU_RDMA.RDMA_EW_BASE_ADDR.*",),
        "one surface: the main DMA fetches it (F-67)",
        lambda r, c: feeds_residual(r) and operand_surfaces(r) == 0,
    ),
    *(
        Reason(
            (f"DPU_RDMA.RDMA_{a}RDMA_CFG.*", f"DPU_RDMA.RDMA_B{b}_BASE_ADDR.*"),
            f"{a}RDMA is off or fetches nothing (S-158)",
            either(field(config, f"{a.lower()}rdma_disable", 1), field(config, f"{a.lower()}rdma_data_use", 0)),
        )
        for a, b, config in (("B", "S", DPU_RDMA.RDMA_BRDMA_CFG), ("N", "N", DPU_RDMA.RDMA_NRDMA_CFG))
    ),
    Reason(
        ("DPU_RDMA.RDMA_BRDMA_CFG.*", "DPU_RDMA.RDMA_BS_BASE_ADDR.*"),
        "BS takes nothing from memory: a client left on changes nothing (S-32)",
        lambda r, c: not takes(r, "bs"),
    ),
    Reason(
        ("DPU_RDMA.RDMA_NRDMA_CFG.*", "DPU_RDMA.RDMA_BN_BASE_ADDR.*"),
        "BN takes nothing from memory: a client left on changes nothing (S-32)",
        lambda r, c: not takes(r, "bn"),
    ),
)
