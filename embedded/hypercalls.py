# SPDX-License-Identifier: MIT
"""What a toolstack asks of the embedded hypervisor: make, list and end domains, count what is held.

For dom0 only; the hypervisor refuses it to others. One call at a time.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import msgspec

from embedded.handles import EmbeddedHandle
from embedded.native._embedded import ffi, lib
from embedded.protocol import ANY_DOMID, DEFAULT_PAGES, TEXT_MAX, Op
from shared.errors import ConfigError, HostError


class CreatedDomain(NamedTuple):
    """A domain that just came to life, with descriptors that are the caller's to close."""

    domid: int
    memory: int
    lifeline: int
    """The domain dies when the last holder of this closes it."""


class DomainInfo(msgspec.Struct, frozen=True):
    """One line of `list_domains`."""

    domid: int
    name: str
    pages: int


class DomainStats(msgspec.Struct, frozen=True):
    """What one domain holds, and what is held of it."""

    ports: int
    bound: int
    mapped: int
    """Its pages that others have mapped, each mapping counted."""
    handles: int


class Stats(msgspec.Struct, frozen=True):
    """Everything the hypervisor keeps, for finding leaks."""

    domains: Mapping[int, DomainStats]
    handles: int
    mapped_of_the_dead: int
    descriptors: int


_CAUSES: Final = {
    errno.EEXIST: "a domain of that id is alive",
    errno.EINVAL: "id, size or name out of range",
    errno.ESRCH: "there is no such domain",
    errno.EPERM: "only dom0 may do that",
}


class Hypercalls:
    """A handle of dom0 for managing domains. Raises HostError wherever the hypervisor refuses."""

    def __init__(self, directory: Path, domid: int = 0) -> None:
        self._handle = EmbeddedHandle(directory, domid)

    def create_domain(
        self, name: str = "", pages: int = DEFAULT_PAGES, domid: int = ANY_DOMID
    ) -> CreatedDomain:
        """Bring a domain to life. `ConfigError` if the name is not ASCII."""
        if not name.isascii() or "\0" in name:
            raise ConfigError(f"create domain: {name!r}: the name must be ASCII text")
        memory, lifeline = ffi.new("int *"), ffi.new("int *")
        made = lib.embedded_create_domain(
            self._handle.native, domid, pages, name.encode("ascii"), memory, lifeline
        )
        _check("create domain", name or "without a name", made)
        return CreatedDomain(made, memory[0], lifeline[0])

    def destroy_domain(self, domid: int) -> None:
        """End a domain at once, even if its lifeline is still held."""
        result = lib.embedded_call(self._handle.native, Op.DESTROY_DOMAIN, domid, 0)
        _check("destroy domain", str(domid), result)

    def list_domains(self) -> list[DomainInfo]:
        """The living domains except dom0, in order of their ids."""
        return msgspec.convert(self._query(Op.LIST_DOMAINS), list[DomainInfo])

    def stats(self) -> Stats:
        """Count everything the hypervisor holds."""
        return msgspec.convert(self._query(Op.STATS), Stats, strict=False)

    def close(self) -> None:
        """Close the handle. Idempotent."""
        self._handle.close()

    def _query(self, op: Op) -> Any:
        text = ffi.new("char[]", TEXT_MAX)
        size = lib.embedded_query(self._handle.native, op, text, TEXT_MAX)
        _check(op.name.lower().replace("_", " "), "embedded hypervisor", size)
        return json.loads(ffi.buffer(text, size)[:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _check(what: str, which: str, result: int) -> None:
    if result < 0:
        raise HostError(f"{what}: {which}: {_CAUSES.get(-result, os.strerror(-result))}")
