"""delegate/options.py: names, values, precedence, and what a wrong one says."""

from __future__ import annotations

import pytest

from delegate.errors import OptionError
from delegate.hw.device import DEVICES
from delegate.options import OPTIONS, Options, parse


def test_without_options_the_defaults_hold() -> None:
    assert parse({}, {"PATH": "/bin", "TEFLON_DEVICE": ""}) == Options()


def test_every_option_can_be_given() -> None:
    given = {
        "device": "simulator",
        "cache_dir": "/tmp/x",
        "cache_size": "7",
        "debug": "verbose",
        "cores": "3",
        "chain": "full",
    }
    assert set(given) == set(OPTIONS)
    expected = Options(device="simulator", cache_dir="/tmp/x", cache_size=7, debug="verbose", cores=3, chain="full")
    assert parse(given, {}) == expected
    assert parse({}, {OPTIONS[name].variable: text for name, text in given.items()}) == expected


def test_a_given_option_wins_over_the_environment() -> None:
    environment = {"TEFLON_CORES": "2", "TEFLON_DEBUG": "nonsense", "TEFLON_CHAIN": "full"}
    assert parse({"cores": "1", "debug": "off"}, environment) == Options(cores=1, chain="full")


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
        ("debug", "loud", "off, verbose"),
        ("chain", "none", "safe, full"),
    ],
)
def test_a_wrong_value_lists_the_valid_ones(name: str, text: str, valid: str) -> None:
    with pytest.raises(OptionError, match=f"option {name} is ") as caught:
        parse({name: text}, {})
    assert valid in str(caught.value)


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(OptionError, match="environment variable TEFLON_CORES is '8'; valid: 1 to 3"):
        parse({}, {"TEFLON_CORES": "8"})
