"""Conditions on a task's registers under which a field has no effect."""

from __future__ import annotations

from collections.abc import Callable

from delegate.hw.registers import Register
from delegate.hw.regs import CNA, DPU, DPU_RDMA
from delegate.hw.sim.precision import FORMATS, PRECISIONS
from delegate.hw.sim.registers import TaskRegisters
from delegate.tools.mutate.outcome import Change

When = Callable[[TaskRegisters, Change], bool]


def get(regs: TaskRegisters, register: Register, label: str) -> int:
    """A field of the task, -1 where the block does not run."""
    return regs[register][label] if register.block in regs.groups else -1


def field(register: Register, label: str, *values: int) -> When:
    """The field has one of the values."""
    return lambda regs, change: get(regs, register, label) in values


def either(*conditions: When) -> When:
    return lambda regs, change: any(condition(regs, change) for condition in conditions)


def both(*conditions: When) -> When:
    return lambda regs, change: all(condition(regs, change) for condition in conditions)


def negate(condition: When) -> When:
    return lambda regs, change: not condition(regs, change)


def only_bits(mask: int) -> When:
    """Nothing but these bits of the field changed."""
    return lambda regs, change: not (change.old ^ change.new) & ~mask


def is_float(regs: TaskRegisters, change: Change) -> bool:
    """The MAC works on floats."""
    precision = PRECISIONS.get(get(regs, CNA.CONV_CON1, "in_precision"))
    return precision is not None and not precision.integer


def surfaces(regs: TaskRegisters) -> int:
    """Surfaces that the writer fills."""
    kind = FORMATS[get(regs, DPU.DATA_FORMAT, "out_precision")]
    return get(regs, DPU.DATA_CUBE_CHANNEL, "channel") // kind.atom + 1


def one_surface_of_features(regs: TaskRegisters, change: Change) -> bool:
    precision = PRECISIONS[get(regs, CNA.CONV_CON1, "in_precision")]
    return get(regs, CNA.DATA_SIZE1, "datain_channel") <= precision.atom or bool(get(regs, CNA.CONV_CON1, "argb_in"))


def no_padding(regs: TaskRegisters, change: Change) -> bool:
    """No window leaves the input."""
    size, pads, steps = regs[CNA.WEIGHT_SIZE2], regs[CNA.PAD_CON0], regs[CNA.CONV_CON3]
    width, atoms = get(regs, CNA.DATA_SIZE2, "dataout_width"), get(regs, CNA.DATA_SIZE3, "dataout_atomics")
    inside = not any(pads.values())
    for out, extent, axis in ((width, "width", "x"), (atoms // width, "height", "y")):
        factor = steps[f"deconv_{axis}_stride"] + 1 if get(regs, CNA.CONV_CON1, "deconv") else 1
        reach = (size[f"weight_{extent}"] - 1) * (steps[f"atrous_{axis}_dilation"] + 1) + 1
        reach += (out - 1) * steps[f"conv_{axis}_stride"]
        inside = inside and reach <= (get(regs, CNA.DATA_SIZE0, f"datain_{extent}") - 1) * factor + 1
    return inside


def no_operand(regs: TaskRegisters, change: Change) -> bool:
    """Neither EW's DMA is armed nor does it work."""
    return get(regs, DPU_RDMA.RDMA_ERDMA_CFG, "erdma_disable") == 1 and not from_memory(regs)


def from_memory(regs: TaskRegisters) -> bool:
    """EW takes its operand from memory."""
    return elementwise(regs) and get(regs, DPU.EW_CFG, "ew_op_src") == 1


def elementwise(regs: TaskRegisters) -> bool:
    """EW's operation is live."""
    config = regs[DPU.EW_CFG]
    return not config["ew_bypass"] and not config["ew_op_bypass"] and bool(config["ew_lut_bypass"])


def table(regs: TaskRegisters, change: Change) -> bool:
    """A lookup table is live."""
    config = regs[DPU.EW_CFG]
    return not config["ew_bypass"] and not config["ew_lut_bypass"]


def feeds_residual(regs: TaskRegisters) -> bool:
    return get(regs, DPU_RDMA.RDMA_FEATURE_MODE_CFG, "comb_use") == 5


def float_datapath(regs: TaskRegisters, change: Change) -> bool:
    return not FORMATS[get(regs, DPU.DATA_FORMAT, "proc_precision")].integer


def integer_datapath(regs: TaskRegisters, change: Change) -> bool:
    return not float_datapath(regs, change)


def takes(regs: TaskRegisters, name: str) -> bool:
    """BS or BN (or CPEND, with BS) reads operands from memory."""
    config, factor = regs[getattr(DPU, f"{name.upper()}_CFG")], regs[getattr(DPU, f"{name.upper()}_MUL_CFG")]
    alu = not config[f"{name}_alu_bypass"] and config[f"{name}_alu_src"]
    multiply = not config[f"{name}_mul_bypass"] and factor[f"{name}_mul_src"]
    pend = name == "bs" and regs[DPU.BS_OW_CFG]["ow_src"] and not regs[DPU.BS_OW_CFG]["od_bypass"]
    return bool(not config[f"{name}_bypass"] and (alu or multiply)) or bool(pend)


def main_surfaces(regs: TaskRegisters) -> int:
    channels = get(regs, DPU_RDMA.RDMA_DATA_CUBE_CHANNEL, "channel") + 1
    if feeds_residual(regs):
        return -(-_surfaces(regs, channels) // 2)
    return -(-channels // FORMATS[get(regs, DPU_RDMA.RDMA_FEATURE_MODE_CFG, "in_precision")].atom)


def operand_surfaces(regs: TaskRegisters) -> int:
    count = _surfaces(regs, get(regs, DPU_RDMA.RDMA_DATA_CUBE_CHANNEL, "channel") + 1)
    return count // 2 if feeds_residual(regs) else count


def _surfaces(regs: TaskRegisters, channels: int) -> int:
    size = {1: 1, 2: 2, 3: 4}.get(get(regs, DPU_RDMA.RDMA_ERDMA_CFG, "erdma_data_size"), 1)  # bytes
    return -(-channels * size // 16)
