"""Small RWKV-4 models for tests: random weights, a plain reference, and files of them."""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from examples.rwkv.checkpoint import shapes

Array = npt.NDArray[Any]
Tensors = dict[str, Array]


def random_tensors(layers: int = 2, width: int = 32, words: int = 20, seed: int = 0) -> Tensors:
    """Weights as small as those of a trained model, norms near 1, in fp32."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes(layers, width, 4 * width, words):
        values = rng.standard_normal(shape) / np.sqrt(shape[-1] if len(shape) == 2 else 4)
        if name.endswith(".weight") and len(shape) == 1:
            values += 1
        if "time_mix" in name:
            values = rng.random((1, 1, *shape))
        tensors[name] = values.astype(np.float32)
    return tensors


def reference(tensors: Mapping[str, Array], tokens: Sequence[int]) -> Array:
    """The logits after the tokens, float64: RWKV-4's equations one by one, sums over the whole past for each token."""
    w = {name: value.astype(np.float64).squeeze() for name, value in tensors.items()}
    layers = len({name.split(".")[1] for name in w if name.startswith("blocks.")})

    def norm(x: Array, name: str) -> Array:
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def sigmoid(x: Array) -> Array:
        return 1 / (1 + np.exp(-x))

    stream = [norm(w["emb.weight"][token], "blocks.0.ln0") for token in tokens]
    for layer in range(layers):
        att, ffn = f"blocks.{layer}.att", f"blocks.{layer}.ffn"

        def mix(xs: Sequence[Array], t: int, share: Array) -> Array:
            return xs[t] * share + (xs[t - 1] if t else 0 * xs[t]) * (1 - share)

        xs = [norm(x, f"blocks.{layer}.ln1") for x in stream]
        steps = range(len(xs))
        keys = [w[f"{att}.key.weight"] @ mix(xs, t, w[f"{att}.time_mix_k"]) for t in steps]
        values = [w[f"{att}.value.weight"] @ mix(xs, t, w[f"{att}.time_mix_v"]) for t in steps]
        decay = np.exp(w[f"{att}.time_decay"])
        for t in steps:
            weights = [np.exp(keys[i] - (t - 1 - i) * decay) for i in range(t)]
            weights.append(np.exp(keys[t] + w[f"{att}.time_first"]))
            mean = sum(weight * value for weight, value in zip(weights, values, strict=False)) / sum(weights)
            gate = sigmoid(w[f"{att}.receptance.weight"] @ mix(xs, t, w[f"{att}.time_mix_r"]))
            stream[t] = stream[t] + w[f"{att}.output.weight"] @ (gate * mean)
        xs = [norm(x, f"blocks.{layer}.ln2") for x in stream]
        for t in steps:
            key = w[f"{ffn}.key.weight"] @ mix(xs, t, w[f"{ffn}.time_mix_k"])
            gate = sigmoid(w[f"{ffn}.receptance.weight"] @ mix(xs, t, w[f"{ffn}.time_mix_r"]))
            stream[t] = stream[t] + gate * (w[f"{ffn}.value.weight"] @ np.maximum(key, 0) ** 2)
    logits: Array = w["head.weight"] @ norm(stream[-1], "ln_out")
    return logits


class Storage:
    """Stands for a storage of torch: it is pickled by its persistent id."""

    def __init__(self, kind: type, values: Array) -> None:
        self.kind, self.values = kind, values


class Tensor:
    """Stands for a tensor of torch: it is pickled as a call of torch._utils._rebuild_tensor_v2."""

    def __init__(self, storage: Storage, offset: int, size: Sequence[int], stride: Sequence[int]) -> None:
        self.arguments = (storage, offset, tuple(size), tuple(stride), False, OrderedDict())

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


@contextmanager
def names_of_torch() -> Iterator[ModuleType]:
    """Modules with the names that pickles of torch refer to, for the pickler to look up; nothing in them works."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    for name in ("HalfStorage", "BFloat16Storage", "FloatStorage", "DoubleStorage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*_: object) -> None:
        raise AssertionError

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    kept = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        yield torch
    finally:
        for name, module in kept.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class Pickler(pickle.Pickler):
    """Puts storages aside, as torch.save does."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)
        self.storages: list[Storage] = []

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Storage):
            return None
        if value not in self.storages:
            self.storages.append(value)
        return ("storage", value.kind, str(self.storages.index(value)), "cpu", len(value.values))


def write_pth(path: Path, content: Any, compression: int = zipfile.ZIP_STORED) -> None:
    """What torch.save writes of a dictionary, in which Tensor stands for tensors; inside ``names_of_torch``."""
    file = io.BytesIO()
    pickler = Pickler(file)
    pickler.dump(content)
    write_archive(path, file.getvalue(), [storage.values.tobytes() for storage in pickler.storages], compression)


def write_archive(
    path: Path, pickled: bytes, storages: Sequence[bytes] = (), compression: int = zipfile.ZIP_STORED
) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", pickled)
        archive.writestr("model/byteorder", "little")
        for number, values in enumerate(storages):
            archive.writestr(f"model/data/{number}", values)
        archive.writestr("model/version", "3\n")


def as_bf16(values: Array) -> tuple[Array, Array]:
    """(the 16 bits of each number, the number that they are)."""
    bits = (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


def state_dict(torch: ModuleType, tensors: Mapping[str, Array], kind: str) -> OrderedDict[str, Tensor]:
    """Tensors as torch would save them: each on a storage of its own."""
    found = OrderedDict()
    for name, values in tensors.items():
        flat = as_bf16(values)[0].ravel() if kind == "BFloat16Storage" else values.ravel()
        strides = np.array(values.strides) // values.itemsize
        found[name] = Tensor(Storage(getattr(torch, kind), flat), 0, values.shape, [int(step) for step in strides])
    return found
