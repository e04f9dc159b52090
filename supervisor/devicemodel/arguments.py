# SPDX-License-Identifier: MIT
"""The command line that libxl gives to a device model: the part of it that we need.

libxl knows two forms, `device_model_version` "qemu-xen" (`-xen-domid N -chardev socket,… -machine
xenpv`) and "qemu-xen-traditional" (`-d N -domain-name NAME -M xenpv`). Both are QEMU's language
with dozens of options; everything that is not read here is about machinery we do not have, and is
skipped. Pure: opens nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from shared.errors import ConfigError

DOMID_MAX: Final = 0x7FEF
"""Below DOMID_FIRST_RESERVED (xen/include/public/xen.h)."""

PV_MACHINE: Final = "xenpv"
SOCKET_PATH_MAX: Final = 107
"""Bytes of a UNIX socket's path (sun_path less its final zero)."""

_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_WITH_VALUE: Final = frozenset({"xen-domid", "d", "name", "domain-name", "chardev", "mon"})
_MACHINE: Final = frozenset({"machine", "M"})


@dataclass(frozen=True, slots=True)
class QmpSocket:
    """A socket to answer QMP on: to be made at `path`, or inherited as `fd`."""

    label: str
    path: str | None = None
    fd: int | None = None

    @property
    def filename(self) -> str:
        """As QEMU names it in `query-chardev`."""
        return f"fd:{self.fd},server=on" if self.path is None else f"unix:{self.path},server=on"


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a device model for a PV guest is asked for."""

    domid: int
    name: str
    sockets: tuple[QmpSocket, ...] = ()
    channels: tuple[str, ...] = ()
    """Labels of character devices that are no QMP: consoles of the guest that a QEMU would run."""
    stopped: bool = False
    """libxl will not look at the xenstore node but ask for the status (`-S`)."""


def parse(words: Sequence[str]) -> Arguments:
    """Read the words after the program's name.

    Raises:
        ConfigError: not for a PV guest, or nothing we can make sense of.
    """
    if "daemonize" in {_option(word) for word in words}:
        raise ConfigError(
            "device model: -daemonize: this is not started by libxl; a QEMU for dom0 itself stays"
            " a QEMU"
        )
    options = list(_options(words))
    _check_machine([value for name, value in options if name in _MACHINE])
    found = {name: value for name, value in options if name in _WITH_VALUE}
    # To qemu-xen -d means something else, so that -xen-domid goes first.
    domid = _domid(found.get("xen-domid", found.get("d")))
    monitors = {_monitored(value) for name, value in options if name == "mon"} - {None}
    sockets, channels = [], []
    for value in (value for name, value in options if name == "chardev"):
        settings = properties(value)
        if settings.get("id", "") in monitors:
            sockets.append(_socket(value, settings))
        else:
            channels.append(settings.get("id", value))
    name = properties(found.get("name", found.get("domain-name", "")))
    return Arguments(
        domid,
        name.get("guest", name.get("", "")) or f"domain-{domid}",
        tuple(sockets),
        tuple(channels),
        stopped="-S" in words,
    )


def properties(text: str) -> dict[str, str]:
    """Take `first,key=value,flag` apart; the first without a key is "", a flag is "on".

    A comma in a value is written twice.
    """
    result: dict[str, str] = {}
    for number, part in enumerate(re.split(r"(?<!,),(?!,)", text)):
        key, equals, value = part.replace(",,", ",").partition("=")
        if equals:
            result[key] = value
        elif number == 0:
            result[""] = key
        else:
            result[key] = "on"
    return result


def _option(word: str) -> str:
    """Name of an option, "" for any other word; QEMU takes one or two dashes."""
    return word.removeprefix("-").removeprefix("-") if word.startswith("-") else ""


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The options with a value that concern us, in order."""
    rest = iter(words)
    for word in rest:
        name = _option(word)
        if name in _WITH_VALUE or name in _MACHINE:
            value = next(rest, None)
            if value is None:
                raise ConfigError(f"device model: {word}: its value is missing")
            yield name, value


def _check_machine(values: Sequence[str]) -> None:
    if not values:
        raise ConfigError("device model: no -machine: started by libxl it has one")
    settings = properties(values[-1])
    machine = settings.get("", settings.get("type", ""))
    if machine != PV_MACHINE:
        raise ConfigError(
            f"device model: machine {machine!r}: only PV and PVH guests can do without QEMU"
            f" ({PV_MACHINE}); remove device_model_override from this guest's configuration"
        )


def _domid(text: str | None) -> int:
    if text is None:
        raise ConfigError("device model: no -xen-domid (nor -d) among the arguments")
    if not _NUMBER.fullmatch(text) or int(text) > DOMID_MAX:
        raise ConfigError(f"device model: domain {text!r}: not a domain's number")
    return int(text)


def _monitored(text: str) -> str | None:
    """Label of the character device that speaks QMP; None: the monitor is one for people."""
    settings = properties(text)
    if settings.get("mode") != "control":
        return None
    label = settings.get("chardev", settings.get("", ""))
    if not label:
        raise ConfigError(f"device model: -mon {text!r}: names no character device")
    return label


def _socket(text: str, settings: dict[str, str]) -> QmpSocket:
    label = settings["id"]
    if settings.get("") != "socket" or settings.get("server", "off") not in ("on", "yes"):
        raise ConfigError(f"device model: chardev {label}: {text!r}: not a listening socket")
    path, fd = settings.get("path"), settings.get("fd")
    if path is not None and fd is None:
        if not path.startswith("/") or len(os.fsencode(path)) > SOCKET_PATH_MAX:
            raise ConfigError(
                f"device model: chardev {label}: {path!r}: not an absolute path of at most"
                f" {SOCKET_PATH_MAX} bytes"
            )
        return QmpSocket(label, path=path)
    if fd is not None and path is None and _NUMBER.fullmatch(fd):
        return QmpSocket(label, fd=int(fd))
    raise ConfigError(f"device model: chardev {label}: {text!r}: neither a path nor a descriptor")
