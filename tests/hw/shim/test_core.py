"""The ioctls of the kernel's DRM core (drm_ioctl.c, drm_prime.c, drm_gem.c, drm_auth.c), and what else nodes answer."""

from __future__ import annotations

import pytest


def test_capabilities_and_missing_features(stand_in):
    """Neither driver has sync objects or modesetting; both import and export buffers."""
    stand_in().script("""
paths = ("/dev/accel/accel0", "/dev/dri/card1", "/dev/dri/renderD129")
accel, card, render = (os.open(path, os.O_RDWR) for path in paths)
for fd in (accel, card, render):
    assert [call(fd, GET_CAP, "QQ", number, 7)[1] for number in (0x5, 0x6, 0x13, 0x14)] == [3, 1, 0, 0]
    assert error_of(fd, GET_CAP, "QQ", 0x1, 0) == "ENOTSUP", "dumb buffers are modesetting's"
    assert error_of(fd, SYNCOBJ_CREATE, "II", 0, 0) == "ENOTSUP"
    assert error_of(fd, 0xC008646F, "II", 0, 0) == error_of(fd, 0xC00864FF, "II", 0, 0) == "EINVAL", "no such numbers"
assert error_of(accel, GET_RESOURCES, "64x") == error_of(card, GET_RESOURCES, "64x") == "ENOTSUP"
assert error_of(render, GET_RESOURCES, "64x") == "EACCES"
assert error_of(accel, CREATE_DUMB, "IIIIIIQ", 8, 8, 8, 0, 0, 0, 0) == "ENOSYS"
for command in (0x5401, 0xC0187200, 0x80045430):  # a terminal's, another driver's, a network's
    assert error_of(accel, command, "64x") == error_of(render, command, "64x") == "ENOTTY"
fcntl.ioctl(accel, 0x5421, struct.pack("i", 0))  # FIONBIO is every file's
assert os.lseek(accel, 77, os.SEEK_SET) == os.lseek(card, 0, os.SEEK_END) == 0
assert select.select([accel], [], [], 0) == ([], [], []), "there is never an event to read"
""")


def test_master_names_and_versions(stand_in):
    """The first file of the primary node is its master; render nodes refuse all that is not marked for them."""
    stand_in().script("""
first, second = os.open("/dev/dri/card1", os.O_RDWR), os.open("/dev/dri/card1", os.O_RDWR)
render = os.open("/dev/dri/renderD129", os.O_RDWR)
assert call(first, GET_UNIQUE, "QQ", 0, 0) == (0, 0)
for fd in (second, render):
    assert error_of(fd, SET_VERSION, "iiii", 1, 4, -1, -1) == "EACCES"
assert error_of(first, SET_VERSION, "iiii", 2, 0, -1, -1) == "EINVAL"
assert error_of(first, SET_VERSION, "iiii", -1, 0, 0, 10) == "EINVAL", "0.9 is the driver's"
assert call(first, SET_VERSION, "iiii", 1, 4, -1, -1) == (1, 4, 0, 9)
name = ctypes.create_string_buffer(32)
assert call(second, GET_UNIQUE, "QQ", 32, ctypes.addressof(name))[0] == 12 and name.value == b"fdab0000.npu"
assert error_of(render, GET_UNIQUE, "QQ", 0, 0) == "EACCES"
magic = call(second, GET_MAGIC, "I", 0)[0]
assert magic and error_of(second, AUTH_MAGIC, "I", magic) == "EACCES"
assert error_of(first, AUTH_MAGIC, "I", 12345) == "EINVAL"
call(first, AUTH_MAGIC, "I", magic)
index, authenticated, pid, uid, *_ = call(second, GET_CLIENT, "iiQQQQ", 0, 0, 0, 0, 0, 0)
assert (authenticated, pid, uid) == (1, os.getpid(), 65534)
assert error_of(second, GET_CLIENT, "iiQQQQ", 1, 0, 0, 0, 0, 0) == "EINVAL"
assert error_of(render, SET_MASTER, "") == "EACCES"
fcntl.ioctl(first, DROP_MASTER)
assert error_of(first, SET_VERSION, "iiii", 1, 4, -1, -1) == "EACCES"
""")


