"""What stands between this machine and its NPU: kernel, device tree, drivers, nodes, permissions, clock; a trial."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from delegate.errors import DelegateError, DeviceError
from delegate.hw import capabilities, drm, rknpu_interface, rocket
from delegate.hw.device import KERNELS, Device, open_auto
from delegate.hw.rknpu import Rknpu
from delegate.hw.soc import FORMS
from delegate.ir import Graph, Node, Quant, Tensor
from delegate.options import CACHE_OFF, Options, parse
from delegate.runtime import Session

CHIP = "rockchip,rk3588"
MAINLINE = (6, 18)  # the first kernel with the rocket driver
GET_STARTED = (
    "no NPU here: models run on the simulator, which needs nothing more. For a real one: a board with an RK3588 "
    "(compatible rockchip,rk3588), and on it either mainline's kernel from 6.18 on with CONFIG_DRM_ACCEL_ROCKET and "
    "the NPU enabled in the device tree, or the vendor's kernel 5.10 or 6.1 with its rknpu driver; then run this "
    "command there"
)


@dataclass(frozen=True)
class NodeFound:
    """A device node that an NPU's driver might have made."""

    path: str
    driver: str | None
    version: str | None
    mode: str  # as ls prints it
    owner_group: str
    usable: bool  # by this user, as an NPU
    error: str | None


@dataclass(frozen=True)
class Problem:
    """What is wrong, and how to mend it."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Report:
    """All that was found. ``trials``: by device, None if it computed right, else what went wrong."""

    kernel: str
    machine: str
    compatible: tuple[str, ...]  # of the board, most specific first
    npu_in_device_tree: dict[str, str]  # node: its status
    drivers: tuple[str, ...]  # in the kernel now
    nodes: tuple[NodeFound, ...]
    iommu_groups: dict[str, str]  # device: group
    clocks: dict[str, str]  # source: Hz
    auto: str  # what device=auto takes
    auto_node: str | None  # of it: path, driver, version; None of the simulator, which has none
    passed_over: tuple[str, ...]  # why not those before it
    capabilities: str | None  # the capability file of that device
    forms: tuple[str, ...]  # unproven ones that it may use
    trials: dict[str, str | None]
    problems: tuple[Problem, ...]
    advice: str | None


def examine(root: Path = Path("/")) -> Report:
    """Looks at everything; ``root``: where sys and proc are."""
    compatible = tuple(read(root / "proc/device-tree/compatible").rstrip("\0").split("\0"))
    compatible = compatible if compatible != ("",) else ()
    given = parse({}, os.environ).capabilities
    device, passed_over = open_auto(capabilities=given)
    file = capabilities.find(device.name, given)
    node = getattr(device, "node", None)
    rates = dict(clocks(root)) or dict(asked_clock(device))
    device.close()
    trials = {name: trial(name) for name in dict.fromkeys((device.name, "simulator"))}
    nodes = tuple(map(describe, drm.candidates((*rocket.NODES, *rknpu_interface.NODES))))
    kernel, tree, drivers = os.uname().release, npus_in_tree(root), loaded(root)
    problems = [Problem(f"device {name}: {error}", "please report it") for name, error in trials.items() if error]
    denied = [node for node in nodes if node.error is not None]
    problems += [Problem(f"{node.path} cannot be used", str(node.error)) for node in denied]
    if CHIP in compatible and device.name == "simulator" and not denied:
        problems += missing(kernel, tree, drivers)
    return Report(
        kernel=kernel,
        machine=os.uname().machine,
        compatible=compatible,
        npu_in_device_tree=tree,
        drivers=drivers,
        nodes=nodes,
        iommu_groups=groups(root),
        clocks=rates,
        auto=device.name,
        auto_node=node and f"{node.path}, driver {node.driver} {node.version}",
        passed_over=passed_over,
        capabilities=None if file is None else str(file),
        forms=tuple(form for form in FORMS if form in device.forms),
        trials=trials,
        problems=tuple(problems),
        advice=GET_STARTED if device.name == "simulator" and not problems else None,
    )


def read(path: Path) -> str:
    """A file's text; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip("\n")
    except OSError:
        return ""


