"""Small captures, written by hand, in the format of ../shared/golden."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

# A task that adds a second tensor to a first, both flying (mask 0x18); the element-wise unit is told to subtract by 4.
ADDRESSES = {"DPU_RDMA 5018": (3, 0), "DPU_RDMA 5038": (3, 512), "DPU 4020": (4, 0)}
BASES = {1: 0x20000000, 2: 0x20001000, 3: 0x20021000, 4: 0x20022000}
SIZES = {1: 4096, 2: 0x20000, 3: 4096, 4: 4096}


def words(width: int = 7, algorithm: int = 2, link: bool = False) -> list[list[Any]]:
    """The words of a task."""
    return [
        ["DPU", "4004", "0000000e"],
        ["DPU", "4030", f"{width:08x}"],
        ["DPU", "4070", f"{0x108002C0 | algorithm << 16:08x}"],
        *([*name.split(), f"{BASES[bo] + offset:08x}", [bo, offset]] for name, (bo, offset) in ADDRESSES.items()),
        ["PC", "0010", "20001400", [2, 1024]] if link else ["0000", "0000", "00000000"],
        ["PC", "0014", "00000005" if link else "00000000"],
        ["VERSION", "0000", "00000000"],
        ["PC_OP_EN", "0008", "00000018"],
    ]


def buffers(rknpu: bool) -> list[dict[str, Any]]:
    flags = {"flags": 8} if rknpu else {}
    return [{"bo": bo, "size": SIZES[bo], "iova": base, "fd": 5, **flags} for bo, base in BASES.items()]


def rocket(tasks: list[list[list[Any]]]) -> dict[str, Any]:
    """One job of the mainline driver."""
    listed = [
        {"regcmd": [2, 1024 * index], "count": len(stream), "words": stream} for index, stream in enumerate(tasks)
    ]
    job = {"in_bos": [3, 2], "out_bos": [4], "tasks": listed}
    return {
        "case": {"name": "pair", "op": "element-wise add"},
        "uapi": "rocket",
        "bos": buffers(False),
        "submits": [{"id": 0, "jobs": [job]}],
    }


def rknpu(tasks: list[list[list[Any]]]) -> dict[str, Any]:
    """One submit of the vendor's driver: a chain on the first core."""
    records = [
        {
            "regcmd": [2, 1024 * index],
            "count": len(stream),
            "words": stream,
            "flags": 0,
            "op_idx": 4,
            "enable_mask": 24,
            "int_mask": 768,
            "int_clear": 131071,
            "regcfg_amount": len(stream) - 4,
            "regcfg_offset": 0,
        }
        for index, stream in enumerate(tasks)
    ]
    submit = {
        "id": 0,
        "flags": 5,
        "timeout": 6000,
        "task_start": 0,
        "task_number": len(tasks),
        "core_mask": 1,
        "subcore_task": [[0, len(tasks)], [0, 0], [0, 0], [0, 0], [0, 0]],
        "tasks": records,
    }
    case = {"name": "chain", "op": "element-wise add"}
    return {"case": case, "uapi": "rknpu", "bos": buffers(True), "submits": [submit]}


def write(folder: Path, data: Any) -> Path:
    """A capture folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / "stream.json.gz", "wt") as file:
        json.dump(data, file)
    return folder
