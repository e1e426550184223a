"""Captured matrix products beside ours: the same results, and the same words but for what is listed here.

For each captured task our own task of the same product is changed step by step, one listed deviation after the other,
until it is the captured one; whatever is left then is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from delegate.errors import DelegateError
from delegate.hw.emit.product import CODES, RESULTS, Form, Matrix, ProductTile, emit_product
from delegate.hw.emit.stream import FIRE_CONVOLUTION, assemble
from delegate.hw.layout import divide_up
from delegate.hw.regcmd import parse_word
from delegate.hw.registers import Register
from delegate.hw.regs import CNA, CORE, DPU, DPU_RDMA, PC
from delegate.hw.soc import RK3588
from delegate.hw.task import Words
from delegate.matmul.api import Matmul
from delegate.matmul.packing import packing_of
from delegate.matmul.plan import bucket, feature_banks
from delegate.matmul.program import lay_out, plan_steps
from delegate.tools.capture import Capture, CaptureTask, load, read_arrays
from delegate.tools.captured.cases import judge_case
from delegate.tools.captured.sent import Fields
from delegate.tools.replay import Replay

FIRE = "FIRE"
Values = dict[str, int]  # by full name of the register

DEVIATIONS: Mapping[str, tuple[str, str]] = {
    "rows as they are": ("M is filled up to a multiple of 4; theirs is M", "S-69, F-41"),
    "wider group": ("N is filled up to groups of 16 for fp16; theirs to 32", "S-42"),
    "their tiles": ("our task is one of its own; theirs is one of several tiles or parts of K", "S-82, S-97"),
    "cubes": ("A and C lie in rows; theirs are cubes", "S-40, S-47, S-48"),
    "gaps in rows": ("halves of C follow each other; theirs leave a gap after each 16", "C-20"),
    "banks": ("CBUF banks: int8 has one more for features (S-73); theirs has what the rows fill", "S-73, npu.md §4"),
    "reuse": ("A stays in the CBUF, or B, where another task needs it; theirs otherwise", "S-75"),
    "grains": ("FEATURE_GRAINS is rows + 1; theirs is another number, which is only a hint", "S-183"),
    "gain of 0": ("OUT_CVT multiplies by 1; theirs by 0, which counts as 1 in float formats", "F-79"),
    "writer bits": ("int8 to int32 with QD_EN 0 and OD_BYPASS 1; theirs the other pair that works", "C-21"),
    "no DPU_RDMA": ("all four blocks, the clients of DPU_RDMA off (C-27); theirs starts three", "S-114, npu.md §2.1"),
    "registers left out": ("every register is written; theirs leaves out some that are 0", "S-102, C-26"),
    "partial sums": ("parts of K are added by the host in fp32; theirs in fp16 by the element-wise unit", "S-112"),
}
HEAD = """# Captured matrix products and ours