def npus_in_tree(root: Path) -> dict[str, str]:
    """The device tree's NPU nodes and their status, which is okay where none is given."""
    tree = root / "proc/device-tree"
    found = sorted(path for pattern in ("npu@*", "soc/npu@*") for path in tree.glob(pattern))
    return {path.name: read(path / "status").rstrip("\0") or "okay" for path in found}


def loaded(root: Path) -> tuple[str, ...]:
    """The NPU drivers that are in the kernel, as modules or built in."""
    modules = {line.split()[0] for line in read(root / "proc/modules").splitlines()}
    bound = {path.name.lower() for path in (root / "sys/bus/platform/drivers").glob("*")}
    return tuple(name for name in KERNELS if name in modules | bound)


def groups(root: Path) -> dict[str, str]:
    """The IOMMU groups of the NPU's devices; none means that it reaches memory without translation, or is off."""
    links = sorted((root / "sys/kernel/iommu_groups").glob("*/devices/*npu*"))
    return {path.name: path.parent.parent.name for path in links}


def clocks(root: Path) -> Iterator[tuple[str, str]]:
    """Clocks of the NPU in Hz; the first kind is for root only."""
    clk = root / "sys/kernel/debug/clk"
    for path in sorted(clk.glob("*npu*/clk_rate")) if os.access(clk, os.R_OK | os.X_OK) else ():
        yield path.parent.name, read(path)
    for path in sorted((root / "sys/class/devfreq").glob("*npu*")):
        yield f"devfreq {path.name} ({read(path / 'governor')})", read(path / "cur_freq")


def asked_clock(device: Device) -> Iterator[tuple[str, str]]:
    """The clock as the vendor's driver says it (ACTION GET_FREQ), for where the file systems show none."""
    if isinstance(device, Rknpu):
        with suppress(DeviceError):
            yield "rknpu GET_FREQ", str(device.frequency)


def describe(path: Path) -> NodeFound:
    """A node, its permissions and what its driver says; a node of another kind of device is no error."""
    bound = drm.bound_driver(path)
    other = bound not in (None, *KERNELS)
    node = drm.Node(path, bound, None) if other else drm.probe(path, rknpu_interface.identify)
    status = path.stat()
    return NodeFound(
        path=str(path),
        driver=node.driver,
        version=node.version,
        mode=stat.filemode(status.st_mode),
        owner_group=drm.group_name(status.st_gid),
        usable=node.driver in KERNELS,
        error=None if node.error is None else str(node.error),
    )


def missing(kernel: str, tree: dict[str, str], drivers: Sequence[str]) -> Iterator[Problem]:
    """Why an RK3588 has no node of an NPU; the first thing to mend comes first."""
    if not tree:
        yield Problem("the device tree has no NPU", "boot with a device tree for this board of a newer kernel")
    elif "okay" not in tree.values():
        off = ", ".join(f"{name} {status}" for name, status in tree.items())
        yield Problem(f"the device tree switches the NPU off ({off})", 'set status = "okay", for its IOMMUs too')
    if not drivers:
        version = tuple(int(part) for part in kernel.split("-")[0].split(".")[:2] if part.isdecimal())
        vendor = "rockchip" in kernel or version in ((5, 10), (6, 1))
        if vendor:
            yield Problem(f"kernel {kernel} has no rknpu driver", "build it with CONFIG_ROCKCHIP_RKNPU=y")
        elif version < MAINLINE:
            yield Problem(f"kernel {kernel} is older than the rocket driver", "boot 6.18 or later")
        else:
            remedy = "sudo modprobe rocket; if there is no such module, build it with CONFIG_DRM_ACCEL_ROCKET=m"
            yield Problem(f"kernel {kernel} has not loaded the rocket driver", remedy)
    else:
        yield Problem(f"driver {', '.join(drivers)} has made no node", "see what `dmesg` says about the NPU")


