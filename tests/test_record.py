"""The option record: what a session sends to a device, as captures that replay gives the same bytes from."""

from __future__ import annotations

import errno
import gzip
import json
import logging
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hw.fake_kernel import FakeKernel, own_devices
from layers import EVERY_FORM, convolution, feature, graph
from typer.testing import CliRunner

from delegate import runtime
from delegate.__main__ import app
from delegate.compile import compile_graph
from delegate.errors import DeviceError
from delegate.hw.capture_folder import TRIM, trim
from delegate.hw.device import DeviceJob, open_device
from delegate.hw.record import Recorder
from delegate.hw.rocket import Rocket
from delegate.hw.sim.device import Simulator
from delegate.ir import Graph
from delegate.options import Options
from delegate.runtime import Session
from delegate.tools.capture import load
from delegate.tools.listing import open_listing

SHAPE = (1, 8, 8, 16)
Record = Callable[..., Path]


def model() -> Graph:
    """Two convolutions, of which the second reads what the first wrote: two chains."""
    source = feature(0, *SHAPE[1:])
    first, middle = convolution(1, source, 32, (3, 3))
    second, output = convolution(2, middle, 16)
    return graph([first, second], [source], [output])


def images(count: int) -> Iterator[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(7)
    for _ in range(count):
        yield rng.integers(-128, 128, SHAPE).astype(np.int8)


def run(session: Session, image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    output = np.zeros(SHAPE, np.int8)
    session.invoke([image], [output])
    return output


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Runs the model once an image and returns the capture's folder."""

    def make(*runs: np.ndarray[Any, Any], **options: Any) -> Path:
        folder = tmp_path / "captures"
        before = set(folder.glob("*"))
        given = {"device": "simulator", "cache_dir": "off", "verify": "outputs", **options}
        session = Session(model(), Options(**given, record=str(folder)))
        for image in runs:
            run(session, image)
        session.close()
        (made,) = set(folder.glob("*")) - before
        return made

    return make


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FakeKernel]:
    """A board's kernel in this process, whose devices the sessions share."""
    fake = FakeKernel(monkeypatch, request.param, tmp_path)
    pool = own_devices(monkeypatch, tmp_path)
    yield fake
    pool.close()


def replayed(*arguments: object) -> tuple[int, list[str]]:
    """Status and lines of the command."""
    result = CliRunner().invoke(app, ["replay", *map(str, arguments)], catch_exceptions=False)
    return result.exit_code, result.output.splitlines()


def assert_replays(folder: Path, outputs: int, *arguments: object) -> None:
    """Every output is what was recorded, wherever it runs."""
    status, lines = replayed(folder, *arguments)
    devices = 2 if "--device" in arguments else 1
    assert status == 0, lines
    assert sum("as recorded" in line for line in lines) == outputs * devices
    assert not [line for line in lines if "NOT" in line or "refused" in line or "warning" in line]


@pytest.mark.parametrize("kernel_of", ["rocket", "rknpu"])
def test_what_the_simulator_gets_replays(record: Record, kernel_of: str):
    """With other runs in between, and a third that is over the limit."""
    folder = record(*images(3), kernel=kernel_of, record_submits=2)
    assert_replays(folder, 2)
    assert_replays(folder, 2, "--device", "simulator")
    assert_replays(folder, 2, "--base", "0x40000000")
    capture = load(folder)
    assert capture.uapi == kernel_of
    assert [len(submit.chains) for submit in capture.submits] == ([1, 1] if kernel_of == "rocket" else [1, 1, 1, 1])
    assert sum(len(chains) for submit in capture.submits for chains in submit.chains) == 4
    assert {submit["status"] for submit in json_of(folder)["submits"]} == {"done"}


@pytest.mark.parametrize("kernel", ["rocket", "rknpu"], indirect=True)
def test_what_a_board_gets_replays(record: Record, kernel: FakeKernel):
    """On the simulator, and on the board again."""
    folder = record(*images(2), device=kernel.driver)
    assert kernel.submits
    assert_replays(folder, 2)
    before = len(kernel.submits)
    assert_replays(folder, 2, "--device", kernel.driver)
    assert len(kernel.submits) > before
    facts = json_of(folder)["recorder"]
    assert (facts["device"], facts["option chain"]) == (kernel.driver, "safe")
    assert kernel.driver in facts["driver"]
    assert not any(str(folder.parent) in str(value) for value in facts.values())


def json_of(folder: Path) -> Any:
    return json.loads(gzip.decompress((folder / "stream.json.gz").read_bytes()))


def test_a_program_is_in_the_capture(record: Record):
    """The words are those of the compiler, relocated, and every address is marked with the place it is of."""
    program = compile_graph(model(), EVERY_FORM)
    (image,) = images(1)
    listing = open_listing(record(image))
    assert len(listing.tasks) == len(program.tasks)
    relocated = {(r.task, r.word) for r in program.relocations}
    for number, (task, ours) in enumerate(zip(listing.tasks, program.tasks, strict=True)):
        addresses = {word for index, word in relocated if index == number}
        assert addresses <= set(task.pointers)
        same = [index for index in range(len(ours.words)) if index not in addresses]
        assert np.array_equal(task.words[same], ours.words[same])


def test_tools_read_it(record: Record):
    (image,) = images(1)
    same = [record(image), record(image)]
    runner = CliRunner()
    assert runner.invoke(app, ["disasm", str(same[0])]).exit_code == 0
    listed = runner.invoke(app, ["diff", *map(str, same)])
    assert "CNA." not in listed.output and "DPU." not in listed.output
    words = runner.invoke(app, ["words", str(same[0])])
    assert words.exception is None or isinstance(words.exception, SystemExit), words.output


def test_what_has_not_changed_is_not_written_again(record: Record):
    """Weights and streams once; an input that is the same once; outputs, which hold a pattern before, each time."""
    one, other = images(2)
    capture = load(record(one, one, other))
    first, second, third = (set(submit.contents) for submit in capture.submits)
    assert third < first
    assert len(second) == len(third) - 1
    assert second == set(capture.submits[0].outputs)


def test_a_difference_is_shown(record: Record):
    (image,) = images(1)
    folder = record(image)
    with np.load(folder / "outputs.npz") as archive:
        arrays = {key: archive[key].copy() for key in archive.files}
    (name,) = arrays
    arrays[name][20] ^= 1
    np.savez(folder / "outputs.npz", **arrays)
    status, lines = replayed(folder)
    assert status == 1
    (line,) = [line for line in lines if "NOT as recorded" in line]
    assert "1 of 2048 bytes" in line and "byte 0x14" in line
    assert replayed(folder, "--device", "simulator")[0] == 1


def test_a_job_that_fails_is_on_the_disk(tmp_path: Path):
    """A board that hangs in wait() has the capture already; an error is kept with the submit."""
    (image,) = images(1)
    device = open_device("simulator")
    seen = []

    def broken(ticket: object, timeout: float, reads: Any = ()) -> None:
        (folder,) = (tmp_path / "captures").iterdir()
        seen.append(load(folder).submits[0].contents)
        assert {submit["status"] for submit in json_of(folder)["submits"]} == {"submitted"}
        raise DeviceError("the NPU is gone", errno.ENODEV)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "shared_device", lambda *key: device)
        patch.setattr(device, "wait", broken)
        session = Session(model(), Options("simulator", "off", record=str(tmp_path / "captures")))
        with pytest.raises(DeviceError, match="is gone"):
            run(session, image)
        session.close()
    assert seen and seen[0]
    (folder,) = (tmp_path / "captures").iterdir()
    assert json_of(folder)["submits"][0]["status"] == "failed: the NPU is gone"
    assert replayed(folder)[0] == 0
    device.close()


