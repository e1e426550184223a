"""models.toml, and downloads from a server on this machine."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from delegate.errors import ModelError
from delegate.tools import registry
from delegate.tools.registry import Source

CONTENT = bytes(range(256)) * 1000


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Server:
    """An HTTP server with files; a path in ``broken`` ends in the middle."""

    files: dict[str, bytes] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    address: str = ""

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            state.requests.append(name)
            if name not in state.files:
                self.send_error(404)
                return
            content = state.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if name in state.broken else content)

        def log_message(self, *_: Any) -> None:
            """Keeps stderr for the code under test."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def locate(source: Source, cache: Path) -> Path:
    return registry.locate(source, Path("no folder"), cache, "MIT")


def test_a_download_is_verified_shown_and_kept(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["model.tflite"] = CONTENT
    source = Source(url=server.url("model.tflite"), sha256=digest(CONTENT))
    cache = tmp_path / "new" / "folder"
    path = locate(source, cache)
    assert path.read_bytes() == CONTENT
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "licence: MIT" in shown.err and server.url("model.tflite") in shown.err
    assert "100%" in shown.err and "256k/256k" in shown.err  # the progress bar
    assert locate(source, cache) == path
    assert server.requests == ["model.tflite"]
    assert capsys.readouterr().err == ""


def test_a_damaged_file_in_the_cache_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    server.files["model.tflite"] = CONTENT
    source = Source(url=server.url("model.tflite"), sha256=digest(CONTENT))
    locate(source, tmp_path).write_bytes(CONTENT[:-1])
    assert locate(source, tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.files["model.tflite"] = CONTENT + b"!"
    with pytest.raises(ModelError, match=r"model\.tflite is not the expected file: its sha256 is not [0-9a-f]{64}$"):
        locate(Source(url=server.url("model.tflite"), sha256=digest(CONTENT)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_named_with_the_answer_of_the_server(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone\.tflite cannot be downloaded: HTTP 404 Not Found$"):
        locate(Source(url=server.url("gone.tflite"), sha256=digest(b"")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.files["model.tflite"] = CONTENT
    server.broken.add("model.tflite")
    source = Source(url=server.url("model.tflite"), sha256=digest(CONTENT))
    with pytest.raises(ModelError, match=r"model\.tflite (cannot be downloaded|is not the expected file)"):
        locate(source, tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.broken.clear()
    assert locate(source, tmp_path).read_bytes() == CONTENT


def test_a_refused_connection_is_one_line(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be downloaded: no connection to the server$"):
        locate(Source(url="http://127.0.0.1:1/model.tflite", sha256=digest(b"")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    server.files["model.tflite"] = CONTENT
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ModelError, match=r"model\.tflite cannot be read or written: "):
        locate(Source(url=server.url("model.tflite"), sha256=digest(CONTENT)), blocked / "cache")


def archive(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as files:
        for path, data in (("./readme.txt", b"hello"), (name, content)):
            member = tarfile.TarInfo(path)
            member.size = len(data)
            files.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def archived(server: Server, member: str = "model.tflite", content: bytes = CONTENT) -> Source:
    """A source whose archive holds ``content`` as ./model.tflite."""
    server.files["model.tgz"] = archive("./model.tflite", content)
    return Source(
        url=server.url("model.tgz"),
        sha256=digest(CONTENT),
        member=member,
        archive_sha256=digest(server.files["model.tgz"]),
    )


def test_a_model_in_an_archive(server: Server, tmp_path: Path) -> None:
    source = archived(server)
    path = locate(source, tmp_path)
    assert path.read_bytes() == CONTENT
    assert locate(source, tmp_path) == path
    assert server.requests == ["model.tgz"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [("other.tflite", CONTENT, "does not contain it"), ("model.tflite", CONTENT[1:], "wrong sha256")],
)
def test_an_archive_with_something_else(
    server: Server, tmp_path: Path, member: str, content: bytes, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        locate(archived(server, member, content), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "companion", "default"),
    [("models.toml", "labels", registry.DEFAULT_MODEL), ("language.toml", "tokenizer", "stories_tiny")],
)
def test_the_registries_of_the_project_are_sound(name: str, companion: str, default: str) -> None:
    folder = registry.models_folder()
    models = registry.read_registry(folder / name, companion)
    assert next(iter(models)) == default
    for model in models.values():
        assert model.description and model.licence
        for source in (model.source, model.companion):
            assert source.file is None or (folder / source.file).is_file()
            assert source.url is None or source.url.startswith("https://")
            assert source.sha256 is None or len(bytes.fromhex(source.sha256)) == 32
    assert registry.default_image().is_file()


def test_checksums_are_those_of_the_reference_models(shared: Path) -> None:
    """Every registered file that stands in the reference folder has the registered checksum."""
    compared = 0
    for model in registry.read_registry(registry.models_folder() / "models.toml").values():
        for source in (model.source, model.companion):
            path = shared / "models" / (source.url or "none").rsplit("/", 1)[-1]
            if path.is_file():
                assert digest(path.read_bytes()) == source.sha256, path
                compared += 1
    assert compared >= 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a", "cannot be read"),
        ('[a]\nlicence = "MIT"\nfile = "x"\nlabels = { file = "y" }', "'a' has no 'description'"),
        ('[a]\ndescription = ""\nlicence = ""\nlabels = { file = "y" }', "needs either 'file' or 'url'"),
        ('[a]\ndescription = ""\nlicence = ""\nurl = "u"\nlabels = { file = "y" }', "without 'sha256'"),
        ('[a]\ndescription = ""\nlicence = ""\nfile = "x"\nsize = 1\nlabels = { file = "y" }', "unknown field 'size'"),
        ('[a]\ndescription = ""\nlicence = ""\nfile = "x"\nmember = "m"\nlabels = { file = "y" }', "or neither"),
    ],
)
def test_a_registry_with_a_mistake(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "models.toml"
    path.write_text(text)
    with pytest.raises(ModelError, match=message):
        registry.read_registry(path)


def test_an_unknown_name_lists_the_known_ones() -> None:
    models = registry.read_registry(registry.models_folder() / "models.toml")
    with pytest.raises(ModelError, match=r"unknown model 'nonet': .* mobilenet, mobilenet_v1_1\.0_224, "):
        registry.find_model("nonet", models)
