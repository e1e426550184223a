"""The mainline kernel's interface, seen from client processes (uapi.md A)."""

from __future__ import annotations

LOAD = """
program = Program.load(sys.argv[1])
node = Rocket()
bos = node.load(program)
out = bos[program.writes[0]]
"""


def test_a_program_gives_the_simulators_bytes(stand_in, convolution):
    stand_in().script(
        LOAD
        + """
for bo in bos:
    node.call(FINI_BO, "II", bo.handle, 0)
node.run(program, bos)
node.prep(out)
check(program, node, bos)
""",
        convolution,
    )


def test_version_and_what_it_says_without_room(stand_in):
    stand_in().script("""
fd = Rocket().fd
assert version(fd) == ((0, 0, 0), "rocket", "0", "rocket DRM")
name = ctypes.create_string_buffer(b"????????")
found = call(fd, VERSION, "iii4xQQQQQQ", 7, 7, 7, 3, ctypes.addressof(name), 0, 0, 0, 0)
assert found[3] == 6 and name.raw[:4] == b"roc?"
assert error_of(fd, VERSION, "iii4xQQQQQQ", 0, 0, 0, 6, 8, 0, 0, 0, 0) == "EFAULT"
""")


def test_addresses_ascend_from_zero_and_repeat_in_each_file(stand_in):
    """S-201; drm_mm's best fit fills the smallest hole first."""
    stand_in().script("""
one, two = Rocket(), Rocket()
first = [one.create(size) for size in (1, 4096, 4097, 8192, 4096)]
assert [bo.address for bo in first] == [0, 0x1000, 0x2000, 0x4000, 0x6000]
assert [bo.handle for bo in first] == [1, 2, 3, 4, 5]
assert two.create(4096).address == 0 and len({bo.offset for bo in first}) == 5
one.call(GEM_CLOSE, "II", first[2].handle, 0)
one.call(GEM_CLOSE, "II", first[1].handle, 0)
one.call(GEM_CLOSE, "II", first[4].handle, 0)
again = one.create(4096)
assert (again.address, again.handle) == (0x1000, 2)
""")


def test_errors_of_arguments(stand_in):
    stand_in().script("""
node = Rocket()
bo = node.create(4096)
assert node.error(CREATE_BO, "IIQQ", 0, 0, 0, 0) == "ENOSPC", "a range of no pages"
assert node.error(PREP_BO, "IIq", 9, 0, 0) == "ENOENT"
assert node.error(PREP_BO, "IIq", bo.handle, 1, 0) == "EINVAL"
assert node.error(FINI_BO, "II", 9, 0) == "ENOENT"
assert node.error(FINI_BO, "II", bo.handle, 1) == "EINVAL"
assert node.error(FINI_BO, "II", bo.handle, 0) == ""
assert node.error(GEM_CLOSE, "II", 9, 0) == "EINVAL"
assert node.error(SUBMIT, "QIIQ", 0, 0, 0, 0) == ""
assert node.error(SUBMIT, "QIIQ", 0, 1, 39, 0) == "EINVAL"
assert node.error(SUBMIT, "QIIQ", 0, 1, 40, 1) == "EINVAL"
assert node.error(SUBMIT, "QIIQ", 0, 1, 40, 0) == "EFAULT"
assert node.error(0xC0106444, "QQ", 0, 0) == "EINVAL"
for argument in (0, 8):
    try:
        fcntl.ioctl(node.fd, CREATE_BO, argument)
    except OSError as error:
        assert error.errno == errno.EFAULT
    else:
        raise AssertionError
shared, private = mmap.MAP_SHARED, mmap.MAP_PRIVATE
for size, offset, flags in ((4096, 0, shared), (8192, bo.offset, shared), (4096, bo.offset, private)):
    try:
        mmap.mmap(node.fd, size, flags, offset=offset)
    except OSError as error:
        assert error.errno == errno.EINVAL
    else:
        raise AssertionError
try:
    fcntl.ioctl(node.fd, 0x5401, bytearray(64))  # TCGETS
except OSError as error:
    assert error.errno == errno.ENOTTY
""")