Written by `python -m delegate products ../shared/golden/programs -o docs/matmul-words.md`; a test compares it with a
fresh run. The products of `../shared/golden/programs` ran on boards. Each is computed here by `delegate.matmul` from
the same A and B; *result* compares all bytes of C with what the captured words give on the simulator. *Registers alike*
counts those of all captured tasks that have the same value in our task. The *deviations*, applied to our task one after
the other, turn it into the captured one, word for word; what they did not explain would be called wrong.
"""


@dataclass(frozen=True)
class Compared:
    """One capture beside ours."""

    name: str
    shape: tuple[int, int, int]  # M, K, N
    form: Form
    tasks: tuple[int, int]  # theirs, ours
    equal: bool  # all bytes of the result
    largest: float  # difference of results
    words: int  # registers of all their tasks that have the same value in ours
    different: int
    deviations: tuple[str, ...]
    wrong: tuple[str, ...]


def is_product(capture: Capture) -> bool:
    """Whether a capture is a product of a form that we have."""
    case = capture.facts.get("case")
    if not isinstance(case, Mapping) or not str(case.get("op", "")).startswith("matmul"):
        return False
    arrays = read_arrays(capture.path.parent / "expected.npz")
    element = arrays["A"].dtype.name
    if str(case.get("out_dtype")) not in RESULTS.get(element, ()) or b_of(capture, arrays) is None:
        return False
    first = Fields(capture.submits[0].tasks[0])
    return first(CNA.CONV_CON1, "in_precision") == CODES[element]  # int4 comes as int8


def b_of(capture: Capture, arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any] | None:
    """B as (K, N), however the author has it; None where it fits neither way."""
    a, b, columns = arrays["A"], arrays["B"], arrays["expected"].shape[1]
    if capture.path.parent.name.startswith("ab-"):
        return b if b.shape == (a.shape[1], columns) else None
    return b.T if b.shape == (columns, a.shape[1]) else None


def compare(folder: Path) -> Compared | None:
    """A capture beside ours; None where it is no product of ours. Raises DelegateError where it cannot be read."""
    capture = load(folder)
    if not is_product(capture):
        return None
    arrays = read_arrays(folder / "expected.npz")
    a, b = arrays["A"], b_of(capture, arrays)
    assert b is not None
    form = Form(a.dtype.name, str(capture.facts["case"]["out_dtype"]))
    replay = Replay(capture)
    replay.run()
    judged = judge_case(capture, replay)
    if judged is None:
        raise DelegateError(f"{folder}: no result to compare with")
    theirs = judged.result.astype(form.result)
    with Matmul(b, form.result, device="simulator") as product:  # type: ignore[arg-type]
        ours = product(a)
    tasks = [task for submit in capture.submits for task in submit.tasks]
    same = different = 0
    reasons: dict[str, None] = {}
    wrong: list[str] = []
    tiles = our_tiles(form, a, b)
    for task in tasks:
        found = compare_task(tiles[0], a.shape[0], task)
        same, different = same + found.same, different + found.different
        reasons |= dict.fromkeys(found.deviations)
        wrong += found.wrong
    return Compared(
        folder.name,
        (a.shape[0], a.shape[1], b.shape[1]),
        form,
        (len(tasks), len(tiles)),
        ours.tobytes() == theirs.tobytes(),
        float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max()),
        same,
        different,
        tuple(reasons),
        tuple(wrong),
    )


def our_tiles(form: Form, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> list[ProductTile]:
    """The tasks that delegate.matmul makes of a product."""
    packing, rows = packing_of(b), bucket(len(a))
    columns = packing.padded_columns
    pieces = tuple(lay_out(packing, form, rows, columns))
    return [step.tile for step in plan_steps(packing, form, rows, columns, pieces, None)]


@dataclass(frozen=True)
class ComparedTask:
    same: int
    different: int
    deviations: tuple[str, ...]
    wrong: tuple[str, ...]


def compare_task(tile: ProductTile, rows: int, task: CaptureTask) -> ComparedTask:
    """Our task beside a captured one; ``rows``: of A."""
    theirs = values_of(task.words)
    if "DPU.EW_CFG" in theirs and not DPU.EW_CFG.decode(theirs["DPU.EW_CFG"])["ew_bypass"]:
        return ComparedTask(0, 0, ("partial sums",), ())
    ours = values_of(assemble(emit_product(tile), FIRE_CONVOLUTION)[0])
    same = sum(ours.get(name) == value for name, value in theirs.items())
    steps = list(deviations(tile, rows, task, theirs))
    state = steps[-1][1] if steps else ours
    wrong = sorted(
        f"{name}: {state.get(name)} and {theirs.get(name)}"
        for name in {*state, *theirs}
        if state.get(name) != theirs.get(name)
    )
    return ComparedTask(same, len({*ours, *theirs}) - same, tuple(name for name, _ in steps), tuple(wrong))


def values_of(words: Words) -> Values:
    """What a task writes: the last value of each register, addresses and links apart, and the blocks it starts."""
    found: Values = {}
    for word in words.tolist():
        command = parse_word(word)
        if command.kind == "fire":
            found[FIRE] = command.value
        elif command.register is not None and not command.register.address and command.register.block is not PC:
            found[command.register.full_name] = command.value
    return found


def deviations(tile: ProductTile, rows: int, task: CaptureTask, theirs: Values) -> Iterator[tuple[str, Values]]:
    """Each deviation that changes something, with our registers after it and all before it."""
    fields = Fields(task)
    values = {}
    for name, changed in tile_deviations(tile, rows, fields):
        if changed != tile:
            tile = changed
            values = values_of(assemble(emit_product(tile), FIRE_CONVOLUTION)[0])
            yield name, values
    values = values or values_of(assemble(emit_product(tile), FIRE_CONVOLUTION)[0])
    for name, registers in word_deviations(tile, fields, values, theirs):
        if registers != values:
            values = registers
            yield name, values


def tile_deviations(tile: ProductTile, rows: int, fields: Fields) -> Iterator[tuple[str, ProductTile]]:
    """Deviations in what a task computes and where it lies."""
    atom, form = RK3588.atom_bytes, tile.form
    sizes = (
        fields(CNA.DATA_SIZE0, "datain_height"),
        fields(CNA.DATA_SIZE1, "datain_channel"),
        fields(CNA.WEIGHT_SIZE2, "weight_kernels"),
    )
    pitch = (tile.a.row, tile.c.row)
    if sizes[0] == rows:
        tile = replace(tile, rows=rows)
        yield "rows as they are", tile
    if sizes[2] == divide_up(tile.columns, RK3588.kernel_group) * RK3588.kernel_group != tile.columns:
        pitch = (pitch[0], sizes[2] * form.result_bytes // atom)
        tile = replace(tile, columns=sizes[2], c=Matrix(tile.c.place, pitch[1], 1))
        yield "wider group", tile
    tile = replace(tile, rows=sizes[0], depth=sizes[1], columns=sizes[2])
    yield "their tiles", tile
    if not fields(CNA.CONV_CON1, "group_line_off"):
        tile = replace(tile, a=Matrix(tile.a.place, 1, tile.rows), c=Matrix(tile.c.place, 1, tile.rows))
        yield "cubes", tile
    elif fields(DPU.SURFACE_ADD, "surf_add") == 2 * form.surfaces:
        tile = replace(tile, c=Matrix(tile.c.place, 2 * pitch[1], 1))
        yield "gaps in rows", tile
    held = feature_banks(form, tile.rows, tile.depth)
    tile = replace(tile, feature_banks=held, weight_banks=RK3588.cbuf_banks - held)
    if fields(CNA.CBUF_CON0, "data_bank") < held:
        held -= RK3588.feature_slack_banks
        tile = replace(tile, feature_banks=held, weight_banks=RK3588.cbuf_banks - held)
        yield "banks", tile
    tile = replace(
        tile,
        reuses_rows=bool(fields(CNA.CBUF_CON0, "data_reuse")),
        reuses_columns=bool(fields(CNA.CBUF_CON0, "weight_reuse")),
    )
    yield "reuse", tile


def word_deviations(tile: ProductTile, fields: Fields, ours: Values, theirs: Values) -> Iterator[tuple[str, Values]]:
    """Deviations in single registers."""

    def take(values: Values, *registers: Register) -> Values:
        return values | {r.full_name: theirs[r.full_name] for r in registers if r.full_name in theirs}

    if fields(DPU.SURFACE_ADD, "surf_add") == 2 * tile.form.surfaces and fields(CNA.CONV_CON1, "group_line_off"):
        ours = take(ours, DPU.SURFACE_ADD)
        yield "gaps in rows", ours
    if tile.form.element == "float16" and theirs.get(DPU.OUT_CVT_SCALE.full_name) == 0:
        ours = take(ours, DPU.OUT_CVT_SCALE)
        yield "gain of 0", ours
    ours = take(ours, CNA.CONV_CON2)
    yield "grains", ours
    pair = (fields(CORE.MISC_CFG, "qd_en"), fields(DPU.BS_OW_CFG, "od_bypass"))
    if tile.form.result == "int32" and pair == (1, 0):
        ours = take(ours, CORE.MISC_CFG, DPU.BS_OW_CFG)
        yield "writer bits", ours
    if theirs[FIRE] == FIRE_THREE:
        ours = {name: value for name, value in ours.items() if not name.startswith(DPU_RDMA.__name__)}
        ours[FIRE] = FIRE_THREE
        yield "no DPU_RDMA", ours
    yield (
        "registers left out",
        {name: value for name, value in ours.items() if name in theirs or value != IDLE.get(name, 0)},
    )


FIRE_THREE = 0x0D  # CNA, CORE, DPU
# What stands in a register that is left out, where that is not 0: the converter's gain behind a bypassed unit.
IDLE = {DPU.EW_CVT_SCALE_VALUE.full_name: 1}


def compare_folder(folder: Path) -> list[Compared]:
    """All products of a folder of captures, by name."""
    if not folder.is_dir():
        raise DelegateError(f"{folder} is no folder")
    found = [compare(path) for path in sorted(folder.iterdir()) if (path / "expected.npz").exists()]
    return [item for item in found if item is not None]


def page(compared: list[Compared]) -> str:
    """The page as Markdown."""
    lines = [HEAD, "| product | M×K×N | types | tasks, theirs and ours | result | registers alike | deviations |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for item in compared:
        result = "same bytes" if item.equal else f"differs by up to {item.largest:g}"
        total = item.words + item.different
        wrong = f" **wrong: {'; '.join(item.wrong)}**" if item.wrong else ""
        cells = (
            item.name,
            "×".join(map(str, item.shape)),
            f"{item.form.element} to {item.form.result}",
            f"{item.tasks[0]}, {item.tasks[1]}",
            result,
            f"{item.words} of {total}",
            ", ".join(item.deviations) + wrong,
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Deviations", "", "| deviation | ours and theirs | source |", "| --- | --- | --- |"]
    used = {name for item in compared for name in item.deviations}
    lines += [f"| {name} | {text} | {source} |" for name, (text, source) in DEVIATIONS.items() if name in used]
    return "\n".join(lines) + "\n"


def write_products(folder: Path, output: Path | None) -> bool:
    """Prints the page, or writes it to a file; False where a difference of words is not explained."""
    compared = compare_folder(folder)
    if not compared:
        raise DelegateError(f"{folder} holds no captured products")
    text = page(compared)
    if output is None:
        print(text, end="")
    else:
        output.write_text(text)
    return not any(item.wrong for item in compared)
