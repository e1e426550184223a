"""A Llama on the simulator beside plain numpy in fp32."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import checkpoints
import numpy as np
import pytest

from delegate.errors import ModelError
from delegate.tools import registry
from delegate.weights.convert import convert
from delegate.weights.packed import PackedWeights
from examples.llama.model import Board, Model, generate
from examples.llama.reference import Reference, greedy
from examples.llama.tokenizer import BEGIN
from examples.sampling import Sampling, sample

BOARD = Board("simulator")
EMBEDDED = registry.models_folder() / "stories_tiny.bin"
TOKENS = [1, 7, 299, 3, 3, 120, 50, 77, 8, 210, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
# Of the largest logit: weights and inputs of a product are rounded to 11 bits, and a token goes through 9 products.
TOLERANCE = 4e-3


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> PackedWeights:
    path = tmp_path_factory.mktemp("embedded") / "stories_tiny.npu"
    convert(EMBEDDED, path)
    return PackedWeights(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PackedWeights]:
    """(checkpoint, packed) of a random Llama with shared keys and a classifier of its own."""
    folder = tmp_path_factory.mktemp("small")
    checkpoint = checkpoints.write_version0(folder / "model.bin", checkpoints.random_weights(shared=False))
    convert(checkpoint, folder / "model.npu")
    return checkpoint, PackedWeights(folder / "model.npu")


@pytest.fixture(params=["auto", "npu", "host"])
def model(request: pytest.FixtureRequest, small: tuple[Path, PackedWeights]) -> Iterator[Model]:
    with Model(small[1], BOARD, request.param) as made:
        yield made


def assert_near(logits: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_logits_are_the_references(small: tuple[Path, PackedWeights], model: Model) -> None:
    reference = Reference(small[0])
    for token in TOKENS:
        assert_near(model.read([token], 1), reference.step(token))


@pytest.mark.parametrize("batch", [3, 16, 20])
def test_prompts_are_read_in_batches(small: tuple[Path, PackedWeights], model: Model, batch: int) -> None:
    reference = Reference(small[0])
    expected = [reference.step(token) for token in TOKENS][-1]
    assert_near(model.read(TOKENS, batch), expected)
    assert model.length == len(TOKENS)
    assert_near(model.read([5], batch), reference.step(5))
    model.forget()
    assert_near(model.read(TOKENS, batch), expected)


@pytest.mark.parametrize("kind", ["version2", "gguf", "safetensors"])
def test_every_format_runs(tmp_path: Path, kind: str) -> None:
    weights, path = checkpoints.random_weights(), tmp_path / "model"
    if kind == "version2":
        checkpoints.write_version2(path, weights)
    elif kind == "gguf":
        checkpoints.write_gguf(path, weights, "Q8_0")
    else:
        checkpoints.write_safetensors(path, weights, np.float16)
    convert(path, tmp_path / "model.npu")
    reference = Reference(path)
    with Model(PackedWeights(tmp_path / "model.npu"), BOARD) as model:
        assert_near(model.read(TOKENS, 64), [reference.step(token) for token in TOKENS][-1])


def test_cores_share_the_products(small: tuple[Path, PackedWeights]) -> None:
    with Model(small[1], BOARD, "host") as one, Model(small[1], Board("simulator", 3), "host") as three:
        np.testing.assert_array_equal(one.read(TOKENS, 64), three.read(TOKENS, 64))


def test_256_greedy_tokens_are_the_references(embedded: PackedWeights) -> None:
    """All that the context of the embedded model holds, ends of stories included."""
    expected, logits = greedy(Reference(EMBEDDED), [BEGIN], 256)
    with Model(embedded, BOARD) as model:
        assert list(generate(model, [BEGIN], 1000)) == expected
        model.forget()
        assert_near(model.read([BEGIN, *expected[:-1]], 64), logits[-1])


def test_attention_on_the_npu_gives_the_same_tokens(embedded: PackedWeights) -> None:
    prompt = [BEGIN, *greedy(Reference(EMBEDDED), [BEGIN], 20)[0]]
    expected, _ = greedy(Reference(EMBEDDED), prompt, 12)
    with Model(embedded, BOARD, "npu") as model:
        assert list(generate(model, prompt, 12)) == expected


def test_the_context_ends(model: Model) -> None:
    assert len(list(generate(model, TOKENS, 1000))) == checkpoints.SIZES.context - len(TOKENS) + 1
    with pytest.raises(ModelError, match=r"1 tokens behind 40: .* the 40 of the model's context"):
        model.read([1], 1)
    model.forget()
    with pytest.raises(ModelError, match="0 tokens behind 0"):
        model.read([], 1)


def test_another_architecture(tmp_path: Path) -> None:
    folder = checkpoints.write_safetensors(tmp_path / "model", checkpoints.random_weights())
    (folder / "config.json").unlink()
    convert(folder, tmp_path / "model.npu")
    with pytest.raises(ModelError, match="holds no Llama, but 'other'"):
        Model(PackedWeights(tmp_path / "model.npu"), BOARD)


def test_a_drawn_text_depends_on_the_seed_alone(small: tuple[Path, PackedWeights]) -> None:
    def drawn(seed: int) -> list[int]:
        with Model(small[1], BOARD, "host") as model:
            choose = partial(sample, sampling=Sampling(1.0, 0.9), rng=np.random.default_rng(seed))
            return list(generate(model, TOKENS, 8, choose))

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


LOGITS = np.log(np.array([0.5, 0.1, 0.25, 0.15], np.float32)) + 3


@pytest.mark.parametrize(
    ("temperature", "top_p", "expected"),
    [
        (1.0, 1.0, [0.5, 0.1, 0.25, 0.15]),
        (1.0, 0.6, [2 / 3, 0, 1 / 3, 0]),
        (1.0, 0.0, [1, 0, 0, 0]),
        (0.5, 1.0, np.array([0.25, 0.01, 0.0625, 0.0225]) / 0.345),
        (1e-3, 1.0, [1, 0, 0, 0]),
        (0.0, 1.0, [1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_by_their_chances(temperature: float, top_p: float, expected: list[float]) -> None:
    sampling, rng, count = Sampling(temperature, top_p), np.random.default_rng(0), 4000
    drawn = np.bincount([sample(LOGITS, sampling, rng) for _ in range(count)], minlength=4) / count
    np.testing.assert_allclose(drawn, expected, atol=0.03)
    assert not drawn[np.asarray(expected) == 0].any()