def test_what_is_wrong_with_a_job_is_not_told(stand_in, convolution):
    """S-208c: the ioctl succeeds, nothing runs; a job behind it in the same submit runs."""
    server = stand_in()
    server.script(
        LOAD
        + """
reads, writes = [bos[i].handle for i in program.reads], [bos[i].handle for i in program.writes]
before = node.results(program, bos)
node.submit(([], reads, writes), (node.streams, [99], writes), ([(0, 0)], reads, writes))
bad = struct.pack("<QQQIIII", 8, 0, 0, 1, 8, 0, 0) + struct.pack("<QQQIIII", 0, 0, 0, 1, 4, 0, 0)
block = ctypes.create_string_buffer(bad, len(bad))
node.call(SUBMIT, "QIIQ", ctypes.addressof(block), 2, 40, 0)
node.prep(out)
assert node.results(program, bos) == before
node.submit((node.streams, [99], writes), (node.streams, reads, writes))
node.prep(out)
check(program, node, bos)
""",
        convolution,
    )
    said = [line for line in server.lines() if "was dropped" in line]
    assert [line.rpartition(" ")[2] for line in said] == ["EINVAL", "ENOENT", "EINVAL", "EFAULT", "EINVAL", "ENOENT"]


def test_a_buffer_in_both_lists_counts_as_done_and_is_not_run(stand_in, convolution):
    """S-202."""
    stand_in().script(
        LOAD
        + """
before = node.results(program, bos)
node.submit((node.streams, [out.handle], [out.handle]))
node.prep(out)
assert node.results(program, bos) == before != program.expected
""",
        convolution,
    )


def test_larger_structures_are_read_by_their_stride(stand_in, convolution):
    stand_in().script(
        LOAD
        + """
tasks = array("I", [value for address, words in node.streams for value in (address, words, 77)])
writes = array("I", [out.handle])
job = struct.pack("<QQQIIII", tasks.buffer_info()[0], 0, writes.buffer_info()[0], len(node.streams), 12, 0, 1)
block = ctypes.create_string_buffer(job + bytes(24), 64)
node.call(SUBMIT, "QIIQ", ctypes.addressof(block), 1, 64, 0)
node.prep(out)
check(program, node, bos)
""",
        convolution,
    )


def test_the_deadline_is_absolute_and_the_watchdog_ends_a_job_without_a_word(stand_in, convolution):
    """S-195, S-200: EBUSY for a past deadline while busy, ETIMEDOUT for one that passes, success after the watchdog."""
    server = stand_in("job:1=hang", TEFLON_SHIM_TIME_SCALE="1")
    server.script(
        LOAD
        + """
start = time.monotonic()
node.run(program, bos)
assert node.error(PREP_BO, "IIq", out.handle, 0, 0) == "EBUSY"
assert node.error(PREP_BO, "IIq", out.handle, 0, 10**9) == "EBUSY"  # a relative second
assert node.error(PREP_BO, "IIq", out.handle, 0, time.monotonic_ns() + 50_000_000) == "ETIMEDOUT"
assert 0.05 <= time.monotonic() - start < 0.4
assert node.error(PREP_BO, "IIq", bos[program.reads[0]].handle, 0, 0) == "", "it is only read"
node.prep(out)
assert 0.45 <= time.monotonic() - start < 2
assert node.results(program, bos) != program.expected
node.run(program, bos)
node.prep(out)
check(program, node, bos)
""",
        convolution,
    )
    assert sum("ends by the watchdog" in line for line in server.lines()) == 1


def test_an_address_that_nobody_mapped_is_a_fault_and_then_the_watchdog(stand_in, convolution):
    server = stand_in()
    server.script(
        LOAD
        + """
node.submit(([(0x80000000, 100)], [], [out.handle]))
node.prep(out)
assert node.results(program, bos) != program.expected
""",
        convolution,
    )
    assert any("0x80000000" in line and "IOMMU fault" in line for line in server.lines())


def test_a_pooling_task_writes_and_then_waits_for_the_watchdog(stand_in, pooling):
    """S-196: the kernel hears of DPU interrupts only; the second task of a job never starts."""
    server = stand_in()
    server.script(
        LOAD
        + """
node.run(program, bos)
node.prep(out)
assert any(node.results(program, bos)[0]) and node.results(program, bos) != program.expected
for task in node.streams:
    node.submit(([task], [], [out.handle]))
    node.prep(out)
check(program, node, bos)
""",
        pooling,
    )
    assert sum("ends by the watchdog" in line and "0xc00" in line for line in server.lines()) == 3


