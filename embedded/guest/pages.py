# SPDX-License-Identifier: MIT
"""The pages a frontend shares with its backend, from being granted to being free again.

A page is free only when its grant has ended, and a grant does not end while the backend has the
page mapped. So the pages of a former ring are `retire`d and tried again (`reclaim`), as Linux
defers them (drivers/xen/grant-table.c, gnttab_end_foreign_access).
"""

from __future__ import annotations

import threading

from embedded.domain import Domain
from shared.errors import HostError
from shared.hypervisor.interface import PAGE_SIZE

# A guest's threads each use a device of their own; the domain's lists are common to them.
_allocation = threading.Lock()


class SharedPages:
    """Pages of one frontend."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._granted: list[tuple[int, int]] = []
        """Frame and reference of what the present ring uses."""
        self._retired: list[tuple[int, int]] = []

    def address(self, frame: int) -> int:
        """Where a page lies in this process."""
        return self._domain.address + frame * PAGE_SIZE

    def ring(self, order: int, domid: int) -> tuple[list[int], list[int]]:
        """Frames and references of 2^order pages that lie in a row, granted writable.

        Raises:
            HostError: no memory or reference left; nothing is kept then.
        """
        with _allocation:
            frames = self._domain.alloc_pages(1 << order, contiguous=True)
            return frames, self._grant(frames, domid)

    def data(self, count: int, domid: int, *, least: int) -> tuple[list[int], list[int]]:
        """Frames and references of data pages; as many of `count` as there are.

        Raises:
            HostError: there are fewer than `least`, and with so few the caller can do nothing.
        """
        with _allocation:
            frames: list[int] = []
            while count >= 1 and not frames:
                try:
                    frames = self._domain.alloc_pages(count)
                except HostError:
                    count //= 2
            if len(frames) < least:
                self._domain.free_pages(frames)
                raise HostError(
                    f"data pages: domain {self._domain.domid}: no memory left for one request"
                )
            return frames, self._grant(frames, domid)

    def _grant(self, frames: list[int], domid: int) -> list[int]:
        refs: list[int] = []
        try:
            for frame in frames:
                refs.append(self._domain.grant(frame, domid))
        except HostError:
            for ref in refs:
                self._domain.end_access(ref)
            self._domain.free_pages(frames)
            raise
        self._granted.extend(zip(frames, refs, strict=True))
        return refs

    def retire(self) -> None:
        """The ring is gone: take back what can be, keep trying for the rest."""
        self._retired.extend(self._granted)
        self._granted.clear()
        self.reclaim()

    def reclaim(self) -> None:
        """Try again to end the grants of retired pages."""
        with _allocation:
            kept = []
            for frame, ref in self._retired:
                if self._domain.end_access(ref):
                    self._domain.free_pages([frame])
                else:
                    kept.append((frame, ref))
            self._retired = kept

    @property
    def held(self) -> int:
        """Pages of past rings that the backend still has mapped."""
        return len(self._retired)
