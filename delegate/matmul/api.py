"""``Matmul``: B stays in the NPU's memory, many A are multiplied by it."""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack, suppress
from typing import Literal, Self

import numpy as np
import numpy.typing as npt

from delegate.devices import POOL
from delegate.errors import DeviceError, MatmulError
from delegate.hw.device import Kernel, Memory
from delegate.hw.soc import RK3588
from delegate.hw.task import MOST_CORES, Bytes
from delegate.matmul.packing import USUAL_DEPTH, Matrix, Packing, pack, packing_of
from delegate.matmul.plan import bucket, equal_ranges
from delegate.matmul.program import Converter, CoreProgram, column_shares, compile_core
from delegate.matmul.requantization import Output, Requantization, forms_of
from delegate.matmul.run import Loaded, Share, Slot, free, load, piece_values
from delegate.options import SHORT_DEVICES
from delegate.runtime import shared_device

Split = Literal["columns", "rows"]
SPLITS = ("columns", "rows")
LARGEST_ROWS = 4096  # of A in one run; more are computed in several
IN_FLIGHT = 2  # runs of one A that wait for each other


class Pending:
    """A product that runs; ``result()`` waits for it."""

    def __init__(self, product: Matmul, c: Matrix | None) -> None:
        self._product = product
        self._c = c  # None: where the NPU writes it
        self._runs: list[tuple[Slot, range]] = []
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    def result(self) -> Matrix:
        """C, when it is there; every call returns the same array. Raises DeviceError if the device failed."""
        with self._lock:
            while self._runs:
                self._collect()
            if self._error is not None:
                raise self._error
            assert self._c is not None
            return self._c

    def _collect(self) -> None:
        """Waits for the earliest run and takes what it computed; after an error only waits."""
        slot, rows = self._runs.pop(0)
        try:
            if self._error is None and self._c is None:
                self._c = self._product._finish_in_place(slot, len(rows))
            elif self._error is None:
                assert self._c is not None
                self._product._finish(slot, self._c[rows.start : rows.stop])
            else:
                self._product._abandon(slot)
        except BaseException as error:
            self._error = error

    def __del__(self) -> None:
        if not sys.is_finalizing():  # no job ends any more then, and the process gives everything back
            for slot, _ in self._runs:
                self._product._abandon(slot)


