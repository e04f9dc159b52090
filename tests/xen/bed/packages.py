# SPDX-License-Identifier: MIT
"""What the bed takes from Debian: tools of the host, packages to unpack, fio without libraries.

Nothing is installed but tools, and those only by root. Packages are fetched by the host's apt with
state of its own and only unpacked: no maintainer script runs, so no root is needed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

TOOLS: Final = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mke2fs": "e2fsprogs",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "apt-get": "apt",
    "setpriv": "util-linux",
}
"""Programs of the host and the packages that have them."""

FIO_TOOLS: Final = ("gcc", "make", "libc6-dev", "libaio-dev", "dpkg-dev")

SYSTEM_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

TIMEOUT: Final = 900


class Unavailable(Exception):
    """The bed cannot be had on this machine: one line that says why."""


def call(arguments: Sequence[str | Path], where: Path, log: Path) -> str:
    """Run a program of the host, its words in `log`; CalledProcessError if it fails."""
    environment = {
        **os.environ,
        "PATH": SYSTEM_PATH,
        "LC_ALL": "C",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    with log.open("a") as words:
        words.write(f"+ {' '.join(map(str, arguments))}\n")
        words.flush()
        done = subprocess.run(
            arguments,
            cwd=where,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        words.write(done.stdout)
    done.check_returncode()
    return done.stdout


def need_tools(log: Path) -> None:
    """The programs of the host, installed if we may."""
    missing = sorted({p for tool, p in TOOLS.items() if not shutil.which(tool, path=SYSTEM_PATH)})
    if not missing:
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        try:
            call(["apt-get", "update", "-qq"], Path("/"), log)
            install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
            call(install, Path("/"), log)
        except subprocess.SubprocessError as error:
            raise Unavailable(f"apt-get cannot install {' '.join(missing)}, see {log}") from error
        return
    raise Unavailable(f"missing on this machine: {' '.join(missing)} (apt-get install as root)")


class Apt:
    """The host's apt and sources, with an empty system of our own as what is installed."""

    def __init__(self, directory: Path, log: Path) -> None:
        self.directory = directory
        self.log = log
        self.archives = directory / "archives"
        for path in ("lists/partial", "archives/partial", "parts"):
            (directory / path).mkdir(parents=True, exist_ok=True)
        (directory / "status").touch()
        self._take_sources()
        self.options = [
            f"-oDir::State::Lists={directory / 'lists'}",
            f"-oDir::State::Status={directory / 'status'}",
            f"-oDir::State::extended_states={directory / 'extended_states'}",
            f"-oDir::Cache={directory}",
            f"-oDir::Cache::Archives={self.archives}",
            f"-oDir::Etc::SourceList={directory / 'none'}",
            f"-oDir::Etc::SourceParts={directory / 'parts'}",
            "-oAPT::Sandbox::User=root",
            "-oDebug::NoLocking=1",
            "-qq",
        ]
        self.update()

    def _take_sources(self) -> None:
        """The machine's sources, each with its source packages too."""
        files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
        for file in files:
            if file.suffix == ".sources":
                text = re.sub(r"(?m)^Types:.*$", "Types: deb deb-src", file.read_text())
                (self.directory / "parts" / file.name).write_text(text)
            elif file.suffix == ".list" and file.exists():
                lines = [x for x in file.read_text().splitlines() if x.startswith("deb ")]
                lines += ["deb-src " + x.removeprefix("deb ") for x in lines]
                (self.directory / "parts" / file.name).write_text("".join(f"{x}\n" for x in lines))

    def _call(self, *arguments: str, where: Path | None = None) -> str:
        tool = arguments[0]
        return call([tool, *self.options, *arguments[1:]], where or self.archives, self.log)

    def update(self) -> None:
        """Fetch the lists. A source that does not answer matters only where it is needed."""
        try:
            self._call("apt-get", "update")
        except subprocess.SubprocessError:
            return

    def closure(self, packages: Sequence[str]) -> list[Path]:
        """Packages and all they depend on, as files."""
        try:
            self._call("apt-get", "install", "-y", "--no-install-recommends", "-d", *packages)
        except subprocess.SubprocessError as error:
            raise Unavailable(f"apt has not all of {' '.join(packages)}, see {self.log}") from error
        return sorted(self.archives.glob("*.deb"))

    def kernel(self) -> Path:
        """The package of the kernel that linux-image-amd64 stands for."""
        try:
            depends = self._call("apt-cache", "depends", "linux-image-amd64")
            name = re.search(r"Depends: (linux-image-[0-9]\S+)", depends)
            return self.one(name[1] if name else "linux-image-amd64")
        except subprocess.SubprocessError as error:
            raise Unavailable(f"apt has no linux-image-amd64, see {self.log}") from error

    def one(self, package: str) -> Path:
        """One package as a file, without what it depends on."""
        where = self.directory / "single" / package
        where.mkdir(parents=True, exist_ok=True)
        if not list(where.glob("*.deb")):
            try:
                self._call("apt-get", "download", package, where=where)
            except subprocess.SubprocessError as error:
                raise Unavailable(f"apt has no {package}, see {self.log}") from error
        return next(where.glob("*.deb"))

    def source(self, package: str) -> Path:
        """The upstream source of a package, unpacked."""
        where = self.directory / "source" / package
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir(parents=True)
        self._call("apt-get", "source", "--download-only", package, where=where)
        tar = next(where.glob("*.orig.tar.*"))
        call(["tar", "-xf", tar], where, self.log)
        return next(x for x in where.iterdir() if x.is_dir())


def unpack(package: Path, root: Path, log: Path, only: Sequence[str] = ()) -> None:
    """Lay a package's files below `root`, following links such as /bin; `only`: wildcards."""
    log.parent.mkdir(parents=True, exist_ok=True)
    keep = (
        ["--wildcards", *only]
        if only
        else ["--exclude=./usr/share/doc", "--exclude=./usr/share/man"]
    )
    with (
        log.open("a") as words,
        subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE, stderr=words
        ) as tar,
    ):
        subprocess.run(
            ["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", root, *keep],
            stdin=tar.stdout,
            stderr=words,
            timeout=TIMEOUT,
            check=True,
        )


def static_fio(apt: Apt, target: Path) -> None:
    """Debian's fio as one file: the packaged one draws in 80 MB of libraries. Without the sources
    or a compiler there is none, and the tests that need it say so."""
    try:
        if os.geteuid() == 0:
            have = subprocess.run(["dpkg", "-s", *FIO_TOOLS], capture_output=True, check=False)
            if have.returncode:
                install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *FIO_TOOLS]
                call(install, Path("/"), apt.log)
        tree = apt.source("fio")
        without = [f"--disable-{x}" for x in ("native", "numa", "rdma", "http")]
        call(["./configure", *without], tree, apt.log)
        call(["make", f"-j{os.cpu_count()}", "fio", "LDFLAGS=-static"], tree, apt.log)
        call(["strip", "-o", target, tree / "fio"], tree, apt.log)
    except (subprocess.SubprocessError, OSError, StopIteration) as error:
        with apt.log.open("a") as words:
            words.write(f"no fio: {error}\n")
