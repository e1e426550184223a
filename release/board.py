"""An aarch64 userland for qemu-user: Python, Mesa's NPU delegate and TFLite's runtimes, packaged as boards have them.

``python -m release.board`` makes it in build/board: Debian's arm64 packages are downloaded by apt with a state of its
own (nothing is installed on this machine) and unpacked; wheels for aarch64 come from PyPI. 300 MB, about a minute.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from delegate.errors import DelegateError

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "board"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
SUITES = ("bookworm", "trixie", "sid")  # the first has Python 3.11, the last a Mesa with rocket
PACKAGES = (f"python{VERSION}", "mesa-teflon-delegate", "libstdc++6", "libdrm-dev")
RUNTIMES = ("ai-edge-litert", *(["tflite-runtime"] if VERSION == "3.11" else []))
GLIBC = ("2_17", "2_27", "2_28", "2_31", "2_34")  # tags of the wheels; the unpacked glibc is newer
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
CPU = "cortex-a76"  # RK3588's large cores
# qemu before 8.1 shows this machine's /proc/cpuinfo, which TFLite's CPU detection does not survive.
CPUINFO = """processor\t: {index}
BogoMIPS\t: 48.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 0

"""
APT = """Dir::State "{folder}/state";
Dir::State::status "{folder}/state/status";
Dir::Cache "{folder}/cache";
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
APT::Architecture "arm64";
APT::Architectures {{"arm64";}};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
"""


def quietly(command: Sequence[object], environment: Mapping[str, str] | None = None) -> str:
    """What a command prints; raises DelegateError with its last words if it fails."""
    words = [str(word) for word in command]
    result = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if result.returncode:
        last = (result.stderr.strip() or result.stdout.strip())[-600:]
        raise DelegateError(f"{' '.join(words[:4])} … failed:\n{last}")
    return result.stdout


@dataclass(frozen=True)
class Board:
    """The userland in ``folder``."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def mesa(self) -> Path:
        """Upstream's libteflon.so."""
        return self.root / "usr/lib/teflon/libteflon.so"

    def command(self, words: Sequence[object], variables: Mapping[str, object] | None = None) -> list[str]:
        """Runs a program of aarch64; its environment is this process's and ``variables``."""
        pairs = [word for name, value in (variables or {}).items() for word in ("-E", f"{name}={value}")]
        return ["qemu-aarch64", "-cpu", CPU, "-L", str(self.root), *pairs, *map(str, words)]

    def python(self, words: Sequence[object], variables: Mapping[str, object] | None = None) -> list[str]:
        """Runs the userland's Python, which sees the wheels; PYTHONPATH in ``variables`` comes before them."""
        given = dict(variables or {})
        path = ":".join(str(part) for part in (given.pop("PYTHONPATH", ""), self.folder / "site") if part)
        more = {"PYTHONPATH": path, "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1", **given}
        return self.command([self.root / f"usr/bin/python{VERSION}", *words], more)

    def on_stand_in(self, command: Sequence[str], library: Path, options: Sequence[str] = ()) -> list[str]:
        """A command of this class on the stand-in: this machine's server, and the library that is of aarch64."""
        first, *rest = command
        shim = [sys.executable, "-m", "delegate", "shim", *options, "--", "env", "-u", "LD_PRELOAD"]
        return [*shim, first, "-E", f"LD_PRELOAD={library}", *rest]


def recipe() -> str:
    """Changes whenever the userland has to be made anew."""
    return hashlib.sha256(Path(__file__).read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()


def existing(folder: Path = FOLDER) -> Board | None:
    """The userland if it has been made and can be run here."""
    stamp = folder / "made"
    made = stamp.exists() and stamp.read_text() == recipe()
    return Board(folder) if made and shutil.which("qemu-aarch64") else None


def mirror() -> str:
    """The address from which this machine's apt has its packages of Debian."""
    lines = quietly(["apt-get", "indextargets", "--format", "$(ORIGIN) $(SITE)"]).splitlines()
    for line in lines:
        origin, _, site = line.partition(" ")
        if origin == "Debian" and "security" not in site:
            return site
    raise DelegateError("this machine's apt knows no mirror of Debian; `apt-get update` first")


def unpack_packages(folder: Path) -> None:
    """Downloads PACKAGES with all that they need, and unpacks them to folder/root."""
    apt = folder / "apt"
    for part in ("state/lists/partial", "cache/archives/partial"):
        (apt / part).mkdir(parents=True)
    (apt / "state/status").touch()
    site = mirror()
    lines = [f"deb [arch=arm64 signed-by={KEYS}] {site} {suite} main\n" for suite in SUITES]
    (apt / "sources.list").write_text("".join(lines))
    (apt / "apt.conf").write_text(APT.format(folder=apt))
    environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}
    quietly(["apt-get", "-q", "update"], environment)
    quietly(["apt-get", "-qy", "--download-only", "install", *PACKAGES], environment)
    root = folder / "root"
    for name in ("lib", "bin", "sbin"):  # Debian's merged /usr, for packages that are older
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted((apt / "cache/archives").glob("*.deb")):
        contents = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["tar", "-x", "-C", root, "--keep-directory-symlink"], input=contents, check=True)
    shutil.rmtree(apt)


def install_wheels(folder: Path) -> None:
    """What the project depends on and both runtimes, as wheels for aarch64, to folder/site."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tags = [word for glibc in GLIBC for word in ("--platform", f"manylinux_{glibc}_aarch64")]
    options = ["--only-binary=:all:", "--no-compile", "--python-version", VERSION, "--implementation", "cp"]
    where = ["--target", folder / "site", *tags, "--platform", "manylinux2014_aarch64", *options]
    quietly([sys.executable, "-m", "pip", "install", "-q", *where, *project["dependencies"], *RUNTIMES])


def prepare(folder: Path = FOLDER) -> Board:
    """The userland, made if it is not there; raises DelegateError that says what is missing."""
    if not shutil.which("qemu-aarch64"):
        raise DelegateError("qemu-aarch64 is missing; `apt-get install qemu-user`")
    board = existing(folder)
    if board is not None:
        return board
    for tool in ("apt-get", "dpkg-deb", "tar"):
        if not shutil.which(tool):
            raise DelegateError(f"{tool} is missing: the userland is made of Debian's packages, on Debian or Ubuntu")
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{folder}: Debian's packages", file=sys.stderr, flush=True)
    unpack_packages(folder)
    print(f"{folder}: Python's packages", file=sys.stderr, flush=True)
    install_wheels(folder)
    (folder / "root/proc").mkdir()
    text = "".join(CPUINFO.format(index=index) for index in range(os.cpu_count() or 1))
    (folder / "root/proc/cpuinfo").write_text(text)
    (folder / "made").write_text(recipe())
    return Board(folder)


if __name__ == "__main__":
    try:
        print(prepare().folder)
    except DelegateError as error:
        sys.exit(f"error: {error}")
