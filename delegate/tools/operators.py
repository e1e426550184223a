"""The operators that the NPU takes, as a page printed from the rules and the code themselves."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from delegate.errors import DelegateError
from delegate.hw.soc import EVERY_FORM, FORMS, Target
from delegate.ir import Node
from delegate.ops import OPERATORS, Operator, Rule

TESTS = Path("tests/ops")
DTYPE = re.compile(r"\bu?int(?:8|16|32)\b")
INTRODUCTION = """\
# Operators

What the NPU takes; printed from the rules by `python -m delegate ops -o docs/operators.md`. Everything else stays on
the CPU. `python -m delegate explain MODEL` asks these rules about each operator of a model.

*Types* are those that the rules name. *Unproven forms* are register programs that nobody has seen on RK3588 silicon and
that the operator's code asks for, for some of its parameters at least. "Needed": there is no other form; else the
operator is done in a proven form where the device does not offer them, or is refused for those parameters. *Tests* are
the test cases below `tests/ops` whose name has the operator's in it; operators inside other tests' networks do not
count.
"""


def write_operators(output: Path | None) -> None:
    """Prints the page, or writes it to a file; raises DelegateError."""
    text = page(count_tests(Path.cwd()))
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise DelegateError(f"{output}: {error.strerror}") from None


def page(tests: Counter[str] | None) -> str:
    """The whole page. ``tests``: of each operator; None where they are not here to be counted."""
    return INTRODUCTION + "".join(f"\n{line}" for line in lines(tests)) + "\n"


def lines(tests: Counter[str] | None) -> Iterator[str]:
    yield "| operator | types | unproven forms | rules | tests |"
    yield "| --- | --- | --- | ---: | ---: |"
    for name, operator in sorted(OPERATORS.items()):
        forms = forms_of(operator)
        yield (
            f"| [{name}](#{name.lower()}) | {', '.join(dtypes(operator.rules))} | {form_summary(operator, forms)} "
            f"| {len(operator.rules)} | {'–' if tests is None else tests[name]} |"
        )
    for _, operator in sorted(OPERATORS.items()):
        yield from section(operator)


def section(operator: Operator) -> Iterator[str]:
    yield f"\n## {operator.name}\n"
    yield f"    {inspect.getdoc(operator.lower) or ''}".splitlines()[0]
    yield ""
    for rule in operator.rules:
        yield f"* {rule.text}" + (f" (else: {rule.remedy})" if rule.remedy else "")
    forms = forms_of(operator)
    if forms:
        yield f"\nUnproven forms, {'needed' if form_is_needed(operator) else 'where the device offers them'}:\n"
        yield from (f"* {form}" for form in forms)


def form_summary(operator: Operator, forms: Iterable[str]) -> str:
    count = len(tuple(forms))
    if not count:
        return "none"
    return f"{count}, needed" if form_is_needed(operator) else f"{count}"


def dtypes(rules: Iterable[Rule]) -> list[str]:
    """The types that rules name."""
    return sorted({dtype for rule in rules for dtype in DTYPE.findall(rule.text)})


def form_is_needed(operator: Operator) -> bool:
    """Whether a rule refuses everything on a chip without unproven forms: it says no before it looks at the node."""
    nothing = Node(0, operator.name, (), (), {})
    return any(
        answer(rule, nothing, Target(EVERY_FORM.soc)) is False and answer(rule, nothing, EVERY_FORM) is not False
        for rule in operator.rules
    )


def answer(rule: Rule, node: Node, target: Target) -> bool | None:
    """What a rule says; None if it looks for something that the node has not got."""
    try:
        return bool(rule.holds(node, target))
    except (ArithmeticError, AssertionError, AttributeError, DelegateError, LookupError, TypeError, ValueError):
        return None


def forms_of(operator: Operator) -> list[str]:
    """The unproven forms that the code of an operator asks for: its lowering, its rules, and all that they call."""
    found: set[str] = set()
    seen: set[FunctionType] = set()
    waiting: list[Any] = [operator.lower, *(rule.holds for rule in operator.rules)]
    while waiting:
        value = waiting.pop()
        value = getattr(value, "__wrapped__", value)  # what a cache is around
        if isinstance(value, str) and value in FORMS:
            found.add(value)
        elif isinstance(value, FunctionType) and value not in seen:
            seen.add(value)
            waiting += referred(value)
    return [form for form in FORMS if form in found]


def referred(function: FunctionType) -> Iterator[Any]:
    """What a function of this package names: globals, attributes of modules, defaults, and what its closure holds."""
    if not function.__module__.startswith("delegate."):
        return
    names = set(code_names(function.__code__))
    values = [function.__globals__[name] for name in sorted(names) if name in function.__globals__]
    yield from values
    for module in values:
        if isinstance(module, ModuleType) and module.__name__.startswith("delegate."):
            yield from (getattr(module, name) for name in sorted(names) if hasattr(module, name))
    yield from function.__defaults__ or ()
    yield from (cell.cell_contents for cell in function.__closure__ or ())


def code_names(code: CodeType) -> Iterator[str]:
    """The names in a function's code, and in that of functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from code_names(constant)


def count_tests(root: Path) -> Counter[str] | None:
    """How many test cases below tests/ops of a folder have an operator in their name; None if there are no tests.

    Raises DelegateError for tests that pytest cannot collect.
    """
    if not (root / TESTS).is_dir() or importlib.util.find_spec("pytest") is None:
        return None
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", str(TESTS)]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if result.returncode:
        raise DelegateError(f"the tests in {TESTS} cannot be collected; run pytest --collect-only {TESTS}")
    return count_by_operator(result.stdout.splitlines(), OPERATORS)


def count_by_operator(names: Iterable[str], operators: Iterable[str]) -> Counter[str]:
    """Test cases by the operators that their names (file, function or parameter) have as words, in any case."""
    longest_first = sorted(operators, key=len, reverse=True)  # LEAKY_RELU does not name RELU
    word = re.compile(rf"(?<![A-Z0-9])(?:{'|'.join(map(re.escape, longest_first))})(?![A-Z0-9])")
    return Counter(operator for name in names if "::" in name for operator in set(word.findall(name.upper())))
