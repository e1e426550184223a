"""Differences: none between equals, one line for one field, tables, links, and programs against captures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import capture_writer
import generate
import numpy as np
import pytest
from tflite_writer import write
from typer.testing import CliRunner

from delegate.__main__ import app
from delegate.tools.diff import differences
from delegate.tools.listing import from_program, open_listing

TASKS = [capture_writer.words(link=True), capture_writer.words(algorithm=4)]


def compare(tmp_path: Path, a: Any, b: Any) -> list[str]:
    left = capture_writer.write(tmp_path / "a", a)
    right = capture_writer.write(tmp_path / "b", b)
    return list(differences(open_listing(left), open_listing(right)))


def test_equal_captures_have_no_difference(tmp_path: Path) -> None:
    assert compare(tmp_path, capture_writer.rocket(TASKS), capture_writer.rocket(TASKS)) == []


def test_a_capture_at_other_addresses_is_equal(tmp_path: Path) -> None:
    moved = capture_writer.rocket(TASKS)
    for buffer in moved["bos"]:
        buffer["iova"] += 0x01000000
    for task in moved["submits"][0]["jobs"][0]["tasks"]:
        for word in task["words"]:
            if len(word) > 3:
                word[2] = f"{int(word[2], 16) + 0x01000000:08x}"
    assert compare(tmp_path, capture_writer.rocket(TASKS), moved) == []


def test_one_field_is_one_line(tmp_path: Path) -> None:
    other = [TASKS[0], capture_writer.words(algorithm=4, width=9)]
    assert compare(tmp_path, capture_writer.rocket(TASKS), capture_writer.rocket(other)) == [
        "",
        "element-wise add",
        "  task 1",
        "    DPU.DATA_CUBE_WIDTH.width: 7 -> 9",
    ]


def test_tasks_with_the_same_differences_stand_together(tmp_path: Path) -> None:
    a, b = ([capture_writer.words(width=width)] * 3 for width in (7, 9))
    lines = compare(tmp_path, capture_writer.rocket(a), capture_writer.rocket(b))
    assert lines[2:] == ["  tasks 0 to 2", "    DPU.DATA_CUBE_WIDTH.width: 7 -> 9"]


def test_positions_are_compared_by_buffer_and_offset(tmp_path: Path) -> None:
    other = [TASKS[0], capture_writer.words(algorithm=4)]
    other[1] = [word if word[1] != "4020" else ["DPU", "4020", "20022040", [4, 64]] for word in other[1]]
    lines = compare(tmp_path, capture_writer.rocket(TASKS), capture_writer.rocket(other))
    assert lines[-1] == "    DPU.DST_BASE_ADDR: bo 4 + 0x0 -> bo 4 + 0x40"


def test_words_that_one_side_lacks_are_named(tmp_path: Path) -> None:
    other = [TASKS[0], [word for word in TASKS[1] if word[1] != "4070"]]
    lines = compare(tmp_path, capture_writer.rocket(TASKS), capture_writer.rocket(other))
    assert lines[-1].startswith("    DPU.EW_CFG: only in A: ")


def test_structure_is_compared(tmp_path: Path) -> None:
    lines = compare(tmp_path, capture_writer.rocket(TASKS), capture_writer.rocket(TASKS[:1]))
    assert lines[:2] == ["tasks: 2 -> 1", "chains, in tasks: 1+1 -> 1"]
    assert lines[-1] == "  tasks: 2 -> 1"
    two = capture_writer.rocket(TASKS)
    two["submits"].append(two["submits"][0])
    assert "only in B: element-wise add, 2 tasks" in compare(tmp_path, capture_writer.rocket(TASKS), two)


def test_a_table_is_one_line(tmp_path: Path) -> None:
    def table(changed: int) -> list[list[Any]]:
        return [["DPU", "4104", f"{index + (index == changed):08x}"] for index in range(513)]

    a, b = ([table(changed) + capture_writer.words()] for changed in (-1, 5))
    lines = compare(tmp_path, capture_writer.rocket(a), capture_writer.rocket(b))
    assert lines[-1] == "    DPU.LUT_ACCESS_DATA (1 of 513 values): 513 values, 5 at 5 -> 513 values, 6 at 5"


def test_the_command_ends_like_diff(tmp_path: Path) -> None:
    same = capture_writer.write(tmp_path / "a", capture_writer.rocket(TASKS))
    other = capture_writer.write(tmp_path / "b", capture_writer.rocket(TASKS[:1]))
    run = CliRunner().invoke
    equal = run(app, ["diff", str(same), str(same)])
    assert (equal.exit_code, equal.stdout) == (0, "")
    different = run(app, ["diff", str(same), str(other)])
    assert different.exit_code == 1
    assert different.stdout.startswith(f"A: capture {same}\nB: capture {other}\n")


@pytest.mark.parametrize("name", ["mb13", "mb26", "mobiledet110"])
def test_a_model_is_compiled_and_aligned_with_its_capture(name: str, shared: Path) -> None:
    """Positions count from the layer's first task, so an uncut layer has none; each layer finds its counterpart."""
    ours = open_listing(shared / "models" / "mesa-tests" / f"{name}.tflite")
    theirs = open_listing(shared / "golden" / name)
    lines = list(differences(ours, theirs))
    assert not any("only in" in line or "_ADDR" in line for line in lines)
    assert any("NRDMA_CFG.nrdma_disable: 1 -> 0" in line for line in lines)


def test_a_model_and_its_compiled_program_are_equal(shared: Path, tmp_path: Path) -> None:
    model = shared / "models" / "mesa-tests" / "mb4.tflite"
    CliRunner().invoke(app, ["compile", str(model), "-o", str(tmp_path)])
    assert list(differences(open_listing(model), open_listing(tmp_path / "mb4.0.program"))) == []


def test_partitions_follow_each_other(tmp_path: Path) -> None:
    """A model with several partitions is one listing; every pointer stays in its own partition's buffers."""
    model = tmp_path / "model.tflite"
    model.write_bytes(write(generate.partitioned(np.random.default_rng(0), "int8")))
    listing = open_listing(model)
    prefixes = {buffer.name.split(":")[0] for buffer in listing.buffers}
    assert len(prefixes) > 1
    for job in listing.jobs:
        used = {listing.buffers[p.buffer].name.split(":")[0] for task in job.tasks for p in task.pointers.values()}
        assert len(used) == 1


def test_from_program_is_what_a_file_gives(shared: Path, tmp_path: Path) -> None:
    from delegate.compile import compile_graph
    from delegate.hw.soc import EVERY_FORM
    from delegate.partition import taken
    from delegate.tflite import read_model

    (graph,) = taken(read_model(shared / "models" / "mesa-tests" / "mb13.tflite"), EVERY_FORM)
    listing = from_program(compile_graph(graph, EVERY_FORM), "x")
    assert list(differences(listing, open_listing(shared / "models" / "mesa-tests" / "mb13.tflite"))) == []
