# SPDX-License-Identifier: MIT
"""The image behind a disk: from `params` in xenstore to an open descriptor and its sizes.

The operator may limit the directories of images. The opened file counts, not its name: it is first
opened without any access (O_PATH), the kernel says where it is, and then that same file is opened
for use through /proc/self/fd. So nobody can replace it in between.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from shared.errors import BlamedError, ConfigError, HostError
from worker.devices.block.about import SECTOR

FORMATS: Final = ("aio", "raw", "file")
"""Prefixes of `params` that mean a raw image, like a bare path; libxl writes aio: or raw:."""


_BLKGETSIZE64: Final = 0x80081272  # linux/fs.h, 64-bit
_BLKSSZGET: Final = 0x1268
_BLKPBSZGET: Final = 0x127B


@dataclass(frozen=True, slots=True)
class Image:
    """An open image. Sizes are in bytes, except `sectors`."""

    fd: int
    path: str
    is_block: bool
    sectors: int
    """Of 512 bytes; a whole number of `sector_size`."""
    sector_size: int
    """Smallest unit and alignment of a request."""
    physical_sector_size: int
    discard_granularity: int
    """0: cannot discard."""


def parse_params(params: str) -> str:
    """The path in `params`.

    Raises:
        ConfigError: empty, another format than raw, or not an absolute path.
    """
    if not params:
        raise ConfigError("params: empty: a drive without a medium is not supported")
    path = params
    if not params.startswith("/"):
        prefix, colon, path = params.partition(":")
        if not colon or prefix not in FORMATS:
            supported = ", ".join(f"{name}:/path" for name in FORMATS)
            raise ConfigError(
                f"params: {params!r}: format not supported; there is {supported} and a bare path"
            )
    if not path.startswith("/") or "\0" in path:
        raise ConfigError(f"params: {params!r}: the path must be absolute")
    return path


def open_image(path: str, *, writable: bool, direct_io: bool, directories: Sequence[str]) -> Image:
    """Open an image.

    Raises:
        ConfigError: missing, not readable (or writable, if asked for), outside `directories`,
            neither file nor block device, or smaller than a sector.
        HostError: the disk itself fails.
    """
    probe = _open(path, path, os.O_PATH)
    try:
        mode = os.fstat(probe).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise ConfigError(f"image: {path}: neither a regular file nor a block device")
        if writable and stat.S_ISREG(mode) and not mode & 0o222:
            # Root could write to it anyway, but the owner has protected it against that.
            raise ConfigError(f"image: {path}: write-protected, but the disk is to be writable")
        real = os.readlink(f"/proc/self/fd/{probe}")  # noqa: PTH115
        _check_directory(path, real, directories)
        access = os.O_RDWR if writable else os.O_RDONLY
        direct = os.O_DIRECT if direct_io else 0
        fd = _open(f"/proc/self/fd/{probe}", path, access | direct)
    finally:
        os.close(probe)
    try:
        return _measure(fd, path, direct_io=direct_io)
    except BaseException:
        os.close(fd)
        raise


def measure_again(image: Image) -> Image:
    """The image with its present size; opens nothing.

    Raises:
        ConfigError: it is smaller than a sector now.
        HostError: the disk itself fails.
    """
    try:
        if image.is_block:
            size = _ioctl(image.fd, _BLKGETSIZE64, "Q")
        else:
            size = os.fstat(image.fd).st_size
    except OSError as error:
        raise HostError(f"image: {image.path}: size: {error.strerror}") from error
    return replace(image, sectors=_sectors(image.path, size, image.sector_size))


def _sectors(path: str, size: int, logical: int) -> int:
    if size < logical:
        raise ConfigError(f"image: {path}: {size} bytes: smaller than a sector of {logical}")
    return size // logical * (logical // SECTOR)


def _open(name: str, path: str, flags: int) -> int:
    try:
        return os.open(name, flags | os.O_CLOEXEC)
    except OSError as error:
        raise _blame(path, error, direct=bool(flags & os.O_DIRECT)) from error


def _blame(path: str, error: OSError, *, direct: bool) -> BlamedError:
    """Which class an error of open means."""
    if direct and error.errno == errno.EINVAL:
        return ConfigError(f"image: {path}: its file system cannot do direct_io")
    if error.errno in (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENXIO,
        errno.ETXTBSY,
    ):
        return ConfigError(f"image: {path}: {error.strerror}")
    return HostError(f"image: {path}: {error.strerror}")


def _check_directory(path: str, real: str, directories: Sequence[str]) -> None:
    if directories and not any(
        Path(real).is_relative_to(Path(directory).resolve()) for directory in directories
    ):
        raise ConfigError(f"image: {path}: lies at {real}, outside {', '.join(directories)}")


def _measure(fd: int, path: str, *, direct_io: bool) -> Image:
    status = os.fstat(fd)
    is_block = stat.S_ISBLK(status.st_mode)
    try:
        if is_block:
            size = _ioctl(fd, _BLKGETSIZE64, "Q")
            logical, physical = _ioctl(fd, _BLKSSZGET, "I"), _ioctl(fd, _BLKPBSZGET, "I")
            granularity = _block_granularity(status.st_rdev)
        else:
            size, logical, physical = status.st_size, SECTOR, SECTOR
            granularity = status.st_blksize
    except OSError as error:
        raise HostError(f"image: {path}: size: {error.strerror}") from error
    if direct_io and not is_block and not _direct_read_works(fd, SECTOR):
        logical = physical = 4096
    if not direct_io:
        # The page cache accepts 512-byte requests for any disk.
        physical, logical = max(physical, logical), SECTOR
    sectors = _sectors(path, size, logical)
    return Image(fd, path, is_block, sectors, logical, physical, granularity)


def _ioctl(fd: int, request: int, code: str) -> int:
    buffer = fcntl.ioctl(fd, request, bytes(struct.calcsize(code)))
    value: int = struct.unpack(code, buffer)[0]
    return value


def _block_granularity(device: int) -> int:
    """Of /sys/dev/block/M:m/queue; a partition's queue is its disk's."""
    base = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for queue in (base / "queue", base / ".." / "queue"):
        with contextlib.suppress(OSError, ValueError):
            return int((queue / "discard_granularity").read_text())
    return 0


def _direct_read_works(fd: int, size: int) -> bool:
    """Whether the file system takes direct requests as small as this."""
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        try:
            os.preadv(fd, [memoryview(page)[:size]], 0)
        except OSError as error:
            return error.errno != errno.EINVAL
    return True
