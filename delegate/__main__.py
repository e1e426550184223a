"""``python -m delegate``: the tools of the command line. Each command's work is in ``delegate/tools``."""

from __future__ import annotations

import os
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
def explain(
    model: Annotated[Path, typer.Argument(help="a .tflite file")],
    device: Annotated[str | None, typer.Option(help="short for -o device=…")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("-o", "--option", metavar="NAME=VALUE", help="option of the delegate, repeatable"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="for a page")] = False,
) -> None:
    """Lists for each operator of a model whether the NPU takes it, why not, and what change would help; and the shares
    of MACs and operators on the NPU. Nothing is run.

    A form is "proven" where RK3588 silicon has been seen to run such register programs; else the list below the table
    says what is unproven, and what would become of the operator without it (option unproven).

    Examples:

    python -m delegate explain models/mobilenet_digits.tflite

    python -m delegate explain model.tflite -o unproven=never -o partitioning=cost

    python -m delegate explain model.tflite --json | jq .summary
    """
    from delegate.options import pairs, parse
    from delegate.tools.explain import PRINTERS, explain_model

    if json and markdown:
        raise typer.BadParameter("--json and --markdown exclude each other")
    given = pairs(option or ()) | ({} if device is None else {"device": device})
    found = explain_model(model, parse(given, os.environ))
    PRINTERS["json" if json else "markdown" if markdown else "table"](found)


@app.command()
def ops(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="file to write instead of stdout")] = None,
) -> None:
    """Prints, as Markdown, the operators that the NPU takes: rules, remedies, unproven forms, and tests of each.

    Example: python -m delegate ops -o docs/operators.md
    """
    from delegate.tools.operators import write_operators

    write_operators(output)


@app.command()
def products(
    folder: Annotated[Path, typer.Argument(help="a folder of captures, as golden/programs")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="file to write instead of stdout")] = None,
) -> None:
    """Computes the captured matrix products of a folder with delegate.matmul and compares results and words, as
    Markdown; status 1 if a word differs without a reason that is listed.

    Example: python -m delegate products ../shared/golden/programs -o docs/matmul-words.md
    """
    from delegate.tools.words.products import write_products

    if not write_products(folder, output):
        raise typer.Exit(1)


@app.command()
def disasm(
    file: Annotated[Path, typer.Argument(help="a program, a capture (folder or stream.json.gz), or a .tflite")],
    task: Annotated[int | None, typer.Option(help="only this task, counted from 0 over all jobs")] = None,
    words: Annotated[bool, typer.Option(help="the command words, or only buffers, jobs and tasks")] = True,
) -> None:
    """Prints the command words, tasks, jobs and buffers of a program or a capture.

    Example: python -m delegate disasm ../shared/golden/mb0 --task 0
    """
    from delegate.tools.disasm import print_disassembly

    print_disassembly(file, task, words)


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="a program, a capture, or a .tflite, which is compiled")],
    b: Annotated[Path, typer.Argument(help="the same")],
) -> None:
    """Aligns two programs or captures by operation and prints which register fields differ; status 1 if any does.

    Example: python -m delegate diff ../shared/models/mesa-tests/mb4.tflite ../shared/golden/mb4
    """
    from delegate.tools.diff import print_differences

    if print_differences(a, b):
        raise typer.Exit(1)


@app.command(add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def shim(
    arguments: Annotated[list[str] | None, typer.Argument(help="as delegate-shim takes them; see shim --help")] = None,
) -> None:
    """Runs a program with the device nodes of the kernel drivers, whose jobs the simulator executes.

    Example: python -m delegate shim --nodes rocket --log calls.txt -- ls -l /dev/accel
    """
    from delegate.hw.shim import main

    main(arguments or [])


@app.command()
def words(
    folders: Annotated[list[Path], typer.Argument(help="folders with captures of models in or below them")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="file to write instead of stdout")] = None,
) -> None:
    """Compares our words with upstream's for every captured layer and explains what differs; status 1 if any is wrong.

    Example: python -m delegate words ../shared/golden -o docs/words.md
    """
    from delegate.tools.words.report import write_report

    if not write_report(folders, output):
        raise typer.Exit(1)


