"""Faults that the stand-in puts in: every effect, by number and by chance, from a file that changes."""

from __future__ import annotations

import pytest

from delegate.errors import DelegateError
from delegate.hw.shim.faults import ERRORS, Faults, parse_rule

LOAD = """
program = Program.load(sys.argv[1])
node = Rocket()
bos = node.load(program)
out = bos[program.writes[0]]
"""
WRONG = ["submit", "submit:x=EIO", "submit:1=EWHAT", "sing:1=EIO", "job:1=EIO", "iova:1=1MiB", "iova:limit=much"]
WRONG += ["submit:limit=EIO", "device:1=hang", "prep:p=1.2.3=EIO"]


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_rule_is_told(text):
    with pytest.raises(DelegateError, match=r"fault|size"):
        parse_rule(text)


def test_counts_and_chances():
    faults = Faults("seed=3; prep:p=0.25=EINTR; submit:every=3=EIO; fini:after=2=EBUSY; create:2=ENOMEM")

    def failed(name: str) -> bool:
        try:
            faults.call(name)
        except OSError:
            return True
        return False

    assert [failed("submit") for _ in range(7)] == [False, False, True, False, False, True, False]
    assert [failed("fini") for _ in range(4)] == [False, False, True, True]
    assert [failed("create") for _ in range(3)] == [False, True, False]
    first = [failed("prep") for _ in range(400)]
    assert 60 < sum(first) < 140
    again = Faults("seed=3; prep:p=0.25=EINTR")
    assert first != [False] * 400
    for expected in first:
        try:
            again.call("prep")
            assert not expected
        except OSError:
            assert expected


@pytest.mark.parametrize("error", sorted(ERRORS))
def test_every_error_reaches_the_client_and_the_call_did_nothing(stand_in, error):
    server = stand_in(f"create:2={error}")
    server.script(f"""
node = Rocket()
node.create(4096)
assert node.error(CREATE_BO, "IIQQ", 4096, 0, 0, 0) == "{error}"
assert node.create(4096).address == 4096
""")
    assert any(line.endswith(f"= -{error}") for line in server.lines())


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("open:1=EACCES", "assert raises(PermissionError, Rocket)\nRocket()"),
        ("mmap:1=ENOMEM", "assert raises(OSError, Rocket().create, 4096)"),
        ("version:1=EIO", "assert raises(OSError, version, Rocket().fd)"),
        (
            "prep:2=EINTR",
            "n = Rocket(); b = n.create(1); n.prep(b); assert raises(InterruptedError, n.prep, b); n.prep(b)",
        ),
        ("fini:1=EIO", 'assert Rocket().error(FINI_BO, "II", 1, 0) == "EIO"'),
        ("submit:1=EBUSY", "n = Rocket(); assert raises(OSError, n.submit); n.submit()"),
        ("destroy:1=EIO", 'n = Rocket(); b = n.create(1); assert n.error(GEM_CLOSE, "II", 1, 0) == "EIO"'),
        ("create:1=ENOMEM", "n = Rknpu(); assert raises(OSError, n.create, 4096); n.create(4096)"),
        ("map:1=EIO", "assert raises(OSError, Rknpu().create, 4096)"),
        ("sync:1=EIO", 'assert Rknpu().error(MEM_SYNC, "IIQQQ", 1, 0, 0, 0, 0) == "EIO"'),
        ("call:3=EBUSY", "n = Rocket(); assert raises(OSError, n.create, 4096); n.create(4096)"),
        ("action:1=EIO", 'assert Rknpu().error(ACTION, "II", 1, 0) == "EIO"'),
    ],
)
def test_every_call_can_fail(stand_in, rule, text):
    helper = """
def raises(kind, function, *arguments):
    try:
        function(*arguments)
    except kind:
        return True
"""
    stand_in(rule).script(helper + text)


def test_a_lost_device_stays_lost(stand_in):
    stand_in("device:after=4=lost").script("""
node = Rocket()
bo = node.create(4096)
node.prep(bo)
for _ in range(3):
    assert node.error(PREP_BO, "IIq", bo.handle, 0, 0) == "ENODEV"
try:
    Rocket()
except OSError as error:
    assert error.errno == errno.ENODEV
else:
    raise AssertionError
bo.view[:4] = b"mine"
""")


def test_exhausted_addresses(stand_in):
    stand_in("iova:limit=64KiB").script("""
node = Rocket()
bos = [node.create(16384) for _ in range(4)]
assert node.error(CREATE_BO, "IIQQ", 1, 0, 0, 0) == "ENOSPC"
assert Rocket().create(16384).address == 0, "each file has its own"
node.call(GEM_CLOSE, "II", bos[1].handle, 0)
assert node.create(4096).address == 16384
other = Rknpu()
other.create(65536)
assert other.error(MEM_CREATE, "IIQQQQiI", 0, 0, 4096, 0, 0, 0, 0, 0) == "ENOMEM"
""")


@pytest.mark.parametrize("node", ["Rocket", "Rknpu"])
def test_a_task_that_is_not_run_is_not_told(stand_in, convolution, node):
    """All but the skipped task's part of the output is as it should be."""
    stand_in("job:1=skip-task:1; job:2=skip-task:0; job:3=skip-task:5").script(
        LOAD.replace("Rocket", node)
        + """
def run():
    for index in program.writes:
        bos[index].view[:] = bytes(len(bos[index].view))
    node.run(program, bos)
    if isinstance(node, Rocket):
        node.prep(out)
    return node.results(program, bos)[0]
wanted = program.expected[0]
without_second, without_first = run(), run()
assert wanted != without_second != without_first != wanted
assert bytes(map(max, without_first, without_second)) == bytes(map(max, wanted, bytes(len(wanted))))
run()
check(program, node, bos)
""",
        convolution,
    )


def test_the_file_is_read_again_when_it_changes(stand_in):
    server = stand_in()
    server.script(
        """
path = sys.argv[1]
node = Rocket()
bo = node.create(4096)
for text, wanted in (("prep:1=EIO", "EIO"), ("prep:1=EBUSY # no rule\\n", "EBUSY"), ("", "")):
    with open(path + ".new", "w") as file:
        file.write(text.partition("#")[0])
    os.rename(path + ".new", path)
    assert node.error(PREP_BO, "IIq", bo.handle, 0, 0) == wanted
    assert node.error(PREP_BO, "IIq", bo.handle, 0, 0) == ""
open(path, "w").write("nonsense")
assert node.error(PREP_BO, "IIq", bo.handle, 0, 0) == ""
""",
        server.faults,
    )
    assert any("WHAT:WHEN=EFFECT" in line for line in server.lines())


def test_a_thousand_jobs_under_random_faults_leave_nothing_behind(stand_in, convolution):
    """Every error is taken as it comes; at the end the server has the descriptors and memory it began with."""
    server = stand_in("seed=9; submit:p=0.05=EIO; prep:p=0.05=EINTR; create:p=0.02=ENOMEM; mmap:p=0.02=ENOMEM")
    script = """
program = Program.load(sys.argv[1])
done = failed = 0
current = None
while done < int(sys.argv[2]):
    try:
        if done % 100 == 0:
            node = Rocket()
            current = node.load(program)
        node.run(program, current)
        node.prep(current[program.writes[0]])
        done += 1
    except OSError as error:
        failed += 1
        assert error.errno in (errno.EIO, errno.EINTR, errno.ENOMEM), error
check(program, node, current)
assert failed > done / 50
"""
    server.script(script, convolution, 100)
    before = server.settled()
    server.script(script, convolution, 1000)
    assert server.settled() == before
