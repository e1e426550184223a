"""Numbers and layouts of the kernels' interfaces, the nodes, and what a refused request says."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import grp
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from delegate.errors import DeviceError
from delegate.hw import device as devices
from delegate.hw import drm, rocket
from delegate.hw import rknpu_interface as rknpu
from delegate.hw.device import open_auto, open_device

# uapi.md A.1, B: code and bytes of each request.
REQUESTS = {
    rocket.CREATE_BO: (0xC0186440, 24),
    rocket.SUBMIT: (0x40186441, 24),
    rocket.PREP_BO: (0x40106442, 16),
    rocket.FINI_BO: (0x40086443, 8),
    drm.GEM_CLOSE: (0x40086409, 8),
    drm.VERSION: (0xC0406400, 64),
    rknpu.request(rknpu.Action): (0xC0086440, 8),
    rknpu.request(rknpu.Submit): (0xC0686441, 104),
    rknpu.request(rknpu.MemCreate): (0xC0286442, 40),
    rknpu.request(rknpu.MemCreateDomain): (0xC0306442, 48),
    rknpu.request(rknpu.MemMap): (0xC0106443, 16),
    rknpu.request(rknpu.MemDestroy): (0xC0106444, 16),
    rknpu.request(rknpu.MemSync): (0xC0206445, 32),
    rknpu.request(rknpu.Action, misc=True): (0xC0087200, 8),
    rknpu.request(rknpu.Submit, misc=True): (0xC0687201, 104),
    rknpu.request(rknpu.MemSync, misc=True): (0xC0207205, 32),
}
# uapi.md A.1, B: offset and bytes of each field.
FIELDS = {
    rocket.CreateBo: "size 0 4, handle 4 4, dma_address 8 8, offset 16 8",
    rocket.PrepBo: "handle 0 4, reserved 4 4, timeout_ns 8 8",
    rocket.FiniBo: "handle 0 4, reserved 4 4",
    rocket.Submit: "jobs 0 8, job_count 8 4, job_struct_size 12 4, reserved 16 8",
    rocket.Job: "tasks 0 8, in_bo_handles 8 8, out_bo_handles 16 8, task_count 24 4, task_struct_size 28 4, "
    "in_bo_handle_count 32 4, out_bo_handle_count 36 4",
    rocket.Task: "regcmd 0 4, regcmd_count 4 4",
    rknpu.Action: "flags 0 4, value 4 4",
    rknpu.MemCreate: "handle 0 4, flags 4 4, size 8 8, obj_addr 16 8, dma_addr 24 8, sram_size 32 8",
    rknpu.MemCreateDomain: "handle 0 4, flags 4 4, size 8 8, obj_addr 16 8, dma_addr 24 8, sram_size 32 8, "
    "iommu_domain_id 40 4, core_mask 44 4",
    rknpu.MemMap: "handle 0 4, reserved 4 4, offset 8 8",
    rknpu.MemDestroy: "handle 0 4, reserved 4 4, obj_addr 8 8",
    rknpu.MemSync: "flags 0 4, reserved 4 4, obj_addr 8 8, offset 16 8, size 24 8",
    rknpu.Range: "task_start 0 4, task_number 4 4",
    rknpu.Submit: "flags 0 4, timeout 4 4, task_start 8 4, task_number 12 4, task_counter 16 4, priority 20 4, "
    "task_obj_addr 24 8, iommu_domain_id 32 4, reserved 36 4, task_base_addr 40 8, hw_elapse_time 48 8, "
    "core_mask 56 4, fence_fd 60 4, subcore_task 64 40",
    rknpu.Task: "flags 0 4, op_idx 4 4, enable_mask 8 4, int_mask 12 4, int_clear 16 4, int_status 20 4, "
    "regcfg_amount 24 4, regcfg_offset 28 4, regcmd_addr 32 8",
}


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: f"{request.name}-{request.code:x}")
def test_codes_are_the_published_ones(request_: drm.Request):
    code, size = REQUESTS[request_]
    assert request_.code == code
    assert code >> 16 & 0x3FFF == size


@pytest.mark.parametrize("structure", FIELDS, ids=lambda structure: structure.__qualname__)
def test_fields_are_where_they_are_published(structure: type[ctypes.Structure]):
    found = []
    for name, *_ in structure._fields_:
        place = getattr(structure, name)
        found.append(f"{name} {place.offset} {place.size}")
    assert ", ".join(found) == FIELDS[structure]


def test_a_layout_that_is_not_the_published_one_is_an_error():
    drm.check_layout(rocket.Task, 8, (0, 4))
    for size, offsets in ((12, (0, 4)), (8, (0, 8)), (8, (0,))):
        with pytest.raises(TypeError, match="Task has 8 bytes"):
            drm.check_layout(rocket.Task, size, offsets)


def test_an_interrupted_call_is_tried_again(monkeypatch: pytest.MonkeyPatch):
    outcomes: list[BaseException | None] = [InterruptedError(errno.EINTR, ""), InterruptedError(errno.EINTR, ""), None]

    def ioctl(*_: object) -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    drm.call(3, drm.GEM_CLOSE, drm.Close())
    assert not outcomes
    outcomes.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        drm.call(3, drm.GEM_CLOSE, drm.Close())


@pytest.mark.parametrize("number", [*drm.ADVICE, errno.EDOM])
def test_a_refused_call_says_what_and_what_to_do(monkeypatch: pytest.MonkeyPatch, number: int):
    def ioctl(*_: object) -> None:
        raise OSError(number, "")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    with pytest.raises(DeviceError) as caught:
        drm.call(3, drm.GEM_CLOSE, drm.Close())
    assert caught.value.errno == number
    name, rest = str(caught.value).split(": ", 1)
    assert name == "DRM_IOCTL_GEM_CLOSE"
    assert rest.startswith(f"{errno.errorcode[number]} ({os.strerror(number)}); ")
    assert rest.endswith(drm.ADVICE.get(number, drm.OTHER_ADVICE))


def test_nodes_are_looked_at_in_order_and_can_be_narrowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("accel10", "accel9", "card1"):
        (tmp_path / name).touch()
    patterns = [f"{tmp_path}/accel*", f"{tmp_path}/card*"]
    assert [path.name for path in drm.candidates(patterns)] == ["accel9", "accel10", "card1"]
    monkeypatch.setenv(drm.NODE_VARIABLE, f"{tmp_path}/accel10")
    assert [path.name for path in drm.candidates(patterns)] == ["accel10"]


def test_a_node_without_access_names_group_and_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "accel0"
    path.touch()

    def denied(*_: object) -> int:
        raise PermissionError(errno.EACCES, "")

    monkeypatch.setattr(os, "open", denied)
    monkeypatch.setattr(grp, "getgrgid", lambda number: SimpleNamespace(gr_name="render"))
    path.chmod(0o660)
    with pytest.raises(DeviceError) as caught:
        drm.open_node("rocket", [f"{tmp_path}/accel*"], drm.identify_drm, "")
    assert str(caught.value) == (
        f"device rocket: {path}: permission denied; it belongs to the group render: "
        "sudo usermod -aG render $USER, then log in again"
    )
    assert caught.value.errno == errno.EACCES
    path.chmod(0o600)
    with pytest.raises(DeviceError, match=r"sudo sh -c .chgrp render .*/accel0 && chmod 660 .*SUBSYSTEM==.misc."):
        drm.open_node("rocket", [f"{tmp_path}/accel*"], drm.identify_drm, "")
    assert drm.probe(path, drm.identify_drm).error is not None


def test_a_group_without_a_name_is_its_number():
    assert drm.group_name(1 << 30) == str(1 << 30)


@pytest.mark.parametrize(("name", "fix"), [("rocket", "modprobe rocket"), ("rknpu", "CONFIG_ROCKCHIP_RKNPU")])
def test_a_missing_device_says_what_to_check(monkeypatch: pytest.MonkeyPatch, name: str, fix: str):
    monkeypatch.setattr(drm, "candidates", lambda patterns: [])
    with pytest.raises(DeviceError, match=fix) as caught:
        open_device(name)
    assert caught.value.errno == errno.ENOENT


def test_an_unknown_device_lists_the_valid_ones():
    with pytest.raises(DeviceError, match="auto, simulator, rocket, rknpu"):
        open_device("tpu")


def test_auto_without_an_npu_takes_the_simulator_silently(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(drm, "candidates", lambda patterns: [])
    device, reasons = open_auto(kernel="rknpu")
    assert (device.name, device.signals_pooling) == ("simulator", True)
    assert [reason.split(":")[0] for reason in reasons] == ["device rocket", "device rknpu"]
    assert not caplog.records
    device.close()


def test_auto_says_when_an_npu_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    real = devices.open_device

    def broken(name: str, *rest: object) -> devices.Device:
        if name == "rocket":
            raise DeviceError("device rocket: permission denied", errno.EACCES)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(drm, "candidates", lambda patterns: [])
    monkeypatch.setattr(devices, "open_device", broken)
    device, reasons = open_auto()
    assert device.name == "simulator"
    assert reasons[0] == "device rocket: permission denied"
    assert [record.getMessage() for record in caplog.records] == [
        "teflon: device rocket: permission denied; trying the next device"
    ]
    device.close()
