"""Checkpoints of every format: the weights that they mean, and damaged ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delegate.errors import ModelError
from delegate.weights.checkpoint import digest_of, entries_of, open_checkpoint
from delegate.weights.huggingface import read_safetensors
from delegate.weights.source import Source

Weights = checkpoints.Weights
SIZES = checkpoints.SIZES


def assert_means(source: Source, weights: Weights) -> None:
    """The source is a Llama of checkpoints.SIZES with exactly these weights."""
    assert source.llama is not None
    assert vars(SIZES).items() <= vars(source.llama).items()
    assert set(source.tensors) == set(weights)
    for name, weight in weights.items():
        read = source.tensors[name].read()
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, weight, err_msg=name)
        assert source.tensors[name].shape == weight.shape


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("write", [checkpoints.write_version0, checkpoints.write_version1])
def test_llama2c_in_float32(tmp_path: Path, write: Callable[..., Path], shared: bool) -> None:
    weights = checkpoints.random_weights(shared=shared)
    assert_means(open_checkpoint(write(tmp_path / "model.bin", weights)), weights)


@pytest.mark.parametrize("group", [32, 64])
def test_llama2c_in_groups_of_int8(tmp_path: Path, group: int) -> None:
    path = tmp_path / "model.bin"
    meant = checkpoints.write_version2(path, checkpoints.random_weights(shared=False), group)
    assert_means(open_checkpoint(path), meant)


@pytest.mark.parametrize("element", [np.float32, np.float16])
def test_safetensors(tmp_path: Path, element: Any) -> None:
    """Written by the format's own package; queries and keys come back in llama2.c's order."""
    weights = checkpoints.random_weights(shared=False)
    folder = checkpoints.write_safetensors(tmp_path / "model", weights, element)
    meant = {name: weight.astype(element).astype(np.float32) for name, weight in weights.items()}
    assert_means(open_checkpoint(folder), meant)


def test_bfloat16(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<4H", 0x3F80, 0xC000, 0x4040, 0x0001))
    expected = [[1, -2], [3, np.uint32(0x00010000).view(np.float32)]]
    np.testing.assert_array_equal(open_checkpoint(path).tensors["x"].read(), np.array(expected, np.float32))


@pytest.mark.parametrize("element", ["F32", "F16", "Q8_0"])
def test_gguf(tmp_path: Path, element: str) -> None:
    path = tmp_path / "model.gguf"
    meant = checkpoints.write_gguf(path, checkpoints.random_weights(shared=False), element)
    assert_means(open_checkpoint(path), meant)


def test_a_file_without_an_architecture_keeps_its_names(tmp_path: Path) -> None:
    folder = checkpoints.write_safetensors(tmp_path / "model", checkpoints.random_weights())
    (folder / "config.json").write_text('{"model_type": "rwkv"}')
    source = open_checkpoint(folder)
    assert source.llama is None
    entries = {entry.name: entry for entry in entries_of(source)}
    assert entries["model.embed_tokens.weight"].kind == "array"
    assert entries["model.norm.weight"].kind == "array"
    down = entries["model.layers.1.mlp.down_proj.weight"]
    assert (down.kind, down.shape) == ("matrix", (SIZES.hidden, SIZES.dim))
    np.testing.assert_array_equal(down.read(), checkpoints.random_weights()["layers.1.w2"].T)


def test_matrices_that_take_the_same_vector_are_one(tmp_path: Path) -> None:
    weights = checkpoints.random_weights()
    source = open_checkpoint(checkpoints.write_version0(tmp_path / "model.bin", weights))
    entries = {entry.name: entry for entry in entries_of(source)}
    assert len(entries) == 3 + 6 * SIZES.layers
    qkv = entries["layers.1.qkv"].read()
    parts = [weights[f"layers.1.{part}"].T for part in ("wq", "wk", "wv")]
    np.testing.assert_array_equal(qkv, np.concatenate(parts, axis=1))
    np.testing.assert_array_equal(entries["classifier"].read(), weights["embedding"].T)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-1], "header says .*; it is cut off or another file"),
        (lambda content: content[:100], "cut off"),
        (lambda content: content[:20], "less than the header"),
        (lambda content: content + b"\0", "longer than its header says"),
        (lambda content: struct.pack("<i", 62) + content[4:], "4 heads .* do not divide 62"),
        (lambda content: content[:4] + struct.pack("<i", 96) + content[8:], "longer than its header says"),
        (lambda content: content[:12] + struct.pack("<i", 0) + content[16:], "heads is 0"),
        (lambda content: content[:8] + struct.pack("<i", 1 << 19) + content[12:], "layers is 524288"),
        (lambda content: b"\x7fELF" + content[4:], r"no checkpoint: .*b'\\x7fELF'"),
        (lambda content: b"", "no checkpoint"),
    ],
)
def test_damaged_version0(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = checkpoints.write_version0(tmp_path / "model.bin", checkpoints.random_weights())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match=message) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (4, 3, "version 3"),
        (4, 0, "version 0"),
        (37, 48, "not made of whole groups of 48"),
        (37, 0, "groups of 0"),
    ],
)
def test_damaged_version2(tmp_path: Path, at: int, value: int, message: str) -> None:
    path = tmp_path / "model.bin"
    checkpoints.write_version2(path, checkpoints.random_weights())
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + struct.pack("<i", value) + whole[at + 4 :])
    with pytest.raises(ModelError, match=message):
        open_checkpoint(path)


def config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 128}, r"embedding has the shape \(300, 64\); the sizes in the file say \(300, 128\)"),
        ({"num_hidden_layers": 3}, "the tensor layers.2.attention_norm is missing"),
        ({"num_attention_heads": 5}, "do not divide"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling"),
        ({"vocab_size": "many"}, "vocabulary is many"),
        ({"num_hidden_layers": 2.0}, "layers is 2.0"),
        ({"rms_norm_eps": None}, "no number"),
        ({"rope_theta": [1]}, "no number"),
    ],
)
def test_a_configuration_that_does_not_fit(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    folder = checkpoints.write_safetensors(tmp_path / "model", checkpoints.random_weights())
    config(folder, **changes)
    with pytest.raises(ModelError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b'{"x": 3}',
        b'{"x": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}',
        b'{"x": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}',
        b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [0.0, 8.0]}}',
        b'{"x": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}',
        b'{"x": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}',
        b'{"x": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}',
        b'{"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}',
        b'{"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}',
        b'{"x": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}',
        b'{"x": {"dtype": "F32", "shape": [2]}}',
        b"[" * 100_000,
    ],
)
def test_headers_of_safetensors_that_make_no_sense(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(ModelError, match=r"x\.safetensors"):
        open_checkpoint(path)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        open_checkpoint(tmp_path / "none.bin")
    with pytest.raises(ModelError, match=r"no \.safetensors"):
        open_checkpoint(tmp_path)


FORMATS = ("version0", "version2", "safetensors", "gguf")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A checkpoint of each format, as bytes."""
    folder = tmp_path_factory.mktemp("small")
    sizes = checkpoints.Sizes(dim=32, hidden=32, layers=1, heads=2, kv_heads=1, vocabulary=8, context=4)
    weights = checkpoints.random_weights(sizes=sizes)
    checkpoints.write_version0(folder / "version0", weights, sizes)
    checkpoints.write_version2(folder / "version2", weights, 32, sizes)
    checkpoints.write_gguf(folder / "gguf", weights, "Q8_0", sizes)
    first = next(iter(sorted(checkpoints.write_safetensors(folder / "model", weights, sizes=sizes).glob("*00001*"))))
    return {name: (folder / name).read_bytes() for name in ("version0", "version2", "gguf")} | {
        "safetensors": first.read_bytes()
    }


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_an_error_of_ours_or_harmless(
    tmp_path: Path, small: dict[str, bytes], kind: str, data: st.DataObject
) -> None:
    """Bytes of the header changed, or the end cut off: nothing but ModelError, and all that is read has its shape."""
    content = bytearray(small[kind])
    if data.draw(st.booleans(), label="cut"):
        del content[data.draw(st.integers(0, len(content) - 1), label="at") :]
    else:
        for _ in range(data.draw(st.integers(1, 4), label="changes")):
            content[data.draw(st.integers(0, min(len(content) - 1, 1200)))] = data.draw(st.integers(0, 255))
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model")
    path.write_bytes(content)
    try:
        source = open_checkpoint(path)
        read = {name: tensor.read() for name, tensor in source.tensors.items()}
    except ModelError as error:
        assert "\n" not in str(error)
        return
    for name, tensor in source.tensors.items():
        assert read[name].shape == tensor.shape


def test_the_digest_is_of_all_files(tmp_path: Path) -> None:
    folder = checkpoints.write_safetensors(tmp_path / "model", checkpoints.random_weights())
    before = digest_of(read_safetensors(folder))
    second = sorted(folder.glob("*.safetensors"))[1]
    content = bytearray(second.read_bytes())
    content[-1] ^= 1
    second.write_bytes(content)
    assert digest_of(read_safetensors(folder)) != before
