"""A model on the NPU beside the same on TFLite's reference kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness import infer


def compare(content: bytes, plain: Any, npu: Any, largest: int, rounds: int = 2) -> None:
    """All on the NPU, and no output further than ``largest`` from TFLite's."""
    assert len(npu._get_ops_details()) == len(plain._get_ops_details()) + 1, "not on the NPU"
    rng = np.random.default_rng(len(content))
    for index in range(rounds):
        values = []
        for detail in plain.get_input_details():
            info = np.iinfo(detail["dtype"])
            low = info.min if index else info.max - 3  # once near the end of the range
            values.append(rng.integers(low, info.max + 1, detail["shape"]).astype(detail["dtype"]))
        for got, expected in zip(infer(npu, values), infer(plain, values), strict=True):
            assert got.shape == expected.shape
            assert np.abs(got.astype(int) - expected.astype(int)).max() <= largest
