"""How fast language models would be on RK3588: the timing model over the words of every product of a token.

    python -m benchmarks.language_models                                    prints the tables
    python -m benchmarks.language_models --page docs/language-models.md     puts them into the page

Nothing is measured but the last table, which says what numpy's part of a token takes on the machine at hand.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from delegate.hw.emit.product import RESULTS, Form
from delegate.hw.timing import RKNPU, ROCKET, TimedJob, task_costs, total_seconds
from delegate.hw.timing import Board as Timed
from delegate.matmul.packing import LARGEST_SIZE, Packing
from delegate.matmul.plan import bucket, equal_ranges
from delegate.matmul.program import compile_core
from delegate.tools import registry
from delegate.weights.source import Llama
from examples.llama.model import Board, Model
from examples.llama.reference import Reference, greedy

PROMPT = 64  # tokens that are read at once
CORES = (1, 2, 3)


@dataclass(frozen=True)
class Shape:
    """The matrices (K, N) of a layer, and of the model's end, as examples/llama fuses them."""

    name: str
    dim: int
    hidden: int
    layers: int
    vocabulary: int

    @property
    def layer(self) -> tuple[tuple[int, int], ...]:
        return (self.dim, 3 * self.dim), (self.dim, self.dim), (self.dim, 2 * self.hidden), (self.hidden, self.dim)

    @property
    def classifier(self) -> list[tuple[int, int]]:
        """In as many products as its columns need."""
        count = -(-self.vocabulary // LARGEST_SIZE)
        return [(self.dim, self.vocabulary // count)] * count

    @property
    def weights(self) -> int:
        """Bytes of all matrices that a token needs."""
        matrices = [*self.layer * self.layers, *self.classifier]
        return sum(2 * depth * columns for depth, columns in matrices)

    def separate(self) -> tuple[tuple[int, int], ...]:
        """A layer's matrices one by one, as llama2.c multiplies them."""
        square, wide = (self.dim, self.dim), (self.dim, self.hidden)
        return square, square, square, square, wide, wide, (self.hidden, self.dim)


SHAPES = (
    Shape("stories15M", 288, 768, 6, 32000),
    Shape("stories42M", 512, 1376, 8, 32000),
    Shape("stories110M", 768, 2048, 12, 32000),
)
PUBLISHED = {("stories110M", "rknpu", 1): "21 to 23"}


@cache
def costs(element: str, part_depth: int | None, rows: int, depth: int, columns: int) -> tuple[TimedJob, ...]:
    """The jobs of one core for a product."""
    packing = Packing(element, depth, columns, *(() if part_depth is None else (part_depth,)))
    form = Form(element, RESULTS[element][0])
    program = compile_core(packing, form, bucket(rows), packing.padded_columns, None).program
    return tuple(TimedJob(tuple(task_costs(task.words for task in job.tasks)), job.chains) for job in program.jobs)


def product_seconds(
    board: Timed, rows: int, depth: int, columns: int, element: str = "float16", part_depth: int | None = None
) -> float:
    """How long a product takes whose columns the cores of a board share."""
    packing = Packing(element, depth, columns)
    shares = equal_ranges(packing.padded_columns, -(-packing.padded_columns // board.cores), packing.group)
    return max(total_seconds(costs(element, part_depth, rows, depth, len(share)), board) for share in shares)


def token_seconds(shape: Shape, board: Timed, rows: int = 1) -> float:
    """A pass of ``rows`` tokens; the classifier is for the last of them alone."""
    layer = sum(product_seconds(board, rows, *matrix) for matrix in shape.layer)
    return shape.layers * layer + sum(product_seconds(board, 1, *matrix) for matrix in shape.classifier)


def as_published(shape: Shape, board: Timed) -> float:
    """A token with llama2.c's own products: none fused."""
    layer = sum(product_seconds(board, 1, *matrix) for matrix in shape.separate())
    return shape.layers * layer + sum(product_seconds(board, 1, *matrix) for matrix in shape.classifier)


def boards() -> Iterator[Timed]:
    for board in (ROCKET, RKNPU):
        for cores in CORES:
            yield replace(board, cores=cores)


def speed_table() -> Iterator[str]:
    """Tokens a second by shape, kernel and cores."""
    yield "| shape | fp16 weights | kernel, clock | cores | NPU, a token | tok/s | prompt, tok/s | published tok/s |"
    yield "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    for shape in SHAPES:
        for board in boards():
            token, prompt = token_seconds(shape, board), token_seconds(shape, board, PROMPT) / PROMPT
            published = PUBLISHED.get((shape.name, board.name, board.cores), "")
            yield (
                f"| {shape.name} | {shape.weights / 1e6:.0f} MB | {board.name}, {board.clock_hz / 1e6:.0f} MHz | "
                f"{board.cores} | {1e3 * token:.2f} ms | {1 / token:.0f} | {1 / prompt:.0f} | {published} |"
            )


def groups_table() -> Iterator[str]:
    """A product with int8 weights in groups of 64 against the same in fp16."""
    yield "| K x N | kernel | fp16 | int8 in groups of 64 | int8, one scale a row |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for matrix in ((768, 2304), (768, 4096), (2048, 768)):
        for board in (ROCKET, RKNPU):
            fp16 = product_seconds(board, 1, *matrix)
            groups = product_seconds(board, 1, *matrix, "int8", 64)
            whole = product_seconds(board, 1, *matrix, "int8")
            milliseconds = " | ".join(f"{1e3 * seconds:.2f} ms" for seconds in (fp16, groups, whole))
            yield f"| {matrix[0]} x {matrix[1]} | {board.name} | {milliseconds} |"


class Blank:
    """Weights of a shape that are all one; its products are zeros."""

    path = Path("blank")

    def __init__(self, shape: Shape) -> None:
        heads = shape.dim // 48 if shape.dim % 64 else shape.dim // 64  # as the published models have them
        self.sizes = Llama(shape.dim, shape.hidden, shape.layers, heads, heads, shape.vocabulary, 256)
        self.model = {"architecture": "llama", "sizes": self.sizes.as_json()}
        self.tensors = {"embedding": np.ones((shape.vocabulary, shape.dim), np.float16)}

    def array(self, name: str) -> Any:
        return self.tensors.get(name, np.ones(self.sizes.dim, np.float32))


class Zeros:
    """In the place of examples.llama.model.Product."""

    def __init__(self, weights: Blank, name: str, *_: object) -> None:
        sizes, part = weights.sizes, name.rpartition(".")[2]
        columns = {"qkv": sizes.dim + 2 * sizes.kv_dim, "w13": 2 * sizes.hidden, "classifier": sizes.vocabulary}
        self.columns = columns.get(part, sizes.dim)

    def __call__(self, x: Any) -> Any:
        np.clip(x, -1, 1).astype(np.float16)
        return np.zeros((len(x), self.columns), np.float32)


def host_table() -> Iterator[str]:
    """What numpy does of a token behind 128: everything but the products and their arguments' way to the NPU."""
    yield "| shape | numpy's part of a token, least of 30 |"
    yield "| --- | ---: |"
    for shape in SHAPES:
        with patch("examples.llama.model.Product", Zeros):
            model = Model(Blank(shape), Board())  # type: ignore[arg-type]
        times = []
        for _ in range(30):
            model.length = 128
            begin = time.perf_counter()
            model.read([1], 1)
            times.append(time.perf_counter() - begin)
        yield f"| {shape.name} | {1e3 * min(times):.1f} ms |"


GROUP = 32  # weights that share a scale, as in GGUF's Q8_0


def in_groups(values: Any) -> Any:
    """The values that int8 with a scale for each group stands for."""
    groups = values.reshape(-1, GROUP)
    scales = np.maximum(np.abs(groups).max(axis=1, keepdims=True), 1e-30) / 127
    return (np.round(groups / scales) * scales).reshape(values.shape).astype(np.float32)


def in_fp16(values: Any) -> Any:
    return values.astype(np.float16).astype(np.float32)


ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "fp16 weights and inputs": lambda w, x: in_fp16(w) @ in_fp16(x),
    "Q8_0 weights as fp16, fp16 inputs": lambda w, x: in_fp16(in_groups(w)) @ in_fp16(x),
    "Q8_0 weights, inputs in groups of int8 too": lambda w, x: in_groups(w) @ in_groups(x),
}


def accuracy_table() -> Iterator[str]:
    """The embedded model's logits with other products, over 256 tokens, beside fp32."""
    path = registry.models_folder() / "stories_tiny.bin"
    tokens, expected = greedy(Reference(path), [1], 256)
    largest = max(float(np.abs(logits).max()) for logits in expected)
    yield "| products | largest difference of a logit | root mean square | other likeliest token |"
    yield "| --- | ---: | ---: | ---: |"
    for name, multiply in ARITHMETIC.items():
        reference = Reference(path, multiply)
        found = [reference.step(token) for token in [1, *tokens[:-1]]]
        differences = np.array(found) - np.array(expected)
        other = sum(int(np.argmax(logits)) != token for logits, token in zip(found, tokens, strict=True))
        share, mean = np.abs(differences).max() / largest, np.sqrt(np.mean(differences**2)) / largest
        yield f"| {name} | {100 * share:.2f} % | {100 * mean:.3f} % | {other} of {len(tokens)} |"


def refreshed(page: str, table: Iterator[str]) -> str:
    """The page with a table in the place of the one that has the same head."""
    rows = list(table)
    before, head, after = page.partition(rows[0])
    if not head:
        raise SystemExit(f"the page has no table with the head {rows[0]}")
    rest = after.split("\n")
    while rest and (not rest[0] or rest[0].startswith("|")):
        if not rest.pop(0) and rest and not rest[0].startswith("|"):
            break
    return "\n".join([before + "\n".join(rows), "", *rest])


TABLES = {"Speed": speed_table, "Groups": groups_table, "Accuracy": accuracy_table, "Host": host_table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, help="put the tables into this page (docs/language-models.md)")
    page = parser.parse_args().page
    if page is not None:
        text = page.read_text(encoding="utf-8")
        for table in TABLES.values():
            text = refreshed(text, table())
        page.write_text(text, encoding="utf-8")
        return
    for title, table in TABLES.items():
        print(f"### {title}\n", *table(), "", sep="\n")
    shape = SHAPES[-1]
    seconds = as_published(shape, RKNPU)
    print(f"{shape.name} with llama2.c's products, none fused, {RKNPU.name}, one core: {1e3 * seconds:.1f} ms a token")


if __name__ == "__main__":
    main()
