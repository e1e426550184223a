"""Fast path of int8 convolutions: matrix products in BLAS floats; the DPU's stages follow in ``epilogue``.

Why it is exact: a sum of int8 products is an integer, and a float holds every integer below 2**24 (a double below
2**53), so the products are right as long as 128 * sum |w| stays below that, which is checked for the kernels at hand.
Everything else takes the plain path, which the tests compare with this one bit for bit. Native kernels can take the
place of ``_direct`` and ``_depthwise``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from delegate.hw.sim import dpu_rdma, epilogue, fetch, stages, writer
from delegate.hw.sim.dpu import ADD
from delegate.hw.sim.dpu_rdma import LaneValues
from delegate.hw.sim.epilogue import BLOCK, INT32_LIMIT, Doubles, Epilogue, Int8s
from delegate.hw.sim.memory import AddressSpace
from delegate.hw.sim.numbers import Numbers
from delegate.hw.sim.precision import INT8

if TYPE_CHECKING:
    from delegate.hw.sim.passes import Buffers, Convolution, Kernels

ATOM = 16  # int8 elements; moved as one complex double, which numpy copies as 16 bytes
FLOAT_EXACT, DOUBLE_EXACT = 2.0**24, 2.0**53
COLUMNS = 1 << 21  # floats of gathered input for one product


def suits(pass_: Convolution) -> bool:
    """Whether the fast path knows everything this task does."""
    front, plan, features = pass_.front, pass_.dpu, pass_.front.features
    simple = features.precision is INT8 and not features.pixel_channels and features.converter is None
    simple = simple and not features.reuse and front.window.upsampling == (1, 1) and not pass_.core.away_from_zero
    simple = simple and (not pass_.core.truncate or pass_.options.usual("truncation"))
    return simple and not plan.writer.transposed and epilogue.suits(plan)


@dataclass(frozen=True, eq=False)
class Lanes:
    """Per-channel operands as doubles, (channels)."""

    add: Doubles
    multiply: Doubles | None
    factor: int | Doubles  # CPEND


@dataclass(frozen=True, eq=False)
class Matrix:
    """Kernels in the form a product wants, and the largest magnitude a sum can have."""

    values: Numbers  # float32 or float64
    bound: float


@dataclass(frozen=True, eq=False)
class FastConvolution:
    """A convolution that runs fast where its data allow, else as the plain pass it holds."""

    plain: Convolution

    def run(self, memory: AddressSpace, buffers: Buffers, task: str) -> None:
        plain = self.plain
        writer.check_mapped(memory, plain.dpu.writer, task)
        kernels = buffers.fetch_kernels(memory, plain.front.weights, task)
        stored = fetch.cube(buffers.seen(memory), plain.front.features, task)
        lanes = self._lanes(memory, task)
        matrix = self._matrix(kernels, lanes.factor)
        reach = matrix.bound + float(np.abs(lanes.add).max(initial=0.0))
        if reach >= INT32_LIMIT or matrix.bound >= DOUBLE_EXACT:  # something saturates on the way
            plain.run(memory, buffers, task)
            return
        features = plain.front.features
        copy = _gather(stored).reshape(features.height, features.width, -1)  # int8 (height, width, channels)
        buffers.features = (features.geometry, lambda: copy.astype(np.int64))
        operand = None
        if plain.dpu.elementwise is not None:
            assert plain.reader is not None
            operand = dpu_rdma.read_operand(memory, plain.reader, task).astype(np.float64)
        finish = epilogue.prepare(plain.dpu, plain.core.truncate, lanes.add, lanes.multiply, reach, buffers.warn)
        run = self._depthwise if plain.front.weights.depthwise else self._direct
        run(memory, copy, matrix, finish, operand, task)

    def _lanes(self, memory: AddressSpace, task: str) -> Lanes:
        plan, reader = self.plain.dpu, self.plain.reader
        values = LaneValues()
        if reader is not None and (plan.scale is not None or plan.pend is not None):
            values = dpu_rdma.read_lane(memory, reader.scale_lane, plan.channels, True, task)
        scale = plan.scale
        add, multiply = np.zeros(plan.channels), None
        if scale is not None and scale.algorithm == ADD:
            held = values.add if scale.alu_source == "memory" else None
            add += stages.signed(scale.alu_operand, 32) if held is None else held
        if scale is not None and scale.multiply:
            held = values.multiply if scale.multiply_source == "memory" else None
            factor = stages.signed(scale.multiply_operand, 16) if held is None else held
            multiply = np.zeros(plan.channels) + factor
        pend: int | Doubles = 0
        if plan.pend is not None:
            from_memory = plan.pend.source == "memory" and values.pend is not None
            pend = values.pend.astype(np.float64) if from_memory and values.pend is not None else plan.pend.factor
        return Lanes(add, multiply, pend)

    def _matrix(self, kernels: Kernels, factor: int | Doubles) -> Matrix:
        """Kernels plus the CPEND factor: sum x (w + f) is sum x w + f sum x. Kept with the kernels they come from."""
        channels, depthwise = self.plain.dpu.channels, self.plain.front.weights.depthwise
        name = factor if isinstance(factor, int) else factor.tobytes()
        key = (name, channels)
        known = kernels.derived.get(key)
        if isinstance(known, Matrix):
            return known
        numbers = kernels.numbers()  # (kernels, kh, kw, channels)
        if depthwise:
            wide = numbers[0].astype(np.float64)  # (kh, kw, channels)
            wide += factor if isinstance(factor, int) else factor[: wide.shape[2]]
            bound = 128.0 * float(np.abs(wide).sum(axis=(0, 1)).max())
        else:
            wide = np.zeros((channels, numbers[0].size))
            wide[: len(numbers)] = numbers.reshape(len(numbers), -1)
            wide += factor if isinstance(factor, int) else factor[:, None]
            if self.plain.options.short_kernels == "nothing":
                wide[len(numbers) :] = 0
            bound = 128.0 * float(np.abs(wide).sum(axis=1).max())
            wide = wide.T
        exact = np.float32 if bound < FLOAT_EXACT else np.float64
        matrix = Matrix(np.ascontiguousarray(wide, exact), bound)
        kernels.derived[key] = matrix
        return matrix

    def _direct(
        self, memory: AddressSpace, copy: Int8s, matrix: Matrix, finish: Epilogue, operand: Doubles | None, task: str
    ) -> None:
        """Products of gathered rows with the kernel matrix, then the epilogue, for blocks of output rows."""
        plain, core, window = self.plain, self.plain.core, self.plain.front.window
        kind = matrix.values.dtype
        result = np.empty((core.height * core.width, plain.dpu.channels), np.int8)
        pointwise = window.kernel == (1, 1) and window.stride == (1, 1) and window.padding == (0, 0)
        if pointwise:
            full = copy[: core.height, : core.width]
        else:
            pads = fetch.pad_values(window, plain.front.features, False, plain.options, task).astype(np.int8)
            full = fetch.padded(copy, plain.front.features, window, (core.height, core.width), pads, plain.options)
        depth = matrix.values.shape[0]
        rows = max(1, COLUMNS // (core.width * depth))
        for top in range(0, core.height, rows):
            count = min(rows, core.height - top)
            columns = np.empty((count, core.width, depth), kind)
            for index in range(window.kernel[0] * window.kernel[1]):
                y, x = divmod(index, window.kernel[1])
                y, x = y * window.dilation[0] + top * window.stride[0], x * window.dilation[1]
                seen = full[
                    y : y + (count - 1) * window.stride[0] + 1 : window.stride[0],
                    x : x + (core.width - 1) * window.stride[1] + 1 : window.stride[1],
                ]
                columns[:, :, index * seen.shape[2] : (index + 1) * seen.shape[2]] = seen
            sums = columns.reshape(count * core.width, depth) @ matrix.values
            first = top * core.width
            part = slice(first, first + len(sums))
            epilogue.finish(sums, finish, _rows(operand, part), result[part])
        _scatter(memory, plain.dpu.writer, result, task)

    def _depthwise(
        self, memory: AddressSpace, copy: Int8s, matrix: Matrix, finish: Epilogue, operand: Doubles | None, task: str
    ) -> None:
        """Tap by tap over rows of whole channels."""
        plain, core, window = self.plain, self.plain.core, self.plain.front.window
        pads = fetch.pad_values(window, plain.front.features, True, plain.options, task).astype(np.int8)
        full = fetch.padded(copy, plain.front.features, window, (core.height, core.width), pads, plain.options)
        channels, kind, step = full.shape[2], matrix.values.dtype, window.stride[1]
        # Columns apart by the stride lie side by side, so that a tap reads one run of memory for each row.
        phases = [full[:, phase::step].astype(kind).reshape(len(full), -1) for phase in range(step)]
        tiled = np.tile(matrix.values, (1, 1, core.width))  # (kh, kw, width * channels)
        run = core.width * channels
        result = np.empty((core.height * core.width, plain.dpu.channels), np.int8)
        rows = max(1, BLOCK // run)
        for top in range(0, core.height, rows):
            count = min(rows, core.height - top)
            sums = np.zeros((count, run), kind)
            product = np.empty_like(sums)
            for ky in range(window.kernel[0]):
                y = ky * window.dilation[0] + top * window.stride[0]
                lines = slice(y, y + (count - 1) * window.stride[0] + 1, window.stride[0])
                for kx in range(window.kernel[1]):
                    start, phase = divmod(kx * window.dilation[1], step)
                    seen = phases[phase][lines, start * channels : start * channels + run]
                    np.multiply(seen, tiled[ky, kx], out=product)
                    sums += product
            every = np.zeros((count * core.width, plain.dpu.channels), kind)
            every[:, :channels] = sums.reshape(count * core.width, channels)
            part = slice(top * core.width, (top + count) * core.width)
            epilogue.finish(every, finish, _rows(operand, part), result[part])
        _scatter(memory, plain.dpu.writer, result, task)


def _rows(operand: Doubles | None, part: slice) -> Doubles | None:
    """Some pixels of an operand, or the one row that is for all."""
    return operand if operand is None or len(operand) == 1 else operand[part]


def _gather(stored: Int8s) -> Int8s:
    """A cube (surfaces, height, width, 16) to (height, width, surfaces, 16), contiguous; atoms move as one element."""
    atoms = stored.view(np.complex128)[..., 0]
    return np.ascontiguousarray(atoms.transpose(1, 2, 0)).view(np.int8)


def _scatter(memory: AddressSpace, plan: writer.Writer, result: Int8s, task: str) -> None:
    """Writes (pixels, channels) like writer.write, atom by atom."""
    atoms = result.view(np.complex128).reshape(plan.height, plan.width, -1)
    count = plan.written
    for first in range(0, count, plan.surfaces):
        last = min(first + plan.surfaces, count)
        address = plan.address + first // plan.surfaces * plan.group_pitch
        shape = (last - first, plan.height, plan.width)
        strides = (plan.surface_pitch, plan.row_pitch, plan.pixel_pitch)
        view = memory.strided(address, shape, strides, np.dtype(np.complex128), f"{task}: DPU output")
        view[...] = atoms[:, :, first:last].transpose(2, 0, 1)
