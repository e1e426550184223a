"""Programs: words against goldens in text, links, relocations, chains, and that nothing depends on where it runs.

The goldens are disassembled tasks of ``small_graph``, one folder for the forms that silicon has proven and one for all.
After a change that is meant they are written anew, and read as a diff before they are kept:

    PYTHONPATH=.:tests python tests/test_compile.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layers import EVERY_FORM, PROVEN, TARGETS, addition, convolution, feature, graph

from delegate.compile import check_order, compile_graph, layers_of
from delegate.errors import CompileError
from delegate.hw.regcmd import disassemble
from delegate.hw.registers import lookup, split
from delegate.hw.task import Program, check
from delegate.ir import Graph

GOLDEN = Path(__file__).parent / "golden"
GOLDENS = {"conv_3x3": 0, "depthwise_3x3": 1, "addition": 2}  # name and task


def small_graph() -> Graph:
    """Convolution, depthwise convolution, and the addition of both."""
    source = feature(0, 8, 8, 64)
    first, a = convolution(1, source, 64, (3, 3), seed=1)
    second, b = convolution(2, a, 64, (3, 3), depthwise=True, seed=2)
    last, output = addition(3, a, b)
    return graph([first, second, last], [source], [output])


def text(program: Program, task: int) -> str:
    return disassemble(program.tasks[task].words)


def golden(forms: str, name: str) -> Path:
    return GOLDEN / forms.replace(" ", "_") / f"{name}.regcmd"


@pytest.mark.parametrize("name", GOLDENS)
@pytest.mark.parametrize("forms", TARGETS)
def test_words_are_the_golden_ones(forms: str, name: str) -> None:
    assert text(compile_graph(small_graph(), TARGETS[forms]), GOLDENS[name]) == golden(forms, name).read_text()


def test_what_nobody_has_written_is_not_read() -> None:
    """Memory that tensors share may hold the right numbers by chance, so the order is looked at, not the result."""
    model = small_graph()
    layers, views = layers_of(model, EVERY_FORM)
    check_order(model, layers, views)
    for left_out in range(len(layers) - 1):
        with pytest.raises(CompileError, match="which nobody has written"):
            check_order(model, [*layers[:left_out], *layers[left_out + 1 :]], views)


def registers(program: Program, task: int) -> dict[tuple[int, int], int]:
    """The values of a task by target and offset."""
    return {split(int(word))[:2]: split(int(word))[2] for word in program.tasks[task].words}


def test_a_multiplier_a_channel_is_the_program_of_s18() -> None:
    """Per-tensor weights too have their multiplier in BS: the shift stands in two registers (S-22)."""
    node, output = convolution(1, feature(0, 4, 4, 8), 8)
    values = registers(compile_graph(graph([node], [feature(0, 4, 4, 8)], [output]), PROVEN), 0)
    shift = values[0x1001, 0x4048] >> 8
    assert values[0x1001, 0x4040] == 0x20140
    assert values[0x1001, 0x4048] == shift << 8 | 1
    assert values[0x1001, 0x4010] == shift << 4
    assert values[0x2001, 0x501C] == 0xE
    assert values[0x1001, 0x4088] >> 30 == 1  # ties away from zero (S-04)
    assert 1 <= values[0x1001, 0x4088] & 0x3F <= 22


def test_a_factor_of_30_bits_uses_the_register_of_bn() -> None:
    node, output = convolution(1, feature(0, 4, 4, 8), 8)
    model = graph([node], [feature(0, 4, 4, 8)], [output])
    every, proven = (registers(compile_graph(model, target), 0) for target in (EVERY_FORM, PROVEN))
    assert proven[0x1001, 0x4060] & 1 == 1  # bypassed
    assert every[0x1001, 0x4060] == 0x42  # ReLU and ALU bypassed, the multiplier's source its register
    shift = every[0x1001, 0x4068] >> 8
    assert 1 << 14 <= every[0x1001, 0x4068] >> 16 < 1 << 15
    assert every[0x1001, 0x4010] >> 10 & 0x3F == shift & 0x3F  # of negative products


def test_the_worked_example_of_a_1x1_convolution() -> None:
    """Hardware book, worked-examples.md §1: every register save those that differ on purpose."""
    node, output = convolution(1, feature(0, 4, 4, 8), 8)
    program = compile_graph(graph([node], [feature(0, 4, 4, 8)], [output]), PROVEN)
    values = registers(program, 0)
    expected = {
        (0x0201, 0x100C): 0, (0x0201, 0x1010): 0x340, (0x0201, 0x1014): 9, (0x0201, 0x1020): 0x00040004,
        (0x0201, 0x1024): 0x00070010, (0x0201, 0x1028): 4, (0x0201, 0x102C): 16, (0x0201, 0x1034): 0x10,
        (0x0201, 0x1044): 1, (0x0201, 0x1068): 0, (0x0201, 0x107C): 16, (0x0201, 0x1080): 0,
        (0x0201, 0x1084): 0x00040004, (0x0201, 0x1088): 16, (0x0801, 0x3010): 1, (0x0801, 0x3014): 0x00030003,
        (0x0801, 0x3018): 31, (0x1001, 0x400C): 0x1E4, (0x1001, 0x4024): 0x100,
        (0x1001, 0x4030): 3, (0x1001, 0x4034): 3, (0x1001, 0x403C): 0x0007001F,
        (0x1001, 0x4050): 0x124, (0x1001, 0x4058): 31, (0x1001, 0x405C): 0x00030003, (0x1001, 0x40C0): 0x200,
        (0x2001, 0x500C): 3, (0x2001, 0x5010): 3, (0x2001, 0x5014): 31, (0x2001, 0x5034): 1,
        (0x2001, 0x5044): 0x7810,
    }  # fmt: skip
    assert {place: values[place] for place in expected} == expected
    # On purpose: whole kernel groups (32 kernels, not 8), a slack bank for features, and BS as in S-18 (above).
    assert values[0x0201, 0x1030] == 32 * 16
    assert values[0x0201, 0x1038] == 0x01010020
    assert values[0x0201, 0x1040] == 0xA2


@pytest.mark.parametrize("forms", TARGETS)
def test_every_address_is_a_relocation(forms: str) -> None:
    """The operand's two clients have addresses only in an addition by the element-wise unit."""
    program = compile_graph(small_graph(), TARGETS[forms])
    check(program)
    relocated = {(r.task, r.word) for r in program.relocations}
    for number, task in enumerate(program.tasks):
        for position, word in enumerate(task.words):
            target, offset, value = split(int(word))
            if target in (0, 0x0041, 0x0081):
                continue
            register = lookup(target, offset)
            if register.address:
                assert value == 0
                operand = TARGETS[forms] is EVERY_FORM and number == GOLDENS["addition"]
                clients = () if operand else ("RDMA_SRC_BASE_ADDR", "RDMA_EW_BASE_ADDR")
                unused = register.name in ("RDMA_BN_BASE_ADDR", *clients)
                assert ((number, position) in relocated) != unused


