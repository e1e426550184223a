"""examples/rwkv: checkpoints in all number types, and files that are damaged, foreign or hostile."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rwkv_models import Storage, Tensor, as_bf16, names_of_torch, random_tensors, state_dict, write_archive, write_pth
from safetensors.numpy import save_file

from delegate.errors import ModelError
from examples.rwkv.checkpoint import read_checkpoint
from examples.rwkv.pth import PthError, read_pth

TENSORS = random_tensors(layers=1, width=16, words=5)


def check_same(path: Path, expected: dict[str, Any]) -> None:
    found = read_checkpoint(path)
    assert (found.layers, found.width, found.words) == (1, 16, 5)
    assert set(found.tensors) == set(expected)
    for name, values in expected.items():
        assert np.array_equal(found.tensors[name], values.reshape(found.tensors[name].shape)), name


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8"])
def test_safetensors(kind: str, tmp_path: Path) -> None:
    tensors = {name: values.astype(kind) for name, values in TENSORS.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    check_same(tmp_path / "model.safetensors", tensors)


def test_safetensors_of_bf16(tmp_path: Path) -> None:
    header, data = {}, b""
    for name, values in TENSORS.items():
        part = as_bf16(values)[0].tobytes()
        header[name] = {"dtype": "BF16", "shape": values.shape, "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    check_same(tmp_path / "model.safetensors", {name: as_bf16(values)[1] for name, values in TENSORS.items()})


@pytest.mark.parametrize(
    ("kind", "storage"), [("<f2", "HalfStorage"), ("<f4", "FloatStorage"), ("<f8", "DoubleStorage")]
)
def test_pth(kind: str, storage: str, tmp_path: Path) -> None:
    tensors = {name: values.astype(kind) for name, values in TENSORS.items()}
    with names_of_torch() as torch:
        write_pth(tmp_path / "model.pth", state_dict(torch, tensors, storage))
    check_same(tmp_path / "model.pth", tensors)


def test_pth_of_bf16(tmp_path: Path) -> None:
    with names_of_torch() as torch:
        write_pth(tmp_path / "model.pth", state_dict(torch, TENSORS, "BFloat16Storage"))
    check_same(tmp_path / "model.pth", {name: as_bf16(values)[1] for name, values in TENSORS.items()})


def test_tensors_may_be_views_of_one_storage(tmp_path: Path) -> None:
    values = np.arange(12, dtype="<f4")
    with names_of_torch() as torch:
        storage = Storage(torch.FloatStorage, values)
        content = {"transposed": Tensor(storage, 2, (2, 3), (1, 3)), "row": Tensor(storage, 4, (3,), (1,))}
        write_pth(tmp_path / "model.pth", content)
    found = read_pth(tmp_path / "model.pth")
    assert np.array_equal(found["transposed"], [[2, 5, 8], [3, 6, 9]])
    assert np.array_equal(found["row"], [4, 5, 6])


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def dumped(content: Any, protocol: int = 2) -> bytes:
    return pickle.dumps(content, protocol=protocol)


HOSTILE = {
    "a command": (dumped(Call(eval, "open('ran', 'w')")), "it asks for __builtin__.eval"),
    "a command, another protocol": (dumped(Call(eval, "open('ran', 'w')"), 4), "the instruction"),
    "a hidden command": (b"cos\nsystem\n(S'touch ran'\ntR.", "the instruction STRING"),
    "attributes of a function": (
        b"\x80\x02ctorch\nHalfStorage\n}X\x07\x00\x00\x00numbersX\x03\x00\x00\x00F64sb.",
        "other things than tensors",
    ),
    "a memo that fills the memory": (b"\x80\x02}r\xff\xff\xff\x7f.", "more objects than it has bytes"),
    "a text longer than the file": (b"\x80\x02X\xff\xff\xff\x7fabc.", "its pickle cannot be read"),
    "nothing": (b"", "its pickle cannot be read"),
    "no dictionary": (dumped([1, 2]), "other things than tensors"),
    "other values": (dumped({"emb.weight": 5}), "other things than tensors"),
    "a deep list": (b"\x80\x02" + b"]" * 50000 + b"a" * 49999 + b".", "other things than tensors"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_runs_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickled, message = HOSTILE[name]
    write_archive(tmp_path / "model.pth", pickled)
    with pytest.raises(ModelError, match=message) as raised:
        read_checkpoint(tmp_path / "model.pth")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "ran").exists()
    with names_of_torch() as torch:  # and the next file is read as if there had been none
        write_pth(tmp_path / "model.pth", state_dict(torch, {"a": np.ones(3, "<f2")}, "HalfStorage"))
    assert read_pth(tmp_path / "model.pth")["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, (5, 5), (5, 1)), "reaches beyond its storage of 12 numbers"),
        ((-1, (2,), (1,)), "with strides"),
        ((0, (2,), (-1,)), "with strides"),
        ((0, (1 << 40,), (0,)), "more elements than its storage"),
        ((0, (2, 2), (1,)), "with strides"),
        ((10, (3,), (1,)), "reaches beyond"),
    ],
)
def test_tensors_that_are_not_in_their_storage(arguments: tuple[Any, ...], message: str, tmp_path: Path) -> None:
    with names_of_torch() as torch:
        content = {"emb.weight": Tensor(Storage(torch.FloatStorage, np.zeros(12, "<f4")), *arguments)}
        write_pth(tmp_path / "model.pth", content)
    with pytest.raises(PthError, match=message):
        read_pth(tmp_path / "model.pth")


def test_storages_that_are_not_what_they_say(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with names_of_torch() as torch:
        write_pth(path, state_dict(torch, {"a": np.zeros(8, "<f4")}, "FloatStorage"), zipfile.ZIP_DEFLATED)
        with pytest.raises(PthError, match="is compressed"):
            read_pth(path)
        write_pth(path, state_dict(torch, {"a": np.zeros(8, "<f4")}, "LongStorage"))
        with pytest.raises(PthError, match=r"torch\.LongStorage"):
            read_pth(path)
        file = io.BytesIO()
        pickler = pickle.Pickler(file, 2)
        pickler.persistent_id = lambda value: (  # type: ignore[method-assign]
            ("storage", torch.FloatStorage, "0", "cpu", 9) if isinstance(value, Storage) else None
        )
        pickler.dump({"a": Tensor(Storage(torch.FloatStorage, np.zeros(1)), 0, (9,), (1,))})
    write_archive(path, file.getvalue(), [bytes(8 * 4)])
    with pytest.raises(PthError, match="storage 0 has 32 bytes and not 36"):
        read_pth(path)


def changed(**changes: Any) -> dict[str, Any]:
    """The tensors with some replaced, dots for double underscores; None leaves one out."""
    tensors = dict(TENSORS)
    for name, values in changes.items():
        tensors[name.replace("__", ".")] = values
    return {name: values for name, values in tensors.items() if values is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            changed(blocks__0__att__key__weight=None),
            "there is no tensor 'blocks.0.att.key.weight', which an RWKV-4 of 1",
        ),
        (changed(emb__weight=None), "there is no matrix 'emb.weight': not an RWKV model"),
        (
            changed(head__weight=np.zeros((5, 15))),
            r"'head.weight' has the shape \(5, 15\); with 16 channels it must be",
        ),
        (changed(blocks__0__ln2__bias=np.full(16, np.nan)), "'blocks.0.ln2.bias' holds NaN, which fp16 has not"),
        (changed(head__weight=np.full((5, 16), np.inf)), "'head.weight' holds inf"),
        (changed(head__weight=np.full((5, 16), 1e6)), r"'head.weight' holds 1e\+06, which fp16 has not"),
        (changed(blocks__0__att__ln_x__weight=np.zeros(16)), "belongs to RWKV-5 or later; this example runs RWKV-4"),
    ],
)
def test_what_is_no_rwkv4(tensors: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, path)
    with pytest.raises(ModelError, match=f"^{re.escape(str(path))}: .*{message}") as raised:
        read_checkpoint(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [("[", "is not JSON"), ('["ab"]', "not a list of letters"), ('["a", "b"]', "has 2 letters; the model has 5")],
)
def test_a_vocabulary_that_does_not_fit(vocabulary: str, message: str, tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"vocabulary": vocabulary})
    with pytest.raises(ModelError, match=message):
        read_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        bytes(100),
        b"GGUF" + bytes(60),
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 5) + b"[1,2]",
        b"PK\x03\x04" + bytes(60),
    ],
)
def test_files_of_other_kinds(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(ModelError) as raised:
        read_checkpoint(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    save_file({"emb.weight": np.zeros((5, 16), np.int64)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"emb\.weight has numbers of type I64; F16, BF16, F32, F64 can be read"):
        read_checkpoint(tmp_path / "model.safetensors")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    save_file(TENSORS, folder / "model.safetensors", metadata={"vocabulary": json.dumps(list("abcd\n"))})
    with names_of_torch() as torch:
        write_pth(folder / "model.pth", OrderedDict(state_dict(torch, TENSORS, "FloatStorage")))
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("kind", [".safetensors", ".pth"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_found_or_harmless(kind: str, files: dict[str, bytes], tmp_path: Path, data: st.DataObject) -> None:
    """Truncated anywhere, or with bytes changed: a model of the same shape, or one line."""
    content = bytearray(files[kind])
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"damaged{kind}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert read_checkpoint(path).width == 16
    except ModelError as error:
        assert "\n" not in str(error)


def test_the_instructions_that_are_allowed_exist() -> None:
    from examples.rwkv.pth import OPCODES

    assert {opcode.name for opcode in pickletools.opcodes} >= OPCODES