def test_a_name_opens_a_buffer_in_another_file(stand_in):
    stand_in().script("""
one, other = Rknpu(), Rknpu()
bo = one.create(8192)
name = one.call(FLINK, "II", bo.handle, 0)[1]
assert name and one.call(FLINK, "II", bo.handle, 0)[1] == name
assert one.error(FLINK, "II", 99, 0) == "ENOENT" and one.error(GEM_OPEN, "IIQ", 99, 0, 0) == "ENOENT"
call(one.fd, AUTH_MAGIC, "I", call(other.fd, GET_MAGIC, "I", 0)[0])
_, handle, size = other.call(GEM_OPEN, "IIQ", name, 0, 0)
assert size == 8192
offset = other.call(MEM_MAP, "IIQ", handle, 0, 0)[2]
bo.view[:5] = b"bytes"
assert mmap.mmap(other.fd, 8192, offset=offset)[:5] == b"bytes"
assert other.call(MEM_CREATE, "IIQQQQiI", handle, 0, 0, 0, 0, 0, 0, 0)[3:5] == (bo.object, bo.address)
one.call(GEM_CLOSE, "II", bo.handle, 0)
assert other.call(MEM_CREATE, "IIQQQQiI", handle, 0, 0, 0, 0, 0, 0, 0)[4] == bo.address, "it lives on"
other.call(GEM_CLOSE, "II", handle, 0)
assert other.error(GEM_OPEN, "IIQ", name, 0, 0) == "ENOENT"
assert error_of(os.open("/dev/dri/renderD129", os.O_RDWR), FLINK, "II", 1, 0) == "EACCES"
""")


@pytest.mark.parametrize("kind", ["Rocket", "Rknpu"])
def test_exported_buffers_are_memory_that_other_files_import(stand_in, kind):
    """drm_prime.c: one object and one handle a file for a buffer; a descriptor outlives handle and file."""
    stand_in().script(
        """
make = {"Rocket": Rocket, "Rknpu": Rknpu}[sys.argv[1]]
one, other = make(), make()
bo = one.create(8192)
bo.view[:5] = b"bytes"
assert one.error(EXPORT, "IIi", bo.handle, 0x1000, 0) == "EINVAL" and one.error(EXPORT, "IIi", 99, 0, 0) == "ENOENT"
fd = one.call(EXPORT, "IIi", bo.handle, os.O_CLOEXEC | os.O_RDWR, 0)[2]
plain = one.call(EXPORT, "IIi", bo.handle, 0, 0)[2]
assert os.get_inheritable(plain) and not os.get_inheritable(fd)
assert os.lseek(fd, 0, os.SEEK_END) == 8192
fcntl.ioctl(fd, 0x40086200, struct.pack("Q", 3))  # DMA_BUF_IOCTL_SYNC
try:
    mmap.mmap(plain, 8192)
except PermissionError:
    pass  # DRM_RDWR was not asked for
else:
    raise AssertionError
assert one.call(IMPORT, "IIi", 0, 0, fd)[0] == bo.handle
handle = other.call(IMPORT, "IIi", 0, 0, plain)[0]
assert handle and other.call(IMPORT, "IIi", 0, 0, fd)[0] == handle
assert other.error(IMPORT, "IIi", 0, 0, 99) == "EBADF"
assert other.error(IMPORT, "IIi", 0, 0, os.memfd_create("no buffer")) == "EINVAL"
os.close(one.fd)
bo.view.close()
assert mmap.mmap(fd, 8192)[:5] == b"bytes"
other.call(GEM_CLOSE, "II", handle, 0)
again = other.call(IMPORT, "IIi", 0, 0, fd)[0]
assert again == handle, "the descriptor kept the buffer"
""",
        kind,
    )


