"""PyTorch's .pth archives without PyTorch and without running what is pickled in them.

A .pth is a zip archive: data.pkl says which tensors there are, data/0, data/1 and so on hold the numbers of their
storages. A pickle can name any function of the machine; here only those that build a tensor have a meaning, and they
are ours.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from examples.rwkv.elements import NUMBERS, to_numpy

Array = npt.NDArray[Any]

# Names of number types in ``elements`` by PyTorch's names of its storages.
STORAGES = {"HalfStorage": "F16", "BFloat16Storage": "BF16", "FloatStorage": "F32", "DoubleStorage": "F64"}
# What torch.save writes for a dictionary of tensors.
OPCODES = {
    *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "NONE", "NEWTRUE", "NEWFALSE"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "SETITEM", "SETITEMS"),
    *("APPEND", "APPENDS", "BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET"),
}


class PthError(ValueError):
    """A .pth file that is damaged, or that is more than tensors with names."""


@dataclass(frozen=True, slots=True)
class StorageType:
    """A class of torch in the pickle, of which only the type of its numbers matters."""

    numbers: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers in a row, as an entry of the archive holds them."""

    values: Array


def rebuild_tensor(storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Array:
    """torch._utils._rebuild_tensor_v2: a view of a storage."""
    if not isinstance(storage, Storage):
        raise PthError("a tensor without a storage")
    if len(size) != len(stride) or min((offset, *size, *stride), default=0) < 0:
        raise PthError(f"a tensor of size {size} with strides {stride}")
    count, values = math.prod(size), storage.values
    last = offset + sum((extent - 1) * step for extent, step in zip(size, stride, strict=True)) if count else -1
    if last >= len(values):
        raise PthError(f"a tensor of size {size} reaches beyond its storage of {len(values)} numbers")
    if count > len(values):  # a stride of 0 makes any number of elements of one
        raise PthError(f"a tensor of size {size} has more elements than its storage of {len(values)} numbers")
    steps = tuple(step * values.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)


def names() -> dict[tuple[str, str], Any]:
    """What a pickle may name. Made anew for each, since a pickle can set attributes of what it has named."""
    return {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): partial(rebuild_tensor),
        ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        **{("torch", name): StorageType(numbers) for name, numbers in STORAGES.items()},
    }


class Reader(pickle.Unpickler):
    """Knows ``names`` and the storages of its archive, and nothing else."""

    def __init__(self, pickled: bytes, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(pickled), encoding="utf-8")
        self.archive, self.folder, self.names = archive, folder, names()
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.names[module, name]
        except KeyError:
            raise PthError(f"it asks for {module}.{name}, which is no part of a tensor") from None

    def persistent_load(self, pid: Any) -> Storage:
        """The storage that ("storage", type, key, device, count) names."""
        kind, storage_type, key, _, count = pid
        if kind != "storage" or not isinstance(storage_type, StorageType) or not isinstance(key, str):
            raise PthError("a storage that is not one of numbers")
        if key not in self.storages:
            content = read_entry(self.archive, f"{self.folder}data/{key}")
            width = NUMBERS[storage_type.numbers].itemsize
            if len(content) != count * width:
                raise PthError(f"storage {key} has {len(content)} bytes and not {count * width}; is it truncated?")
            self.storages[key] = Storage(to_numpy(content, storage_type.numbers))
        return self.storages[key]


def read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """An entry of the archive; torch.save compresses none, so none can be larger than the file."""
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        raise PthError(f"{name} is compressed, which torch.save does not do")
    return archive.read(entry)


def check_opcodes(pickled: bytes) -> None:
    """Refuses what torch.save does not write, and memo numbers that would only fill the memory."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name not in OPCODES:
            raise PthError(f"its pickle has the instruction {opcode.name}, which is no part of a tensor")
        if opcode.name in ("BINPUT", "LONG_BINPUT") and (argument or 0) > len(pickled):
            raise PthError("its pickle counts more objects than it has bytes")


def read_pth(path: Path) -> dict[str, Array]:
    """The tensors of a .pth (torch.save of a state_dict) by name, in their own number types, BF16 as float32.

    Raises PthError for everything else: a truncated archive, a pickle that names anything but tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
            if len(found) != 1:
                raise PthError("it has no data.pkl: not an archive of torch.save")
            pickled = read_entry(archive, found[0])
            check_opcodes(pickled)
            content = Reader(pickled, archive, found[0].removesuffix("data.pkl")).load()
    except (PthError, OSError):
        raise
    except zipfile.BadZipFile as error:
        raise PthError(f"not a whole zip archive ({error}); is it truncated?") from error
    except Exception as error:  # whatever a wrong pickle makes of the interpreter of pickles
        raise PthError(f"its pickle cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, np.ndarray) for name, tensor in content.items()
    ):
        raise PthError("it holds other things than tensors with names; save the state_dict alone")
    return dict(content)
