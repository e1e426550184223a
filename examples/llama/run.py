"""Text from a Llama on the NPU: python examples/llama/run.py --help."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # lets this file run as a script

from delegate.errors import DelegateError, ModelError
from delegate.hw.device import DEVICES
from delegate.tools import registry
from delegate.tools.weights import convert_shown
from delegate.weights.checkpoint import digest_of, open_checkpoint
from delegate.weights.packed import PackedWeights, is_packed
from examples.llama.model import ATTENTIONS, Array, Board, Model, generate
from examples.llama.tokenizer import BEGIN, Tokenizer, read_tokenizer
from examples.sampling import Sampling, sample

Choice = Callable[[Array], int]
DEFAULT_MODEL = "stories_tiny"
DEFAULT_TOKENIZER = "stories15M"  # whose tokenizer, Llama 2's, a file without one of its own takes


@dataclass(frozen=True)
class Files:
    """What a run needs: packed weights and a tokenizer.bin."""

    weights: Path
    tokenizer: Path


@contextmanager
def located(model: str, tokenizer: Path | None) -> Iterator[Files]:
    """The files of a model: a name of models/language.toml, packed weights, or a checkpoint, which is packed first.

    Packed weights are kept in the user's cache under the checkpoint's SHA-256, or for this run alone where there is no
    cache that can be written.
    """
    known = registry.read_registry(registry.models_folder() / "language.toml", "tokenizer")
    path, folder, cache = Path(model), registry.models_folder(), registry.download_folder()
    named = known[DEFAULT_TOKENIZER]
    if not path.exists():
        named = registry.find_model(model, known)
        path = registry.locate(named.source, folder, cache, named.licence)
    if tokenizer is None:
        tokenizer = registry.locate(named.companion, folder, cache, named.licence)
    with tempfile.TemporaryDirectory() as temporary:
        yield Files(_packed(path, cache, Path(temporary)), tokenizer)


def _packed(path: Path, cache: Path, temporary: Path) -> Path:
    if is_packed(path):
        return path
    name = f"{digest_of(open_checkpoint(path))[:16]}.npu"
    kept = (cache if _writable(cache) else temporary) / name
    if kept.exists():
        with suppress(ModelError):  # of an older version, or damaged: made anew
            PackedWeights(kept)
            return kept
    convert_shown(path, kept)
    return kept


def _writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def run(
    model: Annotated[
        str, typer.Argument(help="a name of models/language.toml, a checkpoint, or packed weights")
    ] = DEFAULT_MODEL,
    prompt: Annotated[str, typer.Option("-p", "--prompt", help="the beginning of the text")] = "Once upon a time",
    steps: Annotated[int, typer.Option("-n", "--steps", min=1, help="tokens to generate, at most")] = 256,
    temperature: Annotated[
        float, typer.Option("-t", "--temperature", min=0, help="0: always the likeliest token")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, help="draw from the likeliest tokens that have this share")
    ] = 0.9,
    seed: Annotated[int, typer.Option(help="of the drawing")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="tokens of the prompt that are read at once")] = 64,
    tokenizer: Annotated[
        Path | None, typer.Option("-z", "--tokenizer", help="tokenizer.bin (default: the model's)")
    ] = None,
    device: Annotated[str, typer.Option(help=f"where products run: {', '.join(DEVICES)}")] = "auto",
    cores: Annotated[int, typer.Option(min=1, max=3, help="cores of the NPU that share each product")] = 1,
    attention: Annotated[
        str, typer.Option(help=f"where the attention's own products run: {', '.join(ATTENTIONS)}")
    ] = "auto",
    endless: Annotated[bool, typer.Option(help="go on behind the end of the text")] = False,
) -> None:
    """Generates text with a Llama whose matrix products run on the NPU, or on its simulator where there is none.

    Examples:

    python examples/llama/run.py

    python examples/llama/run.py -p "One day, Mia" -t 0.8 --seed 7

    python examples/llama/run.py stories15M --cores 3          (downloaded on first use)

    python examples/llama/run.py my_llama.gguf -z tokenizer.bin
    """
    choose = partial(sample, sampling=Sampling(temperature, top_p), rng=np.random.default_rng(seed))
    with located(model, tokenizer) as files:
        weights = PackedWeights(files.weights)
        with Model(weights, Board(device, cores), attention) as llama:
            tokens = read_tokenizer(files.tokenizer, llama.sizes.vocabulary)
            tell(llama, tokens, tokens.encode(prompt), steps, choose, batch, endless)


def tell(
    llama: Model, tokenizer: Tokenizer, prompt: list[int], steps: int, choose: Choice, batch: int, endless: bool
) -> None:
    """Prints the text as it comes, and on stderr how fast that was."""
    times = [time.perf_counter()]

    def tokens() -> Iterator[int]:
        yield from prompt
        for token in generate(llama, prompt, steps, choose, batch):
            times.append(time.perf_counter())
            if token == BEGIN and not endless:
                return
            yield token

    for text in tokenizer.stream(tokens()):
        print(text, end="", flush=True)
    print()
    reading, making = times[1] - times[0], times[-1] - times[1]
    print(
        f"prompt: {len(prompt)} tokens, {len(prompt) / reading:.1f} tok/s; "
        f"generated: {len(times) - 1} tokens, {(len(times) - 2) / making if making else 0:.1f} tok/s",
        file=sys.stderr,
    )


def main() -> None:
    """Runs the command line; an error of ours is one line and exit status 1."""
    try:
        typer.run(run)
    except DelegateError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
