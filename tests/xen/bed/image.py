# SPDX-License-Identifier: MIT
"""The images: Xen, the kernel, dom0's disk, the guest's initramfs, and the product as a disk.

Kept in the bed's directory (XENBACKD_XEN_BED, else in the temporary directory); a part is made anew
when what it is made of has changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import lzma
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.xen.bed.cpio import Initramfs
from tests.xen.bed.packages import Apt, Unavailable, call, need_tools, static_fio, unpack

REPOSITORY: Final = Path(__file__).parents[3]
INSIDE: Final = Path(__file__).parent / "inside"

XEN: Final = "xen-hypervisor-4.17-amd64"
DOM0: Final = (
    *("xen-utils-4.17", "xen-utils-common", "xenstore-utils", "python3", "busybox-static"),
    *("bash", "coreutils", "dash", "mawk", "grep", "sed", "findutils", "util-linux", "mount"),
    *("procps", "kmod", "e2fsprogs", "hostname", "libstdc++6"),
)
MERGED: Final = ("bin", "sbin", "lib", "lib64")
DOM0_MODULES: Final = (
    *("virtio_pci", "virtio_blk", "virtio_console", "crc32c_generic", "ext4"),
    *("xen-evtchn", "xen-gntdev", "xen-gntalloc", "xen-privcmd", "xenfs"),
)
GUEST_MODULES: Final = ("crc32c_generic", "ext4", "xen-blkfront")
DRIVER_MODULES: Final = ("xen-evtchn", "xen-gntdev", "xenfs")
"""What a driver domain needs beyond a guest's."""
GUEST_PROGRAMS: Final = ("mke2fs", "e2fsck")
PRODUCT: Final = "/opt/xenbackd"
PRODUCT_SOURCES: Final = ("supervisor", "worker", "shared", "embedded", "config", "scripts")
PRODUCT_FILES: Final = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in")
PYTHON: Final = (3, 11)
"""Debian 12's, which runs the product in dom0."""


