"""The vendor kernel's interface, seen from client processes (uapi.md B)."""

from __future__ import annotations

LOAD = """
program = Program.load(sys.argv[1])
node = Rknpu()
bos = node.load(program)
"""


def test_a_program_gives_the_simulators_bytes(stand_in, convolution):
    """One chain; the status of its last task and the counters are written."""
    stand_in().script(
        LOAD
        + """
counters = node.run(program, bos)
check(program, node, bos)
assert counters == [number for _, number in program.chains]
tasks = node.task_array(node.streams)
found = node.submit(tasks, {0: (0, len(node.streams))})
assert found[10] > 0 and found[11] == 1
status = [struct.unpack_from("<I", tasks.view, 40 * index + 20)[0] for index in range(len(node.streams))]
assert status == [0] * (len(status) - 1) + [0x100]
""",
        convolution,
    )


def test_both_nodes_are_one_device_with_one_address_space(stand_in):
    """S-208: top-down, for all processes; aligned to the size."""
    stand_in().script("""
one, two = Rknpu(), Rknpu("/dev/dri/renderD129")
assert version(one.fd) == version(two.fd) == ((0, 9, 8), "rknpu", "20240828", "RKNPU driver")
bos = [one.create(4096), two.create(4096), one.create(3 * 4096), two.create(4096)]
assert [bo.address for bo in bos] == [0xFFFFF000, 0xFFFFE000, 0xFFFF8000, 0xFFFFD000]
assert [bo.handle for bo in bos] == [1, 1, 2, 2]
assert len({bo.object for bo in bos}) == 4 and all(bo.object for bo in bos)
del two, bos[1], bos[2]
if not os.fork():
    node = Rknpu()
    assert node.create(4096).address != 0xFFFFF000
    os._exit(0)
assert os.wait()[1] == 0
""")


def test_both_sizes_of_mem_create(stand_in):
    """The older structure ends before the domain; a handle asks for what is known."""
    stand_in().script("""
node = Rknpu()
handle, flags, size, pointer, address, sram = node.call(MEM_CREATE_OLD, "IIQQQQ", 0, 0x403, 5000, 0, 0, 0)
assert (handle, size, sram) == (1, 8192, 0) and pointer and address
assert node.call(MEM_CREATE, "IIQQQQiI", handle, 0, 0, 0, 0, 0, 0, 0)[:5] == (handle, 0, size, pointer, address)
assert node.error(MEM_CREATE, "IIQQQQiI", 0, 0, 0, 0, 0, 0, 0, 0) == "EINVAL"
assert node.error(MEM_CREATE, "IIQQQQiI", 0, 1 << 20, 4096, 0, 0, 0, 0, 0) == "", "nobody looks at other flags"
assert node.error(MEM_CREATE, "IIQQQQiI", 0, 0, 4096, 0, 0, 0, 99, 0) == "EINVAL"
assert node.error(MEM_CREATE, "IIQQQQiI", 0, 0, 1 << 32, 0, 0, 0, 0, 0) == "ENOMEM"
assert node.error(MEM_CREATE, "IIQQQQiI", 0, 0, 1 << 60, 0, 0, 0, 0, 0) == "ENOMEM"
assert node.error(MEM_MAP, "IIQ", 9, 0, 0) == "ENOENT"
assert node.error(MEM_DESTROY, "IIQ", 9, 0, 0) == "EINVAL"
assert node.error(MEM_SYNC, "IIQQQ", 1, 0, pointer, 0, 4096) == ""
plain = node.call(MEM_CREATE, "IIQQQQiI", 0, 0, 4096, 0, 0, 0, 0, 0)
assert node.error(MEM_SYNC, "IIQQQ", 1, 0, plain[3], 0, 4096) == "EINVAL", "it is not cached"
assert node.error(MEM_SYNC, "IIQQQ", 1, 0, 0, 0, 4096) == node.error(MEM_SYNC, "IIQQQ", 1, 0, 77, 0, 1) == "EINVAL"
node.call(MEM_DESTROY, "IIQ", handle, 0, pointer)
assert node.error(MEM_DESTROY, "IIQ", handle, 0, pointer) == "EINVAL"
""")


def test_actions(stand_in):
    stand_in().script("""
node = Rknpu()
value = lambda action, given=0: node.call(ACTION, "II", action, given)[1]
assert value(0) and value(1) == 908 and value(2) > 0 and value(4) > 0 and value(18) == 1
assert value(6) == value(13) == value(22) == value(23) == value(19) == 0 and value(14, 7) == 7
assert all(node.error(ACTION, "II", action, 0) == "EINVAL" for action in (3, 5, 7, 8, 9, 10, 11, 12, 20, 21, 99))
""")


def test_ranges_of_two_and_three_cores(stand_in, convolution):
    """S-104: three cores take theirs from slots 2 to 4; in slots 0 to 2 cores 1 and 2 find nothing."""
    stand_in().script(
        """
program = Program.load(sys.argv[1])
node = Rknpu()
copies, streams = [], []
for _ in range(3):
    copies.append(node.load(program))
    streams += node.streams
count = len(program.tasks)
tasks = node.task_array(streams)
ranges = [(index * count, count) for index in range(3)]

def clear():
    for bos in copies:
        for index in program.writes:
            bos[index].view[:] = bytes(len(bos[index].view))

node.submit(tasks, {0: ranges[0], 1: ranges[1]}, core_mask=3)
for bos in copies[:2]:
    check(program, node, bos)
clear()
node.submit(tasks, {2: ranges[0], 3: ranges[1], 4: ranges[2]}, core_mask=7)
for bos in copies:
    check(program, node, bos)
clear()
assert node.submit(tasks, {2: ranges[2]}, core_mask=4)[4] == count
check(program, node, copies[2])
assert node.submit(tasks, {0: ranges[0]}, core_mask=0)[11] == 1, "the least loaded core is told"
""",
        convolution,
    )


