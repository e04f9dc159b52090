# SPDX-License-Identifier: MIT
"""Errors of xenstore requests and connections.

xenstored answers a request that it refuses with the name of an errno (`xsd_errors` in
xen/include/public/io/xs_wire.h). Each name that callers tell apart has a class of its own; every
other one is a plain `XenstoreError` with the name in `code`. All of them are `HostError`: only the
caller can know whether a refusal is somebody else's fault (a frontend that removed its nodes).
"""

from __future__ import annotations

from typing import Final

from shared.errors import HostError


class XenstoreError(HostError):
    """xenstored refused a request. `code` is the errno's name, for instance `EINVAL`."""

    def __init__(self, operation: str, subject: str, code: str, cause: str | None = None) -> None:
        super().__init__(f"xenstore {operation}: {subject}: {cause or code}")
        self.operation = operation
        self.subject = subject
        self.code = code


class NoEntryError(XenstoreError):
    """ENOENT: no such node, watch, domain or transaction."""


class AccessDeniedError(XenstoreError):
    """EACCES or EPERM: the node's permissions or the domain's privilege do not allow it."""


class AlreadyExistsError(XenstoreError):
    """EEXIST: the same watch is registered already."""


class TransactionConflictError(XenstoreError):
    """EAGAIN: somebody else changed what the transaction used. Start it again."""


class InvalidRequestError(XenstoreError):
    """EINVAL: an invalid path, or arguments that do not fit the operation."""


class TooBigError(XenstoreError):
    """E2BIG: the request or the answer does not fit into one packet (4096 bytes of payload)."""


class QuotaError(XenstoreError):
    """ENOSPC: the domain has used up its quota."""


class ConnectionLostError(XenstoreError):
    """There is no connection, or it broke before the answer came (code ENOTCONN).

    Whether xenstored has carried out the request is unknown.
    """

    def __init__(self, operation: str, subject: str, cause: str) -> None:
        super().__init__(operation, subject, "ENOTCONN", cause)


class WireError(HostError):
    """The peer does not speak the xenstore protocol; the connection is useless now."""


_CLASSES: Final[dict[str, type[XenstoreError]]] = {
    "ENOENT": NoEntryError,
    "EACCES": AccessDeniedError,
    "EPERM": AccessDeniedError,
    "EEXIST": AlreadyExistsError,
    "EAGAIN": TransactionConflictError,
    "EINVAL": InvalidRequestError,
    "E2BIG": TooBigError,
    "ENOSPC": QuotaError,
}


def error_for(operation: str, subject: str, code: str) -> XenstoreError:
    """The error object for a refusal with this errno name."""
    return _CLASSES.get(code, XenstoreError)(operation, subject, code)