def test_a_closed_buffer_faults_and_the_server_lives(stand_in, convolution):
    stand_in().script(
        LOAD
        + """
node.call(GEM_CLOSE, "II", bos[program.reads[0]].handle, 0)
node.submit((node.streams, [], [out.handle]))
node.prep(out)
assert node.results(program, bos) != program.expected
del node, bos
node = Rocket()
bos = node.load(program)
node.run(program, bos)
node.prep(bos[program.writes[0]])
check(program, node, bos)
""",
        convolution,
    )


def test_three_files_use_three_cores_and_threads_share_one(stand_in, convolution):
    stand_in().script(
        """
program = Program.load(sys.argv[1])
shared = Rocket()
failed = []

def work(node):
    try:
        for _ in range(10):
            bos = node.load(program) if node is not shared else mine
            node.run(program, bos)
            node.prep(bos[program.writes[0]])
            check(program, node, bos)
    except BaseException as error:
        failed.append(repr(error))

mine = shared.load(program)
threads = [threading.Thread(target=work, args=(node,)) for node in (shared, shared, Rocket(), Rocket(), Rocket())]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed
""",
        convolution,
    )


def test_a_signal_ends_a_wait_with_eintr_unless_it_restarts(stand_in, convolution):
    """S-208b."""
    stand_in("job:1=hang", TEFLON_SHIM_TIME_SCALE="2").script(
        LOAD
        + """
libc = ctypes.CDLL(None, use_errno=True)
node.run(program, bos)
for restarts in (False, True):
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, not restarts)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    data = ctypes.create_string_buffer(struct.pack("<IIq", out.handle, 0, time.monotonic_ns() + 300_000_000))
    result = libc.ioctl(node.fd, ctypes.c_ulong(PREP_BO), data)
    wanted = errno.ETIMEDOUT if restarts else errno.EINTR
    assert result == -1 and ctypes.get_errno() == wanted, (restarts, ctypes.get_errno())
node.prep(out)
""",
        convolution,
    )


def test_with_caches_what_is_not_synchronised_is_not_seen(stand_in, convolution):
    """FINI_BO before the job, PREP_BO behind it (S-200)."""
    stand_in(TEFLON_SHIM_CACHES="1").script(
        LOAD
        + """
node.run(program, bos)
time.sleep(0.1)
node.prep(out)
assert not any(node.results(program, bos)[0]), "the NPU has seen no stream"
bos = node.load(program)
out = bos[program.writes[0]]
for bo in bos:
    node.call(FINI_BO, "II", bo.handle, 0)
node.run(program, bos)
time.sleep(0.1)
if any(node.results(program, bos)[0]):
    raise AssertionError("only PREP_BO of the output shows it")
node.prep(out)
check(program, node, bos)
out.view[:4] = b"mine"
node.prep(out)
assert out.view[:4] != b"mine", "what was not written back is lost"
""",
        convolution,
    )


def test_a_storm_of_signals_interrupts_only_waits(stand_in, convolution):
    """Calls that do not wait are not torn; a wait that is begun again with the same deadline ends well (S-208b)."""
    stand_in().script(
        """
libc = ctypes.CDLL(None, use_errno=True)
program = Program.load(sys.argv[1])
signal.signal(signal.SIGALRM, lambda *_: None)
signal.siginterrupt(signal.SIGALRM, True)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

def raw(node, command, layout, *values):
    data = ctypes.create_string_buffer(struct.pack("<" + layout, *values))
    if libc.ioctl(node.fd, ctypes.c_ulong(command), data):
        return errno.errorcode[ctypes.get_errno()]

interrupted = 0
node = Rocket()
for _ in range(200):
    assert raw(node, CREATE_BO, "IIQQ", 4096, 0, 0, 0) is None
    assert raw(node, FINI_BO, "II", 1, 0) is None
bos = node.load(program)
for _ in range(50):
    node.run(program, bos)
    while (error := raw(node, PREP_BO, "IIq", bos[program.writes[0]].handle, 0, FOREVER)) == "EINTR":
        interrupted += 1
    assert error is None
signal.setitimer(signal.ITIMER_REAL, 0)
check(program, node, bos)
assert interrupted > 0
""",
        convolution,
    )
