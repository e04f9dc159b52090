# SPDX-License-Identifier: MIT
"""Domains as the hypervisor keeps them: identity, memory, life.

Ids rise and are not given again before all others were used, as on Xen, unless one is asked for.
Every domain has a serial number that no other ever has, which tells a re-used id apart. The memory
is a sparse, sealed file: the domain cannot shrink it under processes that have it mapped.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

from embedded.evtchn import TableError
from embedded.grants import GrantTable
from embedded.native._embedded import ffi, lib
from embedded.protocol import (
    ANY_DOMID,
    FIRST_FRAME,
    GRANT_ENTRIES,
    GRANT_FRAME,
    HEADER,
    MAGIC,
    PAGE_SIZE,
    PAGES_MAX,
)
from shared.device_id import DOMID_FIRST_RESERVED


class DomainRecord:
    """One domain with memory (dom0 has none here)."""

    def __init__(self, domid: int, serial: int, name: str, pages: int) -> None:
        self.domid = domid
        self.serial = serial
        self.name = name
        self.pages = pages
        self.alive = True
        self.memory = _sealed_memory(f"xenbackd-domain-{domid}", pages * PAGE_SIZE)
        try:
            self._head = mmap.mmap(self.memory, FIRST_FRAME * PAGE_SIZE)
        except OSError:
            os.close(self.memory)
            raise
        HEADER.pack_into(self._head, 0, MAGIC, 1, pages, GRANT_ENTRIES, domid)
        self.grants = GrantTable(memoryview(self._head)[GRANT_FRAME * PAGE_SIZE :], pages)

    def die(self) -> None:
        """Tell the processes that copy that the domain is dead, and release its memory."""
        self.alive = False
        address = int(ffi.cast("uintptr_t", ffi.from_buffer(self._head)))
        lib.embedded_set_alive(address, 0)
        self.grants.close()
        os.close(self.memory)


class DomainTable:
    """The living domains by id, and the ids that must not be given yet."""

    def __init__(self) -> None:
        self.living: dict[int, DomainRecord] = {}
        self.reserved: set[int] = set()
        self._next = 1
        self._serial = 0

    def create(self, wanted: int, name: str, pages: int) -> DomainRecord:
        """Make a domain.

        Raises:
            TableError: EEXIST (id in use), EINVAL (id or size out of range), ENOSPC (no id left).
            OSError: no memory or descriptors.
        """
        if not FIRST_FRAME < pages <= PAGES_MAX:
            raise TableError(errno.EINVAL)
        domid = self._free_domid() if wanted == ANY_DOMID else wanted
        if not 0 < domid < DOMID_FIRST_RESERVED:
            raise TableError(errno.EINVAL)
        if domid in self.living or domid in self.reserved:
            raise TableError(errno.EEXIST)
        record = DomainRecord(domid, self._serial + 1, name, pages)
        self._serial = record.serial
        if wanted == ANY_DOMID:
            self._next = domid % (DOMID_FIRST_RESERVED - 1) + 1
        self.living[domid] = record
        return record

    def get(self, domid: int) -> DomainRecord:
        """The living domain of this id; raises TableError(ESRCH)."""
        record = self.living.get(domid)
        if record is None:
            raise TableError(errno.ESRCH)
        return record

    def remove(self, domid: int) -> DomainRecord:
        """Take a domain out and mark it dead; raises TableError(ESRCH)."""
        record = self.get(domid)
        del self.living[domid]
        record.die()
        return record

    def _free_domid(self) -> int:
        for offset in range(DOMID_FIRST_RESERVED - 1):
            domid = (self._next - 1 + offset) % (DOMID_FIRST_RESERVED - 1) + 1
            if domid not in self.living and domid not in self.reserved:
                return domid
        raise TableError(errno.ENOSPC)


def _sealed_memory(name: str, size: int) -> int:
    memory = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, size)
        fcntl.fcntl(
            memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
    except OSError:
        os.close(memory)
        raise
    return memory
