"""The vendor driver's interface: nodes, flags, structures, requests (uapi.md B, the vendor kernel's rknpu_ioctl.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

from delegate.errors import DeviceError
from delegate.hw import drm
from delegate.hw.drm import COMMAND_BASE, DRM, Request, s32, s64, u32, u64
from delegate.hw.regcmd import fire_names

MISC_NODE = "/dev/rknpu"
NODES = ("/dev/dri/renderD*", "/dev/dri/card*", MISC_NODE)
MISC = ord("r")  # magic of the ioctls of MISC_NODE
ABSENT = (
    "check that the board is an RK3588 with the vendor's kernel (5.10 or 6.1), that it has CONFIG_ROCKCHIP_RKNPU, and "
    'that the device tree enables the NPU (compatible "rockchip,rk3588-rknpu", status "okay")'
)
WORD_BYTES = 8
TAIL_WORDS = 4  # of a stream, which regcfg_amount does not count
TIMEOUT = 6000  # ms for a chain, as the vendor's own users give; the kernel resets the NPU after it
INT_CLEAR = 0x1FFFF
DPU_DONE, PPU_DONE = 0x300, 0xC00  # interrupt bits, both groups
MEM_CREATE_GREW = 906  # driver version, of 0.9.6, from which mem_create has 48 bytes

# Flags of memory.
NON_CONTIGUOUS, CACHEABLE, KERNEL_MAPPING, IOMMU, ZEROING = 0x1, 0x2, 0x8, 0x10, 0x20
# Flags of a submit.
PC, PINGPONG = 0x1, 0x4
TO_DEVICE, FROM_DEVICE = 1, 2
GET_HW_VERSION, GET_DRV_VERSION, GET_FREQ, RESET, GET_IOMMU_EN = 0, 1, 2, 6, 18


class Action(ctypes.Structure):
    """rknpu_action."""

    _fields_ = [("flags", u32), ("value", u32)]


class MemCreate(ctypes.Structure):
    """rknpu_mem_create of drivers before MEM_CREATE_GREW."""

    _fields_ = [
        ("handle", u32),  # out; of MISC_NODE a file descriptor
        ("flags", u32),
        ("size", u64),  # bytes
        ("obj_addr", u64),  # out; names the memory in other requests
        ("dma_addr", u64),  # out
        ("sram_size", u64),
    ]


class MemCreateDomain(ctypes.Structure):
    """rknpu_mem_create since."""

    _fields_ = [*MemCreate._fields_, ("iommu_domain_id", s32), ("core_mask", u32)]


class MemMap(ctypes.Structure):
    """rknpu_mem_map."""

    _fields_ = [("handle", u32), ("reserved", u32), ("offset", u64)]


class MemDestroy(ctypes.Structure):
    """rknpu_mem_destroy."""

    _fields_ = [("handle", u32), ("reserved", u32), ("obj_addr", u64)]


class MemSync(ctypes.Structure):
    """rknpu_mem_sync."""

    _fields_ = [
        ("flags", u32),
        ("reserved", u32),
        ("obj_addr", u64),
        ("offset", u64),  # bytes
        ("size", u64),  # bytes
    ]


class Range(ctypes.Structure):
    """rknpu_subcore_task: a range of the task array."""

    _fields_ = [("task_start", u32), ("task_number", u32)]


class Submit(ctypes.Structure):
    """rknpu_submit."""

    _fields_ = [
        ("flags", u32),
        ("timeout", u32),  # ms
        ("task_start", u32),
        ("task_number", u32),
        ("task_counter", u32),  # out
        ("priority", s32),
        ("task_obj_addr", u64),
        ("iommu_domain_id", u32),  # with the next: regcfg_obj_addr of old drivers
        ("reserved", u32),
        ("task_base_addr", u64),
        ("hw_elapse_time", s64),  # ns, out
        ("core_mask", u32),
        ("fence_fd", s32),
        ("subcore_task", Range * 5),
    ]


class Task(ctypes.Structure):
    """rknpu_task, packed."""

    _pack_ = 1
    _fields_ = [
        ("flags", u32),
        ("op_idx", u32),
        ("enable_mask", u32),  # what the stream fires
        ("int_mask", u32),
        ("int_clear", u32),
        ("int_status", u32),  # out
        ("regcfg_amount", u32),  # words without the tail
        ("regcfg_offset", u32),
        ("regcmd_addr", u64),
    ]


MEM_CREATE_OFFSETS = (0, 4, 8, 16, 24, 32)
drm.check_layout(Action, 8, (0, 4))
drm.check_layout(MemCreate, 40, MEM_CREATE_OFFSETS)
drm.check_layout(MemMap, 16, (0, 4, 8))
drm.check_layout(MemDestroy, 16, (0, 4, 8))
drm.check_layout(MemSync, 32, (0, 4, 8, 16, 24))
drm.check_layout(Range, 8, (0, 4))
drm.check_layout(MemCreateDomain, 48, (*MEM_CREATE_OFFSETS, 40, 44))
drm.check_layout(Submit, 104, (0, 4, 8, 12, 16, 20, 24, 32, 36, 40, 48, 56, 60, 64))
drm.check_layout(Task, 40, (0, 4, 8, 12, 16, 20, 24, 28, 32))

STRUCTURES: Mapping[type[ctypes.Structure], tuple[str, int]] = {
    Action: ("ACTION", 0),
    Submit: ("SUBMIT", 1),
    MemCreate: ("MEM_CREATE", 2),
    MemCreateDomain: ("MEM_CREATE", 2),
    MemMap: ("MEM_MAP", 3),
    MemDestroy: ("MEM_DESTROY", 4),
    MemSync: ("MEM_SYNC", 5),
}


def request(structure: type[ctypes.Structure], misc: bool = False) -> Request:
    """The request that takes a structure, on a DRM node or on MISC_NODE."""
    name, number = STRUCTURES[structure]
    magic, base, prefix = (MISC, 0, "IOCTL") if misc else (DRM, COMMAND_BASE, "DRM_IOCTL")
    return Request(f"{prefix}_RKNPU_{name}", drm.code("rw", magic, base + number, ctypes.sizeof(structure)))


def action(file: int, what: int, misc: bool = False) -> int:
    """What an ACTION says; raises DeviceError."""
    argument = Action(flags=what)
    drm.call(file, request(Action, misc), argument)
    return int(argument.value)


def identify(file: int, path: Path) -> tuple[str, str]:
    """(driver's name, version) of a node; MISC_NODE can be no other driver's. Raises DeviceError."""
    if str(path) != MISC_NODE:
        return drm.read_version(file)
    version = action(file, GET_DRV_VERSION, misc=True)
    return "rknpu", f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def subcores(ranges: Mapping[int, range]) -> ctypes.Array[Range]:
    """The ranges of the cores as a submit takes them: three cores have theirs in the last three places (S-104, S-208).

    ``ranges``: of the task array, by core.
    """
    first = 2 if len(ranges) == 3 else 0
    result = (Range * 5)()
    for core, tasks in ranges.items():
        result[first + core] = Range(tasks.start, len(tasks))
    return result


def interrupts(fired: int) -> int:
    """The interrupt that ends a task, by the bitmap of blocks that it fires: the last block in line has the word."""
    names = fire_names(fired)
    if "PPU" in names:
        return PPU_DONE
    if "DPU" in names:
        return DPU_DONE
    raise DeviceError(f"a task fires {'|'.join(names) or 'nothing'}: without DPU or PPU no interrupt ends it")
