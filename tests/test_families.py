"""Networks of the families that cannot be downloaded: wholly on the NPU, as the silicon computes, as near as XNNPACK.

The models are those of ``families``: blocks from the papers, random weights, scales from calibration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from chosen import on_device
from families import FAMILIES, SEED, make
from families.network import Network, pictures
from families.quantized import stored
from PIL import Image
from tflite_writer import Array, Model, write

from delegate.compile import compile_graph
from delegate.hw.soc import EVERY_FORM
from delegate.partition import taken, verdicts
from delegate.tflite import read_graph
from delegate.tools.accuracy.counts import difference
from delegate.tools.accuracy.inputs import Request
from delegate.tools.accuracy.measure import ModelResult, measure
from delegate.tools.accuracy.models import ModelFile, infer, npu_interpreter, reference_interpreter, with_outputs
from delegate.tools.accuracy.xnnpack import Peer

CASES = [(name, dtype) for name, family in FAMILIES.items() for dtype in family.dtypes]
OPTIONS = {**on_device(), "debug": "off"}
SPREAD = 10.0  # of a convolution's channel scales, at least, in the middle of all convolutions
PICTURES = 2  # on which every layer is compared; or random inputs
ALIKE = 0.85  # correlation of a quantized network with the float one
SAME_CLASS = 0.75  # share of pixels of one class in both; random weights make many near ties
DRIFTING = 20  # inputs on which drifts are compared; one network of random weights scatters from one to the next
DEVIATIONS = 3.0  # standard errors of the mean difference that are put down to chance
OTHERWISE = {"kernel": "rknpu", "cores": "3", "chain": "full"}  # than by default: maxima in the PPU, jobs, one chain
PROVEN_CASES = [("ResNet", "int8"), ("ResNet", "uint8"), ("keyword spotter", "int8"), ("two images", "int8")]
Measured = Callable[..., ModelResult]

every_case = pytest.mark.parametrize(("name", "dtype"), CASES, ids=[f"{name} {dtype}" for name, dtype in CASES])


@cache
def model_of(name: str, dtype: str) -> Model:
    return make(name, dtype)


def write_pictures(folder: Path, height: int, width: int) -> None:
    """Pictures of the kind that the networks are calibrated with, but others."""
    folder.mkdir()
    drawn = pictures(np.random.default_rng(SEED + 1), PICTURES, height, width, 3)
    for number, picture in enumerate(np.round(127.5 + 127.5 * drawn).astype(np.uint8)):
        Image.fromarray(picture).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Compares a family's model layer by layer, once: on pictures where it takes one, else on random inputs."""

    @cache
    def run(name: str, dtype: str, unproven: str = "auto") -> ModelResult:
        folder, model = tmp_path_factory.mktemp("model"), model_of(name, dtype)
        (path := folder / "model.tflite").write_bytes(write(model))
        batch, *size, channels = model.tensors[model.inputs[0]].shape
        takes_pictures = batch == 1 and channels == 3
        if takes_pictures:
            write_pictures(folder / "images", size[0], size[1])
        request = Request(random=0 if takes_pictures else PICTURES)
        return measure(ModelFile(path), request, {**OPTIONS, **on_device(unproven=unproven)}, lambda step: None)

    return run


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with closing(Peer()) as found:
        yield found


@every_case
def test_only_what_has_a_reason_stays_on_the_cpu(name: str, dtype: str) -> None:
    """One partition and one submit."""
    graph = read_graph(write(model_of(name, dtype)))
    found = verdicts(graph, EVERY_FORM)
    reasons = {f"{node.op}: {reason}" for node in graph.nodes for reason in found[node.index]}
    left = [node.op for node in graph.nodes if found[node.index]]
    assert Counter(left) == Counter(FAMILIES[name].on_cpu), reasons
    (part,) = taken(graph, EVERY_FORM)
    assert len(compile_graph(part, EVERY_FORM).jobs) == 1


def check_hardware(result: ModelResult) -> None:
    """The delegate's outputs, and every layer as it is in the network and by itself, are the silicon's."""
    assert not result.error and not result.refused
    assert result.partition_outputs.elements > 0
    assert not [(layer.operator, layer.shape) for layer in result.layers if not layer.hardware.equal]
    assert result.partition_outputs.equal


def check_layers(result: ModelResult) -> None:
    """Each layer is within 1 of the reference kernels where it is fed with their tensors."""
    layers = [layer for layer in result.layers if layer.npu and not layer.alias]
    assert sum(layer.isolated.elements for layer in layers) > 0
    assert not [(layer.operator, layer.shape) for layer in layers if layer.isolated.maximum > 1]


@every_case
def test_every_element_is_the_silicons(name: str, dtype: str, measured: Measured) -> None:
    check_hardware(measured(name, dtype))


@every_case
def test_every_operator_is_within_one_of_the_reference(name: str, dtype: str, measured: Measured) -> None:
    check_layers(measured(name, dtype))


