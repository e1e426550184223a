"""The ioctls of the kernel's DRM core, as it answers them for drivers without modesetting and without sync objects.

Sources: Linux 6.18, drivers/gpu/drm: drm_ioctl.c (table, permissions, capabilities), drm_prime.c, drm_gem.c, drm_auth.c
and drm_syncobj.c. The features of rocket are DRIVER_COMPUTE_ACCEL | DRIVER_GEM, of rknpu DRIVER_GEM | DRIVER_RENDER.
"""

from __future__ import annotations

import errno
import os
import struct

from delegate.hw.shim.drm import Call, File, Handler, Ioctl, failure
from delegate.hw.shim.memory import Buffer

VERSION = struct.Struct("<iii4xQQQQQQ")  # numbers; length and address of name, date, description
UNIQUE = struct.Struct("<QQ")  # length, address
CLIENT = struct.Struct("<iiQQQQ")  # index, authenticated, pid, uid, magic, ioctls
SET_VERSION = struct.Struct("<iiii")  # interface and driver, major and minor each; -1: not asked
PRIME = struct.Struct("<IIi")  # handle, flags, descriptor
FLINK = struct.Struct("<II")  # handle, name
OPEN = struct.Struct("<IIQ")  # name; handle, size
PAIR = struct.Struct("<QQ")
WORD = struct.Struct("<I")
INTERFACE = (1, 4)  # DRM_IF_MAJOR, DRM_IF_MINOR
NOBODY = 65534  # overflowuid
CAP_PRIME, CAP_TIMESTAMP_MONOTONIC, CAP_SYNCOBJ, CAP_SYNCOBJ_TIMELINE = 0x5, 0x6, 0x13, 0x14
IMPORT_AND_EXPORT = 3
SYNC_OBJECTS = (*range(0xBF, 0xC6), *range(0xCA, 0xCE), 0xCF)  # CREATE … EVENTFD
MODES = (0x3A, *range(0xA0, 0xB2), *range(0xB5, 0xBF), *range(0xC6, 0xCA), 0xCE, 0xD0)  # WAIT_VBLANK, MODE_…
DUMB = (0xB2, 0xB3, 0xB4)


async def version(file: File, call: Call) -> int:
    """Numbers, and as much of each text as the caller has room for; its lengths are the true ones afterwards."""
    driver = file.driver
    values = list(call.read(VERSION))
    values[:3] = driver.version
    for index, text in zip((3, 5, 7), (driver.name, driver.date, driver.description), strict=True):
        room, address = values[index : index + 2]
        values[index] = len(text)
        if address:
            call.channel.copy_out(address, text.encode()[:room])
    call.write(VERSION, 0, *values)
    return 0


async def get_unique(file: File, call: Call) -> int:
    """The bus name, once the master has asked for an interface version."""
    room, address = call.read(UNIQUE)
    name = file.driver.unique.encode() if file.driver.master_state.get("version") else b""
    if room >= len(name):
        call.channel.copy_out(address, name)
    call.write(UNIQUE, 0, len(name), address)
    return 0


async def get_client(file: File, call: Call) -> int:
    """Index 0 is the caller; there are no others."""
    if call.read(CLIENT)[0]:
        raise failure(errno.EINVAL)
    call.write(CLIENT, 0, 0, int(file.is_authenticated), file.process, NOBODY, 0, 0)
    return 0


async def get_statistics(file: File, call: Call) -> int:
    call.data[:] = bytes(len(call.data))
    return 0


async def set_version(file: File, call: Call) -> int:
    """Checks the versions that are asked for; the answer is what there is, whether they fit or not."""
    major, minor, driver_major, driver_minor = call.read(SET_VERSION)
    own = file.driver.version
    fits = major == -1 or (major == INTERFACE[0] and 0 <= minor <= INTERFACE[1])
    if fits and major != -1 and minor >= 1:
        file.driver.master_state["version"] = 1
    fits = fits and (driver_major == -1 or (driver_major == own[0] and 0 <= driver_minor <= own[1]))
    call.write(SET_VERSION, 0, *INTERFACE, *own[:2])
    if not fits:
        raise failure(errno.EINVAL)
    return 0


async def get_magic(file: File, call: Call) -> int:
    call.write(WORD, 0, file.number)
    return 0


async def authenticate(file: File, call: Call) -> int:
    """A master says that another file of its node may do what needs authentication."""
    (magic,) = call.read(WORD)
    found = [other for other in file.driver.files if other.number == magic and other.node == file.node]
    if not found:
        raise failure(errno.EINVAL)
    found[0].was_authenticated = True
    return 0


async def set_master(file: File, call: Call) -> int:
    if not (file.master or file.root):
        raise failure(errno.EACCES)
    if not file.master and any(other.master for other in file.driver.files):
        raise failure(errno.EBUSY)
    file.master = file.node.startswith("card")
    return 0


async def drop_master(file: File, call: Call) -> int:
    if not file.master:
        raise failure(errno.EINVAL if file.root else errno.EACCES)
    file.master = False
    return 0


async def gem_close(file: File, call: Call) -> int:
    (handle,) = call.read(WORD)
    file.lookup(handle, errno.EINVAL)
    file.close_handle(handle)
    return 0


async def gem_flink(file: File, call: Call) -> int:
    """Gives a buffer a number by which any file of the driver can open it."""
    handle, _ = call.read(FLINK)
    buffer, names = file.lookup(handle), file.driver.names
    name = next((name for name, other in names.items() if other is buffer), max(names, default=0) + 1)
    names[name] = buffer
    call.write(FLINK, 0, handle, name)
    return 0


