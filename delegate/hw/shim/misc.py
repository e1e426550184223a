"""The vendor's driver built without DRM: /dev/rknpu, a misc device whose buffers are dma-bufs (rknpu_mem.c, 0.9.8).

The number of a command alone counts, not its magic. A buffer's handle is a descriptor, which the client maps itself; it
comes from a heap of contiguous memory, for this build knows no IOMMU.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from delegate.hw.shim.core import exported_buffer, fails, inode
from delegate.hw.shim.drm import Call, File, Ioctl, failure
from delegate.hw.shim.faults import Faults
from delegate.hw.shim.rknpu import MEM_CREATE, MEM_DESTROY, Rknpu
from delegate.hw.sim.options import Options

NON_CONTIGUOUS = 0x1
MAGIC = 0xC0007200  # with the size of a structure and the number of a command


class RknpuMisc(Rknpu):
    """See drm.Driver. The file's handles are ours alone: one for each object, to count them."""

    has_iommu = False
    can_map = False

    def __init__(
        self, faults: Faults, scale: float, caches: bool, options: Options, strict: bool, say: Callable[[str], None]
    ) -> None:
        super().__init__(faults, scale, caches, options, strict, say)
        own = [ioctl for ioctl in self.ioctls.values() if ioctl.command & 0xF0 == 0x40]
        handlers = {"MEM_CREATE": self._create, "MEM_MAP": fails(errno.EINVAL), "MEM_DESTROY": self._destroy}
        self.ioctls = {
            ioctl.number & 0xF: Ioctl(
                ioctl.name,
                ioctl.fault,
                MAGIC | ioctl.size << 16 | ioctl.number & 0xF,
                handlers.get(ioctl.name, ioctl.handler),
                ioctl.fields,
            )
            for ioctl in own
        }

    async def _create(self, file: File, call: Call) -> int:
        """A new buffer, whose descriptor becomes the handle; with a handle, another object for that dma-buf."""
        number, flags, size, _, _, _, domain, core_mask = call.read(MEM_CREATE)
        if flags & NON_CONTIGUOUS or (size == 0 and not number):
            raise failure(errno.EINVAL)
        if number:
            item = self._register(await exported_buffer(file, call, number), flags)
        else:
            item = self._allocate(self._domain(0), size, flags)
            self.exported[inode(item.buffer.client)] = item.buffer
            opened = os.open(f"/proc/self/fd/{item.buffer.client}", os.O_RDWR | os.O_CLOEXEC)
            call.given.append((opened, 0))
        file.add(item.buffer)
        known = (item.buffer.size, item.address, item.buffer.address, 0)
        call.write(MEM_CREATE, 0, number, flags, *known, domain, core_mask)
        return 0

    async def _destroy(self, file: File, call: Call) -> int:
        """What is no kernel address is told; an object of another session is left alone without a word."""
        address = call.read(MEM_DESTROY)[2]
        item = self._object(address, "MEM_DESTROY")
        handle = next((handle for handle, buffer in file.handles.items() if buffer is item.buffer), None)
        if handle is not None:
            del self._objects[address]
            if item.buffer.handles == 1:
                del self.exported[inode(item.buffer.client)]
            file.close_handle(handle)
        return 0

    def _syncs(self, flags: int) -> bool:
        return True