@pytest.mark.parametrize(("name", "dtype"), PROVEN_CASES, ids=[" ".join(case) for case in PROVEN_CASES])
def test_proven_forms_alone(name: str, dtype: str, measured: Measured) -> None:
    """Networks that stay in one partition without unproven forms, less what needs a table."""
    result = measured(name, dtype, unproven="never")
    check_hardware(result)
    check_layers(result)
    assert result.partitions == 1
    assert {layer.operator for layer in result.layers if not layer.npu} <= {"LOGISTIC", "SOFTMAX"}


@every_case
def test_kernel_cores_and_chains_change_nothing(name: str, dtype: str) -> None:
    content = write(model_of(name, dtype))
    plain, other = npu_interpreter(content, **OPTIONS), npu_interpreter(content, **OPTIONS, **OTHERWISE)
    inputs = random_inputs(model_of(name, dtype), 1, SEED + 3)[0]
    for expected, got in zip(infer(plain, [inputs]), infer(other, [inputs]), strict=True):
        np.testing.assert_array_equal(got, expected)


def to_inputs(model: Model, images: Array) -> list[Array]:
    """Images as the model takes them, as many at once as its batch has."""
    spec = model.tensors[model.inputs[0]]
    batches = stored(images, (spec.scale[0], spec.zero_point[0]), spec.dtype)
    return list(batches.reshape(-1, *spec.shape))


def random_inputs(model: Model, count: int, seed: int) -> list[Array]:
    """Pictures of the kind that the networks are calibrated with, but others."""
    batch, *shape = model.tensors[model.inputs[0]].shape
    return to_inputs(model, pictures(np.random.default_rng(seed), count * batch, *shape))


def distances(outputs: list[Array], expected: list[Array]) -> Array:
    """Mean difference of each output, in quanta."""
    return np.array([difference(a, b).mean for a, b in zip(expected, outputs, strict=True)])


@every_case
def test_the_output_drifts_no_more_than_xnnpacks(name: str, dtype: str, measured: Measured, peer: Peer) -> None:
    """From the reference kernels, at the last layer on the NPU; mean over all elements and many inputs.

    With weights of one scale a layer gives TFLite's own numbers, and our drift is the smaller one. With a scale a
    channel we and XNNPACK both differ from TFLite by 1 here and there (factors of 15 bits; one rounding for two),
    and through layers of random weights a difference grows as it happens to fall: the two drifts are equal but for
    chance, of which the standard error tells the size. What the last layer itself is off by, fed with TFLite's tensors,
    does not grow and is allowed: it is within 1 where a RESIZE_BILINEAR's weights have 8 bits.
    """
    model, content = model_of(name, dtype), write(model_of(name, dtype))
    graph = read_graph(content)
    last = taken(graph, EVERY_FORM)[-1].nodes[-1].outputs[0].index
    content = with_outputs(content, [last])
    inputs = random_inputs(model, DRIFTING, SEED + 2)
    theirs = peer.outputs(content, len(graph.nodes), [[values] for values in inputs])
    if isinstance(theirs, str):
        pytest.skip(theirs)
    reference, npu = reference_interpreter(content), npu_interpreter(content, **OPTIONS)
    expected = [infer(reference, [values])[0] for values in inputs]
    ours = distances([infer(npu, [values])[0] for values in inputs], expected)
    excess = ours - distances(theirs, expected)
    own = next(layer.isolated.mean for layer in reversed(measured(name, dtype).layers) if layer.npu)
    assert excess.mean() <= own + DEVIATIONS * excess.std() / DRIFTING**0.5
    if dtype == "uint8":
        assert excess.mean() <= 0


def outputs_of(model: Model, network: Network) -> list[Array]:
    """What the reference kernels make of the calibration pictures."""
    interpreter = reference_interpreter(write(model))
    batches = [infer(interpreter, [values]) for values in to_inputs(model, network.arrays[network.input])]
    return [np.concatenate(arrays) for arrays in zip(*batches, strict=True)]


@every_case
def test_a_quantized_network_is_the_float_one(name: str, dtype: str) -> None:
    """So that scales, zero points and biases of the models are those of their numbers."""
    network, outputs = FAMILIES[name].describe(SEED)
    got = outputs_of(model_of(name, dtype), network)
    for output, values in zip(outputs, got, strict=True):
        floats = network.arrays[output]
        if np.issubdtype(values.dtype, np.int64):
            assert (values == floats).mean() >= SAME_CLASS
        else:
            assert np.corrcoef(values.ravel(), floats.ravel())[0, 1] >= ALIKE


def test_channel_scales_spread() -> None:
    """As in trained networks, so that BS's multiplier a channel has something to do."""
    spreads = []
    for name in FAMILIES:
        model = model_of(name, "int8")
        for step in (step for step in model.operators if "CONV" in step.op):
            scales = model.tensors[step.inputs[1]].scale
            spreads.append(max(scales) / min(scales))
    assert float(np.median(spreads)) >= SPREAD