def test_arguments_of_a_submit(stand_in, convolution):
    stand_in().script(
        LOAD
        + """
tasks = node.task_array(node.streams)
def error(*given, **more):
    try:
        node.submit(*given, **more)
    except OSError as failure:
        return errno.errorcode[failure.errno]
good = {0: (0, len(node.streams))}
assert error(tasks, {}) == "EINVAL", "no tasks"
assert error(tasks, good, core_mask=8) == error(tasks, good, core_mask=5) == "EINVAL"
assert error(tasks, good, flags=4) == "EINVAL", "not in PC mode"
assert error(tasks, {0: (0, 200)}) == "EINVAL", "beyond the buffer"
assert error(Bo(0, 0, 0, None, 0), good) == error(Bo(0, 0, 0, None, 99), good) == "EINVAL"
assert error(node.create(4096, 0x11), good) == "EINVAL", "no kernel mapping"
assert error(tasks, good, flags=5 | 8, fence=99) == "EINVAL", "no such fence"
assert error(tasks, good) is None
check(program, node, bos)
""",
        convolution,
    )


def test_pooling_ends_with_its_mask_and_times_out_with_another(stand_in, pooling):
    stand_in().script(
        LOAD
        + """
tasks = node.task_array(node.streams, 0xC00)
everything = {0: (0, len(node.streams))}
node.submit(tasks, everything)
check(program, node, bos)
assert struct.unpack_from("<I", tasks.view, 40 * (len(node.streams) - 1) + 20)[0] == 0x400
wrong = node.task_array(node.streams, 0x300)
try:
    node.submit(wrong, everything, timeout=500)
except OSError as error:
    assert error.errno == errno.ETIMEDOUT and error.fields[4] == len(node.streams), error.fields
else:
    raise AssertionError("it should time out")
node.submit(tasks, everything)
""",
        pooling,
    )


def test_a_hung_job_times_out_after_its_own_limit(stand_in, convolution):
    server = stand_in("job:1=hang; job:3=hang", TEFLON_SHIM_TIME_SCALE="1")
    server.script(
        LOAD
        + """
tasks = node.task_array(node.streams)
everything = {0: (0, len(node.streams))}
for _ in range(2):
    start = time.monotonic()
    try:
        node.submit(tasks, everything, timeout=200)
    except OSError as error:
        assert error.errno == errno.ETIMEDOUT and error.fields[4] == 0
    else:
        raise AssertionError("it should time out")
    assert 0.2 <= time.monotonic() - start < 1
    node.submit(tasks, everything)
    check(program, node, bos)
""",
        convolution,
    )


def test_fences_in_and_out(stand_in, convolution):
    stand_in().script(
        LOAD
        + """
tasks = node.task_array(node.streams)
everything = {0: (0, len(node.streams))}
fence = node.submit(tasks, everything, flags=1 | 2 | 4 | 16)[12]
assert select.select([fence], [], [], 20)[0]
check(program, node, bos)
node.submit(tasks, everything, flags=5 | 8, fence=fence)
read, write = os.pipe()
start = time.monotonic()
threading.Timer(0.1, os.write, (write, b"x")).start()
node.submit(tasks, everything, flags=5 | 8, fence=read, timeout=60000)
assert time.monotonic() - start > 0.09
""",
        convolution,
    )


def test_a_hung_job_without_waiting_blocks_its_core_until_the_next(stand_in, convolution):
    """The next submit that does not block resets; one that blocks behind it is never started."""
    stand_in("job:1=hang").script(
        LOAD
        + """
tasks = node.task_array(node.streams)
everything = {0: (0, len(node.streams))}
fence = node.submit(tasks, everything, flags=1 | 2 | 4 | 16)[12]
assert not select.select([fence], [], [], 0.2)[0]
try:
    node.submit(tasks, everything, timeout=100)
except OSError as error:
    assert error.errno == errno.EINVAL
else:
    raise AssertionError("it cannot run")
second = node.submit(tasks, everything, flags=1 | 2 | 4 | 16)[12]
assert select.select([second], [], [], 20)[0]
check(program, node, bos)
assert not select.select([fence], [], [], 0)[0], "the first job's fence is never signalled"
""",
        convolution,
    )


def test_with_caches_cached_buffers_have_to_be_synchronised(stand_in, convolution):
    """Others need not be; the kernel reads and writes the tasks as the CPU sees them."""
    stand_in(TEFLON_SHIM_CACHES="1").script(
        LOAD
        + """
out = bos[program.writes[0]]
tasks = node.task_array(node.streams)
everything = {0: (0, len(node.streams))}
def sync(bo, direction):
    node.call(MEM_SYNC, "IIQQQ", direction, 0, bo.object, 0, len(bo.view))
for bo in bos:
    sync(bo, 1)
node.submit(tasks, everything)
assert struct.unpack_from("<I", tasks.view, 40 * (len(node.streams) - 1) + 20)[0] == 0x100
assert not any(node.results(program, bos)[0])
sync(out, 2)
check(program, node, bos)
node.create = lambda size: Rknpu.create(node, size, 0x8 | 0x10 | 0x1)
bos = node.load(program)
node.submit(node.task_array(node.streams), everything)
check(program, node, bos)
""",
        convolution,
    )
