"""Train, quantize and measure the embedded default model: MobileNetV1 0.25/96 on scikit-learn's handwritten digits.

Run it with the `train` extra installed; it writes everything beside itself: mobilenet_digits.tflite, its labels, the
demonstration images (digits of the test split, never seen in training) and accuracy.md, which README.md refers to.

    pip install -e '.[train]'
    python models/train_mobilenet.py            # about ten minutes on two cores

Two phases: the network is trained in float with batch normalization; then the normalization is folded into the weights
and a few more epochs run with the weights rounded to 8 bits per tensor in the forward pass, so that one scale a tensor
costs next to no accuracy. The converter then calibrates the activations on training images.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Array = npt.NDArray[Any]

HERE = Path(__file__).resolve().parent
NAME = "mobilenet_digits"
LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZE = 96  # pixels, width and height of the network's input
ALPHA = 0.25  # width multiplier of MobileNetV1
BATCH = 32
# (output channels at alpha 1, stride) of the 13 depthwise separable blocks (Howard et al. 2017, table 1)
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *(((512, 1),) * 5), (1024, 2), (1024, 1))


@dataclass(frozen=True)
class Split:
    """Digits as scikit-learn has them: images float64 (count, 8, 8) with values 0..16, labels int64 (count)."""

    images: Array
    labels: Array


@dataclass(frozen=True)
class Look:
    """How a digit is drawn; lengths as shares of the picture, colours 0..1."""

    height: float
    width: float
    angle: float  # radians
    shear: float
    shift: tuple[float, float]  # x, y
    contrast: float  # of the strokes' edges
    ink: tuple[float, float, float]
    paper: tuple[float, float, float]
    shade: tuple[float, float]  # brightness gradient over x and y
    noise: float  # standard deviation


PLAIN = Look(0.8, 0.8, 0.0, 0.0, (0.0, 0.0), 2.0, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.0, 0.0), 0.0)


def split_digits(seed: int) -> tuple[Split, Split, Split]:
    """Training (65 %), validation (10 %) and test (25 %) digits, each with all classes in proportion."""
    data = load_digits()
    rest, test, rest_labels, test_labels = train_test_split(
        data.images, data.target, test_size=0.25, random_state=seed, stratify=data.target
    )
    train, validation, train_labels, validation_labels = train_test_split(
        rest, rest_labels, test_size=0.10 / 0.75, random_state=seed, stratify=rest_labels
    )
    return Split(train, train_labels), Split(validation, validation_labels), Split(test, test_labels)


def random_look(rng: np.random.Generator) -> Look:
    """A pen, a paper, a light and a hand; ink and paper always differ clearly in brightness."""
    dark, bright = rng.uniform(0.0, 0.4), rng.uniform(0.7, 1.0)
    greys = rng.permutation([dark, bright])
    ink, paper = greys[:, None] + rng.uniform(-0.2, 0.2, (2, 3))
    height = rng.uniform(0.65, 0.95)
    width = height * rng.uniform(0.85, 1.1)
    room = (max(0.0, (1 - width) / 2), max(0.0, (1 - height) / 2))
    return Look(
        height=height,
        width=width,
        angle=rng.uniform(-0.15, 0.15),
        shear=rng.uniform(-0.15, 0.15),
        shift=(rng.uniform(-room[0], room[0]), rng.uniform(-room[1], room[1])),
        contrast=rng.uniform(1.0, 5.0),
        ink=(ink[0], ink[1], ink[2]),
        paper=(paper[0], paper[1], paper[2]),
        shade=(rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15)),
        noise=rng.uniform(0.0, 0.05),
    )


def draw(digit: Array, look: Look, rng: np.random.Generator, size: int = SIZE) -> Array:
    """A picture of the digit (8, 8), uint8 (size, size, 3)."""
    border = 3  # pixels of empty paper around the digit, so that bicubic edges fade out
    glyph = Image.fromarray(np.pad(digit / 16.0, border).astype(np.float32))
    centre = glyph.width / 2
    cosine, sine = np.cos(look.angle), np.sin(look.angle)
    # From a picture's pixel back to the glyph's: undo shift, rotation and shear, then scale to the 8x8 raster.
    back = np.array([[cosine, sine], [-sine, cosine]]) @ np.array([[1, look.shear], [0, 1]])
    back = np.diag([8 / (look.width * size), 8 / (look.height * size)]) @ back
    offset = centre - back @ (np.array([0.5 + look.shift[0], 0.5 + look.shift[1]]) * size)
    matrix = (*back[0], offset[0], *back[1], offset[1])
    strokes = np.asarray(glyph.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC))
    strokes = np.clip((strokes - 0.5) * look.contrast + 0.5, 0, 1)[..., None]
    picture = strokes * np.array(look.ink) + (1 - strokes) * np.array(look.paper)
    ramp = np.linspace(-1, 1, size)
    picture += (look.shade[0] * ramp[None, :] + look.shade[1] * ramp[:, None])[..., None]
    picture += rng.normal(0, look.noise, picture.shape)
    return np.clip(np.round(picture * 255), 0, 255).astype(np.uint8)


def draw_all(split: Split, rng: np.random.Generator, varied: bool) -> Array:
    """Every digit once, as the network takes it: float32 (count, SIZE, SIZE, 3), 0..1."""
    pictures = [draw(digit, random_look(rng) if varied else PLAIN, rng) for digit in split.images]
    return np.stack(pictures).astype(np.float32) / 255


def batches(split: Split, rng: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """One epoch in random order, every digit drawn anew."""
    order = rng.permutation(len(split.images))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        chosen = order[start : start + BATCH]
        part = Split(split.images[chosen], split.labels[chosen])
        yield draw_all(part, rng, varied=True), part.labels


@tf.custom_gradient
def round_weights(weight: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """The weight as int8 with one scale holds it (symmetric, -127..127); the gradient passes unchanged."""
    scale = tf.reduce_max(tf.abs(weight)) / 127
    return tf.round(weight / scale) * scale, lambda upstream: upstream


class RoundedConv2D(tf.keras.layers.Conv2D):
    """Conv2D that computes with rounded weights."""

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return super().convolution_op(inputs, round_weights(tf.convert_to_tensor(kernel)))


class RoundedDepthwiseConv2D(tf.keras.layers.DepthwiseConv2D):
    """DepthwiseConv2D that computes with rounded weights."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        kernel = round_weights(tf.convert_to_tensor(self.kernel))
        stride = (1, *self.strides, 1)
        return tf.nn.bias_add(tf.nn.depthwise_conv2d(inputs, kernel, stride, self.padding.upper()), self.bias)


