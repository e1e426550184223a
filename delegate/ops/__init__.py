"""One file an operator: RULES say what the NPU takes, one function lowers a node to layers.

A file in this folder registers itself with ``lowers``; nothing else is edited for a new operator.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from delegate.hw.soc import Target
from delegate.ir import AnyLayer, Node, View

Lowering = Callable[[Node, Target], Sequence[AnyLayer | View]]


@dataclass(frozen=True)
class Rule:
    """A condition a node must meet; ``text`` says it in words that end a sentence "refused: not so that ...".

    ``remedy``: what a user could change in the model or in the options so that it holds.
    """

    text: str
    holds: Callable[[Node, Target], bool]
    remedy: str = ""


@dataclass(frozen=True)
class Operator:
    """What is registered for a TFLite operator. Rules are asked in order; one may rely on those before it."""

    name: str
    rules: tuple[Rule, ...]
    lower: Lowering


OPERATORS: dict[str, Operator] = {}


def lowers(name: str, rules: Sequence[Rule]) -> Callable[[Lowering], Lowering]:
    """Registers the decorated function as the lowering of the TFLite operator ``name``."""

    def register(function: Lowering) -> Lowering:
        OPERATORS[name] = Operator(name, tuple(rules), function)
        return function

    return register


for module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{module.name}")
