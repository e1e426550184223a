"""Layouts of the compiler against the index formulas of the hardware book, one element at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delegate.hw import layout
from delegate.hw.soc import RK3588
from delegate.hw.task import Port

sizes = st.integers(1, 70)


def make_port(images: int, height: int, width: int, channels: int, dtype: str, rows: int, offset: int) -> Port:
    surfaces, pitch = -(-channels // 16), rows * width * 16
    shape = (images, height, width, channels)
    return Port(0, 0, offset, shape, dtype, surfaces, pitch, surfaces * pitch + 48, 7)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 9),
    sizes,
    st.sampled_from(["int8", "uint8"]),
    st.integers(0, 3),
    st.integers(0, 99),
)
def test_features_lie_in_surfaces_of_atoms(
    images: int, height: int, width: int, channels: int, dtype: str, extra: int, seed: int
) -> None:
    """Element (c, y, x) at (c / 16) * pitch + (y * W + x) * 16 + c % 16 (npu.md §3.1); uint8 less 128 (S-34).

    Images follow each other, here with 48 bytes between them that are not touched.
    """
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (images, height, width, channels)).astype(np.uint8).view(dtype)
    port = make_port(images, height, width, channels, dtype, height + extra, 32)
    memory = np.zeros(32 + images * port.image_bytes, np.uint8)
    layout.fill_padding(memory, port)
    layout.pack_features(image, memory, port)
    expected = np.zeros_like(memory)
    for index in range(images):
        start = 32 + index * port.image_bytes
        expected[start : start + port.surfaces * port.surface_bytes] = 7
    for n, y, x, c in np.ndindex(images, height, width, channels):
        value = int(image[n, y, x, c]) - (128 if dtype == "uint8" else 0)
        expected[32 + n * port.image_bytes + c // 16 * port.surface_bytes + (y * width + x) * 16 + c % 16] = (
            value & 0xFF
        )
    np.testing.assert_array_equal(memory, expected)
    back = np.zeros_like(image)
    layout.unpack_features(memory, port, back)
    np.testing.assert_array_equal(back, image)


@settings(deadline=None, max_examples=40)
@given(sizes, st.integers(1, 3), st.integers(1, 3), sizes, st.integers(0, 99))
def test_direct_weights(kernels: int, height: int, width: int, channels: int, seed: int) -> None:
    """[OC/32][IC/32][KH][KW][32][32], the last chunk 16 wide where at most 16 channels are left (npu.md §3.4, S-45)."""
    weight = np.random.default_rng(seed).integers(-128, 128, (kernels, height, width, channels)).astype(np.int8)
    packed = layout.pack_weights(weight, RK3588, fill=9).view(np.int8)
    channels_stored = -(-channels // 16) * 16
    per_kernel = height * width * channels_stored
    assert packed.size == -(-kernels // 32) * 32 * per_kernel
    seen = np.zeros(packed.size, bool)
    for k, y, x, c in np.ndindex(weight.shape):
        chunk = min(32, channels_stored - c // 32 * 32)
        index = k // 32 * 32 * per_kernel + c // 32 * 32 * 32 * height * width
        index += ((y * width + x) * 32 + k % 32) * chunk + c % 32
        assert packed[index] == weight[k, y, x, c]
        seen[index] = True
    assert (packed[~seen] == 9).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 150), st.integers(0, 99))
def test_depthwise_weights(height: int, width: int, channels: int, seed: int) -> None:
    """[C/64][KH][KW][64] (S-44)."""
    weight = np.random.default_rng(seed).integers(-128, 128, (1, height, width, channels)).astype(np.int8)
    packed = layout.pack_depthwise_weights(weight, RK3588, fill=-3).view(np.int8)
    expected = np.full(-(-channels // 64) * 64 * height * width, -3, np.int8)
    for y, x, c in np.ndindex(weight.shape[1:]):
        expected[c // 64 * 64 * height * width + (y * width + x) * 64 + c % 64] = weight[0, y, x, c]
    np.testing.assert_array_equal(packed, expected)


def test_bias_is_dense_int32() -> None:
    packed = layout.pack_bias(np.array([1, -2, 3], np.int32), 32)
    np.testing.assert_array_equal(packed.view("<i4"), [1, -2, 3] + [0] * 29)


@given(st.integers(1, 150), st.sampled_from([32, 64]), st.integers(0, 99))
def test_bias_and_multipliers_are_records_of_eight_channels(channels: int, group: int, seed: int) -> None:
    """S-17: 64 bytes for eight channels, int32 A at 0, int16 B at 32, int16 C at 48; C is never 0 (S-223)."""
    rng = np.random.default_rng(seed)
    bias = rng.integers(-(2**31), 2**31, channels).astype(np.int32)
    multipliers = rng.integers(1, 2**15, channels).astype(np.int16)
    padded = -(-channels // group) * group
    packed = layout.pack_bias_and_multipliers(bias, multipliers, padded).tobytes()
    assert len(packed) == padded * 8
    for c in range(padded):
        record = c // 8 * 64
        add = int.from_bytes(packed[record + c % 8 * 4 :][:4], "little", signed=True)
        pend = int.from_bytes(packed[record + 32 + c % 8 * 2 :][:2], "little", signed=True)
        multiply = int.from_bytes(packed[record + 48 + c % 8 * 2 :][:2], "little", signed=True)
        true = c < channels
        assert (add, pend, multiply) == (bias[c] if true else 0, 0, multipliers[c] if true else 1)


@pytest.mark.parametrize(("height", "rows"), [(1, 4), (3, 4), (4, 4), (5, 5)])
def test_surfaces_are_never_lower_than_a_line_group(height: int, rows: int) -> None:
    """S-69, S-181."""
    assert layout.surface_rows(height, RK3588) == rows
