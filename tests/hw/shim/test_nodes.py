"""How the nodes look to programs that know nothing of them: coreutils, libdrm's and Mesa's ways of looking."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from chosen import OUTSIDE

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("ls /dev/accel", "accel0\n"),
        ("ls /dev/dri/", "card1\nrenderD129\n"),
        ("ls -d /dev/dri/card1 /dev/accel/../accel/./accel0", "/dev/accel/../accel/./accel0\n/dev/dri/card1\n"),
        ("stat -c %F,%t,%T /dev/accel/accel0", "character special file,105,0\n"),
        ("stat -L -c %F /sys/dev/char/226:129", "directory\n"),
        ("cat /sys/dev/char/261:0/device/uevent", "MODALIAS=platform:rknn\n"),
        ("cat /sys/dev/char/226:129/dev", "226:129\n"),
        ("readlink -f /sys/dev/char/226:1/device/subsystem", "/sys/bus/platform\n"),
        ("readlink -f /sys/class/accel/accel0/device", "/sys/devices/platform/rknn\n"),
        ("ls /sys/dev/char/226:1/device/drm", "card1\nrenderD129\n"),
        ("find /dev/dri -type c", "/dev/dri/card1\n/dev/dri/renderD129\n"),
        ("test -c /dev/accel/accel0 -a -r /dev/accel/accel0 -a -w /dev/accel/accel0", ""),
    ],
)
def test_coreutils_see_the_nodes(stand_in, command, shown):
    assert stand_in().run(command.split()).stdout == shown


def test_uevents_say_what_udev_and_libdrm_read(stand_in):
    uevent = stand_in().run(["cat", "/sys/class/drm/renderD129/uevent", "/sys/class/drm/card1/device/uevent"]).stdout
    for line in ("MAJOR=226", "MINOR=129", "DEVNAME=dri/renderD129", "DRIVER=RKNPU", "OF_FULLNAME=/npu@fdab0000"):
        assert line in uevent.splitlines()


def test_only_the_chosen_node_is_there_and_the_rest_of_the_machine_is_as_it_was(stand_in):
    server = stand_in(TEFLON_SHIM="rocket")
    server.run(["ls", "/dev/dri/card1"], status=2)
    command = ["ls", "/dev", "/sys/class"]
    plain = subprocess.run(command, env=OUTSIDE, capture_output=True, text=True, check=True).stdout.split()
    seen = server.run(command).stdout.split()
    assert set(seen) - set(plain) == {"accel"} and set(plain) <= set(seen)
    assert server.run(["cat", "/etc/hostname"]).stdout == Path("/etc/hostname").read_text()


def test_every_way_of_opening_and_asking(stand_in):
    """Paths relative to a directory, symbolic links, old and new calls; errors as of real files."""
    stand_in().script("""
assert os.listdir("/dev/accel") == ["accel0"] and os.path.realpath("/sys/dev/char/261:0").endswith("/accel/accel0")
assert sorted(entry.name for entry in os.scandir("/dev/dri") if not entry.is_dir()) == ["card1", "renderD129"]
os.chdir("/sys")
assert open("dev/char/261:0/dev").read() == "261:0\\n"
os.chdir("/")
directory = os.open("/dev/dri", os.O_RDONLY | os.O_DIRECTORY)
assert sorted(os.listdir(directory)) == ["card1", "renderD129"]
node = os.open("card1", os.O_RDWR, dir_fd=directory)
for status in (os.fstat(node), os.stat("/dev/dri/card1"), os.stat("card1", dir_fd=directory), os.fstat(os.dup(node))):
    assert os.major(status.st_rdev) == 226 and os.minor(status.st_rdev) == 1 and status.st_mode == 0o20666
assert os.readlink("card1", dir_fd=os.open("/sys/class/drm", os.O_RDONLY)).endswith("/drm/card1")
assert os.path.islink("/sys/class/accel/accel0") and not os.access("/dev/accel/accel0", os.X_OK)
for path, flags, number in (
    ("/dev/accel/accel1", os.O_RDWR, errno.ENOENT),
    ("/dev/accel/accel0", os.O_RDONLY | os.O_DIRECTORY, errno.ENOTDIR),
    ("/sys/class/drm/card1/dev", os.O_WRONLY, errno.EACCES),
    ("/sys/class/drm/card1", os.O_RDONLY | os.O_NOFOLLOW, errno.ELOOP),
):
    try:
        os.open(path, flags)
    except OSError as error:
        assert error.errno == number, (path, error)
    else:
        raise AssertionError(path)
try:
    os.listdir("/dev/accel/accel0")
except NotADirectoryError:
    pass
libc = ctypes.CDLL(None, use_errno=True)
fd = libc.__open64_2(b"/dev/accel/accel0", os.O_RDWR)
assert version(fd)[1] == "rocket"
names = ctypes.POINTER(ctypes.c_void_p)()
assert libc.scandir(b"/dev/dri", ctypes.byref(names), None, libc.alphasort) == 2
buffer = ctypes.create_string_buffer(256)
assert libc.__xstat(1, b"/dev/accel/accel0", buffer) == 0 and libc.__lxstat(1, b"/nowhere", buffer) == -1
""")


def test_libdrm_finds_the_devices(stand_in, tmp_path):
    """drmGetDevices2 walks /dev/dri, and reads versions and the platform bus from /sys."""
    header = Path("/usr/include/libdrm/drm.h")
    if not header.exists():
        pytest.skip("libdrm-dev is not installed")
    program = tmp_path / "devices"
    command = ["gcc", "-I/usr/include/libdrm", "-o", program, HERE / "devices.c", "-ldrm"]
    subprocess.run(command, check=True)
    shown = stand_in().run([str(program)]).stdout.splitlines()
    assert "/dev/dri/renderD129: rknpu 0.9.8, bus platform, /npu@fdab0000, rockchip,rk3588-rknpu" in shown
    assert "/dev/accel/accel0: rocket 0.0.0" in shown


def test_the_library_does_nothing_without_a_server():
    from delegate.hw.shim import library_path

    environment = {"LD_PRELOAD": str(library_path()), "PATH": "/usr/bin:/bin"}
    assert subprocess.run(["ls", "/dev/accel/accel0"], env=environment, capture_output=True, check=False).returncode
    # One whose server is gone has nodes that cannot be opened.
    environment["TEFLON_SHIM_SOCKET"] = "nobody.listens.here"
    result = subprocess.run(["cat", "/dev/accel/accel0"], env=environment, capture_output=True, text=True, check=False)
    assert result.stderr == "cat: /dev/accel/accel0: No such device\n"


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-gcc") is None, reason="no compiler for aarch64")
def test_it_compiles_for_aarch64_without_a_warning(tmp_path):
    source = HERE.parents[2] / "delegate" / "hw" / "shim" / "preload.c"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
    subprocess.run(["aarch64-linux-gnu-gcc", *flags, "-o", tmp_path / "shim.so", source, "-ldl"], check=True)
