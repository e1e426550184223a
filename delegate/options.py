"""The delegate's options: what load_delegate(path, {...}) and the environment may say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from delegate.errors import OptionError
from delegate.hw.device import DEVICES, KERNELS, Kernel
from delegate.hw.task import MOST_CORES
from delegate.partition import Selection


@dataclass(frozen=True)
class Options:
    """``cache_dir`` None: the user's cache folder; CACHE_OFF: no cache. ``capabilities`` None: the board's own file."""

    device: str = "auto"
    cache_dir: str | None = None
    cache_size: int = 512  # MiB
    debug: str = "off"
    cores: int = 1
    split: str = "auto"
    chain: str = "safe"
    unproven: str = "auto"
    capabilities: str | None = None
    kernel: Kernel = "rocket"
    partitioning: str = "all"
    min_nodes_per_partition: int = 1
    max_delegated_partitions: int = 0  # no limit
    record: str | None = None  # folder for captures
    record_submits: int = 3
    record_size: int = 256  # MiB

    @property
    def selection(self) -> Selection:
        """Which partitions are taken."""
        by_cost = self.partitioning == "cost"
        return Selection(by_cost, self.min_nodes_per_partition, self.max_delegated_partitions)


@dataclass(frozen=True)
class Option:
    """How the text of an option becomes its value; ``read`` raises ValueError for a text that is none."""

    variable: str  # of the environment
    values: str  # for people
    read: Callable[[str], Any]


def choice(*values: str) -> Callable[[str], str]:
    """A reader that takes one of ``values``."""

    def read(text: str) -> str:
        if text not in values:
            raise ValueError(text)
        return text

    return read


def device(text: str) -> str:
    """A reader that takes a device, by its name or a shorter one."""
    return choice(*DEVICES)(SHORT_DEVICES.get(text, text))


def number(low: int, high: int) -> Callable[[str], int]:
    """A reader that takes low..high, both included."""

    def read(text: str) -> int:
        value = int(text) if text.isdecimal() and text.isascii() else low - 1
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return read


def integer(text: str) -> int:
    """A reader that takes any number of 32 bits, as TFLite's own tools do; what is below 1 is a delegate's default."""
    digits = text.removeprefix("-")
    if not (digits.isdecimal() and digits.isascii() and len(digits) <= 10 and -(1 << 31) <= int(text) < 1 << 31):
        raise ValueError(text)
    return int(text)


def path(text: str) -> str:
    """A reader that takes any text but an empty one."""
    if not text:
        raise ValueError(text)
    return text


SHORT_DEVICES = {"sim": "simulator"}
CACHE_OFF = "off"
DEBUG = ("off", "verbose")
SPLIT = ("auto", "never", "always")
CHAIN = ("safe", "full")
UNPROVEN = ("auto", "never", "always")
PARTITIONING = ("all", "cost")
LARGEST_CACHE = 1 << 20  # MiB
MOST_SUBMITS = 1000

OPTIONS: Mapping[str, Option] = {
    "device": Option("TEFLON_DEVICE", f"{', '.join(DEVICES)} (or sim)", device),
    "cache_dir": Option("TEFLON_CACHE_DIR", f"a folder, or {CACHE_OFF}", path),
    "cache_size": Option("TEFLON_CACHE_SIZE", f"1 to {LARGEST_CACHE} (MiB)", number(1, LARGEST_CACHE)),
    "debug": Option("TEFLON_DEBUG", ", ".join(DEBUG), choice(*DEBUG)),
    "cores": Option("TEFLON_CORES", f"1 to {MOST_CORES}", number(1, MOST_CORES)),
    "split": Option("TEFLON_SPLIT", ", ".join(SPLIT), choice(*SPLIT)),
    "chain": Option("TEFLON_CHAIN", ", ".join(CHAIN), choice(*CHAIN)),
    "unproven": Option("TEFLON_UNPROVEN", ", ".join(UNPROVEN), choice(*UNPROVEN)),
    "capabilities": Option("TEFLON_CAPABILITIES", "a file that `python -m delegate probe` has written", path),
    "kernel": Option("TEFLON_KERNEL", f"{', '.join(KERNELS)}: which kernel the simulator plays", choice(*KERNELS)),
    "partitioning": Option("TEFLON_PARTITIONING", ", ".join(PARTITIONING), choice(*PARTITIONING)),
    "min_nodes_per_partition": Option(
        "TEFLON_MIN_NODES_PER_PARTITION", "a number of nodes; 0 and less mean 1", integer
    ),
    "max_delegated_partitions": Option(
        "TEFLON_MAX_DELEGATED_PARTITIONS", "a number of partitions; 0 and less mean no limit", integer
    ),
    "record": Option("TEFLON_RECORD", "a folder for captures of what the NPU gets", path),
    "record_submits": Option("TEFLON_RECORD_SUBMITS", f"1 to {MOST_SUBMITS}, of a partition", number(1, MOST_SUBMITS)),
    "record_size": Option("TEFLON_RECORD_SIZE", f"1 to {LARGEST_CACHE} (MiB)", number(1, LARGEST_CACHE)),
}


def pairs(texts: Iterable[str]) -> dict[str, str]:
    """What a command line gives as NAME=VALUE; raises OptionError for a text that is not of that form."""
    given = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise OptionError(f"option {text!r} is not of the form NAME=VALUE")
        given[name] = value
    return given


def parse(given: Mapping[str, str], environment: Mapping[str, str]) -> Options:
    """The options of a delegate: what is ``given`` wins over the environment, where an empty variable says nothing.

    Raises OptionError, which lists what is valid, for a name or a value that is not.
    """
    for name in given:
        if name not in OPTIONS:
            valid = "; ".join(f"{known} ({option.values})" for known, option in OPTIONS.items())
            raise OptionError(f"option {name!r} is unknown; valid options: {valid}")
    values = {}
    for name, option in OPTIONS.items():
        source, text = f"option {name}", given.get(name)
        if text is None:
            source, text = f"environment variable {option.variable}", environment.get(option.variable) or None
        if text is None:
            continue
        try:
            values[name] = option.read(text)
        except ValueError:
            raise OptionError(f"{source} is {text!r}; valid: {option.values}") from None
    return Options(**values)
