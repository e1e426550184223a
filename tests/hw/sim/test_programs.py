"""The captured programs of other drivers give their expected results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from delegate.hw.sim.options import Options
from delegate.tools.capture import Capture, load
from delegate.tools.replay import Replay

PROGRAMS = Path(__file__).parents[4] / "shared" / "golden" / "programs"
DTYPES = {"float16": np.float16, "float32": np.float32, "int8": np.int8, "int16": np.int16, "int32": np.int32}
# Tolerances that the cases state in words: absolute, of the result's unit.
TABLE_TOLERANCE = 1.5e-2  # "about 1e-2 absolute"
AVERAGE_TOLERANCE = 2e-3  # "about 2e-3 relative"
# The recorded stream repeats its third part 41 times instead of going on: only the first 24 results can come out.
INCOMPLETE = {"ab-where_64_direct": 24}


def names() -> list[str]:
    return sorted(file.parent.name for file in PROGRAMS.glob("*/stream.json.gz"))


def comparable() -> list[str]:
    return [name for name in names() if load(PROGRAMS / name).facts["case"].get("judge")]


def result_dtype(case: dict[str, Any]) -> np.dtype[Any]:
    """The type of an element in the result buffer (golden/programs/README.md)."""
    name = case["name"]
    if "int4" in name:
        return np.dtype(np.int16)
    if name.startswith("rus-pool_int8"):
        return np.dtype(np.float16)
    if name.startswith("rus-dw_uint8"):
        return np.dtype(np.int8)
    return np.dtype(DTYPES[case["out_dtype"]])


def results(capture: Capture, replay: Replay, expected: Any) -> npt.NDArray[Any]:
    """The elements that ``expected`` names, in its shape."""
    case, offsets = capture.facts["case"], expected["offsets"].astype(np.int64)
    dtype = result_dtype(case)
    bytes_at = offsets[..., None] + np.arange(dtype.itemsize)
    if "out_bo_of_column" in expected.files:
        columns = [replay.buffers[int(handle)] for handle in expected["out_bo_of_column"]]
        raw = np.stack([column[bytes_at[:, at]] for at, column in enumerate(columns)], axis=1)
    else:
        raw = replay.buffers[case["out"]["bo"]][bytes_at]
    values = np.ascontiguousarray(raw).view(dtype)[..., 0]
    return values.astype(np.int64) + 128 if case["name"].startswith("rus-dw_uint8") else values


def tolerance(case: dict[str, Any], expected: Any, wanted: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What each element may be off, beside the rounding of the output type."""
    name = case["name"]
    if name.startswith(("rus-act", "rus-conv_fp16_gelu", "ab-lut")):
        return np.full(wanted.shape, TABLE_TOLERANCE)
    if name.startswith(("rus-gap", "rus-pool_fp16_avg", "ab-pool_avg", "ab-pool_global", "ab-ppu_fp16_avg")):
        return AVERAGE_TOLERANCE * (1 + np.abs(wanted))
    if "expected_hw" in expected.files:
        return np.ones(wanted.shape)
    if np.issubdtype(result_dtype(case), np.integer) or "exact" in case["tolerance"].split()[:1]:
        return np.zeros(wanted.shape)
    return 1e-5 * np.abs(wanted) + 2e-5  # order of summation: single-precision partial sums


@pytest.mark.parametrize("name", names())
def test_every_program_runs(name: str):
    """Also those whose numbers cannot be compared, on the fast and the plain path alike."""
    capture = load(PROGRAMS / name)
    outcomes = [Replay(capture, Options(plain=plain)).run() for plain in (False, True)]
    assert all(np.array_equal(outcomes[0][handle], outcomes[1][handle]) for handle in outcomes[0])


@pytest.mark.parametrize("name", comparable())
def test_comparable_programs_give_their_results(name: str):
    """Facts that programs show: S-112 (rus-mm_fp16_kacc), S-123 (rus-conv_fp16_gelu), S-127 (rus-mm_int16_tp), S-145
    (rus-up_nearest), S-169 (ab-conv_fp16, many shapes), S-171 (ab-conv_fp16 with 1 to 4 channels of pixels)."""
    capture = load(PROGRAMS / name)
    replay = Replay(capture)
    replay.run()
    with np.load(PROGRAMS / name / "expected.npz") as expected:
        got = results(capture, replay, expected)
        wanted = expected["expected"].astype(np.float64)
        valid = expected["valid"] if "valid" in expected.files else np.ones(wanted.shape, bool)
        if name in INCOMPLETE:
            count = INCOMPLETE[name]
            buffer = replay.buffers[capture.facts["case"]["out"]["bo"]]
            got, wanted, valid = buffer[: 2 * count].view(np.float16), wanted[:count], valid[:count]
        if "expected_hw" in expected.files:
            assert np.array_equal(got[valid], expected["expected_hw"][valid])
        allowed = tolerance(capture.facts["case"], expected, wanted)
        dtype = result_dtype(capture.facts["case"])
        if np.issubdtype(dtype, np.integer):
            info = np.iinfo(np.int32 if name.startswith("rus-dw") else dtype)
            fits = (wanted >= info.min) & (wanted <= info.max)
            assert (np.abs(got - wanted) <= allowed)[valid & fits].all()
            return
        steps = np.spacing(np.abs(wanted).astype(dtype)).astype(np.float64)  # one unit in the last place
        assert (np.abs(got.astype(np.float64) - wanted) <= allowed + 0.5001 * steps)[valid].all()