@app.command()
def replay(
    files: Annotated[list[Path], typer.Argument(help="captures (folder or stream.json.gz), or folders of captures")],
    input: Annotated[
        list[Path] | None, typer.Option(help="input of the model, NHWC .npy; repeatable (default: as recorded)")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="the capture's .tflite, or a folder or .zip with it: compare with TFLite")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="folder for the results as .npy")] = None,
    base: Annotated[str | None, typer.Option(help="I/O address of the first buffer (default: as recorded)")] = None,
    device: Annotated[str | None, typer.Option(help="run it there too: simulator, rocket, rknpu or auto")] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="seconds for each capture")] = 600.0,
    summary: Annotated[bool, typer.Option("--summary", help="judge all captures; -o is the Markdown file")] = False,
) -> None:
    """Runs captured command streams on the simulator and reports what became of each operation.

    A capture that the delegate's option record made has the outputs too: they are compared bit for bit. With --device
    every submit runs on that device as well, at the addresses it gives, beside the recorded outputs, or the
    simulator's where none were recorded.

    Examples:

    python -m delegate replay ../shared/golden/mb4 --compare ../shared/models/mesa-tests/mb4.tflite

    TEFLON_RECORD=captures python classification.py && python -m delegate replay captures

    python -m delegate replay captures --device rocket
    """
    from delegate.tools.replay_command import Request, parse_address, replay_files
    from delegate.tools.replay_summary import write_summary

    request = Request(compare, tuple(input or ()), output, parse_address(base), timeout, device)
    failed = write_summary(files, output, timeout) if summary else replay_files(files, request)
    if failed:
        raise typer.Exit(1)


@app.command()
def mutate(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="captures, compiled programs or models; else a fixed selection")
    ] = None,
    count: Annotated[int, typer.Option(help="mutations")] = 20000,
    seed: Annotated[int, typer.Option(help="of all that is drawn")] = 1,
    golden: Annotated[Path, typer.Option(help="folder of the captures in the fixed selection")] = Path(
        "../shared/golden"
    ),
    output: Annotated[Path | None, typer.Option("-o", "--output", help="file for the table, else printed")] = None,
) -> None:
    """Changes one field of a command stream at a time and counts what the simulator refuses, computes otherwise, or
    does not mind; exits with 1 if a change without effect has no explanation.

    Example: python -m delegate mutate --output docs/mutations.md
    """
    from delegate.tools.mutate.report import mutate

    if mutate(paths or [], golden, count, seed, output):
        raise typer.Exit(1)


@app.command()
def profile(
    file: Annotated[
        Path, typer.Argument(metavar="MODEL", help="a .tflite, a compiled program, or a capture (folder or .json.gz)")
    ],
    clock: Annotated[
        float | None, typer.Option(min=1, help="MHz of the NPU (default: 600 with rocket, 1000 with rknpu)")
    ] = None,
    bandwidth: Annotated[float | None, typer.Option(min=0.01, help="GB/s of DRAM, all cores together")] = None,
    kernel: Annotated[
        str, typer.Option(help="rocket: each task is started by an interrupt; rknpu: tasks are chained")
    ] = "rocket",
    cores: Annotated[int, typer.Option(min=1, max=3, help="cores that work at the same time and share DRAM")] = 1,
    split: Annotated[
        str,
        typer.Option(help="an inference over the cores: auto (where it gains), always; never: one on each core"),
    ] = "auto",
    chain: Annotated[str, typer.Option(help="safe, full: which tasks of a model are chained, as the option")] = "safe",
    csv: Annotated[Path | None, typer.Option(help="file for the layers as CSV")] = None,
    html: Annotated[Path | None, typer.Option(help="file for a page with bars and a time line")] = None,
    perfetto: Annotated[Path | None, typer.Option(help="file for a trace that ui.perfetto.dev shows")] = None,
) -> None:
    """Models where the time of a program goes, layer by layer: cycles, bytes of DRAM, milliseconds, and what bounds it.

    The times are modelled from the command words, not measured; docs/timing.md compares the model with published
    figures. What the CPU does is not in them.

    Examples:

    python -m delegate profile models/mobilenet_digits.tflite

    python -m delegate profile model.tflite --kernel rknpu --cores 3 --html profile.html --perfetto profile.json

    python -m delegate profile model.tflite --cores 3 --split never

    python -m delegate profile ../shared/golden/mobilenet_v1_1.0_224_quant --clock 200 --csv layers.csv
    """
    from delegate.tools.profile.command import Outputs, board_of, run_profile

    run_profile(file, board_of(kernel, clock, bandwidth, cores), split, chain, Outputs(csv, html, perfetto))


