"""The proof of a run stands only where the NPU writes: an output may lie in the memory of an input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from chosen import DEVICE
from layers import addition, convolution, feature, graph

from delegate.canary import proofs
from delegate.ir import Node
from delegate.options import Options
from delegate.runtime import Session

pytestmark = pytest.mark.device


def test_an_output_in_the_memory_of_an_input_beside_one_that_is_written() -> None:
    """The sum reads the input and the convolution's result as one, so that both lie in one buffer."""
    source = feature(0, 8, 8, 16)
    first, middle = convolution(1, source, 16)
    last, total = addition(2, source, middle)
    same = replace(source, index=50, shape=(1, 64, 1, 16))
    renamed = Node(3, "RESHAPE", (source,), (same,), {})
    model = graph([first, last, renamed], [source], [total, same])
    session = Session(model, Options(device=DEVICE, cache_dir="off", unproven="never"))
    image = np.random.default_rng(1).integers(-128, 128, source.shape).astype(np.int8)
    outputs = [np.zeros(tensor.shape, np.int8) for tensor in (total, same)]
    session.invoke([image], outputs)
    np.testing.assert_array_equal(outputs[1], image.reshape(same.shape))
    assert [port.tensor for port in proofs(session.program)] == [total.index]
    session.close()
