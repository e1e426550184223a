"""The captured programs of other drivers beside their expected results (golden/programs/README.md)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.hw.regcmd import FIRE_BITS, FIRE_TARGET
from delegate.hw.registers import Register, split
from delegate.hw.regs import DPU, PPU
from delegate.tools.capture import Capture, CaptureError, CaptureTask, read_arrays
from delegate.tools.replay import Replay

Array = npt.NDArray[Any]

# What a precision code of DPU.DATA_FORMAT or PPU.DATA_FORMAT leaves in memory (npu.md §1).
TRANSPOSED = 1  # the transposed writer leaves 16 bits, whatever the code (S-127)
FORMATS: Mapping[int, Any] = {0: np.int8, 1: np.int16, 2: np.float16, 4: np.int32, 5: np.float32}
ABOUT = 1.5  # "about 1e-2" is not exceeded by more than half as much again
ACCUMULATION = 1e-5  # of the largest result, which is at most sum |a * b|: order of summation in single precision
HALF_STEP = 0.5001  # of the last place: one rounding
NUMBER = r"(\d[\d.]*(?:e-?\d+)?)"
ELEMENT_LIMIT = 1 << 26


@dataclass(frozen=True)
class CaseResult:
    """How a program's result compares."""

    judged: bool  # False: the streams are good, the numbers cannot be compared
    elements: int  # that are compared
    rounded: int  # of them right to the rounding of the output type and the order of summation; integers: equal
    within: int  # of them within the stated tolerance
    largest: float  # difference
    bit_equal: bool | None  # to expected_hw; None where there is none
    notes: tuple[str, ...]

    result: Array  # all elements, in the shape of the expected result

    @property
    def passed(self) -> bool:
        return not self.judged or (self.within == self.elements and self.bit_equal is not False)


def judge_case(capture: Capture, replay: Replay) -> CaseResult | None:
    """Compares the result of a replay that has run; None where the capture is no case or has no expected result."""
    case = capture.facts.get("case")
    file = capture.path.parent / "expected.npz"
    if not isinstance(case, Mapping) or not file.exists():
        return None
    try:
        return _judge(capture, replay, case, read_arrays(file))
    except CaptureError as error:
        raise CaptureError(f"{file}: {error}") from None
    except Exception as error:  # zlib.error and the like have no common base; all of it comes from the file
        raise CaptureError(f"{file}: malformed: {type(error).__name__}: {error}") from None


def _judge(capture: Capture, replay: Replay, case: Mapping[str, Any], arrays: Mapping[str, Array]) -> CaseResult:
    wanted = arrays["expected"]
    places = Places(capture, case, arrays)
    dtype = places.dtype
    found = places.read(replay)
    got = found.astype(np.float64)
    valid = arrays["valid"].astype(bool) if "valid" in arrays else np.ones(wanted.shape, bool)
    notes = []
    if np.issubdtype(dtype, np.integer):
        low, high = np.iinfo(dtype).min + places.lift, np.iinfo(dtype).max + places.lift
        fits = (wanted >= low) & (wanted <= high)
        if not fits[valid].all():
            notes.append(f"{int((~fits & valid).sum())} results do not fit {dtype}: not compared")
        valid = valid & fits
    hardware = arrays.get("expected_hw")
    near, far = allowances(str(case.get("tolerance", "")), dtype, wanted.astype(np.float64), hardware is not None)
    difference = np.abs(got - wanted)
    difference[got == wanted] = 0  # infinities
    judged = bool(case.get("judge", True))
    stuck = repeated(capture)
    if judged and stuck and (difference > np.maximum(near, far))[valid].any():
        judged = False
        notes.append(f"{stuck} submits repeat the one before word for word: the program got stuck, results are missing")
    return CaseResult(
        judged=judged,
        elements=int(valid.sum()),
        rounded=int((difference <= near)[valid].sum()),
        within=int((difference <= np.maximum(near, far))[valid].sum()),
        largest=float(difference[valid].max(initial=0)),
        bit_equal=None if hardware is None else bool(np.array_equal(got[valid], hardware[valid])),
        notes=tuple(notes),
        result=found,
    )


def allowances(text: str, dtype: np.dtype[Any], wanted: Array, exact_known: bool) -> tuple[Array, Array]:
    """What an element may be off by rounding alone, and by the tolerance that the case states in words."""
    if np.issubdtype(dtype, np.integer):
        # Beside an exact expectation from the words, the one from real scales may be off by one.
        near = np.full(wanted.shape, float(exact_known))
        return near, near
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.spacing(np.abs(wanted).astype(dtype)).astype(np.float64)
    near = HALF_STEP * np.nan_to_num(steps, nan=0.0)
    if re.search("sum|accumul|partial", text):
        near = near + ACCUMULATION * float(np.abs(wanted).max(initial=0))
    stated, relative = 0.0, 0.0
    for about, number, kind in re.findall(rf"(about )?{NUMBER} (absolute|relative)", text):
        value = float(number) * (ABOUT if about else 1)
        stated, relative = (max(stated, value), relative) if kind == "absolute" else (stated, max(relative, value))
    for number in re.findall(rf"allows {NUMBER}", text):
        stated = max(stated, float(number.rstrip(".")))
    return near, near + stated + relative * np.abs(wanted)