bench = typer.Typer(no_args_is_help=True, help="Speed of the NPU beside the CPU's.")
app.add_typer(bench, name="bench")


@bench.callback()
def benchmarks() -> None:
    """Speed of the NPU beside the CPU's."""


@bench.command("matmul")
def bench_matmul(
    sizes: Annotated[str, typer.Option(help="square products, FIRST:LAST:STEP, or none")] = "128:4096:128",
    models: Annotated[bool, typer.Option(help="layers of public models")] = True,
    dtype: Annotated[list[str] | None, typer.Option(help="fp16 or int8, repeatable (default: both)")] = None,
    narrow: Annotated[bool, typer.Option(help="results of fp16 and int8 instead of fp32 and int32")] = False,
    device: Annotated[
        str, typer.Option(help="as the delegate's option; without an NPU its times are modelled")
    ] = "auto",
    kernel: Annotated[str, typer.Option(help="of the board that is modelled: rocket or rknpu")] = "rocket",
    clock: Annotated[
        float | None, typer.Option(min=1, help="MHz of the NPU (default: 600 with rocket, 1000 with rknpu)")
    ] = None,
    cores: Annotated[int, typer.Option(min=1, max=3, help="cores that share a product")] = 1,
    cpu: Annotated[bool, typer.Option(help="numpy, and PyTorch and onnxruntime where they are installed")] = True,
    seconds: Annotated[float, typer.Option(min=0, help="for each measurement")] = 0.2,
    compare: Annotated[bool, typer.Option("--compare", help="published figures beside the model's")] = False,
    csv: Annotated[Path | None, typer.Option(help="file for the times as CSV")] = None,
    json: Annotated[Path | None, typer.Option(help="file for everything as JSON")] = None,
    markdown: Annotated[Path | None, typer.Option(help="file for the tables as Markdown")] = None,
    plots: Annotated[Path | None, typer.Option(help="folder for bar charts and a line plot, PNG and SVG")] = None,
) -> None:
    """Times matrix products: milliseconds, GOP/s and the share of the NPU's peak.

    On a board the NPU is measured, from numpy to numpy with B in its memory. Without one its time is modelled from the
    command words (docs/timing.md says what that is worth), without the host's copies. Each line says which it is.

    Examples:

    python -m delegate bench matmul --compare --plots /tmp/plots

    python -m delegate bench matmul --sizes 256:1024:256 --no-models --dtype fp16 --csv times.csv

    python -m delegate bench matmul --device rocket --cores 3 --json board.json
    """
    from delegate.options import SHORT_DEVICES
    from delegate.tools.bench.command import Bench, Files, Wanted, run
    from delegate.tools.profile.command import board_of

    wanted = Wanted(sizes, models, dtype or ("fp16", "int8"), narrow, cpu, seconds, compare)
    board = board_of(kernel, clock, None, cores)
    run(Bench(SHORT_DEVICES.get(device, device), board, wanted), Files(csv, json, markdown, plots))


