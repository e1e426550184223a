"""Ways to add operators that only move numbers to a random model (drawing.py)."""

from __future__ import annotations

import numpy as np
from drawing import Drawing, choice, kind


@kind("input")
def input_(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    """Another input of the model, like a tensor at hand."""
    quantization = drawing.quantization_of(source) if rng.integers(2) else drawing.factor(rng, source)
    return drawing.input(drawing.shape(source), quantization)


@kind("CONCATENATION")
def concatenation(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    """Of all tensors at hand that go together, up to five, and at times of one more than once."""
    axis = choice(rng, 0, 1, 2, 3, 3, 3)

    def fits(tensor: int) -> bool:
        """TFLite's int8 kernel does not rescale."""
        shapes = [np.delete(drawing.shape(index), axis).tolist() for index in (source, tensor)]
        rescales = drawing.dtype == "uint8" or drawing.quantization_of(source) == drawing.quantization_of(tensor)
        return shapes[0] == shapes[1] and rescales

    sources = [source, *filter(fits, (other, *drawing.tensors[::-1]))][: int(rng.integers(2, 6))]
    rng.shuffle(sources)
    same = len({drawing.quantization_of(tensor) for tensor in sources}) == 1
    output = drawing.quantization_of(source) if same else drawing.factor(rng, source)
    return drawing.builder.concatenation(sources, output, axis)


@kind("SPLIT")
def split(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> tuple[int, ...] | None:
    axis = int(rng.integers(0, 4))
    counts = [n for n in (2, 3, 4) if drawing.shape(source)[axis] % n == 0]
    return drawing.builder.split(source, int(rng.choice(counts)), axis) if counts else None


@kind("SPLIT_V")
def split_v(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> tuple[int, ...] | None:
    axis = int(rng.integers(0, 4))
    extent = drawing.shape(source)[axis]
    if extent == 1:
        return None
    cuts = np.unique([0, *rng.integers(1, extent, int(rng.integers(1, 4))), extent])
    return drawing.builder.split_v(source, np.diff(cuts).tolist(), axis)


@kind("SLICE")
def slice_(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    shape = drawing.shape(source)
    begin = [int(rng.integers(size)) if rng.integers(2) else 0 for size in shape]
    size = [int(rng.integers(1, extent - first + 1)) for extent, first in zip(shape, begin, strict=True)]
    return drawing.builder.slice(source, begin, size)


@kind("STRIDED_SLICE")
def strided_slice(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    shape = drawing.shape(source)
    begin = [int(rng.integers(size)) if rng.integers(2) else 0 for size in shape]
    strides = [1, *(int(rng.integers(1, 4)) for _ in shape[1:])]
    masks = {"begin_mask": int(rng.integers(16)), "end_mask": int(rng.integers(16))}
    if rng.integers(4) == 0:  # one axis goes and comes back
        axis = int(rng.integers(0, 4))
        taken = drawing.builder.strided_slice(source, begin, list(shape), strides, shrink_axis_mask=1 << axis)
        return drawing.builder.expand_dims(taken, axis)
    return drawing.builder.strided_slice(source, begin, list(shape), strides, **masks)


def sides_of(rng: np.random.Generator) -> list[tuple[int, int]]:
    """Before and after each axis; of batch and channels seldom."""
    largest = [choice(rng, 1, 1, 1, 3), choice(rng, 1, 4, 20), choice(rng, 1, 4, 20), choice(rng, 1, 1, 1, 40)]
    return [(int(rng.integers(most)), int(rng.integers(most))) for most in largest]


@kind("PAD")
def pad(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    return drawing.builder.pad(source, sides_of(rng))


@kind("PADV2")
def padv2(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    info = np.iinfo(drawing.dtype)
    return drawing.builder.padv2(source, sides_of(rng), int(rng.integers(info.min, info.max + 1)))


@kind("RESHAPE")
def reshape(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    """To other images, or to one row and back."""
    batch, height, width, channels = drawing.shape(source)
    shapes = [
        (batch, height * width, 1, channels),
        (batch, 1, height * width, channels),
        (batch, width, height, channels),
        (batch, height, channels, width),
        (1, batch * height, width, channels),
        (batch * height, 1, width, channels),
    ]
    if height * width * channels < 3000:
        shapes.append((batch, 1, 1, height * width * channels))
    if channels % 2 == 0:
        shapes.append((batch, height, width * 2, channels // 2))
    if width % 3 == 0:
        shapes.append((batch, height, width // 3, channels * 3))
    shape = shapes[int(rng.integers(len(shapes)))]
    if rng.integers(4) == 0:
        source = drawing.builder.reshape(source, (batch, height * width * channels))
    return drawing.builder.reshape(source, shape) if max(shape) < 2000 else None


@kind("SQUEEZE")
def squeeze(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    """Some axes of extent 1 go, and come back elsewhere."""
    ones = [axis for axis, extent in enumerate(drawing.shape(source)) if extent == 1]
    if not ones:
        return None
    made = drawing.builder.squeeze(source, [int(rng.choice(ones))])
    return drawing.builder.expand_dims(made, choice(rng, 0, 1, 2, -1))


@kind("TRANSPOSE")
def transpose(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    order = rng.permutation(4) if rng.integers(3) == 0 else [0, *(1 + rng.permutation(3))]
    return drawing.builder.transpose(source, [int(axis) for axis in order])


@kind("shuffle")
def shuffle(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    """The channels of groups in turn, by five dimensions."""
    batch, height, width, channels = drawing.shape(source)
    groups = [n for n in (2, 3, 4) if channels % n == 0]
    if not groups:
        return None
    count = int(rng.choice(groups))
    made = drawing.builder.reshape(source, (batch, height, width, count, channels // count))
    made = drawing.builder.transpose(made, (0, 1, 2, 4, 3))
    return drawing.builder.reshape(made, drawing.shape(source))


@kind("DEPTH_TO_SPACE")
def depth_to_space(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    blocks = [n for n in (2, 3, 4) if drawing.shape(source)[3] % (n * n) == 0]
    return drawing.builder.depth_to_space(source, int(rng.choice(blocks))) if blocks else None


@kind("SPACE_TO_DEPTH")
def space_to_depth(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    _, height, width, _ = drawing.shape(source)
    blocks = [n for n in (2, 3, 4) if height % n == 0 and width % n == 0]
    return drawing.builder.space_to_depth(source, int(rng.choice(blocks))) if blocks else None


@kind("SPACE_TO_BATCH_ND")
def space_to_batch(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    """There and back, as dilated convolutions were once written."""
    _, height, width, _ = drawing.shape(source)
    sides = ((0, height % 2), (0, width % 2))
    made = drawing.builder.space_to_batch(source, (2, 2), sides)
    return drawing.builder.batch_to_space(made, (2, 2), sides)


@kind("PACK")
def pack(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> int | None:
    """Two tensors along a new axis, which the next then takes in; or of four dimensions, after one went."""
    builder, shape = drawing.builder, drawing.shape(source)
    if shape != drawing.shape(other) or drawing.quantization_of(source) != drawing.quantization_of(other):
        return None
    if shape[0] == 1:
        return builder.pack([builder.squeeze(tensor, [0]) for tensor in (source, other)], int(rng.integers(4)))
    axis = int(rng.integers(4))
    merged = [2 * extent if place == axis else extent for place, extent in enumerate(shape)]
    return builder.reshape(builder.pack((source, other), axis), merged)


@kind("UNPACK")
def unpack(drawing: Drawing, source: int, other: int, rng: np.random.Generator) -> tuple[int, ...] | None:
    """Parts of three dimensions, of which some become images again."""
    axis = int(rng.integers(4))
    if drawing.shape(source)[axis] > 8:
        return None
    parts = drawing.builder.unpack(source, axis)
    return tuple(drawing.builder.expand_dims(part, axis) for part in parts[: int(rng.integers(1, 4))])
