"""The mutation run: what a mutation is, and that nothing without effect is left unexplained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from delegate.__main__ import app
from delegate.compile import compile_graph
from delegate.errors import DelegateError
from delegate.hw.regcmd import parse_word
from delegate.hw.registers import Bits, split
from delegate.hw.regs import CNA, DPU
from delegate.hw.soc import EVERY_FORM
from delegate.tools.mutate.mutations import DUPLICATED, Mutation, mutations, values
from delegate.tools.mutate.outcome import Change, Reason, judge
from delegate.tools.mutate.reasons import REASONS, UNSEEN
from delegate.tools.mutate.report import Summary, markdown, run
from delegate.tools.mutate.sources import DEFAULT_CAPTURES, drawn_graph, fitting, load_subjects
from delegate.tools.mutate.subjects import Subject

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
SMALL = tuple(n for n in DEFAULT_CAPTURES if "ab-" not in n and "weightreuse" not in n)  # large buffers, many tasks


@pytest.fixture(scope="module")
def drawn() -> list[Subject]:
    rng = np.random.default_rng(1)
    return fitting([(compile_graph(drawn_graph(rng), EVERY_FORM), "drawn")], rng)


def test_a_subject_runs_the_same_again(drawn: list[Subject]):
    for subject in drawn:
        first, second = subject.run(), subject.run()
        assert first.error is None
        assert first.same_memory(second)
        assert len(first.tasks) == len(subject.streams)


def test_values_of_a_field_are_others_and_distinct():
    tried = values(Bits(7, 4), 15, np.random.default_rng(0))
    assert {0, 14, 7, 11, 13} <= set(tried) <= set(range(15))
    assert len(tried) == len(set(tried))


def test_every_field_of_every_written_register_is_mutated(drawn: list[Subject]):
    rows = {mutation.row for mutation in mutations(drawn[0], np.random.default_rng(0))}
    for stream in drawn[0].streams:
        for command in stream.words.tolist():
            register = parse_word(command).register
            if register is not None:
                block = register.block.__name__
                assert {(block, f"{register.name}.{label}") for label in register.fields} <= rows


def word_at(subject: Subject, register: object) -> int:
    offset = register.offset  # type: ignore[attr-defined]
    return next(at for at, word in enumerate(subject.streams[0].words.tolist()) if split(word)[1] == offset)


def test_verdicts(drawn: list[Subject]):
    subject = drawn[0]
    base = subject.run()
    at = word_at(subject, DPU.OUT_CVT_OFFSET)
    command = int(subject.streams[0].words[at])
    size = word_at(subject, CNA.WEIGHT_SIZE1)
    cases = {
        "changed": Mutation(("DPU", "OUT_CVT_OFFSET.out_cvt_offset"), 0, at, command ^ 1 << 17),
        "warned": Mutation(("CNA", "WEIGHT_SIZE1"), 0, size, CNA.WEIGHT_SIZE1(weight_bytes_per_kernel=60)),
        "refused": Mutation(("DPU", "target bit"), 0, at, command ^ 1 << 63),
        "none": Mutation(("DPU", "word twice"), 0, at, command, DUPLICATED),
    }
    for verdict, mutation in cases.items():
        outcome = judge(subject, base, mutation, REASONS, UNSEEN)
        assert outcome.verdict == verdict
        assert outcome.unexplained == ()


def test_a_change_without_a_reason_is_unexplained(drawn: list[Subject]):
    subject = drawn[0]
    at = word_at(subject, DPU.BN_ALU_CFG)
    mutation = Mutation(("DPU", "BN_ALU_CFG.bn_alu_operand"), 0, at, DPU.BN_ALU_CFG(bn_alu_operand=5))
    outcome = judge(subject, subject.run(), mutation, (), ())
    assert outcome.unexplained == ("DPU.BN_ALU_CFG.bn_alu_operand 0x0 -> 0x5",)
    never = Reason(("DPU.BN_ALU_CFG.*",), "not so", lambda registers, change: False)
    assert judge(subject, subject.run(), mutation, (never,), ()).unexplained
    summary = Summary()
    summary.add(mutation.row, subject.name, outcome)
    assert len(summary.problems()) == 1
    assert "**unexplained**" in markdown(summary, "mutate", drawn)


def test_a_reason_that_depends_on_data_needs_an_effect_elsewhere(drawn: list[Subject]):
    subject = drawn[0]
    at = word_at(subject, DPU.BN_ALU_CFG)
    mutation = Mutation(("DPU", "BN_ALU_CFG.bn_alu_operand"), 0, at, DPU.BN_ALU_CFG(bn_alu_operand=5))
    reason = Reason(("DPU.*",), "the data say so", data=True)
    summary = Summary()
    summary.add(mutation.row, subject.name, judge(subject, subject.run(), mutation, (reason,), ()))
    assert "never seen to have an effect" in summary.problems()[0]


def test_reasons_look_at_both_states():
    before, after = object(), object()
    reason = Reason(("A.B.*",), "only before", lambda registers, change: registers is before)
    assert not reason.covers(Change(0, "A.B.c", 0, 1), before, after)  # type: ignore[arg-type]
    assert reason.covers(Change(0, "A.B.c", 0, 1), before, before)  # type: ignore[arg-type]
    assert not reason.covers(Change(0, "A.C.c", 0, 1), before, before)  # type: ignore[arg-type]


def test_our_own_programs_have_no_unexplained_mutation(drawn: list[Subject]):
    summary = run(drawn, 1200, np.random.default_rng(2), quiet=True)
    assert [problem for problem in summary.problems() if "never seen" not in problem] == []


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="../shared/golden is not there")
def test_captured_programs_have_no_unexplained_mutation():
    """A part of what docs/mutations.md shows; every verdict occurs."""
    rng = np.random.default_rng(3)
    subjects = [subject for name in SMALL for subject in load_subjects(GOLDEN / name, rng)]
    summary = run(subjects, 1800, rng, quiet=True)
    assert [problem for problem in summary.problems() if "never seen" not in problem] == []
    verdicts = {verdict for tally in summary.rows.values() for verdict in tally.verdicts}
    assert verdicts == {"refused", "changed", "warned", "none"}


def test_a_program_that_does_not_run_is_refused(drawn: list[Subject]):
    broken = Subject("broken", drawn[0].image[:1], drawn[0].streams, drawn[0].starts)
    with pytest.raises(DelegateError, match="broken does not run unchanged"):
        run([broken], 1, np.random.default_rng(0), quiet=True)


def test_the_command_is_deterministic(tmp_path: Path):
    model = Path(__file__).parents[2] / "models" / "mobilenet_digits.tflite"
    pages = []
    for name in ("one.md", "two.md"):
        outcome = CliRunner().invoke(app, ["mutate", str(model), "--count", "60", "-o", str(tmp_path / name)])
        assert outcome.exit_code in (0, 1)  # 1: sixty mutations are too few to have seen every field's effect
        pages.append((tmp_path / name).read_text())
    assert pages[0] == pages[1]
    assert "60 mutations of" in pages[0]


def test_a_missing_folder_is_one_error():
    outcome = CliRunner().invoke(app, ["mutate", "--golden", "/nowhere"])
    assert isinstance(outcome.exception, DelegateError)
