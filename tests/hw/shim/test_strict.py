"""Strict mode: each thing that kernels and chip let pass is said once, with what to do; clean programs hear nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from delegate.hw.regs import CNA
from delegate.hw.shim.memory import Domain, bottom_up
from delegate.hw.shim.strict import Watch

# Loads the program with `change` applied to it, shows all buffers to the NPU, and runs it; CODE may do it otherwise.
SCRIPT = """
program, node = Program.load(sys.argv[1]), Rocket()
def load(offset=0):
    program.relocations = [
        [task, word, buffer, at + (offset if buffer == program.writes[0] else 0)]
        for task, word, buffer, at in program.relocations
    ]
    return node.load(program)
def set_register(number, value):
    for stream in program.tasks:
        for index, word in enumerate(stream):
            if word & 0xFFFF == number and word >> 48 == 0x201:
                stream[index] = word & ~(0xFFFFFFFF << 16) | value(word >> 16 & 0xFFFFFFFF) << 16
def show(bos):
    for bo in bos:
        node.call(FINI_BO, "II", bo.handle, 0)
def run(bos):
    node.run(program, bos)
    for index in program.writes:
        node.prep(bos[index])
{code}
"""
CLEAN = """
bos = load()
show(bos)
run(bos)
run(bos)
check(program, node, bos)
"""
UNLISTED = """
bos = load()
show(bos)
node.submit((node.streams, [bos[index].handle for index in program.reads], []))
time.sleep(0.5)
"""
UNSHOWN = """
bos = load()
show(bos)
for index in program.reads:
    bos[index].view[:1] = bytes([bos[index].view[0] ^ 1])
run(bos)
"""
INTO_THE_NEIGHBOUR = """
pages = -(-program.sizes[program.writes[0]] // 4096) * 4096
bos = load(pages - 64)
node.create(1 << 16)
show(bos)
run(bos)
"""
UNALIGNED = """
bos = load(8)
show(bos)
run(bos)
"""
TOO_MANY_BANKS = """
set_register(0x1040, lambda value: value & ~0xFF | 0xBB)
bos = load()
show(bos)
run(bos)
"""
WRAPPED = """
set_register(0x1080, lambda value: value | 0xF0000000)
bos = load()
show(bos)
run(bos)
"""
NO_SYNC_WORD = """
for stream in program.tasks:
    for index, word in enumerate(stream):
        if word >> 48 == 0x41:
            stream[index] = 0
bos = load()
show(bos)
run(bos)
"""


def said(stand_in, convolution, code: str, **settings: str) -> list[str]:
    """What the log says of the program's jobs."""
    server = stand_in(TEFLON_SHIM_STRICT="1", **settings)
    server.script(SCRIPT.format(code=code), convolution)
    return [line.partition("# ")[2] for line in server.log.read_text().splitlines() if " # " in line]


def test_a_clean_program_hears_nothing(stand_in, convolution):
    assert said(stand_in, convolution, CLEAN) == []


@pytest.mark.parametrize(
    ("code", "expected", "advice"),
    [
        (UNLISTED, "which the job does not list as written", "list it in out_bo_handles"),
        (UNSHOWN, "which the CPU has written since it was last shown", "FINI_BO after writing, before the submit"),
        (INTO_THE_NEIGHBOUR, "into its neighbour", "allocate all that the task touches in one buffer"),
        (UNALIGNED, "16-byte aligned", "multiples of 16 bytes"),
        (TOO_MANY_BANKS, "at most 12 together", "cut the layer into more tasks"),
        (WRAPPED, "without a name", "mask it"),
        (NO_SYNC_WORD, "no 0x0041 word before the fire word", "programs should not do it"),
    ],
)
def test_what_is_let_pass_is_said_once(stand_in, convolution, code, expected, advice):
    lines = said(stand_in, convolution, code + "\nrun(bos)\n" * (code is not UNSHOWN))
    found = [line for line in lines if expected in line]
    assert found and all(advice in line for line in found), lines
    assert len(set(found)) == len(found) or "watchdog" in found[0], "a warning is said once"


def test_without_the_option_only_jobs_that_fail_are_said(stand_in, convolution):
    server = stand_in()
    server.script(SCRIPT.format(code=UNLISTED), convolution)
    server.script(SCRIPT.format(code=WRAPPED), convolution)
    (line,) = {line.partition(": job")[2] for line in server.lines() if line.startswith("# ")}
    assert "without a name" in line and "mask it" not in line


def test_a_job_that_reads_what_a_waiting_job_writes(stand_in, convolution):
    """Two jobs in one submit; the second lists nothing."""
    code = """
bos = load()
show(bos)
everything = [bos[index].handle for index in range(len(bos))]
node.submit((node.streams[:1], [], everything), (node.streams[1:], [], []))
time.sleep(0.5)
"""
    lines = said(stand_in, convolution, code)
    assert any("another job writes" in line and "list it in in_bo_handles" in line for line in lines), lines


@pytest.mark.parametrize(
    ("mode", "kernels", "channels", "partial"),
    [(0, 32, 64, False), (0, 33, 64, True), (3, 1, 64, False), (3, 1, 96, True)],
)
def test_groups_of_kernels_that_are_not_whole(mode, kernels, channels, partial):
    """S-50: 32 kernels of a direct int8 convolution, 64 channels of a depthwise one."""

    class Registers(dict):
        groups = (CNA,)

    registers = Registers(
        {
            CNA.CONV_CON1: {"conv_mode": mode, "in_precision": 0},
            CNA.WEIGHT_SIZE2: {"weight_kernels": kernels},
            CNA.DATA_SIZE1: {"datain_channel": channels},
        }
    )
    watch = Watch(Domain(), set())
    watch.observe(SimpleNamespace(registers=registers))
    assert bool(watch.partial) == partial


def test_accesses_are_told_apart_by_buffer_and_direction():
    domain = Domain()
    first, second = (domain.create(4096, bottom_up) for _ in range(2))
    watch = Watch(domain, set())
    watch.bytes(16, 32, "task 1: CNA weights")
    watch.bytes(4000, 200, "task 1: DPU output")
    watch.bytes(5000, 8, "task 2: PPU output")
    assert watch.accesses == {(16, 47, "CNA weights"), (4000, 4199, "DPU output"), (5000, 5007, "PPU output")}
    assert watch.touched(output=False) == {first: "CNA weights"}
    assert watch.touched(output=True) == {first: "DPU output", second: "PPU output"}
    assert watch.holding(1 << 20) is None
    domain.close()