def trial(name: str) -> str | None:
    """Runs a convolution whose output is its input; what went wrong, or None."""
    graph = identity()
    shape = graph.tensors[graph.inputs[0]].shape
    values = np.arange(np.prod(shape), dtype=np.int64).astype(np.int8).reshape(shape)
    result = np.zeros_like(values)
    try:
        session = Session(graph, Options(device=name, cache_dir=CACHE_OFF))
        try:
            session.invoke([values], [result])
        finally:
            session.close()
    except DelegateError as error:
        return str(error)
    wrong = int(np.count_nonzero(values != result))
    return f"{wrong} of {values.size} results of a convolution are wrong" if wrong else None


def identity(channels: int = 32) -> Graph:
    """A 1 x 1 convolution with ones on its diagonal."""

    def quant(scale: float) -> Quant:
        return Quant(np.array([scale], np.float32), np.zeros(1, np.int32))

    scale, one = 0.5, 64
    weight = (np.eye(channels, dtype=np.int8) * np.int8(one)).reshape(channels, 1, 1, channels)
    source, output = (
        Tensor(index, name, (1, 8, 8, channels), "int8", quant(scale)) for index, name in ((0, "in"), (3, "out"))
    )
    constants = (
        Tensor(1, "weight", weight.shape, "int8", quant(1 / one), weight),
        Tensor(2, "bias", (channels,), "int32", quant(scale / one), np.zeros(channels, np.int32)),
    )
    params = {"stride": (1, 1), "dilation": (1, 1), "padding": "SAME", "activation": "NONE"}
    node = Node(0, "CONV_2D", (source, *constants), (output,), params)
    return Graph({tensor.index: tensor for tensor in (source, *constants, output)}, (node,), (0,), (3,))


def lines(found: Report) -> Iterator[tuple[str, str]]:
    """(subject, what was found)."""
    yield "kernel", f"{found.kernel} on {found.machine}"
    yield "board", ", ".join(found.compatible) or "no device tree: not an ARM board"
    yield "NPU in the device tree", ", ".join(f"{name} {status}" for name, status in found.npu_in_device_tree.items())
    yield "drivers in the kernel", ", ".join(found.drivers)
    for node in found.nodes:
        what = "cannot be asked" if node.driver is None else f"driver {node.driver} {node.version or ''}".rstrip()
        use = "usable" if node.usable else node.error or "no NPU"
        yield node.path, f"{what}; {node.mode}, group {node.owner_group}; {use}"
    if not found.nodes:
        yield "device nodes", ", ".join((*rocket.NODES, *rknpu_interface.NODES)) + ": none"
    yield "IOMMU", ", ".join(f"{name} in group {group}" for name, group in found.iommu_groups.items())
    yield "clock", ", ".join(f"{source} {rate} Hz" for source, rate in found.clocks.items())
    for name, error in found.trials.items():
        yield f"trial on {name}", error or "a convolution is computed right"
    for reason in found.passed_over:
        yield "passed over", reason
    reason = found.auto_node or "no NPU can be opened"
    yield "device=auto takes", f"{found.auto} ({reason})"
    none = "none is needed" if found.auto == "simulator" else "none: `python -m delegate probe` makes one"
    yield "capability file", found.capabilities or none
    yield "unproven forms", f"{len(found.forms)} of {len(FORMS)} may be used"


def print_report(found: Report, as_json: bool) -> None:
    """A table and what to do, or JSON with the fields of Report."""
    if as_json:
        print(json.dumps(asdict(found), indent=1))
        return
    console = Console()
    table = Table(box=SIMPLE_HEAD, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for subject, text in lines(found):
        table.add_row(escape(subject), escape(text or "nothing found"))
    console.print(table)
    for problem in found.problems:
        console.print(escape(f"wrong: {problem.what}\nto mend it: {problem.remedy}"), highlight=False, soft_wrap=True)
    if found.advice:
        console.print(escape(found.advice), highlight=False, soft_wrap=True)
