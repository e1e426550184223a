"""``python -m delegate``: the tools of the command line. Each command's work is in ``delegate/tools``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from delegate.errors import DelegateError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.callback()
def tools() -> None:
    """Tools around the TFLite delegate for Rockchip's RK3588 NPU."""


@app.command()
def compile(
    model: Annotated[Path, typer.Argument(help="a .tflite file")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="folder for the programs, one file a partition")
    ] = None,
    full_chains: Annotated[bool, typer.Option(help="chain dependent tasks too (doubted by the hardware book)")] = False,
) -> None:
    """Compiles a model without an interpreter and lists its tasks.

    Example: python -m delegate compile models/mobilenet_digits.tflite -o /tmp/programs
    """
    from delegate.tools.compile import compile_model

    compile_model(model, output, full_chains)


@app.command()
def ops() -> None:
    """Lists the operators that the NPU takes, and the rules of each."""
    from delegate.tools.operators import print_operators

    print_operators()


def main() -> None:
    """Runs the command line; an error of ours is one line and exit status 1."""
    try:
        app()
    except DelegateError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
