"""How far fp16 products are from exact ones, by how the depth is cut; on the simulator, random numbers.

The last column is what the NPU itself could add up (S-112): parts rounded to fp16 before each addition. It is worked
out in numpy, because delegate.matmul has no such form.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # lets this file run as a script

from delegate.matmul import Matmul

Array = npt.NDArray[np.float64]
DEPTHS = (2048, 4096, 8192, 16384)
PARTS = (8192, 2048, 512)
ROWS = COLUMNS = 64


def errors(found: npt.NDArray[np.generic], exact: Array) -> str:
    """Root mean square and largest error, of the root mean square of the results."""
    difference = np.abs(found.astype(np.float64) - exact) / np.sqrt(np.mean(exact**2))
    return f"{np.sqrt(np.mean(difference**2)):.1e}, {difference.max():.1e}"


def in_halves(a: npt.NDArray[np.float16], b: npt.NDArray[np.float16], part: int) -> npt.NDArray[np.float16]:
    """Parts of the depth as singles, each rounded to fp16, added in fp16 in their order."""
    total = np.zeros((len(a), b.shape[1]), np.float16)
    for first in range(0, a.shape[1], part):
        total += a[:, first : first + part].astype(np.float32) @ b[first : first + part].astype(np.float32)
    return total


def table(seed: int) -> Iterator[str]:
    """Lines of Markdown."""
    heads = [f"parts of {part}" for part in PARTS] + ["fp16 on the NPU, parts of 512"]
    yield f"| K | {' | '.join(heads)} |"
    yield "| --- |" + " --- |" * len(heads)
    rng = np.random.default_rng(seed)
    for depth in DEPTHS:
        a = rng.standard_normal((ROWS, depth)).astype(np.float16)
        b = rng.standard_normal((depth, COLUMNS)).astype(np.float16)
        exact = a.astype(np.float64) @ b.astype(np.float64)  # exact to 1e-15
        cells = []
        for part in PARTS:
            with Matmul(b, device="simulator", part_depth=part) as product:
                cells.append(errors(product(a), exact))
        cells.append(errors(in_halves(a, b, PARTS[-1]), exact))
        yield f"| {depth} | {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    for line in table(parser.parse_args(argv).seed):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
