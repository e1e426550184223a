"""The models known by name: models/models.toml and language.toml, downloads on first use, checksums."""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

import delegate
from delegate.errors import ModelError

TIMEOUT = 30  # seconds without an answer of the server

DEFAULT_MODEL = "mobilenet"
DEFAULT_IMAGE = "seven.jpg"


@dataclass(frozen=True)
class Source:
    """Where a file comes from: ``file`` beside models.toml, or ``url`` with its checksum.

    ``sha256`` is that of the wanted file; with ``member`` the URL is an archive (.tgz) that holds it, and
    ``archive_sha256`` the checksum of the archive.
    """

    file: str | None = None
    url: str | None = None
    sha256: str | None = None
    member: str | None = None
    archive_sha256: str | None = None


@dataclass(frozen=True)
class Model:
    """A model that has a name. ``companion``: the file without which it is of no use, labels or a tokenizer."""

    name: str
    description: str
    licence: str
    source: Source
    companion: Source


def models_folder() -> Path:
    """The folder of models.toml: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(delegate.__file__).resolve().parent
    for folder in (package.parent / "models", package / "models"):
        if (folder / "models.toml").is_file():
            return folder
    raise ModelError(f"models.toml is neither in {package.parent / 'models'} nor in {package / 'models'}")


def default_image() -> Path:
    """A picture of the embedded model's own test split."""
    return models_folder() / "images" / DEFAULT_IMAGE


def read_registry(path: Path, companion: str = "labels") -> dict[str, Model]:
    """All models of a file such as models.toml by name; ModelError where it is not in that form.

    ``companion``: what the file calls that.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: _read_model(name, table, companion) for name, table in tables.items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"model registry {path} cannot be read: {error}") from error


def _read_model(name: str, table: Mapping[str, Any], companion: str) -> Model:
    fields = {key: value for key, value in table.items() if key not in ("description", "licence", companion)}
    try:
        source, other = _read_source(name, fields), _read_source(name, table[companion])
        return Model(name, table["description"], table["licence"], source, other)
    except KeyError as error:
        raise ModelError(f"model registry: {name!r} has no {error}") from error


def _read_source(name: str, fields: Mapping[str, Any]) -> Source:
    unknown = set(fields) - set(Source.__dataclass_fields__)
    if unknown:
        raise ModelError(f"model registry: {name!r} has the unknown field {min(unknown)!r}")
    source = Source(**fields)
    if (source.file is None) == (source.url is None):
        raise ModelError(f"model registry: {name!r} needs either 'file' or 'url'")
    if source.url is not None and source.sha256 is None:
        raise ModelError(f"model registry: {name!r} has a url without 'sha256'")
    if (source.member is None) != (source.archive_sha256 is None):
        raise ModelError(f"model registry: {name!r} needs both 'member' and 'archive_sha256' or neither")
    return source


def find_model(name: str, registry: Mapping[str, Model]) -> Model:
    """The model of that name; ModelError lists the known ones."""
    if name not in registry:
        raise ModelError(f"unknown model {name!r}: neither a file nor one of {', '.join(registry)}")
    return registry[name]


def locate(source: Source, folder: Path, cache: Path, licence: str) -> Path:
    """The path of a file: in ``folder`` if it is embedded, else in ``cache``, downloaded and verified if need be."""
    if source.url is None:
        assert source.file is not None
        return folder / source.file
    assert source.sha256 is not None
    target = cache / f"{source.sha256[:12]}-{source.member or source.url.rsplit('/', 1)[-1]}"
    try:
        if not (target.is_file() and _sha256(target) == source.sha256):
            print(f"downloading {source.url} to {target} (licence: {licence})", file=sys.stderr)
            cache.mkdir(parents=True, exist_ok=True)
            if source.member is None:
                _download(source.url, source.sha256, target)
            else:
                _download_member(source, target)
    except OSError as error:
        raise ModelError(f"{target} cannot be read or written: {error.strerror or error}") from error
    return target


def download_folder() -> Path:
    """The user's folder for downloaded models."""
    return Path(platformdirs.user_cache_dir("teflon-rknpu")) / "models"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, sha256: str, target: Path) -> None:
    """Fetch with a progress bar on stderr; the file appears under its name only when whole and verified."""
    import pooch  # here and not above: it loads an HTTP stack that an embedded model never needs
    import requests

    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)
    try:
        pooch.retrieve(url, f"sha256:{sha256}", target.name, target.parent, downloader=downloader)
    except requests.exceptions.HTTPError as error:
        assert error.response is not None
        answer = f"HTTP {error.response.status_code} {error.response.reason}"
        raise ModelError(f"{url} cannot be downloaded: {answer}") from error
    except requests.exceptions.ConnectionError as error:
        raise ModelError(f"{url} cannot be downloaded: no connection to the server") from error
    except requests.exceptions.Timeout as error:
        raise ModelError(f"{url} cannot be downloaded: no answer in {TIMEOUT} s") from error
    except requests.exceptions.RequestException as error:
        raise ModelError(f"{url} cannot be downloaded: {_one_line(error)}") from error
    except ValueError as error:  # pooch's way of saying that the checksum differs
        raise ModelError(f"{url} is not the expected file: its sha256 is not {sha256}") from error


def _download_member(source: Source, target: Path) -> None:
    """Fetch an archive, verify it, keep only the wanted file of it."""
    assert source.url is not None and source.archive_sha256 is not None and source.member is not None
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        archive = Path(temporary) / "archive"
        _download(source.url, source.archive_sha256, archive)
        content = _read_member(archive, source.member)
        if hashlib.sha256(content).hexdigest() != source.sha256:
            raise ModelError(f"{source.member} of {source.url} is not the expected file: wrong sha256")
        whole = Path(temporary) / "member"
        whole.write_bytes(content)
        os.replace(whole, target)


def _read_member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as files:
        for member in files:
            if member.isfile() and os.path.normpath(member.name) == name:
                content = files.extractfile(member)
                assert content is not None
                return content.read()
    raise ModelError(f"the archive of {name} does not contain it")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
