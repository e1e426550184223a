"""The kernels' interfaces from a client's side, written from uapi.md with struct and fcntl alone; for scripts."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path

CREATE_BO, SUBMIT, PREP_BO, FINI_BO, GEM_CLOSE = 0xC0186440, 0x40186441, 0x40106442, 0x40086443, 0x40086409
ACTION, RKNPU_SUBMIT, MEM_CREATE, MEM_CREATE_OLD = 0xC0086440, 0xC0686441, 0xC0306442, 0xC0286442
MEM_MAP, MEM_DESTROY, MEM_SYNC = 0xC0106443, 0xC0106444, 0xC0206445
VERSION, GET_UNIQUE, GET_MAGIC, GET_CLIENT, SET_VERSION = 0xC0406400, 0xC0106401, 0x80046402, 0xC0286405, 0xC0106407
FLINK, GEM_OPEN, GET_CAP, AUTH_MAGIC = 0xC008640A, 0xC010640B, 0xC010640C, 0x40046411
SET_MASTER, DROP_MASTER, EXPORT, IMPORT = 0x641E, 0x641F, 0xC00C642D, 0xC00C642E
SYNCOBJ_CREATE, GET_RESOURCES, CREATE_DUMB = 0xC00864BF, 0xC04064A0, 0xC02064B2
FOREVER = (1 << 63) - 1
INT_MASK, TASK_BYTES = 0x300, 40


def call(fd: int, command: int, layout: str, *values: int) -> tuple[int, ...]:
    """An ioctl with a structure; returns the structure as the kernel leaves it, also behind OSError.fields."""
    data = bytearray(struct.pack("<" + layout, *values))
    try:
        fcntl.ioctl(fd, command, data)
    except OSError as error:
        error.fields = struct.unpack("<" + layout, data)  # type: ignore[attr-defined]
        raise
    return struct.unpack("<" + layout, data)


def error_of(fd: int, command: int, layout: str, *values: int) -> str:
    """The name of the error that an ioctl ends with; "" if it does not."""
    try:
        call(fd, command, layout, *values)
    except OSError as error:
        return errno.errorcode[error.errno]
    return ""


def version(fd: int) -> tuple[tuple[int, int, int], str, str, str]:
    """(numbers, name, date, description) as libdrm asks: first the lengths, then the texts."""
    lengths = call(fd, VERSION, "iii4xQQQQQQ", *[0] * 9)[3::2]
    buffers = [ctypes.create_string_buffer(length + 1) for length in lengths]
    pairs = [value for pair in zip(lengths, map(ctypes.addressof, buffers), strict=True) for value in pair]
    found = call(fd, VERSION, "iii4xQQQQQQ", 0, 0, 0, *pairs)
    return found[:3], *(buffer.value.decode() for buffer in buffers)


@dataclass
class Bo:
    handle: int
    address: int
    offset: int
    view: mmap.mmap
    object: int = 0


@dataclass
class Program:
    """A file of program_file.py."""

    sizes: list[int]
    data: list[bytes]
    tasks: list[array]
    relocations: list[list[int]]
    reads: list[int]
    writes: list[int]
    chains: list[tuple[int, int]]
    expected: list[bytes]

    @staticmethod
    def load(path: str) -> Program:
        raw, at = Path(path).read_bytes(), 0

        def take(count: int) -> list[int]:
            nonlocal at
            at += 8 * count
            return list(struct.unpack_from(f"<{count}Q", raw, at - 8 * count))

        def block(size: int) -> bytes:
            nonlocal at
            at += -(-size // 8) * 8
            return raw[at - -(-size // 8) * 8 :][:size]

        buffers, tasks, relocations, reads, writes, chains = take(6)
        sizes, data = [], []
        for _ in range(buffers):
            size, given = take(2)
            sizes.append(size)
            data.append(block(size) if given else b"")
        streams = [array("Q", take(take(1)[0])) for _ in range(tasks)]
        places = [take(4) for _ in range(relocations)]
        read, written = take(reads), take(writes)
        ranges = [tuple(take(2)) for _ in range(chains)]
        after = [block(sizes[take(1)[0]]) for _ in range(writes)]
        return Program(sizes, data, streams, places, read, written, ranges, after)


class Node:
    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def call(self, command: int, layout: str, *values: int) -> tuple[int, ...]:
        return call(self.fd, command, layout, *values)

    def error(self, command: int, layout: str, *values: int) -> str:
        return error_of(self.fd, command, layout, *values)

    def create(self, size: int) -> Bo:
        raise NotImplementedError

    def load(self, program: Program) -> list[Bo]:
        """Buffers with their contents; (address, words) of each stream in self.streams."""
        bos = [self.create(size) for size in program.sizes]
        for bo, data in zip(bos, program.data, strict=True):
            bo.view[: len(data)] = data
        streams = [array("Q", words) for words in program.tasks]
        for task, word, buffer, offset in program.relocations:
            streams[task][word] |= bos[buffer].address + offset << 16
        at, self.streams = 0, []
        for stream in streams:  # in the first buffer, as its links expect them
            raw = stream.tobytes()
            bos[0].view[at : at + len(raw)] = raw
            self.streams.append((bos[0].address + at, len(stream)))
            at += -(-len(raw) // 64) * 64
        return bos

    def results(self, program: Program, bos: list[Bo]) -> list[bytes]:
        return [bos[index].view[: program.sizes[index]] for index in program.writes]


class Rocket(Node):
    def __init__(self, path: str = "/dev/accel/accel0") -> None:
        super().__init__(path)

    def create(self, size: int) -> Bo:
        _, handle, address, offset = self.call(CREATE_BO, "IIQQ", size, 0, 0, 0)
        return Bo(handle, address, offset, mmap.mmap(self.fd, size, offset=offset))

    def prep(self, bo: Bo, deadline: int = FOREVER) -> None:
        self.call(PREP_BO, "IIq", bo.handle, 0, deadline)

    def submit(self, *jobs: tuple[list[tuple[int, int]], list[int], list[int]]) -> None:
        """Jobs of tasks (address, words), in handles, out handles."""
        keep, packed = [], b""
        for tasks, reads, writes in jobs:
            arrays = [array("I", [value for task in tasks for value in task]), array("I", reads), array("I", writes)]
            keep += arrays
            at = [item.buffer_info()[0] if item else 0 for item in arrays]
            packed += struct.pack("<QQQIIII", *at, len(tasks), 8, len(reads), len(writes))
        block = ctypes.create_string_buffer(packed, len(packed))
        self.call(SUBMIT, "QIIQ", ctypes.addressof(block), len(jobs), 40, 0)

    def run(self, program: Program, bos: list[Bo]) -> None:
        reads, writes = ([bos[index].handle for index in indices] for indices in (program.reads, program.writes))
        self.submit((self.streams, reads, writes))


class Rknpu(Node):
    def __init__(self, path: str = "/dev/dri/card1") -> None:
        super().__init__(path)

    def create(self, size: int, flags: int = 0x1 | 0x2 | 0x8 | 0x10) -> Bo:
        handle, _, _, pointer, address, *_ = self.call(MEM_CREATE, "IIQQQQiI", 0, flags, size, 0, 0, 0, 0, 0)
        offset = self.call(MEM_MAP, "IIQ", handle, 0, 0)[2]
        return Bo(handle, address, offset, mmap.mmap(self.fd, size, offset=offset), pointer)

    def task_array(self, tasks: list[tuple[int, int]], mask: int = INT_MASK) -> Bo:
        """A buffer of tasks (address, words with tail)."""
        bo = self.create(TASK_BYTES * len(tasks))
        for index, (address, words) in enumerate(tasks):
            struct.pack_into(
                "<8IQ", bo.view, TASK_BYTES * index, 0, index, 0xD, mask, 0x1FFFF, 0, words - 4, 0, address
            )
        return bo

    def submit(
        self,
        tasks: Bo,
        ranges: dict[int, tuple[int, int]],
        core_mask: int = 1,
        flags: int = 5,
        timeout: int = 6000,
        fence: int = -1,
    ) -> tuple[int, ...]:
        """``ranges``: subcore_task by slot."""
        slots = [value for slot in range(5) for value in ranges.get(slot, (0, 0))]
        count = sum(number for _, number in ranges.values())
        return self.call(
            RKNPU_SUBMIT,
            "IIIIIiQIIQqIi10I",
            flags,
            timeout,
            0,
            count,
            0,
            0,
            tasks.object,
            0,
            0,
            0,
            0,
            core_mask,
            fence,
            *slots,
        )

    def run(self, program: Program, bos: list[Bo]) -> list[int]:
        """Each chain by a submit of its own; returns the counters."""
        tasks = self.task_array(self.streams)
        return [self.submit(tasks, {0: chain})[4] for chain in program.chains]


def check(program: Program, node: Node, bos: list[Bo]) -> None:
    assert node.results(program, bos) == program.expected, "the output differs"
