"""What pyproject.toml cannot say: the shared library is built with the package, and the models are put into it."""

import shutil
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.extension import Extension

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from delegate.build import build, library_names  # noqa: E402

MODELS = ("models.toml", "accuracy.md", "*.tflite", "*_labels.txt", "images/*")  # of models/: what a user needs


class BuildModels(build_py):
    """Copies models/ into the package; an editable install finds it beside the package."""

    def model_files(self) -> list[tuple[Path, Path]]:
        """(source, target) of each file."""
        target = Path(self.build_lib) / "delegate" / "models"
        sources = [source for pattern in MODELS for source in sorted((ROOT / "models").glob(pattern))]
        return [(source, target / source.relative_to(ROOT / "models")) for source in sources]

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self.model_files():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        models = [] if self.editable_mode else [str(target) for _, target in self.model_files()]
        return [*super().get_outputs(include_bytecode), *models]


class BuildLibrary(build_ext):
    """Puts libteflon.so's parts and the stand-in into the package: the built one, or the sources' if it is editable."""

    def folder(self) -> Path:
        editable = self.inplace or self.editable_mode
        return (ROOT if editable else Path(self.build_lib)) / "delegate"

    def run(self) -> None:
        build(self.folder())

    def get_outputs(self) -> list[str]:
        return [str(self.folder() / name) for name in library_names()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class BinaryDistribution(Distribution):
    """A wheel of one platform and one Python."""

    def has_ext_modules(self) -> bool:
        return True


setup(
    cmdclass={"build_ext": BuildLibrary, "build_py": BuildModels},
    distclass=BinaryDistribution,
    ext_modules=[Extension("delegate.libteflon", ["delegate/loader.c"])],
)