class Bed:
    """Where everything lies; `packages` and `modules` are what dom0 has beside the usual."""

    def __init__(
        self,
        directory: Path | None = None,
        packages: Sequence[str] = (),
        modules: Sequence[str] = (),
    ) -> None:
        self.directory = directory or bed_directory()
        self._packages = (*DOM0, *packages)
        self._dom0_modules = (*DOM0_MODULES, *modules)
        self.log = self.directory / "build.log"
        self.logs = self.directory / "logs"
        self.root = self.directory / "root"
        self.modules = self.directory / "kernel"
        self.xen = self.directory / "xen"
        self.kernel = self.directory / "vmlinux"
        self.fio = self.directory / "fio"
        self.dom0_initramfs = self.directory / "dom0.cpio"
        self.guest_initramfs = self.directory / "guest.cpio"
        self.dom0_disk = self.directory / "dom0.img"
        self.product_disk = self.directory / "product.img"

    @contextlib.contextmanager
    def mine(self) -> Iterator[None]:
        """Keep others out: they would replace images that a machine runs on, and its logs.

        Raises:
            Unavailable: the directory is another user's.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.directory.lstat().st_uid != os.geteuid():  # a link to a directory of ours, too
            raise Unavailable(f"{self.directory} is another user's: set XENBACKD_XEN_BED")
        with (self.directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"test-xen: {self.directory} is in use: waiting", flush=True)  # noqa: T201
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def build(self) -> None:
        """Everything that is not there yet; only while the bed is ours (`mine`).

        Raises:
            Unavailable: this machine cannot have it.
        """
        if sys.version_info[:2] != PYTHON:
            raise Unavailable(f"dom0 has Python 3.11, the product here is of {sys.version[:4]}")
        need_tools(self.log)
        try:
            for part, key, make in (
                ("packages", f"{XEN} {self._packages}", self._take_packages),
                ("images", f"{digest(image_files())} {self._dom0_modules}", self._make_images),
                ("product", digest(product_files()), self._make_product),
            ):
                stamp = self.directory / f"{part}.made"
                if not stamp.exists() or stamp.read_text() != key:
                    make()
                    stamp.write_text(key)
        except (subprocess.SubprocessError, OSError) as error:
            raise RuntimeError(f"the bed cannot be built: {error}; see {self.log}") from error

    def _take_packages(self) -> None:
        (self.directory / "images.made").unlink(missing_ok=True)
        self.log.unlink(missing_ok=True)
        apt = Apt(self.directory / "apt", self.log)
        hypervisor, kernel = apt.one(XEN), apt.kernel()
        packages = apt.closure(self._packages)
        for tree in (self.root, self.modules):
            shutil.rmtree(tree, ignore_errors=True)
            tree.mkdir()
        for name in MERGED:
            (self.root / "usr" / name).mkdir(parents=True)
            (self.root / name).symlink_to(f"usr/{name}")
            (self.modules / "usr" / name).mkdir(parents=True)
            (self.modules / name).symlink_to(f"usr/{name}")
        for package in packages:
            unpack(package, self.root, self.log)
        unpack(hypervisor, self.modules, self.log, ["./boot/xen-*.gz"])
        unpack(kernel, self.modules, self.log, ["./boot/vmlinuz-*", "./lib/modules/*"])
        self.xen.write_bytes(gzip.decompress(next(self.modules.glob("boot/xen-*.gz")).read_bytes()))
        image = next(self.modules.glob("boot/vmlinuz-*")).read_bytes()
        self.kernel.write_bytes(uncompressed(image))
        # No maintainer script has made dom0's byte-code; emulated, it takes ten seconds a boot.
        python = self.root / "usr/lib/python3.11"
        compiler = (sys.executable, "-m", "compileall", "-q", "-s", str(self.root), "-p", "/")
        call([*compiler, str(python)], self.directory, self.log)
        call(["depmod", "-b", self.modules, self._release()], self.directory, self.log)
        if not self.fio.exists():
            static_fio(apt, self.fio)

    def _release(self) -> str:
        return next(self.modules.glob("lib/modules/*")).name

    def _make_images(self) -> None:
        with self.dom0_initramfs.open("wb") as out, Initramfs(out) as archive:
            self._put_modules(archive, self._dom0_modules)
            archive.copy("init", INSIDE / "dom0-initramfs")
            self._put_busybox(archive)
        with self.guest_initramfs.open("wb") as out, Initramfs(out) as archive:
            self._put_modules(archive, GUEST_MODULES)
            self._put_modules(archive, DRIVER_MODULES, "driver-modules")
            archive.copy("init", INSIDE / "guest-init")
            archive.copy("bin/agent", INSIDE / "guest-agent")
            self._put_busybox(archive)
            self._put_programs(archive)
            if self.fio.exists():
                archive.copy("bin/fio", self.fio)
            for name in ("poweroff", "reboot"):
                # The kernel runs these on xl shutdown and xl reboot, past process 1.
                archive.file(f"sbin/{name}", f"#!/bin/sh\nexec busybox {name} -f\n".encode())
        self._make_dom0()

    def _put_busybox(self, archive: Initramfs) -> None:
        archive.copy("bin/busybox", self.root / "usr/bin/busybox")
        archive.link("bin/sh", "busybox")

    def _put_modules(
        self, archive: Initramfs, names: Iterable[str], folder: str = "modules"
    ) -> None:
        base = self.modules / "lib/modules" / self._release()
        needs = {}
        for line in (base / "modules.dep").read_text().splitlines():
            path, _, others = line.partition(":")
            needs[module_name(path)] = [path, *others.split()]
        order: list[str] = []
        for name in names:
            # A name that is missing is built into this kernel.
            for path in reversed(needs.get(module_name(name), [])):
                if path not in order:
                    order.append(path)
        for number, path in enumerate(order):
            archive.copy(f"{folder}/{number:02}-{Path(path).name}", base / path)

    def _put_programs(self, archive: Initramfs) -> None:
        """Programs of dom0's that busybox has not, with their libraries."""
        loader = self.root / "lib64/ld-linux-x86-64.so.2"
        libraries = self.root / "usr/lib/x86_64-linux-gnu"
        found: dict[str, Path] = {"lib64/ld-linux-x86-64.so.2": loader}
        for name in GUEST_PROGRAMS:
            program = self.root / "usr/sbin" / name
            archive.copy(f"sbin/{name}", program)
            told = call(
                [loader, "--library-path", libraries, "--list", program], self.root, self.log
            )
            for line in told.splitlines():
                if "=> /" in line:
                    path = Path(line.split("=> ")[1].split(" (")[0])
                    found[f"lib/{path.name}"] = path
        for target, path in found.items():
            archive.copy(target, path.resolve() if path.is_absolute() else path)
        archive.copy("etc/mke2fs.conf", self.root / "etc/mke2fs.conf")

    def _make_dom0(self) -> None:
        here = self.root / "bed"
        here.mkdir(exist_ok=True)
        for source in (
            *(self.kernel, self.guest_initramfs),
            *(INSIDE / "dom0-agent.py", INSIDE / "dom0-init"),
        ):
            shutil.copy2(source, here / source.name)
        (here / "dom0-init").chmod(0o755)
        for name in (
            "proc",
            "sys",
            "dev",
            "tmp",
            "run",
            "srv",
            "root",
            "var/log/xen",
            "usr/local/bin",
            PRODUCT[1:],
        ):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        etc = self.root / "etc"
        (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
        (etc / "group").write_text("root:x:0:\ntty:x:5:\n")
        (etc / "xen").mkdir(exist_ok=True)
        (etc / "xen/xl.conf").write_text('autoballoon="off"\n')
        (etc / "inittab").write_text("::sysinit:/bed/dom0-init\n")
        for name, target in (
            ("sbin/init", "/bin/busybox"),
            ("bin/sh", "dash"),
            ("usr/bin/awk", "mawk"),
            ("var/run", "/run"),
        ):
            link = self.root / name
            if link.is_dir() and not link.is_symlink():  # a package's, before it was a link
                shutil.rmtree(link)
            if link.is_symlink() or not link.exists():
                link.unlink(missing_ok=True)
                link.symlink_to(target)
        make_disk(self.root, self.dom0_disk, "2G", self.log)

    def _make_product(self) -> None:
        """The wheel with what it depends on, as `make install` lays it: unpacked here, for pip
        takes minutes under emulation; its byte-code is made here too."""
        with tempfile.TemporaryDirectory(dir=self.directory) as name:
            work = Path(name)
            source = work / "source"
            ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.o", "_*.c", ".*")
            for part in PRODUCT_SOURCES:
                shutil.copytree(REPOSITORY / part, source / part, ignore=ignore)
            for part in PRODUCT_FILES:
                if (REPOSITORY / part).exists():
                    shutil.copy2(REPOSITORY / part, source / part)
            prefix = work / "prefix"
            site = prefix / "lib/python3.11/site-packages"
            pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install")
            call([*pip, "--quiet", "--target", str(site), "."], source, self.log)
            (site / "bin").rename(prefix / "bin")
            (prefix / "bin/python").symlink_to("/usr/bin/python3")
            (prefix / "bin/python3").symlink_to("python")
            (prefix / "pyvenv.cfg").write_text(
                "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11.2\n"
            )
            for script in prefix.glob("bin/*"):
                first, _, rest = script.read_bytes().partition(b"\n")
                if not script.is_symlink() and first.startswith(b"#!") and b"python" in first:
                    script.write_bytes(b"#!%s/bin/python\n%s" % (PRODUCT.encode(), rest))
            make_disk(prefix, self.product_disk, "256M", self.log)


def bed_directory() -> Path:
    """Where the bed of the tests lies."""
    chosen = os.environ.get("XENBACKD_XEN_BED")
    return Path(chosen) if chosen else Path(tempfile.gettempdir()) / "xenbackd-xen-bed"


def make_disk(tree: Path, disk: Path, size: str, log: Path) -> None:
    """An ext4 image of a tree, whose files root owns."""
    disk.unlink(missing_ok=True)
    features = "^has_journal,^metadata_csum"
    owner = "lazy_itable_init=1,nodiscard,root_owner=0:0"
    command = ["mke2fs", "-q", "-t", "ext4", "-O", features, "-E", owner, "-d"]
    call([*command, str(tree), str(disk), size], tree, log)


def uncompressed(image: bytes) -> bytes:
    """The kernel in a bzImage: Xen loads it as it is, without an xz pass under emulation."""
    setup = ((image[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    packed = image[setup + offset : setup + offset + length]
    return lzma.LZMADecompressor().decompress(packed)


def module_name(path: str) -> str:
    """A module's name as the kernel has it."""
    return Path(path).name.split(".")[0].replace("-", "_")


def image_files() -> Iterator[Path]:
    """All of ours that the other images are made of."""
    yield Path(__file__)
    yield Path(__file__).with_name("cpio.py")
    yield from INSIDE.iterdir()


def product_files() -> Iterator[Path]:
    """All that the wheel is made of."""
    for part in PRODUCT_SOURCES:
        yield from (x for x in (REPOSITORY / part).rglob("*") if not x.name.endswith(".so"))
    yield from (REPOSITORY / x for x in PRODUCT_FILES)
    yield Path(__file__)


def digest(files: Iterable[Path]) -> str:
    """What tells whether any of these has changed."""
    total = hashlib.sha256()
    for file in sorted(files):
        generated = "__pycache__" in file.parts or (file.name[0] == "_" and file.suffix == ".c")
        if file.is_file() and not generated:
            total.update(
                f"{file.relative_to(REPOSITORY)}\n".encode()
                + hashlib.sha256(file.read_bytes()).digest()
            )
    return total.hexdigest()