def mobilenet(normalized: bool, rounded: bool) -> tf.keras.Model:
    """MobileNetV1: 27 convolutions (13 depthwise), average pool, 1x1 classifier, softmax.

    ``normalized``: batch normalization after every convolution but the classifier, instead of biases.
    ``rounded``: every convolution computes with its weights rounded to 8 bits.
    """
    conv = RoundedConv2D if rounded else tf.keras.layers.Conv2D
    depthwise = RoundedDepthwiseConv2D if rounded else tf.keras.layers.DepthwiseConv2D
    bias = {"use_bias": not normalized}

    def finish(x: Any, name: str) -> Any:
        if normalized:
            x = tf.keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
        return tf.keras.layers.ReLU(6.0, name=f"{name}_relu6")(x)

    x = inputs = tf.keras.Input((SIZE, SIZE, 3), name="image")
    x = finish(conv(int(32 * ALPHA), 3, strides=2, padding="same", name="first", **bias)(x), "first")
    for number, (channels, stride) in enumerate(BLOCKS, 1):
        name = f"depthwise_{number}"
        x = finish(depthwise(3, strides=stride, padding="same", name=name, **bias)(x), name)
        name = f"pointwise_{number}"
        x = finish(conv(int(channels * ALPHA), 1, name=name, **bias)(x), name)
    x = tf.keras.layers.AveragePooling2D(SIZE // 32, name="pool")(x)
    x = conv(len(LABELS), 1, name="classifier")(x)
    x = tf.keras.layers.Reshape((len(LABELS),), name="flatten")(x)
    return tf.keras.Model(inputs, tf.keras.layers.Softmax(name="scores")(x))


def fold(model: tf.keras.Model) -> tf.keras.Model:
    """The same function with every batch normalization multiplied into the convolution before it."""
    folded = mobilenet(normalized=False, rounded=True)
    for layer in folded.layers:
        if not layer.weights:
            continue
        source = model.get_layer(layer.name)
        if layer.name == "classifier":
            layer.set_weights(source.get_weights())
            continue
        (kernel,) = source.get_weights()
        norm = model.get_layer(f"{layer.name}_norm")
        gamma, beta, mean, variance = norm.get_weights()
        factor = gamma / np.sqrt(variance + norm.epsilon)  # (channels)
        shape = (-1, 1) if isinstance(layer, RoundedDepthwiseConv2D) else (-1,)
        layer.set_weights([kernel * factor.reshape(shape), beta - mean * factor])
    return folded


def freeze(folded: tf.keras.Model) -> tf.keras.Model:
    """The folded model with the rounding done once, in plain layers."""
    plain = mobilenet(normalized=False, rounded=False)
    for layer in plain.layers:
        if layer.weights:
            kernel, bias = folded.get_layer(layer.name).get_weights()
            layer.set_weights([round_weights(tf.constant(kernel)).numpy(), bias])
    return plain


def fit(model: tf.keras.Model, split: Split, epochs: int, rate: float, seed: int) -> None:
    """Adam with a cosine schedule; prints a line every five epochs."""
    steps = epochs * (len(split.images) // BATCH)
    schedule = tf.keras.optimizers.schedules.CosineDecay(rate, steps, warmup_target=None)
    model.compile(tf.keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(seed)
    began = time.monotonic()
    for epoch in range(1, epochs + 1):
        losses = [model.train_on_batch(*batch) for batch in batches(split, rng)]
        if epoch % 5 == 0 or epoch == epochs:
            print(f"epoch {epoch}/{epochs}: loss {np.mean(losses):.4f}, {time.monotonic() - began:.0f} s", flush=True)


def quantize(model: tf.keras.Model, split: Split, seed: int) -> bytes:
    """The model as .tflite: int8 throughout, weights per tensor, activations calibrated on training pictures."""
    rng = np.random.default_rng(seed)
    pictures = draw_all(split, rng, varied=True)[:300]

    def calibration() -> Iterator[list[Array]]:
        # Black and white first: the input's range is exactly 0..1, so that its int8 value is the byte less 128.
        yield [np.zeros((1, SIZE, SIZE, 3), np.float32)]
        yield [np.ones((1, SIZE, SIZE, 3), np.float32)]
        for picture in pictures:
            yield [picture[None]]

    @tf.function(input_signature=[tf.TensorSpec((1, SIZE, SIZE, 3), tf.float32, name="image")])
    def infer(image: tf.Tensor) -> tf.Tensor:
        return model(image, training=False)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([infer.get_concrete_function()])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = calibration
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converter._experimental_disable_per_channel = True  # the converter has no public name for it
    return bytes(converter.convert())


def accuracy_float(model: tf.keras.Model, pictures: Array, labels: Array) -> float:
    """Share of right top-1 answers."""
    return float(np.mean(model.predict(pictures, verbose=0).argmax(1) == labels))


def accuracy_quantized(content: bytes, pictures: Array, labels: Array) -> float:
    """Share of right top-1 answers of the .tflite on TFLite's own kernels."""
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    right = 0
    for picture, label in zip(pictures, labels, strict=True):
        interpreter.set_tensor(source, (np.round(picture[None] * 255) - 128).astype(np.int8))
        interpreter.invoke()
        right += int(interpreter.get_tensor(target)[0].argmax() == label)
    return right / len(labels)


def write_demonstration(test: Split, seed: int) -> None:
    """One picture a class, the first of each in the test split, drawn with different looks at 256x256."""
    folder = HERE / "images"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for label, name in enumerate(LABELS):
        digit = test.images[np.flatnonzero(test.labels == label)[0]]
        Image.fromarray(draw(digit, random_look(rng), rng, size=256)).save(folder / f"{name}.jpg", quality=85)


def report(seed: int, rows: list[tuple[str, int, float, float]], size: int, splits: tuple[Split, Split, Split]) -> str:
    """The text of accuracy.md. A row: pictures, their number, accuracy in float and quantized."""
    counts = [len(split.images) for split in splits]
    lines = [
        "# Accuracy of the embedded default model",
        "",
        f"Written by `train_mobilenet.py --seed {seed}`; TensorFlow {tf.__version__}. Do not edit.",
        "",
        (
            f"`{NAME}.tflite`: {size} bytes. {counts[0]} digits for training, {counts[1]} for validation, "
            f"{counts[2]} for the test; no digit is in two of them."
        ),
        "",
        "| pictures | number | float | int8, per tensor |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {name} | {count} | {exact:.2%} | {quantized:.2%} |" for name, count, exact, quantized in rows]
    lines += [
        "",
        "*plain*: white on black, centred. "
        "*varied*: random size, place, slant, colours, light and noise, as in training.",
        "*float*: the network before its weights were rounded. *int8*: the `.tflite` file on TFLite's own kernels.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Train, quantize, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=130, help="float epochs")
    parser.add_argument("--rounded-epochs", type=int, default=20, help="epochs with weights rounded to 8 bits")
    arguments = parser.parse_args()
    seed = arguments.seed
    tf.keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()

    train, validation, test = splits = split_digits(seed)
    model = mobilenet(normalized=True, rounded=False)
    fit(model, train, arguments.epochs, 3e-3, seed)
    folded = fold(model)
    fit(folded, train, arguments.rounded_epochs, 3e-4, seed + 1)
    content = quantize(freeze(folded), train, seed + 2)

    rows = []
    for name, split in (("validation", validation), ("test", test)):
        for look in ("plain", "varied"):
            pictures = draw_all(split, np.random.default_rng(seed + 3), varied=look == "varied")
            exact = accuracy_float(model, pictures, split.labels)
            quantized = accuracy_quantized(content, pictures, split.labels)
            rows.append((f"{name}, {look}", len(pictures), exact, quantized))
            print(f"{name}, {look}: float {exact:.2%}, int8 {quantized:.2%}", flush=True)

    (HERE / f"{NAME}.tflite").write_bytes(content)
    (HERE / f"{NAME}_labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    (HERE / "accuracy.md").write_text(report(seed, rows, len(content), splits))
    write_demonstration(test, seed + 4)


if __name__ == "__main__":
    main()