class Places:
    """Where the elements of a result lie, and of which type they are."""

    def __init__(self, capture: Capture, case: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        shape, offsets = arrays["expected"].shape, arrays["offsets"].astype(np.int64)
        if offsets.size > ELEMENT_LIMIT or offsets.min(initial=0) < 0:
            raise CaptureError(f"offsets of {offsets.size} elements from {offsets.min(initial=0)}")
        self.capture, self.offsets = capture, offsets.reshape(shape)
        columns = arrays.get("out_bo_of_column")
        handles = case["out"]["bo"] if columns is None else columns
        self.handles = np.broadcast_to(np.asarray(handles, np.int64), shape)
        self.dtype = written_type(capture, {int(handle) for handle in np.unique(self.handles)})
        # A uint8 tensor lies in memory less 128 (S-34).
        self.lift = 128 if case.get("out_dtype") == "uint8" and self.dtype == np.int8 else 0

    def bytes(self, buffers: Mapping[int, npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
        """The bytes of every element, (..., bytes of an element)."""
        result = np.zeros((*self.offsets.shape, self.dtype.itemsize), np.uint8)
        for handle in np.unique(self.handles):
            mine, buffer = self.handles == handle, buffers.get(int(handle))
            at = self.offsets[mine][:, None] + np.arange(self.dtype.itemsize)
            if buffer is None or at.max(initial=0) >= buffer.size:
                raise CaptureError(f"the result reaches byte {at.max(initial=0)} of buffer {handle}")
            result[mine] = buffer[at]
        return result

    def read(self, replay: Replay) -> Array:
        """The elements, in the shape of the expected result."""
        values: Array = self.bytes(replay.buffers).view(self.dtype)[..., 0]
        return values.astype(np.int64) + self.lift if self.lift else values


def repeated(capture: Capture) -> int:
    """Submits that send what the one before sent, to buffers that the host has not touched in between."""
    count = 0
    for before, submit in pairwise(capture.submits):
        same = len(before.tasks) == len(submit.tasks) and not submit.contents
        pairs = zip(before.tasks, submit.tasks, strict=False)
        count += same and all(old.address == new.address and np.array_equal(old.words, new.words) for old, new in pairs)
    return count


def written_type(capture: Capture, handles: set[int]) -> np.dtype[Any]:
    """The element type of the last task that writes into one of the buffers, from its words."""
    ranges = [(buffer.address, buffer.address + buffer.size) for buffer in capture.buffers if buffer.handle in handles]
    registers: dict[tuple[int, int], int] = {}
    code = None
    for task in started(capture):
        for target, offset, value in map(split, task.words.tolist()):
            registers[target, offset] = value
            if target == FIRE_TARGET:
                code = _precision(registers, value, ranges, code)
    if code is None or code not in FORMATS:
        raise CaptureError(f"precision {code} of the task that writes buffers {sorted(handles)}")
    return np.dtype(FORMATS[code])


def started(capture: Capture) -> Iterator[CaptureTask]:
    """The tasks that run, in order: a start takes the tasks behind its first one along."""
    for submit in capture.submits:
        places = {id(task): index for index, task in enumerate(submit.tasks)}
        for start in (start for job in submit.starts for start in job):
            first = places[id(start.task)]
            yield from submit.tasks[first : first + start.tasks]


def _precision(
    registers: Mapping[tuple[int, int], int], fire: int, ranges: list[tuple[int, int]], before: int | None
) -> int | None:
    """The precision code of a task if it writes into one of the ranges, else that of the one before."""
    writers = (
        ("DPU", DPU.DST_BASE_ADDR, DPU.DATA_FORMAT, "out_precision"),
        ("PPU", PPU.DST_BASE_ADDR, PPU.DATA_FORMAT, "proc_precision"),
    )
    for name, target, form, label in writers:
        if fire >> FIRE_BITS[name] & 1:
            address = registers.get((target.block.target, target.offset), -1)
            if any(first <= address < end for first, end in ranges):
                if name == "DPU" and _value(registers, DPU.BS_OW_CFG, "tp_org_en"):
                    return TRANSPOSED
                return _value(registers, form, label)
    return before


def _value(registers: Mapping[tuple[int, int], int], register: Register, label: str) -> int:
    return register.fields[label].decode(registers.get((register.block.target, register.offset), register.reset))