def test_tails_lead_to_the_next_stream() -> None:
    program = compile_graph(small_graph(), EVERY_FORM)
    words = [task.words for task in program.tasks]
    offset = 0
    for number, stream in enumerate(words):
        link, amount, barrier, fire = (split(int(word)) for word in stream[-4:])
        assert barrier == (0x0041, 0, 0)
        assert fire == (0x0081, 8, 0x1D)
        offset += -(-stream.nbytes // 64) * 64
        if number + 1 == len(words):
            assert link == (0, 0, 0)
            assert amount == (0x0101, 0x14, 0)
        else:
            assert link == (0x0101, 0x10, 0)
            assert amount == (0x0101, 0x14, (len(words[number + 1]) + 1) // 2 - 1)
            (to,) = [r for r in program.relocations if (r.task, r.word) == (number, len(stream) - 4)]
            assert program.buffers[to.buffer].role == "regcmd"
            assert to.offset == offset


def test_chains_end_where_a_task_reads_what_one_before_wrote() -> None:
    """The order of such a pair within a chain is in doubt (C-4); full chains are an option.

    Not in doubt is what the element-wise unit reads through its own client.
    """
    model = small_graph()
    safe, full = compile_graph(model, PROVEN), compile_graph(model, PROVEN, full_chains=True)
    assert safe.jobs[0].chains == (range(1), range(1, 2), range(2, 3))
    assert full.jobs[0].chains == (range(3),)
    assert compile_graph(model, EVERY_FORM).jobs[0].chains == (range(1), range(1, 3))
    source = feature(0, 8, 8, 64)
    first, a = convolution(1, source, 64)
    second, b = convolution(2, source, 64)
    independent = compile_graph(graph([first, second], [source], [a, b]), EVERY_FORM)
    assert independent.jobs[0].chains == (range(2),)


def test_a_buffer_is_never_read_and_written_list_wise() -> None:
    """S-202: a buffer in both lists makes the kernel drop the job."""
    source = feature(0, 8, 8, 32)
    node, a = convolution(1, source, 32)
    last, output = addition(2, source, a)
    for target in TARGETS.values():
        program = compile_graph(graph([node, last], [source], [output]), target)
        (job,) = program.jobs
        assert not set(job.reads) & set(job.writes)
    program = compile_graph(graph([node, last], [source], [output]), PROVEN)
    assert program.inputs[0].buffer in program.jobs[0].writes  # the convolution writes right behind the input


def test_compiling_twice_gives_the_same_program() -> None:
    a, b = (compile_graph(small_graph(), EVERY_FORM) for _ in range(2))
    assert a.relocations == b.relocations
    for first, second in zip(a.tasks, b.tasks, strict=True):
        np.testing.assert_array_equal(first.words, second.words)


def write_goldens() -> None:
    """Writes what the compiler makes of ``small_graph`` now."""
    for forms, target in TARGETS.items():
        for name, task in GOLDENS.items():
            golden(forms, name).parent.mkdir(parents=True, exist_ok=True)
            golden(forms, name).write_text(text(compile_graph(small_graph(), target), task))


if __name__ == "__main__":
    write_goldens()
