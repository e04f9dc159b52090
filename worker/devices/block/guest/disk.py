# SPDX-License-Identifier: MIT
"""A disk as a toolstack is told of it: `PATH[,ro][,vdev=xvda][,kind=vbd][,format=raw]`.

Also the numbers that stand for device names. Does no I/O: the backend finds out whether the path
exists, as with xl.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from shared.errors import ConfigError

KIND: Final = "vbd"
"""Kind of a disk's frontend; which backend serves it makes no difference."""

_NAME = re.compile(r"(xvd|sd|hd)([a-z]{1,4})([0-9]{0,3})")

_EXTENDED: Final = 1 << 28
_EXTENDED_DISKS: Final = 1 << 20
_SCSI_MAJOR: Final = 8
_IDE_MAJORS: Final = (3, 22)
_XEN_MAJOR: Final = 202

FORMATS: Final = ("raw", "qcow", "qcow2", "vhd", "qed")
"""What a toolstack can write; what a backend serves is its own business."""

_FORMAT_PREFIX: Final = {"raw": "aio"}
"""The name of a format in `params` where it differs (libxl, tools/libs/light)."""


def device_number(vdev: str) -> int:
    """Device number of a name: xvda 51712, xvdb 51728, xvdq (1 << 28) + 0x1000.

    As libxl and docs/man/xen-vbd-interface.7 count: major and minor of the old devices for the
    first 16 disks with up to 15 partitions, the extended scheme beyond.

    Raises:
        ConfigError: there is no such name.
    """
    match = _NAME.fullmatch(vdev)
    if match is None:
        raise ConfigError(f"disk: vdev {vdev!r}: expected a name as xvda, xvdb, sda, hda or xvda1")
    kind, letters, digits = match.groups()
    disk = _letters(letters)
    partition = int(digits or "0")
    if digits.startswith("0") or partition > 255 or disk >= _EXTENDED_DISKS:
        raise ConfigError(f"disk: vdev {vdev!r}: out of range")
    if kind == "hd" and disk < 4 and partition < 64:
        return _IDE_MAJORS[disk // 2] << 8 | (disk % 2) << 6 | partition
    if kind == "sd" and disk < 16 and partition < 16:
        return _SCSI_MAJOR << 8 | disk << 4 | partition
    if kind != "xvd":
        raise ConfigError(f"disk: vdev {vdev!r}: there are not so many of this kind; use xvd…")
    if disk < 16 and partition < 16:
        return _XEN_MAJOR << 8 | disk << 4 | partition
    return _EXTENDED | disk << 8 | partition


def name_of(devid: int) -> str:
    """Name of the disk with this device number; the number itself if there is none."""
    if devid >> 28 == 1:
        disk, partition = (devid & 0xFFFFFFF) >> 8, devid & 0xFF
    elif devid >> 8 == _XEN_MAJOR:
        disk, partition = devid >> 4 & 15, devid & 15
    elif devid >> 8 == _SCSI_MAJOR:
        return device_name(devid >> 4 & 15, "sd") + (str(devid & 15) if devid & 15 else "")
    elif devid >> 8 in _IDE_MAJORS:
        disk = _IDE_MAJORS.index(devid >> 8) * 2 + (devid >> 6 & 3)
        return device_name(disk, "hd") + (str(devid & 63) if devid & 63 else "")
    else:
        return str(devid)
    return device_name(disk) + (str(partition) if partition else "")


def device_name(index: int, kind: str = "xvd") -> str:
    """Name of the disk with this index: 0 is xvda, 26 xvdaa."""
    letters = ""
    index += 1
    while index:
        index, digit = divmod(index - 1, 26)
        letters = chr(ord("a") + digit) + letters
    return f"{kind}{letters}"


def _letters(letters: str) -> int:
    index = 0
    for letter in letters:
        index = index * 26 + ord(letter) - ord("a") + 1
    return index - 1


class DiskSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One disk to attach."""

    path: str
    vdev: str = ""
    """"" until `assign_names` has chosen one."""
    readonly: bool = False
    format: str = "raw"
    kind: Literal["vbd", "qdisk", "vbd3"] = "vbd"
    """Backend kind: below which `backend/` directory the device is put."""

    @property
    def devid(self) -> int:
        """Device number, also the name of the device's directories."""
        return device_number(self.vdev)

    @property
    def params(self) -> str:
        """The `params` node: a bare path for vbd, with a format before it for the others."""
        if self.kind == "vbd":
            return self.path
        return f"{_FORMAT_PREFIX.get(self.format, self.format)}:{self.path}"

    @classmethod
    def parse(cls, text: str) -> DiskSpec:
        """Read the form of the command line.

        Raises:
            ConfigError: empty path, unknown or repeated word.
        """
        path, *words = text.split(",")
        if not path:
            raise ConfigError(f"disk: {text!r}: expected PATH[,ro][,vdev=xvda][,kind=vbd]")
        values: dict[str, str] = {}
        for word in words:
            key, equals, value = word.partition("=")
            key, value = ("mode", key) if key in ("ro", "rw") and not equals else (key, value)
            if key not in ("mode", "vdev", "kind", "format") or not value or key in values:
                raise ConfigError(
                    f"disk: {text!r}: {word!r}: allowed once each are ro, rw, vdev=, kind=, format="
                )
            values[key] = value
        if values.get("mode", "rw") not in ("ro", "rw"):
            raise ConfigError(f"disk: {text!r}: mode is ro or rw")
        kind = values.get("kind", "vbd")
        if kind not in ("vbd", "qdisk", "vbd3"):
            raise ConfigError(f"disk: {text!r}: kind is vbd, qdisk or vbd3")
        if values.get("format", "raw") not in FORMATS:
            raise ConfigError(f"disk: {text!r}: format is one of {', '.join(FORMATS)}")
        if "vdev" in values:
            device_number(values["vdev"])
        return cls(
            path=path,
            vdev=values.get("vdev", ""),
            readonly=values.get("mode") == "ro",
            format=values.get("format", "raw"),
            kind=msgspec.convert(kind, Literal["vbd", "qdisk", "vbd3"]),
        )


def assign_names(disks: Sequence[DiskSpec], taken: Sequence[str] = ()) -> list[DiskSpec]:
    """Give the disks that name none the next free xvd name.

    Raises:
        ConfigError: two disks have the same name.
    """
    used = set(taken)
    for disk in disks:
        if disk.vdev and disk.vdev in used:
            raise ConfigError(f"disk: vdev {disk.vdev!r}: used twice")
        used.add(disk.vdev)
    named = []
    index = 0
    for disk in disks:
        if not disk.vdev:
            while device_name(index) in used:
                index += 1
            disk = msgspec.structs.replace(disk, vdev=device_name(index))
            used.add(disk.vdev)
        named.append(disk)
    return named