async def gem_open(file: File, call: Call) -> int:
    name = call.read(OPEN)[0]
    if name not in file.driver.names:
        raise failure(errno.ENOENT)
    buffer = file.driver.names[name]
    call.write(OPEN, 0, name, file.add(buffer)[0], buffer.size)
    return 0


def inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino


async def handle_to_descriptor(file: File, call: Call) -> int:
    """Exports a buffer: a descriptor of its memory, which like a dma-buf can be mapped, passed on and imported."""
    handle, flags, _ = call.read(PRIME)
    if flags & ~(os.O_CLOEXEC | os.O_RDWR):
        raise failure(errno.EINVAL)
    buffer = file.lookup(handle)
    file.driver.exported[inode(buffer.client)] = buffer
    access = os.O_RDWR if flags & os.O_RDWR else os.O_RDONLY
    call.given.append((os.open(f"/proc/self/fd/{buffer.client}", access | os.O_CLOEXEC), 8))
    call.inherited = not flags & os.O_CLOEXEC
    return 0


async def exported_buffer(file: File, call: Call, number: int) -> Buffer:
    """The buffer behind a descriptor of the client; raises OSError(EBADF), or EINVAL if it is no export of ours.

    rocket imports no other driver's (it has no gem_prime_import_sg_table), and here rknpu meets none.
    """
    descriptor = await call.channel.take_descriptor(number)
    try:
        found = file.driver.exported.get(inode(descriptor))
    finally:
        os.close(descriptor)
    if found is None:
        raise failure(errno.EINVAL)
    return found


async def descriptor_to_handle(file: File, call: Call) -> int:
    """Imports: the handle that the file has for that buffer already, or a new one.

    The object is the exporter's: its address stays in the exporter's address space, so that for rocket it can be waited
    for and listed in jobs, but is not mapped for jobs of another file.
    """
    buffer = await exported_buffer(file, call, call.read(PRIME)[2])
    known = [handle for handle, other in file.handles.items() if other is buffer]
    call.write(WORD, 0, known[0] if known else file.add(buffer)[0])
    return 0


async def get_capability(file: File, call: Call) -> int:
    """What a driver without modesetting answers."""
    capability, _ = call.read(PAIR)
    known = {CAP_TIMESTAMP_MONOTONIC: 1, CAP_PRIME: IMPORT_AND_EXPORT, CAP_SYNCOBJ: 0, CAP_SYNCOBJ_TIMELINE: 0}
    call.write(PAIR, 0, capability, known.get(capability, 0))
    if capability not in known:
        raise failure(errno.EOPNOTSUPP)
    return 0


def fails(number: int) -> Handler:
    """What the driver lacks a feature for."""

    async def handler(file: File, call: Call) -> int:
        raise failure(number)

    return handler


def refused(numbers: tuple[int, ...], name: str, error: int, render: bool = False) -> tuple[Ioctl, ...]:
    """Entries that only fail; the direction and size of a command do not matter for them."""
    return tuple(Ioctl(name, "", 0x6400 | number, fails(error), "", render) for number in numbers)


CORE = (
    Ioctl("VERSION", "version", 0xC0406400, version, "major:i minor:i patch:i"),
    Ioctl("GET_UNIQUE", "", 0xC0106401, get_unique, "length:Q", render=False),
    Ioctl("GET_MAGIC", "", 0x80046402, get_magic, "magic:I", render=False),
    Ioctl("GET_CLIENT", "", 0xC0286405, get_client, "index:i auth:i", render=False),
    Ioctl("GET_STATS", "", 0x80F86406, get_statistics, "", render=False),
    Ioctl("SET_VERSION", "", 0xC0106407, set_version, "di_major:i di_minor:i", render=False, needs="master"),
    Ioctl("GEM_CLOSE", "destroy", 0x40086409, gem_close, "handle:I"),
    Ioctl("GEM_FLINK", "", 0xC008640A, gem_flink, "handle:I name:I", render=False, needs="auth"),
    Ioctl("GEM_OPEN", "", 0xC010640B, gem_open, "name:I handle:I size:Q", render=False, needs="auth"),
    Ioctl("GET_CAP", "", 0xC010640C, get_capability, "capability:Q value:Q"),
    Ioctl("SET_CLIENT_CAP", "", 0x4010640D, fails(errno.EOPNOTSUPP), "capability:Q value:Q", render=False),
    Ioctl("AUTH_MAGIC", "", 0x40046411, authenticate, "magic:I", render=False, needs="master"),
    Ioctl("SET_MASTER", "", 0x0000641E, set_master, "", render=False),
    Ioctl("DROP_MASTER", "", 0x0000641F, drop_master, "", render=False),
    Ioctl("PRIME_HANDLE_TO_FD", "", 0xC00C642D, handle_to_descriptor, "handle:I flags:I"),
    Ioctl("PRIME_FD_TO_HANDLE", "", 0xC00C642E, descriptor_to_handle, "handle:I flags:I fd:i"),
    *refused(SYNC_OBJECTS, "SYNCOBJ", errno.EOPNOTSUPP, render=True),
    *refused(MODES, "MODE", errno.EOPNOTSUPP),
    *refused(DUMB, "MODE_DUMB", errno.ENOSYS),
)


def table(*own: Ioctl) -> dict[int, Ioctl]:
    """A driver's ioctls and those of the core, by number."""
    return {ioctl.number: ioctl for ioctl in (*CORE, *own)}