def outputs_with_and_without(tmp_path: Path, **options: Any) -> Path:
    """Three runs beside as many without a recorder, which must agree; the folder of captures."""
    folder = tmp_path / "captures"
    plain, recorded = (
        Session(model(), Options("simulator", "off", verify="outputs", **more))
        for more in ({}, {"record": str(folder), **options})
    )
    for image in images(3):
        assert np.array_equal(run(plain, image), run(recorded, image))
    plain.close()
    recorded.close()
    return folder


def test_a_full_disk_ends_the_recording_and_not_the_inference(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """With files that may not grow: the capture of the first submits stays whole."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "whole").mkdir()
    whole = outputs_with_and_without(tmp_path / "whole", record_submits=1)
    limit = max(file.stat().st_size for file in whole.rglob("*")) + 200
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        folder = outputs_with_and_without(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (line,) = [message for message in caplog.messages if "recording" in message]
    assert "File too large" in line and "the inference goes on" in line
    (made,) = folder.iterdir()
    assert len(load(made).submits) < 3
    assert_replays(made, len(load(made).submits))
    assert not list(made.glob("*.part"))


def test_a_folder_does_not_grow_beyond_its_size(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """What others recorded there counts; nothing is left of a capture that could not begin."""
    folder = tmp_path / "captures"
    folder.mkdir()
    (folder / "old").write_bytes(bytes(1 << 20))
    assert list(outputs_with_and_without(tmp_path, record_size=1).iterdir()) == [folder / "old"]
    (line,) = [message for message in caplog.messages if "recording" in message]
    assert "1 MiB (option record_size)" in line


def test_a_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "captures").write_text("a file")
    outputs_with_and_without(tmp_path)
    assert [record.levelno for record in caplog.records if "recording" in record.message] == [logging.WARNING]


@pytest.mark.parametrize("kernel", ["rocket"], indirect=True)
def test_several_address_spaces(kernel: FakeKernel, tmp_path: Path):
    """Buffers of two spaces that have the same addresses get others, with the words that hold them."""
    device = Rocket(2)
    recorder = Recorder(device, tmp_path / "captures", 2, 1 << 28, {})
    (image,) = images(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "shared_device", lambda *key: recorder)
        sessions = [Session(model(), Options("rocket", "off", verify="outputs")) for _ in range(2)]
        outputs = [run(session, image) for session in sessions]
        for session in sessions:
            session.close()
    assert np.array_equal(*outputs)
    assert len({entry.get("fd", 0) for entry in json_of(recorder.folder)["bos"]}) == 2
    assert_replays(recorder.folder, 2)
    assert_replays(recorder.folder, 2, "--device", "simulator")
    device.close()


def test_what_the_device_does_passes_through(tmp_path: Path):
    device = open_device("simulator", kernel="rknpu")
    recorder = Recorder(device, tmp_path, 1, 1 << 20, {})
    assert (recorder.name, recorder.forms, recorder.signals_pooling) == ("simulator", device.forms, True)
    assert recorder.machines is device.machines  # type: ignore[attr-defined]
    memory = recorder.allocate(100)
    with pytest.raises(DeviceError, match="no tasks"):
        recorder.submit([DeviceJob((), (), (), (memory,))])
    recorder.free(memory)
    with pytest.raises(DeviceError, match="not allocated"):
        recorder.free(memory)
    recorder.close()
    with pytest.raises(DeviceError, match="closed"):
        recorder.allocate(1)


def test_zeros_at_the_end_are_left_out():
    array = np.zeros(100, np.uint8)
    assert trim(array).size == 0
    array[TRIM] = 1
    assert trim(array).size == 2 * TRIM
    array[99] = 1
    assert trim(array).size == 100


def test_a_device_that_fails_is_reported(record: Record, monkeypatch: pytest.MonkeyPatch):
    """With what the simulator says all the same."""

    def broken(self: Simulator, ticket: object, timeout: float, reads: Any = ()) -> None:
        raise DeviceError("the NPU hangs", errno.ETIMEDOUT)

    (image,) = images(1)
    folder = record(image)
    monkeypatch.setattr(Simulator, "wait", broken)
    status, lines = replayed(folder, "--device", "simulator")
    assert status == 1
    assert [line.strip() for line in lines[-2:]] == [
        "submit 0, buffer 2 on the simulator: 2048 bytes as recorded",
        "submit 0 on device simulator: the NPU hangs",
    ]
