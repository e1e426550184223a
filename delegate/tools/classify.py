"""What classification.py does: a picture through a TFLite model on a delegate, and the best labels of it."""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

import delegate
from delegate import ir
from delegate.errors import DelegateError, DeviceError, ModelError
from delegate.options import pairs, parse
from delegate.runtime import cache_folder
from delegate.tflite import read_model
from delegate.tools import registry
from delegate.tools.labels import read_labels
from delegate.tools.picture import read_picture, to_input, to_scores

LIBRARY = "libteflon.so"
SYMBOLS = ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate")
DTYPES = ("uint8", "int8", "int16", "float32")  # of a model's input and output
EXAMPLES = """\
examples:
  python classification.py                      the embedded model and one of its test images
  python classification.py -i photo.jpg -m mobilenet_v1_1.0_224        (downloaded on first use)
  python classification.py -i photo.jpg -m my.tflite -l my_labels.txt --cpu --runs 10
  TEFLON_DEBUG=verbose python classification.py --device simulator

models by name:"""


class Parser(argparse.ArgumentParser):
    """Answers a wrong command line with one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; --help lists the options\n")


@dataclass(frozen=True)
class Task:
    """Everything that was asked for, read and checked."""

    model: Path
    labels: Sequence[str]
    tensor: npt.NDArray[Any]  # (1, height, width, channels), as the model takes it
    library: str  # as given
    options: Mapping[str, str]
    top: int
    runs: int


@dataclass(frozen=True)
class Answer:
    """What an interpreter said."""

    scores: npt.NDArray[np.float32]  # (classes)
    times: Sequence[float]  # milliseconds of each invoke


def command_line(known: Mapping[str, registry.Model]) -> Parser:
    """The options, each with its default."""
    parser = Parser(
        "classification.py",
        description="Classify an image with a TFLite model on the NPU.",
        epilog=EXAMPLES + "".join(f"\n  {model.name:26}{model.description}" for model in known.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-i", "--image", metavar="FILE", help=f"picture in any format of Pillow (default: {registry.DEFAULT_IMAGE})")
    add("-m", "--model", metavar="FILE|NAME", default=registry.DEFAULT_MODEL, help=".tflite file or name (%(default)s)")
    add("-l", "--labels", metavar="FILE", help="one label a line (default: the named model's, else the class numbers)")
    add("-e", "--external-delegate", metavar="FILE", default=LIBRARY, dest="library", help="the delegate (%(default)s)")
    add("-o", "--option", metavar="NAME=VALUE", action="append", default=[], help="option of the delegate, repeatable")
    add("--device", metavar="NAME", help="the delegate's device; short for -o device=NAME")
    add("--cache-dir", metavar="FOLDER", help="for compiled programs and downloads; short for -o cache_dir=FOLDER")
    add("--top", metavar="N", type=positive, default=5, help="labels to print (%(default)s)")
    add("--runs", metavar="N", type=positive, default=1, help="invokes; the time is their median (%(default)s)")
    add("--cpu", action="store_true", help="run TFLite's own kernels too and print the differences")
    add("--mean", type=float, help="subtracted from each pixel (default: 127.5 for a float input, none for others)")
    add("--std", type=nonzero, help="divides each pixel then (default: likewise)")
    return parser


def positive(text: str) -> int:
    """A whole number from 1."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def nonzero(text: str) -> float:
    """A number that one can divide by."""
    if not np.isfinite(float(text)) or float(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number other than 0")
    return float(text)


def delegate_options(arguments: argparse.Namespace) -> dict[str, str]:
    """The dictionary for load_delegate."""
    options = pairs(arguments.option)
    for name in ("device", "cache_dir"):
        if getattr(arguments, name) is not None:
            options[name] = getattr(arguments, name)
    return options


def locate_library(name: str) -> str:
    """The path to load: the file of that name if there is one, else the library that this package was built with."""
    if os.path.exists(name):
        return os.path.abspath(name)
    if name == LIBRARY:
        return str(delegate.library_path())
    if os.path.dirname(name):
        raise DeviceError(f"external delegate {name} does not exist")
    return name  # the dynamic loader searches for it


def locate_model(name: str, known: Mapping[str, registry.Model], cache: Path) -> tuple[Path, Path | None]:
    """(model, its labels if it has a name in the registry)."""
    path = Path(name)
    if name not in known:
        if os.path.isfile(path):  # and not path.is_file(), which raises for a name that is too long
            return path, None
        if os.path.exists(path):
            raise ModelError(f"model {name} is not a file")
        if path.suffix or path.name != name:
            raise ModelError(f"model {name} does not exist")
    model, folder = registry.find_model(name, known), registry.models_folder()
    file, labels = (registry.locate(source, folder, cache, model.licence) for source in (model.source, model.companion))
    return file, labels


def border(graph: ir.Graph, path: Path) -> tuple[ir.Tensor, ir.Tensor]:
    """The image tensor and the scores tensor; ModelError for a model that is no classifier of images."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        counts = f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs"
        raise ModelError(f"model {path} has {counts}, a classifier has one of each")
    image, scores = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    if len(image.shape) != 4 or image.shape[0] != 1 or image.shape[3] not in (1, 3) or min(image.shape) < 1:
        raise ModelError(f"model {path} takes {image.dtype} {image.shape}, not one image (1, height, width, 1 or 3)")
    for tensor in (image, scores):
        if tensor.dtype not in DTYPES:
            raise ModelError(f"model {path} has {tensor.dtype} at its border, not one of {', '.join(DTYPES)}")
    return image, scores


def prepare(arguments: argparse.Namespace, known: Mapping[str, registry.Model]) -> Task:
    """Read and check everything before TFLite sees it."""
    options = delegate_options(arguments)
    cache = check_cache(options, arguments.library)
    model, labels_path = locate_model(arguments.model, known, cache)
    image, scores = border(read_model(model), model)
    count = int(np.prod(scores.shape))
    if arguments.labels is not None:
        labels_path = Path(arguments.labels)
    labels = [str(index) for index in range(count)] if labels_path is None else read_labels(labels_path)
    if len(labels) != count:
        raise ModelError(f"labels file {labels_path} has {len(labels)} labels, the model has {count} classes")
    picture = Path(arguments.image) if arguments.image is not None else registry.default_image()
    pixels = read_picture(picture, *image.shape[1:])
    tensor = to_input(pixels, image.dtype, *quantization(image), arguments.mean, arguments.std)
    return Task(model, labels, tensor, arguments.library, options, arguments.top, arguments.runs)


def quantization(tensor: ir.Tensor) -> tuple[float, int]:
    """(scale, zero point) of a tensor at the border; (1, 0) where it has none."""
    if tensor.quant is None or not tensor.quant.scale.size:
        return 1.0, 0
    return float(tensor.quant.scale[0]), int(tensor.quant.zero_point[0])


def check_cache(options: Mapping[str, str], library: str) -> Path:
    """The folder for downloads; says so in one line if compiled programs cannot be kept, which does not stop a run."""
    ours = os.path.basename(library) == LIBRARY
    folder = cache_folder(parse(options if ours else {}, os.environ))
    if folder is None:
        return registry.download_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        complain(f"cache folder {folder} cannot be written ({error.strerror}): compiling without it")
    return folder / "models"


def load_delegate(task: Task) -> Any:
    """The delegate object; DeviceError with the delegate's own words where it refuses."""
    path = locate_library(task.library)
    try:
        library = ctypes.PyDLL(path)
        for symbol in SYMBOLS:  # load_delegate() would leave a half-made object, whose end is a traceback
            getattr(library, symbol)
        return delegate.interpreter_module().load_delegate(path, dict(task.options))
    except (OSError, AttributeError, ValueError) as error:
        words = " ".join(str(error).split()).removeprefix(f"Failed to load delegate from {path}").strip()
        raise DeviceError(f"external delegate {task.library} cannot be loaded: {words or 'no reason given'}") from error


def infer(task: Task, delegates: Sequence[Any]) -> Answer:
    """Invoke the model on ``delegates``, everything else on TFLite's own kernels, without XNNPACK."""
    module = delegate.interpreter_module()
    try:
        interpreter = module.Interpreter(
            str(task.model),
            experimental_delegates=list(delegates),
            experimental_op_resolver_type=module.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
        source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
        interpreter.set_tensor(source["index"], task.tensor)
        times = []
        for _ in range(task.runs):
            began = time.perf_counter()
            interpreter.invoke()
            times.append((time.perf_counter() - began) * 1000)
        scale, zero_point = target["quantization"]
        return Answer(to_scores(interpreter.get_tensor(target["index"]), scale or 1.0, zero_point), times)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"model {task.model} does not run: {' '.join(str(error).split())}") from error


def show(answer: Answer, task: Task) -> None:
    """The best labels and the time."""
    for index in np.argsort(-answer.scores, kind="stable")[: task.top]:
        print(f"{answer.scores[index]:08.6f}: {task.labels[index]}")
    print(f"time: {median(answer.times):.3f}ms")
    if task.runs > 1:
        first, low, high = answer.times[0], min(answer.times), max(answer.times)
        print(f"runs: {task.runs}, first {first:.3f}ms, fastest {low:.3f}ms, slowest {high:.3f}ms")


def show_difference(answer: Answer, reference: Answer, task: Task) -> None:
    """TFLite's own answer and how far the delegate's is from it."""
    print("TFLite's own kernels:")
    show(reference, task)
    difference = np.abs(answer.scores - reference.scores)
    worst = int(difference.argmax())
    equal = int((answer.scores == reference.scores).sum())
    where = f"{difference[worst]:.6f} ({task.labels[worst]})"
    print(f"largest difference: {where}; equal scores: {equal} of {difference.size}")


def complain(message: str) -> None:
    """One line on stderr."""
    print(f"classification.py: {message}", file=sys.stderr)


def main(argv: Sequence[str]) -> int:
    """Run; the exit status: 0, or 1 with one line on stderr (argparse itself ends with 2)."""
    try:
        known = registry.read_registry(registry.models_folder() / "models.toml")
        arguments = command_line(known).parse_args(argv)
        task = prepare(arguments, known)
        print(f"Loading external delegate from {task.library} with args: {task.options}", flush=True)
        answer = infer(task, [load_delegate(task)])
        show(answer, task)
        if arguments.cpu:
            show_difference(answer, infer(task, []), task)
    except DelegateError as error:
        complain(str(error))
        return 1
    return 0
