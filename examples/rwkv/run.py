"""Text from an RWKV-4 on the NPU: python examples/rwkv/run.py --help."""

from __future__ import annotations

import codecs
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # lets this file run as a script

from delegate.errors import DelegateError, ModelError, OptionError
from delegate.hw.device import KERNELS, Kernel
from delegate.tools.registry import models_folder
from examples.rwkv.checkpoint import Checkpoint, read_checkpoint
from examples.rwkv.model import Model, State
from examples.rwkv.products import OnNpu, compared, on_cpu
from examples.rwkv.tokenizer import Tokenizer, letters, of_bytes, read_world
from examples.sampling import Sampling, sample

DEFAULT_MODEL = "stories_rwkv.safetensors"
DEFAULT_PROMPT = "Once upon a time"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@dataclass
class Comparison:
    """The same text read by the model in fp32 without the NPU."""

    model: Model
    state: State
    largest: float = 0.0  # difference of logits, as a share of their range
    same: int = 0  # tokens that both would choose at temperature 0
    tokens: int = 0

    def read(self, tokens: list[int], logits: npt.NDArray[np.float32]) -> None:
        """Reads what the other model has read and compares the logits."""
        share, same = compared(logits, self.model.read(tokens, self.state))
        self.largest, self.same, self.tokens = max(self.largest, share), self.same + same, self.tokens + 1


def tokenizer_of(checkpoint: Checkpoint, vocabulary: Path | None) -> Tokenizer:
    """That of a file, of the checkpoint, or bytes; raises ModelError where none fits."""
    if vocabulary is not None:
        return read_world(vocabulary)
    if checkpoint.vocabulary is not None:
        return letters(checkpoint.vocabulary)
    if checkpoint.words == 256:
        return of_bytes()
    raise ModelError(
        f"the model has {checkpoint.words} tokens and does not say what they are; "
        "--vocabulary takes rwkv_vocab_v20230424.txt of the World models"
    )


def generate(
    model: Model, prompt: list[int], sampling: Sampling, seed: int, end: int, comparison: Comparison | None
) -> Iterator[int]:
    """Tokens that follow the prompt, until ``end``."""
    rng, state, read = np.random.default_rng(seed), model.start(), prompt
    while True:
        logits = model.read(read, state)
        if comparison is not None:
            comparison.read(read, logits)
        token = sample(logits, sampling, rng)
        if token == end:
            return
        yield token
        read = [token]


@app.command()
def main(
    prompt: Annotated[str, typer.Argument(help="what the text begins with")] = DEFAULT_PROMPT,
    model: Annotated[
        Path | None, typer.Option("-m", "--model", help="an RWKV-4 as .safetensors or .pth (default: small stories)")
    ] = None,
    vocabulary: Annotated[
        Path | None, typer.Option("-v", "--vocabulary", help="rwkv_vocab_v20230424.txt, for the World models")
    ] = None,
    tokens: Annotated[int, typer.Option("-n", "--tokens", min=1, help="at most so many")] = 600,
    temperature: Annotated[float, typer.Option(min=0, help="0: always the likeliest token")] = 0.8,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="only the likeliest, that have this share together")] = 0.9,
    seed: Annotated[int, typer.Option(min=0, help="of the choice of tokens")] = 0,
    cores: Annotated[int, typer.Option(min=1, max=3, help="of the NPU, which share the columns of a product")] = 1,
    cpu_share: Annotated[float, typer.Option(min=0, max=1, help="of the columns, computed by numpy meanwhile")] = 0.0,
    device: Annotated[str, typer.Option(help="the delegate's device")] = "auto",
    kernel: Annotated[str, typer.Option(help="which the simulator plays: rocket, rknpu")] = "rocket",
    cpu: Annotated[bool, typer.Option("--cpu", help="everything in numpy, fp32, without the NPU")] = False,
    compare: Annotated[bool, typer.Option("--compare", help="say how far the logits are from fp32's")] = False,
) -> None:
    """Continues a text with an RWKV-4, a recurrent language model, its matrix products on the NPU.

    The model that comes with the project tells small stories. Text goes to stdout, speed to stderr.

    Examples:

    python examples/rwkv/run.py

    python examples/rwkv/run.py "One day" --cores 3 --cpu-share 0.25 --temperature 0 --compare

    python examples/rwkv/run.py "Hello" -m RWKV-4-World-0.1B.pth -v rwkv_vocab_v20230424.txt
    """
    checkpoint = read_checkpoint(model or models_folder() / DEFAULT_MODEL)
    tokenizer = tokenizer_of(checkpoint, vocabulary)
    first = [tokenizer.end, *tokenizer.encode(prompt)]
    if max(first) >= checkpoint.words:
        raise ModelError(f"the vocabulary has more tokens than the model's {checkpoint.words}")
    sampling = Sampling(temperature, top_p)
    with nullcontext(on_cpu) if cpu else OnNpu(device, cores, kernel_of(kernel), cpu_share) as make:
        own = Model(checkpoint, make)
        comparison = None
        if compare:
            exact = Model(checkpoint, on_cpu)
            comparison = Comparison(exact, exact.start())
        write(prompt, generate(own, first, sampling, seed, tokenizer.end, comparison), tokenizer, tokens)
    if comparison is not None:
        print(
            f"beside fp32: logits differ by {comparison.largest:.2e} of their range at most, "
            f"the likeliest token is the same {comparison.same} times of {comparison.tokens}",
            file=sys.stderr,
        )


def kernel_of(text: str) -> Kernel:
    """Raises OptionError for a name that is none."""
    for known in KERNELS:
        if text == known:
            return known
    raise OptionError(f"--kernel {text}: {' or '.join(KERNELS)}")


def write(prompt: str, source: Iterator[int], tokenizer: Tokenizer, most: int) -> None:
    """Prints tokens as they come, then how many came in a second: the prompt's time apart."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    print(prompt, end="", flush=True)
    began = time.perf_counter()
    count, first = 0, began
    for token in source:
        print(decoder.decode(tokenizer.piece(token)), end="", flush=True)
        if count == 0:
            first = time.perf_counter()
        count += 1
        if count == most:
            break
    print(decoder.decode(b"", final=True))
    elapsed = time.perf_counter() - first
    rate = f"{(count - 1) / elapsed:.1f} tok/s" if count > 1 else "too few for a rate"
    print(f"prompt {first - began:.2f} s; {count} tokens: {rate}", file=sys.stderr)


def run() -> None:
    """The command line; an error of ours is one line and exit status 1."""
    try:
        app()
    except DelegateError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    run()