def test_a_job_waits_for_the_job_of_another_file_that_writes_a_shared_buffer(stand_in, convolution):
    """The fence belongs to the buffer, not to the file."""
    stand_in().script(
        """
program, one, other = Program.load(sys.argv[1]), Rocket(), Rocket()
bos = one.load(program)
fd = one.call(EXPORT, "IIi", bos[program.writes[0]].handle, os.O_CLOEXEC | os.O_RDWR, 0)[2]
handle = other.call(IMPORT, "IIi", 0, 0, fd)[0]
one.run(program, bos)
other.call(PREP_BO, "IIq", handle, 0, FOREVER)
size = program.sizes[program.writes[0]]
assert mmap.mmap(fd, size)[:size] == program.expected[0]
""",
        convolution,
    )


def test_what_exported_buffers_leave_behind(stand_in):
    """They are freed with the last file, though nobody tells of the descriptor's end."""
    server = stand_in()
    seen = []
    for _ in range(3):
        server.script("""
one, other = Rocket(), Rknpu()
for node in (one, other):
    bo = node.create(1 << 20)
    fd = node.call(EXPORT, "IIi", bo.handle, os.O_RDWR, 0)[2]
    node.call(GEM_CLOSE, "II", bo.handle, 0)
""")
        seen.append(server.settled())
    assert min(seen[1:]) <= seen[0], "what leaks grows with every round"


def test_the_misc_device(stand_in, convolution):
    """The vendor's driver without DRM: only numbers count, handles are descriptors, mapping is the descriptor's."""
    server = stand_in(TEFLON_SHIM="rknpu-misc")
    assert server.run(["ls", "/dev/rknpu", "/sys/class/misc/rknpu/dev"]).stdout.split() == [
        "/dev/rknpu",
        "/sys/class/misc/rknpu/dev",
    ]
    server.script(
        """
assert not os.path.exists("/dev/accel/accel0")
MISC_ACTION, MISC_SUBMIT, MISC_CREATE, MISC_MAP = 0xC0087200, 0xC0687201, 0xC0307202, 0xC0107203
MISC_DESTROY, MISC_SYNC = 0xC0107204, 0xC0207205

class Misc(Rknpu):
    def __init__(self):
        super().__init__("/dev/rknpu")
    def call(self, command, layout, *values):
        return call(self.fd, 0xC0000000 | command & 0x3FFF0000 | 0x7200 | command & 0xF, layout, *values)
    def create(self, size, flags=0x2 | 0x8):
        handle, _, _, pointer, address, *_ = self.call(MISC_CREATE, "IIQQQQiI", 0, flags, size, 0, 0, 0, 0, 0)
        return Bo(handle, address, 0, mmap.mmap(handle, size), pointer)

node = Misc()
value = lambda action: node.call(MISC_ACTION, "II", action, 0)[1]
assert value(1) == 908 and value(18) == 0, "no IOMMU"
program = Program.load(sys.argv[1])
bos = node.load(program)
for bo in bos:
    node.call(MISC_SYNC, "IIQQQ", 1, 0, bo.object, 0, 16)
assert all(counter for counter in node.run(program, bos))
check(program, node, bos)
bo = bos[0]
same = node.call(MISC_CREATE, "IIQQQQiI", bo.handle, 0, 0, 0, 0, 0, 0, 0)
assert same[0] == bo.handle and same[4] == bo.address and same[3] != bo.object
assert error_of(node.fd, MISC_CREATE, "IIQQQQiI", 0, 1, 4096, 0, 0, 0, 0, 0) == "EINVAL", "not contiguous"
assert error_of(node.fd, MISC_CREATE, "IIQQQQiI", 99, 0, 4096, 0, 0, 0, 0, 0) == "EBADF"
assert error_of(node.fd, MISC_MAP, "IIQ", bo.handle, 0, 0) == "EINVAL"
assert error_of(node.fd, MISC_DESTROY, "IIQ", 0, 0, 77) == "EINVAL"
node.call(MISC_DESTROY, "IIQ", 0, 0, same[3])
node.call(MISC_DESTROY, "IIQ", 0, 0, bo.object)
assert error_of(node.fd, MISC_CREATE, "IIQQQQiI", bo.handle, 0, 0, 0, 0, 0, 0, 0) == "EINVAL"
try:
    mmap.mmap(node.fd, 4096)
except OSError as error:
    assert error.errno == errno.ENODEV
""",
        convolution,
    )