@app.command()
def accuracy(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help=".tflite files, folders, .zip archives")],
    images: Annotated[
        Path | None, typer.Option(help="folder of pictures (default: those beside the model, else random inputs)")
    ] = None,
    random: Annotated[
        int | None, typer.Option(min=1, help="random inputs beside the pictures (default: 2 without pictures)")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the random inputs")] = 0,
    unproven: Annotated[
        str, typer.Option(help="register programs that are not proven on silicon: auto, never, always")
    ] = "auto",
    device: Annotated[str, typer.Option(help="the delegate's device")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="write JSON, with all counts")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="write Markdown")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="file to write instead of stdout")] = None,
) -> None:
    """Compares the NPU with a model of the silicon and with TFLite's reference kernels, layer by layer and end to end;
    exits with 1 if any element is not what the silicon would compute.

    Example: python -m delegate accuracy ../shared/models/mobilenet_v1_1.0_224_quant.tflite
    """
    from delegate.tools.accuracy.command import Output, report_accuracy
    from delegate.tools.accuracy.inputs import Request

    options = {"device": device, "unproven": unproven}
    if not report_accuracy(models, Request(images, random, seed), options, Output(output, json, markdown)):
        raise typer.Exit(1)


@app.command()
def convert_weights(
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="IN", help="llama2.c (.bin, versions 0 to 2), .safetensors or a folder of them, .gguf"),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="file of packed weights to write")],
    force: Annotated[bool, typer.Option("--force", help="replace OUT if it exists")] = False,
) -> None:
    """Packs the weights of a language model for the NPU, as a file that programs map instead of reading it.

    Matrices become fp16 in the NPU's layout, int8 and Q8_0 ones too; those that take the same vector become one. An
    interrupted conversion goes on where it was. Wrong input is one line, and leaves no file.

    Examples:

    python -m delegate convert-weights stories15M.bin stories15M.npu

    python -m delegate convert-weights TinyLlama-1.1B/ llama.npu --force
    """
    from delegate.tools.weights import convert_weights

    convert_weights(checkpoint, output, force)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="a file of packed weights, or a checkpoint")],
    verify: Annotated[bool, typer.Option("--verify", help="compare all weights with their checksums")] = False,
    json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Prints what a file of packed weights (convert-weights), or a checkpoint, holds; status 1 if it is damaged.

    Example: python -m delegate inspect stories15M.npu --verify
    """
    from delegate.tools.weights import inspect

    if not inspect(file, verify, json):
        raise typer.Exit(1)


@app.command()
def doctor(json: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """Says what NPU this machine has, what device=auto takes and why, and what is wrong and how to mend it; status 1 if
    anything is. Each device that can be opened computes a small convolution.

    Example: python -m delegate doctor
    """
    from delegate.tools.doctor import examine, print_report

    found = examine()
    print_report(found, json)
    if found.problems:
        raise typer.Exit(1)


@app.command()
def probe(
    device: Annotated[str, typer.Option(help="auto, rocket, rknpu or simulator")] = "auto",
    kernel: Annotated[str, typer.Option(help="which kernel the simulator plays: rocket or rknpu")] = "rocket",
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="file for the answers (default: the board's own, which the delegate reads)"
        ),
    ] = None,
    risky: Annotated[
        bool, typer.Option("--risky", help="ask what may hang a core too, last and in a process apart")
    ] = False,
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="only this question; repeatable")] = None,
    like: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the simulator behaves as the board of this capability file")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="print all questions as a page and run nothing")] = False,
) -> None:
    """Settles open questions about the silicon: runs small programs with known answers on the NPU, compares what they
    write with each candidate behaviour, and writes a capability file. It takes a minute at most.

    The delegate reads the board's own file: register programs that nobody had proven are then used where their answers
    are as assumed (option unproven=auto). On the simulator the answers are what it is told to be.

    Examples:

    python -m delegate probe

    python -m delegate probe --device rocket --risky -o my_board.json

    python -m delegate probe --device simulator --kernel rknpu --only interpolation --only bs_clamp

    python -m delegate probe --device simulator --like my_board.json

    python -m delegate probe --list
    """
    from delegate.options import parse
    from delegate.tools.probe.command import Request, run_probe
    from delegate.tools.probe.page import write_page

    if list_:
        write_page(output)
        return
    given = parse({"device": device, "kernel": kernel}, {})
    request = Request(given.device, given.kernel, output, risky, tuple(only or ()), None if like is None else str(like))
    run_probe(request)


def main() -> None:
    """Runs the command line; an error of ours is one line and exit status 1."""
    try:
        app()
    except DelegateError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
