# SPDX-License-Identifier: MIT
"""Where the nodes of a device are in xenstore, and what the path of a watch event means.

Source: docs/misc/xenstore-paths.pandoc of Xen. Paths are absolute text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from shared.device_id import DEVID_MAX, DOMID_FIRST_RESERVED, DeviceId
from shared.errors import ConfigError

_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")


class BackendPath(NamedTuple):
    """A path below `<own>/backend/<type>`. Parts beyond its end are None; `node` is relative."""

    domid: int | None
    devid: int | None
    node: str | None


def type_path(own: str, type_: str) -> str:
    """Directory of all backends of a type."""
    return f"{own}/backend/{type_}"


def backend_path(own: str, device: DeviceId) -> str:
    """Backend directory of a device (S6)."""
    return f"{own}/backend/{device}"


def error_path(own: str, device: DeviceId) -> str:
    """Node that the kernel's backends write errors to (xenbus_client.c, xenbus_va_dev_error)."""
    return f"{own}/error/backend/{device}/error"


def number(text: str, limit: int) -> int | None:
    """The domain or device number that a directory name stands for, None if it stands for none."""
    if _NUMBER.fullmatch(text) and int(text) < limit:
        return int(text)
    return None


def parse_backend(root: str, path: str) -> BackendPath | None:
    """Take apart the path of a watch event below `root` (a `type_path`) (S19).

    None for a path that is elsewhere, or has another name where a number belongs.
    """
    if path == root:
        return BackendPath(None, None, None)
    if not path.startswith(root + "/"):
        return None
    domid_text, _, rest = path[len(root) + 1 :].partition("/")
    domid = number(domid_text, DOMID_FIRST_RESERVED)
    if domid is None:
        return None
    if not rest:
        return BackendPath(domid, None, None)
    devid_text, _, node = rest.partition("/")
    devid = number(devid_text, DEVID_MAX + 1)
    if devid is None:
        return None
    return BackendPath(domid, devid, node or None)


def node_below(directory: str, path: str) -> str | None:
    """Name of a node relative to its directory, "" for the directory itself.

    None if the path is not below it (S20): `/a/bc` is not below `/a/b`.
    """
    if path == directory:
        return ""
    if path.startswith(directory + "/"):
        return path[len(directory) + 1 :]
    return None


def check_frontend(device: DeviceId, path: str) -> str:
    """Check the frontend path that a backend directory names (S11).

    The toolstack writes it and the guest cannot. It must still be in the guest's own part of the
    store, because everything below it is taken as that guest's word.

    Raises:
        ConfigError: it is elsewhere.
    """
    home = f"/local/domain/{device.domid}/"
    if not path.startswith(home) or "//" in path or path.endswith("/"):
        raise ConfigError(f"set-up: {device}: node frontend: {path!r} is not below {home}")
    return path
