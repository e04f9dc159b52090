# SPDX-License-Identifier: MIT
"""Nodes, paths and permissions: the rules that need no tree.

Source: docs/misc/xenstore.txt and tools/xenstored/core.c (what is a valid path, who may do what).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from shared.errors import GuestFault
from shared.xenstore.wire import ABSOLUTE_PATH_MAX, RELATIVE_PATH_MAX, Perm

DOM0: Final = 0
READ: Final = 1
WRITE: Final = 2
OWNER: Final = 4

_LETTERS: Final = {"n": 0, "r": READ, "w": WRITE, "b": READ | WRITE}

Perms = tuple[Perm, ...]


class RefusedError(GuestFault):
    """A request that is answered with an error; `code` is the errno's name. Changes nothing."""

    def __init__(self, code: str) -> None:
        super().__init__(f"xenstore request: refused: {code}")
        self.code = code


class Node(NamedTuple):
    """One node. Replaced, never changed, so that transactions can keep old ones."""

    value: bytes
    perms: Perms
    children: tuple[str, ...]
    """Names, in order of creation."""
    generation: int
    """Number of the change that made it so; unique in one run of the server."""


def rights(domid: int, perms: Perms) -> int:
    """What a domain may do with a node of these permissions: an OR of READ, WRITE, OWNER."""
    owner = perms[0]
    if domid in (DOM0, owner.domid):
        return READ | WRITE | OWNER
    for perm in perms[1:]:
        if perm.domid == domid:
            return _LETTERS[perm.access]
    return _LETTERS[owner.access]


_PATH = re.compile(rb"/|(?:/[A-Za-z0-9_@-]+)+")
_SPECIAL = re.compile(rb"@[A-Za-z0-9_@/-]+")
_DOMAIN_PREFIX = re.compile(r"/local/domain/[0-9]+/")


def absolute(untrusted_path: bytes, domid: int) -> str:
    """The canonical path for what a client of this domain wrote.

    Raises:
        RefusedError: EINVAL, it is no valid path.
    """
    if untrusted_path.startswith(b"@"):
        raise RefusedError("EINVAL")
    if not untrusted_path.startswith(b"/"):
        untrusted_path = b"/local/domain/%d/%s" % (domid, untrusted_path)
    if _PATH.fullmatch(untrusted_path) is None or len(untrusted_path) > ABSOLUTE_PATH_MAX:
        raise RefusedError("EINVAL")
    path = untrusted_path.decode("ascii")
    prefix = _DOMAIN_PREFIX.match(path)
    if prefix is not None and len(path) - prefix.end() > RELATIVE_PATH_MAX:
        raise RefusedError("EINVAL")
    return path


def absolute_or_special(untrusted_path: bytes, domid: int) -> str:
    """As `absolute`, but also takes the names of the special watches, like `@releaseDomain`."""
    if untrusted_path.startswith(b"@"):
        if _SPECIAL.fullmatch(untrusted_path) and len(untrusted_path) <= RELATIVE_PATH_MAX:
            return untrusted_path.decode("ascii")
        raise RefusedError("EINVAL")
    return absolute(untrusted_path, domid)


def parent_of(path: str) -> str:
    """Path of the parent; that of the root is the root."""
    return path[: path.rindex("/")] or "/"


def child_of(path: str, name: str) -> str:
    """Path of a child."""
    return f"/{name}" if path == "/" else f"{path}/{name}"


def name_of(path: str) -> str:
    """Last component of a path."""
    return path[path.rindex("/") + 1 :]
