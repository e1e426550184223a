"""What the host copies between cores' memories, followed atom by atom."""

from __future__ import annotations

import numpy as np
import pytest
from layers import EVERY_FORM, convolution, feature

from delegate.cores import Workload
from delegate.errors import CompileError
from delegate.exchange import check_independence, exchanges
from delegate.hw.soc import RK3588
from delegate.hw.task import Buffer, Exchange, Place
from delegate.ir import Convolution
from delegate.memory import Cube, port
from delegate.ops.conv2d import conv2d
from delegate.share import Share
from delegate.tile import Operands, tile

ROW = 16 * 16  # bytes of a row of pixels
ROWS = 16


def two_layers(kind: str) -> tuple[list[Workload], list[Buffer], list[Cube]]:
    """3x3 over 16x16x16 from buffer 1 into 2, 1x1 into 3 with 32 kernels; each a stage of two cores."""
    tensor = feature(0, ROWS, 16, 16)
    work: list[Workload] = []
    cubes = [Cube(Place(1, 0), 1, ROWS * ROW, ROWS * ROW)]
    sizes = [(1, "input"), (2, "scratch"), (3, "output")]
    for index, size in enumerate((3, 1)):
        node, tensor = convolution(index, tensor, 64, (size, size), (1, 1), "SAME", False)
        (layer,) = conv2d(node, EVERY_FORM)
        assert isinstance(layer, Convolution)
        cubes.append(Cube(Place(2 + index, 0), 4, ROWS * ROW, 4 * ROWS * ROW))
        where = Operands(layer.inputs[0].shape[3], cubes[-2], cubes[-1], None, Place(0, 0), Place(0, 0), None)
        shares = [Share("rows" if kind == "rows" else "channels", core, 2) for core in range(2)]
        work.append(tuple(tuple((index, one) for one in tile(layer, where, RK3588, share)) for share in shares))
    buffers = [Buffer("weights", 1 << 20, "weight")]
    buffers += [Buffer(role, 4 * ROWS * ROW, role) for _, role in sizes]  # type: ignore[arg-type]
    return work, buffers, cubes


def moved(found: tuple[Exchange, ...]) -> dict[tuple[int, int, int, int], int]:
    """Bytes by stage, buffer, source and target."""
    total: dict[tuple[int, int, int, int], int] = {}
    for move in found:
        key = (move.stage, move.buffer, move.source, move.target)
        total[key] = total.get(key, 0) + move.stop - move.start
    return total


def test_rows_need_the_input_s_edge_and_the_output_s_half() -> None:
    work, buffers, cubes = two_layers("rows")
    ports = [port(feature(0, ROWS, 16, 16), cubes[0])], [port(feature(9, ROWS, 16, 64), cubes[2])]
    half = 4 * ROWS // 2 * ROW
    assert moved(exchanges(work, buffers, *ports)) == {
        (0, 1, 0, 1): (ROWS // 2 + 1) * ROW,  # the second half and a row above it
        (2, 3, 1, 0): half,
    }


def test_channels_need_all_that_others_have_made() -> None:
    work, buffers, cubes = two_layers("channels")
    ports = [port(feature(0, ROWS, 16, 16), cubes[0])], [port(feature(9, ROWS, 16, 64), cubes[2])]
    half = 2 * ROWS * ROW
    assert moved(exchanges(work, buffers, *ports)) == {
        (0, 1, 0, 1): ROWS * ROW,
        (1, 2, 1, 0): half,
        (1, 2, 0, 1): half,
        (2, 3, 1, 0): half,
    }


def test_a_core_that_reads_what_another_makes_in_its_stage_is_a_bug() -> None:
    atoms = np.array([0, 1, 1], np.uint8)
    check_independence([{1: atoms}, {}], [{1: atoms}, {1: np.array([1, 0, 0], np.uint8)}])
    with pytest.raises(CompileError, match="core 0 reads what core 1 writes in the same stage"):
        check_independence([{1: atoms}, {}], [{}, {1: np.array([0, 0, 1], np.uint8)}])
