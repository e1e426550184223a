"""The device that the tests run on: the simulator, or the one that ``pytest --device`` names.

On a machine without a board that is a kernel's driver on the stand-in: ``make test DEVICE=rocket``. Only tests whose
very subject is the simulator, or another device, name one.
"""

from __future__ import annotations

import os

DEVICE = os.environ.get("TEFLON_DEVICE") or "simulator"  # conftest.py puts it there
ALL_FORMS = "auto" if DEVICE == "simulator" else "always"  # value of unproven: what runs jobs is the simulator


def on_device(**options: str) -> dict[str, str]:
    """Options of the delegate for the chosen device, nothing cached unless the test asks for it.

    ``kernel`` says which kernel the simulator plays, and nothing to a driver.
    """
    given = {"device": DEVICE, "cache_dir": "off", **options}
    if given["device"] == DEVICE != "simulator" and given.get("unproven", "auto") == "auto":
        given["unproven"] = ALL_FORMS
    return given


# The environment without the delegate's variables and without a stand-in that the tests themselves may run on.
OUTSIDE = {name: value for name, value in os.environ.items() if not name.startswith(("TEFLON", "LD_PRELOAD"))}


def bare_environment(*dropped: str) -> dict[str, str]:
    """The environment without the delegate's variables and others that begin like this; the stand-in's stay."""
    return {
        name: value
        for name, value in os.environ.items()
        if name.startswith("TEFLON_SHIM") or not name.startswith(("TEFLON", *dropped))
    }
