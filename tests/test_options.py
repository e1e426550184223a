"""delegate/options.py: names, values, precedence, and what a wrong one says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from delegate import runtime
from delegate.errors import OptionError
from delegate.hw.device import DEVICES
from delegate.hw.soc import FORMS
from delegate.options import OPTIONS, UNPROVEN, Options, pairs, parse
from delegate.partition import Selection
from delegate.runtime import target_of


def test_without_options_the_defaults_hold() -> None:
    assert parse({}, {"PATH": "/bin", "TEFLON_DEVICE": ""}) == Options()


def test_every_option_can_be_given() -> None:
    given = {
        "device": "simulator",
        "cache_dir": "/tmp/x",
        "cache_size": "7",
        "debug": "verbose",
        "cores": "3",
        "split": "always",
        "chain": "full",
        "unproven": "never",
        "capabilities": "/tmp/board.json",
        "kernel": "rknpu",
        "partitioning": "cost",
        "min_nodes_per_partition": "3",
        "max_delegated_partitions": "-1",
        "record": "/tmp/captures",
        "record_submits": "9",
        "record_size": "10",
    }
    assert set(given) == set(OPTIONS)
    expected = Options(
        device="simulator",
        cache_dir="/tmp/x",
        cache_size=7,
        debug="verbose",
        cores=3,
        split="always",
        chain="full",
        unproven="never",
        capabilities="/tmp/board.json",
        kernel="rknpu",
        partitioning="cost",
        min_nodes_per_partition=3,
        max_delegated_partitions=-1,
        record="/tmp/captures",
        record_submits=9,
        record_size=10,
    )
    assert parse(given, {}) == expected
    assert parse({}, {OPTIONS[name].variable: text for name, text in given.items()}) == expected


def test_the_simulator_has_a_short_name() -> None:
    assert parse({"device": "sim"}, {}) == parse({}, {"TEFLON_DEVICE": "sim"}) == Options(device="simulator")


def test_a_given_option_wins_over_the_environment() -> None:
    environment = {"TEFLON_CORES": "2", "TEFLON_DEBUG": "nonsense", "TEFLON_CHAIN": "full"}
    assert parse({"cores": "1", "debug": "off"}, environment) == Options(cores=1, chain="full")


def test_partitions_are_selected_as_the_options_say() -> None:
    assert Options().selection == Selection()
    given = {"partitioning": "cost", "min_nodes_per_partition": "0", "max_delegated_partitions": "2"}
    assert parse(given, {}).selection == Selection(by_cost=True, min_nodes=0, max_partitions=2)


def test_a_command_line_gives_pairs() -> None:
    assert pairs(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    for text in ("a", "=1", ""):
        with pytest.raises(OptionError, match="NAME=VALUE"):
            pairs([text])


def test_an_unknown_option_lists_the_valid_ones() -> None:
    with pytest.raises(OptionError) as caught:
        parse({"colour": "red"}, {})
    assert "'colour'" in str(caught.value)
    for name in OPTIONS:
        assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "valid"),
    [
        ("device", "tpu", ", ".join(DEVICES)),
        ("device", "", "auto"),
        ("cores", "0", "1 to 3"),
        ("cores", "4", "1 to 3"),
        ("cores", "two", "1 to 3"),
        ("cores", "-1", "1 to 3"),
        ("cores", "²", "1 to 3"),
        ("cores", "9" * 5000, "1 to 3"),
        ("cache_size", "0", "MiB"),
        ("cache_size", "1e3", "MiB"),
        ("cache_dir", "", "a folder"),
        ("capabilities", "", "a file that"),
        ("debug", "loud", "off, verbose"),
        ("chain", "none", "safe, full"),
        ("unproven", "yes", "auto, never, always"),
        ("kernel", "linux", "rocket, rknpu"),
        ("partitioning", "best", "all, cost"),
        ("min_nodes_per_partition", "two", "0 and less mean 1"),
        ("min_nodes_per_partition", "1.5", "a number of nodes"),
        ("min_nodes_per_partition", "--1", "a number of nodes"),
        ("max_delegated_partitions", "", "0 and less mean no limit"),
        ("max_delegated_partitions", "2147483648", "a number of partitions"),
        ("max_delegated_partitions", "9" * 5000, "a number of partitions"),
        ("max_delegated_partitions", "²", "a number of partitions"),
    ],
)
def test_a_wrong_value_lists_the_valid_ones(name: str, text: str, valid: str) -> None:
    with pytest.raises(OptionError, match=f"option {name} is ") as caught:
        parse({name: text}, {})
    assert valid in str(caught.value)


@pytest.mark.parametrize(("text", "forms"), [("auto", FORMS), ("never", ()), ("always", FORMS)])
def test_unproven_forms_are_those_of_the_device_or_of_the_user(text: str, forms: tuple[str, ...]) -> None:
    assert target_of(parse({"device": "simulator", "unproven": text}, {})).forms == set(forms)


def test_auto_asks_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A board that passed one probe gets one form."""
    board = SimpleNamespace(forms=frozenset(FORMS[:1]), signals_pooling=True)
    monkeypatch.setattr(runtime, "shared_device", lambda *_: board)
    targets = [target_of(Options(unproven=text)) for text in UNPROVEN]
    assert [target.forms for target in targets] == [{FORMS[0]}, set(), set(FORMS)]
    assert all(target.signals_pooling for target in targets)


@pytest.mark.parametrize(("kernel", "signals"), [("rocket", False), ("rknpu", True)])
@pytest.mark.parametrize("unproven", UNPROVEN)
def test_the_kernel_tells_whether_pooling_ends(unproven: str, kernel: str, signals: bool) -> None:
    options = parse({"device": "simulator", "unproven": unproven, "kernel": kernel}, {})
    assert target_of(options).signals_pooling is signals


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(OptionError, match="environment variable TEFLON_CORES is '8'; valid: 1 to 3"):
        parse({}, {"TEFLON_CORES": "8"})