class Matmul:
    """``C = A @ B`` for many A; B is packed once and stays in the NPU's memory.

    ``b``: (K, N), fp16 or int8, K and N up to 16384. ``output``: of fp16 "float32" (the default) or "float16", of int8
    "int32" (the default) or a Requantization, which gives int8. ``device``, ``cores``, ``kernel``: as the delegate's
    options of these names. ``split``: what is divided among cores, "columns" of B or "rows" of A; the latter needs a
    copy of B for each core. ``part_depth``: the largest K of one task, a multiple of 32 up to 8192. A longer K is cut,
    and the host adds the parts in fp32 or int32 in their order; docs/matmul.md says what that does to speed and error.

    May be used from any thread. Raises MatmulError for matrices or arguments that are not taken, DeviceError if the
    device is missing, fails, or has no memory left.
    """

    def __init__(
        self,
        b: Matrix,
        output: Output | None = None,
        device: str = "auto",
        cores: int = 1,
        kernel: Kernel = "rocket",
        split: Split = "columns",
        part_depth: int = USUAL_DEPTH,
    ) -> None:
        b = np.asarray(b)
        self._open(packing_of(b, part_depth), pack(b, part_depth), output, device, cores, kernel, split)

    @classmethod
    def from_packed(
        cls,
        packed: Bytes | bytes | memoryview,
        shape: tuple[int, int],
        dtype: npt.DTypeLike,
        output: Output | None = None,
        device: str = "auto",
        cores: int = 1,
        kernel: Kernel = "rocket",
        split: Split = "columns",
        part_depth: int = USUAL_DEPTH,
    ) -> Self:
        """A product by a B that ``pack`` made, from a memory-mapped file for instance; ``shape``: (K, N)."""
        self = cls.__new__(cls)
        packing = Packing(np.dtype(dtype).name, *shape, part_depth)
        content = np.frombuffer(packed, np.uint8)
        if content.size != packing.size:
            raise MatmulError(f"{content.size} bytes of packed B: {packing.size} for {shape} of {packing.element}")
        self._open(packing, content, output, device, cores, kernel, split)
        return self

    def _open(
        self,
        packing: Packing,
        packed: Bytes,
        output: Output | None,
        device: str,
        cores: int,
        kernel: Kernel,
        split: str,
    ) -> None:
        if not 1 <= cores <= MOST_CORES:
            raise MatmulError(f"cores is {cores}: 1 to {MOST_CORES}")
        if split not in SPLITS:
            raise MatmulError(f"split is {split!r}: {' or '.join(SPLITS)}")
        self.shape, self.dtype = (packing.depth, packing.columns), np.dtype(packing.element)
        self._packing = packing
        self._requantization = output if isinstance(output, Requantization) else None
        if self._requantization:
            self._requantization.check(packing.columns)
        self._form, self._result = forms_of(packing, output)
        self._lock = threading.Lock()
        self._compiled: dict[tuple[int, int], CoreProgram] = {}
        self._idle: dict[int, list[Slot]] = {}
        self._slots: list[Slot] = []
        self._given: dict[int, Slot] = {}  # by the address of its A
        self._closed = False
        self._split = split
        self._cores = cores
        self._device = POOL.enter(lambda: shared_device(SHORT_DEVICES.get(device, device), cores, kernel))
        self._shares: list[Share] = []
        try:
            self._place(packed)
        except BaseException:
            self.close()
            raise

    def _place(self, packed: Bytes) -> None:
        """Puts B where the cores find it, and behind it what the output converter needs."""
        packing, run = self._packing, self._converter
        whole = range(packing.padded_columns)
        shares = column_shares(packing, self._cores) if self._split == "columns" else [whole] * self._cores
        for columns, space in zip(shares, self._device.spaces(len(shares)), strict=True):
            parts = [packed[piece] for piece in packing.slices(columns)]
            if self._requantization and run:
                parts.append(self._requantization.operands(run, columns))
            memory = self._allocate(sum(part.size for part in parts), space)
            self._shares.append(Share(columns, space, memory))
            at = 0
            for part in parts:
                memory.view[at : at + part.size] = part
                at += part.size
            self._device.flush(memory)

    @property
    def _converter(self) -> Converter | None:
        """How the NPU makes 8 bits of the sums, if it does."""
        return self._requantization.converter(self.shape[0]) if self._requantization and self._form.quantizes else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_shares") and not sys.is_finalizing():
            self.close()

    def __call__(self, a: Matrix, out: Matrix | None = None, copy: bool = True) -> Matrix:
        """``a`` (M, K) @ B: (M, N), in ``out`` where it is given; ``copy``: see submit."""
        return self.submit(a, out, copy).result()

    def submit(self, a: Matrix, out: Matrix | None = None, copy: bool = True) -> Pending:
        """Starts ``a`` (M, K) @ B. ``a`` may be changed afterwards, unless it is an ``input()``.

        ``copy=False``: for an ``input()`` C may stay in the NPU's memory, until the next product of the same ``a`` or
        the end of this object; it does where the NPU writes it in one piece of rows, else it is copied all the same.
        """
        a = self._checked(a)
        given = self._given.get(a.ctypes.data) if a.flags.c_contiguous else None
        if given is not None and len(a) <= given.rows:
            in_place = not copy and out is None and given.whole is not None
            pending = Pending(self, None if in_place else self._checked_out(out, len(a)))
            given.start(given.pattern)
            pending._runs.append((given, range(len(a))))
            return pending
        pending = Pending(self, self._checked_out(out, len(a)))
        for rows in equal_ranges(len(a), LARGEST_ROWS, RK3588.line_group):
            if len(pending._runs) >= IN_FLIGHT:
                pending._collect()
            slot = self._take(len(rows))
            pending._runs.append((slot, rows))
            self._fill(slot, a[rows.start : rows.stop])
            slot.start(slot.pattern)
        return pending

    def input(self, rows: int) -> Matrix:
        """An array (rows, K) in the NPU's own memory: given as ``a`` it is not copied. It belongs to this product, and
        one run at a time may use it. Raises MatmulError where K is no multiple of 32, the rows are more than one run
        computes, or several cores have memory of their own.
        """
        if not 1 <= rows <= LARGEST_ROWS:
            raise MatmulError(f"input of {rows} rows: 1 to {LARGEST_ROWS}")
        if self._packing.padded_depth != self.shape[0]:
            raise MatmulError(
                f"input with K = {self.shape[0]}: a multiple of {RK3588.channel_chunk}, else rows are padded"
            )
        if self._cores > 1:
            raise MatmulError(f"input for {self._cores} cores: each has memory of its own; pass any array")
        slot = self._take(rows)
        _, view = next(slot.a_views(self.dtype))
        view[...] = 0
        a = view[:rows]
        self._given[a.ctypes.data] = slot
        return a

    def close(self) -> None:
        """Gives the NPU's memory back; products that run are waited for."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            slots, self._slots, self._idle = self._slots, [], {}
            self._given = {}
        with ExitStack() as freeing:
            freeing.callback(POOL.leave, self._device)
            for share in self._shares:
                freeing.callback(self._device.free, share.b)
            for slot in slots:
                freeing.callback(free, self._device, slot.parts)

    def _check_open(self) -> None:
        if self._closed:
            raise MatmulError("this product is closed")

    def _checked(self, a: Matrix) -> Matrix:
        """A as a matrix; raises MatmulError for another type or shape than B asks for."""
        self._check_open()
        a = np.asarray(a)
        if a.ndim != 2 or a.shape[1] != self.shape[0] or not len(a):
            raise MatmulError(f"A has the shape {a.shape}: (M, {self.shape[0]}) for B {self.shape}, M at least 1")
        if a.dtype != self.dtype:
            raise MatmulError(f"A is {a.dtype}, B {self.dtype}: both have to be the same; convert A with astype")
        return a

    def _checked_out(self, out: Matrix | None, rows: int) -> Matrix:
        """Where C goes; raises MatmulError where it does not fit."""
        wanted = (rows, self.shape[1])
        if out is None:
            return np.empty(wanted, self._result)
        if out.shape != wanted or out.dtype != self._result or not out.flags.writeable:
            raise MatmulError(f"out is {out.dtype} {out.shape}: a writeable array of {self._result} {wanted}")
        return out

    def _allocate(self, size: int, space: int) -> Memory:
        """Memory of the device; idle slots give theirs where there is none left."""
        try:
            return self._device.allocate(size, space)
        except DeviceError:
            with self._lock:
                idle = [slot for slots in self._idle.values() for slot in slots]
                self._idle = {}
                self._slots = [slot for slot in self._slots if slot not in idle]
            for slot in idle:
                free(self._device, slot.parts)
        try:
            return self._device.allocate(size, space)
        except DeviceError as error:
            text = f"{self.dtype} B {self.shape} needs {size} bytes more in the NPU's memory of 4 GiB: {error}"
            raise DeviceError(text, error.errno) from error

    def _take(self, rows: int) -> Slot:
        """A slot that nobody uses, for so many rows."""
        size = bucket(rows)
        with self._lock:
            self._check_open()
            idle = self._idle.get(size)
            if idle:
                return idle.pop()
        slot = self._build(size)
        with self._lock:
            self._slots.append(slot)
        return slot

    def _give_back(self, slot: Slot) -> None:
        with self._lock:
            if not self._closed and slot not in self._given.values():
                self._idle.setdefault(slot.rows, []).append(slot)

    def _build(self, rows: int) -> Slot:
        """A slot with memory of its own."""
        if self._split == "columns":
            row_shares = [range(rows)] * len(self._shares)
        else:
            row_shares = equal_ranges(rows, -(-rows // self._cores), RK3588.line_group)
        parts: list[Loaded] = []
        with ExitStack() as undo:
            for share, own in zip(self._shares, row_shares, strict=False):  # few rows keep fewer cores busy
                loaded = load(self._device, share, self._program(len(own), share.columns), self._allocate)
                parts.append(loaded)
                undo.callback(free, self._device, [loaded])
            undo.pop_all()
        return Slot(self._device, rows, tuple(parts), tuple(row_shares))

    def _program(self, rows: int, columns: range) -> CoreProgram:
        """A core's program; one for all cores whose share has the same size."""
        key = (rows, len(columns))
        program = self._compiled.get(key)
        if program is None:
            program = self._compiled[key] = compile_core(self._packing, self._form, *key, self._converter)
        return program

    def _fill(self, slot: Slot, a: Matrix) -> None:
        """Copies A to where the cores read it; rows that pad it are zero."""
        for rows, view in slot.a_views(self.dtype):
            own = a[rows.start : rows.stop]
            view[: len(own), : self.shape[0]] = own
            view[len(own) :] = 0

    def _finish(self, slot: Slot, c: Matrix) -> None:
        """Waits for a run and copies its result; c: (rows, N)."""
        try:
            self._check_open()
            slot.finish()
            self._read(slot, c)
        finally:
            self._give_back(slot)

    def _finish_in_place(self, slot: Slot, rows: int) -> Matrix:
        """Waits for a run whose result lies in one piece: a view of it."""
        self._check_open()
        slot.finish()
        assert slot.whole is not None
        return slot.whole[:rows, : self.shape[1]]

    def _abandon(self, slot: Slot) -> None:
        """Waits for a run that nobody asks for."""
        with suppress(DeviceError):
            if not self._closed:
                slot.finish()
        self._give_back(slot)

    def _read(self, slot: Slot, c: Matrix) -> None:
        """Puts the pieces of C together, adding up the parts of the depth in their order."""
        several = len(self._packing.parts) > 1
        sums = np.empty(c.shape, self._form.result) if several and self._result != self._form.result else c
        for rows, part in zip(slot.row_shares, slot.parts, strict=False):
            own = sums[rows.start : rows.stop]
            for index, pieces in enumerate(part.core.pieces):
                for columns, values in piece_values(part, pieces, own.shape[0]):
                    target = own[:, columns.start : columns.stop]
                    values = values[:, : target.shape[1]]
                    if index:
                        target += values
                    else:
                        target[...] = values
        if sums is not c:
            c[...] = self._requantization.apply(sums, self.shape[0]) if self._requantization else sums


def matmul(
    a: Matrix, b: Matrix, output: Output | None = None, device: str = "auto", cores: int = 1, kernel: Kernel = "rocket"
) -> Matrix:
    """``a @ b`` once; see Matmul. Of many products by the same B, Matmul packs it only once."""
    with Matmul(b, output, device, cores, kernel) as product:
        return product(a)
