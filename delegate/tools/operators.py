"""The operators that the NPU takes, printed from the rules themselves."""

from __future__ import annotations

from delegate.ops import OPERATORS


def print_operators() -> None:
    """Prints Markdown: one section an operator, its rules as a list."""
    print("# Operators\n\nWhat the NPU takes; printed by `python -m delegate ops`. Everything else stays on the CPU.")
    for name in sorted(OPERATORS):
        summary = (OPERATORS[name].lower.__doc__ or "").strip().splitlines()[0]
        print(f"\n## {name}\n\n    {summary}\n")
        for rule in OPERATORS[name].rules:
            print(f"* {rule.text}")
