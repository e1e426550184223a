"""`python -m delegate doctor`: on a laptop, on boards in several states of disrepair, and with a working NPU."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hw.fake_kernel import SUBMIT, VERSION, FakeKernel, own_devices
from typer.testing import CliRunner

from delegate import loaded
from delegate.__main__ import app
from delegate.devices import Pool
from delegate.hw import drm, rknpu_interface
from delegate.tools import doctor
from delegate.tools.doctor import examine, lines, missing, trial

Install = Callable[..., FakeKernel]


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Pool]:
    """No node of this machine, and devices of their own."""
    pool = own_devices(monkeypatch, tmp_path)
    yield pool
    pool.close()


def board(root: Path, **files: str) -> Path:
    """A root with the files of an RK3588; in names __ stands for a slash, AT for @."""
    for name, text in {"proc__device_tree__compatible": "radxa,rock-5b\0rockchip,rk3588\0", **files}.items():
        path = root / name.replace("__", "/").replace("device_tree", "device-tree").replace("AT", "@")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_laptop_is_told_so(tmp_path: Path):
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "no NPU here: models run on the simulator" in result.output
    assert "RK3588" in result.output
    found = examine(tmp_path)
    assert (found.auto, found.trials, found.problems, found.nodes) == ("simulator", {"simulator": None}, (), ())
    assert found.advice == doctor.GET_STARTED
    assert len(found.passed_over) == 2


def test_json_has_everything():
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    found = json.loads(result.output)
    assert set(found) == set(doctor.Report.__dataclass_fields__)
    assert found["kernel"] == os.uname().release


@pytest.mark.parametrize("driver", ["rocket", "rknpu"])
def test_a_working_npu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: str):
    kernel = FakeKernel(monkeypatch, driver, tmp_path)
    root = board(
        tmp_path / "root",
        proc__modules="rocket 45056 0 - Live 0x0\n",
        sys__class__devfreq__fdab0000_npu__cur_freq="1000000000\n",
        sys__class__devfreq__fdab0000_npu__governor="userspace\n",
        sys__kernel__debug__clk__scmi_clk_npu__clk_rate="200000000\n",
        sys__kernel__iommu_groups__3__devices__fdab0000_npu="",
        proc__device_tree__npuATfdab0000__status="okay\0",
    )
    found = examine(root)
    assert (found.auto, found.trials, found.problems) == (driver, {driver: None, "simulator": None}, ())
    assert found.advice is None
    assert found.clocks == {"scmi_clk_npu": "200000000", "devfreq fdab0000_npu (userspace)": "1000000000"}
    assert found.iommu_groups == {"fdab0000_npu": "3"}
    assert found.npu_in_device_tree == {"npu@fdab0000": "okay"}
    assert found.drivers == ("rocket",)
    (node,) = found.nodes
    assert (node.path, node.driver, node.usable, node.error) == (str(kernel.path), driver, True, None)
    assert any(subject == str(kernel.path) and "usable" in text for subject, text in lines(found))
    assert kernel.submits


@pytest.mark.parametrize("broken", [False, True])
def test_a_clock_that_only_the_driver_tells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: bool):
    kernel = FakeKernel(monkeypatch, "rknpu", tmp_path)
    if broken:
        monkeypatch.setattr(rknpu_interface, "GET_FREQ", 99)
    found = examine(board(tmp_path / "root"))
    assert found.clocks == ({} if broken else {"rknpu GET_FREQ": "1000000000"})
    assert found.auto_node == f"{kernel.path}, driver rknpu 0.9.8"
    assert ("device=auto takes", f"rknpu ({found.auto_node})") in list(lines(found))


def test_a_user_without_access_gets_reason_and_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    path = tmp_path / "accel0"
    path.touch()
    path.chmod(0o660)
    real = os.open

    def denied(name: Any, *rest: Any, **more: Any) -> int:
        if Path(os.fsdecode(name)) == path:
            raise PermissionError(errno.EACCES, "")
        return real(name, *rest, **more)

    monkeypatch.setattr(os, "open", denied)
    monkeypatch.setattr(drm, "group_name", lambda number: "render")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert f"wrong: {path} cannot be used" in result.output
    assert "it belongs to the group render: sudo usermod -aG render $USER, then log in again" in result.output
    assert "no NPU here" not in result.output


def test_an_npu_that_fails_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    kernel = FakeKernel(monkeypatch, "rocket", tmp_path)
    kernel.errors[SUBMIT] = [errno.EIO] * 2
    found = examine(board(tmp_path / "root"))
    assert found.auto == "rocket"
    assert [problem.what.split(";")[0] for problem in found.problems] == [
        "device rocket: DRM_IOCTL_ROCKET_SUBMIT: EIO (Input/output error)"
    ]


def test_an_npu_that_computes_wrong_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(loaded, "unpack_features", lambda *_: None)
    assert trial("simulator") == "2040 of 2048 results of a convolution are wrong"  # all but the zeros


def test_a_node_of_another_driver_is_no_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "renderD128").touch()
    monkeypatch.setattr(drm, "bound_driver", lambda path: "i915")
    found = examine(tmp_path)
    assert [(node.driver, node.usable, node.error) for node in found.nodes] == [("i915", False, None)]
    assert not found.problems


def test_the_bound_driver_is_read_from_sysfs(tmp_path: Path):
    device = tmp_path / "drm" / "renderD129" / "device"
    device.mkdir(parents=True)
    assert drm.bound_driver(Path("/dev/dri/renderD129"), tmp_path) is None
    (device / "driver").symlink_to("../../bus/platform/drivers/RKNPU")
    assert drm.bound_driver(Path("/dev/dri/renderD129"), tmp_path) == "rknpu"


def test_a_node_that_does_not_answer_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    kernel = FakeKernel(monkeypatch, "rocket", tmp_path)
    kernel.errors[VERSION] = [errno.EIO] * 2
    found = examine(board(tmp_path / "root"))
    assert found.auto == "simulator"
    assert [problem.what for problem in found.problems] == [f"{kernel.path} cannot be used"]
    assert "EIO" in found.problems[0].remedy


OKAY = {"npu@fdab0000": "okay"}


@pytest.mark.parametrize(
    ("kernel", "tree", "drivers", "whats"),
    [
        ("6.18.0", {}, ("rocket",), ["tree has no NPU", "driver rocket has made no node"]),
        ("6.18.0", {"npu@fdab0000": "disabled"}, (), [r"switches the NPU off", "has not loaded the rocket driver"]),
        ("6.12.3-arm64", OKAY, (), ["older than the rocket driver"]),
        ("6.19-rc1", OKAY, (), ["has not loaded the rocket driver"]),
        ("6.1.75-vendor-rk35xx", OKAY, (), ["has no rknpu driver"]),
        ("5.10.160-rockchip", OKAY, ("rknpu",), ["driver rknpu has made no node"]),
    ],
)
def test_a_board_without_a_node(kernel: str, tree: dict[str, str], drivers: tuple[str, ...], whats: list[str]):
    problems = list(missing(kernel, tree, drivers))
    assert len(problems) == len(whats)
    for problem, what in zip(problems, whats, strict=True):
        assert what in problem.what
        assert problem.remedy


def test_a_board_without_a_node_is_a_problem(tmp_path: Path):
    found = examine(board(tmp_path))
    assert found.compatible == ("radxa,rock-5b", "rockchip,rk3588")
    assert found.problems
    assert found.advice is None
